"""How much room a job's copies will take one day: what retention will keep of what comes. Asks no disk."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Final

from nanumpay_backupd.health.room import DAY, trend
from nanumpay_backupd.model import Kind
from nanumpay_backupd.pipeline.layout import backup_id
from nanumpay_backupd.pipeline.outlook import Seen, plan_ahead
from nanumpay_backupd.scheduler import upcoming
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["needs"]

_MOST: Final = 2000
_TREND: Final = 30
"""Fulls from which it is learned by how much they grow."""


def needs(job: JobSpec, seen: Seen, now: datetime, days: float) -> dict[str, float]:
    """Return by place how many bytes more than now will lie there after so many days; less than 0: it gets less.

    Fulls come by the schedule, the first as large as the newest; they grow as they did, and slices come as they did.
    """
    at = now + timedelta(days=days)
    due: list[datetime] = []
    if job.enabled and job.schedule is not None:
        times = itertools.takewhile(lambda moment: moment <= at, upcoming(job.schedule, now))
        due = list(itertools.islice(times, _MOST))
    ahead = {backup_id(job.name, moment): (moment - now).total_seconds() / DAY for moment in due}
    growth: dict[str, float] = {}
    found: dict[str, float] = {}
    for item in seen.held:
        found[item.destination] = found.get(item.destination, 0.0) - item.size
    for place in found:
        fulls = sorted(
            (item.created, float(item.size))
            for item in seen.held
            if item.destination == place and item.kind is Kind.FULL and item.verified
        )
        growth[place] = max(0.0, trend(fulls[-_TREND:]))
    for line in plan_ahead(job, seen, at, due):
        if line.action != "delete":
            more = growth.get(line.destination, 0.0) * ahead.get(line.backup, 0.0) if line.assumed else 0.0
            found[line.destination] = found.get(line.destination, 0.0) + line.size + more
    return found
