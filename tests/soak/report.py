"""Writes what a soak came to: a page with figures and lines of blocks, a picture, and the figures as JSON."""

from __future__ import annotations

import html
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.servers.tools import PROJECT
from tests.soak.figures import Growth, Summary, summarize

__all__ = ["machine", "report"]

Document = dict[str, Any]
Series = list[tuple[float, float]]
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 60
_WIDE, _TALL, _LEFT = 720, 64, 150
"""Of the picture: a panel's width and height, and the room for its name."""
_FILLED: Final = 1e9
"""What a folder never takes (bytes), unless the soak fills its disk just then."""


def machine() -> Document:
    """Return what the figures were measured on, and of which commit."""
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) / 1e6
    return {
        "commit": said.stdout.strip(),
        "processors": os.cpu_count(),
        "memory_gb": round(memory),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def report(folder: Path, page: Path) -> int:
    """Write the report of a soak; returns 1 when anything was wrong."""
    events = _read(folder / "events.jsonl")
    samples = _read(folder / "samples.jsonl")
    where = folder / "machine.json"
    found = summarize(events, samples, json.loads(where.read_text(encoding="utf-8")) if where.exists() else machine())
    picture = page.with_suffix(".svg")
    panels = _panels(samples)
    faults = [event["at"] for event in events if event["kind"] == "fault"]
    picture.write_text(draw(panels, faults, found.seconds), encoding="utf-8")
    notes = folder / "notes.md"
    said = notes.read_text(encoding="utf-8") if notes.exists() else ""
    page.write_text(text(found, panels, picture.name, said), encoding="utf-8")
    page.with_suffix(".json").write_text(
        json.dumps(plain(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for line in found.wrong:
        print(f"WRONG: {line[:500]}")
    print(f"{page}: {'all was well' if not found.wrong else f'{len(found.wrong)} things are wrong'}")
    return 1 if found.wrong else 0


def _read(path: Path) -> list[Document]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def plain(found: Summary) -> Document:
    """Return the figures as JSON takes them."""
    return {
        "machine": found.machine,
        "seed": found.begun.get("seed"),
        "hours": round(found.seconds / 3600, 3),
        "lives": found.lives,
        "longest_life_hours": round(found.life[1] / 3600, 3),
        "faults": found.faults,
        "proofs": {name: dict(counts) for name, counts in found.proofs.items()},
        "runs": {f"{job} {action}": dict(counts) for (job, action), counts in sorted(found.runs.items())},
        "codes": dict(found.codes.most_common()),
        "growth": [
            {"name": one.name, "unit": one.unit, "first": one.first, "last": one.last, "per_hour": one.slope}
            for one in found.growths
        ],
        "answers": found.answers,
        "totals": found.totals,
        "wrong": list(found.wrong),
    }


# The page

_PAGE: Final = Path(__file__).with_name("page.md")


def text(found: Summary, panels: Sequence[tuple[str, str, Series]], picture: str, notes: str = "") -> str:
    """Write the page: what is always said, around what came of this run. ``notes``: what somebody has to say of it."""
    verdict = "**All was well.**" if not found.wrong else f"**{len(found.wrong)} things were wrong**, see below."
    rows = [f"| {name} | {value} |" for name, value in _facts(found).items()]
    lines = ["## The last run", "", verdict, "", "| | |", "|---|---|", *rows, ""]
    lines += [*(["### Of this run", "", notes] if notes else [])]
    lines += [f"![memory, descriptors and folders over time]({picture})", ""]
    if found.wrong:
        lines += ["### Wrong", "", *(f"- {one[:600]}" for one in found.wrong), ""]
    lines += [*_growth_table(found.growths), *_sparks(panels), *_fault_table(found), *_proof_table(found)]
    lines += _run_table(found)
    return _PAGE.read_text(encoding="utf-8").replace("LAST RUN\n", "\n".join(lines).rstrip() + "\n")


def _facts(found: Summary) -> dict[str, str]:
    here, totals = found.machine, found.totals
    half, most, longest = found.answers
    runs = sum(sum(counts.values()) for counts in found.runs.values())
    system = f"{here.get('memory_gb')} GB, Linux {here.get('kernel')}, Python {here.get('python')}"
    return {
        "time": f"{found.seconds / 3600:.2f} h, {here.get('day')}, seed {found.begun.get('seed')}",
        "commit": str(here.get("commit")),
        "machine": f"{here.get('processors')} processors, {system}; load {totals['load']:.1f}, shared with other work; "
        "the soak itself at nice 10",
        "written to MongoDB": f"{totals['writes']:,} writes; the settings saved {totals['saves']} times",
        "faults": f"{sum(found.faults.values())} of {len(found.faults)} kinds, {found.fault_seconds / 60:.0f} minutes",
        "restores compared": f"{totals['compared']}; {found.cut} more were cut off by a fault and made again",
        "runs": f"{runs} seen on record",
        "the daemon": f"{found.lives} lives, the longest {found.life[1] / 60:.0f} minutes; in it "
        f"{100 * totals['processor_share']:.1f} % of one processor",
        "it answered in": f"{half:.2f} s half of the times, {most:.2f} s 95 of 100 times, {longest:.1f} s at most; "
        f"down in {found.silent} of {totals['samples']} samples",
        "people were told": f"{totals['letters']} messages; the page was read {totals['visits']} times",
    }


def _growth_table(growths: Sequence[Growth]) -> list[str]:
    lines = [
        "### Flat",
        "",
        "Medians of the first and the last quarter, after a warm-up of 15 %: of processes in their longest life, of",
        "folders over all. What is flat may differ by some MB or some per cent (`tests/soak/figures.py`).",
        "",
        "| | first quarter | last quarter | slope per hour | highest | |",
        "|---|---|---|---|---|---|",
    ]
    for one in growths:
        unit = f" {one.unit}" if one.unit else ""
        cells = [f"{value:.1f}{unit}" for value in (one.first, one.last)]
        cells += [f"{one.slope:+.2f}{unit}", f"{one.highest:.1f}{unit}", "**grows**" if one.grows else "flat"]
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _sparks(panels: Sequence[tuple[str, str, Series]]) -> list[str]:
    width = max(len(name) for name, _, _ in panels)
    lines = ["```"]
    for name, unit, series in panels:
        if series:
            values = [value for _, value in series]
            lines.append(f"{name:{width}} {spark(series)} {min(values):.0f} to {max(values):.0f} {unit}".rstrip())
    return [*lines, "```", ""]


def spark(series: Series) -> str:
    """Draw a series as a line of blocks, from nothing to its highest."""
    start, end = series[0][0], series[-1][0]
    bins: dict[int, list[float]] = {}
    for at, value in series:
        bins.setdefault(min(_WIDTH - 1, int((at - start) / max(end - start, 1) * _WIDTH)), []).append(value)
    highest = max(value for _, value in series) or 1.0
    means = [sum(bins[at]) / len(bins[at]) if at in bins else None for at in range(_WIDTH)]
    return "".join(" " if one is None else _BLOCKS[min(7, int(one / highest * 7.99))] for one in means)


def _fault_table(found: Summary) -> list[str]:
    cells = [f"{name} {count}" for name, count in sorted(found.faults.items())]
    return ["### Faults", "", ", ".join(cells) + ".", ""]


def _proof_table(found: Summary) -> list[str]:
    lines = ["### Restores", "", "| | equal to the byte | nothing to restore |", "|---|---|---|"]
    lines += [f"| {name} | {counts['same']} | {counts['nothing']} |" for name, counts in sorted(found.proofs.items())]
    return [*lines, ""]


def _run_table(found: Summary) -> list[str]:
    outcomes = sorted({outcome for counts in found.runs.values() for outcome in counts})
    lines = ["### Runs", "", f"| | {' | '.join(outcomes)} |", f"|---|{'---|' * len(outcomes)}"]
    for (job, action), counts in sorted(found.runs.items()):
        lines.append(f"| {job}: {action} | {' | '.join(str(counts[outcome] or '') for outcome in outcomes)} |")
    codes: Counter[str] = found.codes
    said = ", ".join(f"`{code}` {count}" for code, count in codes.most_common())
    return [*lines, "", f"Why some did not succeed: {said}.", ""]


# The picture


def _panels(samples: Sequence[Document]) -> list[tuple[str, str, Series]]:
    def of(who: str, key: str, unit: float = 1.0) -> Series:
        return [(one["at"], one[who][key] / unit) for one in samples if one.get(who) and one[who][key] < _FILLED]

    return [
        ("daemon: memory", "MB", of("daemon", "rss", 1e6)),
        ("daemon: descriptors", "", of("daemon", "fds")),
        ("daemon: threads", "", of("daemon", "threads")),
        ("page: memory", "MB", of("page", "rss", 1e6)),
        ("folder: backups", "MB", of("sizes", "backups", 1e6)),
        ("folder: usb", "MB", of("sizes", "usb", 1e6)),
        ("folder: cloud", "MB", of("sizes", "cloud", 1e6)),
        ("folder: office", "MB", of("sizes", "office", 1e6)),
        ("folder: nas", "MB", of("sizes", "nas", 1e6)),
        ("folder: state", "MB", of("sizes", "state", 1e6)),
        ("file: catalog", "MB", of("files", "catalog", 1e6)),
    ]


def draw(panels: Sequence[tuple[str, str, Series]], faults: Sequence[float], seconds: float) -> str:
    """Draw the panels one below the other; the ticks are faults."""
    bottom = _TALL * len(panels) + 6
    size = f"0 0 {_LEFT + _WIDE + 20} {bottom + 28}"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="11">']
    parts.append('<rect width="100%" height="100%" fill="#ffffff"/>')

    def place(at: float) -> float:
        return round(_LEFT + at / max(seconds, 1) * _WIDE, 1)

    for row, (name, unit, series) in enumerate(panels):
        top = row * _TALL + 8
        height = _TALL - 18
        highest = max((value for _, value in series), default=1.0) or 1.0
        points = " ".join(f"{place(at)},{top + height * (1 - value / highest):.1f}" for at, value in series)
        parts += [
            f'<text x="4" y="{top + 20}" fill="#222">{html.escape(name)}</text>',
            f'<text x="4" y="{top + 34}" fill="#777">0 to {highest:.0f} {unit}</text>',
            _line(_LEFT, top + height, _LEFT + _WIDE, top + height, "#ccc"),
            f'<polyline points="{points}" fill="none" stroke="#1565c0" stroke-width="1.2"/>',
        ]
    parts += [_line(place(at), bottom, place(at), bottom + 8, "#c62828") for at in faults]
    parts.append(f'<text x="4" y="{bottom + 9}" fill="#c62828">faults</text>')
    hours = [hour for hour in (0, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 24) if hour * 3600 <= seconds]
    parts += [f'<text x="{place(hour * 3600)}" y="{bottom + 21}" fill="#777">{hour:g} h</text>' for hour in hours]
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'
