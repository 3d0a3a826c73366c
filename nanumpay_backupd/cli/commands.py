"""The commands that look, check or read again, from ``status`` to ``rebuild``; nothing is made or deleted here.

Each takes the context and returns the exit code. Those that make, stop or delete something are in `actions`.
"""

from __future__ import annotations

import os
import sys

from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.errors import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_UNHEALTHY,
    BackupdError,
    NotFoundError,
    ToolError,
)

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["doctor", "jobs", "list_backups", "logs", "rebuild", "reload", "runs", "settings", "show", "status", "test"]

_UNIT = "nanumpay-backupd"
_LOG_LINES = 50


def status(context: Context) -> int:
    """Show how things stand; with --watch until Ctrl-C. Exit code 8 when health is failing."""
    if context.args.watch:
        from nanumpay_backupd.cli.watch import watch

        return watch(context)
    reply = context.ask("GetStatus")
    if not context.json(reply):
        from nanumpay_backupd.cli.details import status_lines

        context.screen.lines(status_lines(context.screen, reply))
    return EXIT_UNHEALTHY if reply["health"] == "failing" else EXIT_OK


def jobs(context: Context) -> int:
    """List the jobs."""
    reply = context.ask("ListJobs")
    if not context.json(reply):
        from nanumpay_backupd.cli.views import NO_JOBS, jobs_table

        found, times = reply["jobs"], context.times()
        context.screen.lines(jobs_table(context.screen, found, times) if found else [NO_JOBS])
        if groups := reply.get("groups"):
            from nanumpay_backupd.cli.together import groups_table

            context.screen.lines(["", *groups_table(context.screen, groups, times)])
    return EXIT_OK


def runs(context: Context) -> int:
    """List runs, newest first."""
    args = context.args
    reply = context.ask(
        "ListRuns",
        {"job": args.job, "limit": args.limit, "slices": args.slices, **({"fleet": True} if args.fleet else {})},
    )
    if not context.json(reply):
        from nanumpay_backupd.cli.views import runs_table

        found = reply["runs"]
        nothing = ["No runs yet. Start one: backupctl run"]
        context.screen.lines(runs_table(context.screen, found, context.times()) if found else nothing)
    return EXIT_OK


def list_backups(context: Context) -> int:
    """List backups, newest first; slices only with --slices."""
    args = context.args
    reply = context.ask("ListBackups", {"job": args.job, "limit": args.limit, "slices": args.slices})
    if not context.json(reply):
        from nanumpay_backupd.cli.views import backups_table

        found, times = reply["backups"], context.times()
        nothing = ["No backups yet. Make one: backupctl run"]
        context.screen.lines(backups_table(context.screen, found, times) if found else nothing)
        if groups := reply.get("groups"):
            from nanumpay_backupd.cli.together import made_table

            context.screen.lines(["", *made_table(context.screen, groups, times)])
        context.screen.lines(_hidden(reply.get("hidden_slices") or 0, args.job))
    return EXIT_OK


def _hidden(count: int, job: str | None) -> list[str]:
    """Say what a listing leaves out, and how to see it."""
    if not count:
        return []
    from nanumpay_backupd.cli.words import plural

    name = f" {job}" if job else ""
    verb = "is" if count == 1 else "are"
    return [f"{plural(count, 'slice')} {verb} not shown (backupctl list{name} --slices; backupctl timeline{name})"]


def show(context: Context) -> int:
    """Show a backup, a run or what a run of a group made: an id may be any, and backups are asked for first."""
    name = context.args.id
    from nanumpay_backupd.cli.together import group_lines, is_group

    if is_group(name):
        reply = context.ask("DescribeGroup", {"group": name})
        if not context.json(reply):
            context.screen.lines(group_lines(context.screen, reply["group"], context.times()))
        return EXIT_OK
    try:
        reply = context.ask("DescribeBackup", {"backup": name})
    except BackupdError as error:
        if error.exit_code != EXIT_NOT_FOUND or name == "latest":
            raise
        reply = _run_of(context, name)
    if not context.json(reply):
        from nanumpay_backupd.cli.details import backup_lines, run_lines

        times = context.times()
        if "backup" in reply:
            backup = reply["backup"]
            context.screen.lines(backup_lines(context.screen, backup, times, _companions(context, backup)))
        else:
            members = [_run_of(context, one)["run"] for one in reply["run"].get("members") or ()]
            context.screen.lines(run_lines(context.screen, reply["run"], times, members))
    return EXIT_OK


