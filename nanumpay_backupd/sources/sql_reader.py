r"""Reads what mariadb-dump and mysqldump write, piece by piece: statements, sections, rows per table. Runs nothing.

Facts about these dumps that this relies on (MariaDB 10.11 seen, MySQL's format from its source): strings never hold a
raw line feed, since it is written ``\n``; values outside of strings hold no parenthesis (``--hex-blob``); MariaDB
begins a line with each row, MySQL writes a whole INSERT as one line; programs (triggers, routines, events) stand
between ``DELIMITER ;;`` and ``DELIMITER ;``; the last line is ``-- Dump completed``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from nanumpay_backupd.errors import VerifyError

__all__ = ["Mark", "SqlReader", "quoted", "unquoted"]

_INSERT: Final = b"INSERT INTO `"
_HEADER: Final = re.compile(
    rb"INSERT INTO `(?P<table>(?:[^`]|``)+)`(?: ?\((?:(?:`(?:[^`]|``)+`|\w+)(?:, ?)?)+\))? VALUES(?: |\n)", re.DOTALL
)
_CREATE: Final = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?`((?:[^`]|``)+)` ")
_NAMED: Final = re.compile(rb"`((?:[^`]|``)+)`")
_STATEMENTS: Final = (
    b"/*!",
    b"/*M!",
    b"SET ",
    b"DROP ",
    b"CREATE ",
    b"LOCK TABLES ",
    b"UNLOCK TABLES",
    b"ALTER ",
    b"DO ",
    b"SELECT ",
    b"USE ",
    b"START TRANSACTION",
    b"COMMIT",
    b"commit",
    b"set ",
    b"GRANT ",
)
_SANDBOX: Final = b"/*M!999999\\-"
_RESTORES_SETTINGS: Final = b"/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;"
_ROW_BREAK: Final = b"),\n("
_LAST_ROW: Final = b");\n"
_LONGEST_LINE: Final = 64 << 20
"""Bytes of a line that is no row: routines and views; none gets near."""
_LONGEST_HEADER: Final = 1 << 20


class Mark(Enum):
    """What a span of a dump is. ``LINE`` is any other whole line."""

    LINE = auto()
    ROWS = auto()
    """A part of an INSERT, of any length."""
    SANDBOX = auto()
    """MariaDB's first line, which older clients do not understand."""
    DATABASE = auto()
    """The comment that names the database (`SqlReader.database`) to which all that follows belongs."""
    CREATE_DATABASE = auto()
    ALTER_DATABASE = auto()
    USE = auto()
    TABLE = auto()
    """The comment above a table (`SqlReader.table`)."""
    OTHER = auto()
    """The comment above a view, a sequence, the events, the routines."""
    VIEW = auto()
    """The comment above a view's final definition."""
    EPILOG = auto()
    """The first line of the end, which brings the session's settings back."""


