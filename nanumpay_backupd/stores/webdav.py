"""A Store in a folder of a WebDAV server (RFC 4918): temporary names, listings. The connection is webdav_link's."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, TypeVar
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.settings.schema import WebdavDestination
from nanumpay_backupd.stores.base import (
    CHUNK,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Store,
    check_key,
    is_hidden,
    part_key,
    part_name,
    store_error,
    unreadable_source,
)
from nanumpay_backupd.stores.webdav_answers import FIND, Entry, read_multistatus
from nanumpay_backupd.stores.webdav_link import WebdavLink
from nanumpay_backupd.stores.webdav_login import Login

__all__ = ["WebdavStore"]

_SENT: Final = 64 << 10
_SLOWEST: Final = 10e6
"""Bytes per second that a server is believed to check or copy what it got, before it answers."""
_DONE: Final = (200, 201, 204)
_ASKED: Final = {"X-Hash": "sha1"}
"""Nextcloud then tells the checksum of what it got (X-Hash-SHA1); ownCloud has it among the file's properties."""

T = TypeVar("T")


_PATH_HINT: Final = "check url and path: is there a file where the path wants a folder?"


class WebdavStore(Store):
    """A folder. An upload goes to ``.NAME.part`` and is moved when its size is right.

    The protocol has no way to go on with an upload, and none to replace a file in one step: servers delete the old one
    first (RFC 4918, 9.9.3).
    """

    rights = MappingProxyType(
        {
            "put": "to store (PUT, MOVE)",
            "list": "to list (PROPFIND)",
            "get": "to read (GET)",
            "delete": "to delete (DELETE)",
        }
    )
    properties = Properties(replaces_at_once=False, tells_room=True)

    def __init__(self, destination: WebdavDestination) -> None:
        self.name = destination.name
        self._settings = destination
        self._folder = destination.path.strip("/")
        self._link: WebdavLink | None = None
        self._login = Login(
            destination.username, destination.password, private=urlsplit(destination.url).scheme == "https"
        )

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Upload a file; see `Store.put`."""
        check_key(key)
        try:
            stream = path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable_source(path, error) from error
        with stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha1(usedforsecurity=False)
            chunks = _chunks(path, stream, size, progress or _ignore, digest.update)
            return self._put(key, chunks, size, digest.hexdigest)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Upload a small object; see `Store.put_bytes`."""
        digest = hashlib.sha1(data, usedforsecurity=False)
        return self._put(check_key(key), (data,) if data else (), len(data), digest.hexdigest)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Download a file; see `Store.get`. It has the connection for itself; other calls meanwhile open another."""
        doing = f"reading {check_key(key)}"
        last = "" if length is None else str(offset + length - 1)
        headers = {"Range": f"bytes={offset}-{last}"} if offset or last else {}
        link, answer = self._run(lambda link: (link, link.ask("GET", self._at(key), doing, headers)))
        self._link = None
        whole = False
        try:
            if answer.status == 404:
                link.words(answer, doing)
                raise store_error("object-missing", f"destination {self.name!r}: there is no {key} in {link.place}")
            if answer.status == 416:
                link.words(answer, doing)
                whole = True
                return
            if answer.status not in (200, 206):
                raise link.fault(answer, doing)
            # A server may ignore Range, which is its right (RFC 9110, 14.2).
            skip = offset if answer.status == 200 else 0
            for chunk in link.content(answer, CHUNK, doing):
                piece, skip = chunk[skip : None if length is None else skip + length], max(0, skip - len(chunk))
                length = None if length is None else length - len(piece)
                if piece:
                    yield piece
                if length == 0:
                    break
            whole = answer.isclosed() and not answer.will_close
        finally:
            if whole and self._link is None:
                self._link = link
            else:
                link.close()

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask for one file; see `Store.stat`."""
        check_key(key)
        entry = self._run(lambda link: self._entry(link, self._at(key), f"looking at {key}"))
        return None if entry is None or entry.folder else ObjectInfo(key=key, size=entry.size)

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the files of the folder; see `Store.list`. The server has no pages: it tells all in one answer."""
        for entry in self._run(lambda link: self._find(link, self._at(""), "1", "listing")):
            if not entry.folder and not is_hidden(entry.name):
                yield ObjectInfo(key=entry.name, size=entry.size)

    def delete(self, key: str) -> None:
        """Remove one file; see `Store.delete`."""
        check_key(key)
        self._run(lambda link: self._delete(link, key, f"deleting {key}"))

    def room(self) -> int | None:
        """Ask for the quota (RFC 4331), which servers need not tell; see `Store.room`."""
        entry = self._run(lambda link: self._entry(link, self._at(""), "asking for the room"))
        if entry is None:
            entry = self._run(lambda link: self._entry(link, "", "asking for the room"))
        return entry.room if entry is not None else None

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:
        """Delete what a process that was killed left; see `Store.sweep`. Where a server tells no times, none is old."""
        doing = "looking for unfinished uploads"
        gone = []
        for entry in self._run(lambda link: self._find(link, self._at(""), "1", doing)):
            key = part_key(entry.name)
            if key is None or not ours(key) or entry.modified is None or entry.modified >= before:
                continue
            self._run(lambda link, name=entry.name: self._delete(link, name, doing))  # type: ignore[misc]
            gone.append(key)
        return tuple(gone)

    def close(self) -> None:
        """Drop the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _at(self, name: str) -> str:
        """Return the path of a file below the configured address; of the folder itself for an empty name."""
        return f"{self._folder}/{name}" if self._folder else name

    def _run(self, action: Callable[[WebdavLink], T]) -> T:
        """Do something that may be done twice; a connection that the server dropped while idle is opened again."""
        if self._link is not None and not self._link.closed:
            try:
                return action(self._link)
            except StoreError as error:
                if error.code != "destination-unreachable":
                    raise
        self.close()
        self._link = WebdavLink(self._settings, self._login)
        return action(self._link)

    def _put(self, key: str, chunks: Iterable[bytes], size: int, sha1: Callable[[], str]) -> PutResult:
        doing = f"storing {key} ({size} bytes)"
        part, target = self._at(part_name(key)), self._at(key)
        patience = size / _SLOWEST
        self._run(self._make_folder)
        try:
            link = self._fresh()
            headers = {"Content-Type": "application/octet-stream", **_ASKED}
            answer = link.ask("PUT", part, doing, headers, chunks, length=size, patience=patience)
            self._expect(link, answer, doing)
            told = (answer.getheader("X-Hash-SHA1") or "").strip().lower()
            proven = self._compare(link, part, doing, size, sha1=sha1(), told=told)
            headers = {"Destination": link.url(target), "Overwrite": "T"}
            self._expect(link, link.ask("MOVE", part, doing, headers, patience=patience), doing)
        except BaseException:
            # Best effort, with a connection of its own: the old one may be in the middle of something.
            self.close()
            with contextlib.suppress(StoreError):
                self._run(lambda link: self._delete(link, part_name(key), doing))
            raise
        self._run(lambda link: self._compare(link, target, doing, size, key=key))
        return PutResult(size=size, proven=proven)

    def _fresh(self) -> WebdavLink:
        if self._link is None or self._link.closed:
            self._link = WebdavLink(self._settings, self._login)
        return self._link

    @staticmethod
    def _expect(link: WebdavLink, answer: http.client.HTTPResponse, doing: str) -> None:
        if answer.status not in _DONE:
            raise link.fault(answer, doing)
        link.words(answer, doing)

    def _compare(
        self, link: WebdavLink, path: str, doing: str, size: int, *, sha1: str = "", told: str = "", key: str = ""
    ) -> bool:
        """Compare what is there in size and, with ``sha1``, by the checksum where one is ``told`` or kept there.

        Tells whether there was one. With ``key``, what is damaged is deleted: it must not pass for a backup.
        """
        link = link if not link.closed else self._fresh()
        entry = self._entry(link, path, doing)
        there = entry.size if entry is not None else 0
        found = told or (entry.sha1 if entry is not None else "")
        if entry is not None and there == size and (not sha1 or not found or found == sha1):
            return bool(sha1 and found)
        gone = ""
        if key and entry is not None:
            with contextlib.suppress(StoreError):
                self._run(lambda link: self._delete(link, key, doing))
                gone = "the damaged object was deleted there; "
        what = f"{there} bytes" if there != size else f"another checksum ({found})"
        raise store_error(
            "destination-mismatch",
            f"destination {self.name!r}: after {doing} the server has {what} ({link.place})",
            f"{gone}it is sent again; if it happens each time, see the server's log and disk",
        )

    def _make_folder(self, link: WebdavLink) -> None:
        """Make the folder with those above it, up to the configured address."""
        doing = f"making folder {self._folder}"
        if self._entry(link, self._at(""), doing) is not None:
            return
        path = ""
        for level in filter(None, self._folder.split("/")):
            path += f"{level}/"
            link = link if not link.closed else self._fresh()
            answer = link.ask("MKCOL", path, doing)
            if answer.status not in (*_DONE, 405):  # 405: it is there
                fault = link.fault(answer, doing)
                # A folder that cannot be below what is above it: 409 as it should be, 400 (Apache), or another.
                wrong = 400 <= answer.status < 500 and fault.code == "destination-failed"
                raise fault if not wrong else store_error("destination-not-found", fault.message, _PATH_HINT)
            link.words(answer, doing)
        if self._folder:
            there = self._entry(link if not link.closed else self._fresh(), self._at(""), doing)
            if there is None or not there.folder:
                message = f"destination {self.name!r}: {doing} failed in {link.place}: it is not a folder then"
                raise store_error("destination-not-found", message, _PATH_HINT)
        if not self._folder:
            raise store_error(
                "destination-not-found",
                f"destination {self.name!r}: there is nothing at {self._settings.url}",
                "check url: is it the address for WebDAV?",
            )

    def _delete(self, link: WebdavLink, name: str, doing: str) -> None:
        answer = link.ask("DELETE", self._at(name), doing)
        if answer.status == 423:
            error = link.fault(answer, doing)
            raise LockedError(error.message, hint=error.hint)
        if answer.status not in (*_DONE, 404):
            raise link.fault(answer, doing)
        link.words(answer, doing)

    def _entry(self, link: WebdavLink, path: str, doing: str) -> Entry | None:
        return next(iter(self._find(link, path, "0", doing)), None)

    def _find(self, link: WebdavLink, path: str, depth: str, doing: str) -> tuple[Entry, ...]:
        """Return what is at a path (depth 0) or in the folder there (depth 1), without the folder itself."""
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        answer = link.ask("PROPFIND", path, doing, headers, (FIND,), length=len(FIND))
        if answer.status == 404:
            link.words(answer, doing)
            return ()
        if answer.status != 207:
            raise link.fault(answer, doing)
        own = unquote(link.encoded(path)).rstrip("/") if depth == "1" else None
        found: list[Entry] = []
        try:
            found.extend(read_multistatus(link.content(answer, CHUNK, doing), own))
            return tuple(found)
        except (ET.ParseError, ValueError) as error:
            what = "the server broke its answer off" if found else "the answer is not one of WebDAV"
            raise store_error(
                "destination-failed",
                f"destination {self.name!r}: {doing} failed in {link.place}: {what} ({error})",
                "see the server's log; is it busy with an upload?" if found else "is url the address for WebDAV?",
            ) from error
        finally:
            if answer.will_close or not answer.isclosed():
                link.close()


def _chunks(
    path: Path, stream: BinaryIO, size: int, progress: Progress, seen: Callable[[bytes], None]
) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of a file, telling of each chunk once it was taken; ``seen`` gets them all."""
    left = size
    while left:
        try:
            chunk = stream.read(min(_SENT, left))
        except OSError as error:
            raise unreadable_source(path, error) from error
        if not chunk:
            raise store_error("destination-mismatch", f"{path} became shorter while it was being stored")
        left -= len(chunk)
        seen(chunk)
        yield chunk
        progress(len(chunk))


def _ignore(_: int) -> None:
    """Stand in for a progress callback."""
