"""Which oplog entries concern one collection, and which part of an entry does. Reads no oplog; that is next door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from nanumpay_backupd.model import BUCKETS

__all__ = ["of_collection"]


def of_collection(database: str, collection: str) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Return the function that reduces an oplog entry to what concerns one collection; None: nothing does.

    What it returns can be replayed without touching any other collection. The parts of a
    transaction that spans several entries stay, even empty.
    """
    names = frozenset({collection, f"{BUCKETS}{collection}"})
    namespaces = frozenset(f"{database}.{name}" for name in names)
    commands = f"{database}.$cmd"

    def concerns(item: Mapping[str, Any]) -> bool:
        if item["op"] != "c":
            return item["ns"] in namespaces
        if item["ns"] != commands:
            return False
        # The command's name comes first, its value is the collection; dropDatabase stands after the drop of each.
        [(command, value), *_] = item["o"].items()
        if command == "renameCollection":
            return value in namespaces or item["o"]["to"] in namespaces
        return isinstance(value, str) and value in names

    def reduced(entry: Mapping[str, Any]) -> bytes | None:
        operation = entry["o"]
        if entry["op"] != "c" or "applyOps" not in operation:
            ends = entry["op"] == "c" and ("commitTransaction" in operation or "abortTransaction" in operation)
            return _bytes(entry) if ends or concerns(entry) else None
        inner = list(operation["applyOps"])
        own = [item for item in inner if concerns(item)]
        if not own and not ("partialTxn" in operation or "prepare" in operation or _has_before(entry)):
            return None
        if len(own) == len(inner):
            return _bytes(entry)
        return bson.encode({**dict(entry), "o": {**dict(operation), "applyOps": own}})

    return reduced


def _has_before(entry: Mapping[str, Any]) -> bool:
    """Tell whether a transaction's entry has earlier ones."""
    before = entry.get("prevOpTime")
    return before is not None and before["ts"] != Timestamp(0, 0)


def _bytes(entry: Mapping[str, Any]) -> bytes:
    return bytes(entry.raw) if isinstance(entry, RawBSONDocument) else bson.encode(entry)
