"""Tells people: hears what happens, keeps what was told, sends by processes of their own, and never holds a run up.

What is to be told is decided in `alerts`, when it is tried again in `outbox`; here the two meet clock, catalog and
processes. A defect or a fault here costs messages at most: it is logged, and the loops go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from nanumpay_backupd import alerts, outbox, ways
from nanumpay_backupd.alerts import Delivery, Notice, Phase
from nanumpay_backupd.broadcast import Broadcast
from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError
from nanumpay_backupd.events import Event, Fault, News, Severity
from nanumpay_backupd.heartbeats import Heartbeats
from nanumpay_backupd.model import Run
from nanumpay_backupd.notifiers.base import Message, Receipt, Target
from nanumpay_backupd.notifiers.letter import Sender, compose, trial
from nanumpay_backupd.notifiers.messenger import dispatch
from nanumpay_backupd.outbox import Outbox, Outgoing
from nanumpay_backupd.plans import Ask
from nanumpay_backupd.reports.figures import Report
from nanumpay_backupd.reports.pages import report_message
from nanumpay_backupd.scheduler import next_due
from nanumpay_backupd.settings.schema import DATABASE_CHANNEL, HostConfig, JobSpec, Schedule
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.told import KEPT, Memory, ended, hushed, keep, note, recall

__all__ = ["Announcer", "Look", "Review"]

_INTERVAL: Final = 60.0
"""Seconds between two looks at how things stand, where nothing happens."""
_GATHER: Final = 0.3
"""Seconds in which what happens together is taken together."""
_IDLE: Final = 100.0
"""How many times as long as a look takes is waited until the next."""
_REPORT_LATE: Final = timedelta(hours=36)
_LOCKED: Final = 120.0
"""Seconds for which the catalog may be locked by another process, before that is told as a fault."""
log = structlog.get_logger()

Look = Callable[[], Awaitable[tuple[list[Fault], list[dict[str, Any]]]]]
"""Returns what is wrong now, and the jobs as the status shows them."""
Review = Callable[[int], Awaitable[Report]]
"""Returns the report of so many days."""


class Announcer:
    """Tells people what happens. All methods belong to the event loop."""

    def __init__(self, clock: Clock, ask: Ask, *, look: Look, review: Review) -> None:
        self._clock = clock
        self._ask = ask
        self._look = look
        self._review = review
        self._host = HostConfig()
        self._memory: Memory | None = None
        self._muted: list[str] = []
        self._ended: list[str] = []
        self._early: list[tuple[Receipt, bool]] = []
        self._ready = False
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._wake = asyncio.Event()
        self._post = asyncio.Event()
        self._name = socket.gethostname()
        self._started = clock.now()
        self._beats = Heartbeats(self._name, self._heard)

    # What others tell and ask

    def configure(self, host: HostConfig, jobs: Iterable[JobSpec]) -> None:
        """Take over settings; what waits for channels that are no more is forgotten."""
        self._host = host
        self._beats.configure(jobs, enabled=host.notify.enabled)
        self._ready = True
        self._wake.set()

    def look_again(self) -> None:
        """Look how things stand now, and not only with the next minute: something is known that was not before."""
        self._wake.set()

    def mute(self, run: str) -> None:
        """Tell nobody of a run that was just started, neither how it ends nor by pings; it is on record."""
        self._beats.mute(run)
        self._muted = [*self._muted, run][-KEPT:]

    def faults(self) -> list[Fault]:
        """Say which channels fail."""
        return outbox.faults(self._memory.outbox) if self._memory is not None else []

    def channels(self) -> list[dict[str, Any]]:
        """Describe the ways that there are, as the interface's type Channel."""
        box = self._memory.outbox if self._memory is not None else Outbox()
        return ways.described(self._host, self._targets(), box)

    async def test(self, name: str | None) -> list[Receipt]:
        """Send a test by one way or by all; returns what each answered. Raises NotFoundError, RefusedError."""
        if not self._host.notify.enabled:
            raise RefusedError("notifications are switched off", hint="set [notify] enabled = true in backupd.toml")
        targets = self._targets()
        if name is not None and name not in targets:
            known = ", ".join(targets) or "none yet: add a [channel.NAME] to backupd.toml"
            raise NotFoundError(f"there is no channel {name!r}", hint=f"the channels are: {known}")
        now = self._clock.now()
        identity = f"test-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        chosen = {name: targets[name]} if name is not None else targets
        receipts = await dispatch([(target, [self._trial(identity, key, now)]) for key, target in chosen.items()])
        for receipt in receipts:
            self._heard(receipt, lost=False)
        return sorted(receipts, key=lambda receipt: list(targets).index(receipt.channel))

    def _trial(self, identity: str, channel: str, now: datetime) -> Message:
        message = trial(identity, channel, now, self._sender(channel))
        # A switch is to take note of it, and not to take it for a backup.
        return msgspec.structs.replace(message, signal="log")

    # Life

    async def run(self, events: Broadcast) -> None:
        """Tell people until cancelled."""
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("listening", self._listen(events)),
                ("telling", self._forever(self._tell, self._wake)),
                ("posting", self._forever(self._send, self._post)),
                ("heartbeats", self._beats.run()),
            )
        ]
        try:
            # Not gather: cancelled, it would cancel them as well, and a second time below, in the midst of their end.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def finish(self, seconds: float) -> None:
        """Send nothing more, and give what is being sent a moment: cut off, it would be sent again after the start."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _listen(self, events: Broadcast) -> None:
        """Hear of runs; whoever is too slow is no longer told, and asks again."""
        while True:
            async with contextlib.aclosing(events.watch()) as heard:  # type: ignore[type-var]
                async for event in heard:
                    if event["kind"] in {"run-started", "run-ended"}:
                        self._hear(msgspec.convert(event["run"], Run))
                    if event["kind"] in {"run-ended", "settings", "plan"}:
                        self._wake.set()
            await asyncio.sleep(1.0)

    def _hear(self, run: Run) -> None:
        self._beats.hear(run)
        if run.outcome is not None and run.action != "slice":
            self._ended = [*self._ended, run.id][-KEPT:]

    async def _forever(self, work: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
        """Do ``work`` whenever it is woken, and after the seconds that it returns."""
        said = ""
        while True:
            await asyncio.sleep(_GATHER)
            wake.clear()
            pause = _INTERVAL
            try:
                pause = await work()
                said = ""
            except BackupdError as error:
                if error.message != said:
                    log.error(f"people cannot be told: {error.message}", code=error.code, hint=error.hint)
                said = error.message
            except Exception:
                log.exception("telling people failed", code="internal")
            # Not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    # What is to be told

    async def _tell(self) -> float:
        """Look how things stand, and work out what is to be told of that; returns the seconds until the next look."""
        if not self._ready:  # what the jobs are is not known yet
            return _INTERVAL
        started = self._clock.monotonic()
        before = await self._remembered()
        faults, jobs, runs = await self._find(before)
        memory = self._memory or before  # something may have been sent meanwhile
        memory = msgspec.structs.replace(memory, muted=tuple(dict.fromkeys((*memory.muted, *self._muted)))[-KEPT:])
        now, muted = self._clock.now(), frozenset(memory.muted)
        step = alerts.step(
            memory.alerts,
            ways.policy(self._host),
            now,
            faults=faults,
            news=[news for run, news in runs if news is not None and run.id not in muted],
            hush=hushed(jobs or [], muted),
            jobs=[job["name"] for job in jobs if job["enabled"]] if jobs is not None else None,
        )
        box = outbox.only(memory.outbox, self._targets())
        box = outbox.add(box, [*step.deliveries, *self._records(step.notices)])
        seen = (*memory.seen, *(run.id for run, _ in runs))[-KEPT * 2 :]
        memory = msgspec.structs.replace(memory, alerts=step.state, outbox=box, seen=seen)
        memory, report = self._with_report(memory, now)
        self._memory = memory
        if step.notices or report or memory != before:
            await self._keep([*step.notices, *report], memory)
        self._post.set()
        # With tens of thousands of slices a look may take a while.
        return max(_INTERVAL, _IDLE * (self._clock.monotonic() - started))

    async def _find(
        self, memory: Memory
    ) -> tuple[list[Fault], list[dict[str, Any]] | None, list[tuple[Run, News | None]]]:
        """Return what is wrong now, the jobs, and the runs that ended; or that nothing can be read: a fault too."""
        fresh = tuple(self._ended)
        try:
            faults, jobs = await self._look()
            runs = await self._ask(lambda catalog: ended(catalog, frozenset(memory.seen), fresh))
        except BackupdError as error:
            log.error(f"how things stand cannot be read: {error.message}", code=error.code, hint=error.hint)
            return [*(raised.fault for raised in memory.alerts.raised.values()), _unreadable(error)], None, []
        self._ended = [run for run in self._ended if run not in fresh]
        return faults, jobs, runs

    def _records(self, notices: Sequence[Notice]) -> list[Delivery]:
        """Everything is recorded in the database, where that is wanted."""
        wanted = self._host.notify.enabled and self._host.notify.database
        return [Delivery(DATABASE_CHANNEL, notice) for notice in notices] if wanted else []

    def _with_report(self, memory: Memory, now: datetime) -> tuple[Memory, list[Notice]]:
        """Put the report into the queue when it is due, and plan the next one."""
        options = self._host.notify
        if not options.report or not options.enabled:
            return msgspec.structs.replace(memory, report_due=None, report_cron=()), []
        schedule = Schedule(cron=options.report, timezone=self._host.timezone)
        due, following = memory.report_due, next_due(schedule, now)
        # One that is later than the next one by the schedule was planned before the clock was set back.
        if due is not None and memory.report_cron == options.report and now < due:
            late = following is not None and following < due
            return (msgspec.structs.replace(memory, report_due=following) if late else memory), []
        planned = msgspec.structs.replace(memory, report_due=following, report_cron=options.report)
        if due is None or memory.report_cron != options.report or now - due > _REPORT_LATE:
            return planned, []
        wanting = [rule.channel for rule in ways.rules(self._host) if rule.wants(Event.REPORT, Severity.INFO)]
        if not wanting:
            return planned, []
        notice = Notice(
            id=f"report-{due:%Y%m%d-%H%M}",
            at=now,
            phase=Phase.ONCE,
            event=Event.REPORT,
            of=Event.REPORT,
            severity=Severity.INFO,
            count=max(1, round((following - due).total_seconds() / 86400)) if following is not None else 7,
        )
        box = outbox.add(planned.outbox, [Delivery(channel, notice) for channel in wanting])
        return msgspec.structs.replace(planned, outbox=box), [notice]

    async def _remembered(self) -> Memory:
        """Return what is remembered, which is read once."""
        if self._memory is None:
            self._memory = await self._ask(lambda catalog: recall(catalog, self._started))
            for receipt, lost in self._early:
                self._heard(receipt, lost=lost)
            self._early.clear()
        return self._memory

    async def _keep(self, notices: Sequence[Notice], memory: Memory) -> None:
        """Write down what was told and what is remembered; a disk that refuses keeps nobody uninformed."""
        try:
            await self._ask(lambda catalog: keep(catalog, notices, memory))
        except BackupdError as error:
            log.error(f"what was told cannot be recorded: {error.message}", code=error.code, hint=error.hint)

    # Sending

    async def _send(self) -> float:
        """Send what is due; returns the seconds until the next is."""
        memory = self._memory
        if memory is None or self._stopping:
            return _INTERVAL
        now = self._clock.now()
        whole = {DATABASE_CHANNEL}
        box, batches = outbox.batches(memory.outbox, now, together=ways.TOGETHER, whole=whole)
        self._memory = msgspec.structs.replace(memory, outbox=box)
        targets = self._targets()
        parcels = [
            (targets[name], await self._letters(name, items)) for name, items in batches.items() if name in targets
        ]
        if parcels:
            self._idle.clear()
            try:
                await self._settle(await dispatch(parcels))
            finally:
                self._idle.set()
        wait = outbox.next_due(self._memory.outbox, self._clock.now())
        return _INTERVAL if wait is None else wait

    async def _letters(self, channel: str, items: Sequence[Outgoing]) -> list[Message]:
        sender = self._sender(channel)
        return [
            report_message(await self._review(item.notice.count), item.notice.id, sender)
            if item.notice.event is Event.REPORT
            else compose(item.notice, sender)
            for item in items
        ]

    async def _settle(self, receipts: Sequence[Receipt]) -> None:
        """Take note of what arrived and what did not, in the journal and on record."""
        memory = self._memory
        assert memory is not None
        before = memory.outbox
        settled = outbox.settle(before, receipts, self._clock.now())
        self._memory = memory = msgspec.structs.replace(memory, outbox=settled.outbox)
        for item, receipt in settled.sent:
            log.debug(f"told {item.channel}: {item.notice.event}", run=item.notice.run or None)
            if item.channel in before.failing:
                log.info(f"channel {item.channel} works again: {receipt.answer}")
        for item, receipt in (*settled.waiting, *settled.lost):
            self._log_failure(item.channel, receipt, first=item.channel not in before.failing)
        changes = [
            *((item, "sent", receipt) for item, receipt in settled.sent),
            *((item, "waiting", receipt) for item, receipt in settled.waiting),
            *((item, "failed", receipt) for item, receipt in settled.lost),
        ]
        try:
            await self._ask(lambda catalog: note(catalog, changes, memory))
        except BackupdError as error:
            log.error(f"what was told cannot be recorded: {error.message}", code=error.code, hint=error.hint)
        if settled.lost or set(before.failing) != set(settled.outbox.failing):
            self._wake.set()

    def _heard(self, receipt: Receipt, *, lost: bool = True) -> None:
        """Take note of what came of a ping or a test; before what is remembered was read, that has to wait."""
        if self._memory is None:
            self._early.append((receipt, lost))
            return
        box = self._memory.outbox
        if not receipt.ok:
            self._log_failure(receipt.channel, receipt, first=receipt.channel not in box.failing)
        box = outbox.heard(box, receipt, self._clock.now(), lost=lost)
        self._memory = msgspec.structs.replace(self._memory, outbox=box)
        self._wake.set()

    def _log_failure(self, channel: str, receipt: Receipt, *, first: bool) -> None:
        level = "warning" if first else "debug"
        text = f"channel {channel}: a message did not arrive: {receipt.answer}"
        getattr(log, level)(text, code=receipt.code or None, hint=receipt.hint or None)

    def _targets(self) -> dict[str, Target]:
        return ways.targets(self._host) | self._beats.targets()

    def _sender(self, channel: str) -> Sender:
        return ways.sender(self._host, channel, self._name)


def _unreadable(error: BackupdError) -> Fault:
    """Say that the catalog cannot be read, so that nothing else is known."""
    return Fault(
        key="catalog",
        text=error.message,
        severity=Severity.ERROR,
        event=Event.UNHEALTHY,
        reason=error.message,
        hint=error.hint,
        code=error.code,
        patience=_LOCKED,
        settle=_LOCKED,
    )
