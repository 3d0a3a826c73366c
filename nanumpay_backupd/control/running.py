"""The methods that start runs and follow them: backups, slices, restores, verifications, drills."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from nanumpay_backupd.active import ActiveRun
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import Desk, find, limited, present
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.control.together import find_group, groups_there, shown_group
from nanumpay_backupd.errors import BackupdError, InternalError, NotFoundError, RefusedError
from nanumpay_backupd.model import (
    SLICES,
    Backup,
    ErrorInfo,
    GroupManifest,
    Kind,
    OpTime,
    Trigger,
    error_info,
    to_builtins,
)
from nanumpay_backupd.pipeline.chains import LATEST, known, no_such_moment, parse_moment, within
from nanumpay_backupd.pipeline.chosen import no_files
from nanumpay_backupd.pipeline.copying import check_order
from nanumpay_backupd.pipeline.groups import MemberState, all_at_once, state_of
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX, group_of, lane
from nanumpay_backupd.settings.schema import CollectionOrder, CopyOrder, JobSpec, RestoreOrder, SourceKind, VerifyOrder
from nanumpay_backupd.settings.selection import jobs_of, must_hold
from nanumpay_backupd.settings.sources import FilesSource

__all__ = ["Running"]

_KINDS: Final = {
    Kind.FULL.value: "backup",
    Kind.INCREMENTAL.value: "slice",
    Kind.DIFFERENTIAL.value: "slice",
}
"""What makes the kinds of backups that can be asked for."""
_OF_JOBS: Final = ("collection", "format", "compress", "only_to")
"""What can be asked for of a job, and not of a group."""
_FORMATS: Final = ("bson", "json")
_LOST: Final = {"corrupt": "its backup is damaged", "gone": "no copy is left", "never": "no backup was made"}
_LEVELS: Final = ("checksum", "structure", "restore")


class Running(Desk):
    """The handlers that start and follow runs."""

    async def run(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Run: start it, and with ``more`` stream its events until it ends."""
        if call.params.get("job") in self._supervisor.specs:
            async with contextlib.aclosing(self._group_run(call)) as replies:
                async for reply in replies:
                    yield reply
            return
        name = self._meant(call.params)
        kind = call.params.get("kind") or Kind.FULL.value
        if kind not in _KINDS:
            raise RefusedError(f"{kind!r} is no kind of backup", hint=f"kinds: {', '.join(_KINDS)}")
        force, compress = bool(call.params.get("force")), call.params.get("compress")
        collection = _collection(call.params)
        only_to = call.params.get("only_to")
        if only_to is not None and kind != Kind.FULL.value:
            raise RefusedError(
                "a slice of changes goes to every destination: where it is missing, nothing after it can be restored",
                hint="leave out --only-to",
            )

        async def start() -> ActiveRun:
            if kind != Kind.FULL.value:
                await self._slices_at_rest(name)
            return await self._supervisor.start_run(
                name,
                Trigger.MANUAL,
                action=_KINDS[kind],
                kind=kind,
                force=force,
                compress=compress,
                collection=collection,
                only_to=only_to,
            )

        async def start_muted() -> ActiveRun:
            active = await start()
            # Nobody has heard of its start yet: nothing else has run since.
            self._daemon.announcer.mute(active.run.id)
            return active

        start_it = start_muted if call.params.get("disable_notifications") else start
        async with contextlib.aclosing(self._followed(start_it)) as replies:
            async for reply in replies:
                yield reply

    async def _group_run(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        """Start the run of a group, and follow it."""
        params = call.params
        name, kind = params["job"], _kind_of(params)
        other = next((key for key in _OF_JOBS if params.get(key) is not None), "")
        if other or params.get("kind") not in (None, Kind.FULL.value):
            jobs = ", ".join(self._supervisor.specs[name].jobs)
            raise RefusedError(
                f"{name} is a group: of that, whole backups are made as its jobs have it",
                hint=f"leave out {other or 'kind'}, or run one of its jobs: {jobs}",
            )
        muted = bool(params.get("disable_notifications"))

        def hear(active: ActiveRun) -> None:
            if muted:
                self._daemon.announcer.mute(active.run.id)

        async def start() -> ActiveRun:
            active = await self._supervisor.groups.make(
                name, Trigger.MANUAL, force=bool(params.get("force")), kind=kind, on_part=hear
            )
            hear(active)
            return active

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    def _meant(self, params: Mapping[str, Any]) -> str:
        """Return the name of the job that a caller of Run asked for; ``holds`` says what it must save."""
        name: str | None = params.get("job")
        kind = _kind_of(params)
        if kind is None:
            return name or self._only_job()
        if name:
            must_hold(self._named(name), kind)
            return name
        found = [job.name for job in jobs_of(self._supervisor.jobs, kind)]
        if len(found) > 1:
            raise RefusedError("there are several such jobs", hint=f"name one: {', '.join(found)}")
        return found[0]

    async def verify(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Verify: prove copies, and with ``more`` stream the run's events until it ends."""
        level = call.params.get("level") or _LEVELS[0]
        if level not in _LEVELS:
            raise RefusedError(f"{level!r} is no level of verification", hint=f"levels: {', '.join(_LEVELS)}")
        async with contextlib.aclosing(self._proof(call, level)) as replies:
            async for reply in replies:
                yield reply

    async def drill(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Drill: restore into a scratch place, and with ``more`` stream the run's events until it ends."""
        async with contextlib.aclosing(self._proof(call, _LEVELS[-1])) as replies:
            async for reply in replies:
                yield reply

    async def _proof(self, call: Call, level: str) -> AsyncGenerator[dict[str, Any], None]:
        """Start a verification or a drill of what was named, or of a whole job, and follow it."""
        name: str = call.params.get("backup") or ""
        wanted = call.params.get("job")
        await self._supervisor.refresh()
        if name:
            backup = await self._supervisor.db(lambda catalog: find(catalog, name, wanted))
            job = self._restoring(backup).name
            name = backup.id
        else:
            job = self._named(wanted or self._only_job()).name
        order = VerifyOrder(backup=name, level=level, source=call.params.get("source") or "")
        action = "drill" if level == _LEVELS[-1] else "verify"

        async def start() -> ActiveRun:
            return await self._supervisor.start_run(job, Trigger.MANUAL, action=action, force=True, verify=order)

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def copy_backup(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer CopyBackup: make a further copy, or move one, and with ``more`` stream the run's events."""
        name, move = call.params["backup"], bool(call.params.get("move"))
        if move:
            self._admin(call, "move copies")
        await self._supervisor.refresh()
        backup = await self._supervisor.db(lambda catalog: find(catalog, name))
        job = self._named(backup.job)
        order = CopyOrder(
            backup=backup.id,
            destination=call.params["destination"],
            source=call.params.get("source") or "",
            move=move,
        )
        check_order(order, backup, job)

        async def start() -> ActiveRun:
            return await self._supervisor.start_run(job.name, Trigger.MANUAL, action="copy", force=True, copying=order)

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def restore(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Restore: with ``dry_run`` the plan, else start it, and with ``more`` stream its events."""
        self._admin(call, "restore")
        await self._supervisor.refresh()
        job, order, remarks = await self._restore_order(call)
        if call.params.get("dry_run"):
            plan = await self._foresee(job, order)
            yield {"plan": {**plan, "warnings": [*plan["warnings"], *remarks]}}
            return

        async def start() -> ActiveRun:
            return await self._supervisor.start_run(
                job.name, Trigger.MANUAL, action="restore", force=True, restore=order
            )

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def restore_group(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer RestoreGroup: with ``dry_run`` the plans, else start it, and with ``more`` stream its events."""
        self._admin(call, "restore")
        await self._supervisor.refresh()
        chosen, states = await self._group(call.params["group"])
        wanted = _members(chosen, states, _kind_of(call.params), partial=bool(call.params.get("partial")))
        orders = [(self._named(state.member.job), _member_order(state, call.params)) for state in wanted]
        plans = [await self._foresee(job, order) for job, order in orders]
        if call.params.get("dry_run"):
            yield {"plans": plans, "group": shown_group(chosen, states)}
            return
        # The copies that were planned with are those that are taken.
        orders = [
            (job, msgspec.structs.replace(order, source=plan["copy"]))
            for (job, order), plan in zip(orders, plans, strict=True)
        ]

        async def start() -> ActiveRun:
            return await self._supervisor.groups.restore(chosen.group, orders, chosen.id)

        async with contextlib.aclosing(self._followed(start)) as replies:
            async for reply in replies:
                yield reply

    async def _group(self, name: str) -> tuple[GroupManifest, list[MemberState]]:
        """Return what is meant by an id, or by a group's name: its newest that is whole. Raises NotFoundError."""
        layout = self._supervisor.layout
        if group_of(name):
            return await self._supervisor.db(lambda catalog: find_group(catalog, layout, name))
        self._supervisor.groups.named(name)
        found = await self._supervisor.db(
            lambda catalog: list(groups_there(catalog, layout, name, all_at_once(catalog)))
        )
        for manifest, states in found:
            if manifest.whole and state_of(states) == "whole":
                return manifest, states
        hint = "what there is: backupctl list" if found else "make one: backupctl run"
        raise NotFoundError(f"group {name} has no backup that is whole", hint=f"{hint} {name}")

    async def _restore_order(self, call: Call) -> tuple[JobSpec, RestoreOrder, list[str]]:
        """Work out which job, backup and moment are meant, and what is to be said of that.

        Raises NotFoundError, RefusedError.
        """
        name, at = call.params["backup"], call.params.get("at") or ""
        if name in self._supervisor.specs:
            raise RefusedError(f"{name} is a group", hint=f"its newest: backupctl restore {name} latest")
        order = RestoreOrder(
            backup="",
            to_database=call.params.get("to_database") or "",
            collection=call.params.get("collection") or "",
            source=call.params.get("source") or "",
            safety=call.params.get("safety") is not False,
            swap=bool(call.params.get("swap")),
            only=tuple(call.params.get("only") or ()),
            overwrite=bool(call.params.get("overwrite")),
            options=call.params.get("options") or {},
        )
        if at and name == LATEST:
            job = self._named(call.params.get("job") or self._only_job())
            moment, remarks = await self._moment(job, at)
            return job, msgspec.structs.replace(order, at=str(moment)), remarks
        backup = await self._supervisor.db(lambda catalog: find(catalog, name))
        job = self._restoring(backup)
        if backup.kind in SLICES:
            # A slice stands for the moment of its end, unless another one is asked for.
            order = msgspec.structs.replace(order, at=backup.end)
        else:
            order = msgspec.structs.replace(order, backup=backup.id)
        if not at:
            return job, order, []
        moment, remarks = await self._moment(job, at)
        return job, msgspec.structs.replace(order, at=str(moment)), remarks

    async def _moment(self, job: JobSpec, text: str) -> tuple[OpTime, list[str]]:
        """Return the oplog time that is meant, and remarks; the changes up to now are captured first where that helps.

        Raises RefusedError (``bad-time``), NotFoundError (``no-such-moment``).
        """
        wanted = parse_moment(text)
        now = self._clock.now()
        if wanted is not None and wanted.moment > now:
            raise RefusedError(
                f"{wanted.moment:%Y-%m-%d %H:%M:%S} UTC is in the future (it is {now:%Y-%m-%d %H:%M:%S} UTC)",
                hint="check the date and the zone of the time",
                code="bad-time",
            )
        there = await self._supervisor.db(lambda catalog: known(catalog, job.name))
        found, fault = there.ranges, None
        if wanted is None or not found or wanted.seconds >= found[-1].last.seconds:
            fault = await self._capture(job)
            there = await self._supervisor.db(lambda catalog: known(catalog, job.name))
        moment = within(there.ranges, wanted)
        if moment is None:
            raise _told_why(no_such_moment(there, wanted, job.name), fault if there.ranges else None)
        if fault is not None:
            return moment, [f"the changes up to now could not be captured: {fault.message}"]
        return moment, []

    async def _capture(self, job: JobSpec) -> ErrorInfo | None:
        """Save what the oplog holds by now, so that it can be restored; returns what kept it from that.

        Where that fails, what is there has to do.
        """
        await self._slices_at_rest(job.name, by_hand=True)
        try:
            active = await self._supervisor.start_run(job.name, Trigger.SCHEDULE, action="slice", force=True)
        except BackupdError as error:
            return error_info(error)
        await active.ended.wait()
        return active.run.error

    async def _slices_at_rest(self, job: str, *, by_hand: bool = False) -> None:
        """Wait for the end of a slice that the schedule takes, or also somebody: it began too early for who asks now.

        When this returns none is running, until something else is awaited.
        """
        while (active := self._supervisor.active.get(lane(job, "slice"))) is not None and (by_hand or active.quiet):
            await active.ended.wait()

    async def _followed(self, start: Callable[[], Awaitable[ActiveRun]]) -> AsyncGenerator[dict[str, Any], None]:
        """Start a run and yield its events until it ends."""
        events = self._supervisor.events.watch()
        first = asyncio.ensure_future(anext(events))
        try:
            # The watcher must be there before the run, or its first events are lost.
            await asyncio.sleep(0)
            active = await start()
            yield {"run": to_builtins(active.run)}
            event = await first
            while True:
                member = active.member(event["run_id"])
                if member is not None and (member or event["kind"] != "run-started"):
                    told = {**event, "member": member} if member else event
                    yield {"run": to_builtins(active.run), "event": _public(told)}
                    if event["kind"] == "run-ended" and not member:
                        return
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    raise BackupdError(
                        "the daemon stopped following this run", hint="see: backupctl runs", code="watch-ended"
                    ) from None
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]

    async def cancel(self, call: Call) -> dict[str, Any]:
        """Answer Cancel."""
        active = await self._supervisor.cancel(call.params.get("run"), f"uid {call.peer.uid}")
        return {"run": to_builtins(active.run)}

    async def watch(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Watch: events as they happen."""
        async for event in self._supervisor.events.watch(call.params.get("run")):
            yield {"event": _public(event)}

    async def list_files(self, call: Call) -> dict[str, Any]:
        """Answer ListFiles: a worker reads the archives."""
        await self._supervisor.refresh()
        name, path = call.params["backup"], call.params.get("path")
        backup = await self._supervisor.db(lambda catalog: self._with_files(catalog, name))
        order = RestoreOrder(
            backup="" if backup.kind in SLICES else backup.id,
            at=backup.end if backup.kind in SLICES else "",
            only=(path,) if path else (),
            options={
                "skip": str(limited(call.params.get("skip"), 0, 1_000_000_000, "skip")),
                "recursive": "yes" if call.params.get("recursive") else "",
            },
        )
        (found,) = await self._ask(self._restoring(backup), "ls", "listing", order)
        return dict(found)

    def _with_files(self, catalog: Catalog, name: str) -> Backup:
        """Return a backup of file trees, ``latest``: the newest full of any; raises NotFoundError, RefusedError."""
        if name == LATEST:
            jobs = [job.name for job in self._supervisor.jobs.values() if isinstance(job.source, FilesSource)]
            fulls = [backup for job in jobs for backup in catalog.backups(job, kinds={Kind.FULL}) if present(backup)]
            if not fulls:
                raise NotFoundError("there is no backup of files", hint="see: backupctl list")
            return max(fulls, key=lambda backup: backup.created)
        backup = find(catalog, name)
        if (kind := backup.manifest.source.type if backup.manifest is not None else "mongodb") != "files":
            raise no_files(backup.id, kind)
        return backup

    async def _foresee(self, job: JobSpec, order: RestoreOrder) -> dict[str, Any]:
        """Let a worker work the plan out: it asks the server, and drivers are not for this process."""
        plans = await self._ask(job, "restore-plan", "plan", order)
        if not plans:
            raise InternalError("the helper process made no plan", hint="journalctl -u nanumpay-backupd -n 100")
        return dict(plans[0])

    def _restoring(self, backup: Backup) -> JobSpec:
        """Return the job whose server a backup goes back to; that of a safety backup is the job it was made for."""
        for name in (backup.job, backup.job.removesuffix(SAFETY_SUFFIX)):
            if name in self._supervisor.jobs:
                return self._supervisor.jobs[name]
        raise NotFoundError(
            f"job {backup.job} of {backup.id} is not configured (any more), so its server is not known",
            hint="configure it again, or restore by hand: backupctl show shows the commands",
        )


def _told_why(error: BackupdError, fault: ErrorInfo | None) -> BackupdError:
    """Add to what cannot be restored why the changes up to now could not be captured."""
    if fault is not None:
        error.message += f"; they could not be captured up to now: {fault.message}"
    return error


def _kind_of(params: Mapping[str, Any]) -> SourceKind | None:
    """Return what the source must hold, None: anything; raises RefusedError."""
    if params.get("holds") is None:
        return None
    try:
        return SourceKind(params["holds"])
    except ValueError:
        hint = f"kinds: {', '.join(SourceKind)}"
        raise RefusedError(f"{params['holds']!r} is no kind of source", hint=hint) from None


def _members(
    manifest: GroupManifest, states: list[MemberState], kind: SourceKind | None, *, partial: bool
) -> list[MemberState]:
    """Return what of a group is to be restored. Raises RefusedError where that is not all that was asked for."""
    meant = [state for state in states if kind is None or state.member.holds == kind.value]
    usable = [state for state in meant if state.state in {"good", "unproven"}]
    lost = [state for state in meant if state not in usable]
    if not usable:
        raise NotFoundError(
            f"nothing that was asked for of group {manifest.id} can be restored",
            hint=f"what became of its backups: backupctl show {manifest.id}",
        )
    if lost and not partial:
        why = ", ".join(f"{state.member.job} ({_LOST[state.state]})" for state in lost)
        raise RefusedError(
            f"group {manifest.id} cannot be restored as a whole: {why}",
            hint="what there is of it: add --partial; or one by itself: backupctl restore "
            + " | ".join(str(state.member.backup) for state in usable),
            code="group-partial",
        )
    return usable


def _member_order(state: MemberState, params: Mapping[str, Any]) -> RestoreOrder:
    source = params.get("source") or ""
    if source and source not in state.copies:
        raise NotFoundError(
            f"{state.member.backup} has no copy at {source!r}", hint=f"it is at: {', '.join(state.copies)}"
        )
    return RestoreOrder(
        backup=state.member.backup or "",
        source=source,
        safety=params.get("safety") is not False,
        overwrite=bool(params.get("overwrite")),
    )


def _collection(params: Mapping[str, Any]) -> CollectionOrder | None:
    """Return which collection a caller of Run asked for; raises RefusedError when that makes no sense."""
    name, form = params.get("collection"), params.get("format")
    if name is None and form is None:
        return None
    if not name:
        raise RefusedError("format is for a snapshot of one collection", hint="name a collection, or leave it out")
    if params.get("kind") not in (None, Kind.FULL.value):
        raise RefusedError("a collection is backed up as a whole", hint="leave out --kind")
    if form not in (None, *_FORMATS):
        raise RefusedError(f"there is no format {form!r}", hint=f"the formats are: {', '.join(_FORMATS)}")
    return CollectionOrder(collection=name, format=form or _FORMATS[0])


def _public(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "run_id" and value is not None}
