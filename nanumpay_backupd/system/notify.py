"""Telling systemd how we are: READY, STATUS, WATCHDOG, RELOADING, STOPPING. Silent where there is no systemd."""

from __future__ import annotations

import os
import time

import sdnotify

__all__ = ["ServiceManager"]


class ServiceManager:
    """The service manager at the other end of $NOTIFY_SOCKET; every call is harmless without one."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""

    @property
    def watchdog_interval(self) -> float | None:
        """Return how often to call `alive`, in seconds (half the unit's WatchdogSec), or None when nobody watches."""
        micros = os.environ.get("WATCHDOG_USEC", "")
        pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        if not micros.isdigit() or int(micros) == 0 or pid != str(os.getpid()):
            return None
        return int(micros) / 2_000_000

    def ready(self) -> None:
        """Tell that start-up, or a reload, is complete."""
        self._notifier.notify("READY=1")

    def status(self, text: str) -> None:
        """Show one line in ``systemctl status``; repeated texts are not sent again."""
        if text != self._status:
            self._status = text
            self._notifier.notify(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._notifier.notify("WATCHDOG=1")

    def reloading(self) -> None:
        """Tell that a reload began; `ready` ends it."""
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={micros}")

    def stopping(self, budget: float) -> None:
        """Tell that the service is stopping and may need ``budget`` more seconds."""
        self._notifier.notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(budget * 1_000_000)}")
