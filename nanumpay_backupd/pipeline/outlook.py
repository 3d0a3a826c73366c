"""What retention says of a job's copies, place by place, now or at a later moment. Nothing is deleted here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from nanumpay_backupd.catalog import Catalog, Held
from nanumpay_backupd.model import LOCAL, SLICES, Kind, Lock, OpTime
from nanumpay_backupd.pipeline.layout import backup_id
from nanumpay_backupd.pipeline.pins import BY_GROUP
from nanumpay_backupd.retention import (
    Candidate,
    Coming,
    Decision,
    SliceCandidate,
    decide_place,
    deleting_order,
    foresee,
)
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.system.clock import host_timezone
from nanumpay_backupd.system.units import human_size

__all__ = [
    "PruneLine",
    "Seen",
    "as_locked",
    "gone_by",
    "in_order",
    "look",
    "plan",
    "plan_ahead",
    "together",
    "too_large",
    "worth_having",
]

_ASK_AGAIN: Final = timedelta(days=1)
"""How long after a look at a lock without an end it is looked at again."""
_NOWHERE: Final = OpTime(0, 0)
_FEW: Final = 3
"""As many slices are named one by one."""


class PruneLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What retention says of one copy; ``action`` is ``keep``, ``delete``, or ``locked``: to be deleted, but locked.

    ``locked_until`` is when the lock ends, None: there is none, or it has no end. ``assumed``: the copy is not there
    yet, and would be by then. ``slices``: so many are meant, of which this one is named (`together`); 0: only this one.
    """

    backup: str
    destination: str
    action: str
    reason: str
    size: int
    locked_until: datetime | None = None
    assumed: bool = False
    slices: int = 0


class Seen(NamedTuple):
    """What the catalog tells of a job's copies: those that are present, locks by backup and place, daemon's pins."""

    held: Sequence[Held]
    locks: Mapping[tuple[str, str], Lock]
    anchors: Collection[str]


def look(catalog: Catalog, job: str) -> Seen:
    """Read what `plan` needs to know of a job."""
    # What is kept because of its group leads on from nothing that would have to stay with it.
    anchors = {pin.backup for pin in catalog.pins() if pin.by_daemon and pin.owner != BY_GROUP}
    return Seen(catalog.held(job), catalog.locks(job), anchors)


def plan(job: JobSpec, seen: Seen, now: datetime) -> list[PruneLine]:
    """Say for every present copy of a job's backups whether retention keeps or deletes it, place by place."""
    zone = _zone(job)
    lines: list[PruneLine] = []
    for place in _places(job):
        whole, slices, sizes = _at(place, seen)
        decisions = decide_place(whole, slices, job.policy_at(place), now, zone)
        lines += _lines(decisions, place, sizes, seen.locks, now)
    return lines


def gone_by(lines: Iterable[PruneLine]) -> set[str]:
    """Return the backups of which no copy stays."""
    lines = list(lines)
    return {line.backup for line in lines if line.action == "delete"} - {
        line.backup for line in lines if line.action != "delete"
    }


def in_order(seen: Seen, place: str, doomed: Collection[str]) -> list[str]:
    """Put the backups whose copies at a place are to be deleted into the order in which they go."""
    going = seen._replace(held=[item for item in seen.held if item.destination == place and item.id in doomed])
    whole, slices, _ = _at(place, going)
    return deleting_order([*whole, *slices])


def worth_having(job: JobSpec, seen: Seen, place: str, now: datetime, meant: Collection[str]) -> list[str]:
    """Return which backups retention would keep at a place if good copies of all that are ``meant`` lay there.

    In the order in which they were made: each chain from its beginning.
    """
    there: dict[str, Held] = {}
    for item in seen.held:
        if item.id in meant and not (item.corrupt and item.id in there):
            there[item.id] = msgspec.structs.replace(item, destination=place, corrupt=False)
        elif item.destination == place:
            there.setdefault(item.id, item)
    whole, slices, _ = _at(place, seen._replace(held=list(there.values())))
    decisions = decide_place(whole, slices, job.policy_at(place), now, _zone(job))
    kept = [there[one.backup] for one in decisions if one.keep and one.backup in meant]
    return [item.id for item in sorted(kept, key=lambda item: (item.created, item.kind in SLICES, item.id))]


def plan_ahead(job: JobSpec, seen: Seen, at: datetime, due: Sequence[datetime] = ()) -> list[PruneLine]:
    """Say what a prune at a later moment will do; ``due`` are the times at which fulls are assumed to be made.

    They are assumed to be as large as the newest one at each place, and to bring as many slices as there were of late.
    Of what is assumed only what is kept then is told.
    """
    zone = _zone(job)
    names = [backup_id(job.name, moment) for moment in due]
    lines: list[PruneLine] = []
    for place in _places(job):
        whole, slices, sizes = _at(place, seen)
        coming = _coming(job, whole, slices, due, names) if due else None
        decisions = foresee(whole, slices, job.policy_at(place), at, zone, coming)
        there = [decision for decision in decisions if decision.backup in sizes]
        lines += _lines(there, place, sizes, seen.locks, at)
        if coming is not None:
            assumed = [decision for decision in decisions if decision.backup not in sizes and decision.keep]
            made = {item.backup: item.size for both in coming.arrivals() for item in both if item is not None}
            lines += [
                PruneLine(one.backup, place, "keep", one.reason, made[one.backup], assumed=True) for one in assumed
            ]
    return lines


