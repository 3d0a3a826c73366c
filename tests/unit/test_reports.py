"""The report: its figures against a count by hand, the promise against a look at every minute, its pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.idl import Interface
from nanumpay_backupd.model import Copy, CopyState, Outcome, Run, Trigger, to_builtins
from nanumpay_backupd.notifiers.letter import Sender
from nanumpay_backupd.notifiers.words import LANGUAGES
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.plans import Task
from nanumpay_backupd.reports.figures import Day, JobReport, PlaceReport, Report, gather, promise
from nanumpay_backupd.reports.pages import page, report_message, text
from nanumpay_backupd.settings.schema import LocalDestination
from tests.servers.control import INTERFACE_TEXT
from tests.unit.test_letters import HANGUL, read_page
from tests.workbench import job_spec, manifest_of

NOW: Final = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
SEOUL: Final = ZoneInfo("Asia/Seoul")
DAY: Final = timedelta(days=1)


def minutes(at: float) -> datetime:
    """Return a moment within the day of the promise's tests."""
    return NOW + timedelta(minutes=at)


@given(
    st.lists(st.tuples(st.integers(-200, 200), st.integers(0, 60)), max_size=6),
    st.integers(1, 120),
)
def test_a_promise_is_what_a_look_at_every_minute_finds(spans: list[tuple[int, int]], rpo: int) -> None:
    """The share of the time it was kept and the worst loss are those of somebody who looked all the time."""
    points = [(minutes(first), minutes(first + length)) for first, length in spans]
    found = promise(points, NOW, minutes(180), rpo * 60.0)
    covered = sorted((first, first + length) for first, length in spans if first <= 180)
    if not covered:
        assert found is None
        return
    assert found is not None
    begin = max(0, covered[0][0])
    losses = []
    for tick in range(begin * 10, 1800):
        at = tick / 10 + 0.05
        last = max((min(end, at) for start, end in covered if start <= at), default=None)
        losses.append(at - last if last is not None else 0.0)
    if losses:
        assert found.worst / 60 == pytest.approx(max(losses), abs=0.11)
        assert found.kept == pytest.approx(sum(loss <= rpo for loss in losses) / len(losses), abs=0.02)


@pytest.mark.parametrize(
    "points,rpo,expected",
    [
        ([], 60.0, None),
        ([(minutes(-60), minutes(60))], 60.0, (0.0, 1.0)),
        ([(minutes(0), minutes(0))], 1800.0, (3600.0, 0.5)),
        ([(minutes(0), minutes(0)), (minutes(30), minutes(30))], 1800.0, (1800.0, 1.0)),
        ([(minutes(30), minutes(30))], 1800.0, (1800.0, 1.0)),
        ([(minutes(-600), minutes(-600))], 1800.0, (39600.0, 0.0)),
    ],
)
def test_promises(points: list[tuple[datetime, datetime]], rpo: float, expected: tuple[float, float] | None) -> None:
    """An hour with backups at some moments, as worked out by hand."""
    found = promise(points, NOW, minutes(60), rpo)
    assert (None if found is None else (found.worst, found.kept)) == expected


