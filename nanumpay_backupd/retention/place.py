"""One place, judged as a whole: the rule, then what the slices need, then the size. Each step is next door."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from operator import attrgetter
from typing import Final

from nanumpay_backupd.model import OpTime, Policy
from nanumpay_backupd.retention.cap import fit
from nanumpay_backupd.retention.chains import anchors, judge_slices, keep_pinned_chains
from nanumpay_backupd.retention.records import Beside, Candidate, Decision, SliceCandidate
from nanumpay_backupd.retention.whole import judge
from nanumpay_backupd.retention.windows import Windows, horizon

__all__ = ["decide", "decide_place", "deleting_order"]

_NOTHING: Final = Beside()


def decide(candidates: Iterable[Candidate], policy: Policy, now: datetime, zone: tzinfo = UTC) -> list[Decision]:
    """Apply a policy where there are no slices; answers as `decide_place` does."""
    return decide_place(candidates, (), policy, now, zone)


def decide_place(
    candidates: Iterable[Candidate],
    slices: Iterable[SliceCandidate],
    policy: Policy,
    now: datetime,
    zone: tzinfo = UTC,
    beside: Beside = _NOTHING,
) -> list[Decision]:
    """Say of each copy at one place whether it stays: the fulls, the snapshots group by group, the slices.

    Of each kind the newest come first. ``zone`` is that whose days, weeks, months and years count. ``beside`` is what
    else is there.
    """
    slices = list(slices)
    windows = Windows.at(policy.tiers, now) if policy.tiers is not None else None
    groups = judge(candidates, policy, windows, now, zone, beside.places)
    fulls = groups.get("", [])
    needed = keep_pinned_chains(fulls, slices)
    leads = anchors(fulls, slices, windows)
    judged = judge_slices(slices, needed, fulls, leads, windows, horizon(policy, now))
    if policy.max_total_size:
        fit(groups, judged, leads, policy.max_total_size, beside.size)
    verdicts = [verdict for group in groups.values() for verdict in group]
    found = [Decision(one.item.backup, one.keep, one.reason) for one in verdicts]
    return found + [Decision(one.item.backup, one.keep, one.reason) for one in judged]


def deleting_order(doomed: Iterable[Candidate | SliceCandidate]) -> list[str]:
    """Put what is to be deleted in order: the one in which a limit of the size takes it.

    Snapshots first, then what is not proven, then the fulls from the oldest on, so that none of them stands for a
    period whose newest one has gone already. Before each full go the slices that lead on from it, the newest first:
    broken off anywhere, what is left of a chain is its beginning, which can be restored.
    """
    whole: list[Candidate] = []
    slices: list[SliceCandidate] = []
    for item in doomed:
        if isinstance(item, SliceCandidate):
            slices.append(item)
        else:
            whole.append(item)
    bounds = sorted(item.moment for item in whole if item.good and item.moment is not None)
    chains: dict[OpTime | None, list[str]] = {}
    for piece in sorted(slices, key=attrgetter("end", "backup"), reverse=True):
        at = bisect_left(bounds, piece.end)
        chains.setdefault(bounds[at - 1] if at else None, []).append(piece.backup)
    order = chains.pop(None, [])
    for full in sorted(whole, key=lambda item: (not item.group, item.counts, item.created, item.backup)):
        if full.good and full.moment is not None:
            order += chains.pop(full.moment, [])
        order.append(full.backup)
    return order
