"""The commands verify and drill: start one, watch it, and say in words what was proven. Proves nothing itself."""

from __future__ import annotations

import contextlib

from nanumpay_backupd.cli.actions import started_only, watched
from nanumpay_backupd.cli.context import Context
from nanumpay_backupd.errors import BackupdError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["drill", "proven_lines", "verify"]

_PROVING = {"verify", "check", "compare"}  # the stages whose last words say what was proven


def verify(context: Context) -> int:
    """Prove copies and show it until it ends; the exit code tells the outcome."""
    args = context.args
    params = {"backup": args.backup, "job": args.job, "level": args.level, "source": args.source}
    return started_only(context, "Verify", params) if args.no_wait else watched(context, "Verify", params)


def drill(context: Context) -> int:
    """Restore a backup into a scratch place and show it until it ends; the exit code tells the outcome."""
    args = context.args
    params = {"job": args.job, "backup": args.backup, "source": args.source}
    return started_only(context, "Drill", params) if args.no_wait else watched(context, "Drill", params)


def proven_lines(context: Context, ended: Reply, word: str) -> list[str]:
    """Say how a verification or a drill ended (``word`` is its outcome, painted), and what it found."""
    from nanumpay_backupd.cli.views import took

    trial = ended["action"] == "drill"
    name = ended.get("backup")
    what = name or ("the newest backup" if trial else f"the copies of job {ended['job']}")
    verb = "was" if name or trial else "were"
    outcome = ended["outcome"]
    said = [stage["detail"] for stage in ended["stages"] if stage["stage"] in _PROVING and stage["detail"]]
    if outcome == "succeeded":
        proof = f"{verb} {'restored into a scratch place and compared' if trial else 'read back and found good'}"
        lines = [f"{word} after {took(ended)}: {what} {proof}{f' ({said[-1]})' if said else ''}."]
        return [*lines, *_measured(context, ended["job"])] if trial else lines
    missing = f"not all of {what} could be proven" if outcome == "degraded" else f"{what} {verb} not proven"
    return [f"{word} after {took(ended)}: {missing}."]


def _measured(context: Context, job: str) -> list[str]:
    """Say how long the restore took, and whether that keeps the promise."""
    from nanumpay_backupd.cli.protection import objective
    from nanumpay_backupd.cli.words import duration

    with contextlib.suppress(BackupdError):
        for one in context.ask("ListJobs")["jobs"]:
            shown = one["protection"]
            seconds = shown.get("restore_seconds")
            if one["name"] == job and seconds is not None:
                rto = objective(context.screen, "RTO", shown["rto"], seconds, kept=shown.get("rto_kept"))
                return [f"The restore took {duration(seconds)}{f'; {rto}' if rto else ''}."]
    return []
