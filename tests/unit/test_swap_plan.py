"""The moves of a swap as pure decisions: whatever cuts them off, either side can be reached and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import bson
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.sources.swap_plan import (
    COLLECTION,
    VIEW,
    Record,
    Side,
    State,
    belongs,
    definition,
    items_of,
    moves,
    objections,
    parked,
    read_record,
    record_name,
    side_name,
    stamp_of,
    stamps_in,
    swap_of_side,
)

STAMP = "2026-11-21T21-07-02"
NOW = datetime(2026, 11, 21, 21, 7, 2, tzinfo=UTC)
NAMES = ("a", "b", "c.d")


@dataclass
class World:
    """A database: type and content of everything by name, and what the application ever wrote to it."""

    there: dict[str, tuple[str, bytes]]
    record: Record
    written: list[bytes] = field(default_factory=list)

    def work(self, goal: Side, budget: int, writes: list[int]) -> bool:
        """Go towards a side until it is reached (True) or ``budget`` moves are done, as `Swap` does.

        Before the moves whose numbers are in ``writes`` the application writes to every free name.
        """
        done = 0
        while True:
            types = {name: kind for name, (kind, _) in self.there.items()}
            views = {name: content for name, (kind, content) in self.there.items() if kind == VIEW}
            todo = moves(self.record, goal, types, views)
            if not todo:
                return True
            for move in todo:
                if done == budget:
                    return False
                if done in writes:
                    self.write()
                done += 1
                if not self.do(move.do, move.name, move.target):
                    break

    def write(self) -> None:
        """Write to every name that is free, as an application does that knows nothing."""
        for item in self.record.items:
            if item.name not in self.there:
                content = f"stray {len(self.written)}".encode()
                self.written.append(content)
                self.there[item.name] = (COLLECTION, content)

    def do(self, what: str, name: str, target: str) -> bool:
        """Do a move as the server does."""
        if what == "rename":
            if name not in self.there or target in self.there:
                return False
            assert self.there[name][0] == COLLECTION, "only collections can be renamed"
            self.there[target] = self.there.pop(name)
        elif what == "drop":
            assert self.there[name][0] == VIEW, "only views are dropped"
            del self.there[name]
        else:
            if name in self.there:
                return False
            self.there[name] = (VIEW, self.record.views[Side(target), name])
        return True

    def live(self) -> dict[str, tuple[str, bytes]]:
        """Return what the application sees."""
        return {name: entry for name, entry in self.there.items() if belongs(name) is None}


kinds = st.sampled_from([COLLECTION, VIEW, ""])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, dict[str, tuple[str, bytes]], dict[str, tuple[str, bytes]]]:
    """Make a prepared swap, and what is live on its old and on its new side."""
    old = {name: (kind, f"old {name}".encode()) for name in NAMES if (kind := draw(kinds))}
    old["untouched"] = (COLLECTION, b"untouched")
    whole = draw(st.booleans())
    new = {name: (kind, f"new {name}".encode()) for name in NAMES if (kind := draw(kinds))}
    there = dict(old)
    there |= {parked(STAMP, Side.NEW, name): entry for name, entry in new.items() if entry[0] == COLLECTION}
    views = {(Side.NEW, name): content for name, (kind, content) in new.items() if kind == VIEW}
    types = {name: kind for name, (kind, _) in there.items()}
    items = items_of(STAMP, types, [name for _, name in views], whole=whole)
    views |= {(Side.OLD, item.name): old[item.name][1] for item in items if item.old == VIEW}
    record = Record(stamp=STAMP, side="s", backup="", run="", at=NOW, entries=2, items=items, views=views)
    return World(there, record), old, new if whole else old | new


@given(
    made=worlds(),
    ways=st.lists(
        st.tuples(st.sampled_from(Side), st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3)), max_size=6
    ),
)
def test_whatever_cuts_it_off_either_side_can_be_reached_and_nothing_is_lost(
    made: tuple[World, dict[str, tuple[str, bytes]], dict[str, tuple[str, bytes]]],
    ways: list[tuple[Side, int, list[int]]],
) -> None:
    """Back and forth, cut off anywhere, with writes into every gap: each name is of one side, and each side comes."""
    world, old, new = made
    contents = set(world.there.values()) | {(VIEW, content) for content in world.record.views.values()}
    for goal, budget, writes in ways:
        world.work(goal, budget, writes)
        for name, entry in world.live().items():
            assert entry in (old.get(name), new.get(name)) or entry[1] in world.written, f"{name} is of no side"
    for goal, side in ((Side.OLD, old), (Side.NEW, new), (Side.OLD, old)):
        assert world.work(goal, 100, [])
        # What was written to a name that this side does not have is of the application, and stays.
        live = {name: entry for name, entry in world.live().items() if name in side or entry[1] not in world.written}
        assert live == side
        assert not [name for name in world.there if belongs(name) == (STAMP, goal.value)], "nothing of it is left aside"
    world.write()
    before = dict(world.there)
    assert world.work(Side.OLD, 100, [])
    assert world.there == before, "what came to a free name afterwards is the application's"
    kept = set(world.there.values()) | {(VIEW, content) for content in world.record.views.values()}
    assert contents <= kept
    assert {content for _, content in world.there.values()} >= set(world.written)


def test_each_collection_is_away_only_for_the_time_of_one_rename() -> None:
    """What takes a name stands right behind what makes it free, so that no other move lies between."""
    there = dict.fromkeys([*NAMES, *(parked(STAMP, Side.NEW, name) for name in NAMES)], COLLECTION)
    record = Record(stamp=STAMP, side="s", backup="", run="", at=NOW, entries=0, items=items_of(STAMP, there, []))
    found = [(move.name, move.target) for move in moves(record, Side.NEW, there, {})]
    assert found == [
        pair
        for name in NAMES
        for pair in ((name, parked(STAMP, Side.OLD, name)), (parked(STAMP, Side.NEW, name), name))
    ]
    assert moves(record, Side.OLD, there, {}) == []


@pytest.mark.parametrize(
    "name,expected",
    [
        (parked(STAMP, Side.OLD, "users"), (STAMP, "old")),
        (parked(STAMP, Side.NEW, "a.b\nc"), (STAMP, "new")),
        (f"swap.{STAMP}.stray12.users", (STAMP, "stray12")),
        (record_name(STAMP), (STAMP, "record")),
        (f"swap.{STAMP}.record.users", None),
        (f"swap.{STAMP}.old", None),
        ("swap.mine.old.users", None),
        ("swaps", None),
        ("users", None),
    ],
)
def test_what_belongs_to_a_swap(name: str, expected: tuple[str, str] | None) -> None:
    """Only names that this software gave are taken for its own."""
    assert belongs(name) == expected
    assert stamps_in([name]) == ({STAMP} if expected else set())


def test_names() -> None:
    """A stamp is the moment in UTC; a side database tells its swap, and its name is legal whatever the database's."""
    assert stamp_of(NOW) == STAMP
    for database in ("nanumpay", "가나다 database", "x" * 63, "a.b$c"):
        side = side_name(database, STAMP)
        assert len(side.encode()) <= 63
        assert side.isascii()
        assert not set(side) & set('/\\. "$*<>:|?')
        assert swap_of_side(side) == STAMP
    assert swap_of_side("nanumpay") == ""
    assert swap_of_side("nanumpay_swap_soon") == ""


