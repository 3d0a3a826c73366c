"""Reads what concerns some databases from one oplog time to another, with proof that nothing is missing in between.

The proof: the entry of the first time itself is asked for too, and comes first; the entry of the last time comes last.
The server selects by namespace, so that little is sent that is not wanted, and what has not to be looked at closely is
handed on as it came. Who reads, from when to when, and what is made of a broken connection, is decided elsewhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.read_preferences import ReadPreference

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.oplog_commands import Commands, UnreplayableError, fcv_changed
from nanumpay_backupd.sources.oplog_entry import (
    Names,
    Stamp,
    facts,
    head,
    optime,
    same,
    stamp_of,
    touched,
)
from nanumpay_backupd.sources.oplog_indexes import IndexHistory

__all__ = ["LostError", "OplogRange", "UnfinishedError", "newest", "oldest", "timestamp"]

_BATCH: Final = 4_000
"""Entries in a batch: more are not quicker and take more memory. A server ends a batch at 16 MiB all the same."""
_VERSIONS: Final = b"admin.system.version"
_WRITES: Final = frozenset({b"i", b"u", b"d"})
_NO_DATA: Final = frozenset({b"n", b"km", b"ci", b"cu", b"cd"})
"""No-ops, and a storage engine's own bookkeeping."""
_POSITION_LOST: Final = 136
"""CappedPositionLost: what was to be read next was overwritten."""
_length_at = struct.Struct("<i").unpack_from


class LostError(Exception):
    """What was to be read is not there any more; the text says why, as a sentence."""


class UnfinishedError(Exception):
    """The server ended before the last entry came; it may have it a little later."""


class OplogRange:
    """Reads a range, in one go or in several. ``sink`` gets BSON, entry after entry, what it was given stays valid.

    What mongorestore cannot replay ends it: then ``broken`` says why, and ``reached`` is the time just before.

    ``beside_dump``: what makes a dump taken meanwhile unfit for a replay ends it too (see `Commands`).
    """

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        databases: Iterable[str],
        after: OpTime,
        *,
        beside_dump: bool = False,
    ) -> None:
        self.reached = after
        self.entries = 0
        self.raw_bytes = 0
        self.broken = ""
        wanted = frozenset(databases)
        self._names: Names = same(frozenset(name.encode() for name in wanted))
        self._filter = _filter(wanted)
        self._oplog = client.local.get_collection("oplog.rs", read_preference=ReadPreference.PRIMARY)
        self._client = client
        self._written: set[bytes] = set()
        """Namespaces of which documents were kept."""
        self._commanded: set[str] = set()
        self._commands = Commands(self._names, IndexHistory(client), self._written if beside_dump else None)
        self._with_first = False

    def with_first(self) -> None:
        """Let the entry of ``after`` itself belong to the range; called before `read`."""
        self._with_first = True

    def read(self, end: OpTime, sink: Callable[[bytes], None], check: Callable[[int, int], None]) -> None:
        """Read on up to ``end``, which the server must hold. ``check`` hears of entries and bytes so far and may raise.

        May be called again after an error, with the same or a later ``end``, and goes on after what ``sink`` was given.
        Where there is nothing to read, that the server holds what was read last is proven all the same.
        Raises LostError, UnfinishedError, and PyMongoError as it comes.
        """
        if self._ended(end):
            if self._oplog.find_one({"ts": timestamp(self.reached)}, {"ts": 1}) is None and not self.broken:
                raise LostError(why_lost(self._client, self.reached))
            return
        expected: Stamp | None = stamp_of(self.reached)
        try:
            batches = self._batches(end)
            while (batch := next(batches, None)) is not None:
                kept, last = self._sort_out(batch, expected)
                expected = None
                if kept:
                    sink(kept)
                    self.raw_bytes += len(kept)
                # Batches are large: this one goes before the next one comes.
                del batch, kept
                self.reached = optime(last)
                check(self.entries, self.raw_bytes)
                if self._ended(end):
                    return
        except OperationFailure as error:
            if error.code != _POSITION_LOST:
                raise
            raise LostError(why_lost(self._client, self.reached)) from None
        if expected is not None:
            raise LostError(why_lost(self._client, self.reached))
        raise UnfinishedError

    @property
    def touched(self) -> frozenset[str]:
        """Name what the kept entries write to, as `oplog_entry.touched` does."""
        return frozenset(name.decode() for name in self._written) | self._commanded

    def _ended(self, end: OpTime) -> bool:
        return bool(self.broken) or self.reached >= end

    def _batches(self, end: OpTime) -> Iterator[bytes]:
        first, last = timestamp(self.reached), timestamp(end)
        marks = {"ts": {"$in": [first, last]}}
        found = self._oplog.find_raw_batches(
            {"ts": {"$gte": first, "$lte": last}, "$or": [*self._filter, marks]},
            batch_size=_BATCH,
        )
        with found:
            yield from filter(None, found)

    def _sort_out(self, batch: bytes, expected: Stamp | None) -> tuple[bytes, Stamp]:
        """Return what is to be kept of a batch, and the time of its last entry.

        ``expected`` is the time that the first entry must have; usually that one was handed on before.
        """
        pieces: list[bytes] = []
        entries = start = begun = 0
        size = len(batch)
        last = 0
        if expected is not None:
            if not size or facts(batch, 0).stamp != expected:
                raise LostError(why_lost(self._client, optime(expected)))
            if self._with_first:
                self._with_first = False
            else:
                start = begun = _length_at(batch, 0)[0]
        while start < size:
            end = start + _length_at(batch, start)[0]
            last = start
            try:
                kept = self._keep(batch, start, end)
            except UnreplayableError as error:
                self.broken = str(error)
                pieces.append(batch[begun:start])
                self.entries += entries
                return b"".join(pieces), facts(batch, start).stamp - 1
            if kept is not None:
                entries += 1
            if kept is not batch:
                pieces += (batch[begun:start], kept or b"")
                begun = end
            start = end
        pieces.append(batch[begun:])
        self.entries += entries
        return b"".join(pieces), facts(batch, last).stamp

    def _keep(self, batch: bytes, start: int, end: int) -> bytes | None:
        """Return what to keep of an entry: ``batch`` itself for all of it, None for nothing."""
        operation, namespace = head(batch, start)
        if operation in _WRITES:
            if namespace in self._written:
                return batch
            if self._names(namespace) is not None:
                self._written.add(namespace)
                return batch
            if namespace == _VERSIONS and fcv_changed(batch[start:end]):
                raise UnreplayableError("the feature compatibility version was changed")
            return None
        if operation == b"c":
            entry = batch[start:end]
            kept = self._commands(entry)
            self._commanded.update(touched(kept) if kept is not None else ())
            return batch if kept == entry else kept
        if operation in _NO_DATA or self._names(namespace) is None:
            return None
        raise UnreplayableError(f"the server did {operation.decode()!r}, which mongorestore does not know")


