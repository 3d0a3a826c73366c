"""Answers: pages from templates, JSON, redirects, cookies, and faults in words. Decides nothing."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any, Final

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError, RefusedError, UnreachableError
from nanumpay_backupd.web import said, shown
from nanumpay_backupd.web.people import CHANGE, DOWNLOAD, RUN, SETTINGS
from nanumpay_backupd.web.visit import Visit, site_of, visit_of

__all__ = ["asset", "assets", "cookie", "edition", "fragment", "go", "json_answer", "page", "status_of", "tell_fault"]

_STATUS: Final = {
    "bad-request": 400,
    "not-signed-in": 401,
    "sign-in-refused": 401,
    "token-refused": 401,
    "csrf": 403,
    "not-allowed": 403,
    "not-found": 404,
    "settings-changed": 409,
    "too-large": 413,
    "wrong-host": 421,
    "settings-invalid": 422,
    "config-invalid": 422,
    "sign-in-wait": 429,
    "permission-denied": 503,
    "source-unreachable": 503,
}
_REFUSED: Final = "com.nanumpay.Backup.Refused"
_NAMED: Final = {"com.nanumpay.Backup.NotFound": 404, "com.nanumpay.Backup.Busy": 409, _REFUSED: 409}
_INVALID: Final = "org.varlink.service.InvalidParameter"
_RETRY: Final = "5"


def status_of(error: BackupdError) -> int:
    """Return the HTTP status of a fault."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    name = getattr(error, "name", "")
    if name == _INVALID:
        return 400
    if name in _NAMED:
        return _NAMED[name]
    kinds: tuple[tuple[type[BackupdError], int], ...] = (
        (UnreachableError, 503),
        (NotFoundError, 404),
        (BusyError, 409),
        (RefusedError, 409),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def json_answer(content: Mapping[str, Any] | list[Any], status: int = 200, **headers: str) -> Response:
    """Answer with JSON."""
    return _Json(content, status, {name.replace("_", "-"): value for name, value in headers.items()})


def go(request: Request, path: str) -> RedirectResponse:
    """Send the browser to another page of ours, by GET."""
    return RedirectResponse(f"{visit_of(request).base}{path}", 303)


def page(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """Answer with a page."""
    visit, site = visit_of(request), site_of(request)
    known = values.pop("status_reply", None)
    times = shown.Shown(
        visit.words, known["timezone"] if known else site.options.timezone, known["now"] if known else None
    )
    return _rendered(visit, template, code, show=values.pop("show", None) or times, daemon=known, **values)


def fragment(request: Request, template: str, **values: Any) -> str:
    """Return a part of a page."""
    return _text(visit_of(request), template, **values)


def _rendered(visit: Visit, template: str, answered: int, **values: Any) -> HTMLResponse:
    return HTMLResponse(_text(visit, template, **values), answered)


def _text(visit: Visit, template: str, **values: Any) -> str:
    person = visit.person
    return (
        _templates()
        .get_template(template)
        .render(
            t=visit.words,
            visit=visit,
            base=visit.base,
            person=person,
            may_run=person is not None and person.may(RUN),
            may_download=person is not None and person.may(DOWNLOAD),
            may_save=person is not None and person.may(SETTINGS),
            may_change=person is not None and person.may(CHANGE),
            asset=functools.partial(asset, visit.base),
            **values,
        )
    )


def tell_fault(scope: Scope, visit: Visit, error: BackupdError) -> Response:
    """Answer with a fault: JSON to programs, a page to people; who is not signed in is asked to sign in."""
    status = status_of(error)
    words = visit.words
    message = words.texts.get(f"fault.{error.code}", error.message)
    hint = words.texts.get(f"fault.{error.code}.hint", error.hint)
    headers = {"retry-after": error.hint if error.code == "sign-in-wait" else _RETRY} if status in {429, 503} else {}
    if visit.api or _wants_json(scope):
        body = {"success": False, "message": message, "code": error.code, "hint": hint, "retryable": error.retryable}
        return _Json(body, status, headers)
    if error.code == "not-signed-in" and scope["method"] in {"GET", "HEAD"}:
        from urllib.parse import quote

        return RedirectResponse(f"{visit.base}/sign-in?next={quote(visit.address_here, safe='/')}", 303)
    template = "down.html" if isinstance(error, UnreachableError) else "fault.html"
    # The language's own sentence comes first, what the daemon said stays as the detail.
    detail = error.message if message != error.message else ""
    answer = _rendered(
        visit,
        template,
        status,
        message=message,
        hint=hint,
        code=error.code,
        detail=detail,
        show=None,
        daemon=None,
        here="",
    )
    answer.headers.update(headers)
    return answer


def _wants_json(scope: Scope) -> bool:
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return bool(accept.startswith(b"application/json"))


def cookie(visit: Visit, name: str, value: str, age: int | None = None, *, strict: bool = True) -> str:
    """Return the line that sets a cookie; ``age`` in seconds, None: until the browser is closed, 0: forget it."""
    parts = [f"{name}={value}", f"Path={visit.base or '/'}", "HttpOnly", f"SameSite={'Strict' if strict else 'Lax'}"]
    if age is not None:
        parts.append(f"Max-Age={age}")
    if visit.secure:
        parts.append("Secure")
    return "; ".join(parts)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nanumpay_backupd.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["icon"] = _icon
    environment.filters["said"] = lambda text, t: said.told(t, text)
    environment.filters["cause"] = lambda code, t: said.cause(t, code)
    return environment


def _icon(name: str, kind: str = "") -> Markup:
    shapes = _icons()
    return Markup('<svg class="icon {}" viewBox="0 0 24 24" aria-hidden="true">{}</svg>').format(
        kind,
        Markup(shapes[name]),  # noqa: S704 - from our own file
    )


@functools.cache
def _icons() -> dict[str, str]:
    file = importlib.resources.files("nanumpay_backupd.web").joinpath("templates", "icons.json")
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found


_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}


@functools.cache
def assets() -> dict[str, tuple[bytes, str]]:
    """Return the files that pages load, by name: content and type."""
    found = {}
    for file in importlib.resources.files("nanumpay_backupd.web").joinpath("static").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    return found


@functools.cache
def edition() -> str:
    """Return a name for all of them together: a script may load another one, and gets that of the same edition."""
    digest = hashlib.sha256()
    for name, (data, _) in sorted(assets().items()):
        digest.update(name.encode() + data)
    return digest.hexdigest()[:16]


def asset(base: str, name: str) -> str:
    """Return where a file is loaded from; the address changes with its content."""
    assert name in assets(), name
    return f"{base}/static/{edition()}/{name}"
