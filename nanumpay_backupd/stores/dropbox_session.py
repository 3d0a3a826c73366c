"""One upload session of Dropbox: chunks, cuts, how far it has come, hashes. Files and folders are not known here.

A session is a row of bytes at Dropbox that is added to at its end, for a week; finishing it makes a file of it. Where a
chunk is added at another place than the end, the answer tells the end: so a cut, and the death of the process, are gone
on with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from nanumpay_backupd.stores.base import CHUNK
from nanumpay_backupd.stores.dropbox_errors import FAULTS, AnswerError, classify
from nanumpay_backupd.stores.dropbox_link import DropboxLink
from nanumpay_backupd.stores.payload import Body, Counted, Payload, ignore
from nanumpay_backupd.system.clock import Clock

__all__ = ["ContentHash", "SessionGoneError", "SessionNote", "Upload", "begin"]

_BLOCK: Final = 4 << 20
_MOST_CUTS: Final = 5
"""Failures in a row, none of which brought the upload forward."""
_LONGEST_PAUSE: Final = 8.0


class SessionGoneError(Exception):
    """Dropbox knows the session no more: it is too old, or it is a file already."""


class SessionNote(msgspec.Struct):
    """What is written down of an upload: the session, the file's size, what is there and the hash of that."""

    session: str
    size: int
    offset: int = 0
    hashed: str = ""


class ContentHash:
    """Dropbox's hash of a content: the SHA-256 of the SHA-256 of each 4 MiB ("Content hash" in its documentation)."""

    def __init__(self, data: bytes = b"") -> None:
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._filled = 0
        self.size = 0
        """How many bytes it is of."""
        self.update(data)

    def update(self, data: bytes) -> None:
        """Count what follows."""
        view = memoryview(data)
        self.size += len(view)
        while view:
            piece = view[: _BLOCK - self._filled]
            self._block.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == _BLOCK:
                self._whole.update(self._block.digest())
                self._block, self._filled = hashlib.sha256(), 0

    def up_to(self, payload: Payload, end: int) -> None:
        """Count what a file has before ``end`` and was not counted yet."""
        while self.size < end:
            self.update(payload.read(self.size, min(CHUNK, end - self.size)))

    def hex(self) -> str:
        """Return the hash of all so far."""
        whole = self._whole.copy()
        if self._filled:
            whole.update(self._block.digest())
        return whole.hexdigest()


def begin(link: DropboxLink, size: int) -> SessionNote:
    """Begin a session for so many bytes."""
    answer = link.send("files/upload_session/start", {"close": False}, Body(b"", ignore))
    return SessionNote(str(answer["session_id"]), size)


class Upload:
    """A session, and what of a file it has. Raises `AnswerError`, what urllib3 raises, and SessionGoneError."""

    def __init__(
        self,
        link: DropboxLink,
        payload: Payload,
        note: SessionNote,
        *,
        counted: Counted,
        clock: Clock,
        remember: Callable[[SessionNote], None],
    ) -> None:
        self._link = link
        self._payload = payload
        self._note = note
        self._counted = counted
        self._clock = clock
        self._remember = remember
        self._failures = 0
        self.digest = ContentHash()

    def send(self, chunk: int, commit: dict[str, Any]) -> dict[str, Any]:
        """Send all that is not there yet, and return the file that became of it. ``chunk`` is a multiple of 4 MiB."""
        offset = self._note.offset
        while True:
            self._counted.at(offset)
            self.digest.up_to(self._payload, offset)
            if offset > self._note.offset and self.digest.size == offset:
                self._failures = 0
                self._note.offset, self._note.hashed = offset, self.digest.hex()
                self._remember(self._note)
            cursor = {"session_id": self._note.session, "offset": offset}
            try:
                if offset == self._payload.size:
                    argument: dict[str, Any] = {"cursor": cursor, "commit": commit}
                    return self._link.send("files/upload_session/finish", argument, Body(b"", ignore))
                data = self._payload.read(offset, chunk)
                argument = {"cursor": cursor, "close": False, "content_hash": ContentHash(data).hex()}
                self._link.send("files/upload_session/append_v2", argument, Body(data, self._counted.sending))
                offset += len(data)
            except FAULTS as error:
                told = _correct_offset(error)
                if told is not None and told != offset and told <= self._payload.size:
                    offset = told
                    continue
                self._after(error)

    def _after(self, error: Exception) -> None:
        """Wait a little after a cut; raises the fault when it was none, or has been in vain too often."""
        if isinstance(error, AnswerError):
            if error.status == 409 and _is_gone(error):
                raise SessionGoneError from error
            if error.status != 429 and error.status < 500:
                raise error
        elif classify(error)[0] != "destination-unreachable":
            raise error
        self._failures += 1
        if self._failures >= _MOST_CUTS:
            raise error
        for _ in range(int(min(2.0 ** (self._failures - 1), _LONGEST_PAUSE))):
            self._counted.sending(0)  # so that the callback can break off
            self._clock.sleep(1.0)


def _lookup(error: AnswerError) -> dict[str, Any]:
    found = error.body.get("error")
    found = found if isinstance(found, dict) else {}
    inner = found.get("lookup_failed")
    return inner if isinstance(inner, dict) else found


def _correct_offset(error: Exception) -> int | None:
    """Return where the session really ends, if the answer says so."""
    if not isinstance(error, AnswerError) or error.status != 409:
        return None
    told = _lookup(error).get("correct_offset")
    return told if isinstance(told, int) else None


def _is_gone(error: AnswerError) -> bool:
    return _lookup(error).get(".tag") in ("not_found", "closed", "not_closed")
