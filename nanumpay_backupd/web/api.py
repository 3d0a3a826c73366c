"""The application's interface: what its own page and other programs ask for. What it looks like is in `openapi`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.web import saving
from nanumpay_backupd.web.answers import json_answer
from nanumpay_backupd.web.openapi import describe
from nanumpay_backupd.web.visit import Visit, json_body, site_of, visit_of

__all__ = [
    "alive",
    "backups",
    "cancel",
    "document",
    "execute",
    "one_run",
    "preview",
    "run_now",
    "runs",
    "save_settings",
    "settings",
    "status",
    "test_settings",
]

_GROUPS: Final = {"mongodb": "mongodb", "n8n": "n8n", "redis": "redis", "files": "files", "mariadb": "mysql"}
_ORDERS: Final[dict[str, type]] = {
    "job": str,
    "kind": str,
    "collection": str,
    "force": bool,
    "compress": bool,
    "only_to": list,
    "holds": str,
}
_MOST: Final = 1000
_PAGE: Final = 100
_PIECE: Final = 64 << 10


async def alive(request: Request) -> Response:
    """Tell whether the page and the daemon are there; for everybody, and says nothing else."""
    site = site_of(request)
    return json_answer({"page": True, "daemon": site.feed.up if site.feed.up is not None else not site.link.is_down})


async def document(request: Request) -> Response:
    """Answer with the description of this interface."""
    return json_answer(describe(visit_of(request).base))


async def status(request: Request) -> Response:
    """Answer with what the daemon says of itself."""
    return json_answer(await site_of(request).link.status())


async def run_now(request: Request) -> Response:
    """Begin a backup and answer at once."""
    run = await _begin(request)
    t = visit_of(request).words
    return json_answer({"success": True, "message": t("api.started"), "run": run["id"], "job": run["job"]}, 202)


async def execute(request: Request) -> Response:
    """Begin a backup, and answer when it has ended, as the application's own request does."""
    run = await _begin(request)
    site, t = site_of(request), visit_of(request).words
    with site.feed.reading() as reader:
        while not run.get("outcome"):
            if await request.is_disconnected():
                break
            await reader.next(5.0)
            run = (await site.link.ask("DescribeRun", {"run": run["id"]}))["run"]
    good = run.get("outcome") in {"succeeded", "degraded"}
    file = None
    if good and run.get("backup"):
        file = (await site.link.ask("DescribeBackup", {"backup": run["backup"]}))["backup"]["artifact"]
    message = t("api.done") if good else (run.get("error") or {}).get("message") or t("api.failed")
    body = {"success": good, "message": message, "run": run["id"], "outcome": run.get("outcome"), "file": file}
    return json_answer(body, 200 if good else 500)


async def _begin(request: Request) -> dict[str, Any]:
    visit, site, body = visit_of(request), site_of(request), await json_body(request)
    order = _checked(body)
    # The application's button means: also where backups by schedule are switched off.
    order.setdefault("force", True)
    run: dict[str, Any] = (await site.link.order("Run", order))["run"]
    site.audit(_who(visit), visit.address, "run", run["id"], detail=run["job"])
    return run


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    for name, value in body.items():
        kind = _ORDERS.get(name)
        if kind is None:
            raise RefusedError(f"{name!r} is not known here", hint=f"known: {', '.join(_ORDERS)}", code="bad-request")
        if not isinstance(value, kind) or (
            isinstance(value, list) and not all(isinstance(item, str) for item in value)
        ):
            raise RefusedError(f"{name} is of the wrong type", code="bad-request")
    return dict(body)


async def cancel(request: Request) -> Response:
    """Stop a run."""
    visit, site, body = visit_of(request), site_of(request), await json_body(request)
    run = body.get("run")
    if set(body) - {"run"} or ("run" in body and not isinstance(run, str)):
        raise RefusedError("run must be a text, and there is nothing else", code="bad-request")
    found = (await site.link.order("Cancel", {"run": run}))["run"]
    site.audit(_who(visit), visit.address, "cancel", found["id"], detail=found["job"])
    return json_answer({"success": True, "run": found["id"]})


