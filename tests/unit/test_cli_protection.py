"""How well a job is protected, as `backupctl status` and `backupctl timeline` say it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.details import status_lines
from nanumpay_backupd.cli.protection import objective, protection_rows, stream_words
from nanumpay_backupd.cli.terminal import width
from nanumpay_backupd.cli.timeline import timeline_lines
from nanumpay_backupd.cli.words import Times
from tests.servers.canned_backupd import BACKUP, NOW, job, moment, protection, run, spread, status, timeline
from tests.unit.cli_screens import screen

Reply = dict[str, Any]
TIMES = Times("Asia/Seoul", NOW.isoformat())
PLAIN = screen()[0]
ASCII = screen(encoding="ascii")[0]
BROKEN = {"code": "chain-broken", "message": "it rolled over", "hint": "a full is made", "retryable": False}
NOTHING = {
    "recoverable_until": None,
    "age": None,
    "stream": "off",
    "rpo": 0.0,
    "rto": 0.0,
    "rpo_kept": None,
    "rto_kept": None,
    "last_drill": None,
    "next_drill": None,
    "restore_seconds": None,
}


def rows(**changes: Any) -> list[tuple[str, str]]:
    """Write the rows of a job whose protection is changed so."""
    return protection_rows(PLAIN, job(protection=protection(**changes)), TIMES, [])


@pytest.mark.parametrize(
    "changes,expected",
    [
        (NOTHING, []),
        (NOTHING | {"rpo": 900.0}, [("restore", "nothing can be restored yet; RPO 15m: not known yet")]),
        (
            NOTHING | {"recoverable_until": moment(hours=27), "age": 97_200.0},
            [("restore", "recoverable until 2026-11-20 02:00:00 KST (27 h ago), moments of fulls only")],
        ),
        (
            NOTHING | {"next_drill": moment(days=-2), "rto": 3600.0},
            [("drill", "none yet; RTO 1h: not known yet; next 2026-11-23 05:00 KST")],
        ),
        (
            {"age": 1380.0, "recoverable_until": moment(seconds=1380), "rpo_kept": False, "last_drill": None}
            | {"next_drill": None, "rto": 0.0},
            [("restore", "recoverable until 04:37:00 (23 min ago); RPO 15m: MISSED (23 min)")],
        ),
        (
            {
                "rpo": 0.0,
                "last_drill": run(outcome="failed"),
                "rto_kept": False,
                "restore_seconds": 7200.0,
                "next_drill": None,
            },
            [
                ("restore", "recoverable until 04:59:48 (12 s ago)"),
                (
                    "drill",
                    "last 2026-11-21: FAILED, the last good restore took 2 h; RTO 1h: MISSED (2 h)",
                ),
            ],
        ),
        (
            NOTHING | {"stream": "waiting"},
            [
                ("stream", "waiting for a first full of one moment"),
                ("", "→ it is made by itself; or now: backupctl run nanumpay"),
            ],
        ),
        (
            NOTHING | {"stream": "broken", "problem": BROKEN},
            [
                (
                    "stream",
                    "broken: the changes since the last slice cannot follow on: it rolled over (code chain-broken)",
                ),
                ("", "→ a full is made"),
            ],
        ),
    ],
)
def test_rows_of_the_status(changes: Reply, expected: list[tuple[str, str]]) -> None:
    """What is promised, kept or missed is said in a few words, and what there is nothing to say about has no row."""
    assert rows(**changes) == expected


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"backup": ""}, None),
        ({}, "3 copies with the data itself, 2 media (disk, s3), 1 off-site"),
        (
            {"copies": 2, "media": ["disk"], "offsite": 0, "kept": False}
            | {"wanted_copies": 3, "wanted_media": 2, "wanted_offsite": 1},
            "2 copies with the data itself, 1 medium (disk), 0 off-site; 3-2-1 demanded: MISSED",
        ),
        (
            {"kept": True, "wanted_copies": 3},
            "3 copies with the data itself, 2 media (disk, s3), 1 off-site; 3-0-0 demanded: kept",
        ),
    ],
)
def test_the_row_of_3_2_1(changes: Reply, text: str | None) -> None:
    """How the newest backup is spread is always said, whether that is enough only where it is demanded."""
    found = dict(protection_rows(PLAIN, job(protection=protection(spread=spread(**changes))), TIMES, []))
    assert found.get("3-2-1") == text


def test_what_the_problems_tell_is_not_told_again() -> None:
    """A broken stream that stands among the problems is only named below."""
    shown = job(protection=protection(stream="broken", problem=BROKEN))
    text = "\n".join(status_lines(PLAIN, status("warning", problems=[f"{BROKEN['message']} → wait"], jobs=[shown])))
    assert text.count(str(BROKEN["message"])) == 1
    assert "\n  stream     broken\n" in text


@pytest.mark.parametrize(
    "promised,measured,kept,text",
    [
        (0.0, 5.0, None, ""),
        (900.0, None, None, "RPO 15m: not known yet"),
        (900.0, 12.0, True, "RPO 15m: kept"),
        (900.0, 920.0, False, "RPO 15m: MISSED (15 min 20 s)"),
    ],
)
def test_objectives(promised: float, measured: float | None, kept: bool | None, text: str) -> None:
    """An objective is kept, missed by how much, not known yet, or not there at all."""
    assert objective(PLAIN, "RPO", promised, measured, kept=kept) == text


def test_how_to_switch_the_slices_on() -> None:
    """A job without slices is told the line for its place in the host file."""
    assert 'pitr = "60s" in [nanumpay] of backupd.toml' in stream_words("nanumpay", "off", None)[1]
    assert 'pitr = "60s" in the [[job]] of shop' in stream_words("shop", "off", None)[1]
    assert stream_words("shop", "ok", None) == ("ok: every change is saved", "")
    assert stream_words("shop", "failing", BROKEN)[1] == "a full is made"


def test_a_timeline() -> None:
    """Ranges and gaps from old to new, each with what it is, below a drawing of the same."""
    assert timeline_lines(PLAIN, timeline(), TIMES) == [
        "nanumpay  recoverable until 2026-11-21 04:59:48 KST, 12 s ago",
        "",
        "the last 4 days",
        "  ∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙∘∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙∙◉▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬✗◉▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬◉▬▬",
        "       |12:00    |11-18   |12:00    |11-19   |12:00    |11-20   |12:00",
        "  ▬ every second   ◉ full   ∘ whole backup only   ✗ gap   ∙ nothing",
        "",
        f"  2026-11-18 02:00:00{' ' * 24}about 02:00: whole backup only (nanumpay-backup-2026-11-17T17-00-00)",
        "  2026-11-19 02:00:00 … 2026-11-20 00:00:00  every second (1 full, 1,320 slices)",
        "! 2026-11-20 00:00:00 … 2026-11-20 02:00:00  gap of 2 h",
        "  2026-11-20 02:00:00 … 2026-11-21 04:59:48  every second (2 fulls, 143 slices)",
        "",
        "slices   ok: every change is saved",
        'restore  backupctl restore latest --at "2026-11-21 04:59:48"',
    ]


def test_a_timeline_without_symbols() -> None:
    """The drawing says the same in ASCII, sign by sign."""
    fine, plain = timeline_lines(PLAIN, timeline(), TIMES)[3], timeline_lines(ASCII, timeline(), TIMES)[3]
    assert plain == fine.translate(str.maketrans("∙∘◉▬✗", ".oF=x"))


def test_colours_only_repeat_what_is_written() -> None:
    """Taking the colours away leaves the very text that is written without colours; a gap has the warning's."""
    colored = timeline_lines(screen(color="always")[0], timeline(), TIMES)
    assert [re.sub("\x1b\\[\\d+m", "", line) for line in colored] == timeline_lines(PLAIN, timeline(), TIMES)
    assert next(line for line in colored if "gap of" in line).startswith("\x1b[33m! 2026-11-20 00:00:00")


