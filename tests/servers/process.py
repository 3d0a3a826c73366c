"""Starting a server program for tests, waiting until it listens, stopping it by its process id."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.system.process import die_with_parent

__all__ = ["TRUST_VARIABLES", "Program", "free_port", "is_listening", "running", "serving"]

TRUST_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE")
"""Where these are set they take the place of a private authority's file."""
_START_SECONDS: Final = 60.0
_PORTS: Final = range(15000, 32000)


def free_port(count: int = 1) -> int:
    """Return a TCP port that nobody uses on any address, or the first of ``count`` neighbouring ones.

    Below the range from which the kernel takes the ports of outgoing connections, which would come in between.
    """
    for _ in range(1000):
        first = random.randrange(_PORTS.start, _PORTS.stop - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")


def is_listening(address: str, port: int) -> bool:
    """Tell whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


class Program:
    """A server that runs in the foreground, in a session of its own; killed or stopped, it may be started again."""

    def __init__(
        self, argv: Sequence[str], log: Path, address: str, port: int, extra: Mapping[str, str] | None = None
    ) -> None:
        self._argv = tuple(argv)
        self._log = log
        self._where = (address, port)
        self._environment = {name: value for name, value in os.environ.items() if name not in TRUST_VARIABLES}
        self._environment |= extra or {}
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it; it is up when it listens."""
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not is_listening(*self._where):
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._argv[0]} does not listen on {self._where[1]}:\n{said}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it and what it started at once, as a power cut does."""
        for pid in (*_family(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # And whose parent had ended before.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self, *, on: bool = True) -> None:
        """Stop all that runs of it (SIGSTOP), or let it go on."""
        for pid in (self.process.pid, *_family(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> None:
        """Let it end, and what it started: vsftpd has a process per connection, each in a session of its own."""
        self.freeze(on=False)
        family = _family(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """Return what a process started, and what that started."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
            waiting += (children := [int(word) for word in words])
            found += children
    return found


@contextlib.contextmanager
def serving(
    argv: Sequence[str], log: Path, address: str, port: int, extra: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Run a server until the block ends; it is up when it listens on ``port``."""
    program = Program(argv, log, address, port, extra)
    try:
        program.start()
        yield program
    finally:
        if hasattr(program, "process"):
            program.stop()


@contextlib.contextmanager
def running(
    argv: Sequence[str], log: Path, address: str, port: int, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as `serving` does, for those who want the process only."""
    with serving(argv, log, address, port, extra) as program:
        yield program.process
