"""What a soak's figures come to, and the book by which its restores are compared; no server is needed."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from pymongo.client_session import ClientSession

from nanumpay_backupd.model import OpTime
from tests.soak.book import Book
from tests.soak.figures import growth, longest_life, summarize
from tests.soak.report import spark

Document = dict[str, Any]


@given(base=st.floats(1, 500), rise=st.floats(0, 200), noise=st.floats(0, 2), seed=st.integers(0, 10**6))
def test_growth_is_told_from_noise(base: float, rise: float, noise: float, seed: int) -> None:
    """A figure that rises by more than is allowed grows, whatever the noise; one that does not rise is flat."""
    dice = random.Random(seed)
    series = [(at * 10.0, base + rise * at / 400 + dice.uniform(-noise, noise)) for at in range(400)]
    found = growth("memory", "MB", series, lambda _: 5.0)
    assert found is not None
    # Between the middles of the quarters lie three quarters of what is left after the warm-up.
    seen = rise * 0.85 * 0.75
    if seen > 5 + 2 * noise:
        assert found.grows
    if seen < 5 - 2 * noise:
        assert not found.grows
    assert found.slope == pytest.approx(rise / 4000 * 3600, abs=2 * noise / 850 * 3600 + 1e-6)


def test_a_jump_at_the_beginning_is_no_growth() -> None:
    """What is taken while it warms up does not count."""
    series = [(at * 10.0, 20.0 if at < 50 else 90.0) for at in range(400)]
    found = growth("memory", "MB", series, lambda _: 5.0)
    assert found is not None
    assert not found.grows


def test_nothing_is_said_of_few_samples() -> None:
    """A growth needs enough samples to be one."""
    assert growth("memory", "MB", [(0.0, 1.0), (10.0, 99.0)], lambda _: 0.0) is None


def sample(at: float, pid: int, **more: Any) -> Document:
    """Return a sample of a daemon and of folders as small as can be."""
    daemon = {"pid": pid, "rss": 1, "anon": 1, "fds": 1, "threads": 1, "children": 0, "zombies": 0, "cpu": at / 10}
    sizes = dict.fromkeys(("backups", "usb", "cloud", "office", "nas", "staging", "state"), 0)
    files = dict.fromkeys(("catalog", "wal", "journal"), 0)
    rest = {"page": None, "answer": 0.1, "health": "ok", "letters": 0, "load": 1.0, "counts": sizes}
    return {"at": at, "daemon": daemon if pid else None, "sizes": sizes, "files": files, **rest, **more}


def test_the_longest_life_is_found() -> None:
    """Of three lives, and a time without any, the longest is looked at."""
    samples = [sample(at, pid) for at, pid in [(0, 1), (10, 1), (20, 0), (30, 2), (40, 2), (50, 2), (60, 3)]]
    assert [one["at"] for one in longest_life(samples)] == [30, 40, 50]


WELL: list[Document] = [
    {"at": 0, "kind": "begin", "seed": 1},
    {"at": 5, "kind": "fault", "name": "stepdown", "seconds": 2.0},
    {"at": 9, "kind": "proof", "name": "by hand", "outcome": "same"},
    {"at": 10, "kind": "run", "job": "a", "action": "backup", "outcome": "failed", "code": "no-space"},
    {"at": 20, "kind": "end", "writes": 7, "lost_sight": 1},
]


@pytest.mark.parametrize(
    "change, word",
    [
        pytest.param({}, "", id="well"),
        pytest.param({"left out": "proof"}, "nothing was restored", id="no restore"),
        pytest.param({"left out": "end"}, "no end", id="broken off"),
        pytest.param({"left out": "begin"}, "never began", id="never began"),
        pytest.param({"more": {"at": 11, "kind": "anomaly", "what": "DIFFERS"}}, "DIFFERS", id="an anomaly"),
    ],
)
def test_what_is_wrong_is_said(change: Document, word: str) -> None:
    """A verdict is good only where something was restored, nothing was odd, and it came to its end."""
    events = [event for event in WELL if event["kind"] != change.get("left out")]
    events += [change["more"]] if "more" in change else []
    found = summarize(events, [sample(0, 1), sample(10, 1)])
    assert len(found.wrong) == bool(word)
    assert word in "".join(found.wrong)
    assert found.faults == {"stepdown": 1}
    assert found.codes == {"no-space": 1}


def test_what_is_left_in_staging_is_wrong() -> None:
    """Bytes in the staging folder at the end are named."""
    last = sample(10, 1)
    found = summarize(WELL, [sample(0, 1), {**last, "sizes": {**last["sizes"], "staging": 5}}])
    assert "staging" in "".join(found.wrong)


def test_a_line_of_blocks() -> None:
    """A line goes from nothing to its highest; times without samples are empty."""
    assert spark([(0.0, 0.0), (100.0, 8.0)]) == "▁" + " " * 58 + "█"


def session(seconds: int, counter: int = 1) -> ClientSession:
    """Return what a session tells of when its last write was."""
    return cast(ClientSession, SimpleNamespace(operation_time=Timestamp(seconds, counter)))


def test_the_book_knows_every_second() -> None:
    """The state at the end of a second has all that was written in it, collections that went, and nothing later."""
    book = Book()
    story: list[tuple[int, list[tuple[str, Any, dict[str, Any] | None]]]] = [
        (100, [("a", 1, {"_id": 1}), ("b", 1, {"_id": 1})]),
        (101, [("a", 1, {"_id": 1, "x": 2})]),
        (102, [("b", None, None)]),
        (103, [("a", 1, None)]),
    ]
    for second, changes in story:
        book.begin("w")
        book.done("w", session(second), *changes)
    assert book.state_at(99) == {}
    assert book.state_at(101) == {"a": {1: {"_id": 1, "x": 2}}, "b": {1: {"_id": 1}}}
    assert book.state(OpTime(101, 0)) == book.state_at(100)
    assert book.state_at(102) == {"a": {1: {"_id": 1, "x": 2}}}
    assert book.state_at(103) == {}
    before = book.state_at(102)
    book.forget_before(101)
    assert book.state_at(102) == before


def test_seconds_of_which_nothing_is_known_are_fog(monkeypatch: pytest.MonkeyPatch) -> None:
    """From before a write that failed until it was looked at again no second is clear, nor any that is not over."""
    now = 1000.5
    monkeypatch.setattr("time.time", lambda: now)
    book = Book()
    book.begin("w")
    assert not book.clear(1000)
    now = 1050.0
    assert not book.clear(1005), "the write may be applied at any time"
    assert book.clear(998)
    book.cleared("w", session(1040), ("a", 1, {"_id": 1}))
    assert [second for second in range(990, 1049) if not book.clear(second)] == list(range(999, 1040))
