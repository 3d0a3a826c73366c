"""What several pages put into words in the same way: problems, days, runs. No page of its own."""

from __future__ import annotations

from typing import Any

from nanumpay_backupd.web.shown import Shown, size
from nanumpay_backupd.web.words import Words

__all__ = ["day_told", "problems_told"]


def problems_told(t: Words, status: dict[str, Any]) -> list[str]:
    """Return what is wrong, worst first, as the daemon says it."""
    return [problem for problem in status["problems"] if problem]


def day_told(t: Words, times: Shown, day: dict[str, Any]) -> str:
    """Return one day of a history in a line."""
    if not day["runs"]:
        return t("day.none", date=day["date"])
    parts = [day["date"], t.of("outcome", day["outcome"])]
    if day["size"]:
        parts.append(size(day["size"]))
    if day["seconds"]:
        parts.append(times.span(day["seconds"]))
    if day["runs"] > 1:
        parts.append(t("day.runs", n=day["runs"]))
    return " · ".join(parts)
