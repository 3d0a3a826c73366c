"""Trees of files with all that a tree can hold, and a reading of them that can be compared. No tests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["ODD", "XATTRS", "clear", "fill_tree", "read_tree"]

ODD: Final = (
    b"with blank ",
    b"new\nline",
    b"\xff\xfe not utf-8",
    "한글 이름.txt".encode(),
    b"back\\slash",
    b"a -> b",
    b"-rf",
    b"*",
    b"x" * 250,
)
"""Names of any bytes."""
XATTRS: Final = {"user.note": b"any \xff bytes\n", "user.empty": b"", "user.a=b%c": b"="}
_EVERYBODY: Final = 0xFFFFFFFF
_ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    # Owner, one more user, group, mask, others: tag, rights, who.
    for entry in ((1, 6, _EVERYBODY), (2, 4, 12345), (4, 4, _EVERYBODY), (16, 4, _EVERYBODY), (32, 0, _EVERYBODY))
)
"""An access control list, as the kernel takes it."""
_ROOT: Final = os.geteuid() == 0


def fill_tree(root: Path) -> int:
    """Make a tree and return how many things that are no folders are in it, without the socket."""
    count = 0
    for folder in ("public/deep/deeper", "empty", "storage/logs", "restricted"):
        (root / folder).mkdir(parents=True)
    for name in ODD:
        with open(os.fsencode(root / "public") + b"/" + name, "wb") as stream:
            stream.write(b"content of " + name)
        count += 1
    (root / "public" / "a").write_bytes(b"shared\n" * 2000)
    (root / "public" / "none").touch()
    (root / "public" / "hard").hardlink_to(root / "public" / "a")
    (root / "storage" / "link").symlink_to("../public/a")
    (root / "storage" / "round").symlink_to("../storage")
    (root / "storage" / "loop").symlink_to("loop")
    (root / "storage" / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(root / "public" / "fifo")
    with (root / "public" / "sparse").open("wb") as stream:
        for at in (1 << 20, 9 << 20):
            stream.seek(at)
            stream.write(b"island" * 1000)
        stream.truncate(12 << 20)
    (root / "public" / "zeros").write_bytes(bytes(100_000))
    (root / "restricted" / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "restricted" / "tool").chmod(0o4750)
    (root / "restricted").chmod(0o1730)
    count += 11
    with contextlib.suppress(OSError):  # not every filesystem has them
        for key, value in XATTRS.items():
            os.setxattr(root / "public" / "a", key, value)
            os.setxattr(root / "public", key, value)
    (root / "public" / "listed").write_bytes(b"for some")
    (root / "for some").mkdir()
    count += 1
    with contextlib.suppress(OSError):
        os.setxattr(root / "public" / "listed", "system.posix_acl_access", _ACL)
        os.setxattr(root / "for some", "system.posix_acl_default", _ACL)
    if _ROOT:
        os.mknod(root / "public" / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
        os.chown(root / "restricted" / "tool", 12345, 54321)
        (root / "restricted" / "tool").chmod(0o4750)
        count += 1
    os.utime(root / "public" / "none", ns=(1, 1_000_000_000_123_456_789))
    os.utime(root / "public" / "zeros", (-86400 * 365, -86400 * 365))
    os.utime(root / "empty", (1_500_000_000, 1_500_000_000))
    with socket.socket(socket.AF_UNIX) as plug, contextlib.suppress(OSError):
        plug.bind(str(root / "sock"))
    return count


def clear(root: Path) -> None:
    """Remove a tree."""
    shutil.rmtree(root, ignore_errors=True)


def read_tree(root: Path, skip: Iterable[str] = ()) -> dict[bytes, tuple[object, ...]]:
    """Return all that can be read of a tree, by path: kind, mode, owner, time, content, links, attributes.

    ``skip`` are paths that are passed over; sockets always are. Of a tree that is not there it is nothing. Names of one
    file share a number.
    """
    base = os.fsencode(root)
    skipped = {os.fsencode(path) for path in skip}
    names: dict[int, bytes] = {}
    found: dict[bytes, tuple[object, ...]] = {}
    waiting = [b""] if root.is_dir() else []
    while waiting:
        name = waiting.pop()
        path = base + b"/" + name if name else base
        known = os.lstat(path)
        if stat.S_ISSOCK(known.st_mode):
            continue
        what: object = None
        if stat.S_ISDIR(known.st_mode):
            listed = [name + b"/" + one if name else one for one in sorted(os.listdir(path))]
            waiting += [one for one in listed if one not in skipped]
        elif stat.S_ISLNK(known.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(known.st_mode):
            with open(path, "rb") as stream:
                what = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            what = known.st_rdev
        first = names.setdefault(known.st_ino, name) if known.st_nlink > 1 and not stat.S_ISDIR(known.st_mode) else name
        attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(_attributes(path))}
        found[name] = (
            stat.filemode(known.st_mode),
            (known.st_uid, known.st_gid),
            known.st_mtime_ns,
            what,
            first,
            tuple(attributes.items()),
        )
    return found


def _attributes(path: bytes) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listxattr(path, follow_symlinks=False)
    return []
