"""What file trees hold as of a backup, listed folder by folder. Brings nothing back, proves nothing.

The archives of a chain are read once, and proven on the way (`verify`), wherever their copies are; those at a
destination come through the network and are not kept. What they hold is kept in the state folder for the next listing
of the same backup, for this user only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError
from nanumpay_backupd.model import LOCAL
from nanumpay_backupd.pipeline.bringback import Piece, pieces_of
from nanumpay_backupd.pipeline.chosen import no_files
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.members import chunks_of
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import opened, prove_stream
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.sources.files_index import Entry, TreeIndex
from nanumpay_backupd.system.clock import Clock

__all__ = ["PAGE", "FileLine", "Listing", "list_tree"]

PAGE: Final = 1000
"""Entries that are given at once."""
_KEPT: Final = 4
_FORMATS: Final = {
    "-": stat.S_IFREG,
    "h": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
}


class FileLine(msgspec.Struct, frozen=True):
    """One thing in a tree: its whole path, mode as ``ls -l`` shows it, bytes, when it was modified (UTC), whose it is.

    ``target`` is where a link leads, and the first name of what has several.
    """

    path: str
    mode: str
    size: int
    modified: str
    owner: str
    group: str
    target: str = ""


class Listing(msgspec.Struct, frozen=True):
    """A page of a listing of a backup; ``more``: another one follows."""

    backup: str
    entries: tuple[FileLine, ...]
    more: bool


def list_tree(spec: RunSpec, catalog: Catalog, clock: Clock, open_store: OpenStore) -> Listing:
    """List what the order of ``spec.restore`` names: its ``only`` is the path, none: the whole tree's first level.

    Its options: ``skip``, how many entries were given before; ``recursive``, where not empty: with all that is below.
    Raises NotFoundError, RefusedError (``not-for-this-source``, ``copy-unusable``), VerifyError, DecryptError,
    StoreError.
    """
    order = spec.restore
    assert order is not None, "a listing needs an order"
    layout = Layout(spec.paths.backups)
    with Keyring(spec.job.encryption) as keys:
        pieces = pieces_of(spec, catalog, layout, keys)
        last = pieces[-1].manifest
        if last.source.type != "files":
            raise no_files(last.backup, last.source.type)
        index = _Maker(spec, layout, keys, clock, open_store).index(pieces)
    try:
        roots = [part.name for part in last.source.parts]
        path = os.path.normpath(order.only[0]) if order.only else (roots[0] if len(roots) == 1 else "")
        if path == "":
            names = [os.fsencode(root.strip("/")) for root in roots]
            return Listing(last.backup, tuple(_line(entry) for entry in index.named(names)), more=False)
        name = os.fsencode(path.strip("/"))
        (entry,) = index.named([name]) or (None,)
        if entry is None:
            raise NotFoundError(
                f"{last.backup} holds no path {path!r}",
                hint=f"its trees are: {', '.join(roots)}; whole paths are meant",
            )
        if entry.kind != "d":
            return Listing(last.backup, (_line(entry),), more=False)
        skip, whole = int(order.options.get("skip", "0")), bool(order.options.get("recursive"))
        found = index.page(name, skip, PAGE + 1, whole=whole)
        return Listing(last.backup, tuple(_line(one) for one in found[:PAGE]), more=len(found) > PAGE)
    finally:
        index.close()


class _Maker:
    """Makes the index of a chain, out of copies wherever they are."""

    def __init__(self, spec: RunSpec, layout: Layout, keys: Keyring, clock: Clock, open_store: OpenStore) -> None:
        self._spec = spec
        self._folder = spec.paths.state / "listings"
        self._layout = layout
        self._keys = keys
        self._clock = clock
        self._open_store = open_store

    def index(self, pieces: tuple[Piece, ...]) -> TreeIndex:
        """Return the index, made where it is not there yet."""
        folder = self._folder
        path = folder / f"{pieces[-1].backup.id}.db"
        known = TreeIndex.opened(path)
        if known is not None:
            os.utime(path)
            return known
        folder.mkdir(mode=0o700, exist_ok=True)
        self._tidy()
        fresh = folder / f".{path.name}.{os.getpid()}"
        index = TreeIndex(fresh)
        try:
            for piece in pieces:
                self._read(piece, index)
        except BaseException:
            index.close()
            fresh.unlink()
            raise
        fresh.replace(path)
        kept = sorted(folder.glob("*.db"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-_KEPT]:
            old.unlink(missing_ok=True)
        return index

    def _read(self, piece: Piece, index: TreeIndex) -> None:
        """Read one archive into the index; raises VerifyError where it is not what was stored."""
        with closing(self._chunks(piece)) as chunks:
            prove_stream(
                chunks,
                piece.manifest,
                lambda _: index.follow(contents=False),
                self._clock,
                lambda _: None,
                keys=self._keys,
            )

    def _chunks(self, piece: Piece) -> Generator[bytes]:
        """Yield a copy as it is stored."""
        place, key = piece.copy.destination, piece.copy.key
        if place == LOCAL:
            path = self._layout.artifact(key)
            with opened(path, piece.manifest) as stream:
                yield from chunks_of(path, stream)
            return
        destination = next(item for item in self._spec.job.destinations if item.name == place)
        with self._open_store(destination) as store:
            yield from store.get(key)

    def _tidy(self) -> None:
        """Remove what a listing that was killed left behind."""
        for left in self._folder.glob(".*.db.*"):
            if not Path(f"/proc/{left.name.rpartition('.')[2]}").exists():
                left.unlink(missing_ok=True)


def _line(entry: Entry) -> FileLine:
    return FileLine(
        path="/" + entry.name.decode("utf-8", "backslashreplace"),
        mode=stat.filemode(_FORMATS[entry.kind] | entry.mode),
        size=entry.size,
        modified=datetime.fromtimestamp(entry.time / 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        owner=entry.user_name.decode("utf-8", "backslashreplace") or str(entry.user),
        group=entry.group_name.decode("utf-8", "backslashreplace") or str(entry.group),
        target=entry.link.decode("utf-8", "backslashreplace"),
    )
