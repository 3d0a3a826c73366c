"""When a job is due: the form's choices as tables, DST changes of four kinds, and what holds for any zone and year."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.scheduler import Verdict, judge, latest_due, next_due, upcoming, zone_of
from nanumpay_backupd.settings.document import to_schedule
from nanumpay_backupd.settings.schema import AppSettings, Schedule

_PROMISE = "A daily backup runs once on every date, whatever the clocks do: DST, leap days, months of any length."

BERLIN, NEW_YORK, LORD_HOWE, SEOUL = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Seoul"
# Beside the four: midnight changes (Cairo, Santiago), a whole skipped day (Apia 2011), half and quarter hours.
ZONES = (
    *(BERLIN, NEW_YORK, LORD_HOWE, SEOUL, "UTC"),
    *("Africa/Cairo", "America/Santiago", "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu", "America/Havana"),
)


def local(text: str, zone: str, fold: int = 0) -> datetime:
    """Read a wall-clock time of a zone as an instant."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


def form(zone: str, **choice: Any) -> Schedule:
    """Return what the application's form means."""
    return to_schedule(AppSettings(**choice), zone)


def walls(schedule: Schedule, after: datetime, count: int) -> list[str]:
    """Return the next due times as wall-clock times of the schedule's zone."""
    zone = zone_of(schedule)
    return [f"{moment.astimezone(zone):%Y-%m-%d %H:%M}" for moment in islice(upcoming(schedule, after), count)]


@pytest.mark.parametrize(
    "choice, after, expected",
    [
        pytest.param({}, "2026-11-20 12:00", ["2026-11-21 02:00", "2026-11-22 02:00"], id="daily default"),
        pytest.param({"time": "00:00"}, "2026-12-31 00:00", ["2027-01-01 00:00"], id="daily at midnight, due now"),
        pytest.param({"time": "23:59"}, "2026-12-31 23:58", ["2026-12-31 23:59", "2027-01-01 23:59"], id="daily late"),
        # 2026-11-22 is a Sunday.
        pytest.param(
            {"frequency": "weekly", "day_of_week": 0},
            "2026-11-20 12:00",
            ["2026-11-22 02:00", "2026-11-29 02:00"],
            id="weekly 0 is Sunday",
        ),
        *(
            pytest.param(
                {"frequency": "weekly", "day_of_week": day},
                "2026-11-22 12:00",
                [f"2026-11-{22 + day} 02:00"],
                id=f"weekly {day}",
            )
            for day in range(1, 7)
        ),
        pytest.param(
            {"frequency": "monthly"}, "2026-11-20 12:00", ["2026-12-01 02:00", "2027-01-01 02:00"], id="monthly first"
        ),
        pytest.param(
            {"frequency": "monthly", "day_of_month": 28},
            "2027-01-29 00:00",
            ["2027-02-28 02:00", "2027-03-28 02:00"],
            id="monthly 28 is in every month",
        ),
        pytest.param(
            {"frequency": "monthly", "day_of_month": 29},
            "2027-01-29 03:00",
            ["2027-02-28 02:00", "2027-03-29 02:00", "2027-04-29 02:00"],
            id="monthly 29, February of 28",
        ),
        pytest.param(
            {"frequency": "monthly", "day_of_month": 29},
            "2028-02-01 00:00",
            ["2028-02-29 02:00", "2028-03-29 02:00"],
            id="monthly 29, February of 29",
        ),
        pytest.param(
            {"frequency": "monthly", "day_of_month": 30},
            "2028-01-31 00:00",
            ["2028-02-29 02:00", "2028-03-30 02:00", "2028-04-30 02:00"],
            id="monthly 30",
        ),
        pytest.param(
            {"frequency": "monthly", "day_of_month": 31},
            "2026-11-01 00:00",
            ["2026-11-30 02:00", "2026-12-31 02:00", "2027-01-31 02:00", "2027-02-28 02:00", "2027-03-31 02:00"],
            id="monthly 31 is the last day",
        ),
    ],
)
def test_the_forms_choices(choice: dict[str, Any], after: str, expected: list[str]) -> None:
    """Daily, weekly and monthly mean what the application's form says, also in short months."""
    assert walls(form(SEOUL, **choice), local(after, SEOUL), len(expected)) == expected


@pytest.mark.promise(_PROMISE, item=6)
@pytest.mark.parametrize("day", range(1, 32))
def test_monthly_is_once_in_every_month_on_the_day_or_the_last(day: int) -> None:
    """Whatever day is chosen, four years have 48 runs, each on that day or on the month's last."""
    schedule = form("UTC", frequency="monthly", day_of_month=day)
    found = list(islice(upcoming(schedule, datetime(2027, 1, 1, tzinfo=UTC) - timedelta(seconds=1)), 48))
    assert [(moment.year, moment.month) for moment in found] == [
        (year, month) for year in range(2027, 2031) for month in range(1, 13)
    ]
    for moment in found:
        last = (moment + timedelta(days=1)).month != moment.month
        assert moment.day == day or (last and moment.day < day)


