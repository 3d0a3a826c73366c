"""What every method needs: the daemon as it is seen from here, names of jobs and backups, helper processes, rights."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog

from nanumpay_backupd.announcer import Announcer
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.server import Call, is_user, may_administer
from nanumpay_backupd.errors import BackupdError, BusyError, InternalError, NotFoundError, RefusedError
from nanumpay_backupd.events import Fault
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import FULLS, Backup, CopyState, Trigger
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX
from nanumpay_backupd.pipeline.outlook import PruneLine
from nanumpay_backupd.pipeline.prune import named
from nanumpay_backupd.settings.schema import HostConfig, JobSpec, RestoreOrder, RunSpec
from nanumpay_backupd.supervisor import Supervisor
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.worker import WorkerProcess

__all__ = ["DaemonView", "Desk", "find", "limited", "log", "note_deleted", "present", "read_moment", "to_text"]

log = structlog.get_logger()


class DaemonView(Protocol):
    """What the methods need to know of the daemon around them."""

    started: datetime
    supervisor: Supervisor
    announcer: Announcer

    @property
    def timezone(self) -> str:
        """Name of the zone in which schedules are meant."""
        ...

    @property
    def monitor_at(self) -> tuple[str, ...]:
        """When all places are looked at (cron expressions), none: only when asked."""
        ...

    @property
    def language(self) -> str:
        """Language in which people are told: ``en`` or ``ko``."""
        ...

    @property
    def admin_group(self) -> str:
        """Name of the group whose members may restore and delete, or empty."""
        ...

    @property
    def host(self) -> HostConfig:
        """The host file that is in force."""
        ...

    def settings_state(self) -> dict[str, Any]:
        """Where the application's settings come from (SettingsState of the interface)."""
        ...

    def settings_public(self) -> dict[str, Any]:
        """The settings in force, without secrets."""
        ...

    def problems(self) -> list[Fault]:
        """What is wrong with the daemon itself."""
        ...

    async def reload(self) -> str:
        """Read the host file again; returns a sentence; raises ConfigError and keeps what was in force."""
        ...


class Desk:
    """The ground that the handlers of the methods stand on."""

    def __init__(self, daemon: DaemonView, clock: Clock) -> None:
        self._daemon = daemon
        self._supervisor = daemon.supervisor
        self._clock = clock

    def _admin(self, call: Call, what: str) -> None:
        web = self._daemon.host.web
        if not may_administer(call.peer, self._daemon.admin_group) and not (
            web.changes and is_user(call.peer, web.user)
        ):
            raise RefusedError(
                f"you may not {what}: that is for root, the service's user and the admin group",
                hint="use sudo, or set [control] admin_group in backupd.toml",
                code="not-allowed",
            )

    def _only_job(self) -> str:
        names = list(self._supervisor.jobs)
        if len(names) == 1 or "nanumpay" in names:
            return "nanumpay" if "nanumpay" in names else names[0]
        if not names:
            raise NotFoundError("there is no job yet", hint="see: backupctl status")
        raise RefusedError("there are several jobs", hint=f"name one: {', '.join(names)}")

    def _named(self, name: str) -> JobSpec:
        job = self._supervisor.jobs.get(name)
        if job is None:
            raise NotFoundError(f"there is no job {name!r}", hint=f"the jobs are: {', '.join(self._supervisor.jobs)}")
        return job

    async def _ask(self, job: JobSpec, action: str, wanted: str, restore: RestoreOrder | None = None) -> list[Any]:
        """Let a worker do something that takes servers or locks; returns what its events of kind ``wanted`` carry.

        Raises the fault that the worker tells of.
        """
        found = []
        async for event in self._helper(job, action, restore):
            if event.get("kind") == "fault":
                raise msgspec.convert(event["fault"], _Told).as_error()
            if event.get("kind") == wanted:
                found.append(event[wanted])
        return found

    async def _change(self, job: JobSpec, action: str) -> list[dict[str, Any]]:
        """Let a worker delete: it may talk to slow servers, and it takes the job's lock."""
        return [line for lines in await self._ask(job, action, "lines") for line in lines]

    def _told(self, fault: dict[str, Any]) -> BackupdError:
        """Return the fault that a worker's event carries."""
        return msgspec.convert(fault, _Told).as_error()

    async def _helper(
        self, job: JobSpec, action: str, restore: RestoreOrder | None = None, handed: tuple[int, ...] = ()
    ) -> AsyncGenerator[dict[str, Any]]:
        """Start a worker for something that is no run; yields its events. ``handed`` descriptors are its own then."""
        fence = self._supervisor.lease_for(job) if action.startswith(("delete:", "prune")) else None
        if fence is not None:
            fence = msgspec.structs.replace(fence, fd=os.dup(fence.fd))
            handed = (*handed, fence.fd)
        spec = RunSpec(
            run="none",
            job=job,
            paths=self._supervisor.paths,
            trigger=Trigger.MANUAL.value,
            action=action,
            restore=restore,
            fence=fence,
        )
        try:
            process = await WorkerProcess.start(spec, handed)
        finally:
            for fd in handed:
                os.close(fd)
        try:
            async for event in process.events():
                yield event
            code = await process.wait()
            if code < 0:
                raise BackupdError(f"the helper process for {action} was killed", code="interrupted", retryable=True)
            if code > 0:
                said = "\n".join(["the helper said:", *process.errors])
                log.error(said, message=Message.DEFECT, job=job.name, code="internal")
                raise InternalError(
                    f"the helper process for {action} failed because of a defect",
                    hint="the journal has the details: journalctl -u nanumpay-backupd -n 100; please report them",
                )
        finally:
            process.kill()


