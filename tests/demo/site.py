"""The demo's servers and its daemon, in a process of their own that can outlive the demo; no backup knowledge.

Run as ``python -m tests.demo.site FOLDER SOCKET_FOLDER``. It takes one JSON command per line on standard input and
answers each with one line. At the end of its input, and on SIGTERM, it stops all it started and ends: a demo that is
killed leaves nothing running. After ``keep`` only SIGTERM counts, which is how ``make demo KEEP=1`` gives the terminal
back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from nanumpay_backupd.system.process import die_with_parent
from tests.demo.teller import DemoError
from tests.servers.ftp import start_pyftpdlib
from tests.servers.mongod import start_mongod
from tests.servers.redis import start_redis
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3

__all__ = ["LOGS", "Answer", "Site"]

Answer = dict[str, Any]

LOGS: Final = ("daemon.log", "mongod/mongod.log", "rclone.log", "redis/redis.log", "servers.log")
_DAEMON_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 60.0


class Site:
    """The demo's side: starts the process, asks it for servers, and ends it."""

    def __init__(self, folder: Path, socket_folder: Path, environment: Mapping[str, str]) -> None:
        with (folder / "servers.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.demo.site", str(folder), str(socket_folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is the demo's, which then ends this in good order
            )
        self._kept = False

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def ask(self, what: str, **parameters: Any) -> Answer:
        """Give one command and return the answer; raises DemoError when it failed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": what, **parameters}).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(what)

    def keep(self) -> None:
        """Let everything go on without us."""
        self.ask("keep")
        self._kept = True

    def stop(self) -> Answer:
        """Stop everything; returns the exit codes by name, an empty answer when it had been stopped already."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        # An answer to a question that was interrupted may still come before the last one.
        lines = self._process.stdout.read().splitlines()
        answer: Answer = json.loads(lines[-1]) if lines else {}
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the kernel ends its children with it
            self._process.wait()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept and self._process.poll() is None:
            self.stop()

    def _answer(self, what: str) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DemoError(f"the demo's servers ended while they were asked for: {what}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise DemoError(answer["error"])
        return answer


def main(argv: Sequence[str]) -> int:
    """Carry out commands until the input ends; then stop everything."""
    folder, socket_folder = map(Path, argv[1:])
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    servers = _Servers(folder)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            _say(servers.carry_out(request.pop("do"), request))
            if servers.kept:
                sys.stdin.close()
                while True:
                    signal.pause()
    except SystemExit:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        answer = servers.stop()
        if socket_folder != folder:
            shutil.rmtree(socket_folder, ignore_errors=True)
        _say(answer)
    return 0


def _leave(*_: object) -> None:
    sys.exit(0)


def _say(answer: Answer) -> None:
    with contextlib.suppress(OSError, ValueError):  # the demo may be gone
        print(json.dumps(answer), flush=True)


class _Servers:
    """What was started, and how to stop it."""

    def __init__(self, folder: Path) -> None:
        self.kept = False
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._codes: dict[str, int | None] = {}

    def carry_out(self, what: str, parameters: Mapping[str, Any]) -> Answer:
        """Do one command and return the answer."""
        commands: dict[str, Callable[..., Answer]] = {
            "mongod": self._mongod,
            "s3": self._s3,
            "ftp": self._ftp,
            "redis": self._redis,
            "daemon": self._daemon,
            "web": self._web,
            "keep": self._keep,
        }
        began = time.monotonic()
        try:
            return {**commands[what](**parameters), "seconds": time.monotonic() - began}
        except Exception as error:
            return {"error": f"{what} cannot be started: {error}"}

    def stop(self) -> Answer:
        """Stop everything, the last started first, and return the exit codes."""
        began = time.monotonic()
        self._stack.close()
        return {"codes": self._codes, "seconds": time.monotonic() - began}

    def _mongod(self) -> Answer:
        server = self._stack.enter_context(start_mongod(self._folder / "mongod", replica_set=True))
        return {"uri": server.uri, "port": server.port, "database_uri": server.uri_for("nanumpay"), "pid": server.pid}

    def _s3(self) -> Answer:
        server = self._stack.enter_context(start_s3(self._folder))
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        return {"endpoint": server.endpoint, "bucket": server.bucket, "folder": f"s3/{server.bucket}", **keys}

    def _ftp(self) -> Answer:
        server = self._stack.enter_context(start_pyftpdlib(self._folder / "ftp"))
        place = server.destination()
        login = {"username": place.username, "password": place.password.reveal()}
        return {"host": place.host, "port": place.port, "path": place.path, "folder": f"ftp{place.path}", **login}

    def _redis(self) -> Answer:
        server = self._stack.enter_context(start_redis(self._folder / "redis"))
        return {"url": server.settings().url.reveal(), "port": server.port}

    def _daemon(self, argv: Sequence[str], environment: Mapping[str, str]) -> Answer:
        process = self._stack.enter_context(self._running("daemon", argv, environment))
        return {"pid": process.pid}

    def _web(self, argv: Sequence[str], environment: Mapping[str, str], port: int) -> Answer:
        process = self._stack.enter_context(self._running("web", argv, environment))
        deadline = time.monotonic() + _STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return {"pid": process.pid}
            time.sleep(0.05)
        raise DemoError("the page did not begin to answer; its log says why")

    def _keep(self) -> Answer:
        self.kept = True
        return {}

    @contextlib.contextmanager
    def _running(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, **environment},
                preexec_fn=die_with_parent,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_DAEMON_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._codes[name] = process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv))
