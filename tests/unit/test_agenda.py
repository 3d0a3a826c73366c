"""What is begun and what waits: the longest due first, so many at one time, nothing in a blackout but slices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from nanumpay_backupd.agenda import Agenda
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.model import Copy, CopyState, Outcome, Run, Trigger, error_info
from nanumpay_backupd.pipeline.layout import Layout, lane
from nanumpay_backupd.plans import Plans, Task
from nanumpay_backupd.repairs import Cause, Repairs
from nanumpay_backupd.retries import Again, Retries
from nanumpay_backupd.settings.schema import GroupSpec, JobSpec, Limits, Schedule
from tests.workbench import NOW, SetClock, job_spec, published

T = TypeVar("T")
CLOCKS = "A clock that jumps, by hours or years, deletes nothing because of its age and delays no backup."
MINUTE = timedelta(minutes=1)


class Running(NamedTuple):
    """A run that is active."""

    action: str


class House:
    """Keeps jobs and a catalog, and takes down what is begun, without doing it."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.layout = Layout(folder / "backups")
        self.layout.create()
        self.clock = SetClock()
        self.jobs: dict[str, JobSpec] = {}
        self.specs: dict[str, GroupSpec] = {}
        self.running: dict[str, Running] = {}
        self.begun: list[tuple[str, str, str]] = []
        self.elsewhere: set[str] = set()
        self.claims: bool | None = True
        self.claimed: list[tuple[str, datetime]] = []
        self.plans = Plans(self.clock, self.db)
        self.plans.settled()
        self.retries = Retries(self.db)
        self.repairs = Repairs()
        self.agenda = Agenda(self.clock, self.plans, self.retries, self.repairs, self)

    async def db(self, work: Callable[[Catalog], T]) -> T:
        """Ask the catalog."""
        return work(self.catalog)

    def may_begin(self, name: str) -> bool:
        """Tell whether this host makes a job."""
        return name not in self.elsewhere

    async def claim(self, job: Any, task: Task, action: str, due: datetime) -> bool | None:
        """Take up a due time as a test wants it."""
        self.claimed.append((job.name, due))
        return self.claims

    async def unclaim(self, name: str, action: str) -> None:
        """Nothing that is begun here fails."""

    async def begin(self, name: str, trigger: Trigger, **order: Any) -> None:
        """Take down what is begun; it is active from now on."""
        action = order.get("action", "backup")
        self.begun.append((name, action, trigger.value))
        self.running[lane(name, action)] = Running(action)

    def add(self, name: str, minutes: float, *, blackout: tuple[str, ...] = (), **fields: Any) -> None:
        """Add a job whose backup is due so many minutes ago, at 03:00 of later days."""
        fields = {"drill": (), **fields}
        job = job_spec(
            name=name,
            schedule=Schedule(cron=("0 3 * * *",), timezone="UTC"),
            timezone="UTC",
            limits=Limits(blackout=blackout),
            **fields,
        )
        self.jobs[name] = job
        asyncio.run(self.plans.apply(job, None))
        self.plans._due[name, Task.BACKUP] = self.clock.now() - minutes * MINUTE

    def step(self) -> float:
        """Look once."""
        return asyncio.run(self.agenda.step())

    def end(self, name: str) -> None:
        """End what is active of a job."""
        self.running.pop(name)

    def waits(self) -> list[tuple[str, str, str]]:
        """Return what waits: job, what, for what."""
        return [(wait.job, wait.what, wait.reason) for wait in self.agenda.waits]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house without jobs, on a Saturday at 02:00 UTC."""
    made = House(tmp_path)
    yield made
    made.catalog.close()


def test_the_longest_due_first_and_no_more_than_may_be(house: House) -> None:
    """Two at one time; of those that wait the longest due follows, and what waited in time was not missed."""
    house.add("b", 0.2)
    house.add("a", 0.1)
    house.add("c", 1.0)
    house.add("d", 0.5)
    house.step()
    assert house.begun == [("c", "backup", "schedule"), ("d", "backup", "schedule")]
    assert house.waits() == [("b", "backup", "number"), ("a", "backup", "number")]
    house.clock.sleep(600)
    house.end("d")
    house.step()
    assert house.begun[2:] == [("b", "backup", "schedule")]
    house.end("c")
    house.end("b")
    house.step()
    assert house.begun[3:] == [("a", "backup", "schedule")]
    assert house.waits() == []


def test_what_another_host_makes_keeps_its_plan_until_this_one_may(house: House) -> None:
    """Who stands by begins nothing and forgets nothing; what it takes up is claimed first."""
    house.add("a", 0.1)
    due = house.plans.planned("a")
    house.elsewhere.add("a")
    house.step()
    assert (house.begun, house.claimed, house.plans.planned("a")) == ([], [], due)
    house.elsewhere.clear()
    house.step()
    assert house.begun == [("a", "backup", "schedule")]
    assert house.claimed == [("a", due)]


def test_what_cannot_be_claimed_stays_due_and_what_was_done_is_left_out(house: House) -> None:
    """Without an answer it is tried again; done by another host, only the next time counts."""
    house.add("a", 0.1)
    due = house.plans.planned("a")
    house.claims = None
    house.step()
    assert (house.begun, house.plans.planned("a")) == ([], due)
    house.claims = False
    house.step()
    following = house.plans.planned("a")
    assert house.begun == []
    assert due is not None
    assert following is not None
    assert following > house.clock.now() > due


def test_slices_neither_wait_nor_count(house: House) -> None:
    """However many runs are active, changes are saved; and a slice keeps nothing else from being begun."""
    house.agenda.most = 1
    house.running["other"] = Running("backup")
    house.add("a", 0.1, pitr=60.0)
    house.step()
    assert house.begun == [("a", "slice", "schedule")]
    assert house.waits() == [("a", "backup", "number")]
    house.end("other")
    house.step()
    assert house.begun[1:] == [("a", "backup", "schedule")]


def test_in_a_blackout_nothing_is_begun_but_slices(house: House) -> None:
    """Backup, full out of turn and queued upload wait for its end, which status knows; then each is done once."""
    house.agenda.most = 9
    house.add("nanumpay", 1.0, blackout=("01:00-05:00",), pitr=60.0)
    copy = Copy(
        backup=published(house.layout, house.catalog).id,
        destination="app",
        state=CopyState.PENDING,
        key="k",
        size=1,
        updated=NOW,
        next_attempt=NOW - 5 * MINUTE,
    )
    house.catalog.save_copy(copy)
    house.repairs.ask("nanumpay", Cause.PROOF)
    pause = house.step()
    assert house.begun == [("nanumpay", "slice", "schedule")]
    assert sorted(house.waits()) == [
        ("nanumpay", "backup", "blackout"),
        ("nanumpay", "backup", "blackout"),
        ("nanumpay", "upload", "blackout"),
    ]
    assert {wait.until for wait in house.agenda.waits} == {NOW.replace(hour=5)}
    assert house.plans.get("nanumpay") == NOW.replace(hour=5)
    assert pause <= 60
    house.clock.sleep(3 * 3600)
    house.running.clear()
    house.step()
    assert house.begun[1:][0] == ("nanumpay", "upload", "retry")
    house.running.clear()
    house.catalog.save_copy(Copy(**{**{f: getattr(copy, f) for f in copy.__struct_fields__}, "next_attempt": None}))
    house.step()
    assert ("nanumpay", "backup", "schedule") in house.begun, "what waited for the end of a blackout was not missed"
    assert house.plans.planned("nanumpay") == NOW.replace(day=22, hour=3), "the next day's, not one of those it missed"


def test_a_failed_run_is_made_again_when_its_time_has_come(house: House) -> None:
    """It is begun by its own trigger, once; where the next due time comes first, by that."""
    house.add("a", -600)
    error = error_info(SourceError("no answer", code="source-unreachable"))
    failed = Run(
        id="r",
        job="a",
        trigger=Trigger.SCHEDULE,
        started=NOW,
        ended=NOW,
        outcome=Outcome.FAILED,
        error=error,
    )
    house.catalog.save_run(failed)
    asyncio.run(house.retries.ended(house.jobs["a"], failed, house.plans.planned("a")))
    house.step()
    assert house.begun == []
    house.clock.sleep(700)
    house.step()
    assert house.begun == [("a", "backup", "again")]
    house.running.clear()
    house.step()
    assert len(house.begun) == 1


def test_what_is_made_again_waits_for_a_run_by_hand(house: House) -> None:
    """Whoever runs the job meanwhile may make it unnecessary; a full that comes due then is left out, on record."""
    house.add("a", -600)
    house.retries._again["a", "backup"] = Again(NOW - MINUTE, 2, 3)
    house.running["a"] = Running("backup")
    house.step()
    assert house.begun == []
    assert house.retries.get("a") is not None
    house.clock.sleep(36_000)
    house.step()
    assert house.begun == [("a", "backup", "schedule")]


def test_a_job_that_is_busy_holds_up_no_other(house: House) -> None:
    """What waits for a run of its own job leaves its place to the next."""
    house.running["a"] = Running("verify")
    house.add("a", 1.0)
    house.add("b", 0.5)
    house.step()
    assert house.begun == [("b", "backup", "schedule")]


@pytest.mark.promise(CLOCKS, item=6)
def test_after_a_clock_that_was_years_ahead_nothing_waits_for_years(house: House) -> None:
    """Set back, what was planned, put off or queued by the later time is due as the right time says."""
    house.add("nanumpay", 0.1)
    years, right = timedelta(days=5 * 365), house.clock.now()
    house.clock.moment += years
    house.step()
    assert house.begun == [("nanumpay", "backup", "catch-up")]
    house.end("nanumpay")
    backup = published(house.layout)
    house.catalog.save_backup(backup)
    later = house.clock.now()
    copy = Copy(backup.id, "app", CopyState.PENDING, backup.artifact, backup.size, later, next_attempt=later + MINUTE)
    house.catalog.save_copy(copy)
    house.clock.moment = right
    house.step()
    assert house.begun[1:] == [("nanumpay", "upload", "retry")]
    assert house.plans.get("nanumpay") == right.replace(hour=3)
    (queued,) = house.catalog.pending_copies(right)
    assert queued.next_attempt == right


@pytest.mark.promise(CLOCKS, item=6)
def test_the_hosts_zone_changes_while_it_runs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job without a zone of its own is due by the new one from then on, later or earlier; one with a zone stays."""
    monkeypatch.setenv("TZ", "UTC")
    house.agenda = Agenda(house.clock, house.plans, house.retries, house.repairs, house)
    house.add("fixed", 0.1)
    here = job_spec(name="here", schedule=Schedule(cron=("0 3 * * *",), timezone=""), drill=())
    house.jobs["here"] = here
    asyncio.run(house.plans.apply(house.jobs["fixed"], None))
    asyncio.run(house.plans.apply(here, None))
    house.plans._due["fixed", Task.BACKUP] = fixed = house.clock.now().replace(hour=3)
    house.step()
    for zone, hour in (("America/New_York", 8), ("Europe/Berlin", 2), ("UTC", 3)):
        monkeypatch.setenv("TZ", zone)
        house.step()
        due = house.plans.get("here")
        assert due is not None
        assert due.hour == hour
        assert due > house.clock.now()
        assert house.plans.get("fixed") == fixed
    assert house.begun == []


@pytest.mark.promise(CLOCKS, item=6)
def test_a_clock_that_is_corrected_a_little_makes_nothing_twice(house: House) -> None:
    """Minutes back, just after a run began: it is due tomorrow."""
    house.add("a", 0.1)
    house.clock.moment = house.clock.moment.replace(hour=3)
    house.step()
    house.end("a")
    house.clock.moment -= 5 * MINUTE
    house.step()
    assert len(house.begun) == 1
    assert house.plans.get("a") == house.clock.now().replace(hour=3, minute=0) + timedelta(days=1)
