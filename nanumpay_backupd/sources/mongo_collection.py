"""One collection of MongoDB by itself: which one is meant, its dump by mongodump, its export by mongoexport.

Facts about mongodump and mongoexport 100.x this relies on, each seen on real servers: with ``--collection`` mongodump
writes a time-series collection as it does in a whole dump (``system.buckets.NAME.bson``), of a view only metadata, and
of a collection that is not there nothing, all with exit code 0; mongoexport writes what a time-series collection shows,
says ``exported N records`` at its end, and with ``--assertExists`` fails when the collection is not there.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from bson import json_util
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from nanumpay_backupd.errors import NotFoundError, SourceError, ToolError
from nanumpay_backupd.model import BUCKETS, CollectionStat, Consistency, SourceInfo
from nanumpay_backupd.settings.schema import CollectionOrder, MongoSource
from nanumpay_backupd.sources.base import Dump, Estimate, FolderSource, Harvest
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.sources.extended_json import file_stem
from nanumpay_backupd.sources.mongodb import (
    _INTERNAL_DATABASES,
    _PROGRESS,
    INSTALL_HINT,
    _connect,
    _dump_uri,
    _errors_named,
    _Facts,
    _MongoDump,
    _tool_failure,
)
from nanumpay_backupd.system.process import Child, find_tool, run_text, secret_file
from nanumpay_backupd.system.units import human_size

__all__ = ["MongoCollection"]

_EXPORT_HINT: Final = (
    "install MongoDB's package mongodb-database-tools (https://www.mongodb.com/docs/database-tools/), "
    "or set [tools] mongoexport in backupd.toml"
)
_EXPORTED: Final = re.compile(r"\texported (?P<count>\d+) records?$")
_VERSION: Final = re.compile(r"mongo(?:dump|export) version: (\S+)")
_JSON_RATIO: Final = 3
"""Bytes of canonical Extended JSON for a byte of BSON (1.6 to 2.5 in what was measured)."""
_SAMPLED: Final = 200
_SHOWN: Final = 3
_REASON: Final = (
    "mongoexport reads while others write, and Extended JSON has no oplog beside it, "
    "so the documents are of slightly different moments"
)


class MongoCollection(FolderSource):
    """One collection of a MongoDB server, as BSON or as Extended JSON.

    ``order.collection`` is its name; where the settings name no database, ``database.name``.
    """

    def __init__(self, settings: MongoSource, order: CollectionOrder) -> None:
        self._settings = settings
        self._order = order
        self._chosen: _Chosen | None = None

    def preflight(self) -> Estimate:
        """Find the tool and the collection. See `Source.preflight`.

        Raises NotFoundError, which names what it may have been, and SourceError (``source-empty``) for a view.
        """
        as_json = self._order.format == "json"
        name, hint = (self._settings.mongoexport, _EXPORT_HINT) if as_json else (self._settings.mongodump, INSTALL_HINT)
        tool = find_tool(name, hint=hint)
        match = _VERSION.search(run_text([str(tool), "--version"]))
        if match is None:
            what = "mongoexport" if as_json else "mongodump"
            raise ToolError(f"{tool} does not look like {what}: it tells no version", hint=hint)
        with _errors_named(self._settings), _connect(self._settings) as client:
            database, collection = _split(client, self._settings, self._order.collection)
            settings = msgspec.structs.replace(self._settings, database=database)
            entry = _entry(client, database, collection)
            facts = _Facts(settings, client, tool, match.group(1))
            self._chosen = _Chosen(settings, collection, str(entry["type"]), facts)
            count, size = self._chosen.measure(client)
        return Estimate(
            raw_bytes=size * (_JSON_RATIO if as_json else 1),
            summary=f"collection {database}.{collection} of MongoDB {facts.version} ({facts.topology}) at "
            f"{facts.address}, about {count:,} {self._chosen.unit}, {human_size(size)}, "
            f"{'mongoexport' if as_json else 'mongodump'} {facts.tool_version}",
        )

    def start(self, folder: Path) -> Dump:
        """Start mongodump or mongoexport. See `Source.start`."""
        assert self._chosen is not None, "preflight comes first"
        return _Export(self._chosen, folder) if self._order.format == "json" else _BsonDump(self._chosen, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Walk BSON files document by document. See `Source.check`; JSON is known by its manifest, not by its name."""
        return BsonWalk(name) if name.endswith(".bson") else None


