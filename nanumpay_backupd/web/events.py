"""What happens, as server-sent events: one connection for each page that is open."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from nanumpay_backupd.errors import BusyError
from nanumpay_backupd.web.feed import Feed
from nanumpay_backupd.web.visit import site_of, visit_of

__all__ = ["MOST", "stream"]

MOST: Final = 400
"""Readers at one time."""
_PULSE: Final = 15.0
_LONGEST: Final = 3600.0
"""Seconds until a connection is ended: the browser comes again by itself, and its session is looked at anew."""


async def stream(request: Request) -> Response:
    """Answer with the stream; ``run`` limits it to one run."""
    site = site_of(request)
    if site.feed.readers >= MOST:
        raise BusyError(f"{MOST} pages are watching already", hint="close some of them")
    wanted = request.query_params.get("run")
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    person = visit_of(request).person
    assert person is not None, "checked by the route"
    return StreamingResponse(_events(site.feed, wanted), media_type="text/event-stream", headers=headers)


async def _events(feed: Feed, wanted: str | None) -> AsyncIterator[bytes]:
    turns = int(_LONGEST / _PULSE)
    with feed.reading() as reader:
        state = {True: "up", False: "down", None: "connecting"}[feed.up]
        yield b"retry: 3000\n" + _line({"kind": state})
        while turns > 0:
            event = await reader.next(_PULSE)
            if event is None:
                turns -= 1
                yield b": still here\n\n"
            elif wanted is None or event["kind"] in {"up", "down", "resync"} or _run_of(event) == wanted:
                yield _line(event)


def _run_of(event: dict[str, Any]) -> str:
    run, progress = event.get("run"), event.get("progress")
    return str(run["id"] if run else progress["run"] if progress else "")


def _line(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
