"""The methods that pages need: backups page by page, figures by day, files to take away, settings before saving."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import stat
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Final

import structlog

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.catalog_pages import SORTS, Wanted, history, named_artifact, search
from nanumpay_backupd.control.desk import Desk, limited, read_moment, to_text
from nanumpay_backupd.control.server import Call, Handed, is_user, may_administer
from nanumpay_backupd.errors import BackupdError, ConfigError, NotFoundError, RefusedError
from nanumpay_backupd.model import LOCAL, Backup, Copy, CopyState, to_builtins
from nanumpay_backupd.scheduler import upcoming, zone_of
from nanumpay_backupd.settings.document import parse_document, to_schedule
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import APPLICATION_DESTINATION, APPLICATION_JOB, AppSettings, JobSpec, Schedule
from nanumpay_backupd.settings.sources import type_of
from nanumpay_backupd.system.spout import wide_pipe

__all__ = ["Offering"]

_PAGE: Final = 50
_MOST: Final = 500
_DAYS: Final = 90
_MOST_DAYS: Final = 366
_NEXT: Final = 5
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""What an artifact's name is made of: nothing that leads to another folder."""
log = structlog.get_logger()


class Offering(Desk):
    """The handlers that pages need."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pouring: set[asyncio.Task[None]] = set()

    async def find_backups(self, call: Call) -> dict[str, Any]:
        """Answer FindBackups."""
        params = {name: value for name, value in call.params.items() if value is not None}
        if params.get("sort", "created") not in SORTS:
            raise RefusedError(f"cannot sort by {params['sort']!r}", hint=f"by {', '.join(SORTS)}", code="bad-request")
        if not 0 <= params.get("skip", 0) <= 10_000_000:
            raise RefusedError("skip is out of range", code="bad-request")
        params["limit"] = limited(params.get("limit"), _PAGE, _MOST)
        for name in ("since", "until"):
            if name in params:
                params[name] = read_moment(params[name])
        await self._supervisor.refresh()
        wanted = Wanted(**params)
        found = await self._supervisor.db(lambda catalog: search(catalog, wanted))
        return {"backups": [self._typed(one) for one in found.backups], "total": found.total, "size": found.size}

    def _typed(self, backup: Backup) -> dict[str, Any]:
        job = self._supervisor.jobs.get(backup.job)
        return {**to_builtins(backup), "source": type_of(job.source) if job else None}

    async def get_history(self, call: Call) -> dict[str, Any]:
        """Answer GetHistory."""
        days = limited(call.params.get("days"), _DAYS, _MOST_DAYS, "days")
        now = self._clock.now()
        since, zone = now - timedelta(days=days), zone_of(Schedule(cron=(), timezone=self._daemon.timezone))
        wanted = call.params.get("job")
        names = [self._named(wanted).name] if wanted else list(self._supervisor.jobs)
        found = []
        for name in names:
            rows = await self._supervisor.db(lambda catalog, name=name: history(catalog, name, since, now, zone))  # type: ignore[misc]
            found.append({"job": name, "days": to_builtins(rows)})
        return {"since": to_text(since), "until": to_text(now), "jobs": found}

    # Settings before they are saved

    async def preview_settings(self, call: Call) -> dict[str, Any]:
        """Answer PreviewSettings: what they mean; with ``test`` their destination is tried as well."""
        try:
            app = parse_document(call.params["application"])
        except ConfigError as error:
            if call.params.get("test"):
                raise
            return {"problem": _fault(error), "warnings": [], "schedule": [], "runs": [], "checks": None}
        schedule = to_schedule(app, self._daemon.timezone)
        runs = itertools.islice(upcoming(schedule, self._clock.now()), _NEXT) if app.enabled else ()
        checks = await self._try(app) if call.params.get("test") else None
        return {
            "problem": None,
            "warnings": list(app.warnings),
            "schedule": list(schedule.cron),
            "runs": [to_text(moment) for moment in runs],
            "checks": checks,
        }

    async def _try(self, app: AppSettings) -> list[dict[str, Any]]:
        host = self._daemon.host
        job = next((job for job in build_jobs(host, app) if job.name == APPLICATION_JOB), None)
        places = [item.name for item in job.destinations] if job is not None else []
        if job is None or APPLICATION_DESTINATION not in places:
            raise RefusedError(
                "these settings name no destination that could be tried",
                hint="fill in the server or the bucket",
                code="bad-request",
            )
        return list(await self._ask(job, f"doctor:{APPLICATION_DESTINATION}", "check"))

    # Taking away

    async def open_artifact(self, call: Call) -> dict[str, Any]:
        """Answer OpenArtifact: the file, or a part of it, as a descriptor that comes with the reply."""
        web = self._daemon.host.web.user
        if not may_administer(call.peer, self._daemon.admin_group) and not is_user(call.peer, web):
            raise RefusedError("you may not take backups away", hint="use sudo", code="not-allowed")
        name = call.params["name"]
        offset, length = call.params.get("offset") or 0, call.params.get("length")
        if not _NAME.fullmatch(name):
            raise NotFoundError("there is no such file", hint="see: backupctl list")
        found = await self._supervisor.db(lambda catalog: _located(catalog, name))
        if found is None:
            raise NotFoundError(f"there is no file {name!r}", hint="see: backupctl list")
        backup, copies = found
        wanted = call.params.get("source")
        copies = [copy for copy in copies if wanted in (None, copy.destination)]
        local = next((copy for copy in copies if copy.destination == LOCAL), None)
        fd = await asyncio.to_thread(self._open, name) if local is not None else None
        if fd is not None:
            size = os.fstat(fd).st_size
            try:
                first, many = _part(size, offset, length)
                os.lseek(fd, first, os.SEEK_SET)
            except BaseException:
                os.close(fd)
                raise
            return Handed(_opened(backup, name, size, (first, many), LOCAL), fd)
        return await self._from_elsewhere(backup, name, copies, offset, length)

    def _open(self, name: str) -> int | None:
        """Open a file of the backups folder; None: it is not there, or is no file."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._supervisor.layout.artifact(name), flags)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    async def _from_elsewhere(
        self, backup: Backup, name: str, copies: list[Copy], offset: int, length: int | None
    ) -> dict[str, Any]:
        job = self._supervisor.jobs.get(backup.job)
        places = {item.name for item in job.destinations} if job is not None else set()
        there = [copy for copy in copies if copy.destination in places]
        if job is None or not there:
            raise NotFoundError(
                f"no copy of {name} is left that could be read",
                hint=f"see where it should be: backupctl copies {backup.id}",
                code="artifact-missing",
            )
        problem: BackupdError | None = None
        for copy in there:
            first, many = _part(copy.size, offset, length)
            try:
                fd = await self._pour(job, copy, first, many)
            except BackupdError as error:
                problem = error
                continue
            return Handed(_opened(backup, name, copy.size, (first, many), copy.destination), fd)
        assert problem is not None, "each copy gave one"
        raise problem

    async def _pour(self, job: JobSpec, copy: Copy, offset: int, length: int) -> int:
        """Let a worker pour a part of a copy into a pipe; returns its reading end once the first bytes are there."""
        if length == 0:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.close(writing)
            return reading
        reading, writing = wide_pipe()
        action = f"pour:{writing}:{offset}:{length}:{copy.destination}:{copy.key}"
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._see_poured(job, action, writing, ready))
        self._pouring.add(task)
        task.add_done_callback(self._pouring.discard)
        try:
            await ready
        except BaseException:
            os.close(reading)
            task.cancel()
            raise
        return reading

    async def _see_poured(self, job: JobSpec, action: str, writing: int, ready: asyncio.Future[None]) -> None:
        """Follow a worker that pours. Whoever reads sees a fault as an early end; the sentence goes to the journal."""
        try:
            async with contextlib.aclosing(self._poured(job, action, writing)) as steps:
                async for _ in steps:
                    if not ready.done():
                        ready.set_result(None)
        except BackupdError as error:
            if ready.done():
                log.warning(f"a download broke off: {error.message}", job=job.name, code=error.code)
            else:
                ready.set_exception(error)
        finally:
            if not ready.done():
                ready.set_exception(BackupdError("the copy could not be read", code="interrupted", retryable=True))

    async def _poured(self, job: JobSpec, action: str, writing: int) -> AsyncGenerator[None]:
        async for event in self._helper(job, action, handed=(writing,)):
            if event.get("kind") == "fault":
                raise self._told(event["fault"])
            if event.get("kind") == "pouring":
                yield


