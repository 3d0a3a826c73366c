"""Trying again: a wrapper for any Store that repeats what failed for a passing reason. No driver code, no queue."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from nanumpay_backupd.errors import CancelledError, StoreError
from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.stores.base import Finding, Keeping, ObjectInfo, Progress, PutResult, Store
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["LONGEST_DELAY", "RetryingStore", "backoff"]

LONGEST_DELAY: Final = 3600.0
"""Seconds; the delay doubles up to this."""
_JITTER: Final = 0.1
_NAP: Final = 1.0
"""Seconds between two looks at ``cancelled`` while waiting."""

T = TypeVar("T")
_random = random.SystemRandom()


def backoff(delay: float, failures: int, spread: float = 0.0) -> float:
    """Return the seconds to wait after so many failures (1 or more): ``delay`` doubled each time, an hour at most.

    ``spread`` from -1 to 1 moves the result by up to a tenth, so that many clients do not come back together.
    """
    # The exponent is bounded because 2.0 ** 1024 overflows.
    return min(LONGEST_DELAY, delay * 2.0 ** min(failures - 1, 64)) * (1.0 + _JITTER * spread)


class RetryingStore(Store):
    """A Store that repeats an operation whose error is retryable, ``policy.attempts`` times in all.

    ``on_retry`` gets one sentence before each wait. ``cancelled`` is asked while waiting; when it says yes, the call
    ends with CancelledError. Progress never counts a byte twice: what a further attempt moves again is not reported.
    `get` goes on where it stopped, and starts counting anew after each chunk that arrived.
    """

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy,
        *,
        clock: Clock | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self.name = store.name
        self.properties = store.properties
        self.rights = store.rights
        self._store = store
        self._policy = policy
        self._clock = clock or SystemClock()
        self._cancelled = cancelled or (lambda: False)
        self._on_retry = on_retry or (lambda _: None)

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Store a file, with retries."""
        if progress is None:
            return self._repeat(f"storing {key}", lambda: self._store.put(key, path))
        counted = _Once(progress)
        return self._repeat(f"storing {key}", lambda: self._store.put(key, path, counted.attempt()))

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Store a small object, with retries."""
        return self._repeat(f"storing {key}", lambda: self._store.put_bytes(key, data))

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read an object; after a fault the reading goes on at the byte where it stopped."""
        failures = 0
        while True:
            try:
                for chunk in self._store.get(key, offset, length):
                    offset += len(chunk)
                    length = None if length is None else length - len(chunk)
                    failures = 0
                    yield chunk
                return
            except StoreError as error:
                failures += 1
                self._wait(f"reading {key}", error, failures)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at one object, with retries."""
        return self._repeat(f"looking at {key}", lambda: self._store.stat(key))

    def list(self) -> Iterator[ObjectInfo]:
        """List objects, with retries; the whole list is read before the first is given, so that none comes twice."""
        yield from self._repeat("listing", lambda: tuple(self._store.list()))

    def delete(self, key: str) -> None:
        """Remove one object, with retries."""
        self._repeat(f"deleting {key}", lambda: self._store.delete(key))

    def room(self) -> int | None:
        """Ask for the room, with retries."""
        return self._repeat("looking", self._store.room)

    def must_be_free(self, key: str) -> None:
        """Look for a lock, with retries."""
        self._repeat(f"looking at {key}", lambda: self._store.must_be_free(key))

    def keeping(self) -> Keeping:
        """Say what the place keeps, with retries."""
        return self._repeat("looking", self._store.keeping)

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Remove old unfinished uploads, with retries."""
        return self._repeat("looking", lambda: self._store.sweep(before, ours))

    def survey(self, key: str) -> tuple[Finding, ...]:
        """Look at how the place is set up, with retries."""
        return self._repeat("looking", lambda: self._store.survey(key))

    def check(self, tick: Callable[[], None]) -> None:
        """Let the place look over all that it holds."""
        self._repeat("checking", lambda: self._store.check(tick))

    def close(self) -> None:
        """Close the store inside."""
        self._store.close()

    def _repeat(self, doing: str, action: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return action()
            except StoreError as error:
                failures += 1
                self._wait(doing, error, failures)

    def _wait(self, doing: str, error: StoreError, failures: int) -> None:
        """Sleep before the next attempt, or raise ``error`` when there is to be none."""
        if not error.retryable or failures >= self._policy.attempts:
            raise error
        seconds = backoff(self._policy.delay, failures, _random.uniform(-1.0, 1.0))
        self._on_retry(
            f"{doing} at destination {self.name!r} failed ({error.message});"
            f" attempt {failures + 1} of {self._policy.attempts} follows in {seconds:.0f} s"
        )
        while seconds > 0.0:
            if self._cancelled():
                raise CancelledError(f"{doing} at destination {self.name!r} was cancelled while waiting to try again")
            nap = min(_NAP, seconds)
            self._clock.sleep(nap)
            seconds -= nap


class _Once:
    """Progress over several attempts, counting each byte of the object once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._highest = 0

    def attempt(self) -> Progress:
        """Return the callback for one attempt, which begins at byte 0."""
        moved = 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            fresh = max(0, moved - self._highest)
            self._highest += fresh
            # Also without new bytes: raising from the callback is how a transfer is cancelled.
            self._progress(fresh)

        return count
