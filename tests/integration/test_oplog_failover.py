"""The primary of a replica set is killed in the middle: a slice is whole all the same, a full says that it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import UpdateOne
from pymongo.write_concern import WriteConcern

from nanumpay_backupd.errors import BackupdError, SourceError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources import oplog_range, oplog_slice
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.mongodb import MongoDatabase
from nanumpay_backupd.sources.oplog_indexes import RAW
from nanumpay_backupd.sources.oplog_slice import OplogReader
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import Mongod, ReplicaSet, start_replica_set
from tests.servers.tools import find_tool
from tests.workbench import SetClock

pytestmark = pytest.mark.servers

UPDATES = 12_000
MAJORITY = WriteConcern("majority")


@pytest.fixture(scope="module")
def nodes() -> Iterator[ReplicaSet]:
    """Three members with quick elections."""
    with start_replica_set(3) as group:
        yield group


@contextmanager
def a_primary_to_kill(nodes: ReplicaSet) -> Iterator[Callable[[], None]]:
    """Give what kills the present primary at once; it is started again at the end."""
    killed: list[Mongod] = []

    def kill() -> None:
        killed.append(nodes.primary())
        killed[-1].kill()

    try:
        yield kill
    finally:
        for member in killed:
            member.start()
        all_in_step(nodes)


def all_in_step(nodes: ReplicaSet) -> None:
    """Wait until every member follows."""
    nodes.primary()
    with nodes.client() as client:
        for _ in range(200):
            states = [item["stateStr"] for item in client.admin.command("replSetGetStatus")["members"]]
            if sorted(states) == ["PRIMARY", "SECONDARY", "SECONDARY"]:
                return
            time.sleep(0.1)
    raise TimeoutError(f"the members are {states}")


def newest(client: pymongo.MongoClient[dict[str, Any]]) -> OpTime:
    """Return the time of the newest entry."""
    found = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
    return OpTime(found.time, found.inc)


@pytest.mark.promise("A full of a replica set is of one moment under any writes, or says why it is not.", item=7)
def test_a_slice_is_whole_although_the_primary_was_killed_while_it_was_read(
    nodes: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on at the new primary after the last entry that was taken: each entry there is stands in it once."""
    monkeypatch.setattr(oplog_range, "_BATCH", 500)
    with nodes.client() as client:
        target = client.shop.get_collection("a", write_concern=MAJORITY)
        target.insert_many([{"_id": at} for at in range(1000)])
        start = newest(client)
        for round_ in range(UPDATES // 1000):
            target.bulk_write([UpdateOne({"_id": at}, {"$set": {"n": round_}}) for at in range(1000)], ordered=False)
    pieces: list[bytes] = []
    terms = []
    with (
        OplogReader(MongoSource(uri=Secret(nodes.uri), database="shop")) as oplog,
        a_primary_to_kill(nodes) as kill,
    ):
        terms.append(oplog.state().term)

        def take(data: bytes) -> None:
            pieces.append(data)
            if len(pieces) == 3:
                kill()

        found = oplog.read(start, ("shop",), take, lambda _entries, _size: None)
        terms.append(oplog.state().term)
    with nodes.client() as client:
        there = client.local.get_collection("oplog.rs", codec_options=RAW).find(
            {"ts": {"$gt": Timestamp(*start), "$lte": Timestamp(*found.end)}, "ns": "shop.a"}
        )
        expected = b"".join(entry.raw for entry in there if isinstance(entry, RawBSONDocument))
    assert b"".join(pieces) == expected
    assert found.entries == UPDATES
    assert (found.raw_bytes, found.broken) == (len(expected), "")
    assert terms[1] > terms[0]


@pytest.mark.promise("A full of a replica set is of one moment under any writes, or says why it is not.", item=7)
def test_a_full_says_that_the_primary_was_killed_while_it_was_made(nodes: ReplicaSet, tmp_path: Path) -> None:
    """Either it fails and can be tried again, or it does not claim to be of one moment, and says why."""
    with nodes.client() as client:
        text = "주간 지급 계획 " * 60
        for start in range(0, 12_000, 2_000):
            client.shop.filler.insert_many([{"_id": start + at, "text": text} for at in range(2_000)])
    source = MongoDatabase(
        MongoSource(uri=Secret(nodes.uri_for("shop")), database="shop", mongodump=str(find_tool("mongodump")))
    )
    source.preflight()
    with a_primary_to_kill(nodes) as kill:
        dump = source.start(tmp_path)
        try:
            while not any(path.stat().st_size for path in tmp_path.rglob("filler.bson")):
                assert dump.running, "it was over too soon"
            dump.pause()
            kill()
            dump.resume()
            while not dump.wait(1.0):
                pass
        finally:
            dump.kill()
        sizes = {str(path.relative_to(tmp_path)): path.stat().st_size for path in tmp_path.rglob("*")}
        verdict = judged(dump, sizes)
    if isinstance(verdict, BackupdError):
        assert verdict.retryable
        assert verdict.code in {"tool-failed", "dump-incomplete", "source-unreachable"}
    else:
        assert verdict.consistency.level == "none"
        assert verdict.consistency.reason
        assert verdict.leave_out == ("oplog.bson",)


def judged(dump: Dump, sizes: dict[str, int]) -> Harvest | BackupdError:
    """Return the judgement of a dump, or its fault."""
    try:
        return dump.harvest(sizes)
    except BackupdError as error:
        return error


def wait_on(patience: oplog_slice._Patience) -> None:
    """Wait until it has an end."""
    while True:
        patience.wait("not primary")


def test_the_patience_has_an_end_and_begins_anew_when_something_goes_well() -> None:
    """After a minute without a primary the reading ends with a fault that a retry can help."""
    clock = SetClock()
    asked: list[float] = []
    patience = oplog_slice._Patience(clock, lambda: asked.append(clock.slept))
    for _ in range(200):
        patience.wait("not primary")
    patience.renew()
    for _ in range(200):
        patience.wait("not primary")
    with pytest.raises(SourceError, match=r"no primary .* for 60 s: not primary") as caught:
        wait_on(patience)
    assert (caught.value.code, caught.value.retryable) == ("source-unreachable", True)
    assert len(asked) > 400
