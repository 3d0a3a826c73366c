"""What an application may do to a database between two backups, each thing with what must be there before it.

A scenario is a generator over an empty database: what it does up to its first ``yield`` goes into the full, up to the
second into the first slice, the rest into the second one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from pymongo.database import Database

__all__ = ["PAST_VALIDATION", "SCENARIOS", "Scenario"]

Scenario: TypeAlias = Callable[[Database[dict[str, Any]]], Iterator[None]]
Db: TypeAlias = Database[dict[str, Any]]

SCENARIOS: Final[dict[str, Scenario]] = {}
PAST_VALIDATION: Final = frozenset({"past_the_validator"})
"""These a mongorestore before 100.15 replays only with what `oplog_validation` adds."""
_NOW: Final = datetime(2026, 11, 1, tzinfo=UTC)
_LATER: Final = _NOW + timedelta(days=100_000)
"""So late that no TTL index takes it away during a test."""


def _scenario(work: Scenario) -> Scenario:
    SCENARIOS[work.__name__] = work
    return work


def _two(db: Db) -> None:
    """Two collections with indexes of several kinds."""
    db.a.create_index("x")
    db.a.create_index("at", expireAfterSeconds=1000, name="ttl")
    db.a.create_index([("text", "text")])
    db.a.insert_many([{"_id": at, "x": at, "at": _LATER} for at in range(10)])
    db.b.create_index("y", unique=True)
    db.b.insert_many([{"_id": at, "y": at} for at in range(5)])


def _some(db: Db) -> None:
    """Two small collections without indexes."""
    db.a.insert_many([{"_id": at, "x": at} for at in range(10)])
    db.b.insert_many([{"_id": at, "y": at} for at in range(5)])


def _series(db: Db) -> None:
    """A time-series collection with indexes on its meta field and on a measurement."""
    db.create_collection("m", timeseries={"timeField": "t", "metaField": "k"})
    db.m.create_index([("k.a", 1), ("t", 1)], name="meta")
    db.m.create_index("v", name="value")
    _measure(db, 3)


def _measure(db: Db, count: int) -> None:
    db.m.insert_many([{"t": _NOW + timedelta(seconds=at), "k": {"a": at}, "v": at} for at in range(count)])


def _mod(db: Db, collection: str, **index: Any) -> None:
    db.command("collMod", collection, index=index)


@_scenario
def writes(db: Db) -> Iterator[None]:
    """Inserts, updates of every form, deletes, upserts."""
    _some(db)
    yield
    db.a.insert_many([{"_id": 1000 + at, "x": -at} for at in range(300)])
    db.a.update_many({}, {"$inc": {"x": 1}})
    db.a.delete_one({"_id": 3})
    yield
    db.a.replace_one({"_id": 1}, {"k": 1})
    db.a.update_one({"_id": 500}, {"$set": {"q": 1}}, upsert=True)
    db.a.find_one_and_update({"_id": 2}, {"$push": {"list": {"$each": [1, 2]}}})
    db.a.update_one({"_id": 2}, [{"$set": {"z": {"$add": ["$x", 5]}, "list": {"$slice": ["$list", 1]}}}])
    db.created.insert_one({"_id": "new"})


@_scenario
def rename(db: Db) -> Iterator[None]:
    """A collection of before, and writes to it under both names; its old name is given away again."""
    _two(db)
    yield
    db.a.insert_one({"_id": 50})
    db.a.rename("z")
    db.z.insert_one({"_id": 51})
    yield
    db.z.create_index("q")
    db.z.drop_index("x_1")
    db.z.rename("zz")
    db.a.insert_one({"_id": "another"})


@_scenario
def rename_onto_another(db: Db) -> Iterator[None]:
    """The target goes, with its unique index; what came by renaming would not fit that."""
    _two(db)
    yield
    db.a.rename("b", dropTarget=True)
    db.b.insert_one({"_id": 51})
    yield
    _mod(db, "b", name="ttl", expireAfterSeconds=2000)


@_scenario
def swap(db: Db) -> Iterator[None]:
    """A collection is replaced by one made beside it, and the old one kept, then dropped: renamed twice in one go."""
    _two(db)
    yield
    db.fresh.insert_many([{"_id": at, "x": at} for at in range(3)])
    db.fresh.create_index("x", unique=True)
    db.a.rename("old")
    db.fresh.rename("a")
    yield
    db.old.drop()


@_scenario
def out(db: Db) -> Iterator[None]:
    """``$out`` to a new collection, then over one that has indexes."""
    _two(db)
    yield
    list(db.a.aggregate([{"$out": "copied"}]))
    yield
    list(db.a.aggregate([{"$project": {"y": "$x"}}, {"$out": "b"}]))
    list(db.a.aggregate([{"$limit": 3}, {"$out": "copied"}]))


@_scenario
def convert_to_capped(db: Db) -> Iterator[None]:
    """The server makes another collection and renames it."""
    _two(db)
    yield
    db.command("convertToCapped", "a", size=10_000)
    yield
    db.a.insert_one({"_id": "capped"})


@_scenario
def drop_and_create(db: Db) -> Iterator[None]:
    """The same name, another kind of collection."""
    _two(db)
    yield
    db.a.drop()
    db.create_collection("a", capped=True, size=4096)
    db.a.insert_one({"_id": 1})
    yield
    db.a.drop()
    db.create_collection("a", viewOn="b", pipeline=[])
    db.b.drop()


@_scenario
def drop_database(db: Db) -> Iterator[None]:
    """All of it, then something of the same name."""
    _some(db)
    _series(db)
    yield
    db.client.drop_database(db.name)
    db.a.insert_one({"_id": "new"})
    yield
    db.client.drop_database(db.name)


@_scenario
def indexes(db: Db) -> Iterator[None]:
    """Made and dropped, on full and on empty collections, with every option that matters."""
    _two(db)
    yield
    db.a.create_index("n")
    db.a.drop_index("x_1")
    db.create_collection("e")
    db.e.create_index("u", unique=True)
    yield
    db.a.create_index("p", partialFilterExpression={"p": {"$gt": 1}}, sparse=False)
    db.a.create_index([("loc", "2dsphere"), ("x", -1)])
    db.a.create_index([("$**", 1)])
    db.a.create_index("x", name="x_1", collation={"locale": "de"})
    db.e.drop_indexes()


@_scenario
def index_options(db: Db) -> Iterator[None]:
    """TTL, hidden, and from an ordinary to a unique index."""
    _two(db)
    yield
    _mod(db, "a", name="ttl", expireAfterSeconds=5000)
    _mod(db, "a", keyPattern={"x": 1}, hidden=True)
    _mod(db, "b", name="y_1", expireAfterSeconds=10**9)
    yield
    _mod(db, "a", name="x_1", hidden=False)
    _mod(db, "a", name="x_1", prepareUnique=True)
    _mod(db, "a", name="x_1", unique=True)
    db.command("collMod", "a", index={"name": "ttl", "expireAfterSeconds": 6000}, validationLevel="moderate")


@_scenario
def validators(db: Db) -> Iterator[None]:
    """Set, changed and taken away."""
    _some(db)
    db.create_collection("v", validator={"x": {"$gte": 0}}, validationLevel="moderate")
    yield
    db.command("collMod", "a", validator={"x": {"$gte": 0}})
    db.a.insert_one({"_id": 77, "x": 3})
    db.create_collection("w", validator={"x": {"$type": "int"}})
    yield
    db.w.insert_one({"x": 1})
    db.command("collMod", "a", validator={}, validationLevel="off")
    db.command("collMod", "v", validationAction="warn")
    db.v.insert_one({"_id": 1, "x": -1})


@_scenario
def past_the_validator(db: Db) -> Iterator[None]:
    """Documents that the validator of before, and one of later, would refuse."""
    db.create_collection("v", validator={"x": {"$gte": 0}})
    _some(db)
    yield
    db.v.insert_one({"_id": 1, "x": -1}, bypass_document_validation=True)
    db.command("collMod", "a", validator={"x": {"$gte": 0}}, validationLevel="moderate")
    yield
    db.a.insert_one({"_id": 77, "x": -1}, bypass_document_validation=True)
    db.v.rename("moved")
    db.moved.insert_one({"_id": 2, "x": -2}, bypass_document_validation=True)


@_scenario
def capped(db: Db) -> Iterator[None]:
    """What runs out at the other end, and other limits."""
    db.create_collection("c", capped=True, size=4096, max=3)
    db.c.insert_many([{"_id": at} for at in range(3)])
    yield
    db.c.insert_many([{"_id": at} for at in range(10, 15)])
    db.command("collMod", "c", cappedMax=7)
    yield
    db.c.insert_many([{"_id": at} for at in range(20, 32)])


@_scenario
def views(db: Db) -> Iterator[None]:
    """The first view of a database, others, changed and dropped ones."""
    _some(db)
    yield
    db.create_collection("v", viewOn="a", pipeline=[{"$match": {"x": 1}}])
    db.create_collection("gone", viewOn="a", pipeline=[])
    yield
    db.command("collMod", "v", viewOn="a", pipeline=[{"$match": {"x": 2}}])
    db.create_collection("vv", viewOn="v", pipeline=[])
    db.gone.drop()


@_scenario
def time_series(db: Db) -> Iterator[None]:
    """Measurements and what a time-series collection allows to change."""
    _series(db)
    yield
    _measure(db, 5)
    db.m.delete_many({"k": {"a": 1}})
    db.command("collMod", "m", timeseries={"granularity": "hours"})
    yield
    _measure(db, 2)
    db.command("collMod", "m", expireAfterSeconds=500_000_000)


@_scenario
def time_series_indexes(db: Db) -> Iterator[None]:
    """Known to mongorestore by the collection's name in the dump, by that of the buckets in the oplog."""
    _series(db)
    yield
    db.m.create_index("k.b", name="other")
    db.m.drop_index("meta")
    yield
    _mod(db, "m", name="value", hidden=True)
    db.m.drop_index("other")


