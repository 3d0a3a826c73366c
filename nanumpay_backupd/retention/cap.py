"""Keeps a place within a size: what else has to go when the rule leaves more than that. Adds nothing to what is kept.

All that may go stands in one order, which depends on each copy alone and not on what else is there: snapshots of
collections, then what is not proven, then the fulls from the oldest on, each with the slices that lead on from it. What
goes is the beginning of that order. So whatever part of it was deleted already, the next answer takes no more than the
rest of that beginning, and nothing that this one keeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.retention.records import SliceVerdict, Verdict
from nanumpay_backupd.system.units import human_size

__all__ = ["fit"]


def fit(
    groups: Mapping[str, Sequence[Verdict]],
    slices: Sequence[SliceVerdict],
    leads: Sequence[Verdict],
    size: int,
    beside: int = 0,
) -> None:
    """Take away what does not fit into ``size`` bytes; what is firm stays, even when it does not fit by itself.

    ``slices`` come newest first, ``leads`` (the fulls from which they lead on) oldest first; ``beside`` bytes of fulls
    and slices are there besides. Snapshots push out no full and no slice: they have what those leave, and nothing where
    those alone do not fit.
    """
    reason = f"more than {human_size(size)} would be kept: the oldest goes first"
    fulls = groups.get("", ())
    room = size - beside - _kept(fulls) - _kept(slices)
    snapshots = [verdict for name, group in groups.items() if name for verdict in group]
    over = _kept(snapshots) - max(0, room)
    for victim in _in_order(snapshots):
        if over <= 0:
            break
        if not victim.firm:
            over -= _take(victim, reason)
    if room < 0:
        _Thinning(slices, leads, reason).take(fulls, -room)


def _kept(verdicts: Iterable[Verdict | SliceVerdict]) -> int:
    return sum(verdict.item.size for verdict in verdicts if verdict.keep)


def _take(victim: Verdict | SliceVerdict, reason: str) -> int:
    """Let it go; returns its bytes."""
    victim.keep, victim.reason = False, reason
    return victim.item.size


def _in_order(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return what is kept, in the order in which it goes; what is firm among it stays."""
    kept = [verdict for verdict in verdicts if verdict.keep]
    return sorted(kept, key=lambda one: (one.item.counts, one.item.created, one.item.backup))


class _Thinning:
    """Takes fulls with their slices, the oldest first.

    The slices of a full that stays (it is pinned, or one of the newest) go when its turn comes; only those after the
    newest full that no rule may delete never go. A full and its slices go together or not at all.
    """

    def __init__(self, slices: Sequence[SliceVerdict], leads: Sequence[Verdict], reason: str) -> None:
        self._reason = reason
        self._slices = deque(verdict for verdict in reversed(slices) if verdict.keep and not verdict.firm)
        self._ahead = deque(leads)
        self._held = next((verdict for verdict in reversed(leads) if verdict.protected), None)
        self._passed: set[str] = set()

    def take(self, fulls: Iterable[Verdict], over: int) -> None:
        """Take as much as brings ``over`` bytes, or all that may go."""
        if not self._ahead:
            # They lead on from nothing that is here.
            over -= self._take_singly(over)
        for full in _in_order(fulls):
            if over <= 0:
                return
            if not full.firm:
                over -= _take(full, self._reason)
            if full is not self._held:
                over -= self._pass(full, over)

    def _pass(self, full: Verdict, over: int) -> int:
        """Take the slices that lead on from no full to come; returns their bytes."""
        self._passed.add(full.item.backup)
        if not self._ahead or self._ahead[0].item.backup not in self._passed:
            return 0
        while self._ahead and self._ahead[0].item.backup in self._passed:
            self._ahead.popleft()
        reason = self._reason if full.keep else f"its chain goes with {full.item.backup}"
        if self._ahead:
            return self._take_slices(reason, self._ahead[0].item.moment)
        return self._take_singly(over) if full.keep else self._take_slices(reason, None)

    def _take_slices(self, reason: str, end: OpTime | None) -> int:
        freed = 0
        while self._slices and (end is None or self._slices[0].item.end <= end):
            freed += _take(self._slices.popleft(), reason)
        return freed

    def _take_singly(self, over: int) -> int:
        freed = 0
        while self._slices and freed < over:
            freed += _take(self._slices.popleft(), self._reason)
        return freed
