"""Up to which moment time is known to have passed: whatever a clock says, no backup becomes old by it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.health.lived import Lived, Reading, lived_on
from tests.workbench import NOW

_PROMISE = "A clock that jumps, by hours or years, deletes nothing because of its age and delays no backup."

HOUR = 3600.0
DAY = 24 * HOUR
YEARS = 5 * 365 * DAY


def after(
    seconds: float, clock: float, *, last: Lived | None = None, rebooted: bool = False, vouched: bool = False
) -> Lived:
    """Look once more ``seconds`` after the last look, when the clock says that ``clock`` seconds passed since NOW."""
    last = last or Lived(at=NOW, boot="one", uptime=1000.0)
    boot, uptime = (f"{last.boot}+", seconds) if rebooted else (last.boot, last.uptime + seconds)
    return lived_on(last, Reading(NOW + timedelta(seconds=clock), boot, uptime, vouched))


def counted(seen: Lived, clock: float) -> float:
    """Return from how many seconds after NOW ages are counted."""
    return (seen.counted(NOW + timedelta(seconds=clock)) - NOW).total_seconds()


@pytest.mark.promise(_PROMISE, item=6)
@pytest.mark.parametrize(
    "passed, clock, rebooted, expected",
    [
        pytest.param(HOUR, HOUR, False, HOUR, id="right"),
        pytest.param(HOUR, HOUR + 600, False, HOUR + 600, id="corrected a little"),
        pytest.param(HOUR, HOUR - 600, False, HOUR - 600, id="corrected a little, back"),
        pytest.param(HOUR, 6 * HOUR, False, HOUR, id="hours ahead"),
        pytest.param(HOUR, YEARS, False, HOUR, id="years ahead"),
        pytest.param(HOUR, -6 * HOUR, False, -6 * HOUR, id="hours back"),
        pytest.param(HOUR, -YEARS, False, -YEARS, id="years back"),
        pytest.param(HOUR, 3 * DAY, True, 3 * DAY, id="off for a weekend"),
        pytest.param(HOUR, YEARS, True, HOUR, id="years ahead after a restart"),
        pytest.param(HOUR, -YEARS, True, -YEARS, id="years back after a restart: no battery"),
    ],
)
def test_from_when_ages_are_counted(passed: float, clock: float, rebooted: bool, expected: float) -> None:
    """The clock is followed where it can be right; where it is ahead, by what passed; never beyond what it says."""
    assert counted(after(passed, clock, rebooted=rebooted), clock) == expected


@pytest.mark.promise(_PROMISE, item=6)
def test_a_clock_that_is_set_right_is_believed_at_once() -> None:
    """Ahead by years and back again: nothing is left of it."""
    seen = after(HOUR, 3 * HOUR + DAY, last=after(DAY, YEARS))
    assert seen.doubt is not None, "an hour passed, the clock says more than that"
    seen = after(HOUR, DAY + HOUR, last=after(DAY, YEARS))
    assert seen.doubt is None
    assert counted(seen, DAY + HOUR) == DAY + HOUR


@pytest.mark.promise(_PROMISE, item=6)
def test_a_time_server_is_believed_at_once() -> None:
    """However far it moves the clock: the host was off for months."""
    seen = after(HOUR, YEARS, rebooted=True, vouched=True)
    assert (seen.doubt, counted(seen, YEARS)) == (None, YEARS)


@pytest.mark.promise(_PROMISE, item=6)
@pytest.mark.parametrize("way", [YEARS, -YEARS])
def test_after_a_week_a_clock_that_stays_is_believed(way: float) -> None:
    """Whoever has no time server has a right clock again after a week of uptime, over restarts."""
    seen, days = after(HOUR, way), 0
    while seen.doubt is not None:
        days += 1
        seen = after(DAY, way + days * DAY, last=seen, rebooted=days % 3 == 0)
        assert days <= 8
    assert days == 7
    assert counted(seen, way + days * DAY) == way + days * DAY


@pytest.mark.promise(_PROMISE, item=6)
def test_the_first_look_goes_by_the_newest_backup() -> None:
    """With a catalog of a daemon that did not look yet, a clock that is years ahead is found; an old backup is none."""
    reading = Reading(NOW + timedelta(seconds=YEARS), "one", HOUR)
    assert counted(lived_on(None, reading, NOW), YEARS) == 0.0
    long_up = Reading(NOW + timedelta(days=90), "one", 100 * DAY)
    assert counted(lived_on(None, long_up, NOW), 90 * DAY) == 90 * DAY
    assert counted(lived_on(None, Reading(NOW, "one", 1.0)), 0.0) == 0.0


Looks = st.lists(st.tuples(st.floats(60, 5 * DAY), st.floats(-YEARS, YEARS), st.booleans()), min_size=1, max_size=20)


@pytest.mark.promise(_PROMISE, item=6)
@given(looks=Looks)
def test_no_more_time_is_counted_than_passed(looks: list[tuple[float, float, bool]]) -> None:
    """However a clock jumps, what is counted is never more than what passed and may have passed while it was off.

    Until a clock that stays is believed after a week: then what it says.
    """
    seen: Lived | None = None
    true = slack = 0.0
    for passed, wrong, rebooted in looks:
        true += passed
        slack += (4 * DAY if rebooted else HOUR) + 1
        clock = true + wrong
        before = seen
        seen = after(passed, clock, last=seen, rebooted=rebooted)
        assert counted(seen, clock) <= clock + 1
        if before is not None and before.doubt is not None and before.doubt + passed >= 7 * DAY:
            return
        assert counted(seen, clock) <= true + slack
