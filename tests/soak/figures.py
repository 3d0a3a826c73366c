"""Pure: what the events and samples of a soak come to: lives, growth, counts, and what is wrong.

A growth is looked for in the longest life of the daemon, after it has warmed up: the median of the last quarter must
not be much above that of the first, and the slope (Theil-Sen: the median of all slopes between two samples) is told.
Folders are looked at over the whole soak, since they outlive the daemon.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

__all__ = ["Growth", "Summary", "growth", "longest_life", "summarize"]

Document = dict[str, Any]
Series = list[tuple[float, float]]
MB: Final = 1e6
_WARM_UP: Final = 0.15
_FEWEST: Final = 40
"""Samples without which nothing is said of a growth."""


@dataclass(frozen=True)
class Growth:
    """One figure over time: medians of the first and the last quarter, slope per hour, and how much is too much."""

    name: str
    unit: str
    first: float
    last: float
    slope: float
    highest: float
    allowed: float
    hours: float

    @property
    def grows(self) -> bool:
        """Tell whether it is more than is allowed."""
        return self.last - self.first > self.allowed


@dataclass(frozen=True)
class Summary:
    """All that a report tells."""

    begun: Document
    machine: Document
    seconds: float
    growths: tuple[Growth, ...]
    life: tuple[int, float]
    """Process id and seconds of the daemon's longest life."""
    faults: dict[str, int]
    fault_seconds: float
    proofs: dict[str, Counter[str]]
    cut: int
    runs: dict[tuple[str, str], Counter[str]]
    codes: Counter[str]
    lives: int
    answers: tuple[float, float, float]
    """Seconds that the daemon took to answer: half of the times, nineteen of twenty, at most."""
    silent: int
    health: Counter[str]
    totals: Document
    wrong: tuple[str, ...]


def growth(name: str, unit: str, series: Series, allowed: Callable[[float], float]) -> Growth | None:
    """Work out how a figure went; None: there are too few samples. ``allowed`` gets the first median."""
    if len(series) < _FEWEST:
        return None
    start, end = series[0][0], series[-1][0]
    warm = [item for item in series if item[0] >= start + _WARM_UP * (end - start)]
    quarter = len(warm) // 4
    first = statistics.median(value for _, value in warm[:quarter])
    last = statistics.median(value for _, value in warm[-quarter:])
    highest = max(value for _, value in series)
    return Growth(name, unit, first, last, slope(warm) * 3600, highest, allowed(first), (end - start) / 3600)


