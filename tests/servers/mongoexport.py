"""Stands in for mongoexport where it is not installed, for the product's own call only.

The package that brings mongodump for the tests has none. What this writes was compared with mongoexport 100.7.0: the
same documents, types and order; numbers with an exponent are spelt otherwise, and deprecated types are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient

from tests.servers.tools import PROJECT, find_tool, has_tool

__all__ = ["find_mongoexport"]


def find_mongoexport(folder: Path) -> str:
    """Return the real mongoexport where this machine has one, else a program in ``folder`` that stands in for it."""
    if has_tool("mongoexport"):
        return str(find_tool("mongoexport"))
    program = folder / "mongoexport"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from tests.servers.mongoexport import main\nmain(sys.argv[1:])\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return str(program)


def main(argv: list[str]) -> None:
    """Export one collection; says what mongoexport says."""
    if argv == ["--version"]:
        sys.stdout.write("mongoexport version: 100.7.0\n")
        return
    parser = argparse.ArgumentParser()
    for name in ("--config", "--db", "--collection", "--jsonFormat", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--assertExists", action="store_true", required=True)
    args = parser.parse_args(argv)
    assert args.jsonFormat == "canonical"
    uri = json.loads(Path(args.config).read_text(encoding="utf-8").partition("uri: ")[2])
    options = CodecOptions(document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_MS)
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client, Path(args.out).open("w", encoding="utf-8") as out:
        database = client.get_database(args.db, codec_options=options)
        if args.collection not in database.list_collection_names():
            sys.exit(f"2026-11-21T02:00:00.000+0000\tFailed: collection '{args.collection}' does not exist")
        count = 0
        for document in database[args.collection].find():
            out.write(json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS, ensure_ascii=False))
            out.write("\n")
            count += 1
    sys.stderr.write(f"2026-11-21T02:00:00.000+0000\texported {count} record{'' if count == 1 else 's'}\n")
