"""A full backup of a replica set is of one moment, whatever is written while it is made: proven against the server."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Manifest, Outcome
from nanumpay_backupd.settings.schema import MongoSource, Paths, RunSpec
from nanumpay_backupd.sources.oplog import OplogCapture
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.integration.test_docs_restore import block
from tests.servers.mongod import Mongod, ReplicaSet, start_mongod
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise("A full of a replica set is of one moment under any writes, or says why it is not.", item=7),
]

DATABASE = "shop"
ACCOUNTS = 200
BALANCE = 1000
COLLECTIONS = ("accounts", "ledger", "notes", "filler")


class Writers:
    """Three writers: money moved between accounts in transactions (also into a foreign database), notes, deletions."""

    def __init__(self, server: Mongod | ReplicaSet) -> None:
        self._server = server
        self._stop = threading.Event()
        self.moved = 0
        self._threads = [threading.Thread(target=work) for work in (self._move, self._note, self._delete)]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Write for the length of a with block."""
        for thread in self._threads:
            thread.start()
        try:
            time.sleep(0.3)
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _move(self) -> None:
        dice = random.Random(1)
        with self._server.client() as client, client.start_session() as session:
            db = client[DATABASE]
            while not self._stop.is_set():
                one, other = dice.sample(range(ACCOUNTS), 2)
                try:
                    with session.start_transaction():
                        db.accounts.update_one({"_id": one}, {"$inc": {"balance": -1}}, session=session)
                        db.ledger.insert_one({"from": one, "to": other}, session=session)
                        client["elsewhere"].log.insert_one({"from": one}, session=session)
                        db.accounts.update_one({"_id": other}, {"$inc": {"balance": 1}}, session=session)
                    self.moved += 1
                except OperationFailure as error:
                    if not error.has_error_label("TransientTransactionError"):
                        raise

    def _note(self) -> None:
        with self._server.client() as client:
            number = 0
            while not self._stop.is_set():
                number += 1
                client[DATABASE].notes.insert_one({"number": number, "text": "메모" * 20})
                client[DATABASE].notes.update_one({"number": number // 2}, {"$set": {"seen": number}})

    def _delete(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                client[DATABASE].notes.find_one_and_delete({}, sort=[("_id", 1)])
                time.sleep(0.005)


@pytest.fixture(scope="module")
def source() -> Iterator[Mongod]:
    """A replica set with a shop in it, large enough that writes fall into its dump."""
    with start_mongod(replica_set=True) as server:
        with server.client() as client:
            db = client[DATABASE]
            db.accounts.insert_many([{"_id": number, "balance": BALANCE} for number in range(ACCOUNTS)])
            db.ledger.create_index("from")
            client["elsewhere"].create_collection("log")
            text = "주간 지급 계획 " * 60
            for start in range(0, 60_000, 5_000):
                db.filler.insert_many([{"_id": start + at, "text": text} for at in range(5_000)])
        yield server


def back_up(server: Mongod | MongoSource, folder: Path) -> tuple[Manifest, Path, Ear]:
    """Make one backup of the shop; returns its manifest and artifact."""
    source = (
        server
        if isinstance(server, MongoSource)
        else MongoSource(uri=Secret(server.uri_for(DATABASE)), database=DATABASE, mongodump=str(find_tool("mongodump")))
    )
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "control.sock")
    job = job_spec(name="shop", source=source)
    ear = Ear()
    run = worker.execute(RunSpec(run="run1", job=job, paths=paths, trigger="manual"), ear, SystemClock())
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert run.backup is not None
    with Catalog(paths.state / "catalog.db") as catalog:
        backup = catalog.backup(run.backup)
    assert backup is not None
    assert backup.manifest is not None
    return backup.manifest, paths.backups / backup.artifact, ear


def content_at(server: Mongod | ReplicaSet, moment: Timestamp) -> dict[str, dict[Any, Any]]:
    """Read the shop as it was at a moment of its past."""
    found = {}
    with server.client() as client:
        for name in COLLECTIONS:
            command = {"find": name, "readConcern": {"level": "snapshot", "atClusterTime": moment}}
            reply = client[DATABASE].command(command)
            documents = list(reply["cursor"]["firstBatch"])
            while reply["cursor"]["id"]:
                reply = client[DATABASE].command({"getMore": reply["cursor"]["id"], "collection": name})
                documents += reply["cursor"]["nextBatch"]
            found[name] = {item["_id"]: item for item in documents}
    return found


def restore(artifact: Path, folder: Path) -> dict[str, dict[Any, Any]]:
    """Restore on a server of its own by the documented commands, with the oplog, and read it all."""
    folder.mkdir()
    shutil.copy(artifact, folder)
    with start_mongod(replica_set=True) as server:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block("operations.md", "restore-one-moment")],
            cwd=folder,
            env={**os.environ, "BACKUP": artifact.name.removesuffix(".tar.gz"), "URI": server.uri},
            check=True,
            capture_output=True,
        )
        with server.client() as client:
            assert "elsewhere" not in client.list_database_names()
            return {name: {item["_id"]: item for item in client[DATABASE][name].find()} for name in COLLECTIONS}


