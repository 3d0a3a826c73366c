"""The checks of one job, from what the catalog knows and the last looks saw. Looks at nothing live, tells nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.health.ages import allowed_age, ending
from nanumpay_backupd.health.room import drift, full_in
from nanumpay_backupd.lookout import Ending, Sight
from nanumpay_backupd.model import LOCAL, Backup, BackupState, CopyState, Kind, OddityRecord
from nanumpay_backupd.monitoring.checks import (
    AGE,
    CHAIN,
    EXPIRY,
    FAILED,
    ODD,
    OK,
    REACH,
    ROOM,
    SIZE,
    VERIFIED,
    WARNING,
    Check,
)
from nanumpay_backupd.monitoring.memory import Memory
from nanumpay_backupd.pipeline.chains import known
from nanumpay_backupd.pipeline.oddities import OPEN, PINNED
from nanumpay_backupd.plans import slice_interval
from nanumpay_backupd.scheduler import upcoming
from nanumpay_backupd.settings.schema import HealthLimits, JobSpec, Schedule
from nanumpay_backupd.system.units import human_size, human_span
from nanumpay_backupd.timeline import gaps

__all__ = ["Facts", "allowed_ages", "gather", "judge", "places_of"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_FEW: Final = 50
_AHEAD: Final = 10
"""Due times from which the pauses of a schedule are learned."""
_FRESH_GAP: Final = timedelta(days=7)
_LATE: Final = 3.0
_CAUGHT_UP: Final = 900.0
"""Slices are late when the last is so many pauses, and as many seconds more, ago."""
_SKEW: Final = timedelta(hours=1)
_DAY: Final = 86400.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalog knows of a job. ``gaps`` None: it was not looked for any."""

    fulls: tuple[Backup, ...]
    sizes: dict[str, tuple[int, int]]
    odd: tuple[OddityRecord, ...]
    gaps: tuple[tuple[datetime, datetime], ...] | None = None


def places_of(job: JobSpec) -> tuple[str, ...]:
    """Return the names of all places of a job, the backups folder first."""
    return (LOCAL, *(destination.name for destination in job.destinations))


def gather(catalog: Catalog, job: JobSpec, *, thorough: bool = False) -> Facts:
    """Read what is to be judged; ``thorough`` also what takes long where there are many slices."""
    everything = thorough or bool(job.verify) or any(job.health_at(place).max_verify_age for place in places_of(job))
    sized = thorough or any(job.health_at(place).max_total_size for place in places_of(job))
    found = None
    if thorough and (job.pitr or job.incremental):
        found = tuple((gap.after.moment, gap.before.moment) for gap in gaps(known(catalog, job.name).ranges))
    return Facts(
        fulls=tuple(catalog.backups(job.name, None if everything else _FEW, {Kind.FULL})),
        sizes=catalog.sizes(job.name) if sized else {},
        odd=tuple(catalog.oddities(job.name, OPEN)),
        gaps=found,
    )


def allowed_ages(job: JobSpec, limits: HealthLimits, now: datetime) -> tuple[float, float]:
    """Return how old the newest backup, and the last reading of a copy, may be (seconds); 0: no limit."""
    age, verify = limits.max_age, limits.max_verify_age
    if age is None:
        age = _by_schedule(job.schedule, now) if job.enabled else 0.0
    if verify is None:
        schedule = Schedule(cron=job.verify, timezone=job.timezone) if job.verify else None
        verify = _by_schedule(schedule, now) if job.enabled else 0.0
    return age, verify


def _by_schedule(schedule: Schedule | None, now: datetime) -> float:
    if schedule is None or not schedule.cron:
        return 0.0
    return allowed_age(list(itertools.islice(upcoming(schedule, now), _AHEAD)))


