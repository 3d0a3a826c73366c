"""MongoDB's canonical Extended JSON, a document a line: read, counted, turned into BSON. Knows no tool and no server.

Every type that mongoexport writes comes back as the very BSON that it was made of, also the deprecated ones and a key
that stands twice in a document. What looks like a type's wrapper but is none (``{"$oid": "no"}``) is taken as the plain
document that it then was. Two things JSON itself cannot tell: a stored subdocument that looks exactly like a wrapper,
and text that was no valid UTF-8.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterable
from decimal import DecimalException
from functools import lru_cache
from hashlib import sha1
from types import TracebackType
from typing import IO, Any, Final, Self
from urllib.parse import quote_plus

from nanumpay_backupd.errors import VerifyError

__all__ = ["JsonLines", "ToBson", "file_stem", "to_bson"]

_LONGEST_LINE: Final = 512 << 20
"""Bytes: a stored document is at most 16 MiB, and no type takes more than thirty times as much as canonical JSON."""
_LONGEST_STEM: Final = 238
_KEPT_OF_STEM: Final = 208
_OBJECT_ID_DIGITS: Final = 24
_HINT: Final = "do not rely on this backup; run a new one now: backupctl run"

_int32: Final = struct.Struct("<i").pack
_int64: Final = struct.Struct("<q").pack
_double: Final = struct.Struct("<d").pack
_uint32s: Final = struct.Struct("<II").pack

Value = Any
"""What JSON holds: text, list, bool, None, number, or `Typed`."""
Pairs = list[tuple[str, Value]]
Typed = tuple[bytes | None, Any]
"""What a JSON object is: the byte that names a type in BSON and the value's bytes, or None and a document's pairs."""


def file_stem(collection: str) -> str:
    """Return what mongodump names a collection's files, without ``.bson`` or ``.metadata.json``."""
    escaped = quote_plus(collection, safe="")
    if len(escaped) <= _LONGEST_STEM:
        return escaped
    # A file's name has at most 255 bytes, so mongodump ends it with a hash (and the metadata tell the whole name).
    digest = base64.urlsafe_b64encode(sha1(collection.encode(), usedforsecurity=False).digest()).decode("ascii")
    return f"{escaped[:_KEPT_OF_STEM]}%24{digest.rstrip('=')}"


def to_bson(line: bytes) -> bytes:
    """Turn one line of canonical Extended JSON into BSON; raises ValueError when it is no document."""
    try:
        found = json.loads(line, object_pairs_hook=_object)
        if type(found) is tuple and found[0] is None:
            return _document(found[1])
    except (RecursionError, struct.error):
        raise ValueError("no document is nested that deeply, or that large") from None
    raise ValueError("not a document")


class _Lines:
    """Fed a file's content in pieces, hands on its lines one by one."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self._name = name
        self._rest = bytearray()

    def _feed(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = data[start:end]
            if self._rest:
                line = bytes(self._rest + line)
                self._rest.clear()
            self._line(line)
            start = end + 1
        self._rest += data[start:]
        if len(self._rest) > _LONGEST_LINE:
            raise self._damaged("is longer than any document can be")

    def _end(self) -> None:
        if self._rest:
            raise self._damaged("is cut off")

    def _line(self, line: bytes) -> None:
        try:
            self._take(line)
        except (ValueError, RecursionError):
            raise self._damaged("is not one JSON document") from None
        self.count += 1

    def _take(self, line: bytes) -> None:
        raise NotImplementedError

    def _damaged(self, what: str) -> VerifyError:
        return VerifyError(f"line {self.count + 1} of {self._name} {what}", hint=_HINT, code="verify-structure")


class JsonLines(_Lines):
    """Checks that every line is one JSON object, and counts them; as `sources.base.Source.check` has it."""

    def __call__(self, data: bytes) -> None:
        """Look at the next piece; an empty piece means that the file has ended."""
        if data:
            self._feed(data)
        else:
            self._end()

    def _take(self, line: bytes) -> None:
        if type(json.loads(line)) is not dict:
            raise ValueError


class ToBson(_Lines):
    """A file to write lines to, which arrive in another one as BSON; `close` closes that as well.

    Raises VerifyError when a line is no document, or when the last one is cut off. May be used in a with block.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        super().__init__(name)
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Take the next piece."""
        self._feed(data)

    def close(self) -> None:
        """Take note of the end."""
        self._stream.close()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()

    def _take(self, line: bytes) -> None:
        self._stream.write(to_bson(line))


def _object(pairs: Pairs) -> Typed:
    """Turn a JSON object, the objects in which were turned already, into a typed value or leave it a document."""
    try:
        if len(pairs) == 1:
            name, value = pairs[0]
            if name[:1] == "$":
                return _WRAPPERS[name](value)
        elif len(pairs) == 2 and (pairs[0][0], pairs[1][0]) == ("$code", "$scope"):
            return _scoped(pairs[0][1], pairs[1][1])
    except _NO_WRAPPER:
        pass
    return None, pairs


def _document(pairs: Iterable[tuple[str, Value]]) -> bytes:
    parts: list[bytes] = []
    for name, value in pairs:
        kind = type(value)
        if kind is str:
            data = value.encode()
            parts += (b"\x02", _name(name), _int32(len(data) + 1), data, b"\0")
            continue
        if kind is tuple:
            tag, content = value
            if tag is None:
                tag, content = b"\x03", _document(content)
        elif kind is list:
            tag, content = b"\x04", _document(zip(map(str, range(len(value))), value, strict=True))
        else:
            tag, content = _plain(value)
        parts += (tag, _name(name), content)
    body = b"".join(parts)
    return b"%b%b\0" % (_int32(len(body) + 5), body)


@lru_cache(maxsize=4096)
def _name(text: str) -> bytes:
    """Return a field's name as BSON has it; few names stand in very many documents."""
    return _cstring(text)


