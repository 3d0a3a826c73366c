"""Walks the entries of an oplog slice: whole documents, in order, within the slice's bounds. Replays nothing."""

from __future__ import annotations

import struct
from typing import Final

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.bson_edit import SIZES, TIMESTAMP, skip
from nanumpay_backupd.sources.bson_walk import BsonWalk

__all__ = ["SliceWalk", "stamp_of"]

_INT: Final = struct.Struct("<i")
_STAMP: Final = struct.Struct("<II")
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
    sizes, index = SIZES, data.index
    end = start + _INT.unpack_from(data, start)[0] - 1
    at = start + _INT.size
    while at < end:
        kind = data[at]
        value = index(0, at + 1, end) + 1
        if kind == TIMESTAMP and data[at + 1 : value] == b"ts\0":
            counter, seconds = _STAMP.unpack_from(data, value)
            return OpTime(seconds, counter)
        size = sizes[kind]
        # Most values' types tell their sizes; a call for each would cost as much again.
        at = value + size if size >= 0 else skip(data, kind, value)
    raise LookupError("it has no ts")
