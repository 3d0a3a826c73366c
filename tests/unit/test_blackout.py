"""Windows of the week: how they are read, what lies in them, when it is free again, also where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nanumpay_backupd.blackout import Window, covers_week, free_at, parse

BERLIN = ZoneInfo("Europe/Berlin")
SEOUL = ZoneInfo("Asia/Seoul")
ZONES = [BERLIN, SEOUL, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]
MONDAY = datetime(2026, 11, 16, tzinfo=UTC)

windows = st.builds(
    lambda days, start, length: Window(days, start, start + length),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 24 * 60 - 1),
    st.integers(1, 24 * 60 - 1),
)


def shown(window: Window, wall: datetime) -> bool:
    """Say by counting, not by calculating, whether what a clock shows lies in a window."""
    minute = wall.weekday() * 1440 + wall.hour * 60 + wall.minute
    return any((minute - day * 1440 - window.start) % 10080 < window.end - window.start for day in window.days)


@pytest.mark.parametrize(
    "text, written",
    [
        ("09:00-18:00", "09:00-18:00"),
        ("9:00 - 18:00", "09:00-18:00"),
        ("mon-fri 09:00-18:00", "mon-fri 09:00-18:00"),
        ("MON,tue,wed 22:00-02:00", "mon-wed 22:00-02:00"),
        ("fri-mon 00:00-24:00", "mon,fri,sat,sun 00:00-24:00"),
        ("sat,sun 22:00-00:00", "sat,sun 22:00-24:00"),
        ("mon-sun 01:00-02:00", "01:00-02:00"),
    ],
)
def test_windows_are_read(text: str, written: str) -> None:
    """What is meant is written in one way, and that way means the same."""
    assert str(parse(text)) == written
    assert parse(written) == parse(text)


@pytest.mark.parametrize(
    "text", ["", "09:00", "09:00-09:00", "25:00-26:00", "24:00-01:00", "moon 09:00-10:00", "mon- 09:00-10:00", "9-18"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    """Neither a window without length nor a word that is no day is guessed at."""
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "texts, zone, moment, free",
    [
        (["09:00-18:00"], SEOUL, "2026-11-16T12:00:30+09:00", "2026-11-16T18:00:00+09:00"),
        (["09:00-18:00"], SEOUL, "2026-11-16T18:00:00+09:00", "2026-11-16T18:00:00+09:00"),
        (["09:00-18:00"], SEOUL, "2026-11-16T08:59:59+09:00", "2026-11-16T08:59:59+09:00"),
        (["mon-fri 09:00-18:00"], SEOUL, "2026-11-21T12:00:00+09:00", "2026-11-21T12:00:00+09:00"),
        (["22:00-02:00"], SEOUL, "2026-11-16T23:00:00+09:00", "2026-11-17T02:00:00+09:00"),
        (["fri 22:00-02:00"], SEOUL, "2026-11-21T01:00:00+09:00", "2026-11-21T02:00:00+09:00"),
        (["fri 22:00-02:00"], SEOUL, "2026-11-20T01:00:00+09:00", "2026-11-20T01:00:00+09:00"),
        # One window leads into the next.
        (
            ["09:00-18:00", "17:00-20:00", "20:00-21:00"],
            SEOUL,
            "2026-11-16T10:00:00+09:00",
            "2026-11-16T21:00:00+09:00",
        ),
        (["sat 00:00-24:00", "sun 00:00-24:00"], SEOUL, "2026-11-21T00:00:00+09:00", "2026-11-23T00:00:00+09:00"),
        # Spring: 02:00 to 03:00 is skipped. A window that lies in it never is; one that ends in it ends at the change.
        (["02:10-02:50"], BERLIN, "2026-03-29T01:59:59+01:00", "2026-03-29T01:59:59+01:00"),
        (["01:00-02:30"], BERLIN, "2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"),
        (["01:00-03:30"], BERLIN, "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"),
        (["02:30-04:00"], BERLIN, "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"),
        # Autumn: 02:00 to 03:00 comes twice, and a window in it does too.
        (["02:10-02:30"], BERLIN, "2026-10-25T02:20:00+02:00", "2026-10-25T02:30:00+02:00"),
        (["02:10-02:30"], BERLIN, "2026-10-25T02:20:00+01:00", "2026-10-25T02:30:00+01:00"),
        (["01:00-03:00"], BERLIN, "2026-10-25T01:30:00+02:00", "2026-10-25T03:00:00+01:00"),
        (["02:00-03:00"], BERLIN, "2026-10-25T02:00:00+02:00", "2026-10-25T03:00:00+01:00"),
    ],
)
def test_when_it_is_free_again(texts: list[str], zone: ZoneInfo, moment: str, free: str) -> None:
    """The end of a window is what the clock on the wall says, on ordinary days and where the clocks change."""
    found = free_at([parse(text) for text in texts], datetime.fromisoformat(moment), zone)
    assert found == datetime.fromisoformat(free)


def test_a_week_without_a_free_minute_is_told() -> None:
    """Windows that leave nothing are found, however they are cut; one minute is enough."""
    assert covers_week([parse("00:00-24:00")])
    assert covers_week([parse("22:00-10:00"), parse("10:00-22:00")])
    assert covers_week([parse("mon-fri 00:00-24:00"), parse("sat,sun 00:00-24:00")])
    assert not covers_week([parse("22:00-10:00"), parse("10:00-21:59")])
    assert not covers_week([])


@given(
    st.lists(windows, min_size=1, max_size=4),
    st.sampled_from(ZONES),
    st.integers(0, 365 * 24 * 3600),
)
def test_the_free_moment_is_free_and_the_first(found: list[Window], zone: ZoneInfo, seconds: int) -> None:
    """From any moment of a year, in any zone: what is given lies in no window, and all before it does."""
    assume(not covers_week(found))
    moment = MONDAY + timedelta(seconds=seconds)
    free = free_at(found, moment, zone)
    assert free >= moment
    assert not any(shown(window, free.astimezone(zone)) for window in found)
    span = free - moment
    looked_at = [moment + span * part / 40 for part in range(40)] + [free - timedelta(seconds=1)]
    assert all(any(shown(window, at.astimezone(zone)) for window in found) for at in looked_at if moment <= at < free)


@given(st.lists(windows, min_size=1, max_size=3))
def test_a_window_means_the_same_once_it_was_written(found: list[Window]) -> None:
    """What is shown of a window can be typed again."""
    for window in found:
        assert parse(str(window)) == window
