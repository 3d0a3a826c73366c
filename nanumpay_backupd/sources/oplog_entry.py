"""One oplog entry in its bytes: where its time, kind and namespace stand; reducing and renaming what it writes to.

Which entries are wanted, and which of them a stock mongorestore can replay, is decided elsewhere. Users' documents are
never decoded, so what is kept is kept exactly. Damage shows as ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from bson.timestamp import Timestamp

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.bson_edit import (
    BEYOND,
    DOCUMENT,
    SIZES,
    STRING,
    TIMESTAMP,
    Field,
    array,
    document,
    fields,
    skip,
)
from nanumpay_backupd.sources.bson_edit import string as text_field

__all__ = [
    "BUCKETS",
    "COMMANDS",
    "FILE",
    "VIEWS",
    "Entry",
    "ForeignSourceError",
    "Names",
    "Stamp",
    "creates",
    "facts",
    "head",
    "optime",
    "renamings",
    "respliced",
    "rewritten",
    "same",
    "stamp_of",
    "touched",
]

Stamp: TypeAlias = int
"""An oplog time as one number that compares quickly: seconds above, counter below."""
Names: TypeAlias = Callable[[bytes], bytes | None]
"""Says what a namespace (``database.collection``) is to be called, or None when nothing of it is wanted."""

FILE: Final = "oplog.bson"
"""The name under which mongorestore looks for the oplog beside the database folders."""
COMMANDS: Final = b"admin.$cmd"
"""The namespace of what concerns several databases: transactions, and operations put together."""
BUCKETS: Final = b"system.buckets."
"""The data of a time-series collection are kept under this and its name."""
VIEWS: Final = b".system.views"
"""What defines a view is a document of this collection, under the view's full name."""
_OF_THE_SERVER: Final = frozenset({b"admin", b"config", b"local", b""})
_ENDS: Final = frozenset({b"commitTransaction", b"abortTransaction"})
_CHAINED: Final = frozenset({b"partialTxn", b"prepare"})
_int_at = struct.Struct("<i").unpack_from
_pack_int = struct.Struct("<i").pack
_stamp_at = struct.Struct("<Q").unpack_from


class ForeignSourceError(Exception):
    """A collection got its content by being renamed from one that is not wanted; the text says which."""


class Entry(NamedTuple):
    """What an entry tells: kind (``i``, ``u``, ``d``, ``c``, ``n`` …), namespace and where its value stands, time."""

    operation: bytes
    namespace: bytes
    namespace_at: int
    stamp: Stamp


def head(data: bytes, start: int) -> tuple[bytes, bytes]:
    """Return kind and namespace of the entry that begins at ``start``; both stand near its beginning."""
    at = start + 4
    operation = b""
    try:
        while kind := data[at]:
            value = data.index(0, at + 1) + 1
            following = skip(data, kind, value)
            if kind == STRING:
                name = data[at + 1 : value - 1]
                if name == b"op":
                    operation = data[value + 4 : following - 1]
                elif name == b"ns":
                    return operation, data[value + 4 : following - 1]
            at = following
    except (IndexError, struct.error):
        raise ValueError("an oplog entry is cut off") from None
    raise ValueError("an oplog entry without op and ns")


def facts(data: bytes, start: int) -> Entry:
    """Return what is to be known of the entry that begins at ``start``. A replay's preparation spends its time here."""
    at = start + 4
    operation = namespace = b""
    namespace_at = 0
    stamp: Stamp | None = None
    index, sizes, beyond, length_at = data.index, SIZES, BEYOND, _int_at
    try:
        while kind := data[at]:
            value = index(0, at + 1) + 1
            size = sizes[kind]
            if size >= 0:
                if kind == TIMESTAMP and data[at + 1 : value - 1] == b"ts":
                    stamp = int(_stamp_at(data, value)[0])
                    if namespace_at and operation:
                        return Entry(operation, namespace, namespace_at, stamp)
                at = value + size
                continue
            more = beyond[kind]
            following = value + length_at(data, value)[0] + more if more >= 0 else skip(data, kind, value)
            if following <= value:
                raise ValueError("a value of negative length")
            if kind == STRING:
                name = data[at + 1 : value - 1]
                if name == b"op":
                    operation = data[value + 4 : following - 1]
                elif name == b"ns":
                    namespace, namespace_at = data[value + 4 : following - 1], value
                if stamp is not None and namespace_at and operation:
                    # Servers before 4.4 write the time first.
                    return Entry(operation, namespace, namespace_at, stamp)
            at = following
    except (IndexError, struct.error):
        raise ValueError("an oplog entry is cut off") from None
    raise ValueError("an oplog entry without ts, op or ns")


