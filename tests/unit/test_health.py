"""What is out of the ordinary, too old, about to end or will not fit: tables and properties of the pure decisions."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.health.ages import allowed_age, ending
from nanumpay_backupd.health.room import Sample, drift, full_in, kept, trend
from nanumpay_backupd.health.sizes import Figures, Oddity, in_words, loses, oddities, usual
from tests.workbench import NOW

DAY = timedelta(days=1)


def held(size: int = 1_000_000, **collections: int) -> Figures:
    """Return what a backup with these collections holds."""
    return Figures(sum(collections.values()), size, {f"db.{name}": count for name, count in collections.items()})


WHOLE = held(users=1000, orders=5000, roles=3, sessions=40)


@pytest.mark.parametrize(
    "found,expected",
    [
        (WHOLE, []),
        (held(users=1000, roles=3, sessions=40), [("lost", "db.orders"), ("shrank", "documents")]),
        (held(users=1000, orders=0, roles=3, sessions=40), [("emptied", "db.orders"), ("shrank", "documents")]),
        (held(users=1000, orders=5000, sessions=40), [("lost", "db.roles")]),
        (held(users=1000, orders=5000, roles=1, sessions=40), []),
        (held(users=1000, orders=5000, roles=3, sessions=1), []),
        (held(users=400, orders=5000, roles=3, sessions=40), [("shrank", "db.users")]),
        (held(users=500, orders=5000, roles=3, sessions=40), []),
        (held(users=1000, orders=30_000, roles=3, sessions=40), [("grew", "documents")]),
        (held(400_000, users=1000, orders=5000, roles=3, sessions=40), [("shrank", "bytes")]),
        (held(4_000_000, users=1000, orders=5000, roles=3, sessions=40), [("grew", "bytes")]),
        (held(users=1000, orders=5000, roles=3, sessions=40, fresh=9), []),
        (
            held(100, fresh=1),
            [
                ("lost", "db.orders"),
                ("lost", "db.users"),
                ("lost", "db.sessions"),
                ("lost", "db.roles"),
                ("shrank", "documents"),
            ],
        ),
    ],
)
def test_what_is_odd(found: Figures, expected: list[tuple[str, str]]) -> None:
    """Gone and empty collections are named first, those that lost more than half next; growth is one line."""
    odd = oddities(found, usual([WHOLE] * 3), 0.5, 3.0)
    assert [(item.kind, item.what) for item in odd] == expected
    assert loses(odd) is any(kind != "grew" for kind, _ in expected)


def test_what_is_empty_now_and_then_is_never_missed() -> None:
    """A queue, a collection that one of the backups lacks, and one large backup among small ones say nothing."""
    history = [held(users=500, queue=80, jobs=300), held(users=500, queue=0, jobs=500), held(users=90_000, queue=900)]
    assert oddities(held(users=540), usual(history), 0.5, 3.0) == []


@pytest.mark.parametrize("documents,size,said", [(99, (1 << 20) - 1, False), (100, 10, True), (10, 1 << 20, True)])
def test_a_tiny_database_says_nothing(documents: int, size: int, said: bool) -> None:
    """Below both floors a dropped collection is no event; above one of them it is."""
    expected = Figures(documents, size, {"db.users": documents})
    assert bool(oddities(Figures(0, 0), expected, 0.5, 3.0)) is said


def test_each_direction_can_be_switched_off() -> None:
    """A factor of 0 says nothing about less, collections that are gone included, or about more."""
    assert oddities(held(1), WHOLE, 0.0, 3.0) == []
    assert oddities(held(9_000_000, users=90_000, orders=5000, roles=3, sessions=40), WHOLE, 0.5, 0.0) == []


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5000), max_size=6)
backups = st.builds(lambda given, size: held(size, **given), counts, st.integers(0, 1 << 24))


@given(backups)
def test_what_is_as_ever_is_never_odd(one: Figures) -> None:
    """A database that does not change is not odd, whatever it holds."""
    assert oddities(one, usual([one, one, one]), 0.5, 3.0) == []


@given(st.lists(backups, min_size=1, max_size=7), backups, st.sampled_from("abcdef"))
def test_losing_more_never_looks_better(history: list[Figures], found: Figures, name: str) -> None:
    """Taking a collection away from a backup adds what is odd about it, and takes nothing away that was lost."""
    less = {key: count for key, count in found.collections.items() if key != f"db.{name}"}
    poorer = Figures(sum(less.values()), found.size, less)
    gone = {item.what for item in oddities(found, usual(history), 0.5, 0.0) if item.what.startswith("db.")}
    assert gone <= {item.what for item in oddities(poorer, usual(history), 0.5, 0.0)}


def test_what_is_odd_in_words() -> None:
    """Each difference is a phrase with both figures; of many the first three are named."""
    odd = [
        Oddity("lost", "db.orders", 5000, 0),
        Oddity("emptied", "db.users", 1000, 0),
        Oddity("shrank", "db.logs", 9000, 12),
        Oddity("shrank", "documents", 15_000, 12),
    ]
    assert in_words(odd) == (
        "collection db.orders is gone (it held 5,000); collection db.users is empty (it held 1,000); "
        "collection db.logs holds 12 instead of 9,000; and 1 more"
    )
    assert in_words([Oddity("grew", "bytes", 1_000_000, 9_000_000)]) == "9.00 MB of data instead of 1.00 MB"


@pytest.mark.parametrize(
    "hours,limit",
    [([24, 24, 24], 49), ([168, 168], 337), ([6, 6, 12, 6], 25), ([1], 3), ([], 0)],
)
def test_the_age_that_a_schedule_allows(hours: list[int], limit: int) -> None:
    """One run may fail: twice the longest pause and an hour; a single due time says nothing."""
    due = [NOW]
    for pause in hours:
        due.append(due[-1] + timedelta(hours=pause))
    assert allowed_age(due) == limit * 3600


@pytest.mark.parametrize(
    "left,state", [(-1.0, "failed"), (0.0, "failed"), (13.9, "warning"), (14.0, "warning"), (14.1, "ok")]
)
def test_what_ends(left: float, state: str) -> None:
    """Over is a failure, soon is a warning."""
    assert ending(NOW + timedelta(days=left), NOW, 14) == state


def looks(*free: int, own: int = 0, step: timedelta = DAY) -> list[Sample]:
    """Return a look a day, the last one now."""
    return [Sample(NOW - step * (len(free) - 1 - at), room, own) for at, room in enumerate(free)]


@pytest.mark.parametrize(
    "samples,taken",
    [
        (looks(100, 90, 80, 70), 10.0),
        (looks(70, 80, 90, 100), 0.0),
        (looks(100, 90, 5, 70, 60), 10.0),
        (looks(100, 90, 80), 0.0),
        (looks(100, 90, 80, 70, step=timedelta(hours=12)), 0.0),
        ([], 0.0),
    ],
    ids=["steady", "less", "one that is off", "too few", "too soon", "none"],
)
def test_what_others_take_of_a_disk(samples: list[Sample], taken: float) -> None:
    """The median of the slopes, from four looks within three days on; what they give back is not counted on."""
    assert drift(samples) == pytest.approx(taken)


def test_what_we_take_ourselves_is_not_taken_by_others() -> None:
    """Free room that our copies took is foreseen by retention, not by the trend."""
    own = [Sample(NOW + DAY * at, 1000 - 100 * at, 100 * at) for at in range(8)]
    assert drift(own) == 0.0


@pytest.mark.parametrize(
    "free,need,taken,days",
    [
        (100, 50, 0, None),
        (100, 140, 0, 10.0),
        (100, 0, 10, 10.0),
        (0, 1, 0, 0.0),
        (100, -500, 5, None),
        (70, 140, 0, 7.0),
    ],
)
def test_when_a_disk_is_full(free: int, need: float, taken: float, days: float | None) -> None:
    """What is needed and what others take within the 14 days is held against what is free."""
    assert full_in(free, need, 14.0, taken) == (None if days is None else pytest.approx(days))


@given(st.integers(0, 10**15), st.floats(-1e15, 1e15), st.floats(0.1, 400), st.floats(0, 1e12))
def test_a_forecast_is_within_its_horizon(free: int, need: float, horizon: float, taken: float) -> None:
    """It says nothing of later days; more room never makes it sooner."""
    days = full_in(free, need, horizon, taken)
    assert days is None or 0 <= days <= horizon
    more = full_in(free * 2, need, horizon, taken)
    assert more is None or (days is not None and more >= days)


@given(st.lists(st.integers(-40 * 24, 40 * 24), max_size=60))
def test_looks_that_are_kept(hours: list[int]) -> None:
    """However the clock goes, they rise, half a day apart at least, and none is older than 30 days."""
    samples: tuple[Sample, ...] = ()
    for hour in hours:
        now = NOW + timedelta(hours=hour)
        samples = kept(samples, Sample(now, 1, 1))
        moments = [item.at for item in samples]
        assert moments == sorted(moments)
        assert all(later - earlier >= timedelta(hours=12) for earlier, later in itertools.pairwise(moments))
        assert all(now - timedelta(days=30) <= at <= now for at in moments)


def test_a_trend_of_growing_backups() -> None:
    """So many bytes a day more each day, whatever one of them was."""
    points = [(datetime(2026, 1, day, tzinfo=UTC), 1000.0 + 50 * day) for day in range(1, 12)]
    points[4] = (points[4][0], 9e9)
    assert trend(points) == pytest.approx(50.0)