class SqlReader:
    """Takes a dump piece by piece; the memory is that of its longest line that is no row.

    A reader that is not ``hashing`` is for a dump that is read again: it believes that a text holds no line feed.

    ``tables`` counts the rows by database and table, ``sizes`` the bytes of their sections; ``programs`` counts
    triggers, routines and events by database, ``views`` views.
    ``facts`` are the position in the binary log as the dump tells it. With ``hashing``
    ``digests`` are of what is said of each table, ``digest`` of all.
    """

    def __init__(self, *, hashing: bool = False) -> None:
        self._hashing = hashing
        self.tables: dict[tuple[str, str], int] = {}
        self.sizes: dict[tuple[str, str], int] = {}
        self.programs: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.database = ""
        self.table = ""
        self.facts: dict[str, str] = {}
        self.digests: dict[tuple[str, str], str] = {}
        self._hash = hashlib.sha256()
        self._others = hashlib.sha256()
        self._rest = b""
        self._delimiter = b";"
        self._open = False
        self._rows: _Rows | None = None
        self._into = ("", "")
        self._ended = False

    @property
    def rows(self) -> int:
        """Return the rows so far."""
        return sum(self.tables.values()) + (self._rows.count if self._rows is not None else 0)

    def feed(self, piece: bytes) -> Iterator[tuple[Mark, bytes]]:
        """Yield what the next piece completes, without a gap; raises VerifyError for what is no such dump."""
        data, self._rest = (self._rest + piece if self._rest else piece), b""
        at, end = 0, len(data)
        while at < end:
            if self._rows is not None:
                stop = self._rows.take(data, at)
                if self._rows.ended:
                    self.tables[self._into] += self._rows.count
                    self._rows = None
                yield self._measured(Mark.ROWS, data[at:stop])
                at = stop
                continue
            if self._delimiter == b";" and not self._open and data.startswith(_INSERT, at):
                if (stop := self._insert(data, at)) < 0:
                    break
                yield self._measured(Mark.ROWS, data[at:stop])
                at = stop
                continue
            stop = data.find(b"\n", at) + 1
            if not stop:
                if end - at > _LONGEST_LINE:
                    raise _broken("holds a line without an end")
                break
            line = data[at:stop]
            yield self._measured(self._line(line), line)
            at = stop
        self._rest = data[at:]

    def finish(self) -> None:
        """Judge the end; raises VerifyError for a dump that was cut off."""
        if self._rest or self._open or self._rows is not None or not self._ended or self._delimiter != b";":
            raise _broken("ends before its end")

    @property
    def digest(self) -> str:
        """Return a digest of all that was read, once it was read to its end."""
        whole = self._others.copy()
        for name in sorted(self.digests):
            whole.update(self.digests[name].encode("ascii"))
        return whole.hexdigest()

    def _measured(self, mark: Mark, span: bytes) -> tuple[Mark, bytes]:
        if self.table:
            key = (self.database, self.table)
            self.sizes[key] = self.sizes.get(key, 0) + len(span)
        if self._hashing:
            (self._hash if self.table else self._others).update(span)
        return mark, span

    def _to(self, table: str) -> None:
        """Begin the section of a table, or of none."""
        if self.table and self._hashing:
            self.digests[(self.database, self.table)] = self._hash.hexdigest()
            self._hash = hashlib.sha256()
        self.table = table

    def _insert(self, data: bytes, at: int) -> int:
        """Return where the rows begin, -1: that is not in this piece."""
        found = _HEADER.match(data, at)
        if found is None:
            if len(data) - at > _LONGEST_HEADER:
                raise _broken("holds an INSERT that cannot be understood")
            return -1
        self._into = (self.database, unquoted(found["table"]))
        if self._ended or self._into not in self.tables:
            raise _broken(f"holds rows of {self._into[1]!r}, but not that table")
        self._rows = _Rows(strict=self._hashing)
        return found.end()

    def _line(self, line: bytes) -> Mark:
        text = line.rstrip()
        if self._open:
            self._open = not text.endswith(self._delimiter)
            return Mark.LINE
        if not text:
            return Mark.LINE
        if self._ended:
            raise _broken("goes on after its end")
        if text.startswith(b"--"):
            return self._comment(text)
        if text.startswith(b"DELIMITER "):
            self._delimiter = text[10:].strip()
            self.programs[self.database] += self._delimiter != b";"
            return Mark.LINE
        if text.startswith(_SANDBOX):
            return Mark.SANDBOX
        if self._delimiter == b";" and not text.startswith(_STATEMENTS):
            raise _broken(f"holds what is no statement of a dump: {text[:40]!r}")
        self._open = not text.endswith(self._delimiter)
        return self._statement(text)

    def _statement(self, text: bytes) -> Mark:
        if text.startswith(b"ALTER DATABASE `"):
            return Mark.ALTER_DATABASE
        if self._delimiter != b";":
            return Mark.LINE
        if text.startswith(b"CREATE TABLE ") and (found := _CREATE.match(text)) is not None:
            self.tables.setdefault((self.database, unquoted(found[1])), 0)
        elif text.startswith(b"CREATE DATABASE "):
            return Mark.CREATE_DATABASE
        elif text.startswith(b"USE `"):
            return Mark.USE
        elif text == _RESTORES_SETTINGS:
            self._to("")
            return Mark.EPILOG
        return Mark.LINE

    def _comment(self, text: bytes) -> Mark:
        named = _NAMED.search(text)
        name = unquoted(named[1]) if named is not None else ""
        if text.startswith(b"-- Current Database: `"):
            self._to("")
            self.database = name
            return Mark.DATABASE
        if text.startswith(b"-- Table structure for table `"):
            self._to(name)
            return Mark.TABLE
        if text.startswith(b"-- Final view structure for view `"):
            self._to("")
            self.views[self.database] += 1
            return Mark.VIEW
        if text.startswith(
            (b"-- Temporary ", b"-- Sequence structure ", b"-- Dumping events ", b"-- Dumping routines ")
        ):
            self._to("")
            return Mark.OTHER
        if text.startswith(b"-- Dump completed"):
            self._ended = True
        elif (
            found := re.search(rb"(?:MASTER|SOURCE)_LOG_FILE='([^']+)', (?:MASTER|SOURCE)_LOG_POS=(\d+)", text)
        ) is not None and not self.database:
            self.facts["position"] = f"{found[1].decode('utf-8', 'replace')}:{int(found[2])}"
        elif (found := re.match(rb"-- SET GLOBAL gtid_slave_pos='([^']*)'", text)) is not None:
            self.facts["gtid"] = found[1].decode("ascii", "replace")
        return Mark.LINE


