"""Takes out of a binary log what is not of certain databases, event by event. Talks to no server.

mariadb-binlog's own ``--database`` goes by the database that was in use: ``CREATE TABLE shop.t`` from a session that
uses none, or another one, is lost without a word. Here a statement stays when it was run in one of the databases, or
when what it changes is named with one; rows stay by the database of their table; accounts and rights are never
replayed.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from typing import IO, Final

from nanumpay_backupd.errors import VerifyError

__all__ = ["filter_log"]

_MAGIC: Final = b"\xfebin"
_HEADER: Final = struct.Struct("<IBIIIH")
_QUERY: Final = 2
_QUERY_COMPRESSED: Final = 165
_FORMAT: Final = 15
_TABLE_MAP: Final = 19
_ROWS: Final = frozenset({23, 24, 25, 30, 31, 32, 39, 166, 167, 168, 169, 170, 171})
_BEFORE_STATEMENT: Final = frozenset({5, 13, 14})
"""Types of the events that prepare the next statement: INSERT_ID, RAND, user variables."""
_QUERY_HEAD: Final = struct.Struct("<IIBHH")
_STATEMENT_END: Final = 1
_CRC_BYTES: Final = 4
_FLOW: Final = re.compile(rb"\s*(?:BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|START TRANSACTION|XA)\b", re.IGNORECASE)
_ACCOUNTS: Final = re.compile(
    rb"\s*(?:/\*.*?\*/\s*)*(?:GRANT|REVOKE|SET\s+(?:PASSWORD|DEFAULT\s+ROLE)|"
    rb"(?:CREATE|DROP|ALTER|RENAME)\s+(?:OR\s+REPLACE\s+)?(?:USER|ROLE))\b",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN: Final = re.compile(
    rb"\s*(?:/\*.*?\*/\s*|--[^\n]*\n\s*|#[^\n]*\n\s*)*(`(?:[^`]|``)+`|[\w$]+|'[^']*'|\S)", re.DOTALL
)
_TARGET_ENDS: Final = frozenset(
    {b"(", b"AS", b"SELECT", b"SET", b"VALUES", b"WHERE", b"LIKE", b"JOIN", b"SCHEDULE", b"USING", b"BEGIN"}
)
_MOST_TOKENS: Final = 64


def filter_log(source: IO[bytes], target: IO[bytes], databases: Iterable[str], after: int = 0) -> int:
    """Copy a log that was proven, without what is not of ``databases``; return how many events stayed.

    What ends at the position ``after`` or before it is left out too: it was brought back with a backup of later.

    Memory is that of the largest event, as the server itself limits it (``max_allowed_packet``).
    """
    if source.read(len(_MAGIC)) != _MAGIC:
        raise VerifyError("a binary log does not begin as such", code="verify-structure")
    target.write(_MAGIC)
    sieve = _Sieve(target, databases)
    while head := source.read(_HEADER.size):
        _, kind, _, length, ends, _ = _HEADER.unpack(head)
        event = head + source.read(length - _HEADER.size)
        if kind == _FORMAT or not 0 < ends <= after:
            sieve.take(kind, event)
    sieve.release()
    return sieve.kept


class _Sieve:
    """Decides on one event after the other."""

    def __init__(self, target: IO[bytes], databases: Iterable[str]) -> None:
        self.kept = 0
        self._target = target
        self._names = frozenset(name.encode("utf-8", "surrogateescape") for name in databases)
        self._checksums = False
        self._before: list[bytes] = []
        self._tables: set[bytes] = set()
        self._held = b""

    def take(self, kind: int, event: bytes) -> None:
        """Take the next event."""
        if kind == _FORMAT:
            self._checksums = event[-_CRC_BYTES - 1] == 1
        if kind in _BEFORE_STATEMENT:
            self._before.append(event)
        elif kind in (_QUERY, _QUERY_COMPRESSED):
            if wanted := self._wanted(kind, event):
                self._write(*self._before, wanted)
            self._before.clear()
        elif kind == _TABLE_MAP:
            size = event[_HEADER.size + 8]
            at = _HEADER.size + 9
            number = event[_HEADER.size : _HEADER.size + 6]
            self._tables.discard(number)
            if event[at : at + size] in self._names:
                self._tables.add(number)
                self._write(event)
        elif kind in _ROWS:
            self._rows(event)
        else:
            self._write(event)

    def release(self) -> None:
        """Write what is held back."""
        if self._held:
            self._target.write(self._held)
            self._held = b""

    def _write(self, *events: bytes) -> None:
        self.release()
        for event in events:
            self._target.write(event)
        self.kept += len(events)

    def _rows(self, event: bytes) -> None:
        """Rows of a wanted table stay; the last of a statement has to say that it is the last."""
        flags = int.from_bytes(event[_HEADER.size + 6 : _HEADER.size + 8], "little")
        if event[_HEADER.size : _HEADER.size + 6] in self._tables:
            self._write()
            self._held = event
            self.kept += 1
        elif self._held and flags & _STATEMENT_END:
            self._held = self._ending(self._held)
        if flags & _STATEMENT_END:
            self.release()

    def _ending(self, event: bytes) -> bytes:
        at = _HEADER.size + 6
        flags = int.from_bytes(event[at : at + 2], "little") | _STATEMENT_END
        event = event[:at] + flags.to_bytes(2, "little") + event[at + 2 :]
        if self._checksums:
            event = event[:-_CRC_BYTES] + zlib.crc32(event[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "little")
        return event

    def _wanted(self, kind: int, event: bytes) -> bytes:
        """Return the statement as it is to be replayed, empty: not at all."""
        head = bytearray(event[: _HEADER.size + _QUERY_HEAD.size])
        body = event[_HEADER.size : -_CRC_BYTES] if self._checksums else event[_HEADER.size :]
        _, _, size, _, extra = _QUERY_HEAD.unpack_from(body)
        at = _QUERY_HEAD.size + extra
        database, text = body[at : at + size], body[at + size + 1 :]
        plain = text
        if kind == _QUERY_COMPRESSED and text:
            plain = zlib.decompress(text[1 + (text[0] & 7) :])
        if _FLOW.match(plain):
            return event
        if _ACCOUNTS.match(plain):
            return b""
        if database in self._names:
            return event
        named = _changed(plain)
        if named not in self._names:
            return b""
        if not database:
            return event
        # The other database may not be there: what the statement changes is named in full anyway.
        head[_HEADER.size + 8] = len(named)
        changed = head + body[_QUERY_HEAD.size : at] + named + b"\0" + text
        length = len(changed) + (_CRC_BYTES if self._checksums else 0)
        changed[9:13] = length.to_bytes(4, "little")
        return bytes(changed) + (zlib.crc32(changed).to_bytes(4, "little") if self._checksums else b"")


def _changed(text: bytes) -> bytes:
    """Return the database with which a statement names what it changes, empty: it does not."""
    before, at = b"", 0
    for _ in range(_MOST_TOKENS):
        found = _TOKEN.match(text, at)
        if found is None or found[1].upper() in _TARGET_ENDS:
            return b""
        if found[1] == b".":
            return before[1:-1].replace(b"``", b"`") if before.startswith(b"`") else before
        before, at = found[1], found.end()
    return b""
