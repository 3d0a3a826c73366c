"""The demo's arithmetic: when its backup is due, and how long lines are broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.terminal import width
from tests.demo.teller import fold
from tests.demo.zone import due_time, local_time, seconds_off, write_zone

MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, st.floats(0.1, 4.5))
def test_full_minute_is_always_near(now: datetime, until_saved: float) -> None:
    """Whenever the demo starts, what it saves some seconds later is due within 15 s, and not too soon to be saved."""
    off = seconds_off(now)
    saved = now + timedelta(seconds=until_saved)
    text, due = due_time(saved, off)
    assert 3.0 <= (due - saved).total_seconds() <= 15.0
    local = local_time(due, off)
    assert (local.second, local.microsecond) == (0, 0)
    assert f"{local:%H:%M}" == text


@given(MOMENTS)
def test_zone_is_off_by_half_a_minute_at_most(now: datetime) -> None:
    """The zone is Korea's wherever a full minute is near anyway, and never further off than 30 s."""
    off = seconds_off(now)
    assert abs(off) <= 30
    if 46 <= now.second <= 51:
        assert off == 0


@pytest.mark.parametrize("off", [-30, -1, 1, 17, 30])
def test_written_zone_is_read_as_it_was_meant(tmp_path: Path, off: int) -> None:
    """The file is a zone for Python (and so for the daemon) with Korea's name and the odd seconds."""
    write_zone(tmp_path, off)
    with (tmp_path / "Demo" / "Seoul").open("rb") as file:
        zone = ZoneInfo.from_file(file)
    local = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).astimezone(zone)
    assert local.utcoffset() == timedelta(hours=9, seconds=off)
    assert local.tzname() == "KST"


@given(st.text("ab \x1b[0m가힣", max_size=120), st.integers(10, 40))
def test_folded_lines_fit_and_lose_nothing(text: str, room: int) -> None:
    """Every line fits unless it is one long word, and all words are there in their order."""
    lines = fold(text, room, indent="  ")
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line) <= room or " " not in line.strip() for line in lines)


def test_short_line_is_kept_as_it_is() -> None:
    """Spaces between the cells of a table stay."""
    assert fold("A     B   가", 40) == ["A     B   가"]
    assert fold("", 40) == [""]
