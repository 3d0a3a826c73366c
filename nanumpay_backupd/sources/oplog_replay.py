"""Prepares the one ``oplog.bson`` of a restore: puts the full's own and the slices together, cuts, and changes names.

mongorestore itself cuts at an end only (``--oplogLimit``), and with ``--oplogReplay`` it takes no other names and no
part of a database. What can be replayed at all was settled when the slices were read (`oplog_commands`); here entries
are chosen and named, and otherwise copied byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from nanumpay_backupd.errors import RefusedError, VerifyError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.bson_edit import DOCUMENT, STRING, Field, document, fields, string
from nanumpay_backupd.sources.oplog_entry import (
    BUCKETS,
    COMMANDS,
    FILE,
    VIEWS,
    Entry,
    ForeignSourceError,
    Names,
    Stamp,
    facts,
    optime,
    renamings,
    respliced,
    rewritten,
    same,
    stamp_of,
    touched,
)
from nanumpay_backupd.sources.oplog_validation import Validation
from nanumpay_backupd.system.files import rename
from nanumpay_backupd.transforms.zstd import SUFFIX, read_zstd

__all__ = ["Replay", "build_replay", "touched_by"]

_CHUNK: Final = 1 << 20
_LARGEST: Final = (16 << 20) + (64 << 10)
"""An entry holds at most a document of 16 MiB and some fields around it."""
_SMALLEST: Final = 5
_KEPT_NAMES: Final = 100_000
_END: Final = (1 << 64) - 1
_WHOLE: Final = "restore the whole database beside the present one (--to-db) and take the collection from there"
_length_at = struct.Struct("<i").unpack_from


class Replay(msgspec.Struct, frozen=True):
    """What was put together: entries, the time of the last one, and what they write to, by its new name.

    ``touched`` names a collection as ``database.collection``, and a whole database as ``database.*``.
    """

    entries: int
    last: OpTime | None
    touched: frozenset[str]


def build_replay(
    pieces: Sequence[Path],
    output: Path,
    *,
    after: OpTime | None,
    until: OpTime | None,
    names: Mapping[str, str],
    collection: str = "",
    levels: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Write ``output``, which mongorestore replays with ``--oplogReplay``; it may be one of the pieces.

    ``pieces`` are ``.bson`` or ``.bson.zst`` files in order of their beginnings, and may overlap: each entry is taken
    once. One named ``oplog.bson`` at the beginning is a full's own and taken whole; of the others only what is later
    than ``after``. Nothing is later than ``until``. ``names`` gives each wanted database and its new name; empty: all,
    under their own. ``collection`` limits to one collection of the one database in ``names``. ``levels`` is what
    `oplog_validation.levels_in` finds in the folder that is restored, for a mongorestore before 100.15: that refuses
    in a replay what a collection's validator refuses, also with ``--bypassDocumentValidation``. ``progress`` is told
    the bytes of BSON read since it was called last.

    Raises VerifyError where a piece is damaged, RefusedError (``replay-refused``) where the part that is wanted cannot
    be separated from the rest, and OSError.
    """
    wanted = _collection(names, collection) if collection else _databases(names)
    validation = None if levels is None else Validation(levels)
    staged = output.with_name(f".{output.name}.part")
    end = _END if until is None else stamp_of(until)
    try:
        with staged.open("wb") as stream:
            builder = _Builder(stream, wanted, _limited(names, collection) if collection else None, validation)
            builder.open()
            for place, piece in enumerate(pieces):
                whole = place == 0 and piece.name == FILE
                start = 0 if whole or after is None else stamp_of(after)
                builder.add(piece, start, end, progress or (lambda _: None))
            builder.close()
        rename(staged, output)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return Replay(
        entries=builder.entries,
        last=optime(builder.last) if builder.last else None,
        touched=frozenset(name.decode() for name in builder.written) | frozenset(builder.commanded),
    )


def touched_by(path: Path) -> frozenset[str]:
    """Name what an oplog file writes to: ``database.collection``, or ``database.*`` for a command on the whole."""
    found: set[str] = set()
    for data in _whole_entries(_plain(path), path.name):
        start = 0
        while start < len(data):
            end = start + _length_at(data, start)[0]
            found.update(touched(data[start:end]))
            start = end
    return frozenset(found)


