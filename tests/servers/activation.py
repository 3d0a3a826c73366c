"""systemd's part in socket activation: listens before there is a daemon, hands the socket to each one it starts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.servers.notify import NotifySocket
from tests.servers.tools import PROJECT

__all__ = ["Activator", "activator"]

# What systemd does between fork and exec; the descriptors come by number on the command line.
_LAUNCHER = """
import os, sys
fds, names, pid = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
kept = [os.dup2(int(fd), 100 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(kept):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names, "LISTEN_PID": pid or str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "nanumpay_backupd", "--config", sys.argv[4]])
"""


class Activator:
    """A socket unit and its service. Made by `activator`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "control.sock"
        self.config = folder / "backupd.toml"
        self.log_file = folder / "daemon.log"
        self.notify = NotifySocket(folder / "notify.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.listening = self.listen(self.path)

    def listen(self, path: Path) -> socket.socket:
        """Make a listening socket, as the socket unit does."""
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        path.chmod(0o660)
        listening.listen(128)
        return listening

    def write_config(self, more: str = "", *, socket_path: Path | None = None) -> None:
        """Write a host file without the application's job, so that no MongoDB is needed."""
        self.config.write_text(
            f"[nanumpay]\nenabled = false\n[paths]\nbackups = '{self.folder}/backups'\nstate = '{self.folder}/state'\n"
            f"socket = '{socket_path or self.path}'\n{more}\n",
            encoding="utf-8",
        )
        self.config.chmod(0o600)

    def wait_for_caller(self, seconds: float = 30.0) -> None:
        """Wait until somebody wants to be served."""
        assert select.select([self.listening], [], [], seconds)[0], "nobody called"

    def waiting(self) -> bool:
        """Tell whether somebody is waiting: then systemd would start the service."""
        return bool(select.select([self.listening], [], [], 0)[0])

    def start(
        self, *more: socket.socket, pid: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start the service with the socket (and ``more``); ``pid`` replaces the process that they are meant for."""
        sockets = [self.listening, *more]
        fds = [item.fileno() for item in sockets]
        names = ":".join(["control"] * len(fds))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, ",".join(map(str, fds)), names, pid, str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                env={**os.environ, "NOTIFY_SOCKET": str(self.notify.path), **(environment or {})},
                cwd=PROJECT,
            )
        return self.process

    def stop(self) -> int:
        """Stop the service as systemd does and return its exit code; the socket stays."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def log(self) -> str:
        """Return what the service wrote so far."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""


@contextlib.contextmanager
def activator(folder: Path) -> Iterator[Activator]:
    """Listen in ``folder`` until the block ends; a service that still runs then is killed."""
    unit = Activator(folder)
    unit.write_config()
    try:
        yield unit
    finally:
        if unit.process is not None and unit.process.poll() is None:
            unit.process.kill()
            unit.process.wait(60)
        unit.listening.close()
        unit.notify.close()
