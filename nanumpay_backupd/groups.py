"""Runs of groups: begins the runs of their members and draws the conclusion. Does no backup work itself.

The members of a backup begin in the order of the host file, the next one as soon as the one before it has committed:
what they hold is of moments close to each other, while reading back and uploading go on side by side. The members of a
restore come one after the other, and nothing more is begun once one of them did not succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from nanumpay_backupd.active import ActiveGroup, ActiveRun
from nanumpay_backupd.agenda import Agenda
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, BusyError, InternalError, NotFoundError, RefusedError
from nanumpay_backupd.fleet.keeper import Keeper
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import (
    ErrorInfo,
    Outcome,
    Run,
    Trigger,
    error_info,
)
from nanumpay_backupd.pipeline.groups import DONE, Concluded, Part, described, fault_of, worst_of
from nanumpay_backupd.pipeline.layout import lane
from nanumpay_backupd.pipeline.report import new_run
from nanumpay_backupd.plans import Plans
from nanumpay_backupd.retries import next_attempt
from nanumpay_backupd.settings.schema import (
    GroupOrder,
    GroupSpec,
    JobSpec,
    Paths,
    RestoreOrder,
    RunSpec,
    SourceKind,
)
from nanumpay_backupd.settings.selection import members_of
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.units import human_span
from nanumpay_backupd.worker import WorkerProcess

__all__ = ["Groups"]

T = TypeVar("T")
_random = random.SystemRandom()
log = structlog.get_logger()


class House(Protocol):
    """Who has the jobs and their runs."""

    paths: Paths
    jobs: dict[str, JobSpec]
    active: dict[str, ActiveRun]
    plans: Plans
    agenda: Agenda
    stopping: bool

    async def db(self, work: Callable[[Catalog], T]) -> T:
        """Do ``work`` with the catalog in its own thread."""
        ...

    async def start_run(
        self,
        name: str,
        trigger: Trigger,
        *,
        action: str = "backup",
        force: bool = False,
        restore: RestoreOrder | None = None,
        group: str = "",
    ) -> ActiveRun:
        """Start a run of a job; raises BackupdError."""
        ...

    async def skip(self, run_id: str, name: str, trigger: Trigger, action: str) -> None:
        """Record that a run could not begin, then raise BusyError."""
        ...

    def began(self, active: ActiveRun) -> None:
        """Tell that a run began."""
        ...

    def over(self, active: ActiveRun) -> None:
        """Tell that a run ended, and look what is due."""
        ...

    fleet: Keeper | None

    def may_begin(self, name: str) -> bool:
        """Tell whether runs of a job begin on this host by themselves."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work`` beside, until the end of the daemon."""
        ...

    def new_id(self) -> str:
        """Return the id of a run that begins now."""
        ...

    def say(self, run_id: str, text: str) -> None:
        """Tell those who watch a run."""
        ...


