"""What the catalog tells of a job, as the interface shows it: last runs, protection, timeline, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import to_text
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.health.lived import Lived
from nanumpay_backupd.health.spread import lacking, spread_of
from nanumpay_backupd.model import (
    FULLS,
    LOCAL,
    SLICES,
    Backup,
    BackupState,
    CopyState,
    ErrorInfo,
    OpTime,
    Outcome,
    Run,
    Stage,
    Stream,
    to_builtins,
)
from nanumpay_backupd.pipeline.chains import known, reached
from nanumpay_backupd.plans import Task, slice_interval
from nanumpay_backupd.retention import rule_words
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.system.units import human_size, human_span

__all__ = [
    "clock_fault",
    "disk_fault",
    "health_of",
    "job_facts",
    "job_faults",
    "oplog_fault",
    "protection",
    "retention",
    "rpo_fault",
    "rto_fault",
    "spread_fault",
]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50
_ROOM: Final = 2.0
"""How many pauses between slices an oplog should hold at least."""
_FAR: Final = 2.0
"""From how many times the promised RPO on a miss is a failure and no longer a warning."""
_DOUBTED: Final = timedelta(days=1)
"""From this on people are told of a clock that jumped."""
_LOW_SPACE: Final = 1 << 30
_RETRIED: Final = 600.0
"""Seconds after which somebody is told of what is tried again by itself within minutes."""
_CAUGHT_UP: Final = 900.0
"""Seconds after which somebody is told of what the daemon mends by itself after a start."""
_SETTLED: Final = 120.0
"""Seconds that a fault which comes and goes must be away to have ended."""
_RETENTION: Final = "retention: "
"""Begins the warning of a run whose retention could not delete something (`pipeline.backup`)."""
_PROOFS: Final = (("drill", "drill", Event.DRILL_FAILED), ("verify", "verification", Event.VERIFY_FAILED))
_NO_REASON: Final[dict[str, Any]] = {"code": "", "message": "no reason recorded", "hint": ""}
DueOf = Callable[[Task], datetime | None]


def job_facts(catalog: Catalog, name: str) -> dict[str, Any]:
    """Return the part of the interface's type Job that the catalog knows."""
    ended = (Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED)
    # A retry of uploads says nothing of how the last backup went; queued copies are told by themselves.
    last = catalog.last_run(name, "backup", *ended)
    success = catalog.last_run(name, "backup", Outcome.SUCCEEDED)
    newest = next(iter(catalog.backups(name, limit=1, kinds=FULLS)), None)
    count, size, pending = catalog.totals(name)
    return {
        "last_run": to_builtins(last),
        "last_success": to_builtins(success),
        "newest_backup": to_builtins(newest),
        "backups": count,
        "total_size": size,
        "pending_uploads": pending,
    }


def job_faults(jobs: list[dict[str, Any]]) -> list[Fault]:
    """Say what is wrong with the jobs."""
    return [fault for job in jobs for fault in (*_run_faults(job), *_state_faults(job), *_protection_faults(job))]


def health_of(faults: list[Fault]) -> str:
    """Return the health that faults leave: ok, warning or failing."""
    states = {fault.state for fault in faults}
    return "failing" if "failing" in states else "warning" if states else "ok"


def _run_faults(job: dict[str, Any]) -> Iterator[Fault]:
    """Say what was wrong with the last backup."""
    name, last = job["name"], job["last_run"]
    if not last:
        return
    if last["outcome"] in ("failed", "interrupted"):
        error = last["error"] or _NO_REASON
        yield _fault(
            job,
            "backup",
            f"job {name}: the last run {last['outcome']}: {error['message']}",
            Severity.ERROR,
            Event.FAILED,
            error=error,
            run=last,
            hint=_with_again(job, error["hint"]),
            # A scheduled one is caught up after a restart: only where that does not help somebody has to.
            patience=_CAUGHT_UP if last["outcome"] == "interrupted" else 0.0,
        )
    kept = [text.removeprefix(_RETENTION) for text in last["warnings"] if text.startswith(_RETENTION)]
    if kept:
        text = f"job {name}: retention could not delete what is to go: {kept[0]}"
        error = {
            "message": "; ".join(kept),
            "hint": f"it is tried again after the next backup; see: backupctl prune {name}",
        }
        yield _fault(job, "cleanup", text, Severity.WARNING, Event.CLEANUP_FAILED, error=error, run=last)


