"""More than one host: whatever dies, sleeps or is cut off, a job runs once at a time, and what is due is made."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from nanumpay_backupd.control.client import RemoteError
from tests.servers.daemon import Site, backup_settings, plan_ago, wait_for
from tests.servers.fleet import LEASE, Fleet, open_fleet
from tests.servers.mongod import Mongod, ReplicaSet
from tests.servers.netns import Net, NetMongod, available, open_net, start_set
from tests.servers.tools import find_tool

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise(
        "Of several hosts one makes a job at a time; another takes over within the lease time, and none due is lost.",
        item=11,
    ),
]
LONG: Final = 10.0
"""The lease where members of the replica set are lost as well: an election takes some seconds of it."""
Hosts = tuple[Fleet, Net, ReplicaSet]


def begin(fleet: Fleet, name: str) -> Site:
    """Let one host hold the lease with a backup under way that was due and does not get on; no other runs yet."""
    site = fleet[name]
    site.start()
    fleet.wait_holder(name)
    site.stop()
    plan_ago(site, 3600)
    site.hold("nanumpay_backupd.pipeline.backup:produce")
    site.start()
    fleet.wait_holder(name)
    site.wait_held()
    return site


@pytest.fixture
def pair(mongod_rs: Mongod) -> Iterator[Fleet]:
    """Two hosts of one fleet; ``a`` holds the lease, and its backup does not get on."""
    with open_fleet(mongod_rs, "a", "b", settings=backup_settings(retention={"count": 365})) as fleet:
        begin(fleet, "a")
        fleet["b"].start()
        wait_for(lambda: fleet.facts("b")["holder"] == "a", "a host that knows who holds")
        yield fleet


def caught_up(site: Site) -> list[dict[str, Any]]:
    """Return the runs of a host that made up for something."""
    return [run for run in site.runs() if run["trigger"] == "catch-up"]


def told_of(fleet: Fleet, host: str) -> list[str]:
    """Return which runs of a host the first one knows."""
    return [item["id"] for item in fleet["a"].call("ListRuns", fleet=True)["runs"] if item["host"] == host]


def done(fleet: Fleet, job: str = "nanumpay") -> dict[str, Any]:
    """Wait until the backup of a job that was taken up last is done, and return what is on record of it."""

    def look() -> dict[str, Any] | None:
        task = fleet.document()["tasks"].get(job)
        return task if task and task["state"] == "done" else None

    return wait_for(look, "the word that it is done", 100) or {}


def test_the_holder_is_killed_in_a_run_and_the_next_one_makes_up_for_it(pair: Fleet) -> None:
    """Who stands by says who holds the lease and begins nothing; after a kill it makes what was due, once, in time."""
    fleet, b = pair, pair["b"]
    with pytest.raises(RemoteError) as refused:
        b.run()
    assert refused.value.code == "not-holder"
    assert "host a" in refused.value.message
    assert not b.runs()
    fleet["a"].kill()
    seconds = fleet.timed(lambda: fleet.role("b") == "holder", "the takeover")
    run = b.newest(trigger="catch-up")
    assert run["outcome"] == "succeeded", b.log()
    assert (run["host"], run["token"]) == ("b", fleet.document()["token"])
    assert done(fleet)["host"] == "b"
    # The first host, back again, does not make it once more.
    fleet["a"].release()
    fleet["a"].start()
    wait_for(lambda: fleet.facts("a")["holder"] == "b", "a host that knows who holds")
    assert len(caught_up(b)) == len(b.artifacts()) == 1
    assert not fleet["a"].artifacts()
    # Told to MongoDB a moment after its end.
    wait_for(lambda: told_of(fleet, "b") == [run["id"]], "the run on record for all hosts")
    print(f"takeover after kill -9: {seconds:.1f} s of a lease of {LEASE:g} s")


@pytest.mark.fault_long
def test_a_daemon_that_is_stopped_beyond_the_lease_commits_nothing(pair: Fleet) -> None:
    """The run of a daemon that hangs ends before another host begins; awake again it stands by and has made nothing."""
    fleet, a, b = pair, pair["a"], pair["b"]
    a.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: not a.workers(), "the end of the run without its daemon")
        assert fleet.role("b") == "standby", "the run went on when another host held the lease"
        wait_for(lambda: fleet.role("b") == "holder", "the takeover")
        assert b.newest(trigger="catch-up")["outcome"] == "succeeded"
        a.release()
    finally:
        a.signal(signal.SIGCONT)
    wait_for(lambda: fleet.role("a") == "standby" and not a.job().get("running"), "a host that noticed")
    assert [run["error"]["code"] for run in caught_up(a)] == ["lease-lost"]
    assert not a.artifacts()
    assert len(b.artifacts()) == 1


def test_a_host_that_wakes_after_the_lease_commits_nothing(pair: Fleet) -> None:
    """A host that slept as a whole in the middle of a run makes nothing when it wakes: another has taken over."""
    fleet, a, b = pair, pair["a"], pair["b"]
    asleep = [pid for pid in a.processes() if a.process is not None and pid != a.process.pid]
    a.signal(signal.SIGSTOP)
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: fleet.role("b") == "holder", "the takeover")
        assert b.newest(trigger="catch-up")["outcome"] == "succeeded"
        a.release()
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        a.signal(signal.SIGCONT)
    wait_for(lambda: fleet.role("a") == "standby" and not a.workers(), "a host that noticed")
    wait_for(lambda: not a.job().get("running"), "the end of the run")
    assert not a.artifacts()
    assert [run["error"]["code"] for run in caught_up(a)] == ["lease-lost"]


@pytest.mark.fault_long
def test_the_lease_is_handed_over(mongod_rs: Mongod) -> None:
    """Stopped in good order, or asked to, a holder lets its run end and gives the lease away; then the other has it."""
    with open_fleet(mongod_rs, "a", "b", settings=backup_settings(retention={"count": 365})) as fleet:
        a = begin(fleet, "a")
        b = fleet["b"]
        b.start()
        wait_for(lambda: fleet.facts("b")["holder"] == "a", "a host that knows who holds")
        b.call("ChangeFleet", action="take")
        time.sleep(LEASE)
        assert fleet.role("a") == "holder", "the lease was given away in the middle of a run"
        a.release()
        seconds = fleet.timed(lambda: fleet.role("b") == "holder", "the handing over")
        assert caught_up(a)[0]["outcome"] == "succeeded"
        assert b.run()["outcome"] == "succeeded"
        assert not caught_up(b)
        b.stop()
        stopped = fleet.timed(lambda: fleet.role("a") == "holder", "the takeover after a stop")
        assert a.run()["outcome"] == "succeeded"
        print(f"handed over in {seconds:.1f} s, after a stop in {stopped:.1f} s")


@pytest.mark.fault_long
def test_the_next_holder_knows_what_the_last_one_made(mongod_rs: Mongod) -> None:
    """At a shared destination the names never collide, retention counts all, and slices follow on without a gap."""
    with open_fleet(mongod_rs, "a", "b", settings=backup_settings(retention={"count": 2})) as fleet:
        place = "[destination.shared]\ntype = 'local'\npath = '{shared}'\n[nanumpay]\ndestinations = ['shared']\n"
        fleet.configure(f"{place}pitr = '2s'\n")
        shared, a, b = fleet["a"].folder / "shared", fleet["a"], fleet["b"]
        a.start()
        fleet.wait_holder("a")
        made = [a.run()["backup"], a.run()["backup"]]
        with a.db() as db:
            db.users.insert_one({"name": "written at a"})
        wait_for(lambda: list(shared.rglob("*-slice-*.manifest.json")), "a slice at the shared destination")
        b.start()
        a.kill()
        fleet.wait_holder("b")
        with a.db() as db:
            db.users.insert_one({"name": "written at b"})
        known = {backup["id"] for backup in b.list_backups()}
        assert set(made) <= known, known
        wait_for(lambda: [item for item in b.runs() if item["action"] == "slice"] or _slices(b), "a slice of the other")
        last = b.run()
        assert last["outcome"] == "succeeded", last
        gone = {backup["id"]: backup for backup in b.list_backups()}.get(made[0])
        assert gone is None or all(copy["state"] == "missing" for copy in gone["copies"]), gone
        assert not list(shared.rglob(f"{made[0]}.tar.gz"))
        wait_for(lambda: not b.call("Timeline", job="nanumpay")["gaps"], "slices without a gap")


def _slices(site: Site) -> list[Path]:
    return list((site.backups / "slices").glob("*-slice-*")) if (site.backups / "slices").is_dir() else []


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Three hosts with a network of their own, on each a member of the replica set; daemons are to be started there."""
    if not available():
        pytest.skip("network namespaces cannot be made here (root and iproute2 are needed)")
    with (
        open_net("a", "b", "c") as net,
        start_set(net, "a", "b", "c") as servers,
        open_fleet(servers, "a", "b", "c", settings=backup_settings(retention={"count": 365}), lease=LONG) as fleet,
    ):
        for name, site in fleet.sites.items():
            site.prefix = net.prefix(name)
        yield fleet, net, servers


