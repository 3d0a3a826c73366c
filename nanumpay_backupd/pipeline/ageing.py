"""From which moment retention counts how old backups are: what the clock says, as far as that is plausible.

What is plausible is decided in `health.lived`; here it is read and remembered, by the daemon and by every worker.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.health.lived import Lived, Reading, lived_on
from nanumpay_backupd.model import from_json, to_json
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.timekeeper import boot_id, kept_right

__all__ = ["counted_from", "lived"]

_KEY: Final = "lived"
_EACH: Final = 600.0
"""Seconds of uptime after which what is remembered is written again although nothing is new."""


def lived(catalog: Catalog) -> Lived | None:
    """Return how far time is known to have come, as it was last seen; None: nobody looked yet, or it cannot be read."""
    record = catalog.remembered(_KEY)
    try:
        return from_json(Lived, record) if record is not None else None
    except msgspec.DecodeError:  # of which a wrong shape is one
        return None


def counted_from(catalog: Catalog, clock: Clock) -> datetime:
    """Return the moment from which ages are to be counted, and remember it. Raises BackupdError."""
    last, now, boot, up = lived(catalog), clock.now(), boot_id(), clock.uptime()
    newest = catalog.newest_made() if last is None else None
    found = lived_on(last, Reading(now, boot, up), newest)
    if found.doubt is not None and kept_right():
        # Asked only where it matters: it may take a process.
        found = lived_on(last, Reading(now, boot, up, vouched=True))
    fresh = last is not None and last.boot == boot and 0 <= up - last.uptime < _EACH
    if not fresh or found.doubt is not None or (last is not None and last.doubt is not None):
        catalog.remember(_KEY, to_json(found))
    return found.counted(now)
