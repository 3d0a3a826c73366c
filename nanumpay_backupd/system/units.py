"""Numbers for people: sizes in decimal units, as disks and clouds count them. Nothing else."""

from __future__ import annotations

__all__ = ["human_size"]

_STEP = 1000.0


def human_size(size: float) -> str:
    """Write a number of bytes with three significant digits: 999 B, 4.40 kB, 160 MB, 1.17 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < _STEP or unit == "TB":
            break
        value /= _STEP
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"
