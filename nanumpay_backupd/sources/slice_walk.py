"""Walks the entries of an oplog slice: whole documents, in order, within the slice's bounds. Replays nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.bson_walk import BsonWalk

__all__ = ["SliceWalk", "stamp_of"]

_INT: Final = struct.Struct("<i")
_STAMP: Final = struct.Struct("<II")
_TIMESTAMP: Final = 0x11
Buffer = bytes | bytearray


class SliceWalk(BsonWalk):
    """A `BsonWalk` that also asks of every entry's ``ts`` to be after ``start`` and the one before, and up to ``end``.

    VerifyError (``verify-structure``) says which entry is not so.
    """

    def __init__(self, name: str, start: OpTime, end: OpTime) -> None:
        super().__init__(name)
        self._reached = start
        self._end = end

    def _walk(self, data: Buffer, start: int) -> int:
        number = self.count
        stop = super()._walk(data, start)
        while start < stop:
            number += 1
            try:
                stamp = stamp_of(data, start)
            except (ValueError, LookupError, struct.error):
                raise self._wrong(f"entry {number} is no entry of an oplog") from None
            if not self._reached < stamp <= self._end:
                after = "after the slice's end" if stamp > self._end else f"not after {self._reached}"
                raise self._wrong(f"entry {number} is of {stamp}, which is {after}")
            self._reached = stamp
            start += _INT.unpack_from(data, start)[0]
        return stop

    def _wrong(self, what: str) -> VerifyError:
        return VerifyError(
            f"{self._name} is not the slice that its manifest describes: {what}",
            hint="do not rely on this slice; make a full now: backupctl run",
            code="verify-structure",
        )


def stamp_of(data: Buffer, start: int = 0) -> OpTime:
    """Return ``ts`` of the oplog entry whose BSON begins at ``start``; raises LookupError, ValueError or struct.error.

    Fields may stand in any order: a retryable write's entry begins with its session, others do not.
    """
    unpack, fixed, index = _INT.unpack_from, _FIXED, data.index
    end = start + unpack(data, start)[0] - 1
    at = start + _INT.size
    while at < end:
        kind = data[at]
        value = index(0, at + 1, end) + 1
        size = fixed.get(kind)
        if size is None:
            size = _size(kind, data, value)
        elif kind == _TIMESTAMP and data[at + 1 : value] == b"ts\0":
            counter, seconds = _STAMP.unpack_from(data, value)
            return OpTime(seconds, counter)
        at = value + size
    raise LookupError("it has no ts")


def _size(kind: int, data: Buffer, at: int) -> int:
    """Return the bytes of a value whose type does not tell them."""
    if kind == _PATTERN:
        return data.index(0, data.index(0, at) + 1) + 1 - at
    length = int(_INT.unpack_from(data, at)[0])
    if length < 0:
        raise ValueError(f"a length of {length}")
    return length + _COUNTED[kind]


_PATTERN: Final = 0x0B
_FIXED: Final[Mapping[int, int]] = {
    0x01: 8,  # double
    0x06: 0,  # undefined
    0x07: 12,  # object id
    0x08: 1,  # boolean
    0x09: 8,  # date
    0x0A: 0,  # null
    0x10: 4,  # 32-bit integer
    0x11: 8,  # timestamp
    0x12: 8,  # 64-bit integer
    0x13: 16,  # decimal
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}
"""Bytes of a value by its type (BSON 1.1)."""
_COUNTED: Final[Mapping[int, int]] = {
    0x02: 4,  # string
    0x03: 0,  # document
    0x04: 0,  # array
    0x05: 5,  # binary
    0x0C: 16,  # database pointer
    0x0D: 4,  # code
    0x0E: 4,  # symbol
    0x0F: 0,  # code with scope
}
"""Of values that begin with their length: the bytes that this length does not count."""
