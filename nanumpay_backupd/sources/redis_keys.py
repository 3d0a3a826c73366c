"""Keys as a file of Redis' own commands: each a RESTORE with the time at which it expires. Talks to no server.

``redis-cli --pipe`` takes such a file as it is. Each key's value is what DUMP returned, with its own checksum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from xxhash import xxh3_128_intdigest

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.sources.rdb import RdbWalk, payload_of, payload_problem
from nanumpay_backupd.sources.rdb_value import string_at
from nanumpay_backupd.sources.redis_link import command

__all__ = [
    "FOOTER",
    "FUNCTIONS",
    "Keys",
    "KeysWalk",
    "LinesWalk",
    "file_of",
    "functions_line",
    "head",
    "keys_in",
    "line",
    "quick_line",
]

FUNCTIONS: Final = "functions.resp"
"""The file of the libraries of functions (Redis 7)."""
_FILE: Final = re.compile(r"db(\d+)\.resp")
_BEGIN: Final = b"*6\r\n$7\r\nRESTORE\r\n$"
_QUICK: Final = re.compile(re.escape(_BEGIN) + rb"(\d+)\r\n(.*?)\r\n\$\d+\r\n(\d+)\r\n\$(\d+)\r\n", re.DOTALL)
"""Up to a key's value, unless its name looks like what comes after it."""
_END: Final = b"\r\n$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"
_FOR_EVER: Final = _BEGIN + b"%d\r\n%b\r\n$1\r\n0\r\n$%d\r\n%b" + _END[2:]
_PIECE: Final = 1 << 20
_MOST: Final = 1000
_MOST_BYTES: Final = 1 << 20
FOOTER: Final = 10
"""Bytes behind a value in what DUMP returns: RDB version and checksum."""
_MODULUS: Final = 1 << 128
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


class Keys:
    """Some keys of one database: ``expiries`` are Unix milliseconds, 0: none. As many lists as facts, for speed.

    ``values`` are what RESTORE takes, or with an RDB ``version`` the type and the value alone.
    """

    __slots__ = ("database", "expiries", "names", "size", "values", "version")

    def __init__(self, database: int, version: int = 0) -> None:
        self.database = database
        self.version = version
        self.names: list[bytes] = []
        self.expiries: list[int] = []
        self.values: list[bytes] = []
        self.size = 0

    @property
    def payloads(self) -> list[bytes]:
        """Return what RESTORE takes of each."""
        version = self.version
        return [payload_of(value, version) for value in self.values] if version else self.values

    @property
    def bare(self) -> list[bytes]:
        """Return type and value of each."""
        return self.values if self.version else [value[:-FOOTER] for value in self.values]

    def at(self, wanted: list[int]) -> Keys:
        """Return those of them that stand at these places."""
        found = Keys(self.database, self.version)
        found.names = [self.names[at] for at in wanted]
        found.expiries = [self.expiries[at] for at in wanted]
        found.values = [self.values[at] for at in wanted]
        return found


def file_of(database: int) -> str:
    """Return the name of a database's file."""
    return f"db{database}.resp"


def head(database: int) -> bytes:
    """Return how a database's file begins."""
    return command("SELECT", database)


def line(name: bytes, expiry: int, payload: bytes) -> bytes:
    """Return the command that restores a key."""
    when = b"%d" % expiry
    return b"%b%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b%b" % (
        _BEGIN,
        len(name),
        name,
        len(when),
        when,
        len(payload),
        payload,
        _END,
    )


def quick_line(name: bytes, payload: bytes) -> bytes:
    """Return the command that restores a key for ever; ``payload`` has the end of its line behind it already."""
    return _FOR_EVER % (len(name), name, len(payload) - 2, payload)


def functions_line(payload: bytes) -> bytes:
    """Return the command that restores the libraries of functions."""
    return command("FUNCTION", "RESTORE", payload, "REPLACE")


class KeysWalk:
    """Walks a file of keys that comes in pieces; a `Checker`. Every value's own checksum is compared.

    ``on_key`` gets name, expiry and payload of each. It holds no more than the largest key. Without
    ``digests`` it is no `Checker`, and compares no checksums: for what was proven already.
    """

    def __init__(
        self, name: str, on_key: Callable[[bytes, int, bytes], object] | None = None, *, digests: bool = True
    ) -> None:
        self.count = 0
        self._sum = 0
        self._name = name
        self._on_key = on_key
        self._digests = digests
        self._data = b""
        self._wait = 1
        match = _FILE.fullmatch(name.rpartition("/")[2])
        self._head = head(int(match[1])) if match is not None else b""

    @property
    def digest(self) -> str:
        """Return a digest of all keys that does not depend on their order."""
        return f"{self._sum % _MODULUS:032x}"

    def __call__(self, piece: bytes) -> None:
        """Take the next piece, ``b""`` for the end; raises VerifyError."""
        self._data = self._data + piece if self._data else piece
        if piece and len(self._data) < self._wait:
            return
        self._look()
        if not piece and (self._data or self._head):
            raise self._damaged("ends within a key")

    def _look(self) -> None:
        at = 0
        if self._head:
            if len(self._data) < len(self._head):
                return
            if not self._data.startswith(self._head):
                raise self._damaged("does not begin with its database")
            at, self._head = len(self._head), b""
        try:
            at = self._keys(self._data, at)
        except ValueError:
            raise self._damaged("is damaged") from None
        self._data = self._data[at:]
        self._wait = 2 * len(self._data)

    def _keys(self, data: bytes, at: int) -> int:
        """Walk the keys that are whole; returns where the next one begins."""
        end, on_key, match, total, count = len(data), self._on_key, _QUICK.match, 0, 0
        digests = self._digests
        while at < end:
            start = at
            quick = match(data, at)
            if quick is not None and int(quick[1]) == quick.end(2) - quick.start(2):
                name, when, at = quick[2], quick[3], quick.end()
                stop = at + int(quick[4])
                if stop + len(_END) > end:
                    at = start
                    break
                payload, at = data[at:stop], stop
            else:
                parts, at = _slowly(data, at)
                if len(parts) < 3 or at + len(_END) > end:
                    at = start
                    break
                name, when, payload = parts
            if data[at : at + len(_END)] != _END:
                raise ValueError
            at += len(_END)
            if digests:
                if problem := payload_problem(payload):
                    raise self._damaged(f"is damaged: a value {problem}")
                total += xxh3_128_intdigest(data[start:at])
            count += 1
            if on_key is not None:
                on_key(name, int(when), payload)
        self._sum += total
        self.count += count
        return at

    def _damaged(self, what: str) -> VerifyError:
        return VerifyError(f"{self._name} {what}, after {self.count:,} keys", hint=_HINT, code="verify-structure")


