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
    page.write_text(text(found, panels, picture.name), encoding="utf-8")
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

_HEAD: Final = """\
# Soak

<!-- Written by `make soak` (tests/soak). -->

The daemon under load and faults for hours: what it takes must stay flat, what was committed must stay, and every restore
must be exactly what was there. `make soak HOURS=2` runs it; with `SEED=n` the same faults are drawn again. It needs root
(small disks of its own) and ends with an exit code that is not 0 when anything was wrong.
"""
_HOW: Final = """\
## What is done

- **House**: a MongoDB replica set, Redis, a tree of files; destinations on a folder (`usb`), S3 (rclone, `cloud`), FTP (proftpd,
  `office`) and SFTP (OpenSSH, `nas`); the daemon, started again as systemd does, and the web page, read all the time. The backups
  folder and the state folder are small disks.
- **Jobs**: the application's (four destinations, changes saved every minute, fulls every few minutes, all copies read again every 20
  minutes, a drill every 15), an encrypted one of the same database, Redis, the tree with increments. Retention keeps three to five,
  so that something is deleted all the time.
- **Load**: three writers on MongoDB (inserts, updates, deletions, transactions, collections that come and go), the application's
  settings saved now and then, Redis and files rewritten all the time. A book says what was there at the end of every second; the
  seconds in which a write's outcome is not known, because the server was killed, are left out.
- **Faults**: drawn from the list below, two in three minutes on average, each up to 25 s. Those that end the daemon come in the first
  28 % and the last 5 % of the time, so that it lives long enough between them for a growth to be seen.
- **Restores**: one every two minutes, whatever is being broken meanwhile: to a random moment by the daemon; on a machine that has only
  the copies of one place; by stock tools with the commands of [recovery.md](recovery.md#with-stock-tools-only); the encrypted job from a place;
  Redis; the tree. All that was restored is compared with the book. What a fault came between is tried again without faults, and has to
  succeed then. At the end everything has to become well again by itself, and each restore is made once more.
- **Audit**, every 45 s: the newest proven fulls are listed, there, and byte for byte what they were; no process that nobody has; the
  daemon answers. At the end: no traceback in a journal, nothing left in staging.
"""


def text(found: Summary, panels: Sequence[tuple[str, str, Series]], picture: str) -> str:
    """Write the page."""
    here = found.machine
    verdict = "**All was well.**" if not found.wrong else f"**{len(found.wrong)} things were wrong**, see below."
    lines = [_HEAD, "## The last run", "", verdict, ""]
    lines += [
        "| | |",
        "|---|---|",
        f"| time | {found.seconds / 3600:.2f} h, {here.get('day', '')}, seed {found.begun.get('seed')} |",
        f"| commit | {here.get('commit', '')} |",
        f"| machine | {here.get('processors')} processors, {here.get('memory_gb')} GB, Linux {here.get('kernel')}, "
        f"Python {here.get('python')}; shared with other work (load {found.totals['load']:.1f}), the soak itself at nice 10 |",
        f"| written to MongoDB | {found.totals['writes']:,} writes, settings saved {found.totals['saves']} times |",
        f"| faults | {sum(found.faults.values())} of {len(found.faults)} kinds; {found.fault_seconds / 60:.0f} minutes of the time |",
        f"| restores compared | {found.totals['compared']}, all equal but for what is named below; "
        f"{found.cut} were cut off by a fault and made again |",
        f"| runs | {sum(sum(counts.values()) for counts in found.runs.values())} on record |",
        f"| the daemon | {found.lives} lives, the longest {found.life[1] / 60:.0f} minutes; "
        f"{100 * found.totals['processor_share']:.1f} % of one processor in it |",
        f"| it answered in | {found.answers[0]:.2f} s half of the times, {found.answers[1]:.2f} s 95 of 100 times, "
        f"{found.answers[2]:.1f} s at most; {found.silent} of {found.totals['samples']} samples while it was down |",
        f"| people were told | {found.totals['letters']} messages; the page was read {found.totals['visits']} times |",
        "",
        f"![memory, descriptors and folders over time]({picture})",
        "",
    ]
    if found.wrong:
        lines += ["### Wrong", "", *(f"- {one[:600]}" for one in found.wrong), ""]
    lines += [*_growth_table(found.growths), *_sparks(panels), *_fault_table(found), *_proof_table(found)]
    return "\n".join([*lines, *_run_table(found), _HOW])


def _growth_table(growths: Sequence[Growth]) -> list[str]:
    lines = [
        "### Flat",
        "",
        "Medians of the first and the last quarter, after a warm-up of 15 %: of processes in the longest life, of folders over all.",
        "",
        "| | first quarter | last quarter | slope per hour | highest | |",
        "|---|---|---|---|---|---|",
    ]
    for one in growths:
        unit = f" {one.unit}" if one.unit else ""
        verdict = "**grows**" if one.grows else "flat"
        lines.append(
            f"| {one.name} | {one.first:.1f}{unit} | {one.last:.1f}{unit} | {one.slope:+.2f}{unit} | {one.highest:.1f}{unit} | {verdict} |"
        )
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
    wide, tall, left = 720, 64, 150
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 20} {tall * len(panels) + 30}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for row, (name, unit, series) in enumerate(panels):
        top = row * tall + 8
        highest = max((value for _, value in series), default=1.0) or 1.0
        points = " ".join(
            f"{left + at / max(seconds, 1) * wide:.1f},{top + (tall - 18) * (1 - value / highest):.1f}"
            for at, value in series
        )
        parts += [
            f'<text x="4" y="{top + 20}" fill="#222">{html.escape(name)}</text>',
            f'<text x="4" y="{top + 34}" fill="#777">0 to {highest:.0f} {unit}</text>',
            f'<line x1="{left}" y1="{top + tall - 18}" x2="{left + wide}" y2="{top + tall - 18}" stroke="#ccc"/>',
            f'<polyline points="{points}" fill="none" stroke="#1565c0" stroke-width="1.2"/>',
        ]
    bottom = tall * len(panels) + 6
    parts += [
        f'<line x1="{left + at / max(seconds, 1) * wide:.1f}" y1="{bottom}" x2="{left + at / max(seconds, 1) * wide:.1f}" '
        f'y2="{bottom + 8}" stroke="#c62828"/>'
        for at in faults
    ]
    parts.append(f'<text x="4" y="{bottom + 9}" fill="#c62828">faults</text>')
    parts += [
        f'<text x="{left + hour * 3600 / max(seconds, 1) * wide:.0f}" y="{bottom + 21}" fill="#777">{hour:g} h</text>'
        for hour in (0, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 24)
        if hour * 3600 <= seconds
    ]
    return "\n".join([*parts, "</svg>", ""])