class _Builder:
    """Takes pieces one after the other and writes what is wanted of them."""

    def __init__(
        self,
        stream: IO[bytes],
        names: Names,
        prepare: Callable[[bytes], bytes] | None,
        validation: Validation | None,
    ) -> None:
        self.entries = 0
        self.last: Stamp = 0
        self.written: set[bytes] = set()
        self.commanded: set[str] = set()
        self._stream = stream
        self._names = names
        self._prepare = prepare
        self._validation = validation
        self._seen: Stamp = 0
        self._known: dict[bytes, bytes | None] = {}

    def open(self) -> None:
        """Write what comes before all entries."""
        if self._validation is not None:
            self._extra(self._validation.opening())

    def close(self) -> None:
        """Write what comes behind all entries."""
        if self._validation is not None:
            self._extra(self._validation.closing(self.last))

    def add(self, piece: Path, start: Stamp, end: Stamp, progress: Callable[[int], None]) -> None:
        """Take a piece's entries after ``start`` and up to ``end``, and none that was taken before."""
        self._seen = max(self._seen, start)
        try:
            for data in _whole_entries(_plain(piece), piece.name):
                more = self._sort_out(data, end)
                progress(len(data))
                if not more:
                    break
        except ForeignSourceError as error:
            raise RefusedError(
                f"{piece.name} cannot be replayed in part: {error}", hint=_WHOLE, code="replay-refused"
            ) from None
        except ValueError as error:
            raise _damaged(piece.name, str(error)) from None

    def _sort_out(self, data: bytes, end: Stamp) -> bool:
        """Write what is wanted of a block of entries; tells whether more may follow."""
        pieces: list[bytes] = []
        at = begun = 0
        size, known = len(data), self._known
        while at < size:
            following = at + _length_at(data, at)[0]
            entry = facts(data, at)
            if entry.stamp > end:
                break
            kept: bytes | None = None
            if entry.stamp > self._seen:
                self._seen = entry.stamp
                if entry.namespace in known and entry.operation != b"c":
                    renamed = known[entry.namespace]
                    if renamed == entry.namespace:
                        kept = data
                    elif renamed is not None:
                        kept = respliced(data, at, following, entry.namespace_at, renamed)
                else:
                    kept = self._closely(data, at, following, entry)
                if kept is not None:
                    self.entries += 1
                    self.last = entry.stamp
            if kept is not data:
                pieces += (data[begun:at], kept or b"")
                begun = following
            at = following
        pieces.append(data[begun:at])
        self._stream.write(b"".join(pieces))
        return at >= size

    def _closely(self, data: bytes, start: int, end: int, entry: Entry) -> bytes | None:
        """Return what is wanted of an entry that is no plain write into a collection known from before."""
        if entry.operation != b"c" and not entry.namespace.endswith(VIEWS):
            renamed = self._names(entry.namespace)
            if len(self._known) < _KEPT_NAMES:
                self._known[entry.namespace] = renamed
            if renamed is None:
                return None
            self.written.add(renamed)
            return respliced(data, start, end, entry.namespace_at, renamed)
        whole = data[start:end]
        kept = rewritten(whole if self._prepare is None else self._prepare(whole), self._names)
        if kept is None:
            return None
        self.commanded.update(touched(kept))
        return kept if self._validation is None else self._validation(kept)

    def _extra(self, entry: bytes | None) -> None:
        if entry is not None:
            self._stream.write(entry)
            self.entries += 1


def _databases(names: Mapping[str, str]) -> Names:
    """Want the databases that ``names`` names, and call them so; all of them when it is empty."""
    if not names:
        return same(frozenset())
    known = {old.encode(): new.encode() for old, new in names.items()}

    def renamed(namespace: bytes) -> bytes | None:
        database, point, name = namespace.partition(b".")
        now = known.get(database)
        return None if now is None else now + point + name

    return renamed


def _own(names: Mapping[str, str], collection: str) -> tuple[bytes, bytes, frozenset[bytes]]:
    """Return the one database's name, its new name, and what belongs to a collection of it."""
    ((old, new),) = ((old.encode(), new.encode()) for old, new in names.items())
    name = collection.encode()
    return old, new, frozenset({old + b"." + name, old + b"." + BUCKETS + name})


def _collection(names: Mapping[str, str], collection: str) -> Names:
    """Want one collection, with the buckets of a time-series one and what defines its view."""
    old, new, own = _own(names, collection)

    def renamed(namespace: bytes) -> bytes | None:
        # Where views are kept is created, harmless where it is there; which of them are wanted, each one's name says.
        return new + namespace[len(old) :] if namespace in own or namespace == old + VIEWS else None

    return renamed


def _limited(names: Mapping[str, str], collection: str) -> Callable[[bytes], bytes]:
    """Return what makes of commands on more than the one collection those on it alone."""
    old, _, own = _own(names, collection)

    def limited(entry: bytes) -> bytes:
        for source, target in renamings(entry):
            if {source, target} & own:
                raise RefusedError(
                    f"{source.decode()} was renamed to {target.decode()} on the way to that moment, "
                    f"so the collection {collection!r} cannot be restored by itself",
                    hint=_WHOLE,
                    code="replay-refused",
                )
        parts = fields(entry)
        named = {field.name: field for field in parts}
        if named[b"op"].text != b"c" or named[b"ns"].text == COMMANDS:
            return entry
        command = fields(named[b"o"].value)[0]
        views = command.kind == STRING and command.text == VIEWS[1:]
        if command.name != b"dropDatabase" and not (command.name == b"drop" and views):
            return entry
        if named[b"ns"].text.partition(b".")[0] != old:
            return entry
        drop = Field(DOCUMENT, b"o", document([string(b"drop", collection.encode())]))
        return document(drop if field.name == b"o" else field for field in parts)

    return limited


def _plain(path: Path) -> Iterator[bytes]:
    """Read a file's BSON in pieces of about 1 MiB."""
    if path.name.endswith(SUFFIX):
        yield from _gathered(read_zstd(path))
        return
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            yield data


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _whole_entries(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Cut pieces of a file behind whole documents; raises VerifyError where that cannot be done."""
    rest: list[bytes] = []
    held, wanted = 0, _SMALLEST
    for piece in pieces:
        rest.append(piece)
        held += len(piece)
        if held < wanted:
            continue
        data = b"".join(rest)
        end, wanted = _last_end(data, name)
        if end:
            yield data[:end]
        rest, held = [data[end:]], held - end
    if held:
        raise _damaged(name, "its last entry is cut off")


def _last_end(data: bytes, name: str) -> tuple[int, int]:
    """Return where the last whole document of ``data`` ends, and how long the next one is, as far as is known."""
    at, size = 0, len(data)
    while size - at >= _SMALLEST:
        (length,) = _length_at(data, at)
        if not _SMALLEST <= length <= _LARGEST:
            raise _damaged(name, f"an entry claims {length} bytes")
        if at + length > size:
            return at, length
        at += length
    return at, _SMALLEST


def _damaged(name: str, what: str) -> VerifyError:
    return VerifyError(
        f"{name} is damaged: {what}",
        hint="another copy of it may be whole (backupctl show); else choose an earlier moment",
        code="verify-structure",
    )
