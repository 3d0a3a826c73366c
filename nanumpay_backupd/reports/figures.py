"""The figures of a report, gathered from the catalog: runs, sizes, growth, promises kept, copies. Nothing is worded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import FULLS, SLICES, Backup, BackupState, CopyState, Kind, Outcome, Run, Trigger
from nanumpay_backupd.pipeline.chains import known
from nanumpay_backupd.plans import Task
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.settings.sources import type_of

__all__ = ["Day", "JobReport", "PlaceReport", "Promise", "Report", "gather", "promise"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_RUNS: Final = 5_000
_RANK: Final = {
    Outcome.SUCCEEDED: 0,
    Outcome.SKIPPED: 1,
    Outcome.CANCELLED: 2,
    Outcome.DEGRADED: 3,
    Outcome.INTERRUPTED: 4,
    Outcome.FAILED: 5,
}


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Common shape."""


class Day(_Record, frozen=True):
    """One local day: how many backups were tried, the worst of how they ended, the bytes of the largest one made."""

    date: str
    runs: int = 0
    outcome: str = ""
    size: int = 0


class PlaceReport(_Record, frozen=True):
    """The copies of a job at one place: how many are there and their bytes, and how many are not as they should be."""

    destination: str
    copies: int = 0
    size: int = 0
    pending: int = 0
    missing: int = 0
    corrupt: int = 0


class Promise(_Record, frozen=True):
    """How an RPO was kept: the longest time that could have been lost (seconds), and the share of time it was kept."""

    worst: float
    kept: float


class JobReport(_Record, frozen=True):
    """One job. Sizes are bytes, durations seconds; ``outcomes`` counts its backups by how they ended.

    ``growth`` is the newest full's size less that of the last one before the time of the report (or the oldest within).
    ``rpo_kept`` is the share of the time, ``rpo_worst`` the longest loss there could have been; None: not known.
    """

    job: str
    enabled: bool
    outcomes: dict[str, int]
    made: int
    slices: int
    size: int
    growth: int | None
    documents: int
    total: int
    rpo: float
    rpo_kept: float | None
    rpo_worst: float | None
    rto: float
    restore_seconds: float | None
    last_drill: str | None
    drill_outcome: str
    next_run: str | None
    next_drill: str | None
    next_verify: str | None
    places: tuple[PlaceReport, ...]
    days: tuple[Day, ...]
    source: str = "mongodb"


class Report(_Record, frozen=True):
    """The last days of all jobs; ``problems`` is what is wrong now, worst first, ``health`` as of the status."""

    since: str
    until: str
    timezone: str
    host: str
    health: str
    problems: tuple[str, ...]
    jobs: tuple[JobReport, ...]

    @property
    def length(self) -> int:
        """Return how many days it is about."""
        span = datetime.fromisoformat(self.until) - datetime.fromisoformat(self.since)
        return max(1, round(span.total_seconds() / 86400))


DueOf = Callable[[str, Task], datetime | None]


def gather(
    catalog: Catalog,
    job: JobSpec,
    *,
    since: datetime,
    until: datetime,
    zone: tzinfo,
    due: DueOf,
    restore_seconds: float | None = None,
) -> JobReport:
    """Return the figures of one job between two moments."""
    runs = [run for run in catalog.runs(job.name, _RUNS, slices=False) if run.started >= since and _counts(run)]
    fulls = catalog.backups(job.name, kinds=FULLS)
    good = [item for item in fulls if item.state is BackupState.VERIFIED]
    within = [item for item in fulls if since <= item.created <= until]
    kept = promise(_recoverable(catalog, job.name), since, until, job.rpo)
    drill = catalog.last_run(job.name, "drill", Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED)
    outcomes: dict[str, int] = {}
    for run in runs:
        outcomes[str(run.outcome)] = outcomes.get(str(run.outcome), 0) + 1
    _, total, _ = catalog.totals(job.name)
    return JobReport(
        job=job.name,
        source=type_of(job.source),
        enabled=job.enabled,
        outcomes=outcomes,
        made=len(within),
        slices=catalog.count(job.name, SLICES),
        size=good[0].size if good else 0,
        growth=_growth(good, since),
        documents=good[0].documents if good else 0,
        total=total,
        rpo=job.rpo,
        rpo_kept=kept.kept if kept is not None and job.rpo else None,
        rpo_worst=kept.worst if kept is not None else None,
        rto=job.rto,
        restore_seconds=restore_seconds,
        last_drill=_text(drill.started) if drill is not None else None,
        drill_outcome=str(drill.outcome) if drill is not None else "",
        next_run=_text(due(job.name, Task.BACKUP)),
        next_drill=_text(due(job.name, Task.DRILL)),
        next_verify=_text(due(job.name, Task.VERIFY)),
        places=_places(job, catalog.backups(job.name, kinds=frozenset(Kind) - SLICES)),
        days=_days(runs, within, since, until, zone),
    )


