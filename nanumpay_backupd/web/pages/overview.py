"""Overview: is all well, in words; what was and what comes; how far back one can go; growth, duration, room."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.charts import Bar, Point, bars, line
from nanumpay_backupd.web.pages.figures import day_told, problems
from nanumpay_backupd.web.pages.fleet import runs_of_all
from nanumpay_backupd.web.shown import Shown, size
from nanumpay_backupd.web.visit import site_of, visit_of
from nanumpay_backupd.web.words import Words

__all__ = ["SLOW", "show"]

_RUNS: Final = 8
_DAYS: Final = 90
SLOW: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("GetHistory", {"days": _DAYS}),
    ("Monitor", {"recorded": True}),
)
"""What takes the daemon long where there are many backups."""


async def show(request: Request) -> Response:
    """Answer with the page."""
    site, visit = site_of(request), visit_of(request)
    status, history, runs, monitor = await asyncio.gather(
        site.link.status(),
        site.link.recent("GetHistory", {"days": _DAYS}),
        site.link.ask("ListRuns", {"limit": _RUNS}),
        _recorded(request),
    )
    shared = await runs_of_all(site, status, None, _RUNS)
    times = Shown(visit.words, status["timezone"], status["now"])
    days = {one["job"]: one["days"] for one in history["jobs"]}
    return page(
        request,
        "overview.html",
        here="overview",
        status_reply=status,
        status=status,
        problems=problems(visit.words, status),
        jobs=[_job(visit.words, times, job, days.get(job["name"], [])) for job in status["jobs"]],
        runs=runs["runs"] if shared is None else shared,
        hosts=shared is not None,
        fleet=status.get("fleet"),
        stores=_stores(monitor),
        stored=sum(job["total_size"] for job in status["jobs"]),
        count=sum(job["backups"] for job in status["jobs"]),
    )


def _stores(seen: list[dict[str, Any]]) -> list[tuple[str, str, str, dict[str, Any] | None]]:
    """Return for each job and place what lies there, and how much room there is."""
    known = {(one["job"], one["destination"], one["check"]): one for one in seen}
    places = dict.fromkeys((job, place) for job, place, check in known if check in {"size", "room"})
    found = []
    for job, place in places:
        size = known.get((job, place, "size"))
        found.append((job, place, size["message"] if size else "", known.get((job, place, "room"))))
    return found


async def _recorded(request: Request) -> list[dict[str, Any]]:
    """Return what the monitor saw last; a page that lacks that is better than none."""
    try:
        return list((await site_of(request).link.recent("Monitor", {"recorded": True}))["checks"])
    except BackupdError:
        return []


def _job(t: Words, times: Shown, job: dict[str, Any], days: list[dict[str, Any]]) -> dict[str, Any]:
    tried = sum(day["runs"] for day in days)
    good = sum(1 for day in days if day["outcome"] in {"succeeded", "degraded"})
    strip = [Bar(f"o-{day['outcome'] or 'none'}", day_told(t, times, day)) for day in days]
    sizes = [Point(_short(day["date"]), day["size"] or None, day_told(t, times, day)) for day in days]
    lengths = [Point(_short(day["date"]), day["seconds"] or None, day_told(t, times, day)) for day in days]
    told = t("chart.days", days=len(days), good=good, tried=tried)
    growth = _growth([day["size"] for day in days if day["size"]])
    return {
        **job,
        "strip": bars(t("chart.outcomes"), told, strip),
        "growth": line(t("chart.size"), told, sizes, size),
        "lengths": line(t("chart.seconds"), told, lengths, times.brief, 60.0),
        "drawn": sum(1 for day in days if day["size"]) > 1,
        "grown": growth,
        "state": _state(job),
    }


def _growth(sizes: list[int]) -> float | None:
    """Return by which factor the last differs from the first, None: there are too few."""
    return sizes[-1] / sizes[0] - 1.0 if len(sizes) > 1 and sizes[0] else None


def _short(date: str) -> str:
    _, month, day = date.split("-")
    return f"{int(month)}/{int(day)}"


def _state(job: dict[str, Any]) -> str:
    """Return how a job is doing, as a class of the style sheet."""
    if not job["enabled"]:
        return "off"
    last, protection = job.get("last_run"), job["protection"]
    if last and last.get("outcome") in {"failed", "interrupted"}:
        return "bad"
    missed = protection.get("rpo_kept") is False or protection.get("rto_kept") is False
    if missed or job["pending_uploads"] or (last and last.get("outcome") == "degraded") or not job["newest_backup"]:
        return "warn"
    return "good"
