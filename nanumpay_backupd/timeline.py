"""Pure: which moments a job's backups lead back to, where the gaps are, and which chain restores a moment. No effects.

The changes of a job are one stream of oplog slices that runs on across its fulls: a full is a place where a restore may
begin, not one where the stream starts anew. So a moment can be reached from any older full, as long as the slices from
there on touch each other, and a damaged full costs nothing but a longer replay.

Invariants (a test is named after each): a chain begins with a full whose moment is not after the wanted one; its slices
touch or overlap and reach the wanted moment; what is not good is never part of it; every moment inside a range has a
chain and no moment outside of all ranges has one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nanumpay_backupd.model import OpTime

__all__ = ["Base", "Chain", "Gap", "Piece", "Range", "find_chain", "gaps", "needed_from", "ranges", "whole_second"]

_LAST: Final = 2**32 - 1


class Base(msgspec.Struct, frozen=True, gc=False):
    """A full that is of one moment: the oplog time ``end``."""

    backup: str
    end: OpTime
    good: bool = True


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A slice: all that was written after ``start`` and up to ``end``.

    Where nothing was written there is no slice to take: then ``backup`` is empty.
    """

    backup: str
    start: OpTime
    end: OpTime
    good: bool = True


class Range(msgspec.Struct, frozen=True):
    """Every oplog time from ``first`` to ``last`` can be restored; ``bases`` are the fulls in it, oldest first."""

    first: OpTime
    last: OpTime
    bases: tuple[str, ...]


class Gap(msgspec.Struct, frozen=True):
    """No moment between ``after`` and ``before`` (both can be restored themselves) can be restored."""

    after: OpTime
    before: OpTime


class Chain(msgspec.Struct, frozen=True):
    """What restores a moment: a full, then slices in this order, cut off behind ``until``."""

    base: str
    slices: tuple[str, ...]
    until: OpTime


def ranges(bases: Iterable[Base], pieces: Iterable[Piece]) -> list[Range]:
    """Return what can be restored, oldest first; ranges never touch."""
    reach = _Reach(pieces)
    found: list[Range] = []
    held: list[list[str]] = []
    for base in sorted((base for base in bases if base.good), key=lambda item: (item.end, item.backup)):
        last = reach.of(base.end)
        if found and base.end <= found[-1].last:
            joined = found[-1]
            found[-1] = Range(joined.first, max(joined.last, last), ())
            held[-1].append(base.backup)
        else:
            found.append(Range(base.end, last, ()))
            held.append([base.backup])
    return [msgspec.structs.replace(item, bases=tuple(names)) for item, names in zip(found, held, strict=True)]


def gaps(found: Sequence[Range]) -> list[Gap]:
    """Return what lies between the ranges."""
    return [Gap(left.last, right.first) for left, right in itertools.pairwise(found)]


def find_chain(bases: Iterable[Base], pieces: Iterable[Piece], wanted: OpTime) -> Chain | None:
    """Return the chain with the newest full from which ``wanted`` can be reached, or None.

    Of the slices, as few as possible are taken: where a differential spans several others, it stands for them.
    """
    good = [piece for piece in pieces if piece.good]
    reach = _Reach(good)
    fitting = [base for base in bases if base.good and base.end <= wanted <= reach.of(base.end)]
    base = max(fitting, key=lambda item: (item.end, item.backup), default=None)
    if base is None:
        return None
    path = _path(good, base.end, wanted)
    return Chain(base.backup, tuple(piece.backup for piece in path if piece.backup), wanted)


def needed_from(bases: Iterable[Base]) -> OpTime | None:
    """Return the oplog time before whose end no slice is of use: that of the oldest good full."""
    return min((base.end for base in bases if base.good), default=None)


def whole_second(second: int) -> OpTime:
    """Return the last oplog time that a whole second can hold: what was written in it counts."""
    return OpTime(second, _LAST)


def _path(pieces: Iterable[Piece], start: OpTime, wanted: OpTime) -> list[Piece]:
    """Go from ``start`` to ``wanted``, which can be reached, in the longest steps."""
    ahead = iter(sorted(pieces, key=lambda item: item.start))
    coming = next(ahead, None)
    path: list[Piece] = []
    reached, best = start, None
    while reached < wanted:
        # What begins by now, and was passed by before, leads no further than the best of it.
        while coming is not None and coming.start <= reached:
            best = coming if best is None else max(best, coming, key=lambda item: (item.end, item.start))
            coming = next(ahead, None)
        assert best is not None, "it can be reached"
        path.append(best)
        reached = best.end
    return path


class _Reach:
    """How far the good slices lead on from a moment."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._segments = _segments(pieces)
        self._starts = [start for start, _ in self._segments]

    def of(self, moment: OpTime) -> OpTime:
        """Return the last moment that can be reached from ``moment``, at least that itself."""
        at = bisect.bisect_right(self._starts, moment) - 1
        return max(moment, self._segments[at][1]) if at >= 0 else moment


def _segments(pieces: Iterable[Piece]) -> list[tuple[OpTime, OpTime]]:
    """Join the good slices that touch or overlap."""
    joined: list[tuple[OpTime, OpTime]] = []
    for piece in sorted((piece for piece in pieces if piece.good), key=lambda item: (item.start, item.end)):
        if joined and piece.start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], piece.end))
        else:
            joined.append((piece.start, piece.end))
    return joined
