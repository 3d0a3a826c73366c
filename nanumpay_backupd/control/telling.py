"""The methods about telling people: what was told, a test of the ways, the report of the last days."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from nanumpay_backupd.control.desk import limited, to_text
from nanumpay_backupd.control.facts import health_of, protection
from nanumpay_backupd.control.looking import Looking
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.model import to_builtins
from nanumpay_backupd.plans import Task
from nanumpay_backupd.reports.figures import JobReport, Report, gather
from nanumpay_backupd.reports.pages import page, text
from nanumpay_backupd.scheduler import zone_of
from nanumpay_backupd.settings.schema import JobSpec, Schedule

__all__ = ["Telling"]

_NOTICES: Final = 20
_MOST_NOTICES: Final = 1000
_DAYS: Final = 7
_MOST_DAYS: Final = 366
_LANGUAGES: Final = ("en", "ko")


class Telling(Looking):
    """The handlers about telling people."""

    async def list_notices(self, call: Call) -> dict[str, Any]:
        """Answer ListNotices."""
        limit = limited(call.params.get("limit"), _NOTICES, _MOST_NOTICES)
        job = call.params.get("job")
        records = await self._supervisor.db(lambda catalog: catalog.notices(job, limit))
        notices = [_notice(to_builtins(record.notice), to_builtins(record.sent)) for record in records]
        return {"notices": notices, "channels": self._daemon.announcer.channels()}

    async def test_notify(self, call: Call) -> dict[str, Any]:
        """Answer TestNotify: a real message by one way, or by all."""
        receipts = await self._daemon.announcer.test(call.params.get("channel"))
        return {"results": [_result(to_builtins(receipt)) for receipt in receipts]}

    async def get_report(self, call: Call) -> dict[str, Any]:
        """Answer GetReport."""
        days = limited(call.params.get("days"), _DAYS, _MOST_DAYS, "days")
        language = call.params.get("language") or self._daemon.language
        if language not in _LANGUAGES:
            raise RefusedError(f"there is no language {language!r}", hint=f"languages: {', '.join(_LANGUAGES)}")
        report = await self.review(days)
        shown = {"report": to_builtins(report), "text": text(report, language)}
        return shown | {"html": page(report, language) if call.params.get("html") else None}

    async def review(self, days: int) -> Report:
        """Return the report of the last ``days``; raises BackupdError."""
        now = self._clock.now()
        since = now - timedelta(days=days)
        faults, _ = await self.faults()
        jobs = [await self._job_report(job, since, now) for job in self._supervisor.jobs.values()]
        ranked = sorted(faults, key=lambda fault: -fault.severity.weight)
        return Report(
            since=to_text(since),
            until=to_text(now),
            timezone=self._daemon.timezone,
            host=socket.gethostname(),
            health=health_of(faults),
            problems=tuple(fault.line for fault in ranked),
            jobs=tuple(jobs),
        )

    async def _job_report(self, job: JobSpec, since: datetime, until: datetime) -> JobReport:
        zone = zone_of(Schedule(cron=(), timezone=self._daemon.timezone))
        plans = {(job.name, task): self._supervisor.plans.get(job.name, task) for task in Task}
        shown = await self._supervisor.db(
            lambda catalog: protection(catalog, job, lambda task: plans[job.name, task], until)
        )
        return await self._supervisor.db(
            lambda catalog: gather(
                catalog,
                job,
                since=since,
                until=until,
                zone=zone,
                due=lambda name, task: plans[name, task],
                restore_seconds=shown["restore_seconds"],
            )
        )


def _notice(notice: Mapping[str, Any], sent: list[dict[str, Any]]) -> dict[str, Any]:
    """Shape a record as the interface's type Notice."""
    plain = ("id", "at", "phase", "event", "of", "severity", "job", "run", "backup", "hint", "code", "since", "count")
    return {**{name: notice[name] for name in plain}, "reason": notice["reason"] or notice["text"], "sent": sent}


def _result(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Shape a receipt as the interface's type SendResult."""
    return {name: receipt[name] for name in ("channel", "ok", "answer", "hint", "code", "seconds")}