def timestamp(time: OpTime) -> Timestamp:
    """Turn the record into what the driver takes."""
    return Timestamp(time.seconds, time.counter)


def oldest(client: MongoClient[dict[str, Any]]) -> OpTime:
    """Return the time of the oldest entry; raises LostError when there is no oplog."""
    first = client.local["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", 1)])
    if first is None:
        raise LostError("the oplog is empty")
    return OpTime(first["ts"].time, first["ts"].inc)


def newest(client: MongoClient[dict[str, Any]]) -> tuple[OpTime, OpTime, int]:
    """Return the times of the newest entry and of the newest that a majority has, and the present term."""
    last = client.admin.command("hello")["lastWrite"]
    times = (last["opTime"]["ts"], last["majorityOpTime"]["ts"])
    one, two = (OpTime(time.time, time.inc) for time in times)
    return one, two, int(last["opTime"]["t"])


def why_lost(client: MongoClient[dict[str, Any]], after: OpTime) -> str:
    """Say in a sentence why the oplog does not go on from ``after``."""
    first, (last, _, _) = oldest(client), newest(client)
    if first > after:
        missed = first.seconds - after.seconds
        return (
            f"the oplog rolled over before it was read: its oldest entry is of {first.moment:%Y-%m-%d %H:%M:%S} UTC, "
            f"{missed} s after what was read last"
        )
    if last < after:
        return (
            f"the server's history is another one: its newest change is of {last.moment:%Y-%m-%d %H:%M:%S} UTC, "
            f"{after.seconds - last.seconds} s before what was read last"
        )
    return (
        "the server's history is another one: its oplog does not hold the change of "
        f"{after.moment:%Y-%m-%d %H:%M:%S} UTC that was read last"
    )


def _filter(databases: frozenset[str]) -> list[dict[str, Any]]:
    """Select what may concern ``databases``; none: all but the server's own."""
    if databases:
        # From the point to the character after it: exactly the names of one database, without a regular expression.
        spans: list[Any] = [{"$gte": f"{name}.", "$lt": f"{name}/"} for name in sorted(databases)]
    else:
        spans = [{"$not": re.compile(r"^(?:(?:admin|config|local)\.|$)")}]
    own = [{"ns": span, "op": {"$ne": "n"}} for span in spans]
    return [*own, {"ns": {"$in": ["admin.$cmd", _VERSIONS.decode()]}}]