def judge(job: JobSpec, shown: dict[str, Any], facts: Facts, memory: Memory, now: datetime) -> list[Check]:
    """Return all checks of a job; ``shown`` is the job as the interface's type Job (``control.facts``)."""
    found: list[Check] = []
    reached = {place: memory.sight(job.name, place) for place in places_of(job)}
    found += _odd(job, facts)
    found += _changes(job, shown, facts, now)
    found += _own(job, memory.sight(job.name, ""), now)
    for place, sight in reached.items():
        limits = job.health_at(place)
        age, verify = allowed_ages(job, limits, now)
        found += _reach(job, place, sight, facts)
        found += _age(job, place, facts, now, age)
        found += _size(job, place, facts, limits)
        found += _verified(job, place, facts, now, verify)
        found += _room(job, place, sight, facts, memory, limits)
        if sight is not None:
            over = sight.fault is not None and sight.fault.code == "destination-tls"
            found += [
                _ends(job, place, one, now, limits, (f"{REACH}-{place}:{job.name}",) if over else ())
                for one in sight.endings
            ]
    return found


def _reach(job: JobSpec, place: str, sight: Sight | None, facts: Facts) -> Iterator[Check]:
    if sight is None:
        return
    if sight.fault is None:
        took = f"{sight.seconds:.1f} s"
        yield _check(job, place, REACH, OK, f"answered in {took}", value=took)
        return
    # That uploads wait for it is told already, and so is a run that could not use the folder.
    told = [f"copies:{job.name}"] if _waits(facts, place) else []
    told += [f"backup:{job.name}={sight.fault.code}"] if place == LOCAL else []
    fault = sight.fault
    yield _check(job, place, REACH, FAILED, fault.message, hint=fault.hint, value="no", code=fault.code, told=told)


def _age(job: JobSpec, place: str, facts: Facts, now: datetime, limit: float) -> Iterator[Check]:
    """Judge how old the newest good backup is."""
    good = [full for full in facts.fulls if _good(full) and _at(full, place)]
    # One from the future was made while the clock was wrong: it must not stand for all that should come until then.
    newest = next((full for full in good if full.created - now <= _SKEW), good[0] if good else None)
    if newest is None:
        if facts.fulls or (limit and place == LOCAL):
            yield _none(job, place, facts)
        return
    age = (now - newest.created).total_seconds()
    if not limit or age <= limit:
        text = f"the newest verified backup is {human_span(age)} old"
        text += f" (limit {human_span(limit)})" if limit else ""
        yield _check(job, place, AGE, OK, text, value=human_span(age))
        return
    told = [f"backup:{job.name}", f"rpo:{job.name}", f"disabled:{job.name}"]
    if place != LOCAL:
        told += [f"copies:{job.name}", f"{REACH}-{place}:{job.name}", f"{AGE}-{LOCAL}:{job.name}"]
    yield _check(
        job,
        place,
        AGE,
        FAILED,
        f"the newest verified backup, {newest.id}, is {human_span(age)} old; the limit is {human_span(limit)}",
        hint=f"see why there is none since: backupctl runs; make one now: backupctl run {job.name}",
        value=human_span(age),
        code="backup-old",
        told=told,
        backup=newest.id,
    )


def _none(job: JobSpec, place: str, facts: Facts) -> Check:
    """Say that no good backup is at a place; one that was added just now gets its first copy with the next run."""
    lost = any(copy.destination == place for full in facts.fulls for copy in full.copies)
    lost = lost and not _waits(facts, place)
    return _check(
        job,
        place,
        AGE,
        FAILED if lost else WARNING,
        "no verified backup is there" + ("" if lost else " yet"),
        hint=f"make one now: backupctl run {job.name}",
        value="none",
        code="backup-old",
        told=[f"copies:{job.name}", f"backup:{job.name}", f"disabled:{job.name}"],
        silent=not lost,
    )


def _size(job: JobSpec, place: str, facts: Facts, limits: HealthLimits) -> Iterator[Check]:
    if place not in facts.sizes:
        return
    count, size = facts.sizes[place]
    most = limits.max_total_size
    said = f"{count:,} {'copy' if count == 1 else 'copies'}, {human_size(size)}"
    if not most or size <= most:
        text = f"{said} (limit {human_size(most)})" if most else said
        yield _check(job, place, SIZE, OK, text, value=human_size(size))
        return
    text = f"{said}: more than the {human_size(most)} that max_total_size allows"
    hint = f"see what retention keeps and why: backupctl prune {job.name}; shorten it, or raise the limit"
    yield _check(job, place, SIZE, FAILED, text, hint=hint, value=human_size(size), code="size-exceeded")


