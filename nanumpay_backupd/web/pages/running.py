"""Run: start a backup, watch it, cancel it; the runs there were."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.pages.figures import begun, ended
from nanumpay_backupd.web.pages.fleet import runs_of_all
from nanumpay_backupd.web.visit import fields, site_of

__all__ = ["cancel", "listing", "show", "start"]

_LIMIT: Final = 60
_KINDS: Final = ("full", "incremental", "differential")


async def listing(request: Request) -> Response:
    """Answer with what can be started, what runs, and what ran."""
    site, asked = site_of(request), request.query_params
    status = await site.link.status()
    job = asked.get("job") or None
    slices = asked.get("slices") == "1"
    # Slices are told by no host to the others: they would be most of what is told.
    shared = None if slices else await runs_of_all(site, status, job, _LIMIT)
    runs = shared
    if runs is None:
        runs = (await site.link.ask("ListRuns", {"job": job, "limit": _LIMIT, "slices": slices}))["runs"]
    return page(
        request,
        "runs.html",
        here="run",
        status_reply=status,
        status=status,
        runs=runs,
        hosts=shared is not None,
        chosen=job or "",
        slices=slices,
        kinds=_KINDS,
    )


async def start(request: Request) -> Response:
    """Begin a run and show it."""
    form = await fields(request)
    kind = form.get("kind") if form.get("kind") in _KINDS else None
    job = form.get("job") or None
    # Who presses the button means it: also where backups by schedule are switched off.
    order = {"job": job, "kind": None if kind == "full" else kind, "force": True}
    if collection := form.get("collection", "").strip()[:300]:
        order |= {"collection": collection, "kind": None}
    return await begun(request, "Run", order, f"{job or ''} {kind or ''} {collection}".strip())


async def show(request: Request) -> Response:
    """Answer with one run, as it is or was."""
    site = site_of(request)
    status = await site.link.status()
    run = (await site.link.ask("DescribeRun", {"run": request.path_params["run"]}))["run"]
    return page(request, "run.html", here="run", status_reply=status, run=run, running=not run.get("outcome"))


async def cancel(request: Request) -> Response:
    """Stop a run; it ends a moment later."""
    run = request.path_params["run"]
    await site_of(request).link.order("Cancel", {"run": run})
    return ended(request, "cancel", run, f"/run/{run}")
