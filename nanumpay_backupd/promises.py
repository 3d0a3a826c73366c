"""Notices when a job's promise is broken, and when it is kept again: RPO, RTO, room in the oplog. Mends nothing.

`status` shows what is not kept whenever somebody asks; this tells the journal once, when it begins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from nanumpay_backupd.control.facts import oplog_fault, protection, rpo_fault, rto_fault
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.events import Fault
from nanumpay_backupd.messages import Message
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.supervisor import Supervisor
from nanumpay_backupd.system.clock import Clock

__all__ = ["Broken", "Promises", "broken", "news"]

_INTERVAL: Final = 60.0
"""Seconds between two looks: an RPO shorter than that is not what anybody promises."""
_LOOKS: Final[Mapping[Message, Callable[[dict[str, Any]], Fault | None]]] = {
    Message.RPO_MISSED: rpo_fault,
    Message.RTO_MISSED: rto_fault,
    Message.OPLOG_SHORT: oplog_fault,
}
Broken = Mapping[Message, Fault]
"""What is not kept of one job's promises."""
log = structlog.get_logger()


def broken(job: dict[str, Any]) -> Broken:
    """Return what a job (name, enabled, protection) does not keep now."""
    found = {message: look(job) for message, look in _LOOKS.items()}
    return {message: problem for message, problem in found.items() if problem is not None}


def news(before: Broken, now: Broken) -> list[tuple[Message, Fault | None]]:
    """Return what is new: a promise that is broken now, or worse than before; None for an RPO that is kept again."""
    told: list[tuple[Message, Fault | None]] = [
        (message, problem)
        for message, problem in now.items()
        if message not in before or (problem.state == "failing" and before[message].state != "failing")
    ]
    if Message.RPO_MISSED in before and Message.RPO_MISSED not in now:
        told.append((Message.RPO_KEPT, None))
    return told


class Promises:
    """Looks at the jobs' promises now and then, until cancelled."""

    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._before: dict[str, Broken] = {}

    async def run(self) -> None:
        """Look every minute."""
        while True:
            for job in list(self._supervisor.jobs.values()):
                if job.shared and not self._supervisor.may_begin(job.name):
                    continue  # the host that makes it tells
                with contextlib.suppress(BackupdError):  # the catalog cannot be read: others tell of that
                    await self._look(job)
            await asyncio.sleep(_INTERVAL)

    async def _look(self, job: JobSpec) -> None:
        plans, now = self._supervisor.plans, self._clock.now()
        shown = await self._supervisor.db(
            lambda catalog: protection(catalog, job, lambda task: plans.get(job.name, task), now)
        )
        found = broken({"name": job.name, "enabled": job.enabled, "protection": shown})
        for message, problem in news(self._before.get(job.name, {}), found):
            if problem is None:
                log.info(f"job {job.name}: the RPO is kept again", message=message, job=job.name)
                continue
            level = "error" if problem.state == "failing" else "warning"
            getattr(log, level)(problem.text, message=message, job=job.name, hint=problem.hint)
        self._before[job.name] = found
