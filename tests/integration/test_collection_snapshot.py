"""Backups of one collection, as BSON and as JSON: what comes back is what was there, and nothing else changes."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, DESCENDING, GEOSPHERE, HASHED, TEXT, IndexModel, MongoClient
from pymongo.collation import Collation
from pymongo.database import Database

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import Backup, BackupState, Kind, Outcome, Run
from nanumpay_backupd.settings.schema import CollectionOrder, MongoSource, Paths, RestoreOrder, RetryPolicy, RunSpec
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.compare import describe_database
from tests.integration.test_cli import backupctl
from tests.servers.daemon import backup_settings, open_site, wait_for
from tests.servers.mongod import PASSWORD, USER, Mongod, start_mongod
from tests.servers.mongoexport import find_mongoexport
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec

pytestmark = pytest.mark.servers

DATABASE: Final = "snap_me"
OTHER: Final = "snap_other"
Document = dict[str, Any]


@dataclass
class House:
    """A host with a server, whose worker is run in this process."""

    root: Path
    server: Mongod
    client: MongoClient[Document]
    export: str
    dump: str = "mongodump"
    database: str = DATABASE
    user: str = ""
    count: int = 0

    def spec(self, **order: Any) -> RunSpec:
        """Return what the worker is told."""
        self.count += 1
        uri = self.server.uri_for(self.database)
        source = MongoSource(
            uri=Secret(uri.replace(f"//{USER}:", f"//{self.user}:") if self.user else uri),
            database=self.database,
            mongoexport=self.export,
            mongodump=self.dump,
        )
        folder = self.root
        paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
        job = job_spec(source=source, retry=RetryPolicy(attempts=1))
        return RunSpec(run=f"run{self.count}", job=job, paths=paths, trigger="manual", **order)

    def run(self, collection: str = "", form: str = "bson") -> Run:
        """Back up one collection, or all."""
        order = CollectionOrder(collection=collection, format=form) if collection else None
        return worker.execute(self.spec(collection=order), Ear(), SystemClock())

    def snapshot(self, collection: str = "", form: str = "bson") -> Backup:
        """Do the same, and return the backup."""
        run = self.run(collection, form)
        assert run.outcome is Outcome.SUCCEEDED, run.error
        assert run.backup is not None
        return self.backup(run.backup)

    def backup(self, name: str) -> Backup:
        """Return a backup as the catalog has it."""
        with Catalog(self.root / "state" / "catalog.db") as catalog:
            backup = catalog.backup(name)
        assert backup is not None
        return backup

    def restore(self, backup: str, **order: Any) -> Run:
        """Restore, without a safety backup."""
        restore = RestoreOrder(backup=backup, safety=False, **order)
        return worker.execute(self.spec(action="restore", restore=restore), Ear(), SystemClock())


@pytest.fixture
def house(tmp_path: Path, mongod_rs: Mongod) -> Iterator[House]:
    """A replica set with a little data: a collection, a time-series, a view."""
    with mongod_rs.client() as client:
        db = client[DATABASE]
        db.users.insert_many([{"_id": number, "loginId": f"user{number}"} for number in range(40)])
        db.users.create_index("loginId", unique=True)
        db["users.old"].insert_one({"_id": 1})
        db.create_collection("metrics", timeseries={"timeField": "at", "metaField": "host"})
        db.metrics.insert_many([{"at": datetime(2026, 1, 1, number // 60, number % 60)} for number in range(600)])
        db.create_collection("active", viewOn="users", pipeline=[])
        try:
            yield House(tmp_path, mongod_rs, client, find_mongoexport(tmp_path))
        finally:
            client.drop_database(DATABASE)
            client.drop_database(OTHER)


ODD: Final = ("x.metadata", "급여 a+b/c%", "긴 이름" * 20)
"""Names that are escaped, shortened, or that look like those of other files."""
TYPES: Final[Document] = {
    "whole": [1, -1, Int64(5), Int64(2**53 + 1)],
    "real": [1.0, -0.0, 0.1, 1e300, float("inf"), float("nan"), Decimal128("1.00"), Decimal128("NaN")],
    "text": ["", '한글 \0 " \\ \n 😀'],
    "nothing": [None, True, False, {}, [], [[]]],
    "time": [datetime(2026, 1, 1, 2, 3, 4, 5000), datetime(1960, 1, 1), DatetimeMS(2**60), Timestamp(2**32 - 1, 1)],
    "bytes": [Binary(b"\0\1", kind) for kind in (0, 2, 6, 128)] + [Binary(bytes(16), kind) for kind in (3, 4, 5)],
    "other": [ObjectId(), Regex("^a/.*", "im"), MinKey(), MaxKey(), Code("f()"), Code("f()", {"a": 1})],
    "ref": DBRef("users", ObjectId(), "other"),
    "like": [{"$oid": "no"}, {"$date": "no"}, {"$numberInt": 5}, {"a.b": 1, "": 2}],
}
"""Every type that is not deprecated."""
CAPPED, INDEXED, LONG = ODD
INDEXES: Final = [
    IndexModel("kind", unique=True, sparse=True),
    IndexModel([("kind", ASCENDING), ("at", DESCENDING)], partialFilterExpression={"kind": {"$gt": Int64(5)}}),
    IndexModel("at", expireAfterSeconds=10**9),
    IndexModel([("kind", HASHED)]),
    IndexModel([("like.$**", ASCENDING)]),
    IndexModel([("words", TEXT)], weights={"words": 3}, default_language="none"),
    IndexModel([("place", GEOSPHERE)]),
    IndexModel("name", collation=Collation(locale="ko", strength=1)),
]


def furnish(db: Database[Document]) -> None:
    """Make the collections of odd names, with every option and kind of index that has to come back."""
    db.create_collection(
        CAPPED,
        capped=True,
        size=1 << 20,
        max=50,
        collation=Collation(locale="ko", strength=2),
        validator={"$jsonSchema": {"bsonType": "object", "required": ["whole"]}},
        validationLevel="moderate",
    )
    db[CAPPED].insert_many([{"_id": number, **TYPES} for number in range(60)])
    db[INDEXED].create_indexes(INDEXES)
    db[INDEXED].insert_many([{"_id": 1, **TYPES}, {"_id": "둘", "kind": 5}])
    db[LONG].insert_one({"_id": 1})


def described(client: MongoClient[Document], database: str = DATABASE) -> dict[str, Any]:
    """Describe a database; of a time-series collection the documents, for the server puts them into buckets anew."""
    found: dict[str, Any] = dict(describe_database(client, database))
    for name in [name for name in found if name.startswith("system.buckets.")]:
        del found[name]
        short = name.removeprefix("system.buckets.")
        found[f"{short} documents"] = sorted(client[database][short].find(), key=lambda item: str(item["_id"]))
    return found


@pytest.mark.parametrize("form", ["bson", "json"])
def test_what_comes_back_is_what_was_there(house: House, form: str) -> None:
    """Documents to the byte, indexes, validator, collation, capped size, time-series; nothing else is touched."""
    db, chosen = house.client[DATABASE], ("metrics", *ODD)
    furnish(db)
    before = described(house.client)
    made = [house.snapshot(name, form) for name in chosen]
    assert described(house.client) == before
    for name in chosen:
        db.drop_collection(name)
    db[LONG].insert_one({"_id": "later"})
    db["users.old"].insert_one({"_id": "stays"})
    before["users.old"] = described(house.client)["users.old"]
    for name, backup in zip(chosen, made, strict=True):
        assert (backup.kind, backup.state, backup.collection) == (
            Kind.COLLECTION,
            BackupState.VERIFIED,
            f"{DATABASE}.{name}",
        )
        run = house.restore(backup.id)
        assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert described(house.client) == before


@pytest.mark.parametrize("form", ["bson", "json"])
def test_into_another_database(house: House, form: str) -> None:
    """Under another database's name there is this collection beside what was there, and the original is untouched."""
    house.client[OTHER].plans.insert_one({"_id": 1})
    before = described(house.client)
    backup = house.snapshot("metrics", form)
    run = house.restore(backup.id, to_database=OTHER)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    after = described(house.client, OTHER)
    assert sorted(after) == ["metrics", "metrics documents", "plans"]
    assert after["metrics documents"] == before["metrics documents"]
    assert described(house.client) == before


