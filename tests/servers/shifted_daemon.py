"""The daemon with another clock or a shorter stop: started like the real one, by the door that it has for a clock.

NANUMPAY_TEST_CLOCK is the seconds that its wall clock is ahead of this machine's; NANUMPAY_TEST_STOP_BUDGET replaces
the seconds that a running backup may take when the service stops, NANUMPAY_TEST_GRACE those that a run without a sign
of life has beyond its standstill; with NANUMPAY_TEST_DEFECT the scheduler breaks down
as soon as it has a plan. With NANUMPAY_TEST_STUCK the signal SIGUSR2 blocks the event loop for so many seconds. The
worker processes have the machine's clock.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime, timedelta
from typing import Final

from nanumpay_backupd import __main__, daemon, supervisor
from nanumpay_backupd.supervisor import Supervisor
from nanumpay_backupd.system.clock import SystemClock

_SHIFT: Final = timedelta(seconds=float(os.environ.get("NANUMPAY_TEST_CLOCK", "0")))


class _ShiftedClock(SystemClock):
    def now(self) -> datetime:
        return super().now() + _SHIFT


async def _broken_step(self: Supervisor) -> float:
    if self.plans.next_backup():
        raise RuntimeError("a defect for the test")
    return 1.0


if __name__ == "__main__":
    daemon.SystemClock = _ShiftedClock  # type: ignore[attr-defined]  # the seam: a clock is handed in
    daemon._STOP_BUDGET = float(os.environ.get("NANUMPAY_TEST_STOP_BUDGET", "60"))  # type: ignore[misc]
    if "NANUMPAY_TEST_GRACE" in os.environ:
        supervisor._GRACE = float(os.environ["NANUMPAY_TEST_GRACE"])  # type: ignore[misc]
    if "NANUMPAY_TEST_DEFECT" in os.environ:
        Supervisor._step = _broken_step  # type: ignore[method-assign]
    if "NANUMPAY_TEST_STUCK" in os.environ:
        signal.signal(signal.SIGUSR2, lambda *_: time.sleep(float(os.environ["NANUMPAY_TEST_STUCK"])))
    sys.exit(__main__.main())
