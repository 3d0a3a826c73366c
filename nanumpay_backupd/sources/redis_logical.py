"""A Redis server read key by key: SCAN, and DUMP and the time of expiry of each. Writes commands, and JSON for people.

While the answers to one batch are read the server works on the next. It is asked for no more at once than `_BATCH` keys
and about `_BATCH_BYTES`, so that neither side holds much.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from nanumpay_backupd.model import Consistency, Part
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Harvest
from nanumpay_backupd.sources.rdb_value import date, readable, text, type_name
from nanumpay_backupd.sources.redis_dump import ThreadedDump, made
from nanumpay_backupd.sources.redis_keys import FUNCTIONS, file_of, functions_line, head
from nanumpay_backupd.sources.redis_keys import line as key_line
from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, command, read_version
from nanumpay_backupd.transforms.growing import writer_into

__all__ = ["LogicalDump", "databases_of"]

_BATCH: Final = 500
_BATCH_BYTES: Final = 4 << 20
_GONE: Final = -2
"""What the server says of the time of a key that is gone: by then it was deleted, whatever DUMP returned before."""
_WRITE: Final = 1 << 20
_LARGE: Final = 1 << 20
"""Bytes of a value beyond which people get no JSON of it: nobody reads that, and to unpack it takes long."""
_REASON: Final = "keys are read one after the other while the server goes on"
_encode = msgspec.json.Encoder().encode


def databases_of(settings: RedisSource, server: Server, named: int | None) -> tuple[int, ...]:
    """Return the databases that hold keys and are to be saved; ``named`` is the one in the address."""
    wanted = settings.databases or ((named,) if named is not None else ())
    return tuple(number for number in sorted(server.keys) if not wanted or number in wanted)


class _Database:
    """The two files of one database."""

    def __init__(self, folder: Path, number: int, *, readable: bool) -> None:
        self.number = number
        self.count = 0
        self._keys = (folder / file_of(number)).open("xb", buffering=0)
        self._lines = (folder / f"db{number}.jsonl").open("xb", buffering=0) if readable else None
        self._pending: list[bytes] = [head(number)]
        self._shown: list[bytes] = []
        self._size = 0

    @property
    def readable(self) -> bool:
        return self._lines is not None

    def add(self, name: bytes, expiry: int, payload: bytes) -> None:
        """Write one key."""
        self._pending.append(key_line(name, expiry, payload))
        self.count += 1
        self._size += len(payload) + 64
        if self._lines is not None:
            shown = _encode(_shown(name, expiry, payload))
            self._shown.append(shown)
            self._size += len(shown)
        if self._size >= _WRITE:
            self.flush()

    def flush(self) -> None:
        """Hand on what was gathered."""
        _write(self._keys, self._pending)
        if self._lines is not None and self._shown:
            self._shown.append(b"")
            _write(self._lines, [b"\n".join(self._shown)])
            self._shown = []
        self._pending, self._size = [], 0

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file so far."""
        streams = [self._keys] if self._lines is None else [self._keys, self._lines]
        return {Path(stream.name).name: stream.tell() for stream in streams}

    def close(self) -> None:
        """Close the files; what was gathered is not written."""
        self._keys.close()
        if self._lines is not None:
            self._lines.close()


def _write(stream: IO[bytes], pieces: list[bytes]) -> None:
    writer_into(stream)(b"".join(pieces))


def _shown(name: bytes, expiry: int, payload: bytes) -> dict[str, Any]:
    """Return what people read of a key."""
    kind = payload[0]
    if kind == 0 and not expiry and payload[1] < 64:  # most keys of most servers
        return {"key": text(name), "type": "string", "value": text(payload[2:-10])}
    shown: dict[str, Any] = {"key": text(name), "type": type_name(kind)}
    if expiry:
        shown["expires"] = date(expiry)
    if len(payload) > _LARGE:
        shown["bytes"] = len(payload)
        return shown
    try:
        shown["value"] = readable(kind, payload[:-10], 1)
    except (ValueError, KeyError, IndexError):  # a form that a newer server has: what restores it is there all the same
        shown["bytes"] = len(payload)
    return shown