def _located(catalog: Catalog, name: str) -> tuple[Backup, list[Copy]] | None:
    """Return the backup that has a file of that name, and the copies of it that are known to be there, local first."""
    found = named_artifact(catalog, name)
    backup = catalog.backup(found[0]) if found is not None else None
    if backup is None:
        return None
    there = [
        copy for copy in backup.copies if copy.key == name and copy.state in (CopyState.UPLOADED, CopyState.VERIFIED)
    ]
    return backup, sorted(there, key=lambda copy: copy.destination != LOCAL)


def _checksum(backup: Backup, name: str) -> str | None:
    """Return the SHA-256 of a file as the manifest has it."""
    if backup.manifest is None:
        return None
    with contextlib.suppress(BackupdError):
        artifact = backup.manifest.at(name).artifact
        return artifact.sha256 if artifact.name == name else None
    return None


def _part(size: int, offset: int, length: int | None) -> tuple[int, int]:
    if offset < 0 or offset > size or (length is not None and length < 0):
        raise RefusedError(f"the file has {size} bytes", code="bad-request")
    return offset, min(size - offset, size if length is None else length)


def _opened(backup: Backup, name: str, size: int, part: tuple[int, int], destination: str) -> dict[str, Any]:
    offset, length = part
    return {
        "backup": backup.id,
        "name": name,
        "size": size,
        "offset": offset,
        "length": length,
        "destination": destination,
        "created": to_text(backup.created),
        "sha256": _checksum(backup, name),
    }


def _fault(error: BackupdError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
