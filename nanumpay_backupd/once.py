"""Commands of `nanumpay-backupd` that need no daemon: run-once, check-config, rebuild. No work of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    BackupdError,
    ConfigError,
    LimitError,
    NotFoundError,
    NotifyError,
    RefusedError,
    worst_exit,
)
from nanumpay_backupd.model import ErrorInfo, Kind, Outcome, Run, StageRecord, Trigger
from nanumpay_backupd.pipeline.groups import Part, concluded_run, fault_of, worst_of
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import recall_pins
from nanumpay_backupd.pipeline.rebuild import adopt_remote, rebuild_local
from nanumpay_backupd.pipeline.report import Progress, Recorder, Reporter, new_run
from nanumpay_backupd.settings.cache import SettingsCache
from nanumpay_backupd.settings.grouping import build_groups
from nanumpay_backupd.settings.hostfile import load_host_file
from nanumpay_backupd.settings.merge import build_jobs, encryption_in_words
from nanumpay_backupd.settings.schema import (
    APPLICATION_JOB,
    AppSettings,
    HostConfig,
    JobSpec,
    RetryPolicy,
    RunSpec,
    SourceKind,
)
from nanumpay_backupd.settings.selection import jobs_of, members_of, must_hold, only_places
from nanumpay_backupd.settings.sources import MongoSource
from nanumpay_backupd.settings.watch import SettingsUpdate, SettingsWatch
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.files import make_private_dir
from nanumpay_backupd.system.journal import configure
from nanumpay_backupd.system.secrets import credentials_unread, stands_in
from nanumpay_backupd.system.tasks import end_tasks
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.worker import EXIT_CODES, execute

__all__ = [
    "Lines",
    "check_config",
    "conclude",
    "find_job",
    "perform",
    "read_settings",
    "rebuild_catalog",
    "run_once",
]

_PATIENCE = 15.0


def run_once(
    config: Path | None,
    name: str | None,
    *,
    force: bool,
    kind: str = Kind.FULL.value,
    only_to: Sequence[str] | None = None,
    holds: str | None = None,
) -> int:
    """Make one backup of a job in this process, failed uploads tried again within the run; returns the exit code.

    ``kind`` is full, incremental or differential; ``only_to`` names the destinations that get it, as people write them.
    Without ``name`` it is the application's job, or, where ``holds`` says database or files, every job that saves such.
    """
    configure("warning")
    host = load_host_file(config)
    if only_to is not None and kind != Kind.FULL:
        raise RefusedError("a slice of changes goes to every destination", hint="leave out --only-to")
    if holds is not None and name is None:
        return _run_several(host, SourceKind(holds), force=force, kind=kind, only_to=only_to)
    if any(group.name == name for group in host.groups):
        kind_of = None if holds is None else SourceKind(holds)
        return _run_group(host, name or "", kind_of, force=force, whole=kind == Kind.FULL and only_to is None)
    job = find_job(host, name or APPLICATION_JOB)
    if holds is not None:
        must_hold(job, SourceKind(holds))
    return _run_one(host, job, force=force, kind=kind, only_to=only_to)


def _run_one(host: HostConfig, job: JobSpec, *, force: bool, kind: str, only_to: Sequence[str] | None) -> int:
    if job.shared and not force:
        raise RefusedError(
            f"job {job.name} is made by one host of the fleet at a time: their daemons see to that, this cannot",
            hint="backupctl run, on the host that holds the lease; with --force another host may make it meanwhile",
            code="not-holder",
            retryable=True,
        )
    if not job.enabled and not force:
        raise RefusedError(f"job {job.name} is disabled", hint="enable it in its settings, or use --force")
    words = None if only_to is None else [one.strip() for word in only_to for one in word.split(",") if one.strip()]
    places = None if words is None else only_places(job, words)
    sys.stdout.write(f"job {job.name}, {host.origin or 'no host file'}: backups in {host.paths.backups}\n")
    run = perform(host, job, Lines(sys.stdout), retry=host.retry, kind=kind, only_to=places)
    conclude(run)
    return EXIT_CODES[run.outcome or Outcome.FAILED]


def _run_group(host: HostConfig, name: str, holds: SourceKind | None, *, force: bool, whole: bool) -> int:
    """Run the jobs of a group one after the other, and put on record what belongs together."""
    if not whole:
        raise RefusedError(
            f"{name} is a group: of that, whole backups are made as its jobs have it",
            hint="leave out --kind and --only-to, or run one of its jobs",
        )
    of_application = any(group.name == name and APPLICATION_JOB in group.jobs for group in host.groups)
    jobs = build_jobs(host, _application(host) if of_application else None)
    group = next(group for group in build_groups(host, jobs) if group.name == name)
    if not group.enabled and not force:
        raise RefusedError(f"group {name} is disabled", hint="enable it in its settings, or use --force")
    members = [job for job in members_of(group, {job.name: job for job in jobs}, holds) if job.enabled or force]
    if not members:
        raise RefusedError(f"every job of group {name} that is meant is disabled", hint="enable one, or use --force")
    clock = SystemClock()
    run = new_run(_run_id(clock), name, Trigger.MANUAL, clock.now(), "group")
    _make_state(host.paths.state)
    with Catalog(host.paths.state / "catalog.db") as catalog:
        catalog.save_run(run)
        runs: list[Run] = []
        for job in members:
            sys.stdout.write(f"job {job.name} of group {name}: backups in {host.paths.backups}\n")
            runs.append(perform(host, job, Lines(sys.stdout), retry=host.retry, group=run.id))
            conclude(runs[-1])
            run = msgspec.structs.replace(run, members=(*run.members, runs[-1].id))
            catalog.save_run(run)
            if runs[-1].outcome is Outcome.CANCELLED:
                break
        parts = [
            Part(job, one.outcome or Outcome.FAILED, one, one.error) for job, one in zip(members, runs, strict=False)
        ]
        layout, now = Layout(host.paths.backups), clock.now()
        if holds is None:
            run = concluded_run(run, parts, catalog, layout, now, open_store)
        else:
            outcome = worst_of(part.outcome for part in parts)
            run = msgspec.structs.replace(run, ended=now, outcome=outcome, error=fault_of(parts))
            catalog.save_run(run)
    conclude(run)
    return EXIT_CODES[run.outcome or Outcome.FAILED]


def _run_id(clock: SystemClock) -> str:
    return f"{clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _run_several(host: HostConfig, holds: SourceKind, *, force: bool, kind: str, only_to: Sequence[str] | None) -> int:
    """Run the jobs of one kind one after the other; what keeps one from running does not keep the others."""
    app = _application(host) if host.nanumpay.enabled else None
    jobs = {job.name: job for job in build_jobs(host, app)}
    codes = []
    for job in jobs_of(jobs, holds, disabled=force):
        try:
            codes.append(_run_one(host, job, force=force, kind=kind, only_to=only_to))
        except BackupdError as error:
            codes.append(error.exit_code)
            hint = f"  → {error.hint}\n" if error.hint else ""
            sys.stderr.write(f"nanumpay-backupd: job {job.name}: {error.message}\n{hint}  (code {error.code})\n")
        if codes[-1] == EXIT_INTERRUPTED:
            break
    return worst_exit(codes)


def find_job(host: HostConfig, name: str) -> JobSpec:
    """Return a job as its settings are now; for the application's, MongoDB is asked. Raises NotFoundError."""
    app = _application(host) if name == APPLICATION_JOB and host.nanumpay.enabled else None
    jobs = {job.name: job for job in build_jobs(host, app)}
    if name not in jobs:
        raise NotFoundError(f"there is no job {name!r}", hint=f"the jobs are: {', '.join(jobs) or 'none'}")
    return jobs[name]


