"""Walking the entries of an oplog slice: order and bounds are found wherever ``ts`` stands in an entry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import bson
import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.slice_walk import SliceWalk, stamp_of
from tests.workbench import entries

START: Final = OpTime(100, 0)
EVERY_TYPE: Final[dict[str, Any]] = {
    "double": 1.5,
    "string": "ts",
    "document": {"ts": Timestamp(1, 1)},
    "array": [Timestamp(2, 2), {"ts": 1}],
    "binary": bson.Binary(b"\x11ts\0", 0),
    "old binary": bson.Binary(b"\x11ts\0", 2),
    "id": bson.ObjectId(),
    "boolean": True,
    "date": bson.datetime_ms.DatetimeMS(5),
    "null": None,
    "pattern": bson.Regex("ts", "im"),
    "pointer": bson.DBRef("c", 1),
    "code": bson.Code("ts"),
    "scoped": bson.Code("ts", {"ts": 1}),
    "int": 7,
    "other stamp": Timestamp(3, 3),
    "long": bson.Int64(7),
    "decimal": bson.Decimal128("1.5"),
    "least": bson.MinKey(),
    "most": bson.MaxKey(),
    "t": bson.Timestamp(4, 4),
    "tsx": bson.Timestamp(5, 5),
}


def walk(content: bytes, end: OpTime, cuts: Sequence[int] = ()) -> int:
    """Walk a slice after START, cut into pieces; returns its entries."""
    walker = SliceWalk("a-slice.bson", START, end)
    for begin, stop in pairwise([0, *sorted(cuts), len(content)]):
        if begin < stop:
            walker(content[begin:stop])
    walker(b"")
    return walker.count


@given(st.permutations(list(EVERY_TYPE)), st.integers(0, len(EVERY_TYPE)))
def test_the_stamp_is_found_among_fields_of_every_type_in_any_order(names: list[str], place: int) -> None:
    """Only the top level's own ts counts, whatever stands before it and whatever looks like one."""
    fields = [(name, EVERY_TYPE[name]) for name in names]
    fields.insert(place, ("ts", Timestamp(12, 34)))
    assert stamp_of(b"xx" + bson.encode(dict(fields)), 2) == OpTime(12, 34)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(bson.encode({}), id="empty"),
        pytest.param(bson.encode({"op": "i", "o": {"ts": Timestamp(1, 1)}}), id="only inside"),
        pytest.param(bson.encode({"ts": 5}), id="a number"),
        pytest.param(struct.pack("<i", 12) + b"\x40x\0\0\0\0\0\0", id="unknown type"),
        pytest.param(struct.pack("<i", 12) + b"\x02x\0\xff\xff\xff\xff\0", id="negative length"),
        pytest.param(struct.pack("<i", 10) + b"\x11tsts\0", id="name without end"),
        pytest.param(struct.pack("<i", 9) + b"\x11ts\0\0", id="cut off"),
    ],
)
def test_what_is_no_entry_is_told(entry: bytes) -> None:
    """A document without a ts of its own, or one that is nonsense inside, is named by its number."""
    with pytest.raises(VerifyError, match=r"a-slice\.bson .* entry 3 is no entry of an oplog") as caught:
        walk(entries(OpTime(101, 1), OpTime(101, 2)) + entry, OpTime(200, 0))
    assert caught.value.code == "verify-structure"


@given(st.integers(1, 8), st.data())
def test_pieces_cut_anywhere_give_the_same_answer(count: int, data: st.DataObject) -> None:
    """Wherever the reader's pieces end, every entry is counted and compared once."""
    stamps = [OpTime(101 + at // 3, at % 3) for at in range(count)]
    content = entries(*stamps)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=12))
    assert walk(content, stamps[-1], cuts) == count
    with pytest.raises(VerifyError, match=f"entry {count} is of .* after the slice's end"):
        walk(content, OpTime(stamps[-1].seconds - 1, 9), cuts) if count % 3 == 1 else walk(
            content, OpTime(stamps[-1].seconds, stamps[-1].counter - 1), cuts
        )


@pytest.mark.parametrize(
    "stamps, sentence",
    [
        pytest.param([START], r"entry 1 is of 100:0, which is not after 100:0", id="the start itself"),
        pytest.param([OpTime(99, 5)], r"entry 1 is of 99:5, which is not after 100:0", id="before the start"),
        pytest.param([OpTime(101, 1), OpTime(101, 1)], "entry 2 is of 101:1, which is not after 101:1", id="twice"),
        pytest.param([OpTime(101, 2), OpTime(101, 1)], "entry 2 is of 101:1, which is not after 101:2", id="swapped"),
        pytest.param([OpTime(201, 0)], "entry 1 is of 201:0, which is after the slice's end", id="behind the end"),
    ],
)
def test_entries_out_of_order_or_bounds_are_told(stamps: list[OpTime], sentence: str) -> None:
    """A slice that holds what it should not, or twice, would be replayed wrongly."""
    with pytest.raises(VerifyError, match=sentence):
        walk(entries(*stamps), OpTime(200, 0))


def test_the_bounds_themselves() -> None:
    """The end belongs to the slice, the start to the one before; a slice may be empty."""
    assert walk(entries(OpTime(100, 1), OpTime(200, 0)), OpTime(200, 0)) == 2
    assert walk(b"", OpTime(200, 0)) == 0
