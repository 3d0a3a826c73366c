"""What a chain of archives makes of a tree: read off the archives as they pass, and held against what is on the disk.

Kept in a file (SQLite), so that it takes no memory however many files there are. Brings nothing back itself.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from nanumpay_backupd.sources.files_walk import Member, TarWalk, dump_entries

__all__ = ["Entry", "Findings", "TreeIndex"]

_CHUNK: Final = 1 << 20
_BATCH: Final = 500
_SHOWN: Final = 50
_TABLES: Final = """
CREATE TABLE entry (
  name BLOB PRIMARY KEY, parent BLOB, kind TEXT, mode INTEGER, size INTEGER, time INTEGER, user INTEGER,
  team INTEGER, user_name BLOB, team_name BLOB, link BLOB, device TEXT, digest BLOB, extents TEXT
) WITHOUT ROWID;
CREATE TABLE left_out (name BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class Entry(NamedTuple):
    """One thing in a tree; ``time`` is nanoseconds since 1970, ``extents`` where a file with holes has content."""

    name: bytes
    parent: bytes
    kind: str
    mode: int
    size: int
    time: int
    user: int
    group: int
    user_name: bytes
    group_name: bytes
    link: bytes
    device: str
    digest: bytes
    extents: str


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
        self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLES}")
        self._names = tuple(names)
        self._below = tuple(name + b"/" for name in names)
        self._above = {above for name in names for above in _above(name)}
        self._steps = 0

    @classmethod
    def opened(cls, path: Path) -> TreeIndex:
        """Open one that was made before, to look things up in it."""
        index = cls.__new__(cls)
        index._db = sqlite3.connect(path, isolation_level=None)  # noqa: SLF001 - its own
        return index

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
        self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entries)

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
        found: list[str] = []
        for entry in self.entries():
            items += entry.kind != "d"
            if not owners and entry.kind in "bc":
                unknown += 1
                continue
            what = _difference(base, entry, owners=owners)
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


def _difference(base: bytes, entry: Entry, *, owners: bool) -> str:  # noqa: PLR0911 - one for each thing that differs
    """Say how what is on the disk differs, empty: not at all."""
    path = base + b"/" + entry.name
    try:
        known = os.lstat(path)
    except FileNotFoundError:
        return "is not there"
    kind = {"h": "-"}.get(entry.kind, entry.kind)
    if stat.filemode(known.st_mode)[0] != kind and not (entry.kind == "h" and not stat.S_ISDIR(known.st_mode)):
        return "is something else"
    if entry.kind == "h":
        with contextlib.suppress(OSError):
            if os.lstat(base + b"/" + entry.link).st_ino == known.st_ino:
                return ""
        return f"is not the same file as /{os.fsdecode(entry.link)}"
    if kind != "l" and stat.S_IMODE(known.st_mode) != entry.mode:
        return f"has the mode {stat.S_IMODE(known.st_mode):04o} instead of {entry.mode:04o}"
    if known.st_mtime_ns != entry.time:
        return "has another time of modification"
    if owners and (known.st_uid, known.st_gid) != (_user(entry), _group(entry)):
        return f"belongs to {known.st_uid}:{known.st_gid} instead of {_user(entry)}:{_group(entry)}"
    if kind == "l" and os.readlink(path) != entry.link:  # noqa: PTH115 - a name of any bytes
        return "leads elsewhere"
    if kind in "bc" and f"{os.major(known.st_rdev)},{os.minor(known.st_rdev)}" != entry.device:
        return "is another device"
    if kind == "-" and (known.st_size != entry.size or _digest(path, entry.extents) != entry.digest):
        return "has another content"
    return ""


def _user(entry: Entry) -> int:
    """Return whom tar gives it to: who has that name here, else the number."""
    return _named_user(entry.user_name, entry.user)


def _group(entry: Entry) -> int:
    return _named_group(entry.group_name, entry.group)


@cache
def _named_user(name: bytes, number: int) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwnam(os.fsdecode(name)).pw_uid if name else number
    return number


@cache
def _named_group(name: bytes, number: int) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return grp.getgrnam(os.fsdecode(name)).gr_gid if name else number
    return number


def _digest(path: bytes, extents: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a name of any bytes
        if not extents:
            while data := stream.read(_CHUNK):
                digest.update(data)
            return digest.digest()
        numbers = [int(number) for number in extents.split()]
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            at = offset
            while at < offset + length and (data := os.pread(stream.fileno(), min(_CHUNK, offset + length - at), at)):
                digest.update(data)
                at += len(data)
    return digest.digest()
