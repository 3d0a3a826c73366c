"""What restores by swap keep beside the live data: which there is, back again, forward again, and away for good."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.web.answers import fragment, page
from nanumpay_backupd.web.pages.figures import confirmed, ended
from nanumpay_backupd.web.shown import Shown
from nanumpay_backupd.web.visit import fields, site_of, visit_of

__all__ = ["change", "kept", "show"]

_METHODS: Final = {"undo": ("UndoSwap", {}), "redo": ("UndoSwap", {"redo": True}), "drop": ("DropSwap", {})}


async def show(request: Request) -> Response:
    """Answer with all of them; the servers are asked, which takes a moment."""
    site = site_of(request)
    status = await site.link.status()
    found = await site.link.ask("ListSwaps", patient=True)
    return page(
        request,
        "swaps.html",
        here="recover",
        status_reply=status,
        swaps=found["swaps"],
        problems=found["problems"],
    )


async def kept(request: Request) -> Response:
    """Answer with a list of those of one job, for a page that is there already: servers may take their time."""
    link = site_of(request).link
    status = await link.status()
    found = await link.ask("ListSwaps", {"job": request.query_params.get("job")}, patient=True)
    times = Shown(visit_of(request).words, status["timezone"], status["now"])
    return HTMLResponse(fragment(request, "kept.html", swaps=found["swaps"], problems=found["problems"], show=times))


async def change(request: Request) -> Response:
    """Change places again, or delete what is kept."""
    form, stamp, verb = await fields(request), request.path_params["swap"], request.path_params["verb"]
    if verb not in _METHODS:
        raise RefusedError(f"there is no {verb!r}", hint="undo, redo or drop", code="bad-request")
    if verb == "drop" and form.get("typed", "").strip() != stamp:
        raise RefusedError("what was typed is not the name", hint="nothing was deleted", code="not-typed")
    await confirmed(request, form, f"swap-{verb}", stamp)
    method, more = _METHODS[verb]
    await site_of(request).link.order(method, {"swap": stamp, **more}, patient=True)
    return ended(request, f"swap-{verb}", stamp, "/recover/swaps")
