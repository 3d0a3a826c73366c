"""What a key of Redis holds, out of the bytes of an RDB file or of DUMP, as plain Python values. Reads no file.

A server packs the same value in several ways (by size, by version, a set in the order of a hash with a random seed), so
two dumps are compared by what is decoded here, and people read it as JSON.
"""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime
from typing import Any, Final

from nanumpay_backupd.sources.rdb import length_at, string_end

__all__ = ["TYPES", "decode", "lzf", "readable", "same", "string_at", "type_name"]

TYPES: Final[dict[int, str]] = {
    **dict.fromkeys((0,), "string"),
    **dict.fromkeys((1, 10, 14, 18), "list"),
    **dict.fromkeys((2, 11, 20), "set"),
    **dict.fromkeys((3, 5, 12, 17), "zset"),
    **dict.fromkeys((4, 9, 13, 16, 24, 25), "hash"),
    **dict.fromkeys((15, 19, 21), "stream"),
    **dict.fromkeys((7,), "module"),
}
"""The type, as the command TYPE says it, of each type in an RDB file."""
_DOUBLE: Final = struct.Struct("<d")
_U64: Final = struct.Struct("<Q")
_EXACT: Final = 1 << 53
"""Whole numbers up to which every reader of JSON is exact."""


def type_name(kind: int) -> str:
    """Return the type as the command TYPE says it."""
    return TYPES.get(kind, f"type {kind}")


def lzf(data: bytes, size: int) -> bytes:
    """Unpack what LZF packed into ``data``; raises ValueError when that is not ``size`` bytes."""
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end:
            code = data[at]
            at += 1
            if code < 32:
                out += data[at : at + code + 1]
                at += code + 1
                continue
            count = code >> 5
            if count == 7:
                count += data[at]
                at += 1
            begin = len(out) - ((code & 31) << 8) - data[at] - 1
            at += 1
            count += 2
            if begin < 0:
                raise ValueError("a compressed string refers to before its beginning")
            piece = out[begin : begin + count]
            while len(piece) < count:  # it repeats what it is just writing
                piece += piece[: count - len(piece)]
            out += piece
    except IndexError:
        raise ValueError("a compressed string is cut off") from None
    if len(out) != size:
        raise ValueError(f"a compressed string is of {len(out)} bytes, not {size}")
    return bytes(out)


