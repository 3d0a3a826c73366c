"""Time comes in through here, so that tests can replace it. No scheduling rules."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

__all__ = ["Clock", "SystemClock", "host_timezone"]


class Clock(Protocol):
    """What the rest of the program may know about time."""

    def now(self) -> datetime:
        """Return the wall clock as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for measuring durations."""
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

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


def host_timezone() -> tzinfo:
    """Find the host's zone as a real zone with its DST rules: $TZ, then /etc/localtime, then /etc/timezone, then UTC.

    A fixed-offset zone (what ``datetime.astimezone()`` gives) would be wrong across a DST change.
    """
    name = os.environ.get("TZ", "").lstrip(":")
    if not name:
        target = os.path.realpath("/etc/localtime")
        name = target.partition("/zoneinfo/")[2]
    if not name:
        try:
            name = Path("/etc/timezone").read_text(encoding="utf-8").strip()
        except OSError:
            name = ""
    for prefix in ("posix/", "right/"):
        name = name.removeprefix(prefix)
    try:
        return ZoneInfo(name or "UTC")
    except (OSError, ValueError, KeyError):
        return UTC