def optime(stamp: Stamp) -> OpTime:
    """Turn the number into the record."""
    return OpTime(stamp >> 32, stamp & 0xFFFFFFFF)


def stamp_of(time: OpTime | Timestamp) -> Stamp:
    """Turn an oplog time into the number."""
    seconds, counter = (time.time, time.inc) if isinstance(time, Timestamp) else time
    return (seconds << 32) | counter


def same(databases: frozenset[bytes]) -> Names:
    """Want these databases, under their own names; none given: all but those of the server itself."""

    def names(namespace: bytes) -> bytes | None:
        database = namespace.partition(b".")[0]
        wanted = database in databases if databases else database not in _OF_THE_SERVER
        return namespace if wanted else None

    return names


def respliced(data: bytes, start: int, end: int, namespace_at: int, namespace: bytes) -> bytes:
    """Return the entry that stands from ``start`` to ``end`` with another namespace in the place of its own."""
    (length,) = _int_at(data, namespace_at)
    rest = namespace_at + 4 + length
    grown = end - start + len(namespace) + 1 - length
    return b"%b%b%b%b\0%b" % (
        _pack_int(grown),
        data[start + 4 : namespace_at],
        _pack_int(len(namespace) + 1),
        namespace,
        data[rest:end],
    )


def rewritten(entry: bytes, names: Names) -> bytes | None:
    """Return an entry reduced to what ``names`` wants, under its names, or None when nothing is left.

    Parts of a transaction that spans several entries stay, even empty, so that the chain is whole. An entry in which
    nothing changes is returned as the same object. A rename of which only the source is wanted becomes a drop; one of
    which only the target is wanted raises ForeignSourceError, because what it brings is not known.
    """
    parts = fields(entry)
    named = {field.name: field for field in parts}
    operation, namespace = named[b"op"].text, named[b"ns"].text
    if operation == b"c":
        changed = _several(named, names) if namespace == COMMANDS else _command(named, names)
    else:
        changed = _write(named, names)
    if changed is None or not changed:
        return None if changed is None else entry
    return document(changed.get(field.name, field) for field in parts)


_Named: TypeAlias = dict[bytes, Field]


def _write(entry: _Named, names: Names) -> _Named | None:
    """Return the elements of an insert, update or delete that change, or None when it is not wanted."""
    namespace = entry[b"ns"].text
    changed: _Named = {}
    if namespace.endswith(VIEWS):
        identity = {b"i": b"o", b"d": b"o"}.get(entry[b"op"].text, b"o2")
        view = next((field.text for field in fields(entry[identity].value) if field.name == b"_id"), b"")
        renamed = names(view)
        if renamed is None:
            return None
        database = renamed.partition(b".")[0]
        for name in (b"o", b"o2"):
            if name in entry and view != renamed:
                changed[name] = _with_text(entry[name], b"_id", view, renamed)
        namespace_now = database + VIEWS
    else:
        found = names(namespace)
        if found is None:
            return None
        namespace_now = found
    if namespace_now != namespace:
        changed[b"ns"] = text_field(b"ns", namespace_now)
    return changed


def _with_text(field: Field, name: bytes, old: bytes, new: bytes) -> Field:
    """Return a document with one string in it exchanged."""
    was, now = text_field(name, old), text_field(name, new)
    return Field(field.kind, field.name, document(now if item == was else item for item in fields(field.value)))


def _several(entry: _Named, names: Names) -> _Named | None:
    """Reduce a transaction's entry, or other operations that were put together, to those that are wanted."""
    content = fields(entry[b"o"].value)
    listed = next((field for field in content if field.name == b"applyOps"), None)
    if listed is None:
        return {} if any(field.name in _ENDS for field in content) else None
    inner = fields(listed.value)
    kept = []
    alike = True
    for item in inner:
        now = rewritten(item.value, names)
        alike = alike and now is item.value
        if now is not None:
            kept.append(Field(DOCUMENT, b"", now))
    if alike and inner:
        return {}
    if not kept and not _chained(entry, content):
        return None
    now_listed = Field(listed.kind, listed.name, array(kept))
    return {b"o": Field(DOCUMENT, b"o", document(now_listed if field is listed else field for field in content))}


