"""The runs of all jobs: one of a lane at a time, and what follows from the end of each. What is due is in `agenda`.

Starts worker processes and follows them; does no backup work itself, speaks no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from nanumpay_backupd import __version__
from nanumpay_backupd.active import ActiveGroup, ActiveRun
from nanumpay_backupd.agenda import ACTIONS, LONGEST_SLEEP, Agenda
from nanumpay_backupd.broadcast import Broadcast
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    EXIT_OK,
    BackupdError,
    BusyError,
    CancelledError,
    LeaseError,
    LimitError,
    NotFoundError,
    RefusedError,
)
from nanumpay_backupd.fleet.keeper import Keeper
from nanumpay_backupd.fleet.tasks import TaskRecord, replan
from nanumpay_backupd.groups import Groups
from nanumpay_backupd.messages import Message, message_of
from nanumpay_backupd.model import ErrorInfo, Outcome, Run, StageRecord, Trigger, error_info, to_builtins
from nanumpay_backupd.pipeline.ageing import counted_from
from nanumpay_backupd.pipeline.backup import interrupt, recover, tidy, unfinished
from nanumpay_backupd.pipeline.healing import DAMAGED, made_anew, notice_loss
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.layout import Layout, lane
from nanumpay_backupd.pipeline.report import new_run
from nanumpay_backupd.pipeline.succession import follow_on
from nanumpay_backupd.pipeline.upload import queue_again
from nanumpay_backupd.plans import Planned, Plans, Task, plan_name
from nanumpay_backupd.repairs import Cause, Repairs, cause_of
from nanumpay_backupd.retries import Retries
from nanumpay_backupd.settings.fleeting import fingerprint
from nanumpay_backupd.settings.schema import (
    CollectionOrder,
    CopyOrder,
    FenceTicket,
    GroupSpec,
    JobSpec,
    Paths,
    RestoreOrder,
    RunSpec,
    VerifyOrder,
)
from nanumpay_backupd.settings.selection import only_places
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.units import human_span
from nanumpay_backupd.worker import WorkerProcess

__all__ = ["ActiveRun", "Supervisor"]

T = TypeVar("T")
_INVENTORY_INTERVAL: Final = 60.0
_IDLE: Final = 100.0
"""How many times as long as a look at the folder takes is waited until the next."""
MENDED_HINT: Final = "have the copies at the destinations read at once as well, and end this warning: backupctl rebuild"
LEARNT_HINT: Final = "no backup is lost; the copies elsewhere are learnt from their places"
_AFTER_FAULT: Final = 5.0
_CANCEL_PATIENCE: Final = 30.0
"""Seconds that a cancelled run has to end by itself (it may wait for a server that is silent)."""
_GRACE: Final = 10.0
"""Seconds beyond the time for which nothing may move until a run that gives no sign of life is taken for dead."""
_TASKS: Final = {"backup": Task.BACKUP, "verify": Task.VERIFY, "drill": Task.DRILL}
_STOP: Final = "the daemon's stop"
_FENCED: Final = frozenset({"backup", "slice", "upload", "copy"})
"""What only the holder of the fleet's lease does; to read and prove what is there, and to restore, takes none."""
_BY_ITSELF: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCH_UP, Trigger.AGAIN})
_LEARNING: Final = 120.0
"""Seconds for which a new holder waits at most until it knows what lies at the destinations."""
_LEASE_LOST: Final = LeaseError(
    "this host no longer holds the fleet's lease: the run was ended",
    hint="whoever holds it makes up for the run; see: backupctl fleet, and whether this host reaches MongoDB",
)
_DONE: Final = frozenset({Outcome.SUCCEEDED, Outcome.DEGRADED})
log = structlog.get_logger()


