"""The command monitor: every check of jobs and their places; accepts what is odd about a backup."""

from __future__ import annotations

from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.errors import EXIT_OK, EXIT_UNHEALTHY

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    from nanumpay_backupd.cli.terminal import Screen
    from nanumpay_backupd.cli.words import Times

    Reply = dict[str, Any]

__all__ = ["monitor", "monitor_lines"]

_COLUMNS = ("reachable", "age", "size", "verified", "room", "expiry", "runs", "content", "changes")
_TITLES = {"age": "NEWEST", "expiry": "ENDS"}
_STATES = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failed": ("bad", "red")}
_WORDS = {"warning": "WARNING", "failed": "FAILED"}
_RANK = ("failed", "warning", "ok")


def monitor(context: Context) -> int:
    """Show every check. Exit code 8 when one failed; warnings alone are 0."""
    args, screen = context.args, context.screen
    if args.accept is not None:
        return _accept(context)
    waiting = screen.moves and not args.json and not args.last
    if waiting:
        screen.raw(screen.fit("looking at all places ..."))
    try:
        reply = context.ask("Monitor", {"job": args.job, "recorded": args.last}, timeout=PATIENT)
    finally:
        if waiting:
            screen.raw("\r\x1b[K")
    if not context.json(reply):
        screen.lines(monitor_lines(screen, reply, context.times()))
    return EXIT_UNHEALTHY if reply["health"] == "failing" else EXIT_OK


def monitor_lines(screen: Screen, reply: Reply, times: Times) -> list[str]:
    """Write what is wrong, worst first, each with what to do; then one row for each place."""
    checks = reply["checks"]
    bad = sorted((check for check in checks if check["state"] != "ok"), key=lambda one: _RANK.index(one["state"]))
    lines = [_head(screen, reply, bad, times)]
    for check in bad:
        mark, style = _STATES[check["state"]]
        where = ", ".join(part for part in (check["job"], check["destination"]) if part)
        word = screen.paint(_WORDS[check["state"]], style, "bold")
        lines.append(f"{screen.paint(screen.mark(mark), style)} {word} {where}: {check['message']}")
        if check["hint"]:
            lines.append(f"  {screen.mark('hint')} {check['hint']}")
    return [*lines, "", *_table(screen, checks)] if checks else lines


def _head(screen: Screen, reply: Reply, bad: list[Reply], times: Times) -> str:
    from nanumpay_backupd.cli.words import plural

    failed = sum(check["state"] == "failed" for check in bad)
    warned = len(bad) - failed
    if not reply["checks"]:
        return "There is no job to look at yet."
    style = "red" if failed else "yellow" if warned else "green"
    words = ", ".join(
        ([f"{plural(failed, 'check')} failed"] if failed else []) + ([plural(warned, "warning")] if warned else [])
    )
    seen = f"looked {times.ago(reply['looked'])}" if reply.get("looked") else "never looked yet"
    dot, text = screen.paint(screen.mark("dot"), style), screen.paint(words or "All is well", "bold")
    return f"{dot} {text}   {screen.paint(seen, 'dim')}"


def _table(screen: Screen, checks: list[Reply]) -> list[str]:
    """Lay out the checks: a row for each place, and one for what is of a job as a whole."""
    from nanumpay_backupd.cli.terminal import Column

    rows = list(dict.fromkeys((check["job"], check["destination"]) for check in checks))
    jobs = list(dict.fromkeys(job for job, _ in rows))
    rows.sort(key=lambda row: (jobs.index(row[0]), not row[1]))
    cells = {
        name: [
            _cell(screen, [one for one in checks if (one["job"], one["destination"], one["check"]) == (*row, name)])
            for row in rows
        ]
        for name in _COLUMNS
    }
    return screen.table(
        Column("JOB", [job for job, _ in rows]),
        Column("PLACE", [place or "(all)" for _, place in rows]),
        *(
            Column(_TITLES.get(name, name.upper()), cells[name], drop=at - len(_COLUMNS))
            for at, name in enumerate(_COLUMNS)
            if any(cell != "-" for cell in cells[name])
        ),
    )


def _cell(screen: Screen, found: list[Reply]) -> str:
    """Write the worst of some checks in a word or two; of what ends, what ends first."""
    if not found:
        return "-"
    worst = min(found, key=lambda one: _RANK.index(one["state"]))
    if worst["check"] == "expiry" and worst["state"] == "ok":
        worst = min(found, key=lambda one: int(one["value"].split()[0]))
    mark, style = _STATES[worst["state"]]
    return f"{screen.paint(screen.symbols[mark] if screen.unicode else screen.mark(mark), style)} {worst['value']}"


def _accept(context: Context) -> int:
    """Say that what is odd about a backup is meant."""
    reply = context.ask("AcceptBackup", {"backup": context.args.accept})
    if not context.json(reply):
        context.screen.line(f"Accepted: from {reply['backup']} on, that is what is usual.")
        for name in reply["released"]:
            context.screen.line(f"  {name} is no longer pinned by the daemon")
    return EXIT_OK
