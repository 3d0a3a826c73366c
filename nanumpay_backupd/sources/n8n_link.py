"""The connection to n8n's public interface: pages, patience, TLS, and its faults as ours. Knows no workflow.

The key goes into a header of our own connection: it is in no argument and no environment, and no redirection is
followed, which would take it elsewhere. What is only read, or may be said twice, is tried again where that can help.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import BackupdError, CancelledError, ConfigError, SourceError
from nanumpay_backupd.settings.sources import N8nSource
from nanumpay_backupd.sources.json_items import MOST_ITEM, JsonItems, parse
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["N8nLink", "Refusal", "address"]

_API: Final = "/api/v1"
_PAGE: Final = 100
"""Elements that are asked for at once, which is n8n's own default; it gives 250 at most."""
_TRIES: Final = 4
_FIRST_REST: Final = 1.0
_LONGEST_REST: Final = 120.0
"""Seconds: who is asked to wait for longer than that is told so instead."""
_PIECE: Final = 1 << 16
_HOME_BYTES: Final = 256 << 10
_SAID: Final = 300
_PASSING: Final = frozenset({429, 502, 503, 504})
_RELEASE: Final = re.compile(rb'name="n8n:config:sentry" content="([A-Za-z0-9+/=]+)"')
_ResultT = TypeVar("_ResultT")


