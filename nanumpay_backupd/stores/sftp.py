"""A Store in a folder of an SSH server, by SFTP: temporary names, resuming, listings. The session is sftp_link's."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import stat
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import asyncssh
from asyncssh.sftp import SFTPAttrs, SFTPClient, SFTPClientFile

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import SftpDestination
from nanumpay_backupd.stores.base import (
    CHUNK,
    WORTH_RESUMING,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Resumed,
    Store,
    aside_name,
    check_key,
    is_hidden,
    left_behind,
    part_name,
    store_error,
)
from nanumpay_backupd.stores.payload import Payload
from nanumpay_backupd.stores.sftp_link import Session
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["SftpStore", "samples"]

_BLOCK: Final = 255 << 10
"""Bytes per request: what OpenSSH takes at once (limits@openssh.com); asyncssh makes less of it for other servers."""
_WRITES: Final = 16
"""Requests on their way at once: at 4 MB in flight the way there may take long."""
_READS: Final = 16
_READ_BACK: Final = 32 << 20
"""So many bytes at the end of what an earlier put left are compared, and before them samples."""
_SAMPLE: Final = 16 << 10
_SAMPLES: Final = 16
_FSYNC_SECONDS: Final = 900.0
"""So long a server may take to bring what it holds in memory to its disk."""
_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750
_NEW: Final = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_TRUNC
_ABSENT: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)

T = TypeVar("T")


class SftpStore(Store):
    """A folder. An upload goes to ``.NAME.part``, is brought to the disk, and is renamed when its size is right."""

    rights = MappingProxyType(
        {
            "put": "to write and rename files in the folder",
            "list": "to list the folder",
            "get": "to read files",
            "delete": "to delete files",
        }
    )
    properties = Properties(resumes_put=True, tells_room=True)

    def __init__(self, destination: SftpDestination, clock: Clock | None = None) -> None:
        self.name = destination.name
        self._settings = destination
        self._clock = clock or SystemClock()
        self._session: Session | None = None

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. What an earlier put of it left is gone on with."""
        check_key(key)
        with Payload(path) as source:
            return self._put(key, source, progress or _ignore)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        return self._put(check_key(key), Payload(Path(key), data), _ignore)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download a file, several blocks at once on their way; see `Store.get`."""
        doing = f"reading {check_key(key)}"
        found = self._run(lambda session: session.run(_opened(session.client, self._at(key)), doing))
        if found is None:
            raise store_error("object-missing", f"destination {self.name!r}: there is no {key} in {self._place}")
        file, size = found
        session = self._ready()
        end = size if length is None else min(size, offset + length)
        pending: deque[asyncio.Task[bytes]] = deque()
        try:
            while offset < end or pending:
                while offset < end and len(pending) < _READS:
                    wanted = min(_BLOCK, end - offset)
                    pending.append(session.start(_read(file, offset, wanted)))
                    offset += wanted
                session.wait((pending[0],), doing)
                yield session.result(pending.popleft(), doing)
        finally:
            session.drop(pending)
            if not session.closed:
                with contextlib.suppress(StoreError):
                    session.run(file.close(), doing)

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one file; see `Store.stat`."""
        check_key(key)
        size = self._run(lambda session: session.run(_size(session.client, self._at(key)), f"looking at {key}"))
        return None if size is None else ObjectInfo(key=key, size=size)

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the files of the folder; see `Store.list`."""
        yield from self._run(self._listing)

    def delete(self, key: str) -> None:
        """Remove one file; see `Store.delete`."""
        check_key(key)
        for name in (part_name(key), key):
            path = self._at(name)
            self._run(lambda session, path=path: session.run(_removed(session.client, path), f"deleting {key}"))  # type: ignore[misc]

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Delete old unfinished uploads; see `Store.sweep`."""
        doing = "looking for unfinished uploads"
        left = self._run(lambda session: session.run(_left(session.client, self._folder, before), doing))
        found = [(self._at(name), key) for name, key in left if ours(key)]
        for path, _ in found:
            self._run(lambda session, path=path: session.run(_removed(session.client, path), doing))  # type: ignore[misc]
        return tuple(key for _, key in found)

    def room(self) -> int | None:
        """Ask the filesystem, where the server lets it be asked (statvfs@openssh.com); see `Store.room`."""
        return self._run(lambda session: session.run(_room(session.client, self._folder), "asking for the room"))

    def close(self) -> None:
        """Drop the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    @property
    def _folder(self) -> str:
        return self._settings.path or "."

    @property
    def _place(self) -> str:
        settings = self._settings
        return f"folder {self._folder} of SFTP server {settings.host}:{settings.port}"

    def _at(self, name: str) -> str:
        return posixpath.join(self._folder, name)

    def _ready(self) -> Session:
        if self._session is None or self._session.closed:
            session = Session(self._settings, self._clock)
            session.open()
            self._session = session
        return self._session

    def _run(self, action: Callable[[Session], T]) -> T:
        """Do something that may be done twice; a connection that the server dropped while idle is opened again."""
        kept = self._session is not None
        try:
            return action(self._ready())
        except StoreError as error:
            if error.code == "destination-unreachable":
                self.close()
            if not kept or error.code != "destination-unreachable":
                raise
        return action(self._ready())

    def _listing(self, session: Session) -> tuple[ObjectInfo, ...]:
        """Read the whole folder; it may take long as long as names come."""
        found: list[ObjectInfo] = []
        task = session.start(_list(session.client, self._folder, found))
        session.wait((task,), "listing", pulse=lambda: len(found))
        session.result(task, "listing")
        return tuple(found)

    # ------------------------------------------------------------------------------------------------ putting

    def _put(self, key: str, source: Payload, progress: Progress) -> PutResult:
        doing = f"storing {key} ({source.size} bytes)"
        self._run(self._make_folder)
        session, part = self._ready(), self._at(f".{key}.part")
        try:
            offset = self._there(session, part, source, doing)
            progress(Resumed(offset))
            durable = self._send(session, part, source, offset, doing, progress)
            durable = self._publish(session, key, source.size) and durable
            return PutResult(size=source.size, proven=False, durable=durable, resumed=offset)
        except StoreError as error:
            if error.code == "destination-unreachable":
                self.close()
            else:
                self._forget(session, part)
            raise
        except BaseException:  # broken off by the progress callback
            with contextlib.suppress(StoreError):
                if (
                    session.closed
                    or (session.run(_size(session.client, part), doing) or 0) > WORTH_RESUMING + _WRITES * _BLOCK
                ):
                    raise
            self._forget(session, part)
            raise

    def _make_folder(self, session: Session) -> None:
        doing = f"making folder {self._folder}"
        try:
            session.run(_make_folders(session.client, self._folder), doing)
        except StoreError as error:
            if error.code == "destination-failed":
                raise session.missing_folder(doing, error) from error
            raise

    def _there(self, session: Session, part: str, source: Payload, doing: str) -> int:
        """Return how much of an earlier upload is gone on with: 0 where there is none, or it is of something else.

        The end of it may have holes, if the server carries requests out side by side: so much is sent again. What is
        left must be the same as the file's at its end and at places between.
        """
        if source.size < WORTH_RESUMING:
            return 0
        size = session.run(_size(session.client, part), doing) or 0
        offset = size - _WRITES * _BLOCK
        if size > source.size or offset < WORTH_RESUMING:
            return 0
        for start, length in samples(offset):
            try:
                found = session.run(_sample(session.client, part, start, length), doing)
            except StoreError as error:
                if error.code == "destination-denied":  # write, but not read: such accounts exist
                    return 0
                raise
            if found != source.read(start, length):
                return 0
        return offset

    def _send(self, session: Session, part: str, source: Payload, offset: int, doing: str, progress: Progress) -> bool:
        """Bring the content to the temporary name; tells whether it is on the disk there."""
        client = session.client
        flags = asyncssh.FXF_WRITE if offset else _NEW
        file = session.run(_begun(client, part, flags), doing)
        pending: dict[asyncio.Task[int], int] = {}
        at = offset
        try:
            while at < source.size or pending:
                while at < source.size and len(pending) < _WRITES:
                    data = source.read(at, _BLOCK)
                    pending[session.start(file.write(data, at))] = len(data)
                    at += len(data)
                moved = 0
                for task in session.wait(pending.keys(), doing, progress):
                    self._written(session, task, doing, source.size - at)
                    moved += pending.pop(task)
                progress(moved)
            there = session.run(file.stat(), doing).size
            if there != source.size:
                raise self._mismatch(doing, there)
            syncing = session.start(_fsync(file))
            session.wait((syncing,), doing, progress, patience=_FSYNC_SECONDS)
            durable = session.result(syncing, doing)
            session.run(file.close(), doing)
        except BaseException:
            session.drop(pending.keys())
            if not session.closed:
                with contextlib.suppress(StoreError):
                    session.run(file.close(), doing)
            raise
        return durable

    def _written(self, session: Session, task: asyncio.Task[int], doing: str, left: int) -> None:
        """Look at what came of a write. OpenSSH calls a full disk a failure, so that it is asked for the room then."""
        try:
            session.result(task, doing)
        except StoreError as error:
            if error.code != "destination-failed":
                raise
            room = None
            with contextlib.suppress(StoreError):
                room = session.run(_room(session.client, self._folder), doing)
            if room is None or room > _BLOCK * _WRITES:
                raise
            raise store_error(
                "destination-full",
                f"{error.message} ({room} bytes are free there, {left} more were to come)",
                "make room there, or keep fewer backups",
            ) from error

    def _publish(self, session: Session, key: str, size: int) -> bool:
        """Give the finished upload its name and compare the size under it; tells whether the name is on the disk."""
        doing, part, target = f"renaming .{key}.part to {key}", self._at(f".{key}.part"), self._at(key)
        try:
            session.run(_renamed(session.client, part, target), doing)
        except StoreError as error:
            if error.code != "destination-unreachable":
                raise
            # The answer is lost, the rename may not be.
            self.close()
            session = self._ready()
            if session.run(_size(session.client, part), doing) is not None:
                session.run(_renamed(session.client, part, target), doing)
        settling = session.start(_settled(session.client, target))
        session.wait((settling,), doing, patience=_FSYNC_SECONDS)
        there, durable = session.result(settling, doing)
        if there != size:
            # A damaged object must not pass for a backup.
            gone = self._forget(session, target)
            raise self._mismatch(f"storing {key}", there, gone=gone)
        return durable

    def _mismatch(self, doing: str, there: int | None, *, gone: bool = False) -> StoreError:
        return store_error(
            "destination-mismatch",
            f"destination {self.name!r}: after {doing} the server has {there or 0} bytes ({self._place})",
            ("the damaged object was deleted there; " if gone else "")
            + "it is sent again; if it happens each time, see the server's log and disk",
        )

    def _forget(self, session: Session, path: str) -> bool:
        """Delete a file that is of no use. Best effort; tells whether it is gone."""
        if not session.closed:
            with contextlib.suppress(StoreError):
                session.run(_removed(session.client, path), f"deleting {path}")
                return True
        return False


def samples(size: int) -> tuple[tuple[int, int], ...]:
    """Return the places (offset, length) at which a part of so many bytes is compared: its end, and some before."""
    start = max(0, size - _READ_BACK)
    before = [start * number // _SAMPLES for number in range(_SAMPLES if start else 0)]
    places = [(at, min(_SAMPLE, start - at)) for at in before]
    return (*places, *((at, min(CHUNK, size - at)) for at in range(start, size, CHUNK)))


def _ignore(_: int) -> None:
    """Stand in for a progress callback."""


async def _size(client: SFTPClient, path: str) -> int | None:
    """Return the size of a regular file; None where there is none of that name."""
    try:
        attributes = await client.stat(path)
    except _ABSENT:
        return None
    return attributes.size or 0 if _is_file(attributes) else None


def _is_file(attributes: SFTPAttrs) -> bool:
    if attributes.permissions is not None and stat.S_IFMT(attributes.permissions):
        return stat.S_ISREG(attributes.permissions)
    return attributes.type == asyncssh.FILEXFER_TYPE_REGULAR


async def _opened(client: SFTPClient, path: str) -> tuple[SFTPClientFile, int] | None:
    """Open a file to be read; None where there is none."""
    try:
        file = await client.open(path, asyncssh.FXF_READ, encoding=None)
    except _ABSENT:
        return None
    attributes = await file.stat()
    return file, attributes.size or 0


async def _begun(client: SFTPClient, path: str, flags: int) -> SFTPClientFile:
    """Open a file to be written."""
    return await client.open(path, flags, SFTPAttrs(permissions=_MODE), encoding=None)


async def _read(file: SFTPClientFile, offset: int, wanted: int) -> bytes:
    """Return exactly so many bytes; raises ConnectionError where the file ends before."""
    data: bytes = await file.read(wanted, offset)
    if len(data) != wanted:
        raise ConnectionError(f"the file ended {wanted - len(data)} bytes early at {offset + len(data)}")
    return data


async def _sample(client: SFTPClient, path: str, offset: int, length: int) -> bytes:
    async with client.open(path, asyncssh.FXF_READ, encoding=None) as file:
        data: bytes = await file.read(length, offset)
        return data


async def _list(client: SFTPClient, folder: str, found: list[ObjectInfo]) -> None:
    """Add the files of a folder to ``found``; of a link, what it leads to counts."""
    try:
        async for entry in client.scandir(folder):
            name, attributes = str(entry.filename), entry.attrs
            if is_hidden(name):
                continue
            if attributes.permissions is not None and stat.S_ISLNK(attributes.permissions):
                size = await _size(client, posixpath.join(folder, name))
            else:
                size = attributes.size or 0 if _is_file(attributes) else None
            if size is not None:
                found.append(ObjectInfo(key=name, size=size))
    except _ABSENT:
        return


async def _left(client: SFTPClient, folder: str, before: datetime) -> list[tuple[str, str]]:
    """Return what is left of puts that were broken off, and that nothing was added to since: names with their keys."""
    written: dict[str, int | None] = {}
    with contextlib.suppress(*_ABSENT):
        async for entry in client.scandir(folder):
            written[str(entry.filename)] = entry.attrs.mtime
    old = {name for name, moment in written.items() if moment is not None and moment < before.timestamp()}
    return [(name, key) for name, key in left_behind(written).items() if name in old]


async def _removed(client: SFTPClient, path: str) -> None:
    with contextlib.suppress(*_ABSENT):
        await client.remove(path)


async def _room(client: SFTPClient, folder: str) -> int | None:
    """Return the free bytes of the filesystem that the folder is on, or will be; None where that is not told."""
    try:
        found = await client.statvfs(folder)
    except asyncssh.SFTPOpUnsupported:
        return None
    except _ABSENT:
        parent = posixpath.dirname(folder.rstrip("/"))
        return await _room(client, parent or ".") if parent != folder else None
    return found.bavail * (found.frsize or found.bsize)


async def _make_folders(client: SFTPClient, folder: str) -> None:
    """Make a folder with those above it; only those that are missing are asked for, as rights above may be few."""
    if await client.isdir(folder):
        return
    above = posixpath.dirname(folder.rstrip("/"))
    if above and above != folder:
        await _make_folders(client, above)
    try:
        await client.mkdir(folder, SFTPAttrs(permissions=_FOLDER_MODE))
    except asyncssh.SFTPError:
        if not await client.isdir(folder):  # somebody else may have made it just now
            raise


async def _renamed(client: SFTPClient, part: str, target: str) -> None:
    """Give a file its name in the place of what has it; where that takes steps, the old one comes back on failure."""
    try:
        await client.posix_rename(part, target)
        return
    except asyncssh.SFTPOpUnsupported:
        pass
    if await _size(client, target) is None:
        await client.rename(part, target)
        return
    folder, name = posixpath.split(target)
    aside = posixpath.join(folder, aside_name(name))
    await _removed(client, aside)
    await client.rename(target, aside)
    try:
        await client.rename(part, target)
    except asyncssh.SFTPError:
        await client.rename(aside, target)
        raise
    await _removed(client, aside)


async def _fsync(file: SFTPClientFile) -> bool:
    """Have a file brought to the disk; False where the server does not offer it."""
    try:
        await file.fsync()
    except asyncssh.SFTPOpUnsupported:
        return False
    return True


async def _settled(client: SFTPClient, path: str) -> tuple[int | None, bool]:
    """Return the size of a file under its new name, and whether that name is on the disk.

    A folder cannot be synced over SFTP. But a file that was renamed is synced with its name by the filesystems that
    keep a journal (ext4, XFS, Btrfs), and it is for those that power is lost without harm anyway.
    """
    try:
        file = await client.open(path, asyncssh.FXF_READ, encoding=None)
    except asyncssh.SFTPPermissionDenied:  # write, but not read
        return await _size(client, path), False
    try:
        return (await file.stat()).size, await _fsync(file)
    finally:
        await file.close()