def test_a_full_under_heavy_writes_restores_to_exactly_one_moment(source: Mongod, tmp_path: Path) -> None:
    """What stock mongorestore brings back with the oplog is what a snapshot read at the backup's end shows."""
    writers = Writers(source)
    with writers.at_work():
        manifest, artifact, _ = back_up(source, tmp_path)
    assert manifest.consistency.level == "point-in-time", manifest.consistency
    assert manifest.consistency.entries > 50
    seconds, counter = manifest.consistency.end.split(":")
    expected = content_at(source, Timestamp(int(seconds), int(counter)))
    restored = restore(artifact, tmp_path / "restored")
    assert sum(item["balance"] for item in restored["accounts"].values()) == ACCOUNTS * BALANCE
    for name in COLLECTIONS:
        assert restored[name] == expected[name], name
    assert writers.moved > 0


def test_a_full_without_writes_is_of_one_moment_too(source: Mongod, tmp_path: Path) -> None:
    """Where nothing was written there is nothing to replay, and mongorestore accepts the archive all the same."""
    manifest, artifact, _ = back_up(source, tmp_path)
    assert manifest.consistency.level == "point-in-time"
    assert manifest.consistency.moment is not None
    restored = restore(artifact, tmp_path / "restored")
    assert len(restored["filler"]) == 60_000


def test_a_collection_renamed_during_the_dump_is_noticed(source: Mongod, tmp_path: Path) -> None:
    """A rename cannot be replayed onto a dump made around it: the backup says so and carries no oplog."""
    stop = threading.Event()

    def rename() -> None:
        with source.client() as client:
            client[DATABASE].create_collection("renamed0")
            for number in itertools.count():
                if stop.wait(0.02):
                    return
                client[DATABASE][f"renamed{number}"].rename(f"renamed{number + 1}")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        manifest, artifact, ear = back_up(source, tmp_path)
    finally:
        stop.set()
        thread.join()
    assert manifest.consistency.level == "none"
    assert "renamed" in manifest.consistency.reason
    with tarfile.open(artifact) as archive:
        assert not any(member.name.endswith("oplog.bson") for member in archive)
    assert any(level == "warning" and "renamed" in text for level, text, _ in ear.messages)


def test_an_oplog_that_rolls_over_is_noticed(tmp_path: Path) -> None:
    """When entries were overwritten before they could be read, the backup does not claim to be of one moment."""
    with start_mongod(replica_set=True) as server:
        with server.client() as client:
            client[DATABASE].notes.insert_one({"number": 1})
            capture = OplogCapture(server.client(), [DATABASE], tmp_path / "oplog.bson")
            client[DATABASE].notes.insert_one({"number": 2})
        server.forget_oplog()
        capture.begin()
        while capture.running:
            time.sleep(0.05)
    assert "rolled over" in capture.result().problem


def test_a_standalone_server_says_why_it_is_not_of_one_moment(mongod_standalone: Mongod, tmp_path: Path) -> None:
    """Without an oplog the manifest says so instead of pretending."""
    with mongod_standalone.client() as client:
        client[DATABASE].notes.insert_one({"number": 1})
        try:
            manifest, artifact, _ = back_up(mongod_standalone, tmp_path)
        finally:
            client.drop_database(DATABASE)
    assert manifest.consistency.level == "none"
    assert "standalone" in manifest.consistency.reason
    with tarfile.open(artifact) as archive:
        assert not any(member.name.endswith("oplog.bson") for member in archive)
