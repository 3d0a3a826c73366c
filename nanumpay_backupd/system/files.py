"""Durable file operations: write-and-rename, fsync, punching holes, free space. What is written is decided elsewhere.

The order that makes a file durable (staging, fsync file, rename, fsync directory) lives here and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = [
    "allocated_bytes",
    "begin_writing",
    "can_punch_holes",
    "disk_size",
    "drop_cache",
    "free_bytes",
    "fsync_dir",
    "fsync_file",
    "is_disk_full",
    "make_private_dir",
    "publish",
    "punch_hole",
    "read_json_bytes",
    "remove_tree",
    "rename",
    "replace_for_all",
    "write_atomic",
    "write_new",
]

_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE: Final = 2
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk; raises OSError where the disk reports a fault."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_dir(path: Path) -> None:
    """Force a directory's entries (a rename, an unlink) to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(staged: Path, final: Path, *, replace: bool = False) -> None:
    """Make a staged file visible under its final name, durably: fsync file, rename, fsync both directories.

    Both must be on one filesystem. An existing file of that name is an error (FileExistsError), unless ``replace`` says
    that it is to give way to the new one as a whole.
    """
    fsync_file(staged)
    if not replace and final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    os.rename(staged, final)
    fsync_dir(final.parent)
    if staged.parent != final.parent:
        fsync_dir(staged.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a durable file on one filesystem, replacing the target, and make the renaming itself durable."""
    os.rename(source, target)
    fsync_dir(target.parent)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """Replace a small file as a whole: a reader sees the old content or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_dir(path.parent)


def replace_for_all(path: Path, data: bytes) -> None:
    """Replace a small file that every user may read, as a whole; what it says is soon told anew, so no fsync.

    Others may write in its folder too: a file or link that waits under the temporary name is removed, never followed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o644)  # the service's umask takes it from others
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file that is not there yet, durably; whatever has that name, a link too, raises FileExistsError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fsync_dir(path.parent)


def read_json_bytes(path: Path, *, limit: int = 64 << 20) -> bytes | None:
    """Read a small file of ours, or None when it does not exist; refuses more than ``limit`` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def make_private_dir(path: Path, *, mode: int = 0o750) -> None:
    """Create a directory and its parents if they are not there, durably; an existing one keeps its mode.

    What is published in a new folder is lost in a power cut together with the folder, where that is not on the disk.
    """
    new = list(itertools.takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for folder in reversed(new):
        with contextlib.suppress(PermissionError):  # who may make a folder there need not be allowed to read it
            fsync_dir(folder.parent)


def remove_tree(path: Path) -> None:
    """Remove a file or folder of ours, whatever is in it; one that is already gone is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            _open_up(path)
            shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _open_up(path: Path) -> None:
    """Let the owner into every folder: files that were restored may be in some that nobody may write."""
    path.chmod(0o700)
    for folder, folders, _ in os.walk(path):
        for name in folders:
            inside = Path(folder, name)
            with contextlib.suppress(OSError):
                if not inside.is_symlink():
                    inside.chmod(0o700)


def free_bytes(path: Path) -> int:
    """Return the bytes an ordinary user may still write on the filesystem that holds ``path``."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def disk_size(path: Path) -> int | None:
    """Return the bytes of the filesystem that holds ``path``, as `free_bytes` counts them; None when not known.

    Without what is reserved for root, so that a disk on which nothing is free for others is full.
    """
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return (stat.f_blocks - (stat.f_bfree - stat.f_bavail)) * stat.f_frsize


def allocated_bytes(path: Path) -> int:
    """Return the disk blocks a file or tree really occupies, in bytes (holes do not count)."""

    def walk(root: Path) -> Iterator[Path]:
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in names)

    total = 0
    for entry in walk(path) if path.is_dir() else iter((path,)):
        with contextlib.suppress(FileNotFoundError):
            total += entry.lstat().st_blocks * 512
    return total


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give a range of a file back to the filesystem; its size stays, the range reads as zeros.

    Raises OSError (EOPNOTSUPP) where the filesystem cannot do it.
    """
    if _libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def begin_writing(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to write a range of a file to its disk, and wait for nothing; proves nothing."""
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def can_punch_holes(folder: Path) -> bool:
    """Try on a small file whether the filesystem of ``folder`` gives back blocks."""
    probe = folder / f".punch-{os.getpid()}"
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(8192))
            stream.flush()
            punch_hole(stream.fileno(), 0, 4096)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return True


def drop_cache(fd: int) -> None:
    """Ask the kernel to forget a file's cached pages, so that the next read comes from the disk. Best effort."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def is_disk_full(error: OSError) -> bool:
    """Tell whether an error means that there is no room (disk or quota)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
