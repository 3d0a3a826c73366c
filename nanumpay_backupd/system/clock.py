"""Time comes in through here, so that tests can replace it. No scheduling rules."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

__all__ = ["Clock", "SystemClock", "host_timezone", "since_boot"]


class Clock(Protocol):
    """What the rest of the program may know about time."""

    def now(self) -> datetime:
        """Return the wall clock as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for measuring durations."""
        ...

    def uptime(self) -> float:
        """Return the seconds since the host was started, those in which it slept included."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread for so many seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall clock as an aware datetime in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        return time.monotonic()

    def uptime(self) -> float:
        """Return the seconds since the host was started, those in which it slept included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


def since_boot() -> float:
    """Return the seconds since this host was started, those in which it was suspended included: for what others wait.

    All processes of the host read the same. (What `Clock.monotonic` measures stands still while the host sleeps.)
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def host_timezone() -> tzinfo:
    """Find the host's zone as a real zone with its DST rules: $TZ, then /etc/localtime, then /etc/timezone, then UTC.

    A fixed-offset zone (what ``datetime.astimezone()`` gives) would be wrong across a DST change.
    """
    for name in _zone_names():
        # A $TZ may also be a rule (KST-9) that names no zone; then the next place tells.
        with contextlib.suppress(OSError, ValueError, KeyError):
            return ZoneInfo(name.removeprefix("posix/").removeprefix("right/"))
    return UTC


def _zone_names() -> Iterator[str]:
    """Yield what the places that may name the host's zone say, the first one first."""
    yield os.environ.get("TZ", "").lstrip(":")
    yield os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    with contextlib.suppress(OSError):
        yield Path("/etc/timezone").read_text(encoding="utf-8").strip()
