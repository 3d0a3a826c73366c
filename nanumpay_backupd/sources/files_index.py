"""What a chain of archives makes of a tree: read off the archives as they pass, looked up, held against the disk.

Kept in a file (SQLite), so that it takes no memory however many files there are. Brings nothing back itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from nanumpay_backupd.sources.files_compare import Entry, attributes_in, difference, takes_attributes
from nanumpay_backupd.sources.files_walk import Member, TarWalk, dump_entries

__all__ = ["Entry", "Findings", "TreeIndex"]

_BATCH: Final = 500
_SHOWN: Final = 50
_TABLES: Final = """
CREATE TABLE entry (
  name BLOB PRIMARY KEY, parent BLOB, kind TEXT, mode INTEGER, size INTEGER, time INTEGER, user INTEGER,
  team INTEGER, user_name BLOB, team_name BLOB, link BLOB, device TEXT, digest BLOB, extents TEXT,
  attributes BLOB
) WITHOUT ROWID;
CREATE TABLE left_out (name BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_PLACES: Final = ", ".join("?" * 15)
_FORM: Final = 1
"""Counts up with every change of the tables."""


class Findings(NamedTuple):
    """What a comparison found: things that are no folders, differences in words, what cannot be known here."""

    items: int
    differences: tuple[str, ...]
    unknown: int


class TreeIndex:
    """The tree after all archives so far, below ``names`` (paths in the archive) only; `close` it."""

    def __init__(self, path: Path, names: Sequence[bytes] = ()) -> None:
        """Make it anew in the file ``path``."""
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # It is thrown away after a crash.
        self._db.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA user_version = {_FORM}; {_TABLES}"
        )
        self._names = tuple(names)
        self._below = tuple(name + b"/" for name in names)
        self._above = {above for name in names for above in _above(name)}
        self._steps = 0

    @classmethod
    def opened(cls, path: Path) -> TreeIndex | None:
        """Open one that was made before, to look things up in it; None: there is none, or it is of another version."""
        if not path.exists():
            return None
        db = sqlite3.connect(path, isolation_level=None)
        with contextlib.suppress(sqlite3.DatabaseError):
            if db.execute("PRAGMA user_version").fetchone() == (_FORM,):
                index = cls.__new__(cls)
                index._db = db  # noqa: SLF001 - its own
                return index
        db.close()
        return None

    def follow(self, *, contents: bool = True) -> _Reader:
        """Begin with the next archive of the chain; returns what takes it in pieces (`files_walk.TarWalk`).

        Without ``contents`` no digests are taken of them, so that nothing can be compared later.
        """
        if self._steps == 1:
            self._db.execute("CREATE INDEX by_parent ON entry (parent)")
        self._steps += 1
        self._db.execute("DELETE FROM left_out")
        return _Reader(self, first=self._steps == 1, contents=contents)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def wants(self, name: bytes) -> bool:
        """Tell whether something is in what was asked for."""
        return not self._names or name in self._names or name.startswith(self._below)

    def put(self, entries: Sequence[Entry]) -> None:
        """Note what an archive holds; what it held before under that name counts no more."""
        self._db.executemany(
            "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entries
        )

    def leave_out(self, names: Sequence[bytes]) -> None:
        """Note names that were there and are not in an archive: left out by rules, or not changed."""
        self._db.executemany("INSERT OR REPLACE INTO left_out VALUES (?)", [(name,) for name in names])

    def shrink(self, folder: bytes, listed: dict[bytes, bool]) -> None:
        """Forget what is not in a folder any more; ``listed`` says of each name in it whether it is a folder."""
        found = self._db.execute("SELECT name, kind FROM entry WHERE parent = ?", (folder,)).fetchall()
        for name, kind in found:
            base = name[len(folder) + 1 :]
            if base not in listed or (kind == "d") != listed[base]:
                self._db.execute("DELETE FROM entry WHERE name = ?", (name,))
                self._db.execute("DELETE FROM entry WHERE name > ? AND name < ?", (name + b"/", name + b"0"))

    def shrink_above(self, folder: bytes, listed: dict[bytes, bool]) -> None:
        """Forget what was asked for where a folder above it does not have the way there any more."""
        for name in self._names if folder in self._above else ():
            if not name.startswith(folder + b"/"):
                continue
            base, deeper, _ = name[len(folder) + 1 :].partition(b"/")
            if base not in listed or (deeper and not listed[base]):
                self._db.execute("DELETE FROM entry WHERE name = ?", (name,))
                self._db.execute("DELETE FROM entry WHERE name > ? AND name < ?", (name + b"/", name + b"0"))

    def has(self, name: bytes) -> bool:
        """Tell whether the tree has it."""
        return self._db.execute("SELECT 1 FROM entry WHERE name = ?", (name,)).fetchone() is not None

    def left_out(self, folder: bytes) -> Iterator[bytes]:
        """Yield the names below a folder that were there at the last backup and are not in the chain."""
        rows = self._db.execute(
            "SELECT name FROM left_out WHERE name > ? AND name < ? AND name NOT IN (SELECT name FROM entry)",
            (folder + b"/", folder + b"0"),
        )
        for (name,) in rows:
            yield name

    def entries(self) -> Iterator[Entry]:
        """Yield everything in the tree, by name."""
        for row in self._db.execute("SELECT * FROM entry ORDER BY name"):
            yield Entry(*row)

    def named(self, names: Sequence[bytes]) -> list[Entry]:
        """Return those of the names that are there."""
        found = (self._db.execute("SELECT * FROM entry WHERE name = ?", (name,)).fetchone() for name in names)
        return [Entry(*row) for row in found if row is not None]

    def page(self, folder: bytes, skip: int, most: int, *, whole: bool) -> list[Entry]:
        """Return what is in a folder (``whole``: also further down), by name, after ``skip`` of them."""
        below = "name > ? AND name < ?" + ("" if whole else " AND parent = ?")
        wanted: tuple[object, ...] = (folder + b"/", folder + b"0", *(() if whole else (folder,)), most, skip)
        rows = self._db.execute(f"SELECT * FROM entry WHERE {below} ORDER BY name LIMIT ? OFFSET ?", wanted)  # noqa: S608
        return [Entry(*row) for row in rows]

    def compare(self, tree: Path, *, owners: bool) -> Findings:
        """Read what was unpacked into ``tree`` and compare all of it; ``owners``: those too, which only root can give.

        Raises OSError where something cannot be read.
        """
        base = os.fsencode(tree)
        items = unknown = 0
        attributes = takes_attributes(tree)
        found: list[str] = []
        for entry in self.entries():
            items += entry.kind != "d"
            if not owners and entry.kind in "bc":
                unknown += 1
                continue
            if entry.attributes and not attributes:
                unknown += 1
            what = difference(base, entry, owners=owners, attributes=attributes)
            if what and len(found) < _SHOWN:
                found.append(f"/{os.fsdecode(entry.name)!s} {what}")
        if len(found) < _SHOWN:
            found += self._foreign(base)
        return Findings(items, tuple(text.encode("utf-8", "backslashreplace").decode() for text in found), unknown)

    def _foreign(self, base: bytes) -> list[str]:
        """Return what is there and should not be."""
        found: list[str] = []
        waiting = [base]
        while waiting and len(found) < _SHOWN:
            folder = waiting.pop()
            with os.scandir(folder) as listed:
                for one in listed:
                    name = one.path[len(base) + 1 :]
                    if name not in self._above and not self.has(name):
                        found.append(f"/{os.fsdecode(name)} is there, and not in the backup")
                    elif one.is_dir(follow_symlinks=False):
                        waiting.append(one.path)
        return found


