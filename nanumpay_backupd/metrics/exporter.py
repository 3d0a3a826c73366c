"""Makes the figures available as the host file wants it: at an address, in a file, both or not at all.

A defect or fault here costs figures at most. Nothing of it is loaded before it is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from nanumpay_backupd.broadcast import Broadcast
from nanumpay_backupd.control.listener import Listener
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.events import Fault, Severity
from nanumpay_backupd.settings.schema import MetricsOptions
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import replace_for_all
from nanumpay_backupd.system.sandbox import way_out

if TYPE_CHECKING:
    from nanumpay_backupd.metrics.figures import Figures
    from nanumpay_backupd.metrics.web import Page, WebServer

__all__ = ["Exporter"]

_INTERVAL: Final = 60.0
"""Seconds between two writings of the file, and between two tries of what does not work."""
_GATHER: Final = 0.3
"""Seconds in which what happens together is taken together."""
_FRESH: Final = 1.0
"""Seconds for which the same figures answer everybody, however many ask."""
_IDLE: Final = 10.0
"""How many times as long as taking them took figures count as fresh: at most a tenth of the time goes into it."""
_OLDEST: Final = 60.0
"""Seconds for which older figures are still better than none, while the catalog is busy."""
_SOON: Final = 2.0
_PATIENCE: Final = 9.0
"""Seconds to wait for figures, with older ones at hand and without: Prometheus waits for 10."""
_BACKLOG: Final = 16
_LISTEN: Final = "listen"
_FILE: Final = "textfile"
_DROP_IN: Final = "/usr/share/nanumpay-backupd/drop-ins/metrics.conf"
log = structlog.get_logger()


class _Taken(NamedTuple):
    """Figures and when they were taken, on the monotonic clock; until ``fresh`` they need not be taken again."""

    figures: Figures
    at: float
    fresh: float


class Exporter:
    """The way out for the figures. All methods belong to the event loop."""

    def __init__(self, clock: Clock, gather: Callable[[], Awaitable[Figures]]) -> None:
        self._clock = clock
        self._gather = gather
        self._options = MetricsOptions()
        self._group: str | None = None
        self._wake = asyncio.Event()
        self._troubles: dict[str, Fault] = {}
        self._web: WebServer | None = None
        self._listener: Listener | None = None
        self._at = ""
        self._written = ""
        self._taken: _Taken | None = None
        self._taking: asyncio.Task[_Taken] | None = None

    def configure(self, options: MetricsOptions, group: str) -> None:
        """Take over settings; ``group`` is that of the control socket, empty for the service's own."""
        self._options, self._group = options, group or None
        self._wake.set()

    def faults(self) -> list[Fault]:
        """Say what keeps the figures from whoever wants them."""
        return list(self._troubles.values())

    # Life

    async def run(self, events: Broadcast) -> None:
        """Serve and write until cancelled."""
        listening = asyncio.create_task(self._listen(events), name="metrics-events")
        try:
            while True:
                self._wake.clear()
                try:
                    await self._serve()
                    await asyncio.sleep(_GATHER)
                    await self._write()
                except Exception:
                    log.exception("making the metrics available failed", code="internal")
                # Not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL if self._wanted() else None):
                        await self._wake.wait()
        finally:
            listening.cancel()
            if self._taking is not None:
                self._taking.cancel()
            await self._close()

    def _wanted(self) -> bool:
        return bool(self._options.listen or self._options.textfile)

    async def _listen(self, events: Broadcast) -> None:
        """Hear when runs end; whoever is too slow is no longer told, and asks again."""
        while True:
            async with contextlib.aclosing(events.watch()) as heard:  # type: ignore[type-var]
                async for event in heard:
                    if event["kind"] == "run-ended" and self._options.textfile:
                        self._wake.set()
            await asyncio.sleep(1.0)

    # The address

    async def _serve(self) -> None:
        """Listen where the settings say, and nowhere else."""
        wanted = self._options.listen
        if wanted == self._at:
            return
        await self._close()
        if not wanted:
            self._troubles.pop(_LISTEN, None)
            return
        from nanumpay_backupd.metrics.web import WebServer

        try:
            listening = self._open(wanted)
        except BackupdError as error:
            self._complain(_LISTEN, error)
            return
        self._web, self._at = WebServer(self._page), wanted
        await self._web.start(listening)
        self._troubles.pop(_LISTEN, None)
        log.info(f"metrics are served at {wanted}")

    def _open(self, where: str) -> socket.socket:
        """Return a listening socket; raises BackupdError."""
        if where.startswith("/"):
            hint = "let the service have that group: systemctl edit nanumpay-backupd, SupplementaryGroups="
            self._listener = Listener.open(
                Path(where), mode=0o660, group=self._group, what="metrics socket", group_hint=hint
            )
            return self._listener.socket
        host, _, port = where.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        try:
            listening = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG)
        except OSError as error:
            hint = {
                errno.EADDRINUSE: f"see who it is: ss -ltnp 'sport = :{port}'; or set [metrics] listen to another port",
                errno.EACCES: "set [metrics] listen to a port from 1024 on",
            }.get(error.errno or 0, "set [metrics] listen to another address")
            text = f"metrics cannot be served at {where}: {os.strerror(error.errno or 0)}"
            raise BackupdError(text, hint=hint, code="metrics-failed") from None
        listening.setblocking(False)  # noqa: FBT003 - its one argument
        return listening

    async def _close(self) -> None:
        if self._web is not None:
            await self._web.close()
        if self._listener is not None:
            self._listener.close()
        self._web, self._listener, self._at = None, None, ""

    async def _page(self, accept: str) -> Page:
        from nanumpay_backupd.metrics.exposition import OPEN_METRICS, PLAIN, wants_open_metrics
        from nanumpay_backupd.metrics.web import Page

        open_metrics = wants_open_metrics(accept)
        body = await self._text(await self._figures(), open_metrics=open_metrics)
        return Page(body, OPEN_METRICS if open_metrics else PLAIN)

    # The file

    async def _write(self) -> None:
        """Write the file that node_exporter reads; one that is no longer wanted goes."""
        wanted = self._options.textfile
        if self._written and self._written != wanted:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(Path(self._written).unlink)
            self._written = ""
        if not wanted:
            self._troubles.pop(_FILE, None)
            return
        try:
            body = await self._text(await self._figures(fresh=True), open_metrics=False)
        except BackupdError:
            return  # that the catalog cannot be read is told by others
        try:
            await asyncio.to_thread(replace_for_all, Path(wanted), body)
        except OSError as error:
            text = f"metrics cannot be written to {wanted}: {os.strerror(error.errno or 0)}"
            hint = await asyncio.to_thread(_way_to_write, Path(wanted).parent, error)
            self._complain(_FILE, BackupdError(text, hint=hint, code="metrics-failed"))
        else:
            if self._written != wanted or _FILE in self._troubles:
                log.info(f"metrics are written to {wanted}")
            self._written = wanted
            self._troubles.pop(_FILE, None)

    def _complain(self, what: str, error: BackupdError) -> None:
        """Remember a fault for the status, and tell the journal once."""
        before = self._troubles.get(what)
        self._troubles[what] = Fault(
            key=f"metrics:{what}",
            text=error.message,
            severity=Severity.WARNING,
            reason=error.message,
            hint=error.hint,
            code="metrics-failed",
        )
        if before is None or before.text != error.message:
            log.warning(error.message, code="metrics-failed", hint=error.hint)

    # The figures

    async def _text(self, figures: Figures, *, open_metrics: bool) -> bytes:
        def write() -> bytes:
            from nanumpay_backupd.metrics.exposition import encode
            from nanumpay_backupd.metrics.figures import samples

            return encode(samples(figures), open_metrics=open_metrics)

        return await asyncio.to_thread(write)

    async def _figures(self, *, fresh: bool = False) -> Figures:
        """Return figures, the same for all who ask at about the same time; ``fresh``: taken after this moment.

        Raises BackupdError when there are none: the catalog cannot be read, or is busy for long.
        """
        now, taken = self._clock.monotonic(), self._taken
        if fresh and self._taking is not None:
            await asyncio.wait({self._taking}, timeout=_PATIENCE)
        elif not fresh and taken is not None and now < taken.fresh:
            return taken.figures
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(), name="metrics-figures")
            # Those who asked may have gone by the time it fails.
            self._taking.add_done_callback(lambda task: task.cancelled() or task.exception())
        usable = taken is not None and now - taken.at < _OLDEST and not fresh
        done, _ = await asyncio.wait({self._taking}, timeout=_SOON if usable else _PATIENCE)
        if done:
            return self._taking.result().figures
        if usable and taken is not None:
            return taken.figures
        raise BackupdError("the catalog is busy", hint="try again in a moment", code="busy", retryable=True)

    async def _take(self) -> _Taken:
        began = self._clock.monotonic()
        figures = await self._gather()
        ended = self._clock.monotonic()
        self._taken = _Taken(figures, began, ended + max(_FRESH, _IDLE * (ended - began)))
        return self._taken


def _way_to_write(folder: Path, error: OSError) -> str:
    """Say what lets the service write into a folder that is another program's."""
    if error.errno == errno.ENOENT:
        return f"make the folder {folder} (node_exporter's --collector.textfile.directory), or set [metrics] textfile"
    if way_out(folder):
        return f"the service may not write there: the drop-in for it, with its how-to, is {_DROP_IN}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"let the service's user write there: chgrp nanumpay {folder} && chmod g+rwx {folder}"
    return "set [metrics] textfile to another folder"