@pytest.mark.promise(_PROMISE, item=6)
@pytest.mark.parametrize(
    "zone, time, after, instants",
    [
        # Spring: 02:00 to 03:00 does not exist on 2026-03-29; 02:30 is due as much after the jump.
        pytest.param(
            BERLIN,
            "02:30",
            "2026-03-28 12:00",
            ["2026-03-29T01:30", "2026-03-30T00:30"],
            id="Berlin spring, in the gap",
        ),
        pytest.param(BERLIN, "02:00", "2026-03-28 12:00", ["2026-03-29T01:00"], id="Berlin spring, gap's first minute"),
        pytest.param(BERLIN, "03:00", "2026-03-28 12:00", ["2026-03-29T01:00"], id="Berlin spring, gap's end"),
        # Autumn: 02:00 to 03:00 happens twice on 2026-10-25; the first counts.
        pytest.param(
            BERLIN,
            "02:30",
            "2026-10-24 12:00",
            ["2026-10-25T00:30", "2026-10-26T01:30"],
            id="Berlin autumn, in the doubled hour",
        ),
        pytest.param(BERLIN, "03:00", "2026-10-24 12:00", ["2026-10-25T02:00"], id="Berlin autumn, after it"),
        pytest.param(
            NEW_YORK, "02:30", "2026-03-07 12:00", ["2026-03-08T07:30", "2026-03-09T06:30"], id="New York spring"
        ),
        pytest.param(
            NEW_YORK, "01:30", "2026-10-31 12:00", ["2026-11-01T05:30", "2026-11-02T06:30"], id="New York autumn"
        ),
        # Lord Howe moves by half an hour, at 02:00.
        pytest.param(
            LORD_HOWE, "02:15", "2026-10-03 12:00", ["2026-10-03T15:45", "2026-10-04T15:15"], id="Lord Howe spring"
        ),
        pytest.param(
            LORD_HOWE, "01:45", "2026-04-04 12:00", ["2026-04-04T14:45", "2026-04-05T15:15"], id="Lord Howe autumn"
        ),
        pytest.param(SEOUL, "02:00", "2026-03-28 12:00", ["2026-03-28T17:00", "2026-03-29T17:00"], id="Seoul has none"),
    ],
)
def test_daily_across_a_clock_change(zone: str, time: str, after: str, instants: list[str]) -> None:
    """On the day of a change a daily backup runs once: a skipped time after the jump, a doubled one the first time."""
    found = list(islice(upcoming(form(zone, time=time), local(after, zone)), len(instants)))
    assert [f"{moment:%Y-%m-%dT%H:%M}" for moment in found] == instants


@pytest.mark.promise(_PROMISE, item=6)
def test_asked_within_the_second_of_two_doubled_hours_the_next_is_tomorrow() -> None:
    """A daemon that is restarted in the repeated hour does not run the same wall-clock time again."""
    schedule = form(BERLIN, time="02:30")
    again = local("2026-10-25 02:10", BERLIN, fold=1)
    assert next_due(schedule, again) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_line_for_every_hour_runs_in_both_doubled_hours() -> None:
    """A wildcard hour is a rhythm and not a wall-clock promise: 25 runs on the long day, 23 on the short one."""
    schedule = Schedule(cron=("15 * * * *",), timezone=BERLIN)
    for day, count in (("2026-10-25", 25), ("2026-03-29", 23), ("2026-06-01", 24)):
        start = local(f"{day} 00:00", BERLIN)
        end = local(f"{date.fromisoformat(day) + timedelta(days=1)} 00:00", BERLIN)
        found = [moment for moment in islice(upcoming(schedule, start), 30) if moment < end]
        assert len(found) == count, day
        assert all(second - first == timedelta(hours=1) for first, second in pairwise(found))


def test_of_several_lines_the_earliest_counts() -> None:
    """A host job with two cron lines runs at both times, in order, and once where they coincide."""
    schedule = Schedule(cron=("0 18 * * *", "0 6 * * *", "0 6 1 * *"), timezone="UTC")
    found = list(islice(upcoming(schedule, datetime(2026, 11, 30, 12, tzinfo=UTC)), 4))
    assert [f"{moment:%d %H}" for moment in found] == ["30 18", "01 06", "01 18", "02 06"]


def test_a_line_that_never_comes_gives_none() -> None:
    """30 February is not an endless search."""
    schedule = Schedule(cron=("0 2 30 2 *",), timezone="UTC")
    assert next_due(schedule, datetime(2026, 11, 21, tzinfo=UTC)) is None
    assert latest_due(schedule, datetime(2026, 11, 21, tzinfo=UTC), timedelta(days=400)) is None


@pytest.mark.promise(_PROMISE, item=6)
def test_29_february_as_a_cron_line_is_found_across_years_without_one() -> None:
    """A rare date is found even over the eight years around 2100."""
    schedule = Schedule(cron=("0 2 29 2 *",), timezone="UTC")
    assert next_due(schedule, datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, 2, tzinfo=UTC)


