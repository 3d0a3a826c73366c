"""Decompresses zstd frames piece by piece. Knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import zstandard

__all__ = ["ZSTD_FAULTS", "unzstd"]

ZSTD_FAULTS: Final = (zstandard.ZstdError,)
_INPUT: Final = 4 << 10
"""Compressed bytes given at once: four of them make up to 128 KiB of plain ones, so this bounds the memory."""
_LARGEST_WINDOW: Final = 128 << 20
_ENOUGH: Final = 256 << 10


def unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the plain bytes of concatenated frames; raises ZstdError, or EOFError when the last one is cut off."""
    engine = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    frame = None
    gathered = bytearray()
    for chunk in chunks:
        for at in range(0, len(chunk), _INPUT):
            data = chunk[at : at + _INPUT]
            while data:
                if frame is None:
                    frame = engine.decompressobj()
                gathered += frame.decompress(data)
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if len(gathered) >= _ENOUGH:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
    if frame is not None:
        raise EOFError("the compressed data ends too early")
