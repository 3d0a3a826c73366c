"""Pure: how old the newest backup may be by its schedule, and when what expires is to be told. Reads no clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

__all__ = ["allowed_age", "ending"]

_MISSED: Final = 2
_GRACE: Final = 3600.0
"""Seconds that a run, or its being caught up, may take."""


def allowed_age(due: Sequence[datetime]) -> float:
    """Return how old (seconds) the newest backup may become: twice the longest pause between due times, and an hour.

    So one run may fail; when the next one has not made a backup either, it is too old. 0: the times do not say.
    """
    pauses = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(due)]
    return _MISSED * max(pauses) + _GRACE if pauses else 0.0


def ending(expires: datetime, now: datetime, days: int) -> str:
    """Say of what expires whether it is over (``failed``), soon will be (``warning``), or not (``ok``)."""
    if expires <= now:
        return "failed"
    return "warning" if expires - now <= timedelta(days=days) else "ok"
