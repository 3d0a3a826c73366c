"""The worker's side of the lease: ends the run when the lease may be over, and asks MongoDB before what others see.

The worker measures by itself, so that it ends also when its daemon is stopped or hangs. How the lease is renewed is the
daemon's business; it writes into a file of memory when it sent the last renewal that succeeded.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import pymongo
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from nanumpay_backupd.errors import EXIT_FAILED, LeaseError
from nanumpay_backupd.fleet.room import CODEC, LEASE, MAJORITY
from nanumpay_backupd.settings.mongofaults import reason
from nanumpay_backupd.settings.schema import FenceTicket
from nanumpay_backupd.system.clock import since_boot
from nanumpay_backupd.system.family import end_descendants
from nanumpay_backupd.system.process import end_children

__all__ = ["Fence", "publish_sent", "sent_fd"]

_SENT: Final = struct.Struct("=d")
_LOOK: Final = 0.1
_AGAIN: Final = 0.3
_NAMES: Final = 500
"""How many names of backups are remembered, so that two hosts whose clocks differ never give the same."""


def sent_fd() -> int:
    """Return a file of memory in which a renewal's moment is written; whoever asked for it closes it."""
    fd = os.memfd_create("fleet-lease", os.MFD_CLOEXEC)
    publish_sent(fd, 0.0)
    return fd


def publish_sent(fd: int, sent: float) -> None:
    """Write when the last renewal that succeeded was sent; 0: the lease is lost."""
    os.pwrite(fd, _SENT.pack(sent), 0)


class Fence:
    """The lease under which a run goes on, for the length of a with block. All methods are for any thread."""

    def __init__(self, ticket: FenceTicket, run: str) -> None:
        self._ticket = ticket
        self._run = run
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fence", daemon=True)
        self._exceed: Callable[[LeaseError], None] = lambda _: None
        self._client: pymongo.MongoClient[dict[str, Any]] | None = None

    @property
    def token(self) -> int:
        """Return the token under which the run began."""
        return self._ticket.token

    @property
    def host(self) -> str:
        """Return what this host is called in the fleet."""
        return self._ticket.host

    def guard(self, exceed: Callable[[LeaseError], None]) -> Self:
        """Say who is told once that the run has to end."""
        self._exceed = exceed
        return self

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._client is not None:
            self._client.close()

    def _rest(self, limit: float) -> float:
        """Return how many seconds are left until ``limit`` seconds after the last renewal was sent."""
        (sent,) = _SENT.unpack(os.pread(self._ticket.fd, _SENT.size, 0))
        return float(sent) + limit - since_boot() if sent else -1.0

    def check(self) -> None:
        """Raise LeaseError once the lease may be over by this host's measure."""
        if self._rest(self._ticket.stop) <= 0:
            raise self._lost("the lease could not be renewed in time")

    def confirm(self, what: str) -> None:
        """Ask MongoDB whether the lease is still this run's, and wait for an answer; raises LeaseError.

        To be called before each step that others see. It cannot hold back what happens between the answer and the step.
        """
        valid = {"$expr": {"$gt": ["$expires", "$$NOW"]}}
        change = {"$set": {"confirmed": {"run": self._run, "step": what}}, "$currentDate": {"confirmed_at": True}}
        self._ask(valid, change, f"before: {what}")

    def claim_name(self, name: str) -> bool:
        """Reserve the name of a backup; returns False where another has it. Raises LeaseError as `confirm`."""
        change = {"$push": {"names": {"$each": [name], "$slice": -_NAMES}}}
        return self._ask({"names": {"$ne": name}}, change, "to name a backup", final=True)

    def _ask(self, condition: dict[str, Any], change: dict[str, Any], why: str, *, final: bool = False) -> bool:
        own = {"_id": LEASE, "token": self._ticket.token, "holder": self._ticket.holder}
        while True:
            self.check()
            fault = "it is over by the server's clock"
            try:
                with pymongo.timeout(min(self._ticket.patience, max(0.1, self._rest(self._ticket.stop)))):
                    if self._records().update_one({**own, **condition}, change).matched_count:
                        self.check()
                        return True
                    if self._records().find_one(own, {"_id": 1}) is None:
                        raise self._lost(f"another host has taken it ({why})")
                    if final:
                        return False
            except PyMongoError as error:
                fault = reason(error)
            if self._over.wait(_AGAIN):
                raise self._lost(f"it could not be confirmed ({why}): {fault}")

    def _records(self) -> Collection[dict[str, Any]]:
        if self._client is None:
            milliseconds = max(100, int(self._ticket.patience * 1000))
            self._client = pymongo.MongoClient(
                self._ticket.uri.reveal(),
                appname="nanumpay-backupd",
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
            )
        database = self._client[self._ticket.database]
        return database.get_collection(
            self._ticket.collection,
            codec_options=CODEC,
            write_concern=MAJORITY,
            read_preference=pymongo.ReadPreference.PRIMARY,
        )

    def _watch(self) -> None:
        told = False
        while not self._over.wait(_LOOK):
            if self._rest(self._ticket.end) <= 0:
                # Whatever it waits for: by the time that another host may begin nothing of this run goes on.
                end_descendants(os.getpid())
                os._exit(EXIT_FAILED)
            if not told and self._rest(self._ticket.stop) <= 0:
                told = True
                self._exceed(self._lost("the lease could not be renewed in time"))
                end_children()

    def _lost(self, why: str) -> LeaseError:
        return LeaseError(
            f"this host no longer holds the fleet's lease: {why}",
            hint="whoever holds it makes up for the run; see: backupctl fleet, and whether this host reaches MongoDB",
        )
