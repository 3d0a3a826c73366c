"""A Store in a further folder of this host: another disk, a mount. Durable renames are the matter of system.files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.stores.base import (
    CHUNK,
    WORTH_RESUMING,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Resumed,
    Store,
    check_key,
    is_hidden,
    part_key,
    part_name,
    store_error,
    unreadable_source,
    worth_keeping,
)
from nanumpay_backupd.system import files
from nanumpay_backupd.system.sandbox import way_out

__all__ = ["LocalStore"]

_MODE: Final = 0o640
_UNREACHABLE: Final = frozenset({errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENODEV})
"""What a network mount says when its server is away."""
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_FOUND: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class LocalStore(Store):
    """A folder. The folder is made when it is first written to, unless it has to be a mount point."""

    rights = MappingProxyType(
        {
            "put": "to write in the folder (w, x)",
            "list": "to list the folder (r, x)",
            "get": "to read its files (r)",
            "delete": "to delete in the folder (w, x)",
        }
    )
    properties = Properties(resumes_put=True, tells_room=True)

    def __init__(self, destination: LocalDestination) -> None:
        self.name = destination.name
        self._root = Path(destination.path)
        self._require_mount = destination.require_mount

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Copy a file into the folder; see `Store.put`."""
        check_key(key)
        try:
            stream = path.open("rb")
        except OSError as error:
            raise unreadable_source(path, error) from error
        with stream:
            return self._store(key, _Content(path, stream), os.fstat(stream.fileno()).st_size, progress)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Write a small file into the folder; see `Store.put_bytes`."""
        return self._store(check_key(key), _Content(Path(key), io.BytesIO(data)), len(data), None)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read a file of the folder; see `Store.get`."""
        check_key(key)
        with self._faults(f"reading {key}"):
            self._check_mount()
            try:
                stream = (self._root / key).open("rb")
            except FileNotFoundError:
                raise store_error(
                    "object-missing", f"destination {self.name!r}: there is no {key} in folder {self._root}"
                ) from None
        with stream:
            end = os.fstat(stream.fileno()).st_size
            stream.seek(offset)
            while length is None or length > 0:
                with self._faults(f"reading {key}"):
                    chunk = stream.read(CHUNK if length is None else min(CHUNK, length))
                if not chunk:
                    if stream.tell() < end:
                        raise self._shorter(key, stream.tell(), end)
                    return
                length = None if length is None else length - len(chunk)
                yield chunk

    def _shorter(self, key: str, there: int, size: int) -> StoreError:
        return store_error(
            "destination-unreachable",
            f"destination {self.name!r}: {key} in folder {self._root} became shorter while it was read:"
            f" {there} of {size} bytes",
            "does somebody write there?",
        )

    def stat(self, key: str) -> ObjectInfo | None:
        """Look at one file; see `Store.stat`."""
        check_key(key)
        with self._faults(f"looking at {key}"):
            self._check_mount()
            try:
                return ObjectInfo(key=key, size=(self._root / key).stat().st_size)
            except FileNotFoundError:
                return None

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the regular files of the folder by name; see `Store.list`."""
        with self._faults("listing"):
            self._check_mount()
            try:
                with os.scandir(self._root) as entries:
                    found = [
                        ObjectInfo(key=entry.name, size=entry.stat().st_size)
                        for entry in entries
                        if not is_hidden(entry.name) and entry.is_file()
                    ]
            except FileNotFoundError:
                found = []
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """Remove one file, durably; see `Store.delete`."""
        check_key(key)
        with self._faults(f"deleting {key}"):
            self._check_mount()
            with contextlib.suppress(FileNotFoundError):
                (self._root / part_name(key)).unlink()
            try:
                (self._root / key).unlink()
            except FileNotFoundError:
                return
            files.fsync_dir(self._root)

    def room(self) -> int | None:
        """Return what the filesystem has free; see `Store.room`. Before the first put, where the folder will be."""
        with self._faults("asking for the room"):
            self._check_mount()
            folder = self._root
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            return files.free_bytes(folder)

    def close(self) -> None:
        """Nothing is held open."""

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Remove old unfinished copies; see `Store.sweep`."""
        gone = []
        with self._faults("looking for unfinished uploads"):
            self._check_mount()
            if not self._root.is_dir():
                return ()
            for path in self._root.iterdir():
                key = part_key(path.name)
                if key is None or not ours(key) or path.lstat().st_mtime >= before.timestamp():
                    continue
                path.unlink(missing_ok=True)
                gone.append(key)
        return tuple(gone)

    def _store(self, key: str, content: _Content, size: int, progress: Progress | None) -> PutResult:
        temporary = self._root / part_name(key)
        doing = f"storing {key} ({size} bytes)"
        with self._faults(doing):
            self._check_mount()
            if not self._require_mount:
                files.make_private_dir(self._root)
        try:
            with self._faults(doing):  # on some filesystems it is the close that tells of a full disk
                resumed, copied = self._copy(doing, content, temporary, progress)
            self._compare(key, "read from the file", copied, size)
            with self._faults(doing):
                self._compare(key, "written", temporary.stat().st_size, size)
                files.publish(temporary, self._root / key, replace=True)
        except BaseException as error:
            with contextlib.suppress(OSError):
                if not worth_keeping(error) or temporary.stat().st_size < WORTH_RESUMING:
                    temporary.unlink()
            raise
        return PutResult(size=size, proven=False, durable=True, resumed=resumed)

    def _copy(self, doing: str, content: _Content, target: Path, progress: Progress | None) -> tuple[int, int]:
        """Bring all of it under the temporary name; returns how much was there, and how much it is now."""
        moved = progress or (lambda _: None)
        with self._faults(doing):
            fd = self._left_over(target)
            if fd < 0:
                # A new file, not one with the owner and mode that somebody else gave it.
                target.unlink(missing_ok=True)
                fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(fd, "r+b", buffering=0) as out:
            self._claim(doing, out.fileno())
            resumed = copied = self._proven(doing, content, out, moved)
            with self._faults(doing):
                out.truncate(resumed)
                out.seek(resumed)
            for chunk in content.chunks(resumed):
                view = memoryview(chunk)
                while view:
                    with self._faults(doing):
                        view = view[out.write(view) :]
                copied += len(chunk)
                moved(len(chunk))
        return resumed, copied

    def _claim(self, doing: str, fd: int) -> None:
        """See that nobody else writes the same object now: two of them in one file would be published as one."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise store_error(
                "destination-failed",
                f"destination {self.name!r}: {doing} failed in folder {self._root}: it is being stored already",
                "another process stores the same name there: two hosts with one folder? It is tried again",
            ) from None
        except OSError:
            return  # a filesystem without locks

    @staticmethod
    def _left_over(target: Path) -> int:
        """Open what an earlier put left, -1: there is nothing that could be gone on with."""
        try:
            fd = os.open(target, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return -1
        found = os.fstat(fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
        if ours and stat.S_IMODE(found.st_mode) & ~_MODE == 0 and found.st_size >= WORTH_RESUMING:
            return fd
        os.close(fd)
        return -1

    def _proven(self, doing: str, content: _Content, out: FileIO, moved: Progress) -> int:
        """Compare what is there with the file, byte by byte from the disk; returns how much is the same."""
        files.drop_cache(out.fileno())
        same = 0
        for chunk in content.chunks(0):
            with self._faults(doing):
                there = out.read(len(chunk))
            if there != chunk:
                break
            same += len(chunk)
            moved(Resumed(len(chunk)))
        return same

    def _compare(self, key: str, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise store_error(
                "destination-mismatch",
                f"destination {self.name!r}: {found} of {expected} bytes of {key} were {what} (folder {self._root})",
                "was the file changed meanwhile? check the disk and its log (dmesg)",
            )

    def _check_mount(self) -> None:
        # The folder itself, not a parent: of /var/disk2 a parent may well be a mount while the disk is not there.
        if self._require_mount and not self._root.is_mount():
            raise store_error(
                "destination-unreachable",
                f"destination {self.name!r}: nothing is mounted at {self._root}",
                f"mount the disk (mount {self._root}); with require_mount, path has to be the mount point itself",
            )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except OSError as error:
            raise self._fault(doing, error) from error

    def _fault(self, doing: str, error: OSError) -> StoreError:
        message = f"destination {self.name!r}: {doing} failed in folder {self._root}: {error.strerror or error}"
        if files.is_disk_full(error):
            return store_error("destination-full", message + self._room(), "make room there, or keep fewer backups")
        if error.errno in _DENIED:
            return store_error(
                "destination-denied",
                message,
                way_out(self._root) or f"let the service's user write there: ls -ld {self._root}; is it read-only?",
            )
        if error.errno in _NOT_FOUND:
            hint = way_out(self._root) or f"check the path: ls -ld {self._root}"
            return store_error("destination-not-found", message, hint)
        if error.errno in _UNREACHABLE:
            return store_error("destination-unreachable", message, "check the mount and the server behind it")
        return store_error("destination-failed", message, "check the disk and its log (dmesg)")

    def _room(self) -> str:
        try:
            return f" ({files.free_bytes(self._root)} bytes are free)"
        except OSError:
            return ""


class _Content:
    """What is being stored, readable from any place."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream

    def chunks(self, offset: int) -> Iterator[bytes]:
        """Yield the rest from ``offset``."""
        try:
            self._stream.seek(offset)
            while chunk := self._stream.read(CHUNK):
                yield chunk
        except OSError as error:
            raise unreadable_source(self._path, error) from error
