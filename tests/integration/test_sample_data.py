"""The sample data and the comparison that demo, tests and benchmark lean on: they must tell right from wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gridfs
import pytest
from bson import Decimal128, Int64
from pymongo import MongoClient
from pymongo.collation import Collation
from pymongo.database import Database

from tests import bulk_data, sample_data
from tests.compare import compare_databases
from tests.sample_data import Document
from tests.servers.mongod import Mongod
from tests.servers.tools import find_tool

SCALE = 0.05
Client = MongoClient[Document]


@pytest.fixture(params=["mongod_rs", "mongod_standalone"])
def server(request: pytest.FixtureRequest) -> Mongod:
    """Both kinds of server that sites have."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Mongod)
    return server


@pytest.fixture
def client(server: Mongod) -> Iterator[Client]:
    """A client of that server, with the databases of these tests gone before and after."""
    names = ("sample_one", "sample_two")
    with server.client() as client:
        for name in names:
            client.drop_database(name)
        yield client
        for name in names:
            client.drop_database(name)


def test_dump_and_restore_into_another_database_compares_equal(server: Mongod, client: Client, tmp_path: Path) -> None:
    """What stock mongodump and mongorestore carry over is everything that the comparison looks at."""
    counts = sample_data.load(client["sample_one"], scale=SCALE)
    subprocess.run(
        [find_tool("mongodump"), "--uri", server.uri, "--db=sample_one", "--out", tmp_path, "--quiet"], check=True
    )
    subprocess.run(
        [find_tool("mongorestore"), "--uri", server.uri, "--db=sample_two", tmp_path / "sample_one", "--quiet"],
        check=True,
    )
    assert compare_databases(client, "sample_one", "sample_two") == []
    assert {name: client["sample_two"][name].count_documents({}) for name in counts} == counts
    assert counts["activitylogs"] == 1000, "the capped collection must have wrapped around"


def test_same_seed_gives_the_same_documents(client: Client) -> None:
    """Two loads differ in nothing but the server's own bucket ids; another seed differs in content everywhere."""
    sample_data.load(client["sample_one"], scale=SCALE)
    sample_data.load(client["sample_two"], scale=SCALE)
    differences = compare_databases(client, "sample_one", "sample_two")
    assert [line.partition(":")[0] for line in differences] == ["system.buckets.systemmetrics"]
    client.drop_database("sample_two")
    sample_data.load(client["sample_two"], scale=SCALE, seed=2)
    differing = {line.partition(":")[0] for line in compare_databases(client, "sample_one", "sample_two")}
    assert {"users", "weeklypaymentplans", "documents.chunks", "activitylogs"} <= differing


def test_sample_data_has_what_a_dump_can_stumble_over(client: Client) -> None:
    """Every kind of value, collection and index that the module promises is really there."""
    db = client["sample_one"]
    sample_data.load(db, scale=SCALE)
    kinds = {entry["name"]: entry for entry in db.list_collections()}
    assert kinds["systemmetrics"]["type"] == "timeseries"
    assert kinds["activeusers"]["type"] == "view"
    assert kinds["activitylogs"]["options"]["capped"] is True
    assert "validator" in kinds["plannercommissions"]["options"]
    assert kinds["planneraccounts"]["options"]["collation"]["locale"] == "ko"
    indexes = [
        index for name in db.list_collection_names(filter={"type": "collection"}) for index in db[name].list_indexes()
    ]
    for option in ("unique", "sparse", "partialFilterExpression", "expireAfterSeconds", "collation"):
        assert any(option in index for index in indexes), option
    assert {"hashed"} <= {str(kind) for index in indexes for kind in index["key"].values()}
    content = gridfs.GridFSBucket(db, bucket_name="documents").open_download_stream_by_name(sample_data.GRIDFS_NAME)
    assert len(content.read()) == sample_data.GRIDFS_SIZE
    plan = db.weeklypaymentplans.find_one({}) or {}
    assert isinstance(plan["installments"][0]["amount"], Decimal128)
    assert isinstance(plan["totalAmount"], Int64)
    assert 0 < db.activeusers.count_documents({}) < db.users.count_documents({})


def _lose_document(db: Database[Document]) -> None:
    db.users.delete_one({})


