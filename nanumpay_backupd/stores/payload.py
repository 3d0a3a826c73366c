"""What an upload reads and sends: a file at any place, and a request's body that reports. No driver here."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nanumpay_backupd.stores.base import Progress, Resumed, store_error, unreadable_source
from nanumpay_backupd.system.shared_file import pread

__all__ = ["Body", "Counted", "Payload", "ignore", "sliced"]

_SENT_AT_ONCE: Final = 256 << 10


class Payload:
    """The bytes to be stored: a file, which several threads may read at any place, or what is held in memory.

    To be used in a ``with`` block, which opens the file (StoreError when it cannot be read, not retryable). A file that
    other places are sent too is read once for all (`system.shared_file`).
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self._path = path
        self._data = data
        self._fd = -1
        self.size = 0 if data is None else len(data)

    def __enter__(self) -> Self:
        if self._data is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable_source(self._path, error) from error
            self.size = os.fstat(self._fd).st_size
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``, or up to the end that there was in the beginning."""
        wanted = max(0, min(length, self.size - offset))
        if self._data is not None:
            return self._data[offset : offset + wanted]
        try:
            data = pread(self._path, self._fd, wanted, offset)
        except OSError as error:
            raise unreadable_source(self._path, error) from error
        if len(data) != wanted:
            raise store_error("destination-mismatch", f"{self._path} became shorter while it was being stored")
        return data

    def pieces(self, length: int, offset: int = 0) -> Iterator[bytes]:
        """Yield the rest of it from ``offset``, so many bytes at once."""
        for start in range(offset, self.size, length):
            yield self.read(start, length)


class Body(io.BytesIO):
    """What one request carries. ``pace`` gets the size of each piece before it is sent; raising from it ends it all."""

    def __init__(self, data: bytes, pace: Callable[[int], None]) -> None:
        super().__init__(data)
        self._pace = pace
        self._size = len(data)

    def __len__(self) -> int:
        """Return all that there is, wherever the reading stands; libraries take the request's length from here."""
        return self._size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece, once it may go."""
        piece = super().read(size)
        # A connection takes some 16 KiB at once; larger pieces are read for a request's signature, and not sent.
        if piece and size is not None and 0 < size <= _SENT_AT_ONCE:
            self._pace(len(piece))
        return piece


class Counted:
    """Progress by the place in the file, which may go back: each byte is reported once. ``pace`` may hold it up."""

    def __init__(self, report: Progress, pace: Callable[[int], None] | None = None) -> None:
        self._report = report
        self._pace = pace or ignore
        self._now = 0
        self._highest = 0
        self.resumed = 0
        """How many bytes were there from an earlier put."""

    def at(self, offset: int) -> None:
        """Note that all before this place is there."""
        self._now = offset
        self._tell(int)

    def sending(self, size: int) -> None:
        """Note that so many bytes are being sent, once they may be."""
        self._pace(size)
        self._now += size
        self._tell(int)

    def found(self, offset: int) -> None:
        """Note that all before this place was there from an earlier put."""
        self._now = self.resumed = offset
        self._tell(Resumed)

    def anew(self) -> None:
        """Note that what was found is of no use after all."""
        self._now = self.resumed = 0

    def _tell(self, kind: type[int]) -> None:
        fresh = max(0, self._now - self._highest)
        self._highest += fresh
        self._report(kind(fresh))


def sliced(data: bytes, length: int) -> Iterator[bytes]:
    """Yield bytes in pieces of at most ``length``."""
    for start in range(0, len(data), length):
        yield data[start : start + length]


def ignore(_: int) -> None:
    """Stand in for a progress callback."""
