"""Walks the documents of a BSON file by their length words, piece by piece. Knows framing only, not content."""

from __future__ import annotations

import struct
from typing import Final

from nanumpay_backupd.errors import VerifyError

__all__ = ["BsonWalk"]

_LENGTH: Final = struct.Struct("<i")
_SMALLEST: Final = 5
_LARGEST: Final = (16 << 20) + (16 << 10)
"""A stored document is at most 16 MiB; the server's internal limit is 16 KiB more (BSONObjMaxInternalSize)."""


class BsonWalk:
    """Fed a file's content in pieces; counts documents and raises VerifyError at the first that is not whole."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self._name = name
        self._rest = b""
        self._position = 0

    def __call__(self, data: bytes) -> None:
        """Walk the next piece; an empty piece means that the file has ended."""
        if not data:
            if self._rest:
                raise self._damaged("the last document is cut off", self._position)
            return
        if self._rest:
            data = self._rest + data
        end, start, count = len(data), 0, 0
        unpack = _LENGTH.unpack_from
        while end - start >= _SMALLEST:
            (length,) = unpack(data, start)
            if not _SMALLEST <= length <= _LARGEST:
                raise self._damaged(f"a document claims {length} bytes", self._position + start)
            following = start + length
            if following > end:
                break
            if data[following - 1]:
                raise self._damaged("a document does not end where it says", self._position + start)
            start = following
            count += 1
        self.count += count
        self._position += start
        self._rest = data[start:]

    def _damaged(self, what: str, offset: int) -> VerifyError:
        return VerifyError(
            f"{self._name} is damaged at byte {offset}: {what}",
            hint="do not rely on this backup; run a new one now: backupctl run",
        )
