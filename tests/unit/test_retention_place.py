"""Retention of fulls and slices together: windows, sizes, pins and chains as properties, judged by `timeline`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.model import OpTime, Policy, Tiers
from nanumpay_backupd.retention import (
    Candidate,
    Coming,
    Decision,
    SliceCandidate,
    decide_place,
    deleting_order,
    foresee,
    standing,
)
from nanumpay_backupd.retention.windows import Windows
from nanumpay_backupd.timeline import Base, Piece, ranges

NOW = datetime(2026, 11, 21, 2, 0, 0, tzinfo=UTC)
SEOUL = ZoneInfo("Asia/Seoul")

windows = st.builds(
    Tiers,
    keep_all_for_days=st.integers(1, 3),
    keep_daily_for_days=st.integers(0, 4),
    keep_weekly_for_weeks=st.integers(0, 3),
    keep_monthly_for_months=st.integers(0, 3),
    keep_yearly_for_years=st.integers(0, 2),
)
counts = st.builds(Policy, count=st.integers(1, 6), days=st.integers(1, 20), min_keep=st.integers(1, 3))
thinning = st.builds(Policy, tiers=windows, min_keep=st.integers(1, 3))
rules = st.one_of(counts, thinning)


class Place(msgspec.Struct, frozen=True):
    """What stands at one place."""

    whole: tuple[Candidate, ...]
    slices: tuple[SliceCandidate, ...]

    def without(self, gone: Iterable[str]) -> Place:
        """Return the place after these were deleted."""
        names = set(gone)
        return Place(
            tuple(item for item in self.whole if item.backup not in names),
            tuple(item for item in self.slices if item.backup not in names),
        )

    @property
    def items(self) -> list[Candidate | SliceCandidate]:
        """Return all that stands there."""
        return [*self.whole, *self.slices]

    @property
    def names(self) -> set[str]:
        """Return the names of what stands there."""
        return {item.backup for item in self.items}

    @property
    def size(self) -> int:
        """Return how many bytes stand there."""
        return sum(item.size for item in self.whole) + sum(item.size for item in self.slices)

    def reached(self, moments: Iterable[OpTime]) -> set[OpTime]:
        """Return those of the moments that can be restored from here."""
        bases = [Base(item.backup, item.moment, item.good) for item in self.whole if item.moment is not None]
        found = ranges(bases, [Piece(item.backup, item.start, item.end, item.good) for item in self.slices])
        return {moment for moment in moments if any(item.first <= moment <= item.last for item in found)}


def decided(place: Place, policy: Policy, now: datetime = NOW) -> list[Decision]:
    """Return what retention says, in the zone of the tests."""
    return decide_place(place.whole, place.slices, policy, now, SEOUL)


def kept(place: Place, policy: Policy, now: datetime = NOW) -> set[str]:
    """Return the names that stay."""
    return {one.backup for one in decided(place, policy, now) if one.keep}


def optime(moment: datetime) -> OpTime:
    """Return a moment as an oplog time."""
    return OpTime(int(moment.timestamp()), 0)


def history(seed: int, fulls: int, *, pins: bool = True) -> Place:
    """A job's history at one place: fulls of any age, a stream of slices, with gaps and faults; some snapshots."""
    dice = random.Random(seed)

    def age() -> timedelta:
        # Narrow ranges, so that limits, periods and fulls meet often; and years.
        return dice.choice((timedelta(hours=6 * dice.randint(0, 40)), timedelta(days=dice.randint(0, 900))))

    def pinned() -> str:
        return dice.choice(("", "", "", "", "person", "daemon")) if pins else ""

    whole = []
    for at, old in enumerate(sorted({age() for _ in range(fulls)})):
        # Some are dumped across the very end of a window.
        created, sort, pin = (
            NOW - old - dice.choice((0, 1)) * timedelta(minutes=10),
            dice.choice(("good",) * 5 + ("unproven", "legacy", "unmoved")),
            pinned(),
        )
        moment = optime(created + timedelta(minutes=dice.randint(0, 30))) if sort in {"good", "unproven"} else None
        whole.append(
            Candidate(
                f"b{at:02d}",
                created,
                good=sort in {"good", "unmoved"},
                legacy=sort == "legacy",
                pinned=pin,
                size=dice.randint(1, 9),
                moment=moment,
                anchor=pin == "daemon",
            )
        )
    # Cut at the fulls' moments, as the stream is, and now and then in between.
    cuts = {item.moment for item in whole if item.moment is not None} | {optime(NOW - age()) for _ in range(fulls // 2)}
    slices = [
        SliceCandidate(
            f"s{at:02d}", end.moment, end, pinned(), start=start, good=dice.random() < 0.93, size=dice.randint(1, 9)
        )
        for at, (start, end) in enumerate(itertools.pairwise(sorted(cuts)))
        if dice.random() < 0.93
    ]
    for at in range(dice.randint(0, 4)):
        good = dice.random() < 0.7
        whole.append(Candidate(f"users{at}", NOW - age(), good=good, group="users", size=dice.randint(1, 9)))
    dice.shuffle(whole)
    dice.shuffle(slices)
    return Place(tuple(whole), tuple(slices))


def places(*, pins: bool = True) -> st.SearchStrategy[Place]:
    """Histories by their number: drawing each part of them by itself would take ten times as long."""
    return st.builds(history, st.integers(0, 2**32), st.integers(0, 14), pins=st.just(pins))


def in_our_order(place: Place, doomed: set[str]) -> list[str]:
    """Return what is to be deleted in the order in which it is deleted."""
    return deleting_order(item for item in place.items if item.backup in doomed)


def newest_good(place: Place, count: int, group: str = "") -> set[str]:
    """Return the newest good ones of a group."""
    good = [item for item in place.whole if item.good and item.group == group]
    good.sort(key=lambda item: (item.created, item.backup), reverse=True)
    return {item.backup for item in good[:count]}


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(), rules, st.one_of(st.just(0), st.integers(1, 60)))
def test_neither_the_newest_good_ones_nor_what_is_pinned_is_ever_deleted(
    place: Place, policy: Policy, size: int
) -> None:
    """Whatever rule and size say, the newest ``min_keep`` verified stay, and all that is pinned."""
    keep = kept(place, msgspec.structs.replace(policy, max_total_size=size))
    assert newest_good(place, policy.min_keep) | newest_good(place, policy.min_keep, "users") <= keep
    assert {item.backup for item in place.items if item.pinned} <= keep


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(), rules, st.one_of(st.just(0), st.integers(1, 60)))
def test_what_a_pinned_slice_needs_stays(place: Place, policy: Policy, size: int) -> None:
    """The end of a pinned slice can be restored afterwards if it could be before."""
    keep = kept(place, msgspec.structs.replace(policy, max_total_size=size))
    after = place.without(place.names - keep)
    ends = {item.end for item in place.slices if item.pinned}
    assert place.reached(ends) == after.reached(ends)


