"""Puts a tree that was unpacked beside its place into it; what is there gives way and is kept. Unpacks nothing.

Only names change, one rename for each thing in the topmost folder, so the place is without content for moments only.
The folder itself stays: it may be a mount, or the working directory of a program.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from nanumpay_backupd.sources.files_rules import ASIDE, WORKING
from nanumpay_backupd.system.files import fsync_dir, rename

__all__ = ["Placement", "exists", "is_mount", "place", "working_folder"]

_OURS: Final = (ASIDE, WORKING)


class Placement:
    """What is brought back (its path in the archive, as the source had it) and to where."""

    def __init__(self, path: str, to: Path) -> None:
        self.path = path
        self.to = to

    @property
    def name(self) -> bytes:
        """Return its name in the archive."""
        return os.fsencode(self.path.strip("/"))

    @property
    def occupied(self) -> bool:
        """Tell whether something is there that would give way."""
        if not exists(self.to):
            return False
        if self.to.is_symlink() or not self.to.is_dir():
            return True
        with os.scandir(self.to) as listed:
            return any(not one.name.startswith(_OURS) for one in listed)


def exists(path: Path) -> bool:
    """Tell whether there is anything, a link that leads nowhere too."""
    return os.path.lexists(path)


def is_mount(path: Path) -> bool:
    """Tell whether another filesystem begins there, so that nothing can be renamed across."""
    return path.is_dir() and not path.is_symlink() and path.stat().st_dev != path.parent.stat().st_dev


def working_folder(to: Path, stamp: str) -> Path:
    """Return a folder (not there yet) on the filesystem of a place, beside it or, in a mount, in it."""
    above = to.parent
    while not above.is_dir():
        above = above.parent
    usable = not is_mount(to) and os.access(above, os.W_OK | os.X_OK, effective_ids=True)
    return (above if usable or not to.is_dir() else to) / f"{WORKING}{stamp}"


def place(source: Path, to: Path, stamp: str, left_out: Iterable[bytes], kept: list[Path]) -> None:
    """Let ``source`` take the place ``to``; what is there goes to a place that is added to ``kept`` first.

    ``left_out`` are paths below it which the backup leaves out: those that are there stay. Raises OSError.
    """
    if not exists(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        rename(source, to)
    elif _is_folder(to) and _is_folder(source):
        _change_content(source, to, stamp, left_out, kept)
    else:
        aside = _free(to.with_name(f"{to.name}.before-{stamp}"))
        kept.append(aside)
        rename(to, aside)
        rename(source, to)
    fsync_dir(to.parent)


def _change_content(source: Path, to: Path, stamp: str, left_out: Iterable[bytes], kept: list[Path]) -> None:
    beside = not is_mount(to) and os.access(to.parent, os.W_OK | os.X_OK, effective_ids=True)
    aside = _free(to.with_name(f"{to.name}.before-{stamp}") if beside else to / f"{ASIDE}{stamp}")
    aside.mkdir(mode=0o700)
    kept.append(aside)
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    for one in _content(to):
        if one != aside:
            rename(one, aside / one.name)
    for one in _content(source):
        rename(one, to / one.name)
    _carry_over(aside, to, left_out)
    with contextlib.suppress(OSError):
        aside.rmdir()
        kept.remove(aside)
    _like(source, to)
    os.utime(to, ns=times)
    fsync_dir(to)


def _content(folder: Path) -> Iterator[Path]:
    for one in sorted(folder.iterdir()):
        if not one.name.startswith(_OURS):
            yield one


def _carry_over(aside: Path, to: Path, left_out: Iterable[bytes]) -> None:
    """Bring back what the backup leaves out and was there, with the times of the folders that it comes into."""
    for name in left_out:
        old, new = aside / os.fsdecode(name), to / os.fsdecode(name)
        if not exists(old) or exists(new) or not _is_folder(new.parent):
            continue
        known = new.parent.stat()
        rename(old, new)
        os.utime(new.parent, ns=(known.st_atime_ns, known.st_mtime_ns))


def _like(source: Path, to: Path) -> None:
    """Give a folder the owner, mode and attributes of another one."""
    known = source.stat()
    with contextlib.suppress(PermissionError):  # only root may give files away
        os.chown(to, known.st_uid, known.st_gid)
    shutil.copystat(source, to)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _free(path: Path) -> Path:
    """Return the path, or with a number behind it where that is taken."""
    number, found = 1, path
    while exists(found):
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found
