"""Retention: the invariants as properties, a test named after each, and the application's rule as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.model import OpTime, Policy, Tiers
from nanumpay_backupd.retention import Candidate, Decision, SliceCandidate, decide, decide_place, rule_words

NOW = datetime(2026, 11, 21, 2, 0, 0, tzinfo=UTC)

# Narrow ranges, so that ages, counts and equal times meet the limits often.
counts = st.builds(Policy, count=st.integers(1, 6), days=st.integers(1, 6))
windows = st.builds(
    Tiers,
    keep_all_for_days=st.integers(1, 3),
    keep_daily_for_days=st.integers(0, 3),
    keep_weekly_for_weeks=st.integers(0, 1),
    keep_monthly_for_months=st.integers(0, 1),
)
policies = st.one_of(counts, st.builds(Policy, tiers=windows))


@st.composite
def places(draw: st.DrawFn, *, proven: bool | None = None) -> list[Candidate]:
    """What may stand at one place: any mixture of proven, pinned, unproven and old program's, some of one second."""
    ages = draw(st.lists(st.integers(-4, 32), max_size=14))
    candidates = []
    for at, age in enumerate(ages):
        good = draw(st.booleans()) if proven is None else proven
        legacy = not good and draw(st.booleans())
        pinned = draw(st.sampled_from(["", "", "", "a newer one is corrupt"]))
        created = NOW - timedelta(hours=6 * age)
        candidates.append(Candidate(f"b{at:02d}", created, good=good, legacy=legacy, pinned=pinned))
    return draw(st.permutations(candidates))


def kept(decisions: list[Decision]) -> set[str]:
    """Return the names that stay."""
    return {decision.backup for decision in decisions if decision.keep}


def newest_first(candidates: list[Candidate]) -> list[Candidate]:
    """Return them in the order in which they count."""
    return sorted(candidates, key=lambda item: (item.created, item.backup), reverse=True)


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(), policies)
def test_the_newest_verified_copy_is_never_deleted(candidates: list[Candidate], policy: Policy) -> None:
    """However old it is and however many are newer, the newest verified copy stays."""
    good = [item.backup for item in newest_first(candidates) if item.good]
    assert set(good[:1]) <= kept(decide(candidates, policy, NOW))


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(), policies)
def test_what_is_pinned_is_never_deleted(candidates: list[Candidate], policy: Policy) -> None:
    """Whatever the policy says, a pinned copy stays; what is not pinned is treated as if nothing were."""
    pinned = {item.backup for item in candidates if item.pinned}
    decisions = decide(candidates, policy, NOW)
    assert pinned <= kept(decisions)
    assert all(item.reason.startswith(("pinned: ", "kept: ")) for item in decisions if item.backup in pinned)
    free = [msgspec.structs.replace(item, pinned="") for item in candidates]
    assert kept(decisions) - pinned == kept(decide(free, policy, NOW)) - pinned


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(), policies)
def test_a_copy_that_is_not_proven_never_pushes_out_one_that_is(candidates: list[Candidate], policy: Policy) -> None:
    """What happens to proven copies is the same whether unproven ones stand beside them or not."""
    unproven = {item.backup for item in candidates if not item.good and not item.legacy}
    with_them = kept(decide(candidates, policy, NOW)) - unproven
    if any(item.good for item in candidates):
        without = kept(decide([item for item in candidates if item.backup not in unproven], policy, NOW))
        assert with_them == without


@given(places(), places(), places(), policies)
def test_one_group_is_judged_as_if_the_others_were_not_there(
    fulls: list[Candidate], users: list[Candidate], plans: list[Candidate], policy: Policy
) -> None:
    """Snapshots of a collection push out neither fulls nor those of another collection, nor do they protect any."""
    groups = [
        [Candidate(f"{name}{item.backup}", item.created, item.good, item.legacy, group=name) for item in items]
        for name, items in (("", fulls), ("users", users), ("plans", plans))
    ]
    together = decide([item for group in groups for item in group], policy, NOW)
    apart = [decision for group in groups for decision in decide(group, policy, NOW)]
    assert sorted(together, key=lambda one: one.backup) == sorted(apart, key=lambda one: one.backup)


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(proven=False), policies)
def test_nothing_is_deleted_where_nothing_is_proven(candidates: list[Candidate], policy: Policy) -> None:
    """Without a verified copy at a place, every copy there may be the only one that can be restored."""
    assert kept(decide(candidates, policy, NOW)) == {item.backup for item in candidates}


@given(places(), policies)
def test_applying_the_answer_leaves_nothing_more_to_delete(candidates: list[Candidate], policy: Policy) -> None:
    """A second run right after the first finds nothing to do."""
    keep = kept(decide(candidates, policy, NOW))
    again = decide([item for item in candidates if item.backup in keep], policy, NOW)
    assert kept(again) == keep


