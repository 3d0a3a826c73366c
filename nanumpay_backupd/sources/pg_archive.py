r"""Reads PostgreSQL's custom archive (pg_dump -Fc) piece by piece: its list, its data, the rows of each table.

The format is that of PostgreSQL's pg_backup_custom.c and pg_backup_archiver.c, versions 1.12 to 1.16 (PostgreSQL 9.6 to
18), without compression: a head, a list of entries, and for each entry with data a block of chunks. What COPY writes
for a table has a line for each row, line feeds in values are written ``\n``, and it ends with ``\.``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Final, NamedTuple

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import Content

__all__ = ["Entry", "PgArchive"]

_MAGIC: Final = b"PGDMP"
_OLDEST: Final = (1, 12)
_NEWEST: Final = (1, 16)
_WITH_ACCESS_METHOD: Final = (1, 14)
_WITH_ALGORITHM: Final = (1, 15)
_WITH_RELATION_KIND: Final = (1, 16)
_CUSTOM: Final = 1
_DATA: Final = 1
_LARGE_OBJECTS: Final = 3
_COPY_END: Final = b"\\.\n\n\n"
_ABOUT: Final = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
_TABLE_DATA: Final = "TABLE DATA"
_LONGEST_TEXT: Final = 256 << 20
_DATES: Final = 7


class Entry(NamedTuple):
    """One entry of the list that has data: of what kind, in which schema, its name."""

    kind: str
    schema: str
    name: str


class PgArchive:
    """Takes an archive piece by piece; memory is that of its list. See `base.Checker`.

    ``about`` are the statements about the database itself: rights on it, its settings, its comment; all are there
    once it is ``listed``. ``rows``, ``sizes`` (bytes) and ``digests`` are of each table as ``schema.table``.
    ``label`` stands before the names in ``parts``.
    """

    def __init__(self, label: str = "") -> None:
        self.rows: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.entries: dict[int, Entry] = {}
        self.all_kinds: dict[str, int] = {}
        self.counting = 0
        self.about: list[str] = []
        self.listed = False
        self._label = label
        self._held = b""
        self._in_chunks = False
        self._chunks_ended = False
        self._counted = False
        self._left = 0
        self._size = 0
        self._last = b""
        self._digest = hashlib.sha256()
        self._whole = hashlib.sha256()
        self._missing: set[int] = set()
        self._between = False
        self._int = 4
        self._walk = self._read()
        self._want = next(self._walk)

    def __call__(self, piece: bytes, /) -> None:
        """Take the next piece; raises VerifyError."""
        if not piece:
            if self._held or not self._between:
                raise _broken("was cut off")
            if self._missing:
                raise _broken(f"holds no data of {self.entries[min(self._missing)].name!r}")
            return
        self._whole.update(piece)
        data = bytes(self._held) + piece if self._held else piece
        at = 0
        while True:
            if self._in_chunks:
                at = self._chunks_in(data, at)
                if not self._chunks_ended:
                    break
                self._in_chunks = False
                self._want = self._walk.send(b"")
            elif len(data) - at < self._want or at == len(data):
                break
            else:
                part = data[at : at + self._want]
                at += self._want
                self._between = False
                self._want = self._walk.send(part)
        self._held = data[at:]

    def _chunks_in(self, data: bytes, at: int) -> int:
        """Go through chunks as far as they are there and return how far; there may be one for each row."""
        begin, end, head = at, len(data), 1 + self._int
        left, last, lines = self._left, self._last, 0
        while True:
            if left:
                stop = min(at + left, end)
                if self._counted:
                    lines += data.count(b"\n", at, stop)
                last = data[stop - 5 : stop] if stop - at >= 5 else (last + data[at:stop])[-5:]
                self._size += stop - at
                left -= stop - at
                at = stop
            if left or end - at < head:
                break
            left = int.from_bytes(data[at + 1 : at + head], "little")
            if data[at]:
                raise _broken("holds a chunk of less than nothing")
            at += head
            if not left:
                self._chunks_ended = True
                break
        self._digest.update(memoryview(data)[begin:at])
        self._left, self._last = left, last
        self.counting += lines
        return at

    @property
    def count(self) -> int:
        """Return the rows so far."""
        return sum(self.rows.values()) + self.counting

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was read."""
        return self._whole.hexdigest()

    @property
    def parts(self) -> dict[str, Content]:
        """Return the rows and a digest of each table."""
        before = f"{self._label}." if self._label else ""
        return {
            f"{before}{name}": Content(documents=rows, digest=self.digests[name]) for name, rows in self.rows.items()
        }

    def _read(self) -> Generator[int, bytes, None]:
        """Ask for so many bytes by each yield, and understand them."""
        version, offset = yield from self._head()
        for _ in range((yield from self._number())):
            yield from self._entry(version, offset)
        self.listed = True
        while True:
            self._between = not self._missing
            yield from self._block()

    def _head(self) -> Generator[int, bytes, tuple[tuple[int, int], int]]:
        if (yield 5) != _MAGIC:
            raise _broken("does not begin as PostgreSQL's archives do")
        head = yield 6
        version, self._int, offset = (head[0], head[1]), head[3], head[4]
        if not _OLDEST <= version <= _NEWEST or head[5] != _CUSTOM or not 4 <= self._int <= 8:
            raise _broken(f"is of the version {head[0]}.{head[1]}, which is not known here")
        if version >= _WITH_ALGORITHM:
            compressed = (yield 1)[0]
        else:
            compressed = yield from self._number()
        if compressed:
            raise _broken("is compressed in itself")
        for _ in range(_DATES):
            yield from self._number()
        for _ in range(3):
            yield from self._text()
        return version, offset

    def _block(self) -> Generator[int, bytes, None]:
        kind = (yield 1)[0]
        number = yield from self._number()
        entry = self.entries.get(number)
        if entry is None or number not in self._missing:
            raise _broken(f"holds data that its list does not name (entry {number})")
        if kind == _DATA:
            yield from self._data(entry)
        elif kind == _LARGE_OBJECTS:
            while (yield from self._number()):
                yield from self._chunks(counted=False)
        else:
            raise _broken(f"holds a block of the unknown kind {kind}")
        self._missing.discard(number)

    def _entry(self, version: tuple[int, int], offset: int) -> Generator[int, bytes, None]:
        number = yield from self._number()
        has_data = yield from self._number()
        yield from self._text()
        yield from self._text()
        name = yield from self._text()
        kind = yield from self._text()
        yield from self._number()
        statement = yield from self._text()
        for _ in range(2):
            yield from self._text()
        schema = yield from self._text()
        yield from self._text()
        if version >= _WITH_ACCESS_METHOD:
            yield from self._text()
        if version >= _WITH_RELATION_KIND:
            yield from self._number()
        yield from self._text()
        yield from self._text()
        while (yield from self._text()) is not None:
            pass
        yield 1 + offset
        self.all_kinds[kind or ""] = self.all_kinds.get(kind or "", 0) + 1
        if kind == "DATABASE PROPERTIES" or (kind in _ABOUT and (name or "").startswith("DATABASE ")):
            self.about.append(statement or "")
        if has_data:
            self.entries[number] = Entry(kind or "", schema or "", name or "")
            self._missing.add(number)

    def _data(self, entry: Entry) -> Generator[int, bytes, None]:
        rows = entry.kind == _TABLE_DATA
        name = f"{entry.schema}.{entry.name}"
        yield from self._chunks(counted=rows)
        if not rows:
            return
        lines, self.counting = self.counting, 0
        if self._last != _COPY_END:
            raise _broken(f"holds rows of {name} without their end")
        self.rows[name] = lines - _COPY_END.count(b"\n")
        self.sizes[name] = self._size
        self.digests[name] = self._digest.hexdigest()

    def _chunks(self, *, counted: bool) -> Generator[int, bytes, None]:
        """Let `_chunks_in` go through chunks to their end."""
        self._in_chunks, self._chunks_ended, self._counted = True, False, counted
        self._left = self._size = 0
        self._last = b""
        self._digest = hashlib.sha256()
        yield 0

    def _number(self) -> Generator[int, bytes, int]:
        data = yield 1 + self._int
        value = int.from_bytes(data[1:], "little")
        return -value if data[0] else value

    def _text(self) -> Generator[int, bytes, str | None]:
        length = yield from self._number()
        if length < 0:
            return None
        if length > _LONGEST_TEXT:
            raise _broken("holds a text that is too long to be one")
        return (yield length).decode("utf-8", "surrogateescape") if length else ""


def _broken(what: str) -> VerifyError:
    return VerifyError(
        f"the archive {what}",
        hint="do not rely on this backup; run a new one: backupctl run",
        code="verify-structure",
    )
