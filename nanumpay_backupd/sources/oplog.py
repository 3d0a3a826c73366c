"""The oplog beside a dump: follows it, keeps what touches the dumped databases, so that the dump becomes one moment.

mongodump reads collections one after the other. Replaying the oplog from before its first read to after its last one
brings everything to the end's moment (MongoDB's own ``mongodump --oplog`` works the same way, but is refused with
``--db``). Facts this relies on, each seen on MongoDB 6.0:
- a transaction's writes stand in the oplog from its commit on; a large one's earlier parts from its start, which
  ``config.transactions`` tells while it is in progress;
- ``hello.lastWrite`` tells the newest entry and the newest one that a majority has, which no failover takes back;
- mongorestore replays inserts, updates, deletes, commands and transactions of an ``oplog.bson``, and not those in which
  a collection changed its name while the dump was made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import bson
import msgspec
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import CursorType, MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from nanumpay_backupd.sources.touched import touched

__all__ = ["FILE", "Captured", "OplogCapture", "relevant"]

FILE: Final = "oplog.bson"
"""The name under which mongorestore looks for the oplog beside the database folders."""
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
_LOST: Final = frozenset({136, 133})
"""CappedPositionLost, FailedToSatisfyReadPreference: what was to be read next is gone."""
_PATIENCE: Final = 60.0
"""Seconds to wait for a majority to have the end of the dump."""
_NAP: Final = 0.05
_RENAMING: Final = ("renameCollection", "importCollection")


class Captured(msgspec.Struct, frozen=True):
    """What was captured: the moment that the backup then is of, and how many entries lead to it.

    ``problem`` is empty, or says why the entries cannot make the dump consistent. ``touched`` names what the entries
    write to (`sources.touched`).
    """

    start: Timestamp
    end: Timestamp
    entries: int
    problem: str = ""
    touched: frozenset[str] = frozenset()

    @property
    def moment(self) -> datetime:
        """Return the end as a time of day (the oplog counts whole seconds)."""
        return datetime.fromtimestamp(self.end.time, UTC)


class OplogCapture:
    """Follows the oplog in a thread of its own, from `begin` until `finish` has been called and the end is reached.

    Entries are appended to a file as BSON. Nothing raises: what goes wrong is told by `result`.
    """

    def __init__(self, client: MongoClient[dict[str, Any]], databases: Iterable[str], path: Path) -> None:
        """Find the start; raises PyMongoError when it cannot be read. ``client`` is kept until the end, then closed."""
        self._client = client
        self._databases = frozenset(databases)
        self._path = path
        self._oplog = client.local.get_collection("oplog.rs", codec_options=_RAW)
        self._start, self._term = _starting_point(client)
        self._finish = threading.Event()
        self._stop = threading.Event()
        self._end: Timestamp | None = None
        self._last: Timestamp | None = None
        self._entries = 0
        self._touched: set[str] = set()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="oplog", daemon=True)

    def begin(self) -> None:
        """Begin to follow; the dump may start now."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Tell whether the end has not been reached yet."""
        return self._thread.is_alive()

    def finish(self) -> None:
        """Tell that the dump has ended: the capture ends as soon as it has all of what the dump may have seen."""
        self._finish.set()

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the end; tells whether it was reached."""
        self._thread.join(timeout)
        return not self.running

    def cancel(self) -> None:
        """End at once; may be called twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def result(self) -> Captured:
        """Return what was captured, after the end."""
        end = self._end or self._start
        return Captured(
            start=self._start,
            end=end,
            entries=self._entries,
            problem=self._problem,
            touched=frozenset(self._touched),
        )

    def _run(self) -> None:
        try:
            with self._path.open("wb") as stream:
                self._follow(stream)
        except OperationFailure as error:
            self._problem = (
                "the oplog rolled over before it was read: it is too small for this dump"
                if error.code in _LOST
                else f"the oplog could not be read (error {error.code})"
            )
        except PyMongoError as error:
            self._problem = f"the oplog could not be read ({type(error).__name__})"
        except OSError as error:
            self._problem = f"the oplog could not be stored ({error.strerror})"
        finally:
            self._client.close()

    def _follow(self, stream: IO[bytes]) -> None:
        """Read on until the end is known and reached; a tailable cursor that ran dry is opened anew."""
        reached = self._start
        first = True
        while not self._stop.is_set() and not self._problem:
            if self._end is None and self._finish.is_set():
                self._end = self._settled_end()
                continue
            cursor = self._oplog.find({"ts": {"$gte": reached}}, cursor_type=CursorType.TAILABLE, batch_size=5000)
            with cursor:
                for entry in cursor:
                    stamp = entry["ts"]
                    if first and stamp != self._start:
                        self._problem = "the oplog rolled over before it was read: it is too small for this dump"
                        return
                    if not first and stamp <= reached:
                        continue
                    first = False
                    if self._end is not None and stamp > self._end:
                        return
                    reached = stamp
                    self._keep(entry, stream)
                    if self._stop.is_set() or (self._end is None and self._finish.is_set()) or self._problem:
                        break
            if self._end is not None and reached >= self._end:
                return
            # The end of the dump wakes us, and then there is no more reason to rest long.
            (self._stop if self._finish.is_set() else self._finish).wait(_NAP)

    def _settled_end(self) -> Timestamp | None:
        """Return the newest entry that the dump can have seen, once a majority of the members has it."""
        seen = _last_write(self._client)["opTime"]["ts"]
        for _ in range(int(_PATIENCE / _NAP)):
            last = _last_write(self._client)
            if last["opTime"]["t"] != self._term:
                self._problem = "another member became primary during the dump"
                return None
            majority: Timestamp = last["majorityOpTime"]["ts"]
            if majority >= seen:
                return majority
            if self._stop.wait(_NAP):
                return None
        self._problem = f"no majority of the replica set had the dump's end within {_PATIENCE:.0f} s"
        return None

    def _keep(self, entry: Mapping[str, Any], stream: IO[bytes]) -> None:
        kept = relevant(entry, self._databases)
        if kept is None:
            return
        if _renames(entry):
            self._problem = "a collection was renamed while the dump was made"
            return
        stream.write(kept)
        self._entries += 1
        self._touched.update(touched(entry))