def _companions(context: Context, backup: Reply) -> list[Reply]:
    """Return all backups of the job of a slice, which is restored together with some of them."""
    if backup["kind"] not in {"incremental", "differential"}:
        return []
    found: list[Reply] = context.ask("ListBackups", {"job": backup["job"], "slices": True})["backups"]
    return found


def _run_of(context: Context, name: str) -> Reply:
    try:
        return context.ask("DescribeRun", {"run": name})
    except BackupdError as error:
        if error.exit_code != EXIT_NOT_FOUND:
            raise
        raise NotFoundError(
            f"there is no backup and no run with the id '{name}'", hint="ids are in: backupctl list, backupctl runs"
        ) from None


def settings(context: Context) -> int:
    """Show the settings in force, without secrets."""
    reply = context.ask("GetSettings")
    if not context.json(reply):
        from nanumpay_backupd.cli.views import fault_lines, settings_source, tree_lines

        state = reply["state"]
        screen = context.screen
        screen.line(f"{screen.paint('source:', 'bold')} {settings_source(state, context.times())}")
        if state.get("problem"):
            screen.lines(fault_lines(screen, state["problem"], "  "))
        screen.line()
        screen.lines(tree_lines(reply["settings"]) or ["No settings are in force."])
    return EXIT_OK


def doctor(context: Context) -> int:
    """Check everything that a backup needs. Exit code 8 when a check failed."""
    return _checks(context, "Doctor", {}, "checking MongoDB, tools, disk, destinations, clock, permissions ...")


def test(context: Context) -> int:
    """Try one destination for real. Exit code 8 when a check failed."""
    name = context.args.destination
    return _checks(context, "TestDestination", {"destination": name}, f"trying destination {name} ...")


def _checks(context: Context, method: str, params: Reply, meanwhile: str) -> int:
    screen = context.screen
    waiting = screen.moves and not context.args.json
    if waiting:
        screen.raw(screen.fit(meanwhile))
    try:
        reply = context.ask(method, params, timeout=PATIENT)
    finally:
        if waiting:
            screen.raw("\r\x1b[K")
    if not context.json(reply):
        from nanumpay_backupd.cli.views import checks_lines

        screen.lines(checks_lines(screen, reply["checks"]))
    failed = any(check["state"] == "failed" for check in reply["checks"])
    return EXIT_UNHEALTHY if failed else EXIT_OK


def logs(context: Context) -> int:
    """Become ``journalctl`` for the daemon's unit, or for one run of it."""
    args = context.args
    limit = args.limit or (None if args.run else _LOG_LINES)
    command = ["journalctl", "-u", _UNIT]
    if limit:
        command += ["-n", str(limit)]
    if args.follow:
        command.append("-f")
    if args.json:
        command += ["-o", "json"]
    if args.run:
        command.append(f"RUN_ID={args.run}")
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - a list of words, no shell
    except FileNotFoundError:
        raise ToolError(
            "journalctl is not installed here, so the daemon's log cannot be shown",
            hint="look where the daemon was started: its terminal, its log file, or its container's log",
            code="tool-missing",
        ) from None


def reload(context: Context) -> int:
    """Let the daemon read its host file again."""
    reply = context.ask("Reload")
    if not context.json(reply):
        context.screen.line(reply["message"])
    return EXIT_OK


def rebuild(context: Context) -> int:
    """Rebuild the catalog from the manifests."""
    reply = context.ask("RebuildCatalog", timeout=PATIENT)
    if not context.json(reply):
        from nanumpay_backupd.cli.words import plural

        found = f"{plural(reply['backups'], 'backup')} and {plural(reply['runs'], 'run')}"
        context.screen.line(f"The catalog was rebuilt from the manifests: {found}.")
    return EXIT_OK