def _application(host: HostConfig) -> AppSettings:
    """Return the application's settings as they are now; raises BackupdError when there are none."""
    update = asyncio.run(read_settings(host))
    if update.app is None:
        problem = update.problem or ErrorInfo(code="settings-missing", message="there are no settings yet")
        raise BackupdError(problem.message, hint=problem.hint, code=problem.code, retryable=problem.retryable)
    return update.app


async def read_settings(host: HostConfig) -> SettingsUpdate:
    """Read the application's settings once: from the database, or the last good ones when it cannot be reached."""
    first: asyncio.Future[SettingsUpdate] = asyncio.get_running_loop().create_future()

    async def take(update: SettingsUpdate) -> None:
        if not first.done() and (update.connected or update.problem is not None):
            first.set_result(update)

    watch = SettingsWatch(
        host.mongodb.uri,
        host.mongodb.database,
        poll_interval=host.mongodb.poll_interval,
        connect_timeout=host.mongodb.connect_timeout,
        on_change=take,
        cache=SettingsCache(host.paths.state / "settings.json"),
    )
    task = asyncio.create_task(watch.run())
    try:
        return await asyncio.wait_for(first, host.mongodb.connect_timeout + _PATIENCE)
    except TimeoutError:
        raise BackupdError(
            "the settings could not be read from MongoDB in time",
            hint="check that mongod runs and that MONGODB_URI names it",
            code="settings-unreachable",
            retryable=True,
        ) from None
    finally:
        await end_tasks([task])


