"""Moments as people write them for `restore --at`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.words import Times
from nanumpay_backupd.errors import UsageError
from nanumpay_backupd.moments import EXAMPLES, read_future
from nanumpay_backupd.moments import read_moment as read_in_zone

SEOUL = Times("Asia/Seoul", "2026-11-21T01:41:19.5Z")  # 10:41:19 there
BERLIN_AUTUMN = Times("Europe/Berlin", "2026-10-25T20:00:00Z")
BERLIN_SPRING = Times("Europe/Berlin", "2026-03-29T01:10:00Z")  # 03:10 there, ten minutes after the jump
# Zones in which two neighbouring offsets never share a name, so that a name tells doubled hours apart.
ZONES = (
    "Asia/Seoul",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "UTC",
)
SECONDS = st.integers(min_value=1_600_000_000, max_value=2_000_000_000)


def read_moment(text: str, times: Times) -> tuple[str, str]:
    """Read a moment as `backupctl` does, in the zone and at the time that it shows everything in."""
    return read_in_zone(text, times.zone, times.now)


def in_utc(second: int) -> str:
    """Write a Unix time as the protocol does."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    "text,moment",
    [
        ("10:30:59", "2026-11-21T01:30:59Z"),
        ("10:30", "2026-11-21T01:30:00Z"),
        ("9:05", "2026-11-21T00:05:00Z"),
        ("10:41:19", "2026-11-21T01:41:19Z"),
        ("10:41:20", "2026-11-20T01:41:20Z"),  # is still to come today
        ("23:00", "2026-11-20T14:00:00Z"),
        ("today 10:30", "2026-11-21T01:30:00Z"),
        ("yesterday 18:00", "2026-11-20T09:00:00Z"),
        ("Yesterday at 18:00:01", "2026-11-20T09:00:01Z"),
        ("2026-11-21 10:30:59", "2026-11-21T01:30:59Z"),
        ("2026-11-21  10:30", "2026-11-21T01:30:00Z"),
        ("2026-11-21T10:30:59", "2026-11-21T01:30:59Z"),
        ("2026-11-21t10:30:59z", "2026-11-21T10:30:59Z"),
        ("2026-11-21T01:30:59Z", "2026-11-21T01:30:59Z"),
        ("2026-11-21 10:30:59+09:00", "2026-11-21T01:30:59Z"),
        ("2026-11-21T10:30:59 +0900", "2026-11-21T01:30:59Z"),
        ("2026-11-20T20:30:59-05", "2026-11-21T01:30:59Z"),
        ("2026-11-21 10:30:59 KST", "2026-11-21T01:30:59Z"),
        ("2026-11-21 01:30:59 UTC", "2026-11-21T01:30:59Z"),
        ("2026-11-21 04:30:59 UTC+03:00", "2026-11-21T01:30:59Z"),
        ("01:30Z", "2026-11-21T01:30:00Z"),
        ("02:00Z", "2026-11-20T02:00:00Z"),
        ("5 minutes ago", "2026-11-21T01:36:19Z"),
        ("5m ago", "2026-11-21T01:36:19Z"),
        ("90 s ago", "2026-11-21T01:39:49Z"),
        ("an hour ago", "2026-11-21T00:41:19Z"),
        ("1h30m ago", "2026-11-21T00:11:19Z"),
        ("2 days, 3 hours and 5 min ago", "2026-11-18T22:36:19Z"),
        ("1 week ago", "2026-11-14T01:41:19Z"),
        ("latest", "latest"),
        (" LATEST ", "latest"),
        ("1732156259:4", "1732156259:4"),
        ("1732156259:0", "1732156259:0"),
    ],
)
def test_what_is_understood(text: str, moment: str) -> None:
    """Each way of writing that the documentation names means what it says, without a remark."""
    assert read_moment(text, SEOUL) == (moment, "")


@pytest.mark.parametrize(
    "text,why",
    [
        ("", "is no time that is understood here"),
        ("soon", "is no time that is understood here"),
        ("now", "is no time that is understood here"),
        ("5m", "is no time that is understood here"),
        ("ago", "is no time that is understood here"),
        ("2026-11-21", "is no time that is understood here"),
        ("21.11.2026 10:30", "is no time that is understood here"),
        ("1732156259", "is no time that is understood here"),
        ("5000000000:1", "is no time that is understood here"),
        ("10:30:59:1", "is no time that is understood here"),
        ("1٣:30", "is no time that is understood here"),
        ("25:00", "is no time that exists"),
        ("10:60", "is no time that exists"),
        ("2026-02-30 10:00", "is no time that exists"),
        ("1969-12-31 10:00", "is no time that an oplog can hold"),
        ("2199-12-31 10:00", "is no time that an oplog can hold"),
        ("99999999999 weeks ago", "is too long ago"),
        ("3000 weeks ago", "is no time that an oplog can hold"),
        ("5 parsecs ago", "'parsecs' is no unit of time"),
    ],
)
def test_what_is_not_understood(text: str, why: str) -> None:
    """Anything else is a mistake on the command line, told with examples that are understood."""
    with pytest.raises(UsageError) as caught:
        read_moment(text, SEOUL)
    assert caught.value.message.startswith(f"'{text}' ")
    assert why in caught.value.message
    assert caught.value.hint == f"for example: {EXAMPLES}"


