"""A Redis server read key by key: SCAN, and DUMP and the time of expiry of each. Writes commands, and JSON for people.

While the answers to one batch are read the server works on the next. It is asked for no more at once than `_BATCH` keys
and about `_BATCH_BYTES`, so that neither side holds much. What most keys of most servers are, a short string without a
time of expiry, has a way of its own through here: each microsecond for a key is a second for a million.
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
from nanumpay_backupd.sources.redis_keys import FUNCTIONS, file_of, functions_line, head, quick_line
from nanumpay_backupd.sources.redis_keys import line as key_line
from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, command
from nanumpay_backupd.sources.redis_values import Asking
from nanumpay_backupd.transforms.growing import writer_into

__all__ = ["LogicalDump", "databases_of"]

_BATCH: Final = 500
_BATCH_BYTES: Final = 4 << 20
_WRITE: Final = 1 << 20
_LARGE: Final = 1 << 20
"""Bytes of a value beyond which people get no JSON of it: nobody reads that, and to unpack it takes long."""
_REASON: Final = "keys are read one after the other while the server goes on"
_PLAIN: Final = bytes(code for code in range(32, 127) if code not in b'"\\')
"""Bytes that stand in JSON as they are."""
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

    def add(self, names: list[bytes], expiries: list[int], payloads: list[bytes]) -> None:
        """Write some keys; each payload has the end of its line behind it."""
        self._pending += [
            quick_line(name, payload) if not expiry else key_line(name, expiry, payload[:-2])
            for name, expiry, payload in zip(names, expiries, payloads, strict=True)
        ]
        if self._lines is not None:
            shown = [
                _shown(name, expiry, payload) for name, expiry, payload in zip(names, expiries, payloads, strict=True)
            ]
            self._shown += shown
            self._size += sum(map(len, shown))
        self.count += len(names)
        self._size += sum(map(len, payloads)) + 64 * len(names)
        if self._size >= _WRITE:
            self.flush()

    def flush(self) -> None:
        """Hand on what was gathered."""
        _write(self._keys, self._pending)
        if self._lines is not None and self._shown:
            _write(self._lines, self._shown)
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


def _shown(name: bytes, expiry: int, payload: bytes) -> bytes:
    """Return the line that people read of a key; ``payload`` has the end of its line behind it."""
    kind, first = payload[0], payload[1]
    if kind == 0 and not expiry and first < 64:
        value = payload[2:-12]
        if not (name + value).translate(None, _PLAIN):
            return b'{"key":"%b","type":"string","value":"%b"}\n' % (name, value)
        return b'{"key":%b,"type":"string","value":%b}\n' % (_encode(text(name)), _encode(text(value)))
    return _encode(_told(name, expiry, payload[:-2])) + b"\n"


def _told(name: bytes, expiry: int, payload: bytes) -> dict[str, Any]:
    kind = payload[0]
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
        self._asking = Asking(self._link, server)
        self._functions = self._asking.exact
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
        waiting, cursor = _page(link.ask("SCAN", 0, "COUNT", _BATCH))
        asked, scanning = self._ask_for(waiting, cursor)
        while True:
            self.step()
            if scanning:
                answer = link.reply()
                if isinstance(answer, Refusal):
                    raise answer
                waiting, cursor = _page(answer)
            # The next are asked for before these are taken: so the server never waits for us.
            there, ended = asked, not waiting and cursor == b"0"
            if not ended:
                asked, scanning = self._ask_for(waiting, cursor)
            self._take(there, files)
            if ended:
                return

    _limit = _BATCH

    def _ask_for(self, waiting: list[bytes], cursor: bytes) -> tuple[list[bytes], bool]:
        """Ask for some of the names, which are taken out, and with the last for the next page; returns both.

        Of large values less is asked for at once.
        """
        names = waiting[: self._limit]
        del waiting[: self._limit]
        scanning = not waiting and cursor != b"0"
        self._asking.ask(names, command("SCAN", cursor, "COUNT", _BATCH) if scanning else b"")
        return names, scanning

    def _take(self, names: list[bytes], files: _Database) -> None:
        """Read the answers about some keys; one that is gone meanwhile is no key."""
        expiries, payloads = self._asking.read(len(names))
        if b"" in payloads:
            there = [at for at, payload in enumerate(payloads) if payload]
            names = [names[at] for at in there]
            expiries, payloads = [expiries[at] for at in there], [payloads[at] for at in there]
        files.add(names, expiries, payloads)
        self._count = sum(self._done.values()) + files.count
        if names:
            size = sum(map(len, payloads))
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
