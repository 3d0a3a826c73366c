"""The plain files in an artifact, one after the other: reads, decompresses, goes through the tar, refuses the foreign.

The one reader that verification, restores and drills share. Judges no content and no checksum.
"""

from __future__ import annotations

import os
import queue
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, NamedTuple, cast

from isal import igzip_lib, isal_zlib

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.system.files import drop_cache
from nanumpay_backupd.transforms.zstd import read_zstd

__all__ = ["UNREADABLE", "Member", "Pump", "chunks_of", "inflater", "members"]

Inflate = Callable[[Iterator[bytes]], Iterator[bytes]]
_CHUNK: Final = 1 << 20
_QUEUED: Final = 8
_GZIP_WBITS: Final = 31
_INPUT: Final = 256 << 10
"""Compressed bytes given to the decompressor at once: it copies what it does not use yet."""
_MOST_AT_ONCE: Final = 512 << 10
"""Plain bytes taken from it in one go: a member that expands a thousandfold stays harmless, and the processor's cache
still holds the piece when it is walked."""
_LARGEST_HEADER: Final = 1 << 20
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"
UNREADABLE: Final[tuple[type[Exception], ...]] = (
    tarfile.TarError,
    igzip_lib.IsalError,  # type: ignore[assignment]
    EOFError,
    # What tarfile raises for some kinds of nonsense in a header.
    ValueError,
    LookupError,
    OverflowError,
)
"""What `Pump` and `members` raise where an artifact is damaged, beside VerifyError."""


class Member(NamedTuple):
    """One file: its path as the archive has it, its bytes, and its content, to be taken before the next member."""

    path: str
    size: int
    pieces: Iterator[bytes]


class Pump:
    """The plain bytes of an artifact, forward only: a thread gets the chunks, who takes the bytes decompresses them.

    A thread for decompressing made it slower: Python's lock went to and fro between that and walking (measured on two
    processors). What ``chunks`` and ``inflate`` raise comes out where the bytes are taken. `read`, `tell` and `seek`
    are what tarfile needs.
    """

    def __init__(self, chunks: Iterator[bytes], inflate: Inflate | None) -> None:
        self._chunks = chunks
        self._stop = threading.Event()
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._pieces = inflate(self._taken()) if inflate is not None else self._taken()
        self._piece = b""
        self._at = 0
        self._position = 0
        self.last = b""
        """What `read` gave last."""
        self._thread = threading.Thread(target=self._carry, name="pump", daemon=True)
        self._thread.start()

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes in pieces as they come; raises EOFError when there are fewer."""
        while size > 0:
            if not self._fill():
                raise EOFError("the archive ends too early")
            start, self._at = self._at, min(self._at + size, len(self._piece))
            size -= self._at - start
            self._position += self._at - start
            yield self._piece[start : self._at]

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left in pieces as they come."""
        while self._fill():
            yield from self.take(len(self._piece) - self._at)

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        if size > _LARGEST_HEADER:
            raise ValueError(f"a header claims {size} bytes")
        self.last = b""
        while (missing := size - len(self.last)) and self._fill():
            self.last += b"".join(self.take(min(missing, len(self._piece) - self._at)))
        return self.last

    def tell(self) -> int:
        """Return how many bytes were taken."""
        return self._position

    def seek(self, position: int) -> None:
        """Pass over what lies before ``position``; raises ValueError where that would lead back."""
        if position < self._position:
            raise ValueError("a header leads back")
        for _ in self.take(position - self._position):
            pass

    def drain(self) -> None:
        """Take all that is left, so that the whole file was read."""
        for _ in self.rest():
            pass

    def close(self) -> None:
        """Stop the thread and whatever gives the chunks; may be called twice."""
        self._stop.set()
        self._thread.join()
        if (close := getattr(self._chunks, "close", None)) is not None:
            close()

    def _fill(self) -> bool:
        """Have a piece of which something is left; False: there is none any more."""
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True

    def _taken(self) -> Iterator[bytes]:
        """Yield what the thread has got; an empty chunk is its end."""
        while item := self._queue.get():
            if isinstance(item, BaseException):
                raise item
            yield item

    def _carry(self) -> None:
        try:
            for chunk in self._chunks:
                if chunk and not self._give(chunk):
                    return
            self._give(b"")
        except Exception as error:  # noqa: BLE001 - handed to the taking thread, which raises it
            self._give(error)

    def _give(self, item: bytes | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def members(plain: Pump, artifact: str, root: str | None = None) -> Iterator[Member]:
    """Yield the plain files of a tar, then read to its end; content that was not taken is passed over.

    Raises VerifyError for a member outside of ``root`` (None: of where the archive is unpacked), one that is no plain
    file or folder, and one that is there twice; one of `UNREADABLE` where it is damaged.
    """
    seen = set()
    with tarfile.TarFile(fileobj=cast("IO[bytes]", plain), encoding="utf-8", errors="strict") as archive:
        for info in archive:
            # Not by tarfile's own filters: Debian 12's Python 3.11.2 has none.
            parts = PurePosixPath(info.name).parts
            inside = "/" not in parts and ".." not in parts and (root is None or parts[:1] == (root,))
            file = info.isreg() and not info.issparse() and info.size >= 0 and len(parts) > (0 if root is None else 1)
            if not inside or not (file or info.isdir()):
                raise _refused(f"{artifact} holds {info.name!r}, which is outside its folder or no plain file")
            if info.isdir():
                continue
            path = "/".join(parts)
            if path in seen:
                raise _refused(f"{artifact} holds {path!r} twice")
            seen.add(path)
            yield Member(path, info.size, plain.take(info.size))
    # To tarfile a header that is nonsense is the end as well.
    if plain.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError("a header in it is damaged, or its end is missing")
    plain.drain()


def chunks_of(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content as the disk has it: what the kernel still holds in memory proves nothing about the disk.

    Its pages are dropped afterwards too, so that reading backups does not push out what the application needs. Raises
    VerifyError where the disk does not give it.
    """
    drop_cache(stream.fileno())
    try:
        while data := stream.read(_CHUNK):
            yield data
    except OSError as error:
        raise VerifyError(f"{path.name} cannot be read: {os.strerror(error.errno or 0)}", hint=_HINT) from None
    finally:
        drop_cache(stream.fileno())


def inflater(compression: str, artifact: str) -> Inflate | None:
    """Return what makes plain bytes of ``artifact``'s, by the manifest's word for it; None: they are plain.

    Raises VerifyError for a word that is not known.
    """
    known: dict[str, Inflate | None] = {
        "gzip": _gunzip,
        "zstd": lambda chunks: read_zstd(chunks, artifact),
        "none": None,
    }
    if compression not in known:
        raise _refused(f"{artifact} is compressed as {compression!r}, says its manifest, which is not known")
    return known[compression]


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress concatenated gzip members, each with its CRC checked; raises when the last one is cut off."""
    inflate = None
    for chunk in chunks:
        for at in range(0, len(chunk), _INPUT):
            data = chunk[at : at + _INPUT]
            while data:
                if inflate is None:
                    inflate = isal_zlib.decompressobj(_GZIP_WBITS)
                plain = inflate.decompress(data, _MOST_AT_ONCE)
                if plain:
                    yield plain
                if inflate.eof:
                    data, inflate = inflate.unused_data, None
                else:
                    data = inflate.unconsumed_tail
    if inflate is not None:
        raise EOFError("the compressed data ends too early")


def _refused(sentence: str) -> VerifyError:
    return VerifyError(sentence, hint=_HINT, code="verify-structure")
