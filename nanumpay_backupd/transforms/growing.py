"""A tar archive of a folder that is still being written: compresses behind the writer, frees the disk behind itself.

A dump tool appends to its files; this room reads each file behind it in blocks, compresses the blocks in threads, keeps
the compressed members in a part file and punches the raw blocks out. When the tool has ended every size is known, and
the archive is put together: header, members, padding, file by file. Neither the raw dump nor a second copy of the
compressed data ever stands on the disk as a whole. Knows nothing of what the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

import msgspec

from nanumpay_backupd.system.files import begin_writing, punch_hole
from nanumpay_backupd.transforms.codec import Codec

__all__ = ["BLOCK", "ArchiveResult", "GrowingArchive", "writer_into"]

BLOCK: Final = 2 << 20
"""Bytes compressed as one gzip member: large enough for the ratio, small enough to keep memory flat."""
_IN_FLIGHT: Final = 8
_LOOK_EVERY: Final = 8
"""Steps between two looks for new files; in between only the sizes of the open ones are asked for."""
_TAR_BLOCK: Final = 512
_TAR_RECORD: Final = 10240
_COPY: Final = 4 << 20
_STRETCH: Final = 16 << 20
"""Bytes that are sent to the disk at once, so that at the end there is little left to wait for."""
_FILE_MODE: Final = 0o644
_DIR_MODE: Final = 0o755


class ArchiveResult(msgspec.Struct, frozen=True):
    """What was put together: bytes and SHA-256 of the archive, bytes of the files in it, and their sizes by path."""

    size: int
    sha256: str
    raw_bytes: int
    files: dict[str, int]


class _Growing:
    """One file behind its writer: how far it was read, what is being compressed, what is in its part file.

    It is opened when its first whole block is there: a database may have more small collections than descriptors.
    """

    def __init__(self, path: Path, part: Path) -> None:
        self.path = path
        self.part_path = part
        self.part: IO[bytes] | None = None
        self.size = 0
        self.read = 0
        self.freed = 0
        self.pending: deque[tuple[int, Future[bytes]]] = deque()
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def grow(self) -> None:
        """Ask for the size anew, if the file is open."""
        if self._fd is not None:
            self.size = os.fstat(self._fd).st_size

    def whole(self) -> bytes:
        """Read all of a small file, without keeping it open."""
        with self.path.open("rb", buffering=0) as stream:
            data = stream.read(self.size + 1)
        if len(data) != self.size:
            raise OSError(f"a dump file changed while it was read ({len(data)} instead of {self.size} bytes)")
        return data

    def store(self, data: bytes) -> None:
        if self.part is None:
            self.part = self.part_path.open("w+b", buffering=0)
        view = memoryview(data)
        while view:
            view = view[self.part.write(view) :]

    def close(self) -> None:
        for _, future in self.pending:
            future.cancel()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self.part is not None:
            self.part.close()


class GrowingArchive:
    """Follows the files of one folder; call `step` while the tool runs, `finish` when it has ended, `close` always.

    Not thread-safe: one thread calls it; compression happens in its own threads. Errors are OSError (ENOSPC included).
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        *,
        name: str,
        codec: Codec,
        mtime: float,
        punch: bool,
        threads: int = 2,
    ) -> None:
        """Follow ``folder``; the archive holds its content under the folder ``name``.

        ``scratch`` takes the part files and must lie on the archive's filesystem; ``mtime`` (Unix seconds) is given to
        all entries; ``punch``: the filesystem can give blocks back.
        """
        self._folder = folder
        self._scratch = scratch
        self._name = name
        self._codec = codec
        self._mtime = mtime
        self._punch = punch
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="compress")
        self._files: dict[str, _Growing] = {}
        self._in_flight = 0
        self._steps = 0

    @property
    def backlog(self) -> int:
        """Return the raw bytes in complete blocks that were not given back yet, as of the last `step`.

        Ends of files, shorter than a block, do not count: no waiting makes them less before the tool has ended.
        """
        if self._codec.name == "none":
            return 0
        return sum((file.size - file.freed) // BLOCK * BLOCK for file in self._files.values())

    @property
    def written(self) -> int:
        """Return the raw bytes written by the tool, as of the last `step` or `sizes`."""
        return sum(file.size for file in self._files.values())

    def step(self) -> bool:
        """Do what can be done without waiting; returns False when there was nothing, so that the caller may rest."""
        if self._steps % _LOOK_EVERY == 0:
            self._discover()
        else:
            for file in self._files.values():
                file.grow()
        self._steps += 1
        busy = False
        for file in self._files.values():
            busy |= self._collect(file, wait=False)
            busy |= self._submit(file, whole=False)
        return busy

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file so far, by its path below the folder."""
        self._discover()
        return {key: file.size for key, file in self._files.items()}

    def finish(
        self,
        output: Path | Callable[[bytes], object],
        progress: Callable[[int], None] | None = None,
        leave_out: Iterable[str] = (),
    ) -> ArchiveResult:
        """Put the archive together in ``output`` (a staged file, not yet durable). The tool must have ended.

        Where ``output`` is a function, it gets the archive piece by piece, and no file is made. ``progress`` gets the
        archive's bytes as they are written; what it raises ends the work. Files named by ``leave_out`` (paths below the
        folder) do not get into the archive.
        """
        self._discover()
        for name in leave_out:
            if (unwanted := self._files.pop(name, None)) is not None:
                self._in_flight -= len(unwanted.pending)
                unwanted.close()
        # First what any file still has in the threads: it takes the places that the others' last blocks need.
        for file in self._files.values():
            self._collect(file, wait=True)
        for file in self._files.values():
            if file.size > BLOCK:
                while file.read < file.size or file.pending:
                    self._submit(file, whole=True)
                    self._collect(file, wait=True)
        with contextlib.ExitStack() as stack:
            take = (
                writer_into(stack.enter_context(output.open("xb", buffering=0))) if isinstance(output, Path) else output
            )
            hasher = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="hash"))
            assembly = _Assembly(self._codec, take, hasher, punch=self._punch, progress=progress)
            return assembly.run(self._entries(), self._files)

    def close(self) -> None:
        """Stop the threads and close every file; the files themselves are the caller's to remove."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _discover(self) -> None:
        for root, _, names in os.walk(self._folder):
            for name in names:
                path = Path(root) / name
                key = path.relative_to(self._folder).as_posix()
                if key not in self._files:
                    self._files[key] = _Growing(path, self._scratch / f"{len(self._files):06d}.part")
                self._files[key].size = path.stat().st_size

    def _submit(self, file: _Growing, *, whole: bool) -> bool:
        """Hand complete blocks to the threads; with ``whole`` also the last, shorter one."""
        if self._codec.name == "none":
            return False
        busy = False
        while self._in_flight < _IN_FLIGHT and (left := file.size - file.read) > 0 and (whole or left >= BLOCK):
            length = min(BLOCK, left)
            file.pending.append((length, self._pool.submit(self._compress, file.fd, file.read, length)))
            file.read += length
            self._in_flight += 1
            busy = True
        return busy

    def _collect(self, file: _Growing, *, wait: bool) -> bool:
        """Write finished members in order and give their raw blocks back."""
        if self._codec.name == "none":
            if wait:
                file.read = file.size
            return False
        busy = False
        while file.pending and (wait or file.pending[0][1].done()):
            length, future = file.pending.popleft()
            self._in_flight -= 1
            file.store(future.result())
            if self._punch:
                punch_hole(file.fd, file.freed, length)
            file.freed += length
            busy = True
        return busy

    def _compress(self, fd: int, offset: int, length: int) -> bytes:
        data = os.pread(fd, length, offset)
        if len(data) != length:
            raise OSError(f"a dump file shrank while it was read ({len(data)} of {length} bytes at {offset})")
        return self._codec.encode(data)

    def _entries(self) -> list[tuple[tarfile.TarInfo, str | None]]:
        """List the archive's entries in a fixed order: each folder before its files, names sorted."""
        folders = {self._name}
        for key in self._files:
            parent = Path(key).parent.as_posix()
            if parent != ".":
                folders.add(f"{self._name}/{parent}")
        entries: list[tuple[tarfile.TarInfo, str | None]] = [
            (self._info(name, tarfile.DIRTYPE, _DIR_MODE, 0), None) for name in folders
        ]
        for key, file in self._files.items():
            entries.append((self._info(f"{self._name}/{key}", tarfile.REGTYPE, _FILE_MODE, file.size), key))
        return sorted(entries, key=lambda entry: entry[0].name)

    def _info(self, name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, size, int(self._mtime)
        info.uname = info.gname = "root"
        return info


def writer_into(stream: IO[bytes]) -> Callable[[bytes], None]:
    """Return what writes all of each piece into an unbuffered file; it goes to the disk while more comes."""
    written = sent = 0

    def write(data: bytes) -> None:
        nonlocal written, sent
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]
        written += len(data)
        if written - sent >= _STRETCH:
            begin_writing(stream.fileno(), sent, written - sent)
            sent = written

    return write