def _verified(job: JobSpec, place: str, facts: Facts, now: datetime, limit: float) -> Iterator[Check]:
    """Judge how long ago the copy was read (or written) that was not read for the longest time."""
    if not limit:
        return
    read = [
        copy.updated
        for full in facts.fulls
        for copy in full.copies
        if copy.destination == place and copy.state in _PRESENT
    ]
    if not read:
        return
    age = (now - min(read)).total_seconds()
    text = f"every copy was read within {human_span(age)}"
    if age <= limit:
        yield _check(job, place, VERIFIED, OK, f"{text} (limit {human_span(limit)})", value=human_span(age))
        return
    text = f"a copy was not read for {human_span(age)}; the limit is {human_span(limit)}"
    hint, value = f"read them again: backupctl verify --job {job.name}", human_span(age)
    told = [f"verify:{job.name}", f"{REACH}-{place}:{job.name}", f"disabled:{job.name}"]
    yield _check(job, place, VERIFIED, FAILED, text, hint=hint, value=value, code="verify-overdue", told=told)


def _room(
    job: JobSpec, place: str, sight: Sight | None, facts: Facts, memory: Memory, limits: HealthLimits
) -> Iterator[Check]:
    """Judge when the disk of a place will be full."""
    if sight is None or sight.free is None or sight.device is None:
        return
    free, size = human_size(sight.free), next((full.size for full in facts.fulls if _good(full)), 0)
    taken = drift(memory.disks.get(str(sight.device), ()))
    days = full_in(sight.free, memory.need(sight.device), memory.horizon, taken)
    if sight.free < size:
        state, value = FAILED, free
        text = f"only {free} are free, and the next backup takes about {human_size(size)}"
    elif days is not None and days <= limits.disk_days:
        value = f"{days:.0f} {'day' if round(days) == 1 else 'days'}" if days >= 1 else "a day"
        state = WARNING
        text = f"the disk is full {'in' if days >= 1 else 'within'} {value}, as things go: {free} are free"
    else:
        yield _check(job, place, ROOM, OK, f"{free} are free", value=free)
        return
    yield _check(
        job,
        place,
        ROOM,
        state,
        text,
        hint=f"shorten retention (backupctl prune {job.name}), free space there, or take a larger disk",
        value=value,
        code="disk-filling",
        told=["disk"] if place == LOCAL else [],
        about=str(sight.device),
    )


def _odd(job: JobSpec, facts: Facts) -> Iterator[Check]:
    """Judge whether data is missing from fulls; one finding for each event."""
    if not (job.health.shrink_factor or job.health.grow_factor):
        return
    # The backup at which it was told may be gone by now: retention goes on.
    events = {item.event: item for item in reversed(facts.odd)}
    for event, item in reversed(events.items()):
        hint = f"look into the database; if it is meant: backupctl monitor --accept {item.backup}"
        pinned = [full for full in facts.fulls if PINNED in full.pinned and full.created < item.created]
        kept = next((full for full in pinned if event in full.pinned), pinned[0] if pinned else None)
        if item.loses and kept is not None:
            hint += f"; if not, what was there is in {kept.id}, which is pinned"
        state, value = (FAILED, "data missing") if item.loses else (WARNING, "grew")
        text, name = f"{item.backup} is odd: {item.text}", item.backup
        yield _check(job, "", ODD, state, text, hint=hint, value=value, code="backup-odd", about=event, backup=name)
    if not facts.odd and facts.fulls:
        yield _check(job, "", ODD, OK, "no full is known to lack what those before it held", value="as usual")