@given(places(), rules, st.one_of(st.just(0), st.integers(1, 60)))
def test_applying_the_answer_leaves_nothing_more_to_delete(place: Place, policy: Policy, size: int) -> None:
    """A second run right after the first finds nothing to do."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    keep = kept(place, policy)
    assert kept(place.without(place.names - keep), policy) == keep


@given(places(), rules, st.integers(0, 3_000), st.integers(0, 3_000))
def test_what_is_deleted_at_one_time_would_not_be_kept_later(
    place: Place, policy: Policy, one: int, other: int
) -> None:
    """Time alone never makes anything worth keeping again, so that nothing is deleted too early."""
    sooner, later = (NOW + timedelta(hours=6 * steps) for steps in sorted((one, other)))
    assert kept(place, policy, later) <= kept(place, policy, sooner)


@given(places(), places(), rules, st.integers(0, 400))
def test_nor_do_backups_that_come_later_make_it_so(before: Place, fresh: Place, policy: Policy, steps: int) -> None:
    """What is deleted now is not what a later prune, with newer backups beside it, would have kept."""
    later = NOW + timedelta(hours=6 * steps)
    shift = later - NOW
    # Only what is newer than all that was there: that is how backups come.
    newest = max((item.created for item in before.whole), default=NOW - timedelta(days=2_000))
    whole = tuple(
        msgspec.structs.replace(item, backup=f"n{item.backup}", created=item.created + shift, moment=None)
        for item in fresh.whole
        if item.created + shift > newest
    )
    together = Place((*before.whole, *whole), before.slices)
    thinned = before.without(before.names - kept(before, policy))
    # By count, fulls of no moment may push out those that slices lead on from: then the days decide about slices.
    names = before.names if policy.tiers is not None else {item.backup for item in before.whole}
    assert kept(together, policy, later) & names <= thinned.names


@pytest.mark.promise("Deleting that is broken off leaves what can be restored; no slice loses its full.", item=6)
@given(places(), rules, st.data())
def test_deleting_in_any_interrupted_order_leaves_what_is_still_needed(
    place: Place, policy: Policy, data: st.DataObject
) -> None:
    """After a crash in the middle of deleting, the next answer deletes nothing that the first one kept."""
    keep = kept(place, policy)
    doomed = sorted(place.names - keep)
    gone = data.draw(st.lists(st.sampled_from(doomed), unique=True)) if doomed else []
    assert keep <= kept(place.without(gone), policy)


@pytest.mark.promise("Deleting that is broken off leaves what can be restored; no slice loses its full.", item=6)
@given(places(), rules, st.floats(0, 1))
def test_deleting_in_our_order_interrupted_gives_the_same_answer(place: Place, policy: Policy, part: float) -> None:
    """Broken off in the order in which it deletes, retention keeps exactly what it kept at first."""
    keep = kept(place, policy)
    order = in_our_order(place, place.names - keep)
    assert kept(place.without(order[: round(part * len(order))]), policy) == keep


@given(places(), rules, st.integers(1, 60), st.data())
def test_whatever_part_of_a_plan_was_done_nothing_that_it_kept_is_deleted(
    place: Place, policy: Policy, size: int, data: st.DataObject
) -> None:
    """Cut off, refused or locked in any order, again and again: each answer deletes no more than the rest of the first.

    It comes to an end, and what stays beyond the first answer fits.
    """
    policy = msgspec.structs.replace(policy, max_total_size=size)
    first = kept(place, policy)
    for _ in range(3):
        doomed = sorted(place.names - kept(place, policy))
        gone = data.draw(st.lists(st.sampled_from(doomed), unique=True)) if doomed else []
        place = place.without(gone)
        assert first <= kept(place, policy)
    place = place.without(place.names - kept(place, policy))
    assert kept(place, policy) == place.names
    snapshots = {item.backup for item in place.whole if item.group}
    assert place.names - snapshots == first - snapshots or place.without(snapshots).size <= size
    assert place.names & snapshots == first & snapshots or place.size <= size


@given(places(), rules, st.integers(1, 60), st.floats(0, 1))
def test_broken_off_in_our_order_no_more_stays_than_what_was_just_being_deleted(
    place: Place, policy: Policy, size: int, part: float
) -> None:
    """With a limit of the size one full may stay that was to go: the one whose slices are gone in part, if it fits."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    first = kept(place, policy)
    order = in_our_order(place, place.names - first)
    done = round(part * len(order))
    more = kept(place.without(order[:done]), policy) - first
    assert more <= set(order[done:])
    fulls = {item.backup for item in place.whole if item.good and item.moment is not None}
    assert len(more & fulls) <= 1


