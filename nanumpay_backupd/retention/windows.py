"""Windows of time stacked back from now, and the calendar's periods in them. Knows no backups.

A window's end is an instant, so it moves on evenly and never back; a period is one of the calendar in a zone, so a
backup belongs to the same day, ISO week, month and year for ever. The window of the days begins where that of all
backups ends, that of the weeks where that of the days ends, and so on.
"""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta, tzinfo
from enum import IntEnum
from typing import Final, NamedTuple

from nanumpay_backupd.model import Policy, Tiers

__all__ = ["Period", "Window", "Windows", "horizon", "months_before", "periods_of"]


class Period(IntEnum):
    """The periods of which one backup is kept."""

    DAY = 0
    WEEK = 1
    MONTH = 2
    YEAR = 3


_WORDS: Final = ("", "week ", "month ", "year ")


class Window(NamedTuple):
    """One window in which backups are thinned: to the newest of each ``period``, back to ``end``."""

    period: Period
    end: datetime


class Windows(NamedTuple):
    """The windows of a policy at a moment: all backups back to ``everything``, then ``thinned``, nearest first."""

    everything: datetime
    thinned: tuple[Window, ...]

    @classmethod
    def at(cls, tiers: Tiers, now: datetime) -> Windows:
        """Return the windows of ``tiers``, counted back from ``now`` (UTC)."""
        everything = end = now - timedelta(days=tiers.keep_all_for_days)
        thinned = []
        if tiers.keep_daily_for_days:
            end -= timedelta(days=tiers.keep_daily_for_days)
            thinned.append(Window(Period.DAY, end))
        if tiers.keep_weekly_for_weeks:
            end -= timedelta(weeks=tiers.keep_weekly_for_weeks)
            thinned.append(Window(Period.WEEK, end))
        if tiers.keep_monthly_for_months:
            end = months_before(end, tiers.keep_monthly_for_months)
            thinned.append(Window(Period.MONTH, end))
        if tiers.keep_yearly_for_years:
            end = months_before(end, 12 * tiers.keep_yearly_for_years)
            thinned.append(Window(Period.YEAR, end))
        return cls(everything, tuple(thinned))

    @property
    def end(self) -> datetime:
        """Return how far the last window reaches back."""
        return self.thinned[-1].end if self.thinned else self.everything


def horizon(policy: Policy, now: datetime) -> datetime:
    """Return the moment before which a policy does not keep all of a few backups."""
    if policy.tiers is not None:
        return Windows.at(policy.tiers, now).everything
    return now - timedelta(days=policy.days)


def months_before(moment: datetime, months: int) -> datetime:
    """Return the moment so many months earlier; a day that there is not becomes the end of its month.

    The end and not the same time of the last day: so a later moment never leads to an earlier one.
    """
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    if moment.day <= last:
        return moment.replace(year=year, month=month + 1)
    return moment.replace(year=year, month=month + 1, day=last, hour=23, minute=59, second=59, microsecond=999_999)


def periods_of(moment: datetime, zone: tzinfo) -> tuple[str, str, str, str]:
    """Name the day, ISO week, month and year of a moment in a zone; indexed by `Period`."""
    day = moment.astimezone(zone).date()
    year, week, _ = day.isocalendar()
    text = day.isoformat()
    return text, f"{year}-W{week:02}", text[:7], text[:4]


def said(period: Period, name: str) -> str:
    """Write a period's name in a sentence: ``2026-11-03``, ``week 2026-W45``."""
    return f"{_WORDS[period]}{name}"
