"""The fleet's collection in a real MongoDB, by a user with the documented rights: each write and its condition."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pymongo.errors import OperationFailure

from nanumpay_backupd.fleet.lease import Terms
from nanumpay_backupd.fleet.room import Document, Room, seen_of
from nanumpay_backupd.fleet.tasks import exact
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import Mongod, start_mongod

pytestmark = [
    pytest.mark.servers,
    pytest.mark.fault_long,
    pytest.mark.promise("A lease that another host has taken is good for nothing any more.", item=11),
]
DUE = datetime(2026, 11, 22, 2, tzinfo=UTC)
ACTIONS = ["find", "insert", "update", "remove", "createIndex"]


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    """A replica set with a user that has the rights of docs/fleet.md and no others."""
    with start_mongod(replica_set=True, auth=True) as server:
        with server.client() as client:
            resource = {"db": "shop", "collection": "backupfleet"}
            client["shop"].command(
                "createRole", "backupFleet", roles=[], privileges=[{"resource": resource, "actions": ACTIONS}]
            )
            client["shop"].command("createUser", "fleet", pwd="pw", roles=["backupFleet"])
        yield server


def room(server: Mongod, host: str, collection: str = "backupfleet") -> Room:
    """Return the collection as one host has it."""
    uri = f"mongodb://fleet:pw@{server.address}/shop?replicaSet=rs0"
    return Room(Secret(uri), "shop", collection, f"{host}:1", host, Terms(lease=30.0))


def test_every_write_of_a_former_holder_is_refused(server: Mongod) -> None:
    """What was seen is taken once; renewals, claims and words that something is done count under its token only."""

    async def story() -> None:
        a, b = room(server, "a"), room(server, "b")
        found = await a.look()
        seen = seen_of(found)
        assert (seen.holder, seen.over > 1e6) == ("", True)
        taken = await a.take(seen.token, seen.beat)
        assert taken is not None
        assert await b.take(seen.token, seen.beat) is None
        assert await a.renew(1) is not None
        seen = seen_of(await b.look())
        assert (seen.holder, seen.token) == ("a:1", 1)
        assert -24.0 <= seen.over < -20.0
        assert await a.claim(1, "nanumpay/verify", DUE)
        assert await a.claim(1, "nanumpay/verify", DUE), "what has not come to its end may be taken up again"
        # Another takes over: from then on the first one's word counts for nothing.
        assert await b.take(seen.token, seen.beat) is not None
        assert await a.renew(1) is None
        with pytest.raises(LookupError):
            await a.claim(1, "nanumpay", DUE)
        assert not await a.finish(1, "nanumpay/verify", DUE, "run", "succeeded")
        assert await b.claim(2, "nanumpay/verify", DUE)
        assert await b.finish(2, "nanumpay/verify", DUE, "run", "succeeded")
        assert not await b.claim(2, "nanumpay/verify", DUE)
        assert not await b.claim(2, "nanumpay/verify", DUE - timedelta(days=1))
        assert await b.claim(2, "nanumpay/verify", DUE + timedelta(days=1))
        task = (await a.look())["tasks"]["nanumpay/verify"]
        assert (task["host"], task["token"], task["tries"], task["state"]) == ("b", 2, 1, "begun")
        await a.give(1, "")
        assert seen_of(await a.look()).holder == "b:1"
        assert await a.ask_for("a")
        assert not await a.ask_for("b")
        await b.give(2, "a")
        last = seen_of(await a.look())
        assert (last.holder, last.to, last.token) == ("", "a", 2)
        await a.close()
        await b.close()

    asyncio.run(story())


def test_what_a_clock_days_ahead_took_up_is_taken_up_again(server: Mongod) -> None:
    """By the server's clock it is in the future, so it keeps nobody from what is due now."""

    async def story() -> None:
        a = room(server, "a")
        seen = seen_of(await a.look())
        taken = await a.take(seen.token, seen.beat)
        assert taken is not None
        now = datetime.now(UTC)
        later = exact(now + timedelta(days=2))
        assert await a.claim(taken["token"], "ahead", later)
        assert await a.finish(taken["token"], "ahead", later, "run", "succeeded")
        assert await a.claim(taken["token"], "ahead", exact(now))
        await a.give(taken["token"], "")
        await a.close()

    asyncio.run(story())


def test_hosts_and_runs_are_there_for_all(server: Mongod) -> None:
    """Each host sees when the others were there last, and what all runs came to."""

    async def story() -> None:
        a, b = room(server, "a"), room(server, "b")
        await a.appear({"version": "1", "now": datetime.now(UTC), "own": ["files-a"]})
        hosts: dict[str, Document] = {host["_id"]: host for host in await b.appear({"version": "$2", "own": []})}
        assert hosts["host:a"]["own"] == ["files-a"]
        assert hosts["host:b"]["version"] == "$2"
        assert 0 <= hosts["host:a"]["age"] < 20
        await a.record({"id": "r1", "job": "nanumpay", "outcome": "succeeded"}, datetime.now(UTC))
        await b.record({"id": "r2", "job": "shop", "outcome": "failed"}, datetime.now(UTC) + timedelta(seconds=1))
        assert [(run["id"], run["host"]) for run in await a.runs(None, 10)] == [("r2", "b"), ("r1", "a")]
        assert [run["id"] for run in await a.runs("nanumpay", 10)] == ["r1"]
        assert await b.forget("a")
        assert not await b.forget("a")
        await a.close()
        await b.close()

    asyncio.run(story())


def test_without_the_rights_it_is_a_fault_that_names_them(server: Mongod) -> None:
    """Another collection is refused: nothing beside the fleet's own is needed or touched."""

    async def story() -> None:
        other = room(server, "a", "admins")
        with pytest.raises(OperationFailure):
            await other.look()
        await other.close()

    asyncio.run(story())