def slope(series: Series) -> float:
    """Return the median of the slopes between samples that are at least a quarter of the time apart."""
    few = series[:: max(1, len(series) // 200)]
    apart = (few[-1][0] - few[0][0]) / 4
    found = [
        (later[1] - former[1]) / (later[0] - former[0])
        for at, former in enumerate(few)
        for later in few[at + 1 :]
        if later[0] - former[0] >= apart
    ]
    return statistics.median(found) if found else 0.0


def longest_life(samples: Sequence[Document], who: str = "daemon") -> list[Document]:
    """Return the samples of the process that lived longest."""
    there = [one for one in samples if one.get(who)]
    lives = [list(group) for _, group in groupby(there, key=lambda one: one[who]["pid"])]
    return max(lives, key=lambda life: float(life[-1]["at"] - life[0]["at"]), default=[])


def _processes(samples: Sequence[Document]) -> list[Growth | None]:
    found: list[Growth | None] = []
    for who in ("daemon", "page"):
        life = longest_life(samples, who)

        def series(key: str, unit: float = 1.0, who: str = who, life: list[Document] = life) -> Series:
            return [(one["at"], one[who][key] / unit) for one in life]

        found += [
            growth(f"{who}: memory (RSS)", "MB", series("rss", MB), lambda first: max(5.0, 0.07 * first)),
            growth(f"{who}: memory of its own", "MB", series("anon", MB), lambda first: max(5.0, 0.1 * first)),
            growth(f"{who}: file descriptors", "", series("fds"), lambda _: 3.0),
            growth(f"{who}: threads", "", series("threads"), lambda _: 2.0),
            growth(f"{who}: children", "", series("children"), lambda _: 2.0),
            growth(f"{who}: dead children not fetched", "", series("zombies"), lambda _: 0.0),
        ]
    return found


def _folders(samples: Sequence[Document]) -> list[Growth | None]:
    def series(group: str, key: str) -> Series:
        return [(one["at"], one[group][key] / MB) for one in samples]

    found = [
        growth(f"folder: {key}", "MB", series("sizes", key), lambda first: max(3.0, 0.5 * first))
        for key in ("backups", "usb", "cloud", "office", "nas")
    ]
    found.append(growth("folder: staging", "MB", series("sizes", "staging"), lambda _: 1.0))
    found.append(growth("folder: state", "MB", series("sizes", "state"), lambda first: max(3.0, 0.3 * first)))
    found.append(growth("file: catalog", "MB", series("files", "catalog"), lambda first: max(3.0, first)))
    found.append(growth("file: its log (WAL)", "MB", series("files", "wal"), lambda _: 2.0))
    found.append(growth("file: journal of the daemon", "MB", series("files", "journal"), lambda _: 20.0))
    return found


def summarize(events: Sequence[Document], samples: Sequence[Document], machine: Document | None = None) -> Summary:
    """Work out everything; ``machine`` says where it was measured."""
    begun = next((event for event in events if event["kind"] == "begin"), {})
    faults = [event for event in events if event["kind"] == "fault"]
    proofs: dict[str, Counter[str]] = {}
    for event in events:
        if event["kind"] == "proof":
            proofs.setdefault(event["name"], Counter())[event["outcome"]] += 1
    runs: dict[tuple[str, str], Counter[str]] = {}
    codes: Counter[str] = Counter()
    for event in events:
        if event["kind"] == "run":
            runs.setdefault((event["job"], event["action"]), Counter())[event["outcome"]] += 1
            codes[event["code"]] += bool(event["code"])
    found = tuple(one for one in [*_processes(samples), *_folders(samples)] if one is not None)
    life = longest_life(samples)
    answers = sorted(one["answer"] for one in samples if one["answer"] is not None) or [0.0]
    return Summary(
        begun=begun,
        machine=machine or {},
        seconds=events[-1]["at"] if events else 0.0,
        growths=found,
        life=(life[0]["daemon"]["pid"], life[-1]["at"] - life[0]["at"]) if life else (0, 0.0),
        faults=dict(Counter(fault["name"] for fault in faults)),
        fault_seconds=sum(fault["seconds"] for fault in faults),
        proofs=proofs,
        cut=sum(event["kind"] == "cut" and bool(event["first"]) for event in events),
        runs=runs,
        codes=+codes,
        lives=sum(event["kind"] == "life" for event in events),
        answers=(statistics.median(answers), answers[int(0.95 * (len(answers) - 1))], answers[-1]),
        silent=sum(one["answer"] is None for one in samples),
        health=Counter(str(one["health"]) for one in samples),
        totals=_totals(events, samples, life),
        wrong=tuple(_wrong(events, samples, found, proofs)),
    )


def _totals(events: Sequence[Document], samples: Sequence[Document], life: Sequence[Document]) -> Document:
    end = next((event for event in reversed(events) if event["kind"] == "end"), {})
    lived = life[-1]["at"] - life[0]["at"] if life else 0
    processor = life[-1]["daemon"]["cpu"] - life[0]["daemon"]["cpu"] if lived else 0.0
    return {
        "writes": end.get("writes", 0),
        "fog": end.get("lost_sight", 0),
        "saves": sum(event.get("what") == "settings saved" for event in events),
        "visits": sum(event["kind"] == "visit" for event in events),
        "letters": samples[-1]["letters"] if samples else 0,
        "samples": len(samples),
        "processor_share": processor / lived if lived else 0.0,
        "load": statistics.median(one["load"] for one in samples) if samples else 0.0,
        "compared": sum(event["kind"] == "proof" and event["outcome"] == "same" for event in events),
    }


def _wrong(
    events: Sequence[Document],
    samples: Sequence[Document],
    growths: Sequence[Growth],
    proofs: dict[str, Counter[str]],
) -> list[str]:
    found = [str(event["what"]) for event in events if event["kind"] == "anomaly"]
    found += [f"{one.name} grows: {one.first:.1f} to {one.last:.1f} {one.unit}" for one in growths if one.grows]
    if not any(event["kind"] == "begin" for event in events):
        found.append("it never began")
    if not any(event["kind"] == "end" for event in events):
        found.append("it has no end")
    if not sum(one["same"] for one in proofs.values()):
        found.append("nothing was restored")
    if samples and samples[-1]["sizes"]["staging"] > 0:
        found.append(f"{samples[-1]['counts']['staging']} files are left in the staging folder")
    return found
