"""What the system knows about its clock: which boot it is, and whether a time server keeps it right."""

from __future__ import annotations

import contextlib
import ctypes
import time
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.system.process import run_text

__all__ = ["boot_id", "kept_right"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_STA_UNSYNC: Final = 0x40
_PATIENCE: Final = 5.0
_SECONDS: Final = 60.0
"""As far as the clock that we read may be off the one that is kept right; they differ where somebody fakes it."""


class _Timex(ctypes.Structure):
    """The head of struct timex (adjtimex(2)); the rest is reserved room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("rest", ctypes.c_long * 40),
    )


def boot_id() -> str:
    """Return what names this boot of the host, empty where nobody says."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


def kept_right() -> bool | None:
    """Tell whether a time server keeps the clock right, None where nobody says."""
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0:
        return not timex.status & _STA_UNSYNC and abs(timex.seconds - time.time()) < _SECONDS
    # The service may not call that, not even to look (ProtectClock=); systemd's own service does it for others.
    with contextlib.suppress(BackupdError):
        said = run_text(["timedatectl", "show", "--property=NTPSynchronized", "--value"], timeout=_PATIENCE)
        return {"yes": True, "no": False}.get(said.strip())
    return None
