"""When tasks are due: slices steadily, sooner where the oplog is short, later after faults; what was cut off again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import OpTime, Outcome, Run, Stream, Trigger
from nanumpay_backupd.plans import Plans, Task, headroom, slice_interval, verdict_on
from nanumpay_backupd.scheduler import Verdict
from nanumpay_backupd.settings.schema import JobSpec, Schedule
from tests.workbench import NOW, SetClock, job_spec


class Bench:
    """Plans with a catalog of their own and a clock that stands."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.clock = SetClock()
        self.plans = Plans(self.clock, self._ask)

    def _ask(self, work: Callable[[Catalog], Any]) -> Awaitable[Any]:
        async def done() -> Any:
            return work(self.catalog)

        return done()

    def apply(self, job: JobSpec, before: JobSpec | None = None) -> None:
        """Take a job's settings."""
        asyncio.run(self.plans.apply(job, before))

    def advance(self, job: JobSpec, task: Task) -> None:
        """Take a task up."""
        asyncio.run(self.plans.advance(job, task, self.clock.now()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A planner at the standard moment, a Saturday at 02:00 UTC."""
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


def job(**fields: Any) -> JobSpec:
    """Return a job with a nightly schedule in UTC, and what the test adds."""
    spec = job_spec(schedule=Schedule(cron=("0 3 * * *",), timezone="UTC"))
    return msgspec.structs.replace(spec, timezone="UTC", **fields)


def stream(*, behind: float, window: float, checked: datetime = NOW) -> Stream:
    """Return a stream whose position is ``behind`` seconds before the newest oplog entry."""
    newest = int(checked.timestamp())
    return Stream(
        job="nanumpay",
        position=str(OpTime(int(newest - behind), 1)),
        parent="p",
        since=str(OpTime(1, 1)),
        chain="c",
        checked=checked,
        newest=str(OpTime(newest, 1)),
        window=window,
    )


def test_each_task_has_its_own_time(bench: Bench) -> None:
    """Backup, verification and drill come by their own schedules; what has none has no plan."""
    bench.apply(job(verify=("0 4 * * *",), drill=("0 5 * * 0",)))
    assert bench.plans.get("nanumpay") == NOW.replace(hour=3)
    assert bench.plans.get("nanumpay", Task.VERIFY) == NOW.replace(hour=4)
    assert bench.plans.get("nanumpay", Task.DRILL) == datetime(2026, 11, 22, 5, tzinfo=UTC)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) is None
    assert bench.plans.next_backup() == NOW.replace(hour=3)


def test_schedules_beside_the_backups_are_meant_in_the_hosts_zone(bench: Bench) -> None:
    """A drill at five on Sunday is at five in the job's time zone."""
    bench.apply(msgspec.structs.replace(job(), timezone="Asia/Seoul"))
    assert bench.plans.get("nanumpay", Task.DRILL) == datetime(2026, 11, 21, 20, tzinfo=UTC)


def test_a_disabled_job_has_no_plans(bench: Bench) -> None:
    """Switching a job off drops all of its tasks."""
    spec = job(pitr=60.0)
    bench.apply(spec)
    bench.apply(msgspec.structs.replace(spec, enabled=False), spec)
    assert list(bench.plans.items()) == []


def test_slices_begin_at_once_and_then_come_steadily(bench: Bench) -> None:
    """Continuous slices are due when the daemon starts, and then every interval."""
    spec = job(pitr=60.0)
    bench.apply(spec)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW
    bench.advance(spec, Task.INCREMENTAL)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW + timedelta(seconds=60)


def test_the_sooner_of_interval_and_schedule_counts(bench: Bench) -> None:
    """A job with both slices by the earlier one."""
    spec = job(pitr=7200.0, incremental=("30 2 * * *",))
    bench.apply(spec)
    bench.advance(spec, Task.INCREMENTAL)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW + timedelta(minutes=30)


def test_a_missed_drill_is_found_after_a_restart(bench: Bench, tmp_path: Path) -> None:
    """The due time of a drill survives in the catalog; a new planner finds that it has passed."""
    bench.apply(job(drill=("10 2 * * *",)))
    again = Bench(tmp_path)
    again.clock.moment = NOW + timedelta(hours=2)
    again.apply(job(drill=("10 2 * * *",)))
    assert again.plans.get("nanumpay", Task.DRILL) == NOW + timedelta(minutes=10)
    again.catalog.close()


def test_a_short_oplog_brings_the_next_slice_forward(bench: Bench) -> None:
    """With one hour of oplog and slices every six hours, the next one is due while its beginning is surely there."""
    spec = job(incremental=("0 */6 * * *",))
    bench.apply(spec)
    bench.advance(spec, Task.INCREMENTAL)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW.replace(hour=6)
    bench.plans.paced(spec, stream(behind=0, window=3600), good=True, lasting=False)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW + timedelta(minutes=20)


@given(st.floats(0, 10**5), st.floats(1, 10**6), st.floats(1, 86400))
def test_the_next_slice_is_never_put_off_nor_later_than_the_oplog_allows(
    behind: float, window: float, pitr: float
) -> None:
    """Whatever the oplog's length: due no later than planned, and before its beginning is rolled over."""
    clock = SetClock()

    async def nothing(_work: Callable[[Catalog], Any]) -> None:
        return None

    plans = Plans(clock, nothing)  # type: ignore[arg-type]  # a catalog that keeps nothing
    spec = job(pitr=pitr)
    asyncio.run(plans.apply(spec, None))
    asyncio.run(plans.advance(spec, Task.INCREMENTAL, NOW))
    planned = plans.get("nanumpay", Task.INCREMENTAL)
    there = stream(behind=behind, window=window)
    plans.paced(spec, there, good=True, lasting=False)
    due = plans.get("nanumpay", Task.INCREMENTAL)
    assert planned is not None
    assert due is not None
    assert due <= planned
    room = headroom(there)
    assert room is not None
    assert (due - NOW).total_seconds() <= max(room / 2, 5.0)


def test_slices_that_fail_are_tried_again_ever_more_slowly(bench: Bench) -> None:
    """The pause doubles up to ten minutes, is an hour where only a person can help, and is over after a good one."""
    spec = job(pitr=60.0)
    bench.apply(spec)
    pauses = []
    for _ in range(9):
        bench.plans.paced(spec, None, good=False, lasting=False)
        due = bench.plans.get("nanumpay", Task.INCREMENTAL)
        assert due is not None
        pauses.append((due - NOW).total_seconds())
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    bench.plans.paced(spec, None, good=False, lasting=True)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW + timedelta(hours=1)
    bench.plans.paced(spec, None, good=True, lasting=False)
    bench.plans.paced(spec, None, good=False, lasting=False)
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW + timedelta(seconds=10)


@pytest.mark.parametrize(
    "late, verdict",
    [
        (-1, Verdict.WAIT),
        (0, Verdict.RUN),
        (90, Verdict.RUN),
        (91, Verdict.CATCH_UP),
        (3600, Verdict.CATCH_UP),
        (100 * 86400, Verdict.CATCH_UP),  # a later time of the same schedule lies within the window
    ],
)
def test_what_to_do_about_a_due_time(late: float, verdict: Verdict) -> None:
    """A task is waited for, run, or caught up, also when a newer due time stands for the old one."""
    spec = job(drill=("0 5 * * *",))
    assert verdict_on(spec, Task.DRILL, NOW - timedelta(seconds=late), NOW) is verdict


@pytest.mark.parametrize("task", [Task.BACKUP, Task.VERIFY, Task.DRILL])
def test_what_was_cut_off_is_due_again_at_the_next_start(bench: Bench, tmp_path: Path, task: Task) -> None:
    """The saved plan of an interrupted run lies in the past, so that the next planner finds it missed, and only it."""
    spec = job(pitr=60.0, verify=("0 4 * * *",), drill=("0 5 * * 0",))
    bench.apply(spec)
    proven = None if task is Task.BACKUP else "b"
    run = Run(
        id="r",
        job="nanumpay",
        trigger=Trigger.SCHEDULE,
        started=NOW,
        outcome=Outcome.INTERRUPTED,
        action=task.value,
        backup=proven,
    )
    asyncio.run(bench.plans.again(run))
    again = Bench(tmp_path)
    again.apply(spec)
    late = [which for _, which, due in again.plans.items() if due < NOW]
    assert late == [task]
    again.catalog.close()


@pytest.mark.parametrize("action, backup", [("slice", None), ("upload", None), ("restore", None), ("backup", "b")])
def test_what_is_not_done_again(bench: Bench, tmp_path: Path, action: str, backup: str | None) -> None:
    """A slice, an upload, a restore that was cut off brings no full; nor does a backup that was made all the same."""
    bench.apply(job())
    run = Run(
        id="r",
        job="nanumpay",
        trigger=Trigger.SCHEDULE,
        started=NOW,
        outcome=Outcome.INTERRUPTED,
        action=action,
        backup=backup,
    )
    asyncio.run(bench.plans.again(run))
    again = Bench(tmp_path)
    again.apply(job())
    assert again.plans.get("nanumpay") == NOW.replace(hour=3)
    again.catalog.close()


@pytest.mark.parametrize(
    "fields,pause",
    [
        ({"pitr": 60.0}, 60.0),
        ({"incremental": ("0 */6 * * *",)}, 6 * 3600.0),
        ({"pitr": 7200.0, "incremental": ("0 * * * *",)}, 3600.0),
        ({}, None),
    ],
)
def test_how_far_slices_are_apart(fields: dict[str, Any], pause: float | None) -> None:
    """The pause between two planned slices, by interval, by schedule, by the shorter of both; none where none are."""
    assert slice_interval(job(**fields), NOW) == pause


def test_slices_that_failed_go_on_as_soon_as_the_server_is_back(bench: Bench) -> None:
    """Whatever the pause is that they had come to: it is over when the server can be reached again."""
    spec = job(pitr=60.0)
    bench.apply(spec)
    bench.plans.paced(spec, None, good=False, lasting=True)
    bench.plans.settled()
    assert bench.plans.get("nanumpay", Task.INCREMENTAL) == NOW