def _with_again(job: dict[str, Any], hint: str) -> str:
    """Add to what can be done that it is being done: the run is made again by itself."""
    again = next((item for item in job.get("again") or () if item["action"] == "backup"), None)
    if again is None:
        return hint
    told = f"it is made again by itself, attempt {again['attempt']} of {again['attempts']}"
    return f"{hint}; {told}" if hint else told


def _state_faults(job: dict[str, Any]) -> Iterator[Fault]:
    """Say what is wrong with a job whatever its last run was."""
    name, last = job["name"], job["last_run"]
    for text in job["warnings"]:
        yield _fault(job, f"warning:{text}", f"job {name}: {text}", Severity.WARNING)
    if job["pending_uploads"]:
        count = job["pending_uploads"]
        look = "backupctl list --slices" if job["protection"]["slices"] else "backupctl list"
        text = f"job {name}: {count} upload{'s wait' if count > 1 else ' waits'} ({look})"
        degraded = last is not None and last["outcome"] == "degraded"
        yield _fault(
            job,
            "copies",
            text,
            Severity.WARNING,
            Event.DEGRADED,
            error=last["error"] if degraded else None,
            run=last if degraded else None,
            # A slice that waits is mostly there with the next one.
            patience=0.0 if degraded else _RETRIED,
        )
    if not job["enabled"]:
        text = f"job {name} is disabled: no backups are made by schedule"
        yield _fault(job, "disabled", text, Severity.WARNING)
    elif job["schedule"] and job["newest_backup"] is None and not last and not job["running"]:
        text = f"job {name}: there is no backup yet (make one now: backupctl run {name})"
        yield _fault(job, "none", text, Severity.WARNING)


def _protection_faults(job: dict[str, Any]) -> Iterator[Fault]:
    """Say which promises of a job are not kept, and which proofs failed."""
    name, shown = job["name"], job["protection"]
    found = [oplog_fault(job), _stream_fault(job), rpo_fault(job)]
    for key, what, event in _PROOFS:
        proof = shown[f"last_{key}"]
        if proof and proof["outcome"] in ("failed", "degraded"):
            severity = Severity.ERROR if proof["outcome"] == "failed" else Severity.WARNING
            error = proof["error"] or _NO_REASON
            verb = "failed" if proof["outcome"] == "failed" else "was not complete"
            text = f"job {name}: the last {what} {verb}: {error['message']}"
            again = f"backupctl drill {name}" if what == "drill" else f"backupctl verify --job {name}"
            hint = f"{error['hint'] or 'see: backupctl show ' + proof['id']}; then again: {again}"
            found.append(_fault(job, key, text, severity, event, error=error, run=proof, hint=hint))
    found += [rto_fault(job), spread_fault(job)]
    yield from (fault for fault in found if fault is not None)


def rpo_fault(job: dict[str, Any]) -> Fault | None:
    """Say that more would be lost than a job promises (name, enabled, protection), None while it is kept."""
    name, shown = job["name"], job["protection"]
    if shown["rpo_kept"] is not False:
        return None
    # Who disables a job knows that it falls behind.
    far = shown["age"] > _FAR * shown["rpo"] and job["enabled"]
    # Not its age, which would make another problem of it at every look.
    until = f"{datetime.fromisoformat(shown['recoverable_until']):%Y-%m-%d %H:%M:%S} UTC"
    reason = f"the RPO of {human_span(shown['rpo'])} is missed: nothing after {until} can be restored"
    severity = Severity.ERROR if far else Severity.WARNING
    # A start after a night catches up by itself first.
    return _told(job, "rpo", reason, _towards_rpo(name, shown["stream"]), severity, patience=_CAUGHT_UP)


