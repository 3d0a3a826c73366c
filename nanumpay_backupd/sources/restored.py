"""Compares what was restored with what was dumped: documents by digest, indexes, options. Restores nothing.

What it relies on, seen with mongodump 100.7 and MongoDB 6.0: the metadata beside a collection's BSON holds its options
and the definitions of its indexes as the server listed them, in Extended JSON, and ``collectionName`` where a file's
name does not tell it; after a restore the server lists them the same way, and holds each document byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import bson
import msgspec
from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import OperationFailure

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import CollectionStat, Content
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.mongodb import _connect, _errors_named
from nanumpay_backupd.sources.oplog_entry import touched
from nanumpay_backupd.sources.snapshot import read_content

__all__ = ["Findings", "Replayed", "Wanted", "compare", "replayed", "wanted"]

_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
_BUCKETS: Final = "system.buckets."
_METADATA: Final = ".metadata.json"
_REFUSED: Final = frozenset({13, 8000})
_LEFT_TO_SERVER: Final = frozenset({"v", "ns", "background", "safe", "dropDups", "autoIndexId", "flags", "temp"})
"""Versions, and options of old servers that newer ones and mongorestore drop."""
_DEFAULTS: Final = {"validationLevel": "strict", "validationAction": "error"}
_TOLERATED: Final = "not compliant with"
_NOT_OURS: Final = frozenset({"admin", "config", "local"})
_SHOWN: Final = 200


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be there, as ``database.name`` of the dump; buckets stand for a time-series collection.

    ``metadata`` is what mongodump wrote of it, ``indexes`` how many the manifest says. ``content`` None: not known,
    because the oplog changed it and nobody read what it then held. ``altered``: by a command in the oplog, so that it
    may have other indexes or be gone.
    """

    database: str
    name: str
    metadata: Mapping[str, Any]
    indexes: int = 0
    content: Content | None = None
    altered: bool = False

    @property
    def plain(self) -> str:
        """Return the name that users know."""
        return self.name.removeprefix(_BUCKETS)

    @property
    def type(self) -> str:
        """Return ``collection``, ``timeseries`` or ``view``."""
        return str(self.metadata.get("type", "collection"))


class Replayed(msgspec.Struct, frozen=True):
    """What a replayed oplog writes to, and of that what it alters by commands; named as `touched` does."""

    written: frozenset[str] = frozenset()
    altered: frozenset[str] = frozenset()


class Findings(msgspec.Struct, frozen=True):
    """What the comparison found: differences in words, and of how much that is.

    ``unknown`` collections were counted and not compared: nobody could say before what they hold. ``validated`` tells
    whether the user was allowed to let the server check its own structures.
    """

    differences: tuple[str, ...]
    collections: int
    documents: int
    unknown: int
    validated: bool


def replayed(oplog: Path) -> Replayed:
    """Read an oplog file."""
    written: set[str] = set()
    altered: set[str] = set()
    with oplog.open("rb") as stream:
        for entry in bson.decode_file_iter(stream, codec_options=_RAW):
            written.update(touched(bytes(entry.raw)))
            altered.update(touched(bytes(entry.raw), commands_only=True))
    return Replayed(frozenset(written), frozenset(altered))


def wanted(folder: Path, stats: Iterable[CollectionStat], names: Mapping[str, str], oplog: Replayed) -> list[Wanted]:
    """Say what has to be there once the dump unpacked in ``folder`` is restored and ``oplog`` is replayed on it.

    ``stats`` is what its manifest says, ``names`` what its databases are called in ``folder``. Raises VerifyError when
    a collection's metadata is not there.
    """
    files = dict(_metadata(folder))
    found = []
    for item in stats:
        plain = item.name.removeprefix(_BUCKETS)
        namespaces = (f"{item.database}.{item.name}", f"{item.database}.*")
        metadata = files.pop((names[item.database], plain), None)
        if metadata is None:
            raise VerifyError(f"the backup has no metadata of {item.database}.{plain}", code="drill-failed")
        content: Content | None = item.settled
        if oplog.written.isdisjoint(namespaces):
            content = Content(documents=item.documents, digest=item.digest)
        altered = not oplog.altered.isdisjoint((*namespaces, f"{item.database}.{plain}"))
        found.append(
            Wanted(
                database=item.database,
                name=item.name,
                metadata=metadata,
                indexes=item.indexes,
                content=content,
                altered=altered,
            )
        )
    return found + list(_views(files, names, oplog))


def _views(
    files: Mapping[tuple[str, str], Mapping[str, Any]], names: Mapping[str, str], oplog: Replayed
) -> Iterator[Wanted]:
    """Yield the views, which are in no manifest because they hold nothing."""
    originals = {called: database for database, called in names.items()}
    for (called, name), metadata in files.items():
        if metadata.get("type") == "view":
            database = originals[called]
            changed = {f"{database}.system.views", f"{database}.*", f"{database}.{name}"} & oplog.written
            yield Wanted(database=database, name=name, metadata=metadata, altered=bool(changed))


