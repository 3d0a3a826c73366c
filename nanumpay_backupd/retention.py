"""Pure: which copies to keep and which to delete, each with its reason. No files, no clock, no catalog.

Invariants (a test is named after each): the newest good copy at a place is never deleted; what is pinned is never
deleted; a copy that is not proven never pushes out one that is; deleting in any interrupted order leaves what is still
needed; the same input gives the same answer, and applying the answer leaves nothing more to delete; one group is judged
as if the others were not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import attrgetter

import msgspec

from nanumpay_backupd.model import OpTime, Policy

__all__ = ["Candidate", "Decision", "SliceCandidate", "decide", "decide_slices"]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One copy at one place. ``good``: it was proven whole. ``created`` is the backup's own time (UTC).

    ``pinned`` says why it must stay, empty: the policy decides. Only what is in one ``group`` counts together: the
    fulls (empty), and the snapshots of each collection.
    """

    backup: str
    created: datetime
    good: bool
    legacy: bool = False
    pinned: str = ""
    group: str = ""


class SliceCandidate(msgspec.Struct, frozen=True, gc=False):
    """One copy of a slice at one place; ``end`` is the oplog time up to which it holds the changes."""

    backup: str
    created: datetime
    end: OpTime
    pinned: str = ""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What to do with one copy, and why, in a sentence for `prune`."""

    backup: str
    keep: bool
    reason: str


def decide(candidates: Iterable[Candidate], policy: Policy, now: datetime) -> list[Decision]:
    """Apply the application's rule at one place: keep the newest ``count``, and of those none older than ``days``.

    Answers newest first, group by group, the fulls before the others.

    Copies that are proven, and those of the old program, count. One that is not proven (corrupt, or not read back yet)
    does not count; it is deleted once ``count`` newer ones exist or it is older than ``days``. Where nothing is proven
    nothing is deleted. What is pinned stays, and counts as if it were not pinned.
    """
    groups: dict[str, list[Candidate]] = {}
    for item in sorted(candidates, key=lambda item: (item.created, item.backup), reverse=True):
        groups.setdefault(item.group, []).append(item)
    return [decision for name in sorted(groups) for decision in _decide(groups[name], policy, now)]


def decide_slices(
    slices: Iterable[SliceCandidate], oldest: OpTime | None, policy: Policy, now: datetime
) -> list[Decision]:
    """Say which slices at one place are still of use, newest first.

    ``oldest`` is the moment of the oldest full that is kept there: a slice that ends by then leads on from nothing.
    Without such a full slices are kept for ``days``: what they lead on from may be at another place.
    """
    limit = now - timedelta(days=policy.days)
    decisions = []
    for item in sorted(slices, key=attrgetter("end", "backup"), reverse=True):
        if item.pinned:
            decisions.append(Decision(item.backup, keep=True, reason=f"pinned: {item.pinned}"))
        elif oldest is not None and item.end <= oldest:
            decisions.append(
                Decision(item.backup, keep=False, reason="it ends before the oldest full that is kept here")
            )
        elif oldest is not None:
            decisions.append(Decision(item.backup, keep=True, reason="it leads on from a full that is kept here"))
        elif item.created < limit:
            decisions.append(Decision(item.backup, keep=False, reason=f"older than {policy.days} days"))
        else:
            decisions.append(Decision(item.backup, keep=True, reason="no full here says yet whether it is needed"))
    return decisions


def _decide(ordered: list[Candidate], policy: Policy, now: datetime) -> list[Decision]:
    """Judge one group, newest first."""
    protected = next((item.backup for item in ordered if item.good), None)
    if protected is None:
        what = "snapshot of this collection" if ordered[0].group else "backup here"
        return [Decision(item.backup, keep=True, reason=f"kept: no {what} is verified yet") for item in ordered]
    limit = now - timedelta(days=policy.days)
    counted = 0
    decisions = []
    for item in ordered:
        decisions.append(_judge(item, counted + 1, limit, policy, protected))
        counted += item.good or item.legacy
    return decisions


def _judge(item: Candidate, place: int, limit: datetime, policy: Policy, protected: str) -> Decision:
    too_many = place > policy.count
    too_old = item.created < limit
    if item.pinned:
        return Decision(item.backup, keep=True, reason=f"pinned: {item.pinned}")
    if item.backup == protected and (too_many or too_old):
        what = "snapshot of a collection" if item.group else "backup"
        return Decision(item.backup, keep=True, reason=f"the newest verified {what} is never deleted")
    if too_old:
        return Decision(item.backup, keep=False, reason=f"older than {policy.days} days")
    if too_many:
        return Decision(item.backup, keep=False, reason=f"{policy.count} newer ones are kept")
    if not (item.good or item.legacy):
        return Decision(item.backup, keep=True, reason="not verified: kept until newer ones take its place")
    return Decision(
        item.backup, keep=True, reason=f"number {place} of the newest {policy.count}, within {policy.days} days"
    )
