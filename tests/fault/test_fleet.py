"""More than one host: whatever is killed, stopped or cut off, a job runs once at a time and what is due is made up for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from nanumpay_backupd.control.client import RemoteError
from tests.servers.daemon import backup_settings, plan_ago, wait_for
from tests.servers.fleet import LEASE, Fleet, open_fleet
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers


@pytest.fixture
def pair(mongod_rs: Mongod) -> Iterator[Fleet]:
    """Two hosts of one fleet; the first one holds the lease, and a backup is due there that is held in its dump."""
    with open_fleet(mongod_rs, "a", "b", settings=backup_settings(retention={"count": 365})) as fleet:
        fleet["a"].start()
        fleet.wait_holder("a")
        fleet["a"].stop()
        plan_ago(fleet["a"], 3600)
        fleet["a"].hold("nanumpay_backupd.pipeline.backup:produce")
        fleet["a"].start()
        fleet.wait_holder("a")
        fleet["b"].start()
        fleet["a"].wait_held()
        wait_for(lambda: fleet.facts("b")["holder"] == "a", "a host that knows who holds")
        yield fleet


def test_the_holder_is_killed_in_a_run_and_the_next_one_makes_up_for_it(pair: Fleet) -> None:
    """Who stands by says who holds the lease, begins nothing, and after a kill makes what was due, once, in time."""
    fleet, b = pair, pair["b"]
    with pytest.raises(RemoteError) as refused:
        b.run()
    assert refused.value.code == "not-holder"
    assert "host a" in refused.value.message
    assert fleet.facts("b")["holder"] == "a"
    assert not b.runs()
    fleet["a"].kill()
    seconds = fleet.timed(lambda: fleet.role("b") == "holder", "the takeover")
    run = b.newest(trigger="catch-up")
    assert run["outcome"] == "succeeded", b.log()
    assert run["host"] == "b"
    assert run["token"] == fleet.document()["token"]
    assert seconds < 2 * LEASE
    record = wait_for(lambda: _done(fleet), "the word that it is done")
    assert record["host"] == "b"
    # The first host, back again, makes it not once more.
    fleet["a"].release()
    fleet["a"].start()
    assert fleet.facts("a")["holder"] in ("", "b")
    wait_for(lambda: fleet.facts("a")["holder"] == "b", "a host that knows who holds")
    assert len([run for run in b.runs() if run["trigger"] == "catch-up"]) == 1
    assert len(b.artifacts()) == 1
    assert not fleet["a"].artifacts()
    print(f"takeover after kill -9: {seconds:.1f} s of a lease of {LEASE:g} s")


def test_a_daemon_that_is_stopped_beyond_the_lease_commits_nothing(pair: Fleet) -> None:
    """The run of a daemon that hangs ends before another host begins; awake again it stands by and has made nothing."""
    fleet, a, b = pair, pair["a"], pair["b"]
    a.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: not a.workers(), "the end of the run without its daemon")
        assert fleet.role("b") == "standby", "the run went on when another host held the lease"
        seconds = fleet.timed(lambda: fleet.role("b") == "holder", "the takeover")
        assert b.newest(trigger="catch-up")["outcome"] == "succeeded"
        a.release()
    finally:
        a.signal(signal.SIGCONT)
    wait_for(lambda: fleet.role("a") == "standby", "a host that noticed")
    [run] = [run for run in a.runs() if run["trigger"] == "catch-up"]
    assert run["error"]["code"] == "lease-lost", run
    assert not a.artifacts()
    assert len(b.artifacts()) == 1
    print(f"takeover after the end of the run: {seconds:.1f} s")


def test_a_host_that_wakes_after_the_lease_commits_nothing(pair: Fleet) -> None:
    """A host that slept as a whole, its run at the door of its commit, makes nothing when it wakes."""
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
    assert not a.artifacts()
    assert [run["error"]["code"] for run in a.runs() if run["trigger"] == "catch-up"] == ["lease-lost"]


def _done(fleet: Fleet) -> dict[str, str] | None:
    task = fleet.document()["tasks"].get("nanumpay")
    return task if task and task["state"] == "done" else None
