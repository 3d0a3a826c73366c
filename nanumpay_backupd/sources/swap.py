"""A restored side database changes places with the live collections by renames, and back. What to move is next door.

Facts this relies on, each seen on MongoDB 6.0.5:
- ``renameCollection`` within a database changes the catalog only (0.3 ms standalone, 2 ms in a replica set, whatever
  the size) and keeps documents, their order, indexes, options, validators, collations and the collection's UUID. It
  waits for open transactions on the collection, and all others then wait behind it: so it gets ``maxTimeMS``. Cursors
  that are open on the collection fail (QueryPlanKilled).
- Into another database it copies document by document into ``tmpXXXXX.renameCollection`` there and then drops the
  source (20 MB/s in a replica set, 43 MB/s standalone, on a machine where inserting took 41 and 48 MB/s): a shared lock
  on the source, intent locks on the database it goes to, which stays usable (no read or write took more than 0.2 s).
  All of the above survives but the UUID; documents that a validator refuses are copied too. It does not end with its
  client. Killed by ``killOp``, which one may do to one's own operations, or cut off by a crash, it leaves the temporary
  collection behind.
- Views cannot be renamed (CommandNotSupportedOnView), nor can time-series collections and their buckets, nor anything
  to a name with ``.system.`` in it. A view shows whatever collection has the name that it looks at.
- The roles ``backup`` and ``restore`` together may do all of this, make and drop views and insert; but they neither
  update nor delete documents nor drop a database nor its ``system.views``, which the last view leaves behind. A
  database without collections is gone.
- A change stream on a collection tells of a rename and ends (invalidate); one on the database goes on.
- mongorestore replays the renames of an oplog, but makes indexes by the names from before them: replaying a swap gives
  the right documents in collections that lack indexes, and leaves empty ``tmpXXXXX.renameCollection``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import msgspec
from pymongo.errors import ConnectionFailure, OperationFailure

from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError, SourceError
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.mongodb import _connect, _errors_named, _first_reason, _hosts, _reason
from nanumpay_backupd.sources.swap_place import Look, Place, moves_across, view_of
from nanumpay_backupd.sources.swap_plan import (
    COLLECTION,
    TIMESERIES,
    Item,
    Record,
    Side,
    State,
    belongs,
    items_of,
    moves,
    objections,
    stamps_in,
    swap_of_side,
)
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["Kept", "Swap", "find_swaps"]

_FORMAT: Final = 1
_INTERNAL: Final = frozenset({"admin", "config", "local"})
_PATIENCE: Final = 60.0
"""Seconds for which a lost server, or a collection that somebody else holds, is waited for."""
_LONGEST_LOCK: Final = 5.0
"""Seconds that one rename may wait for its lock: so long others wait behind it."""
_PAUSE: Final = 0.5
_ROUNDS: Final = 100
_UNAUTHORIZED: Final = 13
_HELD: Final = frozenset({24, 50, 262})
"""LockTimeout, MaxTimeMSExpired, ExceededTimeLimit: somebody else holds the collection."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap keeps beside the live collections; ``documents`` and ``bytes`` (of BSON) are of that.

    ``strays`` are kept collections of what was written to a name while neither side's collection had it.
    """

    stamp: str
    server: str
    database: str
    state: State
    at: datetime | None = None
    backup: str = ""
    run: str = ""
    collections: int = 0
    documents: int = 0
    bytes: int = 0
    strays: tuple[str, ...] = ()


class _StoppedError(Exception):
    """Changing places cannot go on: why."""


def find_swaps(settings: MongoSource) -> list[Kept]:
    """Return the swaps in all databases of the server that this user may look into, oldest first."""
    found: list[Kept] = []
    clock = SystemClock()
    with _errors_named(settings), _connect(settings) as client:
        for database in client.list_database_names():
            # What a side database has of swaps is what the backup had of them.
            if database in _INTERNAL or swap_of_side(database):
                continue
            try:
                names = client[database].list_collection_names()
            except OperationFailure as error:
                if error.code == _UNAUTHORIZED:
                    continue
                raise
            for stamp in stamps_in(names):
                place = Place(client, database, stamp, clock)
                found.append(_kept(place, place.look(), _hosts(settings), database, stamp))
    return sorted(found, key=lambda kept: (kept.stamp, kept.database))


class Swap:
    """One swap of a database, known by its stamp. Errors are `errors.BackupdError`.

    The order is `begin`, then the restore into the side database by somebody else, `prepare`, `flip`; later `undo` and
    `redo` as often as wanted, and `drop`. Each may be called again after it was cut off, wherever that was. One process
    at a time: the caller holds the job's lock.
    """

    def __init__(
        self,
        settings: MongoSource,
        database: str,
        stamp: str,
        *,
        clock: Clock | None = None,
        patience: float = _PATIENCE,
        hook: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``hook`` is called before and after each change on the server; what it raises leaves as it is.

        ``leftover`` names, after `prepare`, a side database that this user could empty but not drop.
        """
        self.leftover = ""
        self._settings = settings
        self._database = database
        self._stamp = stamp
        self._clock = clock or SystemClock()
        self._patience = patience
        self._hook = hook

    def check(self, coming: Mapping[str, str], *, whole: bool = False) -> None:
        """Refuse what `begin` would refuse, and write nothing down."""
        with self._open() as place:
            self._refuse_impossible(place, Look(coming, {}, frozenset()), whole=whole)

    def begin(
        self, side: str, coming: Mapping[str, str], *, whole: bool = False, backup: str = "", run: str = ""
    ) -> None:
        """Note that a restore into the database ``side`` begins; ``coming`` has the types of its collections by name.

        ``whole``: collections and views that are not among them go away too, instead of staying as they are. Raises
        RefusedError (``swap-impossible``) when they could not change places afterwards.
        """
        assert swap_of_side(side) == self._stamp, "a side database carries its swap's stamp"
        with self._open() as place:
            self._refuse_impossible(place, Look(coming, {}, frozenset()), whole=whole)
            told = {"format": _FORMAT, "stamp": self._stamp, "side": side, "whole": whole, "backup": backup, "run": run}
            place.note(0, **told, others=place.others())

    def prepare(self, progress: Callable[[int], None] = lambda _: None) -> int:
        """Move the side database's collections beside the live ones, which nobody notices; returns their number.

        It takes about as long as mongorestore did. ``progress`` is told the documents moved so far, several times a
        second; an exception in it ends the work, and `abandon` then removes what was made.
        """
        with self._open() as place:
            record = self._expected(place, "prepared", State.PREPARING)
            coming = place.look(record.side)
            self._refuse_impossible(place, coming, whole=record.whole)
            names = [name for name, kind in coming.types.items() if kind == COLLECTION and moves_across(name)]
            place.bring(record.side, names, self._settings.parallel_collections, progress)
            views = [view_of(Side.NEW, name, content) for name, content in coming.views.items() if moves_across(name)]
            place.note(record.entries, ready=True, views=views)
            self.leftover = "" if place.remove_side(record.side) else record.side
            return len(names) + len(views)

    def flip(self) -> Kept:
        """Make the restored side live; returns what is kept.

        Where that fails the places are changed back at once and SourceError says ``swap-failed``: the live side is what
        it was, and the restored one is kept for `redo`. Where that fails too it says ``swap-unfinished``.
        """
        with self._open() as place:
            record = self._expected(place, "flipped", State.PREPARING)
            if not record.ready:
                raise RefusedError(f"swap {self._stamp} is not prepared", hint="restore again")
            views = [name for side, name in record.views if side is Side.NEW]
            items = items_of(self._stamp, place.look().types, views, whole=record.whole)
            try:
                self._change(place, record, Side.NEW, items)
            except _StoppedError as stopped:
                raise self._taken_back(place, str(stopped)) from None
            return self._told(place, State.SWAPPED)

    def undo(self) -> Kept:
        """Make the old side live again, the restored one is kept. Raises SourceError (``swap-unfinished``)."""
        return self._go(Side.OLD, "undone")

    def redo(self) -> Kept:
        """Make the restored side live again, the old one is kept. Raises SourceError (``swap-unfinished``)."""
        return self._go(Side.NEW, "done again")

    def drop(self) -> Kept:
        """Delete what is kept, for good, and return what that was. Refused while the swap stands between the sides."""
        with self._open() as place:
            kept = self._describe(place)
            if kept.state is State.UNFINISHED:
                raise RefusedError(
                    f"swap {self._stamp} stopped half-way: what it keeps is needed",
                    hint=f"first: backupctl swaps undo {self._stamp}, or: backupctl swaps redo {self._stamp}",
                )
            record = place.read()
            if record is not None and not record.dropping:
                place.note(record.entries, dropping=True)
            place.drop_kept(record)
            return kept

    def abandon(self) -> None:
        """Remove what was made for a swap that changed nothing live yet; one that did stays as it is."""
        with self._open() as place:
            record = place.read()
            if record is not None and record.state is State.PREPARING:
                place.drop_kept(record)

    # Between the sides

    def _go(self, goal: Side, what: str) -> Kept:
        with self._open() as place:
            record = self._expected(place, what, State.SWAPPED, State.UNDONE, State.UNFINISHED)
            try:
                self._change(place, record, goal, record.items)
            except _StoppedError as stopped:
                raise self._unfinished(str(stopped)) from None
            return self._told(place, State.SWAPPED if goal is Side.NEW else State.UNDONE)

    def _change(self, place: Place, record: Record, goal: Side, items: tuple[Item, ...]) -> None:
        """Write down where it goes, then go there."""
        there = place.look()
        if series := [item.name for item in items if there.types.get(item.name) == TIMESERIES]:
            raise _impossible([f"{name} is a time-series collection now" for name in series])
        # A view that is live and not that of the goal is of the other side, also when it was changed since.
        views = [
            view_of(goal.other, item.name, there.views[item.name])
            for item in items
            if item.name in there.views and there.views[item.name] != record.views.get((goal, item.name))
        ]
        listed = [{"name": item.name, "old": item.old, "new": item.new} for item in items]
        place.note(record.entries, goal=goal.value, items=listed, views=views)
        self._reach(place, goal)

    def _reach(self, place: Place, goal: Side) -> None:
        """Do the moves until none is left; a server that is away, or a held collection, is waited for."""
        until = self._clock.monotonic() + self._patience
        while True:
            try:
                self._move_all(place, goal)
                return
            except ConnectionFailure as error:
                reason = _first_reason(str(error))
            except OperationFailure as error:
                reason = redact(_reason(error))
                if error.code not in _HELD:
                    raise _StoppedError(reason) from None
            if self._clock.monotonic() > until:
                raise _StoppedError(reason)
            self._clock.sleep(min(_PAUSE, self._patience))

    def _move_all(self, place: Place, goal: Side) -> None:
        """Work out the moves and do them, and after each surprise again."""
        limit = min(_LONGEST_LOCK, self._patience)
        for _ in range(_ROUNDS):
            record, there = self._record(place), place.look()
            todo = moves(record, goal, there.types, there.views)
            if not todo:
                if not record.reached:
                    place.note(record.entries, reached=True)
                return
            for move in todo:
                if not place.do(move, record, limit):
                    break
        raise _StoppedError("the application writes to each name as soon as it is free")

    def _taken_back(self, place: Place, reason: str) -> BackupdError:
        """Change the places back after a flip that stopped, and return the fault that tells of it."""
        try:
            record = self._record(place)
            self._change(place, record, Side.OLD, record.items)
        except (_StoppedError, BackupdError, ConnectionFailure, OperationFailure):
            return self._unfinished(reason)
        return SourceError(
            f"changing places in database {self._database} failed ({reason}) and was taken back",
            hint=f"what was restored is kept: try again with backupctl swaps redo {self._stamp}, "
            f"or away with it: backupctl swaps drop {self._stamp}",
            code="swap-failed",
            retryable=False,
        )

    def _unfinished(self, reason: str) -> BackupdError:
        return SourceError(
            f"changing places in database {self._database} stopped half-way ({reason}): "
            "some of its collections may be the restored ones and others not",
            hint=f"bring back what was there: backupctl swaps undo {self._stamp}, "
            f"or finish it: backupctl swaps redo {self._stamp}",
            code="swap-unfinished",
            retryable=False,
        )

    # What is there

    @contextmanager
    def _open(self) -> Iterator[Place]:
        with _errors_named(self._settings), _connect(self._settings) as client:
            try:
                yield Place(client, self._database, self._stamp, self._clock, self._hook)
            except OperationFailure as error:
                raise self._refused(error) from None

    def _refused(self, error: OperationFailure) -> BackupdError:
        words = redact(f"MongoDB at {_hosts(self._settings)} refused: {_reason(error)}")
        if error.code == _UNAUTHORIZED:
            hint = "give the user of MONGODB_URI the roles 'backup' and 'restore'"
            return SourceError(words, hint=hint, code="source-auth", retryable=False)
        return SourceError(words, hint="mongod's own log tells more")

    def _describe(self, place: Place) -> Kept:
        return _kept(place, place.look(), _hosts(self._settings), self._database, self._stamp)

    def _told(self, place: Place, state: State) -> Kept:
        """Describe what is kept after the places were changed; where that cannot be asked, they still were."""
        try:
            return self._describe(place)
        except (BackupdError, ConnectionFailure, OperationFailure):
            return Kept(stamp=self._stamp, server=_hosts(self._settings), database=self._database, state=state)

    def _record(self, place: Place) -> Record:
        record = place.read()
        if record is None:
            raise NotFoundError(f"there is no swap {self._stamp!r}", hint="see: backupctl swaps")
        return record

    def _expected(self, place: Place, what: str, *states: State) -> Record:
        record = self._record(place)
        if record.state not in states:
            raise RefusedError(
                f"swap {self._stamp} cannot be {what}: it is {record.state.value}",
                hint=f"what it keeps can be dropped: backupctl swaps drop {self._stamp}",
            )
        return record

    def _refuse_impossible(self, place: Place, coming: Look, *, whole: bool) -> None:
        there = place.look()
        encrypted = coming.encrypted | there.encrypted
        found = objections(self._database, self._stamp, coming.types, there.types, encrypted, whole=whole)
        if place.sharded:
            found.append("this is a sharded cluster")
        if found:
            raise _impossible(found)


def _kept(place: Place, there: Look, server: str, database: str, stamp: str) -> Kept:
    """Describe a swap; raises NotFoundError when there is nothing of it."""
    parts = {name: found[1] for name in there.types if (found := belongs(name)) and found[0] == stamp}
    if not parts:
        raise NotFoundError(f"there is no swap {stamp!r}", hint="see: backupctl swaps")
    record = place.read()
    held = [name for name, part in parts.items() if part != "record"]
    sizes = [place.size(name) for name in held]
    return Kept(
        stamp=stamp,
        server=server,
        database=database,
        # Without its record nothing can be brought back any more.
        state=record.state if record is not None else State.DROPPING,
        at=record.at if record is not None else None,
        backup=record.backup if record is not None else "",
        run=record.run if record is not None else "",
        collections=len(held),
        documents=sum(documents for documents, _ in sizes),
        bytes=sum(size for _, size in sizes),
        strays=tuple(sorted(name for name in held if parts[name].startswith("stray"))),
    )


def _impossible(found: list[str]) -> RefusedError:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return RefusedError(
        f"changing places is not possible: {'; '.join(found[:3])}{more}",
        hint="restore without --swap, or beside the database with --to-db NAME",
        code="swap-impossible",
    )
