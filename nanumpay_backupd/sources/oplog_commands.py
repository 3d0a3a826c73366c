"""Makes of oplog entries what a stock mongorestore replays to the same end, or says that there is no such thing.

mongorestore 100.x (read in its source, seen with 100.7.0) applies ``oplog.bson`` entry by entry, but keeps indexes in a
catalog of its own, filled from the dump's metadata, and makes them at the very end. From that follows what fails:
- renameCollection: its catalog does not follow, so the indexes are made on the old name, which thereby is there again;
  and a ``dropTarget`` is not recognised, because collections get new UUIDs, so the target stays under a made-up name.
  ``$out``, mapReduce and convertToCapped rename as well;
- collMod of an index other than a new value for a TTL or ``hidden``: it gives up;
- time-series collections: the catalog knows an index from the metadata by the collection's name, the oplog by that of
  its buckets, so one that is dropped comes back, and a dropped collection comes back as an empty plain one;
- commands that it does not know: it gives up.
So such an entry is replaced by an ``applyOps`` with the same time and several commands in it, which mongorestore takes
one by one. The indexes that this needs are told by `oplog_indexes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import bson
from bson.binary import Binary
from bson.raw_bson import RawBSONDocument

from nanumpay_backupd.sources.oplog_entry import BUCKETS, COMMANDS, ForeignSourceError, Names, rewritten
from nanumpay_backupd.sources.oplog_indexes import DROPPING, RAW, IndexHistory

__all__ = ["Commands", "UnreplayableError", "fcv_changed"]

_BUCKETS: Final = BUCKETS.decode()
_AS_THEY_ARE: Final = frozenset(
    {"create", "createIndexes", "commitIndexBuild", "dropDatabase", "convertToCapped", "emptycapped"}
)
_NO_DATA: Final = frozenset({"startIndexBuild", "abortIndexBuild", "dbCheck", "setMultikeyMetadata", "dropIdent"})
"""They change nothing that a restore brings back."""
_FCV: Final = "featureCompatibilityVersion"


class UnreplayableError(Exception):
    """An entry that cannot be replayed; the text says why, as the end of a sentence."""


class Commands:
    """Turns the commands of an oplog, in their order, into replayable ones."""

    def __init__(self, names: Names, indexes: IndexHistory, written: set[bytes] | None = None) -> None:
        """``written`` is given beside a dump: the namespaces of which documents were kept, to which is added here.

        Then more is refused. A dump reads collections by name, one after the other: it may miss one that changes its
        name, unless all of it came after the beginning (as when ``$out`` renames); and it may miss one that is dropped,
        whose documents then cannot be replayed, because mongorestore gives up where the collection is not there.
        """
        self._written = written
        self._names = names
        self._indexes = indexes
        self._known: Mapping[str, Callable[[Mapping[str, Any]], bytes | None]] = {
            "renameCollection": self._rename,
            "collMod": self._modify,
            "drop": self._drop,
            **dict.fromkeys(DROPPING, self._drop_index),
            **dict.fromkeys(_AS_THEY_ARE, _as_it_is),
        }

    def __call__(self, entry: bytes) -> bytes | None:
        """Return what to keep of a command, or None when nothing concerns us; raises UnreplayableError.

        PyMongoError comes through where the server has to be asked; the entry may then be given again.
        """
        try:
            kept = rewritten(entry, self._names)
        except ForeignSourceError as error:
            raise UnreplayableError(str(error)) from None
        if kept is None:
            return None
        found = RawBSONDocument(kept, RAW)
        if found["ns"] == COMMANDS.decode():
            for item in found["o"].get("applyOps", ()):
                if item["op"] == "c":
                    self._indexes.follow(item)
                elif self._written is not None:
                    self._written.add(item["ns"].encode())
            return kept
        name = next(iter(found["o"]))
        if name in _NO_DATA:
            return None
        if name == "importCollection":
            raise UnreplayableError("a collection was imported (importCollection)")
        if name not in self._known:
            raise UnreplayableError(f"the server did {name!r}, which mongorestore does not know")
        if self._written is not None:
            self._check_dump(found)
        self._indexes.follow(found)
        return self._known[name](found)

    def _check_dump(self, entry: Mapping[str, Any]) -> None:
        """Refuse a command that makes the dump unfit, see `__init__`."""
        assert self._written is not None
        command = entry["o"]
        if "renameCollection" in command:
            if not self._indexes.created(entry["ui"]):
                raise UnreplayableError("a collection was renamed while the dump was made")
            if not command.get("dropTarget"):
                return
            gone, owner = command["to"], command["dropTarget"]
        elif "drop" in command:
            gone, owner = f"{entry['ns'].partition('.')[0]}.{command['drop']}", entry["ui"]
        else:
            return
        if gone.encode() in self._written and not (isinstance(owner, Binary) and self._indexes.created(owner)):
            raise UnreplayableError("a collection was written to and dropped while the dump was made")
        self._written.discard(gone.encode())

    def _rename(self, entry: Mapping[str, Any]) -> bytes:
        command = entry["o"]
        source, target = _split(command["renameCollection"]), _split(command["to"])
        indexes = self._indexes.at(source[0], entry["ui"], entry["ts"]) or {}
        # Also where nothing was dropped: a dump may hold what got the name later, and a rename would put it aside.
        commands: list[tuple[str, dict[str, Any]]] = [(target[0], {"drop": target[1]})]
        plain = {name: value for name, value in command.items() if name != "dropTarget"}
        commands.append((source[0], plain))
        # mongorestore only strikes them from its catalog.
        commands.append((source[0], {"dropIndexes": source[1], "index": "*"}))
        commands += [(target[0], {"createIndexes": target[1], **spec}) for spec in indexes.values()]
        return _together(entry, commands)

    def _modify(self, entry: Mapping[str, Any]) -> bytes | None:
        command = entry["o"]
        if "index" not in command:
            return _as_it_is(entry)
        database, name = entry["ns"].partition(".")[0], command["collMod"]
        indexes = self._indexes.at(database, entry["ui"], entry["ts"]) or {}
        meant = command["index"]
        spec = next((item for item in indexes.values() if _fits(item, meant)), None)
        rest = {key: value for key, value in command.items() if key != "index"}
        commands = [(database, rest)] if len(rest) > 1 else []
        if spec is not None:
            commands += [(database, item) for item in _index_drops(name, spec["name"])]
            commands.append((database, {"createIndexes": name, **spec}))
        return _together(entry, commands) if commands else None

    def _drop(self, entry: Mapping[str, Any]) -> bytes:
        name = entry["o"]["drop"]
        if not name.startswith(_BUCKETS):
            return _as_it_is(entry)
        database = entry["ns"].partition(".")[0]
        drops: list[dict[str, Any]] = [{"drop": name}, {"dropIndexes": name.removeprefix(_BUCKETS), "index": "*"}]
        return _together(entry, [(database, item) for item in drops])

    def _drop_index(self, entry: Mapping[str, Any]) -> bytes:
        command = entry["o"]
        name = next(iter(command.values()))
        if not name.startswith(_BUCKETS):
            return _as_it_is(entry)
        database = entry["ns"].partition(".")[0]
        return _together(entry, [(database, item) for item in _index_drops(name, command["index"])])


def fcv_changed(entry: bytes) -> bool:
    """Tell whether an update in ``admin.system.version`` changes the feature compatibility version."""
    found = RawBSONDocument(entry, RAW)
    return bool((found.get("o2") or found["o"]).get("_id") == _FCV)


def _as_it_is(entry: Mapping[str, Any]) -> bytes:
    return bytes(entry.raw) if isinstance(entry, RawBSONDocument) else bson.encode(entry)


def _together(entry: Mapping[str, Any], commands: list[tuple[str, dict[str, Any]]]) -> bytes:
    """Return an entry of the same time that does several commands, each given with its database."""
    operations = [{"op": "c", "ns": f"{database}.$cmd", "o": command} for database, command in commands]
    kept = {name: entry[name] for name in ("ts", "t", "v", "wall") if name in entry}
    return bson.encode({"op": "c", "ns": COMMANDS.decode(), "o": {"applyOps": operations}, **kept})


def _index_drops(collection: str, index: str) -> Iterator[dict[str, Any]]:
    """Drop an index by every name under which mongorestore may know its collection."""
    yield {"dropIndexes": collection, "index": index}
    if collection.startswith(_BUCKETS):
        yield {"dropIndexes": collection.removeprefix(_BUCKETS), "index": index}


def _fits(spec: Mapping[str, Any], meant: Mapping[str, Any]) -> bool:
    if "name" in meant:
        return bool(spec["name"] == meant["name"])
    return dict(spec["key"]) == dict(meant["keyPattern"])


def _split(namespace: str) -> tuple[str, str]:
    database, _, name = namespace.partition(".")
    return database, name
