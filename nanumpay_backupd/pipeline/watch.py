"""Watches one run from a thread of its own: asks about once a second whether a limit was passed, and sees to its end.

The run ends by itself at its next step (`Recorder.check`). One that does not come to it waits for something: first its
children are ended, then the wait itself is broken off, and at last whoever started the run is told that it hangs. What
is too long or too much is decided in `limits`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

from nanumpay_backupd.errors import LimitError
from nanumpay_backupd.pipeline.limits import overdue, too_large
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.system.family import members
from nanumpay_backupd.system.process import end_children

__all__ = ["Watch"]

_PULSE: Final = 1.0
_CHILDREN_AFTER: Final = 5.0
"""Seconds that a run has to come to its next step before its children are ended; each later means takes as long."""
_BREAK_OFF_AFTER: Final = 8.0
_HANGS_AFTER: Final = 20.0
_BROKEN_OFF: Final = signal.SIGUSR1


class Watch:
    """A run being watched, for the length of a with block in the run's own thread.

    ``on_pulse`` is called about once a second while this process can run at all, ``on_hang`` once for a run that
    passed a limit and cannot be ended from within.
    """

    def __init__(
        self,
        recorder: Recorder,
        job: JobSpec,
        action: str,
        *,
        on_pulse: Callable[[], None] | None = None,
        on_hang: Callable[[LimitError], None] | None = None,
    ) -> None:
        self._recorder = recorder
        self._job = job
        self._action = action
        self._on_pulse = on_pulse or (lambda: None)
        self._on_hang = on_hang or (lambda _: None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._owner = threading.current_thread()
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        # Only the main thread can be interrupted; elsewhere (tests) a wait lasts as long as it lasts.
        if self._owner is threading.main_thread():
            self._before = signal.signal(_BROKEN_OFF, self._interrupted)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._owner is threading.main_thread():
            signal.signal(_BROKEN_OFF, self._before)

    def _watch(self) -> None:
        clock = self._recorder.clock
        passed: float | None = None
        means = [(_CHILDREN_AFTER, end_children), (_BREAK_OFF_AFTER, self._break_off), (_HANGS_AFTER, self._give_up)]
        while not self._over.wait(_PULSE):
            self._on_pulse()
            if self._recorder.fault is None:
                self._look()
                continue
            passed = clock.monotonic() if passed is None else passed
            # Between two stages it is on its way out, and cleans up.
            if means and clock.monotonic() - passed > means[0][0] and self._recorder.elapsed().stage is not None:
                means.pop(0)[1]()

    def _look(self) -> None:
        fault = overdue(self._job.limits, self._job.name, self._action, self._recorder.elapsed())
        if fault is not None:
            self._recorder.exceed(fault)
        elif self._job.limits.memory and self._action != "restore":  # which is never cut off for that
            fault = too_large(self._job.limits, self._job.name, members(os.getpid()))
            if fault is not None:
                self._recorder.exceed(fault)
                # What takes the memory is to give it back now.
                end_children()

    def _break_off(self) -> None:
        if self._owner is threading.main_thread() and self._owner.ident is not None:
            signal.pthread_kill(self._owner.ident, _BROKEN_OFF)

    def _give_up(self) -> None:
        assert self._recorder.fault is not None
        self._on_hang(self._recorder.fault)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """Break off what the run waits for; too late, when it is on its way out."""
        fault = self._recorder.fault
        if fault is not None and not self._over.is_set() and self._recorder.elapsed().stage is not None:
            raise fault