def holding(house: House, tool: str) -> Path:
    """Put a tool in place that ends only once the file ``go`` is there; returns the file that says that it is done."""
    program = house.root / f"holding-{tool}"
    real = house.export if tool == "mongoexport" else str(find_tool(tool))
    program.write_text(
        f"#!{sys.executable} -ES\nimport os, subprocess, sys, time\n"
        f"code = subprocess.call([{real!r}, *sys.argv[1:]], close_fds=False)\n"
        f"if '--version' in sys.argv:\n    sys.exit(code)\n"
        f"open({str(house.root / 'done')!r}, 'w').close()\n"
        f"while not os.path.exists({str(house.root / 'go')!r}):\n    time.sleep(0.01)\nsys.exit(code)\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    if tool == "mongoexport":
        house.export = str(program)
    else:
        house.dump = str(program)
    return house.root / "done"


ACCOUNTS: Final = 100


class Mover(threading.Thread):
    """Moves money between accounts, in transactions that write to two more collections, until it is told to stop."""

    def __init__(self, server: Mongod) -> None:
        super().__init__()
        self.server = server
        self.stop = threading.Event()
        self.moved = 0

    def run(self) -> None:
        """Write."""
        dice = random.Random(1)
        with self.server.client() as client, client.start_session() as session:
            db = client[DATABASE]
            while not self.stop.is_set():
                one, other = dice.sample(range(ACCOUNTS), 2)
                with session.start_transaction():
                    db.accounts.update_one({"_id": one}, {"$inc": {"balance": -1}}, session=session)
                    db.ledger.insert_one({"from": one, "to": other}, session=session)
                    client[OTHER].log.insert_one({"from": one}, session=session)
                    db.accounts.update_one({"_id": other}, {"$inc": {"balance": 1}}, session=session)
                self.moved += 1


def test_a_snapshot_under_writes_is_of_one_moment(house: House) -> None:
    """What was written while it was dumped is replayed up to its end, and only to this collection."""
    db = house.client[DATABASE]
    db.accounts.insert_many([{"_id": number, "balance": 1000} for number in range(ACCOUNTS)])
    db.create_collection("ledger")
    house.client[OTHER].create_collection("log")
    done, mover, made = holding(house, "mongodump"), Mover(house.server), []
    mover.start()
    run = threading.Thread(target=lambda: made.append(house.snapshot("accounts")))
    try:
        run.start()
        wait_for(done.exists, "the dump")
        moved = mover.moved
        wait_for(lambda: mover.moved > moved + 20, "writes after the dump")
        (house.root / "go").touch()
        run.join()
    finally:
        (house.root / "go").touch()
        mover.stop.set()
        mover.join()
    [backup] = made
    assert backup.manifest is not None
    consistency = backup.manifest.consistency
    assert (consistency.level, consistency.entries > 20) == ("point-in-time", True)
    seconds, counter = consistency.end.split(":")
    moment = {"level": "snapshot", "atClusterTime": Timestamp(int(seconds), int(counter))}
    expected = db.command({"find": "accounts", "batchSize": 1000, "readConcern": moment})["cursor"]["firstBatch"]

    db.accounts.drop()
    others = (db.ledger.count_documents({}), house.client[OTHER]["log"].count_documents({}))
    restored = house.restore(backup.id)
    assert (restored.outcome, restored.error) == (Outcome.SUCCEEDED, None)
    found = list(db.accounts.find())
    assert sorted(found, key=lambda item: int(item["_id"])) == sorted(expected, key=lambda item: int(item["_id"]))
    assert sum(item["balance"] for item in found) == ACCOUNTS * 1000
    assert (db.ledger.count_documents({}), house.client[OTHER]["log"].count_documents({})) == others


@pytest.mark.parametrize(
    "database,asked,code,sentence,hint",
    [
        (DATABASE, "user", "not-found", "has no collection 'user'", "did you mean 'users'"),
        (DATABASE, "Users", "not-found", "has no collection 'Users'", "did you mean 'users'"),
        (DATABASE, f"{DATABASE}.users", "not-found", "has no collection", "did you mean 'users'"),
        (DATABASE, "system.buckets.metrics", "not-found", "has no", "did you mean 'metrics'"),
        (DATABASE, "zzz", "not-found", "has no collection 'zzz'", "its collections are: metrics, users, users.old"),
        (DATABASE, "active", "source-empty", "active is a view", "is stored in 'users'"),
        ("", "users", "not-found", "of which one is 'users'?", "write it as DATABASE.COLLECTION"),
        ("", "nope.users", "not-found", "none is named 'nope'", DATABASE),
        ("", f"{DATABASE}.user", "not-found", "has no collection 'user'", "did you mean 'users'"),
        (OTHER, "users", "not-found", f"database {OTHER} has no collection 'users'", "it has no collections"),
    ],
)
def test_what_is_not_there_is_named_with_what_was_meant(
    house: House, database: str, asked: str, code: str, sentence: str, hint: str
) -> None:
    """A mistake changes nothing and leaves no file."""
    house.database = database
    run = house.run(asked)
    assert run.error is not None
    assert (run.outcome, run.error.code, run.error.retryable) == (Outcome.FAILED, code, False)
    assert sentence in run.error.message
    assert hint in run.error.hint
    assert run.action == "collection"
    assert list((house.root / "backups").glob("*.tar*")) == []


def test_a_job_of_all_databases(house: House) -> None:
    """There the database stands before the collection, and only that one is in the backup."""
    house.database = ""
    backup = house.snapshot(f"{DATABASE}.users.old")
    assert backup.collection == f"{DATABASE}.users.old"
    assert backup.manifest is not None
    assert backup.manifest.source.databases == (DATABASE,)
    house.client[DATABASE]["users.old"].drop()
    assert house.restore(backup.id).outcome is Outcome.SUCCEEDED
    assert house.client[DATABASE]["users.old"].count_documents({}) == 1


@pytest.mark.parametrize("form,tool", [("bson", "mongodump"), ("json", "mongoexport")])
def test_one_that_is_dropped_meanwhile_gives_no_backup(house: House, form: str, tool: str) -> None:
    """A snapshot of what is not there any more would be taken for one of an empty collection."""
    done = holding(house, tool)

    def drop() -> None:
        wait_for(done.exists, tool)
        house.client[DATABASE].users.drop()
        (house.root / "go").touch()

    thread = threading.Thread(target=drop)
    thread.start()
    run = house.run("users", form)
    thread.join()
    assert run.error is not None
    assert (run.outcome, run.backup) == (Outcome.FAILED, None)
    assert "was dropped while it was backed up" in run.error.message


@pytest.mark.parametrize(
    "body,code,sentence",
    [
        ("exit 0", "dump-incomplete", "without saying how many"),
        ('say "exported 40 records"', "dump-incomplete", "its file is not there"),
        ('touch "$out"; say "exported 3 records"', "dump-incomplete", "after 3 documents"),
        ('echo "{}" > "$out"; say "exported 40 records"', "verify-counts", "reported 40 in 1"),
        ('echo "{}" > "$out"; say "Failed: error reading from db"; exit 1', "tool-failed", "Failed: error reading"),
        ('say "Failed: not authorized on x"; exit 1', "source-auth", "mongoexport was refused"),
        ("kill -9 $$", "tool-killed", "mongoexport was killed by signal 9"),
    ],
)
def test_the_exit_code_of_mongoexport_is_not_believed(house: House, body: str, code: str, sentence: str) -> None:
    """Its report, its file and what the server holds are compared, and afterwards every line is counted."""
    program = house.root / "lying-mongoexport"
    program.write_text(
        '#!/bin/bash\n[ "$1" = --version ] && echo "mongoexport version: 100.7.0" && exit\n'
        'say() { printf "x\\t%s\\n" "$1" >&2; }\nfor word; do out=${word#--out=}; done\n' + body,
        encoding="utf-8",
    )
    program.chmod(0o755)
    house.export = str(program)
    run = house.run("users", "json")
    assert run.error is not None
    assert (run.outcome, run.error.code) == (Outcome.FAILED, code)
    assert sentence in run.error.message


@pytest.mark.parametrize("form", ["bson", "json"])
def test_an_empty_collection(house: House, form: str) -> None:
    """Nothing to read is no fault where nothing is, and its indexes come back."""
    house.client[DATABASE].empty.create_index("a", name="only")
    backup = house.snapshot("empty", form)
    house.client[DATABASE].drop_collection("empty")
    assert house.restore(backup.id).outcome is Outcome.SUCCEEDED
    assert [index["name"] for index in house.client[DATABASE].empty.list_indexes()] == ["_id_", "only"]


def test_a_user_with_the_documented_roles(tmp_path: Path) -> None:
    """The role ``backup`` is enough for both formats, and the password is in no argument and no output."""
    with start_mongod(auth=True) as server, server.client() as client:
        client[DATABASE].users.insert_many([{"_id": number} for number in range(50)])
        roles = ["backup", "restore"]
        client.admin.command({"createUser": "saver", "pwd": PASSWORD, "roles": roles})
        house = House(tmp_path, server, client, find_mongoexport(tmp_path))
        house.user = "saver"
        for form, tool, real in (("bson", "mongodump", find_tool("mongodump")), ("json", "mongoexport", house.export)):
            program = tmp_path / f"telling-{tool}"
            told = f"tr '\\0' '\\n' < /proc/$$/cmdline > {tmp_path}/argv; env >> {tmp_path}/argv"
            program.write_text(f'#!/bin/bash\n[ "$1" = --version ] || {{ {told}; }}\nexec {real} "$@"\n')
            program.chmod(0o755)
            house.dump = house.export = str(program)
            backup = house.snapshot("users", form)
            argv = (tmp_path / "argv").read_text(encoding="utf-8")
            assert "--collection=users" in argv
            assert "saver" not in argv
            assert PASSWORD not in argv
            client[DATABASE].users.drop()
            assert house.restore(backup.id).outcome is Outcome.SUCCEEDED
            assert client[DATABASE].users.count_documents({}) == 50


def test_one_collection_of_a_full_whatever_its_name(house: House) -> None:
    """The names that mongodump escapes are understood when one of them is asked for."""
    furnish(house.client[DATABASE])
    full = house.snapshot()
    before = described(house.client)
    for name in (CAPPED, INDEXED):
        house.client[DATABASE].drop_collection(name)
        assert house.restore(full.id, collection=name).outcome is Outcome.SUCCEEDED
    assert described(house.client) == before


def test_a_damaged_snapshot_names_a_full_that_helps(house: House) -> None:
    """Nothing is changed, and the way out brings back this collection only."""
    full = house.snapshot()
    backup = house.snapshot("users", "json")
    artifact = house.root / "backups" / backup.artifact
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    before = described(house.client)
    run = house.restore(backup.id)
    assert run.error is not None
    assert "nothing was changed" in run.error.message
    assert f"backupctl restore {full.id} --collection users" in run.error.hint
    assert described(house.client) == before


def test_by_command(mongod_rs: Mongod) -> None:
    """Made, listed, shown and restored by backupctl; fulls stay what ``latest``, the status and delete mean."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        site.write_config(f"[tools]\nmongoexport = '{find_mongoexport(site.folder)}'")
        site.start()
        full = site.run()["backup"]
        made = backupctl(site.socket, "run", "--collection", "users", "--format", "json")
        assert made.returncode == 0, made.stderr
        assert "40 documents, verified" in made.stdout
        assert backupctl(site.socket, "run", "nanumpay", "--collection", "users", "--json").returncode == 0
        plain, lines, _ = site.list_backups()
        assert [backup["kind"] for backup in site.list_backups()] == ["collection", "collection", "full"]
        assert lines["collection"] == f"{site.database}.users"

        assert f"collection {site.database}.users" in backupctl(site.socket, "list", COLUMNS="200").stdout
        shown = backupctl(site.socket, "show", lines["id"]).stdout
        file = f"./{lines['id']}/{site.database}/users.json"
        assert f"mongoimport --uri=URI --db={site.database} --collection=users --drop --file={file}" in shown
        assert (
            f"mongorestore --uri=URI --db={site.database} --drop" in backupctl(site.socket, "show", plain["id"]).stdout
        )
        assert full in backupctl(site.socket, "restore", "latest", "--dry-run").stdout
        assert site.job()["newest_backup"]["id"] == full
        refused = backupctl(site.socket, "delete", full, "--yes")
        assert (refused.returncode, "newest verified backup" in refused.stderr) == (7, True)

        last = site.job()["last_run"]["id"]
        missing = backupctl(site.socket, "run", "--collection", "user")
        assert missing.returncode == 1
        assert "did you mean 'users'?" in missing.stderr
        assert site.job()["last_run"]["id"] == last
        assert site.status()["health"] != "failing"
        for params, code in (({"format": "json"}, "refused"), ({"collection": "users", "format": "csv"}, "refused")):
            with pytest.raises(BackupdError) as caught:
                site.call("Run", **params)
            assert caught.value.code == code

        with site.db() as db:
            before = describe_database(db.client, site.database)
            db.users.delete_many({})
        back = backupctl(site.socket, "restore", lines["id"], "--yes", "--no-safety-backup")
        assert back.returncode == 0, back.stderr
        with site.db() as db:
            assert describe_database(db.client, site.database) == before
        assert backupctl(site.socket, "delete", plain["id"], "--yes").returncode == 0
        assert [backup["id"] for backup in site.list_backups()] == [lines["id"], full]