def promise(
    points: Iterable[tuple[datetime, datetime]], since: datetime, until: datetime, rpo: float
) -> Promise | None:
    """Work out how an RPO of ``rpo`` seconds was kept between two moments.

    ``points`` are the times of which every moment can be restored (first and last may be the same). What could have
    been lost at a moment is the time since the last that can be restored. None: nothing can be.
    """
    spans = sorted((first, last) for first, last in points if first <= until)
    if not spans:
        return None
    # Before the first backup there was nothing that could have been kept.
    start = max(since, spans[0][0])
    worst = missed = 0.0
    reached = spans[0][0]
    for first, last in [*spans, (until, until)]:
        begin, end = max(reached, start), min(first, until)
        if end > begin:
            worst = max(worst, (end - reached).total_seconds())
            late = reached + timedelta(seconds=rpo)
            missed += max(0.0, (end - max(late, begin)).total_seconds())
        reached = max(reached, last)
    length = (until - start).total_seconds()
    return Promise(worst=worst, kept=1.0 - missed / length if length > 0 else 1.0)


def _recoverable(catalog: Catalog, job: str) -> list[tuple[datetime, datetime]]:
    there = known(catalog, job)
    spans = [(item.first.moment, item.last.moment) for item in there.ranges]
    return spans + [(item.created, item.created) for item in there.others if item.state is BackupState.VERIFIED]


def _counts(run: Run) -> bool:
    """Tell whether a run is one of those that a report counts: a backup that ended, and no retry of uploads."""
    return run.action == "backup" and run.trigger is not Trigger.RETRY and run.outcome is not None


def _growth(good: Sequence[Backup], since: datetime) -> int | None:
    """Compare the newest full with what there was before; ``good`` has the newest first."""
    older = next((item for item in good if item.created < since), good[-1] if good else None)
    return good[0].size - older.size if older is not None and older is not good[0] else None


def _places(job: JobSpec, backups: Sequence[Backup]) -> tuple[PlaceReport, ...]:
    """Count the copies by place, those that are configured first and in their order."""
    copies = [copy for backup in backups for copy in backup.copies]
    names = dict.fromkeys(["local", *(item.name for item in job.destinations), *(copy.destination for copy in copies)])
    found = []
    for name in names:
        here = [copy for copy in copies if copy.destination == name]
        present = [copy for copy in here if copy.state in _PRESENT]
        found.append(
            PlaceReport(
                destination=name,
                copies=len(present),
                size=sum(copy.size for copy in present),
                pending=sum(copy.state is CopyState.PENDING for copy in here),
                missing=sum(copy.state is CopyState.MISSING for copy in here),
                corrupt=sum(copy.state is CopyState.CORRUPT for copy in here),
            )
        )
    return tuple(found)


def _days(
    runs: Sequence[Run], made: Sequence[Backup], since: datetime, until: datetime, zone: tzinfo
) -> tuple[Day, ...]:
    """Return one entry for each local day, oldest first, also for those without a backup; not for one cut off."""
    first, last = (since.astimezone(zone) + timedelta(days=1)).date(), until.astimezone(zone).date()
    return tuple(_day(first + timedelta(days=at), runs, made, zone) for at in range((last - first).days + 1))


def _day(day: date, runs: Sequence[Run], made: Sequence[Backup], zone: tzinfo) -> Day:
    own = [run.outcome for run in runs if run.started.astimezone(zone).date() == day and run.outcome is not None]
    sizes = [item.size for item in made if item.created.astimezone(zone).date() == day]
    return Day(
        date=day.isoformat(),
        runs=len(own),
        outcome=str(max(own, key=_RANK.__getitem__)) if own else "",
        size=max(sizes, default=0),
    )


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
