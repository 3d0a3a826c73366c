"""Increments of MariaDB and MySQL: the binary log from where the backup before ended, as the server wrote it.

The files are those of the server (of the first one: its head, and all from that position on), so the stock
mariadb-binlog reads them. They are fetched beside the dump's folder and moved into it when they are whole and read.
"""

from __future__ import annotations

import hashlib
import shlex
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError, VerifyError
from nanumpay_backupd.model import Consistency, Part, SourceInfo
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import Dump, Harvest, Since, Unchanged
from nanumpay_backupd.sources.mariadb_client import Client, literal, open_tool, tool_fault
from nanumpay_backupd.sources.mariadb_facts import Facts, read_log
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.process import Child

__all__ = ["AS_IT_IS", "FOLDER", "BinlogDump", "BinlogWalk", "in_order"]

FOLDER: Final = "binlog"
AS_IT_IS: Final = "--loose-skip-gtid-strict-mode"
"""Without it mariadb-binlog (10.8 and newer) misses, in a log that begins in the middle of a file, what came before.

Older ones and MySQL's pass over it. That nothing is missing is known: events, positions and checksums were read.
"""
_MAGIC: Final = b"\xfebin"
_HEADER: Final = struct.Struct("<IBIIIH")
_FORMAT: Final = 15
"""Type of the event that begins each file and describes it."""
_BEGINS: Final = frozenset({33, 34, 162})
"""Types of the events that begin a transaction: GTID and anonymous GTID of MySQL, GTID of MariaDB."""
_IN_USE: Final = 1
_CRC: Final = 1
_CRC_BYTES: Final = 4
_WRAP: Final = 1 << 32
_CHUNK: Final = 1 << 20
_LOOK: Final = 0.2
_ENDED_SECONDS: Final = 60.0
_TERMS: Final = ("could not find first log file", "1236")


