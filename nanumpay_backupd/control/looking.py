"""The methods that look: status, jobs, runs, backups, the timeline, settings. Nothing is started or changed here."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from nanumpay_backupd import __version__
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import Desk, find, limited, read_moment, to_text
from nanumpay_backupd.control.facts import (
    clock_fault,
    disk_fault,
    health_of,
    job_facts,
    job_faults,
    protection,
    retention,
)
from nanumpay_backupd.control.reaching import Picture, Reach, reach_of, timeline
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.control.together import find_group, group_facts, group_faults, groups_there, shown_group
from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.events import Fault
from nanumpay_backupd.fleet.standing import shown as shown_fleet
from nanumpay_backupd.model import SLICES, Backup, Kind, Run, to_builtins
from nanumpay_backupd.monitoring.checks import Check
from nanumpay_backupd.monitoring.faults import faults_of
from nanumpay_backupd.monitoring.judging import gather, judge
from nanumpay_backupd.monitoring.memory import recall
from nanumpay_backupd.pipeline.ageing import lived
from nanumpay_backupd.pipeline.groups import all_at_once
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX
from nanumpay_backupd.plans import Task
from nanumpay_backupd.settings.merge import encryption_in_words
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.settings.sources import type_of
from nanumpay_backupd.supervisor import Supervisor
from nanumpay_backupd.system.files import free_bytes

__all__ = ["Looking"]

_RUNS: Final = 20
_MOST_RUNS: Final = 1000
_MOST_SPOTS: Final = 2000


class Looking(Desk):
    """The handlers that look."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reach: Reach | None = None

    async def get_status(self, _call: Call) -> dict[str, Any]:
        """Answer GetStatus."""
        status, _ = await self.standing()
        return status

    async def standing(self) -> tuple[dict[str, Any], list[Fault]]:
        """Return the status, and what is wrong now in more than its words."""
        jobs, groups, free, faults = await self._look()
        status = {
            "version": __version__,
            "pid": os.getpid(),
            "started": to_text(self._daemon.started),
            "now": to_text(self._clock.now()),
            "timezone": self._daemon.timezone,
            "health": health_of(faults),
            "problems": [fault.line for fault in faults],
            "troubles": [_trouble(fault) for fault in faults],
            "backups_path": str(self._supervisor.paths.backups),
            "free_bytes": free or 0,
            "settings": self._daemon.settings_state(),
            "jobs": jobs,
            "groups": groups,
            "fleet": self._fleet(),
        }
        return status, faults

    def _fleet(self) -> dict[str, Any] | None:
        """Describe the fleet as the interface's type Fleet; None: there is none."""
        keeper = self._supervisor.fleet
        if keeper is None:
            return None
        return shown_fleet(keeper.standing(), (job.name for job in self._supervisor.jobs.values() if not job.shared))

    def _is_elsewhere(self, job: JobSpec) -> bool:
        """Tell whether another host makes a job now, so that this one has nothing to say of how it goes."""
        return job.shared and not self._supervisor.may_begin(job.name)

    async def faults(self) -> tuple[list[Fault], list[dict[str, Any]]]:
        """Return what is wrong now, as the status tells it, and the jobs as it shows them."""
        jobs, _, _, faults = await self._look()
        return faults, jobs

    async def _look(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int | None, list[Fault]]:
        specs = list(self._supervisor.jobs.values())  # settings may change while the catalog is asked
        jobs = [await self._job(job) for job in specs]
        groups = await self._groups()
        free = await asyncio.to_thread(_free, self._supervisor)
        here = [described for job, described in zip(specs, jobs, strict=True) if not self._is_elsewhere(job)]
        faults = [*self._daemon.problems(), *job_faults(here), *group_faults(groups, here)]
        faults += disk_fault(free, self._supervisor.paths.backups)
        faults += clock_fault(await self._supervisor.db(lived), self._clock.now())
        checks: list[Check] = []
        for job, described in zip(specs, jobs, strict=True):
            if not self._is_elsewhere(job):
                checks += await self._judged(job, described)
        return jobs, groups, free, [*faults, *faults_of(checks, faults)]

    async def _groups(self) -> list[dict[str, Any]]:
        """Describe the groups as the interface's type Group."""
        layout, found = self._supervisor.layout, []
        for group in list(self._supervisor.specs.values()):
            facts = await self._supervisor.db(lambda catalog, group=group: group_facts(catalog, layout, group))  # type: ignore[misc]
            active = self._supervisor.active.get(group.name)
            due = self._supervisor.plans.get(group.name)
            found.append(
                {
                    "name": group.name,
                    "jobs": list(group.jobs),
                    "enabled": group.enabled,
                    "schedule": list(group.schedule.cron) if group.schedule else [],
                    "timezone": (group.schedule.timezone if group.schedule else "") or self._daemon.timezone,
                    "next_run": to_text(due) if due else None,
                    "running": active.run.id if active else None,
                    "notes": list(group.notes),
                    **facts,
                }
            )
        return found

    async def _judged(self, job: JobSpec, shown: dict[str, Any], *, thorough: bool = False) -> list[Check]:
        """Judge a job and its places by what the catalog knows and the last look saw; ``shown`` is of `_job`."""
        now = self._clock.now()
        facts, memory = await self._supervisor.db(
            lambda catalog: (gather(catalog, job, thorough=thorough), recall(catalog))
        )
        return judge(job, shown, facts, memory, now)

    async def list_jobs(self, _call: Call) -> dict[str, Any]:
        """Answer ListJobs."""
        jobs = [await self._job(job) for job in self._supervisor.jobs.values()]
        return {"jobs": jobs, "groups": await self._groups()}

    async def list_runs(self, call: Call) -> dict[str, Any]:
        """Answer ListRuns."""
        limit = limited(call.params.get("limit"), _RUNS, _MOST_RUNS)
        job = call.params.get("job")
        if call.params.get("fleet"):
            return {"runs": await self._runs_of_all(job, limit)}
        slices = bool(call.params.get("slices"))
        runs = await self._supervisor.db(lambda catalog: catalog.runs(job, limit, slices=slices))
        return {"runs": [to_builtins(run) for run in runs]}

    async def _runs_of_all(self, job: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the runs of all hosts of the fleet; those of this host that go on now come from itself."""
        keeper = self._supervisor.fleet
        if keeper is None:
            raise RefusedError("this host is in no fleet", hint="see docs/fleet.md")
        running = [
            {**to_builtins(item.run), "host": keeper.place.host}
            for item in self._supervisor.active.values()
            if not item.quiet and job in (None, item.run.job)
        ]
        told = [run for told in await keeper.runs(job, limit) if (run := _read_run(told)) is not None]
        return [*running, *told][:limit]

    async def describe_run(self, call: Call) -> dict[str, Any]:
        """Answer DescribeRun."""
        name = call.params["run"]
        run = await self._supervisor.db(lambda catalog: catalog.run(name))
        if run is None:
            raise NotFoundError(f"there is no run {name!r}", hint="see: backupctl runs")
        return {"run": to_builtins(run)}

    async def list_backups(self, call: Call) -> dict[str, Any]:
        """Answer ListBackups, after a look at the folder: the application deletes files there by itself."""
        await self._supervisor.refresh()
        job, limit = call.params.get("job"), call.params.get("limit")
        if limit is not None:
            limit = limited(limit, 1, 1_000_000)
        if job is not None and job in self._supervisor.specs:
            return await self._list_group(job, limit)
        slices = bool(call.params.get("slices"))
        kinds = frozenset(Kind) if slices else frozenset(Kind) - SLICES
        found = await self._supervisor.db(lambda catalog: catalog.backups(job, limit, kinds))
        hidden = 0 if slices else await self._supervisor.db(lambda catalog: catalog.count(job, SLICES))
        groups = await self._made_together("", limit) if job is None else []
        return {"backups": [self._typed(backup) for backup in found], "hidden_slices": hidden, "groups": groups}

    async def _list_group(self, group: str, limit: int | None) -> dict[str, Any]:
        """Describe what runs of a group made, and the backups that this consists of."""
        groups = await self._made_together(group, limit)
        names = [member["backup"] for one in groups for member in one["members"] if member["copies"]]
        found = await self._supervisor.db(lambda catalog: [catalog.backup(name) for name in names])
        shown = [self._typed(msgspec.structs.replace(item, manifest=None)) for item in found if item is not None]
        return {"backups": shown, "hidden_slices": 0, "groups": groups}

    async def _made_together(self, group: str, limit: int | None) -> list[dict[str, Any]]:
        layout = self._supervisor.layout
        found = await self._supervisor.db(
            lambda catalog: list(itertools.islice(groups_there(catalog, layout, group, all_at_once(catalog)), limit))
        )
        return [shown_group(*one) for one in found]

    async def describe_group(self, call: Call) -> dict[str, Any]:
        """Answer DescribeGroup."""
        await self._supervisor.refresh()
        layout, name = self._supervisor.layout, call.params["group"]
        return {"group": shown_group(*await self._supervisor.db(lambda catalog: find_group(catalog, layout, name)))}

    async def describe_backup(self, call: Call) -> dict[str, Any]:
        """Answer DescribeBackup."""
        await self._supervisor.refresh()
        name = call.params["backup"]
        return {"backup": self._typed(await self._supervisor.db(lambda catalog: find(catalog, name)))}

    def _typed(self, backup: Backup) -> dict[str, Any]:
        """Describe one backup as the interface's type Backup, with the type of its source, as far as it is known."""
        job = self._supervisor.jobs.get(backup.job.removesuffix(SAFETY_SUFFIX))
        known = backup.manifest.source.type if backup.manifest is not None else type_of(job.source) if job else None
        return {**to_builtins(backup), "source": known}

    async def timeline(self, call: Call) -> dict[str, Any]:
        """Answer Timeline, after a look at the folder."""
        params = call.params
        picture = None
        if params.get("spots") is not None:
            since, until = (read_moment(params[name]) if params.get(name) else None for name in ("since", "until"))
            picture = Picture(limited(params["spots"], 1, _MOST_SPOTS, "spots"), since, until)
        await self._supervisor.refresh()
        job = self._named(params.get("job") or self._only_job())
        now = self._clock.now()

        def work(catalog: Catalog) -> dict[str, Any]:
            self._reach = reach_of(catalog, job.name, self._reach)
            return timeline(self._reach, picture, now)

        facts = await self._supervisor.db(work)
        shown = await self._supervisor.db(lambda catalog: protection(catalog, job, self._due(job), now))
        return {
            "job": job.name,
            "now": to_text(now),
            "stream": shown["stream"],
            "problem": shown["problem"],
            **facts,
        }

    async def get_settings(self, _call: Call) -> dict[str, Any]:
        """Answer GetSettings."""
        return {"settings": self._daemon.settings_public(), "state": self._daemon.settings_state()}

    async def _job(self, job: JobSpec) -> dict[str, Any]:
        """Describe one job as the interface's type Job."""
        active = self._supervisor.active.get(job.name)
        due = self._supervisor.plans.get(job.name)
        facts = await self._supervisor.db(lambda catalog: job_facts(catalog, job.name))
        now = self._clock.now()
        shown = await self._supervisor.db(lambda catalog: protection(catalog, job, self._due(job), now))
        source = job.source
        return {
            "name": job.name,
            "enabled": job.enabled,
            "source": source.described,
            "type": type_of(source),
            "holds": source.holds.value,
            "schedule": list(job.schedule.cron) if job.schedule else [],
            "timezone": (job.schedule.timezone if job.schedule else "") or self._daemon.timezone,
            "next_run": to_text(due) if due else None,
            "waiting": self._waiting(job.name),
            "again": self._again(job),
            "running": active.run.id if active else None,
            "destinations": [destination.name for destination in job.destinations],
            "retention_count": job.retention.count,
            "retention_days": job.retention.days,
            "retention": await self._supervisor.db(lambda catalog: retention(catalog, job)),
            "warnings": list(job.warnings),
            "encryption": encryption_in_words(job.encryption),
            "group": job.group or None,
            "protection": shown,
            **facts,
        }

    def _waiting(self, name: str) -> list[dict[str, Any]]:
        """Say what of a job is due and waits, and for what."""
        agenda = self._supervisor.agenda
        return [
            {
                "what": wait.what,
                "due": to_text(wait.due),
                "reason": wait.reason,
                "until": to_text(wait.until) if wait.until is not None else None,
                "active": agenda.active,
                "most": agenda.most,
            }
            for wait in agenda.waits
            if wait.job == name
        ]

    def _again(self, job: JobSpec) -> list[dict[str, Any]]:
        """Say which failed runs of a job are made again, and when that will really be."""
        return [
            {
                "action": action,
                "due": to_text(self._supervisor.plans.free_at(job, again.due)),
                "attempt": again.attempt,
                "attempts": again.attempts,
            }
            for name, action, again in self._supervisor.retries.items()
            if name == job.name
        ]

    def _due(self, job: JobSpec) -> Callable[[Task], datetime | None]:
        """Return the function that tells when a task of a job is due next."""
        plans = {task: self._supervisor.plans.get(job.name, task) for task in Task}
        return plans.__getitem__


def _trouble(fault: Fault) -> dict[str, Any]:
    """Describe what is wrong now as the interface's type Trouble."""
    return {
        "kind": fault.key.partition(":")[0],
        "text": fault.text,
        "hint": fault.hint,
        "severity": fault.severity.value,
        "job": fault.job,
        "event": fault.event.value if fault.event is not None else "",
        "code": fault.code,
    }


def _free(supervisor: Supervisor) -> int | None:
    try:
        return free_bytes(supervisor.paths.backups)
    except OSError:
        return None


def _read_run(told: dict[str, Any]) -> dict[str, Any] | None:
    """Read a run that a host wrote, perhaps one of another version; None: this one cannot read it."""
    try:
        return {**to_builtins(msgspec.convert(told, Run)), "host": str(told["host"])}
    except msgspec.ValidationError:
        return None