def run(days_ago: float, outcome: Outcome, **changes: Any) -> Run:
    """Make a run of so many days ago."""
    started = NOW - DAY * days_ago
    about: dict[str, Any] = {
        "id": f"r{days_ago}-{outcome}-{len(changes)}",
        "job": "nanumpay",
        "trigger": Trigger.SCHEDULE,
        "started": started,
        "ended": started + timedelta(seconds=5),
        "outcome": outcome,
    }
    return Run(**about | changes)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog with ten days of backups, growing by 100 bytes a day, one failure and one that waits for its copy."""
    found = Catalog(tmp_path / "catalog.db")
    for days_ago in range(10):
        created = NOW - DAY * days_ago - timedelta(hours=7)  # 02:00 in Seoul
        manifest = manifest_of(
            b"x" * (2000 - 100 * days_ago),
            created,
            collections={"nanumpay.users": (1000 - days_ago, 500)},
            raw_bytes=500,
            proven=days_ago != 3,
        )
        away = CopyState.PENDING if days_ago == 0 else CopyState.UPLOADED
        copies = [
            Copy(
                backup=manifest.backup, destination=name, state=state, key="k", size=manifest.artifact.size, updated=NOW
            )
            for name, state in (("local", CopyState.VERIFIED), ("usb", away))
        ]
        found.save_backup(backup_from_manifest(manifest, *copies))
        outcome = {0: Outcome.DEGRADED, 3: Outcome.FAILED}.get(days_ago, Outcome.SUCCEEDED)
        found.save_run(run(days_ago + 7 / 24, outcome))
    found.save_run(run(0.1, Outcome.FAILED, trigger=Trigger.RETRY, action="upload"))
    found.save_run(run(0.2, Outcome.SUCCEEDED, action="drill"))
    return found


def figures(catalog: Catalog, days: int = 7, **job: Any) -> JobReport:
    """Gather the report of a job that has a further disk."""
    spec = job_spec(destinations=(LocalDestination(name="usb", path="/mnt/usb"),), **job)
    return gather(
        catalog,
        spec,
        since=NOW - DAY * days,
        until=NOW,
        zone=SEOUL,
        due=lambda _, task: NOW + DAY if task is Task.DRILL else None,
        restore_seconds=41.0,
    )


def test_the_figures_of_a_week(catalog: Catalog) -> None:
    """Runs by outcome, sizes, growth, promises, copies and days are as counted by hand."""
    found = figures(catalog, rpo=86400.0)
    assert found.outcomes == {"succeeded": 5, "degraded": 1, "failed": 1}
    assert (found.made, found.slices, found.size, found.growth, found.documents) == (7, 0, 2000, 700, 1000)
    assert found.places == (
        PlaceReport(destination="local", copies=10, size=15500),
        PlaceReport(destination="usb", copies=9, size=13500, pending=1),
    )
    # One that is not proven leaves two days between two good ones.
    assert found.rpo_worst == 2 * 86400.0
    assert found.rpo_kept == pytest.approx(6 / 7)
    assert (found.drill_outcome, found.restore_seconds, found.next_drill) == ("succeeded", 41.0, "2026-11-24T00:00:00Z")
    assert [(day.date, day.runs, day.outcome) for day in found.days] == [
        ("2026-11-17", 1, "succeeded"),
        ("2026-11-18", 1, "succeeded"),
        ("2026-11-19", 1, "succeeded"),
        ("2026-11-20", 1, "failed"),
        ("2026-11-21", 1, "succeeded"),
        ("2026-11-22", 1, "succeeded"),
        ("2026-11-23", 1, "degraded"),
    ]
    assert [day.size for day in found.days][-2:] == [1900, 2000]


def test_a_job_without_anything(tmp_path: Path) -> None:
    """Nothing is known, and nothing is made up."""
    with Catalog(tmp_path / "empty.db") as empty:
        found = figures(empty, rpo=900.0)
    assert (found.outcomes, found.made, found.size, found.growth, found.rpo_kept) == ({}, 0, 0, None, None)
    assert all(day == Day(date=day.date) for day in found.days)
    assert len(found.days) == 7


def report(*jobs: JobReport, health: str = "ok", problems: tuple[str, ...] = ()) -> Report:
    """Make a report of the week before NOW."""
    return Report(
        since="2026-11-16T00:00:00Z",
        until="2026-11-23T00:00:00Z",
        timezone="Asia/Seoul",
        host="db1",
        health=health,
        problems=problems,
        jobs=jobs,
    )


def test_the_reply_fits_the_interface(catalog: Catalog) -> None:
    """Every field of the records is one of the interface's types, and none is missing."""
    full, bare = report(figures(catalog, rpo=86400.0)), report(health="failing", problems=("x",))
    for one in (full, bare):
        Interface(INTERFACE_TEXT).validate_out("GetReport", {"report": to_builtins(one), "text": "t", "html": None})


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_and_page_say_the_same(catalog: Catalog, language: str) -> None:
    """Every figure of the text stands on the page; the page is well-formed, without script, style sheet or picture."""
    one = report(
        figures(catalog, rpo=86400.0, rto=3600.0), health="warning", problems=("job nanumpay: 1 upload waits → see",)
    )
    plain, tags = text(one, language), read_page(page(one, language).removeprefix("<!DOCTYPE html>"))
    shown = re.sub(r"\s+", "", tags.text)
    for line in plain.splitlines()[2:]:
        value = line.strip().removeprefix("- ").partition(": ")[2] if "#" not in line else line.rpartition("  ")[2]
        assert re.sub(r"\s+", "", value) in shown, line
    assert bool(HANGUL.search(plain)) is (language == "ko")
    assert "{" not in plain


def test_a_report_in_words(catalog: Catalog) -> None:
    """What an administrator reads on Monday."""
    plain = text(report(figures(catalog, rpo=86400.0, rto=3600.0)), "en")
    assert "Backup report db1, 2026-11-16 09:00 to 2026-11-23 09:00 KST" in plain
    assert "  Backups: 5 succeeded, 1 degraded, 1 failed" in plain
    assert "  Newest backup: 2.00 kB (+700 B), 1,000 documents" in plain
    assert "  Most that may be lost (RPO): 24h: kept 85.7 % of the time, at worst 2d" in plain
    assert "  Longest restore (RTO): promised 1h, the last drill took 41s" in plain
    assert "  Copies: 10 at local (15.5 kB); 9 at usb (13.5 kB), 1 waiting" in plain
    assert "  2026-11-20  #################     1.70 kB, failed" in plain


@pytest.mark.parametrize("health,severity", [("ok", "info"), ("warning", "warning"), ("failing", "error")])
def test_the_message_that_brings_it(catalog: Catalog, health: str, severity: str) -> None:
    """Its subject says how things stand, whoever reads no further."""
    message = report_message(report(figures(catalog), health=health), "report-1", Sender("db1", SEOUL, "ko"))
    assert message.subject.startswith("[db1] 최근 7일 백업 보고서: ")
    assert (message.severity, message.event, message.id) == (severity, "report", "report-1")


def test_a_page_without_a_zone_is_in_utc(catalog: Catalog) -> None:
    """A host whose zone has no name is no reason to fail."""
    one = msgspec.structs.replace(report(figures(catalog)), timezone="KST-9")
    assert "2026-11-23 00:00 UTC" in text(one, "en")
