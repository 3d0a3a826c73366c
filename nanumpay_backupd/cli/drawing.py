"""Draws a timeline as one bar with an axis and a legend, as wide as the terminal. Lines only; asks and decides nothing.

Every sign means the same without colours. Signs are of a width that all terminals agree on, so that no bar wraps.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import groupby

from nanumpay_backupd.cli.terminal import Screen, width
from nanumpay_backupd.cli.words import Times, duration

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["drawing"]

_HOUR, _DAY = 3600, 86400
_SPANS = (*(hours * _HOUR for hours in (1, 3, 6, 12)), *(days * _DAY for days in (*range(1, 11), 14, 21, 30)))
_STEPS = (5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 14400)  # minutes between two marks of the axis
_MINUTES = 1440
_PIPE, _WIDEST, _NARROWEST = 80, 120, 20
_INDENT = 2
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d-\d\d-\d\d)$")
# What a sign means and its colour, in the order of the legend.
_SIGNS = {
    "span": ("every second", "green"),
    "full": ("full", "green"),
    "whole": ("whole backup only", "cyan"),
    "gap": ("gap", "yellow"),
    "void": ("nothing", "dim"),
}


class _Axis:
    """The time that is drawn: ``cells`` of equal length from ``start`` to ``end`` (seconds since 1970)."""

    def __init__(self, end: float, span: float, cells: int) -> None:
        self.start = end - span
        self.end = end
        self.cells = cells
        self._length = span / cells

    def place(self, moment: float) -> int:
        """Return the cell of a moment; below 0: it is before the drawing."""
        return min(self.cells - 1, int((moment - self.start) // self._length))

    def among(self, first: float, last: float) -> range:
        """Return the cells from one moment to another, as far as they are drawn."""
        return range(max(0, self.place(first)), self.place(last) + 1)


def drawing(screen: Screen, reply: Reply, times: Times) -> list[str]:
    """Draw a reply of ``Timeline`` that has ranges: what it spans, the bar, its axis, its legend."""
    now = _seconds(reply["now"])
    age = now - min(_seconds(one["first"]) for one in reply["ranges"])
    span = next((one for one in _SPANS if one >= age), _SPANS[-1])
    room = (screen.columns or _PIPE) - 2 * _INDENT
    axis = _Axis(now, span, max(_NARROWEST, min(room, _WIDEST)))
    signs = _signs(reply, axis)
    bar = "".join(_sign(screen, name, len(list(same))) for name, same in groupby(signs))
    legend = [f"{_sign(screen, name)} {words}" for name, (words, _) in _SIGNS.items() if name in signs]
    older = "; what is older is listed below" if age > span else ""
    indent = " " * _INDENT
    lines = [f"{indent}{bar}", f"{indent}{_marks(axis, times)}".rstrip(), *_wrapped(legend, axis.cells, indent)]
    return [f"the last {duration(span)}{older}", *lines]


def _sign(screen: Screen, name: str, count: int = 1) -> str:
    return screen.paint(screen.symbols[name] * count, _SIGNS[name][1])


def _signs(reply: Reply, axis: _Axis) -> list[str]:
    """Say what stands in each cell. A full is drawn over what surrounds it, but never hides a gap as a whole."""
    signs = ["void"] * axis.cells
    exact = [one for one in reply["ranges"] if one["exact"]]
    lost = [(_seconds(gap["after"]), _seconds(gap["before"])) for gap in reply["gaps"]]
    for one in exact:
        _fill(signs, axis.among(_seconds(one["first"]), _seconds(one["last"])), "span")
    for after, before in lost:
        _fill(signs, axis.among(after, before), "gap")
    if exact and reply["stream"] in {"failing", "broken"}:
        # What was written since then cannot be restored either, as things are.
        _fill(signs, axis.among(_seconds(exact[-1]["last"]), axis.end)[1:], "gap")
    for one in reply["ranges"]:
        for cell in (axis.place(moment) for moment in _fulls(one)):
            if cell >= 0:
                signs[cell] = "full" if one["exact"] else "whole"
    for after, before in lost:
        cells = axis.among(after, before)
        if cells and all(signs[cell] != "gap" for cell in cells):
            signs[cells[len(cells) // 2]] = "gap"
    return signs


def _fill(signs: list[str], cells: range, sign: str) -> None:
    for cell in cells:
        signs[cell] = sign


def _fulls(one: Reply) -> list[float]:
    """Return when the fulls of a range were made: the oldest begins it, the others have it in their names."""
    first, last = _seconds(one["first"]), _seconds(one["last"])
    found = [first]
    for name in one["bases"][1:]:
        if stamp := _STAMP.search(name):
            made = _seconds(f"{stamp[1]}T{stamp[2].replace('-', ':')}Z")
            found.append(min(max(made, first), last))
    return found


def _marks(axis: _Axis, times: Times) -> str:
    """Write the axis: times of day or days, each behind a stroke at its place, as close as there is room."""
    room = len("|00:00 ") * (axis.end - axis.start) / axis.cells  # seconds that one mark takes
    step = next((one for one in _STEPS if one * 60 >= room), _STEPS[-1])
    every = min(step * 60, 900)  # seconds; every zone has its round times among these
    line = ""
    for moment in range(int(-(-axis.start // every) * every), int(axis.end), every):
        local = datetime.fromtimestamp(moment, UTC).astimezone(times.zone)
        if _since_epoch(local) % step == 0:
            label = f"|{local:%H:%M}" if local.hour or local.minute else f"|{local:%m-%d}"
            cell = axis.place(moment)
            if cell >= len(line) and cell + len(label) <= axis.cells:
                line = line.ljust(cell) + label
    return line


def _since_epoch(local: datetime) -> int:
    """Return the minutes that the clocks on the wall have counted, so that marks stand at round times of day."""
    return local.toordinal() * _MINUTES + local.hour * 60 + local.minute


def _wrapped(parts: list[str], room: int, indent: str) -> list[str]:
    """Put the parts of the legend on one line, or below each other where it would not fit."""
    line = "   ".join(parts)
    return [indent + line] if width(line) <= room else [indent + part for part in parts]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