@pytest.mark.promise("Deleting that is broken off leaves what can be restored; no slice loses its full.", item=6)
@given(places(), thinning, st.data())
def test_every_second_of_the_time_of_which_all_is_kept_can_still_be_restored(
    place: Place, policy: Policy, data: st.DataObject
) -> None:
    """Whatever was deleted of what was to be, in any order: no moment within `keep_all_for_days` is lost by it."""
    assert policy.tiers is not None
    limit = optime(Windows.at(policy.tiers, NOW).everything)
    doomed = sorted(place.names - kept(place, policy))
    gone = data.draw(st.lists(st.sampled_from(doomed), unique=True)) if doomed else []
    moments = {item.end for item in place.slices} | {item.moment for item in place.whole if item.moment is not None}
    wanted = {moment for moment in (*moments, limit) if moment >= limit}
    for deleted in (gone, doomed):
        assert place.reached(wanted) == place.without(deleted).reached(wanted)


@given(places(), counts, st.data())
def test_every_second_since_the_oldest_full_that_the_rule_keeps_can_still_be_restored(
    place: Place, policy: Policy, data: st.DataObject
) -> None:
    """By count and days the changes are kept from that full on, whatever else was deleted and in which order."""
    keep = kept(place, policy)
    ruled = kept(Place(tuple(msgspec.structs.replace(item, pinned="") for item in place.whole), ()), policy)
    moments = [item.moment for item in place.whole if item.good and item.moment is not None and item.backup in ruled]
    doomed = sorted(place.names - keep)
    gone = data.draw(st.lists(st.sampled_from(doomed), unique=True)) if doomed else []
    wanted = {item.end for item in place.slices if moments and item.end >= min(moments)}
    for deleted in (gone, doomed):
        assert place.reached(wanted) == place.without(deleted).reached(wanted)


