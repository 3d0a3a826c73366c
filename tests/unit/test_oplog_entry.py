"""Oplog entries in their bytes: reading, reducing and renaming do what decoding would show, and change nothing else."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.binary import Binary
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources import oplog_entry
from nanumpay_backupd.sources.bson_edit import document, fields
from nanumpay_backupd.sources.oplog_entry import ForeignSourceError, facts, head, optime, same, stamp_of
from tests.unit.oplogs import Document, encoded, entry, oplogs, time_of, transaction, write

OURS = same(frozenset({b"shop"}))
# A symbol, an undefined and a DBPointer: kinds that no driver writes any more, but old data holds.
OLD_KINDS = bytes.fromhex("0e730003000000686900" + "067500" + "0c7000020000006e00" + "00" * 12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            ObjectId(bytes(12)),
            Timestamp(1, 2),
            Decimal128("1.5"),
            Regex("a.b", "i"),
            Code("x", {"y": 1}),
            Code("x"),
            MinKey(),
            MaxKey(),
            DBRef("c", 1),
            Binary(b"x", 4),
            Int64(5),
        ]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc지", max_size=4), inner, max_size=3),
    max_leaves=8,
)


def rewritten(one: Document, names: oplog_entry.Names = OURS) -> Document | None:
    """Rewrite a made-up entry and decode the result."""
    kept = oplog_entry.rewritten(encoded([one])[0], names)
    return None if kept is None else bson.decode(kept)


def to_new(namespace: bytes) -> bytes | None:
    """Call the shop another name, and want nothing else."""
    database, point, name = namespace.partition(b".")
    return b"neu" + point + name if database == b"shop" else None


@given(st.dictionaries(st.text("abc지급", max_size=6), values, max_size=6))
def test_any_document_is_taken_apart_and_put_together_again(content: Document) -> None:
    """The elements of a document are all of it, whatever kinds of values it has."""
    data = bson.encode(content)
    found = fields(data)
    assert document(found) == data
    assert [field.name.decode() for field in found] == list(content)


def test_kinds_that_no_driver_writes_any_more_are_taken_as_they_are() -> None:
    """Symbol, undefined and DBPointer are stepped over by their length."""
    data = (len(OLD_KINDS) + 5).to_bytes(4, "little") + OLD_KINDS + b"\0"
    assert [(field.kind, field.name) for field in fields(data)] == [(0x0E, b"s"), (0x06, b"u"), (0x0C, b"p")]
    assert document(fields(data)) == data


@given(st.data())
def test_a_document_that_is_cut_off_or_longer_than_it_says_is_damaged(data: st.DataObject) -> None:
    """Damage is a ValueError, never an endless loop or a wrong element."""
    whole = bson.encode({"a": 1, "b": "text", "c": {"d": [1, 2]}, "e": Regex("x", "i")})
    length = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:length], whole + whole[:length][:1] if length else whole + b"\0"):
        with pytest.raises(ValueError, match=r"document|value|subsection"):
            fields(damaged)


@given(oplogs())
def test_what_is_read_without_decoding_is_what_decoding_shows(entries: list[bytes]) -> None:
    """Kind, namespace and time are found where they stand, also between others that hold fields of those names."""
    data = b"".join(entries)
    start = 0
    for raw in entries:
        whole = bson.decode(raw)
        expected = (whole["op"].encode(), whole["ns"].encode())
        assert head(data, start) == expected
        found = facts(data, start)
        assert (found.operation, found.namespace) == expected
        assert optime(found.stamp) == time_of(raw)
        start += len(raw)


def test_the_order_of_servers_before_4_4_is_read_too() -> None:
    """They write the time first."""
    raw = bson.encode({"ts": Timestamp(5, 6), "t": Int64(1), "v": 2, "op": "i", "ns": "shop.a", "o": {"ts": 1}})
    assert facts(raw, 0)[:2] == (b"i", b"shop.a")
    assert optime(facts(raw, 0).stamp) == OpTime(5, 6)
    assert head(raw, 0) == (b"i", b"shop.a")


@given(oplogs(), st.data())
def test_a_cut_off_entry_is_a_value_error(entries: list[bytes], data: st.DataObject) -> None:
    """Reading beyond what is there is noticed."""
    for raw in entries:
        short = raw[: data.draw(st.integers(0, raw.index(b"\x11ts\0")))]
        with pytest.raises(ValueError, match=r"oplog entry|subsection|value"):
            facts(short, 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_times_and_their_numbers_are_in_the_same_order(seconds: int, counter: int) -> None:
    """The number is the time, and compares like it."""
    time = OpTime(seconds, counter)
    assert optime(stamp_of(time)) == time
    assert stamp_of(Timestamp(seconds, counter)) == stamp_of(time)
    assert (stamp_of(time) < stamp_of(OpTime(5, 5))) == (time < OpTime(5, 5))


@given(oplogs())
def test_another_name_in_place_is_the_same_as_writing_it_anew(entries: list[bytes]) -> None:
    """The quick way to another namespace changes nothing else."""
    data = b"".join(entries)
    start = 0
    for raw in entries:
        found = facts(data, start)
        now = oplog_entry.respliced(data, start, start + len(raw), found.namespace_at, b"neues.ding")
        whole = bson.decode(raw, bson.CodecOptions(document_class=dict))
        assert bson.decode(now) == {**whole, "ns": "neues.ding"}
        assert list(bson.decode(now)) == list(whole)
        start += len(raw)


WANTED: list[Any] = [
    pytest.param(write("i", "shop.a", 1), True, id="a write"),
    pytest.param(write("i", "foreign.a", 1), False, id="a foreign write"),
    pytest.param(write("i", "shopping.a", 1), False, id="a database whose name begins alike"),
    pytest.param(write("i", "shop.system.views", 1), False, id="a view of nobody's"),
    pytest.param(entry("c", "shop.$cmd", {"drop": "a"}), True, id="a command"),
    pytest.param(entry("c", "foreign.$cmd", {"drop": "a"}), False, id="a foreign command"),
    pytest.param(entry("c", "shop.$cmd", {"dropDatabase": 1}), True, id="dropDatabase"),
    pytest.param(transaction([write("i", "foreign.a", 1)]), False, id="a foreign transaction"),
    pytest.param(transaction([write("i", "foreign.a", 1)], partial=True), True, id="its beginning, when more follow"),
    pytest.param(transaction([write("i", "foreign.a", 1)], before=True), True, id="its end, when others came before"),
    pytest.param({"op": "c", "ns": "admin.$cmd", "o": {"commitTransaction": 1}}, True, id="a commit"),
    pytest.param({"op": "c", "ns": "admin.$cmd", "o": {"abortTransaction": 1}}, True, id="an abort"),
    pytest.param({"op": "c", "ns": "admin.$cmd", "o": {"create": "x"}}, False, id="another command there"),
]


@pytest.mark.parametrize("one, wanted", WANTED)
def test_what_concerns_a_database(one: Document, wanted: bool) -> None:
    """Writes and commands of the database are kept, and whatever keeps a transaction's chain whole."""
    assert (rewritten(one) is not None) is wanted


