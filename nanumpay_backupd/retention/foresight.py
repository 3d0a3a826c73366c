"""What retention will say at a later moment: of what is there, and of backups that are assumed to come. No clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Final

import msgspec

from nanumpay_backupd.model import OpTime, Policy
from nanumpay_backupd.retention.place import decide_place
from nanumpay_backupd.retention.records import Candidate, Decision, SliceCandidate
from nanumpay_backupd.retention.standing import Standing

__all__ = ["Coming", "foresee"]

_MOST_LOOKS: Final = 2000


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

    def arrivals(self) -> Iterator[tuple[Candidate, SliceCandidate | None]]:
        """Yield the fulls as they come, each with the changes before it: one slice in place of all of them."""
        before = self.since
        for moment, name in zip(self.times, self.names, strict=True):
            end = OpTime(int(moment.timestamp()), 0) if self.moments else None
            changes = None
            if self.slices and before is not None and end is not None:
                start = OpTime(int(before.timestamp()), 0)
                size = int(self.slices * (moment - before).total_seconds())
                changes = SliceCandidate(f"changes before {name}", moment, end, start=start, size=size)
            yield Candidate(name, moment, good=True, size=self.size, moment=end), changes
            before = moment


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
    later. With a limit it need not, so each look is taken at which something did not fit; where more than 2,000 backups
    are assumed, 2,000 of them.
    """
    standing = Standing(candidates, slices)
    gone: list[Decision] = []
    if coming is not None:
        stride = -(-len(coming.times) // _MOST_LOOKS)
        for number, (full, piece) in enumerate(coming.arrivals()):
            standing.add(full, piece)
            if 0 < policy.max_total_size < standing.size and number % stride == 0:
                day = f"{full.created.astimezone(zone):%Y-%m-%d}"
                went = standing.look(policy, full.created, zone)
                gone += [Decision(one.backup, keep=False, reason=f"{one.reason} ({day})") for one in went]
    return decide_place(standing.whole, standing.slices, policy, at, zone) + gone