class _Rows:
    """The rows of one INSERT: counts them by line where each has its own, else by their parentheses.

    Only a ``strict`` one makes sure that each line is a row: that takes as long as all the rest.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self.count = 0
        self.ended = False
        self._by_line = False
        self._in_string = False
        self._carried = b""
        self._tail = b""
        self._breaks = 0
        self._lines = 0

    def take(self, data: bytes, at: int) -> int:
        """Take what belongs to it from ``at`` on and return where that ends; sets ``ended``."""
        if not self._by_line:
            stop = data.find(b"\n", at) + 1
            self._parentheses(data[at : stop or len(data)])
            if not stop:
                self._tail = (self._tail + data[max(at, len(data) - 3) :])[-3:]
                return len(data)
            if self._in_string or self._carried:
                raise _broken("holds a row that ends within a text")
            self._tail = (self._tail + data[max(at, stop - 3) : stop])[-3:]
            if self._tail == _LAST_ROW:
                self.ended = True
                return stop
            if self._tail != _ROW_BREAK[:3]:
                raise _broken("holds a row without an end")
            self._by_line = True
            at = stop
            if at == len(data):
                return at
        return self._by_lines(data, at)

    def _by_lines(self, data: bytes, at: int) -> int:
        """Count what parts two rows; what lies across two pieces is found with the last bytes of the one before."""
        seam = self._tail + data[at : at + 3]
        held = len(self._tail)
        found = seam.find(_LAST_ROW)
        if 0 <= found < held:
            stop = at + found + 3 - held
        else:
            found = data.find(_LAST_ROW, at)
            stop = found + 3 if found >= 0 else len(data)
        self.ended = found >= 0
        lines = data.count(b"\n", at, stop)
        if self._strict:
            across = seam[: held + stop - at].find(_ROW_BREAK)
            self._breaks += data.count(_ROW_BREAK, at, stop) + (1 if 0 <= across < held else 0)
            self._lines += lines
        self.count += lines
        self._tail = (self._tail + data[max(at, stop - 3) : stop])[-3:]
        if self.ended and self._lines != self._breaks:
            raise _broken("holds a line within its rows that is no row")
        return stop

    def _parentheses(self, data: bytes) -> None:
        data = self._carried + data
        slashes = len(data) - len(data.rstrip(b"\\"))
        self._carried = b"\\" if slashes % 2 else b""
        if self._carried:
            data = data[:-1]
        if b"\\" in data:
            data = data.replace(b"\\\\", b"").replace(b"\\'", b"")
        parts = data.split(b"'")
        self.count += b" ".join(parts[self._in_string :: 2]).count(b"(")
        self._in_string ^= len(parts) % 2 == 0


def unquoted(name: bytes) -> str:
    """Return a name that stood between backticks."""
    return name.replace(b"``", b"`").decode("utf-8", "surrogateescape")


def quoted(name: str) -> str:
    """Return a name between backticks."""
    return "`" + name.replace("`", "``") + "`"


def _broken(what: str) -> VerifyError:
    return VerifyError(
        f"the dump {what}",
        hint="do not rely on this backup; run a new one: backupctl run",
        code="verify-structure",
    )
