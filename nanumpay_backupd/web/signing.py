"""Signing in and out, and what a browser prefers (language, colours)."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.web.answers import cookie, go, page, status_of
from nanumpay_backupd.web.guard import LANGUAGE, PRE, SESSION, THEME, cookie_name, session_of
from nanumpay_backupd.web.visit import fields, local_path, site_of, visit_of
from nanumpay_backupd.web.words import LANGUAGES

__all__ = ["ask", "prefer", "sign_in", "sign_out"]

_YEAR: Final = 31_536_000
_THEMES: Final = ("auto", "light", "dark")


async def ask(request: Request) -> Response:
    """Show the form."""
    target = local_path(request.query_params.get("next", "/"))
    if visit_of(request).session is not None:
        return go(request, target)
    return page(request, "signin.html", here="sign-in", target=target, name="", problem="", wait=0)


async def sign_in(request: Request) -> Response:
    """Begin a session; whatever session there was before ends."""
    visit, site, form = visit_of(request), site_of(request), await fields(request)
    target, name = local_path(form.get("next", "/")), form.get("name", "")[:200]
    try:
        person = await site.sign_in(name, form.get("password", ""), visit.address)
    except RefusedError as error:
        wait = int(float(error.hint)) if error.code == "sign-in-wait" else 0
        return page(
            request,
            "signin.html",
            status_of(error),
            here="sign-in",
            target=target,
            name=name,
            problem=f"fault.{error.code}",
            wait=wait,
        )
    if visit.session is not None:
        site.sessions.end(visit.session.key)
    secret, _ = site.sessions.begin(person.name, person.origin, visit.address, request.headers.get("user-agent", ""))
    site.audit(person.shown, visit.address, "sign-in", "")
    answer = go(request, target)
    answer.headers.append("set-cookie", cookie(visit, cookie_name(SESSION, visit), secret, strict=False))
    answer.headers.append("set-cookie", cookie(visit, cookie_name(PRE, visit), "", age=0))
    return answer


async def sign_out(request: Request) -> Response:
    """End the session."""
    visit, site = visit_of(request), site_of(request)
    session = session_of(visit)
    site.sessions.end(session.key)
    site.audit(f"{session.origin}:{session.name}", visit.address, "sign-out", "")
    answer = go(request, "/sign-in")
    answer.headers.append("set-cookie", cookie(visit, cookie_name(SESSION, visit), "", age=0))
    return answer


async def prefer(request: Request) -> Response:
    """Keep a language or colours for this browser, and go back."""
    visit, asked = visit_of(request), request.query_params
    answer = go(request, local_path(asked.get("next", "/")))
    for name, key, known in ((LANGUAGE, "language", LANGUAGES), (THEME, "theme", _THEMES)):
        if (value := asked.get(key)) in known:
            answer.headers.append("set-cookie", cookie(visit, name, str(value), _YEAR))
    return answer