class _Assembly:
    """Writes headers, members and padding one after the other, hashing in a second thread as it goes."""

    def __init__(
        self,
        codec: Codec,
        take: Callable[[bytes], object],
        hasher: ThreadPoolExecutor,
        *,
        punch: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._codec = codec
        self._progress = progress or (lambda _count: None)
        self._take = take
        self._hasher = hasher
        self._punch = punch
        self._sha = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._loose = bytearray()
        self._plain = 0
        self._size = 0

    def run(self, entries: list[tuple[tarfile.TarInfo, str | None]], files: dict[str, _Growing]) -> ArchiveResult:
        sizes: dict[str, int] = {}
        for info, key in entries:
            self._add(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            if key is None:
                continue
            sizes[key] = info.size
            self._content(files[key], info.size)
            self._add(bytes(-info.size % _TAR_BLOCK))
        end = 2 * _TAR_BLOCK
        self._add(bytes(end + -(self._plain + end) % _TAR_RECORD))
        self._flush()
        if self._hashing is not None:
            self._hashing.result()
        return ArchiveResult(size=self._size, sha256=self._sha.hexdigest(), raw_bytes=sum(sizes.values()), files=sizes)

    def _content(self, file: _Growing, size: int) -> None:
        if file.part is not None:
            self._flush()
            self._copy(file.part.fileno(), file.part.tell())
            self._plain += size
        elif self._codec.name == "none" and size > BLOCK:
            self._flush()
            self._copy(file.fd, size)
            self._plain += size
        else:
            self._add(file.whole())

    def _copy(self, fd: int, length: int) -> None:
        """Move ``length`` bytes to the end of the archive, giving them back to the disk at their old place."""
        offset = 0
        while offset < length:
            data = os.pread(fd, min(_COPY, length - offset), offset)
            if not data:
                raise OSError(f"a part file ended early ({offset} of {length} bytes)")
            self._write(data)
            if self._punch:
                punch_hole(fd, offset, len(data))
            offset += len(data)

    def _add(self, data: bytes) -> None:
        """Collect small pieces, so that headers and small files share a member."""
        self._loose += data
        self._plain += len(data)
        if len(self._loose) >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._loose:
            self._write(self._codec.encode(bytes(self._loose)))
            self._loose.clear()

    def _write(self, data: bytes) -> None:
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._hasher.submit(self._sha.update, data)
        self._take(data)
        self._size += len(data)
        self._progress(len(data))