def rto_fault(job: dict[str, Any]) -> Fault | None:
    """Say that the last drill took longer to restore than a job promises, None while it is kept."""
    shown = job["protection"]
    if shown["rto_kept"] is not False:
        return None
    took = human_span(shown["restore_seconds"])
    reason = f"the RTO of {human_span(shown['rto'])} is missed: the last drill took {took} to restore"
    hint = "replay less by fulls more often or differentials, use a faster disk, or promise less (rto)"
    return _told(job, "rto", reason, hint, Severity.WARNING)


def spread_fault(job: dict[str, Any]) -> Fault | None:
    """Say that the newest backup is not spread as a job demands (copies, media, off-site), None while it is."""
    shown = job["protection"]["spread"]
    if shown["kept"] is not False:
        return None
    reason = f"the newest backup is not spread as demanded: {'; '.join(shown['lacking'])}"
    hint = f"where it is: backupctl copies {shown['backup']}; what is missing is sent by: backupctl sync"
    # An upload that failed is mostly made up for in a while.
    return _told(job, "spread", reason, hint, Severity.WARNING, patience=_CAUGHT_UP)


def oplog_fault(job: dict[str, Any]) -> Fault | None:
    """Say that the oplog hardly outlasts the pause between two slices, None while there is room."""
    trouble = job["protection"]["problem"]
    if not trouble or job["protection"]["stream"] != "ok":
        return None
    code = trouble.get("code", "")
    return _told(job, "oplog", trouble["message"], trouble["hint"], Severity.WARNING, code=code)


def _stream_fault(job: dict[str, Any]) -> Fault | None:
    """Say that the slices are not doing well."""
    name, shown = job["name"], job["protection"]
    trouble = shown["problem"]
    if not trouble or shown["stream"] not in ("waiting", "failing", "broken"):
        return None
    text = f"job {name}: the changes are not being saved: {trouble['message']}"
    if shown["stream"] == "failing" and shown["window"]:
        text += f"; nothing is lost while the oplog holds them (it holds about {human_span(shown['window'])})"
    hint = trouble["hint"] or f"backupctl timeline {name}"
    # Waiting for a first full is how every job begins.
    key, event, patience = {
        "waiting": ("waiting", None, 0.0),
        "failing": ("slices", Event.SLICES_FAILED, _RETRIED),
        "broken": ("chain", Event.CHAIN_BROKEN, 0.0),
    }[shown["stream"]]
    return _fault(job, key, text, Severity.WARNING, event, error=trouble, hint=hint, patience=patience, settle=_SETTLED)


def _told(
    job: dict[str, Any], key: str, reason: str, hint: str, severity: Severity, *, code: str = "", patience: float = 0.0
) -> Fault:
    """Make a fault of a promise that is not kept."""
    return Fault(
        key=f"{key}:{job['name']}",
        text=f"job {job['name']}: {reason}",
        severity=severity,
        event=Event.UNHEALTHY,
        job=job["name"],
        reason=reason,
        hint=hint,
        code=code,
        patience=patience,
        settle=_SETTLED,
    )


def _fault(
    job: dict[str, Any],
    key: str,
    text: str,
    severity: Severity,
    event: Event | None = None,
    *,
    error: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    hint: str | None = None,
    patience: float = 0.0,
    settle: float = 0.0,
) -> Fault:
    """Make a fault of a job; ``hint`` says what to do where that is more than the error's own."""
    found = error or {}
    return Fault(
        key=f"{key}:{job['name']}",
        text=text,
        severity=severity,
        event=event,
        job=job["name"],
        reason=found.get("message", ""),
        hint=found.get("hint", "") if hint is None else hint,
        code=found.get("code", ""),
        occurrence=run["id"] if run else "",
        backup=(run.get("backup") or "") if run else "",
        patience=patience,
        settle=settle,
    )


def disk_fault(free: int | None, folder: Path) -> list[Fault]:
    """Say that hardly any room is left in the backups folder; ``free`` bytes, None: not known."""
    if free is None or free >= _LOW_SPACE:
        return []
    text = f"only {human_size(free)} are free in {folder}"
    hint = "free space there, shorten retention (backupctl prune), or set [paths] backups to a larger disk"
    return [
        Fault(
            key="disk",
            text=text,
            severity=Severity.WARNING,
            event=Event.DISK_LOW,
            reason=text,
            hint=hint,
            code="no-space",
            settle=_CAUGHT_UP,
        )
    ]


