"""What is to be begun now, and what waits for what: due tasks, runs made again, fulls out of turn, queued uploads.

The longest due comes first. Held back are all but slices while a blackout lasts or as many runs are active as may be;
what waited then is done once. Nothing is decided here about how a run goes; it is begun by the `House`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import Copy, Trigger
from nanumpay_backupd.pipeline.layout import job_of, lane
from nanumpay_backupd.plans import Planned, Plans, Task, verdict_on
from nanumpay_backupd.repairs import Repairs
from nanumpay_backupd.retries import Retries
from nanumpay_backupd.scheduler import Verdict
from nanumpay_backupd.settings.schema import GroupSpec, JobSpec, VerifyOrder
from nanumpay_backupd.system.clock import Clock, host_timezone
from nanumpay_backupd.system.units import human_span

__all__ = ["ACTIONS", "LONGEST_SLEEP", "Agenda", "Wait"]

T = TypeVar("T")
LONGEST_SLEEP: Final = 30.0
"""Seconds: the wall clock may jump (suspend, NTP), so no wait is longer than this."""
_SHORTEST: Final = 0.02
_SET_BACK: Final = timedelta(minutes=10)
"""From this on a clock that goes back was wrong; less is corrected every day, and would only make a run twice."""
_LONGEST_PAUSE: Final = timedelta(hours=8)
"""More than any wait between two attempts (`retries`, `pipeline.upload`)."""
_UPLOAD_HOLD: Final = 15.0
"""Seconds before queued uploads are tried again after a run that could not even try (its job was locked, it died)."""
ACTIONS: Final = {
    Task.BACKUP: "backup",
    Task.INCREMENTAL: "slice",
    Task.DIFFERENTIAL: "slice",
    Task.VERIFY: "verify",
    Task.DRILL: "drill",
}
"""What a run does that is due for a task."""
_SLICES: Final = frozenset({Task.INCREMENTAL, Task.DIFFERENTIAL})
_UNCOUNTED: Final = frozenset({"slice", "group", "group-restore"})
_UNCLAIMED: Final = 1.0
"""Seconds until a due time is tried again that could not be claimed."""
_PROOFS: Final = {"verify": "checksum", "drill": "restore"}
log = structlog.get_logger()


class Wait(NamedTuple):
    """Something due waits: for the end of a ``blackout``, which is known, or of a run, because of their ``number``."""

    job: str
    what: str
    due: datetime
    reason: str
    until: datetime | None


class Active(Protocol):
    """A run that is active."""

    @property
    def action(self) -> str:
        """Return what it does."""
        ...


class House(Protocol):
    """Who has the jobs and begins runs."""

    jobs: dict[str, JobSpec]

    @property
    def specs(self) -> Mapping[str, GroupSpec]:
        """Return the groups by their name."""
        ...

    @property
    def running(self) -> Mapping[str, Active]:
        """Return the active runs by their lane."""
        ...

    async def db(self, work: Callable[[Catalog], T]) -> T:
        """Do ``work`` with the catalog in its own thread."""
        ...

    async def begin(self, name: str, trigger: Trigger, **order: Any) -> None:
        """Begin a run; raises BackupdError."""
        ...

    def may_begin(self, name: str) -> bool:
        """Tell whether runs of a job or group begin on this host by themselves; of a fleet, one host begins them."""
        ...

    async def claim(self, job: Planned, task: Task, action: str, due: datetime) -> bool | None:
        """Take up a due time; False: another host has done that, None: it cannot be said just now."""
        ...

    async def unclaim(self, name: str, action: str) -> None:
        """Hear that what was claimed could not be begun."""
        ...


class _Item(NamedTuple):
    """One thing that is due, or will be: of which job, since when, and what begins it and tells how long to wait.

    One that ``skips`` is left out where the last one is not done yet, which is put on record.
    """

    job: str
    what: str
    due: datetime
    action: str
    begin: Callable[[Any, datetime], Awaitable[float]]
    skips: bool = False


class Agenda:
    """Begins what is due. All methods belong to the event loop."""

    def __init__(self, clock: Clock, plans: Plans, retries: Retries, repairs: Repairs, house: House) -> None:
        self.most = 2
        self.waits: tuple[Wait, ...] = ()
        self._clock = clock
        self._plans = plans
        self._retries = retries
        self._repairs = repairs
        self._house = house
        self._held: dict[str, float] = {}
        self._kept: dict[tuple[str, Task], datetime] = {}
        self._wanted: dict[str, datetime] = {}
        self._zone = str(host_timezone())
        self._last: tuple[datetime, float] | None = None

    @property
    def active(self) -> int:
        """Return how many runs count: slices take a moment and little, of a group its members' runs do."""
        return sum(item.action not in _UNCOUNTED for item in self._house.running.values())

    def hold_uploads(self, job: str) -> None:
        """Let a job's queue rest for a moment."""
        self._held[job] = self._clock.monotonic() + _UPLOAD_HOLD

    async def step(self) -> float:
        """Begin what is due now; returns how many seconds may pass until the next look. Raises BackupdError."""
        now = self._clock.now()
        await self._mind_the_clock(now)
        items, fault = self._planned(now), None
        try:
            items += await self._uploads(now)
        except BackupdError as error:  # what is due is begun nevertheless
            fault = error
        pause = LONGEST_SLEEP
        waits: list[Wait] = []
        for item in sorted(items, key=lambda item: item.due):
            pause = min(pause, await self._consider(item, now, waits))
        self.waits = tuple(waits)
        pause = min([pause, *self._rest_of_repairs()])
        if fault is not None:
            raise fault
        return max(pause, _SHORTEST)

    async def _mind_the_clock(self, now: datetime) -> None:
        """Plan anew when the clock went back (the later time would be waited for) or the host has another zone."""
        everything: dict[str, Planned] = {**self._house.jobs, **self._house.specs}
        zone, self._zone = self._zone, str(host_timezone())
        if self._zone != zone:
            log.info(f"the host's time zone is {self._zone} now: what is due is worked out anew", before=zone)
            await self._plans.anew(everything, now, moved=True)
        passed = self._clock.monotonic()
        last, self._last = self._last, (now, passed)
        back = last[0] + timedelta(seconds=passed - last[1]) - now if last is not None else timedelta(0)
        if back > _SET_BACK:
            text = f"the clock went back by {human_span(back.total_seconds())}: what is due is worked out anew"
            log.warning(text, hint="see that a time server keeps it right: timedatectl set-ntp true")
            self._wanted.clear()
            await self._plans.anew(everything, now)

    def _planned(self, now: datetime) -> list[_Item]:
        """Return what has a time of its own, and the fulls out of turn that are to be made now."""
        items = [
            _Item(
                name,
                task.value,
                due,
                ACTIONS[task],
                functools.partial(self._due, task=task, due=due),
                task is Task.BACKUP,
            )
            for name, task, due in self._plans.items()
        ]
        items += [
            _Item(name, action, _near(again.due, now), action, functools.partial(self._again, action=action))
            for name, action, again in self._retries.items()
        ]
        for name in self._repairs.wanted():
            job = self._house.jobs.get(name)
            if job is None or not job.enabled:
                self._repairs.forget(name)
            elif self._repairs.wait(name, self._clock.monotonic()) <= 0:
                since = self._wanted.setdefault(name, now)
                items.append(_Item(name, "backup", since, "backup", self._repair))
        return items

    def _rest_of_repairs(self) -> list[float]:
        rest = [self._repairs.wait(name, self._clock.monotonic()) for name in self._repairs.wanted()]
        return [seconds for seconds in rest if seconds > 0]

    async def _uploads(self, now: datetime) -> list[_Item]:
        """Return the queued uploads, one entry for each job."""
        first: dict[str, datetime] = {}
        for copy in await self._house.db(lambda catalog: _queued(catalog, now)):
            name = job_of(copy.backup)
            if copy.next_attempt is not None and name in self._house.jobs:
                first[name] = min(first.get(name, copy.next_attempt), copy.next_attempt)
        return [_Item(name, "upload", due, "upload", self._upload) for name, due in first.items()]

    async def _consider(self, item: _Item, now: datetime, waits: list[Wait]) -> float:
        """Begin something, if it is due and nothing holds it back; returns the seconds until the next look at it."""
        job: Planned | None = self._house.jobs.get(item.job) or self._house.specs.get(item.job)
        if job is None:
            return LONGEST_SLEEP
        if item.due > now:
            return (item.due - now).total_seconds()
        if not self._house.may_begin(item.job):
            return LONGEST_SLEEP  # that it may wakes us
        if item.action != "slice":
            free = self._plans.free_at(job, now)
            if free > now:
                waits.append(Wait(item.job, item.what, item.due, "blackout", free))
                return (free - now).total_seconds()
        other = self._house.running.get(lane(item.job, item.action))
        if other is not None and not (item.skips and other.action in {"backup", "group"}):
            return LONGEST_SLEEP  # its end wakes us
        if item.action != "slice" and other is None and self.active >= self.most:
            self._note(job, item, now)
            waits.append(Wait(item.job, item.what, item.due, "number", None))
            return LONGEST_SLEEP
        return await item.begin(job, now)

    def _note(self, job: Planned, item: _Item, now: datetime) -> None:
        """Remember of what has to wait that it came in time."""
        task = next((task for task in Task if task.value == item.what), None)
        if task is not None and self._verdict(job, task, item.due, now) is Verdict.RUN:
            self._kept[job.name, task] = item.due

    def _verdict(self, job: Planned, task: Task, due: datetime, now: datetime) -> Verdict:
        """Decide about a due time that has come; one that lay in a blackout counts from its end."""
        if self._kept.get((job.name, task)) == due:
            return Verdict.RUN
        return verdict_on(job, task, due if task in _SLICES else self._plans.free_at(job, due), now)

    async def _due(self, job: Planned, now: datetime, *, task: Task, due: datetime) -> float:
        """Take up a task whose time has come; what was missed for long is told, of a slice only the next one counts."""
        if self._plans.planned(job.name, task) != due:  # the settings changed while another was begun
            return _SHORTEST
        verdict = self._verdict(job, task, due, now)
        if verdict is not Verdict.RUN and self._plans.hold > 0:
            return self._plans.hold
        action = ACTIONS[task] if isinstance(job, JobSpec) else "group"
        claimed = task in _SLICES or await self._house.claim(job, task, action, due)
        if claimed is None:
            return _UNCLAIMED
        self._kept.pop((job.name, task), None)
        await self._plans.advance(job, task, now if claimed else due)
        if not claimed:
            return _SHORTEST
        if task not in _SLICES:
            await self._retries.drop(job.name, action)
        late = verdict is not Verdict.RUN and task not in {Task.INCREMENTAL, Task.DIFFERENTIAL}
        what = "verification" if task is Task.VERIFY else task.value
        if verdict is Verdict.TOO_LATE and late:
            await self._house.unclaim(job.name, action)
            text = f"a {what} was missed too long ago to be caught up"
            log.warning(text, message=Message.RUN_MISSED, job=job.name, due=due.isoformat())
            return LONGEST_SLEEP
        if late:
            text = f"a {what} was missed and is caught up now"
            log.warning(text, message=Message.RUN_MISSED, job=job.name, due=due.isoformat())
        trigger = Trigger.CATCH_UP if late else Trigger.SCHEDULE
        try:
            await self._house.begin(job.name, trigger, action=action, kind=task.value, verify=_order(action))
        except BackupdError:
            await self._house.unclaim(job.name, action)
        return LONGEST_SLEEP

    async def _again(self, job: JobSpec, _now: datetime, *, action: str) -> float:
        """Make a run again."""
        await self._retries.drop(job.name, action)
        with contextlib.suppress(BackupdError):
            await self._house.begin(job.name, Trigger.AGAIN, action=action, verify=_order(action))
        return LONGEST_SLEEP

    async def _repair(self, job: JobSpec, _now: datetime) -> float:
        """Make the full that a broken chain or a failed proof asks for."""
        if job.name in self._house.running:
            return LONGEST_SLEEP
        now = self._clock.monotonic()
        self._wanted.pop(job.name, None)
        self._repairs.begun(job.name, now)
        try:
            await self._house.begin(job.name, Trigger.REPAIR)
        except BackupdError:
            self._repairs.ended(job.name, now, good=False, again=True)
        return LONGEST_SLEEP

    async def _upload(self, job: JobSpec, _now: datetime) -> float:
        """Try a job's queued uploads."""
        rest = self._held.get(job.name, 0.0) - self._clock.monotonic()
        if rest > 0:
            return rest
        with contextlib.suppress(BackupdError):
            await self._house.begin(job.name, Trigger.RETRY, action="upload")
        return LONGEST_SLEEP


def _near(due: datetime, now: datetime) -> datetime:
    """Return when something is due that is never put off for long: what is further away was noted by a wrong clock."""
    return due if due - now <= _LONGEST_PAUSE else now


def _queued(catalog: Catalog, now: datetime) -> list[Copy]:
    """Return the queued copies; those that wait for a far future are brought near, where the workers find them too."""
    found = []
    for copy in catalog.pending_copies():
        due = _near(copy.next_attempt, now) if copy.next_attempt is not None else None
        if due != copy.next_attempt:
            copy = msgspec.structs.replace(copy, next_attempt=due)  # noqa: PLW2901 - the same copy, brought near
            catalog.save_copy(copy)
        found.append(copy)
    return found


def _order(action: str) -> VerifyOrder | None:
    """Return what a run by schedule is to prove, None: it proves nothing but itself."""
    return VerifyOrder(level=_PROOFS[action]) if action in _PROOFS else None
