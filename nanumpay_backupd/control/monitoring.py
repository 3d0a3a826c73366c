"""The methods of the monitor: looks at all places, live or as they were, by itself once a day; accepts what is odd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import find, to_text
from nanumpay_backupd.control.facts import job_faults
from nanumpay_backupd.control.looking import Looking
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.lookout import PATIENCE, Sight
from nanumpay_backupd.model import ErrorInfo, error_info
from nanumpay_backupd.monitoring.checks import FAILED, OK, Check
from nanumpay_backupd.monitoring.faults import AGAIN, shown_too
from nanumpay_backupd.monitoring.forecast import needs
from nanumpay_backupd.monitoring.judging import places_of
from nanumpay_backupd.monitoring.memory import Memory, keep, learned, recall
from nanumpay_backupd.pipeline.oddities import accept
from nanumpay_backupd.pipeline.outlook import look as look_ahead
from nanumpay_backupd.scheduler import latest_due
from nanumpay_backupd.settings.schema import JobSpec, Schedule

__all__ = ["Monitoring"]

_INTERVAL: Final = 60.0
_SOON: Final = 2.0
"""Seconds between two questions whether the start is over."""
_FIRST: Final = 600.0
"""Seconds after which a daemon that never looked before does."""
_LATE: Final = timedelta(days=2)
_SLACK: Final = 20.0
"""Seconds more than its places may take, until a process that looks is ended."""
_TOGETHER: Final = 4
_HIDDEN: Final = frozenset({"told", "about", "silent"})
log = structlog.get_logger()


class Monitoring(Looking):
    """The handlers of the monitor, and its daily round."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._looking = asyncio.Lock()
        self._since = self._clock.monotonic()

    async def monitor(self, call: Call) -> dict[str, Any]:
        """Answer Monitor: every check of all jobs or of one; looks at all places first, unless ``recorded``."""
        name = call.params.get("job")
        jobs = [self._named(name)] if name else list(self._supervisor.jobs.values())
        if not call.params.get("recorded"):
            await self._look_at(jobs)
        with contextlib.suppress(BackupdError):  # a folder that cannot be read is a finding, and not the end
            await self._supervisor.refresh()
        checks: list[Check] = []
        for job in jobs:
            shown = await self._job(job)
            checks += shown_too(job.name, job_faults([shown]))
            checks += await self._judged(job, shown, thorough=True)
        memory = await self._supervisor.db(recall)
        states = {check.state for check in checks}
        seen = [sight.at for job in jobs for sight in memory.sights.get(job.name, ())]
        return {
            "health": "failing" if FAILED in states else "warning" if states - {OK} else "ok",
            "checks": [_shown(check) for check in checks],
            "looked": to_text(min(seen)) if seen else None,
            "now": to_text(self._clock.now()),
        }

    async def accept_backup(self, call: Call) -> dict[str, Any]:
        """Answer AcceptBackup: what is odd about a backup is meant."""
        self._admin(call, "accept what is odd about backups")
        name, who, layout = call.params["backup"], f"uid {call.peer.uid}", self._supervisor.layout

        def work(catalog: Catalog) -> tuple[str, list[str]]:
            backup = find(catalog, name)
            return backup.id, accept(catalog, layout, backup, who)

        backup, released = await self._supervisor.db(work)
        log.info(f"{who} accepted what is odd about {backup}", released=", ".join(released) or None)
        self._daemon.announcer.look_again()
        return {"backup": backup, "released": released}

    # The round

    async def watch(self) -> None:
        """Look when it is time, and again at places that did not answer, until cancelled."""
        said, pause = "", _SOON
        while True:
            await asyncio.sleep(pause)
            pause = _INTERVAL if self._supervisor.plans.hold == 0 else _SOON
            try:
                await self._round()
                said = ""
            except BackupdError as error:
                if error.message != said:
                    log.error(f"the places cannot be looked at: {error.message}", code=error.code, hint=error.hint)
                said = error.message

    async def _round(self) -> None:
        """Look at everything when that is due, else at jobs of which a place did not answer a while ago.

        The latter also where nothing is looked at by itself: somebody who looked left that fault behind.
        """
        if self._supervisor.plans.hold > 0 or not self._supervisor.jobs:
            return
        now = self._clock.now()
        memory = await self._supervisor.db(recall)
        if self._daemon.monitor_at and self._is_due(memory, now):
            jobs = list(self._supervisor.jobs.values())
            await self._look_at(jobs)
            await self._tell(jobs)
            return
        silent = [
            job
            for job in self._supervisor.jobs.values()
            if any(
                sight.place in places_of(job) and sight.fault is not None and _passed(sight.at, now)
                for sight in memory.sights.get(job.name, ())
            )
        ]
        if silent:
            await self._look_at(silent)

    def _is_due(self, memory: Memory, now: datetime) -> bool:
        if memory.at is None or memory.at > now:
            return self._clock.monotonic() - self._since >= _FIRST
        schedule = Schedule(cron=self._daemon.monitor_at, timezone=self._daemon.timezone)
        due = latest_due(schedule, now, _LATE)
        return memory.at < due if due is not None else False

    async def _tell(self, jobs: list[JobSpec]) -> None:
        """Write the one line that tells what the round found."""
        checks = [check for job in jobs for check in await self._judged(job, await self._job(job))]
        count = len({(check.job, check.destination) for check in checks if check.destination})
        text = f"looked at {count} {'place' if count == 1 else 'places'}"
        bad = [check for check in checks if check.state != OK]
        if not bad:
            log.info(f"{text}: all is well")
            return
        worst = min(bad, key=lambda check: check.state != FAILED)
        failed = sum(check.state == FAILED for check in bad)
        where = ", ".join(part for part in (worst.job, worst.destination) if part)
        log.warning(
            f"{text}: {failed} checks failed, {len(bad) - failed} warn; {where}: {worst.message}",
            code=worst.code or None,
            hint="all of it: backupctl monitor",
        )

    async def _look_at(self, jobs: Iterable[JobSpec]) -> None:
        """Let a process for each job look at its places, and keep what was seen."""
        jobs = list(jobs)
        async with self._looking:
            room = asyncio.Semaphore(_TOGETHER)

            async def one(job: JobSpec) -> list[Sight]:
                async with room:
                    return await self._sights(job)

            fresh = dict(zip([job.name for job in jobs], await asyncio.gather(*map(one, jobs)), strict=True))
            await self._keep(jobs, fresh)

    async def _sights(self, job: JobSpec) -> list[Sight]:
        """Ask a worker; one that says nothing of a place in time, or breaks down, is that place's fault."""
        seen: list[Sight] = []
        fault: ErrorInfo | None = None
        try:
            async with asyncio.timeout(PATIENCE + _SLACK):
                async for event in self._helper(job, "look"):
                    if event.get("kind") == "fault":
                        fault = msgspec.convert(event["fault"], ErrorInfo)
                    seen += [msgspec.convert(event["sight"], Sight)] if event.get("kind") == "sight" else []
        except TimeoutError:
            fault = ErrorInfo(
                code="destination-unreachable",
                message=f"the look at it took more than {PATIENCE + _SLACK:.0f} s",
                hint="try it: backupctl doctor",
            )
        except BackupdError as error:
            fault = error_info(error)
        missing = {*places_of(job)} - {sight.place for sight in seen} if fault is not None else set()
        now = self._clock.now()
        return [*seen, *(Sight(place=place, at=now, fault=fault) for place in sorted(missing))]

    async def _keep(self, jobs: list[JobSpec], fresh: dict[str, list[Sight]]) -> None:
        now, everything = self._clock.now(), list(self._supervisor.jobs.values())
        horizon = float(
            max((job.health_at(place).disk_days for job in everything for place in places_of(job)), default=1)
        )
        ahead: dict[str, dict[str, float]] = {}
        for job in jobs:
            held = await self._supervisor.db(lambda catalog, name=job.name: look_ahead(catalog, name))  # type: ignore[misc]
            # In a thread: of tens of thousands of slices it takes a while.
            ahead[job.name] = await asyncio.to_thread(needs, job, held, now, horizon)

        def work(catalog: Catalog) -> None:
            owns = {
                job.name: {place: size for place, (_, size) in catalog.sizes(job.name).items()} for job in everything
            }
            names = [job.name for job in everything]
            keep(catalog, learned(recall(catalog), now, fresh, ahead, owns, jobs=names, horizon=horizon))

        await self._supervisor.db(work)
        self._daemon.announcer.look_again()


def _passed(at: datetime, now: datetime) -> bool:
    return (now - at).total_seconds() >= AGAIN


def _shown(check: Check) -> dict[str, Any]:
    """Shape a check as the interface's type MonitorCheck."""
    fields = msgspec.to_builtins(check)
    return {name: value for name, value in fields.items() if name not in _HIDDEN}