def string_at(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the string that begins at ``at``, and where it ends."""
    end = string_end(data, at)
    length, at = length_at(data, at)
    if length >= 0:
        return data[at:end], end
    if length == -4:
        _, at = length_at(data, at)
        size, at = length_at(data, at)
        return lzf(data[at:end], size), end
    return b"%d" % int.from_bytes(data[at:end], "little", signed=True), end


def decode(kind: int, data: bytes, at: int = 0) -> Any:
    """Return the value that begins at ``at``: bytes, a list, a set, a dict, or of a stream a dict of what it holds.

    The same value gives the same, however it is packed; scores are floats; of a module the bytes. Raises ValueError.
    """
    try:
        return _decode(kind, data, at)
    except (IndexError, struct.error):
        raise ValueError(f"a value of type {type_name(kind)} is cut off") from None


def _decode(kind: int, data: bytes, at: int) -> Any:
    if kind == 0:
        return string_at(data, at)[0]
    name = TYPES.get(kind)
    if name == "list":
        return _list(kind, data, at)
    if name == "set":
        if kind == 11:
            return {b"%d" % number for number in _intset(string_at(data, at)[0])}
        return set(_items(kind, data, at, 1))
    if name == "zset":
        return _sorted_set(kind, data, at)
    if name == "hash":
        return _hash(kind, data, at)
    if name == "stream":
        return _stream(kind, data, at)
    return data[at:]


def _items(kind: int, data: bytes, at: int, each: int) -> list[bytes]:
    """Return the strings of an aggregate: as many as it says (times ``each``), or those of what it is packed in."""
    if kind in (2, 4, 1):
        count, at = length_at(data, at)
        found = []
        for _ in range(count * each):
            item, at = string_at(data, at)
            found.append(item)
        return found
    packed = string_at(data, at)[0]
    return _ziplist(packed) if kind in (10, 12, 13) else _listpack(packed)


def _list(kind: int, data: bytes, at: int) -> list[bytes]:
    if kind in (1, 10):
        return _items(kind, data, at, 1)
    count, at = length_at(data, at)
    found: list[bytes] = []
    for _ in range(count):
        plain = False
        if kind == 18:
            container, at = length_at(data, at)
            plain = container == 1
        node, at = string_at(data, at)
        if plain:
            found.append(node)
        else:
            found += _listpack(node) if kind == 18 else _ziplist(node)
    return found


def _hash(kind: int, data: bytes, at: int) -> dict[bytes, Any]:
    if kind == 9:
        items = _zipmap(string_at(data, at)[0])
    elif kind == 25:
        # Fields with times: what expires first comes first, 0 is never; the time stands behind field and value.
        parts = _listpack(string_at(data, at + 8)[0])
        return {field: (value, int(time)) for field, value, time in _by(parts, 3)}
    elif kind == 24:
        return _hash_with_times(data, at)
    else:
        items = _items(kind, data, at, 2)
    return {field: value for field, value in _by(items, 2)}  # noqa: C416 - pairs, as far as types can tell


def _hash_with_times(data: bytes, at: int) -> dict[bytes, Any]:
    least = _U64.unpack_from(data, at)[0]
    count, at = length_at(data, at + 8)
    found = {}
    for _ in range(count):
        after, at = length_at(data, at)
        field, at = string_at(data, at)
        value, at = string_at(data, at)
        found[field] = (value, after + least - 1 if after else 0)
    return found


def _sorted_set(kind: int, data: bytes, at: int) -> dict[bytes, float]:
    if kind in (12, 17):
        return {member: float(score) for member, score in _by(_items(kind, data, at, 2), 2)}
    count, at = length_at(data, at)
    found = {}
    for _ in range(count):
        member, at = string_at(data, at)
        if kind == 5:
            found[member], at = _DOUBLE.unpack_from(data, at)[0], at + 8
        else:
            size = data[at]
            special = {253: float("nan"), 254: float("inf"), 255: float("-inf")}
            found[member] = special[size] if size in special else float(data[at + 1 : at + 1 + size])
            at += 1 + (0 if size in special else size)
    return found


def _by(items: list[bytes], count: int) -> list[tuple[bytes, ...]]:
    if len(items) % count:
        raise ValueError("an odd number of strings where fields have values")
    return list(zip(*(items[first::count] for first in range(count)), strict=True))


def _intset(data: bytes) -> list[int]:
    size = int.from_bytes(data[:4], "little")
    count = int.from_bytes(data[4:8], "little")
    return list(struct.unpack_from(f"<{count}{ {2: 'h', 4: 'i', 8: 'q'}[size] }", data, 8))


def _zipmap(data: bytes) -> list[bytes]:
    found, at, value = [], 1, False
    while data[at] != 255:
        length, at = data[at], at + 1
        if length == 254:
            length, at = int.from_bytes(data[at : at + 4], "little"), at + 4
        free = 0
        if value:
            free, at = data[at], at + 1
        found.append(data[at : at + length])
        at += length + free
        value = not value
    return found


def _ziplist(data: bytes) -> list[bytes]:
    found, at = [], 10
    while data[at] != 255:
        at += 1 if data[at] < 254 else 5
        code = data[at]
        if code < 0xC0:
            if code < 0x40:
                length, at = code, at + 1
            elif code < 0x80:
                length, at = (code & 63) << 8 | data[at + 1], at + 2
            else:
                length, at = int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
            found.append(data[at : at + length])
            at += length
            continue
        if 0xF1 <= code <= 0xFD:
            found.append(b"%d" % (code - 0xF1))
            at += 1
            continue
        size = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}[code]
        found.append(b"%d" % int.from_bytes(data[at + 1 : at + 1 + size], "little", signed=True))
        at += 1 + size
    return found


def _listpack(data: bytes) -> list[bytes]:
    found, at = [], 6
    while (code := data[at]) != 255:
        text, size = None, 1
        if code < 0x80:
            number = code
        elif code < 0xC0:
            text, size = data[at + 1 : at + 1 + (code & 63)], 1 + (code & 63)
        elif code < 0xE0:
            number, size = (code & 31) << 8 | data[at + 1], 2
            number -= 8192 if number >= 4096 else 0
        elif code < 0xF0:
            length = (code & 15) << 8 | data[at + 1]
            text, size = data[at + 2 : at + 2 + length], 2 + length
        elif code == 0xF0:
            length = int.from_bytes(data[at + 1 : at + 5], "little")
            text, size = data[at + 5 : at + 5 + length], 5 + length
        else:
            width = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}[code]
            number, size = int.from_bytes(data[at + 1 : at + 1 + width], "little", signed=True), 1 + width
        found.append(b"%d" % number if text is None else text)
        # Behind each entry stands its size once more, 7 bits in a byte.
        at += size + max(1, (size.bit_length() + 6) // 7)
    return found


def _stream(kind: int, data: bytes, at: int) -> dict[str, Any]:
    count, at = length_at(data, at)
    entries: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
    for _ in range(count):
        first, at = string_at(data, at)
        packed, at = string_at(data, at)
        entries += _entries(first, _listpack(packed))
    numbers = []
    for _ in range(3 if kind == 15 else 8):
        number, at = length_at(data, at)
        numbers.append(number)
    groups, at = length_at(data, at)
    found = {}
    for _ in range(groups):
        name, at = string_at(data, at)
        found[name], at = _group(kind, data, at)
    # The first entry, the greatest deleted one and the number ever added came with 7.0; older data has none of them.
    return {"entries": entries, "last": b"%d-%d" % (numbers[1], numbers[2]), "groups": found}


def _group(kind: int, data: bytes, at: int) -> tuple[dict[str, Any], int]:
    ms, at = length_at(data, at)
    sequence, at = length_at(data, at)
    if kind != 15:
        _, at = length_at(data, at)
    count, at = length_at(data, at)
    pending = []
    for _ in range(count):
        identity, at = _id(data[at : at + 16]), at + 24
        deliveries, at = length_at(data, at)
        pending.append((identity, deliveries))
    count, at = length_at(data, at)
    consumers = {}
    for _ in range(count):
        name, at = string_at(data, at)
        at += 16 if kind == 21 else 8
        mine, at = length_at(data, at)
        consumers[name] = [_id(data[at + 16 * one : at + 16 * one + 16]) for one in range(mine)]
        at += 16 * mine
    return {"last": b"%d-%d" % (ms, sequence), "pending": pending, "consumers": consumers}, at


def _id(data: bytes) -> bytes:
    return b"%d-%d" % struct.unpack(">QQ", data)


def _entries(first: bytes, items: list[bytes]) -> list[tuple[bytes, list[tuple[bytes, bytes]]]]:
    """Return the entries of one node: its first has the fields' names, those after refer to them."""
    ms, sequence = struct.unpack(">QQ", first)
    shared = items[3 : 3 + int(items[2])]
    at, found = 4 + len(shared), []
    while at < len(items):
        flags = int(items[at])
        identity = b"%d-%d" % (ms + int(items[at + 1]), sequence + int(items[at + 2]))
        at += 3
        if flags & 2:
            fields = list(zip(shared, items[at : at + len(shared)], strict=True))
            at += len(shared)
        else:
            count = int(items[at])
            flat = items[at + 1 : at + 1 + 2 * count]
            fields = list(zip(flat[::2], flat[1::2], strict=True))
            at += 1 + 2 * count
        at += 1  # how many items this entry takes, for walking backwards
        if not flags & 1:  # not deleted
            found.append((identity, fields))
    return found


def same(one: bytes, other: bytes) -> bool:
    """Tell whether two values, each with its type before it, are the same, however they are packed; raises ValueError.

    Two of a type that is not decoded (a module's) are the same when their bytes are.
    """
    if one == other:
        return True
    if TYPES.get(one[0]) != TYPES.get(other[0]) or TYPES.get(one[0]) in (None, "module"):
        return False
    return bool(decode(one[0], one, 1) == decode(other[0], other, 1))


def text(value: bytes) -> Any:
    """Return a string as text, or in Extended JSON where it is none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"$binary": {"base64": base64.b64encode(value).decode("ascii"), "subType": "00"}}


def readable(kind: int, data: bytes, at: int = 0) -> Any:
    """Return the value as JSON for people (Extended JSON where a string is no text): what `decode` returns."""
    if kind == 0:
        return text(string_at(data, at)[0])
    value, name = decode(kind, data, at), TYPES.get(kind)
    if name == "list":
        return [text(item) for item in value]
    if name == "set":
        return [text(item) for item in sorted(value)]
    if name == "zset":
        return [{"member": text(member), "score": _score(score)} for member, score in _ranked(value)]
    if name == "hash":
        return _readable_hash(value)
    if name == "stream":
        return _readable_stream(value)
    return text(value)


def _ranked(value: dict[bytes, float]) -> list[tuple[bytes, float]]:
    return sorted(value.items(), key=lambda item: (item[1], item[0]))


def _score(score: float) -> Any:
    if score in (float("inf"), float("-inf")) or score != score:  # noqa: PLR0124 - not a number
        return {"$numberDouble": {"inf": "Infinity", "-inf": "-Infinity"}.get(str(score), "NaN")}
    return int(score) if score == int(score) and abs(score) < _EXACT else score


def _readable_hash(value: dict[bytes, Any]) -> Any:
    """Return an object, or a list of pairs where a field's name is no text."""
    shown = {field: _field(item) for field, item in value.items()}
    try:
        return {field.decode(): item for field, item in shown.items()}
    except UnicodeDecodeError:
        return [{"field": text(field), "value": item} for field, item in shown.items()]


def _field(item: Any) -> Any:
    if isinstance(item, bytes):
        return text(item)
    value, expiry = item
    return {"value": text(value), "expires": date(expiry)} if expiry else text(value)


def _readable_stream(value: dict[str, Any]) -> Any:
    return {
        "entries": [
            {"id": identity.decode(), "fields": [[text(field), text(item)] for field, item in fields]}
            for identity, fields in value["entries"]
        ],
        "last": value["last"].decode(),
        "groups": [
            {
                "name": text(name),
                "last": group["last"].decode(),
                "pending": [[identity.decode(), deliveries] for identity, deliveries in group["pending"]],
                "consumers": [text(consumer) for consumer in group["consumers"]],
            }
            for name, group in value["groups"].items()
        ],
    }


def date(milliseconds: int) -> Any:
    """Return a moment (Unix milliseconds) as Extended JSON has it; beyond the year 9999 as a number."""
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return {"$date": {"$numberLong": str(milliseconds)}}
    return {"$date": f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"}
