"""The page's process: listening, readiness, the end. Everything else is in the application."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_OK, ConfigError
from nanumpay_backupd.settings.hostfile import WebPart
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.heap import few_pools
from nanumpay_backupd.system.journal import configure
from nanumpay_backupd.system.notify import ServiceManager
from nanumpay_backupd.system.unasked import leave_out_half_installed
from nanumpay_backupd.web.app import make_app
from nanumpay_backupd.web.site import Site

__all__ = ["serve"]

_BACKLOG: Final = 256
_CONNECTIONS: Final = 600
_GRACE: Final = 5
log = structlog.get_logger()


def serve(part: WebPart) -> int:
    """Serve until SIGTERM; returns the exit code. Raises BackupdError where it cannot begin."""
    os.umask(0o077)
    few_pools()
    leave_out_half_installed()
    configure(identifier="nanumpay-backup-web")
    listening = _listen(part.web.listen)
    try:
        asyncio.run(_serve(Site(part, SystemClock()), listening))
    finally:
        listening.close()
        if part.web.listen.startswith("/"):
            with contextlib.suppress(OSError):
                Path(part.web.listen).unlink()
    return EXIT_OK


async def _serve(site: Site, listening: socket.socket) -> None:
    app = make_app(site)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = uvicorn.Server(config)
    manager = ServiceManager()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        manager.stopping(_GRACE + 2)
        site.feed.close()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    beat = asyncio.create_task(_beat(server, manager, site))
    gc.freeze()
    await server._serve([listening])  # noqa: SLF001 - serve() would take the signals for itself
    beat.cancel()


async def _beat(server: uvicorn.Server, manager: ServiceManager, site: Site) -> None:
    """Say that we are ready, and then that we live."""
    while not server.started:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    log.info(f"the page is served at {site.web.listen}", version=__version__)
    manager.ready()
    manager.status(f"the page is at {site.web.listen}")
    while True:
        manager.alive()
        await asyncio.sleep(manager.watchdog_interval or 3600.0)


def _listen(where: str) -> socket.socket:
    """Open the address; of a Unix socket only the own group may connect. Raises ConfigError (``web-listen``)."""
    if not where:
        raise ConfigError("[web] listen is empty: there is nothing to serve", hint='listen = "127.0.0.1:9680"')
    try:
        if where.startswith("/"):
            return _unix(Path(where))
        host, _, port = where.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), int(port)))
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {where}: {error.strerror}",
            hint="is it in use? See: ss -ltnpx; or choose another: [web] listen",
            code="web-listen",
        ) from None
    return found


def _unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if path.is_socket():
            path.unlink()
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(str(path))
    path.chmod(0o660)
    return found