def _changes(job: JobSpec, shown: dict[str, Any], facts: Facts, now: datetime) -> Iterator[Check]:
    """Judge the slices: whether they come, follow on, and leave no gap."""
    guard, name = shown["protection"], job.name
    trouble, stream, age = guard["problem"] or {}, guard["stream"], guard["age"]
    pause = slice_interval(job, now)
    if stream == "off":
        return
    if stream != OK or trouble:
        text, hint = trouble.get("message") or f"the slices are {stream}", trouble.get("hint")
        state, code = FAILED if stream == "broken" else WARNING, trouble.get("code", "")
        hint = hint or f"backupctl timeline {name}"
        # Whatever it is, the status tells of it by itself.
        yield _check(job, "", CHAIN, state, text, hint=hint, value=stream, code=code, silent=True)
    elif pause is not None and age is not None and age > _LATE * pause + _CAUGHT_UP:
        span = human_span(age)
        text = f"nothing of the last {span} can be restored, and slices are planned every {human_span(pause)}"
        hint = f"see what is running: backupctl status; save the changes now: backupctl run {name} --kind incremental"
        told = [f"rpo:{name}", f"disabled:{name}", f"backup:{name}"]
        yield _check(job, "", CHAIN, WARNING, text, hint=hint, value=span, code="slices-late", told=told)
    else:
        yield _gaps(job, facts, now)


def _gaps(job: JobSpec, facts: Facts, now: datetime) -> Check:
    """Say which moments of the last days cannot be restored."""
    recent = [gap for gap in facts.gaps or () if now - gap[1] <= _FRESH_GAP]
    if not recent:
        return _check(job, "", CHAIN, OK, "the changes are saved without a gap", value="no gap")
    first, last = recent[-1]
    text = f"no moment between {first:%Y-%m-%d %H:%M:%S} and {last:%Y-%m-%d %H:%M:%S} UTC can be restored"
    text += f", and {len(recent) - 1} gaps more within 7 days" if len(recent) > 1 else ""
    # It was told when the chain broke, and nothing can be done about it any more.
    return _check(job, "", CHAIN, WARNING, text, hint=f"backupctl timeline {job.name}", value="gap", silent=True)


def _own(job: JobSpec, sight: Sight | None, now: datetime) -> Iterator[Check]:
    """Judge what belongs to no place: keys, certificates of MongoDB."""
    if sight is None:
        return
    if sight.fault is not None:
        fault = sight.fault
        told, code, text = [f"backup:{job.name}={fault.code}"], fault.code, fault.message
        yield _check(
            job, "", EXPIRY, FAILED, text, hint=fault.hint, value="unusable", code=code, told=told, about="keys"
        )
    for one in sight.endings:
        yield _ends(job, "", one, now, job.health, ())


def _ends(job: JobSpec, place: str, one: Ending, now: datetime, limits: HealthLimits, told: Sequence[str]) -> Check:
    state = ending(one.expires, now, limits.expiry_days)
    day = f"{one.expires:%Y-%m-%d}"
    if state == FAILED and one.harmless:
        state = WARNING
    left = (one.expires - now).total_seconds() / _DAY
    text = f"{one.what} ended on {day}" if left <= 0 else f"{one.what} ends on {day}, in {left:.0f} days"
    value, what = "over" if left <= 0 else f"{left:.0f} days", one.what
    if state == OK:
        return _check(job, place, EXPIRY, OK, text, value=value, about=what)
    return _check(job, place, EXPIRY, state, text, hint=one.hint, value=value, code="expiring", told=told, about=what)


def _good(full: Backup) -> bool:
    return full.state is BackupState.VERIFIED


def _at(full: Backup, place: str) -> bool:
    return any(copy.destination == place and copy.state in _PRESENT for copy in full.copies)


def _waits(facts: Facts, place: str) -> bool:
    return any(
        copy.destination == place and copy.state is CopyState.PENDING for full in facts.fulls for copy in full.copies
    )


def _check(
    job: JobSpec,
    place: str,
    check: str,
    state: str,
    message: str,
    *,
    hint: str = "",
    value: str = "",
    code: str = "",
    told: Sequence[str] = (),
    about: str = "",
    backup: str = "",
    silent: bool = False,
) -> Check:
    return Check(
        job=job.name,
        destination=place,
        check=check,
        state=state,
        message=message,
        hint=hint,
        value=value,
        code=code,
        told=tuple(told),
        about=about,
        backup=backup,
        silent=silent,
    )
