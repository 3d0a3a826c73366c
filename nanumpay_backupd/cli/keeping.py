"""The commands about how long backups are kept: prune, pin, unpin. Each takes the context and returns the exit code."""

from __future__ import annotations

from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["pin", "prune", "unpin"]


def prune(context: Context) -> int:
    """Show what retention would delete, now or one day; delete it with --apply."""
    args = context.args
    if not args.apply:
        at = _moment(context) if args.at else None
        params = {"job": args.job, "at": at, "assume_schedule": args.assume_schedule, "together": not args.json}
        reply = context.ask("Prune", params, timeout=PATIENT)
        if not context.json(reply):
            _show_plan(context, reply)
        return EXIT_OK
    if not args.yes:
        context.must_be_asked()
        going = _show_plan(context, context.ask("Prune", {"job": args.job, "together": True}, timeout=PATIENT))
        if not going:
            return EXIT_OK
        if not context.confirm(f"Delete {_amount(going)} for good?"):
            context.screen.line("Nothing was deleted.")
            return EXIT_REFUSED
    params = {"job": args.job, "apply": True, "together": not args.json}
    reply = context.ask("Prune", params, timeout=PATIENT)
    if not context.json(reply):
        gone = [line for line in reply["lines"] if line["action"] == "delete"]
        context.screen.line(f"Deleted {_amount(gone)}." if gone else "Nothing was to be deleted.")
        _say_locked(context, reply["lines"])
        _say_notes(context, reply)
    return EXIT_OK


def _moment(context: Context) -> str:
    """Read --at as a moment of the daemon's zone, by its clock."""
    from nanumpay_backupd.cli.words import Times
    from nanumpay_backupd.moments import read_future

    status = context.ask("GetStatus")
    times = Times(status["timezone"], status["now"])
    return read_future(context.args.at, times.zone, times.now)


def _show_plan(context: Context, reply: Reply) -> list[Reply]:
    """Show every copy with its verdict and reason; returns those that would go."""
    from nanumpay_backupd.cli.views import prune_table

    screen, lines = context.screen, reply["lines"]
    going = [line for line in lines if line["action"] == "delete"]
    if lines:
        screen.lines([*prune_table(screen, lines), ""])
    if reply.get("at"):
        _sum_up_future(context, reply, going)
    elif not going:
        screen.line("Nothing is to be deleted.")
    elif not context.args.apply:
        screen.line(f"Would delete {_amount(going)}. Nothing was deleted; to do it: backupctl prune --apply")
    _say_locked(context, lines)
    _say_notes(context, reply)
    return going


def _sum_up_future(context: Context, reply: Reply, going: list[Reply]) -> None:
    screen = context.screen
    staying = [line for line in reply["lines"] if line["action"] != "delete"]
    when = context.times().when(reply["at"])
    if context.args.assume_schedule:
        screen.line(f"By {when}, with the backups that are scheduled until then: {_amount(staying)} are there.")
        screen.line(f"Of what is there now, {_amount(going)} will be gone.")
        return
    screen.line(
        f"On {when}, if nothing is made or deleted before: {_amount(going)} to be deleted, {_amount(staying)} to stay."
    )


def _say_locked(context: Context, lines: list[Reply]) -> None:
    """Say what should go and is held by its place."""
    locked = [line for line in lines if line["action"] == "locked"]
    if not locked:
        return
    ends = sorted(line["locked_until"] for line in locked if line.get("locked_until"))
    until = f" the first until {context.times().when(ends[0])}," if ends else ""
    context.screen.line(f"Locked at their place: {_amount(locked)};{until} and deleted after that.")


def _say_notes(context: Context, reply: Reply) -> None:
    screen = context.screen
    for note in reply.get("notes") or []:
        screen.line(f"{screen.paint(screen.mark('warn'), 'yellow')} {note}")


def _amount(lines: list[Reply]) -> str:
    from nanumpay_backupd.cli.words import plural, size

    many = sum(line.get("slices") or 1 for line in lines)
    return f"{plural(many, 'copy', 'copies')} ({size(sum(line['size'] for line in lines))})"


def pin(context: Context) -> int:
    """Keep retention from deleting a backup."""
    reply = context.ask("Pin", {"backup": context.args.backup, "reason": context.args.reason})
    if not context.json(reply):
        context.screen.line(f"Pinned {reply['backup']}: retention leaves it alone until it is let go.")
        context.screen.line(f"  let it go:  backupctl unpin {reply['backup']}")
    return EXIT_OK


def unpin(context: Context) -> int:
    """Let retention have a backup again."""
    reply = context.ask("Unpin", {"backup": context.args.backup, "all": context.args.all})
    if context.json(reply):
        return EXIT_OK
    screen, left = context.screen, reply["pins"]
    if not left:
        screen.line(f"{reply['backup']} is not pinned (any more).")
        return EXIT_OK
    screen.line(f"{reply['backup']} stays pinned by the daemon, which lets it go by itself when all is well again:")
    screen.lines([f"  {one['reason']}" for one in left])
    screen.line(f"  let it go all the same:  backupctl unpin {reply['backup']} --all")
    return EXIT_OK
