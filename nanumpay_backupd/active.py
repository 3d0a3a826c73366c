"""A run that is active: its record as it is heard of, its process, its end. Starts and decides nothing."""

from __future__ import annotations

import asyncio

from nanumpay_backupd.model import ErrorInfo, Run, Trigger
from nanumpay_backupd.pipeline.layout import lane
from nanumpay_backupd.worker import WorkerProcess

__all__ = ["ActiveGroup", "ActiveRun"]


class ActiveRun:
    """A run that has a worker process now, or is about to have one."""

    def __init__(self, run: Run, kind: str = "") -> None:
        self.run = run
        self.kind = kind
        self.lane = lane(run.job, run.action)
        self.process: WorkerProcess | None = None
        self.stage = ""
        self.cancelled_by = ""
        self.fault: ErrorInfo | None = None
        self.heard = 0.0
        self.token = 0
        """Under which number of the fleet's lease it goes on; 0: it needs none."""
        self.committed = asyncio.Event()
        """Set when it has committed a backup."""
        self.ended = asyncio.Event()

    @property
    def action(self) -> str:
        """Return what it does."""
        return self.run.action

    @property
    def quiet(self) -> bool:
        """Tell whether it is worth a word only when it fails: the slices, which come every minute."""
        return self.run.action == "slice" and self.run.trigger is Trigger.SCHEDULE

    def cancel(self, who: str) -> None:
        """Ask for the end; one that is just being started ends as soon as it can be told."""
        self.cancelled_by = self.cancelled_by or who
        if self.process is not None:
            self.process.cancel()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()

    def member(self, run_id: str | None) -> str | None:
        """Return which job's part of this run a run is: empty: it is this run itself; None: it has no part in it."""
        return "" if run_id == self.run.id else None


class ActiveGroup(ActiveRun):
    """The run of a group: it has no process, its ``parts`` do. ``halted`` is set when no more of them shall begin."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.parts: list[ActiveRun] = []
        self.halted = asyncio.Event()

    def cancel(self, who: str) -> None:
        """Ask all parts for their end."""
        super().cancel(who)
        self.halted.set()
        for part in self.parts:
            if not part.ended.is_set():
                part.cancel(who)

    def kill(self) -> None:
        """End the processes of all parts at once."""
        self.halted.set()
        for part in self.parts:
            if not part.ended.is_set():
                part.kill()

    def member(self, run_id: str | None) -> str | None:
        """See `ActiveRun.member`."""
        if run_id == self.run.id:
            return ""
        return next((part.run.job for part in self.parts if part.run.id == run_id), None)
