"""A Redis server's append-only files, copied from its data folder while it goes on. Asks the server nothing of them.

Facts about Redis this relies on: since 7.0 a folder holds a manifest and the files that it names; a base is written
once, an increment is only appended to, and a rewrite puts a new manifest in place of the old one. So files that were
opened between two readings of the same manifest belong together, even when a rewrite deletes their names afterwards.
Before 7.0 there is one file, which a rewrite replaces: what was opened stays whole.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, NamedTuple

from xxhash import xxh3_128_intdigest

from nanumpay_backupd.errors import SourceError, VerifyError
from nanumpay_backupd.model import Consistency, Part
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Harvest
from nanumpay_backupd.sources.rdb import RdbWalk
from nanumpay_backupd.sources.redis_dump import ThreadedDump, made
from nanumpay_backupd.sources.redis_link import Server
from nanumpay_backupd.transforms.growing import writer_into

__all__ = ["AofDump", "AofSet", "AofWalk", "find_aof"]

_FOLDERS: Final = "*/*.manifest"
_SINGLE: Final = "appendonly.aof"
_PIECE: Final = 1 << 20
_TRIES: Final = 5
_FILE: Final = re.compile(r'file ("(?:[^"\\]|\\.)*"|\S+) seq (\d+) type ([bhi])')
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


class _Opened(NamedTuple):
    """One file: its name in the backup, the open file, and how far it is copied (None: to its end)."""

    name: str
    stream: IO[bytes]


class AofSet(NamedTuple):
    """The files that belong together, open, and the manifest that names them (empty: there is one file, without)."""

    files: tuple[_Opened, ...]
    manifest: str = ""
    text: bytes = b""

    def close(self) -> None:
        """Close them."""
        for file in self.files:
            file.stream.close()


def find_aof(folder: Path) -> AofSet:
    """Open the append-only files below a server's data folder.

    Raises SourceError: ``source-empty`` where there are none, ``source-auth`` where they may not be read.
    """
    try:
        for _ in range(_TRIES):
            manifests = sorted(folder.glob(_FOLDERS), key=lambda path: path.stat().st_mtime)
            if not manifests:
                break
            if (found := _open_all(manifests[-1])) is not None:
                return found
        else:
            raise SourceError(f"the AOF in {folder} was rewritten again and again", hint="run again")
        if (folder / _SINGLE).is_file():
            return AofSet((_Opened(_SINGLE, (folder / _SINGLE).open("rb", buffering=0)),))
        if not folder.is_dir():
            raise FileNotFoundError
    except PermissionError as error:
        raise SourceError(
            f"{error.filename or folder} may not be read",
            hint="let the service's user into the group redis, and the folders be readable for it "
            "(docs/sources/redis.md)",
            code="source-auth",
            retryable=False,
        ) from None
    except OSError as error:
        raise SourceError(
            f"{folder} cannot be read: {error.strerror or 'there is no such folder'}",
            hint="data_folder is what CONFIG GET dir says, on the host of the server",
            code="source-unreachable",
        ) from None
    raise SourceError(
        f"there are no append-only files in {folder}",
        hint="is appendonly yes in redis.conf, and data_folder what CONFIG GET dir says?",
        code="source-empty",
        retryable=False,
    )


def _open_all(manifest: Path) -> AofSet | None:
    """Open what a manifest names; None: it was another one before that was done."""
    text = manifest.read_bytes()
    place = manifest.parent.name
    opened: list[_Opened] = []
    try:
        for name, _ in named_in(text, manifest.name):
            opened.append(_Opened(f"{place}/{name}", (manifest.parent / name).open("rb", buffering=0)))
    except FileNotFoundError:
        AofSet(tuple(opened)).close()
        if manifest.read_bytes() == text:
            raise
        return None
    found = AofSet(tuple(opened), f"{place}/{manifest.name}", text)
    if manifest.read_bytes() != text:
        found.close()
        return None
    return found


def named_in(manifest: bytes, name: str) -> list[tuple[str, str]]:
    """Return the files that belong to the data, each with its type (b: base, i: increment); raises SourceError."""
    found = []
    for line in manifest.decode("utf-8", "surrogateescape").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _FILE.match(line)
        if match is None or "/" in match[1] or match[1].startswith('"'):
            raise SourceError(f"the manifest {name} cannot be read: {line[:100]!r}")
        if match[3] != "h":  # history: about to be deleted
            found.append((match[1], match[3]))
    return found


class AofWalk:
    """Walks an append-only file that comes in pieces: an RDB file first, or not, then commands; a `Checker`.

    ``whole`` is how many bytes stand before the end of the last command that is whole and in no open transaction.
    ``on_command`` gets the data in which a command stands whole, and where.
    """

    def __init__(self, name: str, *, on_command: Callable[[bytes, int], object] | None = None) -> None:
        self.count = 0
        self.whole = 0
        self.began: str = ""
        self._commands = 0
        self._sum = 0
        self._name = name
        self._on_command = on_command
        self._rdb: RdbWalk | None = None
        self._data = b""
        self._fed = 0
        self._safe = 0
        self._multi = False
        self._wait = 5

    @property
    def in_base(self) -> bool:
        """Tell whether what came so far ends within an RDB file."""
        return self._rdb is not None and not self._rdb.ended

    @property
    def digest(self) -> str:
        """Return a digest of keys and commands in their order."""
        keys = self._rdb.digest if self._rdb is not None else ""
        return f"{xxh3_128_intdigest(f'{keys}{self._sum:032x}'.encode()):032x}"

    def __call__(self, piece: bytes) -> None:
        """Take the next piece, ``b""`` for the end; raises VerifyError."""
        if not piece:
            self._wait = 0
            self._end()
            return
        self._fed += len(piece)
        if self._rdb is not None and self.in_base:
            self._preamble(piece)
            return
        self._data = self._data + piece if self._data else piece
        if self._fed == len(self._data) and self._rdb is None:
            if self._data[:5] == b"REDIS":
                self._rdb, data, self._data = RdbWalk(self._name), self._data, b""
                self._preamble(data)
                return
            if b"REDIS".startswith(self._data[:5]):
                return
        self._walk()

    def _preamble(self, piece: bytes) -> None:
        assert self._rdb is not None, "there is one"
        self._rdb(piece)
        if self._rdb.ended:
            self._data, self._rdb.rest = self._rdb.rest, b""
            self.whole = self._fed - len(self._data)
            self.count = self._rdb.count
            self._walk()

    def _walk(self) -> None:
        if len(self._data) < self._wait:
            return
        data, at = self._data, 0
        base = self._fed - len(data)
        try:
            while (after := _command_end(data, at)) > 0:
                self._note(data, at, after, base)
                at = after
        except ValueError:
            raise self._damaged("is damaged") from None
        self._data = data[at:]
        self._wait = 2 * len(self._data)

    def _note(self, data: bytes, at: int, after: int, base: int) -> None:
        if data[at] != 35:  # an annotation (#TS:…) is no command
            self.count += 1
            if self._on_command is not None:
                self._on_command(data, at)
            head = data[at : at + 24].upper()
            if head.startswith(b"*1\r\n$5\r\nMULTI"):
                self._multi = True
            elif head.startswith(b"*1\r\n$4\r\nEXEC"):
                self._multi = False
        # Commands apply in their order, so the digest is of that as well.
        self._sum = xxh3_128_intdigest(data[at:after], self._sum & 0xFFFFFFFFFFFFFFFF)
        if not self._multi:
            self.whole = base + after

    def _end(self) -> None:
        if self.in_base:
            self._preamble(b"")
        else:
            self._walk()
        if self._data or self._multi:
            raise self._damaged("ends within a command or a transaction")

    def _damaged(self, what: str) -> VerifyError:
        return VerifyError(f"{self._name} {what}, after {self.count:,} commands", hint=_HINT, code="verify-structure")


def _command_end(data: bytes, at: int) -> int:
    """Return where the command at ``at`` ends, 0: it is not all there; raises ValueError."""
    end = len(data)
    if at >= end:
        return 0
    stop = data.find(b"\r\n", at)
    if data[at] == 35:
        return stop + 2 if stop >= 0 else 0
    if data[at] != 42:
        raise ValueError
    if stop < 0:
        return _unless_long(at, end)
    count = int(data[at + 1 : stop])
    at = stop + 2
    for _ in range(count):
        if at >= end:
            return 0
        if data[at] != 36:
            raise ValueError
        stop = data.find(b"\r\n", at, at + 24)
        if stop < 0:
            return _unless_long(at, end)
        at = stop + 4 + int(data[at + 1 : stop])
        if at > end:
            return 0
        if data[at - 2 : at] != b"\r\n":
            raise ValueError
    return at


def _unless_long(at: int, end: int) -> int:
    if end - at > 24:
        raise ValueError
    return 0


class AofDump(ThreadedDump):
    """The files on their way here. The last one is cut behind its last whole command, as the server itself does."""

    def __init__(self, settings: RedisSource, server: Server, folder: Path) -> None:
        self._files = find_aof(Path(settings.data_folder))
        self._walks: dict[str, AofWalk] = {}
        self._moment: datetime | None = None
        super().__init__(settings, server, folder)

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return sum(walk.count for walk in list(self._walks.values()))

    def hang_up(self) -> None:
        """See `ThreadedDump.hang_up`; nothing here waits for a server."""

    def write(self) -> None:
        """See `ThreadedDump.write`."""
        try:
            # Up to here: what is appended from now on belongs to the next backup.
            sizes = {file.name: os.fstat(file.stream.fileno()).st_size for file in self._files.files}
            self._moment = datetime.now(UTC)
            for at, file in enumerate(self._files.files):
                target = self.folder / file.name
                target.parent.mkdir(exist_ok=True)
                last = at == len(self._files.files) - 1
                self._copy(file, target, sizes[file.name], last=last)
            if self._files.manifest:
                (self.folder / self._files.manifest).write_bytes(self._files.text)
                self.written[self._files.manifest] = len(self._files.text)
        finally:
            self._files.close()

    def _copy(self, file: _Opened, target: Path, size: int, *, last: bool) -> None:
        walk = self._walks[file.name] = AofWalk(file.name)
        written, held = 0, b""
        with target.open("xb", buffering=0) as stream:
            write = writer_into(stream)
            for piece in _pieces(file.stream, size):
                self.step()
                with _as_read():
                    walk(piece)
                held = held + piece if held else piece
                ready = walk.whole - written
                if ready > 0:
                    write(memoryview(held)[:ready])  # type: ignore[arg-type]
                    held, written = held[ready:], walk.whole
            self.written[file.name] = stream.tell()
        if held and (walk.in_base or not last):
            # The server cuts the last command of the last file itself, but no more than that.
            what = "ends within a key" if walk.in_base else "ends within a command, and is not the last file"
            with _as_read():
                raise VerifyError(f"{file.name} {what}")

    def judge(self, sizes: dict[str, int]) -> Harvest:
        """See `ThreadedDump.judge`: every file was walked to its end."""
        parts = tuple(
            Part(name=name, kind="file", items=walk.count, bytes=sizes[name], file=name)
            for name, walk in self._walks.items()
        )
        keys = " ".join(f"db{number}={count}" for number, count in sorted(self.server.keys.items()))
        return made(
            self.server,
            RedisMode.AOF,
            parts,
            Consistency(level="point-in-time", moment=self._moment),
            facts={"keys": keys, "manifest": self._files.manifest},
            by_hand=self._by_hand(),
        )

    def _by_hand(self) -> tuple[str, ...]:
        name = (self._files.manifest or _SINGLE).partition("/")[0]
        check = f"redis-check-aof {{folder}}/{self._files.manifest or _SINGLE}"
        return (
            "# stop Redis, move what its folder has of that name away; then, as root:",
            check,
            f"cp -r {{folder}}/{name} /var/lib/redis/{name}",
            f"chown -R redis:redis /var/lib/redis/{name}",
            "# start it with appendonly yes",
        )


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (piece := stream.read(min(_PIECE, size))):
        size -= len(piece)
        yield piece


@contextlib.contextmanager
def _as_read() -> Iterator[None]:
    """Say of a file that cannot be read that it is the server's, not the backup's."""
    try:
        yield
    except VerifyError as error:
        raise SourceError(
            f"the server's own file is damaged: {error.message}",
            hint='repair it with redis-check-aof --fix, or save it with mode = "snapshot"',
            code="source-damaged",
            retryable=False,
        ) from None
