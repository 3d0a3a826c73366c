"""What the pages say: the timeline's picture, plans of restores, schedules, retention, commands in hints. No server."""

from __future__ import annotations

import html
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.words import schedule
from nanumpay_backupd.web import band
from nanumpay_backupd.web.fixes import commands_in
from nanumpay_backupd.web.planned import frozen, plan_rows, seal
from nanumpay_backupd.web.rules import retention_told, schedule_told
from nanumpay_backupd.web.shown import Shown
from nanumpay_backupd.web.words import LANGUAGES, words

NOW: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ENGLISH: Final = words("en")
KOREAN: Final = words("ko")
PLAN: Final[dict[str, Any]] = {
    "backup": "nanumpay-backup-2026-11-22T02-00-00",
    "copy": "local",
    "server": "127.0.0.1:27017",
    "database": "nanumpay",
    "collections": ["orders", "users"],
    "documents": 1204,
    "bytes": 5_000_000,
    "moment": "2026-11-22T02:00:00Z",
    "replays_oplog": True,
    "slices": [],
    "drops": [],
    "swap": False,
    "target_exists": True,
    "target_collections": 2,
    "target_documents": 1300,
    "safety_backup": True,
    "warnings": [],
    "source": "mongodb",
    "changes": [],
}
moments = st.integers(0, 400 * 86400).map(lambda seconds: NOW - timedelta(seconds=seconds))


def text(moment: datetime) -> str:
    """Write a moment as the protocol does."""
    return moment.isoformat().replace("+00:00", "Z")


def test_the_languages_say_the_same_things() -> None:
    """Each key is there in both, with the same places to fill."""
    assert KOREAN.texts.keys() == ENGLISH.texts.keys()
    for key, said in ENGLISH.texts.items():
        assert set(re.findall(r"\{(\w+)\}", said)) == set(re.findall(r"\{(\w+)\}", KOREAN.texts[key])), key


class TestBand:
    """The timeline."""

    @given(st.lists(st.tuples(moments, moments), max_size=6), st.sampled_from([*band.SPANS, "all"]), moments)
    def test_whatever_there_is_can_be_drawn(
        self, pairs: list[tuple[datetime, datetime]], span: str, until: datetime
    ) -> None:
        """Nothing lies outside of the picture, and every link leads to a moment inside a range."""
        found = sorted((min(pair), max(pair)) for pair in pairs)
        spans = [
            {"first": text(first), "last": text(last), "bases": [f"b{at}"], "slices": 1, "exact": at % 3 != 2}
            for at, (first, last) in enumerate(found)
        ]
        gaps = [{"after": one["last"], "before": two["first"]} for one, two in itertools.pairwise(spans)]
        first = min((one for one, _ in found), default=NOW)
        seen = band.window(span, until, first, NOW)
        assert seen.start < seen.end
        linked: list[str] = []

        def address(to: str) -> str:
            linked.append(to)
            return "?x"

        fulls = [{"backup": f"b{at}", "moment": one["first"], "exact": one["exact"]} for at, one in enumerate(spans)]
        line = {
            "ranges": spans,
            "gaps": [gap for gap in gaps if str(gap["after"]) < str(gap["before"])],
            "fulls": fulls,
        }
        drawn = str(band.draw(ENGLISH, Shown(ENGLISH, "Asia/Seoul", text(NOW)), line, seen, until, address))
        for name, value in re.findall(r'\b(x|x1|x2|cx|width)="(-?[\d.]+)%"', drawn):
            assert 0 <= float(value) <= 100.5 or name != "width", (name, value)
        exact = [(one, two) for at, (one, two) in enumerate(found) if at % 3 != 2]
        for to in linked:
            if not to.startswith("backup:"):
                moment = datetime.fromisoformat(to)
                assert any(one <= moment <= two for one, two in exact), to

    @pytest.mark.parametrize("span", [*band.SPANS, "all"])
    @pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul", "Europe/Berlin", "Asia/Kolkata"])
    def test_the_axis_has_round_times(self, span: str, zone: str) -> None:
        """Two to eight ticks, in order, each within what is seen; labels are of the zone."""
        times = Shown(ENGLISH, zone, text(NOW))
        seen = band.window(span, None, NOW - timedelta(days=200), NOW)
        found = band.ticks(seen, times)
        assert 2 <= len(found) <= 8
        assert [at for at, _ in found] == sorted(at for at, _ in found)
        for at, label in found:
            assert seen.start <= at <= seen.end
            local = times.local(text(at))
            assert label in {f"{local:%H:%M}", f"{local.month}/{local.day}"}

    def test_names_are_text(self) -> None:
        """A backup's name that is written like a tag is one title."""
        one = {
            "first": text(NOW - timedelta(hours=1)),
            "last": text(NOW),
            "bases": ["<b>\"'"],
            "slices": 0,
            "exact": True,
        }
        seen = band.window("6h", None, NOW, NOW)
        fulls = [{"backup": "<b>\"'", "moment": one["first"], "exact": True}]
        line = {"ranges": [one], "gaps": [], "fulls": fulls}
        drawn = str(band.draw(ENGLISH, Shown(ENGLISH, "UTC", text(NOW)), line, seen, None, str))
        assert "<b>" not in drawn
        assert html.escape("<b>\"'") in drawn.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")

    def test_the_narrowest_that_holds_everything(self) -> None:
        """What is young is seen closely."""
        ages = {
            timedelta(minutes=20): "1h",
            timedelta(hours=5): "6h",
            timedelta(days=6): "7d",
            timedelta(days=300): "all",
        }
        assert {age: band.fitting(NOW - age, NOW) for age in ages} == ages


