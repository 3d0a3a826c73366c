"""The methods that change or test what there is: delete, swaps, reload, rebuild, doctor. They start no runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from nanumpay_backupd.control.desk import Desk, find, log, note_deleted, present
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError
from nanumpay_backupd.fleet.standing import faults_of
from nanumpay_backupd.model import FULLS, Backup, BackupState, error_info, to_builtins
from nanumpay_backupd.pipeline.healing import is_owed, settle
from nanumpay_backupd.pipeline.outlook import PruneLine
from nanumpay_backupd.pipeline.rebuild import rebuild_local
from nanumpay_backupd.pipeline.upload import queue_copies
from nanumpay_backupd.settings.schema import JobSpec, MongoSource
from nanumpay_backupd.settings.selection import only_places

__all__ = ["Changing"]

_PATIENCE: Final = 10.0
"""Seconds that the first connection to MongoDB may take (its own limit, 5 s, and a second try)."""
_PAUSE: Final = 0.1
_LOOK: Final = 15.0
"""Seconds until it is looked again whether the catalog was lost."""
_RELEARN: Final = (2.0, 600.0)
"""Seconds between two tries to learn copies after a lost catalog, at first and at most: a place may be away."""


class Changing(Desk):
    """The handlers that change or test."""

    async def delete(self, call: Call) -> dict[str, Any]:
        """Answer Delete: one backup, at one place or at all of them."""
        self._admin(call, "delete backups")
        name, place = call.params["backup"], call.params.get("destination")
        backup = await self._supervisor.db(lambda catalog: find(catalog, name))
        places = [copy.destination for copy in backup.copies if place in (None, copy.destination)]
        if not places:
            raise NotFoundError(
                f"{backup.id} has no copy at {place!r}", hint=f"see where it is: backupctl show {backup.id}"
            )
        if not call.params.get("force"):
            _refuse_pinned(backup)
            await self._protect(backup)
        job = self._job_of(backup)
        lines = await self._change(job, f"delete:{backup.id}" + (f"@{place}" if place else ""))
        note_deleted(call, job, msgspec.convert(lines, list[PruneLine]))
        return {"deleted": lines}

    async def send(self, call: Call) -> dict[str, Any]:
        """Answer Send: queue a backup for the destinations that do not have it, or for one."""
        name, place = call.params["backup"], call.params.get("destination")
        await self._supervisor.refresh()
        backup = await self._supervisor.db(lambda catalog: find(catalog, name))
        job = self._named(backup.job)
        wanted = [place] if place is not None else [destination.name for destination in job.destinations]
        chosen = only_places(job, wanted)
        places = [item.name for item in job.destinations] if chosen is None else list(chosen)
        if not places:
            raise RefusedError(
                f"job {job.name} has no destination but the backups folder"
                if not job.destinations
                else f"{backup.id} is made in the backups folder",
                hint="the destinations of a job are in: backupctl jobs",
            )
        layout, now = self._supervisor.layout, self._clock.now()
        queued = await self._supervisor.db(lambda catalog: queue_copies(catalog, layout, job, backup.id, places, now))
        self._supervisor.wake()
        return {"backup": backup.id, "queued": queued}

    async def list_swaps(self, call: Call) -> dict[str, Any]:
        """Answer ListSwaps: what restores kept at the servers of all jobs, or of one."""
        name = call.params.get("job")
        swaps, faults = await self._swaps([self._named(name)] if name else list(self._supervisor.jobs.values()))
        return {"swaps": [swap for swap, _ in swaps], "problems": [to_builtins(error_info(fault)) for fault in faults]}

    async def undo_swap(self, call: Call) -> dict[str, Any]:
        """Answer UndoSwap: the other side becomes live."""
        self._admin(call, "undo a restore")
        return await self._change_swap(call, "redo" if call.params.get("redo") else "undo")

    async def drop_swap(self, call: Call) -> dict[str, Any]:
        """Answer DropSwap: what is kept is deleted."""
        self._admin(call, "delete what a restore kept")
        return await self._change_swap(call, "drop")

    async def _change_swap(self, call: Call, verb: str) -> dict[str, Any]:
        stamp = call.params["swap"]
        swaps, faults = await self._swaps(list(self._supervisor.jobs.values()))
        job = next((job for swap, job in swaps if swap["stamp"] == stamp), None)
        if job is None:
            raise faults[0] if faults else NotFoundError(f"there is no swap {stamp!r}", hint="see: backupctl swaps")
        changed = await self._change(job, f"swap:{verb}:{stamp}")
        return {"swap": {**changed[0], "job": job.name}}

    async def _swaps(self, jobs: list[JobSpec]) -> tuple[list[tuple[dict[str, Any], JobSpec]], list[BackupdError]]:
        """List the swaps at the servers of ``jobs``, each with its job, and the faults of servers that did not answer.

        Several jobs may be of one server: that of a swap is the one whose database it is about.
        """
        found: dict[tuple[str, str, str], tuple[dict[str, Any], JobSpec]] = {}
        faults: list[BackupdError] = []
        asked: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            if not isinstance(job.source, MongoSource):
                continue
            uri = job.source.uri.reveal()
            try:
                asked[uri] = asked[uri] if uri in asked else await self._change(job, "swap:list")
            except BackupdError as error:
                asked[uri] = []
                faults.append(error)
            for swap in asked[uri]:
                key = (swap["server"], swap["database"], swap["stamp"])
                if key not in found or job.source.database == swap["database"]:
                    found[key] = ({**swap, "job": job.name}, job)
        return list(found.values()), faults

    async def reload(self, call: Call) -> dict[str, Any]:
        """Answer Reload."""
        self._admin(call, "reload the configuration")
        return {"message": await self._daemon.reload()}

    async def rebuild_catalog(self, call: Call) -> dict[str, Any]:
        """Answer RebuildCatalog."""
        self._admin(call, "rebuild the catalog")
        # A slice does no harm: what it commits is read anew with all the rest, or recorded after that.
        if not all(active.quiet for active in self._supervisor.active.values()):
            raise RefusedError("a run is in progress", hint="wait for it: backupctl status", retryable=True)
        now, layout = self._clock.now(), self._supervisor.layout
        await self._supervisor.db(lambda catalog: rebuild_local(catalog, layout, now))
        for job in self._supervisor.jobs.values():
            await self._change(job, "adopt")
        self._supervisor.mended = ""
        await asyncio.to_thread(settle, self._supervisor.paths.state)
        backups = await self._supervisor.db(lambda catalog: len(catalog.backups()))
        runs = await self._supervisor.db(lambda catalog: len(catalog.runs(limit=1_000_000)))
        return {"backups": backups, "runs": runs}

    async def learn_lost(self) -> None:
        """Whenever the catalog was lost: record which copies the destinations hold, until all have answered."""
        while True:
            if await asyncio.to_thread(is_owed, self._supervisor.paths.state):
                await self._learn()
            await asyncio.sleep(_LOOK)

    async def _learn(self) -> None:
        """Ask the destinations of one job after the other; a place may be away for long, so again and again."""
        state = self._supervisor.paths.state
        learnt: set[str] = set()
        pause = _RELEARN[0]
        while await asyncio.to_thread(is_owed, state):
            await asyncio.sleep(pause)
            jobs = dict(self._supervisor.jobs)
            for name in jobs.keys() - learnt:
                try:
                    await self._change(jobs[name], "adopt")
                    learnt.add(name)
                except BackupdError as error:
                    log.info("copies are not learnt yet", job=name, code=error.code, reason=error.message)
            # What is not configured any more has nobody to ask; before there are any jobs nothing is known.
            if jobs and jobs.keys() <= learnt:
                await asyncio.to_thread(settle, state)
                log.info("the copies at the destinations are known again")
            pause = min(2 * pause, _RELEARN[1])

    async def doctor(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Answer Doctor: every job's checks, each in a process of its own; with ``more`` as they come."""
        found = await self._own_checks()
        for job in list(self._supervisor.jobs.values()):
            async with contextlib.aclosing(self._helper(job, "doctor")) as events:
                async for event in events:
                    if event.get("kind") == "fault":
                        raise self._told(event["fault"])
                    if event.get("kind") == "check":
                        found.append(event["check"])
                        if call.more:
                            yield {"checks": _distinct(found)}
        yield {"checks": _distinct(found)}

    async def test_destination(self, call: Call) -> dict[str, Any]:
        """Answer TestDestination."""
        name = call.params["destination"]
        wanted = call.params.get("job")
        for job in self._supervisor.jobs.values():
            if wanted in (None, job.name) and any(item.name == name for item in job.destinations):
                return {"checks": await self._checks(job, f"doctor:{name}")}
        known = sorted({item.name for job in self._supervisor.jobs.values() for item in job.destinations})
        raise NotFoundError(
            f"no job has a destination {name!r}", hint=f"the destinations are: {', '.join(known) or 'none yet'}"
        )

    async def _own_checks(self) -> list[dict[str, Any]]:
        state = await self._connected()
        problem = state.get("problem")
        if problem:
            return [_check("settings", "failed", problem["message"], problem["hint"])]
        how = {
            "change-stream": "watched by a change stream: saved settings are in force at once",
            "polling": "polled: a standalone server has no change streams (docs/install.md: one-node replica set)",
            "off": "the application's settings are switched off in backupd.toml",
        }.get(state["mode"], "MongoDB has not been reached yet")
        good = state["connected"] or state["mode"] == "off"
        found = [_check("settings", "ok" if good else "failed", how, "" if good else "is mongod running?")]
        return found + await self._fleet_checks()

    async def _fleet_checks(self) -> list[dict[str, Any]]:
        """Check the fleet, where there is one: rights and reach by a write, the others by what they said last."""
        keeper = self._supervisor.fleet
        if keeper is None:
            return []
        try:
            await keeper.try_out()
        except BackupdError as error:
            return [_check("fleet", "failed", error.message, error.hint)]
        faults = faults_of(keeper.standing())
        if not faults:
            holder = keeper.holder or "nobody just now"
            many = len(keeper.hosts)
            return [_check("fleet", "ok", f"{many} {'host' if many == 1 else 'hosts'}, {holder} holds the lease", "")]
        return [_check("fleet", "warning", fault.text, fault.hint) for fault in faults]

    async def _connected(self) -> dict[str, Any]:
        """Return how the settings are watched; just after a start, once it is known whether MongoDB answers."""
        for _ in range(int(_PATIENCE / _PAUSE)):
            state = self._daemon.settings_state()
            if state["connected"] or state["mode"] == "off" or state.get("problem"):
                break
            await asyncio.sleep(_PAUSE)
        return self._daemon.settings_state()

    async def _checks(self, job: JobSpec, action: str) -> list[dict[str, Any]]:
        return await self._ask(job, action, "check")

    def _job_of(self, backup: Backup) -> JobSpec:
        """Return the job of a backup; one that is no longer configured can still be deleted locally."""
        job = self._supervisor.jobs.get(backup.job)
        if job is not None:
            return job
        some = next(iter(self._supervisor.jobs.values()), None)
        if some is None:
            raise NotFoundError(f"job {backup.job} is not configured any more", hint="delete the file by hand")
        return msgspec.structs.replace(some, name=backup.job, destinations=())

    async def _protect(self, backup: Backup) -> None:
        """Refuse to delete the newest verified backup of a job."""
        backups = await self._supervisor.db(lambda catalog: catalog.backups(backup.job, kinds=FULLS))
        newest = next((item for item in backups if item.state is BackupState.VERIFIED and present(item)), None)
        if newest is not None and newest.id == backup.id:
            raise RefusedError(
                f"{backup.id} is the newest verified backup of job {backup.job}",
                hint="make a newer one first (backupctl run), or insist with --force",
                code="newest-verified",
            )


def _refuse_pinned(backup: Backup) -> None:
    if backup.pinned:
        raise RefusedError(
            f"{backup.id} is pinned: {backup.pinned}",
            hint=f"let it go first (backupctl unpin {backup.id}), or insist with --force",
            code="pinned",
        )


def _check(name: str, state: str, message: str, hint: str) -> dict[str, Any]:
    return {"name": name, "state": state, "message": message, "hint": hint}


def _distinct(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop findings that several jobs share (folder, clock): those of no job, also where a moment later differs."""
    return list({(check["name"], check["message"] if ":" in check["name"] else ""): check for check in checks}.values())
