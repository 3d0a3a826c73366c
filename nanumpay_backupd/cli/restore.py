"""The command restore: shows the plan, asks, starts it, shows it until it ends. Decides nothing about the restore."""

from __future__ import annotations

import contextlib

from nanumpay_backupd.cli.actions import watched
from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.cli.together import is_group, restore_group
from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED, BackupdError, UsageError
from nanumpay_backupd.wording import counted, words_for

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    from nanumpay_backupd.cli.terminal import Screen
    from nanumpay_backupd.cli.words import Times

    Reply = dict[str, Any]

__all__ = ["plan_lines", "restore"]

_SHOWN = 6
_LINES = 50
_LATEST = "latest"


def restore(context: Context) -> int:
    """Restore a backup; the exit code tells the outcome. What the target holds is asked about by its name."""
    args = context.args
    if args.which or is_group(args.backup):
        return restore_group(context)
    if args.only_db or args.only_files or args.partial:
        flag = "--only-db" if args.only_db else "--only-files" if args.only_files else "--partial"
        raise UsageError(f"{flag} is for a group", hint=f"backupctl restore GROUP latest {flag}; see: backupctl list")
    if not args.yes and not args.dry_run:
        context.must_be_asked(
            "replaces what is in a database",
            f"look first at what it would do: backupctl restore {args.backup} --dry-run; then add --yes",
        )
    params: Reply = {
        "backup": args.backup,
        "job": args.job,
        "at": _moment(context),
        "swap": args.swap,
        "to_database": args.to_db,
        "collection": args.collection,
        "source": args.source,
        **_of_others(args),
    }
    plan = _plan(context, params)
    if args.dry_run:
        if not context.json({"plan": plan}):
            context.screen.line("Nothing was done.")
        return EXIT_OK
    if not args.yes and not _agreed(context, plan):
        context.screen.line("Nothing was done.")
        return EXIT_REFUSED
    return watched(context, "Restore", _as_shown(params, plan) | _safety(context))


def _of_others(args: Any) -> Reply:
    """Return what can be said about other sources than MongoDB."""
    options = {"active-only": "yes"} if args.active_only else {}
    for text in args.option or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {text!r} is not of the form KEY=VALUE", hint="backupctl restore --help")
        options[key] = value
    told = {"only": args.only, "overwrite": args.overwrite or None, "options": options or None}
    return {name: value for name, value in told.items() if value is not None}


def _as_shown(params: Reply, plan: Reply) -> Reply:
    """Say what was shown: "latest" may mean another backup, copy or moment by now."""
    if not params["at"] and not plan["slices"]:
        return {**params, "backup": plan["backup"], "source": plan["copy"]}
    # The slices need not lie where the full does. A slice that was named stands for a moment, its full does not.
    backup = plan["backup"] if params["backup"] == _LATEST else params["backup"]
    return {**params, "backup": backup, "at": plan["moment"] if params["at"] == _LATEST else params["at"]}


def _moment(context: Context) -> str | None:
    """Read --at as a moment of the daemon's zone and clock; what is special about it is said before the plan."""
    args = context.args
    if args.at is None:
        if args.job:
            raise UsageError("--job goes with --at: the name of a backup says its job", hint="see: backupctl list")
        return None
    from nanumpay_backupd.cli.words import Times
    from nanumpay_backupd.moments import read_moment

    # Not `context.times`: in a zone that was guessed, another moment would be restored.
    status = context.ask("GetStatus")
    times = Times(status["timezone"], status["now"])
    moment, remark = read_moment(args.at, times.zone, times.now)
    if remark and not args.json:
        context.screen.line(f"{context.screen.paint(context.screen.mark('warn'), 'yellow')} {remark}")
    return moment


def _safety(context: Context) -> Reply:
    return {"safety": False} if context.args.no_safety_backup else {}


def _plan(context: Context, params: Reply) -> Reply:
    screen = context.screen
    waiting = screen.moves and not context.args.json and bool(params["at"])
    if waiting:
        screen.raw(screen.fit("saving the latest changes, looking for the way to that moment ..."))
    try:
        reply = context.ask("Restore", {**params, "dry_run": True} | _safety(context), timeout=PATIENT)
    finally:
        if waiting:
            screen.raw("\r\x1b[K")
    plan: Reply = reply["plan"]
    if not context.args.json:
        screen.lines(plan_lines(context, params, plan))
    return plan


def plan_lines(context: Context, params: Reply, plan: Reply) -> list[str]:
    """Write what a restore will do."""
    screen, times = context.screen, context.times()
    to_moment = bool(params["at"] or plan["slices"])
    rows = _moment_rows(context, params, plan, times) if to_moment else _backup_rows(context, plan, times)
    rows += [
        ("brings", _brings(plan)),
        ("into", _into(screen, plan)),
        *_target_rows(plan),
    ]
    lines = [f"{name.ljust(11)}{text}" for name, text in rows]
    lines += _changes(plan.get("changes") or [])
    lines += [f"{screen.paint(screen.mark('warn'), 'yellow')} {text}" for text in plan["warnings"]]
    return [*lines, ""]


