"""Going slowly: a wrapper for any Store that limits the bytes per second of get and put. No driver code, no retry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import CancelledError
from nanumpay_backupd.stores.base import Finding, Keeping, ObjectInfo, Progress, PutResult, Resumed, Store
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["Throttle", "ThrottledStore"]

_NAP: Final = 1.0
"""Seconds between two looks at ``cancelled`` while waiting."""
_SAVED: Final = 1.0
"""Seconds of idling that may be made up for."""


class Throttle:
    """A token bucket: lets ``rate`` bytes per second pass, whoever they belong to. Several threads may use it.

    What passed in any span of time is at most the span, and `_SAVED` seconds more, times the rate.
    """

    def __init__(self, rate: float, clock: Clock, cancelled: Callable[[], bool]) -> None:
        self._rate = rate
        self._clock = clock
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._paid = clock.monotonic()
        """Until when all that passed is paid for, on the monotonic clock; ahead of it while somebody waits."""

    def spend(self, size: int) -> None:
        """Return when ``size`` bytes may pass; raises CancelledError when somebody asks for the end meanwhile."""
        with self._lock:
            now = self._clock.monotonic()
            self._paid = max(self._paid, now - _SAVED) + size / self._rate
            until = self._paid
        while (seconds := until - now) > 0.0:
            if self._cancelled():
                raise CancelledError("the transfer was cancelled")
            self._clock.sleep(min(_NAP, seconds))
            now = self._clock.monotonic()


class ThrottledStore(Store):
    """A Store whose contents come and go at no more than ``rate`` bytes per second (more than 0), on average.

    A chunk is handed on once it is paid for. ``cancelled`` is asked while waiting; when it says yes, the call ends with
    CancelledError. ``sender`` is the throttle that the store itself asks before it sends anything; then only what comes
    from there is paid for here, at the same throttle.
    """

    def __init__(
        self,
        store: Store,
        rate: float,
        *,
        clock: Clock | None = None,
        cancelled: Callable[[], bool] | None = None,
        sender: Throttle | None = None,
    ) -> None:
        self.name = store.name
        self.properties = store.properties
        self.rights = store.rights
        self._store = store
        self._throttle = sender or Throttle(rate, clock or SystemClock(), cancelled or (lambda: False))
        self._sends = sender is not None

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Store a file, slowly."""

        def moved(size: int) -> None:
            if progress is not None:
                progress(size)
            # What was there already did not move.
            if not self._sends and not isinstance(size, Resumed):
                self._throttle.spend(size)

        return self._store.put(key, path, moved)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Store a small object, after a wait for all of it."""
        if not self._sends:
            self._throttle.spend(len(data))
        return self._store.put_bytes(key, data)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read an object, slowly."""
        for chunk in self._store.get(key, offset, length):
            self._throttle.spend(len(chunk))
            yield chunk

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at one object."""
        return self._store.stat(key)

    def list(self) -> Iterator[ObjectInfo]:
        """List objects."""
        return self._store.list()

    def delete(self, key: str) -> None:
        """Remove one object."""
        self._store.delete(key)

    def room(self) -> int | None:
        """Ask for the room."""
        return self._store.room()

    def must_be_free(self, key: str) -> None:
        """Look for a lock."""
        self._store.must_be_free(key)

    def keeping(self) -> Keeping:
        """Say what the place keeps."""
        return self._store.keeping()

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Remove old unfinished uploads."""
        return self._store.sweep(before, ours)

    def survey(self, key: str) -> tuple[Finding, ...]:
        """Look at how the place is set up."""
        return self._store.survey(key)

    def check(self, tick: Callable[[], None]) -> None:
        """Let the place look over all that it holds."""
        self._store.check(tick)

    def close(self) -> None:
        """Close the store inside."""
        self._store.close()
