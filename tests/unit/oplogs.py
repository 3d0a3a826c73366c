"""Made-up oplogs for tests: entries of every kind as MongoDB 6.0 writes them, with times of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import bson
from bson import Int64
from bson.binary import Binary
from bson.timestamp import Timestamp
from hypothesis import strategies as st

from nanumpay_backupd.model import OpTime

__all__ = ["Document", "decoded", "encoded", "entry", "oplogs", "time_of", "together", "transaction", "write"]

Document = dict[str, Any]
_WALL: Final = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
_SESSION: Final = {"id": Binary(bytes(range(16)), 4), "uid": bytes(32)}
_NONE_BEFORE: Final = {"ts": Timestamp(0, 0), "t": Int64(-1)}


def entry(operation: str, namespace: str, content: Document, more: Document | None = None) -> Document:
    """Return an entry without its time."""
    return {"op": operation, "ns": namespace, "ui": Binary(b"u" * 16, 4), "o": content, **(more or {})}


def write(operation: str, namespace: str, identity: object) -> Document:
    """Return an insert, an update or a delete, as a session that may retry writes it."""
    contents: dict[str, Document] = {
        "i": {"_id": identity, "ns": "shop.no", "text": "주간"},
        "u": {"$v": 2, "diff": {"u": {"ts": Timestamp(7, 7), "op": "c"}}},
        "d": {"_id": identity},
    }
    more = {"o2": {"_id": identity}} if operation != "d" else {}
    return {"lsid": _SESSION, "txnNumber": Int64(3), **entry(operation, namespace, contents[operation], more)}


def together(operations: Sequence[Document]) -> Document:
    """Return several operations in one entry, as slices hold what mongorestore cannot do in one."""
    return {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": list(operations)}}


def transaction(operations: Sequence[Document], *, partial: bool = False, before: bool = False) -> Document:
    """Return a transaction's entry; ``partial``: more follow, ``before``: others came before."""
    plain = [{name: value for name, value in item.items() if name not in {"lsid", "txnNumber"}} for item in operations]
    content: Document = {"applyOps": plain, **({"partialTxn": True} if partial else {})}
    previous = {"ts": Timestamp(1, 1), "t": Int64(1)} if before else _NONE_BEFORE
    return {
        "lsid": _SESSION,
        "txnNumber": Int64(9),
        "op": "c",
        "ns": "admin.$cmd",
        "o": content,
        "prevOpTime": previous,
    }


def encoded(entries: Sequence[Document], first: int = 1) -> list[bytes]:
    """Give the entries their times, three to a second from second ``first`` on, and encode them."""
    return [
        bson.encode({**item, "ts": Timestamp(first + at // 3, at % 3 + 1), "t": Int64(1), "v": Int64(2), "wall": _WALL})
        for at, item in enumerate(entries)
    ]


def decoded(data: bytes) -> list[Document]:
    """Return the documents of a BSON file."""
    return bson.decode_all(data)


def time_of(raw: bytes) -> OpTime:
    """Return an encoded entry's time."""
    stamp = bson.decode(raw)["ts"]
    return OpTime(stamp.time, stamp.inc)


_identities = st.integers(0, 5) | st.text(max_size=3)
_collections = st.sampled_from(["shop.a", "shop.b", "shop.system.buckets.a", "foreign.a", "shopping.a"])
_writes = st.builds(write, st.sampled_from("iud"), _collections, _identities)
_views = st.builds(
    lambda name, database: entry(
        "i",
        f"{database}.system.views",
        {"_id": f"{database}.{name}", "viewOn": "a", "pipeline": []},
        {"o2": {"_id": f"{database}.{name}"}},
    ),
    st.sampled_from(["a", "v"]),
    st.sampled_from(["shop", "foreign"]),
)
_contents = st.sampled_from(
    [
        {"create": "a", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_", "ns": "shop.a"}},
        {"createIndexes": "a", "v": 2, "key": {"x": 1}, "name": "x_1", "ns": "shop.a"},
        {"commitIndexBuild": "b", "indexes": [{"v": 2, "key": {"x": 1}, "name": "x_1", "ns": "shop.b"}]},
        {"dropIndexes": "a", "index": "x_1"},
        {"drop": "b"},
        {"collMod": "a", "validator": {"ns": "shop.a"}},
        {"dropDatabase": 1},
    ]
)
_commands = st.builds(
    lambda database, content: entry("c", f"{database}.$cmd", content),
    st.sampled_from(["shop", "foreign"]),
    _contents,
)
_renames = st.builds(
    lambda source, target: together(
        [
            {"op": "c", "ns": "shop.$cmd", "o": {"drop": target}},
            {"op": "c", "ns": "shop.$cmd", "o": {"renameCollection": f"shop.{source}", "to": f"shop.{target}"}},
            {"op": "c", "ns": "shop.$cmd", "o": {"createIndexes": target, "v": 2, "key": {"x": 1}, "name": "x_1"}},
        ]
    ),
    st.sampled_from(["b", "c"]),
    st.sampled_from(["d", "e"]),
)
_transactions = st.builds(
    lambda inside, partial, before: transaction(inside, partial=partial, before=before),
    st.lists(_writes, max_size=3),
    st.booleans(),
    st.booleans(),
)
_ends = st.sampled_from(
    [{"lsid": _SESSION, "txnNumber": Int64(9), "op": "c", "ns": "admin.$cmd", "o": {"commitTransaction": 1}}]
)


def oplogs(*, most: int = 12) -> st.SearchStrategy[list[bytes]]:
    """Return encoded entries of all kinds."""
    kinds = st.one_of(_writes, _writes, _views, _commands, _renames, _transactions, _ends)
    return st.lists(kinds, max_size=most).map(encoded)