class _Told(msgspec.Struct, frozen=True):
    """A fault as a worker's event carries it."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False

    def as_error(self) -> BackupdError:
        kinds: dict[str, type[BackupdError]] = {"not-found": NotFoundError, "refused": RefusedError, "busy": BusyError}
        kinds |= {"copy-unusable": RefusedError, "bad-time": RefusedError, "no-such-moment": NotFoundError}
        kinds |= {"swap-impossible": RefusedError, "object-locked": RefusedError, "not-for-this-source": RefusedError}
        kinds |= {"target-exists": RefusedError, "target-refused": RefusedError, "drill-impossible": RefusedError}
        kind = kinds.get(self.code, BackupdError)
        return kind(self.message, hint=self.hint, code=self.code, retryable=self.retryable)


def find(catalog: Catalog, name: str, job: str | None = None) -> Backup:
    """Return a backup by its id or its file's name, or by "latest" (of ``job``, or of all); raises NotFoundError."""
    if name == "latest":
        # What a restore saved before it replaced everything is hardly what is meant.
        own = (item for item in catalog.backups(job, kinds=FULLS) if not item.job.endswith(SAFETY_SUFFIX))
        newest = next((item for item in own if present(item)), None)
        name = newest.id if newest is not None else name
    backup = catalog.backup(name) or catalog.backup(name.removesuffix(".gz").removesuffix(".tar"))
    if backup is None:
        raise NotFoundError(f"there is no backup {name!r}", hint="see: backupctl list")
    return backup


def present(backup: Backup) -> bool:
    """Tell whether a copy of a backup is left anywhere."""
    return any(copy.state in (CopyState.UPLOADED, CopyState.VERIFIED) for copy in backup.copies)


def note_deleted(call: Call, job: JobSpec, lines: list[PruneLine]) -> None:
    """Say in the journal who had what deleted."""
    gone = [line for line in lines if line.action == "delete"]
    if gone:
        log.info(f"uid {call.peer.uid} deleted {named(gone)}", message=Message.COPIES_DELETED, job=job.name)


def limited(value: Any, default: int, most: int, what: str = "limit") -> int:
    """Return a number that was asked for, or ``default``; raises RefusedError outside of 1 to ``most``."""
    if value is None:
        return default
    if not 1 <= value <= most:
        raise RefusedError(f"{what} is {value}, it must be from 1 to {most}", hint="leave it out for the default")
    return int(value)


def to_text(moment: datetime) -> str:
    """Write a moment as the interface does."""
    return moment.isoformat().replace("+00:00", "Z")


def read_moment(text: str) -> datetime:
    """Read a moment as the interface writes it (RFC 3339, with a zone), as UTC; raises RefusedError (``bad-time``)."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(
            f"{text!r} is not a moment", hint="write it as 2026-11-21T00:00:00Z", code="bad-time"
        ) from None
    if found.tzinfo is None:
        raise RefusedError(f"{text!r} names no zone", hint="write it as 2026-11-21T00:00:00Z", code="bad-time")
    return found.astimezone(UTC)
