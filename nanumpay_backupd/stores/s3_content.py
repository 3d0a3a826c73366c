"""What goes into a bucket, cut into parts, and the checksums by which a server proves it. Asks no server anything."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Final

from nanumpay_backupd.stores.base import CHUNK
from nanumpay_backupd.stores.payload import Payload

__all__ = ["Digest", "Paced", "WholeDigest", "is_md5", "judge_etag", "part_length", "plain_etag"]

_SMALLEST_PART: Final = 5 << 20
_MOST_PARTS: Final = 10_000
"""Limits of S3: every part but the last has at least 5 MiB, and there are at most 10,000."""
_SENT_AT_ONCE: Final = 256 << 10
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_COMPOSITE: Final = re.compile(r"([0-9a-f]{32})-([0-9]+)")


class Digest:
    """The MD5 of some bytes, in the forms that S3 wants; it guards against damage, not against people."""

    def __init__(self, data: bytes) -> None:
        self.raw = hashlib.md5(data, usedforsecurity=False).digest()

    @property
    def base64(self) -> str:
        """Return it as the header Content-MD5 has it."""
        return base64.b64encode(self.raw).decode("ascii")

    def hex(self) -> str:
        """Return it as ETags have it."""
        return self.raw.hex()


class Paced(io.BytesIO):
    """What a request carries, each piece of which waits before it is sent."""

    def __init__(self, data: bytes, pace: Callable[[int], None]) -> None:
        super().__init__(data)
        self._pace = pace

    def read(self, size: int | None = -1, /) -> bytes:
        """Return a piece, once it may be sent."""
        piece = super().read(size)
        # The connection takes 16 KiB at once; larger pieces are read for the request's signature, and not sent.
        if size is not None and 0 < size <= _SENT_AT_ONCE:
            self._pace(len(piece))
        return piece


class WholeDigest:
    """The MD5 of a whole file, which may be worked out bit by bit."""

    def __init__(self, source: Payload) -> None:
        self._source = source
        self._digest = hashlib.md5(usedforsecurity=False)
        self._at = 0

    def go_on(self, until: Callable[[], bool]) -> None:
        """Work on it until there is something better to do, or all is done."""
        while self._at < self._source.size and not until():
            self._digest.update(self._source.read(self._at, CHUNK))
            self._at += CHUNK

    def hex(self) -> str:
        """Return it, in hex."""
        self.go_on(lambda: False)
        return self._digest.hexdigest()


def part_length(size: int, wanted: int) -> int:
    """Return the bytes per part: as wanted, but within S3's limits (5 MiB at least, 10,000 parts at most)."""
    needed = -(-size // _MOST_PARTS)
    mebibytes = -(-needed // (1 << 20))
    return max(wanted, _SMALLEST_PART, mebibytes << 20)


def plain_etag(etag: str) -> str:
    """Return an ETag without its quotes and marks, in small letters."""
    return etag.strip().removeprefix("W/").strip('"').lower()


def is_md5(etag: str) -> bool:
    """Tell whether an ETag without quotes looks like the MD5 of a whole object."""
    return _MD5.fullmatch(etag) is not None


def judge_etag(etag: str, parts: Sequence[bytes], whole: Callable[[], str]) -> bool | None:
    """Compare an ETag with what was sent: True proves the content, False disproves it, None means that it is no MD5.

    ``parts`` are the raw MD5 of the parts in order; ``whole`` gives the hex MD5 of all, and is called only if needed:
    AWS tells the composite of the parts, others (rclone, after the upload) the MD5 of the whole.
    """
    text = plain_etag(etag)
    if _MD5.fullmatch(text):
        return text == (parts[0].hex() if len(parts) == 1 else whole())
    composite = _COMPOSITE.fullmatch(text)
    if composite is None or int(composite[2]) != len(parts):
        return None
    return composite[1] == hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