@pytest.mark.fault_long
@pytest.mark.parametrize("with_primary", [True, False])
def test_a_holder_that_is_cut_off_ends_its_run_before_another_begins(hosts: Hosts, *, with_primary: bool) -> None:
    """Cut off with the primary or with a secondary, in mid-run: one takes over in time, and the run is made, once."""
    fleet, net, servers = hosts
    first = servers.primary()
    assert isinstance(first, NetMongod)
    name = first.name if with_primary else next(name for name in fleet.sites if name != first.name)
    others = [other for other in fleet.sites if other != name]
    cut = begin(fleet, name)
    for other in others:
        fleet[other].start()
        wait_for(lambda other=other: fleet.facts(other)["holder"] == name, "a host that knows who holds")  # type: ignore[misc]
    net.cut(name)
    began = time.monotonic()
    ended = taken = 0.0
    back: list[float] = []
    writer = threading.Thread(target=_majority_write, args=(servers, back, began))
    writer.start()
    while not taken:
        assert time.monotonic() - began < 60, "nobody takes over"
        holders = [other for other in others if fleet.role(other) == "holder"]
        workers = cut.workers()
        ended = ended or (0.0 if workers else time.monotonic() - began)
        assert not (holders and workers), "a run went on when another host held the lease"
        taken = time.monotonic() - began if holders else 0.0
    writer.join()
    # Where the primary was cut off too, nothing can be decided before MongoDB itself can be written to again.
    assert taken < max(LONG, back[0]) + 5, "\n".join(fleet[other].log() for other in others)
    holder = fleet.wait_holder(*others)
    assert fleet[holder].newest(trigger="catch-up")["outcome"] == "succeeded"
    cut.release()
    net.heal(name)
    wait_for(lambda: fleet.facts(name)["holder"] == holder, "a host that knows who holds")
    assert not cut.artifacts()
    assert sum(len(site.artifacts()) for site in fleet.sites.values()) == 1
    assert [run["error"]["code"] for run in caught_up(cut)] == ["lease-lost"]
    print(
        f"cut off, primary {with_primary}: run over after {ended:.1f} s, takeover after {taken:.1f} of {LONG:g} s, "
        f"majority writes after {back[0]:.1f} s"
    )


