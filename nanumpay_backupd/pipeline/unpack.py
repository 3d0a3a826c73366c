"""Takes files out of an artifact, also out of the old program's, which have no manifest. Proves no checksum."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast
from urllib.parse import unquote

import msgspec

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.pipeline.verify import UNREADABLE, Pump, check_file
from nanumpay_backupd.sources.extended_json import ToBson

__all__ = ["OPLOG", "Found", "collection_of", "look_through", "unpack"]

OPLOG: Final = "oplog.bson"
_CHUNK: Final = 1 << 20
_BUCKETS: Final = "system.buckets."
_HINT: Final = "do not rely on this archive; restore another one: backupctl list"
Check = Callable[[str], Callable[[bytes], None] | None]


class Found(msgspec.Struct, frozen=True):
    """One file of an archive: bytes, and documents if it is BSON."""

    size: int
    documents: int


def look_through(artifact: Path, check: Check, progress: Callable[[int], None]) -> dict[str, Found]:
    """Read an archive to its end without unpacking it; returns its files by path. Raises VerifyError when damaged."""
    found = {}
    for path, member, content in _files(artifact):
        found[path] = Found(member.size, check_file(path, member.size, content, check, progress))
    return found


def unpack(
    artifact: Path,
    folder: Path,
    place: Callable[[str], str | None],
    progress: Callable[[int], None],
    create: Callable[[str, Path], IO[bytes] | ToBson] = lambda _, file: file.open("xb"),
) -> dict[str, int]:
    """Write the files for which ``place`` gives a path below ``folder``; returns their sizes by that path.

    ``create`` opens what a file, named by its path in the archive, is written to.

    Raises VerifyError when the archive is damaged, OSError when the disk refuses.
    """
    written = {}
    for path, member, content in _files(artifact):
        target = place(path)
        if target is None:
            continue
        file = folder / target
        file.parent.mkdir(parents=True, exist_ok=True)
        with create(path, file) as stream:
            while data := content.read(_CHUNK):
                stream.write(data)
                progress(len(data))
        written[target] = member.size
    return written


def collection_of(name: str) -> str | None:
    """Return the collection that a file of a dump belongs to, or None when it is no such file."""
    for suffix in (".metadata.json", ".bson"):
        if name.endswith(suffix):
            return unquote(name.removesuffix(suffix)).removeprefix(_BUCKETS)
    return None


def _files(artifact: Path) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    """Yield the plain files of an archive with their paths; anything that would lie outside of it is refused."""
    with artifact.open("rb", buffering=0) as stream:
        plain = Pump(stream, lambda _: None, gzip=artifact.name.endswith(".gz"))
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|", bufsize=_CHUNK) as archive:
                for member in archive:
                    # Not by tarfile's own filters: Debian 12's Python 3.11.2 has none.
                    parts = PurePosixPath(member.name).parts
                    if "/" in parts or ".." in parts or not (member.isreg() or member.isdir()):
                        raise tarfile.TarError(f"{member.name!r} lies outside of it, or is no plain file")
                    if not member.isreg():
                        continue
                    content = archive.extractfile(member)
                    assert content is not None
                    yield str(PurePosixPath(member.name)), member, content
            plain.drain()
        except UNREADABLE as error:
            raise VerifyError(f"{artifact.name} cannot be read: {error}", hint=_HINT, code="verify-structure") from None
        finally:
            plain.close()
