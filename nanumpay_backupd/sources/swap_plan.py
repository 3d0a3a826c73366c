"""What a swap is made of: the names of what is put aside, its record, and the moves that lead to one side. Pure.

A swap has two sides, ``old`` (what was live) and ``new`` (what was restored). A collection of the side that is not live
stands in the same database as ``swap.STAMP.old.NAME`` or ``swap.STAMP.new.NAME``. What the application wrote to a name
in the moment when neither was there stands as ``swap.STAMP.strayN.NAME``.

The moves are worked out from the names that are there, not from a list of steps that were done: which collection stands
where says by itself how far a swap came, so whatever it was that stopped it, working the moves out again and doing them
leads to either side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

import bson
import msgspec

__all__ = [
    "COLLECTION",
    "TEMPORARY",
    "TIMESERIES",
    "VIEW",
    "Item",
    "Move",
    "Record",
    "Side",
    "State",
    "belongs",
    "definition",
    "items_of",
    "moves",
    "objections",
    "parked",
    "read_record",
    "record_name",
    "side_name",
    "stamp_of",
    "stamps_in",
    "swap_of_side",
]

COLLECTION: Final = "collection"
VIEW: Final = "view"
TIMESERIES: Final = "timeseries"
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_STAMP_TEXT: Final = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d"
_OURS: Final = re.compile(
    rf"swap\.(?P<stamp>{_STAMP_TEXT})\.(?P<part>record|old|new|stray\d+)(?:\.(?P<name>.+))?", re.DOTALL
)
_SIDE: Final = re.compile(rf".+_swap_(?P<stamp>{_STAMP_TEXT})")
TEMPORARY: Final = re.compile(r"tmp[A-Za-z0-9]{5}\.renameCollection")
"""What the server calls a collection on its way from one database into another."""
_LONGEST: Final = 255
"""Bytes of ``database.collection``, from MongoDB 4.4 on."""
_LONGEST_DATABASE: Final = 63
_MOST_STRAYS: Final = 99


class Side(StrEnum):
    """Which of the two states of a database."""

    OLD = "old"
    NEW = "new"

    @property
    def other(self) -> Side:
        """Return the other one."""
        return Side.NEW if self is Side.OLD else Side.OLD


class State(StrEnum):
    """How far a swap is. ``preparing``: nothing live was touched; ``unfinished``: between the sides."""

    PREPARING = "preparing"
    UNFINISHED = "unfinished"
    SWAPPED = "swapped"
    UNDONE = "undone"
    DROPPING = "dropping"


class Item(msgspec.Struct, frozen=True):
    """A name that changes places and what it is on each side: a collection, a view, or empty (nothing)."""

    name: str
    old: str
    new: str

    def on(self, side: Side) -> str:
        """Return what it is on a side."""
        return self.old if side is Side.OLD else self.new


class Move(msgspec.Struct, frozen=True):
    """One step: ``rename`` a collection to ``target``, ``drop`` a view, or ``create`` the view of a side."""

    do: str
    name: str
    target: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down of a swap, read together (`read_record`).

    ``views`` has the definitions of views as BSON, by side and name. ``entries`` is how many documents the record has.
    ``others`` are collections of the server's own that were there before. ``whole``: what the restored side does not
    have is put aside too.
    """

    stamp: str
    side: str
    backup: str
    run: str
    at: datetime
    entries: int
    others: frozenset[str] = frozenset()
    whole: bool = False
    ready: bool = False
    goal: Side | None = None
    reached: bool = False
    dropping: bool = False
    items: tuple[Item, ...] = ()
    views: Mapping[tuple[Side, str], bytes] = msgspec.field(default_factory=dict)

    @property
    def state(self) -> State:
        """Return how far it is."""
        if self.dropping:
            return State.DROPPING
        if self.goal is None:
            return State.PREPARING
        if not self.reached:
            return State.UNFINISHED
        return State.SWAPPED if self.goal is Side.NEW else State.UNDONE


def stamp_of(moment: datetime) -> str:
    """Return the name of a swap that begins now."""
    return moment.astimezone(UTC).strftime(_STAMP)


def side_name(database: str, stamp: str) -> str:
    """Return the name of the side database of a swap, which every tool takes."""
    tail = f"_swap_{stamp}"
    head = re.sub(r"[^A-Za-z0-9_-]", "_", database)
    return f"{head[: _LONGEST_DATABASE - len(tail)]}{tail}"


def swap_of_side(name: str) -> str:
    """Return the stamp of the swap that a side database belongs to, empty when it is none."""
    match = _SIDE.fullmatch(name)
    return match["stamp"] if match is not None else ""


def record_name(stamp: str) -> str:
    """Return the collection that holds the record of a swap."""
    return f"swap.{stamp}.record"


def parked(stamp: str, side: Side, name: str) -> str:
    """Return the name of a collection of the side that is not live."""
    return f"swap.{stamp}.{side.value}.{name}"


def belongs(name: str) -> tuple[str, str] | None:
    """Return the stamp of the swap that a collection belongs to and its part in it, None when it belongs to none."""
    match = _OURS.fullmatch(name)
    if match is None or (match["part"] == "record") is bool(match["name"]):
        return None
    return match["stamp"], match["part"]


