"""Takes the figures: from the status as `backupctl` shows it, and totals of the catalog beside it. Knows no format.

What is bounded: jobs, groups, places and channels are those of the settings, all other labels come from short lists.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from nanumpay_backupd.catalog import Catalog, Tally
from nanumpay_backupd.control.methods import DaemonView
from nanumpay_backupd.events import Fault
from nanumpay_backupd.fleet.lease import Role
from nanumpay_backupd.model import FULLS, LOCAL, CopyState, Kind, Outcome, to_builtins
from nanumpay_backupd.plans import Task
from nanumpay_backupd.system.files import disk_size

__all__ = ["ACTIONS", "Figures", "JobFigures", "Sample", "Standing", "gather", "samples"]

ACTIONS: Final = ("backup", "slice", "collection", "upload", "verify", "drill", "restore", "copy")
_ENDED: Final = (Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED)
_HEALTH: Final = ("ok", "warning", "failing")
_GONE: Final = "gone"
_WHOLE: Final = "whole"
_STREAM: Final = ("off", "ok", "waiting", "failing", "broken")
_PRESENT: Final = frozenset({CopyState.UPLOADED.value, CopyState.VERIFIED.value})
_KIND: Final = re.compile(r"[a-z][a-z-]{0,39}")
"""What the first part of a fault's key may be to become a label."""
Labels = tuple[str, ...]
Run = Mapping[str, Any]


class Sample(NamedTuple):
    """One value of one metric (`table.Metric.name`)."""

    metric: str
    labels: Labels
    value: float


class Standing(Protocol):
    """Tells how things stand."""

    async def standing(self) -> tuple[dict[str, Any], list[Fault]]:
        """Return the status (GetStatus of the interface), and what is wrong."""
        ...


class JobFigures(NamedTuple):
    """What the status does not say of a job: its copies, how often runs ended how, its last runs, when it is due."""

    copies: list[Tally]
    runs: Mapping[tuple[str, str], int]
    last: Mapping[str, Run | None]
    success: Mapping[str, Run | None]
    due: Mapping[str, datetime]
    active: Mapping[str, int]


class Figures(NamedTuple):
    """All that is known at one moment. ``size``: bytes of the filesystem, None: not known."""

    status: dict[str, Any]
    faults: list[Fault]
    size: int | None
    jobs: Mapping[str, JobFigures]
    channels: list[dict[str, Any]]


async def gather(daemon: DaemonView, standing: Standing) -> Figures:
    """Take all figures now; raises BackupdError when the catalog cannot be read."""
    status, faults = await standing.standing()
    supervisor = daemon.supervisor
    jobs = {}
    for job in status["jobs"]:
        name = job["name"]
        copies, runs, last, success = await supervisor.db(lambda catalog, job=job: _of_job(catalog, job))  # type: ignore[misc]
        running = Counter(active.run.action for active in supervisor.active.values() if active.run.job == name)
        due = {task.value: supervisor.plans.get(name, task) for task in Task}
        jobs[name] = JobFigures(copies, runs, last, success, {key: at for key, at in due.items() if at}, running)
    size = await asyncio.to_thread(disk_size, supervisor.paths.backups)
    return Figures(status, faults, size, jobs, daemon.announcer.channels())


def _of_job(
    catalog: Catalog, job: dict[str, Any]
) -> tuple[list[Tally], dict[tuple[str, str], int], dict[str, Run | None], dict[str, Run | None]]:
    """Read what the catalog has of a job beside what the status shows."""
    name, shown = job["name"], job["protection"]
    last: dict[str, Run | None] = {
        "backup": job["last_run"],
        "verify": shown["last_verify"],
        "drill": shown["last_drill"],
    }
    success: dict[str, Run | None] = {"backup": job["last_success"]}
    for action in ACTIONS:
        # Tries of uploads are told by what still waits.
        if action != "upload":
            if action not in last:
                last[action] = to_builtins(catalog.last_run(name, action, *_ENDED))
            if action not in success:
                success[action] = to_builtins(catalog.last_run(name, action, Outcome.SUCCEEDED))
    return catalog.tallies(name), catalog.run_counts(name), last, success