def clock_fault(seen: Lived | None, now: datetime) -> list[Fault]:
    """Say that the clock says something that cannot be, and what follows from that."""
    off = seen.off(now) if seen is not None else timedelta(0)
    if abs(off) < _DOUBTED:
        return []
    way = "ahead of" if off > timedelta(0) else "behind"
    text = f"the clock is {human_span(abs(off).total_seconds())} {way} the time that can have passed"
    held = "; retention deletes nothing because of its age until that is settled" if off > timedelta(0) else ""
    return [
        Fault(
            key="clock",
            text=f"{text}{held}",
            severity=Severity.WARNING,
            event=Event.UNHEALTHY,
            reason=text,
            hint="set it right (timedatectl set-ntp true); one that is right is believed at once where a time server "
            "keeps it so, else after a week",
            code="clock-doubted",
        )
    ]


def _towards_rpo(name: str, stream: str) -> str:
    """Say what brings a job nearer to the RPO that it promises."""
    if stream == "off":
        return f'save the changes continuously (pitr = "60s"), or make fulls more often; now: backupctl run {name}'
    if stream == "ok":
        return f"save the changes now: backupctl run {name} --kind incremental; where that helps, shorten pitr"
    if stream == "failing":
        return f"the slices have to be mended first: backupctl timeline {name}"
    return f"a full of one moment is needed: it is made by itself, or now by backupctl run {name}"


def protection(catalog: Catalog, job: JobSpec, due: DueOf, now: datetime) -> dict[str, Any]:
    """Describe how well a job is protected, as the interface's type Protection."""
    stream = catalog.stream(job.name)
    newest = _newest_good(catalog, job.name)
    until = _recoverable_until(catalog, job.name, newest, stream)
    age = max(0.0, (now - until).total_seconds()) if until is not None else None
    ended = (Outcome.SUCCEEDED, Outcome.DEGRADED, Outcome.FAILED)
    failed = catalog.last_run(job.name, "slice", Outcome.FAILED, Outcome.INTERRUPTED)
    drill = catalog.last_run(job.name, "drill", Outcome.SUCCEEDED)
    seconds = _restore_seconds(catalog, drill)
    state, problem = _stream_state(job, stream, failed, now)
    return {
        "recoverable_until": to_text(until) if until is not None else None,
        "age": age,
        "stream": state,
        "problem": to_builtins(problem),
        "slices": catalog.count(job.name, SLICES),
        "next_slice": _text(min(filter(None, (due(Task.INCREMENTAL), due(Task.DIFFERENTIAL))), default=None)),
        "next_verify": _text(due(Task.VERIFY)),
        "next_drill": _text(due(Task.DRILL)),
        "window": stream.window if stream is not None else 0.0,
        "rpo": job.rpo,
        "rto": job.rto,
        "rpo_kept": age <= job.rpo if job.rpo and age is not None else None,
        "rto_kept": seconds <= job.rto if job.rto and seconds is not None else None,
        "last_verify": to_builtins(catalog.last_run(job.name, "verify", *ended)),
        "last_drill": to_builtins(catalog.last_run(job.name, "drill", *ended)),
        "restore_seconds": seconds,
        "spread": _spread(catalog, job),
    }


def _spread(catalog: Catalog, job: JobSpec) -> dict[str, Any]:
    """Describe how the copies of the newest backup are spread, as the interface's type Spread.

    While its run uploads it does not count: then it is the one before.
    """
    running = {run.id for run in catalog.unfinished_runs()}
    fulls = catalog.backups(job.name, _LOOKED_AT, kinds=FULLS)
    newest = next((one for one in fulls if one.state is BackupState.VERIFIED and one.run not in running), None)
    found = spread_of(newest, job)
    missing = lacking(found, job)
    demanded = bool(job.copies or job.media or job.offsite)
    return {
        **to_builtins(found),
        "wanted_copies": job.copies,
        "wanted_media": job.media,
        "wanted_offsite": job.offsite,
        "kept": not missing if demanded and newest is not None else None,
        "lacking": missing,
    }


