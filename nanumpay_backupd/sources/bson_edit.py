"""Finds and replaces elements of BSON documents in bytes, without decoding values: what is not touched stays as it was.

Decoding and encoding again would not do: BSON has more types than Python (symbol, undefined, DBPointer), and a document
may hold the same key twice. Knows the format (bsonspec.org), not what documents mean. Damage shows as ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = [
    "ARRAY",
    "BEYOND",
    "DOCUMENT",
    "SIZES",
    "STRING",
    "TIMESTAMP",
    "Field",
    "array",
    "document",
    "fields",
    "skip",
    "string",
]

STRING: Final = 0x02
DOCUMENT: Final = 0x03
ARRAY: Final = 0x04
TIMESTAMP: Final = 0x11
_REGEX: Final = 0x0B
_int_at = struct.Struct("<i").unpack_from
_pack_int = struct.Struct("<i").pack
_FIXED: Final = {
    0x01: 8,  # double
    0x06: 0,  # undefined
    0x07: 12,  # ObjectId
    0x08: 1,  # bool
    0x09: 8,  # date
    0x0A: 0,  # null
    0x10: 4,  # int32
    TIMESTAMP: 8,
    0x12: 8,  # int64
    0x13: 16,  # decimal128
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}
# Bytes that a value takes beyond the length that it begins with.
_MEASURED: Final = {
    STRING: 4,
    DOCUMENT: 0,
    ARRAY: 0,
    0x05: 5,  # binary: a length, a subtype
    0x0C: 16,  # DBPointer: a string, an ObjectId
    0x0D: 4,  # code
    0x0E: 4,  # symbol
    0x0F: 0,  # code with scope
}
SIZES: Final = tuple(_FIXED.get(kind, -1) for kind in range(256))
"""Bytes of a value by its kind; -1: its own bytes tell."""
BEYOND: Final = tuple(_MEASURED.get(kind, -1) for kind in range(256))
"""Bytes of a value beyond the length that it begins with; -1: it begins with none."""


class Field(NamedTuple):
    """One element of a document: the kind of its value, its name, and the bytes of its value."""

    kind: int
    name: bytes
    value: bytes

    @property
    def text(self) -> bytes:
        """Return the UTF-8 bytes of a string's value."""
        return self.value[4:-1]


def skip(data: bytes | bytearray, kind: int, at: int) -> int:
    """Return where the value ends that begins at ``at``."""
    size = SIZES[kind]
    if size >= 0:
        return at + size
    if kind in _MEASURED:
        length: int = _int_at(data, at)[0]
        if length < 0:
            raise ValueError("a value of negative length")
        return at + length + _MEASURED[kind]
    if kind == _REGEX:
        return data.index(0, data.index(0, at) + 1) + 1
    raise ValueError(f"a value of unknown kind {kind:#x}")


def fields(data: bytes) -> list[Field]:
    """Return the elements of a document."""
    found = []
    try:
        end, at = len(data) - 1, 4
        while at < end:
            value = data.index(0, at + 1) + 1
            following = skip(data, data[at], value)
            found.append(Field(data[at], data[at + 1 : value - 1], data[value:following]))
            at = following
        if at != end or _int_at(data, 0)[0] != len(data):
            raise ValueError("a document does not end where it says")
    except (IndexError, struct.error):
        raise ValueError("a document is cut off") from None
    return found


def document(content: Iterable[Field]) -> bytes:
    """Return the document that has these elements; an array is one whose names are numbers."""
    body = b"".join(b"%c%b\0%b" % field for field in content)
    return b"%b%b\0" % (_pack_int(len(body) + 5), body)


def array(values: Iterable[Field]) -> bytes:
    """Return the array of these elements' values."""
    return document(Field(field.kind, b"%d" % at, field.value) for at, field in enumerate(values))


def string(name: bytes, text: bytes) -> Field:
    """Return an element with a string in it."""
    return Field(STRING, name, b"%b%b\0" % (_pack_int(len(text) + 1), text))