@given(places(pins=False), rules, st.integers(0, 60))
def test_deleting_in_our_order_leaves_beginnings_of_chains(place: Place, policy: Policy, size: int) -> None:
    """At each step of a prune, what is left of the slices of a doomed full is what can be restored from it."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    doomed = place.names - kept(place, policy)
    order = in_our_order(place, doomed)
    assert sorted(order) == sorted(doomed)
    sliced = {item.backup: item.end for item in place.slices}
    before = place.reached(sliced.values())
    for step, name in enumerate(order):
        if name not in sliced:
            break
        after = place.without(order[: step + 1])
        left = {item.end for item in after.slices if item.backup in doomed}
        assert after.reached(left) == before & left


@given(places(), rules, st.integers(1, 60))
def test_a_size_is_kept_to_or_nothing_is_left_that_may_go(place: Place, policy: Policy, size: int) -> None:
    """It takes no more than is needed, and stops only where nothing may be taken any more."""
    place = Place(place.whole, tuple(msgspec.structs.replace(item, pinned="") for item in place.slices))
    free, keep = kept(place, policy), kept(place, msgspec.structs.replace(policy, max_total_size=size))
    assert keep <= free
    if place.without(place.names - free).size <= size:
        assert keep == free
    after = place.without(place.names - keep)
    fulls = after.without(item.backup for item in after.whole if item.group)
    for part, group in ((fulls, ""), (after, "users")):
        loose = [item for item in part.whole if item.group == group and not item.pinned]
        never = newest_good(place, policy.min_keep, group)
        assert part.size <= size or not never or not [item for item in loose if item.backup not in never]


@given(places(pins=False), rules, st.integers(1, 60))
def test_a_size_takes_the_oldest_first(place: Place, policy: Policy, size: int) -> None:
    """Of the proven fulls those that stay are newer than those that do not fit; what is not proven goes before them."""
    free = kept(place, policy)
    keep = kept(place, msgspec.structs.replace(policy, max_total_size=size))
    loose = free - newest_good(place, policy.min_keep)
    counting = [item for item in place.whole if item.counts and not item.group and item.backup in loose]
    gone = [(item.created, item.backup) for item in counting if item.backup not in keep]
    stay = [(item.created, item.backup) for item in counting if item.backup in keep]
    assert not gone or not stay or max(gone) < min(stay)
    if gone and newest_good(place, 1):
        assert all(item.counts for item in place.whole if item.backup in keep and not item.group)


@given(places(pins=False), rules, st.integers(0, 60))
def test_snapshots_push_out_no_full_whatever_the_size(place: Place, policy: Policy, size: int) -> None:
    """What happens to fulls and slices is the same whether snapshots of collections stand beside them or not."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    users = {item.backup for item in place.whole if item.group}
    assert kept(place, policy) - users == kept(place.without(users), policy)


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
@given(places(pins=False), rules, st.integers(0, 60))
def test_what_is_not_proven_pushes_out_nothing_whatever_the_size(place: Place, policy: Policy, size: int) -> None:
    """What happens to proven fulls is the same whether unproven ones stand beside them or not."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    unproven = {item.backup for item in place.whole if not item.counts}
    fulls = {item.backup for item in place.whole if not item.group}
    if newest_good(place, 1):
        assert (kept(place, policy) & fulls) - unproven == kept(place.without(unproven), policy) & fulls


@given(places(), rules, st.integers(0, 60))
def test_every_copy_gets_one_decision_with_its_reason(place: Place, policy: Policy, size: int) -> None:
    """Nothing is left undecided or decided twice; the order in which things are listed means nothing."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    decisions = decided(place, policy)
    assert sorted(one.backup for one in decisions) == sorted(place.names)
    assert all(one.reason.strip() for one in decisions)
    assert decisions == decided(Place(place.whole[::-1], place.slices[::-1]), policy)


