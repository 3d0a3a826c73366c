"""How `backupctl run` shows a run while it goes."""

from __future__ import annotations

import time
from typing import Any

from nanumpay_backupd.cli.progress import Progress, measures
from tests.servers.canned_backupd import CannedDaemon, run
from tests.unit.cli_screens import screen, seen, written

Reply = dict[str, Any]


def replies() -> list[Reply]:
    """All replies of one run with two stages side by side."""
    return list(CannedDaemon._events(run(ended=None, outcome=None, backup=None, stages=[]), "nanumpay"))


def stage(name: str, **changes: Any) -> Reply:
    """Make a stage that began at eight."""
    return {"stage": name, "started": "2026-11-20T20:00:00Z", "detail": ""} | changes


def progress(name: str, **changes: Any) -> Reply:
    """Make an event of progress in a stage."""
    counts = {"run": "r", "job": "j", "stage": name, "bytes": 0, "documents": 0, "rate": 0.0, "text": ""}
    return {"kind": "progress", "time": "2026-11-20T20:00:04Z", "progress": counts | changes}


def test_plain_lines_elsewhere_than_on_a_terminal() -> None:
    """Without a terminal every finished stage is one plain line, in order, and nothing else is written."""
    shown, raw = screen()
    with Progress(shown) as live:
        for reply in replies():
            live.feed(reply["run"], reply["event"])
    lines = written(shown, raw).splitlines()
    names = ["preflight", "dump", "compress", "publish", "verify", "upload", "retention"]
    assert [line.split()[1] for line in lines[:7]] == names
    assert lines[1] == "✓ dump           2.4 s  12,345 documents in 9 collections, 1.17 GB"
    assert lines[7:] == ["  1 collection was skipped: system.profile"]
    assert live.said == {"1 collection was skipped: system.profile"}
    assert "\x1b" not in "".join(lines)


def test_a_terminal_shows_the_same_lines_in_the_end() -> None:
    """On a terminal the live lines are gone in the end; what stays is what is written elsewhere."""
    plain, plain_raw = screen()
    shown, raw = screen(100)
    for target in (plain, shown):
        with Progress(target) as live:
            for reply in replies():
                live.feed(reply["run"], reply["event"])
    assert seen(written(shown, raw)) == written(plain, plain_raw).splitlines()


def test_a_live_line_for_every_stage_that_is_going() -> None:
    """Stages that go side by side have a live line each, with what was heard of them and the time they have taken."""
    shown, raw = screen(100)
    now = 100.0
    live = Progress(shown, clock=lambda: now)
    going = [stage("dump"), stage("compress")]
    live.feed(run(stages=going), {"kind": "stage", "time": "2026-11-20T20:00:04Z", "stage": going[1]})
    live.feed(run(stages=going), progress("dump", bytes=412_000_000, total=824_000_000, documents=4000, rate=48.2e6))
    now = 103.0
    live.say("a line that stays")
    assert seen(written(shown, raw)) == [
        "a line that stays",
        "⠋ dump           7.0 s  412 MB of 824 MB (50 %), 4,000 documents, 48.2 MB/s",
        "⠋ compress       7.0 s",
    ]
    live.close()
    assert seen(written(shown, raw)) == ["a line that stays"]


def test_live_lines_never_wrap() -> None:
    """A live line longer than the terminal is cut, because a wrapped one could not be taken away again."""
    shown, raw = screen(30)
    live = Progress(shown)
    live.feed(run(stages=[stage("dump")]), progress("dump", text="컬렉션 weeklypaymentplans"))
    live.feed(run(stages=[stage("dump")]), progress("dump", text="컬렉션 weeklypaymentplans"))
    live.say("x")
    lines = seen(written(shown, raw))
    assert lines[1].endswith("…")
    assert len(lines[1]) < 30
    live.close()


def test_the_time_moves_although_nothing_is_heard() -> None:
    """A terminal sees that a silent stage is alive: the live line is redrawn by itself."""
    shown, raw = screen(80)
    with Progress(shown) as live:
        live.feed(run(stages=[stage("upload")]), None)
        drawn = len(written(shown, raw))
        deadline = time.monotonic() + 10
        while len(written(shown, raw)) == drawn and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(written(shown, raw)) > drawn
        assert seen(written(shown, raw))[0].split()[1] == "upload"
    assert seen(written(shown, raw)) == []


def test_a_stage_is_told_once() -> None:
    """The last reply may come twice, and a stage is in the run as well as in its event."""
    shown, raw = screen()
    done = stage("dump", ended="2026-11-20T20:00:02Z", outcome="succeeded")
    with Progress(shown) as live:
        for _ in range(3):
            live.feed(run(stages=[done]), {"kind": "stage", "time": "2026-11-20T20:00:02Z", "stage": done})
    assert written(shown, raw) == "✓ dump           2.0 s\n"


def test_a_stage_does_not_end_before_its_messages() -> None:
    """A reply carries the run as it is by now, newer than its event: the events alone decide the order."""
    done = stage("upload", ended="2026-11-20T20:00:02Z", outcome="succeeded", detail="2 of 2 destinations")
    late = run(stages=[done])
    shown, raw = screen()
    with Progress(shown) as live:
        live.feed(late, {"kind": "stage", "time": "2026-11-20T20:00:00Z", "stage": stage("upload")})
        for place in ("office", "app"):
            live.feed(late, {"kind": "message", "time": "2026-11-20T20:00:01Z", "message": f"it is at {place}"})
        live.feed(late, {"kind": "stage", "time": "2026-11-20T20:00:02Z", "stage": done})
    assert written(shown, raw).splitlines() == [
        "  it is at office",
        "  it is at app",
        "✓ upload         2.0 s  2 of 2 destinations",
    ]


def test_outcomes_of_stages() -> None:
    """A stage that did not succeed has another mark and says its outcome."""
    shown, raw = screen()
    end = {"ended": "2026-11-20T20:00:02Z"}
    stages = [
        stage("upload", outcome="degraded", detail="1 of 2 destinations", **end),
        stage("dump", outcome="failed", **end),
        stage("retention", outcome="skipped", **end),
    ]
    with Progress(shown) as live:
        live.feed(run(stages=stages), None)
    assert written(shown, raw).splitlines() == [
        "! upload         2.0 s  degraded  1 of 2 destinations",
        "✗ dump           2.0 s  failed",
        "! retention      2.0 s  skipped",
    ]


def test_what_was_heard_last_stands_in_for_a_missing_detail() -> None:
    """A stage that ends without a word of its own shows how far it had come."""
    shown, raw = screen()
    done = stage("verify", ended="2026-11-20T20:00:02Z", outcome="succeeded")
    with Progress(shown) as live:
        live.feed(run(stages=[stage("verify")]), progress("verify", bytes=5_000_000, total=9_000_000, documents=7))
        live.feed(run(stages=[done]), None)
    assert written(shown, raw) == "✓ verify         2.0 s  5.00 MB, 7 documents\n"


def test_measures_that_do_not_add_up() -> None:
    """More bytes than were expected are still 100 %, and nothing at all is an empty text."""
    assert measures(progress("dump", bytes=12, total=10)["progress"]) == "12 B of 10 B (100 %)"
    assert measures(progress("dump")["progress"]) == ""


def test_messages_cannot_break_out() -> None:
    """A message with a terminal's control sequence in it stays one harmless line."""
    for columns in (0, 80):
        shown, raw = screen(columns)
        with Progress(shown) as live:
            live.feed(None, {"kind": "message", "time": "2026-11-20T20:00:00Z", "message": "a\x1b[2J\nb"})
        assert seen(written(shown, raw)) == ["  a [2J b"]