def test_a_timeline_of_nothing() -> None:
    """Before the first backup it says how to make one, and what the slices wait for."""
    shown = timeline_lines(PLAIN, timeline(ranges=[], gaps=[], stream="waiting"), TIMES)
    assert shown == [
        "nanumpay  nothing can be restored yet; make a backup: backupctl run nanumpay",
        "",
        "slices   waiting for a first full of one moment",
        "         → it is made by itself; or now: backupctl run nanumpay",
    ]


def moments_only(stream: str) -> Reply:
    """Make the timeline of fulls of one moment without slices between them."""
    names = [f"shop-backup-2026-11-{day}T20-00-00" for day in (17, 18, 19)]
    when = [moment(hours=hours) for hours in (72, 48, 24)]
    return timeline(
        job="shop",
        ranges=[
            {"first": at, "last": at, "bases": [name], "slices": 0, "exact": True}
            for at, name in zip(when, names, strict=True)
        ],
        gaps=[{"after": when[0], "before": when[1]}, {"after": when[1], "before": when[2]}],
        stream=stream,
    )


def test_moments_of_fulls_alone() -> None:
    """Where no slices are wanted the time between two fulls is no gap to warn of; where they are, it is."""
    off = timeline_lines(PLAIN, moments_only("off"), TIMES)
    assert next(line for line in off if "this moment only (1 full)" in line).startswith("  2026-11-18 05:00:00  ")
    assert "gap" not in "\n".join(off)
    assert off[-3] == "slices   off: only the moments of fulls can be restored"
    assert 'pitr = "60s" in the [[job]] of shop' in off[-2]
    assert off[-1].endswith('--at "2026-11-20 05:00:00" --job shop')
    broken = timeline_lines(PLAIN, moments_only("broken"), TIMES)
    assert sum("gap of 1 day" in line for line in broken) == 2


