"""What a collection holds, as a number of documents and a digest that does not depend on their order. Reads no server.

The digest of a collection is the sum of the XXH3-128 hashes of its documents' BSON bytes, modulo 2**128, as 32 hex
digits: the same in whatever order the documents come, which differs between a dump, its restore and the server. A
document that is there twice counts twice. It finds faults, not forgeries: the artifact's SHA-256 is for those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from xxhash import xxh3_128_intdigest

from nanumpay_backupd.model import Content

__all__ = ["ContentDigest", "documents_in"]

_LENGTH: Final = struct.Struct("<i")
_SMALLEST: Final = 5
_MODULUS: Final = 1 << 128


class ContentDigest:
    """The documents of one collection, added one by one in any order."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, document: bytes | memoryview) -> None:
        """Add one document, given as its BSON bytes."""
        self._sum += xxh3_128_intdigest(document)
        self.count += 1

    def hexdigest(self) -> str:
        """Return the digest of what was added so far, as 32 hex digits."""
        return f"{self._sum % _MODULUS:032x}"

    def content(self) -> Content:
        """Return documents and digest together."""
        return Content(documents=self.count, digest=self.hexdigest())


def documents_in(data: bytes) -> Iterator[memoryview]:
    """Yield the documents that stand one after the other in ``data``; raises ValueError when the last is cut off."""
    view, start, end = memoryview(data), 0, len(data)
    while start < end:
        (length,) = _LENGTH.unpack_from(data, start)
        following = start + length
        if length < _SMALLEST or following > end:
            raise ValueError(f"a document claims {length} bytes, {end - start} are there")
        yield view[start:following]
        start = following
