"""A Redis server as a source: what is there before it is saved, which way it is read, and the checkers of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, VerifyError
from nanumpay_backupd.model import Content
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Dump, Estimate, FolderSource
from nanumpay_backupd.sources.rdb import RdbWalk
from nanumpay_backupd.sources.redis_aof import AofDump, AofWalk, find_aof
from nanumpay_backupd.sources.redis_keys import FUNCTIONS, KeysWalk, LinesWalk
from nanumpay_backupd.sources.redis_link import Link, Server, look_at, read_version
from nanumpay_backupd.sources.redis_logical import LogicalDump, databases_of
from nanumpay_backupd.sources.redis_snapshot import FILE, SnapshotDump
from nanumpay_backupd.wording import counted

__all__ = ["RedisServer", "checker_of"]

_NO_KEY: Final = "nanumpay-backupd:preflight"
_KEY_BYTES: Final = 160
"""Bytes that a key and its line of JSON are thought to take at least, where they are saved one by one."""


class RedisServer(FolderSource):
    """One server, read as its settings say."""

    def __init__(self, settings: RedisSource) -> None:
        self._settings = settings
        self._server: Server | None = None

    def preflight(self) -> Estimate:
        """See `Source.preflight`: log in, see what is there and that it may be read."""
        settings = self._settings
        if settings.mode == RedisMode.AOF:
            return self._preflight_aof()
        with Link(settings) as link:
            server = self._server = look_at(link)
            if server.topology == "cluster":
                named = "one node of a cluster: it holds a part of the data only"
            else:
                named = ""
            if settings.mode == RedisMode.LOGICAL:
                numbers = databases_of(settings, server, link.place.database)
            else:
                numbers = tuple(sorted(server.keys))
            keys = sum(server.keys[number] for number in numbers)
            if not keys:
                raise _empty(link.place.address)
            with link.faults():
                _may_read(link, server, settings.mode)
        raw = server.memory
        if settings.mode == RedisMode.LOGICAL:
            raw = raw * (2 if settings.readable else 1) + keys * _KEY_BYTES
        where = f"{server.name} ({server.topology}) at {link.place.address}"
        return Estimate(
            raw_bytes=raw,
            summary=f"{where}, {counted('redis', keys, len(numbers))}, {settings.mode}",
            warnings=(f"this is {named}; every node needs a job of its own",) if named else (),
        )

    def _preflight_aof(self) -> Estimate:
        """Look at the files; the server itself need not run, and where it does it says what it is."""
        files = find_aof(Path(self._settings.data_folder))
        size = sum(Path(f"/proc/self/fd/{file.stream.fileno()}").stat().st_size for file in files.files)
        files.close()
        warnings: tuple[str, ...] = ()
        try:
            with Link(self._settings) as link:
                self._server = look_at(link)
        except BackupdError as error:
            if error.code not in ("source-unreachable", "source-loading"):
                raise
            self._server = Server("")
            warnings = (f"its files are saved, but {error.message}",)
        if not size:
            raise _empty(self._settings.data_folder)
        where = f"AOF of {self._server.name} in {self._settings.data_folder}"
        return Estimate(raw_bytes=size, summary=f"{where}, {len(files.files)} files", warnings=warnings)

    def start(self, folder: Path) -> Dump:
        """See `FolderSource.start`."""
        assert self._server is not None, "preflight comes first"
        if self._settings.mode == RedisMode.AOF:
            return AofDump(self._settings, self._server, folder)
        if self._settings.mode == RedisMode.LOGICAL:
            return LogicalDump(self._settings, self._server, folder)
        return SnapshotDump(self._settings, self._server, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """See `Source.check`."""
        return checker_of(name)


def checker_of(name: str) -> Callable[[bytes], None] | None:
    """Return what walks a file of a backup, by its path in it."""
    base = name.rpartition("/")[2]
    if base == FILE:
        return _Databases(name)
    if base.endswith((".aof", ".rdb")):
        return AofWalk(name)
    if base == FUNCTIONS:
        return None
    if base.endswith(".resp"):
        return KeysWalk(name)
    if base.endswith(".jsonl"):
        return LinesWalk(name)
    return None


class _Databases(RdbWalk):
    """An RDB file whose databases are parts, with nothing behind it."""

    def __call__(self, piece: bytes) -> None:
        """See `RdbWalk`; damage that looks like an early end leaves something behind it."""
        super().__call__(piece)
        if self.rest:
            raise VerifyError(
                f"{FILE} goes on behind its end, after {self.count:,} keys",
                hint="do not rely on this backup; older verified ones are kept; run a new one now: backupctl run",
                code="verify-structure",
            )

    @property
    def parts(self) -> dict[str, Content]:
        """Return keys and digest of each; see `Checker`."""
        return self.contents


def _empty(where: str) -> SourceError:
    return SourceError(
        f"Redis at {where} holds no keys: there is nothing to back up",
        hint="is it the right server and database? did it start without its data?",
        code="source-empty",
        retryable=False,
    )


def _may_read(link: Link, server: Server, mode: str) -> None:
    """Try what the dump will ask for, as far as that changes nothing; raises Refusal."""
    if mode == RedisMode.SNAPSHOT:
        # PSYNC itself would make the file; whoever may not use it is told so before anything is read.
        link.ask("REPLCONF", "capa", "eof")
        return
    when = "PEXPIRETIME" if read_version(server.version) >= (7, 0) else "PTTL"
    for tried in (("SELECT", min(server.keys)), ("SCAN", "0"), ("DUMP", _NO_KEY), (when, _NO_KEY)):
        link.ask(*tried)
