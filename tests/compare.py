"""Compares two MongoDB databases: content by the server's own hash, counts, indexes, options, views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson.json_util import dumps
from pymongo import MongoClient
from pymongo.database import Database

__all__ = ["compare_databases", "db_hash", "describe_database"]

Document = dict[str, Any]

_VIEWS: Final = "system.views"
_MISSING: Final = "(not there)"


def db_hash(client: MongoClient[Document], database: str) -> dict[str, str]:
    """Return the md5 of every collection's documents as the server's dbHash command works it out.

    Capped collections are in it (in their natural order) and so are the buckets behind time-series collections. View
    definitions are not: the server keys them by database name, so they differ between two names of one content;
    `compare_databases` compares them from the listing. Deleting or inserting meanwhile makes it meaningless.
    """
    answer = client[database].command("dbHash")
    return {name: md5 for name, md5 in answer["collections"].items() if name != _VIEWS}


def describe_database(client: MongoClient[Document], database: str) -> dict[str, dict[str, str]]:
    """Describe every collection and view: type, options, indexes, documents and hash, each as comparable text."""
    db = client[database]
    hashes = db_hash(client, database)
    described = {}
    for entry in db.list_collections():
        name = entry["name"]
        if name == _VIEWS:
            continue
        described[name] = {
            "type": entry["type"],
            "options": dumps(entry["options"], sort_keys=True),
            "documents": str(db[name].count_documents({})),
            **_indexes(db, name, entry["type"]),
        }
        if name in hashes:
            described[name]["content (dbHash)"] = hashes[name]
    return described


def compare_databases(client: MongoClient[Document], first: str, second: str) -> list[str]:
    """Return the differences between two databases of one server, in words; empty means that they are equal."""
    one, two = describe_database(client, first), describe_database(client, second)
    differences = [f"{name}: only in {first}" for name in sorted(one.keys() - two.keys())]
    differences += [f"{name}: only in {second}" for name in sorted(two.keys() - one.keys())]
    for name in sorted(one.keys() & two.keys()):
        for what in sorted(one[name].keys() | two[name].keys()):
            ours, theirs = one[name].get(what, _MISSING), two[name].get(what, _MISSING)
            if ours != theirs:
                differences.append(f"{name}: {what} differs: {ours} in {first}, {theirs} in {second}")
    return differences


def _indexes(db: Database[Document], name: str, kind: str) -> dict[str, str]:
    if kind == "view":
        return {}
    # Not sorted inside: the order of an index's keys is part of what it is.
    return {f"index {index['name']}": _index_text(index) for index in db[name].list_indexes()}


def _index_text(index: Mapping[str, Any]) -> str:
    keys = list(index["key"].items())
    rest = {key: value for key, value in index.items() if key not in ("key", "name", "ns")}
    return f"{keys} {dumps(rest, sort_keys=True)}"
