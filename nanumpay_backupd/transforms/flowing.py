"""An archive that comes through a pipe: compressed in blocks by threads on its way, hashed, never raw on the disk.

A tool writes one tar into the pipe; each block of it becomes an independent gzip member, in order, so that the whole is
one valid gzip file (RFC 1952, 2.2). What the archive holds is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nanumpay_backupd.transforms.codec import Codec
from nanumpay_backupd.transforms.growing import BLOCK, ArchiveResult

__all__ = ["FlowingArchive"]

_AHEAD = 8
"""Blocks that are read, or compressed and not yet written, at once: with their results at most 32 MiB."""
_PIPE = 1 << 20
"""Bytes that the pipe is asked to hold, instead of 64 KiB: the tool then waits less often."""
_TICK = 0.1
"""Seconds that a silent pipe is waited for, before the caller gets a chance to look at other things."""


class FlowingArchive:
    """Takes all that comes through a pipe; call `step` until it says that the end was reached, then `finish`.

    Not thread-safe: one thread calls it; compression happens in its own threads. Errors are OSError.
    """

    def __init__(self, fileno: int, take: Callable[[bytes], object], *, codec: Codec, threads: int = 2) -> None:
        """Read from ``fileno``, which stays the caller's; ``take`` gets the compressed archive piece by piece."""
        self._fileno = fileno
        with contextlib.suppress(OSError):  # no pipe, or a user who may not have more: it is only slower
            fcntl.fcntl(fileno, fcntl.F_SETPIPE_SZ, _PIPE)
        self._take = take
        self._codec = codec
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="compress")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._hashing: Future[None] | None = None
        self._sha = hashlib.sha256()
        self._block = bytearray()
        self._pending: deque[Future[bytes]] = deque()
        self._size = 0
        self.read = 0
        """Bytes that came through the pipe so far."""

    def step(self) -> bool:
        """Read a block, or as much of it as comes within a moment; returns False at the end of the pipe."""
        while len(self._block) < BLOCK:
            if not select.select([self._fileno], [], [], _TICK)[0]:
                return True
            data = os.read(self._fileno, BLOCK - len(self._block))
            if not data:
                return False
            self._block += data
            self.read += len(data)
        self._submit()
        return True

    def finish(self) -> ArchiveResult:
        """Write what is left; ``raw_bytes`` of the result are those of the tar, and no files are known."""
        if self._block:
            self._submit()
        while self._pending:
            self._write(self._pending.popleft().result())
        if self._hashing is not None:
            self._hashing.result()
        return ArchiveResult(size=self._size, sha256=self._sha.hexdigest(), raw_bytes=self.read, files={})

    def close(self) -> None:
        """Stop the threads; may be called at any time and twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._hasher.shutdown(wait=True)

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._codec.encode, bytes(self._block)))
        self._block.clear()
        while self._pending and (self._pending[0].done() or len(self._pending) >= _AHEAD):
            self._write(self._pending.popleft().result())

    def _write(self, data: bytes) -> None:
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._hasher.submit(self._sha.update, data)
        self._take(data)
        self._size += len(data)
