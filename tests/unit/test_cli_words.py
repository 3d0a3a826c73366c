"""Sizes, durations, moments and schedules as `backupctl` writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.words import (
    Times,
    duration,
    number,
    oplog_moment,
    plural,
    promise,
    rate,
    relative,
    schedule,
    size,
)
from nanumpay_backupd.system.units import human_span

NOW = "2026-11-20T20:00:00Z"


@pytest.mark.parametrize(
    "value,text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (9_994_999, "9.99 MB"),
        (9_999_999, "10.0 MB"),
        (99_949_999, "99.9 MB"),
        (99_999_999, "100 MB"),
        (160_432_128, "160 MB"),
        (1_170_000_000, "1.17 GB"),
        (12_345_678_901, "12.3 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    """A size has three digits in decimal units and never rounds up to four (1000 MB)."""
    assert size(value) == text


@given(st.integers(min_value=0, max_value=10**17))
def test_sizes_are_near_and_short(value: int) -> None:
    """Every size is within 1 % of the truth and at most 7 characters long."""
    text = size(value)
    shown, unit = text.split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert abs(float(shown) * factor - value) <= max(0.5, value * 0.01)
    assert len(text) <= 7


@pytest.mark.parametrize(
    "seconds,text",
    [
        (-3, "0.0 s"),
        (0, "0.0 s"),
        (4.06, "4.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (192, "3 min 12 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 day"),
        (3 * 86400 + 4 * 3600 + 59, "3 days 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has one decimal below ten seconds and at most two units above."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "seconds,text",
    [
        (-1, "0s"),
        (41.4, "41s"),
        (59.6, "1m"),
        (90, "1m30s"),
        (900, "15m"),
        (3600, "1h"),
        (5400, "1h30m"),
        (86400, "24h"),
        (172800, "2d"),
        (216000, "2d12h"),
    ],
)
def test_promises(seconds: float, text: str) -> None:
    """A promise is written the way the settings have it, by the client and by the daemon alike."""
    assert promise(seconds) == text
    assert human_span(seconds) == text


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0, "just now"),
        (2, "now"),
        (-4, "just now"),
        (40, "in 40 s"),
        (-89, "89 s ago"),
        (-91, "2 min ago"),
        (3 * 3600, "in 3 h"),
        (-47 * 3600, "47 h ago"),
        (-49 * 3600, "2 days ago"),
        (30 * 86400, "in 30 days"),
    ],
)
def test_relative(seconds: float, text: str) -> None:
    """A distance in time says its direction and one unit."""
    assert relative(seconds) == text


def test_counts() -> None:
    """Counted things agree with their number."""
    assert (plural(1, "copy", "copies"), plural(2, "copy", "copies"), plural(0, "run")) == (
        "1 copy",
        "2 copies",
        "0 runs",
    )
    assert (number(1234567), rate(48_200_000)) == ("1,234,567", "48.2 MB/s")


@pytest.mark.parametrize(
    "zone,text",
    [
        ("Asia/Seoul", "2026-11-21 02:00 KST, 3 h ago"),
        ("UTC", "2026-11-20 17:00 UTC, 3 h ago"),
        ("Asia/Riyadh", "2026-11-20 20:00 UTC+03:00, 3 h ago"),
        ("Asia/Kolkata", "2026-11-20 22:30 IST, 3 h ago"),
        ("America/Sao_Paulo", "2026-11-20 14:00 UTC-03:00, 3 h ago"),
    ],
)
def test_moments_name_their_zone(zone: str, text: str) -> None:
    """A moment is shown in the given zone with a name for it, also where the zone has none but its offset."""
    assert Times(zone, NOW).both("2026-11-20T17:00:00.123456Z") == text


def test_the_doubled_hour_is_told_apart() -> None:
    """In the autumn night of Berlin the two 02:30 are shown differently."""
    times = Times("Europe/Berlin", NOW)
    assert times.when("2026-10-25T00:30:00Z") == "2026-10-25 02:30 CEST"
    assert times.when("2026-10-25T01:30:00Z") == "2026-10-25 02:30 CET"


def test_an_unknown_zone_is_the_hosts() -> None:
    """A zone that this host does not know falls back to the host's own instead of failing."""
    here = datetime(2026, 11, 20, 17, tzinfo=UTC).astimezone()
    for zone in ("", "Mars/Olympus", "../etc/passwd", "+09:00"):
        assert Times(zone, NOW).when("2026-11-20T17:00:00Z").startswith(f"{here:%Y-%m-%d %H:%M} ")