def test_all_databases_but_the_servers_own() -> None:
    """Without names everything is wanted that a user may have written."""
    everything = same(frozenset())
    assert everything(b"shop.a") == b"shop.a"
    assert [everything(name) for name in (b"admin.a", b"config.a", b"local.a", b"")] == [None] * 4


def test_a_transaction_is_reduced_to_what_concerns_us() -> None:
    """Foreign writes inside go, the rest stays as it is and in its order; a chained one stays, even empty."""
    mixed = transaction([write("i", "shop.a", 1), write("i", "foreign.a", 2), write("d", "shop.b", 3)])
    kept = rewritten(mixed)
    assert kept is not None
    assert [item["ns"] for item in kept["o"]["applyOps"]] == ["shop.a", "shop.b"]
    assert {name: value for name, value in kept.items() if name not in {"o", "ts", "t", "v", "wall"}} == {
        name: value for name, value in mixed.items() if name != "o"
    }
    empty = rewritten(transaction([write("i", "foreign.a", 2)], partial=True))
    assert empty is not None
    assert empty["o"] == {"applyOps": [], "partialTxn": True}


@given(oplogs())
def test_what_needs_no_change_is_the_same_object(entries: list[bytes]) -> None:
    """So the bytes of what is wanted as it is never change, whatever is in them."""
    for raw in entries:
        kept = oplog_entry.rewritten(raw, OURS)
        if kept is not None and b"foreign" not in raw and b"shopping" not in raw:
            assert kept is raw or bson.decode(raw)["o"].get("applyOps") == []


