"""When people are told: the promises as properties over random histories, the rules as tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.alerts import Delivery, Notice, Phase, Policy, Rule, State, Step, is_quiet, merged, step
from nanumpay_backupd.events import Event, Fault, News, Severity
from nanumpay_backupd.model import from_json, to_json

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
OPS = Rule(channel="ops")
ALL = Rule(channel="all", severity=Severity.INFO)
BAD = (Severity.WARNING, Severity.ERROR)
Look = tuple[timedelta, list[Fault], list[News]]


def fault(key: str = "backup:shop", severity: Severity = Severity.ERROR, code: str = "a", **more: object) -> Fault:
    """Make a fault of job shop."""
    about = {"event": Event.FAILED, "job": "shop", "text": key, "reason": "it is broken"} | more
    return Fault(key=key, severity=severity, code=code, **about)  # type: ignore[arg-type]


def good(run: str = "r1", key: str = "", job: str = "shop") -> News:
    """Make the news of a backup that succeeded."""
    return News(event=Event.SUCCEEDED, severity=Severity.INFO, job=job, run=run, key=key)


@st.composite
def histories(draw: st.DrawFn) -> list[Look]:
    """A series of looks: how long after the one before, what is wrong then, what happened since."""
    keys = ["backup:shop", "copies:shop", "disk", "channel:ops"]
    found: list[Look] = []
    for at in range(draw(st.integers(1, 15))):
        gap = timedelta(minutes=draw(st.sampled_from([0, 1, 7, 30, 60, 61, 600, 1500])))
        present = draw(st.sets(st.sampled_from(keys)))
        faults = [
            fault(
                key,
                draw(st.sampled_from(BAD)),
                draw(st.sampled_from(["a", "b"])),
                occurrence=draw(st.sampled_from(["r1", "r2"])),
                patience={"disk": 600.0}.get(key, 0.0),
                settle={"copies:shop": 900.0}.get(key, 0.0),
            )
            for key in sorted(present)
        ]
        news = [good(f"r{at}-{number}") for number in range(draw(st.integers(0, 3)))]
        found.append((gap, faults, news))
    return found


policies = st.builds(
    Policy,
    rules=st.just((OPS, ALL)),
    remind=st.sampled_from([0.0, 3600.0, 86400.0]),
    quiet=st.sampled_from([None, (time(22), time(7)), (time(1), time(9))]),
    cap=st.integers(1, 6),
    together=st.integers(1, 3),
)

few = settings(max_examples=40)


def play(history: Iterable[Look], policy: Policy, *, through_disk: bool = False) -> list[tuple[datetime, Step]]:
    """Take all steps of a history; with ``through_disk`` the state is written and read between them."""
    now, state = NOW, State()
    steps = []
    for gap, faults, news in history:
        now += gap
        done = step(state, policy, now, faults=faults, news=news)
        state = from_json(State, to_json(done.state)) if through_disk else done.state
        steps.append((now, done))
    return steps


def received(steps: Sequence[tuple[datetime, Step]], channel: str) -> list[Notice]:
    """Return what a channel was told, in order, with what summaries hold."""
    sent = [delivery.notice for _, done in steps for delivery in done.deliveries if delivery.channel == channel]
    parts = [part for notice in sent for part in (notice.parts or (notice,))]
    return sorted(parts, key=lambda notice: int(notice.id.rpartition("-")[2]))


def pending(steps: Sequence[tuple[datetime, Step]], channel: str) -> list[Notice]:
    """Return what a channel has yet to be told."""
    return [held.notice for held in steps[-1][1].state.held if held.channel == channel]


@few
@given(histories(), policies)
def test_a_fault_is_told_once_until_it_ends(history: list[Look], policy: Policy) -> None:
    """Between its beginning and its end a channel hears of no other beginning, and of no end without a beginning."""
    steps = play(history, policy)
    for channel in ("ops", "all"):
        told = [*received(steps, channel), *pending(steps, channel)]
        for key in {notice.key for notice in told if notice.phase is not Phase.ONCE}:
            own = [n for n in sorted(told, key=lambda n: int(n.id.rpartition("-")[2])) if n.key == key]
            edges = [n.phase for n in own if n.phase in {Phase.BEGAN, Phase.ENDED}]
            assert edges == list(itertools.islice(itertools.cycle([Phase.BEGAN, Phase.ENDED]), len(edges)))


@few
@given(histories(), policies)
def test_whoever_heard_of_a_beginning_hears_of_the_end(history: list[Look], policy: Policy) -> None:
    """When all is well for long, every beginning that a channel was told of has its end."""
    calm: list[Look] = [(timedelta(hours=2), [], [])] * 3
    steps = play([*history, *calm], policy)
    assert not steps[-1][1].state.raised
    for channel in ("ops", "all"):
        phases = Counter(
            (n.key, n.phase) for n in (*received(steps, channel), *pending(steps, channel)) if n.phase is not Phase.ONCE
        )
        assert all(phases[key, Phase.BEGAN] == phases[key, Phase.ENDED] for key, _ in phases)


@few
@given(histories(), policies)
def test_what_is_wrong_at_the_end_was_told_or_will_be(history: list[Look], policy: Policy) -> None:
    """No fault is forgotten: it was told, it is held, or it has not lasted long enough."""
    steps = play(history, policy)
    now, last = steps[-1]
    for channel in ("ops", "all"):
        told = {n.key for n in (*received(steps, channel), *pending(steps, channel)) if n.phase is Phase.BEGAN}
        for key, raised in last.state.raised.items():
            young = (now - raised.since).total_seconds() < raised.fault.patience
            assert key in told or young or key == f"channel:{channel}"


@few
@given(histories(), policies)
def test_reminders_are_as_rare_as_promised(history: list[Look], policy: Policy) -> None:
    """Of one fault nothing is told again before its time; what changes is told, each cause once."""
    steps = play(history, policy)
    every = [notice for _, done in steps for notice in done.notices if notice.phase is not Phase.ONCE]
    for key in {notice.key for notice in every}:
        own = [notice for notice in every if notice.key == key]
        for before, after in itertools.pairwise(own):
            if after.phase is Phase.REMINDER:
                assert policy.remind
                assert (after.at - before.at).total_seconds() >= policy.remind
        lives = itertools.groupby(own, key=lambda notice: notice.since)
        for _, life in lives:
            changes = Counter((n.code, n.severity) for n in life if n.phase is Phase.CHANGED)
            assert all(count == 1 for count in changes.values())


@few
@given(histories(), policies)
def test_no_channel_gets_more_in_an_hour_than_its_cap(history: list[Look], policy: Policy) -> None:
    """However much happens: a summary counts as one."""
    steps = play(history, policy)
    for channel in ("ops", "all"):
        times = [now for now, done in steps for delivery in done.deliveries if delivery.channel == channel]
        for at, first in enumerate(times):
            assert sum(moment - first < timedelta(hours=1) for moment in times[at:]) <= policy.cap


@few
@given(histories(), policies)
def test_good_news_waits_for_the_end_of_the_quiet_hours_and_arrives_once(history: list[Look], policy: Policy) -> None:
    """Nothing good is told in quiet hours, nothing bad waits for their end, and nothing is lost or doubled."""
    steps = play(history, policy)
    for now, done in steps:
        if is_quiet(policy, now):
            parts = [part for d in done.deliveries for part in (d.notice.parts or (d.notice,))]
            assert not any(part.phase is Phase.ONCE and part.severity is Severity.INFO for part in parts)
    ids = [notice.id for notice in (*received(steps, "all"), *pending(steps, "all"))]
    made = [n.id for _, done in steps for n in done.notices if not n.key.startswith("channel:all")]
    assert len(ids) == len(set(ids))
    assert set(ids) <= set(made)
    once = {news.run for _, _, items in history for news in items}
    assert {n.run for n in (*received(steps, "all"), *pending(steps, "all")) if n.phase is Phase.ONCE} == once


@few
@given(histories(), policies)
def test_a_restart_at_any_time_changes_nothing(history: list[Look], policy: Policy) -> None:
    """What is remembered is all that there is: written and read again after every look, the same is told."""
    plain, kept = play(history, policy), play(history, policy, through_disk=True)
    assert [done.deliveries for _, done in plain] == [done.deliveries for _, done in kept]
    assert plain[-1][1].state == kept[-1][1].state


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_fault_that_flickers_is_one_fault(present: list[bool]) -> None:
    """What comes and goes within its settling time is told once, and has ended once it stays away."""
    flicker = fault("disk", Severity.WARNING, job="", settle=900.0)
    steps = play([(timedelta(minutes=1), [flicker] if on else [], []) for on in present], Policy(rules=(OPS,)))
    gone = max((len(list(run)) for on, run in itertools.groupby(present) if not on), default=0)
    if gone <= 15:
        assert [n.phase for n in received(steps, "ops")] == [Phase.BEGAN] * any(present)


def test_a_store_that_is_down_for_a_month_is_told_thirty_times_and_not_more() -> None:
    """A fault that every hourly run shows: once when it begins, once a day, once when it ends."""
    runs: list[Look] = [
        (timedelta(hours=1), [fault("copies:shop", Severity.WARNING, occurrence=f"r{at}")], []) for at in range(24 * 30)
    ]
    steps = play([*runs, (timedelta(hours=1), [], [good()])], Policy(rules=(OPS,)))
    told = received(steps, "ops")
    assert Counter(n.phase for n in told) == {Phase.BEGAN: 1, Phase.REMINDER: 29, Phase.ENDED: 1}
    assert told[-1].count == 720


def test_who_hears_that_a_fault_has_ended_does_not_hear_of_the_run_that_showed_it() -> None:
    """One message about one thing: the others hear of the success."""
    only = Rule(channel="shop", severity=Severity.INFO, jobs=frozenset({"other"}))
    first = step(State(), Policy(rules=(OPS, ALL, only)), NOW, faults=[fault()])
    later = step(
        first.state,
        Policy(rules=(OPS, ALL, only)),
        NOW + timedelta(hours=1),
        faults=[],
        news=[good(key="backup:shop"), good("r2", job="other")],
    )
    assert [(d.channel, d.notice.event) for d in later.deliveries] == [
        ("ops", Event.HEALTHY),
        ("all", Event.HEALTHY),
        ("all", Event.SUCCEEDED),
        ("shop", Event.SUCCEEDED),
    ]


@pytest.mark.parametrize(
    "rule,expected",
    [
        (Rule(channel="c"), "failed degraded"),
        (Rule(channel="c", severity=Severity.ERROR), "failed"),
        (Rule(channel="c", severity=Severity.INFO), "failed degraded succeeded report"),
        (Rule(channel="c", severity=None, events=frozenset({Event.REPORT})), "report"),
        (Rule(channel="c", severity=Severity.ERROR, events=frozenset({Event.SUCCEEDED})), "failed succeeded"),
        (Rule(channel="c", jobs=frozenset({"shop"})), "failed degraded"),
        (Rule(channel="c", severity=Severity.INFO, jobs=frozenset({"other"})), "report"),
        (Rule(channel="disk"), "failed"),
    ],
)
def test_what_a_channel_is_told(rule: Rule, expected: str) -> None:
    """By severity or by name, of its jobs and of what concerns none; never that it fails itself."""
    about: list[tuple[Event, Severity, str, str]] = [
        (Event.FAILED, Severity.ERROR, "shop", "backup:shop"),
        (Event.DEGRADED, Severity.WARNING, "shop", "channel:disk"),
        (Event.SUCCEEDED, Severity.INFO, "shop", ""),
        (Event.REPORT, Severity.INFO, "", ""),
    ]
    told = [event for event, severity, job, key in about if rule.wants(event, severity, job, key)]
    assert told == expected.split()


def test_the_end_reaches_who_was_told_and_who_asks_for_ends() -> None:
    """Not the channels that the fault was too slight for."""
    errors = Rule(channel="errors", severity=Severity.ERROR)
    ends = Rule(channel="ends", severity=None, events=frozenset({Event.HEALTHY}))
    policy = Policy(rules=(OPS, errors, ends))
    first = step(State(), policy, NOW, faults=[fault(severity=Severity.WARNING)])
    assert [d.channel for d in first.deliveries] == ["ops"]
    later = step(first.state, policy, NOW + timedelta(hours=1), faults=[])
    assert [(d.channel, d.notice.phase) for d in later.deliveries] == [("ops", Phase.ENDED), ("ends", Phase.ENDED)]
    assert later.deliveries[0].notice.of is Event.FAILED


@pytest.mark.parametrize(
    "second,phase",
    [
        (fault(), None),
        (fault(occurrence="r2"), None),
        (fault(code="b"), Phase.CHANGED),
        (fault(code="", reason=""), None),
        (fault(severity=Severity.WARNING), None),
        (fault(severity=Severity.WARNING, code="b"), Phase.CHANGED),
    ],
)
def test_what_is_worth_another_message(second: Fault, phase: Phase | None) -> None:
    """The same again is not, another cause is, better is not."""
    policy = Policy(rules=(OPS,))
    first = step(State(), policy, NOW, faults=[fault()])
    later = step(first.state, policy, NOW + timedelta(hours=1), faults=[second])
    assert [d.notice.phase for d in later.deliveries] == ([phase] if phase else [])


def test_worse_is_told_and_better_after_it_is_not() -> None:
    """A warning that becomes an error is told at once."""
    policy, state = Policy(rules=(OPS,)), State()
    told: list[Phase] = []
    for hour, severity in enumerate((Severity.WARNING, Severity.ERROR, Severity.WARNING, Severity.ERROR)):
        done = step(state, policy, NOW + timedelta(hours=hour), faults=[fault(severity=severity)])
        state, told = done.state, [*told, *(d.notice.phase for d in done.deliveries)]
    assert told == [Phase.BEGAN, Phase.CHANGED]


def test_a_hushed_run_neither_begins_nor_ends_anything_aloud() -> None:
    """What a run with --disable-notifications shows is told to nobody, and the next run tells what is still wrong."""
    policy = Policy(rules=(OPS,))
    quiet = step(State(), policy, NOW, faults=[fault()], hush=["backup:shop"])
    assert (quiet.deliveries, quiet.notices, quiet.state.raised) == ([], [], {})
    loud = step(quiet.state, policy, NOW + timedelta(hours=1), faults=[fault(occurrence="r2")])
    assert [d.notice.phase for d in loud.deliveries] == [Phase.BEGAN]
    still = step(loud.state, policy, NOW + timedelta(hours=30), faults=[fault(occurrence="r3")], hush=["backup:shop"])
    assert (still.deliveries, list(still.state.raised)) == ([], ["backup:shop"])
    over = step(still.state, policy, NOW + timedelta(hours=31), faults=[], hush=["backup:shop"])
    assert (over.deliveries, over.notices, over.state.raised) == ([], [], {})


def test_what_was_wrong_with_a_job_that_is_no_more_is_forgotten() -> None:
    """That a job was removed or disabled does not make it healthy."""
    policy = Policy(rules=(OPS,))
    first = step(State(), policy, NOW, faults=[fault(), fault("disk", job="")], jobs=["shop"])
    later = step(first.state, policy, NOW + timedelta(hours=1), faults=[fault("disk", job="")], jobs=[])
    assert (later.deliveries, list(later.state.raised)) == ([], ["disk"])


def test_a_step_without_a_look_ends_nothing() -> None:
    """Where it is not known what is wrong, nothing is said of it."""
    first = step(State(), Policy(rules=(OPS,)), NOW, faults=[fault()])
    later = step(first.state, Policy(rules=(OPS,)), NOW + timedelta(hours=1))
    assert (later.deliveries, later.state.raised) == ([], first.state.raised)


def test_what_is_only_shown_is_not_told() -> None:
    """A fault without an event is for the status alone."""
    done = step(State(), Policy(rules=(ALL,)), NOW, faults=[fault(event=None)])
    assert (done.notices, done.state.raised) == ([], {})


def test_a_storm_is_one_message() -> None:
    """Many at once become a summary with the worst first; what came during a full hour is told when there is room."""
    policy = Policy(rules=(OPS,), cap=2, together=3)
    storm = [fault(f"copies:{at}", Severity.WARNING) for at in range(60)]
    first = step(State(), policy, NOW, faults=[*storm, fault("backup:shop")])
    assert len(first.deliveries) == 1
    summary = first.deliveries[0].notice
    assert (summary.event, summary.severity, summary.count) == (Event.SUMMARY, Severity.ERROR, 61)
    assert (summary.parts[0].key, len(summary.parts), summary.more) == ("backup:shop", 40, 21)
    second = step(first.state, policy, NOW + timedelta(minutes=1), faults=[])
    third = step(second.state, policy, NOW + timedelta(minutes=2), faults=storm)
    assert (len(second.deliveries), third.deliveries, len(third.state.held)) == (1, [], 60)
    fourth = step(third.state, policy, NOW + timedelta(minutes=61), faults=storm)
    assert [d.notice.count for d in fourth.deliveries] == [60]
    assert not fourth.state.held


def test_a_summary_of_summaries_counts_what_they_hold() -> None:
    """Nothing is counted twice or lost where a channel was away for long."""
    notices = step(State(), Policy(), NOW, news=[good(str(at)) for at in range(50)]).notices
    one = merged([merged(notices[:45], NOW), merged(notices[45:], NOW)], NOW)
    assert (one.count, len(one.parts) + one.more) == (50, 50)


@pytest.mark.parametrize(
    "quiet,clock,expected",
    [
        (None, "03:00", False),
        (("22:00", "07:00"), "21:59", False),
        (("22:00", "07:00"), "22:00", True),
        (("22:00", "07:00"), "03:00", True),
        (("22:00", "07:00"), "07:00", False),
        (("09:00", "17:00"), "12:00", True),
        (("09:00", "17:00"), "17:00", False),
        (("09:00", "17:00"), "08:59", False),
    ],
)
def test_quiet_hours_are_those_of_the_zone(quiet: tuple[str, str] | None, clock: str, expected: bool) -> None:
    """They begin with their first minute, end before their last, and may reach over midnight."""
    zone = ZoneInfo("Asia/Seoul")
    hours = (time.fromisoformat(quiet[0]), time.fromisoformat(quiet[1])) if quiet else None
    now = datetime.combine(NOW.date(), time.fromisoformat(clock), zone).astimezone(UTC)
    assert is_quiet(Policy(quiet=hours, zone=zone), now) is expected


def test_a_clock_that_is_set_back_neither_blocks_nor_floods() -> None:
    """A channel whose hour is full by a time that is to come gets its messages, and a fault that is gone ends."""
    policy = Policy(rules=(OPS,), cap=1)
    first = step(State(), policy, NOW, faults=[fault(settle=60.0)])
    away = step(first.state, policy, NOW + timedelta(seconds=30), faults=[])
    back = NOW - timedelta(days=2)
    again = step(away.state, policy, back, faults=[])
    ended = step(again.state, policy, back + timedelta(minutes=2), faults=[])
    assert [d.notice.phase for d in ended.deliveries] == [Phase.ENDED]


def test_deliveries_name_the_notices_that_are_on_record() -> None:
    """A receipt finds its record: ids are the notices' own and never come twice, also over a state that is kept."""
    policy = Policy(rules=(OPS, ALL))
    first = step(State(), policy, NOW, faults=[fault()], news=[good()])
    second = step(first.state, policy, NOW, faults=[fault(), fault("disk", job="")], news=[good("r2")])
    ids = [notice.id for notice in (*first.notices, *second.notices)]
    assert len(ids) == len(set(ids)) == 4
    assert {d.notice.id for d in (*first.deliveries, *second.deliveries)} <= set(ids)
    assert Delivery("ops", first.notices[0]) in first.deliveries
    assert msgspec.json.decode(to_json(first.notices[0]), type=Notice) == first.notices[0]