def dates_of(zone: ZoneInfo, year: int) -> Iterator[date]:
    """Yield the calendar dates that a year has in a zone (Apia had no 30 December 2011)."""
    day = date(year, 1, 1)
    while day.year == year:
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone)
        if noon.astimezone(UTC).astimezone(zone).date() == day:
            yield day
        day += timedelta(days=1)


@pytest.mark.promise(_PROMISE, item=6)
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ZONES), st.integers(1990, 2037), st.integers(0, 23), st.sampled_from((0, 1, 15, 30, 45, 59)))
@example(BERLIN, 2026, 2, 30)
@example(LORD_HOWE, 2026, 2, 15)
@example("Pacific/Apia", 2011, 2, 0)
@example("Africa/Cairo", 2023, 0, 0)
@example("America/Havana", 2026, 0, 30)
def test_a_daily_schedule_fires_once_on_every_local_date(zone: str, year: int, hour: int, minute: int) -> None:
    """In any year of any zone there is one run for every date of the calendar, never zero, never two, in order."""
    schedule = form(zone, time=f"{hour:02d}:{minute:02d}")
    place = ZoneInfo(zone)
    start = datetime(year, 1, 1, tzinfo=place) - timedelta(microseconds=1)
    found = list(islice(upcoming(schedule, start), 366))
    assert all(first < second for first, second in pairwise(found))
    dates = [moment.astimezone(place).date() for moment in found]
    assert [day for day in dates if day.year == year] == list(dates_of(place, year))


crons = st.sampled_from(
    (
        "30 2 * * *",
        "0 0 * * 0",
        "15 * * * *",
        "*/20 1-3 * * *",
        "0 */5 * * *",
        "0 2 L * *",
        "59 23 28-31 * *",
        "5 4 1 1 *",
    )
)
moments = st.datetimes(datetime(2019, 1, 1), datetime(2035, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@settings(max_examples=150, deadline=None)
@given(st.lists(crons, min_size=1, max_size=3).map(tuple), st.sampled_from(ZONES), moments)
def test_next_due_is_always_later_and_nothing_lies_between(cron: tuple[str, ...], zone: str, after: datetime) -> None:
    """The next due time is strictly after the moment asked about, and asking again in between gives the same."""
    schedule = Schedule(cron=cron, timezone=zone)
    due = next_due(schedule, after)
    assert due is not None
    assert due > after
    assert due.utcoffset() == timedelta(0)
    assert next_due(schedule, after + (due - after) / 2) == due


@settings(max_examples=100, deadline=None)
@given(
    st.lists(crons, min_size=1, max_size=2).map(tuple),
    st.sampled_from(ZONES),
    moments,
    st.integers(0, 4 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes)),
)
def test_latest_due_is_what_counting_finds(
    cron: tuple[str, ...], zone: str, until: datetime, window: timedelta
) -> None:
    """The last due time of a window is the last that going through it one by one finds, its edges included."""
    schedule = Schedule(cron=cron, timezone=zone)
    last = None
    for moment in upcoming(schedule, until - window - timedelta(hours=1)):
        if moment > until:
            break
        if moment >= until - window:
            last = moment
    assert latest_due(schedule, until, window) == last


def test_latest_due_counts_both_edges_of_its_window() -> None:
    """A due time at this very moment counts, and so does one exactly as old as the window."""
    schedule = form("UTC")
    due = datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert latest_due(schedule, due, timedelta(0)) == due
    assert latest_due(schedule, due + timedelta(hours=5), timedelta(hours=5)) == due
    assert latest_due(schedule, due + timedelta(hours=5), timedelta(hours=5) - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    "late, window, verdict",
    [
        pytest.param(-0.001, 7 * 86400, Verdict.WAIT, id="a millisecond early"),
        pytest.param(-86400, 0, Verdict.WAIT, id="tomorrow"),
        pytest.param(0, 7 * 86400, Verdict.RUN, id="on the second"),
        pytest.param(90, 0, Verdict.RUN, id="a minute and a half late is on time, whatever the window"),
        pytest.param(90.001, 7 * 86400, Verdict.CATCH_UP, id="later is caught up"),
        pytest.param(7 * 86400, 7 * 86400, Verdict.CATCH_UP, id="a week late, just within"),
        pytest.param(7 * 86400 + 1, 7 * 86400, Verdict.TOO_LATE, id="over a week late"),
        pytest.param(91, 0, Verdict.TOO_LATE, id="catching up is switched off"),
    ],
)
def test_what_to_do_about_a_planned_time(late: float, window: float, verdict: Verdict) -> None:
    """Early waits, on time runs, late is caught up within the window, later is left alone."""
    planned = datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert judge(planned, planned + timedelta(seconds=late), timedelta(seconds=window)) is verdict


def test_a_schedule_without_zone_is_meant_in_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's 02:00 is the host's local 02:00, with the zone's DST rules and not its present offset."""
    monkeypatch.setenv("TZ", NEW_YORK)
    found = list(islice(upcoming(form(""), datetime(2026, 3, 7, 12, tzinfo=UTC)), 2))
    assert [f"{moment:%d %H:%M}" for moment in found] == ["08 07:00", "09 06:00"]
