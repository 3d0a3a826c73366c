"""The parts that need no MongoDB, each measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from tests.bench import files, places, redis, sql
from tests.bench.report import Report

__all__ = ["PARTS", "measure_apart"]

PARTS: Final[dict[str, Callable[[Path, Report, int], None]]] = {
    "redis": redis.measure,
    "sql": sql.measure,
    "files": files.measure,
    "places": places.measure,
    "large": places.measure_memory,
}


def measure_apart(name: str, folder: Path, rounds: int) -> Report:
    """Measure one part in a new process: a child's peak as the kernel tells it begins with its parent's memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, name, folder, rounds).result()


def _measured(name: str, folder: Path, rounds: int) -> Report:
    report = Report()
    PARTS[name](folder, report, rounds)
    return report
