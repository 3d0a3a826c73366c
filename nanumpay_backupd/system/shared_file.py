"""One file for several readers at once, read from the disk once for those who keep step. Knows nothing of uploads."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path, PosixPath
from typing import IO, Any, Final, Self

__all__ = ["WINDOW", "SharedFile", "pread"]

_BLOCK: Final = 1 << 20
WINDOW: Final = 64 << 20
"""Bytes that are kept behind the reader that is furthest: parts of S3, three at once, are 48 MiB."""


class SharedFile(PosixPath):
    """The path of a file that several threads read at the same time, each at its own speed and from any place.

    What one of them has read is kept for the others, up to ``window`` bytes behind the furthest. Nobody waits for a
    slower one: who falls further behind reads by itself until it is back in the window. Opened by its own `open`
    ("rb"), or read by `pread`; whoever opens it otherwise has an ordinary file.
    """

    _window: _Window | None = None
    """None: a path that was made of another one, and shares nothing."""

    @classmethod
    def of(cls, path: Path, window: int = WINDOW) -> Self:
        """Return the path of a file, to be shared; its window ends with the last reference to it."""
        shared = cls(path)
        shared._window = _Window(max(1, window // _BLOCK))
        return shared

    @property
    def taken(self) -> int:
        """Return how many bytes were read from the file so far, by all."""
        return self._window.taken if self._window is not None else 0

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]  # one mode is ours
        """Open it; in mode "rb" what is read is shared."""
        if mode != "rb" or self._window is None:
            return super().open(mode, *args, **kwargs)
        return _Stream(self._window, os.open(self, os.O_RDONLY | os.O_CLOEXEC))  # type: ignore[return-value]

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; fewer only at the file's end. Raises OSError."""
        return os.pread(fd, length, offset) if self._window is None else self._window.pread(fd, length, offset)


def pread(path: Path, fd: int, length: int, offset: int) -> bytes:
    """Read from any place of an open file, shared where its path is; as os.pread. Raises OSError."""
    if isinstance(path, SharedFile):
        return path.pread(fd, length, offset)
    return os.pread(fd, length, offset)


class _Stream(io.RawIOBase):
    """One reader's view of a shared file."""

    def __init__(self, window: _Window, fd: int) -> None:
        super().__init__()
        self._window = window
        self._fd = fd
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = max(0, os.fstat(self._fd).st_size - self._at) if size is None or size < 0 else size
        data = self._window.pread(self._fd, wanted, self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._fd).st_size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


class _Window:
    """The blocks that were read of late; of two who want the same one, one reads and the other waits for that."""

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._blocks: dict[int, bytes] = {}
        self._being_read: set[int] = set()
        self._front = -1
        self._news = threading.Condition()
        self.taken = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        pieces: list[bytes] = []
        while length > 0:
            index, start = divmod(offset, _BLOCK)
            piece = self._piece(fd, index, start, min(length, _BLOCK - start))
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, fd: int, index: int, start: int, length: int) -> bytes:
        """Return bytes of one block: out of the window, or read for all, or, too far behind, by itself."""
        with self._news:
            while (block := self._blocks.get(index)) is None and index in self._being_read:
                self._news.wait()
            # A block that is not full is the file's end.
            if block is not None and start < len(block):
                return block if length == len(block) else block[start : start + length]
            alone = block is not None or index <= self._front - self._most
            if not alone:
                self._being_read.add(index)
        if alone:
            data = os.pread(fd, length, index * _BLOCK + start)
            with self._news:
                self.taken += len(data)
            return data
        data = b""
        try:
            data = os.pread(fd, _BLOCK, index * _BLOCK)
        finally:
            self._put(index, data)
        return data[start : start + length]

    def _put(self, index: int, data: bytes) -> None:
        """Keep a block that was read, and let go those that are too far behind now; without data it was not read."""
        with self._news:
            self._being_read.discard(index)
            if data:
                self.taken += len(data)
                self._blocks[index] = data
                self._front = max(self._front, index)
                for old in [one for one in self._blocks if one <= self._front - self._most]:
                    del self._blocks[old]
            self._news.notify_all()
