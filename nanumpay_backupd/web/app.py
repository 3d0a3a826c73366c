"""The application: which address is answered by what, and which right it takes. Wiring only."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nanumpay_backupd.errors import BackupdError, InternalError, NotFoundError, RefusedError
from nanumpay_backupd.web import api, assets, download, events, signing
from nanumpay_backupd.web.answers import tell_fault
from nanumpay_backupd.web.guard import Guard
from nanumpay_backupd.web.pages import (
    backups,
    jobs,
    overview,
    recover,
    restoring,
    running,
    settings,
    swaps,
    trail,
    wellbeing,
)
from nanumpay_backupd.web.people import CHANGE, DOWNLOAD, READ, RUN, SETTINGS
from nanumpay_backupd.web.site import Site
from nanumpay_backupd.web.visit import visit_of

__all__ = ["ROUTES", "Way", "make_app"]

Handler = Callable[[Request], Awaitable[Response]]
log = structlog.get_logger()


class Way(NamedTuple):
    """One address. ``right`` is what it takes, None: it is for everybody."""

    path: str
    method: str
    handler: Handler
    right: str | None


ROUTES: Final = (
    # Everybody
    Way("/static/{digest}/{name}", "GET", assets.static, None),
    Way("/robots.txt", "GET", assets.robots, None),
    Way("/sign-in", "GET", signing.ask, None),
    Way("/sign-in", "POST", signing.sign_in, None),
    Way("/sign-out", "POST", signing.sign_out, READ),
    Way("/preference", "GET", signing.prefer, None),
    Way("/alive", "GET", api.alive, None),
    Way("/api/openapi.json", "GET", api.document, None),
    # Pages
    Way("/", "GET", overview.show, READ),
    Way("/backups", "GET", backups.listing, READ),
    Way("/backups/{backup}", "GET", backups.show, READ),
    Way("/backups/{backup}/files", "GET", backups.files, READ),
    Way("/backups/{backup}/send", "POST", backups.send, RUN),
    Way("/backups/{backup}/verify", "POST", backups.verify, RUN),
    Way("/backups/{backup}/pin", "POST", backups.pin, RUN),
    Way("/backups/{backup}/unpin", "POST", backups.unpin, CHANGE),
    Way("/backups/{backup}/delete", "POST", backups.delete, CHANGE),
    Way("/run", "GET", running.listing, READ),
    Way("/run", "POST", running.start, RUN),
    Way("/run/{run}", "GET", running.show, READ),
    Way("/run/{run}/cancel", "POST", running.cancel, RUN),
    Way("/recover", "GET", recover.show, READ),
    Way("/recover/plan", "POST", restoring.plan, CHANGE),
    Way("/recover/restore", "POST", restoring.restore, CHANGE),
    Way("/recover/kept", "GET", swaps.kept, READ),
    Way("/recover/swaps", "GET", swaps.show, READ),
    Way("/recover/swaps/{swap}/{verb}", "POST", swaps.change, CHANGE),
    Way("/settings", "GET", settings.show, READ),
    Way("/settings", "POST", settings.save, SETTINGS),
    Way("/jobs", "GET", jobs.show, READ),
    Way("/jobs/{job}/drill", "POST", jobs.drill, RUN),
    Way("/events", "GET", trail.show, READ),
    Way("/health", "GET", wellbeing.show, READ),
    Way("/health/doctor", "POST", wellbeing.doctor, RUN),
    # The application's interface
    Way("/api/admin/backup/status", "GET", api.status, READ),
    Way("/api/admin/backup/run-now", "POST", api.run_now, RUN),
    Way("/api/admin/backup/execute", "POST", api.execute, RUN),
    Way("/api/admin/backup/cancel", "POST", api.cancel, RUN),
    Way("/api/admin/backup/runs", "GET", api.runs, READ),
    Way("/api/admin/backup/runs/{run}", "GET", api.one_run, READ),
    Way("/api/admin/backup/events", "GET", events.stream, READ),
    Way("/api/admin/backup/download", "GET", download.download, DOWNLOAD),
    Way("/api/admin/backups", "GET", api.backups, READ),
    Way("/api/admin/settings/system", "GET", api.settings, READ),
    Way("/api/admin/settings/system", "PUT", api.save_settings, SETTINGS),
    Way("/api/admin/settings/preview", "POST", api.preview, SETTINGS),
    Way("/api/admin/settings/test", "POST", api.test_settings, SETTINGS),
)


def make_app(site: Site) -> Starlette:
    """Return the application around a site; the site is closed when the application ends."""
    warming: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        # What the overview needs of it takes the daemon a while, and shall be there when somebody comes.
        for method, params in overview.SLOW:
            warming.append(asyncio.create_task(_warm(site, method, params)))
        yield
        for task in warming:
            task.cancel()
        site.close()

    ways: dict[str, dict[str, Handler]] = {}
    for way in ROUTES:
        ways.setdefault(way.path, {})[way.method] = _guarded(way)
    routes = [Route(path, _by_method(known), methods=list(known)) for path, known in ways.items()]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _unknown})
    app.state.site = site
    app.add_middleware(functools.partial(Guard, site=site))
    return app


async def _warm(site: Site, method: str, params: dict[str, Any]) -> None:
    with contextlib.suppress(BackupdError):
        await site.link.recent(method, params)


def _by_method(known: dict[str, Handler]) -> Handler:
    async def answer(request: Request) -> Response:
        return await known["GET" if request.method == "HEAD" else request.method](request)

    return answer


def _guarded(way: Way) -> Handler:
    async def answer(request: Request) -> Response:
        visit = visit_of(request)
        try:
            if way.right is not None:
                if visit.person is None:
                    raise RefusedError("you are not signed in", hint="sign in first", code="not-signed-in")
                if not visit.person.may(way.right):
                    raise RefusedError(
                        "you may not do this", hint=f"it takes the right: {way.right}", code="not-allowed"
                    )
            return await way.handler(request)
        except BackupdError as error:
            return tell_fault(request.scope, visit, error)
        except Exception as error:
            # Here and not further out, where it would be told again by others.
            log.error("a page failed because of a defect", path=way.path, code="internal", exc_info=error)
            return tell_fault(request.scope, visit, InternalError("the page failed because of a defect"))

    return answer


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for these"
    if error.status_code == 405:
        return Response(status_code=405, headers=dict(error.headers or {}))
    return tell_fault(request.scope, visit_of(request), NotFoundError("there is nothing here"))