async def runs(request: Request) -> Response:
    """Answer with the runs, newest first."""
    asked = request.query_params
    limit = _number(asked.get("limit", "20"), 1, _MOST)
    return json_answer(await site_of(request).link.ask("ListRuns", {"job": asked.get("job"), "limit": limit}))


async def one_run(request: Request) -> Response:
    """Answer with one run."""
    return json_answer(await site_of(request).link.ask("DescribeRun", {"run": request.path_params["run"]}))


async def backups(request: Request) -> Response:
    """Answer with the backups, grouped by what they save; the newest first, at most so many as ``limit`` says."""
    site, limit = site_of(request), _number(request.query_params.get("limit", "500"), 1, 10_000)
    # Kept as they are sent: as objects, ten thousand of them would take ten times as much memory.
    found: dict[str, bytearray] = {name: bytearray() for name in _GROUPS.values()}
    skip = 0
    while skip < limit:
        page = await site.link.ask("FindBackups", {"skip": skip, "limit": min(_PAGE, limit - skip)})
        for backup in page["backups"]:
            group = _GROUPS.get(backup.get("source") or "mongodb", backup.get("source") or "mongodb")
            listed = found.setdefault(group, bytearray())
            listed += (b"," if listed else b"") + json.dumps(_entry(backup), ensure_ascii=False).encode()
        skip += len(page["backups"])
        if not page["backups"] or skip >= page["total"]:
            break
    return StreamingResponse(_grouped(found), media_type="application/json")


async def _grouped(found: dict[str, bytearray]) -> AsyncGenerator[bytes]:
    for at, (name, listed) in enumerate(found.items()):
        yield (b"," if at else b"{") + json.dumps(name).encode() + b":["
        for start in range(0, len(listed), _PIECE):
            yield bytes(listed[start : start + _PIECE])
        yield b"]"
    yield b"}"


def _entry(backup: dict[str, Any]) -> dict[str, Any]:
    there = [copy["destination"] for copy in backup["copies"] if copy["state"] in {"uploaded", "verified"}]
    return {
        "name": backup["artifact"],
        "size": backup["size"],
        "createdAt": backup["created"],
        "type": backup["kind"],
        "id": backup["id"],
        "job": backup["job"],
        "state": backup["state"],
        "copies": there,
    }


async def settings(request: Request) -> Response:
    """Answer with the settings, without secrets; the entity tag names this state of them."""
    known = await saving.load(site_of(request))
    return json_answer(saving.public(known), etag=f'"{known.revision}"')


async def save_settings(request: Request) -> Response:
    """Save settings, field by field; with ``If-Match`` only if nobody else has saved since."""
    visit, site, body = visit_of(request), site_of(request), await json_body(request)
    known = await saving.save(site, visit, body, request.headers.get("if-match", "").strip('"') or None)
    answer = {"success": True, "message": visit.words("api.saved"), **saving.public(known)}
    return json_answer(answer, etag=f'"{known.revision}"')


async def preview(request: Request) -> Response:
    """Answer with what settings would mean; nothing is saved."""
    return await _previewed(request, test=False)


async def test_settings(request: Request) -> Response:
    """Try the destination of settings; nothing is saved."""
    visit, site = visit_of(request), site_of(request)
    site.audit(_who(visit), visit.address, "test-destination", "")
    return await _previewed(request, test=True)


async def _previewed(request: Request, *, test: bool) -> Response:
    site, body = site_of(request), await json_body(request)
    application = await saving.completed(site, body, sent=test)
    given = {"application": application, "test": test}
    return json_answer(await site.link.ask("PreviewSettings", given, patient=test))


def _who(visit: Visit) -> str:
    return visit.person.shown if visit.person is not None else "?"


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise RefusedError(f"a number from {least} to {most} is wanted", code="bad-request")
    return int(text)
