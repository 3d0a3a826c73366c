"""When each task of each job is due, kept over restarts, and what to do about a time that has come. Starts nothing.

A job has up to five tasks: its backup, its incremental and differential slices, the verification of its copies, and its
drill. A task that must wait for another keeps its place and is taken up as soon as it can be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, TypeVar

import structlog

from nanumpay_backupd.blackout import Window, free_at, parse
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import OpTime, Outcome, Run, Stream
from nanumpay_backupd.scheduler import ON_TIME, Verdict, judge, latest_due, next_due, zone_of
from nanumpay_backupd.settings.schema import GroupSpec, JobSpec, Schedule
from nanumpay_backupd.system.clock import Clock

__all__ = ["Ask", "Planned", "Plans", "Task", "headroom", "plan_name", "slice_interval", "verdict_on"]

T = TypeVar("T")
Planned: TypeAlias = JobSpec | GroupSpec
"""What can be due: a job with its tasks, or a group, whose only task is its backup."""
_MOMENT: Final = timedelta(seconds=1)
_SETTLE: Final = 120.0
"""Seconds that catch-up waits after the start for MongoDB to come up beside us."""
_SHARE: Final = 3
"""A slice is taken at the latest when this part of the time is over that the oplog still holds its beginning."""
_SOONEST: Final = timedelta(seconds=5)
_AGAIN: Final = 5.0
_LONGEST: Final = 600.0
_LASTING: Final = 3600.0
"""Seconds after which a slice that failed is tried again: doubled each time, and when only a person can help."""
log = structlog.get_logger()


class Task(StrEnum):
    """What a job can be due for."""

    BACKUP = "backup"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"
    VERIFY = "verify"
    DRILL = "drill"


_SLICES: Final = frozenset({Task.INCREMENTAL, Task.DIFFERENTIAL})
_CAUGHT_UP: Final = {"backup": Task.BACKUP, "group": Task.BACKUP, "verify": Task.VERIFY, "drill": Task.DRILL}
"""What runs are whose task is done again where they were cut off; slices are the first thing after a start anyway."""


class Ask(Protocol):
    """Asks the catalog, in its own thread."""

    def __call__(self, work: Callable[[Catalog], T]) -> Awaitable[T]:
        """Do ``work`` with the catalog."""
        ...


class Plans:
    """The due times of all jobs and groups. All methods belong to the event loop."""

    def __init__(self, clock: Clock, ask: Ask) -> None:
        self._clock = clock
        self._ask = ask
        self._due: dict[tuple[str, Task], datetime] = {}
        self._seen: set[tuple[str, Task]] = set()
        self._hold_until = clock.monotonic() + _SETTLE
        self._failures: dict[str, int] = {}
        self._windows: dict[str, tuple[list[Window], tzinfo]] = {}
        self._groups: dict[str, str] = {}

    def settled(self) -> None:
        """Tell that the sources can be reached: neither catch-up nor slices that failed need wait any longer."""
        self._hold_until = 0.0
        for job in self._failures:
            if (job, Task.INCREMENTAL) in self._due:
                self._due[job, Task.INCREMENTAL] = self._clock.now()

    @property
    def hold(self) -> float:
        """Return the seconds for which what was missed is not caught up yet."""
        return max(0.0, self._hold_until - self._clock.monotonic())

    def get(self, job: str, task: Task = Task.BACKUP) -> datetime | None:
        """Return when a task is begun next, at the soonest: what is due in a blackout, at its end. None: never."""
        name = self._groups.get(job, job) if task is Task.BACKUP else job
        due = self._due.get((name, task))
        return due if due is None or task in _SLICES else self._free(name, due)

    def planned(self, job: str, task: Task = Task.BACKUP) -> datetime | None:
        """Return when a task is due next by its schedule, or None."""
        return self._due.get((job, task))

    def free_at(self, job: Planned, moment: datetime) -> datetime:
        """Return the first moment from ``moment`` on at which something of a job may begin by itself."""
        return self._free(job.name, moment)

    def _free(self, job: str, moment: datetime) -> datetime:
        windows, zone = self._windows.get(job, ([], UTC))
        return free_at(windows, moment, zone)

    def next_backup(self) -> datetime | None:
        """Return when the next backup of any job is due, or None."""
        return min(
            (self._free(job, due) for (job, task), due in self._due.items() if task is Task.BACKUP), default=None
        )

    def items(self) -> Iterator[tuple[str, Task, datetime]]:
        """Yield what is planned; the plans may be changed meanwhile. Backups come before the other tasks of a job."""
        for name, task in sorted(self._due, key=lambda key: (key[0], list(Task).index(key[1]))):
            if (due := self._due.get((name, task))) is not None:
                yield name, task, due

    async def apply(self, job: Planned, before: Planned | None) -> None:
        """Plan the tasks of a job or a group whose settings are new, or changed from ``before``.

        The backup of a job that is in a group is due with the group.
        """
        self._groups.pop(job.name, None)
        if isinstance(job, JobSpec) and job.group:
            self._groups[job.name] = job.group
        zone = zone_of(Schedule(cron=(), timezone=job.timezone))
        self._windows[job.name] = ([parse(text) for text in job.limits.blackout], zone)
        for task in Task:
            await self._apply(job, before, task)

    async def forget(self, job: str) -> None:
        """Drop the plans of a job that is no more."""
        self._windows.pop(job, None)
        self._groups.pop(job, None)
        for task in Task:
            await self._save(job, task, None)

    async def advance(self, job: Planned, task: Task, after: datetime) -> None:
        """Plan a task's next time, because its last one was taken up or left out."""
        await self._save(job.name, task, _following(job, task, after))

    async def others(self, job: Planned, task: Task, done: datetime, undone: datetime | None = None) -> None:
        """Plan a task of which other hosts took up the time ``done``, or came to no end with the time ``undone``.

        What nobody took up since then is due.
        """
        if self._due.get((job.name, task)) is None:
            return
        due = undone or _following(job, task, done)
        await self._save(job.name, task, due)

    async def again(self, run: Run) -> None:
        """Have what was cut off before it was done caught up at the next start: a backup, a verification, a drill."""
        task = _CAUGHT_UP.get(run.action)
        made = task is Task.BACKUP and run.backup is not None
        if task is None or made or run.outcome not in {Outcome.CANCELLED, Outcome.INTERRUPTED}:
            return
        name = plan_name(run.job, task)
        with contextlib.suppress(BackupdError):
            await self._ask(lambda catalog: catalog.save_plan(name, run.started - ON_TIME - _MOMENT))

    def sooner(self, job: JobSpec, stream: Stream) -> None:
        """Bring the next slice forward where the oplog would roll over its beginning before it is due."""
        due = self._due.get((job.name, Task.INCREMENTAL))
        room = headroom(stream)
        if due is None or room is None:
            return
        limit = max(stream.checked + timedelta(seconds=room / _SHARE), self._clock.now() + _SOONEST)
        if limit < due:
            self._due[job.name, Task.INCREMENTAL] = limit

    def paced(self, job: JobSpec, stream: Stream | None, *, good: bool, lasting: bool) -> None:
        """Draw the conclusions from a slice that ended: sooner where the oplog is short, later after a fault.

        ``lasting``: trying again soon cannot help.
        """
        if good:
            if self._failures.pop(job.name, 0):
                # One by hand was good: there is no need to wait as long as the faults had come to.
                self.at_once(job, Task.INCREMENTAL)
            if stream is not None:
                self.sooner(job, stream)
            return
        count = self._failures[job.name] = self._failures.get(job.name, 0) + 1
        pause = _LASTING if lasting else min(_AGAIN * 2 ** min(count, 10), _LONGEST)
        due = self._due.get((job.name, Task.INCREMENTAL))
        if due is not None:
            self._due[job.name, Task.INCREMENTAL] = self._clock.now() + timedelta(seconds=pause)

    async def anew(self, jobs: Mapping[str, Planned], now: datetime, *, moved: bool = False) -> None:
        """Plan again what would be due earlier from ``now`` on: the clock was set back, and plans are too far away.

        ``moved``: the host's time zone is another one, so what lies ahead may also be due later.
        """
        for name, task, due in list(self.items()):
            job = jobs.get(name)
            following = _following(job, task, now) if job is not None else None
            later = moved and due > now and task not in _SLICES
            if following is not None and (following < due or later):
                await self._save(name, task, following)

    def at_once(self, job: JobSpec, task: Task) -> None:
        """Have a task that has a plan done now: what it waited for has happened."""
        if (job.name, task) in self._due:
            self._due[job.name, task] = self._clock.now()

    async def _apply(self, job: Planned, before: Planned | None, task: Task) -> None:
        key = (job.name, task)
        if task is Task.BACKUP and job.name in self._groups:
            await self._save(job.name, task, None)
            return
        if task is Task.BACKUP and job.schedule is None:
            # Settings that are not known yet may turn out to be those that the saved plan was made from.
            self._due.pop(key, None)
            return
        first = key not in self._seen
        self._seen.add(key)
        if not job.enabled or not _has(job, task):
            await self._save(job.name, task, None)
            return
        same = before is not None and before.enabled and _schedule(before, task) == _schedule(job, task)
        if same and before is not None and _steady(before) == _steady(job) and key in self._due:
            return
        now = self._clock.now()
        # Only the first look after a start may find a due time that nobody was there to keep.
        saved = await self._saved(job.name, task) if first else None
        if saved is not None and saved <= now:
            self._due[key] = saved
            return
        await self.advance(job, task, now)
        if task is Task.INCREMENTAL:
            # Every second without a look is one that might be lost.
            self._due[key] = min(self._due[key], now)

    async def _save(self, job: str, task: Task, due: datetime | None) -> None:
        """Put a plan in force, or drop it; a disk that cannot keep it spoils only the catch-up after a restart."""
        had = self._due.pop((job, task), None)
        if due is not None:
            self._due[job, task] = due
        elif had is None and task is not Task.BACKUP:
            return
        if task is Task.INCREMENTAL:
            return  # the first thing after a start anyway
        name = plan_name(job, task)
        try:
            await self._ask(lambda catalog: catalog.save_plan(name, due))
        except BackupdError as error:
            log.error(f"the plan of job {job} cannot be saved: {error.message}", code=error.code, hint=error.hint)

    async def _saved(self, job: str, task: Task) -> datetime | None:
        name = plan_name(job, task)
        with contextlib.suppress(BackupdError):
            return await self._ask(lambda catalog: catalog.plan(name))
        return None


