"""Jobs: what each saves, when and when next, where to, how long it is kept, what is promised, how it went; run now."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.pages.figures import begun
from nanumpay_backupd.web.rules import retention_told, schedule_told
from nanumpay_backupd.web.visit import site_of, visit_of
from nanumpay_backupd.web.words import Words

__all__ = ["drill", "show"]

_RUNS: Final = 5
_LOCAL: Final = "local"
_RANK: Final = {"failed": 0, "warning": 1, "ok": 2}


async def show(request: Request) -> Response:
    """Answer with all jobs and groups."""
    link, t = site_of(request).link, visit_of(request).words
    status = await link.status()
    upcoming, seen, *runs = await asyncio.gather(
        link.ask("ListUpcoming"),
        _seen(request),
        *(link.ask("ListRuns", {"job": job["name"], "limit": _RUNS}) for job in status["jobs"]),
    )
    next_runs = {one["job"]: one["runs"] for one in upcoming["jobs"]}
    groups = {group["name"]: group for group in status.get("groups") or []}
    jobs = [
        {
            **job,
            "told": schedule_told(t, (groups.get(job.get("group") or "") or job)["schedule"]),
            "next_runs": next_runs.get(job["name"], []),
            "runs": past["runs"],
            "places": _places(t, job, [one for one in seen if one["job"] == job["name"]]),
        }
        for job, past in zip(status["jobs"], runs, strict=True)
    ]
    return page(
        request,
        "jobs.html",
        here="jobs",
        status_reply=status,
        jobs=jobs,
        groups=[{**group, "told": schedule_told(t, group["schedule"])} for group in groups.values()],
    )


def _places(t: Words, job: dict[str, Any], seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the places of a job: how long copies stay there, and the worst of what was seen there last."""
    rules = {rule["destination"]: rule for rule in job["retention"]}
    found = []
    for name in [_LOCAL, *(name for name in job["destinations"] if name != _LOCAL)]:
        checks = [one for one in seen if one["destination"] == name]
        worst = min(checks, key=lambda one: _RANK[one["state"]], default=None)
        sizes = [one["value"] for one in checks if one["check"] == "size"]
        found.append(
            {
                "name": name,
                "rule": retention_told(t, rules[name]) if name in rules else "",
                "state": worst["state"] if worst else "",
                "message": worst["message"] if worst and worst["state"] != "ok" else "",
                "size": sizes[0] if sizes else "",
            }
        )
    return found


async def _seen(request: Request) -> list[dict[str, Any]]:
    """Return what the monitor saw last; a page that lacks that is better than none."""
    try:
        return list((await site_of(request).link.recent("Monitor", {"recorded": True}, patience=1.0))["checks"])
    except BackupdError:
        return []


async def drill(request: Request) -> Response:
    """Begin a drill of a job, and show that run."""
    job = request.path_params["job"]
    return await begun(request, "Drill", {"job": job}, job)