class TestPlan:
    """Plans of restores."""

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(
        "change, told",
        [
            ({}, ["orders, users", "nanumpay", "127.0.0.1:27017"]),
            ({"target_exists": False}, ["plan.nothing-there"]),
            ({"swap": True}, ["plan.swapped", "plan.kept"]),
            ({"safety_backup": False}, ["plan.unsafe"]),
            ({"drops": ["later"]}, ["later"]),
            ({"collections": []}, ["plan.unknown"]),
            ({"slices": ["a", "b"], "replays_oplog": False}, ["plan.before-replay"]),
            ({"slices": ["a"], "documents": 0}, ["plan.of-changes"]),
            ({"source": "files", "target_documents": 0, "database": "/srv/app"}, ["/srv/app"]),
        ],
        ids=lambda value: "-".join(value) or "plain" if isinstance(value, dict) else "",
    )
    def test_what_becomes_of_what_is_there(self, language: str, change: dict[str, Any], told: list[str]) -> None:
        """Each thing that somebody has to know before is in a row."""
        t = words(language)
        rows = plan_rows(t, Shown(t, "Asia/Seoul", text(NOW)), PLAN | change)
        said = "\n".join(f"{row.name}: {row.text} {row.more}" for row in rows)
        assert "2026-11-22 11:00:00 KST" in said
        for one in told:
            assert t.texts.get(one, one) in said, said

    @pytest.mark.parametrize(
        "asked, change, wanted",
        [
            ({"backup": "latest"}, {}, {"backup": PLAN["backup"], "source": "local"}),
            ({"backup": "latest", "at": "latest"}, {"slices": ["a"]}, {"backup": PLAN["backup"], "at": PLAN["moment"]}),
            ({"backup": "latest", "at": "x"}, {"slices": ["a"]}, {"backup": PLAN["backup"], "at": "x"}),
            ({"backup": "slice-1"}, {"slices": ["a"]}, {"backup": "slice-1", "at": None}),
        ],
    )
    def test_latest_stays_what_it_was(
        self, asked: dict[str, Any], change: dict[str, Any], wanted: dict[str, Any]
    ) -> None:
        """What is ordered names what was shown: a newer backup in between changes nothing."""
        assert frozen(asked, PLAN | change) == wanted

    @pytest.mark.parametrize(
        "name", ["backup", "copy", "server", "database", "moment", "drops", "slices", "swap", "target_exists"]
    )
    def test_the_seal_is_of_what_was_agreed_to(self, name: str) -> None:
        """It changes with anything that matters, and not with how many documents there are by now."""
        other = {**PLAN, name: not PLAN[name] if isinstance(PLAN[name], bool) else [*PLAN[name], "x"]}
        assert seal(PLAN) != seal(other)
        assert seal(PLAN) == seal({**PLAN, "target_documents": 9, "warnings": ["x"]})


