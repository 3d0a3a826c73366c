"""A place of its own in every cgroup hierarchy for each container. Knows nothing of what runs in it.

systemd manages the whole of the cgroup that it finds itself in. Two containers that were started from the same one
would end each other's services, so each is started in a cgroup of its own. This works with and without systemd on the
machine, and with cgroups of version 1, 2 or both.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["enter", "make_places", "remove_places"]

_PREFIX: Final = "nanumpay-test-"
# A new cpuset of version 1 takes nobody before it is told its processors, and limits nothing here.
_LEFT_OUT: Final = frozenset({"cpuset"})


def make_places(name: str) -> list[Path]:
    """Make a cgroup below ours in each hierarchy and return their folders; a hierarchy that refuses is left out."""
    made = []
    for folder in _own_folders():
        place = folder / f"{_PREFIX}{name}"
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
            made.append(place)
    return made


def enter(places: Sequence[Path]) -> None:
    """Move this process there; for use between fork and exec."""
    for place in places:
        with contextlib.suppress(OSError):
            fd = os.open(place / "cgroup.procs", os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)


def remove_places(places: Sequence[Path]) -> None:
    """Remove the cgroups and what was made in them; processes that are still ending are waited for, some seconds."""
    deadline = time.monotonic() + 5
    while sum(_remove(place) for place in places) and time.monotonic() < deadline:
        time.sleep(0.02)


def _remove(place: Path) -> bool:
    """Remove a tree of cgroups as far as it goes; tells whether it is still there."""
    for folder, _, _ in os.walk(place, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return place.exists()


def _own_folders() -> Iterator[Path]:
    """Yield the folder of our own cgroup in each mounted hierarchy."""
    mounts = _mounts()
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in _LEFT_OUT or controllers not in mounts:
            continue
        root, mounted = mounts[controllers]
        inside = "/" + os.path.relpath(path, root) if root != "/" else path
        yield Path(mounted) / inside.lstrip("/")


def _mounts() -> dict[str, tuple[str, str]]:
    """Return for each hierarchy (its controllers as /proc/self/cgroup names them) what is mounted, and where."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, mounted = before.split(" ")[3:5]
        if kind == "cgroup2":
            found[""] = (root, mounted)
        elif kind == "cgroup":
            words = [word for word in options.split(",") if word not in {"rw", "ro", "xattr", "clone_children"}]
            names = [word for word in words if not word.startswith(("release_agent=", "noprefix"))]
            found[",".join(names)] = (root, mounted)
    return found