class _Chosen:
    """The collection that is meant, and what a look at the server told of it."""

    def __init__(self, settings: MongoSource, name: str, kind: str, facts: _Facts) -> None:
        self.settings = settings
        self.name = name
        self.kind = kind
        self.facts = facts
        # As mongodump reports it.
        self.stored = f"{BUCKETS}{name}" if kind == "timeseries" else name
        facts.collections = frozenset({f"{settings.database}.{self.stored}"})

    @property
    def namespace(self) -> str:
        """Return ``database.name``."""
        return f"{self.settings.database}.{self.name}"

    @property
    def unit(self) -> str:
        """Return what the server's own record counts."""
        return "buckets" if self.kind == "timeseries" else "documents"

    def measure(self, client: MongoClient[dict[str, Any]]) -> tuple[int, int]:
        """Return its documents (as of `count`) and their bytes of BSON, both by the server's own record."""
        collection = client[self.settings.database][self.stored]
        count = collection.estimated_document_count()
        try:
            stats = client[self.settings.database].command("collStats", self.stored)
        except OperationFailure:
            # The role 'backup' does not allow it; a few documents tell about how large the others are.
            batches = cast("Iterable[bytes]", collection.find_raw_batches(limit=_SAMPLED))
            sample, walk = b"".join(batches), BsonWalk(self.stored)
            walk(sample)
            return count, count * len(sample) // max(walk.count, 1)
        return count, int(stats["size"])

    def count(self) -> int | None:
        """Return its documents by the server's own record, None: it is not there any more.

        Of a time-series collection these are its buckets, of which each holds one document at least.
        """
        with _errors_named(self.settings), _connect(self.settings) as client:
            database = client[self.settings.database]
            there = list(database.list_collections(filter={"name": self.name}))
            return database[self.stored].estimated_document_count() if there else None

    def dropped(self) -> SourceError:
        """Say that it is not there any more."""
        return SourceError(
            f"collection {self.namespace} was dropped while it was backed up",
            hint="nothing was published; is it there again? then run again",
            retryable=False,
        )


