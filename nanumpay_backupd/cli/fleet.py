"""More than one host, as people see it: who holds the lease, who stands by; and the command that changes it."""

from __future__ import annotations

from nanumpay_backupd.cli.context import Context
from nanumpay_backupd.cli.terminal import Column, Screen
from nanumpay_backupd.cli.words import Times, duration
from nanumpay_backupd.errors import EXIT_OK, RefusedError, UsageError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["fleet", "fleet_lines"]

_ROLES = {"holder": "green", "standby": "dim", "taking-over": "yellow", "ending": "yellow", "gone": "red"}


def fleet(context: Context) -> int:
    """Show the fleet, or change who holds its lease."""
    args = context.args
    if args.verb is not None:
        if args.verb == "forget" and not args.name:
            raise UsageError("which host is to be forgotten?", hint="backupctl fleet forget HOST")
        if args.verb == "take" and args.name:
            raise UsageError("take is for the host that it is typed on", hint="there: backupctl fleet take")
        reply = context.ask("ChangeFleet", {"action": args.verb, "host": args.name})
        if not context.json(reply):
            context.screen.line(f"{reply['text'][:1].upper()}{reply['text'][1:]}.")
        return EXIT_OK
    status = context.ask("GetStatus")
    found = status.get("fleet")
    if found is None:
        raise RefusedError("this host is in no fleet: one host makes all backups", hint="see docs/fleet.md")
    if not context.json({"fleet": found}):
        context.screen.lines(fleet_lines(context.screen, found, Times(status["timezone"], status["now"])))
    return EXIT_OK


def fleet_lines(screen: Screen, found: Reply, times: Times) -> list[str]:
    """Say who holds the lease since when, and lay out the hosts."""
    holder, here = found["holder"], found["host"]
    if found["problem"]:
        words = "it is not known who holds the lease: MongoDB cannot be asked"
    elif not holder:
        words = "nobody holds the lease"
    else:
        since = f" since {times.both(found['since'])}" if found.get("since") else ""
        words = f"{holder}{' (this host)' if holder == here else ''} holds the lease{since}"
    own = f"; each host makes for itself: {', '.join(found['own'])}" if found["own"] else ""
    hosts = found["hosts"]
    lines = [f"{screen.paint('fleet', 'bold')}  {words} (number {found['token']}, {found['lease']:g} s){own}"]
    if not hosts:
        return lines
    return [
        *lines,
        *screen.table(
            Column("HOST", [f"{one['host']} (here)" if one["host"] == here else one["host"] for one in hosts]),
            Column("ROLE", [screen.paint(one["role"], _ROLES.get(one["role"], "dim")) for one in hosts]),
            Column("SEEN", [f"{duration(one['age'])} ago" for one in hosts]),
            Column("RUNNING", [", ".join(one["running"]) or "-" for one in hosts]),
            Column("VERSION", [one["version"] for one in hosts], drop=2),
            Column("SETTINGS", [one["settings"] or "-" for one in hosts], drop=1),
        ),
    ]
