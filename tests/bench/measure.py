"""How things are measured: wall time of a command, memory of a process tree, blocks in a folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.system.files import allocated_bytes

__all__ = ["Peak", "rss", "settle", "timed", "tree"]

_INTERVAL: Final = 0.05
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def timed(argv: Sequence[str], *, shell: str | None = None) -> float:
    """Return the wall seconds of a command that must succeed; with ``shell`` of that shell line instead."""
    settle()
    began = time.perf_counter()
    command = ["/bin/sh", "-c", shell] if shell is not None else list(argv)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def settle() -> None:
    """Let the disk finish what came before, so that nobody pays for another's writes."""
    os.sync()
    time.sleep(0.3)


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def rss(pid: int) -> int:
    """Return a process's resident memory in bytes, shared pages counted in full; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


class Peak:
    """Samples a number in a thread and keeps the largest."""

    def __init__(self, sample: Callable[[], int]) -> None:
        self.value = 0
        self._sample = sample
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @classmethod
    @contextlib.contextmanager
    def of(cls, sample: Callable[[], int]) -> Iterator[Peak]:
        """Sample for the length of a with block."""
        peak = cls(sample)
        peak._thread.start()
        try:
            yield peak
        finally:
            peak._stop.set()
            peak._thread.join()

    @classmethod
    def of_memory(cls, pid: int) -> contextlib.AbstractContextManager[Peak]:
        """Sample the resident memory of a process with all its descendants."""
        return cls.of(lambda: sum(rss(item) for item in tree(pid)))

    @classmethod
    def of_folder(cls, folder: Path) -> contextlib.AbstractContextManager[Peak]:
        """Sample the disk blocks that a folder really occupies, in bytes."""

        def blocks() -> int:
            try:
                return allocated_bytes(folder) if folder.exists() else 0
            except OSError:
                return 0

        return cls.of(blocks)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.value = max(self.value, self._sample())
