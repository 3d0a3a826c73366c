"""What stands before every page: host, size, session or token, origin and CSRF token, security headers.

Whatever a handler forgets, this does not: a request that changes something comes through here or not at all.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from h11 import LocalProtocolError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.web.answers import cookie, tell_fault
from nanumpay_backupd.web.people import Person
from nanumpay_backupd.web.sessions import Session
from nanumpay_backupd.web.site import Site
from nanumpay_backupd.web.visit import Visit
from nanumpay_backupd.web.words import LANGUAGES, chosen, words

__all__ = ["LANGUAGE", "LARGEST", "PRE", "SESSION", "THEME", "Guard", "cookie_name", "session_of"]

SESSION: Final = "nbweb"
PRE: Final = "nbweb-pre"
LANGUAGE: Final = "nbweb-language"
THEME: Final = "nbweb-theme"
LARGEST: Final = 256 << 10
"""Bytes of a request's body."""
_FORM: Final = 16 << 10
"""Bytes of the form to sign in."""
_PATIENCE: Final = 30.0
"""Seconds until a body must have come."""
SIGN_IN: Final = "/sign-in"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", ""})
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; manifest-src 'self'"
)
_HEADERS: Final = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_YEAR: Final = "max-age=31536000"


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site
        public = urlsplit(site.web.address)
        self._public = public.netloc
        self._https = public.scheme == "https"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        visit = self._visit(scope, headers)
        scope["visit"] = visit
        fresh: list[str] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._dress(message, visit, fresh)
            try:
                await send(message)
            except LocalProtocolError:
                # What came was no HTTP in the end: the server said so itself and closes the connection, which it hears
                # of in its next turn.
                await asyncio.sleep(0)

        try:
            self._check_host(headers)
            self._enter(scope)
            await self._recognise(visit, headers, fresh)
            if scope["method"] not in _SAFE:
                receive = await self._check_change(receive, headers, visit)
        except BackupdError as error:
            await tell_fault(scope, visit, error)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    # Who and where

    def _visit(self, scope: Scope, headers: Headers) -> Visit:
        jar = _cookies(headers)
        base = self._site.web.base_path
        host = headers.get("host", "").lower()
        path = scope["path"].removeprefix(base) or "/"
        language = chosen(jar.get(LANGUAGE, ""), self._site.web.language, headers.get("accept-language", ""))
        theme = jar.get(THEME, "")
        return Visit(
            person=None,
            session=None,
            csrf="",
            words=words(language if language in LANGUAGES else "en"),
            theme=theme if theme in {"light", "dark"} else "auto",
            address=self._address(scope, headers),
            secure=self._https and host == self._public,
            base=base,
            path=path,
            query=scope.get("query_string", b"").decode("latin-1"),
            api=path.startswith("/api/"),
        )

    def _address(self, scope: Scope, headers: Headers) -> str:
        """Return from where it came. Only a proxy of this host can reach us; the last hop is what it saw."""
        if self._public:
            hops = headers.get("x-forwarded-for", "").split(",")
            if last := hops[-1].strip():
                return last[:64]
        client = scope.get("client")
        return str(client[0]) if client and client[0] else "local"

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not ours: a page elsewhere could else make a name of its own lead here."""
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
        if host != self._public and name not in _LOOPBACK:
            raise RefusedError(
                "this name is not known here", hint="say it in [web] address of backupd.toml", code="wrong-host"
            )

    def _enter(self, scope: Scope) -> None:
        base, path = self._site.web.base_path, scope["path"]
        if not base:
            return
        if path != base and not path.startswith(f"{base}/"):
            raise BackupdError("there is nothing here", hint=f"the page is at {base}/", code="not-found")
        scope["root_path"] = base

    async def _recognise(self, visit: Visit, headers: Headers, fresh: list[str]) -> None:
        if visit.path.startswith("/static/"):
            return  # the same for everybody, and kept by caches
        jar = _cookies(headers)
        bearer = headers.get("authorization", "")
        if visit.api and bearer[:7].lower() == "bearer ":
            token = self._site.tokens.find(bearer[7:].strip(), self._site.clock.now())
            if token is None:
                raise RefusedError("this token is not known, or has ended", code="token-refused")
            visit.person = Person(token.name, "token", frozenset(token.scopes))
            self._site.ledger.token_used(token.name, self._site.clock.now().timestamp(), visit.address)
            return
        name = cookie_name(SESSION, visit)
        session = self._site.sessions.find(jar.get(name, ""))
        person = await self._site.person(session) if session is not None else None
        if session is not None and person is None:
            self._site.sessions.end(session.key)
        if session is not None and person is not None:
            visit.session, visit.person, visit.csrf = session, person, session.csrf
            return
        if jar.get(name):
            fresh.append(cookie(visit, name, "", age=0))
        visit.csrf = jar.get(cookie_name(PRE, visit), "")
        if len(visit.csrf) < 20 and not visit.api:
            visit.csrf = secrets.token_urlsafe(32)
            fresh.append(cookie(visit, cookie_name(PRE, visit), visit.csrf))

    # Changes

    async def _check_change(self, receive: Receive, headers: Headers, visit: Visit) -> Receive:
        """Read the body, and make sure that it was sent by a page of ours; returns what gives the body again."""
        if visit.person is None and visit.path != SIGN_IN:
            # Before anything is read: who is not known shall not even fill memory.
            raise RefusedError("you are not signed in", hint="sign in again", code="not-signed-in")
        body = await _read(receive, headers, LARGEST if visit.person is not None else _FORM)
        if visit.person is None or visit.person.origin != "token":
            self._check_origin(headers)
            given = headers.get("x-csrf-token") or _csrf_field(body, headers)
            if not visit.csrf or not hmac.compare_digest(given.encode(), visit.csrf.encode()):
                raise RefusedError(
                    "the form was out of date, or was not sent from this page", hint="try again", code="csrf"
                )
        sent = False

        async def again() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        return again

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "same-origin") != "same-origin":
                raise RefusedError("this was sent from another page", code="csrf")
            return
        parts = urlsplit(origin.lower())
        host = headers.get("host", "").lower()
        wanted = "https" if self._https and host == self._public else "http"
        if parts.netloc != host or parts.scheme != wanted:
            raise RefusedError("this was sent from another page", code="csrf")

    def _dress(self, message: Message, visit: Visit, fresh: list[str]) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("cache-control", "no-store")
        if visit.secure:
            headers["strict-transport-security"] = _YEAR
        set_already = " ".join(headers.getlist("set-cookie"))
        for line in fresh:
            if f"{line.partition('=')[0]}=" not in set_already:
                headers.append("set-cookie", line)


def cookie_name(name: str, visit: Visit) -> str:
    """Return what a cookie is called: behind TLS so that a browser takes it over TLS only."""
    return f"__Secure-{name}" if visit.secure else name


def session_of(visit: Visit) -> Session:
    """Return the session of somebody who signed in by a page."""
    assert visit.session is not None, "checked by the route"
    return visit.session


async def _read(receive: Receive, headers: Headers, most: int) -> bytes:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _whole(receive, most)
    except TimeoutError:
        raise RefusedError("the request did not come in time", code="bad-request") from None


async def _whole(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError("the request broke off", code="bad-request")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return bytes(body)


def _too_large(most: int) -> RefusedError:
    return RefusedError(f"this request may have {most >> 10} KiB at most", code="too-large")


def _csrf_field(body: bytes, headers: Headers) -> str:
    if not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return ""
    try:
        return parse_qs(body.decode("utf-8"), max_num_fields=200).get("csrf", [""])[-1]
    except ValueError:
        return ""


def _cookies(headers: Headers) -> dict[str, str]:
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(headers.get("cookie", "")[:8192])
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}