class Supervisor:
    """Keeps the jobs: what is due when, what is running, what happened. All methods belong to the event loop."""

    def __init__(self, paths: Paths, clock: Clock) -> None:
        self.paths = paths
        self.layout = Layout(paths.backups)
        self.active: dict[str, ActiveRun] = {}
        self.plans = Plans(clock, self.db)
        self.events = Broadcast(clock)
        self.jobs: dict[str, JobSpec] = {}
        self.stopping = False
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._catalog: Catalog | None = None
        self.mended = ""
        """Says that the catalog was damaged and made anew, until it is read from all places."""
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen = 0.0
        self._looked = float("-inf")
        self._repairs = Repairs()
        self.retries = Retries(self.db)
        self.agenda = Agenda(clock, self.plans, self.retries, self._repairs, self)
        self._told: dict[str, str] = {}
        self.groups = Groups(self, clock)
        self.fleet: Keeper | None = None
        self._settling = 0
        self.on_change: Callable[[], None] = lambda: None

    # Catalog: blocking calls happen in one thread of their own, so that a slow disk never stops the event loop

    async def db(self, work: Callable[[Catalog], T]) -> T:
        """Do ``work`` with the catalog in its own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._with_catalog, work)

    @property
    def _file(self) -> Path:
        return self.paths.state / "catalog.db"

    def _with_catalog(self, work: Callable[[Catalog], T]) -> T:
        if self._catalog is None:
            self._catalog = Catalog(self._file)
        return work(self._catalog)

    # Life

    async def recover(self) -> None:
        """Clean up after an earlier daemon that died: interrupted runs, staging folders, half commits."""
        now = self._clock.now()
        try:
            if await asyncio.get_running_loop().run_in_executor(self._pool, notice_loss, self._file, self.layout):
                log.error("the catalog is gone: it is made anew from the manifests", code=DAMAGED, hint=LEARNT_HINT)
            await self.db(Catalog.check)
        except BackupdError as error:
            await self._mend(error)
        try:
            await self.db(lambda catalog: counted_from(catalog, self._clock))
            ended = await self.db(lambda catalog: recover(catalog, self.layout, now))
        except BackupdError as error:
            log.error(error.message, code=error.code, hint=error.hint)
            return
        for run in ended:
            what = "run" if run.action == "backup" else run.action
            text = f"a {what} was cut off by the end of its process"
            log.warning(text, message=Message.RUN_INTERRUPTED, run=run.id, job=run.job, code="interrupted")
            # Only the scheduled run itself: a catch-up that brought the daemon down is not tried for ever.
            if run.trigger is Trigger.SCHEDULE:
                await self.plans.again(run)

    async def _mend(self, fault: BackupdError) -> None:
        """Make a damaged catalog anew. Nobody has it open but a run without us, whose backup is found later."""
        if fault.code != DAMAGED:
            return
        now = self._clock.now()
        try:
            self.mended = await asyncio.get_running_loop().run_in_executor(self._pool, self._make_anew, now)
        except BackupdError as error:
            log.error(error.message, code=error.code, hint=error.hint)
        else:
            log.error(f"{fault.message}; {self.mended}", code=fault.code, hint=MENDED_HINT)

    def _make_anew(self, now: datetime) -> str:
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
        self._catalog, aside, count = made_anew(self._file, self.layout, now)
        return f"it was made anew from the manifests here ({count} backups); the old one is {aside}"

    def settled(self) -> None:
        """Tell that the sources can be reached: catch-up need not wait any longer."""
        self.plans.settled()
        self._wake.set()

    def wake(self) -> None:
        """Look at once whether something is due: copies were queued."""
        self._wake.set()

    async def run(self) -> None:
        """Start what is due, until cancelled."""
        inventory = asyncio.create_task(self._inventory())
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self._step()
                except BackupdError as error:
                    # The catalog's disk is full or its file locked: that may mend itself, and plans are in memory too.
                    log.error(error.message, code=error.code, hint=error.hint)
                    pause = _AFTER_FAULT
                    if not self.active:
                        await self._mend(error)
                # Not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            inventory.cancel()

    async def stop(self, budget: float) -> None:
        """Let running runs finish within ``budget`` seconds, then cancel them, then end them by force; then `close`."""
        self.stopping = True
        self._wake.set()
        active = list(self.active.values())
        if active:
            await self._end(active, budget)
        self.events.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    async def _end(self, active: list[ActiveRun], budget: float) -> None:
        """Let runs finish, cancel them or end them by force; a scheduled one that made no backup is due again."""
        waits = [asyncio.create_task(item.ended.wait()) for item in active]
        _, pending = await asyncio.wait(waits, timeout=max(budget - 20.0, budget / 2))
        if not pending:
            return
        for item in active:
            item.cancel(_STOP)
        _, pending = await asyncio.wait(pending, timeout=min(15.0, budget / 3))
        if pending:
            for item in active:
                item.kill()
            await asyncio.wait(pending, timeout=5.0)
        for item in active:
            if item.run.trigger in {Trigger.SCHEDULE, Trigger.CATCH_UP, Trigger.AGAIN}:
                await self.plans.again(item.run)

    async def close(self) -> None:
        """Close the catalog, after everything that might ask it has ended."""
        if self._catalog is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._catalog.close)
        self._pool.shutdown(wait=False)

    # Jobs and plans

    async def apply(self, jobs: Iterable[JobSpec], groups: Iterable[GroupSpec] = ()) -> None:
        """Replace the jobs and the groups: plans are made anew, running runs keep the settings they began with."""
        before, self.jobs = self.jobs, {job.name: job for job in jobs}
        groups = list(groups)
        for name in before.keys() - self.jobs.keys() - {group.name for group in groups}:
            await self.plans.forget(name)
            await self.retries.forget(name)
        for name, job in list(self.jobs.items()):
            await self.plans.apply(job, before.get(name))
            await self.retries.apply(job)
            await self._requeue(job, before.get(name))
        await self.groups.apply(groups)
        self._publish("plan")
        self._wake.set()

    async def _requeue(self, job: JobSpec, before: JobSpec | None) -> None:
        """Uploads that were given up get another chance when their destination's settings changed."""
        if before is None:
            return
        old = {destination.name: destination for destination in before.destinations}
        now = self._clock.now()
        for destination in job.destinations:
            if old.get(destination.name) != destination:
                name = destination.name
                try:
                    await self.db(lambda catalog, name=name: queue_again(catalog, job.name, name, now))  # type: ignore[misc]
                except BackupdError as error:
                    log.error(error.message, job=job.name, code=error.code, hint=error.hint)

    async def _step(self) -> float:
        """Begin what is due now; returns how many seconds may pass until the next look."""
        return LONGEST_SLEEP if self.stopping else await self.agenda.step()

    @property
    def running(self) -> Mapping[str, ActiveRun]:
        """Return the active runs by their lane."""
        return self.active

    @property
    def specs(self) -> Mapping[str, GroupSpec]:
        """Return the groups by their name."""
        return self.groups.specs

    async def begin(self, name: str, trigger: Trigger, **order: Any) -> None:
        """Begin a run as `start_run`, or that of a group."""
        if order.get("action") == "group":
            await self.groups.make(name, trigger)
        else:
            await self.start_run(name, trigger, **order)

    # The fleet: what only the host that holds its lease may begin

    def may_begin(self, name: str) -> bool:
        """Tell whether runs of a job or group begin on this host by themselves. Of a group, one job is enough."""
        if self.fleet is None or self.fleet.acting:
            return True
        group = self.specs.get(name)
        names = group.jobs if group is not None else (name,)
        return any(not self.jobs[job].shared for job in names if job in self.jobs)

    def _fence(self, job: JobSpec, action: str) -> FenceTicket | None:
        """Return what a run goes on under; raises RefusedError where another host makes it."""
        if self.fleet is None or not job.shared or action not in _FENCED:
            return None
        self.fleet.require(f"what job {job.name} saves")
        return self.fleet.ticket()

    def lease_for(self, job: JobSpec) -> FenceTicket | None:
        """Return what copies of a job are deleted under; raises RefusedError where they are another host's."""
        return self._fence(job, "backup")

    async def claim(self, job: Planned, task: Task, action: str, due: datetime) -> bool | None:
        """Take up a due time; False: another host has done that, None: it cannot be said just now."""
        if self.fleet is None or not self._is_shared(job) or not self.fleet.acting:
            return True
        name = plan_name(job.name, task)
        claimed = await self.fleet.claim(name, due)
        if claimed:
            self.fleet.begun(job.name, action, name, due)
        return claimed

    async def unclaim(self, name: str, action: str) -> None:
        """Hear that what was claimed could not be begun."""
        if self.fleet is not None:
            await self.fleet.ended(name, action, "", Outcome.SKIPPED)

    def _is_shared(self, job: Planned) -> bool:
        names = job.jobs if isinstance(job, GroupSpec) else (job.name,)
        return any(self.jobs[name].shared for name in names if name in self.jobs)

    async def _tell_fleet(self, active: ActiveRun) -> None:
        """Note what became of what was due, and keep the record for all hosts to see."""
        if self.fleet is None:
            return
        run = active.run
        if run.trigger in _BY_ITSELF:
            code = run.error.code if run.error is not None else ""
            if code == "lease-lost" or active.cancelled_by == _STOP:
                self.fleet.dropped(run.job, run.action)
            elif self.retries.get(run.job, run.action) is None:
                await self.fleet.ended(run.job, run.action, run.id, run.outcome or Outcome.INTERRUPTED)
        if not active.quiet:
            self.fleet.record(to_builtins(run), run.started)

    def _lease_fault(self, active: ActiveRun) -> ErrorInfo | None:
        """Return the fault of a run whose host lost the lease, None: it did not."""
        if self.fleet is None or not active.token or self.fleet.holds(active.token):
            return None
        return error_info(_LEASE_LOST)

    @property
    def shared_runs(self) -> int:
        """Return how many runs under the lease are active, or have ended and are not told of yet."""
        return self._settling + sum(bool(item.token) for item in self.active.values())

    def lease_at_risk(self) -> None:
        """Hear that the runs under the lease are about to end by themselves."""
        self._publish("message", message="the fleet's lease could not be renewed in time")

    def lease_lost(self) -> None:
        """End the runs under the lease by force, should they not have ended by themselves."""
        for item in self.active.values():
            if item.token and item.process is not None and not item.ended.is_set():
                item.fault = item.fault or error_info(_LEASE_LOST)
                item.process.kill()
        self._wake.set()

    def fleet_facts(self) -> dict[str, Any]:
        """Return what the other hosts are told of this one."""
        shared = [job for job in self.jobs.values() if job.shared]
        return {
            "version": __version__,
            "now": self._clock.now(),
            "settings": fingerprint(shared),
            "shared": sorted(job.name for job in shared),
            "own": sorted(job.name for job in self.jobs.values() if not job.shared),
            "running": sorted(item.run.job for item in self.active.values() if not item.quiet),
        }

    async def others_did(self, records: Mapping[str, TaskRecord]) -> None:
        """Leave out what another host has done."""
        await self._replan(records, 0)

    async def _replan(self, records: Mapping[str, TaskRecord], token: int) -> None:
        for name, task, due in list(self.plans.items()):
            job: Planned | None = self.jobs.get(name) or self.specs.get(name)
            record = records.get(plan_name(name, task))
            if job is None or record is None or not self._is_shared(job):
                continue
            found = replan(record, due, self._clock.now(), token)
            if found is not None:
                await self.plans.others(job, task, found.done, found.undone)
                await self.retries.drop(name, ACTIONS[task])
            if found is not None and found.undone is not None:
                text = f"a {task.value} was begun by host {record.host} and not finished: it is made up for"
                log.warning(text, job=name)

    async def take_over(self, records: Mapping[str, TaskRecord], token: int, before: str) -> None:
        """Prepare for being the holder: learn what others made, and plan what they left undone."""
        await self._replan(records, token)
        if self.fleet is not None and before not in ("", self.fleet.place.host):
            for name in [job.name for job in self.jobs.values() if job.shared]:
                await self.retries.forget(name)
            await asyncio.gather(*(self._learn(job) for job in list(self.jobs.values()) if job.shared))
        self._wake.set()

    async def _learn(self, job: JobSpec) -> None:
        """Record what the destinations of a job hold: the holder before made it."""
        if not job.destinations:
            return
        spec = RunSpec(run="none", job=job, paths=self.paths, trigger=Trigger.MANUAL.value, action="adopt")
        process = await WorkerProcess.start(spec)
        try:
            async with asyncio.timeout(_LEARNING):
                async for event in process.events():
                    if event.get("kind") == "fault":
                        text = event["fault"].get("message", "")
                        log.warning(f"what other hosts made is not known as a whole: {text}", job=job.name)
                await process.wait()
        except TimeoutError:
            log.warning("what other hosts made is not known yet: the destinations are slow", job=job.name)
        finally:
            process.kill()
        if await self.db(lambda catalog: follow_on(catalog, job.name)):
            log.info("the slices follow on from those of the host before", job=job.name)

    # Runs

    async def start_run(
        self,
        name: str,
        trigger: Trigger,
        *,
        action: str = "backup",
        force: bool = False,
        compress: bool | None = None,
        restore: RestoreOrder | None = None,
        verify: VerifyOrder | None = None,
        collection: CollectionOrder | None = None,
        kind: str = "incremental",
        only_to: Sequence[str] | None = None,
        group: str = "",
        copying: CopyOrder | None = None,
    ) -> ActiveRun:
        """Start a run of a job; raises NotFoundError, RefusedError (disabled) or BusyError (recorded as skipped).

        ``only_to`` are names as people give them (`settings.selection.only_places`), ``group`` is the id of the group's
        run that it is part of.
        """
        job = self.jobs.get(name)
        if job is None:
            known = ", ".join(self.jobs) or "none yet: the settings have not been read"
            raise NotFoundError(f"there is no job {name!r}", hint=f"the jobs are: {known}")
        if self.stopping:
            raise RefusedError("the daemon is stopping", hint="try again when it is back", retryable=True)
        run_id = self.new_id()
        if not job.enabled and trigger is Trigger.MANUAL and not force:
            raise RefusedError(
                f"job {name} is disabled",
                hint="enable it in its settings, or run it once with --force",
                code="job-disabled",
            )
        fence = self._fence(job, action)
        places = None if only_to is None else only_places(job, only_to)
        if lane(name, action) in self.active:
            await self.skip(run_id, name, trigger, action)
        if compress is not None:
            job = msgspec.structs.replace(job, compress=compress)
        now = self._clock.now()
        spec = RunSpec(
            run=run_id,
            job=job,
            paths=self.paths,
            trigger=trigger,
            action=action,
            started=now,
            restore=restore,
            verify=verify,
            collection=collection,
            kind=kind,
            only_to=places,
            group=group,
            copying=copying,
            fence=fence,
        )
        # A snapshot of one collection is no backup of the job: one that comes due meanwhile waits for it.
        told = action if collection is None else "collection"
        active = ActiveRun(new_run(run_id, name, trigger, now, told, group), kind if action == "slice" else "")
        active.token = fence.token if fence is not None else 0
        # The job counts as busy from here on, also while the process is being started.
        self.active[active.lane] = active
        try:
            if not active.quiet:
                await self.db(lambda catalog: catalog.save_run(active.run))
            active.process = await self._launch(active, spec)
        except BaseException:
            del self.active[active.lane]
            active.ended.set()
            raise
        if active.cancelled_by:
            active.process.cancel()
        self._warn_of_blackout(job, active)
        if not active.quiet:
            self.began(active)
        self.spawn(self._follow(active, active.process))
        return active

    def new_id(self) -> str:
        """Return the id of a run that begins now."""
        return _run_id(self._clock.now())

    def began(self, active: ActiveRun) -> None:
        """Tell that a run began."""
        run = active.run
        about = {"run": run.id, "job": run.job, "trigger": run.trigger.value, "action": run.action}
        log.info("run started", message=Message.RUN_STARTED, **about)
        self._publish("run-started", run=run)

    def over(self, active: ActiveRun) -> None:
        """Tell that the run of a group ended, and look what is due."""
        self._tell(active.run)
        self._publish("run-ended", run=active.run)
        self.spawn(self._tell_fleet(active))
        self._wake.set()

    def say(self, run_id: str, text: str) -> None:
        """Tell those who watch a run."""
        self._publish("message", run_id=run_id, message=text)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` beside, until the end of the daemon."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _warn_of_blackout(self, job: JobSpec, active: ActiveRun) -> None:
        """Say of what a person starts in a blackout that it would have waited."""
        now = self._clock.now()
        asked = active.run.trigger is Trigger.MANUAL and active.run.action in _TASKS
        if not asked or (until := self.plans.free_at(job, now)) <= now:
            return
        text = f"this is in a blackout of job {job.name} (for another {human_span((until - now).total_seconds())})"
        log.warning(f"{text}; it runs because somebody asked for it", run=active.run.id, job=job.name)
        self._publish("message", run_id=active.run.id, message=f"warning: {text}")

    async def _launch(self, active: ActiveRun, spec: RunSpec) -> WorkerProcess:
        """Start the worker; that it could not be started is the run's failure, on record."""
        try:
            return await WorkerProcess.start(spec, (spec.fence.fd,) if spec.fence is not None else ())
        except BackupdError as error:
            failed = msgspec.structs.replace(
                active.run, ended=self._clock.now(), outcome=Outcome.FAILED, error=error_info(error)
            )
            await self.db(lambda catalog: catalog.save_run(failed))
            self._tell(failed)
            raise

    async def skip(self, run_id: str, name: str, trigger: Trigger, action: str) -> None:
        """Record that a run could not begin because the job is running already, then raise BusyError."""
        other = self.active[lane(name, action)].run.id
        text = f"{'group' if name in self.specs else 'job'} {name} is running already (run {other})"
        error = BusyError(text, hint="follow it: backupctl status --watch")
        now = self._clock.now()
        run = msgspec.structs.replace(
            new_run(run_id, name, trigger, now, action), ended=now, outcome=Outcome.SKIPPED, error=error_info(error)
        )
        await self.db(lambda catalog: catalog.save_run(run))
        about = {"run": run_id, "job": name, "trigger": trigger.value, "code": "busy"}
        log.warning(f"run skipped: {error.message}", message=message_of(run), **about)
        self._publish("run-ended", run=run)
        raise error

    async def cancel(self, run_id: str | None, who: str) -> ActiveRun:
        """Ask a run (or the only one) to stop; raises NotFoundError."""
        candidates = [item for item in self.active.values() if run_id in (None, item.run.id, item.run.job)]
        groups = {item.run.id for item in candidates if isinstance(item, ActiveGroup)}
        # A group's run stands for those that it began.
        candidates = [item for item in candidates if item.run.group not in groups]
        if len(candidates) > 1:
            # Nobody who sees a backup running means the slice that is taken beside it just now.
            candidates = [item for item in candidates if not item.quiet] or candidates
        if not candidates:
            what = f"run {run_id} is not running" if run_id else "nothing is running"
            raise NotFoundError(what, hint="see: backupctl runs")
        if len(candidates) > 1:
            names = ", ".join(item.run.id for item in candidates)
            raise RefusedError(f"{len(candidates)} runs are running", hint=f"name one of them: {names}")
        chosen = candidates[0]
        chosen.cancel(who)
        log.info(f"run cancelled by {who}", run=chosen.run.id, job=chosen.run.job)
        self.spawn(self._insist(chosen))
        return chosen

    async def _insist(self, active: ActiveRun) -> None:
        """End a cancelled run by force when it does not end by itself; what it had committed stays."""
        try:
            async with asyncio.timeout(_CANCEL_PATIENCE):
                await active.ended.wait()
        except TimeoutError:
            log.warning("the run does not end by itself and is ended by force", run=active.run.id, job=active.run.job)
            active.kill()

    async def _follow(self, active: ActiveRun, process: WorkerProcess) -> None:
        """Read a worker's events to the end, then settle how the run ended."""
        run_id, job = active.run.id, active.run.job
        active.heard = self._clock.monotonic()
        guard = asyncio.create_task(self._guard(active, process))
        try:
            async for event in process.events():
                active.heard = self._clock.monotonic()
                if event.get("kind") != "pulse":
                    self._take(active, event)
            code = await process.wait()
            # Children that outlived the worker (they should not) end with their group.
            process.kill()
            active.run = await self._settle(active, process, code)
        except BackupdError as error:
            text = f"the end of the run could not be recorded: {error.message}"
            log.error(text, run=run_id, job=job, code=error.code)
        except Exception:  # a defect here must not leave the job busy for ever, nor the worker unwatched
            process.kill()
            log.exception("following a run failed", message=Message.DEFECT, run=run_id, job=job, code="internal")
        finally:
            guard.cancel()
            self._settling += bool(active.token)
            self.active.pop(active.lane, None)
            if not active.quiet and active.run.outcome in {Outcome.SKIPPED, Outcome.INTERRUPTED, None}:
                self.agenda.hold_uploads(job)
            active.ended.set()
            self._tell(active.run, quiet=active.quiet)
            if not active.quiet or active.run.outcome is not Outcome.SUCCEEDED:
                self._publish("run-ended", run=active.run)
            await self._draw_conclusions(active)
            await self._tell_fleet(active)
            self._settling -= bool(active.token)
            if self.fleet is not None:
                self.fleet.nudge()
            self._wake.set()

    async def _guard(self, active: ActiveRun, process: WorkerProcess) -> None:
        """End a worker that gives no sign of life for longer than nothing may move; a restore is never cut off so."""
        job = self.jobs.get(active.run.job)
        stall = job.limits.stall if job is not None else 0.0
        if not stall or active.run.action == "restore":
            return
        longest = stall + _GRACE
        while (rest := active.heard + longest - self._clock.monotonic()) > 0:  # noqa: ASYNC110 - each event moves it
            await asyncio.sleep(rest)
        text = f"the run's process gave no sign of life for {human_span(longest)} and was ended"
        hint = "look at the journal around that time: journalctl -k, and at the load of this host"
        self._end_by_force(active, process, error_info(LimitError(text, hint=hint)))

    def _end_by_force(self, active: ActiveRun, process: WorkerProcess, fault: ErrorInfo) -> None:
        active.fault = fault
        log.warning(fault.message, run=active.run.id, job=active.run.job, code=fault.code, hint=fault.hint)
        process.kill()

    async def _settle(self, active: ActiveRun, process: WorkerProcess, code: int) -> Run:
        """Return the run as the worker recorded it; one that ended without a word is ``interrupted``."""
        now = self._clock.now()
        run = await self.db(lambda catalog: catalog.run(active.run.id))
        if run is None and active.quiet and code == EXIT_OK:
            # There was nothing new to save: such a run leaves no record.
            return msgspec.structs.replace(active.run, ended=now, outcome=Outcome.SUCCEEDED)
        run = run or active.run
        if process.errors:
            said = "\n".join(["the worker said:", *process.errors])
            log.error(said, message=Message.DEFECT, run=run.id, job=run.job, code="internal")
        if run.outcome is not None:
            return run
        how = f"the worker was killed by signal {-code}" if code < 0 else f"the worker ended with exit code {code}"
        if code == -signal.SIGKILL and not active.cancelled_by:
            how += " (by the kernel, for want of memory? journalctl -k)"
        fault = active.fault or self._lease_fault(active)
        told = active.cancelled_by and code in {-signal.SIGTERM, -signal.SIGKILL}

        def note(catalog: Catalog) -> Run:
            ended = interrupt(catalog, run, now, how)
            if fault is not None:
                ended = msgspec.structs.replace(ended, outcome=Outcome.FAILED, error=fault)
                catalog.save_run(ended)
                return ended
            return _cancelled(catalog, ended) if told else ended

        # At once: whoever counts runs by their outcome in between would see a number that goes back.
        ended = await self.db(note)
        await self.db(lambda catalog: tidy(catalog, self.layout, now))
        return ended

    def _take(self, active: ActiveRun, event: dict[str, Any]) -> None:
        """Log one event of a worker and hand it to the watchers."""
        run_id, job = active.run.id, active.run.job
        kind = event.get("kind")
        if kind == "stage":
            stage = msgspec.convert(event["stage"], StageRecord)
            active.stage = stage.stage.value
            others = tuple(item for item in active.run.stages if item.stage is not stage.stage)
            active.run = msgspec.structs.replace(active.run, stages=(*others, stage))
            if stage.ended is not None:
                seconds = (stage.ended - stage.started).total_seconds()
                getattr(log, "debug" if active.quiet else "info")(
                    f"{stage.stage} {stage.outcome} in {seconds:.1f} s{': ' if stage.detail else ''}{stage.detail}",
                    run=run_id,
                    job=job,
                    stage=stage.stage.value,
                )
            self._publish("stage", run_id=run_id, stage=to_builtins(stage))
        elif kind == "progress":
            self._publish("progress", run_id=run_id, progress=event["progress"])
        elif kind == "message":
            error = event.get("error") or {}
            level = event.get("level", "info")
            if active.quiet and (level == "info" or error):
                level = "debug"  # its end tells of the fault
            getattr(log, level if level in ("debug", "info", "warning", "error") else "info")(
                event.get("text", ""),
                message=Message.__members__.get(event.get("message") or ""),
                run=run_id,
                job=job,
                stage=active.stage or None,
                code=error.get("code"),
            )
            self._publish("message", run_id=run_id, message=event.get("text", ""))
        elif kind == "hangs" and active.process is not None:
            self._end_by_force(active, active.process, msgspec.convert(event["fault"], ErrorInfo))
        elif kind == "committed":
            active.committed.set()
            self._publish("message", run_id=run_id, message=f"committed {event['artifact']}")
        self.on_change()

    async def _draw_conclusions(self, active: ActiveRun) -> None:
        """Do what the end of a run asks for: the next slice sooner or later, or a new full."""
        run = active.run
        job = self.jobs.get(run.job)
        if job is None or run.outcome is None:
            return
        stream = made = None
        with contextlib.suppress(BackupdError):
            stream = await self.db(lambda catalog: catalog.stream(run.job))
            made = await self.db(lambda catalog: catalog.backup(run.backup or ""))
        good, now = run.outcome in _DONE, self._clock.monotonic()
        await self._make_again(job, run)
        broken = stream is not None and bool(stream.broken)
        cause = None if good else cause_of(run.action, run.error.code if run.error is not None else "")
        if run.action == "slice" and active.kind == Task.INCREMENTAL:
            lasting = run.error is not None and not run.error.retryable and not run.error.code.startswith("verify-")
            self.plans.paced(job, stream, good=good, lasting=lasting)
            if broken:
                cause = Cause.STREAM
            elif good:
                self._repairs.mended(run.job, Cause.STREAM)
        elif run.action == "backup":
            again = run.outcome is not Outcome.CANCELLED
            self._repairs.ended(run.job, now, good=good, again=again)
            # From a full that is of no moment nothing could follow on.
            if good and made is not None and made.end and (stream is None or broken):
                self.plans.at_once(job, Task.INCREMENTAL)
        elif good and run.action in {"verify", "drill"}:
            self._repairs.mended(run.job, Cause.PROOF)
        if cause is Cause.PROOF or (cause is Cause.STREAM and _wants_slices(job, run)):
            self._want_full(run.job, cause)

    async def _make_again(self, job: JobSpec, run: Run) -> None:
        """Plan a run that failed for a passing reason once more, and say when."""
        if (task := _TASKS.get(run.action)) is None:
            return
        with contextlib.suppress(BackupdError):
            again = await self.retries.ended(job, run, self.plans.planned(job.name, task))
            if again is not None:
                wait = human_span((self.plans.free_at(job, again.due) - self._clock.now()).total_seconds())
                text = f"the {_called(run)} is made again in {wait}, attempt {again.attempt} of {again.attempts}"
                log.warning(text, run=run.id, job=job.name)

    def _want_full(self, job: str, cause: Cause) -> None:
        """Have a full made out of turn, and say when."""
        self._repairs.ask(job, cause)
        wait = self._repairs.wait(job, self._clock.monotonic())
        why = "for the slices to follow on from" if cause is Cause.STREAM else "because a proof failed"
        if wait > 0:
            text = (
                f"a new full is wanted, {why}; after the last such one it is made in {human_span(wait)} at the soonest"
            )
            log.warning(text, job=job, hint=f"to have it now: backupctl run {job}")
        else:
            log.warning(f"a new full is made by itself, {why}", job=job)

    def _tell(self, run: Run, *, quiet: bool = False) -> None:
        """Write the one line that an operator looks for in the journal in the morning."""
        seconds = ((run.ended or run.started) - run.started).total_seconds()
        what = "run" if run.action == "backup" else run.action
        text = f"{what} {run.outcome or 'ended'} in {seconds:.1f} s"
        if run.backup:
            text += f", safety backup {run.backup}" if run.action == "restore" else f": {run.backup}"
        if run.error is not None:
            text += f": {run.error.message}"
        good = run.outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.SKIPPED)
        level = "info" if good else "warning" if run.outcome is Outcome.DEGRADED else "error"
        if quiet and (good or self._told_before(run)):
            level = "debug"
        code = run.error.code if run.error is not None else None
        if quiet and code == "chain-missing":
            level = "warning"  # that there is no full yet is how every job begins
        hint = run.error.hint if run.error is not None and not good else None
        getattr(log, level)(text, message=message_of(run), run=run.id, job=run.job, code=code, hint=hint or None)
        self.on_change()

    def _told_before(self, run: Run) -> bool:
        """Tell whether slices cannot be uploaded for a reason that was told: the queue says how it goes on."""
        code = run.error.code if run.error is not None and run.outcome is Outcome.DEGRADED else ""
        before = self._told.get(run.job, "")
        if code or run.backup:
            self._told[run.job] = code
        return bool(code) and code == before

    # Watching

    def _publish(self, kind: str, *, run: Run | None = None, run_id: str | None = None, **fields: Any) -> None:
        self.events.publish(kind, run=run, run_id=run_id, **fields)
        self.on_change()

    def note(self, kind: str, message: str) -> None:
        """Tell the watchers of something that is not part of a run (settings changed)."""
        self._publish(kind, message=message)

    async def _inventory(self) -> None:
        """Look at the backups folder now and then: the application deletes files there by itself."""
        pause = _INVENTORY_INTERVAL
        while True:
            await asyncio.sleep(pause)
            started = self._clock.monotonic()
            with contextlib.suppress(BackupdError):
                await self.db(lambda catalog: counted_from(catalog, self._clock))
                await self.refresh()
            # With tens of thousands of slices a look takes seconds.
            pause = max(_INVENTORY_INTERVAL, _IDLE * (self._clock.monotonic() - started))

    async def refresh(self) -> None:
        """Bring the catalog in line with the backups folder now; raises BackupdError when it cannot be read."""
        now = self._clock.now()
        await self.db(lambda catalog: self._look(catalog, now))

    def _look(self, catalog: Catalog, now: datetime) -> None:
        """Look through the folder, unless no name in it came or went since the last look a moment ago."""
        seen = self.layout.changed()
        fresh = self._clock.monotonic() - self._looked < _INVENTORY_INTERVAL
        if fresh and seen == self._seen and not self.active:
            return
        sync_local(catalog, self.layout, now, quick=fresh)
        # A folder changed in this very moment may change again without a newer time.
        self._seen = seen if seen < now.timestamp() - 1 else 0.0
        if not fresh:
            self._looked = self._clock.monotonic()


def _cancelled(catalog: Catalog, run: Run) -> Run:
    """Record that a run which ended without a word did so because it was told to: too early or too busy to answer."""
    text = f"the run was cancelled{unfinished(run)}"
    error = CancelledError(text, hint="nothing that was not committed before is kept")
    stages = tuple(
        msgspec.structs.replace(stage, outcome=Outcome.CANCELLED) if stage.outcome is Outcome.INTERRUPTED else stage
        for stage in run.stages
    )
    ended = msgspec.structs.replace(run, outcome=Outcome.CANCELLED, stages=stages, error=error_info(error))
    catalog.save_run(ended)
    return ended


def _called(run: Run) -> str:
    return "run" if run.action == "backup" else run.action


def _wants_slices(job: JobSpec, run: Run) -> bool:
    """Tell whether a slice is promised or wished for, and not only taken because it may help a restore."""
    return bool(job.pitr or job.incremental or job.differential) or run.trigger is Trigger.MANUAL


def _run_id(now: datetime) -> str:
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
