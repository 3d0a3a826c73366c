"""A swap's hands on the server: what stands there, the record, single moves, the way in from the side database.

When which of it is done is decided next door. pymongo's exceptions leave as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import bson
import msgspec
from bson.binary import Binary
from bson.codec_options import CodecOptions
from pymongo import ASCENDING, MongoClient, ReadPreference, WriteConcern
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, WTimeoutError

from nanumpay_backupd.errors import BusyError
from nanumpay_backupd.sources.swap_plan import (
    TEMPORARY,
    VIEW,
    Move,
    Record,
    Side,
    belongs,
    definition,
    parked,
    read_record,
    record_name,
    swap_of_side,
)
from nanumpay_backupd.system.clock import Clock

__all__ = ["Look", "Place", "moves_across", "view_of"]

Document = dict[str, Any]
Hook = Callable[[str], None]
_CODEC: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True)
_SAFE: Final = WriteConcern(w="majority", j=True, wtimeout=30000)
_UNAUTHORIZED: Final = 13
_NOT_FOUND: Final = 26
_EXISTS: Final = 48
_PAUSE: Final = 0.5
_REST: Final = 0.2


class Look(msgspec.Struct, frozen=True):
    """What stands in a database: types by name, definitions of the views, collections with encrypted fields."""

    types: Mapping[str, str]
    views: Mapping[str, bytes]
    encrypted: frozenset[str]


def view_of(side: Side, name: str, content: bytes) -> Document:
    """Return a view of a side as it stands in the record."""
    return {"side": side.value, "name": name, "definition": Binary(content)}


def moves_across(name: str) -> bool:
    """Tell whether a collection or view of the side database goes along: not the server's own, nor an older swap's."""
    return belongs(name) is None and not name.startswith("system.")


class Place:
    """The database that a swap is about, over an open connection; always its primary."""

    def __init__(
        self, client: MongoClient[Document], database: str, stamp: str, clock: Clock, hook: Hook = lambda _: None
    ) -> None:
        self._client = client
        self._db = self._database(database)
        self._stamp = stamp
        self._clock = clock
        self._hook = hook

    def _database(self, name: str) -> Database[Document]:
        return self._client.get_database(name, codec_options=_CODEC, read_preference=ReadPreference.PRIMARY)

    @property
    def sharded(self) -> bool:
        """Tell whether this is a sharded cluster."""
        return self._client.admin.command("hello").get("msg") == "isdbgrid"

    def look(self, database: str = "") -> Look:
        """List what stands in the database, or in another one."""
        types, views, encrypted = {}, {}, set()
        for entry in (self._database(database) if database else self._db).list_collections():
            name = entry["name"]
            types[name] = entry["type"]
            if entry["type"] == VIEW:
                views[name] = definition(entry["options"])
            if "encryptedFields" in entry["options"]:
                encrypted.add(name)
        return Look(types, views, frozenset(encrypted))

    def size(self, name: str) -> tuple[int, int]:
        """Return a collection's documents and bytes of BSON, by the server's own count."""
        try:
            stats = self._db.command({"collStats": name})
            return int(stats["count"]), int(stats["size"])
        except OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            return self._db[name].estimated_document_count(), 0

    # The record

    def read(self) -> Record | None:
        """Read the record, None when there is none."""
        return read_record(self._db[record_name(self._stamp)].find().sort("_id", ASCENDING))

    def note(self, number: int, **fields: Any) -> None:
        """Add document ``number`` to the record, durably; raises BusyError when somebody else did."""
        record = self._db.get_collection(record_name(self._stamp), write_concern=_SAFE)
        self._hook(f"before note {number}")
        try:
            # Like a rename, it is done also when a majority does not confirm it in time.
            with contextlib.suppress(WTimeoutError):
                record.insert_one({"_id": number, "at": self._clock.now(), **fields})
        except DuplicateKeyError:
            raise BusyError(
                f"somebody else is changing swap {self._stamp} too", hint="look again: backupctl swaps"
            ) from None
        self._hook(f"after note {number}")

    def others(self) -> list[str]:
        """Name the temporary collections of renames that are here already, so that they are nobody's leftovers."""
        return [name for name in self.look().types if TEMPORARY.fullmatch(name)]

    # Moves

    def do(self, move: Move, record: Record, limit: float) -> bool:
        """Do one move; False when the database is not any more what it was worked out for.

        ``limit`` is the seconds to wait for a lock.
        """
        self._hook(f"before {move}")
        bounds: Document = {"maxTimeMS": int(limit * 1000), "writeConcern": _SAFE.document}
        try:
            if move.do == "rename":
                source, target = (f"{self._db.name}.{name}" for name in (move.name, move.target))
                self._client.admin.command({"renameCollection": source, "to": target, **bounds})
            elif move.do == "drop":
                self._db.command({"drop": move.name, **bounds})
            else:
                content = bson.decode(record.views[Side(move.target), move.name])
                self._db.command({"create": move.name, **content, **bounds})
        except OperationFailure as error:
            if error.code in (_NOT_FOUND, _EXISTS):
                return False
            raise
        self._hook(f"after {move}")
        return True

    def drop_kept(self, record: Record | None) -> None:
        """Drop all that belongs to the swap, its record last, and its side database."""
        leftovers: list[str] = []
        if record is not None and not record.ready:
            while self._kill_moves():
                self._clock.sleep(_REST)
            leftovers = [name for name in self.others() if name not in record.others]
        if record is not None:
            self.remove_side(record.side)
        last = record_name(self._stamp)
        kept = [name for name in self.look().types if (found := belongs(name)) and found[0] == self._stamp]
        for name in [*leftovers, *(name for name in kept if name != last), last]:
            self._hook(f"before drop {name}")
            self._db.drop_collection(name)
            self._hook(f"after drop {name}")

    def remove_side(self, side: str) -> bool:
        """Drop what is left of a side database; False: nothing is in it any more, but this user may not drop it.

        Without the right to drop a database its collections are dropped, and then it is gone, unless it had views: the
        server's own collection of views, empty, stays.
        """
        assert swap_of_side(side) == self._stamp, "only side databases are dropped"
        self._hook("before the side is dropped")
        gone = True
        try:
            self._client.drop_database(side)
        except OperationFailure as error:
            if error.code != _UNAUTHORIZED:
                raise
            gone = self._empty(self._database(side))
        self._hook("after the side is dropped")
        return gone

    @staticmethod
    def _empty(side: Database[Document]) -> bool:
        for name in side.list_collection_names():
            if not name.startswith("system."):
                side.drop_collection(name)
        return not side.list_collection_names()

    # From the side database

    def bring(self, side: str, names: Iterable[str], parallel: int, progress: Callable[[int], None]) -> None:
        """Move collections of the side database here, several at a time, to the places of the new side.

        ``progress`` is told the documents moved so far; what it raises ends the work.
        """
        source = self._database(side)
        sizes = {name: source[name].estimated_document_count() for name in names}
        done = told = 0
        earlier = frozenset(self.others())
        with ThreadPoolExecutor(parallel, thread_name_prefix="swap") as pool:
            # The largest first: the others go beside it.
            largest = sorted(sizes, key=lambda name: -sizes[name])
            running = {pool.submit(self._bring_one, side, name): sizes[name] for name in largest}
            try:
                while running:
                    ended, _ = wait(running, _REST, FIRST_COMPLETED)
                    for item in ended:
                        item.result()
                        done += running.pop(item)
                    # One that has just arrived is seen neither here nor there for a moment.
                    told = max(told, done + self._on_the_way(earlier))
                    progress(told)
            except BaseException:
                self._stop(pool, running)
                raise

    def _bring_one(self, side: str, name: str) -> None:
        target = parked(self._stamp, Side.NEW, name)
        self._hook(f"before bringing {name}")
        command = {"renameCollection": f"{side}.{name}", "to": f"{self._db.name}.{target}"}
        try:
            self._client.admin.command({**command, "comment": self._comment})
        except (ConnectionFailure, OperationFailure) as error:
            # The server does a move to its end, also when the connection is lost meanwhile; asked again it waits
            # for that and then finds nothing to do.
            if isinstance(error, OperationFailure) and error.code != _NOT_FOUND:
                raise
            self._clock.sleep(_PAUSE)
            if name in self.look(side).types:
                self._client.admin.command({**command, "comment": self._comment})
            elif target not in self.look().types:
                raise
        self._hook(f"after bringing {name}")

    @property
    def _comment(self) -> str:
        return f"nanumpay-backupd swap {self._stamp}"

    def _on_the_way(self, earlier: frozenset[str]) -> int:
        """Count what is in the collections that are being moved just now."""
        names = [name for name in self._db.list_collection_names() if TEMPORARY.fullmatch(name)]
        return sum(self._db[name].estimated_document_count() for name in names if name not in earlier)

    def _stop(self, pool: ThreadPoolExecutor, running: Iterable[Future[None]]) -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(item.done() for item in running):
            self._kill_moves()
            self._clock.sleep(_REST)

    def _kill_moves(self) -> bool:
        """End the moves of this swap that are under way, also those of a process that is gone; tells if there were any.

        Where the server does not let us, they come to their end by themselves.
        """
        asked: list[Document] = [
            {"$currentOp": {"allUsers": False}},
            {"$match": {"command.comment": self._comment, "command.renameCollection": {"$exists": True}}},
        ]
        with contextlib.suppress(OperationFailure, ConnectionFailure):
            found = list(self._client.admin.aggregate(asked))
            for operation in found:
                self._client.admin.command({"killOp": 1, "op": operation["opid"]})
            return bool(found)
        return False
