"""The command timeline: what can be restored of a job and what cannot, drawn and line by line. Decides nothing."""

from __future__ import annotations

from nanumpay_backupd.cli.context import Context
from nanumpay_backupd.cli.drawing import drawing
from nanumpay_backupd.cli.protection import APPLICATION, stream_words
from nanumpay_backupd.cli.terminal import Screen, width
from nanumpay_backupd.cli.words import Times, duration, plural
from nanumpay_backupd.errors import EXIT_OK

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["timeline", "timeline_lines"]


def timeline(context: Context) -> int:
    """Show what can be restored of a job."""
    reply = context.ask("Timeline", {"job": context.args.job})
    if not context.json(reply):
        context.screen.lines(timeline_lines(context.screen, reply, context.times()))
    return EXIT_OK


def timeline_lines(screen: Screen, reply: Reply, times: Times) -> list[str]:
    """Write a job's timeline: until when, the drawing, ranges and gaps from old to new, how its slices are doing."""
    name, ranges = screen.paint(reply["job"], "bold"), reply["ranges"]
    if not ranges:
        nothing = f"nothing can be restored yet; make a backup: backupctl run {reply['job']}"
        return [f"{name}  {nothing}", "", *_stream_lines(screen, reply)]
    reply = reply | {"gaps": _worth_telling(reply)}
    newest = max((one["last"] for one in ranges), key=times.local)
    lines = [
        f"{name}  recoverable until {times.exact(newest)}, {times.ago(newest)}",
        "",
        *drawing(screen, reply, times),
    ]
    lines += ["", *_stretches(screen, reply, times), "", *_stream_lines(screen, reply)]
    exact = [one for one in ranges if one["exact"]]
    if exact:
        example = f"{times.local(exact[-1]['last']):%Y-%m-%d %H:%M:%S}"
        job = "" if reply["job"] == APPLICATION else f" --job {reply['job']}"
        lines.append(f'restore  backupctl restore latest --at "{example}"{job}')
    return lines


def _worth_telling(reply: Reply) -> list[Reply]:
    """Leave out the gaps between single moments where no slices are wanted: nothing is missing there."""
    singles = {one["first"] for one in reply["ranges"] if one["first"] == one["last"]}
    wanted = reply["stream"] != "off"
    return [gap for gap in reply["gaps"] if wanted or gap["after"] not in singles or gap["before"] not in singles]


def _stream_lines(screen: Screen, reply: Reply) -> list[str]:
    words, hint = stream_words(reply["job"], reply["stream"], reply.get("problem"))
    styled = words if reply["stream"] in {"ok", "off"} else screen.paint(words, "yellow")
    return [f"slices   {styled}", *([f"         {screen.mark('hint')} {hint}"] if hint else [])]


def _stretches(screen: Screen, reply: Reply, times: Times) -> list[str]:
    """Write one line for each range and each gap, oldest first, what is said of them aligned."""
    rows = [
        (one["first"], False, _stretch(one["first"], one["last"], times), _of(one, times)) for one in reply["ranges"]
    ]
    for gap in reply["gaps"]:
        long = duration(Times.between(gap["after"], gap["before"]))
        rows.append((gap["after"], True, _stretch(gap["after"], gap["before"], times), f"gap of {long}"))
    room = max(width(text) for _, _, text, _ in rows)
    lines = []
    for _, gap, text, words in sorted(rows, key=lambda row: (times.local(row[0]), row[1])):
        line = f"{text}{' ' * (room - width(text))}  {words}"
        lines.append(screen.paint(f"{screen.mark('warn')} {line}", "yellow") if gap else f"  {line}")
    return lines


def _of(one: Reply, times: Times) -> str:
    """Say what a range is: how it can be restored, and what from."""
    if not one["exact"]:
        return f"about {times.local(one['first']):%H:%M}: whole backup only ({', '.join(one['bases'])})"
    fulls = plural(len(one["bases"]), "full")
    if one["first"] == one["last"]:
        return f"this moment only ({fulls})"
    return f"every second ({fulls}, {plural(one['slices'], 'slice')})"


def _stretch(first: str, last: str, times: Times) -> str:
    start, end = _brief(first, times), _brief(last, times)
    return start if start == end else f"{start} … {end}"


def _brief(moment: str, times: Times) -> str:
    """Write a moment; its zone only where it is not the one of now, which the first line names."""
    text, _, label = times.exact(moment).rpartition(" ")
    return text if label == times.label("") else f"{text} {label}"
