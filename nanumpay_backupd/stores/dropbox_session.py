"""One upload session of Dropbox: chunks, cuts, how far it has come, hashes. Files and folders are not known here.

A session is a row of bytes at Dropbox that is added to at its end, for a week; finishing it makes a file of it. Where a
chunk is added at another place than the end, the answer tells the end: so a cut, and the death of the process, are gone
on with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from nanumpay_backupd.stores.base import CHUNK
from nanumpay_backupd.stores.dropbox_errors import FAULTS, AnswerError, classify
from nanumpay_backupd.stores.dropbox_link import DropboxLink
from nanumpay_backupd.stores.payload import Body, Counted, Payload, ignore
from nanumpay_backupd.system.clock import Clock

__all__ = ["ContentHash", "SessionGoneError", "Upload", "begin"]

_BLOCK: Final = 4 << 20
_MOST_CUTS: Final = 5
"""Failures in a row, none of which brought the upload forward."""
_LONGEST_PAUSE: Final = 8.0


class SessionGoneError(Exception):
    """Dropbox knows the session no more: it is too old, or it is a file already."""


class ContentHash:
    """Dropbox's hash of a content: the SHA-256 of the SHA-256 of each 4 MiB ("Content hash" in its documentation).

    Of bytes as they come (`update`), or of a file's beginning, which only grows (`up_to`).
    """

    def __init__(self, payload: Payload | None = None) -> None:
        self._payload = payload or Payload(Path(), b"")
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._filled = 0
        self.size = 0
        """How many bytes it is of."""

    def update(self, data: bytes) -> Self:
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
        return self

    def up_to(self, end: int) -> str:
        """Return it for all bytes before ``end``."""
        while self.size < end:
            self.update(self._payload.read(self.size, min(CHUNK, end - self.size)))
        return self.hex()

    def hex(self) -> str:
        """Return the hash of all so far."""
        whole = self._whole.copy()
        if self._filled:
            whole.update(self._block.digest())
        return whole.hexdigest()


def begin(link: DropboxLink) -> str:
    """Begin a session, and return its id."""
    answer = link.send("files/upload_session/start", {"close": False}, Body(b"", ignore))
    return str(answer["session_id"])


class Upload:
    """A session, and what of a file it has. Raises `AnswerError`, what urllib3 raises, and SessionGoneError.

    ``sending`` is told of the hashes of all before an offset and before the next one, before a chunk goes between them.
    """

    def __init__(
        self,
        link: DropboxLink,
        session: str,
        payload: Payload,
        counted: Counted,
        *,
        clock: Clock,
        sending: Callable[[dict[int, str]], None],
    ) -> None:
        self._link = link
        self._session = session
        self._payload = payload
        self._counted = counted
        self._clock = clock
        self._sending = sending
        self._failures = 0
        self.digest = ContentHash(payload)

    def look(self) -> int:
        """Return how many bytes the session has: adding nothing where its end is not is answered by where that is."""
        argument = {"cursor": {"session_id": self._session, "offset": 0}, "close": False}
        try:
            self._link.send("files/upload_session/append_v2", argument, Body(b"", ignore))
        except AnswerError as error:
            told = _correct_offset(error)
            if told is None:
                if error.status == 409:
                    raise SessionGoneError from error
                raise
            return told
        return 0

    def send(self, chunk: int, offset: int, commit: dict[str, Any]) -> dict[str, Any]:
        """Send all from ``offset``, where the session stands, and return the file that became of it.

        ``chunk`` is a multiple of 4 MiB.
        """
        while True:
            self._counted.at(offset)
            try:
                if offset == self._payload.size:
                    self.digest.up_to(offset)
                    cursor = {"session_id": self._session, "offset": offset}
                    argument: dict[str, Any] = {"cursor": cursor, "commit": commit}
                    return self._link.send("files/upload_session/finish", argument, Body(b"", ignore))
                offset = self._append(offset, chunk)
                self._failures = 0
            except FAULTS as error:
                told = _correct_offset(error)
                if told is not None and told != offset and told <= self._payload.size:
                    offset = told
                    continue
                self._after(error)

    def _append(self, offset: int, chunk: int) -> int:
        """Send one chunk, and return where the session stands then."""
        data = self._payload.read(offset, chunk)
        end = offset + len(data)
        if self.digest.size <= offset:  # else it is sent once more
            before = self.digest.up_to(offset)
            self._sending({offset: before, end: self.digest.update(data).hex()})
        cursor = {"session_id": self._session, "offset": offset}
        argument = {"cursor": cursor, "close": False, "content_hash": ContentHash().update(data).hex()}
        self._link.send("files/upload_session/append_v2", argument, Body(data, self._counted.sending))
        return end

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
