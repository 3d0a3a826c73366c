"""The command swaps: what restores with --swap keep; undoes them, does them again, deletes what they keep."""

from __future__ import annotations

from nanumpay_backupd.cli.context import PATIENT, Context, complain
from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, NotFoundError, UsageError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["swaps"]

_STYLES = {"swapped": "green", "undone": "yellow", "unfinished": "red"}
_LIVE = {
    "preparing": "untouched",
    "unfinished": "some of it restored, some not",
    "swapped": "what was restored",
    "undone": "what was there before",
    "dropping": "not told any more",
}
_KEPT = {"swapped": "what was there before", "undone": "what was restored"}


def swaps(context: Context) -> int:
    """List swaps, or do something with one; what changes or deletes is asked about first."""
    args = context.args
    if args.what is None:
        return _list(context)
    if args.swap is None:
        raise UsageError(f"swaps {args.what} takes the name of a swap", hint="they are listed by: backupctl swaps")
    swap: Reply = {"stamp": args.swap}
    if not args.yes:
        context.must_be_asked(
            "deletes what a restore kept" if args.what == "drop" else "replaces what is in a database",
            "look first at what is kept: backupctl swaps; then add --yes",
        )
        swap = _named(context, args.swap)
        if not context.confirm(_question(context, swap, args.what)):
            context.screen.line("Nothing was done.")
            return EXIT_REFUSED
    if args.what == "drop":
        reply = context.ask("DropSwap", {"swap": swap["stamp"]}, timeout=PATIENT)
    else:
        reply = context.ask("UndoSwap", {"swap": swap["stamp"], "redo": args.what == "redo"}, timeout=PATIENT)
    if not context.json(reply):
        context.screen.lines(_done(reply["swap"], args.what))
    return EXIT_OK


def _list(context: Context) -> int:
    reply = context.ask("ListSwaps", timeout=PATIENT)
    if not context.json(reply):
        found = reply["swaps"]
        context.screen.lines(_table(context, found) if found else ["No restore keeps anything."])
        for swap in found:
            if swap["strays"]:
                names = ", ".join(swap["strays"])
                context.screen.line(f"{swap['stamp']}: written while a collection was away: {names}")
        for problem in reply["problems"]:
            complain(problem["message"], problem["hint"], problem["code"], context.args.color)
    return EXIT_FAILED if reply["problems"] else EXIT_OK


def _table(context: Context, found: list[Reply]) -> list[str]:
    from nanumpay_backupd.cli.terminal import Column
    from nanumpay_backupd.cli.words import number, size

    screen, times = context.screen, context.times()
    when = [times.both(swap["at"]) if swap.get("at") else "-" for swap in found]
    return screen.table(
        Column("SWAP", [swap["stamp"] for swap in found]),
        Column("DATABASE", [swap["database"] for swap in found]),
        Column("STATE", [screen.paint(swap["state"], _STYLES.get(swap["state"], "dim")) for swap in found]),
        Column("SINCE", when, drop=2),
        Column("LIVE IS", [_LIVE.get(swap["state"], "-") for swap in found], drop=1),
        Column("KEEPS", [f"{number(swap['documents'])} documents" for swap in found], right=True),
        Column("SIZE", [size(swap["bytes"]) for swap in found], right=True, drop=-1),
        Column("BACKUP", [swap["backup"] or "-" for swap in found], drop=3),
    )


def _named(context: Context, stamp: str) -> Reply:
    """Return a swap by its name, so that what is asked about is what there is."""
    reply = context.ask("ListSwaps", timeout=PATIENT)
    for swap in reply["swaps"]:
        if swap["stamp"] == stamp:
            return dict(swap)
    raise NotFoundError(f"there is no swap '{stamp}'", hint="they are listed by: backupctl swaps")


def _question(context: Context, swap: Reply, what: str) -> str:
    from nanumpay_backupd.cli.words import plural, size

    database = context.screen.paint(swap["database"], "bold")
    kept = (
        f"{plural(swap['collections'], 'collection')}, {plural(swap['documents'], 'document')}, {size(swap['bytes'])}"
    )
    context.screen.line(f"swap {swap['stamp']} of database {database}: {swap['state']}; it keeps {kept}")
    if what == "drop":
        about = _KEPT.get(swap["state"])
        return f"Delete {about}, for good?" if about else "Delete what it keeps, for good?"
    which = "was restored" if what == "redo" else "was there before the restore"
    return f"Make what {which} live in {swap['database']}? What is live now is kept."


def _done(swap: Reply, what: str) -> list[str]:
    from nanumpay_backupd.cli.words import plural

    stamp, kept = swap["stamp"], plural(swap["documents"], "document")
    if what == "drop":
        return [f"Deleted what swap {stamp} kept: {kept} of database {swap['database']}."]
    other = "undo" if what == "redo" else "redo"
    lines = [
        f"Live in {swap['database']} is {_LIVE.get(swap['state'], swap['state'])}. The other side is kept ({kept}).",
        f"  change again:  backupctl swaps {other} {stamp}",
        f"  not needed:    backupctl swaps drop {stamp}",
    ]
    if swap["strays"]:
        lines.append(f"Written while a collection was away: {', '.join(swap['strays'])}")
    return lines
