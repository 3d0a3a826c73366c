"""What retention will say at a later moment: of what is there, and of backups that are assumed to come. No clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo

import msgspec

from nanumpay_backupd.model import OpTime, Policy
from nanumpay_backupd.retention.place import decide_place
from nanumpay_backupd.retention.records import Candidate, Decision, SliceCandidate

__all__ = ["Coming", "foresee"]


class Coming(msgspec.Struct, frozen=True):
    """Backups that are assumed to come, named by ``names``: fulls at ``times`` (UTC, rising), ``size`` bytes each.

    ``slices`` is how many bytes of changes come a second, from ``since`` on; 0: none. ``moments``: the fulls will be of
    one moment each.
    """

    times: Sequence[datetime]
    names: Sequence[str]
    size: int
    moments: bool = False
    slices: float = 0.0
    since: datetime | None = None


def foresee(
    candidates: Iterable[Candidate],
    slices: Iterable[SliceCandidate],
    policy: Policy,
    at: datetime,
    zone: tzinfo,
    coming: Coming | None = None,
) -> list[Decision]:
    """Say what a prune at ``at`` would keep and delete, newest first.

    Nothing is deleted before, except that retention runs after each backup that is assumed to come. Without a limit of
    the size the one look at the end gives the same as all those on the way: what is deleted once would not be kept
    later. With a limit it need not, so each look is taken at which something did not fit.
    """
    whole, changes = list(candidates), list(slices)
    gone: list[Decision] = []
    if coming is not None:
        total = _size(whole, changes)
        before = coming.since
        for moment, name in zip(coming.times, coming.names, strict=True):
            end = OpTime(int(moment.timestamp()), 0) if coming.moments else None
            whole.append(Candidate(name, moment, good=True, size=coming.size, moment=end))
            total += coming.size
            if coming.slices and before is not None and end is not None:
                piece = _changes(name, before, moment, coming.slices)
                changes.append(piece)
                total += piece.size
            before = moment
            if policy.max_total_size and total > policy.max_total_size:
                whole, changes = _pruned(whole, changes, policy, moment, zone, gone)
                total = _size(whole, changes)
    return decide_place(whole, changes, policy, at, zone) + gone


def _size(whole: list[Candidate], changes: list[SliceCandidate]) -> int:
    return sum(item.size for item in whole) + sum(item.size for item in changes)


def _changes(name: str, since: datetime, until: datetime, rate: float) -> SliceCandidate:
    """Return one slice in place of all between two fulls."""
    start, end = OpTime(int(since.timestamp()), 0), OpTime(int(until.timestamp()), 0)
    size = int(rate * (until - since).total_seconds())
    return SliceCandidate(f"changes before {name}", until, end, start=start, size=size)


def _pruned(
    whole: list[Candidate],
    changes: list[SliceCandidate],
    policy: Policy,
    now: datetime,
    zone: tzinfo,
    gone: list[Decision],
) -> tuple[list[Candidate], list[SliceCandidate]]:
    """Apply the policy at a moment on the way; what goes is added to ``gone``, with its date."""
    decisions = decide_place(whole, changes, policy, now, zone)
    day = f"{now.astimezone(zone):%Y-%m-%d}"
    gone.extend(Decision(one.backup, keep=False, reason=f"{one.reason} ({day})") for one in decisions if not one.keep)
    kept = {one.backup for one in decisions if one.keep}
    return [item for item in whole if item.backup in kept], [item for item in changes if item.backup in kept]
