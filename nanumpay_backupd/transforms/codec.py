"""Block codecs: raw bytes to one gzip member, or to themselves. No files, no threads."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import msgspec
from isal import isal_zlib

__all__ = ["Codec", "gzip_codec", "stored_codec"]

_GZIP_WBITS: Final = 31
_ISAL_MAX_LEVEL: Final = 3


class Codec(msgspec.Struct, frozen=True):
    """Turns one block into bytes that can be concatenated with other blocks' results and read back as a whole."""

    name: str
    level: int
    suffix: str
    encode: Callable[[bytes | memoryview], bytes]


def gzip_codec(level: int) -> Codec:
    """Return the codec of independent gzip members: ISA-L for levels 0 to 3 (many times faster), zlib for 4 to 9.

    Concatenated members are one valid gzip file (RFC 1952, 2.2); gunzip, GNU tar, Python and Node read them.
    """

    def fast(data: bytes | memoryview) -> bytes:
        return isal_zlib.compress(data, level, _GZIP_WBITS)

    def small(data: bytes | memoryview) -> bytes:
        return zlib.compress(data, level, _GZIP_WBITS)

    return Codec(name="gzip", level=level, suffix=".tar.gz", encode=fast if level <= _ISAL_MAX_LEVEL else small)


def stored_codec() -> Codec:
    """Return the codec that changes nothing: a plain tar."""
    return Codec(name="none", level=0, suffix=".tar", encode=bytes)
