"""What several pages do in the same way: days and problems in words, runs that begin, orders that are written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.events import Event
from nanumpay_backupd.notifiers.words import CAUSES, LANGUAGES
from nanumpay_backupd.web.answers import go
from nanumpay_backupd.web.shown import Shown, size
from nanumpay_backupd.web.visit import site_of, visit_of
from nanumpay_backupd.web.words import Words

__all__ = ["Problem", "begun", "confirmed", "day_told", "ended", "problems", "who"]

_SPECIAL: Final = frozenset({"rpo", "rto", "spread", "oplog", "warning"})
"""Kinds that have words of their own, better than those of their event."""


class Problem(NamedTuple):
    """What is wrong, in the reader's language as far as there are words; ``told`` is what the daemon says of it."""

    title: str
    told: str
    hint: str
    bad: bool


def problems(t: Words, status: dict[str, Any]) -> list[Problem]:
    """Return what is wrong, worst first."""
    found = []
    for trouble in status.get("troubles") or [{"text": text} for text in status["problems"]]:
        title = _title(t, trouble) if t.language == "ko" else ""
        text, bad = trouble["text"], trouble.get("severity") == "error"
        found.append(Problem(title or text, text if title else "", trouble.get("hint", ""), bad))
    return sorted(found, key=lambda one: not one.bad)


def _title(t: Words, trouble: dict[str, Any]) -> str:
    """Return what a trouble is called: by its event, its code, or its kind; empty: there are no words for it."""
    job = trouble["job"]
    language = LANGUAGES[t.language]
    if trouble["event"] in set(Event):
        telling = language.events.get(Event(trouble["event"]))
        if telling is not None and telling.title and trouble["kind"] not in _SPECIAL:
            return telling.title.format(job=job or language.nobody, channel="", count="", days="")
    cause = CAUSES.get(trouble["code"]) or t.texts.get(f"trouble.{trouble['kind']}", "")
    return f"{job}: {cause}" if job and cause else cause


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


async def confirmed(request: Request, form: Mapping[str, str], action: str, subject: str) -> None:
    """Ask for the password again; raises RefusedError, which is written down."""
    visit, site = visit_of(request), site_of(request)
    assert visit.person is not None, "checked by the route"
    try:
        await site.confirm(visit.person, form.get("password", ""), visit.address)
    except RefusedError as error:
        site.audit(visit.person.shown, visit.address, action, subject, "refused", error.code)
        raise


def ended(request: Request, action: str, subject: str, path: str) -> Response:
    """Write down what was done, and show a page."""
    site, visit = site_of(request), visit_of(request)
    site.audit(who(request), visit.address, action, subject)
    site.link.stir()
    return go(request, path)