@pytest.mark.parametrize(
    "coming,there,said",
    [
        ({"users": COLLECTION, "active": VIEW, "system.views": COLLECTION}, {"users": COLLECTION}, None),
        ({"users": COLLECTION}, {"readings": "timeseries", "system.buckets.readings": COLLECTION}, None),
        ({"readings": "timeseries", "system.buckets.readings": COLLECTION}, {}, "readings is a time-series collection"),
        ({"system.buckets.readings": "timeseries"}, {}, "readings is a time-series collection"),
        ({"readings": COLLECTION}, {"readings": "timeseries"}, "readings is a time-series collection"),
        ({"system.js": COLLECTION}, {}, "system.js belongs to the server"),
        ({"secret": COLLECTION}, {}, "secret has encrypted fields"),
        ({"x" * 220: COLLECTION}, {}, "is too long to be put aside"),
        ({"가" * 74: COLLECTION}, {}, "is too long to be put aside"),
        ({"x" * 210: COLLECTION}, {}, None),
        ({parked(STAMP, Side.OLD, "x" * 200): COLLECTION}, {}, None),
    ],
)
def test_what_is_impossible_is_said_before(coming: dict[str, str], there: dict[str, str], said: str | None) -> None:
    """Time-series, the server's own, encrypted fields and names that would become too long are refused by name."""
    found = objections("nanumpay", STAMP, coming, there, {"secret"})
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_what_goes_away_has_to_be_able_to() -> None:
    """Where all of the database changes places, what is there counts as well; the server's own stays out of it."""
    there = {"readings": "timeseries", "system.buckets.readings": COLLECTION, "tmpabcde.renameCollection": COLLECTION}
    there |= {"x" * 220: COLLECTION, "users": COLLECTION, parked(STAMP, Side.OLD, "y" * 220): COLLECTION}
    assert objections("nanumpay", STAMP, {}, there) == []
    assert len(objections("nanumpay", STAMP, {}, there, whole=True)) == 2
    names = {item.name for item in items_of(STAMP, there, [], whole=True)}
    assert names == {"readings", "x" * 220, "users"}


def test_the_record_is_read_as_it_was_written() -> None:
    """Each document adds to what is known, and the last one tells how far the swap is."""
    view = definition({"viewOn": "users", "pipeline": [{"$match": {"a": 1}}]})
    first = {
        "stamp": STAMP,
        "whole": True,
        "side": "s",
        "backup": "b",
        "run": "r",
        "others": ["tmpabcde.renameCollection"],
    }
    items = [{"name": "users", "old": COLLECTION, "new": COLLECTION}, {"name": "v", "old": "", "new": VIEW}]
    documents: list[tuple[dict[str, Any], State]] = [
        (first, State.PREPARING),
        ({"ready": True, "views": [{"side": "new", "name": "v", "definition": view}]}, State.PREPARING),
        ({"goal": "new", "items": items, "views": []}, State.UNFINISHED),
        ({"reached": True}, State.SWAPPED),
        ({"goal": "old", "items": items, "views": []}, State.UNFINISHED),
        ({"reached": True}, State.UNDONE),
        ({"dropping": True}, State.DROPPING),
    ]
    assert read_record([]) is None
    stored = [bson.decode(bson.encode({"_id": at, "at": NOW, **entry})) for at, (entry, _) in enumerate(documents)]
    for count, (_, state) in enumerate(documents, 1):
        record = read_record(stored[:count])
        assert record is not None
        assert (record.state, record.entries) == (state, count)
    assert record is not None
    assert record.whole
    assert record.views == {(Side.NEW, "v"): view}
    assert [item.name for item in record.items] == ["users", "v"]
    assert (record.backup, record.run, record.others) == ("b", "r", frozenset({"tmpabcde.renameCollection"}))
    assert msgspec.structs.replace(record, dropping=False).state is State.UNDONE