def samples(figures: Figures) -> Iterator[Sample]:
    """Yield every value, in no order."""
    status = figures.status
    yield Sample("build_info", (status["version"],), 1)
    yield Sample("start_timestamp_seconds", (), _seconds(status["started"]))
    yield Sample("figures_timestamp_seconds", (), _seconds(status["now"]))
    yield from _one_of("health", (), _HEALTH, status["health"])
    found = Counter((fault.severity.value, fault.job, _kind(fault.key)) for fault in figures.faults)
    yield from (Sample("problems", labels, count) for labels, count in found.items())
    settings = status["settings"]
    if settings["mode"] != "off":
        yield Sample("settings_connected", (), settings["connected"])
        yield Sample("settings_refused", (), settings["problem"] is not None)
    if status["fleet"] is not None:
        yield from _fleet(status["fleet"])
    if figures.size is not None:
        yield Sample("filesystem_free_bytes", (), status["free_bytes"])
        yield Sample("filesystem_size_bytes", (), figures.size)
    for channel in figures.channels:
        yield Sample("notifications_waiting", (channel["name"],), channel["waiting"])
        yield Sample("notifications_failing", (channel["name"],), channel["state"] == "failing")
    for job in status["jobs"]:
        more = figures.jobs[job["name"]]
        yield from _copies(job, more.copies)
        yield from _runs(job["name"], more)
        yield from _protection(job, more)
    for group in status["groups"]:
        yield from _group(group)


def _fleet(fleet: dict[str, Any]) -> Iterator[Sample]:
    """Yield this host's part, whether the lease is known, and who is there."""
    yield from _one_of("fleet_role", (), tuple(Role), fleet["role"])
    yield Sample("fleet_lease_known", (), not fleet["problem"])
    yield Sample("fleet_lease_token", (), fleet["token"])
    gone = sum(host["role"] == _GONE for host in fleet["hosts"])
    yield Sample("fleet_hosts", ("there",), len(fleet["hosts"]) - gone)
    yield Sample("fleet_hosts", (_GONE,), gone)


def _group(group: dict[str, Any]) -> Iterator[Sample]:
    """Yield how a group is doing as one; its members have their own figures as jobs."""
    name = (group["name"],)
    yield Sample("group_enabled", name, group["enabled"])
    if group["next_run"] is not None:
        yield Sample("group_next_due_timestamp_seconds", name, _seconds(group["next_run"]))
    last, newest = group["last_run"], group["newest"]
    if last is not None and last["ended"] is not None:
        yield Sample("group_last_run_timestamp_seconds", name, _seconds(last["ended"]))
        yield from _one_of("group_last_run_outcome", name, _ENDED, last["outcome"])
    if newest is not None:
        yield Sample("group_newest_timestamp_seconds", name, _seconds(newest["started"]))
        yield Sample("group_newest_whole", name, newest["state"] == _WHOLE)


def _copies(job: dict[str, Any], copies: list[Tally]) -> Iterator[Sample]:
    """Yield what lies where. Every place of a job has its figures, also when there is nothing yet.

    Of places that the job no longer has only what lies there: nothing new will come.
    """
    name = job["name"]
    count: Counter[Labels] = Counter()
    size: Counter[Labels] = Counter()
    corrupt: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    newest: dict[str, tuple[datetime, int]] = {}
    places = (LOCAL, *job["destinations"])
    for place in places:
        count[place, Kind.FULL.value] = size[place, Kind.FULL.value] = corrupt[place] = pending[place] = 0
    for tally in copies:
        place, kind = tally.destination, tally.kind
        present = tally.state in _PRESENT
        count[place, kind] += tally.copies if present else 0
        size[place, kind] += tally.size if present else 0
        corrupt[place] += tally.copies if tally.state == CopyState.CORRUPT else 0
        pending[place] += tally.copies if tally.state == CopyState.PENDING else 0
        if present and tally.newest is not None and kind in FULLS and place in places:
            newest[place] = max(newest.get(place, (tally.newest, 0)), (tally.newest, tally.newest_size))
    yield from (Sample("copies", (name, *labels), value) for labels, value in count.items())
    yield from (Sample("copies_bytes", (name, *labels), value) for labels, value in size.items())
    yield from (Sample("copies_corrupt", (name, place), value) for place, value in corrupt.items())
    yield from (Sample("uploads_pending", (name, place), value) for place, value in pending.items())
    for place, (made, length) in newest.items():
        yield Sample("newest_verified_timestamp_seconds", (name, place), made.timestamp())
        yield Sample("newest_verified_bytes", (name, place), length)


