"""The format of Redis' RDB files and of what DUMP returns: where a key begins and ends, checksums. Decodes no values.

Facts this relies on, of Redis' rdb.c up to RDB version 12 (Redis 7.4): a file is ``REDIS`` and four digits, then
opcodes and keys, then 0xFF and the CRC-64 of all before (0: the server was told to write none). What DUMP returns is a
key's type and value as in a file, two bytes of the RDB version and the CRC-64 of all that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import anycrc
from xxhash import xxh3_128_intdigest

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import Content

__all__ = ["NEWEST", "RdbWalk", "Short", "crc64", "length_at", "payload_of", "payload_problem", "string_end"]

NEWEST: Final = 12
"""The newest RDB version whose structure is known here."""
MODULE: Final = 7
_EOF: Final = 255
_SELECT: Final = 254
_EXPIRE_SECONDS: Final = 253
_EXPIRE_MS: Final = 252
_RESIZE: Final = 251
_AUX: Final = 250
_FREQUENCY: Final = 249
_IDLE: Final = 248
_MODULE_AUX: Final = 247
_FUNCTION: Final = 245
_SLOT: Final = 244
_FIRST_OPCODE: Final = 244
_HEADER: Final = 9
_FOOTER: Final = 10
_CHECKSUM: Final = 8
_ONE_STRING: Final = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})
"""Types whose value is one string: strings themselves, and all that is packed into one."""
_STRINGS: Final = frozenset({1, 2, 4, 14})
_STREAMS: Final = frozenset({15, 19, 21})
_SMALL: Final = 1 << 14
_MODULUS: Final = 1 << 128
_MODEL: Final = anycrc.Model("CRC64-REDIS")
_U64: Final = struct.Struct("<Q")
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


class Short(Exception):  # noqa: N818 - no fault: more is to come
    """What is there so far ends within a key."""


def crc64(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-64 of Redis, going on from that of what came before."""
    return int(_MODEL.calc(data, before)) if before else int(_MODEL.calc(data))


def length_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the length that stands at ``at`` and where it ends; of an encoded string minus one less its code."""
    first = data[at]
    kind = first >> 6
    if kind == 0:
        return first, at + 1
    if kind == 1:
        return (first & 63) << 8 | data[at + 1], at + 2
    if first == 0x80:
        return _whole(data, at + 1, 4), at + 5
    if first == 0x81:
        return _whole(data, at + 1, 8), at + 9
    if kind == 2:
        raise ValueError(f"a length begins with {first:#x}")
    return -1 - (first & 63), at + 1


def _whole(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise Short
    return int.from_bytes(data[at : at + size], "big")


def string_end(data: bytes, at: int) -> int:
    """Return where the string that begins at ``at`` ends, which may be beyond what is there."""
    length, at = length_at(data, at)
    if length >= 0:
        return at + length
    if length >= -3:  # an integer of 1, 2 or 4 bytes
        return at + (1 << (-1 - length))
    if length != -4:
        raise ValueError(f"a string has the encoding {-1 - length}")
    packed, at = length_at(data, at)
    _, at = length_at(data, at)
    return at + packed


def _strings_end(data: bytes, at: int, count: int) -> int:
    end = len(data)
    for _ in range(count):
        if at >= end:
            raise Short
        first = data[at]
        at = at + 1 + first if first < 64 else string_end(data, at)
    return at


def _value_end(data: bytes, at: int, kind: int) -> int:
    """Return where the value of a type ends; raises Short, IndexError when it is not all there, ValueError."""
    if kind in _ONE_STRING:
        return string_end(data, at)
    if kind in _STRINGS:
        count, at = length_at(data, at)
        return _strings_end(data, at, count * 2 if kind == 4 else count)
    if kind in _STREAMS:
        return _stream_end(data, at, kind)
    if kind == 5:
        count, at = length_at(data, at)
        for _ in range(count):
            at = string_end(data, at) + 8
        return at
    if kind == 3:
        count, at = length_at(data, at)
        for _ in range(count):
            at = string_end(data, at)
            # The three lengths beyond 252 stand for not a number and the infinities.
            at += 1 + (data[at] if data[at] < 253 else 0)
        return at
    return _other_end(data, at, kind)


def _other_end(data: bytes, at: int, kind: int) -> int:
    if kind == 18:  # a list of listpacks and of large elements
        count, at = length_at(data, at)
        for _ in range(count):
            _, at = length_at(data, at)
            at = string_end(data, at)
        return at
    if kind == MODULE:
        return _module_end(data, at)
    if kind == 25:  # a hash with times of its fields, packed
        return string_end(data, at + 8)
    if kind == 24:  # the same, in full
        count, at = length_at(data, at + 8)
        for _ in range(count):
            _, at = length_at(data, at)
            at = _strings_end(data, at, 2)
        return at
    raise ValueError(f"a value is of the type {kind}, which is not known here")


def _module_end(data: bytes, at: int) -> int:
    _, at = length_at(data, at)
    while True:
        code, at = length_at(data, at)
        if code == 0:
            return at
        if code in (1, 2):
            _, at = length_at(data, at)
        elif code == 5:
            at = string_end(data, at)
        elif code in (3, 4):
            at += 4 if code == 3 else 8
        else:
            raise ValueError(f"a module's value has the code {code}")


def _stream_end(data: bytes, at: int, kind: int) -> int:
    count, at = length_at(data, at)
    at = _strings_end(data, at, count * 2)
    for _ in range(3 if kind == 15 else 8):
        _, at = length_at(data, at)
    groups, at = length_at(data, at)
    for _ in range(groups):
        at = string_end(data, at)
        for _ in range(2 if kind == 15 else 3):
            _, at = length_at(data, at)
        pending, at = length_at(data, at)
        for _ in range(pending):
            _, at = length_at(data, at + 24)
        consumers, at = length_at(data, at)
        for _ in range(consumers):
            at = string_end(data, at) + (16 if kind == 21 else 8)
            mine, at = length_at(data, at)
            at += 16 * mine
    return at


def payload_of(kind_and_value: bytes, version: int) -> bytes:
    """Return what RESTORE takes, of a key's type and value as they stand in a file of that RDB version."""
    data = kind_and_value + version.to_bytes(2, "little")
    return data + _U64.pack(crc64(data))