class _BsonDump(_MongoDump):
    """A running mongodump of one collection, on a replica set with the oplog of that collection beside it."""

    def __init__(self, chosen: _Chosen, folder: Path) -> None:
        super().__init__(chosen.settings, chosen.facts, folder, chosen.name)
        self._chosen = chosen

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`. One that is gone at the end is a failure, and no empty backup."""
        harvest = super().harvest(sizes)
        facts = self._chosen.facts
        if not harvest.source.collections or not facts.collections & facts.still_there(self._chosen.settings):
            raise self._chosen.dropped()
        return harvest


class _Export(Dump):
    """A running mongoexport of one collection, and beside it the metadata as mongodump would have written them."""

    def __init__(self, chosen: _Chosen, folder: Path) -> None:
        self._chosen = chosen
        self._lock = threading.Lock()
        self._exported: int | None = None
        self._partial = 0
        database = chosen.settings.database
        stem = f"{database}/{file_stem(chosen.name)}"
        self._path = f"{stem}.json"
        (folder / database).mkdir()
        with _errors_named(chosen.settings), _connect(chosen.settings) as client:
            metadata = _metadata(client, database, chosen.name)
        self._indexes = len(metadata["indexes"])
        (folder / f"{stem}.metadata.json").write_text(
            json_util.dumps(metadata, json_options=json_util.CANONICAL_JSON_OPTIONS), encoding="utf-8"
        )
        self._before = chosen.count() or 0
        uri = json.dumps(_dump_uri(chosen.settings))
        with secret_file(f"uri: {uri}\n") as fd:
            argv = [
                str(chosen.facts.tool),
                f"--config=/dev/fd/{fd}",
                f"--db={database}",
                f"--collection={chosen.name}",
                "--jsonFormat=canonical",
                "--assertExists",
                f"--out={folder / self._path}",
            ]
            self._child = Child(argv, on_line=self._line, pass_fds=(fd,))

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def documents(self) -> int:
        with self._lock:
            return self._partial if self._exported is None else self._exported

    def pause(self) -> None:
        self._child.pause()

    def resume(self) -> None:
        self._child.resume()

    def wait(self, timeout: float) -> bool:
        return self._child.wait(timeout) is not None

    def kill(self) -> None:
        self._child.kill()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: exit code, what mongoexport reported, its file, and what the server has now."""
        chosen = self._chosen
        code = self._child.wait()
        after = chosen.count()
        if after is None:
            raise chosen.dropped()
        if code != 0:
            raise _tool_failure("mongoexport", code or 0, self._child.tail)
        if self._exported is None:
            raise _incomplete(f"mongoexport ended without saying how many documents of {chosen.namespace} it exported")
        if self._path not in sizes:
            raise _incomplete(
                f"mongoexport reported {self._exported} documents of {chosen.namespace}, but its file is not there"
            )
        # Others may write meanwhile, so more than this cannot be asked: about as many as there were all the time.
        least = min(self._before, after) // 2
        if self._exported < least and self._exported < self._exactly() // 2:
            raise _incomplete(
                f"mongoexport ended without an error after {self._exported} documents of {chosen.namespace}, "
                f"which holds {after} {chosen.unit}"
            )
        return self._found(self._exported, sizes[self._path])

    def _exactly(self) -> int:
        """Count anew, one by one: after a crash the server's own record may be wrong."""
        with _errors_named(self._chosen.settings), _connect(self._chosen.settings) as client:
            return client[self._chosen.settings.database][self._chosen.name].count_documents({})

    def _found(self, documents: int, size: int) -> Harvest:
        chosen, facts = self._chosen, self._chosen.facts
        stat = CollectionStat(
            database=chosen.settings.database,
            name=chosen.name,
            documents=documents,
            bytes=size,
            indexes=self._indexes,
            type=chosen.kind,
        )
        return Harvest(
            source=SourceInfo(
                type="mongodb",
                server_version=facts.version,
                topology=facts.topology,
                databases=(chosen.settings.database,),
                collections=(stat,),
            ),
            consistency=Consistency(level="none", reason=_REASON),
            tools={"mongoexport": facts.tool_version},
            documents=documents,
        )

    def _line(self, line: str) -> None:
        with self._lock:
            if done := _EXPORTED.search(line):
                self._exported = int(done["count"])
            elif progress := _PROGRESS.search(line):
                self._partial = int(progress["count"])


def _incomplete(what: str) -> ToolError:
    return ToolError(
        what,
        hint="check the disk and the version of mongoexport, then run again; nothing was published",
        code="dump-incomplete",
        retryable=True,
    )


def _split(client: MongoClient[dict[str, Any]], settings: MongoSource, wanted: str) -> tuple[str, str]:
    """Return the database and the name that ``wanted`` means."""
    if settings.database:
        return settings.database, wanted
    databases = [name for name in client.list_database_names() if name not in _INTERNAL_DATABASES]
    database, _, name = wanted.partition(".")
    if database not in databases or not name:
        raise NotFoundError(
            f"there is no collection {wanted!r}: this job has several databases, and none is named {database!r}"
            if name
            else f"this job has several databases: of which one is {wanted!r}?",
            hint=f"write it as DATABASE.COLLECTION; the databases are: {', '.join(databases) or 'none'}",
        )
    return database, name


def _entry(client: MongoClient[dict[str, Any]], database: str, name: str) -> Mapping[str, Any]:
    """Return what listCollections says of it; raises NotFoundError, and SourceError for a view."""
    entries = {
        str(entry["name"]): entry
        for entry in client[database].list_collections()
        if not str(entry["name"]).startswith("system.")
    }
    entry = entries.get(name)
    if entry is None:
        known = [one for one, found in entries.items() if found["type"] != "view"]
        raise NotFoundError(f"database {database} has no collection {name!r}", hint=_close(name, database, known))
    if entry["type"] == "view":
        on = entry["options"]["viewOn"]
        raise SourceError(
            f"{database}.{name} is a view: it holds no documents of its own",
            hint=f"what it shows is stored in {on!r}; its definition comes with a full backup: backupctl run",
            code="source-empty",
            retryable=False,
        )
    return entry


def _close(name: str, database: str, known: Iterable[str]) -> str:
    """Say what was probably meant, else what there is."""
    known = sorted(known)
    # Written with its database, or as what holds a time-series collection.
    short = name.removeprefix(f"{database}.").removeprefix(BUCKETS)
    by_lower = {one.lower(): one for one in known}
    close = [short] if short in known else []
    close += [by_lower[one] for one in difflib.get_close_matches(short.lower(), by_lower, n=_SHOWN, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(repr(one) for one in dict.fromkeys(close))}?"
    return f"its collections are: {', '.join(known)}" if known else "it has no collections"


def _metadata(client: MongoClient[dict[str, Any]], database: str, name: str) -> dict[str, Any]:
    """Return what mongodump writes beside a collection: its options, indexes, unique id, whole name and type."""
    found = list(client[database].list_collections(filter={"name": name}))
    if not found:
        raise NotFoundError(f"collection {database}.{name} is not there any more")
    [entry] = found
    identifier = entry["info"].get("uuid")
    return {
        **({"options": entry["options"]} if entry["options"] else {}),
        "indexes": [dict(index) for index in client[database][name].list_indexes()],
        **({"uuid": bytes(identifier).hex()} if identifier is not None else {}),
        "collectionName": name,
        "type": entry["type"],
    }