def relevant(entry: Mapping[str, Any], databases: frozenset[str]) -> bytes | None:
    """Return an oplog entry as BSON, reduced to what concerns ``databases``, or None when nothing does.

    Parts of a transaction that spans several entries stay, even empty, so that the chain is whole.
    """
    namespace = entry["ns"]
    if entry["op"] == "n":
        return None
    if namespace.partition(".")[0] in databases:
        return _bytes(entry)
    if entry["op"] != "c" or namespace != "admin.$cmd":
        return None
    command = entry["o"]
    if "applyOps" not in command:
        ends = "commitTransaction" in command or "abortTransaction" in command
        return _bytes(entry) if ends else None
    inner = list(command["applyOps"])
    own = [item for item in inner if str(item["ns"]).partition(".")[0] in databases]
    chained = "partialTxn" in command or "prepare" in command or _has_before(entry)
    if not own and not chained:
        return None
    if len(own) == len(inner):
        return _bytes(entry)
    reduced = {**dict(entry), "o": {**dict(command), "applyOps": own}}
    return bson.encode(reduced)


def _has_before(entry: Mapping[str, Any]) -> bool:
    """Tell whether a transaction's entry has earlier ones."""
    before = entry.get("prevOpTime")
    return before is not None and before["ts"] != Timestamp(0, 0)


def _renames(entry: Mapping[str, Any]) -> bool:
    return entry["op"] == "c" and any(name in entry["o"] for name in _RENAMING)


def _bytes(entry: Mapping[str, Any]) -> bytes:
    return bytes(entry.raw) if isinstance(entry, RawBSONDocument) else bson.encode(entry)


def _last_write(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = client.admin.command("hello")["lastWrite"]
    return last


def _starting_point(client: MongoClient[dict[str, Any]]) -> tuple[Timestamp, int]:
    """Return where to begin, and the present term: the oldest transaction under way, else what a majority has."""
    # The newest entry may have uncommitted ones before it; up to what a majority has there are no such holes.
    newest = _last_write(client)["majorityOpTime"]
    oldest = client.config.transactions.find_one(
        {"state": {"$in": ["prepared", "inProgress"]}, "startOpTime": {"$exists": True}},
        sort=[("startOpTime.ts", 1)],
    )
    start: Timestamp = newest["ts"]
    if oldest is not None and oldest["startOpTime"]["ts"] < start:
        start = oldest["startOpTime"]["ts"]
    return start, int(newest["t"])
