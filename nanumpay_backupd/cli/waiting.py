"""The command wait: until no job is at work, or for so long. Starts, stops and holds up nothing."""

from __future__ import annotations

import contextlib
import time

from nanumpay_backupd.cli.context import Context, run_name
from nanumpay_backupd.errors import EXIT_OK, BackupdError, BusyError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["wait"]

_PAUSE = 0.5


def wait(context: Context) -> int:
    """Return when no backup, upload or restore is running; raises BusyError when there is one after ``--timeout``."""
    args = context.args
    until = None if args.timeout is None else time.monotonic() + args.timeout
    told: set[str] = set()
    while running := _running(context, restores=args.restores):
        for run in running:
            if run["id"] not in told and not args.json:
                context.screen.line(f"Waiting for {_name(run)}.")
                context.screen.stream.flush()
            told.add(run["id"])
        left = _PAUSE if until is None else until - time.monotonic()
        if left <= 0:
            raise BusyError(
                f"{_name(running[0])} is still running",
                hint=f"follow it: backupctl status --watch; stop it: backupctl cancel {running[0]['id']}",
            )
        time.sleep(min(_PAUSE, left))
    if not context.json({"running": []}):
        context.screen.line("No restore is running." if args.restores else "Nothing is running.")
    return EXIT_OK


def _running(context: Context, *, restores: bool) -> list[Reply]:
    """Return the jobs' runs that are going on; verifications, drills and slices beside them may be cut off any time."""
    found = []
    for job in context.ask("ListJobs")["jobs"]:
        if not job.get("running"):
            continue
        # One that has just been thought of is not on record yet.
        run: Reply = {"id": job["running"], "job": job["name"], "action": ""}
        with contextlib.suppress(BackupdError):
            run = context.ask("DescribeRun", {"run": job["running"]})["run"]
        if not restores or run.get("action") == "restore":
            found.append(run)
    return found


def _name(run: Reply) -> str:
    return f"{run_name(run)}{f' ({action})' if (action := run.get('action')) else ''}"
