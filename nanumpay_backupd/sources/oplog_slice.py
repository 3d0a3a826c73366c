"""Slices of a replica set's oplog: all changes after a moment, in a form that a stock mongorestore replays.

What is read, a majority of the members has, so no failover takes it back; a failover in the middle is waited for, and
reading goes on where it was. Where slices are kept, and what follows on what, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Self, TypeVar

import msgspec
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.mongodb import (
    _connect,
    _errors_named,
    _first_reason,
    _hosts,
    _reason,
    _topology,
)
from nanumpay_backupd.sources.oplog_range import LostError, OplogRange, UnfinishedError, newest, oldest
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["OplogReader", "OplogState", "SliceRead"]

_PATIENCE: Final = 60.0
"""Seconds to wait for a new primary: an election takes 2 to 12 with the defaults, a restart of mongod may be longer."""
_NAP: Final = 0.25
_LEAST_FILLED: Final = 0.001
_PASSING: Final = frozenset({43, 91, 175, 189, 237, 10107, 11600, 11602, 13435, 13436})
"""Error codes of a server that steps down, shuts down or has lost a cursor: another try may go well."""
_FOLLOW_ANEW: Final = (
    "the next backup is a full one, and the changes follow on from there; where the oplog is too small for the "
    "interval, make it larger (replSetResizeOplog) or the interval shorter"
)

T = TypeVar("T")


class OplogState(msgspec.Struct, frozen=True):
    """What a server's oplog holds: its oldest entry, its newest, the newest that a majority has, and the present term.

    ``filled`` is the part of its size that is used (1.0 where the user may not know), ``version`` the server's.
    """

    first: OpTime
    newest: OpTime
    majority: OpTime
    term: int
    version: str = ""
    filled: float = 1.0

    @property
    def window(self) -> float:
        """Return the seconds that the oplog will reach back once it is full, at the rate of writes it has seen."""
        return (self.newest.seconds - self.first.seconds) / max(self.filled, _LEAST_FILLED)


class SliceRead(msgspec.Struct, frozen=True):
    """What was read: all changes after ``start`` and up to ``end``, as so many entries and bytes of BSON.

    ``broken`` is empty, or says why what follows cannot be replayed, so that nothing can follow on.
    """

    start: OpTime
    end: OpTime
    entries: int
    raw_bytes: int
    broken: str = ""


class OplogReader:
    """A connection to read slices by; to be closed, best by ``with``.

    Faults are SourceError with the code ``source-unreachable``, ``source-auth``, ``no-oplog`` (a standalone server, a
    sharded cluster) or ``chain-broken``.
    """

    def __init__(self, settings: MongoSource, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        with _errors_named(settings):
            self._client: MongoClient[dict[str, Any]] = _connect(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._client.close()

    def state(self) -> OplogState:
        """Return what the oplog holds now."""
        with _errors_named(self._settings):
            self._check_topology()
            try:
                first = oldest(self._client)
            except LostError as error:
                raise _chain_broken(error) from None
            last, majority, term = newest(self._client)
            version = str(self._client.server_info()["version"])
            return OplogState(
                first=first, newest=last, majority=majority, term=term, version=version, filled=self._filled()
            )

    def _filled(self) -> float:
        """Return how full the oplog is; a user who may not know gets the careful answer."""
        try:
            stats = self._client.local.command("collStats", "oplog.rs")
        except OperationFailure:
            return 1.0
        return min(1.0, float(stats["size"]) / max(1.0, float(stats.get("maxSize", 0))))

    def read(
        self,
        after: OpTime,
        databases: Iterable[str],
        sink: Callable[[bytes], None],
        check: Callable[[int, int], None],
        *,
        until: OpTime | None = None,
    ) -> SliceRead:
        """Give ``sink`` all changes after ``after``, up to the newest that a majority has as this begins, or ``until``.

        ``databases`` empty: all but the server's own. ``sink`` is given whole BSON documents, many at once. ``check``
        is called now and then with the entries and bytes so far, also while a new primary is awaited, and may raise to
        stop. Raises SourceError; ``chain-broken`` when the oplog does not go on from ``after`` (any more).
        """
        with _errors_named(self._settings):
            reading = OplogRange(self._client, databases, after)
            patience = _Patience(self._clock, lambda: check(reading.entries, reading.raw_bytes))
            majority = self._patiently(self._majority, patience)
            end = majority if until is None else min(majority, until)

            def heard(entries: int, size: int) -> None:
                patience.renew()
                check(entries, size)

            self._patiently(lambda: reading.read(end, sink, heard), patience)
        return SliceRead(
            start=after,
            end=reading.reached,
            entries=reading.entries,
            raw_bytes=reading.raw_bytes,
            broken=reading.broken,
        )

    def _majority(self) -> OpTime:
        self._check_topology()
        return newest(self._client)[1]

    def _check_topology(self) -> None:
        """Raise SourceError (``no-oplog``) where there is none, or more than one."""
        hello = self._client.admin.command("hello")
        topology = _topology(hello)
        if topology == "replica-set":
            return
        where = f"MongoDB at {_hosts(self._settings)}"
        if topology == "sharded":
            raise SourceError(
                f"{where} is a sharded cluster: each shard has an oplog of its own, and they are not saved",
                hint="use full backups (remove incremental and pitr), or MongoDB's own tools for clusters",
                code="no-oplog",
                retryable=False,
            )
        waiting = bool(hello.get("isreplicaset"))
        raise SourceError(
            f"{where} is "
            + ("a replica set that was not initiated yet" if waiting else "a standalone server")
            + ", which keeps no record of its changes (oplog)",
            hint="make it a replica set of one node: docs/install.md, MongoDB as a one-node replica set",
            code="no-oplog",
            retryable=False,
        )

    def _patiently(self, work: Callable[[], T], patience: _Patience) -> T:
        """Do something that a failover may interrupt; tried again until it is done, refused, or patience has an end."""
        while True:
            try:
                return work()
            except LostError as error:
                raise _chain_broken(error) from None
            except UnfinishedError:
                patience.wait("the primary does not have what a majority of the members had")
            except AutoReconnect as error:
                patience.wait(_first_reason(str(error)))
            except OperationFailure as error:
                if error.code not in _PASSING:
                    raise
                patience.wait(_reason(error))


class _Patience:
    """Waits between two tries, and tells when it was long enough since something went well."""

    def __init__(self, clock: Clock, check: Callable[[], None]) -> None:
        self._clock = clock
        self._check = check
        self._since: float | None = None

    def renew(self) -> None:
        """Something went well: begin to count anew."""
        self._since = None

    def wait(self, reason: str) -> None:
        """Sleep a little; raises SourceError (``source-unreachable``, worth a retry) after 60 s without success."""
        self._check()
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= _PATIENCE:
            raise SourceError(
                f"the replica set had no primary to read the oplog from for {_PATIENCE:.0f} s: {redact(reason)}",
                hint="check the replica set (rs.status() in mongosh); nothing is lost while the oplog reaches back",
                code="source-unreachable",
            )
        self._clock.sleep(_NAP)


def _chain_broken(error: LostError) -> SourceError:
    return SourceError(str(error), hint=_FOLLOW_ANEW, code="chain-broken", retryable=False)
