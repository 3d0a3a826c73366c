"""Proves an artifact: checksum, decompression, tar, every document walked, counts and digests compared.

What is read, a file or a stream from a destination, and what follows from the answer is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote, unquote_plus

import msgspec

from nanumpay_backupd.errors import NotFoundError, ToolError, VerifyError
from nanumpay_backupd.model import SLICES, STREAM, CollectionStat, Content, Manifest, OpTime, Part, Verification
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.members import UNREADABLE, Pump, chunks_of, inflater, members
from nanumpay_backupd.pipeline.parts import compare_parts
from nanumpay_backupd.pipeline.snapshot import check_lines, json_files
from nanumpay_backupd.sources.base import WHOLE
from nanumpay_backupd.sources.extended_json import ToBson
from nanumpay_backupd.sources.slice_walk import SliceWalk
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.transforms.sealing import DamagedError

__all__ = [
    "Check",
    "Keep",
    "Proof",
    "Sink",
    "check_file",
    "opened",
    "prove",
    "prove_checksum",
    "prove_same",
    "prove_sealed",
    "prove_stream",
    "read_back",
    "size_differs",
]

_MONGODB: Final = "mongodb"
_OPLOG: Final = "oplog.bson"
"""The one file of a dump that stands beside the database folders (`sources.oplog`)."""
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"
_LARGEST_SIDE_FILE: Final = 64 << 20
"""Bytes of a file that is read as a whole (metadata): far more than mongodump ever writes into one."""
Check = Callable[[str], Callable[[bytes], None] | None]
"""Gives the checker of one file inside, by its path below the backup's folder (`sources.base.Source.check`)."""
Sink = IO[bytes] | ToBson
"""What the content of a file inside is written to."""
Keep = Callable[[str], Sink | None]
"""Gives the file to which the content of a file inside is written as well, by its whole path, or None."""
Progress = Callable[[int], None]


class Proof(msgspec.Struct, frozen=True):
    """What a reading found: the record of it, and what the manifest has, with the digests of the documents.

    That are ``collections`` of MongoDB, ``parts`` of any other source.
    """

    verification: Verification
    collections: tuple[CollectionStat, ...]
    parts: tuple[Part, ...] = ()


class Seen(msgspec.Struct, frozen=True):
    """One file inside: bytes, and documents with their digest if it was walked (``walked``).

    ``counted``: what walked it counts documents; ``parts`` are those in the file, where it tells several apart.
    """

    size: int
    documents: int = 0
    digest: str = ""
    walked: bool = False
    counted: bool = True
    parts: dict[str, Content] = {}
    detail: str = ""


def read_back(artifact: Path, manifest: Manifest, check: Check, clock: Clock, progress: Progress) -> Verification:
    """Read ``artifact`` from the disk once and compare everything with its manifest, as `prove` does."""
    return prove(artifact, manifest, check, clock, progress).verification


def prove(
    artifact: Path,
    manifest: Manifest,
    check: Check,
    clock: Clock,
    progress: Progress,
    keep: Keep | None = None,
    *,
    keys: Keyring | None = None,
) -> Proof:
    """Read ``artifact`` from the disk once and compare everything with its manifest.

    ``check`` gives the checker of one file inside; ``progress`` gets raw bytes walked. With ``keep`` the files are
    written out on the way: what it was given counts for nothing until this has returned. Of a slice the one file inside
    is ``BACKUP.bson``.

    What is encrypted is opened with ``keys``. Raises DecryptError where that needs a key that is not there or another
    one, before anything is read; VerifyError with a sentence that names what differs; NotFoundError
    (``artifact-missing``) when the file is gone: the application deletes in that folder by itself, and a file that is
    not there is not a damaged one. OSError is of what ``keep`` gave.
    """
    with opened(artifact, manifest) as stream:
        return prove_stream(chunks_of(artifact, stream), manifest, check, clock, progress, keep, keys=keys)