class BinlogWalk:
    """Goes through a file of the log event by event: lengths, positions, checksums. See `base.Checker`.

    ``count`` are transactions; ``start`` and ``end`` the positions, ``end`` 0: there is no event.
    """

    def __init__(self, name: str) -> None:
        self.count = 0
        self.start = 0
        self.end = 0
        self._name = name.rpartition("/")[2]
        self._head = b""
        self._begun = False
        self._checksums = False
        self._kind = 0
        self._left = 0
        self._crc = 0
        self._last = b""
        self._format = bytearray()
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was read."""
        return self._digest.hexdigest()

    def __call__(self, piece: bytes, /) -> None:
        """Take the next piece; raises VerifyError."""
        self._digest.update(piece)
        if not piece:
            if self._head or self._left or not self._begun:
                raise self._broken("was cut off")
            return
        data = memoryview(piece)
        if not self._begun:
            self._head += bytes(data)
            if len(self._head) < len(_MAGIC):
                return
            if not self._head.startswith(_MAGIC):
                raise self._broken("does not begin as a binary log does")
            data, self._head, self._begun = memoryview(self._head)[len(_MAGIC) :], b"", True
        while data:
            data = self._body(data) if self._left else self._header(data)

    def _header(self, data: memoryview) -> memoryview:
        want = _HEADER.size - len(self._head)
        self._head += bytes(data[:want])
        if len(self._head) < _HEADER.size:
            return data[:0]
        head, self._head = self._head, b""
        _, kind, _, length, after, flags = _HEADER.unpack(head)
        if length < _HEADER.size + (_CRC_BYTES if self._checksums else 0):
            raise self._broken(f"holds an event of {length} bytes")
        if kind == _FORMAT:
            # Its checksum was made before the file was in use.
            head = head[:17] + struct.pack("<H", flags & ~_IN_USE)
            self._format.clear()
        elif after:
            begins = (after - length) % _WRAP
            if self.end and begins != self.end % _WRAP:
                raise self._broken(f"has an event at {begins}, where one at {self.end} has to follow")
            self.start = self.start or begins
        if after:
            self.end = after if after >= self.end % _WRAP else self.end + length
        self.count += kind in _BEGINS
        self._kind, self._left = kind, length - _HEADER.size
        self._crc, self._last = zlib.crc32(head), b""
        if not self._left:
            self._ended()
        return data[want:]

    def _body(self, data: memoryview) -> memoryview:
        taken = data[: self._left]
        self._left -= len(taken)
        if self._kind == _FORMAT:
            self._format += taken
        elif self._checksums:
            # The last four bytes are not part of what they are about.
            held = self._last + bytes(taken)
            self._crc = zlib.crc32(held[:-_CRC_BYTES], self._crc)
            self._last = held[-_CRC_BYTES:]
        if not self._left:
            self._ended()
        return data[len(taken) :]

    def _ended(self) -> None:
        if self._kind == _FORMAT:
            said = bytes(self._format)
            self._checksums = len(said) > _CRC_BYTES and said[-_CRC_BYTES - 1] == _CRC
            if not self._checksums:
                return
            self._crc = zlib.crc32(said[:-_CRC_BYTES], self._crc)
            self._last = said[-_CRC_BYTES:]
        if self._checksums and int.from_bytes(self._last, "little") != self._crc:
            raise self._broken(f"has an event before {self.end} whose checksum is wrong")

    def _broken(self, what: str) -> VerifyError:
        return VerifyError(
            f"the binary log {self._name} {what}",
            hint="do not rely on this backup; run a new one: backupctl run",
            code="verify-structure",
        )


class BinlogDump(Dump):
    """A running mariadb-binlog, and the thread that reads what it wrote."""

    def __init__(self, settings: MariadbSource, client: Client, facts: Facts, folder: Path, since: Since) -> None:
        self._settings, self._client, self._facts = settings, client, facts
        self._file, self._position = _follows(client, facts, since)
        self._tool = open_tool(settings.mariadb_binlog)
        self._folder = folder / FOLDER
        self._folder.mkdir()
        self._coming = Path(tempfile.mkdtemp(prefix="binlog-", dir=folder.parent))
        self._walks: dict[str, BinlogWalk] = {}
        self._fault: BaseException | None = None
        self._stopped = threading.Event()
        with client.options(self._tool) as fd:
            argv = [str(self._tool.path), f"--defaults-file=/dev/fd/{fd}", "--read-from-remote-server", "--raw"]
            argv += ["--to-last-log", f"--start-position={self._position}", f"--result-file={self._coming}/"]
            self._child = Child([*argv, self._file], pass_fds=(fd,))
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._child.running or self._reading.is_alive()

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return sum(walk.count for walk in list(self._walks.values()))

    def pause(self) -> None:
        """See `Dump.pause`."""
        self._child.pause()

    def resume(self) -> None:
        """See `Dump.resume`."""
        self._child.resume()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        if self._child.wait(timeout) is None:
            return False
        self._reading.join(timeout)
        return not self._reading.is_alive()

    def kill(self) -> None:
        """See `Dump.kill`."""
        self._stopped.set()
        self._child.resume()
        self._child.kill()
        self._reading.join(_ENDED_SECONDS)
        remove_tree(self._coming)

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: all files from the first on, each whole and following on."""
        code = self._child.wait() or 0
        self._reading.join(_ENDED_SECONDS)
        if code != 0:
            if any(term in self._child.tail.lower() for term in _TERMS):
                raise _full_needed(f"the server no longer has {self._file}")
            raise tool_fault(self._tool.name, code, self._child.tail, self._settings)
        if self._fault is not None:
            raise self._fault
        names = in_order(self._walks)
        if not names or names[0] != self._file or (started := self._walks[names[0]].start) not in (0, self._position):
            got = f"{names[0]}:{started}" if names else "nothing"
            raise ToolError(
                f"{self._tool.name} was asked for {self._file}:{self._position} and wrote {got}",
                hint="run again; where it stays so, make a full backup",
                code="dump-incomplete",
                retryable=True,
            )
        end = max(self._walks[names[-1]].end, self._position if len(names) == 1 else 0)
        if (names[-1], end) == (self._file, self._position):
            raise Unchanged
        parts = tuple(self._part(name, sizes) for name in names)
        logs = " ".join("{folder}/" + shlex.quote(part.file) for part in parts)
        gtid = self._client.value(f"SELECT BINLOG_GTID_POS({literal(names[-1])}, {end})") if self._facts.mariadb else ""
        return Harvest(
            source=SourceInfo(
                type="mariadb",
                server_version=self._facts.version,
                topology="binlog",
                databases=self._facts.databases,
                collections=(),
                parts=parts,
                by_hand=(
                    "# after the backup that it goes on from; --stop-datetime='2026-01-31 12:00:00' ends it there",
                    f"mariadb-binlog {AS_IT_IS} {logs} | mariadb",
                ),
                facts={"gtid": gtid, "from": f"{self._file}:{self._position}"},
            ),
            consistency=Consistency(
                level="point-in-time",
                moment=self._facts.now,
                entries=sum(part.items for part in parts),
                position=f"{names[-1]}:{end}",
            ),
            tools={self._tool.name: self._tool.version},
            documents=sum(part.items for part in parts),
        )

    def _part(self, name: str, sizes: dict[str, int]) -> Part:
        file = f"{FOLDER}/{name}"
        return Part(name=name, kind="log", items=self._walks[name].count, bytes=sizes.get(file, 0), file=file)

    def _read(self) -> None:
        """Read each file once the next has begun, the last when the tool has ended."""
        try:
            while self._child.wait(_LOOK) is None:
                for name in in_order(path.name for path in self._coming.iterdir())[:-1]:
                    self._move(name)
            if not self._child.wait():
                for name in in_order(path.name for path in self._coming.iterdir()):
                    self._move(name)
        except (BackupdError, OSError) as error:
            self._fault = error
            self._child.kill()

    def _move(self, name: str) -> None:
        walk = self._walks[name] = BinlogWalk(name)
        with (self._coming / name).open("rb", buffering=0) as stream:
            while piece := stream.read(_CHUNK):
                if self._stopped.is_set():
                    return
                walk(piece)
        walk(b"")
        (self._coming / name).rename(self._folder / name)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of log files in their order: by the number at their end."""
    return sorted(names, key=lambda name: (len(name.rpartition(".")[2]), name.rpartition(".")[2]))


def _follows(client: Client, facts: Facts, since: Since) -> tuple[str, int]:
    """Return where to go on; raises SourceError (``chain-broken``) where the log there is gone or another one."""
    file, _, position = since.manifest.consistency.position.rpartition(":")
    if not file or not position.isdecimal():
        raise _full_needed(f"{since.manifest.backup} notes no position in the binary log (log_bin, right to see it)")
    log = read_log(client, facts)
    if file not in log.files:
        raise _full_needed(f"the server no longer has {file}, in which the backup before ended (purged?)")
    if log.files[file] < int(position):
        raise _full_needed(f"{file} ends before {position}, where the backup before ended (was the log begun anew?)")
    before = since.manifest.source.facts.get("gtid", "")
    if facts.mariadb and before:
        now = client.value(f"SELECT BINLOG_GTID_POS({literal(file)}, {int(position)})")
        if set(now.split(",")) != set(before.split(",")):
            raise _full_needed(f"{file}:{position} is now {now or 'no position'}, it was {before}: another log")
    return file, int(position)


def _full_needed(why: str) -> SourceError:
    return SourceError(
        f"no increment can follow: {why}",
        hint="a full begins a new chain; keep the log longer (docs/sources/mariadb.md)",
        code="chain-broken",
        retryable=False,
    )
