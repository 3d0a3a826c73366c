"""A Store in a folder of an FTP or FTPS server: temporary names, resuming, listings. The connection is ftp_link's."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, TypeVar

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import FtpDestination
from nanumpay_backupd.stores.base import (
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
    unreadable_source,
)
from nanumpay_backupd.stores.ftp_link import REFUSED, FtpLink
from nanumpay_backupd.system.clock import Clock, SystemClock

__all__ = ["FtpStore", "parse_list", "parse_mlsd"]

_MOST_CUTS: Final = 5
"""Reconnections within one put, each of which must find more bytes there than the one before."""
_LONGEST_PAUSE: Final = 5
"""Seconds before a reconnection: 1, 2, 4 and then this. A server needs a moment to write down what it got."""
_SAMPLE: Final = 64 << 10
_READ_BACK: Final = 32 << 20
_PLACES: Final = 8
"""Of what an earlier put left, so many bytes at its end are compared (a server that crashed loses what came last), and
before them a sample at so many places; all of it where the server tells checksums."""
_DATA: Final = 256 << 10
_NO_SUCH_COMMAND: Final = ("500", "501", "502", "504")
_NOTHING_FOUND: Final = ("550", "450")
_UNIX_LINE: Final = re.compile(r"([-a-z])\S{9,10}\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\w+\s+\d+\s+[\d:]+\s(.+)")
_DENIED: Final = re.compile(r"permission|privilege|denied|not allowed", re.IGNORECASE)

T = TypeVar("T")


class FtpStore(Store):
    """A folder on an FTP server. An upload goes to ``.NAME.part`` and is renamed when its size is right."""

    rights = MappingProxyType(
        {
            "put": "to write and rename files (STOR, RNFR, RNTO)",
            "list": "to list the folder (MLSD, LIST)",
            "get": "to read files (RETR)",
            "delete": "to delete files (DELE)",
        }
    )
    properties = Properties(resumes_put=True, replaces_at_once=False)

    def __init__(self, destination: FtpDestination, clock: Clock | None = None) -> None:
        self.name = destination.name
        self._settings = destination
        self._clock = clock or SystemClock()
        self._link: FtpLink | None = None

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`. After a cut it goes on where the server stands, if bytes got through."""
        check_key(key)
        try:
            stream = path.open("rb")
        except OSError as error:
            raise unreadable_source(path, error) from error
        with stream:
            source = _Source(stream, os.fstat(stream.fileno()).st_size, path)
            return self._put(key, source, _Position(progress))

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        return self._put(check_key(key), _Source(io.BytesIO(data), len(data), Path(key)), _Position(None))

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download a file; see `Store.get`. It has the connection for itself; other calls meanwhile open another."""
        check_key(key)
        doing = f"reading {key}"
        size = self._run(lambda link: link.size(key) if self._enter(link, make=False) else None)
        if size is None:
            raise store_error("object-missing", f"destination {self.name!r}: there is no {key} in {self._folder}")
        if offset >= size:
            return
        link, self._link = self._link, None
        assert link is not None
        # A server without REST sends all of it.
        rest = offset if "REST" in link.features else 0
        skip, left = offset - rest, size - rest
        wanted = size - offset if length is None else min(length, size - offset)
        try:
            for chunk in link.download(key, doing, rest):
                left -= len(chunk)
                piece, skip = chunk[skip : skip + wanted], max(0, skip - len(chunk))
                wanted -= len(piece)
                if piece:
                    yield piece
                if left > 0 and not wanted:
                    # The rest is not wanted: to have the server end it takes as long as a new connection.
                    link.close()
                    return
        except BaseException:
            link.close()
            raise
        self._give_back(link)
        if left:
            raise store_error(
                "destination-unreachable",
                f"destination {self.name!r}: {doing} ended {left} bytes before the end of the {size} bytes",
                "the connection was cut; try again",
            )

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one file; see `Store.stat`."""
        check_key(key)
        size = self._run(lambda link: link.size(key) if self._enter(link, make=False) else None)
        return None if size is None else ObjectInfo(key=key, size=size)

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the files of the folder; see `Store.list`. Uses MLSD, or LIST in its usual form, or NLST and SIZE."""
        for info in self._run(self._listing):
            if not is_hidden(info.key):
                yield info

    def delete(self, key: str) -> None:
        """Remove one file; see `Store.delete`."""
        check_key(key)

        def action(link: FtpLink) -> None:
            if not self._enter(link, make=False):
                return
            link.ask(f"DELE {part_name(key)}", f"deleting {key}", REFUSED)
            if link.ask(f"DELE {key}", f"deleting {key}", REFUSED):
                return
            refusal = link.refusal
            if link.size(key) is not None:
                raise link.fault(f"deleting {key}", refusal)

        self._run(action)

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Delete old unfinished uploads; see `Store.sweep`. Where a server tells no times (MDTM), none is old."""
        gone = []

        def action(link: FtpLink) -> None:
            if not self._enter(link, make=False):
                return
            for name, key in left_behind(info.key for info in self._listing(link, "LIST -a")).items():
                if not ours(key):
                    continue
                written = link.modified(name)
                if written is not None and written < before and link.ask(f"DELE {name}", "deleting", REFUSED):
                    gone.append(key)

        self._run(action)
        return tuple(gone)

    def close(self) -> None:
        """Drop the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def _folder(self) -> str:
        return f"folder {self._settings.path or '.'} of FTP server {self._settings.host}:{self._settings.port}"

    def _open(self) -> FtpLink:
        if self._link is None:
            self._link = FtpLink(self._settings)
        return self._link

    def _ready(self) -> FtpLink:
        """Return a connection that stands in the destination's folder, which is made if need be."""
        link = self._open()
        self._enter(link, make=True)
        return link

    def _give_back(self, link: FtpLink) -> None:
        if self._link is None:
            self._link = link
        else:
            link.close()

    def _run(self, action: Callable[[FtpLink], T]) -> T:
        """Do something that may be done twice; a connection that the server dropped while idle is opened again."""
        kept = self._link is not None
        try:
            return action(self._open())
        except StoreError as error:
            self.close()
            if not kept or error.code != "destination-unreachable":
                raise
        try:
            return action(self._open())
        except StoreError:
            self.close()
            raise

    def _enter(self, link: FtpLink, *, make: bool) -> bool:
        """Go to the destination's folder, making each missing level if asked; False when it is not there."""
        path = self._settings.path
        doing = f"opening folder {path}"
        if link.entered or not path or link.ask(f"CWD {path}", doing, REFUSED):
            link.entered = True
            return True
        if not make:
            if _DENIED.search(link.refusal):
                raise link.fault(doing, link.refusal)
            return False
        if path.startswith("/"):
            link.ask("CWD /", doing)
        for level in filter(None, path.split("/")):
            if link.ask(f"CWD {level}", doing, REFUSED):
                continue
            refusal = "" if link.ask(f"MKD {level}", doing, (*REFUSED, "521")) else link.refusal
            # Somebody else may have made it just now.
            if not link.ask(f"CWD {level}", doing, REFUSED):
                raise self._no_folder(link, level, refusal or link.refusal)
        link.entered = True
        return True

    def _no_folder(self, link: FtpLink, level: str, refusal: str) -> StoreError:
        fault = link.fault(f"making folder {level} of {self._settings.path}", refusal)
        if fault.code != "destination-denied" or _DENIED.search(refusal):
            return fault
        hint = "check the path: it begins at what this user sees as / after logging in"
        return store_error("destination-not-found", fault.message, hint)

    def _put(self, key: str, source: _Source, position: _Position) -> PutResult:
        self._send_all(key, source, position)
        self._publish(key, source.size)
        return PutResult(size=source.size, proven=False, resumed=position.resumed)

    def _send_all(self, key: str, source: _Source, position: _Position) -> None:
        """Bring the whole file to the temporary name, over several connections if need be."""
        part = part_name(key)
        reached = 0
        cut: StoreError | None = None
        # A kept connection may have died unnoticed.
        self._run(lambda link: link.ask("NOOP", "connecting"))
        for attempt in range(_MOST_CUTS + 1):
            if cut is not None:
                self._pause(min(2 ** (attempt - 1), _LONGEST_PAUSE), position)
            there = self._there(part, source, position)
            if cut is not None and there <= reached:
                raise store_error(cut.code, cut.message, f"{cut.hint}; or is the disk of the server full?")
            reached = max(there, 0)
            link = self._ready()
            try:
                position.at(reached)
                if there < 0 or there < source.size:
                    self._send(link, key, source, position, reached)
                return
            except StoreError as error:
                self.close()
                if error.code != "destination-unreachable" or attempt == _MOST_CUTS:
                    self._forget_part(part, error)
                    raise
                cut = error
            except BaseException:  # broken off by the progress callback
                if position.now < WORTH_RESUMING:
                    link.abandon(part)
                self.close()
                raise

    def _pause(self, seconds: int, position: _Position) -> None:
        for _ in range(seconds):
            position.moved(0)  # so that the callback can break off
            self._clock.sleep(1.0)

    def _there(self, part: str, source: _Source, position: _Position) -> int:
        """Return how many bytes of the file the server has under the temporary name, -1 for nothing to go on with.

        What is there counts only if it is the same as the file's beginning, as far as `_same` looks.
        """
        link = self._ready()
        size = link.size(part)
        if size is None or size > source.size:
            return -1
        if position.began and (size < _SAMPLE or "REST" not in link.features):
            return size
        if not position.began and (size < WORTH_RESUMING or "REST" not in link.features):
            return -1
        try:
            same = self._same(link, part, source, position, size)
        except StoreError as error:
            # A new connection: on this one the server may still have the place to begin in mind.
            self.close()
            if error.code == "destination-denied":  # write, but not read: such accounts exist
                return size if position.began else -1
            if position.began or not isinstance(error.__cause__, TimeoutError):
                raise
            same = False  # who hangs on to it there may do so for hours
        if same:
            return size
        # Left in the middle: a new connection, and a new file, as a server may keep the old one locked (vsftpd).
        self.close()
        self._ready().ask(f"DELE {part}", f"deleting {part}", REFUSED)
        return -1

    def _same(self, link: FtpLink, part: str, source: _Source, position: _Position, size: int) -> bool:
        """Compare what the server has with the file, as far as is told at `_READ_BACK`.

        What this put brought is compared at its end only.
        """
        if position.began:
            return self._equal(link, part, source, position, range(size - _SAMPLE, size))
        said = link.checksum(part)
        if said is not None:
            return said[1] == source.checksum(said[0], size, position)
        start = max(0, size - _READ_BACK)
        if not self._equal(link, part, source, position, range(start, size)):
            return False
        for number in range(_PLACES if start else 0):
            at = start * number // _PLACES
            # To stop a server in the middle of a file takes a connection; some allow one at a time.
            self.close()
            if not self._equal(self._ready(), part, source, position, range(at, min(at + _SAMPLE, start)), stop=True):
                return False
        if start:
            self.close()
        return True

    @staticmethod
    def _equal(
        link: FtpLink, part: str, source: _Source, position: _Position, where: range, *, stop: bool = False
    ) -> bool:
        """Compare a range, to the end of what is there, or ``stop`` behind the range: then the link is of no use."""
        at = where.start
        for chunk in link.download(part, f"comparing {part}", at):
            position.moved(0)  # so that the callback can break off
            mine = source.at(at, min(len(chunk), where.stop - at))
            if chunk[: len(mine)] != mine:
                return False
            at += len(mine)
            if stop and at == where.stop:
                break
        return at == where.stop

    def _send(self, link: FtpLink, key: str, source: _Source, position: _Position, offset: int) -> None:
        part, doing = part_name(key), f"storing {key} ({source.size} bytes)"
        if not offset:
            link.upload(f"STOR {part}", doing, None, source.chunks(0), position.moved)
        elif "REST" in link.features:
            link.upload(f"STOR {part}", doing, offset, source.chunks(offset), position.moved)
        else:
            # Every server knows APPE (RFC 959); where it does not work, the size shows it.
            link.upload(f"APPE {part}", doing, None, source.chunks(offset), position.moved)
        # Without TLS a server cannot tell a cut from the end, and says that all is well.
        there = link.size(part) or 0
        if there < source.size:
            raise store_error(
                "destination-unreachable",
                f"destination {self.name!r}: {doing} ended after {there} bytes ({self._folder})",
                "the connection was cut; it is gone on with",
            )

    def _forget_part(self, part: str, error: StoreError) -> None:
        """Delete the temporary file unless it is worth going on with. Best effort."""
        if error.code == "destination-unreachable":
            return
        with contextlib.suppress(StoreError):
            link = self._open()
            if self._enter(link, make=False):
                link.ask(f"DELE {part}", f"deleting {part}", REFUSED)

    def _publish(self, key: str, size: int) -> None:
        """Give the finished upload its name; its size is compared before and after."""
        part = part_name(key)
        renaming = False

        def action(link: FtpLink) -> None:
            nonlocal renaming
            self._enter(link, make=True)
            there = link.size(part)
            # Gone, though we were told nothing: the connection was cut while the server renamed it.
            if there is not None or not renaming:
                self._compare(key, there, size)
                renaming = True
                self._rename(link, part, key)
            there = link.size(key)
            # A damaged object must not pass for a backup.
            gone = there not in (None, size) and link.ask(f"DELE {key}", f"deleting {key}", REFUSED) is not None
            self._compare(key, there, size, gone=gone)

        try:
            self._run(action)
        except StoreError as error:
            self._forget_part(part, error)
            raise

    def _compare(self, key: str, there: int | None, size: int, *, gone: bool = False) -> None:
        if there != size:
            raise store_error(
                "destination-mismatch",
                f"destination {self.name!r}: after storing {key} the server has {there or 0} of {size} bytes"
                f" ({self._folder})",
                ("the damaged object was deleted there; " if gone else "")
                + "it is sent again; if it happens each time, see the FTP server's log and disk",
            )

    @staticmethod
    def _rename(link: FtpLink, old: str, new: str) -> None:
        doing = f"renaming {old} to {new}"

        def rename(source: str, target: str) -> bool:
            link.ask(f"RNFR {source}", doing)
            return link.ask(f"RNTO {target}", doing, (*REFUSED, "501", "521")) is not None

        if rename(old, new):
            return
        refusal = link.refusal
        if link.size(new) is None:
            raise link.fault(doing, refusal)
        # A server that does not rename onto a file that is there: the old one steps aside, and comes back on failure.
        aside = aside_name(new)
        link.ask(f"DELE {aside}", doing, REFUSED)
        if not rename(new, aside):
            raise link.fault(doing, link.refusal)
        if not rename(old, new):
            refusal = link.refusal
            rename(aside, new)
            raise link.fault(doing, refusal)
        link.ask(f"DELE {aside}", doing, REFUSED)

    def _listing(self, link: FtpLink, plain: str = "LIST") -> tuple[ObjectInfo, ...]:
        if not self._enter(link, make=False):
            return ()
        if "MLST" in link.features:
            lines = link.lines("MLSD", "listing", _NO_SUCH_COMMAND)
            if lines is not None:
                return tuple(parse_mlsd(lines))
        lines = link.lines(plain, "listing", (*_NO_SUCH_COMMAND, *_NOTHING_FOUND))
        found = None if lines is None else parse_list(lines)
        if found is not None:
            return found
        names = link.lines("NLST", "listing", _NOTHING_FOUND) or ()
        sizes = ((name, link.size(name)) for name in (line.rpartition("/")[2] for line in names) if name)
        return tuple(ObjectInfo(key=name, size=size) for name, size in sizes if size is not None)


