"""Two backups a day for 1,000 days: what stays is the table in docs/retention.md; its settings and dates are true."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from nanumpay_backupd.model import OpTime, Policy, Tiers
from nanumpay_backupd.retention import Candidate, Coming, Decision, SliceCandidate, decide, decide_place, foresee
from nanumpay_backupd.settings.hostfile import parse_host_file
from tests.servers.tools import PROJECT

PAGE: Final = (PROJECT / "docs" / "retention.md").read_text(encoding="utf-8")
SEOUL: Final = ZoneInfo("Asia/Seoul")
NOW: Final = datetime(2026, 11, 21, 21, 0, tzinfo=SEOUL).astimezone(UTC)
TIERS: Final = Tiers(
    keep_all_for_days=7,
    keep_daily_for_days=16,
    keep_weekly_for_weeks=8,
    keep_monthly_for_months=4,
    keep_yearly_for_years=2,
)
POLICY: Final = Policy(tiers=TIERS)
ROWS: Final = {
    "within": "all of 7 days",
    "the newest of 2": "one a day",
    "the newest of week": "one a week",
    "the newest of month": "one a month",
    "the newest of year": "one a year",
}


def backups() -> list[Candidate]:
    """Two backups a day for 1,000 days, at 02:00 and 14:00 in Seoul, the oldest first."""
    days = (NOW.astimezone(SEOUL).date() - timedelta(days=ago) for ago in range(999, -1, -1))
    times = (datetime(day.year, day.month, day.day, hour, tzinfo=SEOUL) for day in days for hour in (2, 14))
    return [Candidate(f"{moment:%Y-%m-%d %H:%M}", moment.astimezone(UTC), good=True, size=1) for moment in times]


def kept(decisions: list[Decision]) -> list[str]:
    """Return what stays."""
    return [decision.backup for decision in decisions if decision.keep]


def rows(decisions: list[Decision]) -> Iterator[str]:
    """Lay out what stays as the page does: a row for each rule, the newest first."""
    yield "| rule | kept | which |"
    yield "|---|---|---|"
    for beginning, rule in ROWS.items():
        found = [one.backup for one in decisions if one.keep and one.reason.startswith(beginning)]
        shown = f"{found[0]} back to {found[-1]}" if rule.startswith("all") else ", ".join(found)
        yield f"| {rule} | {len(found)} | {shown} |"


def test_the_kept_set_of_a_thousand_days_is_that_of_the_docs() -> None:
    """The table names every backup that stays, by the rule that keeps it."""
    decisions = decide(backups(), POLICY, NOW, SEOUL)
    assert len(decisions) == 2000
    table = "\n".join(rows(decisions))
    assert table in PAGE, f"docs/retention.md should have:\n\n{table}\n"
    assert f"**{len(kept(decisions))} of 2,000**" in PAGE
    # Each that stays is in one row.
    assert sum(int(row.split("|")[2]) for row in table.splitlines()[2:]) == len(kept(decisions))


def test_pruned_after_each_backup_the_same_stays() -> None:
    """Nobody prunes once after 1,000 days: day by day the same is left."""
    there: list[Candidate] = []
    for backup in backups():
        there.append(backup)
        keep = set(kept(decide(there, POLICY, backup.created, SEOUL)))
        there = [item for item in there if item.backup in keep]
    assert kept(decide(there, POLICY, NOW, SEOUL)) == kept(decide(backups(), POLICY, NOW, SEOUL))


def test_foreseen_backups_end_as_real_ones() -> None:
    """The look ahead, from the first day on, shows what is there after 1,000 days; so it does with a limit."""
    first, *others = backups()
    coming = Coming([item.created for item in others], [item.backup for item in others], 1)
    for size in (0, 20):
        policy = Policy(tiers=TIERS, max_total_size=size)
        foreseen = foresee([first], [], policy, NOW, SEOUL, coming)
        there: list[Candidate] = []
        for backup in (first, *others):
            there.append(backup)
            keep = set(kept(decide(there, policy, backup.created, SEOUL)))
            there = [item for item in there if item.backup in keep]
        assert kept(foreseen) == kept(decide(there, policy, NOW, SEOUL))
        assert len(foreseen) == 2000
        assert size == 0 or len(kept(foreseen)) == size


def test_foreseen_slices_take_room_too() -> None:
    """What the changes will take is assumed from what they took: with a limit, fewer fulls stay beside them."""
    begin = NOW - timedelta(days=1)
    moment = OpTime(int(begin.timestamp()), 0)
    full = Candidate("first", begin, good=True, size=100, moment=moment)
    times = [NOW + timedelta(days=day) for day in range(30)]
    names = [f"{time:%m-%d}" for time in times]
    policy = Policy(tiers=Tiers(keep_all_for_days=7, keep_daily_for_days=30), max_total_size=1500)
    for rate, staying in ((0.0, 15), (100 / 86400, 8)):
        coming = Coming(times, names, 100, moments=True, slices=rate, since=begin)
        found = kept(foresee([full], [], policy, times[-1], SEOUL, coming))
        assert len([name for name in found if name in names]) == staying


def test_dates_are_those_of_the_zone() -> None:
    """A backup of 02:00 in Seoul is of that day there, although it is still the day before in UTC."""
    times = [datetime(2026, 11, day, hour, tzinfo=SEOUL) for day in (1, 2) for hour in (2, 14)]
    candidates = [Candidate(f"{moment:%d %H}", moment.astimezone(UTC), good=True) for moment in times]
    policy = Policy(tiers=Tiers(keep_all_for_days=1, keep_daily_for_days=30))
    assert kept(decide(candidates, policy, NOW, SEOUL)) == ["02 14", "01 14"]
    assert kept(decide(candidates, policy, NOW, UTC)) == ["02 14", "02 02", "01 02"]


def test_iso_weeks_go_over_the_turn_of_the_year() -> None:
    """The last days of December may be of the first week of the next year, and have one newest with it."""
    days = [datetime(2025, 12, 28, tzinfo=UTC) + timedelta(days=at) for at in range(10)]
    candidates = [Candidate(f"{day:%m-%d}", day, good=True) for day in days]
    policy = Policy(tiers=Tiers(keep_all_for_days=1, keep_weekly_for_weeks=52))
    found = {one.backup: one.reason for one in decide(candidates, policy, datetime(2026, 3, 1, tzinfo=UTC)) if one.keep}
    assert found == {
        "01-06": "the newest of week 2026-W02",
        "01-04": "the newest of week 2026-W01",
        "12-28": "the newest of week 2025-W52",
    }


def test_reasons_name_the_rule_and_what_took_the_place() -> None:
    """`prune` says of each copy which window keeps it, or which newer one of its period does not let it stay."""
    decisions = {one.backup: one.reason for one in decide(backups(), POLICY, NOW, SEOUL)}
    assert decisions["2026-11-21 14:00"] == "within the last 7 days, of which all are kept"
    assert decisions["2026-11-10 14:00"] == "the newest of 2026-11-10"
    assert decisions["2026-11-10 02:00"] == "2026-11-10 has a newer one: 2026-11-10 14:00"
    assert decisions["2026-10-20 14:00"] == "week 2026-W43 has a newer one: 2026-10-25 14:00"
    assert decisions["2026-09-30 14:00"] == "the newest of month 2026-09"
    assert decisions["2026-07-30 14:00"] == "month 2026-07 has a newer one: 2026-07-31 14:00"
    assert decisions["2025-12-31 14:00"] == "the newest of year 2025"
    assert decisions["2024-03-01 14:00"] == "older than all windows, which reach back to 2024-05-03"


def test_reasons_of_slices_and_sizes() -> None:
    """Chains and the limit of the size have words of their own."""
    fulls = [
        Candidate(f"day {ago}", NOW - timedelta(days=ago), True, size=10, moment=OpTime(int(NOW.timestamp()) - ago, 0))
        for ago in range(4)
    ]
    moments = [item.moment for item in fulls if item.moment is not None]
    slices = [
        SliceCandidate(f"changes {ago}", NOW - timedelta(days=ago), end, start=start, size=1)
        for ago, (end, start) in enumerate(itertools.pairwise(moments))
    ]
    policy = Policy(tiers=Tiers(keep_all_for_days=9), max_total_size=22)
    reasons = {one.backup: (one.keep, one.reason) for one in decide_place(fulls, slices, policy, NOW)}
    too_much = "more than 22 B would be kept: the oldest goes first"
    assert reasons["day 3"] == reasons["day 2"] == (False, too_much)
    assert reasons["changes 2"] == (False, "its chain goes with day 3")
    assert reasons["changes 1"] == (False, "its chain goes with day 2")
    assert reasons["changes 0"] == (True, "it leads on from a full that is kept here")


def test_a_full_is_of_the_end_of_its_dump() -> None:
    """One that was begun before the window and ended in it is kept with all: later the slices lead on from it."""
    end = NOW - timedelta(days=1)
    older, across, newer = (
        Candidate(name, end + began, True, moment=OpTime(int((end + began).timestamp()) + 1200, 0))
        for name, began in (
            ("older", timedelta(hours=-9)),
            ("across", timedelta(minutes=-10)),
            ("newer", timedelta(hours=1)),
        )
    )
    policy = Policy(tiers=Tiers(keep_all_for_days=1))
    assert kept(decide([older, across, newer], policy, NOW, SEOUL)) == ["newer", "across"]
    moment = older.moment
    assert moment is not None
    assert newer.moment is not None
    changes = SliceCandidate("changes", NOW, newer.moment, start=moment)
    reasons = {one.backup: one.reason for one in decide_place([older, across, newer], [changes], policy, NOW, SEOUL)}
    assert reasons["across"].startswith("within the last day, ")
    assert reasons["older"] == "the slices of the time of which all is kept lead on from it"
    later = decide_place([older, across, newer], [changes], policy, NOW + timedelta(minutes=15), SEOUL)
    assert {one.backup for one in later if one.keep} == {"newer", "across", "changes"}


def test_the_settings_of_the_page_are_accepted() -> None:
    """Each block of TOML can be taken as it stands, and the first one is the policy of the table."""
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert tomllib.loads(block)
        parse_host_file(block, "docs/retention.md", environ={})
    said = parse_host_file(blocks[0], "docs/retention.md", environ={}).nanumpay.retention
    assert {name: getattr(said, name) for name in Tiers.__struct_fields__} == {
        name: getattr(TIERS, name) for name in Tiers.__struct_fields__
    }