def test_the_examples_are_understood() -> None:
    """What a mistake is answered with can be typed as it stands there."""
    for example in EXAMPLES.split(", "):
        read_moment(example.strip('"'), SEOUL)


@pytest.mark.parametrize("text", ["10:30 PST", "10:30 pm", "2026-11-21 10:30:59 CET"])
def test_a_foreign_zone_by_name(text: str) -> None:
    """Names of other zones are not guessed at; the way out is told."""
    with pytest.raises(UsageError, match="behind the time in") as caught:
        read_moment(text, SEOUL)
    assert "one of KST" in caught.value.hint
    assert "+09:00" in caught.value.hint


def test_an_offset_that_is_none() -> None:
    """An offset of a day or more is refused."""
    with pytest.raises(UsageError, match=r"'\+99:00' is no offset"):
        read_moment("10:30+99:00", SEOUL)


def test_fractions_of_a_second() -> None:
    """A moment copied from a log is taken, with a word on what the oplog cannot tell apart."""
    moment, remark = read_moment("2026-11-21T01:30:59.346834Z", SEOUL)
    assert moment == "2026-11-21T01:30:59Z"
    assert "all that was written in 01:30:59" in remark


@pytest.mark.parametrize("text", ["02:30", "2026-10-25 02:30:00", "today 02:30"])
def test_of_a_doubled_hour_the_first_is_meant(text: str) -> None:
    """In the autumn night of Berlin 02:30 is the summer's, and it is said how to mean the other."""
    moment, remark = read_moment(text, BERLIN_AUTUMN)
    assert moment == "2026-10-25T00:30:00Z"
    assert "twice on 2026-10-25: the first is meant (CEST, 00:30:00 UTC)" in remark
    other = remark.rpartition(" ")[2].rstrip(".")
    assert other == "2026-10-25T02:30:00+01:00"
    assert read_moment(other, BERLIN_AUTUMN) == ("2026-10-25T01:30:00Z", "")
    assert read_moment(f"{text} CET", BERLIN_AUTUMN) == ("2026-10-25T01:30:00Z", "")
    assert read_moment(f"{text} CEST", BERLIN_AUTUMN) == ("2026-10-25T00:30:00Z", "")


@pytest.mark.parametrize("text", ["02:30", "2026-03-29 02:00", "today 02:59:59"])
def test_what_the_clocks_left_out_is_refused(text: str) -> None:
    """In the spring night of Berlin there is no 02:30, and it is said what the clocks did."""
    with pytest.raises(UsageError) as caught:
        read_moment(text, BERLIN_SPRING)
    assert "on 2026-03-29 in Europe/Berlin: the clocks go from 02:00 to 03:00 then" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text,moment",
    [
        ("01:59:59", "2026-03-29T00:59:59Z"),
        ("03:00", "2026-03-29T01:00:00Z"),
        ("04:00", "2026-03-28T03:00:00Z"),
        ("yesterday 02:30", "2026-03-28T01:30:00Z"),
    ],
)
def test_beside_what_the_clocks_left_out(text: str, moment: str) -> None:
    """What lies beside the jump is understood, and yesterday's is another day."""
    assert read_moment(text, BERLIN_SPRING) == (moment, "")


def test_a_time_that_is_still_to_come_and_left_out_today_was_yesterdays() -> None:
    """Before the jump, a time that it will leave out can only mean yesterday's."""
    assert read_moment("02:30", Times("Europe/Berlin", "2026-03-29T00:10:00Z")) == ("2026-03-28T01:30:00Z", "")


def test_a_jump_that_is_no_hour() -> None:
    """Lord Howe's clocks jump by half an hour, and that is what is said."""
    with pytest.raises(UsageError, match="the clocks go from 02:00 to 02:30 then"):
        read_moment("2026-10-04 02:10", Times("Australia/Lord_Howe", "2026-11-01T00:00:00Z"))


@pytest.mark.parametrize("zone", ["", "Mars/Olympus"])
def test_a_zone_that_is_the_hosts(zone: str) -> None:
    """Without a zone of the daemon's the host's own is meant, as in everything that is shown."""
    times = Times(zone, "2026-11-21T01:41:19Z")
    assert read_moment(times.exact("2026-11-20T10:00:00Z"), times) == ("2026-11-20T10:00:00Z", "")


