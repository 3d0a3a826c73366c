"""When people are told, and by which channel: once when a fault begins, once when it ends, seldom in between. Pure.

What there is to tell comes in as `events.Fault` (what is wrong now, all of it) and `events.News` (what happened once);
what goes out are deliveries. Everything remembered is in `State`, which is kept over restarts by whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from nanumpay_backupd.events import Event, Fault, News, Severity

__all__ = [
    "Delivery",
    "Held",
    "Notice",
    "NoticeRecord",
    "Phase",
    "Policy",
    "Raised",
    "Rule",
    "Sent",
    "State",
    "Step",
    "is_quiet",
    "merged",
    "step",
]

_HOUR: Final = timedelta(hours=1)
_MOST_HELD: Final = 300
"""Notices kept for one channel; of more the oldest and least important go."""
_MOST_PARTS: Final = 40
"""Notices that a summary names; the others it counts."""


class Phase(StrEnum):
    """What a notice says of its subject: that it happened (``once``), or at what point a fault is."""

    ONCE = "once"
    BEGAN = "began"
    CHANGED = "changed"
    REMINDER = "reminder"
    ENDED = "ended"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people are told: one thing at one time.

    ``of`` is the event whose fault this is about; ``event`` is the same, or ``healthy`` when it ended. ``since`` is
    when the fault began, ``count`` how often it showed. A summary holds ``parts``, and ``more`` that it only counts.
    """

    id: str
    at: datetime
    phase: Phase
    event: Event
    of: Event
    severity: Severity
    key: str = ""
    job: str = ""
    run: str = ""
    backup: str = ""
    text: str = ""
    reason: str = ""
    hint: str = ""
    code: str = ""
    since: datetime | None = None
    count: int = 1
    details: tuple[tuple[str, str], ...] = ()
    parts: tuple[Notice, ...] = ()
    more: int = 0


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a notice on one way: ``state`` is waiting, sent or failed; ``answer`` what the service said."""

    channel: str
    state: str = "waiting"
    attempts: int = 0
    answer: str = ""


class NoticeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A notice as the catalog keeps it."""

    notice: Notice
    sent: tuple[Sent, ...] = ()


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel is told: what is at least so severe (None: nothing by that), and the events named.

    ``jobs`` empty: of all jobs. What concerns no job is told in either case.
    """

    channel: str
    severity: Severity | None = Severity.WARNING
    events: frozenset[Event] = frozenset()
    jobs: frozenset[str] = frozenset()

    def wants(self, event: Event, severity: Severity, job: str = "", key: str = "") -> bool:
        """Tell whether the channel is to be told. That it fails itself is told by the others only."""
        if key == f"channel:{self.channel}" or (self.jobs and job and job not in self.jobs):
            return False
        heavy = self.severity is not None and severity.weight >= self.severity.weight
        return heavy or event in self.events


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How people are told. ``remind``: seconds until a fault that lasts is told again, 0: never.

    ``quiet``: between these times of day (of ``zone``) good news waits. ``cap``: messages per channel and hour;
    ``together``: so many at once are told one by one, more as one summary.
    """

    rules: tuple[Rule, ...] = ()
    remind: float = 86400.0
    quiet: tuple[time, time] | None = None
    zone: tzinfo = UTC
    cap: int = 12
    together: int = 3


