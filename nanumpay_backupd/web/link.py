"""The daemon as the page sees it: calls without blocking, one status for all who ask at once, and word when it is down.

Asking never starts a daemon that is down on purpose (`control.client.DOWN`); only what somebody orders may.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.control.client import DOWN, Client
from nanumpay_backupd.errors import BackupdError, UnreachableError

__all__ = ["PATIENT", "Link", "Reply"]

Reply = dict[str, Any]

PATIENT: Final = 600.0
"""Seconds for methods that go to remote places or read all backups; the others answer in 20 s or never."""
_USUAL: Final = 20.0
_THREADS: Final = 4
_RECENT: Final = 30.0
_OLD: Final = 600.0
_FRESH: Final = 1.0
"""Seconds that a status is as good as new."""


class Link:
    """Calls to the daemon at one socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._down = Path(f"{socket}{DOWN}")
        self._quick = Client(str(socket), timeout=_USUAL)
        self._patient = Client(str(socket), timeout=PATIENT)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="daemon")
        # Those that may take minutes shall not keep the pages waiting.
        self._slow = ThreadPoolExecutor(_THREADS, thread_name_prefix="patient")
        self._asking: asyncio.Task[Reply] | None = None
        self._status: tuple[float, Reply] | None = None
        self._kept: dict[tuple[str, str], tuple[float, Reply]] = {}
        self._renewing: dict[tuple[str, str], asyncio.Task[Reply]] = {}
        self._stale: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Let go of the threads; calls under way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    @property
    def is_down(self) -> bool:
        """Tell whether the daemon is down on purpose, or cannot start."""
        return self._down.exists()

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, *, patient: bool = False) -> Reply:
        """Call a method that only looks. Raises RemoteError, or UnreachableError where the daemon does not answer."""
        if self.is_down:
            raise UnreachableError(
                "the daemon was stopped, or cannot start",
                hint="why: systemctl status nanumpay-backupd; start it: systemctl start nanumpay-backupd",
            )
        return await self.order(method, params, patient=patient)

    async def order(self, method: str, params: Mapping[str, Any] | None = None, *, patient: bool = False) -> Reply:
        """Call a method that does something; as `ask`, but systemd may start the daemon for it."""
        client, threads = (self._patient, self._slow) if patient else (self._quick, self._threads)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, partial(client.call, method, given))
        except UnreachableError:
            self._status = None
            self._kept.clear()
            raise

    async def follow(self, method: str, params: Mapping[str, Any] | None = None) -> AsyncGenerator[Reply]:
        """Yield the replies of a method that answers many times; leaving the loop early ends it. Raises as `ask`."""
        client, loop = Client(str(self.socket), timeout=_USUAL), asyncio.get_running_loop()
        given = {name: value for name, value in (params or {}).items() if value is not None}
        found: asyncio.Queue[Reply | BackupdError | None] = asyncio.Queue()

        def put(item: Reply | BackupdError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(found.put_nowait, item)

        def listen() -> None:
            try:
                for reply in client.stream(method, given, timeout=PATIENT):
                    put(reply)
                put(None)
            except BackupdError as error:
                put(error)

        task = loop.run_in_executor(self._slow, listen)
        try:
            while (item := await found.get()) is not None:
                if isinstance(item, BackupdError):
                    raise item
                yield item
        finally:
            client.close()
            await asyncio.gather(task, return_exceptions=True)

    async def open(self, method: str, params: Mapping[str, Any]) -> tuple[Reply, int]:
        """Call a method that hands over a file; the descriptor is the caller's to close."""
        given = {name: value for name, value in params.items() if value is not None}
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(self._quick.open, method, given))

    async def status(self) -> Reply:
        """Return what GetStatus says, at most a second old; however many ask at once, the daemon is asked once."""
        loop = asyncio.get_running_loop()
        if self._status is not None and loop.time() - self._status[0] < _FRESH:
            return self._status[1]
        if self._asking is None:
            self._asking = loop.create_task(self._look())
        return await asyncio.shield(self._asking)

    def stir(self) -> None:
        """Make the next status a new one: something happened."""
        self._status = None
        self._stale |= self._kept.keys()

    def forget(self, method: str) -> None:
        """Make the next `recent` of a method wait for a new answer: what it told is another now."""
        self._kept = {key: item for key, item in self._kept.items() if key[0] != method}
        self._renewing = {key: task for key, task in self._renewing.items() if key[0] != method}

    async def recent(self, method: str, params: Mapping[str, Any], *, patience: float = 0.0) -> Reply:
        """Return what a method said a moment ago, for what takes the daemon long and hardly changes.

        What is older than half a minute, or before something that happened, is asked anew, and waited for ``patience``
        seconds; what is older than ten minutes is waited for in any case.
        """
        key = (method, json.dumps(params, sort_keys=True))
        now = asyncio.get_running_loop().time()
        at, reply = self._kept.get(key, (float("-inf"), {}))
        if now - at > _RECENT or key in self._stale:
            task = self._renewing.get(key)
            if task is None:
                task = self._renewing[key] = asyncio.create_task(self._renew(key, params))
                # Nobody may be waiting for it: a fault is found when somebody does.
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            if now - at > _OLD:
                return await asyncio.shield(task)
            if patience:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        return await asyncio.shield(task)
        return reply

    async def _renew(self, key: tuple[str, str], params: Mapping[str, Any]) -> Reply:
        self._stale.discard(key)
        try:
            reply = await self.ask(key[0], params)
            if self._renewing.get(key) is asyncio.current_task():  # else it was forgotten meanwhile
                self._kept[key] = (asyncio.get_running_loop().time(), reply)
            return reply
        finally:
            if self._renewing.get(key) is asyncio.current_task():
                del self._renewing[key]

    async def _look(self) -> Reply:
        try:
            status = await self.ask("GetStatus")
            self._status = (asyncio.get_running_loop().time(), status)
            return status
        finally:
            self._asking = None