def _slowly(data: bytes, at: int) -> tuple[list[bytes], int]:
    """Return name, time and value of the key at ``at``, as many as are there, and where they end; raises ValueError."""
    parts: list[bytes] = []
    end = len(data)
    if data[at : at + len(_BEGIN)] != _BEGIN[: end - at]:
        raise ValueError
    for _ in range(3):
        at += len(_BEGIN) if not parts else 3
        stop = data.find(b"\r\n", at, at + 24)
        if stop < 0:
            if at + 24 <= end:
                raise ValueError
            break
        size = int(data[at:stop])
        at = stop + 2 + size
        if at > end:
            break
        parts.append(data[stop + 2 : at])
    return parts, at


class LinesWalk:
    """Walks lines of JSON that come in pieces; a `Checker` that counts nothing. Raises VerifyError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = b""
        self._decoder = msgspec.json.Decoder()

    def __call__(self, piece: bytes) -> None:
        """Take the next piece, ``b""`` for the end."""
        if not piece and self._data:
            raise VerifyError(f"{self._name} ends within a line", hint=_HINT, code="verify-structure")
        whole, newline, rest = piece.rpartition(b"\n")
        if not newline:
            self._data += piece
            return
        try:
            self._decoder.decode_lines(self._data + whole)
        except msgspec.DecodeError as error:
            raise VerifyError(
                f"{self._name} has a line that is no JSON: {error}", hint=_HINT, code="verify-structure"
            ) from None
        self._data = rest


def keys_in(path: Path) -> Iterator[Keys | bytes]:
    """Yield the keys of a file that was proven, of either form; of an RDB file last its functions (FUNCTION RESTORE).

    They come some at a time: up to 1,000 and about 1 MiB, or one that is larger. Raises VerifyError, OSError.
    """
    gathered = _Gathering()
    if path.suffix == ".resp":
        gathered.begin(int(path.stem[2:]), 0)
        walk: KeysWalk | RdbWalk = KeysWalk(path.name, gathered.add, digests=False)
    else:
        walk = RdbWalk(path.name, digests=False, on_key=gathered.add_from_file)
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            walk(piece)
            yield from gathered.taken(walk.version if isinstance(walk, RdbWalk) else 0)
            if isinstance(walk, RdbWalk) and walk.ended:  # commands may follow
                break
    if isinstance(walk, KeysWalk):
        walk(b"")
    elif walk.functions:
        yield payload_of(walk.functions, walk.version)


class _Gathering:
    """Keys that were walked, some at a time."""

    def __init__(self) -> None:
        self._whole: list[Keys] = []
        self._keys = Keys(0)

    def begin(self, database: int, version: int) -> None:
        """Put what comes into a new lot."""
        if self._keys.names:
            self._whole.append(self._keys)
        self._keys = Keys(database, version)

    def add(self, name: bytes, expiry: int, payload: bytes) -> None:
        """Add a key of the database that was begun."""
        keys = self._keys
        keys.names.append(name)
        keys.expiries.append(expiry)
        keys.values.append(payload)
        keys.size += len(payload)
        if len(keys.names) >= _MOST or keys.size >= _MOST_BYTES:
            self.begin(keys.database, keys.version)

    def add_from_file(self, database: int, expiry: int, data: bytes, start: int, value: int, end: int) -> None:
        """Add a key of an RDB file: its name stands between the type and the value."""
        if database != self._keys.database:
            self.begin(database, 0)
        name = data[start + 2 : value] if data[start + 1] < 64 else string_at(data, start + 1)[0]
        self.add(name, expiry, data[start : start + 1] + data[value:end])

    def taken(self, version: int) -> list[Keys]:
        """Return what is there, and begin anew; ``version`` is that of the RDB file, 0: it is none."""
        self.begin(self._keys.database, 0)
        found, self._whole = self._whole, []
        for keys in found:
            keys.version = version
        return found
