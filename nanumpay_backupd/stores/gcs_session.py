"""One resumable upload to Google Cloud Storage: chunks, cuts, where the server stands. Objects are not known here.

The protocol is Google's ("Performing resumable uploads"): each chunk but the last is a multiple of 256 KiB; an answer
308 tells in ``Range`` how far the server has kept what was sent, which may be less; the last chunk carries the CRC32C
of all, and the server makes the object only if it agrees. A session's address lets anybody write that one object, for
a week.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import google_crc32c
import requests
from google.api_core.exceptions import GoogleAPICallError

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.stores.base import CHUNK, store_error
from nanumpay_backupd.stores.gcs_errors import answered, status
from nanumpay_backupd.stores.payload import Body, Counted, Payload
from nanumpay_backupd.stores.tls import about_tls
from nanumpay_backupd.system.clock import Clock

__all__ = ["Crc32c", "SessionGoneError", "Upload", "cancel"]

_MOST_CUTS: Final = 5
"""Failures in a row, none of which brought the upload forward."""
_LONGEST_PAUSE: Final = 8.0
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_GONE: Final = frozenset({404, 410})
_LOGIN: Final = frozenset({401, 403})


class SessionGoneError(Exception):
    """The server knows the session no more."""


class Crc32c:
    """The CRC32C of a file's beginning, which grows with what is sent; the same bytes are counted once."""

    def __init__(self, payload: Payload | None = None) -> None:
        self._payload = payload or Payload(Path(), b"")
        self._checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        self.summed = 0
        """How many bytes it is of."""

    def up_to(self, end: int, offset: int = 0, data: bytes = b"") -> str:
        """Return it for the bytes before ``end``, as Google writes it; ``data`` are those at ``offset``, if at hand."""
        while self.summed < end:
            if offset <= self.summed < offset + len(data):
                piece = data[self.summed - offset : end - offset]
            else:
                piece = self._payload.read(self.summed, min(CHUNK, end - self.summed))
            self.add(piece)
        return self.text()

    def add(self, piece: bytes) -> None:
        """Count bytes that follow those before, wherever they are from."""
        self._checksum.update(piece)
        self.summed += len(piece)

    def text(self) -> str:
        """Return it as Google writes it."""
        return base64.b64encode(self._checksum.digest()).decode("ascii")


class Upload:
    """A session, and what of a file it has. Raises what requests and Google's library raise, and StoreError.

    ``timeout`` is that of the connection and of a silence, in seconds; ``sending`` is told of the CRC32C of all before
    an offset and before the next one, before a chunk goes between them.
    """

    def __init__(
        self,
        http: requests.Session,
        url: str,
        payload: Payload,
        counted: Counted,
        *,
        clock: Clock,
        timeout: tuple[float, float],
        sending: Callable[[dict[int, str]], None],
    ) -> None:
        self._http = http
        self._url = url
        self._payload = payload
        self.crc = Crc32c(payload)
        self._counted = counted
        self._clock = clock
        self._timeout = timeout
        self._sending = sending

    def look(self) -> int | dict[str, Any]:
        """Return how many bytes the session has, or the object that became of it; SessionGoneError without one."""
        try:
            response = self._ask()
        except _CutError as cut:
            raise cut.fault from None
        except GoogleAPICallError as error:
            if status(error) in _LOGIN:
                raise
            raise SessionGoneError from error  # no address of a session
        return dict(response.json()) if response.status_code in (200, 201) else _reached(response)

    def send(self, chunk: int, offset: int) -> dict[str, Any]:
        """Send all from ``offset``, where the session stands, and return the object as the server describes it.

        ``chunk`` is a multiple of 256 KiB. Raises SessionGoneError when there is no such session.
        """
        failures = 0
        while True:
            self._counted.at(offset)
            try:
                response = self._put(offset, chunk)
            except _CutError as cut:
                failures += 1
                response = self._after_cut(cut, failures)
            if response.status_code in (200, 201):
                self._counted.at(self._payload.size)
                return dict(response.json())
            reached = _reached(response)
            failures = 0 if reached > offset else failures
            offset = reached

    def cancel(self) -> None:
        """Tell the server to forget the session; best effort, it does so by itself after a week."""
        cancel(self._http, self._url, self._timeout)

    def _after_cut(self, cut: _CutError, failures: int) -> requests.Response:
        """Wait a little and ask where the server stands; raises the fault when that has been in vain too often."""
        while failures < _MOST_CUTS:
            for _ in range(int(min(2.0 ** (failures - 1), _LONGEST_PAUSE))):
                self._counted.sending(0)  # so that the callback can break off
                self._clock.sleep(1.0)
            try:
                return self._ask()
            except _CutError as again:
                cut = again
                failures += 1
        raise cut.fault

    def _put(self, offset: int, chunk: int) -> requests.Response:
        data = self._payload.read(offset, chunk)
        end = offset + len(data)
        before = self.crc.up_to(offset) if self.crc.summed <= offset else ""
        checksum = self.crc.up_to(end, offset, data)
        if before:
            self._sending({offset: before, end: checksum})
        headers = {"Content-Range": f"bytes {offset}-{end - 1}/{self._payload.size}"}
        if end == self._payload.size:
            headers["X-Goog-Hash"] = f"crc32c={checksum}"
        return self._request(Body(data, self._counted.sending), headers)

    def _ask(self) -> requests.Response:
        return self._request(b"", {"Content-Range": f"bytes */{self._payload.size}"})

    def _request(self, body: Body | bytes, headers: dict[str, str]) -> requests.Response:
        try:
            response = self._http.request("PUT", self._url, data=body, headers=headers, timeout=self._timeout)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if about_tls(error):
                raise
            raise _CutError(error) from error
        if response.status_code in _GONE:
            raise SessionGoneError
        if response.status_code in _PASSING:
            raise _CutError(answered(response))
        if response.status_code not in (200, 201, 308):
            raise answered(response)
        return response


def cancel(http: requests.Session, url: str, timeout: tuple[float, float]) -> None:
    """Tell the server to forget a session. Best effort: it costs nothing, and ends by itself after a week."""
    with contextlib.suppress(Exception):
        http.request("DELETE", url, timeout=timeout)


class _CutError(Exception):
    """A request did not get through, or the server has a passing problem."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _reached(response: requests.Response) -> int:
    """Return how many bytes the server has kept, as an answer 308 says; no ``Range`` means none."""
    told = response.headers.get("Range", "")
    if not told:
        return 0
    try:
        return int(told.rpartition("-")[2]) + 1
    except ValueError:
        raise _strange(told) from None


def _strange(told: str) -> StoreError:
    return store_error(
        "destination-failed", f"the server answers that it has {told!r} of the object, which is no range"
    )
