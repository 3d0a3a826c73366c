"""What happens to collections while a dump is made: replayed, it gives the end's state, or the backup says why not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pymongo.database import Database

from nanumpay_backupd.sources.oplog import OplogCapture
from tests.compare import describe_database
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers

DATABASE = "captured"
Db: TypeAlias = Database[dict[str, Any]]


def drop(db: Db) -> None:
    """A collection that nobody writes to."""
    db.b.drop()


def drop_time_series(db: Db) -> None:
    """The same with buckets."""
    db.m.drop()


def drop_written(db: Db) -> None:
    """A collection that somebody just wrote to."""
    db.b.insert_one({"_id": 2})
    db.b.drop()


def create_and_drop(db: Db) -> None:
    """Two collections of one name, both new."""
    db.n.insert_one({"_id": 1})
    db.n.drop()
    db.n.insert_one({"_id": 2})


def out(db: Db) -> None:
    """The server renames a collection that it made meanwhile, the second time over the first one's."""
    list(db.a.aggregate([{"$out": "copied"}]))
    list(db.a.aggregate([{"$limit": 1}, {"$out": "copied"}]))


def out_over_written(db: Db) -> None:
    """The same over a collection that somebody just wrote to."""
    db.b.insert_one({"_id": 2})
    list(db.a.aggregate([{"$out": "b"}]))


def convert(db: Db) -> None:
    """Another renaming by the server."""
    db.command("convertToCapped", "a", size=4096)


def index_options(db: Db) -> None:
    """Changes of indexes, also of one that is dropped before the dump comes to it."""
    db.command("collMod", "a", index={"name": "x_1", "expireAfterSeconds": 7})
    db.a.drop_index("x_1")
    db.a.create_index("y", unique=True)
    db.command("collMod", "a", index={"name": "y_1", "hidden": True})


def rename(db: Db) -> None:
    """Somebody renames a collection of before."""
    db.a.rename("renamed")


def version(db: Db) -> None:
    """The feature compatibility version goes down and up."""
    db.client.admin.command("setFeatureCompatibilityVersion", "5.0")
    db.client.admin.command("setFeatureCompatibilityVersion", "6.0")


@pytest.fixture(scope="module")
def source() -> Iterator[Mongod]:
    """A replica set whose version may be changed."""
    with start_mongod(replica_set=True) as server:
        yield server


@pytest.mark.parametrize(
    "act, when, problem",
    [
        (drop, "before", ""),
        (drop_time_series, "before", ""),
        (drop_written, "before", "written to and dropped"),
        (create_and_drop, "before", ""),
        (create_and_drop, "after", ""),
        (out, "before", ""),
        (out, "after", ""),
        (out_over_written, "after", "written to and dropped"),
        (convert, "before", ""),
        (index_options, "before", ""),
        (rename, "after", "renamed"),
        (version, "after", "feature compatibility version"),
    ],
)
def test_what_happens_while_a_dump_is_made(
    source: Mongod, mongod_rs: Mongod, tmp_path: Path, act: Callable[[Db], None], when: str, problem: str
) -> None:
    """Whether the dump saw it or not, stock mongorestore brings the end's state; otherwise the reason is told."""
    with source.client() as client, mongod_rs.client() as restored:
        client.drop_database(DATABASE)
        restored.drop_database(DATABASE)
        db = client[DATABASE]
        db.a.create_index("x")
        db.a.insert_many([{"_id": at, "y": at} for at in range(3)])
        db.b.insert_one({"_id": 1})
        db.create_collection("m", timeseries={"timeField": "t", "metaField": "k"})
        db.m.insert_one({"t": datetime(2026, 11, 1, tzinfo=UTC), "k": 1})
        capture = OplogCapture(source.client(), [DATABASE], tmp_path / "oplog.bson")
        capture.begin()
        if when == "before":
            act(db)
        options = ["--uri", source.uri, "--db", DATABASE, "--out", str(tmp_path), "--quiet"]
        subprocess.run([find_tool("mongodump"), *options], check=True)
        if when == "after":
            act(db)
        capture.finish()
        assert capture.join(30)
        assert problem in capture.result().problem
        assert bool(problem) == bool(capture.result().problem)
        if not problem:
            options = ["--uri", mongod_rs.uri, "--drop", "--oplogReplay", "--quiet", str(tmp_path)]
            subprocess.run([find_tool("mongorestore"), *options], check=True)
            assert describe_database(restored, DATABASE) == describe_database(client, DATABASE)
        restored.drop_database(DATABASE)
