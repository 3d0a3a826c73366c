"""Which collections an oplog entry writes to, for who compares what is there afterwards. Reads and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["touched"]


def touched(entry: Mapping[str, Any], *, commands_only: bool = False) -> Iterator[str]:
    """Name what an oplog entry writes to: ``database.collection``, or ``database.*`` for a command on the whole.

    With ``commands_only`` what it merely inserts, updates or deletes documents of is left out.
    """
    namespace, operation = entry["ns"], entry["o"]
    if entry["op"] != "c":
        if not commands_only:
            yield namespace
    elif "applyOps" in operation:
        for inner in operation["applyOps"]:
            yield from touched(inner, commands_only=commands_only)
    elif operation:
        database, first = namespace.partition(".")[0], next(iter(operation.values()))
        yield f"{database}.{first if isinstance(first, str) else '*'}"
