"""Takes files out of an artifact, also out of the old program's, which have no manifest. Proves no checksum."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote_plus

import msgspec

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import plain_name
from nanumpay_backupd.pipeline.members import UNREADABLE, Member, Pump, chunks_of, inflater, members
from nanumpay_backupd.pipeline.verify import Check, Sink, check_file

__all__ = ["OPLOG", "Found", "Unpacker", "collection_of", "look_through", "unpack"]

OPLOG: Final = "oplog.bson"
_BUCKETS: Final = "system.buckets."
_HINT: Final = "do not rely on this archive; restore another one: backupctl list"
Create = Callable[[str, Path], Sink]
Place = Callable[[str], str | None]
"""Says where below a folder the file of that path goes, None: it is not wanted."""


class Found(msgspec.Struct, frozen=True):
    """One file of an archive: bytes, and documents if it is BSON."""

    size: int
    documents: int


class Unpacker:
    """Makes the files for which ``place`` gives a path below ``folder``: what `verify.prove` takes as ``keep``."""

    def __init__(self, folder: Path, place: Place, create: Create | None = None) -> None:
        """``create`` opens what a file, named by its path in the archive, is written to."""
        self._folder = folder
        self._place = place
        self._create: Create = create or (lambda _, file: file.open("xb"))
        self._targets: list[str] = []

    def __call__(self, path: str) -> Sink | None:
        """Make the file for a member's content, None when it is not wanted; raises OSError."""
        target = self._place(path)
        if target is None:
            return None
        file = self._folder / target
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = self._create(path, file)
        self._targets.append(target)
        return stream

    def written(self) -> dict[str, int]:
        """Return the sizes of the files by their paths below the folder."""
        files = {target: self._folder / target for target in self._targets}
        return {target: file.stat().st_size for target, file in files.items() if file.exists()}


def look_through(
    artifact: Path, check: Check, progress: Callable[[int], None], keys: Keyring | None = None
) -> dict[str, Found]:
    """Read an archive to its end without unpacking it; returns its files by path.

    Raises VerifyError when it is damaged, DecryptError when it is encrypted and ``keys`` do not open it.
    """
    found = {}
    with _files(artifact, keys) as files:
        for path, size, pieces in files:
            seen = check_file(path, size, pieces, check, progress)
            found[path] = Found(seen.size, seen.documents)
    return found


def unpack(
    artifact: Path, folder: Path, place: Place, progress: Callable[[int], None], keys: Keyring | None = None
) -> dict[str, int]:
    """Write the files for which ``place`` gives a path below ``folder``; returns their sizes by that path.

    Raises as `look_through`, OSError when the disk refuses.
    """
    unpacker = Unpacker(folder, place)
    with _files(artifact, keys) as files:
        for path, _, pieces in files:
            stream = unpacker(path)
            if stream is None:
                continue
            with stream:
                for piece in pieces:
                    stream.write(piece)
                    progress(len(piece))
    return unpacker.written()


def collection_of(name: str) -> str | None:
    """Return the collection that a file of a dump belongs to, or None when it is no such file."""
    for suffix in (".metadata.json", ".bson"):
        if name.endswith(suffix):
            # mongodump writes a blank as "+".
            return unquote_plus(name.removesuffix(suffix)).removeprefix(_BUCKETS)
    return None


@contextlib.contextmanager
def _files(artifact: Path, keys: Keyring | None) -> Iterator[Iterator[Member]]:
    """Give the plain files of an archive, for a with block that takes all of them; VerifyError when it is damaged."""
    with artifact.open("rb", buffering=0) as stream:
        compression = "gzip" if plain_name(artifact.name).endswith(".gz") else "none"
        chunks = (keys or Keyring()).opened_by_name(artifact.name, chunks_of(artifact, stream))
        plain = Pump(chunks, inflater(compression, artifact.name))
        try:
            yield members(plain, artifact.name)
        except UNREADABLE as error:
            raise VerifyError(f"{artifact.name} cannot be read: {error}", hint=_HINT, code="verify-structure") from None
        finally:
            plain.close()