def verdict_on(job: Planned, task: Task, due: datetime, now: datetime) -> Verdict:
    """Decide what to do about a due time: as `scheduler.judge`, but one that is past for long may stand for a later."""
    window = timedelta(seconds=job.catch_up)
    verdict = judge(due, now, window)
    schedule = _schedule(job, task)
    if verdict is Verdict.TOO_LATE and schedule is not None and latest_due(schedule, now, window):
        return Verdict.CATCH_UP
    return verdict


def slice_interval(job: JobSpec, now: datetime) -> float | None:
    """Return the seconds between two planned slices from now on; None: none are planned."""
    first = _following(job, Task.INCREMENTAL, now)
    second = _following(job, Task.INCREMENTAL, first) if first is not None else None
    return (second - first).total_seconds() if first is not None and second is not None else None


def headroom(stream: Stream) -> float | None:
    """Return for how many seconds the oplog will still hold the place where the next slice begins; None: not known."""
    if not stream.window or not stream.newest:
        return None
    behind = OpTime.parse(stream.newest).seconds - OpTime.parse(stream.position).seconds
    return max(0.0, stream.window - behind)


def _steady(job: Planned) -> float:
    """Return the seconds after which a slice is taken whatever a schedule says, 0: only by that."""
    return job.pitr if isinstance(job, JobSpec) else 0.0


def _has(job: Planned, task: Task) -> bool:
    return _schedule(job, task) is not None or (task is Task.INCREMENTAL and _steady(job) > 0)


def _schedule(job: Planned, task: Task) -> Schedule | None:
    if task is Task.BACKUP:
        return job.schedule
    if isinstance(job, GroupSpec):
        return None
    lines: tuple[str, ...] = getattr(job, task.value)
    return Schedule(cron=lines, timezone=job.timezone) if lines else None


def _following(job: Planned, task: Task, after: datetime) -> datetime | None:
    schedule = _schedule(job, task)
    due = next_due(schedule, after) if schedule is not None else None
    if task is Task.INCREMENTAL and _steady(job) > 0:
        steady = after + timedelta(seconds=_steady(job))
        return min(due, steady) if due is not None else steady
    return due


def plan_name(job: str, task: Task) -> str:
    """Return the name under which the catalog keeps a plan; a job's name has no slash."""
    return job if task is Task.BACKUP else f"{job}/{task}"