@given(SECONDS, SECONDS, st.sampled_from(ZONES))
def test_what_is_shown_can_be_typed(second: int, now: int, zone: str) -> None:
    """A moment copied from any output means the same moment again, in any zone and any night of the year."""
    times = Times(zone, in_utc(now))
    assert read_moment(times.exact(in_utc(second)), times) == (in_utc(second), "")
    assert read_moment(in_utc(second), times) == (in_utc(second), "")


@given(SECONDS, SECONDS, st.sampled_from(ZONES))
def test_a_local_time_is_shown_as_it_was_typed(second: int, now: int, zone: str) -> None:
    """Without a name of the zone it is the same time on the wall, at the first moment when the clocks showed it."""
    times = Times(zone, in_utc(now))
    typed = times.exact(in_utc(second)).rpartition(" ")[0]
    moment, remark = read_moment(typed, times)
    assert times.exact(moment).rpartition(" ")[0] == typed
    assert moment <= in_utc(second)
    assert (moment == in_utc(second)) or remark


@given(SECONDS, st.integers(0, 86399), st.sampled_from(ZONES))
def test_a_time_of_day_is_of_the_last_day(now: int, of_day: int, zone: str) -> None:
    """A bare time of day is never in the future, and never longer ago than a day and what the clocks may jump."""
    times = Times(zone, in_utc(now))
    try:
        moment, _ = read_moment(f"{of_day // 3600:02d}:{of_day // 60 % 60:02d}:{of_day % 60:02d}", times)
    except UsageError as error:
        if "the clocks go from" not in error.message:
            raise
        return
    away = times.now - times.local(moment)
    assert timedelta(0) <= away <= timedelta(days=1, hours=1)


@given(st.text(max_size=40) | st.text("0123456789:-+. TZagominyesterdaUC", max_size=30))
def test_nonsense_is_a_mistake_and_no_crash(text: str) -> None:
    """Whatever is typed is either understood or refused as a mistake on the command line."""
    try:
        moment, _ = read_moment(text, BERLIN_AUTUMN)
    except UsageError:
        return
    assert moment == "latest" or moment.endswith("Z") or moment.replace(":", "").isdigit()


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2027-03-01", "2027-02-28T15:00:00Z"),
        ("2026-11-22", "2026-11-21T15:00:00Z"),
        ("2026-11-21 10:41:20", "2026-11-21T01:41:20Z"),
        (" 2027-03-01   02:00 ", "2027-02-28T17:00:00Z"),
        ("2027-03-01T02:00Z", "2027-03-01T02:00:00Z"),
        ("in 30 days", "2026-12-21T01:41:19Z"),
        ("In 1 week, 2 days and 3 hours", "2026-11-30T04:41:19Z"),
        ("in a week", "2026-11-28T01:41:19Z"),
        ("in 1h30m", "2026-11-21T03:11:19Z"),
    ],
)
def test_a_day_to_come(text: str, moment: str) -> None:
    """A day is its first moment in the daemon's zone; spans count from now."""
    assert read_future(text, SEOUL.zone, SEOUL.now) == moment


@pytest.mark.parametrize(
    "text, words",
    [
        ("2026-11-21", "has passed"),
        ("2026-11-21 10:41:19", "has passed"),
        ("in 0 days", "has passed"),
        ("yesterday 18:00", "is no day"),
        ("18:00", "is no day"),
        ("5 minutes ago", "is no day"),
        ("latest", "is no day"),
        ("1790000000:1", "is no day"),
        ("2027-02-30", "no time that exists"),
        ("in 3 moons", "'moons' is no unit"),
        ("in 99999999999999 weeks", "too far away"),
        ("in 300 weeks and a thousand", "'thousand' is no unit"),
        ("in " + "a" * 60 + "!", "is no day"),
        ("9999-01-01", "that an oplog can hold"),
        ("", "is no day"),
    ],
)
def test_what_is_no_day_to_come(text: str, words: str) -> None:
    """It is refused with what is wrong, and what can be written."""
    with pytest.raises(UsageError, match=words) as caught:
        read_future(text, SEOUL.zone, SEOUL.now)
    assert "in 30 days" in caught.value.hint


@given(SECONDS, st.sampled_from(ZONES))
def test_a_moment_to_come_means_the_same_as_one_that_passed(second: int, zone: str) -> None:
    """Written with its date and time, a moment is read alike by both."""
    times = Times(zone, in_utc(second))
    wall = times.local(in_utc(second + 86_400))
    text = f"{wall:%Y-%m-%d %H:%M:%S%z}"
    assert read_future(text, times.zone, times.now) == read_moment(text, times)[0] == in_utc(second + 86_400)
