"""One request as a handler sees it: who asks, from where, in which language, and what it sent. No answers here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.web.people import Person
from nanumpay_backupd.web.sessions import Session
from nanumpay_backupd.web.site import Site
from nanumpay_backupd.web.words import Words

__all__ = ["Visit", "fields", "json_body", "local_path", "site_of", "visit_of"]

_FIELDS: Final = 200


@dataclass(slots=True)
class Visit:
    """Who asks. ``csrf`` stands in forms; ``secure``: the browser speaks TLS to the proxy in front of us."""

    person: Person | None
    session: Session | None
    csrf: str
    words: Words
    theme: str
    address: str
    secure: bool
    base: str
    path: str
    query: str
    api: bool

    @property
    def address_here(self) -> str:
        """Return path and query of what is looked at, to come back to it."""
        return f"{self.path}?{self.query}" if self.query else self.path


def visit_of(request: Request) -> Visit:
    """Return the visit that the guard has put there."""
    found: Visit = request.scope["visit"]
    return found


def site_of(request: Request) -> Site:
    """Return the site."""
    found: Site = request.app.state.site
    return found


async def fields(request: Request) -> dict[str, str]:
    """Return the fields of a form; of one that is there twice the last. Raises RefusedError (``bad-request``)."""
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise RefusedError("the form cannot be read", code="bad-request") from None
    return dict(pairs)


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent, empty where nothing was; raises RefusedError (``bad-request``)."""
    body = await request.body()
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError("the body is not JSON", hint="send an object, in UTF-8", code="bad-request") from None
    if not isinstance(found, dict):
        raise RefusedError("the body must be a JSON object", code="bad-request")
    return found


def local_path(text: str) -> str:
    """Return a path of this site to go to, ``/`` for what is none: nobody is sent to another site from here."""
    good = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and "\\" not in text
    return text if good and len(text) < 2000 else "/"
