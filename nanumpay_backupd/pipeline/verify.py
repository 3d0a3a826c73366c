"""Reads an artifact back and proves it: checksum, gunzip, tar, every document walked, counts compared."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, cast
from urllib.parse import unquote

from isal import igzip_lib, isal_zlib

from nanumpay_backupd.errors import NotFoundError, VerifyError
from nanumpay_backupd.model import Manifest, Verification
from nanumpay_backupd.pipeline.snapshot import check_lines, json_files
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import drop_cache

__all__ = ["UNREADABLE", "Pump", "check_file", "read_back"]

_CHUNK: Final = 1 << 20
_OPLOG: Final = "oplog.bson"
"""The one file of a dump that stands beside the database folders (`sources.oplog`)."""
_QUEUED: Final = 8
_GZIP_WBITS: Final = 31
_MOST_AT_ONCE: Final = 2 << 20
"""Plain bytes taken from the decompressor in one go, so that a member that expands a thousandfold stays harmless."""
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"
_LARGEST_SIDE_FILE: Final = 64 << 20
"""Bytes of a file that is read as a whole (metadata): far more than mongodump ever writes into one."""
UNREADABLE: Final[tuple[type[Exception], ...]] = (
    tarfile.TarError,
    igzip_lib.IsalError,  # type: ignore[assignment]
    EOFError,
    # What tarfile raises for some kinds of nonsense in a header.
    ValueError,
    LookupError,
    OverflowError,
)
Check = Callable[[str], Callable[[bytes], None] | None]
Progress = Callable[[int], None]


def read_back(artifact: Path, manifest: Manifest, check: Check, clock: Clock, progress: Progress) -> Verification:
    """Read ``artifact`` from the disk once and compare everything with its manifest.

    ``check`` gives the checker of one file inside (`sources.base.Source.check`); ``progress`` gets raw bytes walked.
    Raises VerifyError with a sentence that names what differs, NotFoundError (``artifact-missing``) when the file is
    gone: the application deletes in that folder by itself, and a file that is not there is not a damaged one.
    """
    started = clock.monotonic()
    try:
        with artifact.open("rb", buffering=0) as stream:
            counts, sizes = _read(stream, artifact, manifest, check_lines(check, manifest), progress)
    except FileNotFoundError:
        raise NotFoundError(
            f"{artifact} was deleted before it could be read back",
            hint="find out who deletes in that folder (the application keeps only the newest .tar.gz there)",
            code="artifact-missing",
        ) from None
    documents = _compare(manifest, counts, sizes)
    return Verification(
        level="structure",
        at=clock.now(),
        ok=True,
        seconds=round(clock.monotonic() - started, 3),
        documents=documents,
        bytes=sum(sizes.values()),
    )


def _read(
    stream: IO[bytes], artifact: Path, manifest: Manifest, check: Check, progress: Progress
) -> tuple[dict[str, int], dict[str, int]]:
    """Read the file once: size, structure, checksum; returns what `_walk` found."""
    size = os.fstat(stream.fileno()).st_size
    if size != manifest.artifact.size:
        raise VerifyError(
            f"{artifact.name} is {size} bytes, its manifest says {manifest.artifact.size}",
            hint=_HINT,
            code="verify-size",
        )
    digest = hashlib.sha256()
    # What the kernel still holds in memory proves nothing about the disk.
    drop_cache(stream.fileno())
    plain = Pump(stream, digest.update, gzip=manifest.artifact.compression == "gzip")
    try:
        found = _walk(plain, manifest, check, progress)
        plain.drain()
    except UNREADABLE as error:
        # Pieces are walked as they come, so damage may show as nonsense before a member's CRC tells.
        raise VerifyError(f"{artifact.name} cannot be read: {error}", hint=_HINT, code="verify-structure") from None
    finally:
        plain.close()
    if digest.hexdigest() != manifest.artifact.sha256:
        raise VerifyError(
            f"the SHA-256 of {artifact.name} is not the one in its manifest", hint=_HINT, code="verify-checksum"
        )
    return found


def _walk(plain: Pump, manifest: Manifest, check: Check, progress: Progress) -> tuple[dict[str, int], dict[str, int]]:
    """Go through the tar; returns documents and bytes per file, by path inside the backup's folder."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|", bufsize=_CHUNK) as archive:
        for member in archive:
            path = member.name.removeprefix(f"{manifest.backup}/")
            outside = path == member.name and member.name != manifest.backup
            if outside or ".." in path.split("/") or not (member.isreg() or member.isdir()):
                raise VerifyError(
                    f"{manifest.artifact.name} holds {member.name!r}, which is outside its folder or no plain file",
                    hint=_HINT,
                    code="verify-structure",
                )
            if member.isdir():
                continue
            content = archive.extractfile(member)
            assert content is not None
            sizes[path] = member.size
            counts[path] = check_file(path, member.size, content, check, progress)
    return counts, sizes


