"""A path whose content is made while it is read, forward only. Knows nothing of what is made, nor of destinations."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path, PosixPath
from typing import IO, Any, Self

__all__ = ["PouredFile"]

Pour = Callable[[], Iterator[bytes]]


class PouredFile(PosixPath):
    """Stands for what ``pour`` yields, anew each time it is opened ("rb"); ``size`` bytes in all.

    Its name on the disk is that of the file that it is made from. What ``pour`` raises comes out of ``read``; only who
    reads to the end knows that all was right. Of who knows nothing of this class it hides nothing: it is an ordinary
    path then.
    """

    _pour: Pour | None = None
    size: int = 0

    @classmethod
    def of(cls, path: Path, size: int, pour: Pour) -> Self:
        """Return the path of what is made out of ``path``."""
        poured = cls(path)
        poured._pour, poured.size = pour, size
        return poured

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]  # one mode is ours
        """Open it; in mode "rb" what is read is made."""
        if mode != "rb" or self._pour is None:
            return super().open(mode, *args, **kwargs)
        return _Stream(self._pour)  # type: ignore[return-value]


class _Stream(io.RawIOBase):
    """One reading, from the beginning; going back to it (``seek(0)``) begins anew."""

    def __init__(self, pour: Pour) -> None:
        super().__init__()
        self._pour = pour
        self._pieces = pour()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("it is read forward only")
        self.close_pieces()
        self._pieces, self._rest = self._pour(), memoryview(b"")
        return 0

    def close_pieces(self) -> None:
        """Let go of what makes it."""
        if (close := getattr(self._pieces, "close", None)) is not None:
            close()

    def close(self) -> None:
        if not self.closed:
            self.close_pieces()
        super().close()
