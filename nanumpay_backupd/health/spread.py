"""Pure: how a backup's copies are spread (3-2-1): how many there are, on how many media, how many of them off-site."""

from __future__ import annotations

from typing import Final

import msgspec

from nanumpay_backupd.model import LOCAL, Backup, CopyState
from nanumpay_backupd.settings.natures import DISK, standing_of
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["Spread", "lacking", "spread_of"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)


class Spread(msgspec.Struct, frozen=True):
    """How the copies of one backup are spread; the data itself counts as one, on a disk of its own host.

    Of places that are configured no more nobody knows what they are: their copies are not counted.
    """

    backup: str
    copies: int
    media: tuple[str, ...]
    offsite: int


def spread_of(backup: Backup | None, job: JobSpec) -> Spread:
    """Count the copies of a backup that are there as far as it is known; None: there is only the data."""
    places = {LOCAL: None} | {destination.name: destination for destination in job.destinations}
    there = [copy for copy in backup.copies if copy.state in _PRESENT] if backup is not None else []
    found = [standing_of(places[copy.destination]) for copy in there if copy.destination in places]
    return Spread(
        backup=backup.id if backup is not None else "",
        copies=1 + len(found),
        media=tuple(sorted({DISK, *(one.media for one in found)})),
        offsite=sum(one.offsite for one in found),
    )


def lacking(spread: Spread, job: JobSpec) -> list[str]:
    """Say what of the objective (`Protection.copies`, ``media``, ``offsite``) is not kept, none: all is."""
    if job.source.kept_outside:
        return []  # how often another program stores the data is not known here
    wanted = (
        (spread.copies, job.copies, "copies, the data itself counted"),
        (len(spread.media), job.media, f"media ({', '.join(spread.media)})"),
        (spread.offsite, job.offsite, "copies off-site"),
    )
    return [f"{there} of {least} {what}" for there, least, what in wanted if there < least]
