"""Which indexes a collection had at a moment of its past. What that is needed for stands elsewhere.

The oplog tells how indexes change, not which there are. So a collection that was created where the reading began before
is known from its beginning; of any other the server is asked what there is now, and what the oplog says happened since
is undone, which it allows: it keeps the specification of a dropped index (seen on MongoDB 6.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

__all__ = ["DROPPING", "RAW", "IndexHistory", "Specs"]

Specs: TypeAlias = dict[str, Mapping[str, Any]]
"""Index specifications by name, as ``createIndexes`` takes them; that of ``_id`` is not among them."""

RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
DROPPING: Final = frozenset({"dropIndexes", "dropIndex", "deleteIndexes", "deleteIndex"})
_LOOKS: Final = 5
_GONE: Final = 26
"""NamespaceNotFound."""
_SWITCHES: Final = ("hidden", "prepareUnique", "unique", "forceNonUnique")


class IndexHistory:
    """Follows the commands of an oplog, in their order, and tells the indexes as they were after any of them.

    Collections are named by their UUID, which a renaming does not change. PyMongoError comes through.
    """

    def __init__(self, client: MongoClient[dict[str, Any]]) -> None:
        self._client = client
        self._known: dict[bytes, Specs] = {}
        self._created: set[bytes] = set()

    def follow(self, entry: Mapping[str, Any]) -> None:
        """Take note of a command (an oplog entry, or one inside a transaction)."""
        owner, command = entry.get("ui"), entry["o"]
        if owner is None:
            return
        name = next(iter(command))
        if name == "create":
            self._created.add(bytes(owner))
            self._known[bytes(owner)] = {}
        elif name == "drop":
            self._forget(owner)
        elif name == "renameCollection":
            if isinstance(dropped := command.get("dropTarget"), Binary):
                self._forget(dropped)
        elif (known := self._known.get(bytes(owner))) is not None:
            _apply(known, command)

    def created(self, owner: Binary) -> bool:
        """Tell whether a collection's creation was followed, and not its end."""
        return bytes(owner) in self._created

    def at(self, database: str, owner: Binary, moment: Timestamp) -> Specs | None:
        """Return the indexes of a collection right after the entry of ``moment``, which was the last one followed.

        None: the collection is not there any more, and what it had cannot be known.
        """
        known = self._known.get(bytes(owner))
        if known is None:
            known = self._asked(database, owner, moment)
            if known is not None:
                self._known[bytes(owner)] = known
        return known

    def _forget(self, owner: Binary) -> None:
        self._created.discard(bytes(owner))
        self._known.pop(bytes(owner), None)

    def _asked(self, database: str, owner: Binary, moment: Timestamp) -> Specs | None:
        specs = self._present(database, owner)
        for _ in range(_LOOKS):
            later = list(self._later(owner, moment))
            again = self._present(database, owner)
            # Between two equal looks nothing changed, so the oplog that was read between them tells all.
            if again == specs:
                break
            specs = again
        if specs is None:
            return None
        for entry in reversed(later):
            _undo(specs, entry)
        return specs

    def _present(self, database: str, owner: Binary) -> Specs | None:
        """Ask the server which indexes the collection has now."""
        db = self._client[database]
        named = next(iter(db.list_collections(filter={"info.uuid": owner})), None)
        if named is None:
            return None
        try:
            reply = db.command("listIndexes", named["name"], codec_options=RAW)
        except OperationFailure as error:
            if error.code == _GONE:
                return None
            raise
        # A collection has at most 64 indexes, which fit into one reply.
        return _specs(reply["cursor"]["firstBatch"])

    def _later(self, owner: Binary, moment: Timestamp) -> Iterable[Mapping[str, Any]]:
        """Read the commands on a collection after ``moment``."""
        found = self._client.local.get_collection("oplog.rs", codec_options=RAW).find(
            {"ts": {"$gt": moment}, "op": "c", "$or": [{"ui": owner}, {"o.applyOps.ui": owner}]}
        )
        for entry in found:
            if "applyOps" in entry["o"]:
                yield from (item for item in entry["o"]["applyOps"] if item["op"] == "c" and item.get("ui") == owner)
            else:
                yield entry


def _specs(found: Iterable[Mapping[str, Any]]) -> Specs:
    return {spec["name"]: spec for spec in found if dict(spec["key"]) != {"_id": 1}}


def _created(command: Mapping[str, Any]) -> Specs:
    """Return what a command that ends the making of indexes made; nothing when it is another one."""
    if "commitIndexBuild" in command:
        return _specs(command["indexes"])
    if "createIndexes" in command:
        return _specs([{name: value for name, value in command.items() if name != "createIndexes"}])
    return {}


def _apply(specs: Specs, command: Mapping[str, Any]) -> None:
    specs.update(_created(command))
    if next(iter(command)) in DROPPING:
        if command["index"] == "*":
            specs.clear()
        else:
            specs.pop(command["index"], None)
    elif "collMod" in command and (spec := _meant(specs, command.get("index"))):
        specs[spec["name"]] = _changed(spec, _options(command["index"]))


def _undo(specs: Specs, entry: Mapping[str, Any]) -> None:
    """Take back what a command did: given the indexes after it, leave those before it."""
    command = entry["o"]
    for name in _created(command):
        specs.pop(name, None)
    before = entry.get("o2") or {}
    if next(iter(command)) in DROPPING and "key" in before:
        specs.update(_specs([before]))
    elif "collMod" in command and (spec := _meant(specs, command.get("index"))):
        old = before.get("indexOptions_old") or {}
        change: dict[str, Any] = {name: old.get(name) for name in _options(command["index"])}
        if change.get("unique", 0) is None:
            # Only an index that was prepared becomes a unique one.
            change["prepareUnique"] = True
        specs[spec["name"]] = _changed(spec, change)


def _options(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a collMod changes of an index."""
    return {name: value for name, value in index.items() if name not in {"name", "keyPattern"}}


def _meant(specs: Specs, index: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the specification that a collMod speaks of."""
    if index is None:
        return None
    if "name" in index:
        return specs.get(index["name"])
    return next((spec for spec in specs.values() if dict(spec["key"]) == dict(index["keyPattern"])), None)


def _changed(spec: Mapping[str, Any], change: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a specification with other options; None and False take an option away, as the server does."""
    now = dict(spec)
    for name, value in change.items():
        if value is None or (name in _SWITCHES and not value):
            now.pop(name, None)
        elif name == "forceNonUnique":
            now.pop("unique", None)
        else:
            now[name] = value
    if change.get("unique"):
        now.pop("prepareUnique", None)
    return now