class LogicalDump(ThreadedDump):
    """The keys on their way here."""

    def __init__(self, settings: RedisSource, server: Server, folder: Path) -> None:
        self._link = Link(settings)
        self._databases = databases_of(settings, server, self._link.place.database)
        self._done: dict[int, int] = {}
        self._count = 0
        self._exact = read_version(server.version) >= (7, 0)
        self._functions = self._exact
        self._warnings: list[str] = []
        self._began = datetime.now(UTC)
        super().__init__(settings, server, folder)

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return self._count

    def hang_up(self) -> None:
        """See `ThreadedDump.hang_up`."""
        self._link.close()

    def write(self) -> None:
        """See `ThreadedDump.write`."""
        for number in self._databases:
            files = _Database(self.folder, number, readable=self.settings.readable)
            try:
                with self._link.faults():
                    self._scan(number, files)
                files.flush()
                self.written.update(files.sizes())
            finally:
                files.close()
            self._done[number] = files.count
        if self._functions:
            self._save_functions()

    def _scan(self, number: int, files: _Database) -> None:
        link = self._link
        link.ask("SELECT", number)
        names, cursor = _page(link.ask("SCAN", 0, "COUNT", _BATCH))
        while True:
            waiting = names
            following = cursor != b"0"
            first = self._ask_for(waiting[: self._limit], scan=cursor if following else None)
            if following:
                answer = link.reply()
                if isinstance(answer, Refusal):
                    raise answer
                names, cursor = _page(answer)
            self._take(first, files)
            # Of large values less is asked for at once.
            at = len(first)
            while at < len(waiting):
                first = self._ask_for(waiting[at : at + self._limit], scan=None)
                self._take(first, files)
                at += len(first)
            self.step()
            if not following:
                return

    _limit = _BATCH

    def _ask_for(self, names: list[bytes], scan: bytes | None) -> list[bytes]:
        when = b"$11\r\nPEXPIRETIME\r\n" if self._exact else b"$4\r\nPTTL\r\n"
        pieces = [command("SCAN", scan, "COUNT", _BATCH)] if scan is not None else []
        if not self._exact:
            pieces.append(command("TIME"))
        for name in names:
            key = b"$%d\r\n%b\r\n" % (len(name), name)
            pieces.append(b"*2\r\n$4\r\nDUMP\r\n%b*2\r\n%b%b" % (key, when, key))
        self._link.send(b"".join(pieces))
        return names

    def _take(self, names: list[bytes], files: _Database) -> None:
        """Read the answers about some keys; one that is gone meanwhile is no key."""
        link, size, now = self._link, 0, 0
        readline, exactly = link.file.readline, link.exactly
        if not self._exact:
            seconds, micro = link.reply()
            now = int(seconds) * 1000 + int(micro) // 1000
        for name in names:
            header = readline()
            if header[:1] != b"$":
                raise _refusal(header)
            length = int(header[1:])
            payload = exactly(length + 2)[:-2] if length >= 0 else b""
            header = readline()
            if header[:1] != b":":
                raise _refusal(header)
            expiry = int(header[1:])
            if not payload or expiry == _GONE:
                continue
            files.add(name, max(0, expiry + now if expiry > 0 else 0), payload)
            size += length
        self._count = sum(self._done.values()) + files.count
        if names:
            self._limit = max(1, min(_BATCH, _BATCH_BYTES * len(names) // (size + 1)))

    def _save_functions(self) -> None:
        """Save the libraries of functions, which belong to no database."""
        with self._link.faults():
            try:
                payload = self._link.ask("FUNCTION", "DUMP")
            except Refusal as refusal:
                if refusal.code == "NOPERM":
                    self._warnings.append("libraries of functions are not saved: the user may not use FUNCTION DUMP")
                    return
                if "unknown command" in refusal.text.lower():
                    return
                raise
        if len(payload) > 10:
            line = functions_line(payload)
            (self.folder / FUNCTIONS).write_bytes(line)
            self.written[FUNCTIONS] = len(line)

    def judge(self, sizes: dict[str, int]) -> Harvest:
        """See `ThreadedDump.judge`."""
        parts = tuple(
            Part(name=f"db{number}", kind="database", items=count, bytes=sizes[file_of(number)], file=file_of(number))
            for number, count in self._done.items()
        )
        return made(
            self.server,
            RedisMode.LOGICAL,
            parts,
            Consistency(level="none", reason=_REASON, moment=self._began),
            facts={},
            by_hand=tuple(
                f"redis-cli -u URL --pipe < {{folder}}/{name}" for name in self.written if name[-5:] == ".resp"
            ),
            warnings=tuple(self._warnings),
        )


def _page(answer: Any) -> tuple[list[bytes], bytes]:
    """Return the names in an answer to SCAN, each once, and where to go on."""
    cursor, names = answer
    return list(dict.fromkeys(names)), cursor


def _refusal(header: bytes) -> Exception:
    if header[:1] == b"-":
        return Refusal(header[1:].strip().decode("utf-8", "replace"))
    return EOFError() if not header else ValueError("what answers there is no Redis server")