class Groups:
    """The groups, and their runs. All methods belong to the event loop."""

    def __init__(self, house: House, clock: Clock) -> None:
        self.specs: dict[str, GroupSpec] = {}
        self._house = house
        self._clock = clock

    async def apply(self, groups: Iterable[GroupSpec]) -> None:
        """Replace the groups; runs that go on keep the settings they began with."""
        before, self.specs = self.specs, {group.name: group for group in groups}
        for name in before.keys() - self.specs.keys():
            if name not in self._house.jobs:
                await self._house.plans.forget(name)
        for name, group in list(self.specs.items()):
            await self._house.plans.apply(group, before.get(name))

    async def make(
        self,
        name: str,
        trigger: Trigger,
        *,
        force: bool = False,
        kind: SourceKind | None = None,
        on_part: Callable[[ActiveRun], None] = lambda _: None,
    ) -> ActiveGroup:
        """Begin a run of a group; raises NotFoundError, RefusedError (disabled) or BusyError (recorded as skipped).

        With ``kind`` only the members that save such are made, and what they make is no group. ``on_part`` hears of
        each member's run as soon as it is begun.
        """
        group = self.named(name)
        if not group.enabled and trigger is Trigger.MANUAL and not force:
            raise RefusedError(
                f"group {name} is disabled",
                hint="enable it in the host file (or job nanumpay in its form), or run it once with --force",
                code="job-disabled",
            )
        members = members_of(group, self._house.jobs, kind)
        here = [job for job in members if self._house.may_begin(job.name)]
        if trigger is not Trigger.MANUAL:
            members = here
        elif (elsewhere := [job for job in members if job not in here]) and self._house.fleet is not None:
            self._house.fleet.require(f"what job {elsewhere[0].name} saves")
        chosen = [job for job in members if job.enabled or force]
        if not chosen:
            names = ", ".join(job.name for job in members)
            raise RefusedError(
                f"every job of group {name} that is meant is disabled", hint=f"{names}: enable one, or use --force"
            )
        active = await self._begin(name, trigger, "group")
        for job in members:
            if job not in chosen:
                self._warn(active, f"job {job.name} is disabled: it is left out")
        self._house.spawn(
            self._lead(
                active,
                lambda: self._make(active, chosen, on_part, whole=kind is None and len(members) == len(group.jobs)),
            )
        )
        return active

    async def restore(self, name: str, orders: Sequence[tuple[JobSpec, RestoreOrder]], identifier: str) -> ActiveGroup:
        """Begin the restore of a group's backups, one after the other; ``identifier`` is that of the group."""
        active = await self._begin(name, Trigger.MANUAL, "group-restore")
        self._house.spawn(self._lead(active, lambda: self._restore(active, orders, identifier)))
        return active

    def named(self, name: str) -> GroupSpec:
        """Return a group; raises NotFoundError."""
        if name not in self.specs:
            known = ", ".join(self.specs)
            raise NotFoundError(
                f"there is no group {name!r}",
                hint=f"the groups are: {known}" if known else "there are none: docs/groups.md",
            )
        return self.specs[name]

    # The life of a run

    async def _begin(self, name: str, trigger: Trigger, action: str) -> ActiveGroup:
        house = self._house
        if house.stopping:
            raise RefusedError("the daemon is stopping", hint="try again when it is back", retryable=True)
        run_id = house.new_id()
        if lane(name, action) in house.active:
            await house.skip(run_id, name, trigger, action)
        active = ActiveGroup(new_run(run_id, name, trigger, self._clock.now(), action))
        house.active[active.lane] = active
        try:
            await house.db(lambda catalog: catalog.save_run(active.run))
        except BaseException:
            del house.active[active.lane]
            active.ended.set()
            raise
        house.began(active)
        return active

    async def _lead(self, active: ActiveGroup, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work of a run and record its end, however that came about."""
        try:
            await work()
        except BackupdError as error:
            self._end(active, Outcome.FAILED, error_info(error))
        except Exception:  # a defect here must not leave the group busy for ever
            about = {"run": active.run.id, "job": active.run.job}
            log.exception("the run of a group failed", message=Message.DEFECT, code="internal", **about)
            fault = InternalError("a defect of nanumpay-backupd", hint="please report what the journal has on it")
            self._end(active, Outcome.FAILED, error_info(fault))
        finally:
            with contextlib.suppress(BackupdError):
                await self._save(active)
            self._house.active.pop(active.lane, None)
            active.ended.set()
            self._house.over(active)

    def _end(self, active: ActiveGroup, outcome: Outcome, error: ErrorInfo | None, backup: str | None = None) -> None:
        changes = {"ended": self._clock.now(), "outcome": outcome, "error": error, "backup": backup}
        active.run = msgspec.structs.replace(active.run, **changes)

    def _warn(self, active: ActiveGroup, text: str) -> None:
        log.warning(text, run=active.run.id, job=active.run.job)
        active.run = msgspec.structs.replace(active.run, warnings=(*active.run.warnings, text))
        self._house.say(active.run.id, f"warning: {text}")

    async def _save(self, active: ActiveGroup) -> None:
        await self._house.db(lambda catalog: catalog.save_run(active.run))

    async def _started(
        self,
        active: ActiveGroup,
        job: JobSpec,
        on_part: Callable[[ActiveRun], None] = lambda _: None,
        order: RestoreOrder | None = None,
    ) -> ActiveRun:
        """Start the run of one member, once what the job does just now has ended. Raises BackupdError."""
        action = "backup" if order is None else "restore"
        while not active.halted.is_set():
            other = self._house.active.get(lane(job.name, action))
            if other is not None:
                self._house.say(active.run.id, f"job {job.name} is running already; its end is waited for")
                await _either(other.ended, active.halted)
                continue
            try:
                part = await self._house.start_run(
                    job.name,
                    Trigger.GROUP,
                    action=action,
                    force=True,
                    restore=order,
                    group=active.run.id,
                )
            except BusyError:
                if lane(job.name, action) not in self._house.active:
                    raise
                continue  # somebody was quicker
            active.parts.append(part)
            on_part(part)
            if active.halted.is_set():
                part.cancel(active.cancelled_by)
            active.run = msgspec.structs.replace(active.run, members=(*active.run.members, part.run.id))
            await self._save(active)
            return part
        raise _halted()

    # Making a group

    async def _make(
        self, active: ActiveGroup, members: Sequence[JobSpec], on_part: Callable[[ActiveRun], None], *, whole: bool
    ) -> None:
        tasks: list[asyncio.Task[Part]] = []
        for job in members:
            if tasks:
                await self._room(active)
            passed = asyncio.Event()
            tasks.append(asyncio.create_task(self._part(active, job, passed, on_part)))
            await _either(passed, active.halted)
        parts = list(await asyncio.gather(*tasks))
        outcome = worst_of(part.outcome for part in parts)
        error = fault_of(parts)
        if not whole or active.cancelled_by or not any(part.outcome in DONE for part in parts):
            if not whole:
                self._house.say(active.run.id, "only some of the jobs were meant: what they made is no group")
            self._end(active, outcome, error)
            return
        done = await self._conclude(active, parts, outcome)
        if done.faults and outcome is Outcome.SUCCEEDED:
            outcome, error = Outcome.DEGRADED, done.faults[0]
        self._end(active, outcome, error, done.manifest.id)

    async def _room(self, active: ActiveGroup) -> None:
        """Wait until another run may be active."""
        agenda = self._house.agenda
        while agenda.active >= agenda.most and not active.halted.is_set():
            ends = [item.ended for item in self._house.active.values() if item.action not in {"slice", "group"}]
            await _either(*ends, active.halted)

    async def _part(
        self, active: ActiveGroup, job: JobSpec, passed: asyncio.Event, on_part: Callable[[ActiveRun], None]
    ) -> Part:
        """Make the backup of one member, by schedule more than once where that helps.

        ``passed`` is set when the next member may begin.
        """
        made = 0
        try:
            while True:

                def begun(part: ActiveRun) -> None:
                    part.committed = passed
                    on_part(part)

                part = await self._started(active, job, begun)
                await part.ended.wait()
                passed.set()
                made += 1
                run = part.run
                if not await self._again(active, job, run, made):
                    return Part(job, run.outcome or Outcome.FAILED, run, run.error)
        except BackupdError as error:
            cancelled = active.halted.is_set()
            return Part(job, Outcome.CANCELLED if cancelled else Outcome.FAILED, None, error_info(error))
        finally:
            passed.set()

    async def _again(self, active: ActiveGroup, job: JobSpec, run: Run, made: int) -> bool:
        """Wait until a member's run that failed for a passing reason is made again; tells whether it is."""
        asked = msgspec.structs.replace(run, trigger=active.run.trigger)
        following = self._house.plans.planned(active.run.job)
        again = next_attempt(asked, job.retry, made, following, _random.uniform(-1.0, 1.0))
        if again is None or active.halted.is_set():
            return False
        wait = (again.due - self._clock.now()).total_seconds()
        text = f"job {job.name} is made again in {human_span(wait)}, attempt {again.attempt} of {again.attempts}"
        log.warning(text, run=active.run.id, job=job.name)
        self._house.say(active.run.id, text)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await active.halted.wait()
        return not active.halted.is_set()

    async def _conclude(self, active: ActiveGroup, parts: Sequence[Part], outcome: Outcome) -> Concluded:
        """Let a worker commit the group's manifest and bring it to the destinations. Raises BackupdError."""
        now, run = self._clock.now(), msgspec.structs.replace(active.run, outcome=outcome)
        manifest = await self._house.db(lambda catalog: described(run, parts, catalog, now))
        jobs = tuple(part.job for part in parts)
        spec = RunSpec(
            run=active.run.id,
            job=jobs[0],
            paths=self._house.paths,
            trigger=active.run.trigger.value,
            action="group",
            concluding=GroupOrder(manifest=manifest, jobs=jobs),
        )
        return await _concluded(spec)

    # Bringing a group back

    async def _restore(
        self, active: ActiveGroup, orders: Sequence[tuple[JobSpec, RestoreOrder]], identifier: str
    ) -> None:
        done: list[str] = []
        for at, (job, order) in enumerate(orders):
            fault: BackupdError | None = None
            run: Run | None = None
            try:
                part = await self._started(active, job, order=order)
                await part.ended.wait()
                run = part.run
            except BackupdError as error:
                fault = error
            if run is None or run.outcome is not Outcome.SUCCEEDED:
                left = [item.name for item, _ in orders[at + 1 :]]
                outcome = Outcome.CANCELLED if active.cancelled_by else (run.outcome if run else None) or Outcome.FAILED
                cause = run.error if run is not None else error_info(fault) if fault is not None else None
                self._end(active, outcome, _half(identifier, job.name, order, cause, done, left))
                return
            done.append(job.name)
        self._end(active, Outcome.SUCCEEDED, None, None)


def _half(
    identifier: str, job: str, order: RestoreOrder, cause: ErrorInfo | None, done: Sequence[str], left: Sequence[str]
) -> ErrorInfo:
    """Say in which state a group's restore that did not come to its end left everything."""
    told = [f"job {job} was not restored: {cause.message}" if cause is not None else f"job {job} was not restored"]
    told.append(f"restored before that: {', '.join(done)}" if done else "nothing was restored before that")
    if left:
        told.append(f"not begun: {', '.join(left)}")
    hint = cause.hint if cause is not None else ""
    on = f"to go on: backupctl restore {order.backup}" + ("; then the others by their own ids" if left else "")
    return ErrorInfo(
        code=cause.code if cause is not None else "failed",
        message=f"group {identifier} is not restored as a whole: {'; '.join(told)}",
        hint=f"{hint}; {on} (backupctl show {identifier})" if hint else f"{on} (backupctl show {identifier})",
        retryable=False,
    )


async def _concluded(spec: RunSpec) -> Concluded:
    process = await WorkerProcess.start(spec)
    found: Concluded | None = None
    fault: ErrorInfo | None = None
    try:
        async for event in process.events():
            if event.get("kind") == "concluded":
                found = msgspec.convert(event["concluded"], Concluded)
            elif event.get("kind") == "fault":
                fault = msgspec.convert(event["fault"], ErrorInfo)
        await process.wait()
    finally:
        process.kill()
    if fault is not None:
        raise BackupdError(fault.message, hint=fault.hint, code=fault.code, retryable=fault.retryable)
    if found is None:
        said = "\n".join(["the helper said:", *process.errors])
        log.error(said, message=Message.DEFECT, run=spec.run, code="internal")
        raise InternalError("the group could not be put on record", hint="journalctl -u nanumpay-backupd -n 100")
    return found


def _halted() -> BackupdError:
    return BackupdError("the run was cancelled before this job began", code="cancelled")


async def _either(*events: asyncio.Event) -> None:
    """Wait for the first of some events."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