def prove_stream(
    chunks: Iterator[bytes],
    manifest: Manifest,
    check: Check,
    clock: Clock,
    progress: Progress,
    keep: Keep | None = None,
    *,
    keys: Keyring | None = None,
) -> Proof:
    """Do the same to an artifact that comes in chunks, which are taken in another thread and end with this call.

    What ``chunks`` raises comes out of here.
    """
    started = clock.monotonic()
    meter = _Meter(manifest)
    name = manifest.artifact.name
    keys = keys or Keyring()
    keys.unlock(manifest.artifact)
    with contextlib.closing(meter.through(chunks)) as passing:
        plain = Pump(keys.opened(manifest.artifact, passing), inflater(manifest.artifact.compression, name))
        try:
            walk = _walker(manifest)
            found = walk(plain, manifest, check_lines(check, manifest), progress, keep or (lambda _: None))
        except DamagedError as error:
            plain.close()
            raise _as_stored(error, meter, passing, name) from None
        except UNREADABLE as error:
            # Pieces are walked as they come, so damage may show as nonsense before a member's CRC tells.
            raise VerifyError(f"{name} cannot be read: {error}", hint=_HINT, code="verify-structure") from None
        finally:
            plain.close()
    meter.judge()
    size = sum(seen.size for seen in found.values())
    _compare_size(manifest, size)
    if manifest.source.type != _MONGODB:
        documents, parts = compare_parts(manifest, found)
        detail = "; ".join(seen.detail for seen in found.values() if seen.detail)
        record = msgspec.structs.replace(_record("structure", clock, started, documents, size), detail=detail)
        return Proof(record, (), parts)
    documents, collections = _compare(manifest, found)
    return Proof(_record("structure", clock, started, documents, size), collections)


def _as_stored(error: DamagedError, meter: _Meter, rest: Iterator[bytes], name: str) -> Exception:
    """Return what is to be said of an artifact that did not decrypt: it is only damaged where it is not as stored."""
    for _ in rest:
        pass
    try:
        meter.judge()
    except VerifyError:
        return error
    return ToolError(
        f"{name} is byte for byte what was stored, and yet could not be decrypted: {error.message}",
        hint="try again; where it stays so, try by hand (docs/encryption.md)",
        retryable=True,
    )


def prove_sealed(chunks: Iterator[bytes], manifest: Manifest, clock: Clock, keys: Keyring) -> Verification:
    """Compare an encrypted artifact with its manifest as far as that goes without a key; raises VerifyError.

    Size and SHA-256 are those that were stored, nothing is missing, and its header names those for whom it was made.
    """
    artifact = manifest.artifact
    seal = artifact.seal
    framing = keys.framing(artifact)

    def through() -> Iterator[bytes]:
        for chunk in chunks:
            framing.feed(chunk)
            yield chunk

    found = prove_checksum(through(), manifest, clock)
    framing.finish((seal.plain_size or None) if seal is not None else None)
    if seal is not None and framing.header != seal.header:
        raise VerifyError(
            f"{artifact.name} is encrypted for others than its manifest says", hint=_HINT, code="verify-structure"
        )
    count = len(seal.recipients) if seal is not None else 0
    whom = f"to {count} {'key' if count == 1 else 'keys'}" if count else "with a passphrase"
    return msgspec.structs.replace(found, detail=f"whole, and encrypted {whom}; not decrypted, for want of a key here")


def prove_same(chunks: Iterator[bytes], manifest: Manifest, keys: Keyring, progress: Progress) -> None:
    """Decrypt an artifact and compare it with what was encrypted, which was proven; raises as `prove_stream`."""
    artifact = manifest.artifact
    assert artifact.seal is not None, "it is encrypted"
    keys.unlock(artifact)
    meter = _Meter(manifest)
    digest, size = hashlib.sha256(), 0
    with contextlib.closing(meter.through(chunks)) as passing:
        try:
            for piece in keys.opened(artifact, passing):
                digest.update(piece)
                size += len(piece)
                progress(len(piece))
        except DamagedError as error:
            raise _as_stored(error, meter, passing, artifact.name) from None
    meter.judge()
    if (size, digest.hexdigest()) != (artifact.seal.plain_size, artifact.seal.plain_sha256):
        raise VerifyError(
            f"{artifact.name} decrypts to something else than what was encrypted", hint=_HINT, code="verify-checksum"
        )


def prove_checksum(chunks: Iterator[bytes], manifest: Manifest, clock: Clock) -> Verification:
    """Compare size and SHA-256 of an artifact that comes in chunks with the manifest; raises VerifyError."""
    started = clock.monotonic()
    meter = _Meter(manifest)
    with contextlib.closing(meter.through(chunks)) as passing:
        for _ in passing:
            pass
    meter.judge()
    return _record("checksum", clock, started, 0, meter.size)


