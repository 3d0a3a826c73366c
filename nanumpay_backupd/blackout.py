"""Windows of the week in which nothing is begun: reading them, and when the next free moment is. Pure; starts nothing.

A window is meant by the clock on the wall: a moment lies in it if and only if a clock in that zone then shows a time of
the window. So of an hour that the clocks go back over both passes are in it, and an hour that they skip is never there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Final, NamedTuple

__all__ = ["Window", "covers_week", "free_at", "parse"]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_WINDOW: Final = re.compile(r"(?:(?P<days>[a-z,-]+)\s+)?(?P<start>[0-9:]+)\s*-\s*(?P<end>[0-9:]+)")
_TIME: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])|24:00")
_STEPS: Final = 1000
_SECOND: Final = timedelta(seconds=1)


class Window(NamedTuple):
    """On which days (0 is Monday) it begins, at which minute of the day, and before which one, counted on, it ends."""

    days: frozenset[int]
    start: int
    end: int

    def __str__(self) -> str:
        days = sorted(self.days)
        clock = f"{self.start // 60:02}:{self.start % 60:02}-{_clock(self.end)}"
        if len(days) == len(_DAYS):
            return clock
        if len(days) > 2 and days == list(range(days[0], days[-1] + 1)):
            return f"{_DAYS[days[0]]}-{_DAYS[days[-1]]} {clock}"
        return f"{','.join(_DAYS[day] for day in days)} {clock}"


def parse(text: str) -> Window:
    """Read ``09:00-18:00``, ``mon-fri 09:00-18:00`` or ``sat,sun 22:00-02:00``; raises ValueError.

    One whose end is before its start goes over midnight, and belongs to the day on which it begins.
    """
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a window")
    start, end = _minute(match["start"]), _minute(match["end"])
    if start in (end, _DAY):
        raise ValueError(f"{text!r} is empty, or all day")
    return Window(_days(match["days"]), start, end if end > start else end + _DAY)


def covers_week(windows: Iterable[Window]) -> bool:
    """Tell whether no minute of the week is left."""
    taken = bytearray(_WEEK)
    for window in windows:
        for day in window.days:
            for minute in range(window.start, window.end):
                taken[(day * _DAY + minute) % _WEEK] = 1
    return all(taken)


def free_at(windows: Sequence[Window], moment: datetime, zone: tzinfo) -> datetime:
    """Return the first moment from ``moment`` on (itself, if it is free) that lies in no window, in the same zone.

    The windows must leave a minute of the week.
    """
    at = moment
    for _ in range(_STEPS if windows else 0):
        local = at.astimezone(zone)
        left = _left(windows, local.replace(tzinfo=None, fold=0))
        if not left:
            break
        ahead = at + left
        same = ahead.astimezone(zone).utcoffset() == local.utcoffset()
        # Where the clocks change on the way, what they show then is looked at anew.
        at = ahead if same else _change(at, ahead, zone)
    return at


def _left(windows: Sequence[Window], wall: datetime) -> timedelta:
    """Return how long, by the clock on the wall, the windows last from ``wall`` on without a gap; zero: it is free."""
    end = wall
    limit = wall + timedelta(minutes=_WEEK)
    while end < limit:
        later = max((_end(window, end) for window in windows), default=end)
        if later <= end:
            break
        end = later
    return end - wall


def _end(window: Window, wall: datetime) -> datetime:
    """Return when the window in which ``wall`` lies ends; ``wall`` itself where it lies in none."""
    today = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [day for day in (today, today - timedelta(days=1)) if day.weekday() in window.days]
    begun = [day for day in days if day + timedelta(minutes=window.start) <= wall]
    return max([wall, *(day + timedelta(minutes=window.end) for day in begun)])


def _change(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return the first second between two moments at which the clocks show something else than they would have."""
    offset = before.astimezone(zone).utcoffset()
    low, high = before.replace(microsecond=0), after.replace(microsecond=0) + _SECOND
    while high - low > _SECOND:
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
    return high


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(len(_DAYS)))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not dash:
            last = first
        if first not in _DAYS or last not in _DAYS:
            raise ValueError(f"{part!r} is no day")
        begin, end = _DAYS.index(first), _DAYS.index(last)
        found.update((begin + step) % len(_DAYS) for step in range((end - begin) % len(_DAYS) + 1))
    return frozenset(found)


def _minute(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time of day")
    return _DAY if match[1] is None else int(match[1]) * 60 + int(match[2])


def _clock(minute: int) -> str:
    if minute == _DAY:
        return "24:00"
    return f"{minute % _DAY // 60:02}:{minute % 60:02}"
