"""The service manager's end of $NOTIFY_SOCKET: keeps every message that a service sends, in order."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

__all__ = ["NotifySocket"]


class NotifySocket:
    """Listens from `__init__` to `close`; each message is a dict of its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, str]] = []
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._receive, name="notify", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def count(self, key: str) -> int:
        """Return how many messages with ``key`` came so far."""
        with self._changed:
            return sum(key in message for message in self.messages)

    def wait_for(self, key: str, count: int = 1, seconds: float = 60.0) -> dict[str, str]:
        """Wait for the ``count``-th message that has ``key`` and return it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = [message for message in self.messages if key in message]
                if len(found) >= count:
                    return found[count - 1]
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {key} came; what came: {self.messages[-10:]}")

    @property
    def status(self) -> str:
        """Return the last status line, empty when there was none."""
        with self._changed:
            return next((message["STATUS"] for message in reversed(self.messages) if "STATUS" in message), "")

    def keys(self) -> list[str]:
        """Return the first key of every message, in order, without the status lines and watchdog beats."""
        with self._changed:
            return [key for message in self.messages if (key := next(iter(message))) not in {"STATUS", "WATCHDOG"}]

    def _receive(self) -> None:
        while data := self._socket.recv(65536):
            pairs = (line.partition("=") for line in data.decode().splitlines())
            with self._changed:
                self.messages.append({key: value for key, _, value in pairs})
                self._changed.notify_all()
