"""Downloads of artifacts, whole or in part, from here or from a copy elsewhere. The daemon opens, this sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nanumpay_backupd.errors import BusyError, RefusedError
from nanumpay_backupd.web.visit import site_of, visit_of

__all__ = ["download", "wanted_part"]

_CHUNK: Final = 512 << 10
_MOST: Final = 16
"""Downloads at one time."""
_STALL: Final = 120.0
"""Seconds that somebody may take nothing of what is sent."""
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_TYPES: Final = {".gz": "application/gzip", ".tar": "application/x-tar", ".zst": "application/zstd"}
_active: set[object] = set()
_reading = ThreadPoolExecutor(4, thread_name_prefix="download")
log = structlog.get_logger()


async def download(request: Request) -> Response:
    """Answer with a file, or the part of it that is asked for."""
    visit, site = visit_of(request), site_of(request)
    name, source = request.query_params.get("file", ""), request.query_params.get("source")
    if not name:
        raise RefusedError("say which file: ?file=NAME", code="bad-request")
    if len(_active) >= _MOST:
        raise BusyError(f"{_MOST} downloads are under way already", hint="try again when one has ended")
    asked = request.headers.get("range", "")
    # Opened as a whole first: only then it is known how large it is. A pipe that is not read costs nothing yet.
    opened, fd = await site.link.open("OpenArtifact", {"name": name, "source": source, "length": 0 if asked else None})
    try:
        tag = f'"{opened["sha256"] or _weak(opened)}"'
        part = wanted_part(asked, opened["size"])
        if asked and request.headers.get("if-range", tag) != tag:
            part = None
        if asked:
            if part == ():
                return Response(status_code=416, headers={"content-range": f"bytes */{opened['size']}"})
            first, many = part or (0, opened["size"])
            where = {"name": name, "source": opened["destination"], "offset": first, "length": many}
            os.close(fd)
            fd = -1
            opened, fd = await site.link.open("OpenArtifact", where)
        headers = _headers(opened, tag, partial=bool(part))
        if request.method != "HEAD" and opened["offset"] == 0:
            who = visit.person.shown if visit.person is not None else "?"
            site.audit(who, visit.address, "download", name, detail=opened["destination"])
        answer = _FileAnswer(fd, opened["length"], 206 if part else 200, headers, name)
        fd = -1
        return answer
    finally:
        if fd >= 0:
            os.close(fd)


def wanted_part(asked: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """Return offset and length that a Range header asks for; none of a file: (); None: all of it.

    Several parts at once, and what is no range, mean all of it, as RFC 9110 allows.
    """
    match = _RANGE.fullmatch(asked.replace(" ", "").lower())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        many = min(int(match[2]), size)
        return (size - many, many) if many else ()
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return (first, last - first + 1) if first < size else ()


def _weak(opened: dict[str, Any]) -> str:
    return f"{opened['size']:x}-{opened['backup']}"


def _headers(opened: dict[str, Any], tag: str, *, partial: bool) -> dict[str, str]:
    name = opened["name"]
    found = {
        "content-type": _TYPES.get(name[name.rfind(".") :], "application/octet-stream"),
        "content-length": str(opened["length"]),
        "content-disposition": f'attachment; filename="{name}"',
        "accept-ranges": "bytes",
        "etag": tag,
        "x-backup-source": opened["destination"],
        "x-accel-buffering": "no",
    }
    if partial:
        last = opened["offset"] + opened["length"] - 1
        found["content-range"] = f"bytes {opened['offset']}-{last}/{opened['size']}"
    return found


class _FileAnswer(Response):
    """Sends what comes from a descriptor, and closes it."""

    def __init__(self, fd: int, length: int, status: int, headers: dict[str, str], name: str) -> None:
        super().__init__(None, status)
        self.raw_headers = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
        self._fd = fd
        self._length = length
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _active.add(self)
        gone = asyncio.create_task(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = 0 if scope["method"] == "HEAD" else self._length
            async with contextlib.aclosing(_chunks(self._fd, left)) as chunks:
                async for chunk in chunks:
                    left -= len(chunk)
                    async with asyncio.timeout(_STALL):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    if gone.done():
                        return
            if left:
                # Without an end the connection is cut: whoever downloads sees that it is not all.
                log.warning(f"the download of {self._name} broke off with {left} bytes to go", code="interrupted")
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.warning(
                f"the download of {self._name} was given up: nothing was taken for {_STALL:.0f} s", code="deadline"
            )
        finally:
            _active.discard(self)
            gone.cancel()
            os.close(self._fd)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chunks(fd: int, length: int) -> AsyncGenerator[bytes]:
    """Yield so many bytes, fewer where there are none left."""
    loop = asyncio.get_running_loop()
    pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
    while length > 0:
        wanted = min(length, _CHUNK)
        chunk = await _piped(fd, wanted) if pipe else await loop.run_in_executor(_reading, os.read, fd, wanted)
        if not chunk:
            return
        length -= len(chunk)
        yield chunk


async def _piped(fd: int, wanted: int) -> bytes:
    """Read from a pipe when there is something; a thread could not be called back from a pipe that stays silent."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    os.set_blocking(fd, False)
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
        return os.read(fd, wanted)
    finally:
        loop.remove_reader(fd)
