"""A disk that loses power: what a recording of a run's system calls may leave behind, at any moment. Runs nothing.

Promised is what POSIX promises: a file's content is there after fsync of the file, a name after fsync of its folder.
Until then each may be there or not: content lost, zeros, torn off in the middle; of the names any part. Two things are
granted, as every filesystem with a journal keeps them: a rename does not lose the file under both names, and what is on
the disk does not change by itself.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

__all__ = ["CALLS", "Call", "Disk", "Loss", "State", "calls_of", "materialize"]

CALLS: Final = (
    "openat creat write writev pwrite64 pwritev ftruncate truncate fallocate copy_file_range sendfile lseek fsync "
    "fdatasync sync_file_range msync rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat rmdir "
    "mkdir mkdirat clone clone3 fork vfork"
).split()
_LINE: Final = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))$")
_ENDED: Final = re.compile(r"^(.*)\) += (-?\d+)(<[^>]*>)?(?: .*)?$")
_WORD: Final = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<cut>\.\.\.)?|(?P<fd>-?\d+|AT_FDCWD)<(?P<path>[^>]*)>(?P<gone>\(deleted\))?'
    r"|(?P<word>\[[^]]*\]|[A-Za-z_0-9|-]+)"
)
_HARMLESS: Final = {"sync_file_range", "clone", "clone3", "fork", "vfork", "lseek"}


@dataclass(frozen=True)
class Word:
    """An argument of a call: a text, a descriptor with the path of its file, or something else."""

    text: bytes | None = None
    fd: int | None = None
    path: str = ""
    word: str = ""


@dataclass(frozen=True)
class Call:
    """A system call that succeeded, by a process (its threads count as one)."""

    process: int
    name: str
    words: tuple[Word, ...]
    result: int
    opened: str
    """Of openat: the path of the file."""


def calls_of(trace: Path) -> Iterator[Call]:
    """Read a recording of ``strace -f -y -x -s MANY``; of threads that overlap, the end of a call is its moment."""
    begun: dict[int, str] = {}
    process: dict[int, int] = {}
    with trace.open(encoding="latin-1") as stream:
        for line in stream:
            if (match := _LINE.match(line.rstrip("\n"))) is None:
                continue
            thread = int(match[1])
            name, rest = (match[2], begun.pop(thread, "") + match[3]) if match[2] else (match[4], match[5])
            if rest.endswith("<unfinished ...>"):
                begun[thread] = rest.removesuffix("<unfinished ...>")
                continue
            if (ended := _ENDED.match(rest)) is None or int(ended[2]) < 0:
                continue
            owner = process.setdefault(thread, thread)
            if name in ("clone", "clone3"):
                born = int(ended[2])
                process[born] = owner if "CLONE_THREAD" in ended[1] else born
            yield Call(owner, name, tuple(_words(ended[1])), int(ended[2]), (ended[3] or "<>")[1:-1])


def _words(text: str) -> Iterator[Word]:
    for match in _WORD.finditer(text):
        if match["text"] is not None:
            assert not match["cut"], "the recording is cut off: more of -s"
            plain = codecs.escape_decode(match["text"].encode("latin-1"))[0]
            assert isinstance(plain, bytes)
            yield Word(text=plain)
        elif match["fd"] is not None:
            fd = -1 if match["fd"] == "AT_FDCWD" else int(match["fd"])
            yield Word(fd=fd, path="" if match["gone"] else match["path"])
        else:
            yield Word(word=match["word"])


class Loss(Enum):
    """What became of content that was not forced to the disk."""

    NOTHING = "all of it arrived"
    ALL = "none of it arrived"
    ZEROS = "its room is there, filled with zeros"
    TORN = "its first half arrived"


class File:
    """A file, whatever its names are: its content, that of its last fsync, and what was written since."""

    def __init__(self, content: bytes) -> None:
        self.content = self._durable = content
        self._writes: list[tuple[int, bytes | None]] = []
        self._known: dict[Loss, bytes] = {}

    def write(self, at: int, data: bytes) -> None:
        """Put something somewhere; it may be lost."""
        self._writes.append((at, data))
        self.content = _put(self.content, at, data)
        self._known = {}

    def cut(self, size: int) -> None:
        """Give it another size; that may be lost too."""
        self._writes.append((size, None))
        self.content = self.content[:size].ljust(size, b"\0")
        self._known = {}

    def force(self) -> None:
        """Bring all of it to the disk."""
        self._durable = self.content
        self._writes = []
        self._known = {}

    def after(self, loss: Loss) -> bytes:
        """Return what may be there after a power cut."""
        if not self._writes or loss is Loss.NOTHING:
            return self.content
        if loss not in self._known:
            self._known[loss] = self._without(loss)
        return self._known[loss]

    def _without(self, loss: Loss) -> bytes:
        if loss is Loss.ALL:
            return self._durable
        if loss is Loss.ZEROS:  # only where nothing was before: what is overwritten is old or new
            return self._durable[: len(self.content)].ljust(len(self.content), b"\0")
        left = sum(len(data or b"") for _, data in self._writes) // 2
        found = self._durable
        for at, data in self._writes:
            if data is None:
                found = found[:at].ljust(at, b"\0")
                continue
            found = _put(found, at, data[:left])
            left -= len(data)
            if left <= 0:
                break
        return found


def _put(content: bytes, at: int, data: bytes) -> bytes:
    before = content.ljust(at, b"\0")
    return before[:at] + data + before[at + len(data) :]


@dataclass(eq=False)
class Folder:
    """A folder: what is in it, and what surely is after a power cut."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A name that was given or taken and is not surely so yet; ``after``: the change it does not come before."""

    folder: Folder
    name: str
    to: File | Folder | None
    after: Change | None = None


