"""One place, judged as a whole: the rule, then what the slices need, then the size. Each step is next door."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

from nanumpay_backupd.model import Policy
from nanumpay_backupd.retention.cap import fit
from nanumpay_backupd.retention.chains import anchors, judge_slices, keep_pinned_chains
from nanumpay_backupd.retention.records import Candidate, Decision, SliceCandidate
from nanumpay_backupd.retention.whole import judge
from nanumpay_backupd.retention.windows import Windows, horizon

__all__ = ["decide", "decide_place", "deleting_order"]


def decide(candidates: Iterable[Candidate], policy: Policy, now: datetime, zone: tzinfo = UTC) -> list[Decision]:
    """Apply a policy where there are no slices; answers as `decide_place` does."""
    return decide_place(candidates, (), policy, now, zone)


def decide_place(
    candidates: Iterable[Candidate],
    slices: Iterable[SliceCandidate],
    policy: Policy,
    now: datetime,
    zone: tzinfo = UTC,
) -> list[Decision]:
    """Say of each copy at one place whether it stays: the fulls, the snapshots group by group, the slices.

    Of each kind the newest come first. ``zone`` is that whose days, weeks, months and years count.
    """
    slices = list(slices)
    windows = Windows.at(policy.tiers, now) if policy.tiers is not None else None
    groups = judge(candidates, policy, windows, now, zone)
    fulls = groups.get("", [])
    needed = keep_pinned_chains(fulls, slices)
    leads = anchors(fulls, slices, windows)
    judged = judge_slices(slices, needed, fulls, leads, windows, horizon(policy, now))
    if policy.max_total_size:
        fit(groups, judged, leads, policy.max_total_size)
    verdicts = [verdict for group in groups.values() for verdict in group]
    found = [Decision(one.item.backup, one.keep, one.reason) for one in verdicts]
    return found + [Decision(one.item.backup, one.keep, one.reason) for one in judged]


def deleting_order(doomed: Iterable[tuple[str, datetime, bool]]) -> list[str]:
    """Put what is to be deleted (name, time, whether it is a slice) in order: slices from the newest, then the others.

    Broken off anywhere, what is left of a chain is its beginning, which can be restored. Of the others the oldest go
    first, so that none of them stands for a period whose newest one has gone already.
    """
    slices: list[tuple[datetime, str]] = []
    whole: list[tuple[datetime, str]] = []
    for name, created, sliced in doomed:
        (slices if sliced else whole).append((created, name))
    return [name for _, name in (*sorted(slices, reverse=True), *sorted(whole))]
