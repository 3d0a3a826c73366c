"""Dumps read from a secondary: of one moment as ever, from the one that is least behind, never from one that lags."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bson.timestamp import Timestamp
from pymongo.write_concern import WriteConcern

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.mongo_member import choose
from nanumpay_backupd.sources.mongodb import MongoDatabase
from nanumpay_backupd.system.secrets import Secret
from tests.integration.test_consistent_full import (
    ACCOUNTS,
    BALANCE,
    COLLECTIONS,
    DATABASE,
    Writers,
    back_up,
    content_at,
    restore,
)
from tests.servers.mongod import ReplicaSet, start_replica_set
from tests.servers.tools import find_tool

pytestmark = [
    pytest.mark.servers,
    pytest.mark.fault_long,
    pytest.mark.promise(
        "A full that spares the primary is of one moment too, and never of a member that lags.", item=7
    ),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[ReplicaSet]:
    """Three members with a shop in them, large enough that writes fall into its dump."""
    with start_replica_set(3) as group, group.client(w="majority") as client:
        db = client[DATABASE]
        db.accounts.insert_many([{"_id": number, "balance": BALANCE} for number in range(ACCOUNTS)])
        client["elsewhere"].create_collection("log")
        for start in range(0, 40_000, 5_000):
            db.filler.insert_many([{"_id": start + at, "text": "주간 지급 계획 " * 60} for at in range(5_000)])
        yield group


def source(nodes: ReplicaSet, preference: str, most: float = 90.0) -> MongoSource:
    """Return the settings of the shop."""
    return MongoSource(
        uri=Secret(nodes.uri_for(DATABASE)),
        database=DATABASE,
        mongodump=str(find_tool("mongodump")),
        read_preference=preference,
        max_lag=most,
    )


def test_a_full_from_a_secondary_under_heavy_writes_is_of_one_moment(nodes: ReplicaSet, tmp_path: Path) -> None:
    """It restores to what a snapshot read at its end shows, and the primary has read none of it."""
    primary = nodes.primary()
    with primary.direct() as client:
        before = client.admin.command("serverStatus")["metrics"]["document"]["returned"]
    writers = Writers(nodes)
    with writers.at_work():
        manifest, artifact, _ = back_up(source(nodes, "secondary"), tmp_path)
    with primary.direct() as client:
        returned = client.admin.command("serverStatus")["metrics"]["document"]["returned"] - before
    assert returned < 40_000, "the primary gave out the collection"
    assert manifest.consistency.level == "point-in-time", manifest.consistency
    assert manifest.consistency.entries > 50
    seconds, counter = manifest.consistency.end.split(":")
    expected = content_at(nodes, Timestamp(int(seconds), int(counter)))
    restored = restore(artifact, tmp_path / "restored")
    assert sum(item["balance"] for item in restored["accounts"].values()) == ACCOUNTS * BALANCE
    for name in COLLECTIONS:
        assert restored[name] == expected[name], name


def test_one_that_lags_is_not_read(nodes: ReplicaSet) -> None:
    """The other secondary is, then the primary where that may be; where not, the fault says who is how far behind."""
    primary = nodes.primary()
    secondaries = [member for member in nodes.members if member is not primary]
    locked = []
    try:
        for at, member in enumerate(secondaries):
            client = member.direct()
            client.admin.command("fsync", lock=True)
            locked.append(client)
            _write_on(nodes, 3.5)
            settings, word = choose(source(nodes, "secondaryPreferred", 2.0))
            if at == 0:
                assert secondaries[1].address in word
                assert secondaries[1].address in settings.uri.reveal()
            else:
                assert "primary" in word
                assert settings.uri == source(nodes, "secondary").uri
        with pytest.raises(SourceError) as lagging:
            MongoDatabase(source(nodes, "secondary", 2.0)).preflight()
        assert lagging.value.code == "source-lagging"
        assert lagging.value.retryable
        assert all(member.address in lagging.value.message for member in secondaries)
    finally:
        for client in locked:
            client.admin.command("fsyncUnlock")
            client.close()


def _write_on(nodes: ReplicaSet, seconds: float) -> None:
    """Write for a while, and wait for nobody."""
    until = time.monotonic() + seconds
    with nodes.client() as client:
        beat = client["elsewhere"].get_collection("beat", write_concern=WriteConcern(w=1))
        while time.monotonic() < until:
            beat.insert_one({"at": "now"})
            time.sleep(0.2)
