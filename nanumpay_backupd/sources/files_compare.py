"""One thing in a tree, as an archive has it, and how what is on the disk differs from it. Unpacks and keeps nothing."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import stat
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Entry", "attributes_in", "difference", "takes_attributes"]

_CHUNK: Final = 1 << 20
_ATTRIBUTES: Final = b"SCHILY.xattr.user."


class Entry(NamedTuple):
    """One thing in a tree; ``time`` is nanoseconds since 1970, ``extents`` where a file with holes has content.

    ``attributes`` is a digest of those that users give (``user.…``), empty: there are none.
    """

    name: bytes
    parent: bytes
    kind: str
    mode: int
    size: int
    time: int
    user: int
    group: int
    user_name: bytes
    group_name: bytes
    link: bytes
    device: str
    digest: bytes
    extents: str
    attributes: bytes


def difference(  # noqa: PLR0911 - one for each thing that differs
    base: bytes, entry: Entry, *, owners: bool, attributes: bool
) -> str:
    """Say how what is on the disk differs, empty: not at all."""
    path = base + b"/" + entry.name
    try:
        known = os.lstat(path)
    except FileNotFoundError:
        return "is not there"
    kind = {"h": "-"}.get(entry.kind, entry.kind)
    if stat.filemode(known.st_mode)[0] != kind and not (entry.kind == "h" and not stat.S_ISDIR(known.st_mode)):
        return "is something else"
    if entry.kind == "h":
        with contextlib.suppress(OSError):
            if os.lstat(base + b"/" + entry.link).st_ino == known.st_ino:
                return ""
        return f"is not the same file as /{os.fsdecode(entry.link)}"
    if kind != "l" and stat.S_IMODE(known.st_mode) != entry.mode:
        return f"has the mode {stat.S_IMODE(known.st_mode):04o} instead of {entry.mode:04o}"
    if known.st_mtime_ns != entry.time:
        return "has another time of modification"
    if owners and (known.st_uid, known.st_gid) != (_user(entry), _group(entry)):
        return f"belongs to {known.st_uid}:{known.st_gid} instead of {_user(entry)}:{_group(entry)}"
    if kind == "l" and os.readlink(path) != entry.link:  # noqa: PTH115 - a name of any bytes
        return "leads elsewhere"
    if kind in "bc" and f"{os.major(known.st_rdev)},{os.minor(known.st_rdev)}" != entry.device:
        return "is another device"
    if kind == "-" and (known.st_size != entry.size or _digest(path, entry.extents) != entry.digest):
        return "has another content"
    if attributes and _given(path) != entry.attributes:
        return "has other extended attributes"
    return ""


def attributes_in(records: dict[bytes, bytes]) -> bytes:
    """Return the digest of the attributes that an archive has of something."""
    found = {}
    for key, value in records.items():
        if key.startswith(_ATTRIBUTES):
            name = key[len(_ATTRIBUTES) :].replace(b"%3D", b"=").replace(b"%25", b"%")
            found[name] = value
    return _digest_of(found)


def _given(path: bytes) -> bytes:
    """Return the digest of the attributes that something has on the disk."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    return _digest_of(
        {os.fsencode(name)[len(b"user.") :]: os.getxattr(path, name, follow_symlinks=False) for name in names}
    )


def _digest_of(attributes: dict[bytes, bytes]) -> bytes:
    if not attributes:
        return b""
    digest = hashlib.sha256()
    for name, value in sorted(attributes.items()):
        digest.update(b"%b\0%d\0%b" % (name, len(value), value))
    return digest.digest()


def takes_attributes(folder: Path) -> bool:
    """Tell whether files there can have attributes of users."""
    name = "user.nanumpay-backupd"
    try:
        os.setxattr(folder, name, b"")
        os.removexattr(folder, name)
    except OSError:
        return False
    return True


def _user(entry: Entry) -> int:
    """Return whom tar gives it to: who has that name here, else the number."""
    return _named_user(entry.user_name, entry.user)


def _group(entry: Entry) -> int:
    return _named_group(entry.group_name, entry.group)


@cache
def _named_user(name: bytes, number: int) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwnam(os.fsdecode(name)).pw_uid if name else number
    return number


@cache
def _named_group(name: bytes, number: int) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return grp.getgrnam(os.fsdecode(name)).gr_gid if name else number
    return number


def _digest(path: bytes, extents: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a name of any bytes
        if not extents:
            while data := stream.read(_CHUNK):
                digest.update(data)
            return digest.digest()
        numbers = [int(number) for number in extents.split()]
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            at = offset
            while at < offset + length and (data := os.pread(stream.fileno(), min(_CHUNK, offset + length - at), at)):
                digest.update(data)
                at += len(data)
    return digest.digest()
