"""Numbers for people: sizes in decimal units, as disks and clouds count them, and lengths of time. Nothing else."""

from __future__ import annotations

__all__ = ["human_size", "human_span"]

_STEP = 1000.0
# Below so many seconds: a unit and its seconds, the smaller unit and its seconds.
_SPANS = (
    (60, "s", 1, "", 1),
    (3600, "m", 60, "s", 1),
    (172_800, "h", 3600, "m", 60),
    (float("inf"), "d", 86_400, "h", 3600),
)


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


def human_span(seconds: float) -> str:
    """Write a length of time the way settings do, in at most two units: 41s, 15m, 24h, 2d12h."""
    whole = round(max(0.0, seconds))
    _, unit, size, rest, part = next(row for row in _SPANS if whole < row[0])
    count, left = divmod(whole, size)
    return f"{count}{unit}" + (f"{left // part}{rest}" if left // part else "")