def check_file(path: str, size: int, content: IO[bytes], check: Check, progress: Progress) -> int:
    """Read one file of an archive to its end and return its documents; raises VerifyError when it is damaged."""
    checker = check(path)
    if checker is None and path.endswith(".json"):
        if size > _LARGEST_SIDE_FILE:
            raise VerifyError(f"{path} in the archive claims {size} bytes", hint=_HINT, code="verify-structure")
        try:
            json.loads(content.read())
        except ValueError:
            raise VerifyError(f"{path} in the archive is not valid JSON", hint=_HINT, code="verify-structure") from None
        progress(size)
        return 0
    while data := content.read(_CHUNK):
        if checker is not None:
            checker(data)
        progress(len(data))
    if checker is not None:
        checker(b"")
    return int(getattr(checker, "count", 0))


def _compare(manifest: Manifest, counts: dict[str, int], sizes: dict[str, int]) -> int:
    """Hold what was found against what the dump tool reported when it wrote."""
    total = sum(sizes.values())
    if total != manifest.artifact.raw_bytes:
        raise VerifyError(
            f"{manifest.artifact.name} holds {total} bytes of files, its manifest says {manifest.artifact.raw_bytes}",
            hint=_HINT,
            code="verify-size",
        )
    entries = counts.pop(_OPLOG, None)
    promised = manifest.consistency.entries if manifest.consistency.level == "point-in-time" else None
    if entries != promised:
        raise VerifyError(
            f"{manifest.artifact.name} holds {entries or 'no'} oplog entries, its manifest says {promised or 'none'}",
            hint=_HINT,
            code="verify-counts",
        )
    expected = {f"{item.database}/{item.name}": (item.documents, item.bytes) for item in manifest.source.collections}
    # mongodump escapes names the way URLs do.
    found = {
        unquote(path.removesuffix(".bson")): (counts[path], sizes[path]) for path in counts if path.endswith(".bson")
    }
    # A collection snapshot may be Extended JSON instead.
    found |= {
        f"{item.database}/{item.name}": (counts[path], sizes[path])
        for path, item in json_files(manifest).items()
        if path in counts
    }
    # A very long name is shortened to a hash in the file's name: such files are compared by their figures alone.
    named = expected.keys() & found.keys()
    differing = sorted(name for name in named if expected[name] != found[name])
    if differing or sorted(expected[name] for name in expected.keys() - named) != sorted(
        found[name] for name in found.keys() - named
    ):
        raise VerifyError(
            f"{manifest.artifact.name} holds {sum(count for count, _ in found.values())} documents in {len(found)} "
            f"collections, mongodump reported {sum(count for count, _ in expected.values())} in {len(expected)}"
            + (f"; {differing[0]} differs" if differing else ""),
            hint=_HINT,
            code="verify-counts",
        )
    return sum(counts.values())


class Pump:
    """A readable of the plain bytes: one thread reads and hashes, another decompresses, the caller walks."""

    def __init__(self, stream: IO[bytes], digest: Callable[[bytes], Any], *, gzip: bool) -> None:
        self._stream = stream
        self._digest = digest
        self._stop = threading.Event()
        self._raw: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._plain: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._rest = b""
        self._ended = False
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        if gzip:
            self._threads.append(threading.Thread(target=self._inflate, daemon=True))
        else:
            self._plain = self._raw
        for thread in self._threads:
            thread.start()

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        pieces = [self._rest]
        have = len(self._rest)
        while have < size and (piece := self._next()):
            pieces.append(piece)
            have += len(piece)
        joined = b"".join(pieces)
        self._rest = joined[size:]
        return joined[:size]

    def drain(self) -> None:
        """Read to the end, so that the checksum covers the whole file."""
        while self._next():
            pass

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _next(self) -> bytes:
        if self._ended:
            return b""
        item = self._plain.get()
        if isinstance(item, BaseException):
            self._ended = True
            raise item
        self._ended = not item
        return item

    def _read(self) -> None:
        try:
            while data := self._stream.read(_CHUNK):
                self._digest(data)
                if not self._give(self._raw, data):
                    return
            self._give(self._raw, b"")
        except OSError as error:
            self._give(
                self._raw, VerifyError(f"the artifact cannot be read: {os.strerror(error.errno or 0)}", hint=_HINT)
            )

    def _inflate(self) -> None:
        try:
            for data in _members(self._taken()):
                if not self._give(self._plain, data):
                    return
            self._give(self._plain, b"")
        except Exception as error:  # noqa: BLE001 - handed to the reading thread, which raises it
            self._give(self._plain, error)

    def _taken(self) -> Iterator[bytes]:
        while not self._stop.is_set():
            try:
                item = self._raw.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if not item:
                return
            yield item

    def _give(self, target: queue.Queue[bytes | BaseException], item: bytes | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                target.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _members(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress concatenated gzip members, each with its CRC checked; raises when the last one is cut off."""
    inflate = None
    for piece in pieces:
        data = piece
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
