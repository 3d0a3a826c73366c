"""What `backupctl monitor` shows: what is wrong first, with what to do; then a row for each place."""

from __future__ import annotations

from typing import Any

from nanumpay_backupd.cli.monitor import monitor_lines
from nanumpay_backupd.cli.terminal import width
from nanumpay_backupd.cli.words import Times
from tests.servers.canned_backupd import BACKUP, NOW, checks_of_places, moment
from tests.unit.cli_screens import screen

TIMES = Times("Asia/Seoul", NOW.isoformat())


def shown(checks: list[dict[str, Any]], columns: int = 0, encoding: str = "utf-8") -> list[str]:
    """Write the lines of a reply with these checks."""
    reply = {"health": "failing", "checks": checks, "looked": moment(minutes=3), "now": moment()}
    return monitor_lines(screen(columns, encoding=encoding)[0], reply, TIMES)


def test_failures_come_first_and_each_place_has_a_row() -> None:
    """A check of the job as a whole has a row of its own behind its places; of what ends, what ends first is shown."""
    assert shown(checks_of_places()) == [
        "● 2 checks failed, 1 warning   looked 3 min ago",
        f"✗ FAILED nanumpay: {BACKUP} is odd: collection pay.orders is gone",
        "  → look into it",
        "✗ FAILED nanumpay, nas: connecting failed at FTP server nas:21",
        "  → is it up?",
        "! WARNING nanumpay, local: the disk is full in 9 days, as things go",
        "  → take a larger disk",
        "",
        "JOB       PLACE  REACHABLE  NEWEST  ROOM      ENDS       CONTENT",
        "nanumpay  local  ✓ 0.0 s    ✓ 6h    ! 9 days  -          -",
        "nanumpay  nas    ✗ no       -       -         ✓ 61 days  -",
        "nanumpay  (all)  -          -       -         -          ✗ data missing",
    ]


def test_on_a_plain_or_narrow_terminal() -> None:
    """Without symbols the words say it; columns go before a row breaks."""
    plain = shown(checks_of_places(), encoding="ascii")
    assert plain[0].startswith("* 2 checks failed")
    assert plain[1].startswith("x FAILED nanumpay: ")
    assert "x no" in plain[-2]
    table = shown(checks_of_places(), columns=50)[-4:]
    assert all(width(line) <= 50 for line in table)
    assert table[0].startswith("JOB       PLACE  REACHABLE")


def test_where_there_is_nothing_yet() -> None:
    """No job, no table; never looked is said."""
    assert shown([]) == ["There is no job to look at yet."]
    reply = {"health": "ok", "checks": checks_of_places()[1:2], "looked": None, "now": moment()}
    assert monitor_lines(screen()[0], reply, TIMES)[0] == "● All is well   never looked yet"
