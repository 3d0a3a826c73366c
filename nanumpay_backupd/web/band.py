"""The timeline of a job as a band of SVG that can be clicked: ranges, gaps, fulls, the chosen moment. Pure.

Everything across is in percent, so that texts keep their size on any screen; colours come from the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from nanumpay_backupd.web.shown import Shown, parse
from nanumpay_backupd.web.words import Words

__all__ = ["SPANS", "SPOTS", "Window", "draw", "fitting", "ticks", "window"]

SPANS: Final = {"1h": 3600.0, "6h": 21600.0, "1d": 86400.0, "7d": 604800.0, "30d": 2592000.0, "90d": 7776000.0}
"""Widths that can be chosen, in seconds."""
_ALL: Final = "all"
_SLOTS: Final = 48
"""Links across the band, for who has no script."""
_TICKS: Final = 6
_STEPS: Final = (
    60,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
    604800,
    1209600,
    2592000,
    7776000,
)
SPOTS: Final = 240
"""Fulls that can be told apart across the band."""
_RINGS: Final = 24
"""Fulls in sight that are drawn as rings; more of them are strokes."""
_LEAST: Final = 0.35
"""Percent that a range is wide at least, or nobody would see it."""
_TOP: Final = 30
_HIGH: Final = 40
_MIDDLE: Final = _TOP + _HIGH / 2
_AXIS: Final = _TOP + _HIGH + 8
_HEIGHT: Final = _AXIS + 24


class Window(NamedTuple):
    """What is seen: from ``start`` to ``end``; ``span`` is its name."""

    start: datetime
    end: datetime
    span: str

    @property
    def seconds(self) -> float:
        """Return how wide it is."""
        return (self.end - self.start).total_seconds()

    def at(self, moment: datetime) -> float:
        """Return where a moment lies, in percent; outside of 0 to 100 where it is not seen."""
        return (moment - self.start).total_seconds() / self.seconds * 100


def fitting(first: datetime, now: datetime) -> str:
    """Return the narrowest width that holds everything."""
    away = (now - first).total_seconds() * 1.02
    return next((name for name, seconds in SPANS.items() if away <= seconds), _ALL)


def window(span: str, until: datetime | None, first: datetime, now: datetime) -> Window:
    """Return what is to be seen: so much up to ``until`` (None: now), or everything from ``first`` on."""
    if span not in SPANS:
        wide = max(3600.0, (now - first).total_seconds() * 1.03)
        return Window(now - timedelta(seconds=wide), now + timedelta(seconds=wide * 0.01), _ALL)
    wide = SPANS[span]
    edge = now + timedelta(seconds=wide * 0.02)
    end = min(until or edge, edge)
    return Window(end - timedelta(seconds=wide), end, span)


def ticks(seen: Window, times: Shown) -> list[tuple[datetime, str]]:
    """Return round moments of the zone for the axis, each with its label; a new day is told by its date."""
    step = next((item for item in _STEPS if seen.seconds / item <= _TICKS), _STEPS[-1])
    local = seen.start.astimezone(times.zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if step >= 86400:
        days = step // 86400
        # Counted from a fixed day, so that the labels stay where they are when the band is moved.
        behind = (midnight.date() - datetime(2000, 1, 3, tzinfo=UTC).date()).days % days
        wall = midnight - timedelta(days=behind)
    else:
        wall = midnight + timedelta(seconds=math.floor((local - midnight).total_seconds() / step) * step)
    found = []
    while (moment := wall.astimezone(UTC)) <= seen.end:
        if moment >= seen.start:
            text = f"{wall:%H:%M}" if wall.hour or wall.minute else f"{wall.month}/{wall.day}"
            found.append((moment, text))
        wall += timedelta(seconds=step)
    return found


def draw(
    t: Words,
    times: Shown,
    timeline: dict[str, Any],
    seen: Window,
    chosen: datetime | None,
    address: Callable[[str], str],
) -> Markup:
    """Draw the band of a Timeline that was asked for with ``spots``.

    ``address`` leads to a moment, or by ``backup:ID`` to a backup.
    """
    ranges, gaps = timeline["ranges"], timeline["gaps"]
    parts: list[Markup] = [
        Markup('<rect class="ground" x="0" y="{}" width="100%" height="{}" rx="6"/>').format(_TOP, _HIGH),
        *_gaps(t, times, gaps, seen),
        *_ranges(t, times, ranges, seen),
        *_axis(seen, times),
        *_slots(times, ranges, seen, address),
        *_fulls(t, times, timeline["fulls"], seen, address),
        _mark(times, chosen, seen),
    ]
    label = t("band.told", n=len(ranges), gaps=len(gaps))
    head = Markup('<svg class="band" height="{}" width="100%" role="group" aria-label="{}">').format(_HEIGHT, label)
    pattern = Markup(
        '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-ground" width="7" height="7"/><rect class="hatch" width="2.5" height="7"/></pattern></defs>'
    )
    return head + pattern + Markup("").join(parts) + Markup("</svg>")


def _span(seen: Window, first: str, last: str) -> tuple[float, float] | None:
    """Return from where to where something is seen, in percent; None: it is not."""
    left, right = max(0.0, seen.at(parse(first))), min(100.0, seen.at(parse(last)))
    if right < 0 or left > 100:
        return None
    return left, right


def _ranges(t: Words, times: Shown, ranges: Sequence[dict[str, Any]], seen: Window) -> Iterator[Markup]:
    for one in ranges:
        if one["first"] == one["last"] or (where := _span(seen, one["first"], one["last"])) is None:
            continue
        told = t("band.range", first=times.exact(one["first"]), last=times.exact(one["last"]))
        yield _rect("reach", where[0], max(_LEAST, where[1] - where[0]), told)


def _gaps(t: Words, times: Shown, gaps: Sequence[dict[str, Any]], seen: Window) -> Iterator[Markup]:
    for gap in gaps:
        if (where := _span(seen, gap["after"], gap["before"])) is not None:
            told = t("band.gap", first=times.exact(gap["after"]), last=times.exact(gap["before"]))
            yield _rect("gap", where[0], max(_LEAST, where[1] - where[0]), told)


def _rect(kind: str, left: float, wide: float, told: str) -> Markup:
    # Not in the style sheet: there the name would be one of its own address.
    fill = Markup(' fill="url(#hatch)"') if kind == "gap" else Markup("")
    return Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}" rx="3"{}><title>{}</title></rect>').format(
        kind, f"{left:.3f}", _TOP, f"{wide:.3f}", _HIGH, fill, told
    )


def _axis(seen: Window, times: Shown) -> Iterator[Markup]:
    for at, (moment, text) in enumerate(ticks(seen, times)):
        x = seen.at(moment)
        kind = "tick odd" if at % 2 else "tick"
        anchor = "start" if x < 4 else "end" if x > 96 else "middle"
        yield Markup('<line class="rule" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/>').format(f"{x:.3f}", _TOP, _AXIS)
        yield Markup('<text class="{}" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
            kind, f"{x:.3f}", _AXIS + 15, anchor, text
        )


def _slots(
    times: Shown, ranges: Sequence[dict[str, Any]], seen: Window, address: Callable[[str], str]
) -> Iterator[Markup]:
    """Cover the band with links, each to the last moment in its part that can be restored."""
    wide = seen.seconds / _SLOTS
    exact = [(parse(one["first"]), parse(one["last"])) for one in ranges if one["exact"]]
    for slot in range(_SLOTS):
        start = seen.start + timedelta(seconds=slot * wide)
        end = start + timedelta(seconds=wide)
        lasts = [min(last, end) for first, last in exact if first < end and last > start]
        if lasts:
            moment = max(lasts).astimezone(UTC).isoformat()
            yield Markup(
                '<a class="slot" href="{}" tabindex="-1"><rect x="{}%" y="{}" width="{}%" height="{}"/>'
            ).format(
                address(moment), f"{slot * 100 / _SLOTS:.3f}", _TOP - 8, f"{100 / _SLOTS:.3f}", _HIGH + 16
            ) + Markup("<title>{}</title></a>").format(times.exact(moment))


def _fulls(
    t: Words, times: Shown, fulls: Sequence[dict[str, Any]], seen: Window, address: Callable[[str], str]
) -> Iterator[Markup]:
    placed = [(seen.at(parse(one["moment"])), one) for one in fulls]
    shown = [(x, one) for x, one in placed if 0 <= x <= 100]
    # Rings that hide each other tell less than strokes.
    shape = (
        Markup('<circle cx="{}%" cy="{}" r="6"/>')
        if len(shown) <= _RINGS
        else Markup('<rect x="{}%" y="{}" width="2" height="14" rx="1"/>')
    )
    y = _MIDDLE if len(shown) <= _RINGS else _MIDDLE - 7
    for x, one in shown:
        base, moment = one["backup"], one["moment"]
        told = t("band.full", when=times.exact(moment), name=base)
        kind = "full" if one["exact"] else "full loose"
        yield Markup(
            '<a class="{}" href="{}" tabindex="-1" data-backup="{}" data-at="{}">{}<title>{}</title></a>'
        ).format(kind, address(f"backup:{base}"), base, moment, shape.format(f"{x:.3f}", y), told)


def _mark(times: Shown, chosen: datetime | None, seen: Window) -> Markup:
    """Draw where the chosen moment is; without one it is there for the script, unseen."""
    x = seen.at(chosen) if chosen is not None else -1.0
    hidden = Markup("") if 0 <= x <= 100 else Markup(" hidden")
    anchor = "start" if x < 12 else "end" if x > 88 else "middle"
    text = times.exact(chosen.astimezone(UTC).isoformat()) if chosen is not None else ""
    return Markup(
        '<g class="chosen"{5}><line x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/><circle cx="{0}%" cy="{1}" r="5"/>'
        '<text x="{0}%" y="13" text-anchor="{3}">{4}</text></g>'
    ).format(f"{x:.3f}", _TOP - 8, _AXIS, anchor, text, hidden)
