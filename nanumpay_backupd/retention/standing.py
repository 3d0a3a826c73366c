"""A place as it changes while it is looked ahead: backups come, and retention takes away. Decides nothing itself.

A limit of the size takes the oldest first. So of a place with tens of thousands of backups only the oldest part has to
be judged at each look, and the newest, which are never deleted: what lies between is so young that the rule keeps it,
and only counts. Where the limit reaches into it after all, more is judged; where that cannot be told, everything.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from operator import attrgetter
from typing import Final, NamedTuple

from nanumpay_backupd.model import Policy
from nanumpay_backupd.retention.place import decide_place
from nanumpay_backupd.retention.records import Beside, Candidate, Decision, SliceCandidate
from nanumpay_backupd.retention.windows import Windows

__all__ = ["Standing"]

_PART: Final = 48
"""So many of those that the rule keeps are judged with those that it may not."""
_MORE: Final = 4
_CREATED = attrgetter("created")
_END = attrgetter("end")


class _Between(NamedTuple):
    """What is not judged: ``fulls[first:last]`` and ``slices[begin:end]``. The full before it may go by its size."""

    first: int
    last: int
    begin: int
    end: int


class _Sums:
    """Sums over any part of a row of numbers, to which some are added at the end, and taken away at the beginning."""

    def __init__(self) -> None:
        self._up_to = [0]

    def add(self, number: int) -> None:
        """Add one at the end."""
        self._up_to.append(self._up_to[-1] + number)

    def of(self, first: int, last: int) -> int:
        """Return the sum of ``[first:last]``."""
        return self._up_to[last] - self._up_to[first]

    def replace(self, count: int, numbers: list[int]) -> None:
        """Put others in the place of the first ``count``."""
        # What comes behind counts from where these end, so they are counted back from there.
        found = [self._up_to[count]]
        for number in reversed(numbers):
            found.append(found[-1] - number)
        self._up_to[: count + 1] = reversed(found)


class Standing:
    """What stands at a place; `add` what comes, `look` what retention takes."""

    def __init__(self, whole: Iterable[Candidate], slices: Iterable[SliceCandidate]) -> None:
        whole = list(whole)
        self._snapshots = [item for item in whole if item.group]
        self._fulls: list[Candidate] = []
        self._slices: list[SliceCandidate] = []
        self._sizes, self._places, self._changes = _Sums(), _Sums(), _Sums()
        self.size = sum(item.size for item in self._snapshots)
        """Bytes of all that stands there."""
        for full in sorted((item for item in whole if not item.group), key=attrgetter("created", "backup")):
            self._add_full(full)
        for piece in sorted(slices, key=attrgetter("end", "backup")):
            self._add_slice(piece)
        moments = [item.moment for item in self._fulls if item.moment is not None]
        # Chains of pinned slices may lead anywhere; and a clock may have been set back.
        self._entangled = any(item.pinned for item in self._slices) or any(one > two for one, two in pairwise(moments))
        self._newest_moment = max(moments, default=None)
        self._note_unproven()

    @property
    def whole(self) -> list[Candidate]:
        """Return the fulls and snapshots that are there."""
        return [*self._fulls, *self._snapshots]

    @property
    def slices(self) -> list[SliceCandidate]:
        """Return the slices that are there."""
        return list(self._slices)

    def add(self, full: Candidate, piece: SliceCandidate | None) -> None:
        """Let a good full come, and the changes before it."""
        if self._fulls and (self._fulls[-1].created, self._fulls[-1].backup) >= (full.created, full.backup):
            self._entangled = True
        if full.moment is not None:
            if self._newest_moment is not None and self._newest_moment > full.moment:
                self._entangled = True
            self._newest_moment = full.moment
        if piece is not None:
            if self._slices and self._slices[-1].end > piece.end:
                self._entangled = True
            self._add_slice(piece)
        self._add_full(full)

    def _add_full(self, full: Candidate) -> None:
        self._fulls.append(full)
        self._sizes.add(full.size)
        self._places.add(int(full.counts))
        self.size += full.size

    def _add_slice(self, piece: SliceCandidate) -> None:
        self._slices.append(piece)
        self._changes.add(piece.size)
        self.size += piece.size

    def _note_unproven(self) -> None:
        """Note up to when there are fulls that a limit takes before all others."""
        loose = (item.created for item in self._fulls if not item.counts and not item.pinned)
        self._unproven = max(loose, default=None)

    def look(self, policy: Policy, now: datetime, zone: tzinfo) -> list[Decision]:
        """Let retention delete what it would; returns what it says of that."""
        part = _PART
        while (between := self._between(policy, now, part)) is not None:
            first, last, begin, end = between
            whole = [*self._fulls[:first], *self._fulls[last:], *self._snapshots]
            slices = [*self._slices[:begin], *self._slices[end:]]
            beside = Beside(self._places.of(first, last), self._sizes.of(first, last) + self._changes.of(begin, end))
            decisions = decide_place(whole, slices, policy, now, zone, beside)
            edge = self._fulls[first - 1].backup
            if next(one.keep for one in decisions if one.backup == edge):
                return self._delete(decisions, first, begin)
            part *= _MORE
        decisions = decide_place(self.whole, self._slices, policy, now, zone)
        return self._delete(decisions, len(self._fulls), len(self._slices))

    def _between(self, policy: Policy, now: datetime, part: int) -> _Between | None:
        """Choose what need not be judged, None: all has to be."""
        if self._entangled:
            return None
        fulls = self._fulls
        if policy.tiers is not None:
            kept = bisect_left(fulls, Windows.at(policy.tiers, now).everything, key=_CREATED)
        else:
            kept = bisect_left(fulls, now - timedelta(days=policy.days), key=_CREATED)
            kept = max(kept, len(fulls) - policy.count)
        last = self._newest(policy.min_keep)
        edge = kept + part
        while edge < last and (not _leads(fulls[edge]) or fulls[edge].pinned):
            edge += 1
        if edge + 1 >= last or (self._unproven is not None and self._unproven >= fulls[edge].created):
            return None
        return _Between(edge + 1, last, self._led_from(edge + 1), self._led_from(last))

    def _newest(self, count: int) -> int:
        """Return where the newest ``count`` good fulls begin."""
        at = len(self._fulls)
        while at and count:
            at -= 1
            count -= self._fulls[at].good
        return at

    def _led_from(self, first: int) -> int:
        """Return where the slices begin that lead on from one of ``fulls[first:]``."""
        for at in range(first, len(self._fulls)):
            moment = self._fulls[at].moment
            if moment is not None and self._fulls[at].good:
                return bisect_right(self._slices, moment, key=_END)
        return len(self._slices)

    def _delete(self, decisions: list[Decision], fulls: int, slices: int) -> list[Decision]:
        """Take out of the first so many what is to go."""
        gone = [one for one in decisions if not one.keep]
        if not gone:
            return []
        names = {one.backup for one in gone}
        before = self._fulls[:fulls], self._slices[:slices], self._snapshots
        self.size -= sum(item.size for part in before for item in part if item.backup in names)
        left = [item for item in before[0] if item.backup not in names]
        pieces = [item for item in before[1] if item.backup not in names]
        self._fulls[:fulls], self._slices[:slices] = left, pieces
        self._sizes.replace(fulls, [item.size for item in left])
        self._places.replace(fulls, [int(item.counts) for item in left])
        self._changes.replace(slices, [item.size for item in pieces])
        self._snapshots = [item for item in self._snapshots if item.backup not in names]
        if self._unproven is not None:
            self._note_unproven()
        return gone


def _leads(full: Candidate) -> bool:
    return full.good and full.moment is not None
