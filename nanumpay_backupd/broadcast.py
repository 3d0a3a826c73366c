"""Events as they happen, to whoever watches. A watcher that does not keep up is ended instead of filling memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from nanumpay_backupd.model import Run, to_builtins
from nanumpay_backupd.system.clock import Clock

__all__ = ["Broadcast"]

_FULL_QUEUE: Final = 2000
Event = dict[str, Any]


class Broadcast:
    """Hands events out. All methods belong to the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watchers: set[asyncio.Queue[Event | None]] = set()

    def publish(self, kind: str, *, run: Run | None = None, run_id: str | None = None, **fields: Any) -> None:
        """Tell all watchers; ``run_id`` names the run that the event is about where ``run`` does not."""
        event = {
            "kind": kind,
            "time": self._clock.now().isoformat().replace("+00:00", "Z"),
            "run": to_builtins(run) if run is not None else None,
            "run_id": run.id if run is not None else run_id,
            **fields,
        }
        for queue in list(self._watchers):
            _put(queue, event)

    def close(self) -> None:
        """End all watchers."""
        for queue in self._watchers:
            _put(queue, None)

    async def watch(self, run_id: str | None = None) -> AsyncIterator[Event]:
        """Yield events as they happen, of one run or of all, until `close` or until the watcher is too slow."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_FULL_QUEUE)
        self._watchers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                if run_id is None or event["run_id"] == run_id:
                    yield event
        finally:
            self._watchers.discard(queue)


def _put(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    try:
        queue.put_nowait(event)
    except asyncio.QueueFull:
        with contextlib.suppress(asyncio.QueueEmpty):
            queue.get_nowait()
        queue.put_nowait(None)
