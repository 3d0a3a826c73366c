"""One file compressed with Zstandard: written as one frame with a checksum, read back piece by piece. No BSON here.

What is written is what ``zstd`` writes and reads (RFC 8878). Several frames one after the other are read as one stream,
so files may be joined with ``cat``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final, Self

import msgspec
import zstandard

from nanumpay_backupd.errors import VerifyError

__all__ = ["LEVEL", "SUFFIX", "Written", "ZstdWriter", "read_zstd"]

LEVEL: Final = 3
SUFFIX: Final = ".zst"
_CHUNK: Final = 1 << 20
_BITE: Final = 512
"""Compressed bytes that are decompressed at once: four may stand for a block of 128 KiB, so this gives up to 16 MiB."""
_LARGEST_WINDOW: Final = 128 << 20
"""Memory that a frame may demand of its reader; ``zstd`` itself refuses more without being told otherwise."""
_HINT: Final = "do not rely on this file; another copy of it may be whole: backupctl show"


class Written(msgspec.Struct, frozen=True):
    """What stands in the file: its bytes, their SHA-256 in hex, and the bytes before compression."""

    size: int
    sha256: str
    raw_bytes: int


class ZstdWriter:
    """Compresses what it is given into a new file; ``with`` closes it, and only `finish` makes it a whole one.

    OSError comes through. Making the file durable is left to whom it is handed.
    """

    def __init__(self, path: Path, *, level: int = LEVEL) -> None:
        self.raw_bytes = 0
        self.size = 0
        self._digest = hashlib.sha256()
        self._frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
        self._stream: IO[bytes] = path.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> None:
        """Compress and write; what is written may lag behind by a block."""
        self.raw_bytes += len(data)
        self._put(self._frame.compress(data))

    def finish(self) -> Written:
        """End the frame and close the file; nothing can be written afterwards."""
        self._put(self._frame.flush())
        self._stream.close()
        return Written(size=self.size, sha256=self._digest.hexdigest(), raw_bytes=self.raw_bytes)

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)


def read_zstd(source: Path | IO[bytes] | Iterable[bytes], name: str = "") -> Iterator[bytes]:
    """Yield the plain bytes of a file, a stream or its pieces, frame after frame, in pieces of a moderate size.

    Raises VerifyError (``verify-structure``) that names ``name`` when a frame is cut off or damaged, or when something
    else follows it; OSError where a file cannot be read.
    """
    label = name or (source.name if isinstance(source, Path) else "the stream")
    try:
        yield from _frames(_pieces(source))
    except zstandard.ZstdError as error:
        raise _damaged(label, str(error)) from None
    except EOFError as error:
        raise _damaged(label, str(error)) from None


def _frames(pieces: Iterable[bytes]) -> Iterator[bytes]:
    context = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    frame = None
    found = False
    for piece in pieces:
        for at in range(0, len(piece), _BITE):
            data = piece[at : at + _BITE]
            while data:
                if frame is None:
                    frame = context.decompressobj()
                    found = True
                plain = frame.decompress(data)
                if plain:
                    yield plain
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it is cut off")
    if not found:
        raise EOFError("it is empty")


def _pieces(source: Path | IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as stream:
            yield from _pieces(stream)
    elif hasattr(source, "read"):
        while data := source.read(_CHUNK):
            yield data
    else:
        yield from source


def _damaged(label: str, reason: str) -> VerifyError:
    return VerifyError(f"{label} cannot be decompressed: {reason}", hint=_HINT, code="verify-structure")
