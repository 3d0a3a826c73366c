"""The method that says when jobs are due next, several times ahead. Plans nothing: a blackout may come between."""

from __future__ import annotations

import itertools
from typing import Any, Final

from nanumpay_backupd.control.desk import Desk, limited, to_text
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.scheduler import upcoming
from nanumpay_backupd.settings.schema import JobSpec, Schedule

__all__ = ["Ahead"]

_COUNT: Final = 5
_MOST: Final = 50


class Ahead(Desk):
    """The handler."""

    async def list_upcoming(self, call: Call) -> dict[str, Any]:
        """Answer ListUpcoming: of a job that is made with a group, when the group is."""
        count = limited(call.params.get("count"), _COUNT, _MOST, "count")
        wanted = call.params.get("job")
        jobs = [self._named(wanted)] if wanted else list(self._supervisor.jobs.values())
        return {"jobs": [{"job": job.name, "runs": self._runs(job, count)} for job in jobs]}

    def _runs(self, job: JobSpec, count: int) -> list[str]:
        schedule = self._schedule(job)
        if schedule is None:
            return []
        return [to_text(moment) for moment in itertools.islice(upcoming(schedule, self._clock.now()), count)]

    def _schedule(self, job: JobSpec) -> Schedule | None:
        group = self._supervisor.specs.get(job.group) if job.group else None
        if group is not None:
            return group.schedule if group.enabled else None
        return job.schedule if job.enabled else None
