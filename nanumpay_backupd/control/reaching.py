"""What can be restored of a job, as the method Timeline tells it: all of it, or what a picture can show. Only reads.

A job may have ten thousand fulls, and a picture has room for some hundred: `Picture` leaves out what would be drawn
onto the same spot. Ranges are never left out, nor is the first or the last moment.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import to_text
from nanumpay_backupd.pipeline.chains import Known, known
from nanumpay_backupd.timeline import Range, gaps

__all__ = ["Picture", "Reach", "reach_of", "timeline"]


class Full(NamedTuple):
    """A full that a restore may begin with: its moment (seconds since 1970); ``exact``: the second is known."""

    at: float
    backup: str
    exact: bool

    @property
    def moment(self) -> str:
        """Return its moment as the interface writes it."""
        return to_text(datetime.fromtimestamp(self.at, UTC))


class Picture(msgspec.Struct, frozen=True):
    """What is to be drawn: between two moments (None: from the first, until now) so many spots beside each other."""

    spots: int
    since: datetime | None = None
    until: datetime | None = None

    def seen(self, fulls: list[Full], now: datetime) -> list[Full]:
        """Return the fulls that can be told apart, oldest first: in each spot the last; and those at the ends."""
        if not fulls:
            return []
        since = self.since.timestamp() if self.since is not None else fulls[0].at
        until = (self.until or now).timestamp()
        wide = max((until - since) / self.spots, 1.0)
        first = bisect.bisect_left(fulls, since, key=_at)
        last = bisect.bisect_right(fulls, until, key=_at)
        drawn = {(one.exact, (one.at - since) // wide): one for one in fulls[first:last]}
        return sorted({*drawn.values(), fulls[0], fulls[-1]})


def _at(full: Full) -> float:
    return full.at


class Reach(msgspec.Struct, frozen=True):
    """What there is of a job when the catalog was at ``version``."""

    job: str
    version: tuple[int, int]
    known: Known
    ranges: list[Range]
    fulls: list[Full]

    @classmethod
    def of(cls, job: str, version: tuple[int, int], there: Known) -> Self:
        """Work out what a job's backups lead back to."""
        fulls = [Full(base.end.seconds, base.backup, exact=True) for base in there.bases if base.good]
        fulls += [Full(span.created.timestamp(), span.id, exact=False) for span in there.others]
        return cls(job, version, there, there.ranges, sorted(fulls))


def reach_of(catalog: Catalog, job: str, last: Reach | None) -> Reach:
    """Return what there is of a job; ``last``, worked out before, is returned where nothing has changed since."""
    version = catalog.version()
    if last is not None and (last.job, last.version) == (job, version):
        return last
    return Reach.of(job, version, known(catalog, job))


def timeline(reach: Reach, picture: Picture | None, now: datetime) -> dict[str, Any]:
    """Return what can be restored and what cannot, as the interface's method Timeline shows it."""
    shown = reach.fulls if picture is None else picture.seen(reach.fulls, now)
    drawn = {full.backup for full in shown}
    if picture is None:
        found = reach.ranges
    else:
        found = [
            msgspec.structs.replace(item, bases=tuple(name for name in item.bases if name in drawn))
            for item in reach.ranges
            if item.first != item.last or not drawn.isdisjoint(item.bases)
        ]
    ends = sorted(piece.end for piece in reach.known.pieces if piece.backup)
    exact = [
        {
            "first": to_text(item.first.moment),
            "last": to_text(item.last.moment),
            "bases": list(item.bases),
            "slices": bisect.bisect_right(ends, item.last) - bisect.bisect_right(ends, item.first),
            "exact": True,
        }
        for item in found
    ]
    told = {
        "ranges": sorted([*exact, *_single(shown)], key=lambda item: str(item["first"])),
        "gaps": [{"after": to_text(item.after.moment), "before": to_text(item.before.moment)} for item in gaps(found)],
    }
    if picture is not None:
        told["fulls"] = [{"backup": one.backup, "moment": one.moment, "exact": one.exact} for one in shown]
    return told


def _single(shown: Iterable[Full]) -> list[dict[str, Any]]:
    """Return the fulls without a moment of their own as ranges of one moment."""
    return [
        {
            "first": one.moment,
            "last": one.moment,
            "bases": [one.backup],
            "slices": 0,
            "exact": False,
        }
        for one in shown
        if not one.exact
    ]
