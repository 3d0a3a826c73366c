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

__all__ = ["TRUST_VARIABLES", "free_port", "is_listening", "running"]

TRUST_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE")
"""Where these are set they take the place of a private authority's file."""
_START_SECONDS: Final = 20.0
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


@contextlib.contextmanager
def running(
    argv: Sequence[str], log: Path, address: str, port: int, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends; it is up when it listens on ``port``."""
    environment = {name: value for name, value in os.environ.items() if name not in TRUST_VARIABLES}
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**environment, **(extra or {})},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_listening(address, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} does not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield process
    finally:
        # Its own session: what it started (vsftpd has a process per connection) goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
