"""The methods about how long backups are kept: prune, now or as it will be, and pins. Retention itself decides."""

from __future__ import annotations

import asyncio
import itertools
import pwd
from datetime import datetime
from typing import Any, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import Desk, find, note_deleted, to_text
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.model import Backup, to_builtins
from nanumpay_backupd.pipeline.ageing import counted_from
from nanumpay_backupd.pipeline.groups import parted, read_groups
from nanumpay_backupd.pipeline.outlook import PruneLine, gone_by, look, plan, plan_ahead, together, too_large
from nanumpay_backupd.pipeline.pins import pin, unpin
from nanumpay_backupd.scheduler import upcoming
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["Keeping"]

_MOST_ASSUMED: Final = 10_000
_LONGEST_REASON: Final = 500


class Keeping(Desk):
    """The handlers about keeping."""

    async def prune(self, call: Call) -> dict[str, Any]:
        """Answer Prune: what retention would delete, now or at a later moment; with ``apply`` it is deleted."""
        apply, at = bool(call.params.get("apply")), self._later(call)
        if apply:
            self._admin(call, "prune")
        await self._supervisor.refresh()
        name = call.params.get("job")
        jobs = [self._named(name)] if name else list(self._supervisor.jobs.values())
        assume = bool(call.params.get("assume_schedule"))
        if assume and not any(_comes_by_itself(job) for job in jobs):
            raise RefusedError(
                "no job that is asked about makes backups by itself: there is no schedule to assume",
                hint="leave --assume-schedule out",
            )
        lines: list[dict[str, Any]] = []
        notes: list[str] = []
        for job in jobs:
            if apply:
                found = msgspec.convert(await self._change(job, "prune"), list[PruneLine])
                note_deleted(call, job, found)
            else:
                found = await self._outlook(job, at, assume=assume)
                notes += await self._parted(gone_by(found))
            notes += too_large(job, found)
            lines += to_builtins(together(job.name, found) if call.params.get("together") else found)
        return {"lines": lines, "applied": apply, "notes": notes, "at": to_text(at) if at is not None else None}

    def _later(self, call: Call) -> datetime | None:
        """Return the moment that a prune is to be foreseen for, None: now."""
        text, assume = call.params.get("at"), call.params.get("assume_schedule")
        if call.params.get("apply") and (text or assume):
            raise RefusedError(
                "what will be deleted one day cannot be deleted now",
                hint="leave --apply out to see it, or --at to delete what is to be deleted now",
            )
        if not text:
            if assume:
                raise RefusedError("a schedule is assumed up to a moment, and there is none", hint="add --at DATE")
            return None
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None or at < self._clock.now():
            raise RefusedError(
                f"{text!r} is no moment in the future", hint="write it like 2027-11-21T10:30:59+09:00", code="bad-time"
            )
        return at

    async def _outlook(self, job: JobSpec, at: datetime | None, *, assume: bool) -> list[PruneLine]:
        """Plan in a thread: of tens of thousands of backups it takes a while."""
        now = self._clock.now()
        seen = await self._supervisor.db(lambda catalog: look(catalog, job.name))
        if at is None:
            counted = await self._supervisor.db(lambda catalog: counted_from(catalog, self._clock))
            return await asyncio.to_thread(plan, job, seen, counted)
        due = await asyncio.to_thread(_due, job, now, at) if assume else []
        return await asyncio.to_thread(plan_ahead, job, seen, at, due)

    async def _parted(self, gone: set[str]) -> list[str]:
        """Say which groups can be restored in part only once these backups are gone."""
        layout = self._supervisor.layout
        return await self._supervisor.db(lambda catalog: parted(read_groups(layout), catalog, gone))

    async def pin(self, call: Call) -> dict[str, Any]:
        """Answer Pin: retention leaves the backup alone until whoever pinned it lets it go."""
        reason = " ".join(str(call.params.get("reason") or "").split())
        if len(reason) > _LONGEST_REASON:
            raise RefusedError(f"the reason is longer than {_LONGEST_REASON} characters", hint="say it shorter")
        name, owner, now = call.params["backup"], _login(call.peer.uid), self._clock.now()
        layout = self._supervisor.layout

        def work(catalog: Catalog) -> Backup:
            backup = find(catalog, name)
            pin(catalog, layout, backup.id, owner, reason, now)
            return find(catalog, backup.id)

        return await self._pinned(await self._supervisor.db(work))

    async def unpin(self, call: Call) -> dict[str, Any]:
        """Answer Unpin: drops the pins of people, with ``all`` those of the daemon as well."""
        self._admin(call, "let go what is pinned")
        name, everything = call.params["backup"], bool(call.params.get("all"))
        layout = self._supervisor.layout

        def work(catalog: Catalog) -> Backup:
            backup = find(catalog, name)
            for found in catalog.pins(backup.id):
                if everything or not found.by_daemon:
                    unpin(catalog, layout, backup.id, found.owner)
            return find(catalog, backup.id)

        return await self._pinned(await self._supervisor.db(work))

    async def _pinned(self, backup: Backup) -> dict[str, Any]:
        pins = await self._supervisor.db(lambda catalog: catalog.pins(backup.id))
        return {"backup": backup.id, "pins": [to_builtins(found) for found in pins]}


def _comes_by_itself(job: JobSpec) -> bool:
    return job.enabled and job.schedule is not None


def _due(job: JobSpec, now: datetime, at: datetime) -> list[datetime]:
    """Return when backups of a job are due until then; raises RefusedError when they are too many."""
    if not job.enabled or job.schedule is None:
        return []
    times = itertools.takewhile(lambda moment: moment <= at, upcoming(job.schedule, now))
    found = list(itertools.islice(times, _MOST_ASSUMED + 1))
    if len(found) > _MOST_ASSUMED:
        raise RefusedError(
            f"until then job {job.name} makes more than {_MOST_ASSUMED:,} backups", hint="name an earlier date"
        )
    return found


def _login(uid: int) -> str:
    """Return a caller's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
