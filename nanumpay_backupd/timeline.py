"""Pure: which moments a job's backups lead back to, where the gaps are, and which chain restores a moment. No effects.

The changes of a job are one stream of oplog slices that runs on across its fulls: a full is a place where a restore may
begin, not one where the stream starts anew. So a moment can be reached from any older full, as long as the slices from
there on touch each other, and a damaged full costs nothing but a longer replay.

Invariants (a test is named after each): a chain begins with a full whose moment is not after the wanted one; its slices
touch or overlap and reach the wanted moment; what is not good is never part of it; every moment inside a range has a
chain and no moment outside of all ranges has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from nanumpay_backupd.model import OpTime

__all__ = ["Base", "Chain", "Gap", "Piece", "Range", "find_chain", "gaps", "needed_from", "ranges", "whole_second"]

_LAST: Final = 2**32 - 1


class Base(msgspec.Struct, frozen=True):
    """A full that is of one moment: the oplog time ``end``."""

    backup: str
    end: OpTime
    good: bool = True


class Piece(msgspec.Struct, frozen=True):
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
    segments = _segments(pieces)
    found: list[Range] = []
    for base in sorted((base for base in bases if base.good), key=lambda item: (item.end, item.backup)):
        last = next((end for start, end in segments if start <= base.end <= end), base.end)
        if found and base.end <= found[-1].last:
            joined = found[-1]
            found[-1] = Range(joined.first, max(joined.last, last), (*joined.bases, base.backup))
        else:
            found.append(Range(base.end, last, (base.backup,)))
    return found


def gaps(found: Sequence[Range]) -> list[Gap]:
    """Return what lies between the ranges."""
    return [Gap(left.last, right.first) for left, right in itertools.pairwise(found)]


def find_chain(bases: Iterable[Base], pieces: Iterable[Piece], wanted: OpTime) -> Chain | None:
    """Return the chain with the newest full from which ``wanted`` can be reached, or None.

    Of the slices, as few as possible are taken: where a differential spans several others, it stands for them.
    """
    good = [piece for piece in pieces if piece.good]
    fitting = [base for base in bases if base.good and base.end <= wanted]
    for base in sorted(fitting, key=lambda item: (item.end, item.backup), reverse=True):
        path = _path(good, base.end, wanted)
        if path is not None:
            return Chain(base.backup, tuple(piece.backup for piece in path if piece.backup), wanted)
    return None


def needed_from(bases: Iterable[Base]) -> OpTime | None:
    """Return the oplog time before whose end no slice is of use: that of the oldest good full."""
    return min((base.end for base in bases if base.good), default=None)


def whole_second(second: int) -> OpTime:
    """Return the last oplog time that a whole second can hold: what was written in it counts."""
    return OpTime(second, _LAST)


def _path(pieces: list[Piece], start: OpTime, wanted: OpTime) -> list[Piece] | None:
    """Go from ``start`` to ``wanted`` in the longest steps."""
    path: list[Piece] = []
    reached = start
    while reached < wanted:
        step = max(
            (piece for piece in pieces if piece.start <= reached < piece.end),
            key=lambda item: (item.end, item.start),
            default=None,
        )
        if step is None:
            return None
        path.append(step)
        reached = step.end
    return path


def _segments(pieces: Iterable[Piece]) -> list[tuple[OpTime, OpTime]]:
    """Join the good slices that touch or overlap."""
    joined: list[tuple[OpTime, OpTime]] = []
    for piece in sorted((piece for piece in pieces if piece.good), key=lambda item: (item.start, item.end)):
        if joined and piece.start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], piece.end))
        else:
            joined.append((piece.start, piece.end))
    return joined
