"""Jobs: what each saves, when, where to, how long it is kept, what is promised."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.pages.figures import begun
from nanumpay_backupd.web.visit import site_of

__all__ = ["drill", "show"]


async def show(request: Request) -> Response:
    """Answer with all jobs and groups."""
    status = await site_of(request).link.status()
    return page(request, "jobs.html", here="jobs", status_reply=status, status=status)


async def drill(request: Request) -> Response:
    """Begin a drill of a job, and show that run."""
    job = request.path_params["job"]
    return await begun(request, "Drill", {"job": job}, job)
