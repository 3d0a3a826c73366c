"""Child processes: minimal environment, own lifetime tied to ours, output read line by line. No knowledge of tools."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from nanumpay_backupd.errors import ToolError
from nanumpay_backupd.system.family import end_family
from nanumpay_backupd.system.secrets import redact
from nanumpay_backupd.system.shortage import unstartable

__all__ = [
    "NOTHING",
    "Child",
    "Finished",
    "born",
    "child_environment",
    "die_with_parent",
    "end_children",
    "find_tool",
    "gone",
    "may_give_away",
    "own_environment",
    "run_bytes",
    "run_text",
    "secret_file",
]

NOTHING: Final = subprocess.DEVNULL
"""In the place of a descriptor: /dev/null."""
_PR_SET_PDEATHSIG: Final = 1
_CAP_CHOWN: Final = 0
_DAEMONS_OWN: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MONGODB_URI", "CREDENTIALS_DIRECTORY")
_libc = ctypes.CDLL(None, use_errno=True)
_KEPT_VARIABLES: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    "GOMEMLIMIT",  # below which the tools that are written in Go try to stay
)
_living: Final[set[int]] = set()
"""The long-running children of this process that were not waited for yet."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent thread ends. For use as a preexec function."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the few variables a tool needs; the application's secrets in ours are not handed on."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {"PATH": os.defpath, **kept, **(extra or {})}


def may_give_away() -> bool:
    """Tell whether this process may give files to others: root, or who has the capability CAP_CHOWN."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return os.geteuid() == 0
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return match is not None and bool(int(match[1], 16) & 1 << _CAP_CHOWN)


def own_environment() -> dict[str, str]:
    """Return what a process of our own may need (AWS keys, proxies, zone), but not what is the daemon's alone."""
    return {name: value for name, value in os.environ.items() if name not in _DAEMONS_OWN}


def end_children() -> None:
    """End all long-running children at once, with what they started; whoever waits for one learns of its end."""
    for pid in tuple(_living):
        end_family(pid)


def find_tool(name: str, *, hint: str) -> Path:
    """Find an executable by path or on PATH; raises ToolError (code ``tool-missing``) with the install hint."""
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"{name} was not found", hint=hint, code="tool-missing")
    return Path(found)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a short command left behind; ``code`` is negative when a signal ended it."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def said(self) -> str:
        """Return the end of all it wrote, as text for a message, without secrets."""
        return redact((self.stdout + self.stderr).decode("utf-8", "replace").strip())[-500:]


def run_bytes(
    argv: Sequence[str],
    *,
    given: bytes = b"",
    extra: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run a short command with ``given`` on its standard input, whatever its exit code.

    Raises ToolError when it cannot be started or takes more than ``timeout`` seconds. ``extra`` is added to its
    environment.
    """
    name = Path(argv[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - argv comes from configuration, no shell
            list(argv),
            input=given,
            capture_output=True,
            timeout=timeout,
            check=False,
            pass_fds=tuple(pass_fds),
            env=child_environment(extra),
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} did not answer within {timeout:.0f} s", code="tool-timeout", retryable=True) from None
    except OSError as error:
        raise unstartable(name, error) from None
    return Finished(done.returncode, done.stdout, done.stderr)


def run_text(argv: Sequence[str], *, timeout: float = 30.0) -> str:
    """Run a short command and return its output (both streams); raises ToolError when it fails or takes too long."""
    done = run_bytes(argv, timeout=timeout)
    if done.code != 0:
        raise ToolError(f"{Path(argv[0]).name} failed with exit code {done.code}: {done.said}")
    return (done.stdout + done.stderr).decode("utf-8", "replace")


@contextlib.contextmanager
def secret_file(text: str) -> Iterator[int]:
    """Yield a descriptor whose content a child can read as ``/dev/fd/N``; it never touches a disk (memfd)."""
    fd = os.memfd_create("nanumpay-secret", os.MFD_CLOEXEC)
    try:
        # MariaDB's and PostgreSQL's tools pass over a file that others may write or read.
        os.fchmod(fd, 0o600)
        os.write(fd, text.encode("utf-8"))
        yield fd
    finally:
        os.close(fd)


def born(pid: int) -> None:
    """Note a long-running child, so that `end_children` ends it."""
    _living.add(pid)


def gone(pid: int) -> None:
    """Note that a child was waited for: its number may be another process's from now on."""
    _living.discard(pid)


class Child:
    """A long-running child whose standard error is read line by line; it dies when we do.

    ``on_line`` is called from a reader thread. The last lines are kept for the error text. ``both`` also reads the
    standard output, for tools that complain there. ``stdin`` and ``stdout`` are descriptors it gets as such; they stay
    the caller's to close. ``extra`` is added to its environment. ``group``: it leads a process group of its own, and
    `kill` ends all that is in it, also when the child itself has ended.
    """

    KEPT_LINES: Final = 30

    def __init__(
        self,
        argv: Sequence[str],
        *,
        on_line: Callable[[str], None] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: Path | None = None,
        both: bool = False,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        extra: Mapping[str, str] | None = None,
        group: bool = False,
    ) -> None:
        self.name = Path(argv[0]).name
        self._group = group
        self._tail: deque[str] = deque(maxlen=self.KEPT_LINES)
        self._on_line = on_line
        self._stopped = False
        try:
            self._process = subprocess.Popen(  # noqa: S603 - argv comes from configuration, no shell
                list(argv),
                stdin=stdin,
                stdout=subprocess.PIPE if both else stdout,
                stderr=subprocess.STDOUT if both else subprocess.PIPE,
                pass_fds=tuple(pass_fds),
                cwd=cwd,
                env=child_environment(extra),
                preexec_fn=die_with_parent,
                process_group=0 if group else None,
            )
        except OSError as error:
            raise unstartable(self.name, error) from None
        born(self._process.pid)
        output = self._process.stdout if both else self._process.stderr
        assert output is not None
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the child has not ended yet."""
        if self._process.poll() is None:
            return True
        gone(self._process.pid)
        return False

    @property
    def tail(self) -> str:
        """Return the last lines of standard error, without secrets."""
        return redact("\n".join(self._tail))

    @property
    def moved(self) -> int:
        """Return how many bytes it has read and written so far, of files and sockets; 0 when nobody tells."""
        try:
            told = Path(f"/proc/{self._process.pid}/io").read_text(encoding="ascii")
        except OSError:
            return 0
        return sum(int(number) for number in re.findall(r"^[rw]char: (\d+)$", told, re.MULTILINE))

    def interrupt(self) -> None:
        """Ask it to end (SIGINT), as from a keyboard; harmless when it has ended."""
        if self.running:
            self._process.send_signal(signal.SIGINT)

    def pause(self) -> None:
        """Stop the child where it is (SIGSTOP); it goes on with `resume`."""
        if not self._stopped and self.running:
            self._process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def resume(self) -> None:
        """Let a paused child go on."""
        if self._stopped:
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end and return the exit code (negative: the signal), or None when ``timeout`` seconds passed."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        gone(self._process.pid)
        self._reader.join(timeout=5)
        return code

    def kill(self) -> None:
        """End the child at once with all that it started; harmless when it has ended."""
        if self.running:
            end_family(self._process.pid)
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip()
                self._tail.append(line)
                if self._on_line is not None:
                    self._on_line(line)