def together(job: str, lines: Iterable[PruneLine]) -> list[PruneLine]:
    """Make one line of a job's slices of which the same is said, where they are more than a few; ``size`` is of all.

    A stream has tens of thousands of them, and people read two lines about it.
    """
    ours = (f"{job}-slice-", f"{job}-diff-")
    found: list[PruneLine] = []
    alike: dict[tuple[str, str, str, datetime | None], list[PruneLine]] = {}
    for line in lines:
        if line.backup.startswith(ours):
            key = (line.destination, line.action, line.reason, line.locked_until)
            alike.setdefault(key, []).append(line)
        else:
            found.append(line)
    for same in alike.values():
        if len(same) <= _FEW:
            found += same
            continue
        size = sum(line.size for line in same)
        found.append(msgspec.structs.replace(same[0], size=size, slices=len(same)))
    return found


def too_large(job: JobSpec, lines: Iterable[PruneLine]) -> list[str]:
    """Say of which places more stays than may lie there, because none of it may be deleted."""
    stays: dict[str, int] = {}
    for line in lines:
        if line.action != "delete":
            stays[line.destination] = stays.get(line.destination, 0) + line.size
    return [
        f"at {place}, {human_size(size)} of job {job.name} stay although max_total_size is {human_size(most)}: "
        "what is left is locked, pinned, or never deleted"
        for place, size in stays.items()
        if 0 < (most := job.policy_at(place).max_total_size) < size
    ]


def as_locked(line: PruneLine, lock: Lock | None) -> PruneLine:
    """Say of what is to be deleted that its place does not let it go."""
    if lock is None:
        return line
    until = "until somebody lifts it" if lock.until is None else f"until {lock.until:%Y-%m-%d %H:%M} UTC"
    reason = f"locked there {until}; then it goes: {line.reason}"
    return msgspec.structs.replace(line, action="locked", reason=reason, locked_until=lock.until)


def _zone(job: JobSpec) -> tzinfo:
    """Return the zone whose days count: that of the job's schedules."""
    name = job.timezone or (job.schedule.timezone if job.schedule is not None else "")
    return ZoneInfo(name) if name else host_timezone()


def _places(job: JobSpec) -> tuple[str, ...]:
    return (LOCAL, *(destination.name for destination in job.destinations))


def _at(place: str, seen: Seen) -> tuple[list[Candidate], list[SliceCandidate], dict[str, int]]:
    """Return what lies at a place: fulls and snapshots, slices, and the size of each."""
    here = [item for item in seen.held if item.destination == place]
    # Where slices begin is asked only of chains that are pinned.
    exact = any(item.pinned for item in here if item.kind in SLICES)
    whole: list[Candidate] = []
    slices: list[SliceCandidate] = []
    for item in here:
        good = item.verified and not item.corrupt
        if item.kind in SLICES:
            start = OpTime.parse(item.start) if exact else _NOWHERE
            end = OpTime.parse(item.end)
            slices.append(SliceCandidate(item.id, item.created, end, item.pinned, start, good, item.size))
        else:
            whole.append(_candidate(item, seen.anchors, good=good))
    return whole, slices, {item.id: item.size for item in here}


def _candidate(item: Held, anchors: Collection[str], *, good: bool) -> Candidate:
    return Candidate(
        backup=item.id,
        created=item.created,
        good=good,
        legacy=item.kind is Kind.LEGACY,
        pinned=item.pinned,
        # Before its manifest was read anew nobody knows of what a snapshot is: such ones make a group of their own.
        group=f"collection {item.collection}" if item.kind is Kind.COLLECTION else "",
        size=item.size,
        moment=OpTime.parse(item.end) if item.kind is Kind.FULL and item.end else None,
        anchor=item.id in anchors,
    )


def _lines(
    decisions: Iterable[Decision],
    place: str,
    sizes: Mapping[str, int],
    locks: Mapping[tuple[str, str], Lock],
    now: datetime,
) -> list[PruneLine]:
    words = {True: "keep", False: "delete"}
    lines = [PruneLine(one.backup, place, words[one.keep], one.reason, sizes[one.backup]) for one in decisions]
    if not any(where == place for _, where in locks):
        return lines
    return [
        as_locked(line, lock)
        if line.action == "delete" and (lock := locks.get((line.backup, place))) is not None and _holds(lock, now)
        else line
        for line in lines
    ]


def _holds(lock: Lock, now: datetime) -> bool:
    """Tell whether there is no use yet in asking again."""
    return now < (lock.until if lock.until is not None else lock.asked + _ASK_AGAIN)


def _coming(
    job: JobSpec,
    whole: Iterable[Candidate],
    slices: Sequence[SliceCandidate],
    due: Sequence[datetime],
    names: Sequence[str],
) -> Coming:
    """Assume that what comes is like what came last."""
    fulls = [item for item in whole if item.good and not item.group]
    newest = max(fulls, key=lambda item: (item.created, item.backup), default=None)
    size = newest.size if newest is not None else 0
    since = newest.moment.moment if newest is not None and newest.moment is not None else None
    if since is None or not (job.pitr or job.incremental) or not slices:
        return Coming(due, names, size, moments=since is not None)
    last = max(item.end for item in slices)
    span = (last.moment - min(item.created for item in slices)).total_seconds()
    rate = sum(item.size for item in slices) / span if span > 0 else 0.0
    return Coming(due, names, size, moments=True, slices=rate, since=max(since, last.moment.astimezone(UTC)))
