"""Charts as SVG, made here so that a page needs no script for them and no style of its own. Pure.

Colours come from the style sheet by class. Every chart has a title and a sentence for who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

__all__ = ["Bar", "Point", "bars", "line", "steps_of"]

_WIDTH: Final = 720
_HEIGHT: Final = 180
_LEFT: Final = 64
_BOTTOM: Final = 24
_TOP: Final = 12
_RIGHT: Final = 8


class Point(NamedTuple):
    """One day: its label, its value (None: there is none), what is told of it."""

    label: str
    value: float | None
    told: str


class Bar(NamedTuple):
    """One day of a strip: a class of the style sheet, and what is told of it."""

    kind: str
    told: str


def steps_of(most: float, base: float = 1000.0) -> list[float]:
    """Return round values for the axis, from 0 to at least ``most``; ``base`` is what units step by."""
    if most <= 1e-3:  # nothing that is drawn here is as small
        return [0.0, 1.0]
    unit = base ** math.floor(math.log(most, base)) if most >= 1 else 1.0
    scaled = most / unit
    power = 10 ** math.floor(math.log10(scaled)) if scaled > 0 else 1
    for factor in (0.25, 0.5, 1.0, 2.0, 2.5, 5.0):
        step = factor * power * unit
        if math.ceil(most / step) <= 4:
            return [step * at for at in range(math.ceil(most / step) + 1)]
    return [0.0, 10 * power * unit]


def line(title: str, told: str, points: Sequence[Point], write: Callable[[float], str], base: float = 1000.0) -> Markup:
    """Draw values over days as an area with a line; days without a value are left out, not drawn as 0."""
    values = [point.value for point in points if point.value is not None]
    steps = steps_of(max(values, default=0.0), base)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = wide / max(1, len(points) - 1)
    places = [
        (at, _LEFT + at * step, _TOP + high - point.value / steps[-1] * high)
        for at, point in enumerate(points)
        if point.value is not None
    ]
    out = [_axis(steps, high, write), _days(points, step)]
    if places:
        path = " ".join(f"{'M' if not at else 'L'}{x:.1f} {y:.1f}" for at, (_, x, y) in enumerate(places))
        floor = _TOP + high
        last = f"L{places[-1][1]:.1f} {floor} L{places[0][1]:.1f} {floor} Z"
        out.append(f'<path class="area" d="{path} {last}"/><path class="line" d="{path}"/>')
        for at, x, y in places:
            out.append(
                Markup(
                    '<g class="hit"><rect x="{}" y="{}" width="{}" height="{}"/><circle cx="{}" cy="{}" r="3"/>'
                ).format(f"{x - step / 2:.1f}", _TOP, f"{step:.1f}", high, f"{x:.1f}", f"{y:.1f}")
                + Markup("<title>{}</title></g>").format(points[at].told)
            )
    return _svg(title, told, "".join(out), _HEIGHT)


def bars(title: str, told: str, days: Sequence[Bar]) -> Markup:
    """Draw one small bar for each day, by its outcome."""
    step = _WIDTH / max(1, len(days))
    out = [
        Markup('<rect class="{}" x="{}" y="0" width="{}" height="28" rx="1.5"><title>{}</title></rect>').format(
            day.kind, f"{at * step:.2f}", f"{max(1.0, step - 2):.2f}", day.told
        )
        for at, day in enumerate(days)
    ]
    return _svg(title, told, "".join(out), 28, "strip")


def _axis(steps: Sequence[float], high: float, write: Callable[[float], str]) -> str:
    out = []
    for value in steps:
        y = _TOP + high - value / steps[-1] * high
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(write(value))}</text>'
        )
    return "".join(out)


def _days(points: Sequence[Point], step: float) -> str:
    wanted = sorted({round(at * (len(points) - 1) / 4) for at in range(5)}) if len(points) > 1 else [0]
    out = []
    for at in wanted:
        if at < len(points):
            anchor = "start" if at == 0 and len(points) > 1 else "end" if at == len(points) - 1 else "middle"
            x = _LEFT + at * step
            place = f'x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}"'
            out.append(f'<text class="tick" {place}>{escape(points[at].label)}</text>')
    return "".join(out)


def _svg(title: str, told: str, inside: str, height: int, kind: str = "chart") -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="{}">').format(
        kind, _WIDTH, height, f"{title}. {told}", "none" if kind == "strip" else "xMidYMid meet"
    )
    return head + Markup(inside) + Markup("</svg>")
