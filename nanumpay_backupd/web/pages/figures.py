"""What several pages do in the same way: days and problems in words, runs that begin, orders that are written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.answers import go
from nanumpay_backupd.web.shown import Shown, size
from nanumpay_backupd.web.visit import site_of, visit_of
from nanumpay_backupd.web.words import Words

__all__ = ["begun", "day_told", "ended", "who"]


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


def who(request: Request) -> str:
    """Return how the audit trail names who asks."""
    person = visit_of(request).person
    return person.shown if person is not None else "?"


async def begun(request: Request, method: str, order: Mapping[str, Any], action: str) -> Response:
    """Begin a run, write down who did, and show it."""
    site, visit = site_of(request), visit_of(request)
    try:
        run = (await site.link.order(method, order, patient=True))["run"]
    except BackupdError as error:
        site.audit(who(request), visit.address, method.lower(), action, "failed", error.code)
        raise
    site.audit(who(request), visit.address, method.lower(), action, detail=run["id"])
    return go(request, f"/run/{quote(run['id'])}")


def ended(request: Request, action: str, subject: str, path: str) -> Response:
    """Write down what was done, and show a page."""
    site, visit = site_of(request), visit_of(request)
    site.audit(who(request), visit.address, action, subject)
    site.link.stir()
    return go(request, path)