def _majority_write(servers: ReplicaSet, back: list[float], began: float) -> None:
    """Note when a majority of the set acknowledges a write again."""
    with servers.client(serverSelectionTimeoutMS=60_000) as client:
        beat = client["elsewhere"].get_collection("beat", write_concern=WriteConcern("majority", wtimeout=60_000))
        while not back:
            with contextlib.suppress(PyMongoError):
                beat.insert_one({})
                back.append(time.monotonic() - began)


@pytest.mark.fault_long
def test_whatever_happens_one_run_at_a_time_and_none_is_lost(hosts: Hosts) -> None:
    """Kills, stops, cuts and elections for three minutes: no two dumps at a time, and afterwards the next is made."""
    fleet, net, servers = hosts
    folder = fleet["a"].folder
    job = "[[job]]\nname = 'main'\ntype = 'mongodb'\nschedule = '* * * * *'\nretention = { count = 365 }\n"
    fleet.configure(f"{job}[tools]\nmongodump = '{_exclusive_mongodump(folder)}'\n")
    for site in fleet.sites.values():
        site.start()
    chance = random.Random(int(os.environ.get("NANUMPAY_TEST_SEED", "7")))
    until = time.monotonic() + 180
    told = []
    while time.monotonic() < until:
        name = chance.choice("abc")
        what = chance.choice(["kill", "stop", "cut", "cut", "stepdown"])
        told.append(f"{what} {name}")
        _break(fleet, net, servers, name, what, chance.uniform(2, 1.5 * LONG))
    count = len(_dumps(folder))
    fleet.wait_holder("a", "b", "c")
    wait_for(lambda: len(_dumps(folder)) > count, "the next dump", 100)
    assert datetime.now(UTC) - done(fleet, "main")["due"].replace(tzinfo=UTC) < timedelta(seconds=130)
    assert set(_dumps(folder)) == {"alone"}, told
    runs = [run for run in fleet["a"].call("ListRuns", fleet=True, limit=100)["runs"] if run["job"] == "main"]
    print(f"{len(told)} faults, {count} dumps, {len(runs)} runs on {sorted({run['host'] for run in runs})}: {told}")


def _dumps(folder: Path) -> list[str]:
    """Return a word for each dump that was begun."""
    path = folder / "dumps"
    return path.read_text(encoding="ascii").split() if path.exists() else []


def _break(fleet: Fleet, net: Net, servers: ReplicaSet, name: str, what: str, seconds: float) -> None:
    """Let one fault begin, last for so many seconds, and end."""
    site = fleet[name]
    if what == "kill":
        site.kill()
        time.sleep(seconds)
        site.start()
    elif what == "stop":
        site.signal(signal.SIGSTOP)
        time.sleep(seconds)
        site.signal(signal.SIGCONT)
    elif what == "cut":
        net.cut(name)
        time.sleep(seconds)
        net.heal(name)
    else:
        with contextlib.suppress(PyMongoError), servers.primary().direct() as client:
            client.admin.command("replSetStepDown", 5, force=True)
    time.sleep(2)


def _exclusive_mongodump(folder: Path) -> Path:
    """Write a mongodump that notes whether another one is at work, and takes its time."""
    path = folder / "mongodump"
    path.write_text(
        f"#!{sys.executable} -ES\n"
        "import fcntl, os, subprocess, sys, time\n"
        f"real, folder = {str(find_tool('mongodump'))!r}, {str(folder)!r}\n"
        "if '--version' in sys.argv:\n"
        "    os.execv(real, [real, *sys.argv[1:]])\n"
        "lock = open(folder + '/dump.lock', 'a')\n"
        "try:\n"
        "    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    word = 'alone'\n"
        "except OSError:\n"
        "    word = 'overlap'\n"
        "open(folder + '/dumps', 'a').write(word + '\\n')\n"
        "time.sleep(4)\n"
        "sys.exit(subprocess.call([real, *sys.argv[1:]], close_fds=False))\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path
