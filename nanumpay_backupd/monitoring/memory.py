"""What is kept of looks at places, so that a status needs none and a restart loses nothing. Looks at nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import structlog

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.health.room import Sample, kept
from nanumpay_backupd.lookout import Sight
from nanumpay_backupd.model import from_json, to_json

__all__ = ["Memory", "keep", "learned", "recall"]

_KEY: Final = "monitor"
log = structlog.get_logger()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the last looks saw. ``at``: when all was looked at last.

    ``sights`` are by job; ``needs`` are the bytes more that the copies of a job at a place will take within
    ``horizon`` days (by retention, schedule and growth); ``disks`` are the looks at each disk, by its device.
    """

    at: datetime | None = None
    sights: dict[str, tuple[Sight, ...]] = {}
    needs: dict[str, dict[str, float]] = {}
    horizon: float = 14.0
    disks: dict[str, tuple[Sample, ...]] = {}

    def sight(self, job: str, place: str) -> Sight | None:
        """Return what was seen last of a place, empty: of what belongs to none."""
        return next((one for one in self.sights.get(job, ()) if one.place == place), None)

    def need(self, device: int) -> float:
        """Return how many bytes more all jobs' copies on a disk will take within the horizon."""
        return sum(
            need
            for job, sights in self.sights.items()
            for one in sights
            if one.device == device and (need := self.needs.get(job, {}).get(one.place, 0.0))
        )


def recall(catalog: Catalog) -> Memory:
    """Return what is remembered; nothing at first, or when it is of another version."""
    data = catalog.remembered(_KEY)
    if data is None:
        return Memory()
    try:
        return from_json(Memory, data)
    except msgspec.MsgspecError:
        log.warning("what the last look at all places saw cannot be read and is forgotten", code="internal")
        return Memory()


def keep(catalog: Catalog, memory: Memory) -> None:
    """Write it down."""
    catalog.remember(_KEY, to_json(memory))


def learned(
    before: Memory,
    now: datetime,
    fresh: Mapping[str, Sequence[Sight]],
    needs: Mapping[str, Mapping[str, float]],
    owns: Mapping[str, Mapping[str, int]],
    *,
    jobs: Iterable[str],
    horizon: float,
) -> Memory:
    """Add what was seen of some jobs or of all. ``owns`` are the bytes of copies by job and place; ``jobs`` are all."""
    known = list(jobs)
    sights = {name: tuple(fresh.get(name, before.sights.get(name, ()))) for name in known}
    disks = dict(before.disks)
    taken: dict[int, int] = {}
    free: dict[int, int] = {}
    for name, seen in sights.items():
        for one in seen:
            if one.device is not None and one.free is not None:
                taken[one.device] = taken.get(one.device, 0) + owns.get(name, {}).get(one.place, 0)
                if one.fault is None and name in fresh:
                    free[one.device] = one.free
    for device, room in free.items():
        disks[str(device)] = kept(disks.get(str(device), ()), Sample(now, room, taken[device]))
    return Memory(
        at=now if set(known) <= set(fresh) else before.at,
        sights=sights,
        needs={name: dict(needs.get(name, before.needs.get(name, {}))) for name in known},
        horizon=horizon,
        disks={device: samples for device, samples in disks.items() if int(device) in taken},
    )
