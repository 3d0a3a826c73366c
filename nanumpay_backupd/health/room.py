"""Pure: when a disk will be full, from what is free, what retention will keep, and what others add. Asks no disk."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

__all__ = ["DAY", "Sample", "drift", "full_in", "kept", "trend"]

DAY: Final = 86400.0
_WINDOW: Final = timedelta(days=30)
_LEAST: Final = 4
_SPAN: Final = timedelta(days=3)
"""Fewer looks, or within less time, say nothing of a trend."""
_BETWEEN: Final = timedelta(hours=12)
"""Looks that follow sooner are not kept: they would weigh as much as those of a whole day."""


class Sample(msgspec.Struct, frozen=True):
    """One look at a disk: bytes that were free, and bytes of our copies on it."""

    at: datetime
    free: int
    own: int


def kept(samples: Sequence[Sample], fresh: Sample) -> tuple[Sample, ...]:
    """Add a look to those before it, oldest first; what is too old, or of a clock that was ahead, goes."""
    known = [item for item in samples if fresh.at - _WINDOW <= item.at <= fresh.at]
    if known and fresh.at - known[-1].at < _BETWEEN:
        return tuple(known)
    return (*known, fresh)


def trend(points: Sequence[tuple[datetime, float]]) -> float:
    """Return by how much something grows a day (Theil and Sen: the median of all slopes, so outliers count little).

    0 where the points are too few, or too close together, to say.
    """
    if len(points) < _LEAST or points[-1][0] - points[0][0] < _SPAN:
        return 0.0
    slopes = [
        (later[1] - earlier[1]) / (span / DAY)
        for earlier, later in itertools.combinations(points, 2)
        if (span := (later[0] - earlier[0]).total_seconds()) > 0
    ]
    return statistics.median(slopes)


def drift(samples: Sequence[Sample]) -> float:
    """Return how many bytes a day others than us take of a disk; 0 where they take nothing, or it is not known."""
    return max(0.0, -trend([(item.at, float(item.free + item.own)) for item in samples]))


def full_in(free: int, need: float, horizon: float, taken: float) -> float | None:
    """Return in how many days a disk is full, None: not within ``horizon`` days.

    ``need`` is how many bytes more our copies will take by then, ``taken`` how many others take a day.
    """
    total = max(0.0, need) + taken * horizon
    if total <= free:
        return None
    return horizon * max(0, free) / total
