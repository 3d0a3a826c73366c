"""What the catalog tells of a job, as the interface shows it: last runs, protection, timeline, what is wrong."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import to_text
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
from nanumpay_backupd.system.units import human_span
from nanumpay_backupd.timeline import gaps

__all__ = [
    "Problem",
    "job_facts",
    "job_problems",
    "oplog_problem",
    "protection",
    "retention",
    "rpo_problem",
    "rto_problem",
    "timeline",
]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50
_ROOM: Final = 2.0
"""How many pauses between slices an oplog should hold at least."""
_FAR: Final = 2.0
"""From how many times the promised RPO on a miss is a failure and no longer a warning."""
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


def job_problems(jobs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say what is wrong with the jobs: (state, sentence)."""
    problems = []
    for job in jobs:
        name, last = job["name"], job["last_run"]
        problems += [("warning", f"job {name}: {text}") for text in job["warnings"]]
        if last and last["outcome"] in ("failed", "interrupted"):
            error = last["error"] or {}
            text = f"job {name}: the last run {last['outcome']}: {error.get('message', 'no reason recorded')}"
            problems.append(("failing", f"{text} → {error['hint']}" if error.get("hint") else text))
        if job["pending_uploads"]:
            count = job["pending_uploads"]
            look = "backupctl list --slices" if job["protection"]["slices"] else "backupctl list"
            problems.append(("warning", f"job {name}: {count} upload{'s wait' if count > 1 else ' waits'} ({look})"))
        if not job["enabled"]:
            problems.append(("warning", f"job {name} is disabled: no backups are made by schedule"))
        elif job["schedule"] and job["newest_backup"] is None and not last and not job["running"]:
            problems.append(("warning", f"job {name}: there is no backup yet (make one now: backupctl run {name})"))
        problems += _protection_problems(job)
    return problems


def _protection_problems(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say which promises of a job are not kept, and which proofs failed."""
    name, shown = job["name"], job["protection"]
    trouble = shown["problem"]
    short = oplog_problem(job)
    if short is not None:
        yield short.state, _with_hint(short.text, short.hint)
    if trouble and shown["stream"] in ("waiting", "failing", "broken"):
        text = f"job {name}: the changes are not being saved: {trouble['message']}"
        if shown["stream"] == "failing" and shown["window"]:
            text += f"; nothing is lost while the oplog holds them (it holds about {human_span(shown['window'])})"
        yield "warning", _with_hint(text, trouble["hint"] or f"backupctl timeline {name}")
    late = rpo_problem(job)
    if late is not None:
        yield late.state, _with_hint(late.text, late.hint)
    for key, what in (("last_drill", "drill"), ("last_verify", "verification")):
        proof = shown[key]
        if proof and proof["outcome"] in ("failed", "degraded"):
            state = "failing" if proof["outcome"] == "failed" else "warning"
            fault = proof["error"] or {"message": "no reason recorded", "hint": ""}
            verb = "failed" if state == "failing" else "was not complete"
            text = f"job {name}: the last {what} {verb}: {fault['message']}"
            again = f"backupctl drill {name}" if what == "drill" else f"backupctl verify --job {name}"
            yield (
                state,
                _with_hint(text, f"{fault['hint'] or 'see: backupctl show ' + proof['id']}; then again: {again}"),
            )
    slow = rto_problem(job)
    if slow is not None:
        yield slow.state, _with_hint(slow.text, slow.hint)


class Problem(NamedTuple):
    """A promise that is not kept; ``state`` is ``warning`` or ``failing``, ``hint`` says what to do."""

    state: str
    text: str
    hint: str


def rpo_problem(job: dict[str, Any]) -> Problem | None:
    """Say that more would be lost than a job promises (name, enabled, protection), None while it is kept."""
    name, shown = job["name"], job["protection"]
    if shown["rpo_kept"] is not False:
        return None
    # Who disables a job knows that it falls behind.
    far = shown["age"] > _FAR * shown["rpo"] and job["enabled"]
    # Not its age, which would make another problem of it at every look.
    until = f"{datetime.fromisoformat(shown['recoverable_until']):%Y-%m-%d %H:%M:%S} UTC"
    text = f"job {name}: the RPO of {human_span(shown['rpo'])} is missed: nothing after {until} can be restored"
    return Problem("failing" if far else "warning", text, _towards_rpo(name, shown["stream"]))


def rto_problem(job: dict[str, Any]) -> Problem | None:
    """Say that the last drill took longer to restore than a job promises, None while it is kept."""
    name, shown = job["name"], job["protection"]
    if shown["rto_kept"] is not False:
        return None
    took = human_span(shown["restore_seconds"])
    text = f"job {name}: the RTO of {human_span(shown['rto'])} is missed: the last drill took {took} to restore"
    hint = "replay less by fulls more often or differentials, use a faster disk, or promise less (rto)"
    return Problem("warning", text, hint)


def oplog_problem(job: dict[str, Any]) -> Problem | None:
    """Say that the oplog hardly outlasts the pause between two slices, None while there is room."""
    trouble = job["protection"]["problem"]
    if not trouble or job["protection"]["stream"] != "ok":
        return None
    return Problem("warning", f"job {job['name']}: {trouble['message']}", trouble["hint"])


def _towards_rpo(name: str, stream: str) -> str:
    """Say what brings a job nearer to the RPO that it promises."""
    if stream == "off":
        return f'save the changes continuously (pitr = "60s"), or make fulls more often; now: backupctl run {name}'
    if stream == "ok":
        return f"save the changes now: backupctl run {name} --kind incremental; where that helps, shorten pitr"
    if stream == "failing":
        return f"the slices have to be mended first: backupctl timeline {name}"
    return f"a full of one moment is needed: it is made by itself, or now by backupctl run {name}"


def _with_hint(text: str, hint: str) -> str:
    return f"{text} → {hint}"


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


def timeline(catalog: Catalog, job: str) -> dict[str, Any]:
    """Return what can be restored and what cannot, as the interface's method Timeline shows it."""
    there = known(catalog, job)
    found = there.ranges
    ends = sorted(piece.end for piece in there.pieces if piece.backup)
    exact = [
        {
            "first": to_text(item.first.moment),
            "last": to_text(item.last.moment),
            "bases": list(item.bases),
            "slices": bisect.bisect_right(ends, item.last) - bisect.bisect_right(ends, item.first),
            "exact": True,
        }
        for item in found
    ]
    single = [
        {
            "first": to_text(item.created),
            "last": to_text(item.created),
            "bases": [item.id],
            "slices": 0,
            "exact": False,
        }
        for item in there.others
    ]
    return {
        "ranges": sorted([*exact, *single], key=lambda item: str(item["first"])),
        "gaps": [{"after": to_text(item.after.moment), "before": to_text(item.before.moment)} for item in gaps(found)],
    }


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