def test_exact_and_elapsed() -> None:
    """Seconds are shown where asked for, and distances have the right sign."""
    times = Times("Asia/Seoul", NOW)
    assert times.exact("2026-11-20T17:00:07Z") == "2026-11-21 02:00:07 KST"
    assert times.since("2026-11-20T19:00:00Z") == 3600
    assert Times.between("2026-11-20T19:00:00Z", "2026-11-20T19:00:02.5Z") == 2.5


@pytest.mark.parametrize(
    "zone,clock,both",
    [
        ("Asia/Seoul", "02:00:07", "2026-11-21 02:00:07 KST (2026-11-20 17:00:07 UTC)"),
        ("Europe/Berlin", "18:00:07", "2026-11-20 18:00:07 CET (17:00:07 UTC)"),
        ("UTC", "17:00:07", "2026-11-20 17:00:07 UTC"),
        ("Pacific/Auckland", "06:00:07", "2026-11-21 06:00:07 NZDT (2026-11-20 17:00:07 UTC)"),
    ],
)
def test_a_moment_in_both_zones(zone: str, clock: str, both: str) -> None:
    """What is restored is told in both zones; what is of today needs no date."""
    times = Times(zone, NOW)
    assert times.clock("2026-11-20T17:00:07Z") == clock
    assert times.clock("2026-11-18T17:00:07Z") == times.exact("2026-11-18T17:00:07Z")
    assert times.with_utc("2026-11-20T17:00:07Z") == both


def test_an_oplog_time_is_a_moment() -> None:
    """The seconds of an oplog time are those since 1970."""
    assert Times("UTC", NOW).exact(oplog_moment("1732156259:4")) == "2024-11-21 02:30:59 UTC"


def test_now_defaults_to_this_hosts_clock() -> None:
    """Without the daemon's clock the host's is used."""
    assert Times().ago((datetime.now(UTC) - timedelta(hours=3)).isoformat()) == "3 h ago"


@pytest.mark.parametrize(
    "lines,text",
    [
        (["0 2 * * *"], "daily at 02:00 KST"),
        (["30 3,15 * * *"], "daily at 03:30 and 15:30 KST"),
        (["0 2 * * 0"], "weekly on Sunday at 02:00 KST"),
        (["0 2 * * 7"], "weekly on Sunday at 02:00 KST"),
        (["0 2 * * mon,THU"], "weekly on Monday and Thursday at 02:00 KST"),
        (["0 2 * * 1-5"], "Monday to Friday at 02:00 KST"),
        (["0 2 1 * *"], "monthly on the 1st at 02:00 KST"),
        (["0 2 1,15 * *"], "monthly on the 1st and 15th at 02:00 KST"),
        (["0 2 22 * *"], "monthly on the 22nd at 02:00 KST"),
        (["0 2 L * *"], "monthly on the last day at 02:00 KST"),
        (["0 2 30 1,3-12 *", "0 2 L 2 *"], "monthly on the 30th or the month's last day at 02:00 KST"),
        (["0 2 * * *", "0 14 * * 6"], "daily at 02:00 KST, and weekly on Saturday at 14:00 KST"),
        (["*/15 * * * *"], "every 15 minutes"),
        (["* * * * *"], "every minute"),
        (["0 * * * *"], "hourly"),
        (["20 * * * *"], "hourly at minute 20"),
        (["0 */6 * * *"], "every 6 hours"),
        (["5 */6 * * *"], "every 6 hours at minute 5"),
        (["@daily"], "daily at 00:00 KST"),
        (["0 2 13 * 5"], 'cron "0 2 13 * 5" KST'),
        (["0 2 * 6 *"], 'cron "0 2 * 6 *" KST'),
        (["0 2 * * 5#2"], 'cron "0 2 * * 5#2" KST'),
        (["0-30 2 * * *"], 'cron "0-30 2 * * *" KST'),
        (["nonsense"], 'cron "nonsense" KST'),
        ([], "only by hand"),
    ],
)
def test_schedules_in_words(lines: list[str], text: str) -> None:
    """Simple cron lines are said in words; what is not simple is shown as it is rather than wrongly."""
    assert schedule(lines, "KST") == text
