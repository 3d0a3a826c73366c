"""What the catalog knows of fulls and slices, in the words of `timeline`; reads a wanted moment. Decides nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog, Span
from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import SLICES, BackupState, Kind, OpTime, Stream
from nanumpay_backupd.timeline import Base, Chain, Piece, Range, find_chain, ranges, whole_second

__all__ = ["LATEST", "Known", "known", "no_such_moment", "order_chain", "parse_moment", "reached", "typed", "within"]

LATEST: Final = "latest"
_SHOWN: Final = 4


class Known(msgspec.Struct, frozen=True):
    """A job's fulls of one moment and slices (``bases``, ``pieces``), and the good backups that are of no moment."""

    bases: tuple[Base, ...]
    pieces: tuple[Piece, ...]
    others: tuple[Span, ...]

    @property
    def ranges(self) -> list[Range]:
        """Return what can be restored to the second."""
        return ranges(self.bases, self.pieces)


def known(catalog: Catalog, job: str, places: Collection[str] | None = None) -> Known:
    """Return what there is of a job; with ``places`` only copies there count."""
    bases: list[Base] = []
    pieces: list[Piece] = []
    others: list[Span] = []
    for span in catalog.spans(job, frozenset({Kind.FULL, Kind.LEGACY}) | SLICES, places):
        good = span.present and span.state is BackupState.VERIFIED
        if span.kind in SLICES:
            pieces.append(Piece(span.id, OpTime.parse(span.start), OpTime.parse(span.end), good))
        elif span.end:
            bases.append(Base(span.id, OpTime.parse(span.end), good))
        elif span.present and span.state is not BackupState.CORRUPT:
            others.append(span)
    stream = catalog.stream(job)
    if stream is not None and (since := OpTime.parse(stream.since)) < (end := reached(stream)):
        # Nothing was written in between, so there is no slice of it.
        pieces.append(Piece("", since, end))
    return Known(tuple(bases), tuple(pieces), tuple(others))


def reached(stream: Stream) -> OpTime:
    """Return the oplog time up to which all is captured.

    Where the last good look found nothing behind the position, that is when it was made: a server on which nothing is
    written has nothing newer, however long ago its last entry is.
    """
    position = OpTime.parse(stream.position)
    if not stream.newest or OpTime.parse(stream.newest) > position:
        return position
    return max(position, OpTime(int(stream.checked.timestamp()), 0))


def parse_moment(text: str) -> OpTime | None:
    """Read an oplog time, or a time of day with its zone (the whole second counts); ``latest`` is None.

    Raises RefusedError (``bad-time``).
    """
    if text == LATEST:
        return None
    try:
        return OpTime.parse(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RefusedError(
            f"{text!r} is no moment that can be restored",
            hint="write it like 2026-11-21T10:30:59+09:00, seconds:counter of the oplog, or latest",
            code="bad-time",
        )
    return whole_second(int(moment.astimezone(UTC).timestamp()))


def within(found: Iterable[Range], wanted: OpTime | None) -> OpTime | None:
    """Return the oplog time to restore for ``wanted`` (None: the latest), or None where it lies in no range.

    Of the second in which a range ends, what was captured of it is what can be restored.
    """
    last = None
    for item in found:
        last = item.last
        if wanted is not None and item.first <= wanted and wanted.seconds <= item.last.seconds:
            return min(wanted, item.last)
        if wanted is not None and wanted.seconds == item.first.seconds:
            return item.first
    return last if wanted is None else None


def order_chain(
    catalog: Catalog,
    job: str,
    wanted: OpTime,
    base: str = "",
    places: Collection[str] | None = None,
    *,
    exact: bool = True,
) -> Chain:
    """Return the chain that restores ``wanted``, from the full ``base`` when one is named.

    Where a slice can only be brought back as a whole (not ``exact``), none that leads beyond is of use.

    Raises NotFoundError (``no-such-moment``), which says what can be restored instead.
    """
    there = known(catalog, job, places)
    bases = [item for item in there.bases if base in ("", item.backup)]
    pieces = [piece for piece in there.pieces if exact or piece.end <= wanted]
    chain = find_chain(bases, pieces, wanted)
    if chain is None:
        raise no_such_moment(there, wanted, job, base)
    return chain


def no_such_moment(there: Known, wanted: OpTime | None, job: str, base: str = "") -> NotFoundError:
    """Say why a moment cannot be restored, and which can."""
    found = there.ranges
    broken = _broken(there, wanted)
    what = f"{_text(wanted)} UTC" if wanted is not None else "the latest moment"
    if not found:
        return NotFoundError(
            f"{what} cannot be restored: job {job} has no verified full of one moment{f'; {broken}' if broken else ''}",
            hint="all that there is: backupctl list"
            if broken
            else "such fulls need a replica set (docs/install.md); whole backups: backupctl list",
            code="no-such-moment",
        )
    spans = "; ".join(
        f"{item.first.moment:%Y-%m-%d %H:%M:%S} to {item.last.moment:%Y-%m-%d %H:%M:%S}" for item in found[-_SHOWN:]
    )
    if base and wanted is not None:
        why = f"it cannot be reached from {base}"
    elif wanted is not None and wanted < found[0].first:
        why = "it is before the first backup that is of one moment"
    elif wanted is not None and wanted > found[-1].last:
        why = "it is after the last change that was captured"
    else:
        why = "it lies in a gap: the changes of that time were not captured, or what held them is damaged or gone"
    if broken:
        why += f"; {broken}"
    return NotFoundError(
        f"{what} cannot be restored: {why}",
        hint=f"what can be restored (UTC): {spans}; see: backupctl timeline {job}",
        code="no-such-moment",
    )


def _broken(there: Known, wanted: OpTime | None) -> str:
    """Name what is damaged or gone between the last moment before ``wanted`` that can be restored and itself."""
    reached = max((item.last for item in there.ranges if wanted is None or item.last <= wanted), default=None)
    spans = [(base.backup, base.end, base.end) for base in there.bases if not base.good]
    spans += [(piece.backup, piece.start, piece.end) for piece in there.pieces if not piece.good]
    names = [
        name
        for name, first, last in spans
        if name and (reached is None or last > reached) and (wanted is None or first <= wanted)
    ]
    listed = sorted(names)[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"damaged, missing or never read back: {', '.join(listed)}{more}" if listed else ""


def typed(moment: OpTime) -> str:
    """Write a moment as it can be typed behind ``--at``: a whole second as a time of day."""
    return f"{moment.moment:%Y-%m-%dT%H:%M:%SZ}" if moment == whole_second(moment.seconds) else str(moment)


def _text(moment: OpTime) -> str:
    return f"{moment.moment:%Y-%m-%d %H:%M:%S}"