class Raised(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that was seen, and what was told of it.

    ``told`` None: it has not lasted long enough yet, else when it was told last, to ``channels``. ``causes`` are the
    codes it was told with, ``worst`` its worst severity so far. ``gone``: since when it is away, but may come back.
    """

    fault: Fault
    since: datetime
    told: datetime | None = None
    channels: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    worst: Severity = Severity.INFO
    count: int = 1
    gone: datetime | None = None


class Held(msgspec.Struct, frozen=True):
    """A notice that waits for a channel: for the end of the quiet hours, or for room under its cap."""

    channel: str
    notice: Notice


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered. ``sent``: when each channel was sent something within the last hour."""

    raised: dict[str, Raised] = {}
    held: tuple[Held, ...] = ()
    sent: dict[str, tuple[datetime, ...]] = {}
    serial: int = 0


class Delivery(NamedTuple):
    """What one channel is sent now."""

    channel: str
    notice: Notice


class Step(NamedTuple):
    """What comes of a step: the state to keep, the notices for the record, and what is to be sent."""

    state: State
    notices: list[Notice]
    deliveries: list[Delivery]


def step(
    state: State,
    policy: Policy,
    now: datetime,
    *,
    faults: Sequence[Fault] | None = None,
    news: Sequence[News] = (),
    hush: Collection[str] = (),
    jobs: Collection[str] | None = None,
) -> Step:
    """Work out what is to be told now.

    ``faults`` is all that is wrong at this moment (None: not looked). ``hush`` are keys of faults of which nothing is
    said now, neither that they began nor that they ended. ``jobs``: what was wrong with others is forgotten silently;
    None: all count.
    """
    teller = _Teller(state, policy, now)
    if faults is not None:
        teller.look([fault for fault in faults if fault.event is not None], frozenset(hush), jobs)
    for item in news:
        teller.tell_news(item)
    held, sent, deliveries = _routed(state, policy, now, teller.wanted)
    done = State(raised=teller.raised, held=held, sent=sent, serial=teller.serial)
    return Step(done, teller.notices, deliveries)


class _Teller:
    """One step: which notices there are, and which channels want each."""

    def __init__(self, state: State, policy: Policy, now: datetime) -> None:
        self.raised = dict(state.raised)
        self.serial = state.serial
        self.notices: list[Notice] = []
        self.wanted: list[Delivery] = []
        self._policy = policy
        self._now = now
        self._ended: set[tuple[str, str]] = set()

    def look(self, faults: Iterable[Fault], hush: frozenset[str], jobs: Collection[str] | None) -> None:
        """Compare what is wrong with what was wrong before."""
        present = {fault.key: fault for fault in faults}
        for key in [key for key in self.raised if key not in present]:
            self._absent(key, self.raised[key], hushed=key in hush, known=_known(self.raised[key].fault, jobs))
        for key, fault in present.items():
            if key not in hush and _known(fault, jobs):
                self._present(key, fault)

    def tell_news(self, news: News) -> None:
        """Tell what happened, but not twice: who hears just now that its fault has ended knows it."""
        notice = self._notice(Phase.ONCE, news.event, news.severity, news, details=news.details)
        self._offer(notice, lambda rule: (news.key, rule.channel) not in self._ended and _wants(rule, notice))

    def _present(self, key: str, fault: Fault) -> None:
        now = self._now
        before = self.raised.get(key) or Raised(fault=fault, since=now)
        if before.since > now:  # the clock may have been set back
            before = msgspec.structs.replace(before, since=now)
        if before.told is not None and before.told > now:
            before = msgspec.structs.replace(before, told=now)
        if not fault.reason and not fault.code:  # it lasts, but nothing tells any more why it began
            was = before.fault
            fault = msgspec.structs.replace(fault, reason=was.reason, hint=was.hint, code=was.code)
        again = before.fault.occurrence != fault.occurrence
        seen = msgspec.structs.replace(before, fault=fault, gone=None, count=before.count + again)
        phase = _phase(seen, self._policy, now)
        if phase is None:
            self.raised[key] = seen
            return
        assert fault.event is not None  # the others were left out
        notice = self._notice(phase, fault.event, fault.severity, fault, since=seen.since, count=seen.count)
        told = self._offer(notice, lambda rule: _wants(rule, notice))
        self.raised[key] = msgspec.structs.replace(
            seen,
            told=now,
            channels=tuple(dict.fromkeys((*seen.channels, *told))),
            causes=tuple(dict.fromkeys((*seen.causes, fault.code))),
            worst=max(seen.worst, fault.severity, key=lambda severity: severity.weight),
        )

    def _absent(self, key: str, before: Raised, *, hushed: bool, known: bool) -> None:
        """Take note that a fault is not there: it has ended, unless it is one of those that come and go."""
        now = self._now
        gone = min(before.gone or now, now)  # the clock may have been set back
        if before.told is not None and known and not hushed:
            if (now - gone).total_seconds() < before.fault.settle:
                self.raised[key] = msgspec.structs.replace(before, gone=gone)
                return
            self._tell_end(before)
        del self.raised[key]

    def _tell_end(self, before: Raised) -> None:
        fault = before.fault
        assert fault.event is not None
        notice = self._notice(
            Phase.ENDED, fault.event, Severity.INFO, fault, since=before.since, count=before.count, event=Event.HEALTHY
        )
        told = self._offer(notice, lambda rule: rule.channel in before.channels or _names(rule, notice))
        self._ended.update((fault.key, channel) for channel in told)

    def _notice(
        self,
        phase: Phase,
        of: Event,
        severity: Severity,
        about: Fault | News,
        *,
        event: Event | None = None,
        since: datetime | None = None,
        count: int = 1,
        details: tuple[tuple[str, str], ...] = (),
    ) -> Notice:
        self.serial += 1
        return Notice(
            id=f"{self._now:%Y%m%d-%H%M%S}-{self.serial}",
            at=self._now,
            phase=phase,
            event=event or of,
            of=of,
            severity=severity,
            key=about.key,
            job=about.job,
            run=about.occurrence if isinstance(about, Fault) else about.run,
            backup=about.backup,
            text=about.text if isinstance(about, Fault) else "",
            reason=about.reason,
            hint=about.hint,
            code=about.code,
            since=since,
            count=count,
            details=details,
        )

    def _offer(self, notice: Notice, wants: Callable[[Rule], bool]) -> list[str]:
        """Keep a notice for the record, and for the channels that want it; returns those."""
        self.notices.append(notice)
        channels = [rule.channel for rule in self._policy.rules if wants(rule)]
        self.wanted += [Delivery(channel, notice) for channel in channels]
        return channels


def _known(fault: Fault, jobs: Collection[str] | None) -> bool:
    return not fault.job or jobs is None or fault.job in jobs


def _wants(rule: Rule, notice: Notice) -> bool:
    return rule.wants(notice.event, notice.severity, notice.job, notice.key)


def _names(rule: Rule, notice: Notice) -> bool:
    """Tell whether a channel asks for the end of faults by name, also of those that it was not told of."""
    return Event.HEALTHY in rule.events and _wants(rule, notice)


def _phase(seen: Raised, policy: Policy, now: datetime) -> Phase | None:
    """Say what is to be told of a fault that is there, None: nothing."""
    fault = seen.fault
    if seen.told is None:
        return Phase.BEGAN if (now - seen.since).total_seconds() >= fault.patience else None
    # Each cause is told once: a fault that goes to and fro between two is not told for ever.
    if fault.severity.weight > seen.worst.weight or fault.code not in seen.causes:
        return Phase.CHANGED
    late = policy.remind > 0 and (now - seen.told).total_seconds() >= policy.remind
    return Phase.REMINDER if late else None


def is_quiet(policy: Policy, now: datetime) -> bool:
    """Tell whether it is the time of day at which good news waits; the hours may reach over midnight."""
    if policy.quiet is None:
        return False
    first, last = policy.quiet
    here = now.astimezone(policy.zone).time()
    return first <= here < last if first <= last else here >= first or here < last


def _routed(
    state: State, policy: Policy, now: datetime, fresh: list[Delivery]
) -> tuple[tuple[Held, ...], dict[str, tuple[datetime, ...]], list[Delivery]]:
    """Share out what is to be sent: what has to wait is held, what is too much becomes one summary."""
    quiet = is_quiet(policy, now)
    held: list[Held] = []
    sent: dict[str, tuple[datetime, ...]] = {}
    deliveries: list[Delivery] = []
    for rule in policy.rules:
        channel = rule.channel
        waiting = [item.notice for item in state.held if item.channel == channel]
        waiting += [item.notice for item in fresh if item.channel == channel]
        recent = tuple(at for at in state.sent.get(channel, ()) if now - _HOUR < at <= now)
        going = [notice for notice in waiting if not (quiet and _can_wait(notice))]
        room = policy.cap - len(recent)
        if room <= 0:
            going = []
        left = {notice.id for notice in going}
        held += [Held(channel, notice) for notice in _bounded([item for item in waiting if item.id not in left])]
        if len(going) > min(room, policy.together):
            going = [merged(going, now)]
        deliveries += [Delivery(channel, notice) for notice in going]
        if recent or going:
            sent[channel] = (*recent, *(now for _ in going))
    return tuple(held), sent, deliveries


def _can_wait(notice: Notice) -> bool:
    """Tell whether a notice is good news. That a fault has ended is not: somebody may be up because of it."""
    return notice.severity is Severity.INFO and notice.phase is Phase.ONCE


def _bounded(waiting: list[Notice]) -> list[Notice]:
    if len(waiting) <= _MOST_HELD:
        return waiting
    kept = sorted(waiting, key=lambda notice: notice.severity.weight)[-_MOST_HELD:]
    names = {notice.id for notice in kept}
    return [notice for notice in waiting if notice.id in names]


def merged(notices: Sequence[Notice], now: datetime) -> Notice:
    """Make one notice of many; the severe ones are named first. Summaries among them give what they hold."""
    parts = [part for notice in notices for part in (notice.parts or (notice,))]
    more = sum(notice.more for notice in notices)
    ranked = sorted(parts, key=lambda notice: -notice.severity.weight)
    return Notice(
        id=f"{notices[-1].id}-all",
        at=now,
        phase=Phase.ONCE,
        event=Event.SUMMARY,
        of=Event.SUMMARY,
        severity=ranked[0].severity,
        count=len(parts) + more,
        parts=tuple(ranked[:_MOST_PARTS]),
        more=max(0, len(ranked) - _MOST_PARTS) + more,
    )