class TestRules:
    """Schedules and retention."""

    @pytest.mark.parametrize(
        "lines, english, korean",
        [
            (["0 2 * * *"], "daily at 02:00", "매일 02:00"),
            (["30 3,15 * * *"], "daily at 03:30, 15:30", "매일 03:30, 15:30"),
            (["15 4 * * sun"], "every Sunday at 04:15", "매주 일요일 04:15"),
            (["0 1 * * 1-5"], "Monday to Friday at 01:00", "월요일부터 금요일까지 01:00"),
            (["0 1 1 * *"], "on day 1 of each month at 01:00", "매월 1일 01:00"),
            (["0 1 L * *"], "on the last day of each month at 01:00", "매월 마지막 날 01:00"),
            (
                ["0 2 31 * *", "0 2 28 * *", "0 2 L * *"],
                "on day 31 of each month, or its last, at 02:00",
                "매월 31일(없으면 마지막 날) 02:00",
            ),
            (["*/15 * * * *"], "every 15 min", "15분마다"),
            (["5 */6 * * *"], "every 6 hours, at minute 05", "6시간마다, 05분에"),
            (["@daily"], "daily at 00:00", "매일 00:00"),
            (["0 2 * 3 *"], "cron “0 2 * 3 *”", "cron “0 2 * 3 *”"),
            (
                ["0 2 * * mon", "0 4 1 * *"],
                "every Monday at 02:00, and on day 1 of each month at 04:00",
                "매주 월요일 02:00, 그리고 매월 1일 04:00",
            ),
            ([], "only by hand", "직접 실행할 때만"),
        ],
    )
    def test_schedules(self, lines: list[str], english: str, korean: str) -> None:
        """The same in two languages."""
        assert (schedule_told(ENGLISH, lines), schedule_told(KOREAN, lines)) == (english, korean)

    @given(st.lists(st.text("0123456789*/,-LmonRsu @#", max_size=20), max_size=3))
    def test_any_line_is_shown(self, lines: list[str]) -> None:
        """What is not simple is shown as it is, as `backupctl` does; nothing makes it fail."""
        for t in (ENGLISH, KOREAN):
            assert schedule_told(t, lines)
        if lines and 'cron "' not in schedule(lines):
            assert "cron “" not in schedule_told(ENGLISH, lines)

    @pytest.mark.parametrize(
        "rule, told",
        [
            ({"count": 7, "days": 30}, "the newest 7, for at most 30 days"),
            (
                {"count": 7, "days": 30, "max_total_size": 10**9, "min_keep": 3},
                "the newest 7, for at most 30 days; at most 1.00 GB; never fewer than 3",
            ),
            (
                {"keep_all_for_days": 7, "keep_daily_for_days": 16, "keep_yearly_for_years": 2},
                "all of 7 days; one a day for 16 days; one a year for 2 years",
            ),
        ],
    )
    def test_retention(self, rule: dict[str, Any], told: str) -> None:
        """The rule of a place, in words."""
        assert retention_told(ENGLISH, {"max_total_size": 0, "min_keep": 1} | rule) == told


@pytest.mark.parametrize(
    "hint, commands",
    [
        ("try it: backupctl doctor", ["backupctl doctor"]),
        (
            "see: backupctl show X1; then again: backupctl drill nanumpay",
            ["backupctl show X1", "backupctl drill nanumpay"],
        ),
        ("backupctl status shows it, and more", ["backupctl status"]),
        ("run: timedatectl set-ntp true", ["timedatectl set-ntp true"]),
        (
            "the service may not write there; as root: install -d '/a b' && systemctl daemon-reload",
            ["install -d '/a b' && systemctl daemon-reload"],
        ),
        ("install a mongod of that version or a newer one", []),
        ("end one of them (backupctl status --watch, a web page)", ["backupctl status --watch"]),
        ("what is backed up is in docs/backupctl status", []),
        ("", []),
    ],
)
def test_commands_in_hints(hint: str, commands: list[str]) -> None:
    """What can be typed is found, and prose is not taken for it."""
    assert commands_in(hint) == commands


@given(st.text(max_size=200))
def test_any_hint_is_read(hint: str) -> None:
    """Nothing makes it fail, and what it gives stands in the hint."""
    assert all(command in hint for command in commands_in(hint))


def test_what_nobody_put_into_words() -> None:
    """A word of a newer daemon is shown as it is."""
    assert ENGLISH.of("source", "newer-thing") == "newer-thing"
