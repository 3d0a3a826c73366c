"""When a job is due: next and latest due time, and what to do about one that passed. Pure but for reading cron lines.

A schedule is a wall-clock promise. Due times are worked out on the local calendar, where each wall-clock minute stands
once, and only then turned into instants:
- a time that the clocks skip in spring (02:30) is due at the same distance after the jump (03:30): never zero times;
- a time that happens twice in autumn is due at its first occurrence: never twice;
- schedules that run in every hour (a cron line whose hour field is a wildcard) do run in both of the doubled hours.
(croniter itself, given a zone, yields a doubled time twice.)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from nanumpay_backupd.settings.schema import Schedule
from nanumpay_backupd.system.clock import host_timezone

__all__ = ["ON_TIME", "Verdict", "judge", "latest_due", "next_due", "upcoming", "zone_of"]

_SLACK: Final = timedelta(hours=3)
"""More than any DST change moves the clocks."""
ON_TIME: Final = timedelta(seconds=90)
"""A run that starts within this of its due time is on schedule; later it is caught up."""
_FAR: Final = timedelta(days=3660)


class Verdict(StrEnum):
    """What to do at a moment about a planned due time."""

    WAIT = "wait"
    RUN = "run"
    CATCH_UP = "catch-up"
    TOO_LATE = "too-late"


def zone_of(schedule: Schedule) -> tzinfo:
    """Return the time zone a schedule is meant in."""
    return ZoneInfo(schedule.timezone) if schedule.timezone else host_timezone()


def next_due(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first due time strictly after ``after``, in UTC; None when the schedule never comes (30 February)."""
    zone = zone_of(schedule)
    found = [moment for line in schedule.cron if (moment := _next_of(line, after, zone)) is not None]
    return min(found, default=None)


def latest_due(schedule: Schedule, until: datetime, window: timedelta) -> datetime | None:
    """Return the last due time at or before ``until`` and not older than ``window``, in UTC, or None."""
    last = None
    # `next_due` looks strictly after; a due time exactly as old as the window still counts.
    moment = next_due(schedule, until - window - timedelta(microseconds=1))
    # One step per due time would be slow for a schedule of minutes over weeks: halve the window while it is behind.
    start = until - window
    while moment is not None and moment <= until:
        last = moment
        middle = moment + (until - moment) / 2
        following = next_due(schedule, max(middle, start))
        if following is None or following > until:
            following = next_due(schedule, moment)
        moment = following
    return last


def upcoming(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Yield the due times after ``after``, one by one."""
    moment = next_due(schedule, after)
    while moment is not None:
        yield moment
        moment = next_due(schedule, moment)


def judge(planned: datetime, now: datetime, window: timedelta) -> Verdict:
    """Decide what to do about a planned due time: wait, run, catch up, or leave it because it is too long ago."""
    late = now - planned
    if late < timedelta(0):
        return Verdict.WAIT
    if late <= ON_TIME:
        return Verdict.RUN
    return Verdict.CATCH_UP if late <= window else Verdict.TOO_LATE


def _next_of(line: str, after: datetime, zone: tzinfo) -> datetime | None:
    """Return the first instant after ``after`` of one cron line, going over the wall-clock calendar."""
    every_hour = line.split()[1].startswith("*")
    local = after.astimezone(zone).replace(tzinfo=None)
    best: datetime | None = None
    limit: datetime | None = None
    try:
        wall_clock = croniter(line, local - _SLACK, max_years_between_matches=10)
        while True:
            naive: datetime = wall_clock.get_next(datetime)
            if naive - local > _FAR or (limit is not None and naive > limit):
                return best
            for moment in _instants(naive, zone, doubled=every_hour):
                if moment > after and (best is None or moment < best):
                    best = moment
                    limit = limit or naive + _SLACK
    except CroniterError:
        return best


def _instants(naive: datetime, zone: tzinfo, *, doubled: bool) -> tuple[datetime, ...]:
    """Turn a wall-clock time into instants; the second of a doubled time only where that is wanted."""
    first = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)
    # In a gap the second reading lies before the first; only in a fold it lies after.
    return (first, second) if doubled and second > first else (first,)