def test_what_is_not_captured_since_the_stream_broke_is_drawn_as_a_gap() -> None:
    """A stream that stands still leaves the time since then unrecoverable, and the drawing shows it."""
    ranges = [{"first": moment(hours=20), "last": moment(hours=10), "bases": [BACKUP], "slices": 9, "exact": True}]
    shown = {
        state: timeline_lines(PLAIN, timeline(ranges=ranges, gaps=[], stream=state), TIMES)
        for state in ("ok", "broken")
    }
    assert shown["ok"][3].endswith("▬∙" + shown["ok"][3].rpartition("▬∙")[2])
    assert shown["broken"][3].endswith("✗✗✗✗✗✗✗✗")
    assert "gap" not in shown["ok"][5]


def test_zones_that_changed() -> None:
    """A moment under another offset than today's carries its own zone."""
    berlin = Times("Europe/Berlin", "2026-10-26T12:00:00Z")
    ranges = [
        {
            "first": "2026-10-24T00:00:07Z",
            "last": "2026-10-26T11:59:58Z",
            "bases": ["nanumpay-backup-2026-10-24T00-00-00"],
            "slices": 3,
            "exact": True,
        }
    ]
    text = "\n".join(timeline_lines(PLAIN, timeline(now="2026-10-26T12:00:00Z", ranges=ranges, gaps=[]), berlin))
    assert "  2026-10-24 02:00:07 CEST … 2026-10-26 12:59:58  every second (1 full, 3 slices)" in text


@given(
    st.lists(st.integers(0, 10**7), min_size=2, max_size=12, unique=True),
    st.integers(10, 200),
    st.booleans(),
)
def test_drawings_fit_and_hide_no_gap(ages: list[int], columns: int, unicode: bool) -> None:
    """On a terminal of any usual width the drawing stays on its line, whatever the font, and a gap is always seen."""
    ages.sort(reverse=True)
    stretches = [*zip(ages[::2], ages[1::2], strict=False)]
    ranges = [
        {"first": moment(seconds=old), "last": moment(seconds=new), "bases": [BACKUP], "slices": 1, "exact": True}
        for old, new in stretches
    ]
    lost = [
        {"after": moment(seconds=left[1]), "before": moment(seconds=right[0])} for left, right in pairwise(stretches)
    ]
    shown = screen(columns, encoding="utf-8" if unicode else "ascii")[0]
    lines = timeline_lines(shown, timeline(ranges=ranges, gaps=lost), TIMES)
    bar, axis = lines[3], lines[4]
    assert max(width(bar, ambiguous=2), width(axis, ambiguous=2)) <= max(columns - 2, 22)
    longest = 30 * 86400
    assert (shown.symbols["gap"] in bar) == any(old <= longest for old, _ in stretches[1:])
