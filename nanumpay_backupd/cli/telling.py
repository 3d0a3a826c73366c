"""The commands about telling people: notify (who is told of what, what was told, a test) and report."""

from __future__ import annotations

from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.errors import EXIT_NOT_FOUND, EXIT_OK, EXIT_UNHEALTHY, BackupdError, UsageError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    from nanumpay_backupd.cli.words import Times

    Reply = dict[str, Any]

__all__ = ["notify", "report"]

_NO_CHANNELS = "Nobody is told yet: add a [channel.NAME] to the host file (docs/operations.md, Notifications)."
_PHASES = {"once": "", "began": "", "changed": " (another cause)", "reminder": " (still)", "ended": ""}
_STYLES = {"error": "red", "warning": "yellow"}
_STATES = {"ok": "green", "failing": "red"}


def notify(context: Context) -> int:
    """Show the channels and what they were told, or send a test. Exit code 8 when a test did not arrive, 6: nowhere."""
    args = context.args
    if args.what == "test":
        return _test(context)
    if args.channel is not None:
        raise UsageError(f"notify takes no argument '{args.channel}'", hint=f"backupctl notify test {args.channel}")
    reply = context.ask("ListNotices", {"limit": args.limit})
    if not context.json(reply):
        times = context.times()
        channels, notices = reply["channels"], reply["notices"]
        context.screen.lines(_channels(context, channels, times) if channels else [_NO_CHANNELS])
        context.screen.line()
        context.screen.lines(_notices(context, notices, times) if notices else ["There was nothing to tell yet."])
    return EXIT_OK


def _channels(context: Context, channels: list[Reply], times: Times) -> list[str]:
    from nanumpay_backupd.cli.terminal import Column

    screen = context.screen
    lines = screen.table(
        Column("CHANNEL", [channel["name"] for channel in channels]),
        Column("BY", [channel["type"] for channel in channels], drop=2),
        Column("IS TOLD", [_told(channel) for channel in channels], drop=1),
        Column("STATE", [screen.paint(channel["state"], _STATES.get(channel["state"], "dim")) for channel in channels]),
        Column("LAST", [times.both(channel["last"]) if channel.get("last") else "never" for channel in channels]),
    )
    for channel in channels:
        if channel["waiting"]:
            lines.append(f"{channel['name']}: messages that wait: {channel['waiting']}")
        if channel.get("problem"):
            lines.append(
                f"{screen.paint(screen.mark('bad'), 'red')} {channel['name']}: {channel['problem']['message']}"
            )
            if channel["problem"]["hint"]:
                lines.append(f"  {screen.mark('hint')} {channel['problem']['hint']}")
    return lines


def _told(channel: Reply) -> str:
    """Say in few words what a channel is told."""
    if channel["type"] == "database":
        return "everything"
    if channel["type"] == "heartbeat":
        return "when a backup begins and ends"
    level = {"info": "everything", "warning": "warnings, errors", "error": "errors", "none": ""}[channel["severity"]]
    told = ", ".join([*([level] if level else []), *channel["events"]])
    return f"{told} of {', '.join(channel['jobs'])}" if channel["jobs"] else told


def _notices(context: Context, notices: list[Reply], times: Times) -> list[str]:
    from nanumpay_backupd.cli.terminal import Column

    screen = context.screen
    return screen.table(
        Column("WHEN", [times.both(notice["at"]) for notice in notices], short=lambda: _when(notices, times)),
        Column("WHAT", [_what(context, notice) for notice in notices]),
        Column("JOB", [notice["job"] for notice in notices], drop=1),
        Column("TOLD", [_sent(context, notice) for notice in notices]),
        Column("WHY", [notice["reason"] for notice in notices], drop=2),
    )


def _when(notices: list[Reply], times: Times) -> list[str]:
    return [times.when(notice["at"]) for notice in notices]


def _what(context: Context, notice: Reply) -> str:
    if notice["phase"] == "ended":
        return context.screen.paint(f"{notice['of']} ended", "green")
    return context.screen.paint(
        f"{notice['event']}{_PHASES[notice['phase']]}", _STYLES.get(notice["severity"], "green")
    )


def _sent(context: Context, notice: Reply) -> str:
    """Write to whom a notice went: ``ops-mail✓ team…waiting``."""
    screen = context.screen
    marks = {
        "sent": screen.paint(screen.symbols["ok"], "green"),
        "waiting": screen.paint(f"{screen.symbols['wait']}waiting", "yellow"),
        "failed": screen.paint(f"{screen.symbols['bad']}failed", "red"),
    }
    return (
        " ".join(f"{sent['channel']}{marks.get(sent['state'], sent['state'])}" for sent in notice["sent"]) or "nobody"
    )


def _test(context: Context) -> int:
    """Send a test by one channel or by all, and say what each answered."""
    screen = context.screen
    waiting = screen.moves and not context.args.json
    if waiting:
        screen.raw(screen.fit("sending ..."))
    try:
        reply = context.ask("TestNotify", {"channel": context.args.channel}, timeout=PATIENT)
    finally:
        if waiting:
            screen.raw("\r\x1b[K")
    results = reply["results"]
    if not context.json(reply):
        screen.lines([line for result in results for line in _result(context, result)] or [_NO_CHANNELS])
    if not results:
        return EXIT_NOT_FOUND
    return EXIT_OK if all(result["ok"] for result in results) else EXIT_UNHEALTHY


def _result(context: Context, result: Reply) -> list[str]:
    screen = context.screen
    mark = screen.paint(screen.mark("ok"), "green") if result["ok"] else screen.paint(screen.mark("bad"), "red")
    lines = [f"{mark} {result['channel']}: {result['answer']} ({result['seconds']:.1f} s)"]
    if not result["ok"] and result["hint"]:
        lines.append(f"  {screen.mark('hint')} {result['hint']}")
    return lines


def report(context: Context) -> int:
    """Show the report of the last days, or write it as a page."""
    args = context.args
    params = {"days": args.days, "language": args.language, "html": args.html is not None}
    reply = context.ask("GetReport", params, timeout=PATIENT)
    if args.html is not None:
        _write(args.html, reply["html"])
        if not context.json({"file": args.html, "report": reply["report"]}):
            context.screen.line(f"Written: {args.html}")
    elif not context.json(reply):
        context.screen.lines(reply["text"].splitlines())
    return EXIT_OK


def _write(path: str, page: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as stream:  # noqa: PTH123 - pathlib costs more than it gives here
            stream.write(page)
    except OSError as error:
        raise BackupdError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours", code="write-failed"
        ) from None
