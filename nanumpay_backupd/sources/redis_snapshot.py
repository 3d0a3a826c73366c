"""A Redis server as the RDB file that it sends a replica: all databases as they were at one moment. Local or far.

Facts about Redis this relies on, each seen with 7.0: after ``PSYNC ? -1`` come line feeds until the server begins (it
waits ``repl-diskless-sync-delay``, 5 s, for more replicas), ``+FULLRESYNC ID OFFSET``, line feeds again while it makes
the file, then ``$SIZE`` or ``$EOF:MARK`` (40 bytes, which stand once more behind a file
without a known size), then the file; ``REPLCONF rdb-only 1`` makes it send nothing after it. A server whose child
cannot write the file hangs up without a word, and says in ``INFO persistence`` that it failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError, VerifyError
from nanumpay_backupd.model import Consistency, Part
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Harvest
from nanumpay_backupd.sources.rdb import NEWEST, RdbWalk
from nanumpay_backupd.sources.redis_dump import ThreadedDump, made
from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, command, fault_of, look_at
from nanumpay_backupd.system.secrets import redact
from nanumpay_backupd.transforms.growing import writer_into

__all__ = ["FILE", "SnapshotDump", "parts_of"]

FILE: Final = "dump.rdb"
_MARK: Final = 40
_PIECE: Final = 1 << 20
_BY_HAND: Final = (
    "# stop Redis, and set appendonly no in its redis.conf: else it loads its AOF instead; then, as root:",
    f"redis-check-rdb {{folder}}/{FILE}",
    f"install -o redis -g redis -m 640 {{folder}}/{FILE} /var/lib/redis/{FILE}",
    "# start it; where it had an AOF: redis-cli CONFIG SET appendonly yes, and the same in its redis.conf",
)


class SnapshotDump(ThreadedDump):
    """An RDB file on its way here."""

    def __init__(self, settings: RedisSource, server: Server, folder: Path) -> None:
        self._link = Link(settings)
        self._walk = RdbWalk(FILE, digests=False)
        self._position = ""
        super().__init__(settings, server, folder)

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return self._walk.count

    def hang_up(self) -> None:
        """See `ThreadedDump.hang_up`."""
        self._link.close()

    def write(self) -> None:
        """See `ThreadedDump.write`."""
        with (self.folder / FILE).open("xb", buffering=0) as stream:
            with self._faults():
                left, mark = self._begin()
            self._receive(writer_into(stream), left, mark)
            self.written[FILE] = stream.tell()

    def _begin(self) -> tuple[int, bytes]:
        """Ask for the file; returns its size (-1: not known) and the mark behind it."""
        link = self._link
        for option in (("capa", "eof"), ("rdb-only", "1")):
            # Servers before 7.0 know no rdb-only; then what comes after the file is not read.
            with contextlib.suppress(Refusal):
                link.ask("REPLCONF", *option)
        link.send(command("PSYNC", "?", "-1"))
        self._position = self._line()[1:].decode("ascii", "replace").partition(" ")[2].replace(" ", ":")
        line = self._line()
        if line[:5] == b"$EOF:" and len(line) == 5 + _MARK:
            return -1, line[5:]
        if line[:1] != b"$" or not line[1:].isdigit():
            raise ValueError("it sends no RDB file")
        return int(line[1:]), b""

    def _line(self) -> bytes:
        """Return the next line that says something; raises Refusal, OSError, EOFError."""
        while line := self._link.file.readline():
            if line := line.strip():
                if line[:1] == b"-":
                    raise Refusal(redact(line[1:].decode("utf-8", "replace")))
                return line
            self.step()
        raise EOFError

    def _receive(self, write: Callable[[bytes], None], left: int, mark: bytes) -> None:
        walk, file = self._walk, self._link.file
        held, ended = b"", left == 0
        while not ended:
            self.step()
            with self._faults():
                piece = file.read1(_PIECE if mark else min(_PIECE, left))
            if not piece:
                raise self._cut_off()
            if mark:
                # The mark may be parted between two pieces; what follows it is none of the file's.
                piece = held + piece
                at = piece.find(mark)
                ended, at = at >= 0, at if at >= 0 else max(0, len(piece) - _MARK + 1)
                piece, held = piece[:at], piece[at:]
            else:
                left -= len(piece)
                ended = left == 0
            if piece:
                write(piece)
                self._follow(piece)
        self._follow(b"")
        if walk.rest:
            raise self._cut_off("there is more than an RDB file")

    def _follow(self, piece: bytes) -> None:
        """Walk what came; an empty piece is the end."""
        try:
            self._walk(piece)
        except VerifyError as error:
            raise self._strange(error) from None

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """As `Link.faults`; where the server hung up, its own reason is asked for."""
        try:
            yield
        except Refusal as refusal:
            raise fault_of(refusal, self._link.place) from None
        except (TimeoutError, BackupdError):
            with self._link.faults():
                raise
        except (OSError, EOFError, ValueError) as error:
            self.step()
            raise self._cut_off(str(error) if isinstance(error, ValueError) else "") from None

    def _cut_off(self, why: str = "") -> SourceError:
        """Say why no whole file came; a server whose child failed tells it in its own words."""
        why = why or "it ended the connection"
        hint = "is client-output-buffer-limit or repl-timeout too small? its log tells; nothing was published"
        with contextlib.suppress(BackupdError), Link(self.settings) as link:
            if look_at(link).info.get("rdb_last_bgsave_status") == "err":
                why = "it could not write the RDB file that it sends (its last BGSAVE failed)"
                hint = "free space on its disk, or let it send without one: CONFIG SET repl-diskless-sync yes"
        return SourceError(f"Redis at {self._link.place.address} did not send all of its data: {why}", hint=hint)

    def _strange(self, error: VerifyError) -> BackupdError:
        if self._walk.version == 0 or self._walk.version > NEWEST:
            return ToolError(
                f"{self.server.name} sends a file of a form that is not known here: {error.message}",
                hint='a newer version of this program may know it; until then: mode = "logical"',
                code="tool-too-old",
            )
        return SourceError(f"what {self.server.name} sent cannot be read: {error.message}", hint=error.hint)

    def judge(self, sizes: dict[str, int]) -> Harvest:
        """See `ThreadedDump.judge`: the file was walked to its end, and the keys of each database counted."""
        walk = self._walk
        moment = int(walk.aux.get("ctime", "0"))
        return made(
            self.server,
            RedisMode.SNAPSHOT,
            parts_of(walk, sizes[FILE]),
            Consistency(
                level="point-in-time",
                moment=datetime.fromtimestamp(moment, UTC) if moment else None,
                position=self._position,
            ),
            facts={"rdb": str(walk.version)},
            by_hand=_BY_HAND,
        )


def parts_of(walk: RdbWalk, size: int) -> tuple[Part, ...]:
    """Return the databases in an RDB file of ``size`` bytes."""
    alone = len(walk.counts) == 1
    return tuple(
        Part(
            name=f"db{number}",
            kind="database",
            items=count,
            bytes=size if alone else walk.sizes[number],
            file=FILE,
        )
        for number, count in sorted(walk.counts.items())
    )