class _Reader(TarWalk):
    """Reads one archive into the index."""

    def __init__(self, index: TreeIndex, *, first: bool, contents: bool) -> None:
        super().__init__()
        self.reads_content = contents
        self._index = index
        self._first = first
        self._entry: Entry | None = None
        self._sha = hashlib.sha256()
        self._sparse: _Extents | None = None
        self._ready: list[Entry] = []
        self.items = 0

    def member(self, member: Member, *, again: bool) -> None:
        """See `TarWalk.member`."""
        if not self._index.wants(member.name):
            self._entry = None
            if member.kind == "d" and not self._first:
                listed = {name: flag == "D" for flag, name in dump_entries(member.entries or b"")}
                self._index.shrink_above(member.name, listed)
            return
        if member.kind == "d":
            self._folder(member)
        else:
            self.items += not again
        fraction = int(member.fraction.ljust(9, "0")) if member.fraction else 0
        self._entry = Entry(
            name=member.name,
            parent=member.name[: max(member.name.rfind(b"/"), 0)],
            kind=member.kind,
            mode=member.mode,
            size=member.size,
            time=member.seconds * 10**9 + (fraction if member.seconds >= 0 else -fraction),
            user=member.user,
            group=member.group,
            user_name=member.user_name,
            group_name=member.group_name,
            link=member.link,
            device=member.device,
            digest=b"",
            extents="",
            attributes=attributes_in(member.records),
        )
        self._sha = hashlib.sha256()
        self._sparse = _Extents() if member.sparse else None

    def content(self, piece: memoryview) -> None:
        """See `TarWalk.content`."""
        if self._entry is not None:
            self._sha.update(piece if self._sparse is None else self._sparse.take(piece))

    def ended(self) -> None:
        """See `TarWalk.ended`."""
        if self._entry is None:
            return
        entry, self._entry = self._entry, None
        if entry.kind == "-":
            entry = entry._replace(digest=self._sha.digest())
        if self._sparse is not None:
            entry = entry._replace(extents=self._sparse.told)
        self._ready.append(entry)
        if len(self._ready) >= _BATCH:
            self._flush()

    def __call__(self, piece: bytes, /) -> None:
        """See `TarWalk`."""
        super().__call__(piece)
        if not piece:
            self._flush()

    def _flush(self) -> None:
        self._index.put(self._ready)
        self._ready.clear()

    def _folder(self, member: Member) -> None:
        entries = list(dump_entries(member.entries or b""))
        self._index.leave_out([member.name + b"/" + name for flag, name in entries if flag == "N"])
        if not self._first:
            self._flush()
            self._index.shrink(member.name, {name: flag == "D" for flag, name in entries})


class _Extents:
    """The map before a sparse file's content (GNU.sparse 1.0): numbers in lines, then zeros up to a whole block."""

    def __init__(self) -> None:
        self._map = b""
        self._numbers: list[int] | None = None

    @property
    def told(self) -> str:
        """Return offset and length of each extent."""
        return " ".join(str(number) for number in self._numbers or ())

    def take(self, piece: memoryview) -> bytes | memoryview:
        """Return what of a piece is content."""
        if self._numbers is not None:
            return piece
        self._map += bytes(piece)
        lines = self._map.split(b"\n")
        if len(lines) < 2 or len(lines) < 2 + 2 * int(lines[0]):
            return b""
        count = int(lines[0])
        used = sum(len(line) + 1 for line in lines[: 1 + 2 * count])
        used += -used % 512
        if len(self._map) < used:
            return b""
        self._numbers = [int(line) for line in lines[1 : 1 + 2 * count]]
        return self._map[used:]


def _above(name: bytes) -> Iterator[bytes]:
    while b"/" in name:
        name = name[: name.rindex(b"/")]
        yield name
