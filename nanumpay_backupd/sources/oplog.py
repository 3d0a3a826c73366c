"""The oplog beside a dump: follows it, keeps what touches the dumped databases, so that the dump becomes one moment.

mongodump reads collections one after the other. Replaying the oplog from before its first read to after its last one
brings everything to the end's moment (MongoDB's own ``mongodump --oplog`` works the same way, but is refused with
``--db``). Facts this relies on, each seen on MongoDB 6.0:
- a transaction's writes stand in the oplog from its commit on; a large one's earlier parts from its start, which
  ``config.transactions`` tells while it is in progress;
- ``hello.lastWrite`` tells the newest entry and the newest one that a majority has, which no failover takes back;
- what mongorestore cannot replay, above all beside a dump, is told by `oplog_commands`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import bson
import msgspec
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.oplog_entry import FILE
from nanumpay_backupd.sources.oplog_range import LostError, OplogRange, UnfinishedError, newest

__all__ = ["FILE", "Captured", "OplogCapture"]

_PATIENCE: Final = 60.0
"""Seconds to wait for a majority to have the end of the dump."""
_NAP: Final = 0.05
_REST: Final = 0.5
"""Seconds between two readings while the dump is made; its end is not waited for that long."""
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
Narrow = Callable[[Mapping[str, Any]], bytes | None]


class Captured(msgspec.Struct, frozen=True):
    """What was captured: the moment that the backup then is of, and how many entries lead to it.

    ``problem`` is empty, or says why the entries cannot make the dump consistent. ``touched`` names what the entries
    write to (`OplogRange.touched`).
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

    def __init__(
        self, client: MongoClient[dict[str, Any]], databases: Iterable[str], path: Path, *, narrow: Narrow | None = None
    ) -> None:
        """Find the start; raises PyMongoError when it cannot be read. ``client`` is kept until the end, then closed.

        ``narrow`` keeps less of an entry than all that concerns ``databases``, reduced as `oplog_collection` does.
        """
        self._client = client
        self._databases = frozenset(databases)
        self._narrow = narrow
        self._path = path
        self._start, self._term, self._in_transaction = _starting_point(client)
        self._finish = threading.Event()
        self._stop = threading.Event()
        self._end: Timestamp | None = None
        self._entries = 0
        self._touched: frozenset[str] = frozenset()
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
        return Captured(start=self._start, end=end, entries=self._entries, problem=self._problem, touched=self._touched)

    def _run(self) -> None:
        try:
            with self._path.open("wb") as stream:
                self._follow(stream)
        except LostError as error:
            self._problem = str(error)
        except UnfinishedError:
            self._problem = "the oplog could not be read to the dump's end"
        except OperationFailure as error:
            self._problem = f"the oplog could not be read (error {error.code})"
        except PyMongoError as error:
            self._problem = f"the oplog could not be read ({type(error).__name__})"
        except OSError as error:
            self._problem = f"the oplog could not be stored ({error.strerror})"
        finally:
            self._client.close()

    def _follow(self, stream: IO[bytes]) -> None:
        """Read on, again and again, until the end is known and reached."""
        reading = OplogRange(self._client, self._databases, _time(self._start), beside_dump=True)
        if self._in_transaction:
            reading.with_first()

        narrowed = 0

        def keep(data: bytes) -> None:
            nonlocal narrowed
            if self._narrow is None:
                stream.write(data)
                return
            for entry in bson.decode_iter(data, _RAW):
                if (kept := self._narrow(entry)) is not None:
                    stream.write(kept)
                    narrowed += 1

        while not self._stop.is_set() and not self._problem:
            if self._finish.is_set():
                self._end = self._settled_end()
                if self._end is None:
                    return
            end = _time(self._end) if self._end is not None else newest(self._client)[1]
            reading.read(end, keep, self._check)
            self._entries = reading.entries if self._narrow is None else narrowed
            self._touched = reading.touched
            self._problem = reading.broken
            if self._end is not None:
                return
            self._finish.wait(_REST)

    def _check(self, _entries: int, _size: int) -> None:
        """Leave a long stretch of reading when nobody wants it any more."""
        if self._stop.is_set():
            raise UnfinishedError

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


def _time(stamp: Timestamp) -> OpTime:
    return OpTime(stamp.time, stamp.inc)


def _last_write(client: MongoClient[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = client.admin.command("hello")["lastWrite"]
    return last


def _starting_point(client: MongoClient[dict[str, Any]]) -> tuple[Timestamp, int, bool]:
    """Return where to begin, the present term, and whether a transaction's first entry stands there.

    That is the oldest one under way; else it is the newest entry that a majority has, which the dump will see.
    """
    # The newest entry may have uncommitted ones before it; up to what a majority has there are no such holes.
    newest = _last_write(client)["majorityOpTime"]
    oldest = client.config.transactions.find_one(
        {"state": {"$in": ["prepared", "inProgress"]}, "startOpTime": {"$exists": True}},
        sort=[("startOpTime.ts", 1)],
    )
    start: Timestamp = newest["ts"]
    if oldest is not None and oldest["startOpTime"]["ts"] <= start:
        return oldest["startOpTime"]["ts"], int(newest["t"]), True
    return start, int(newest["t"]), False
