"""The snapshot file of GNU tar (--listed-incremental, format 2): read, and made fit for the next increment.

Its form is in the manual of tar, "Format of the Incremental Snapshot Files": a line with the version, then fields that
end in NUL. Knows nothing of rules and archives.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from nanumpay_backupd.errors import SourceError

__all__ = ["add_unread", "begun", "count_listed", "forget_folders", "forget_moved", "is_state", "take_unread"]

_VERSION: Final = re.compile(rb"GNU tar-[^\n\0]*-2\n")
_UNREAD: Final = b"nanumpay-backupd: not read\n"
_FIELDS: Final = 6
"""Fields of a record before its contents: nfs, seconds, nanoseconds, device, inode, name."""


class _Record(NamedTuple):
    start: int
    end: int
    device: int
    inode: int
    name: bytes


def is_state(path: Path) -> bool:
    """Tell whether a file begins as a snapshot file does."""
    with path.open("rb") as stream:
        return _VERSION.match(stream.read(200)) is not None


def begun(path: Path) -> int:
    """Return when tar began to write it, in nanoseconds since 1970: what changed since then, the next one saves."""
    with path.open("rb") as stream:
        data = stream.read(300)
    match = _VERSION.match(data)
    fields = data[match.end() :].split(b"\0") if match is not None else []
    return int(fields[0]) * 10**9 + int(fields[1]) if len(fields) > 2 else 0


def count_listed(path: Path) -> int:
    """Return how many names that are no folders tar wanted to archive when it wrote the file (flag ``Y``)."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Of all fields only a name in a folder begins with this letter: others are numbers, or begin with a slash.
        return sum(1 for _ in re.finditer(rb"\0Y", data))


def add_unread(path: Path, names: Collection[bytes]) -> None:
    """Note behind all that tar wrote which names could not be read; `take_unread` has to come before tar reads it."""
    if names:
        told = b"\0".join(names)
        with path.open("ab") as out:
            out.write(told + len(told).to_bytes(8, "big") + _UNREAD)


def take_unread(path: Path) -> list[bytes]:
    """Return what `add_unread` noted, and take it away."""
    with path.open("r+b") as stream:
        behind = len(_UNREAD) + 8
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - behind, 0))
        length, mark = stream.read(8), stream.read()
        begin = size - behind - int.from_bytes(length, "big")
        if mark != _UNREAD or begin < 0:
            return []
        stream.seek(begin)
        names = stream.read(size - behind - begin).split(b"\0")
        stream.truncate(begin)
    return names


def forget_folders(path: Path, folders: Collection[bytes]) -> int:
    """Drop these folders (whole paths), so that tar saves all files in them next time; returns how many were there.

    Raises SourceError as `forget_moved`.
    """
    return _forget(path, lambda record: record.name.rstrip(b"/") not in folders)


def forget_moved(path: Path, *, check_device: bool) -> int:
    """Drop the folders that are no longer where they were; returns how many.

    tar recognizes a moved folder by its inode and archives only that it moved. Whether that is restored depends on
    which part of the archive is, and rules that held at the old place may not hold at the new one. Dropped, such a
    folder is a new one, and all of it is archived. Raises SourceError (``chain-broken``) for a file that is damaged.
    """
    return _forget(path, partial(_in_place, check_device=check_device))


def _forget(path: Path, keeps: Callable[[_Record], bool]) -> int:
    fresh = path.with_name(f"{path.name}.fit")
    dropped = 0
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
            fresh.open("xb") as out,
        ):
            begin = _header(data)
            out.write(data[:begin])
            for record in _records(data, begin):
                if keeps(record):
                    out.write(data[record.start : record.end])
                else:
                    dropped += 1
    except ValueError:
        fresh.unlink(missing_ok=True)
        raise SourceError(
            "an increment cannot follow on: what tar kept of the last backup is damaged",
            hint="a full is needed: backupctl run --kind full",
            code="chain-broken",
            retryable=False,
        ) from None
    fresh.replace(path)
    return dropped


def _in_place(record: _Record, *, check_device: bool) -> bool:
    try:
        known = os.lstat(record.name)
    except OSError:
        return False
    # A file that came in its place may have got its number.
    if not stat.S_ISDIR(known.st_mode) or known.st_ino != record.inode:
        return False
    return not check_device or known.st_dev == record.device


def _header(data: mmap.mmap) -> int:
    """Return where the first record begins."""
    match = _VERSION.match(data)
    if match is None:
        raise ValueError("no snapshot file")
    at = data.find(b"\0", match.end())
    at = data.find(b"\0", at + 1) if at >= 0 else -1
    if at < 0:
        raise ValueError("cut off")
    return at + 1


def _records(data: mmap.mmap, begin: int) -> Iterator[_Record]:
    at, size = begin, len(data)
    while at < size:
        start, fields = at, []
        for _ in range(_FIELDS):
            end = data.find(b"\0", at)
            if end < 0:
                raise ValueError("cut off")
            fields.append(data[at:end])
            at = end + 1
        # The contents end with an empty one, and the record with one more NUL.
        end = at if data[at : at + 2] == b"\0\0" else data.find(b"\0\0\0", at) + 1
        if end < at:
            raise ValueError("cut off")
        at = end + 2
        yield _Record(start, at, int(fields[3]), int(fields[4]), fields[5])