class Refusal(Exception):  # noqa: N818 - n8n's answer, which may be one that was expected
    """n8n answered with a status that is no success; ``text`` is its own sentence."""

    def __init__(self, status: int, text: str, rest: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.rest = rest


class _DownError(SourceError):
    """Nobody answers at all: the run is tried again as a whole, later."""


class N8nLink:
    """A connection. Not for several threads at once; `close` may be called from any, and ends what is under way.

    Its methods raise SourceError (``source-unreachable``, ``source-auth``, ``source-failed``), and Refusal for what
    n8n refuses for another reason than the key.
    """

    def __init__(self, settings: N8nSource) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._closed = threading.Event()
        self.received = 0
        """Bytes of pages so far."""
        self._key = settings.api_key.reveal().strip()
        if not self._key.isascii() or not self._key.isprintable() or not self._key:
            raise ConfigError("the API key of n8n is no key", hint="copy it anew: n8n, Settings, n8n API")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, and end waiting; may be called at any time and twice."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        self._drop()

    def get(self, *path: str) -> Any:
        """Return the JSON at a path, given in its parts."""
        return self._tried(lambda: self._whole("GET", _joined(path), None))

    def send(self, method: str, *path: str, body: Any = None, again: bool = True) -> Any:
        """Send something and return the answer's JSON; ``again``: it may be said twice, and is where that can help."""
        if not again:
            # A connection that lay idle may be closed at the other end, and nobody could tell whether it was said.
            self._drop()
        return self._tried(lambda: self._whole(method, _joined(path), body), again=again)

    def listed(self, *path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Yield the elements of all pages, one by one; an element may come twice (a page that was cut off)."""
        cursor, seen = "", set[str]()
        while True:
            asked = urlencode({**query, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})})
            found: list[str | None] = []
            yield from self._page(f"{_joined(path)}?{asked}", found)
            if not found[0]:
                return
            cursor = found[0]
            if cursor in seen:
                raise SourceError(
                    f"{self._called} gives the same page of {path[-1]} again and again",
                    hint="does a proxy or a cache before it leave out what stands behind the ? of an address?",
                )
            seen.add(cursor)

    def taken(self, *path: str) -> list[dict[str, Any]]:
        """Return all elements of a list that comes in pages by ``skip`` and ``take``, as folders do."""
        found: list[dict[str, Any]] = []
        while True:
            asked = f"{_joined(path)}?{urlencode({'skip': len(found), 'take': _PAGE})}"
            page = [item for item in self._tried(partial(self._elements, asked)) if item not in found]
            if not page:
                return found
            found += page

    def _elements(self, asked: str) -> list[dict[str, Any]]:
        items = self._whole("GET", asked, None)["data"]
        if not isinstance(items, list):
            raise TypeError
        return items

    def version(self) -> str:
        """Return the version of n8n as the page of its editor names it; empty where it does not."""
        with contextlib.suppress(BackupdError, Refusal):
            data = self._tried(lambda: self._start("GET", f"{self._path}/", None, key=False).read(_HOME_BYTES))
            self._drop()
            match = _RELEASE.search(data)
            with contextlib.suppress(ValueError):
                said = json.loads(base64.b64decode(match[1])) if match is not None else {}
                release = said.get("release", "") if isinstance(said, dict) else ""
                return str(release).removeprefix("n8n@") if re.fullmatch(r"n8n@[0-9][\w.+-]{0,40}", release) else ""
        return ""

    @property
    def _called(self) -> str:
        return f"n8n at {self._settings.url}"

    def _page(self, asked: str, found: list[str | None]) -> Iterator[dict[str, Any]]:
        """Yield the elements of one page, and note in ``found`` the mark of the next one."""
        for attempt in range(_TRIES):
            page = JsonItems(2)
            try:
                with self._faults():
                    response = self._start("GET", f"{self._path}{_API}{asked}", None)
                    while piece := response.read(_PIECE):
                        self.received += len(piece)
                        yield from page.feed(piece)
                    self._see_end(response)
                    yield from page.feed(b"")
                    around = page.around()
                    items = around["data"]
                    found.append(around.get("nextCursor"))
                    if not isinstance(items, list) or not isinstance(found[0], str | None):
                        raise TypeError
                    # Where the page did not begin with its data, they are still in it.
                    yield from [item for item in items if isinstance(item, dict)]
            except (SourceError, Refusal) as error:
                found.clear()
                self._rest(error, attempt)
            else:
                return

    def _whole(self, method: str, path: str, body: Any) -> Any:
        response = self._start(method, f"{self._path}{_API}{path}", body)
        data = response.read(MOST_ITEM)
        self._see_end(response)
        return parse(data) if data.strip() else None

    def _see_end(self, response: http.client.HTTPResponse) -> None:
        # A body that ends before its Content-Length is no fault to http.client where it is read in pieces.
        if response.length:
            raise EOFError

    def _start(self, method: str, target: str, body: Any, *, key: bool = True) -> http.client.HTTPResponse:
        """Send a request and return the answer before its body; raises Refusal, OSError and the like."""
        connection = self._connected()
        headers = {"User-Agent": f"nanumpay-backupd/{__version__}", "Accept": "application/json" if key else "*/*"}
        if key:
            headers["X-N8N-API-KEY"] = self._key
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if connection.sock is None:
            try:
                connection.connect()
            except (ConnectionRefusedError, socket.gaierror) as error:
                fault = self._unreachable(error.strerror or str(error))
                raise _DownError(fault.message, hint=fault.hint, code=fault.code) from None
        connection.request(method, target, body=data, headers=headers)
        response = connection.getresponse()
        if 200 <= response.status < 300:
            return response
        said = response.read(_PIECE)
        raise Refusal(response.status, _sentence(said, response), _asked_rest(response))

    def _connected(self) -> http.client.HTTPConnection:
        if self._closed.is_set():
            raise CancelledError("the connection to n8n was closed")
        if self._connection is None:
            timeout = self._settings.timeout
            if self._secure:
                context = _context(self._settings)
                self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
            else:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tried(self, what: Callable[[], _ResultT], *, again: bool = True) -> _ResultT:
        """Do something, several times where that can help."""
        for attempt in range(_TRIES):
            try:
                with self._faults():
                    return what()
            except (SourceError, Refusal) as error:
                # Of what must not be done twice only that may be tried again which was certainly not done.
                if not again and not (isinstance(error, Refusal) and error.status == 429):
                    raise self._told(error) from None
                self._rest(error, attempt)
        raise AssertionError("the last try returns or raises")

    def _rest(self, error: SourceError | Refusal, attempt: int) -> None:
        """Wait before the next try; raises the fault where there is none."""
        self._drop()
        down = isinstance(error, _DownError)
        passing = error.status in _PASSING if isinstance(error, Refusal) else error.retryable and not down
        asked = error.rest if isinstance(error, Refusal) else None
        rest = _FIRST_REST * 2**attempt if asked is None else asked
        if not passing or attempt == _TRIES - 1 or rest > _LONGEST_REST:
            raise self._told(error) from None
        if self._closed.wait(rest):
            raise CancelledError("the connection to n8n was closed") from None

    def _told(self, error: SourceError | Refusal) -> SourceError | Refusal:
        """Return what is raised for an answer: a refusal stays one where it may be expected."""
        if not isinstance(error, Refusal):
            return error
        status, text = error.status, error.text
        if status == 401:
            return SourceError(
                f"{self._called} does not accept the API key: {text}",
                hint="has it ended, was it deleted? make one: n8n, Settings, n8n API; then change api_key of the job",
                code="source-auth",
                retryable=False,
            )
        if 300 <= status < 400:
            return SourceError(
                f"{self._called} answered {status}: its interface is elsewhere",
                hint="correct url of the job",
                retryable=False,
            )
        if status == 429:
            wait = f" and asks to wait for {error.rest:.0f} s" if error.rest is not None else ""
            return SourceError(
                f"{self._called} has had too many requests{wait}",
                hint="run it at another time, or allow more before n8n",
            )
        if status >= 500:
            return SourceError(f"{self._called} answered {status}: {text}", hint="its log tells more")
        return error

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what goes wrong within into a SourceError that names the server, without secrets."""
        try:
            yield
        except (Refusal, BackupdError):
            raise
        except ssl.SSLCertVerificationError as error:
            raise SourceError(
                f"the certificate of {self._called} is not accepted: {error.verify_message}",
                hint="name in ca_file who vouches for it, and the host in url as the certificate has it",
                retryable=False,
            ) from None
        except TimeoutError:
            raise self._unreachable(f"it says nothing for {self._settings.timeout:.0f} s") from None
        except (EOFError, http.client.HTTPException):
            raise self._unreachable("it closed the connection, or speaks another protocol") from None
        except OSError as error:
            raise self._unreachable(error.strerror or str(error) or type(error).__name__) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SourceError(
                f"what answers at {self._settings.url} is not n8n's interface: {redact(str(error))[:_SAID]}",
                hint="does url name n8n itself, with the path at which it is? is its public API on?",
                retryable=False,
            ) from None

    def _unreachable(self, why: str) -> SourceError:
        if self._closed.is_set():
            raise CancelledError("the connection to n8n was closed") from None
        return SourceError(
            f"{self._called} cannot be reached: {redact(why)}",
            hint="check that it runs, and that url of the job names it",
            code="source-unreachable",
        )


def address(settings: N8nSource, refusal: Refusal, what: str) -> SourceError:
    """Return the fault that a refusal is where it was not expected; ``what`` could not be done."""
    rights = refusal.status == 403
    missing = refusal.status == 404
    hint = "is the public API on (N8N_PUBLIC_API_DISABLED)? does url name n8n with the path at which it is?"
    return SourceError(
        f"n8n at {settings.url} refused {what} ({refusal.status}): {refusal.text}",
        hint="the rights that the API key needs are in docs/sources/n8n.md" if rights else hint if missing else "",
        code="source-auth" if rights else "source-failed",
        retryable=False,
    )


def _joined(path: tuple[str, ...]) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in path)


def _context(settings: N8nSource) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates in ca_file cannot be read: {error.strerror or error}",
            hint="look at ca_file of the job, and who may read it",
        ) from None


def _sentence(data: bytes, response: http.client.HTTPResponse) -> str:
    """Return what an answer says, for people."""
    with contextlib.suppress(ValueError):
        said = parse(data)
        if isinstance(said, dict) and isinstance(said.get("message"), str):
            return redact(said["message"])[:_SAID]
    return redact(response.reason or "no reason given")[:_SAID]


def _asked_rest(response: http.client.HTTPResponse) -> float | None:
    """Return the seconds that ``Retry-After`` asks for: a number or a date."""
    said = (response.headers.get("Retry-After") or "").strip()
    if said.isascii() and said.isdecimal():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(said)
        return max(0.0, (moment - SystemClock().now()).total_seconds())
    return None