def opened(artifact: Path, manifest: Manifest) -> IO[bytes]:
    """Open an artifact whose size is right; raises as `prove` does."""
    try:
        stream = artifact.open("rb", buffering=0)
    except FileNotFoundError:
        raise NotFoundError(
            f"{artifact} was deleted before it could be read back",
            hint="find out who deletes in that folder (the application keeps only the newest .tar.gz there)",
            code="artifact-missing",
        ) from None
    if (error := size_differs(manifest, os.fstat(stream.fileno()).st_size)) is not None:
        stream.close()
        raise error
    return stream


def size_differs(manifest: Manifest, size: int) -> VerifyError | None:
    """Return what is to be said of an artifact with so many bytes, None when they are right."""
    if size == manifest.artifact.size:
        return None
    return VerifyError(
        f"{manifest.artifact.name} is {size} bytes, its manifest says {manifest.artifact.size}",
        hint=_HINT,
        code="verify-size",
    )


def check_file(
    path: str, size: int, pieces: Iterator[bytes], check: Check, progress: Progress, sink: Sink | None = None
) -> Seen:
    """Take one file's content to its end, also into ``sink``; raises VerifyError when it is damaged."""
    checker = check(path)
    if checker is None and path.endswith(".json"):
        pieces = _whole_json(path, size, pieces)
    for piece in pieces:
        if checker is not None:
            checker(piece)
        if sink is not None:
            sink.write(piece)
        progress(len(piece))
    if checker is None:
        return Seen(size)
    checker(b"")
    return Seen(
        size,
        int(getattr(checker, "count", 0)),
        str(getattr(checker, "digest", "")),
        walked=True,
        counted=hasattr(checker, "count"),
        parts=dict(getattr(checker, "parts", {})),
        detail=str(getattr(checker, "detail", "")),
    )


class _Meter:
    """Counts and hashes what passes, in whatever thread that is."""

    def __init__(self, manifest: Manifest) -> None:
        self.size = 0
        self._manifest = manifest
        self._digest = hashlib.sha256()

    def through(self, chunks: Iterator[bytes]) -> Generator[bytes]:
        """Hand on the chunks."""
        try:
            for chunk in chunks:
                self.size += len(chunk)
                self._digest.update(chunk)
                yield chunk
        finally:
            if (close := getattr(chunks, "close", None)) is not None:
                close()

    def judge(self) -> None:
        """Compare with the manifest; raises VerifyError."""
        if (error := size_differs(self._manifest, self.size)) is not None:
            raise error
        if self._digest.hexdigest() != self._manifest.artifact.sha256:
            raise VerifyError(
                f"the SHA-256 of {self._manifest.artifact.name} is not the one in its manifest",
                hint=_HINT,
                code="verify-checksum",
            )


def _walker(manifest: Manifest) -> Callable[[Pump, Manifest, Check, Progress, Keep], dict[str, Seen]]:
    """Return what goes through an artifact of this kind."""
    if manifest.source.form == STREAM:
        return _walk_stream
    return _walk_slice if manifest.kind in SLICES and manifest.source.type == _MONGODB else _walk


def _walk_stream(plain: Pump, manifest: Manifest, check: Check, progress: Progress, keep: Keep) -> dict[str, Seen]:
    """Go through an archive that a source's own tool wrote; what is in it is that source's matter."""
    size = manifest.artifact.raw_bytes
    seen = _kept(keep(WHOLE), WHOLE, size, plain.rest(), check, progress)
    return {WHOLE: msgspec.structs.replace(seen, size=plain.tell())}


def _walk(plain: Pump, manifest: Manifest, check: Check, progress: Progress, keep: Keep) -> dict[str, Seen]:
    """Go through the tar; returns what was found, by path inside the backup's folder."""
    found = {}
    for path, size, pieces in members(plain, manifest.artifact.name, manifest.backup):
        inside = path.removeprefix(f"{manifest.backup}/")
        found[inside] = _kept(keep(path), inside, size, pieces, check, progress)
    return found


def _walk_slice(plain: Pump, manifest: Manifest, _: Check, progress: Progress, keep: Keep) -> dict[str, Seen]:
    """Go through the entries of a slice."""
    name, span = f"{manifest.backup}.bson", manifest.consistency
    walk = SliceWalk(name, OpTime.parse(span.start), OpTime.parse(span.end))
    size = manifest.artifact.raw_bytes
    seen = _kept(keep(name), name, size, plain.rest(), lambda _: walk, progress)
    return {name: msgspec.structs.replace(seen, size=plain.tell())}


