"""What each method of the control interface does, in the words of the other rooms. No wire format here."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

from nanumpay_backupd import __version__
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.server import Call, Handler, may_administer
from nanumpay_backupd.errors import BackupdError, BusyError, InternalError, NotFoundError, RefusedError
from nanumpay_backupd.model import FULLS, Backup, BackupState, CopyState, Outcome, Trigger, to_builtins
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX
from nanumpay_backupd.pipeline.prune import plan
from nanumpay_backupd.pipeline.rebuild import rebuild_local
from nanumpay_backupd.settings.schema import CollectionOrder, JobSpec, RestoreOrder, RunSpec
from nanumpay_backupd.supervisor import ActiveRun, Supervisor
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.worker import WorkerProcess

__all__ = ["DaemonView", "Methods"]

_RUNS: Final = 20
_MOST_RUNS: Final = 1000
_LOW_SPACE: Final = 1 << 30
_FORMATS: Final = ("bson", "json")
log = structlog.get_logger()


class DaemonView(Protocol):
    """What the methods need to know of the daemon around them."""

    started: datetime
    supervisor: Supervisor

    @property
    def timezone(self) -> str:
        """Name of the zone in which schedules are meant."""
        ...

    @property
    def admin_group(self) -> str:
        """Name of the group whose members may restore and delete, or empty."""
        ...

    def settings_state(self) -> dict[str, Any]:
        """Where the application's settings come from (SettingsState of the interface)."""
        ...

    def settings_public(self) -> dict[str, Any]:
        """The settings in force, without secrets."""
        ...

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong with the daemon itself: (state, sentence), state ``warning`` or ``failing``."""
        ...

    async def reload(self) -> str:
        """Read the host file again; returns a sentence; raises ConfigError and keeps what was in force."""
        ...


class Methods:
    """The handlers, by method name."""

    def __init__(self, daemon: DaemonView, clock: Clock) -> None:
        self._daemon = daemon
        self._supervisor = daemon.supervisor
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        """Return the table for the server."""
        return {
            "GetStatus": self.get_status,
            "ListJobs": self.list_jobs,
            "Run": self.run,
            "Cancel": self.cancel,
            "Watch": self.watch,
            "ListRuns": self.list_runs,
            "DescribeRun": self.describe_run,
            "ListBackups": self.list_backups,
            "DescribeBackup": self.describe_backup,
            "Delete": self.delete,
            "Restore": self.restore,
            "Prune": self.prune,
            "GetSettings": self.get_settings,
            "TestDestination": self.test_destination,
            "Doctor": self.doctor,
            "Reload": self.reload,
            "RebuildCatalog": self.rebuild_catalog,
        }

    # Looking

    async def get_status(self, _call: Call) -> dict[str, Any]:
        """Answer GetStatus."""
        jobs = [await self._job(job) for job in self._supervisor.jobs.values()]
        free = await asyncio.to_thread(_free, self._supervisor)
        problems = [*self._daemon.problems(), *_job_problems(jobs)]
        if free is not None and free < _LOW_SPACE:
            problems.append(("warning", f"only {human_size(free)} are free in {self._supervisor.paths.backups}"))
        states = {state for state, _ in problems}
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": _time(self._daemon.started),
            "now": _time(self._clock.now()),
            "timezone": self._daemon.timezone,
            "health": "failing" if "failing" in states else "warning" if states else "ok",
            "problems": [text for _, text in problems],
            "backups_path": str(self._supervisor.paths.backups),
            "free_bytes": free or 0,
            "settings": self._daemon.settings_state(),
            "jobs": jobs,
        }

    async def list_jobs(self, _call: Call) -> dict[str, Any]:
        """Answer ListJobs."""
        return {"jobs": [await self._job(job) for job in self._supervisor.jobs.values()]}

    async def list_runs(self, call: Call) -> dict[str, Any]:
        """Answer ListRuns."""
        limit = _limit(call.params.get("limit"), _RUNS, _MOST_RUNS)
        job = call.params.get("job")
        runs = await self._supervisor.db(lambda catalog: catalog.runs(job, limit))
        return {"runs": [to_builtins(run) for run in runs]}

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
            limit = _limit(limit, 1, 1_000_000)
        found = await self._supervisor.db(lambda catalog: catalog.backups(job, limit))
        return {"backups": [to_builtins(backup) for backup in found]}

    async def describe_backup(self, call: Call) -> dict[str, Any]:
        """Answer DescribeBackup."""
        await self._supervisor.refresh()
        name = call.params["backup"]
        return {"backup": to_builtins(await self._supervisor.db(lambda catalog: _find(catalog, name)))}

    async def get_settings(self, _call: Call) -> dict[str, Any]:
        """Answer GetSettings."""
        return {"settings": self._daemon.settings_public(), "state": self._daemon.settings_state()}

    # Running

    async def run(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Run: start it, and with ``more`` stream its events until it ends."""
        name = call.params.get("job") or self._only_job()
        force, compress = bool(call.params.get("force")), call.params.get("compress")
        collection = _collection(call.params)

        async def start() -> ActiveRun:
            return await self._supervisor.start_run(
                name, Trigger.MANUAL, force=force, compress=compress, collection=collection
            )

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def restore(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Restore: with ``dry_run`` the plan, else start it, and with ``more`` stream its events."""
        self._admin(call, "restore")
        await self._supervisor.refresh()
        name = call.params["backup"]
        backup = await self._supervisor.db(lambda catalog: _find(catalog, name))
        job = self._restoring(backup)
        order = RestoreOrder(
            backup=backup.id,
            to_database=call.params.get("to_database") or "",
            collection=call.params.get("collection") or "",
            source=call.params.get("source") or "",
            safety=call.params.get("safety") is not False,
        )
        if call.params.get("dry_run"):
            yield {"plan": await self._foresee(job, order)}
            return

        async def start() -> ActiveRun:
            return await self._supervisor.start_run(
                job.name, Trigger.MANUAL, action="restore", force=True, restore=order
            )

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def _foresee(self, job: JobSpec, order: RestoreOrder) -> dict[str, Any]:
        """Let a worker work the plan out: it asks the server, and drivers are not for this process."""
        async for event in self._helper(job, "restore-plan", order):
            if event.get("kind") == "fault":
                raise msgspec.convert(event["fault"], _Fault).as_error()
            if event.get("kind") == "plan":
                return dict(event["plan"])
        raise InternalError("the helper process made no plan", hint="journalctl -u nanumpay-backupd -n 100")

    async def _followed(self, start: Callable[[], Awaitable[ActiveRun]]) -> AsyncGenerator[dict[str, Any], None]:
        """Start a run and yield its events until it ends."""
        events = self._supervisor.watch()
        first = asyncio.ensure_future(anext(events))
        try:
            # The watcher must be there before the run, or its first events are lost.
            await asyncio.sleep(0)
            active = await start()
            yield {"run": to_builtins(active.run)}
            event = await first
            while True:
                if event["run_id"] == active.run.id and event["kind"] != "run-started":
                    yield {"run": to_builtins(active.run), "event": _public(event)}
                    if event["kind"] == "run-ended":
                        return
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    raise BackupdError(
                        "the daemon stopped following this run", hint="see: backupctl runs", code="watch-ended"
                    ) from None
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]

    async def cancel(self, call: Call) -> dict[str, Any]:
        """Answer Cancel."""
        active = await self._supervisor.cancel(call.params.get("run"), f"uid {call.peer.uid}")
        return {"run": to_builtins(active.run)}

    async def watch(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Watch: events as they happen."""
        async for event in self._supervisor.watch(call.params.get("run")):
            yield {"event": _public(event)}

    # Changing

    async def delete(self, call: Call) -> dict[str, Any]:
        """Answer Delete: one backup, at one place or at all of them."""
        self._admin(call, "delete backups")
        name, place = call.params["backup"], call.params.get("destination")
        backup = await self._supervisor.db(lambda catalog: _find(catalog, name))
        places = [copy.destination for copy in backup.copies if place in (None, copy.destination)]
        if not places:
            raise NotFoundError(
                f"{backup.id} has no copy at {place!r}", hint=f"see where it is: backupctl show {backup.id}"
            )
        if not call.params.get("force"):
            await self._protect(backup)
        job = self._job_of(backup)
        lines = await self._change(job, f"delete:{backup.id}" + (f"@{place}" if place else ""))
        return {"deleted": lines}

    async def prune(self, call: Call) -> dict[str, Any]:
        """Answer Prune: what retention would delete; with ``apply`` it is deleted."""
        apply = bool(call.params.get("apply"))
        if apply:
            self._admin(call, "prune")
        await self._supervisor.refresh()
        name = call.params.get("job")
        jobs = [self._named(name)] if name else list(self._supervisor.jobs.values())
        lines: list[dict[str, Any]] = []
        for job in jobs:
            if apply:
                lines += await self._change(job, "prune")
            else:
                backups = await self._supervisor.db(lambda catalog, job=job: catalog.backups(job.name))  # type: ignore[misc]
                lines += to_builtins(plan(job, backups, self._clock.now()))
        return {"lines": lines, "applied": apply}

    async def reload(self, call: Call) -> dict[str, Any]:
        """Answer Reload."""
        self._admin(call, "reload the configuration")
        return {"message": await self._daemon.reload()}

    async def rebuild_catalog(self, call: Call) -> dict[str, Any]:
        """Answer RebuildCatalog."""
        self._admin(call, "rebuild the catalog")
        if self._supervisor.active:
            raise RefusedError("a run is in progress", hint="wait for it: backupctl status", retryable=True)
        now, layout = self._clock.now(), self._supervisor.layout
        await self._supervisor.db(lambda catalog: rebuild_local(catalog, layout, now))
        for job in self._supervisor.jobs.values():
            await self._change(job, "adopt")
        backups = await self._supervisor.db(lambda catalog: len(catalog.backups()))
        runs = await self._supervisor.db(lambda catalog: len(catalog.runs(limit=1_000_000)))
        return {"backups": backups, "runs": runs}

    # Checking

    async def doctor(self, _call: Call) -> dict[str, Any]:
        """Answer Doctor: every job's checks, each in a process of its own."""
        checks: list[dict[str, Any]] = list(self._own_checks())
        for job in self._supervisor.jobs.values():
            checks += await self._checks(job, "doctor")
        return {"checks": _distinct(checks)}

    async def test_destination(self, call: Call) -> dict[str, Any]:
        """Answer TestDestination."""
        name = call.params["destination"]
        wanted = call.params.get("job")
        for job in self._supervisor.jobs.values():
            if wanted in (None, job.name) and any(item.name == name for item in job.destinations):
                return {"checks": await self._checks(job, f"doctor:{name}")}
        known = sorted({item.name for job in self._supervisor.jobs.values() for item in job.destinations})
        raise NotFoundError(
            f"no job has a destination {name!r}", hint=f"the destinations are: {', '.join(known) or 'none yet'}"
        )

    def _own_checks(self) -> list[dict[str, Any]]:
        state = self._daemon.settings_state()
        problem = state.get("problem")
        if problem:
            return [_check("settings", "failed", problem["message"], problem["hint"])]
        how = {
            "change-stream": "watched by a change stream: saved settings are in force at once",
            "polling": "polled: a standalone server has no change streams (docs/install.md: one-node replica set)",
            "off": "the application's settings are switched off in backupd.toml",
        }.get(state["mode"], "MongoDB has not been reached yet")
        good = state["connected"] or state["mode"] == "off"
        return [_check("settings", "ok" if good else "failed", how, "" if good else "is mongod running?")]

    async def _checks(self, job: JobSpec, action: str) -> list[dict[str, Any]]:
        return [event["check"] async for event in self._helper(job, action) if event.get("kind") == "check"]

    async def _change(self, job: JobSpec, action: str) -> list[dict[str, Any]]:
        """Let a worker delete: it may talk to slow servers, and it takes the job's lock."""
        lines: list[dict[str, Any]] = []
        async for event in self._helper(job, action):
            if event.get("kind") == "fault":
                raise msgspec.convert(event["fault"], _Fault).as_error()
            if event.get("kind") == "lines":
                lines += event["lines"]
        return lines

    async def _helper(
        self, job: JobSpec, action: str, restore: RestoreOrder | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        spec = RunSpec(
            run="none",
            job=job,
            paths=self._supervisor.paths,
            trigger=Trigger.MANUAL.value,
            action=action,
            restore=restore,
        )
        process = await WorkerProcess.start(spec)
        try:
            async for event in process.events():
                yield event
            code = await process.wait()
            if code < 0:
                raise BackupdError(f"the helper process for {action} was killed", code="interrupted", retryable=True)
            if code > 0:
                log.error("\n".join(["the helper said:", *process.errors]), job=job.name, code="internal")
                raise InternalError(
                    f"the helper process for {action} failed because of a defect",
                    hint="the journal has the details: journalctl -u nanumpay-backupd -n 100; please report them",
                )
        finally:
            process.kill()

    # Helpers

    def _admin(self, call: Call, what: str) -> None:
        if not may_administer(call.peer, self._daemon.admin_group):
            raise RefusedError(
                f"you may not {what}: that is for root, the service's user and the admin group",
                hint="use sudo, or set [control] admin_group in backupd.toml",
                code="not-allowed",
            )

    def _only_job(self) -> str:
        names = list(self._supervisor.jobs)
        if len(names) == 1 or "nanumpay" in names:
            return "nanumpay" if "nanumpay" in names else names[0]
        if not names:
            raise NotFoundError("there is no job yet", hint="see: backupctl status")
        raise RefusedError("there are several jobs", hint=f"name one: {', '.join(names)}")

    def _named(self, name: str) -> JobSpec:
        job = self._supervisor.jobs.get(name)
        if job is None:
            raise NotFoundError(f"there is no job {name!r}", hint=f"the jobs are: {', '.join(self._supervisor.jobs)}")
        return job

    def _job_of(self, backup: Backup) -> JobSpec:
        """Return the job of a backup; one that is no longer configured can still be deleted locally."""
        job = self._supervisor.jobs.get(backup.job)
        if job is not None:
            return job
        some = next(iter(self._supervisor.jobs.values()), None)
        if some is None:
            raise NotFoundError(f"job {backup.job} is not configured any more", hint="delete the file by hand")
        return msgspec.structs.replace(some, name=backup.job, destinations=())

    def _restoring(self, backup: Backup) -> JobSpec:
        """Return the job whose server a backup goes back to; that of a safety backup is the job it was made for."""
        for name in (backup.job, backup.job.removesuffix(SAFETY_SUFFIX)):
            if name in self._supervisor.jobs:
                return self._supervisor.jobs[name]
        raise NotFoundError(
            f"job {backup.job} of {backup.id} is not configured (any more), so its server is not known",
            hint="configure it again, or restore by hand: backupctl show shows the commands",
        )

    async def _protect(self, backup: Backup) -> None:
        """Refuse to delete the newest verified full of a job."""
        backups = await self._supervisor.db(lambda catalog: catalog.backups(backup.job, kinds=FULLS))
        newest = next((item for item in backups if item.state is BackupState.VERIFIED and _present(item)), None)
        if newest is not None and newest.id == backup.id:
            raise RefusedError(
                f"{backup.id} is the newest verified backup of job {backup.job}",
                hint="make a newer one first (backupctl run), or insist with --force",
                code="newest-verified",
            )

    async def _job(self, job: JobSpec) -> dict[str, Any]:
        """Describe one job as the interface's type Job."""
        active = self._supervisor.active.get(job.name)
        due = self._supervisor.plans.get(job.name)
        facts = await self._supervisor.db(lambda catalog: _job_facts(catalog, job.name))
        source = job.source
        return {
            "name": job.name,
            "enabled": job.enabled,
            "source": f"mongodb database {source.database}" if source.database else "mongodb, all databases",
            "schedule": list(job.schedule.cron) if job.schedule else [],
            "timezone": (job.schedule.timezone if job.schedule else "") or self._daemon.timezone,
            "next_run": _time(due) if due else None,
            "running": active.run.id if active else None,
            "destinations": [destination.name for destination in job.destinations],
            "retention_count": job.retention.count,
            "retention_days": job.retention.days,
            "warnings": list(job.warnings),
            **facts,
        }


class _Fault(msgspec.Struct, frozen=True):
    """A fault as a worker's event carries it."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False

    def as_error(self) -> BackupdError:
        kinds: dict[str, type[BackupdError]] = {"not-found": NotFoundError, "refused": RefusedError, "busy": BusyError}
        kinds["copy-unusable"] = RefusedError
        kind = kinds.get(self.code, BackupdError)
        return kind(self.message, hint=self.hint, code=self.code, retryable=self.retryable)


def _job_facts(catalog: Catalog, name: str) -> dict[str, Any]:
    ended = (Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED)
    # A retry of uploads says nothing of how the last backup went; queued copies are told by themselves.
    last = catalog.last_run(name, "backup", *ended)
    success = catalog.last_run(name, "backup", Outcome.SUCCEEDED)
    newest = next(iter(catalog.backups(name, limit=1, kinds=FULLS)), None)
    count, size, pending = catalog.totals(name)
    return {
        "last_run": to_builtins(last),
        "last_success": to_builtins(success),
        "newest_backup": to_builtins(newest),
        "backups": count,
        "total_size": size,
        "pending_uploads": pending,
    }


def _job_problems(jobs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say what is wrong with the jobs: (state, sentence)."""
    problems = []
    for job in jobs:
        name, last = job["name"], job["last_run"]
        problems += [("warning", f"job {name}: {text}") for text in job["warnings"]]
        if last and last["outcome"] in ("failed", "interrupted"):
            error = last["error"] or {}
            text = f"job {name}: the last run {last['outcome']}: {error.get('message', 'no reason recorded')}"
            problems.append(("failing", f"{text} → {error['hint']}" if error.get("hint") else text))
        if job["pending_uploads"]:
            count = job["pending_uploads"]
            problems.append(
                ("warning", f"job {name}: {count} upload{'s wait' if count > 1 else ' waits'} (backupctl list)")
            )
        if not job["enabled"]:
            problems.append(("warning", f"job {name} is disabled: no backups are made by schedule"))
        elif job["schedule"] and job["newest_backup"] is None and not last:
            problems.append(("warning", f"job {name}: there is no backup yet (make one now: backupctl run {name})"))
    return problems


def _collection(params: Mapping[str, Any]) -> CollectionOrder | None:
    """Return which collection a caller of Run asked for; raises RefusedError when that makes no sense."""
    name, form = params.get("collection"), params.get("format")
    if name is None and form is None:
        return None
    if not name:
        raise RefusedError("format is for a snapshot of one collection", hint="name a collection, or leave it out")
    if form not in (None, *_FORMATS):
        raise RefusedError(f"there is no format {form!r}", hint=f"the formats are: {', '.join(_FORMATS)}")
    return CollectionOrder(collection=name, format=form or _FORMATS[0])


def _find(catalog: Catalog, name: str) -> Backup:
    if name == "latest":
        # What a restore saved before it replaced everything is hardly what is meant.
        own = (item for item in catalog.backups(kinds=FULLS) if not item.job.endswith(SAFETY_SUFFIX))
        newest = next((item for item in own if _present(item)), None)
        name = newest.id if newest is not None else name
    backup = catalog.backup(name) or catalog.backup(name.removesuffix(".gz").removesuffix(".tar"))
    if backup is None:
        raise NotFoundError(f"there is no backup {name!r}", hint="see: backupctl list")
    return backup


def _present(backup: Backup) -> bool:
    return any(copy.state in (CopyState.UPLOADED, CopyState.VERIFIED) for copy in backup.copies)


def _public(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "run_id" and value is not None}


def _check(name: str, state: str, message: str, hint: str) -> dict[str, Any]:
    return {"name": name, "state": state, "message": message, "hint": hint}


def _distinct(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop findings that several jobs share (folder, clock)."""
    return list({(check["name"], check["message"]): check for check in checks}.values())


def _limit(value: Any, default: int, most: int) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise RefusedError(f"limit is {value}, it must be from 1 to {most}", hint="leave it out for the default")
    return int(value)


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _free(supervisor: Supervisor) -> int | None:
    try:
        return free_bytes(supervisor.paths.backups)
    except OSError:
        return None
