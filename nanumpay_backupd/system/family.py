"""Processes with all that they started: finding them, ending them for certain, the memory they take. No limits here.

Children are found by their parent, so also those that made a session or a group of their own. What outlives its parent
goes to the next *adopter* above it (`adopt`): below one, nobody is lost while it lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Final, NamedTuple

__all__ = ["Member", "adopt", "descendants", "end_descendants", "end_family", "members"]

_PR_SET_CHILD_SUBREAPER: Final = 36
_ROUNDS: Final = 20
_KIB: Final = 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Member(NamedTuple):
    """One process: its id, its program's name, and the bytes of memory that it takes (shared ones by its share)."""

    pid: int
    name: str
    memory: int


def adopt() -> None:
    """Take in the orphans of all that this process starts from now on, instead of the system's first process."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Return the living processes below ``pid``, parents before their children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (parent := _parent(int(name))):
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(pid, ()))
    for one in found:
        found.extend(children.get(one, ()))
    return found


def end_family(pid: int) -> None:
    """End a process that is ours, whatever state it is in, and all below it; harmless when it has ended.

    It is stopped first, so that it starts no more while its children are ended.
    """
    _send(pid, signal.SIGSTOP)
    end_descendants(pid)
    _send(pid, signal.SIGKILL)


def end_descendants(pid: int) -> None:
    """End all processes below ``pid``, also those that they start meanwhile."""
    for _ in range(_ROUNDS):
        found = descendants(pid)
        if not found:
            return
        for one in found:
            _send(one, signal.SIGKILL)


def members(pid: int) -> list[Member]:
    """Return a process and all below it, with the memory that each takes."""
    return [Member(one, _name(one), _memory(one)) for one in (pid, *descendants(pid))]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _parent(pid: int) -> int:
    """Return the parent of a living process; 0: it has ended, or is not for us to see."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            state, parent = stream.read().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return 0
    return 0 if state in "ZX" else int(parent)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
        return stream.read().strip()
    return "?"


def _memory(pid: int) -> int:
    """Return the bytes that a process takes: shared ones by its share where the kernel tells that, else in full."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
