"""Ending asyncio tasks for certain. What they do is their owners' business."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["end_tasks"]

_INTERVAL: Final = 0.2
_TRIES: Final = 50


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Cancel tasks until they have ended; returns those that have not after some seconds.

    Once is not enough: with Python 3.11 a cancellation is lost where ``asyncio.wait_for`` gets it together with its
    result, as happens in pymongo while it connects. Seen in about one of ten stops right after a start.
    """
    pending = set(tasks)
    for _ in range(_TRIES):
        for task in pending:
            task.cancel()
        if not pending:
            break
        _, pending = await asyncio.wait(pending, timeout=_INTERVAL)
    return list(pending)