def test_another_name_reaches_every_place_that_names_a_database() -> None:
    """Commands, index specifications of old servers, renamings, views speak of the new database; users' data do not."""
    pairs: list[tuple[Document, Document]] = [
        (entry("c", "shop.$cmd", {"drop": "a"}), {"ns": "neu.$cmd", "o": {"drop": "a"}}),
        (
            entry("c", "shop.$cmd", {"create": "a", "idIndex": {"name": "_id_", "ns": "shop.a"}}),
            {"o": {"create": "a", "idIndex": {"name": "_id_", "ns": "neu.a"}}},
        ),
        (
            entry("c", "shop.$cmd", {"commitIndexBuild": "a", "indexes": [{"ns": "shop.a", "key": {"ns": 1}}]}),
            {"o": {"commitIndexBuild": "a", "indexes": [{"ns": "neu.a", "key": {"ns": 1}}]}},
        ),
        (
            entry("c", "shop.$cmd", {"renameCollection": "shop.a", "to": "shop.b", "stayTemp": False}),
            {"ns": "neu.$cmd", "o": {"renameCollection": "neu.a", "to": "neu.b", "stayTemp": False}},
        ),
        (
            entry("i", "shop.system.views", {"_id": "shop.v", "viewOn": "a"}, {"o2": {"_id": "shop.v"}}),
            {"ns": "neu.system.views", "o": {"_id": "neu.v", "viewOn": "a"}, "o2": {"_id": "neu.v"}},
        ),
        (
            entry("u", "shop.system.views", {"$v": 2, "diff": {}}, {"o2": {"_id": "shop.v"}}),
            {"ns": "neu.system.views", "o": {"$v": 2, "diff": {}}, "o2": {"_id": "neu.v"}},
        ),
        (
            entry("i", "shop.a", {"_id": "shop.a", "ns": "shop.a"}),
            {"ns": "neu.a", "o": {"_id": "shop.a", "ns": "shop.a"}},
        ),
    ]
    for one, expected in pairs:
        kept = rewritten(one, to_new)
        assert kept is not None
        assert {name: kept[name] for name in expected} == expected
    kept = rewritten(transaction([write("i", "shop.a", 1), entry("c", "shop.$cmd", {"create": "n"})]), to_new)
    assert kept is not None
    assert [item["ns"] for item in kept["o"]["applyOps"]] == ["neu.a", "neu.$cmd"]


def test_a_rename_across_what_is_wanted() -> None:
    """Out of the wanted it is a drop; into it, its content is not known, and that is said."""
    kept = rewritten(entry("c", "shop.$cmd", {"renameCollection": "shop.a", "to": "foreign.b"}))
    assert kept is not None
    assert (kept["ns"], kept["o"]) == ("shop.$cmd", {"drop": "a"})
    with pytest.raises(ForeignSourceError, match=r"shop\.b was renamed from foreign\.a"):
        rewritten(entry("c", "foreign.$cmd", {"renameCollection": "foreign.a", "to": "shop.b"}))
    assert rewritten(entry("c", "foreign.$cmd", {"renameCollection": "foreign.a", "to": "foreign.b"})) is None


def test_old_kinds_survive_a_rename() -> None:
    """A document inside a transaction keeps kinds that Python does not have."""
    inner = bson.encode({"_id": 1})
    inner = (len(inner) + len(OLD_KINDS)).to_bytes(4, "little") + inner[4:-1] + OLD_KINDS + b"\0"
    raw = encoded([transaction([{"op": "i", "ns": "shop.a", "o": bson.raw_bson.RawBSONDocument(inner)}])])[0]
    kept = oplog_entry.rewritten(raw, to_new)
    assert kept is not None
    assert inner in kept
    assert b"neu.a" in kept