def compare(
    settings: MongoSource,
    names: Mapping[str, str],
    items: list[Wanted],
    oplog: Replayed,
    progress: Callable[[int], None],
) -> Findings:
    """Hold a server against what is wanted; ``names`` says how its databases are called there.

    ``progress`` gets the bytes read and may raise. Raises SourceError when the server does not answer.
    """
    differences: list[str] = []
    documents = 0
    validated = True
    with _errors_named(settings), _connect(settings) as client:
        for database, called in names.items():
            db = client[called]
            listed = {entry["name"]: entry for entry in db.list_collections()}
            own = [item for item in items if item.database == database]
            for item in own:
                differences += _shape(db, item, listed)
                if item.type == "view" or item.plain not in listed:
                    continue
                differing, count = _content(db, item, progress)
                differences += differing
                documents += count
                validity = _validity(db, item)
                validated = validated and validity is not None
                differences += validity or ()
            differences += _unexpected(database, listed, own, oplog.written)
        if names.keys() == set(names.values()):
            others = set(client.list_database_names()) - names.keys() - _NOT_OURS
            differences += [f"database {name} is there, which was not dumped" for name in sorted(others)]
    return Findings(
        differences=tuple(differences),
        collections=sum(item.type != "view" for item in items),
        documents=documents,
        unknown=sum(item.content is None and item.type != "view" for item in items),
        validated=validated,
    )


def _metadata(folder: Path) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    """Yield database and collection, and what mongodump wrote of them."""
    for path in sorted(folder.glob(f"*/*{_METADATA}")):
        stem = path.name.removesuffix(_METADATA)
        try:
            metadata = json_util.loads(path.read_bytes())
        except ValueError:
            raise VerifyError(f"{path.name} is not what mongodump writes", code="drill-failed") from None
        name = metadata.get("collectionName") or unquote(stem)
        yield (unquote(path.parent.name), name), metadata


def _shape(db: Database[dict[str, Any]], item: Wanted, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say what differs in kind, options and indexes."""
    namespace = f"{item.database}.{item.plain}"
    there = listed.get(item.plain)
    if there is None:
        # A settled content is that of a collection that was there at the end.
        if not item.altered or item.content is not None:
            yield f"{namespace} is not there"
        return
    if item.altered:
        return
    if there["type"] != item.type:
        yield f"{namespace} is a {there['type']}, not a {item.type}"
        return
    options, expected = _own(there.get("options", {})), _own(item.metadata.get("options", {}))
    if options != expected:
        yield f"{namespace} has the options {_short(options)} instead of {_short(expected)}"
    if item.type != "view":
        yield from _indexes(namespace, item, {index["name"]: index for index in db[item.plain].list_indexes()})


def _indexes(namespace: str, item: Wanted, there: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    expected = {str(index["name"]): index for index in item.metadata.get("indexes", ())}
    for name, index in expected.items():
        found = there.get(name)
        if found is None:
            yield f"{namespace} has no index {name}"
        # The order of an index's keys is part of what it is.
        elif _own(found) != _own(index) or list(found["key"].items()) != list(index["key"].items()):
            yield f"index {name} of {namespace} is {_short(_own(found))} instead of {_short(_own(index))}"
    if len(expected) != item.indexes:
        yield f"{namespace} has {len(expected)} indexes in the archive, {item.indexes} in the manifest"
    more = sorted(there.keys() - expected.keys())
    # Newer servers give a time-series collection an index by themselves.
    if more and item.type != "timeseries":
        yield f"{namespace} has an index {more[0]}, which was not dumped"


def _own(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a collection or the definition of an index without what each server chooses itself."""
    own = {
        key: value
        for key, value in definition.items()
        if key not in _LEFT_TO_SERVER and not (key in _DEFAULTS and _DEFAULTS[key] == value)
    }
    if isinstance(collation := own.get("collation"), Mapping):
        own["collation"] = {key: value for key, value in collation.items() if key != "version"}
    return own


def _content(db: Database[dict[str, Any]], item: Wanted, progress: Callable[[int], None]) -> tuple[Iterable[str], int]:
    """Say what differs in the documents; returns also how many there are."""
    if item.content is None:
        return (), db[item.name].count_documents({})
    namespace = f"{item.database}.{item.plain}"
    found = read_content(db[item.name], progress=progress)
    if found.documents != item.content.documents:
        return (f"{namespace} has {found.documents} documents instead of {item.content.documents}",), found.documents
    # A collection whose long name is shortened in its file's name is in the manifest without a digest.
    if item.content.digest and found.digest != item.content.digest:
        return (f"{namespace} has as many documents as it should have, but not the same ones",), found.documents
    return (), found.documents


def _validity(db: Database[dict[str, Any]], item: Wanted) -> Iterable[str] | None:
    """Let the server check the collection and its indexes against each other; None: this user may not."""
    try:
        result = db.command("validate", item.name)
    except OperationFailure as error:
        if error.code in _REFUSED:
            return None
        raise
    # Documents that a validator would refuse are in the original too: what they are was compared with the dump.
    errors = [str(error) for error in result.get("errors", ()) if _TOLERATED not in str(error)]
    if result["valid"] or (result.get("errors") and not errors):
        return ()
    return (f"the server finds {item.database}.{item.plain} damaged: {_short('; '.join(errors))}",)


def _unexpected(
    database: str, listed: Mapping[str, object], own: list[Wanted], written: frozenset[str]
) -> Iterator[str]:
    """Name what is there although it was not dumped and no oplog made it."""
    known = {item.plain for item in own}
    for name in sorted(listed):
        made = not written.isdisjoint((f"{database}.{name}", f"{database}.{_BUCKETS}{name}", f"{database}.*"))
        if not name.startswith("system.") and name not in known and not made:
            yield f"{database}.{name} is there, which was not dumped"


def _short(value: object) -> str:
    return str(value)[:_SHOWN]