def stamps_in(names: Iterable[str]) -> set[str]:
    """Return the swaps of which anything is among ``names``."""
    return {found[0] for name in names if (found := belongs(name)) is not None}


def objections(
    database: str,
    stamp: str,
    coming: Mapping[str, str],
    there: Mapping[str, str],
    encrypted: Iterable[str] = (),
    *,
    whole: bool = False,
) -> list[str]:
    """Say what makes a swap impossible; ``coming`` and ``there`` give the types by name, of the backup and of now."""
    found = []
    names = {name.removeprefix("system.buckets.") for name in coming} | ({*filter(_is_own, there)} if whole else set())
    for name in sorted(names):
        if name == "system.views" or belongs(name):
            continue
        if TIMESERIES in (coming.get(name), there.get(name)) or f"system.buckets.{name}" in coming:
            found.append(f"{name} is a time-series collection")
        elif name.startswith("system."):
            found.append(f"{name} belongs to the server")
        elif name in encrypted:
            found.append(f"{name} has encrypted fields")
        elif len(f"{database}.swap.{stamp}.stray{_MOST_STRAYS}.{name}".encode()) > _LONGEST:
            found.append(f"the name {name} is too long to be put aside")
    return found


def items_of(stamp: str, there: Mapping[str, str], views: Iterable[str], *, whole: bool = False) -> tuple[Item, ...]:
    """Return what changes places: the collections that were brought, and the ``views`` of the backup.

    With ``whole`` also everything else of the application's, for which nothing comes.
    """
    prefix = parked(stamp, Side.NEW, "")
    coming = dict.fromkeys(filter(_is_own, there), "") if whole else {}
    coming |= {name.removeprefix(prefix): COLLECTION for name in there if name.startswith(prefix)}
    coming |= dict.fromkeys(views, VIEW)
    return tuple(Item(name, there.get(name, ""), kind) for name, kind in sorted(coming.items()))


def _is_own(name: str) -> bool:
    """Tell whether a collection is the application's own."""
    return belongs(name) is None and not name.startswith("system.") and not TEMPORARY.fullmatch(name)


def moves(record: Record, goal: Side, there: Mapping[str, str], views: Mapping[str, bytes]) -> list[Move]:
    """Return what is to be done so that the side ``goal`` is live; empty: it is.

    ``there`` has the type of everything in the database by name, ``views`` the definitions of the views that are there.
    """
    found: list[Move] = []
    taken = set(there)
    for item in record.items:
        live, mine = there.get(item.name, ""), parked(record.stamp, goal, item.name)
        away = partial(_away, item, record.stamp, goal, live, taken)
        if item.on(goal) == VIEW:
            if live != VIEW or views.get(item.name) != record.views.get((goal, item.name)):
                found += [*away(), Move("create", item.name, goal.value)]
        elif mine in there:
            found += [*away(), Move("rename", mine, item.name)]
        elif not item.on(goal) and _is_of(item, goal.other, live, record.stamp, there):
            found += away()
        # Else it is where it belongs, or the application dropped it when it was live.
    return found


def _is_of(item: Item, side: Side, live: str, stamp: str, there: Mapping[str, str]) -> bool:
    """Tell whether what is live is of that side: what came to a name after it was made free is of neither."""
    return bool(live) and live == item.on(side) and parked(stamp, side, item.name) not in there


def _away(item: Item, stamp: str, goal: Side, live: str, taken: set[str]) -> list[Move]:
    """Return the move that makes a name free: to the other side's place or, where that is taken, beside it."""
    if not live:
        return []
    if live == VIEW:
        return [Move("drop", item.name)]
    target, number = parked(stamp, goal.other, item.name), 0
    while target in taken or (item.on(goal.other) == VIEW and not number):
        number += 1
        target = f"swap.{stamp}.stray{number}.{item.name}"
    taken.add(target)
    return [Move("rename", item.name, target)]


def read_record(documents: Iterable[Mapping[str, Any]]) -> Record | None:
    """Read a record from its documents, the first one first; None when there is none.

    The documents are only ever added: the roles that a restore needs (``backup``, ``restore``) allow no updates.
    """
    record: Record | None = None
    for entry in documents:
        if record is None:
            record = Record(
                stamp=entry["stamp"],
                side=entry["side"],
                backup=entry["backup"],
                run=entry["run"],
                at=entry["at"],
                entries=0,
                others=frozenset(entry["others"]),
                whole=entry["whole"],
            )
        views = {(Side(view["side"]), view["name"]): bytes(view["definition"]) for view in entry.get("views", ())}
        record = msgspec.structs.replace(
            record, entries=entry["_id"] + 1, at=entry["at"], views={**record.views, **views}, **_news(entry)
        )
    return record


def _news(entry: Mapping[str, Any]) -> dict[str, Any]:
    news: dict[str, Any] = {}
    if "items" in entry:
        news["items"] = tuple(Item(item["name"], item["old"], item["new"]) for item in entry["items"])
    if "goal" in entry:
        news |= {"goal": Side(entry["goal"]), "reached": False}
    if "reached" in entry:
        news["reached"] = True
    for name in ("ready", "dropping"):
        if name in entry:
            news[name] = True
    return news


def definition(options: Mapping[str, Any]) -> bytes:
    """Return what defines a view, as BSON: fields of it may have names that a document of the record may not have."""
    return bson.encode(options)