def payload_problem(payload: bytes) -> str:
    """Return what is wrong with what DUMP returned, empty: its checksum is right."""
    if len(payload) <= _FOOTER:
        return "is too short"
    found = _U64.unpack_from(payload, len(payload) - _CHECKSUM)[0]
    # A copy of a small one is cheaper than a view of it.
    data = payload[:-_CHECKSUM] if len(payload) < _SMALL else memoryview(payload)[:-_CHECKSUM]
    if found and found != int(_MODEL.calc(data)):
        return "has another content than its checksum says"
    return ""


OnKey = Callable[[int, int, bytes, int, int, int], object]
"""Gets database, expiry (Unix milliseconds, 0: none), the buffer, and in it where type, value and end are."""


class RdbWalk:
    """Walks an RDB file that comes in pieces, key by key. Holds no more than the largest key, however large the file.

    It counts keys by database. With ``digests`` it is a `Checker`: what it says of the content is compared, and the
    checksum is worked out. ``on_key`` gets every key. What comes after the file's end is in ``rest``.
    """

    def __init__(self, name: str, *, digests: bool = True, on_key: OnKey | None = None) -> None:
        self.version = 0
        self.aux: dict[str, str] = {}
        self.functions = b""
        self.counts: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.ended = False
        self.rest = b""
        self._sums: dict[int, int] = {}
        self._name = name
        self._digests = digests
        self._on_key = on_key
        self._data = b""
        self._wait = _HEADER
        self._crc = 0
        self._database = 0
        self._expiry = 0

    @property
    def count(self) -> int:
        """Return the keys seen so far."""
        return sum(self.counts.values())

    @property
    def digest(self) -> str:
        """Return a digest of all keys that does not depend on their order."""
        return f"{sum(self._sums.values()) % _MODULUS:032x}"

    @property
    def contents(self) -> dict[str, Content]:
        """Return keys and digest of each database by its name, such as ``db0``."""
        return {
            f"db{number}": Content(documents=count, digest=f"{self._sums.get(number, 0) % _MODULUS:032x}")
            for number, count in sorted(self.counts.items())
        }

    def __call__(self, piece: bytes) -> None:
        """Take the next piece, ``b""`` for the end; raises VerifyError."""
        if self.ended:
            self.rest += piece
            return
        self._data = self._data + piece if self._data else piece
        if piece and len(self._data) < self._wait:
            return
        try:
            self._walk()
        except ValueError as error:
            raise self._damaged(f"is damaged after {self.count:,} keys: {error}") from None
        if not piece and not self.ended:
            raise self._damaged(f"ends within a key or before its end, after {self.count:,} keys")

    def _walk(self) -> None:
        data, at = self._data, 0
        if not self.version:
            at = self._begin(data)
        done = at
        try:
            done = self._keys(data, at)
        except _Pause as pause:
            done = pause.at
        if self._digests:
            # Of the file's end the checksum itself is no part.
            self._crc = crc64(memoryview(data)[:done], self._crc)
        if self.ended:
            self._end(data, done)
            return
        self._data = data[done:]
        # A key that is not all there is looked at again when twice as much is: in all no byte more than a few times.
        self._wait = 2 * len(self._data)

    def _begin(self, data: bytes) -> int:
        if data[:5] != b"REDIS" or not data[5:_HEADER].isdigit():
            raise ValueError("it does not begin as an RDB file does")
        self.version = int(data[5:_HEADER])
        if not 1 <= self.version <= NEWEST:
            raise ValueError(f"it is of RDB version {self.version}, known here are 1 to {NEWEST}")
        return _HEADER

    def _keys(self, data: bytes, at: int) -> int:  # noqa: C901, PLR0912 - one loop, a million times a second
        """Walk from ``at``; returns where the file ends, or leaves by _Pause where what is there ends."""
        end, expiry, number = len(data), self._expiry, self._database
        count, begun, total, sums = 0, at, self._sums.get(self._database, 0), self._digests
        on_key, one_string = self._on_key, _ONE_STRING
        start = at
        try:
            while True:
                start = at
                kind = data[at]
                if kind < _FIRST_OPCODE:
                    first = data[at + 1]
                    at = at + 2 + first if first < 64 else string_end(data, at + 1)
                    value = at
                    first = data[at]
                    if kind in one_string and first < 64:
                        at += 1 + first
                    else:
                        at = _value_end(data, at, kind)
                    if at > end:
                        raise Short
                    if sums:
                        total += xxh3_128_intdigest(data[start:at], expiry)
                    if on_key is not None:
                        on_key(number, expiry, data, start, value, at)
                    count += 1
                    expiry = 0
                elif kind == _EXPIRE_MS:
                    if at + 9 > end:
                        raise Short
                    expiry = _U64.unpack_from(data, at + 1)[0]
                    at += 9
                elif kind == _SELECT:
                    following, at = length_at(data, at + 1)
                    self._note(number, count, total, start - begun)
                    number = following
                    count, begun, total = 0, start, self._sums.get(number, 0)
                elif kind == _EOF:
                    if at + 1 + self._checksum_size > end:
                        raise Short
                    self.ended = True
                    return at + 1
                else:
                    at, expiry = self._opcode(data, at, kind, expiry)
        except (Short, IndexError):
            raise _Pause(start) from None
        finally:
            self._note(number, count, total, start - begun)
            self._expiry, self._database = expiry, number

    def _note(self, number: int, count: int, total: int, size: int) -> None:
        if count:
            self.counts[number] = self.counts.get(number, 0) + count
            self.sizes[number] = self.sizes.get(number, 0) + size
            self._sums[number] = total

    def _opcode(self, data: bytes, at: int, kind: int, expiry: int) -> tuple[int, int]:
        """Pass what is no key; returns where it ends, and the expiry of the key that follows."""
        begin, at = at, at + 1
        if kind == _EXPIRE_SECONDS:
            expiry, at = int.from_bytes(data[at : at + 4], "little") * 1000, at + 4
        elif kind == _AUX:
            key, after = _short_text(data, at)
            value, at = _short_text(data, after)
            if at <= len(data):
                self.aux[key] = value
        elif kind in (_RESIZE, _SLOT):
            for _ in range(2 if kind == _RESIZE else 3):
                _, at = length_at(data, at)
        elif kind == _IDLE:
            _, at = length_at(data, at)
        elif kind == _FREQUENCY:
            at += 1
        elif kind == _FUNCTION:
            at = string_end(data, at)
            if at <= len(data):
                self.functions += data[begin:at]
        elif kind == _MODULE_AUX:
            at = _module_end(data, at)
        else:
            raise ValueError(f"there is the opcode {kind}, which is not known here")
        if at > len(data):
            raise Short
        return at, expiry

    def _end(self, data: bytes, done: int) -> None:
        """Compare the checksum, which is there."""
        size = self._checksum_size
        found = int.from_bytes(data[done : done + size], "little")
        if self._digests and found and found != self._crc:
            raise ValueError("its content is another than its own checksum says")
        self._data, self.rest = b"", data[done + size :]

    @property
    def _checksum_size(self) -> int:
        return _CHECKSUM if self.version >= 5 else 0

    def _damaged(self, what: str) -> VerifyError:
        return VerifyError(f"{self._name} {what}", hint=_HINT, code="verify-structure")


def _short_text(data: bytes, at: int) -> tuple[str, int]:
    """Read a string that is not compressed, as the facts at a file's beginning are; returns it and where it ends."""
    end = string_end(data, at)
    length, at = length_at(data, at)
    if length < 0:
        return str(int.from_bytes(data[at:end], "little", signed=True)), end
    return data[at:end].decode("utf-8", "replace"), end


class _Pause(Exception):  # noqa: N818 - no fault
    """What is there has been walked up to ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at
