"""The host itself goes down and comes back: what was missed is made up for, what was cut off is told."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.system.conftest import MakeHost
from tests.system.container import wait_for
from tests.system.host import SERVICE, Host, without_place
from tests.system.image import ZONE

_NOTICE: float = 75.0
"""Seconds before a scheduled run at which the host is made: installing and a run that is cut off fit in."""


@dataclass(frozen=True)
class Sleeper:
    """A host that was switched off in mid-dump before a backup was due, and the moment when that was due."""

    host: Host
    due: datetime
    cut: str
    """The run that was going on when it was switched off."""


@pytest.fixture(scope="session")
def sleeper(new_host: MakeHost, package: Path) -> Sleeper:
    """Make that host. It is made before the first test, so that nobody has to wait for the due time to pass."""
    host = new_host("sleeper")
    host.wait_mongod()
    host.fill()
    due = (datetime.now(UTC) + timedelta(seconds=_NOTICE)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    local = due.astimezone(ZoneInfo(ZONE))
    host.save(without_place(time=f"{local:%H:%M}"))
    host.install(package)
    assert f"{local:%H:%M} KST" in host.ctl("status").out
    host.hold_dumps()
    run = host.begin()
    host.wait_held()
    host.start_power_off()
    return Sleeper(host, due, run)


def test_a_host_that_was_off_makes_up_for_the_missed_run(sleeper: Sleeper) -> None:
    """Switched off in mid-dump it ends the run in good order, and after the start the run it missed is made, once."""
    host = sleeper.host
    host.wait_off()
    assert datetime.now(UTC) > sleeper.due - timedelta(seconds=_NOTICE)
    time.sleep(max(0.0, (sleeper.due - datetime.now(UTC)).total_seconds() + 1))
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