def retention(catalog: Catalog, job: JobSpec) -> list[dict[str, Any]]:
    """Describe how long a job's copies are kept at each place, as the interface's type Retention."""
    locked = {item.destination: item for item in catalog.locked(job.name)}
    found = []
    for place in (LOCAL, *(destination.name for destination in job.destinations)):
        policy, held = job.policy_at(place), locked.get(place)
        counted = {"count": policy.count, "days": policy.days}
        found.append(
            {
                "destination": place,
                "rule": rule_words(policy),
                **(to_builtins(policy.tiers) if policy.tiers is not None else counted),
                "max_total_size": policy.max_total_size,
                "min_keep": policy.min_keep,
                "locked": held.copies if held is not None else 0,
                "locked_bytes": held.size if held is not None else 0,
                "locked_first": _text(held.first) if held is not None else None,
                "locked_last": _text(held.last) if held is not None else None,
            }
        )
    return found


def _newest_good(catalog: Catalog, job: str) -> Backup | None:
    for backup in catalog.backups(job, _LOOKED_AT, kinds=FULLS):
        if backup.state is BackupState.VERIFIED and any(copy.state in _PRESENT for copy in backup.copies):
            return backup
    return None


def _recoverable_until(catalog: Catalog, job: str, newest: Backup | None, stream: Stream | None) -> datetime | None:
    """Return the newest moment that can be restored: where the slices lead to, else the newest full's own."""
    if newest is None:
        return None
    own = OpTime.parse(newest.end).moment if newest.end else newest.created
    if stream is None:
        return own
    if newest.end and not catalog.doubtful(job, SLICES, newest.created):
        return max(own, reached(stream).moment)
    # One of them may be where the way ends. There are many, so this is only worked out where it matters.
    return max([own, *(item.last.moment for item in known(catalog, job).ranges)])


def _stream_state(
    job: JobSpec, stream: Stream | None, failed: Run | None, now: datetime
) -> tuple[str, ErrorInfo | None]:
    """Say how the slices are doing: off, ok, waiting, failing or broken, and what is wrong."""
    if not (job.pitr or job.incremental):
        return "off", None
    if stream is not None and stream.broken:
        hint = f"a new full is made by itself, or now by backupctl run {job.name}; the slices go on from there"
        return "broken", ErrorInfo(code="chain-broken", message=stream.broken, hint=hint)
    if failed is not None and (stream is None or failed.started > stream.checked):
        waits = failed.error is not None and failed.error.code == "chain-missing"
        return "waiting" if waits else "failing", failed.error
    return ("waiting", None) if stream is None else ("ok", _foreseen(job, stream, now))


def _foreseen(job: JobSpec, stream: Stream, now: datetime) -> ErrorInfo | None:
    """Warn while it is time: an oplog that hardly outlasts the pause between two slices breaks the stream one day."""
    pause = slice_interval(job, now)
    if pause is None or not stream.window or stream.window >= _ROOM * pause:
        return None
    return ErrorInfo(
        code="oplog-short",
        message=f"the oplog holds the changes of {human_span(stream.window)} at the present rate of writes, "
        f"and slices are planned every {human_span(pause)}: they are taken sooner",
        hint="make the oplog larger (replSetResizeOplog), or plan slices more often (pitr)",
    )


def _restore_seconds(catalog: Catalog, drill: Run | None) -> float | None:
    """Return what the last good drill measured."""
    if drill is None:
        return None
    backup = catalog.backup(drill.backup) if drill.backup is not None else None
    proofs = backup.manifest.verification if backup is not None and backup.manifest is not None else ()
    taken = [item.seconds for item in proofs if item.level == "restore" and item.ok]
    if taken:
        return taken[-1]
    # Its backup was pruned since: then what its stages took, in which the start of a scratch server is.
    restoring = (Stage.FETCH, Stage.CHECK, Stage.RESTORE)
    stages = [item for item in drill.stages if item.stage in restoring and item.ended is not None]
    return sum((item.ended - item.started).total_seconds() for item in stages if item.ended) if stages else None


def _text(moment: datetime | None) -> str | None:
    return to_text(moment) if moment is not None else None
