"""Keeps a place within a size: what else has to go when the rule leaves more than that. Adds nothing to what is kept.

What is not proven goes first, then the oldest; a full from which slices lead on takes along those that then lead on
from nothing. Snapshots of collections share what the fulls and their slices leave, so they push out none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from nanumpay_backupd.retention.chains import first_kept
from nanumpay_backupd.retention.records import SliceVerdict, Verdict
from nanumpay_backupd.system.units import human_size

__all__ = ["fit"]


def fit(
    groups: Mapping[str, Sequence[Verdict]], slices: Sequence[SliceVerdict], leads: Sequence[Verdict], size: int
) -> None:
    """Take away what does not fit into ``size`` bytes; what is firm stays, even when it does not fit by itself.

    ``slices`` come newest first, ``leads`` (the fulls from which they lead on) oldest first.
    """
    reason = f"more than {human_size(size)} would be kept: the oldest goes first"
    fulls = groups.get("", ())
    total = sum(verdict.item.size for verdict in fulls if verdict.keep)
    total += sum(verdict.item.size for verdict in slices if verdict.keep)
    loose = deque(verdict for verdict in reversed(slices) if verdict.keep and not verdict.firm)
    for victim in _first_to_go(fulls):
        if total <= size:
            break
        victim.keep, victim.reason = False, reason
        total -= victim.item.size
        total -= _let_go(loose, leads, victim.item.backup)
    rest = max(0, size - total)
    snapshots = [verdict for name, group in groups.items() if name for verdict in group]
    total = sum(verdict.item.size for verdict in snapshots if verdict.keep)
    for victim in _first_to_go(snapshots):
        if total <= rest:
            break
        victim.keep, victim.reason = False, reason
        total -= victim.item.size


def _first_to_go(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return what may go, in the order in which it goes."""
    able = [verdict for verdict in verdicts if verdict.keep and not verdict.firm]
    return sorted(able, key=lambda one: (one.item.counts, one.item.created, one.item.backup))


def _let_go(oldest: deque[SliceVerdict], leads: Sequence[Verdict], full: str) -> int:
    """Drop the slices that lead on from nothing any more; returns their bytes. ``oldest`` loses them."""
    if not leads:
        return 0  # what they lead on from is not here
    start = first_kept(leads)
    freed = 0
    while oldest and (start is None or oldest[0].item.end <= start):
        verdict = oldest.popleft()
        verdict.keep, verdict.reason = False, f"its chain goes with {full}"
        freed += verdict.item.size
    return freed