@_scenario
def time_series_dropped(db: Db) -> Iterator[None]:
    """Gone, and made anew in another shape."""
    _series(db)
    yield
    db.m.drop()
    yield
    db.create_collection("m", timeseries={"timeField": "t"})
    db.m.insert_one({"t": _NOW})


@_scenario
def time_series_created(db: Db) -> Iterator[None]:
    """Made after the full."""
    _some(db)
    yield
    _series(db)
    yield
    _measure(db, 2)


@_scenario
def transactions(db: Db) -> Iterator[None]:
    """Small ones, with other databases in them, with collections made in them; one that was aborted."""
    _some(db)
    other = db.client[f"{db.name}_other"]
    other.create_collection("o")
    yield
    with db.client.start_session() as session:
        with session.start_transaction():
            db.a.insert_one({"_id": "t"}, session=session)
            other.o.insert_one({"_id": 1}, session=session)
            db.b.update_one({"_id": 1}, {"$set": {"y": 500}}, session=session)
        session.start_transaction()
        db.a.insert_one({"_id": "aborted"}, session=session)
        session.abort_transaction()
    yield
    with db.client.start_session() as session, session.start_transaction():
        db.create_collection("made", session=session)
        db.made.create_index("w", session=session)
        db.made.insert_one({"_id": 1}, session=session)
    db.made.rename("made_and_renamed")
    db.client.drop_database(other.name)


