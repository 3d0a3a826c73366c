"""Health: what is wrong and what to do, what is promised, how the places are, what ends; the doctor on demand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.answers import fragment, page
from nanumpay_backupd.web.fixes import commands_in
from nanumpay_backupd.web.pages.figures import ended, problems, who
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["doctor", "show"]

_RANK: Final = {"failed": 0, "warning": 1, "ok": 2}
_COLUMNS: Final = ("reachable", "age", "size", "verified", "room", "expiry")
_COMING: Final = ("room", "expiry")
_STREAM: Final = "application/x-ndjson"
Found = dict[str, Any]


async def show(request: Request) -> Response:
    """Answer with what was seen last."""
    return await _answer(request, None)


async def _answer(request: Request, tried: list[Found] | None) -> Response:
    site = site_of(request)
    status = await site.link.status()
    seen = await site.link.recent("Monitor", {"recorded": True}, patience=5.0)
    checks = seen["checks"]
    troubles = problems(visit_of(request).words, status)
    bad = sorted((one for one in checks if one["state"] != "ok"), key=lambda one: _RANK[one["state"]])
    # What is told as a problem already is not told a second time.
    others = [one for one in bad if not any(one["message"] in (told.told or told.title) for told in troubles)]
    return page(
        request,
        "health.html",
        here="health",
        back_to="/health",
        status_reply=status,
        status=status,
        problems=[(one, commands_in(one.hint)) for one in troubles],
        findings=[{**one, "fixes": commands_in(one["hint"])} for one in others],
        looked=seen.get("looked"),
        coming=list({(one["destination"], one["message"]): one for one in checks if one["check"] in _COMING}.values()),
        columns=[name for name in _COLUMNS if any(one["check"] == name and one["destination"] for one in checks)],
        places=_places(checks),
        tried=None if tried is None else _told(tried),
        counts=None if tried is None else _counts(tried),
    )


def _places(checks: list[Found]) -> list[tuple[str, str, dict[str, Found]]]:
    """Return a row for each job's place: of several findings of one check the worst."""
    rows: dict[tuple[str, str], dict[str, Found]] = {}
    for one in checks:
        if one["destination"]:
            row = rows.setdefault((one["job"], one["destination"]), {})
            known = row.get(one["check"])
            if known is None or _RANK[one["state"]] < _RANK[known["state"]]:
                row[one["check"]] = one
    return [(job, place, row) for (job, place), row in rows.items()]


def _told(checks: list[Found]) -> list[Found]:
    return [{**one, "fixes": commands_in(one["hint"]) if one["state"] != "ok" else []} for one in checks]


def _counts(checks: list[Found]) -> dict[str, int]:
    return {state: sum(one["state"] == state for one in checks) for state in _RANK}


async def doctor(request: Request) -> Response:
    """Try everything now, or with ``what=places`` look at all places; findings may come as they are made.

    A script asks for lines of JSON (application/x-ndjson): each has the findings so far as ``html``, the last one
    ``done``. Others get the page when all is tried.
    """
    form, site, visit = await fields(request), site_of(request), visit_of(request)
    if form.get("what") == "places":
        await site.link.ask("Monitor", patient=True)
        site.link.forget("Monitor")
        return ended(request, "look", "", "/health")
    site.audit(who(request), visit.address, "doctor", "")
    if request.headers.get("accept", "").startswith(_STREAM):
        return StreamingResponse(_lines(request), media_type=_STREAM, headers={"x-accel-buffering": "no"})
    checks: list[Found] = []
    async for reply in site.link.follow("Doctor"):
        checks = reply["checks"]
    return await _answer(request, checks)


async def _lines(request: Request) -> AsyncIterator[bytes]:
    checks: list[Found] = []
    try:
        async for reply in site_of(request).link.follow("Doctor"):
            checks = reply["checks"]
            yield _line({"html": fragment(request, "findings.html", checks=_told(checks), counts=None)})
        yield _line(
            {"html": fragment(request, "findings.html", checks=_told(checks), counts=_counts(checks)), "done": True}
        )
    except BackupdError as error:
        words = visit_of(request).words
        yield _line({"fault": words.texts.get(f"fault.{error.code}", error.message), "done": True})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