@given(places(), windows, windows)
def test_longer_windows_never_keep_less(place: Place, tiers: Tiers, more: Tiers) -> None:
    """Making any window longer cannot delete what stayed before."""
    longer = {name: getattr(tiers, name) + getattr(more, name) for name in Tiers.__struct_fields__}
    assert kept(place, Policy(tiers=tiers)) <= kept(place, Policy(tiers=Tiers(**longer)))


@pytest.mark.parametrize("moment", ["2026-03-31T10:00", "2024-02-29T23:59", "2026-01-01T00:00"])
def test_months_are_the_calendars(moment: str) -> None:
    """A month back is the same day of the month before, or the end of that where it has no such day."""
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    end = Windows.at(Tiers(keep_all_for_days=0, keep_monthly_for_months=1), now).end
    expected = {
        "2026-03-31T10:00": "2026-02-28T23:59:59.999999",
        "2024-02-29T23:59": "2024-01-29T23:59:00",
        "2026-01-01T00:00": "2025-12-01T00:00:00",
    }[moment]
    assert end.replace(tzinfo=None).isoformat() == expected


def one_after_the_other(
    place: Place, policy: Policy, coming: Coming, at: datetime
) -> tuple[dict[str, bool], dict[str, datetime]]:
    """Look ahead the long way: everything is judged anew at each backup that comes; also when each went."""
    gone: dict[str, datetime] = {}
    for full, piece in coming.arrivals():
        place = Place((*place.whole, full), (*place.slices, *([piece] if piece is not None else [])))
        if place.size > policy.max_total_size:
            going = place.names - kept(place, policy, full.created)
            gone |= dict.fromkeys(going, full.created)
            place = place.without(going)
    last = {one.backup: one.keep for one in decided(place, policy, at)}
    return last | dict.fromkeys(gone, False), gone


roomy = st.one_of(
    st.builds(Policy, count=st.integers(3, 40), days=st.integers(20, 900), min_keep=st.integers(1, 2)),
    st.builds(Policy, tiers=st.builds(Tiers, keep_all_for_days=st.integers(5, 300), keep_weekly_for_weeks=st.just(9))),
)


@pytest.mark.parametrize("part", [1, 3])
@given(
    st.one_of(places(pins=False), places()),
    st.one_of(roomy, rules),
    st.integers(20, 200),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-5, 1e-4]),
)
def test_looking_ahead_with_a_size_is_what_retention_after_each_backup_does(
    part: int, place: Place, policy: Policy, size: int, count: int, hours: int, weight: int, changes: float
) -> None:
    """However little of a place is judged at each look: the same goes, on the same day, as if all of it were."""
    policy = msgspec.structs.replace(policy, max_total_size=size)
    times = [NOW + timedelta(hours=6 * hours * step) for step in range(1, count + 1)]
    coming = Coming(times, [f"n{at:03d}" for at in range(count)], weight, moments=True, slices=changes, since=NOW)
    at = times[-1] + timedelta(days=3)
    expected, gone = one_after_the_other(place, policy, coming, at)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(standing, "_PART", part)
        found = foresee(place.whole, place.slices, policy, at, SEOUL, coming)
    assert {one.backup: one.keep for one in found} == expected
    days = {name: f"({moment.astimezone(SEOUL):%Y-%m-%d})" for name, moment in gone.items()}
    assert {one.backup: one.reason[-12:] for one in found if one.backup in gone} == days