def _plain(value: Value) -> tuple[bytes, bytes]:
    if value is None:
        return b"\x0a", b""
    if value is True or value is False:
        return b"\x08", b"\1" if value else b"\0"
    # Canonical Extended JSON has no bare numbers; relaxed, which people may have made of it, has.
    if type(value) is float:
        return b"\x01", _double(value)
    return (b"\x10", _int32(value)) if -(1 << 31) <= value < 1 << 31 else (b"\x12", _int64(value))


def _text(value: str) -> bytes:
    data = value.encode()
    return _int32(len(data) + 1) + data + b"\0"


def _cstring(value: str) -> bytes:
    data = value.encode()
    if b"\0" in data:
        raise ValueError("a name holds a NUL")
    return data + b"\0"


def _whole(value: str) -> int:
    number = int(value)
    if str(number) != value:
        raise ValueError
    return number


def _float(value: str) -> Typed:
    if value.strip("+-.0123456789Ee") not in ("", "Infinity", "NaN"):
        raise ValueError
    return b"\x01", _double(float(value))


def _decimal(value: str) -> Typed:
    # Only who has such values pays for the driver.
    from bson.decimal128 import Decimal128

    return b"\x13", Decimal128(value).bid


def _object_id(value: str) -> Typed:
    if len(value) != _OBJECT_ID_DIGITS:
        raise ValueError
    return b"\x07", bytes.fromhex(value)


def _date(value: Typed) -> Typed:
    tag, content = value
    if tag != b"\x12":
        raise ValueError
    return b"\x09", content


def _binary(value: Typed) -> Typed:
    encoded, subtype = _inner(value, "base64", "subType")
    data, kind = base64.b64decode(encoded, validate=True), bytes.fromhex(subtype)
    if len(kind) != 1:
        raise ValueError
    if kind == b"\2":  # the old kind has its length a second time
        data = _int32(len(data)) + data
    return b"\x05", _int32(len(data)) + kind + data


def _timestamp(value: Typed) -> Typed:
    seconds, counter = _inner(value, "t", "i")
    return b"\x11", _uint32s(counter, seconds)


def _regex(value: Typed) -> Typed:
    pattern, options = _inner(value, "pattern", "options")
    return b"\x0b", _cstring(pattern) + _cstring(options)


def _pointer(value: Typed) -> Typed:
    namespace, identifier = _inner(value, "$ref", "$id")
    tag, content = identifier
    if tag != b"\x07":
        raise ValueError
    return b"\x0c", _text(namespace) + content


def _scoped(code: str, scope: Typed) -> Typed:
    tag, pairs = scope
    if tag is not None:
        raise ValueError
    content = _text(code) + _document(pairs)
    return b"\x0f", _int32(len(content) + 4) + content


def _key(tag: bytes) -> Callable[[Value], Typed]:
    def make(value: Value) -> Typed:
        if value != 1:
            raise ValueError
        return tag, b""

    return make


def _inner(value: Typed, *names: str) -> list[Value]:
    """Return the values of a wrapper's inner object, which has just these names."""
    tag, pairs = value
    if tag is not None or [name for name, _ in pairs] != list(names):
        raise ValueError
    return [inner for _, inner in pairs]


_WRAPPERS: Final[dict[str, Callable[..., Typed]]] = {
    "$numberInt": lambda value: (b"\x10", _int32(_whole(value))),
    "$numberLong": lambda value: (b"\x12", _int64(_whole(value))),
    "$numberDouble": _float,
    "$numberDecimal": _decimal,
    "$oid": _object_id,
    "$date": _date,
    "$binary": _binary,
    "$timestamp": _timestamp,
    "$regularExpression": _regex,
    "$code": lambda value: (b"\x0d", _text(value)),
    "$symbol": lambda value: (b"\x0e", _text(value)),
    "$dbPointer": _pointer,
    "$minKey": _key(b"\xff"),
    "$maxKey": _key(b"\x7f"),
    "$undefined": _key(b"\x06"),
}
"""The types that are written as an object of one name, by that name."""
_NO_WRAPPER: Final = (LookupError, ValueError, TypeError, AttributeError, struct.error, DecimalException)
