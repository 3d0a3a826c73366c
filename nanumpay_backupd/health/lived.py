"""Pure: up to which moment time is known to have passed, so that a clock that jumps makes no backup old.

Retention deletes by age, and age is the difference of two readings of a clock that may be wrong by years (a dead
battery, a typing error, a virtual machine that was restored). So the moment from which it counts is not simply what
the clock says: it moves on by the time that passed, which the uptime tells, and follows the clock where that is
plausible. What is left open then is told, and settles by itself.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

__all__ = ["Lived", "Reading", "lived_on"]

_JITTER: Final = timedelta(hours=1)
"""As far as a clock may be set at one time while the host runs."""
_OFF: Final = timedelta(days=4)
"""As long as a host may have been off, which nothing but the clock tells of: a long weekend."""
_SETTLE: Final = 7 * 86400.0
"""Seconds after which a clock that stayed where it jumped to is believed."""


class Reading(msgspec.Struct, frozen=True):
    """What the clocks say: the wall clock (UTC), which boot of the host this is, and the seconds since then.

    ``vouched``: a time server keeps the wall clock right.
    """

    now: datetime
    boot: str
    uptime: float
    vouched: bool = False


class Lived(msgspec.Struct, frozen=True):
    """How far time is known to have come: ``at`` (UTC), and where that was seen: ``boot``, ``uptime``.

    ``doubt`` is for how many seconds the clock says something else, None: it does not.
    """

    at: datetime
    boot: str = ""
    uptime: float = 0.0
    doubt: float | None = None

    def counted(self, now: datetime) -> datetime:
        """Return the moment from which ages are counted; never later than ``now``."""
        return min(now, self.at)

    def off(self, now: datetime) -> timedelta:
        """Return how far the clock is ahead (negative: behind) of what is believed; 0 where it is not doubted."""
        return now - self.at if self.doubt is not None else timedelta(0)


def lived_on(last: Lived | None, reading: Reading, newest: datetime | None = None) -> Lived:
    """Take the next reading into account.

    ``last`` is what the one before gave; None: there was none, then time has come as far as ``newest``, when the newest
    backup was made. With a time server behind it the clock is right. Otherwise it is doubted where it
    is further ahead than can have passed, or behind what has; after a week of this it is right nevertheless.
    """
    now = reading.now
    right = Lived(at=now, boot=reading.boot, uptime=reading.uptime)
    if last is None:
        # The backup may have been made before this boot or since.
        last, passed, slack = Lived(at=min(newest or now, now)), 0.0, _OFF + timedelta(seconds=reading.uptime)
    else:
        same = bool(reading.boot) and last.boot == reading.boot
        passed = max(0.0, reading.uptime - (last.uptime if same else 0.0))
        slack = _JITTER if same else _OFF
    expected = last.at + timedelta(seconds=passed)
    if reading.vouched or -_JITTER <= now - expected <= slack:
        return right
    doubt = 0.0 if last.doubt is None else last.doubt + passed
    if doubt >= _SETTLE:
        return right
    return msgspec.structs.replace(right, at=expected, doubt=doubt)