State = Mapping[str, bytes | None]
"""Paths below the disk's folder and the content of the files; None: a folder."""


class Disk:
    """What is below a folder, as it changes by calls, and as a power cut might leave it."""

    def __init__(
        self, root: Path, before: Path, forgotten: Callable[[Call, str], bool] = lambda _call, _path: False
    ) -> None:
        """Begin with a copy of what was there ``before``, all of it durable; in the calls it was at ``root``.

        ``forgotten`` names forced writes that are left out.
        """
        self._root = str(root)
        self._forgotten = forgotten
        self._top = _read(before) if before.is_dir() else Folder()
        self._pending: list[Change] = []
        self._open: dict[tuple[int, int], int] = {}

    def apply(self, call: Call) -> bool:
        """Do what a call did; returns whether it changed anything here, or forced it to the disk."""
        if call.name == "openat":
            return self._opened(call)
        if call.name in ("fsync", "fdatasync"):
            return self._forced(call)
        if call.name in ("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"):
            return self._named(call)
        file = self._at(call.words[0].path) if call.words and call.words[0].path else None
        if call.name == "copy_file_range":
            file = self._at(call.words[2].path)
        if not isinstance(file, File):
            paths = [word.path or (word.text or b"").decode("latin-1") for word in call.words]
            assert call.name in _HARMLESS or not any(self._inside(path) for path in paths) or "(deleted)" in str(paths)
            return False
        return self._written(call, file)

    def _inside(self, path: str) -> bool:
        return path.startswith(self._root + "/")

    def _opened(self, call: Call) -> bool:
        if not self._inside(call.opened):
            return False
        flags = next((word.word for word in call.words if "O_" in word.word), "")
        folder, name = self._parent(call.opened)
        found = folder.entries.get(name)
        changed = False
        if found is None and "O_CREAT" in flags:
            found = File(b"")
            self._change(folder, name, found)
            changed = True
        if isinstance(found, File):
            if "O_TRUNC" in flags and found.content:
                found.cut(0)
                changed = True
            self._open[call.process, call.result] = len(found.content) if "O_APPEND" in flags else 0
        return changed

    def _written(self, call: Call, file: File) -> bool:
        fd = call.words[0].fd or 0
        numbers = [int(word.word) for word in call.words if word.word.isdigit()]
        if call.name == "lseek":
            self._open[call.process, fd] = call.result
        elif call.name == "write":
            at = self._open[call.process, fd]
            file.write(at, (call.words[1].text or b"")[: call.result])
            self._open[call.process, fd] = at + call.result
        elif call.name == "pwrite64":
            file.write(numbers[-1], (call.words[1].text or b"")[: call.result])
        elif call.name == "ftruncate":
            file.cut(numbers[-1])
        elif call.name == "fallocate":
            mode, (start, length) = call.words[1].word, numbers[-2:]
            assert "PUNCH_HOLE" in mode, mode
            hole = bytes(max(0, min(length, len(file.content) - start)))
            file.write(start, hole)
        elif call.name == "copy_file_range":
            self._copied(call, file)
        else:
            assert call.name in _HARMLESS, f"{call.name} is not understood"
            return False
        return call.name != "lseek"

    def _copied(self, call: Call, file: File) -> None:
        """Copy from one file into another, each from the place that was given or where it stands."""
        source = self._at(call.words[0].path)
        assert isinstance(source, File)
        places = []
        for at in (0, 2):
            given = call.words[at + 1].word
            key = (call.process, call.words[at].fd or 0)
            place = self._open[key] if given == "NULL" else int(given.strip("[]").split()[0])
            if given == "NULL":
                self._open[key] = place + call.result
            places.append(place)
        file.write(places[1], source.content[places[0] : places[0] + call.result])

    def _forced(self, call: Call) -> bool:
        path = call.words[0].path
        found = self._at(path)
        if found is None or self._forgotten(call, path):
            return False
        if isinstance(found, File):
            found.force()
        else:
            found.durable = dict(found.entries)
            self._pending = [change for change in self._pending if change.folder is not found]
        return True

    def _named(self, call: Call) -> bool:
        paths = list(_paths(call.words))
        if not any(self._inside(path) for path in paths):
            return False
        folder, name = self._parent(paths[0])
        if call.name.startswith("rename"):
            target, new = self._parent(paths[1])
            given = self._change(target, new, folder.entries[name])
            self._change(folder, name, None, given)
        elif call.name.startswith("mkdir"):
            self._change(folder, name, Folder())
        else:
            self._change(folder, name, None)
        return True

    def _change(self, folder: Folder, name: str, to: File | Folder | None, after: Change | None = None) -> Change:
        change = Change(folder, name, to, after)
        if to is None:
            folder.entries.pop(name, None)
        else:
            folder.entries[name] = to
        self._pending.append(change)
        return change

    def _at(self, path: str) -> File | Folder | None:
        if path == self._root:
            return self._top
        if not self._inside(path):
            return None
        found: File | Folder | None = self._top
        for part in path[len(self._root) + 1 :].split("/"):
            found = found.entries.get(part) if isinstance(found, Folder) else None
        return found

    def _parent(self, path: str) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        found = self._at(folder)
        assert isinstance(found, Folder), f"{folder} is not known"
        return found, name

    def states(self) -> Iterator[State]:
        """Yield what may be there when the power goes now; many are equal."""
        for applied, loss in itertools.product(self._orders(), Loss):
            done = set(map(id, applied))
            lost = [change for change in applied if change.after is not None and id(change.after) not in done]
            if lost and any(change.after in self._pending for change in lost):
                continue
            entries: dict[int, dict[str, File | Folder]] = {}
            for change in applied:
                inside = entries.setdefault(id(change.folder), dict(change.folder.durable))
                if change.to is None:
                    inside.pop(change.name, None)
                else:
                    inside[change.name] = change.to
            yield dict(_walk(self._top, "", entries, loss))

    def _orders(self) -> Iterator[tuple[Change, ...]]:
        """Yield which of the pending changes arrived: all up to one, only one, all but one."""
        pending = tuple(self._pending)
        for at in range(len(pending) + 1):
            yield pending[:at]
        for at in range(len(pending)):
            yield pending[at : at + 1]
            yield pending[:at] + pending[at + 1 :]


def _paths(words: Iterable[Word]) -> Iterator[str]:
    """Yield the paths of a call's arguments, those that are below an open folder too."""
    base = ""
    for word in words:
        if word.fd is not None:
            base = word.path
        elif word.text is not None:
            text = word.text.decode("utf-8", "surrogateescape")
            yield text if text.startswith("/") else f"{base}/{text}"


def _read(folder: Path) -> Folder:
    found: dict[str, File | Folder] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found[entry.name] = _read(entry)
        else:
            found[entry.name] = File(entry.read_bytes())
    return Folder(dict(found), dict(found))


def _walk(
    folder: Folder, path: str, entries: Mapping[int, Mapping[str, File | Folder]], loss: Loss
) -> Iterator[tuple[str, bytes | None]]:
    for name, found in entries.get(id(folder), folder.durable).items():
        if isinstance(found, Folder):
            yield f"{path}{name}", None
            yield from _walk(found, f"{path}{name}/", entries, loss)
        else:
            yield f"{path}{name}", found.after(loss)


def materialize(state: State, root: Path) -> None:
    """Write a state to a folder that is not there yet."""
    root.mkdir()
    for path, content in state.items():  # a folder comes before what is in it
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