@pytest.mark.promise("Deleting that is broken off leaves what can be restored; no slice loses its full.", item=6)
@given(places(), policies, st.data())
def test_deleting_in_any_interrupted_order_leaves_what_is_still_needed(
    candidates: list[Candidate], policy: Policy, data: st.DataObject
) -> None:
    """After a crash in the middle of deleting, the next answer keeps exactly what the first one kept."""
    keep = kept(decide(candidates, policy, NOW))
    doomed = sorted({item.backup for item in candidates} - keep)
    gone = set(data.draw(st.lists(st.sampled_from(doomed), unique=True))) if doomed else set()
    rest = [item for item in candidates if item.backup not in gone]
    assert kept(decide(rest, policy, NOW)) == keep


@given(places(), policies)
def test_every_copy_gets_one_decision_with_its_reason(candidates: list[Candidate], policy: Policy) -> None:
    """Nothing is left undecided, decided twice, or decided without a sentence for the operator; newest come first."""
    decisions = decide(candidates, policy, NOW)
    assert [decision.backup for decision in decisions] == [item.backup for item in newest_first(candidates)]
    assert all(decision.reason.strip() for decision in decisions)


@given(places(), counts, st.integers(0, 3), st.integers(0, 3))
def test_a_more_generous_policy_never_keeps_less(
    candidates: list[Candidate], policy: Policy, more_count: int, more_days: int
) -> None:
    """Raising the count or the days in the application's form cannot delete what stayed before."""
    generous = Policy(count=policy.count + more_count, days=policy.days + more_days)
    assert kept(decide(candidates, policy, NOW)) <= kept(decide(candidates, generous, NOW))


@given(places(), counts)
def test_never_more_counted_copies_stay_than_the_policy_says(candidates: list[Candidate], policy: Policy) -> None:
    """Of copies that count, at most ``count`` stay within ``days``, but for the protected one and what is pinned."""
    keep = kept(decide(candidates, policy, NOW))
    good = [item.backup for item in newest_first(candidates) if item.good]
    counted = [item for item in candidates if (item.good or item.legacy) and item.backup in keep and not item.pinned]
    if good:
        rest = [item for item in counted if item.backup != good[0]]
        assert len(rest) <= policy.count
        assert all(item.created >= NOW - timedelta(days=policy.days) for item in rest)


@given(places(), policies)
def test_the_same_input_in_any_order_gives_the_same_answer(candidates: list[Candidate], policy: Policy) -> None:
    """The catalog's or a server's listing order means nothing."""
    assert decide(candidates, policy, NOW) == decide(list(reversed(candidates)), policy, NOW)


def daily(letters: str) -> list[Candidate]:
    """One copy a day, newest first: V verified, L of the old program, ? not read back or corrupt, - none that day."""
    return [
        Candidate(f"d{age:02d}", NOW - timedelta(days=age), good=letter == "V", legacy=letter == "L")
        for age, letter in enumerate(letters)
        if letter != "-"
    ]


@pytest.mark.parametrize(
    "letters, count, days, expected",
    [
        pytest.param("VVVVVVV", 7, 30, "kkkkkkk", id="contract's default: seven stay"),
        pytest.param("VVVVVVVVV", 7, 30, "kkkkkkkdd", id="the eighth and ninth go"),
        pytest.param("VVVVV", 7, 3, "kkkkd", id="exactly as old as the days allow stays, older goes"),
        pytest.param("V------", 7, 1, "k", id="a lone fresh one"),
        pytest.param("-----V", 7, 3, "k", id="too old, but the newest verified"),
        pytest.param("-----VV", 7, 3, "kd", id="only the newest verified is protected"),
        pytest.param("VLLLLLLLL", 7, 30, "kkkkkkkdd", id="the old program's archives count"),
        pytest.param("LLLL", 2, 2, "kkkk", id="only the old program's: nothing verified, nothing goes"),
        pytest.param("LLLV", 2, 30, "kkdk", id="newer ones of the old program, and the protected one"),
        pytest.param("?VVV", 2, 30, "kkkd", id="one that is not proven takes nobody's place"),
        pytest.param("VV?V", 2, 30, "kkdd", id="one that is not proven goes when enough newer ones are there"),
        pytest.param("V???", 2, 30, "kkkk", id="unproven ones stay until newer ones take their place"),
        pytest.param("V-?-", 2, 1, "kd", id="unproven ones grow too old"),
        pytest.param("????", 1, 1, "kkkk", id="nothing proven: nothing goes"),
        pytest.param("VV", 1, 365, "kd", id="smallest count"),
        pytest.param("", 7, 30, "", id="nothing there"),
    ],
)
def test_the_contract_as_a_table(letters: str, count: int, days: int, expected: str) -> None:
    """Keep those within the count, of those none older than the days, and always the newest verified."""
    decisions = decide(daily(letters), Policy(count=count, days=days), NOW)
    assert "".join("k" if decision.keep else "d" for decision in decisions) == expected