def _runs(name: str, more: JobFigures) -> Iterator[Sample]:
    """Yield how runs ended. All counters are there from the beginning, so that the first failure is an increase."""
    for action in ACTIONS:
        for outcome in Outcome:
            yield Sample("runs", (name, action, outcome.value), more.runs.get((action, outcome.value), 0))
        yield Sample("runs_active", (name, action), more.active.get(action, 0))
        last, success = more.last.get(action), more.success.get(action)
        if last is not None and last["ended"] is not None:
            started, ended = _seconds(last["started"]), _seconds(last["ended"])
            yield Sample("last_run_start_timestamp_seconds", (name, action), started)
            yield Sample("last_run_timestamp_seconds", (name, action), ended)
            yield Sample("last_run_duration_seconds", (name, action), max(0.0, ended - started))
            yield from _one_of("last_run_outcome", (name, action), _ENDED, last["outcome"])
        if success is not None and success["ended"] is not None:
            yield Sample("last_success_timestamp_seconds", (name, action), _seconds(success["ended"]))


def _protection(job: dict[str, Any], more: JobFigures) -> Iterator[Sample]:
    """Yield what can be restored and what is promised; nothing for what is not known or not promised."""
    name, shown = (job["name"],), job["protection"]
    yield Sample("job_enabled", name, job["enabled"])
    for task, due in more.due.items():
        yield Sample("next_due_timestamp_seconds", (*name, task), due.timestamp())
    if shown["recoverable_until"] is not None:
        yield Sample("recoverable_until_timestamp_seconds", name, _seconds(shown["recoverable_until"]))
    for metric, value in (
        ("rpo_objective_seconds", shown["rpo"] or None),
        ("rpo_kept", shown["rpo_kept"]),
        ("rto_objective_seconds", shown["rto"] or None),
        ("rto_kept", shown["rto_kept"]),
        ("restore_duration_seconds", shown["restore_seconds"]),
        ("oplog_window_seconds", shown["window"] or None),
    ):
        if value is not None:
            yield Sample(metric, name, value)
    yield from _spread(name, shown["spread"])
    yield from _one_of("changes_state", name, _STREAM, shown["stream"])


def _spread(name: Labels, shown: dict[str, Any]) -> Iterator[Sample]:
    """Yield where the newest full is; nothing while there is none, nor of what is not demanded."""
    if not shown["backup"]:
        return
    yield Sample("spread_copies", name, shown["copies"])
    yield Sample("spread_media", name, len(shown["media"]))
    yield Sample("spread_offsite", name, shown["offsite"])
    if shown["kept"] is not None:
        yield Sample("spread_kept", name, shown["kept"])


def _one_of(metric: str, labels: Labels, states: tuple[str, ...], state: str) -> Iterator[Sample]:
    """Yield 1 for the state that is, 0 for the others."""
    return (Sample(metric, (*labels, str(item)), item == state) for item in states)


def _kind(key: str) -> str:
    """Return what kind of fault a key names: its part before the colon, as far as that can be a label."""
    kind = key.partition(":")[0]
    return kind if _KIND.fullmatch(kind) else "other"


def _seconds(text: str) -> float:
    """Return a moment of the interface as seconds since 1970."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
