"""Fulls out of turn: what asks for one, and that they come ever more slowly where they do not help. Tables."""

from __future__ import annotations

import pytest

from nanumpay_backupd.repairs import Cause, Repairs, cause_of

HOUR = 3600.0
DAY = 86400.0


def made(repairs: Repairs, now: float, cause: Cause = Cause.STREAM, *, good: bool = True) -> None:
    """Want a full and make it at once."""
    repairs.ask("shop", cause)
    repairs.begun("shop", now)
    repairs.ended("shop", now, good=good, again=True)


def wait(repairs: Repairs, now: float, cause: Cause = Cause.STREAM) -> float:
    """Want a full and return when it comes."""
    repairs.ask("shop", cause)
    return repairs.wait("shop", now)


def test_the_first_is_made_at_once() -> None:
    """Nothing stands in the way of the first; while it is made none is wanted, and afterwards neither."""
    repairs = Repairs()
    assert wait(repairs, 5.0) == 0.0
    assert repairs.wanted() == ["shop"]
    repairs.begun("shop", 5.0)
    assert repairs.wanted() == []
    repairs.ended("shop", 9.0, good=True, again=True)
    assert repairs.wanted() == []


def test_one_that_was_good_and_of_no_use_is_not_made_again_for_a_day() -> None:
    """Where the slices fail for the same reason after it, another full would only push an older one out."""
    repairs = Repairs()
    made(repairs, 0.0)
    assert wait(repairs, 60.0) == DAY - 60.0


def test_where_each_helps_for_a_while_they_come_ever_more_slowly() -> None:
    """An oplog that rolls over again and again: twice at once, after an hour, two, four, up to a day; then anew."""
    repairs, now, pauses = Repairs(), 0.0, []
    for _ in range(8):
        made(repairs, now)
        repairs.mended("shop", Cause.STREAM)
        pauses.append(wait(repairs, now))
        now += pauses[-1]
    assert [pause / HOUR for pause in pauses] == [0, 1, 2, 4, 8, 16, 24, 24]
    now += DAY + 1
    made(repairs, now)
    repairs.mended("shop", Cause.STREAM)
    assert wait(repairs, now) == 0.0


def test_one_that_failed_is_wanted_again_soon() -> None:
    """It pushed nothing out: tried again after ten minutes, then twenty, up to an hour."""
    repairs, now, pauses = Repairs(), 0.0, []
    for _ in range(5):
        made(repairs, now, good=False)
        assert repairs.wanted() == ["shop"]
        pauses.append(repairs.wait("shop", now))
        now += pauses[-1]
    assert [pause / 60 for pause in pauses] == [10, 20, 40, 60, 60]
    made(repairs, now)
    assert repairs.wanted() == []


def test_one_that_somebody_cancelled_is_not_wanted_again() -> None:
    """Who cancels it does not want it; the next fault may ask again."""
    repairs = Repairs()
    repairs.ask("shop", Cause.PROOF)
    repairs.begun("shop", 0.0)
    repairs.ended("shop", 1.0, good=False, again=False)
    assert repairs.wanted() == []


def test_good_slices_do_not_do_away_with_what_a_failed_proof_wants() -> None:
    """Each cause ends for itself; a good full of whoever ends both."""
    repairs = Repairs()
    repairs.ask("shop", Cause.PROOF)
    repairs.ask("shop", Cause.STREAM)
    repairs.mended("shop", Cause.STREAM)
    assert repairs.wanted() == ["shop"]
    repairs.ended("shop", 0.0, good=True, again=True)
    assert repairs.wanted() == []


def test_one_cause_does_not_hold_up_the_other() -> None:
    """A full that did not help the slices says nothing of one that a failed proof asks for."""
    repairs = Repairs()
    made(repairs, 0.0, Cause.STREAM)
    assert wait(repairs, 60.0, Cause.PROOF) == 0.0


@pytest.mark.parametrize(
    "action, code, cause",
    [
        ("slice", "chain-broken", Cause.STREAM),
        ("slice", "chain-missing", Cause.STREAM),
        ("slice", "oplog-too-short", None),
        ("slice", "source-unreachable", None),
        ("slice", "no-oplog", None),
        ("slice", "verify-checksum", None),  # it is taken again from the same place
        ("verify", "verify-checksum", Cause.PROOF),
        ("verify", "artifact-missing", Cause.PROOF),
        ("verify", "destination-unreachable", None),
        ("drill", "drill-failed", Cause.PROOF),
        ("drill", "tool-missing", None),
        ("backup", "verify-checksum", None),
        ("restore", "verify-checksum", None),
    ],
)
def test_which_faults_ask_for_a_new_full(action: str, code: str, cause: Cause | None) -> None:
    """A broken chain and a proof that failed do; what a new full could not mend does not."""
    assert cause_of(action, code) is cause