def _change_value(db: Database[Document]) -> None:
    db.users.update_one({}, {"$set": {"ratio": 2.5}})


def _change_type(db: Database[Document]) -> None:
    db.weeklypaymentplans.update_one({}, [{"$set": {"totalAmount": {"$toDouble": "$totalAmount"}}}])


def _lose_index(db: Database[Document]) -> None:
    db.users.drop_index("phone_1")


def _reverse_index(db: Database[Document]) -> None:
    db.users.drop_index("plannerId_1_createdAt_-1")
    db.users.create_index([("createdAt", -1), ("plannerId", 1)], name="plannerId_1_createdAt_-1")


def _lose_validator(db: Database[Document]) -> None:
    db.command("collMod", "plannercommissions", validator={})


def _change_view(db: Database[Document]) -> None:
    db.command("collMod", "activeusers", viewOn="users", pipeline=[])


def _lose_collation(db: Database[Document]) -> None:
    documents = list(db.planneraccounts.find({}))
    db.planneraccounts.drop()
    db.create_collection("planneraccounts", collation=Collation(locale="en"))
    db.planneraccounts.insert_many(documents)


def _lose_collection(db: Database[Document]) -> None:
    db.monthlyregistrations.drop()


def _add_collection(db: Database[Document]) -> None:
    db.create_collection("extra")


DAMAGES = {
    "users: content": _change_value,
    "users: documents": _lose_document,
    "weeklypaymentplans: content": _change_type,
    "users: index phone_1": _lose_index,
    "users: index plannerId": _reverse_index,
    "plannercommissions: options": _lose_validator,
    "activeusers: options": _change_view,
    "planneraccounts: options": _lose_collation,
    "monthlyregistrations: only in sample_one": _lose_collection,
    "extra: only in sample_two": _add_collection,
}


def test_comparison_sees_every_kind_of_difference(mongod_rs: Mongod, tmp_path: Path) -> None:
    """One document, one value, one value's type, an index, its order, an option, a view, a collection: all named."""
    with mongod_rs.client() as client:
        client.drop_database("sample_one")
        sample_data.load(client["sample_one"], scale=0.01)
        missed = [words for words, damage in DAMAGES.items() if not _named(client, words, damage)]
        client.drop_database("sample_one")
        client.drop_database("sample_two")
    assert missed == []


def _named(client: Client, words: str, damage: Callable[[Database[Document]], None]) -> bool:
    client.drop_database("sample_two")
    sample_data.load(client["sample_two"], scale=0.01)
    damage(client["sample_two"])
    return any(line.startswith(words) for line in compare_databases(client, "sample_one", "sample_two"))


def test_settings_are_saved_as_the_application_does(client: Client) -> None:
    """A save replaces the whole systemSettings object of that admin and touches no other document."""
    db = client["sample_one"]
    sample_data.load(db, scale=SCALE)
    db.admins.update_one({"loginId": "admin"}, {"$set": {"systemSettings.somethingOfOurs": 1}})
    sample_data.save_settings(db, {**sample_data.DEFAULT_BACKUP, "time": "03:30"})
    admin = db.admins.find_one({"loginId": "admin"}) or {}
    assert admin["systemSettings"] == {
        "maintenanceMode": False,
        "backup": {**sample_data.DEFAULT_BACKUP, "time": "03:30"},
    }
    assert "systemSettings" not in (db.admins.find_one({"loginId": "staff"}) or {})
    with pytest.raises(LookupError, match="nobody"):
        sample_data.save_settings(db, sample_data.DEFAULT_BACKUP, login_id="nobody")


def test_bulk_data_is_as_large_as_asked_and_no_two_documents_are_equal(mongod_rs: Mongod) -> None:
    """The benchmark's data has the size asked for, keeps its unique indexes and does not repeat itself."""
    wanted = 20 << 20
    with mongod_rs.client() as client:
        client.drop_database("sample_bulk")
        db = client["sample_bulk"]
        added = bulk_data.load_bulk(db, wanted, templates=300)
        try:
            assert wanted <= db.command("dbStats")["dataSize"] <= wanted * 1.1 + (12 << 20)
            for name, count in added.items():
                assert len(db[name].distinct("checksum")) == count
            assert any(index.get("unique") for index in db.users.list_indexes())
        finally:
            client.drop_database("sample_bulk")