@_scenario
def large_transaction(db: Db) -> Iterator[None]:
    """More than 16 MiB, so several entries."""
    _some(db)
    yield
    with db.client.start_session() as session, session.start_transaction():
        for at in range(18):
            db.a.insert_one({"_id": f"t{at}", "b": "x" * 1_000_000}, session=session)
    yield
    db.a.delete_many({"b": {"$exists": True}})


@_scenario
def clustered(db: Db) -> Iterator[None]:
    """A collection that is kept in the order of its ``_id``."""
    _some(db)
    yield
    db.create_collection("c", clusteredIndex={"key": {"_id": 1}, "unique": True})
    db.c.insert_one({"_id": 1})
    yield
    db.c.create_index("z")
    db.c.insert_one({"_id": 0})


@_scenario
def collations(db: Db) -> Iterator[None]:
    """An index inherits the collection's collation or says that it has none; also after a renaming."""
    _some(db)
    yield
    db.create_collection("c", collation={"locale": "de"})
    db.c.create_index("x")
    db.c.insert_one({"x": 1})
    db.c.create_index("z", collation={"locale": "simple"})
    yield
    db.c.create_index("y")
    db.c.rename("d")


@_scenario
def out_of_the_database(db: Db) -> Iterator[None]:
    """Renamed to a database that is not saved."""
    _some(db)
    yield
    db.client.admin.command({"renameCollection": f"{db.name}.a", "to": f"{db.name}_other.a"})
    yield
    db.client.drop_database(f"{db.name}_other")


@_scenario
def into_the_database(db: Db) -> Iterator[None]:
    """Renamed from a database that is not saved, over what was there."""
    _two(db)
    other = db.client[f"{db.name}_other"]
    other.o.insert_many([{"_id": at} for at in range(30)])
    other.o.create_index("i", unique=True, sparse=True)
    yield
    db.client.admin.command({"renameCollection": f"{other.name}.o", "to": f"{db.name}.a", "dropTarget": True})
    yield
    db.a.insert_one({"_id": "more"})
    db.client.drop_database(other.name)


@_scenario
def odd_names(db: Db) -> Iterator[None]:
    """Dots, blanks, Korean; documents that look like oplog entries."""
    db["주간 지급.계획"].insert_one({"_id": 1})
    yield
    db["주간 지급.계획"].update_one({"_id": 1}, {"$set": {"ns": f"{db.name}.x", "op": "c"}})
    db["주간 지급.계획"].rename("a.b c")
    yield
    db["a.b c"].insert_one({"_id": 2, "ts": 1, "renameCollection": f"{db.name}.a.b c"})
    db["looks.like%2Fescaped"].insert_one({"_id": 3})


@_scenario
def pre_images(db: Db) -> Iterator[None]:
    """A collection that keeps what its documents were."""
    _some(db)
    yield
    db.command("collMod", "a", changeStreamPreAndPostImages={"enabled": True})
    yield
    db.a.update_one({"_id": 1}, {"$set": {"x": 100}})
