"""When the demo's backup is due, and in which time zone, so that nobody waits a minute for it. Starts nothing.

The application's form knows hours and minutes only, so a backup can be due at full minutes only, and the next one may
be a minute away. Where it is, the demo has a time zone of its own, some seconds off Korea's: then a full minute is
near. The clock and the daemon stay as they are.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Final

__all__ = ["due_time", "local_time", "seconds_off", "write_zone", "zone_named"]

_KOREA: Final = timedelta(hours=9)
_ABBREVIATION: Final = b"KST\0"
_SOONEST, _LATEST = 8.0, 15.0
"""Seconds from choosing the zone to the full minute: enough to start the daemon and save, and not boring."""
_WANTED: Final = 10
_MARGIN: Final = 3.0
"""Seconds that a save needs before the minute that it names, generously."""


def seconds_off(now: datetime) -> int:
    """Return the seconds by which the zone must differ from Korea's: -30 to 30, 0 where a full minute is near."""
    wait = 60 - (now.second + now.microsecond / 1e6)
    if _SOONEST <= wait <= _LATEST:
        return 0
    off = round(wait - _WANTED) % 60
    return off if off <= 30 else off - 60


def zone_named(off: int) -> str:
    """Return the name of the zone for the host file."""
    return "Demo/Seoul" if off else "Asia/Seoul"


def write_zone(folder: Path, off: int) -> None:
    """Write the zone that is ``off`` seconds ahead of Korea's below ``folder``, as a TZif file (RFC 9636)."""
    path = folder / zone_named(off)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One kind of local time and no changes: six counts, then offset, no DST, where its abbreviation begins.
    header = struct.pack(">4sc15x6l", b"TZif", b"\0", 0, 0, 0, 0, 1, len(_ABBREVIATION))
    kind = struct.pack(">lBB", round(_KOREA.total_seconds()) + off, 0, 0)
    path.write_bytes(header + kind + _ABBREVIATION)


def due_time(now: datetime, off: int) -> tuple[str, datetime]:
    """Return the next full minute that can still be saved in time: as the form writes it, and as a moment in UTC."""
    local = local_time(now + timedelta(seconds=_MARGIN), off)
    due = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return f"{due:%H:%M}", due.astimezone(UTC)


def local_time(when: datetime, off: int) -> datetime:
    """Return a moment in the demo's zone."""
    return when.astimezone(timezone(_KOREA + timedelta(seconds=off)))
