"""A small HTTP/1.1 server for one page, /metrics. Knows no figures; what it answers comes from a function.

Whatever a caller does: a request is bounded in size and time, an answer in time, all of them in number; each is
answered once and its connection closed. Who has asked for nothing yet makes room for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog

from nanumpay_backupd.errors import BackupdError

__all__ = ["PAGE", "Page", "Render", "WebServer"]

PAGE: Final = "/metrics"
_MOST: Final = 16
"""Connections at once."""
_LONGEST_HEAD: Final = 8 << 10
_REQUEST_TIME: Final = 5.0
"""Seconds until a request must have arrived."""
_WHOLE_TIME: Final = 30.0
"""Seconds until everything must be over, reading the answer included."""
_TEXT: Final = "text/plain; charset=utf-8"
log = structlog.get_logger()


class Page(NamedTuple):
    """What is answered."""

    body: bytes
    content_type: str = _TEXT


Render = Callable[[str], Awaitable[Page]]
"""Makes the page for somebody with that Accept header; raises BackupdError when it cannot be made now."""


class _Answer(NamedTuple):
    """One answer. ``body`` false: only the head of it is sent."""

    status: HTTPStatus
    page: Page
    body: bool = True
    more: tuple[str, ...] = ()


class WebServer:
    """Answers on one listening socket, from `start` to `close`, both on the same event loop."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._server: asyncio.Server | None = None
        self._reading: dict[asyncio.Task[None], None] = {}
        self._answering: dict[asyncio.Task[None], None] = {}

    async def start(self, listening: socket.socket) -> None:
        """Answer whoever connects; the socket is closed by `close`."""
        self._server = await asyncio.start_server(self._admit, sock=listening, limit=_LONGEST_HEAD, backlog=_MOST)

    async def close(self) -> None:
        """Stop listening, and cut off who is still being served."""
        if self._server is not None:
            self._server.close()
        tasks = [*self._reading, *self._answering]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What is written counts as written when the caller has it: a slow one keeps to the time.
        writer.transport.set_write_buffer_limits(0)
        if len(self._reading) + len(self._answering) >= _MOST:
            # Whoever has waited longest without asking; where all have asked, who takes longest to read.
            longest = next(iter({**self._reading, **self._answering}))
            self._forget(longest)
            longest.cancel()
        task = asyncio.create_task(self._serve(reader, writer), name="metrics-connection")
        self._reading[task] = None
        task.add_done_callback(functools.partial(self._ended, writer))

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._reading.pop(task, None)
        self._answering.pop(task, None)

    def _ended(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        # Here, because a task that is cancelled before its first step does nothing at all.
        writer.transport.abort()
        self._forget(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("a metrics connection failed", code="internal", exc_info=fault)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Going away, or being too slow, is the caller's right; nothing is to be said of it.
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(_WHOLE_TIME):
                answer = await self._answer(reader)
                writer.write(_encoded(answer))
                await writer.drain()
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> _Answer:
        try:
            async with asyncio.timeout(_REQUEST_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return _short(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            return _short(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        me = asyncio.current_task()
        assert me is not None
        self._forget(me)
        self._answering[me] = None
        line, _, rest = head.decode("latin-1").partition("\r\n")
        method, _, target = line.partition(" ")
        target, _, version = target.rpartition(" ")
        if not method or not target or not version.startswith("HTTP/1."):
            return _short(HTTPStatus.BAD_REQUEST)
        if target.partition("?")[0] != PAGE:
            return _short(HTTPStatus.NOT_FOUND, f"the metrics are at {PAGE}")
        if method not in {"GET", "HEAD"}:
            return _short(HTTPStatus.METHOD_NOT_ALLOWED)._replace(more=("Allow: GET, HEAD",))
        return (await self._page(_header(rest, "accept")))._replace(body=method == "GET")

    async def _page(self, accept: str) -> _Answer:
        try:
            return _Answer(HTTPStatus.OK, await self._render(accept))
        except BackupdError as error:
            return _short(HTTPStatus.SERVICE_UNAVAILABLE, error.message)
        except Exception:
            log.exception("the metrics could not be made", code="internal")
            return _short(HTTPStatus.INTERNAL_SERVER_ERROR)


def _header(lines: str, name: str) -> str:
    """Return the value of a header field, joined where it stands several times; empty when it is not there."""
    found = (line.partition(":") for line in lines.split("\r\n"))
    return ",".join(value.strip() for key, _, value in found if key.strip().lower() == name)


def _short(status: HTTPStatus, text: str = "") -> _Answer:
    return _Answer(status, Page(f"{text or status.phrase}\n".encode()))


def _encoded(answer: _Answer) -> bytes:
    status, page = answer.status, answer.page
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *answer.more,
    )
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return head.encode("latin-1") + (page.body if answer.body else b"")
