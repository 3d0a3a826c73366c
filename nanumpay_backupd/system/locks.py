"""Advisory locks that die with their owner (flock): one daemon per state folder, one run per backups folder and job."""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nanumpay_backupd.errors import BusyError

__all__ = ["FileLock"]


class FileLock:
    """An exclusive lock on a file. The kernel frees it when the process ends, however it ends: none is ever stale."""

    def __init__(self, path: Path, what: str) -> None:
        """``what`` names the thing protected, for the message shown to whoever comes second."""
        self._path = path
        self._what = what
        self._fd: int | None = None

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock, or raise BusyError at once that says which process holds it; with ``wait``, wait for it."""
        fd = self._locked(wait=wait)
        # Whoever held it before may have removed the file (a swept staging folder): then this lock would guard nothing.
        while not self._is_there(fd):
            os.close(fd)
            fd = self._locked(wait=wait)
        # Who holds it is for people: on a full disk it cannot be said, and the lock is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def _locked(self, *, wait: bool) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, since = self._holder(fd)
            os.close(fd)
            raise BusyError(
                f"{self._what} is in use by process {holder} since {since:%Y-%m-%d %H:%M:%S} UTC",
                hint=f"wait for it to end, or look at it with: ps -fp {holder}",
            ) from None
        except OSError:
            os.close(fd)
            raise
        return fd

    @staticmethod
    def _holder(fd: int) -> tuple[str, datetime]:
        """Return who wrote its number into the file, and when; who holds a lock has done so last."""
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        return holder, datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC)

    def _is_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
