"""What the collections that changed during a dump held at its end: read from the server's recent past, for drills.

The oplog beside the dump brings them to that moment when it is replayed; nothing but the server itself can say what
they have to hold then.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from nanumpay_backupd.model import CollectionStat, OpTime
from nanumpay_backupd.sources.snapshot import read_content

__all__ = ["OLDEST_SERVER", "settle"]

OLDEST_SERVER: Final = 5
"""The first version of MongoDB that reads a collection as it was at a given moment."""
_SHARE: Final = 0.05
_ALWAYS: Final = 16 << 20
_MOST: Final = 1 << 30
"""Reading is slower than mongodump (some 100 MB/s): a part of the data, little of it always, so much at most."""


def settle(
    client: MongoClient[dict[str, Any]], stats: tuple[CollectionStat, ...], touched: frozenset[str], end: OpTime
) -> tuple[CollectionStat, ...]:
    """Return ``stats`` with ``settled`` where a collection was touched and can be read as it was at ``end``.

    The smallest come first, as long as they are a small part of the dump. What the server cannot tell (any more) stays
    None, and so does what is gone by now. Raises nothing.
    """
    left = min(int(sum(item.bytes for item in stats) * _SHARE) + _ALWAYS, _MOST)
    found: dict[CollectionStat, CollectionStat] = {}
    for item in sorted(stats, key=lambda item: item.bytes):
        if touched.isdisjoint((f"{item.database}.{item.name}", f"{item.database}.*")):
            continue
        if item.bytes > left:
            break
        meter = _Meter(left)
        try:
            content = read_content(client[item.database][item.name], end, meter)
            # Of a collection that was dropped meanwhile a server may say that it held nothing.
            there = client[item.database].list_collection_names(filter={"name": item.name})
        except PyMongoError:
            continue
        except _TooMuch:
            break
        left = meter.left
        if there:
            found[item] = msgspec.structs.replace(item, settled=content)
    return tuple(found.get(item, item) for item in stats)


class _TooMuch(Exception):  # noqa: N818 - not a fault
    """It grew since it was dumped: what may be read is used up."""


class _Meter:
    """Counts the bytes read."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _TooMuch
