"""One command for several jobs: all that save a database, or files. Each run is started and shown by `actions`."""

from __future__ import annotations

from nanumpay_backupd.cli.actions import EXIT_BY_OUTCOME, start_only, to_the_end
from nanumpay_backupd.cli.context import Context, complain
from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    BackupdError,
    NotFoundError,
    UnreachableError,
    worst_exit,
)

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["run_several"]

_WORDS = {"database": "a database", "files": "files"}


def run_several(context: Context, params: Reply) -> int:
    """Run every job whose source is what ``params["holds"]`` says, one after the other; returns the worst exit code.

    What keeps one job from running does not keep the others. Raises NotFoundError where there is no such job,
    UnreachableError when the daemon goes away.
    """
    names = _names(context, params["holds"])
    runs: list[Reply] = []
    faults: list[Reply] = []
    codes = [EXIT_OK]
    for number, name in enumerate(names):
        if number and not context.args.json:
            context.screen.line("")
        try:
            code = _one(context, params | {"job": name}, runs)
        except UnreachableError:
            raise
        except BackupdError as error:
            code = error.exit_code
            faults.append({"job": name, "code": error.code, "message": error.message, "hint": error.hint})
            if not context.args.json:
                about = "" if f"job {name}" in error.message else f"job {name}: "
                complain(f"{about}{error.message}", error.hint, error.code, context.args.color)
        codes.append(code)
        if code == EXIT_INTERRUPTED and (left := names[number + 1 :]):
            # Whoever stops watching, or cancels one, hardly wants the others.
            if not context.args.json:
                context.screen.line(f"Not begun: {', '.join(left)}")
            break
    context.json({"runs": runs, "faults": faults})
    return worst_exit(codes)


def _names(context: Context, kind: str) -> list[str]:
    """Return the names of the jobs that are meant; with --force also those that are disabled."""
    found = [job for job in context.ask("ListJobs")["jobs"] if job.get("holds", "database") == kind]
    able = [job["name"] for job in found if job["enabled"] or context.args.force]
    if able:
        return able
    if found:
        raise NotFoundError(f"every job that saves {_WORDS[kind]} is disabled", hint="run them once with --force")
    raise NotFoundError(f"there is no job that saves {_WORDS[kind]}", hint="see: backupctl jobs")


def _one(context: Context, params: Reply, runs: list[Reply]) -> int:
    """Run one job, and add its run to ``runs``; returns its exit code."""
    if context.args.no_wait:
        started = start_only(context, "Run", params)
        runs.append(started)
        return EXIT_BUSY if started.get("outcome") == "skipped" else EXIT_OK
    ended = to_the_end(context, "Run", params)
    if ended is None:
        return EXIT_INTERRUPTED
    runs.append(ended)
    return EXIT_BY_OUTCOME.get(ended.get("outcome") or "", EXIT_FAILED)