def _chained(entry: _Named, content: list[Field]) -> bool:
    """Tell whether a transaction's entry belongs to others, before or after it."""
    if any(field.name in _CHAINED for field in content):
        return True
    before = entry.get(b"prevOpTime")
    if before is None:
        return False
    return any(field.name == b"ts" and any(field.value) for field in fields(before.value))


def _command(entry: _Named, names: Names) -> _Named | None:
    """Return the elements of a command on a database that change, or None when it is not wanted."""
    database = entry[b"ns"].text.partition(b".")[0]
    content = fields(entry[b"o"].value)
    if content[0].name == b"renameCollection":
        return _rename(content, names)
    about = content[0].text if content[0].kind == STRING else b"$cmd"
    renamed = names(database + b"." + about)
    if renamed is None:
        return None
    now = renamed.partition(b".")[0]
    if now == database:
        return {}
    return {b"ns": text_field(b"ns", now + b".$cmd"), b"o": _indexes_renamed(entry[b"o"], database, now)}


def _rename(content: list[Field], names: Names) -> _Named | None:
    named = {field.name: field for field in content}
    source, target = named[b"renameCollection"].text, named[b"to"].text
    source_now, target_now = names(source), names(target)
    if source_now is None:
        if target_now is None:
            return None
        raise ForeignSourceError(f"{target.decode()} was renamed from {source.decode()}, which is not saved")
    database = text_field(b"ns", source_now.partition(b".")[0] + b".$cmd")
    if target_now is None:
        drop = document([text_field(b"drop", source_now.partition(b".")[2])])
        return {b"ns": database, b"o": Field(DOCUMENT, b"o", drop)}
    if (source_now, target_now) == (source, target):
        return {}
    now = {
        b"renameCollection": text_field(b"renameCollection", source_now),
        b"to": text_field(b"to", target_now),
    }
    return {
        b"ns": database,
        b"o": Field(DOCUMENT, b"o", document(now.get(field.name, field) for field in content)),
    }


def _indexes_renamed(field: Field, database: bytes, now: bytes) -> Field:
    """Change the database in ``ns`` of index specifications, which servers before 4.4 wrote."""

    def change(item: Field) -> Field:
        if item.name == b"ns" and item.kind == STRING and item.text.startswith(database + b"."):
            return text_field(b"ns", now + item.text[len(database) :])
        if item.name == b"idIndex":
            return Field(item.kind, item.name, document(map(change, fields(item.value))))
        if item.name == b"indexes":
            specs = ((spec, map(change, fields(spec.value))) for spec in fields(item.value))
            return Field(item.kind, item.name, array(spec._replace(value=document(now)) for spec, now in specs))
        return item

    return Field(field.kind, field.name, document(map(change, fields(field.value))))


def creates(entry: bytes) -> Iterator[str]:
    """Name the collections that an entry creates, as ``database.collection``."""
    named = {field.name: field for field in fields(entry)}
    if named[b"op"].text != b"c":
        return
    for field in fields(named[b"o"].value):
        if field.name == b"applyOps":
            for inner in fields(field.value):
                yield from creates(inner.value)
        elif field.name == b"create":
            yield (named[b"ns"].text.partition(b".")[0] + b"." + field.text).decode()


def renamings(entry: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield source and target of what an entry renames, also among operations that were put together."""
    named = {field.name: field for field in fields(entry)}
    if named[b"op"].text != b"c":
        return
    content = {field.name: field for field in fields(named[b"o"].value)}
    if b"renameCollection" in content:
        yield content[b"renameCollection"].text, content[b"to"].text
    elif b"applyOps" in content:
        for inner in fields(content[b"applyOps"].value):
            yield from renamings(inner.value)


def touched(entry: bytes, *, commands_only: bool = False) -> Iterator[str]:
    """Name what an entry writes to: ``database.collection``, or ``database.*`` for a command on the whole.

    With ``commands_only`` what it merely inserts, updates or deletes documents of is left out.
    """
    named = {field.name: field for field in fields(entry)}
    namespace = named[b"ns"].text
    if named[b"op"].text != b"c":
        if not commands_only:
            yield namespace.decode()
        return
    for place, field in enumerate(fields(named[b"o"].value)):
        if field.name == b"applyOps":
            for inner in fields(field.value):
                yield from touched(inner.value, commands_only=commands_only)
        elif field.name in {b"renameCollection", b"to"}:
            yield field.text.decode()
        elif place == 0 and namespace != COMMANDS:
            about = field.text if field.kind == STRING else b"*"
            yield (namespace.partition(b".")[0] + b"." + about).decode()
