"""A private home for gpg: no keyring, option or agent of the user's is touched. Knows no message and no policy.

The home is a folder of our own that is removed again, in memory where the host has such a place: private keys never
touch a disk. Only they need an agent. Ours ends with us, also when we are killed: it watches a process that dies then.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BusyError, ToolError
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.process import Child, find_tool, run_text

__all__ = ["GnupgHome", "status_lines"]

_PREFIX: Final = "nanumpay-gpg-"
_LOCK: Final = "lock"
_SOCKET: Final = "S.gpg-agent"
_STATUS: Final = "[GNUPG:] "
_LONGEST_SOCKET: Final = 90
"""Bytes of a home's path with which the names of its sockets are still taken (107 in all)."""
_PATIENCE: Final = 10.0
_REST: Final = 0.01
_HINT: Final = "install it: apt-get install gpg gpg-agent (or name it in [tools])"
_COMMON: Final = (
    "--batch",
    "--no-tty",
    "--no-options",
    "--quiet",
    "--no-autostart",
    "--no-auto-check-trustdb",
    "--pinentry-mode",
    "loopback",
)


class GnupgHome:
    """A home, there from its making to `close`, which may be called twice; ``gpg`` and ``agent`` are the tools."""

    def __init__(self, gpg: str, agent: str) -> None:
        """Make it; raises ToolError (``tool-missing``, ``tool-failed``)."""
        self._gpg = str(find_tool(gpg, hint=_HINT))
        self._agent = agent
        self._anchor: Child | None = None
        self._agent_pid = 0
        self.path, self._lock = _make()
        # Two at once would both want to make what has to be there.
        run_text(self.argv("--list-keys"))

    def argv(self, *words: str) -> list[str]:
        """Return a command line of gpg that works in this home and asks nobody."""
        return [self._gpg, "--homedir", str(self.path), *_COMMON, *words]

    def start_agent(self) -> None:
        """Start what keeps private keys for gpg, unless it runs; raises ToolError."""
        if self._anchor is not None:
            return
        agent = str(find_tool(self._agent, hint=_HINT))
        options = ("--no-options", "--quiet", "--disable-scdaemon", "--allow-loopback-pinentry")
        clock = SystemClock()
        # It ends when the process that it was told to start has ended, and that one ends with us.
        self._anchor = Child([agent, "--homedir", str(self.path), *options, "--daemon", "--", "sleep", "infinity"])
        deadline = clock.monotonic() + _PATIENCE
        while not self._agent_pid:
            with contextlib.suppress(OSError, ValueError):
                self._agent_pid = int(self._ask("GETINFO pid").removeprefix("D "))
                return
            if not self._anchor.running or clock.monotonic() > deadline:
                raise ToolError(f"gpg-agent does not answer: {self._anchor.tail or 'it gave no reason'}")
            clock.sleep(_REST)

    def close(self) -> None:
        """End the agent and remove the home with all that is in it."""
        if self._anchor is not None:
            with contextlib.suppress(OSError):
                self._ask("KILLAGENT")
            self._anchor.kill()
            self._anchor = None
            clock = SystemClock()
            deadline = clock.monotonic() + _PATIENCE
            while _lives(self._agent_pid) and clock.monotonic() < deadline:
                clock.sleep(_REST)
        remove_tree(self.path)
        self._lock.release()

    def _ask(self, line: str) -> str:
        """Say a line to the agent (Assuan protocol) and return the first line of its answer; raises OSError."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_PATIENCE)
            link.connect(str(self.path / _SOCKET))
            with link.makefile("rwb") as stream:
                stream.readline()
                stream.write(line.encode("ascii") + b"\n")
                stream.flush()
                return stream.readline().decode("ascii", "replace").strip()


def status_lines(said: Sequence[str]) -> list[list[str]]:
    """Return what gpg tells programs (``--status-fd``), each line in words."""
    return [line.removeprefix(_STATUS).split() for line in said if line.startswith(_STATUS)]


def _make() -> tuple[Path, FileLock]:
    """Make a home, and remove those whose owner was killed."""
    # Twice: another process that sweeps may have been faster than the lock of a home that was just made.
    for base in (*_bases(), *_bases()):
        with contextlib.suppress(OSError, BusyError):
            _sweep(base)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            lock = FileLock(folder / _LOCK, f"the home of gpg {folder}")
            lock.acquire()
            return folder, lock
    raise ToolError("there is no folder in which gpg could work", hint="look at /dev/shm and $TMPDIR: ls -ld")


def _bases() -> list[Path]:
    """Return where a home may be: the service's own folder below /run, shared memory, the folder of temporary files."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    places = [*([Path(runtime)] if runtime else []), Path("/dev/shm"), Path(tempfile.gettempdir())]  # noqa: S108
    return [place for place in places if len(str(place)) < _LONGEST_SOCKET - len(_PREFIX) - 8]


def _sweep(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        lock = FileLock(folder / _LOCK, "a home of gpg")
        with contextlib.suppress(BusyError, OSError):
            if folder.stat().st_uid != os.geteuid() or not (folder / _LOCK).exists():
                continue
            lock.acquire()
            remove_tree(folder)
            lock.release()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[:1]
    except OSError:
        return False
    return state != ["Z"]
