"""Copies SQLite databases at one moment each, checks the copies, says what they hold. A program of its own.

It runs as ``python -I sqlite_copy.py ORDER`` and needs the standard library only. ORDER is the path of a JSON file:
``databases`` (each with ``path`` and the ``file`` to write), ``work`` (a folder for the copy under way) and ``timeout``
(seconds to wait for a lock). What it has to say are JSON lines on standard error: ``copied`` for each database, else
``fault``.

The copy is made by SQLite's own backup (https://www.sqlite.org/backup.html) within one read transaction: it is of the
moment at which that began. A database in WAL mode is written meanwhile as ever; with a rollback journal, writers wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["check_whole", "count_rows", "main", "open_for_reading"]

_PAGES = 4096
"""Pages copied at once, between two reports."""
_CHUNK = 1 << 20


class Damaged(Exception):  # noqa: N818 - what it says of a database
    """A database that is not whole, by SQLite's own check."""


def open_for_reading(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a database that is there, for reading only; raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=timeout, isolation_level=None)


def check_whole(db: sqlite3.Connection) -> None:
    """Let SQLite check every page and index; raises Damaged with its first words, sqlite3.Error."""
    found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)")]
    if found != ["ok"]:
        raise Damaged("; ".join(found).replace("\n", " ")[:300])


def count_rows(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the rows of all tables, and how many tables there are; those of virtual tables are in their shadows."""
    names = [
        row[0]
        for row in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
            "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
        )
    ]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    return sum(db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in quoted), len(names)  # noqa: S608


def main(order: str) -> int:
    """Do what the order says; returns the exit code."""
    with Path(order).open(encoding="utf-8") as stream:
        wanted = json.load(stream)
    for at, item in enumerate(wanted["databases"]):
        path = Path(item["path"])
        try:
            found = _copy(path, Path(item["file"]), Path(wanted["work"]) / f"{at}.db", wanted["timeout"])
        except Damaged as error:
            _say(fault="damaged", path=str(path), text=str(error))
            return 1
        except sqlite3.Error as error:
            damaged = "malformed" in str(error) or "not a database" in str(error)
            _say(fault="damaged" if damaged else "sqlite", path=str(path), text=str(error))
            return 1
        except OSError as error:
            _say(fault="system", path=str(path), text=error.strerror or str(error), errno=error.errno)
            return 1
        _say(copied=str(path), **found)
    return 0


def _copy(path: Path, file: Path, work: Path, timeout: float) -> dict[str, Any]:
    status = path.stat()
    with contextlib.closing(open_for_reading(path, timeout)) as source, contextlib.closing(sqlite3.connect(work)) as to:
        to.execute("PRAGMA synchronous = OFF")
        source.execute("BEGIN")
        # The read transaction begins with the first look.
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        moment = datetime.now(UTC)
        source.backup(to, pages=_PAGES, sleep=0)
        source.execute("ROLLBACK")
    with contextlib.closing(sqlite3.connect(work, isolation_level=None)) as db:
        check_whole(db)
        rows, tables = count_rows(db)
    file.parent.mkdir(parents=True, exist_ok=True)
    size, digest = _move(work, file)
    return {
        "moment": moment.isoformat(),
        "rows": rows,
        "tables": tables,
        "bytes": size,
        "digest": digest,
        "mode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _move(work: Path, file: Path) -> tuple[int, str]:
    """Append the finished copy to ``file``, which is only ever appended to; returns bytes and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with work.open("rb") as source, file.open("xb", buffering=0) as target:
        while data := source.read(_CHUNK):
            digest.update(data)
            size += len(data)
            view = memoryview(data)
            while view:
                view = view[target.write(view) :]
    work.unlink()
    return size, digest.hexdigest()


def _say(**what: Any) -> None:
    sys.stderr.write(json.dumps(what) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
