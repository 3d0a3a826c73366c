"""The commands that `backupctl show` prints for a slice, run as they stand there on a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
import zstandard
from bson.timestamp import Timestamp

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.cli.byhand import chain_to, look_commands, replay_commands
from nanumpay_backupd.model import Backup, Outcome
from nanumpay_backupd.settings.schema import MongoSource, Paths, RunSpec
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.tools import find_tool, tools_path
from tests.workbench import Ear, job_spec

pytestmark = pytest.mark.servers

DATABASE = "shop"
ROUNDS = 7
Record = dict[str, Any]
Story = tuple[Path, list[Record], list[dict[str, list[Record]]]]
"""The backups folder, all records, and what the shop held at the end of each slice."""


def back_up(server: Mongod, folder: Path) -> Backup:
    """Make one full of the shop."""
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "control.sock")
    source = MongoSource(uri=Secret(server.uri_for(DATABASE)), database=DATABASE, mongodump=str(find_tool("mongodump")))
    spec = RunSpec(run="run1", job=job_spec(name="shop", source=source), paths=paths, trigger="manual")
    run = worker.execute(spec, Ear(), SystemClock())
    assert run.outcome is Outcome.SUCCEEDED, run.error
    with Catalog(paths.state / "catalog.db") as catalog:
        backup = catalog.backup(run.backup or "")
    assert backup is not None
    return backup


def newest(server: Mongod) -> Timestamp:
    """Return the newest place in the oplog."""
    with server.client() as client:
        (entry,) = client["local"]["oplog.rs"].find().sort("$natural", -1).limit(1)
        found: Timestamp = entry["ts"]
        return found


def cut(server: Mongod, start: Timestamp, folder: Path, number: int) -> Record:
    """Write a slice of the shop's oplog from ``start`` to now, as the format has it, and return its record."""
    end = newest(server)
    name = f"shop-slice-2026-11-21T10-00-0{number}"
    with server.client() as client:
        between = {"ts": {"$gt": start, "$lte": end}, "ns": {"$regex": f"^{DATABASE}\\."}}
        entries = b"".join(
            bson.encode(entry) for entry in client["local"]["oplog.rs"].find(between).sort("$natural", 1)
        )
    (folder / f"{name}.bson.zst").write_bytes(zstandard.compress(entries))
    return {
        "id": name,
        "kind": "incremental",
        "state": "verified",
        "artifact": f"{name}.bson.zst",
        "start": f"{start.time}:{start.inc}",
        "end": f"{end.time}:{end.inc}",
    }


def write(server: Mongod, number: int) -> dict[str, list[Record]]:
    """Change the shop; returns what it then holds."""
    with server.client() as client:
        db = client[DATABASE]
        db.notes.insert_one({"_id": number, "text": "메모"})
        db.notes.update_one({"_id": number // 2}, {"$inc": {"seen": 1}})
        db.notes.delete_one({"_id": number - 3})
        db[f"fresh{number}"].insert_one({"_id": number})
        db.drop_collection(f"fresh{number - 2}")
        return {name: list(db[name].find().sort("_id", 1)) for name in db.list_collection_names()}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Make a full and seven slices after it."""
    folder = tmp_path_factory.mktemp("story")
    with start_mongod(replica_set=True) as server:
        write(server, 0)
        full = back_up(server, folder)
        slices = folder / "backups" / "slices"
        slices.mkdir(exist_ok=True)
        records = [{"id": full.id, "kind": "full", "state": "verified", "artifact": full.artifact, "end": full.end}]
        start = Timestamp(*(int(part) for part in full.end.split(":")))
        held: list[dict[str, list[Record]]] = []
        for number in range(1, ROUNDS + 1):
            held.append(write(server, number))
            records.append(cut(server, start, slices, number))
            start = newest(server)
        yield folder / "backups", records, held


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Mongod]:
    """A server to restore on."""
    with start_mongod(replica_set=True) as server:
        yield server


def paste(lines: list[str], folder: Path, uri: str) -> str:
    """Run commands in a shell that stops at the first failure; returns what they said."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines).replace("--uri=URI", f"--uri={uri}")],
        cwd=folder,
        env={**os.environ, "PATH": tools_path()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("rounds", [1, 3, ROUNDS])
def test_the_end_of_a_slice_comes_back(story: Story, elsewhere: Mongod, tmp_path: Path, rounds: int) -> None:
    """Named one by one or taken from the listing, the slices bring back exactly what was there at that slice's end."""
    backups, records, held = story
    folder = Path(shutil.copytree(backups, tmp_path / "backups"))
    chain = chain_to(records[rounds], records[0]["id"], records)
    assert chain.full is not None
    assert chain.whole
    lines = replay_commands(chain.full["artifact"], [one["artifact"] for one in chain.slices], records[rounds]["end"])
    assert ("ls shop-slice" in lines[1]) is (rounds > 4)
    restored(elsewhere, lines, folder, held[rounds - 1])


def test_the_limit_stops_the_replay(story: Story, elsewhere: Mongod, tmp_path: Path) -> None:
    """All slices with the limit of an earlier end bring back that end: nothing after it, and all before it."""
    backups, records, held = story
    folder = Path(shutil.copytree(backups, tmp_path / "backups"))
    lines = replay_commands(records[0]["artifact"], [one["artifact"] for one in records[1:]], records[2]["end"])
    restored(elsewhere, lines, folder, held[1])


def restored(server: Mongod, lines: list[str], folder: Path, expected: dict[str, list[Record]]) -> None:
    """Run the commands where the shop is not, and compare what is there then."""
    with server.client() as client:
        client.drop_database(DATABASE)
        assert "0 document(s) failed to restore" in paste(lines, folder, server.uri)
        db = client[DATABASE]
        assert {name: list(db[name].find().sort("_id", 1)) for name in db.list_collection_names()} == expected


def test_a_slice_is_looked_into(story: Story, tmp_path: Path) -> None:
    """Unpacked by hand a slice is plain BSON, one oplog entry after the other."""
    backups, records, _ = story
    folder = Path(shutil.copytree(backups, tmp_path / "backups"))
    unpack, look = look_commands(records[1]["artifact"])
    assert look == "bsondump oplog.bson | head"
    paste([unpack], folder, "")
    entries = bson.decode_all((folder / "oplog.bson").read_bytes())
    assert [entry["op"] for entry in entries if entry["ns"] == f"{DATABASE}.notes"] == ["i", "u"]