def _changes(changes: list[str]) -> list[str]:
    """Say what becomes of what is there, line by line, as far as that can be read on a screen."""
    more = [f"  and {len(changes) - _LINES} more: see --dry-run --json"] if len(changes) > _LINES else []
    return [*(f"  {line}" for line in changes[:_LINES]), *more]


def _into(screen: Screen, plan: Reply) -> str:
    what = "database " if _kind(plan) == "mongodb" else ""
    where = f" at {plan['server']}" if plan["server"] else ""
    return f"{what}{screen.paint(plan['database'], 'bold')}{where}"


def _kind(plan: Reply) -> str:
    """Return the type of source that a plan is about."""
    return plan.get("source") or "mongodb"


def _backup_rows(context: Context, plan: Reply, times: Times) -> list[tuple[str, str]]:
    replay = ", with its oplog replayed" if plan["replays_oplog"] else ""
    return [
        ("restore", f"{context.screen.paint(plan['backup'], 'bold')}, copy: {plan['copy']}"),
        ("as of", f"{times.both(plan['moment'])}{replay}"),
    ]


def _moment_rows(context: Context, params: Reply, plan: Reply, times: Times) -> list[tuple[str, str]]:
    """Say which moment is restored, and from what."""
    from nanumpay_backupd.cli.words import plural

    count = len(plan["slices"])
    if count:
        replay = f"the changes after it, from {plural(count, 'slice')}, up to that moment"
    else:
        replay = "its own oplog; no slice is needed" if plan["replays_oplog"] else "nothing"
    exact = f" (oplog time {params['at']})" if ":" in (params["at"] or "") and "T" not in params["at"] else ""
    rows = [
        ("restore", f"the full {context.screen.paint(plan['backup'], 'bold')}, copy: {plan['copy']}"),
        ("replays", replay),
        ("as of", f"{times.with_utc(plan['moment'])}, {times.ago(plan['moment'])}{exact}"),
    ]
    until = _recoverable_until(context, plan)
    return [*rows, ("latest", f"recoverable until {times.exact(until)}, {times.ago(until)}")] if until else rows


def _recoverable_until(context: Context, plan: Reply) -> str:
    """Return the newest moment that could be restored instead; empty where the daemon does not tell."""
    with contextlib.suppress(BackupdError):
        job = context.ask("DescribeBackup", {"backup": plan["backup"]})["backup"]["job"]
        exact = [one for one in context.ask("Timeline", {"job": job})["ranges"] if one["exact"]]
        return str(exact[-1]["last"]) if exact else ""
    return ""


def _brings(plan: Reply) -> str:
    from nanumpay_backupd.cli.words import size

    names = plan["collections"]
    if not names:
        return "what is in the archive"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    if plan["slices"] and not plan["documents"]:
        return f"what the changes hold of {', '.join(names[:_SHOWN])}{more}"
    held = f"{words_for(_kind(plan)).count_items(plan['documents'])}, {size(plan['bytes'])}"
    replay = " before the replay" if plan["slices"] and _kind(plan) == "mongodb" else ""
    return f"{held}{replay}: {', '.join(names[:_SHOWN])}{more}"


def _target_rows(plan: Reply) -> list[tuple[str, str]]:
    """Say what is there now and what becomes of it."""
    words = words_for(_kind(plan))
    there = counted(_kind(plan), plan["target_documents"], plan["target_collections"])
    if not plan["target_documents"] and _kind(plan) != "mongodb":
        there = words.count_parts(plan["target_collections"])
    safety = "a safety backup of what is there is made" if plan["safety_backup"] else "no safety backup is made"
    if not plan["target_exists"]:
        return [("there now", "nothing"), ("before", "nothing to save")]
    if not plan["swap"]:
        what = f"{words.parts} of the same name are replaced"
        goes = [("goes", ", ".join(plan["drops"]))] if plan["drops"] and _kind(plan) != "mongodb" else []
        return [("there now", f"{there}; {what}"), *goes, ("before", safety)]
    return [
        ("there now", there),
        ("happens", "restored beside that and checked; then the two change places"),
        ("kept", "what is there now, under another name, until it is dropped: backupctl swaps"),
        *([("before", safety)] if plan["safety_backup"] else []),
    ]


def _agreed(context: Context, plan: Reply) -> bool:
    name = plan["database"]
    if not plan["target_exists"]:
        where = (
            f" into {'database ' if _kind(plan) == 'mongodb' else ''}{name}"
            if plan["slices"] or context.args.at
            else ""
        )
        return context.typed(f"Restore it{where}? [y/N]").lower() in {"y", "yes"}
    what = "puts another state in the place of" if plan["swap"] else "replaces data in"
    word = "name of the database" if _kind(plan) == "mongodb" else "place"
    if context.typed(f"This {what} {name}. To go on, type the {word}:") == name:
        return True
    context.screen.line("That is not its name.")
    return False
