"""Dead-man switches: a ping when a job's backup begins, and one when it ended. Sent at once, and forgotten when late.

A ping that is hours late would say something that is not so any more, so it is tried a few times and then given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from nanumpay_backupd.model import Outcome, Run, Trigger
from nanumpay_backupd.notifiers.base import HeartbeatTarget, Message, Receipt, Target
from nanumpay_backupd.notifiers.letter import ping
from nanumpay_backupd.notifiers.messenger import dispatch
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["CHANNEL", "Heartbeats", "signal_of"]

CHANNEL: Final = "heartbeat/"
"""Begins the name of the channel that the switch of a job is."""
_PAUSES: Final = (5.0, 20.0)
"""Seconds between the tries."""
_MOST_MUTED: Final = 100


class Heartbeats:
    """The pings of all jobs. All methods belong to the event loop."""

    def __init__(self, host: str, tell: Callable[[Receipt], None]) -> None:
        """``host`` is this host's name; ``tell`` hears what came of the pings."""
        self._host = host
        self._tell = tell
        self._targets: dict[str, HeartbeatTarget] = {}
        self._muted: list[str] = []
        self._queue: dict[str, list[Message]] = {}
        self._wake = asyncio.Event()

    def configure(self, jobs: Iterable[JobSpec], *, enabled: bool) -> None:
        """Take over settings."""
        self._targets = {
            job.name: HeartbeatTarget(name=f"{CHANNEL}{job.name}", url=job.heartbeat)
            for job in jobs
            if job.heartbeat and enabled
        }

    def targets(self) -> dict[str, Target]:
        """Return the switches, by channel."""
        return {target.name: target for target in self._targets.values()}

    def mute(self, run: str) -> None:
        """Send nothing of a run."""
        self._muted = [*self._muted, run][-_MOST_MUTED:]

    def hear(self, run: Run) -> None:
        """Take note that a run began, or ended."""
        signal = signal_of(run)
        if signal is not None and run.job in self._targets and run.id not in self._muted:
            self._queue.setdefault(run.job, []).append(ping(run, signal, self._host))
            self._wake.set()

    async def run(self) -> None:
        """Send pings until cancelled, each job's by themselves: a switch that is silent holds no other up."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                tasks = {job: task for job, task in tasks.items() if not task.done()}
                for job in self._queue.keys() - tasks.keys():
                    tasks[job] = asyncio.create_task(self._drain(job))
        finally:
            for task in tasks.values():
                task.cancel()
            if tasks:
                await asyncio.wait(tasks.values())

    async def _drain(self, job: str) -> None:
        """Send the pings of a job in their order; one that fails gives way to what happened meanwhile."""
        tries = 0
        while (messages := self._queue.pop(job, [])) and (target := self._targets.get(job)) is not None:
            receipts = await dispatch([(target, messages)])
            done = {receipt.message for receipt in receipts if receipt.ok or not receipt.retryable}
            left = [message for message in messages if message.id not in done]
            if left and tries < len(_PAUSES):
                await asyncio.sleep(_PAUSES[tries])
                tries += 1
                # The newest says all that a switch wants to know.
                self._queue[job] = self._queue.get(job) or left[-1:]
                continue
            tries = 0
            self._tell(receipts[-1])


def signal_of(run: Run) -> str | None:
    """Return the ping that a run asks for, None: none.

    A degraded one did not do what it was to do: a copy is missing. One that was skipped leaves it to the other.
    """
    if run.action != "backup" or run.trigger is Trigger.RETRY:
        return None
    if run.outcome is None:
        return "start"
    if run.outcome is Outcome.SKIPPED:
        return None
    return "success" if run.outcome is Outcome.SUCCEEDED else "fail"
