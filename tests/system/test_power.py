"""The host itself goes down and comes back: what was missed is made up for, what was cut off is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from nanumpay_backupd.scheduler import ON_TIME
from tests.system.conftest import Sleeper
from tests.system.container import wait_for
from tests.system.host import SERVICE


@pytest.mark.promise("A scheduled run that was missed or cut off is made up for, once.", item=1)
def test_a_host_that_was_off_makes_up_for_the_missed_run(sleeper: Sleeper) -> None:
    """Switched off in mid-dump it ends the run in good order, and after the start the run it missed is made, once."""
    host = sleeper.host
    host.wait_off()
    # Later than what still counts as on time.
    missed = sleeper.due + ON_TIME + timedelta(seconds=2)
    time.sleep(max(0.0, (missed - datetime.now(UTC)).total_seconds()))
    host.boot()
    host.wait_active()
    caught = wait_for(
        lambda: next((run for run in host.runs() if run["trigger"] == "catch-up" and run.get("outcome")), None),
        "a run that makes up for the missed one",
    )
    assert caught is not None
    assert caught["outcome"] == "succeeded"
    outcomes = {run["id"]: (run["trigger"], run["outcome"]) for run in host.runs()}
    assert outcomes == {caught["id"]: ("catch-up", "succeeded"), sleeper.cut: ("manual", "cancelled")}
    # The journal of before is there too.
    assert host.journal("-u", SERVICE, f"RUN_ID={sleeper.cut}")


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
def test_a_power_cut_in_mid_dump(sleeper: Sleeper) -> None:
    """Cut off in mid-dump nothing half is there afterwards, the run is `interrupted`, and backups go on."""
    host = sleeper.host
    if not host.running:
        host.wait_off()
        host.boot()
    host.wait_active()
    before = [path.name for path in host.stored()]
    host.hold_dumps()
    run = host.begin()
    host.wait_held()
    host.cut_power()
    host.boot()
    host.wait_active()
    assert host.ended(run)["outcome"] == "interrupted"
    assert [path.name for path in host.stored()] == before
    assert host.backup()["outcome"] == "succeeded"
    assert host.ctl("status").code == 0