def perform(
    host: HostConfig,
    job: JobSpec,
    reporter: Reporter,
    *,
    retry: RetryPolicy | None,
    kind: str = Kind.FULL.value,
    only_to: tuple[str, ...] | None = None,
    group: str = "",
) -> Run:
    """Do one run of a job in this process, ``group``: as part of that run; SIGTERM and SIGINT cancel it cleanly."""
    clock = SystemClock()
    run_id = _run_id(clock)
    action = "backup" if kind == Kind.FULL else "slice"
    spec = RunSpec(
        run=run_id,
        job=job,
        paths=host.paths,
        trigger=(Trigger.GROUP if group else Trigger.MANUAL).value,
        action=action,
        kind=kind,
        only_to=only_to,
        group=group,
    )
    _make_state(host.paths.state)

    def on_start(recorder: Recorder) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: recorder.cancel())

    return execute(spec, reporter, clock, retry=retry, on_start=on_start, on_hang=_leave)


def _leave(fault: LimitError) -> None:
    """End this process, because its run passed a limit and cannot be ended in any other way."""
    sys.stderr.write(f"nanumpay-backupd: run failed: {fault.message}\n  → {fault.hint}\n")
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def check_config(config: Path | None) -> int:
    """Read the host file and say what it means; raises ConfigError when it, or an address in it, is refused."""
    with credentials_unread() as unread:
        host = load_host_file(config)
        told = _channels(host)
    sys.stdout.write(f"{host.origin or 'no host file: the defaults'}: ok\n")
    if unread:
        names = ", ".join(dict.fromkeys(unread))
        sys.stdout.write(f"  not checked, as only the service has them: the credentials {names}\n")
    sys.stdout.write(f"  backups in {host.paths.backups}, state in {host.paths.state}\n")
    sys.stdout.write(f"  control socket {host.paths.socket}\n")
    for job in build_jobs(host, None):
        places = ", ".join(destination.name for destination in job.destinations) or "none"
        due = "schedule from the application's settings"
        if job.schedule:
            due = f"schedule {' | '.join(job.schedule.cron)}"
            if not isinstance(job.source, MongoSource):
                due = f"{job.source.described}; {due}"
        beat = "; a heartbeat" if job.heartbeat else ""
        sys.stdout.write(f"  job {job.name}: {due}; further destinations: {places}{beat}\n")
        if job.encryption.on:
            sys.stdout.write(f"    encryption: {encryption_in_words(job.encryption)}\n")
        for warning in job.warnings:
            sys.stdout.write(f"    warning: {warning}\n")
    for group in build_groups(host, build_jobs(host, None)):
        due = " | ".join(group.schedule.cron) if group.schedule else _group_due(group.jobs)
        sys.stdout.write(f"  group {group.name}: schedule {due}; jobs: {', '.join(group.jobs)}\n")
        for note in group.notes:
            sys.stdout.write(f"    note: {note}\n")
    for line in told:
        sys.stdout.write(f"  {line}\n")
    return EXIT_OK


