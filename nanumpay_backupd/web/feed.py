"""What happens, as it happens, for any number of pages: one stream from the daemon, many readers. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.link import Link

__all__ = ["Feed", "Reader"]

_WAITING: Final = 200
"""Events that a slow reader may lag behind; then it is told to look anew."""
_AGAIN: Final = 2.0
Event = dict[str, Any]


class Reader:
    """One reader's queue."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING)

    def put(self, event: Event) -> None:
        """Add an event; of a queue that is full everything goes, and ``resync`` comes instead."""
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            event = {"kind": "resync"}
        self._queue.put_nowait(event)

    async def next(self, seconds: float) -> Event | None:
        """Return the next event, None when there was none in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._queue.get()
        return None


class Feed:
    """The one stream. Begins with the first reader, and goes on until `close`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._readers: set[Reader] = set()
        self._client = Client(str(link.socket), timeout=10.0)
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.up: bool | None = None
        """Whether the daemon answers; None: not known yet."""

    @property
    def readers(self) -> int:
        """Return how many read now."""
        return len(self._readers)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """Read from now on, until the end of the block."""
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._listen, args=(loop,), name="feed", daemon=True)
            self._thread.start()
        reader = Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End the stream; may be called twice."""
        self._ending.set()
        self._client.close()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._spread, event)

        while not self._ending.is_set():
            with contextlib.suppress(BackupdError):
                if not self._link.is_down:
                    # Whoever answers this is there; the stream itself is silent until something happens.
                    self._client.call("ListRuns", {"limit": 1})
                    tell({"kind": "up"})
                    for reply in self._client.stream("Watch"):
                        tell(reply["event"])
            tell({"kind": "down"})
            self._ending.wait(_AGAIN)

    def _spread(self, event: Event) -> None:
        if event["kind"] in {"up", "down"}:
            now_up = event["kind"] == "up"
            if self.up is now_up:
                return
            self.up = now_up
        if event["kind"] != "progress":
            self._link.stir()
        for reader in self._readers:
            reader.put(event)