def _kept(sink: Sink | None, path: str, size: int, pieces: Iterator[bytes], check: Check, progress: Progress) -> Seen:
    if sink is None:
        return check_file(path, size, pieces, check, progress)
    with sink:
        return check_file(path, size, pieces, check, progress, sink)


def _whole_json(path: str, size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Hand on a small JSON file, read and understood."""
    if size > _LARGEST_SIDE_FILE:
        raise VerifyError(f"{path} in the archive claims {size} bytes", hint=_HINT, code="verify-structure")
    data = b"".join(pieces)
    try:
        json.loads(data)
    except ValueError:
        raise VerifyError(f"{path} in the archive is not valid JSON", hint=_HINT, code="verify-structure") from None
    yield data


def _compare_size(manifest: Manifest, total: int) -> None:
    if total != manifest.artifact.raw_bytes:
        raise VerifyError(
            f"{manifest.artifact.name} holds {total} bytes of files, its manifest says {manifest.artifact.raw_bytes}",
            hint=_HINT,
            code="verify-size",
        )


def _compare(manifest: Manifest, found: dict[str, Seen]) -> tuple[int, tuple[CollectionStat, ...]]:
    """Hold what was found against what was promised when it was written; returns documents, and the collections."""
    name = manifest.artifact.name
    sliced = manifest.kind in SLICES
    promised = manifest.consistency.entries if sliced or manifest.consistency.level == "point-in-time" else None
    oplog = found.get(f"{manifest.backup}.bson" if sliced else _OPLOG)
    entries = oplog.documents if oplog is not None else None
    if entries != promised:
        raise VerifyError(
            f"{name} holds {entries or 'no'} oplog entries, its manifest says {promised or 'none'}",
            hint=_HINT,
            code="verify-counts",
        )
    if sliced:
        return entries or 0, manifest.source.collections
    dumped = {path: seen for path, seen in found.items() if seen.walked and path != _OPLOG}
    return sum(seen.documents for seen in dumped.values()), _compare_collections(manifest, dumped)


def _compare_collections(manifest: Manifest, dumped: dict[str, Seen]) -> tuple[CollectionStat, ...]:
    expected = {f"{item.database}/{item.name}": item for item in manifest.source.collections}
    # A snapshot of one collection may be Extended JSON, and its manifest tells which file that is.
    exported = {path: f"{item.database}/{item.name}" for path, item in json_files(manifest).items()}
    found = {exported.get(path) or _collection(path): seen for path, seen in dumped.items()}
    # A very long name is shortened to a hash in the file's name: such files are compared by their figures alone.
    named = expected.keys() & found.keys()
    differing = sorted(name for name in named if _figures(expected[name]) != _figures(found[name]))
    if differing or sorted(_figures(expected[name]) for name in expected.keys() - named) != sorted(
        _figures(found[name]) for name in found.keys() - named
    ):
        raise VerifyError(
            f"{manifest.artifact.name} holds {sum(seen.documents for seen in found.values())} documents in "
            f"{len(found)} collections, mongodump reported {sum(item.documents for item in expected.values())} in "
            f"{len(expected)}" + (f"; {differing[0]} differs" if differing else ""),
            hint=_HINT,
            code="verify-counts",
        )
    return tuple(
        _with_digest(manifest, item, found[name]) if name in named else item for name, item in expected.items()
    )


def _collection(path: str) -> str:
    """Return the collection of a file; mongodump escapes names as forms in a browser do, with "+" for a blank."""
    database, _, file = path.rpartition("/")
    return f"{unquote(database)}/{unquote_plus(file.rpartition('.')[0])}"


def _figures(item: CollectionStat | Seen) -> tuple[int, int]:
    return item.documents, item.bytes if isinstance(item, CollectionStat) else item.size


def _with_digest(manifest: Manifest, item: CollectionStat, seen: Seen) -> CollectionStat:
    """Return the collection with its documents' digest; raises VerifyError when it had another one before."""
    if item.digest and seen.digest and item.digest != seen.digest:
        raise VerifyError(
            f"{manifest.artifact.name} holds other documents of {item.database}.{item.name} than when it was proven",
            hint=_HINT,
            code="verify-checksum",
        )
    return msgspec.structs.replace(item, digest=seen.digest or item.digest)


def _record(level: str, clock: Clock, started: float, documents: int, size: int) -> Verification:
    seconds = round(clock.monotonic() - started, 3)
    return Verification(level=level, at=clock.now(), ok=True, seconds=seconds, documents=documents, bytes=size)
