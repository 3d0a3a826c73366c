"""A control server with a handful of handlers on the real interface file, in a thread or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from structlog.testing import capture_logs

import nanumpay_backupd
from nanumpay_backupd.control.server import Call, ControlServer, ExpectedMore, Handler, Limits
from nanumpay_backupd.errors import BusyError, NotFoundError, RefusedError, StoreError
from nanumpay_backupd.system.secrets import Secret

PATIENCE = 20.0
"""Seconds until a test stops waiting; far more than anything takes, so reaching it means: it does not happen."""

INTERFACE_TEXT = (Path(nanumpay_backupd.__file__).parent / "control" / "com.nanumpay.Backup.varlink").read_text("utf-8")
TIME = "2026-11-21T02:00:00Z"
PASSWORD = Secret("correct horse battery staple")

_T = TypeVar("_T")


def run_record(identity: str, **changes: Any) -> dict[str, Any]:
    """Make a run as the interface wants it."""
    run = {"id": identity, "job": "nanumpay", "trigger": "manual", "started": TIME, "stages": [], "warnings": []}
    return {**run, **changes}


def event(message: str) -> dict[str, Any]:
    """Make an event as the interface wants it."""
    return {"kind": "message", "time": TIME, "message": message}


STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 1,
    "started": TIME,
    "now": TIME,
    "timezone": "Asia/Seoul",
    "health": "ok",
    "problems": [],
    "backups_path": "/opt/nanumpay/data/백업",
    "free_bytes": 1 << 40,
    "settings": {"mode": "polling", "origin": "database", "connected": True, "server": "db", "since": None},
    "jobs": [],
}


class Handlers:
    """What the test server does, and what its watchers have seen. Shared between threads by events and queues."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()
        self.opened = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.release = asyncio.Event()
        self._watchers: set[asyncio.Queue[str]] = set()

    def emit(self, message: str) -> None:
        """Send an event to every watcher; call it on the server's loop."""
        for watcher in self._watchers:
            watcher.put_nowait(message)

    async def get_status(self, call: Call) -> dict[str, Any]:
        """Answer at once."""
        self.calls.put(call)
        return STATUS

    async def list_runs(self, call: Call) -> dict[str, Any]:
        """Answer with as many runs as asked for."""
        return {"runs": [run_record(f"run-{number}") for number in range(call.params.get("limit") or 0)]}

    async def describe_run(self, call: Call) -> dict[str, Any]:
        """Raise for every run but one."""
        if call.params["run"] != "known":
            raise NotFoundError(f"there is no run {call.params['run']}", hint="see: backupctl runs")
        return {"run": run_record("known")}

    async def cancel(self, call: Call) -> dict[str, Any]:
        """Raise Busy."""
        raise BusyError("another run is in progress")

    async def delete(self, call: Call) -> dict[str, Any]:
        """Raise Refused, with a secret in the message."""
        raise RefusedError(f"not the newest verified one ({PASSWORD.reveal()})", hint="use --force")

    async def test_destination(self, call: Call) -> dict[str, Any]:
        """Raise a fault of the project that has no error name of its own."""
        raise StoreError("bucket b does not exist", hint="create it", code="bucket-missing", retryable=False)

    async def reload(self, call: Call) -> dict[str, Any]:
        """Wait until the test says so, then answer."""
        self.entered.release()
        await self.release.wait()
        return {"message": "reloaded"}

    async def doctor(self, call: Call) -> dict[str, Any]:
        """Fail in a way nobody expected."""
        raise RuntimeError("wing fell off")

    async def get_settings(self, call: Call) -> dict[str, Any]:
        """Answer with something that does not fit the interface."""
        return {"settings": {}, "state": {"mode": 1}}

    async def list_jobs(self, call: Call) -> dict[str, Any]:
        """Be cancelled from inside, as when a task that the handler waits for was cancelled."""
        raise asyncio.CancelledError

    async def rebuild_catalog(self, call: Call) -> dict[str, Any]:
        """Demand a stream."""
        raise ExpectedMore

    async def run(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield three replies and end, with a clean-up that takes a few turns of the loop."""
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield {"run": run_record("new"), "event": event(f"step {number}")}
        finally:
            await asyncio.gather(asyncio.sleep(0), return_exceptions=True)

    async def watch(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield events until the caller goes away; ``run`` chooses an odd ending instead."""
        if call.params.get("run") == "empty":
            return
        if call.params.get("run") == "fails":
            yield {"event": event("before")}
            raise NotFoundError("the run has vanished")
        if call.params.get("run") == "late":
            yield {"event": event("last words")}
            await asyncio.sleep(0.01)
            return
        mine: asyncio.Queue[str] = asyncio.Queue()
        self._watchers.add(mine)
        self.opened.release()
        try:
            while True:
                yield {"event": event(await mine.get())}
        finally:
            self._watchers.discard(mine)
            self.closed.release()

    def table(self) -> dict[str, Handler]:
        """Return the handlers by method; Prune and others are left out on purpose."""
        return {
            "GetStatus": self.get_status,
            "ListJobs": self.list_jobs,
            "ListRuns": self.list_runs,
            "DescribeRun": self.describe_run,
            "Cancel": self.cancel,
            "Delete": self.delete,
            "TestDestination": self.test_destination,
            "Reload": self.reload,
            "Doctor": self.doctor,
            "GetSettings": self.get_settings,
            "RebuildCatalog": self.rebuild_catalog,
            "Run": self.run,
            "Watch": self.watch,
        }


@dataclasses.dataclass
class Control:
    """A running server in a thread of this process."""

    path: Path
    server: ControlServer
    handlers: Handlers
    loop: asyncio.AbstractEventLoop
    logs: list[Any]
    """What the server logged."""

    def on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def emit(self, message: str) -> None:
        """Send an event to every watcher."""

        async def send() -> None:
            self.handlers.emit(message)

        self.on_loop(send())

    def release(self) -> None:
        """Let the calls that wait in Reload go on."""

        async def let_go() -> None:
            self.handlers.release.set()

        self.on_loop(let_go())

    def connections(self) -> int:
        """Count the connections that the server holds."""

        async def count() -> int:
            return len(self.server._connections)

        return self.on_loop(count())

    def connect(self) -> Wire:
        """Open a raw connection."""
        return Wire(self.path)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder whose name is short enough for a socket, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ctl-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_control(limits: Limits | None = None, **options: Any) -> Iterator[Control]:
    """Run a control server on its own loop in a thread until the block ends."""
    with short_folder() as folder, asyncio.Runner() as runner, capture_logs() as logs:
        loop = runner.get_loop()
        path = options.pop("path", folder / "control.sock")
        handlers = Handlers()
        server = ControlServer(INTERFACE_TEXT, handlers.table(), path=path, limits=limits, **options)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        control = Control(path, server, handlers, loop, logs)
        try:
            control.on_loop(server.start())
            try:
                yield control
            finally:
                control.on_loop(server.close())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(PATIENCE)


class Wire:
    """A raw connection for tests that say exactly which bytes travel."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))  # blocking: with a timeout it would fail while the server's queue is full
        self.socket.settimeout(PATIENCE)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def call(self, method: str, *, terminator: bytes = b"\0", **more: Any) -> None:
        """Send a request of the interface."""
        self.send(request(method, terminator=terminator, **more))

    def half_close(self) -> None:
        """Say that no more requests follow."""
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self, terminator: bytes = b"\0") -> dict[str, Any]:
        """Return the next reply, which must end in ``terminator``; EOFError when there is none."""
        while terminator not in self._buffer:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(terminator)
        reply: dict[str, Any] = json.loads(message)
        return reply

    def at_end(self) -> bool:
        """Wait for the next byte or the end; tell whether it was the end (also by a reset)."""
        if self._buffer:
            return False
        try:
            self._buffer = self.socket.recv(1 << 20)
        except ConnectionError:
            return True
        return not self._buffer

    def close(self) -> None:
        """Go away."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(method: str, *, terminator: bytes = b"\0", **more: Any) -> bytes:
    """Write a request; ``more`` are further keys of the envelope."""
    name = method if "." in method else f"com.nanumpay.Backup.{method}"
    return json.dumps({"method": name, **more}).encode() + terminator


@contextlib.contextmanager
def control_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server as a process of its own until the block ends; it prints "watched" for every watcher that comes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.control", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(nanumpay_backupd.__file__).parent.parent,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def _serve(path: Path) -> None:
    handlers = Handlers()
    await ControlServer(INTERFACE_TEXT, handlers.table(), path=path).start()
    print("ready", flush=True)
    while True:  # until it is killed
        await asyncio.to_thread(handlers.opened.acquire)
        print("watched", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
