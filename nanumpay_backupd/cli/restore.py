"""The command restore: shows the plan, asks, starts it, shows it until it ends. Decides nothing about the restore."""

from __future__ import annotations

from nanumpay_backupd.cli.actions import watched
from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["restore"]

_SHOWN = 6


def restore(context: Context) -> int:
    """Restore a backup; the exit code tells the outcome. What the target holds is asked about by its name."""
    args = context.args
    if not args.yes and not args.dry_run:
        context.must_be_asked(
            "replaces what is in a database",
            f"look first at what it would do: backupctl restore {args.backup} --dry-run; then add --yes",
        )
    params: Reply = {
        "backup": args.backup,
        "to_database": args.to_db,
        "collection": args.collection,
        "source": args.source,
    }
    plan = _plan(context, params)
    if args.dry_run:
        if not context.json({"plan": plan}):
            context.screen.line("Nothing was done.")
        return EXIT_OK
    if not args.yes and not _agreed(context, plan):
        context.screen.line("Nothing was done.")
        return EXIT_REFUSED
    # What was shown is what is done: "latest" and the copy are resolved by now.
    return watched(context, "Restore", {**params, "backup": plan["backup"], "source": plan["copy"]} | _safety(context))


def _safety(context: Context) -> Reply:
    return {"safety": False} if context.args.no_safety_backup else {}


def _plan(context: Context, params: Reply) -> Reply:
    reply = context.ask("Restore", {**params, "dry_run": True} | _safety(context), timeout=PATIENT)
    plan: Reply = reply["plan"]
    if not context.args.json:
        context.screen.lines(_plan_lines(context, plan))
    return plan


def _plan_lines(context: Context, plan: Reply) -> list[str]:
    from nanumpay_backupd.cli.words import plural, size

    screen = context.screen
    names = plan["collections"]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    brings = f"{plural(plan['documents'], 'document')}, {size(plan['bytes'])}" if names else "what is in the archive"
    replay = ", with its oplog replayed" if plan["replays_oplog"] else ""
    there = f"{plural(plan['target_documents'], 'document')} in {plural(plan['target_collections'], 'collection')}"
    safety = "a safety backup of what is there is made" if plan["safety_backup"] else "no safety backup is made"
    rows = [
        ("restore", f"{screen.paint(plan['backup'], 'bold')}, copy: {plan['copy']}"),
        ("as of", f"{context.times().both(plan['moment'])}{replay}"),
        ("brings", f"{brings}{': ' + ', '.join(names[:_SHOWN]) + more if names else ''}"),
        ("into", f"database {screen.paint(plan['database'], 'bold')} at {plan['server']}"),
        ("there now", f"{there}; collections of the same name are replaced" if plan["target_exists"] else "nothing"),
        ("before", safety if plan["target_exists"] else "nothing to save"),
    ]
    lines = [f"{name.ljust(11)}{text}" for name, text in rows]
    lines += [f"{screen.paint(screen.mark('warn'), 'yellow')} {text}" for text in plan["warnings"]]
    return [*lines, ""]


def _agreed(context: Context, plan: Reply) -> bool:
    if not plan["target_exists"]:
        return context.typed("Restore it? [y/N]").lower() in {"y", "yes"}
    name = plan["database"]
    if context.typed(f"This replaces data in {name}. To go on, type the name of the database:") == name:
        return True
    context.screen.line("That is not its name.")
    return False