def _group_due(jobs: Sequence[str]) -> str:
    return "from the application's settings" if APPLICATION_JOB in jobs else "only when asked"


def _channels(host: HostConfig) -> list[str]:
    """Say who is told of what; raises ConfigError for an address that apprise does not understand."""
    if not host.notify.enabled:
        return ["notifications are switched off"]
    lines = ["everything is recorded in the application's database"] if host.notify.database else []
    if host.channels:
        from nanumpay_backupd.notifiers.services import check_address
    for channel in host.channels:
        try:
            service = "not checked" if stands_in(channel.address) else check_address(channel.address, channel.name)
        except NotifyError as error:
            raise ConfigError(f"{host.origin}: {error.message}", hint=error.hint) from None
        severe = {"info": "everything", "none": ""}.get(channel.severity, f"{channel.severity} and worse")
        about = ", ".join(filter(None, [severe, *channel.events]))
        jobs = f" of {', '.join(channel.jobs)}" if channel.jobs else ""
        lines.append(f"channel {channel.name}: {service}; is told {about}{jobs}")
    return lines or ["nobody is told: there is no [channel.NAME]"]


def rebuild_catalog(config: Path | None) -> int:
    """Read the catalog anew from the manifests; for a machine whose state folder was lost."""
    host = load_host_file(config)
    _make_state(host.paths.state)
    with Catalog(host.paths.state / "catalog.db") as catalog:
        now = SystemClock().now()
        count = rebuild_local(catalog, Layout(host.paths.backups), now)
        sys.stdout.write(f"{count} backups found in {host.paths.backups}\n")
        faults: list[BackupdError] = []
        for job in build_jobs(host, _cached_settings(host)):
            found, failed = adopt_remote(job, catalog, now, open_store, Layout(host.paths.backups))
            faults += failed
            if job.destinations:
                sys.stdout.write(f"{found} copies of job {job.name} found at its destinations\n")
        recall_pins(catalog, Layout(host.paths.backups))
    if faults:
        raise faults[0]
    return EXIT_OK


def _cached_settings(host: HostConfig) -> AppSettings | None:
    """Return the last good application settings, because rebuilding must work without MongoDB."""
    cached = SettingsCache(host.paths.state / "settings.json").load()
    return cached.app if cached is not None else None


def _make_state(state: Path) -> None:
    try:
        make_private_dir(state)
    except OSError as error:
        raise ConfigError(
            f"the state folder {state} cannot be created: {os.strerror(error.errno or 0)}",
            hint="create it and give it to this user, or set [paths] state in backupd.toml",
        ) from None


def conclude(run: Run) -> None:
    """Say how a run ended."""
    if run.error is not None:
        sys.stderr.write(f"nanumpay-backupd: run {run.outcome}: {run.error.message}\n")
        if run.error.hint:
            sys.stderr.write(f"  → {run.error.hint}\n")
    else:
        made = run.backup or ("there was nothing new to save" if run.action == "slice" else run.action)
        sys.stdout.write(f"run {run.id} {run.outcome}: {made}\n")


class Lines:
    """Writes one plain line per stage: for cron mails and container logs."""

    def __init__(self, stream: IO[str]) -> None:
        self._write: Callable[[str], object] = stream.write

    def stage(self, record: StageRecord) -> None:
        """Write a line when a stage has ended."""
        if record.ended is not None:
            seconds = (record.ended - record.started).total_seconds()
            self._write(f"{record.stage:<10} {record.outcome} in {seconds:.1f} s  {record.detail}\n")

    def progress(self, progress: Progress) -> None:
        """Nothing: a log wants no progress."""

    def message(
        self,
        level: str,
        text: str,
        error: ErrorInfo | None = None,
        message: object = None,  # noqa: ARG002 - for the journal
    ) -> None:
        """Write what is worth a line."""
        self._write(f"{'' if level == 'info' else level + ': '}{text}\n")
        if error is not None and error.hint:
            self._write(f"  → {error.hint}\n")

    def committed(self, artifact: str, size: int) -> None:
        """Write that the backup exists."""
        self._write(f"committed  {artifact} ({human_size(size)})\n")