def test_reasons_are_sentences_an_operator_understands() -> None:
    """`prune` shows why, in words that name the figures of the policy."""
    decisions = decide(daily("VV?VVL"), Policy(count=2, days=4), NOW)
    assert [decision.reason for decision in decisions] == [
        "number 1 of the newest 2, within 4 days",
        "number 2 of the newest 2, within 4 days",
        "2 newer ones are kept",
        "2 newer ones are kept",
        "2 newer ones are kept",
        "older than 4 days",
    ]
    old = Candidate("old", NOW - timedelta(days=9), good=True, pinned="asked")
    first, pinned = decide([*daily("V"), old], Policy(count=1, days=4), NOW)
    assert (first.keep, pinned.keep, pinned.reason) == (True, True, "pinned: asked")
    (protected,) = decide(daily("-----V"), Policy(count=2, days=4), NOW)
    assert protected == Decision("d05", keep=True, reason="the newest verified backup is never deleted")


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
def test_a_copy_from_the_future_is_kept() -> None:
    """A clock that was set back does not make the newest backups look too old."""
    future = Candidate("later", NOW + timedelta(days=3), good=True)
    assert kept(decide([future, *daily("VV")], Policy(count=2, days=1), NOW)) == {"later", "d00"}


def full(end: int) -> Candidate:
    """A full that is of one moment, an hour old."""
    return Candidate("full", NOW - timedelta(hours=1), good=True, moment=OpTime(end, 1))


@pytest.mark.promise("Deleting that is broken off leaves what can be restored; no slice loses its full.", item=6)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12),
    st.one_of(st.none(), st.integers(0, 40)),
)
def test_slices_are_deleted_only_when_no_kept_full_needs_them(ends: list[tuple[int, bool]], oldest: int | None) -> None:
    """A slice that reaches beyond the oldest kept full stays, one that does not goes, and a pinned one always stays."""
    slices = [
        SliceCandidate(f"s{at}", NOW, OpTime(end, 1), "why" if pinned else "") for at, (end, pinned) in enumerate(ends)
    ]
    moment = None if oldest is None else OpTime(oldest, 1)
    fulls = [] if oldest is None else [full(oldest)]
    decisions = {one.backup: one.keep for one in decide_place(fulls, slices, Policy(count=1, days=30), NOW)}
    for item in slices:
        assert decisions[item.backup] == bool(item.pinned or moment is None or item.end > moment)


@pytest.mark.parametrize("policy", [Policy(count=1, days=30), Policy(tiers=Tiers(keep_all_for_days=30))])
def test_slices_without_a_full_are_kept_for_a_while(policy: Policy) -> None:
    """Where no full of one moment is kept, the days of the policy decide."""
    young = SliceCandidate("young", NOW - timedelta(days=29), OpTime(5, 1))
    old = SliceCandidate("old", NOW - timedelta(days=31), OpTime(4, 1))
    assert [(item.backup, item.keep) for item in decide_place([], [old, young], policy, NOW)] == [
        ("young", True),
        ("old", False),
    ]


def test_a_person_who_pins_an_old_full_keeps_it_without_all_changes_since() -> None:
    """What the daemon pinned for a damaged newer one is led on from; what somebody wants to keep stands alone."""
    start = int(NOW.timestamp()) - 86_400 * 100
    newest = Candidate("newest", NOW, good=True, moment=OpTime(start + 50, 1))
    slices = [SliceCandidate(f"s{at}", NOW, OpTime(start + at, 1)) for at in (10, 60)]
    for anchor, expected in ((False, {"newest", "old", "s60"}), (True, {"newest", "old", "s10", "s60"})):
        pinned = Candidate("old", NOW - timedelta(days=100), True, pinned="why", moment=OpTime(start, 1), anchor=anchor)
        assert kept(decide_place([newest, pinned], slices, Policy(count=1, days=30), NOW)) == expected


@pytest.mark.parametrize(
    "policy, words",
    [
        (Policy(), "7, at most 30 days"),
        (Policy(count=1, days=1, min_keep=3), "1, at most 1 day; never fewer than 3"),
        (
            Policy(
                tiers=Tiers(
                    keep_all_for_days=7,
                    keep_daily_for_days=16,
                    keep_weekly_for_weeks=8,
                    keep_monthly_for_months=4,
                ),
                max_total_size=50 * 10**9,
            ),
            "all of 7 days, then one a day for 16 days, a week for 8 weeks, a month for 4 months; at most 50.0 GB",
        ),
        (
            Policy(tiers=Tiers(keep_all_for_days=1, keep_yearly_for_years=2)),
            "all of 1 day, then one a year for 2 years",
        ),
        (Policy(tiers=Tiers(keep_all_for_days=90)), "all of 90 days"),
    ],
)
def test_a_policy_in_words(policy: Policy, words: str) -> None:
    """What status says is kept."""
    assert rule_words(policy) == words
