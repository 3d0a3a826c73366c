"""Health: what the monitor found, and the doctor, who tries everything that a backup needs."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.pages.figures import problems
from nanumpay_backupd.web.visit import site_of, visit_of

__all__ = ["doctor", "show"]

_RANK: Final = {"failed": 0, "warning": 1, "ok": 2}


async def show(request: Request) -> Response:
    """Answer with what was found last."""
    return await _answer(request, None)


async def doctor(request: Request) -> Response:
    """Try everything now; takes as long as the places take."""
    checks = (await site_of(request).link.ask("Doctor", patient=True))["checks"]
    return await _answer(request, sorted(checks, key=lambda check: _RANK[check["state"]]))


async def _answer(request: Request, tried: list[dict[str, Any]] | None) -> Response:
    site = site_of(request)
    status = await site.link.status()
    monitor = await site.link.ask("Monitor", {"recorded": True})
    return page(
        request,
        "health.html",
        here="health",
        status_reply=status,
        status=status,
        problems=problems(visit_of(request).words, status),
        monitor=monitor,
        checks=sorted(monitor["checks"], key=lambda check: _RANK[check["state"]]),
        tried=tried,
    )