class _Source:
    """What is being uploaded, readable from any place."""

    def __init__(self, stream: BinaryIO, size: int, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.size = size

    def at(self, offset: int, length: int) -> bytes:
        """Return bytes from some place."""
        try:
            self._stream.seek(offset)
            return self._stream.read(length)
        except OSError as error:
            raise unreadable_source(self._path, error) from error

    def checksum(self, algorithm: str, size: int, position: _Position) -> str:
        """Return a checksum of the first bytes, in hex."""
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for offset in range(0, size, _DATA):
            digest.update(self.at(offset, min(_DATA, size - offset)))
            position.moved(0)  # so that the callback can break off
        return digest.hexdigest()

    def chunks(self, offset: int) -> Iterator[bytes]:
        """Yield the rest, up to the size that the file had when the upload began."""
        while offset < self.size:
            chunk = self.at(offset, min(_DATA, self.size - offset))
            if not chunk:
                raise store_error("destination-mismatch", f"{self._path} became shorter while it was being stored")
            offset += len(chunk)
            yield chunk


class _Position:
    """Where an upload stands; reports each byte once, however often it has to be sent."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.began = False
        """Bytes of this upload went to the server, so what it has under the temporary name is ours."""
        self.resumed = 0
        """Bytes that were there before this put."""
        self.now = 0
        self._reported = 0

    def at(self, offset: int) -> None:
        """Note where the server stands after connecting."""
        if not self.began:
            self.resumed = offset
        self.now = offset
        self._report(offset if self.began else 0)

    def moved(self, size: int) -> None:
        """Note that so many bytes were sent."""
        self.began = self.began or size > 0
        self.now += size
        self._report(size)

    def _report(self, sent: int) -> None:
        if self._progress is not None:
            fresh = max(0, self.now - self._reported)
            self._reported += fresh
            self._progress(fresh if sent or not fresh else Resumed(fresh))


def parse_mlsd(lines: tuple[str, ...]) -> Iterator[ObjectInfo]:
    """Yield the files of an MLSD listing (RFC 3659, 7.2)."""
    for line in lines:
        facts, _, name = line.partition(" ")
        pairs = (fact.partition("=") for fact in facts.lower().split(";"))
        values = {key: value for key, _, value in pairs}
        if values.get("type") == "file" and values.get("size", "").isdigit() and name:
            yield ObjectInfo(key=name, size=int(values["size"]))


def parse_list(lines: tuple[str, ...]) -> tuple[ObjectInfo, ...] | None:
    """Return the files of a LIST listing in the form of ``ls -l``, or None when any line has another form."""
    found = []
    for line in lines:
        if re.fullmatch(r"total \d+\s*", line) or not line.strip():
            continue
        match = _UNIX_LINE.fullmatch(line)
        if match is None:
            return None
        if match[1] == "-":
            found.append(ObjectInfo(key=match[3], size=int(match[2])))
    return tuple(found)
