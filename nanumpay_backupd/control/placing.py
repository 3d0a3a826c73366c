"""The methods about where copies are: what a place lacks, the copies of one backup, further ones, moves."""

from __future__ import annotations

from typing import Any

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.desk import Desk, find
from nanumpay_backupd.control.server import Call
from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import LOCAL, Copy, CopyState, Manifest, Proof, to_builtins
from nanumpay_backupd.pipeline.syncing import Lacking, queue_missing
from nanumpay_backupd.settings.natures import standing_of
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["Placing"]


class Placing(Desk):
    """The handlers about places."""

    async def sync(self, call: Call) -> dict[str, Any]:
        """Answer Sync: queue what places lack of what retention would keep there."""
        name, place = call.params.get("job"), call.params.get("destination")
        await self._supervisor.refresh()
        jobs = [self._named(name)] if name else list(self._supervisor.jobs.values())
        chosen = [(job, _places(job, place)) for job in jobs]
        if not any(places for _, places in chosen):
            known = sorted({item.name for job in jobs for item in job.destinations})
            raise NotFoundError(
                f"no job has a destination {place!r}" if place else "no job has a destination but the backups folder",
                hint=f"the destinations are: {', '.join(known) or 'none yet'}",
            )
        layout, now = self._supervisor.layout, self._clock.now()

        def work(catalog: Catalog) -> list[Lacking]:
            return [one for job, places in chosen for one in queue_missing(catalog, layout, job, places, now)]

        found = await self._supervisor.db(work)
        self._supervisor.wake()
        return {"places": to_builtins(found)}

    async def list_copies(self, call: Call) -> dict[str, Any]:
        """Answer ListCopies: where a backup is, and what is known of each copy."""
        name = call.params["backup"]
        backup = await self._supervisor.db(lambda catalog: find(catalog, name))
        job = self._supervisor.jobs.get(backup.job)
        copies = [_shown(copy, backup.manifest, job) for copy in backup.copies]
        return {"backup": backup.id, "copies": sorted(copies, key=lambda copy: str(copy["destination"]) != LOCAL)}


def _places(job: JobSpec, place: str | None) -> list[str]:
    if place == LOCAL:
        raise RefusedError(
            "backups are made in the backups folder, and nothing is sent there",
            hint="the destinations of a job are in: backupctl jobs",
        )
    return [item.name for item in job.destinations if place in (None, item.name)]


def _shown(copy: Copy, manifest: Manifest | None, job: JobSpec | None) -> dict[str, Any]:
    """Describe one copy as the interface's type CopyState."""
    destination = None
    if job is not None:
        destination = next((item for item in job.destinations if item.name == copy.destination), None)
    known = copy.destination == LOCAL or destination is not None
    standing = standing_of(destination) if known else None
    artifact = manifest.at(copy.key).artifact if manifest is not None else None
    seal = artifact.seal if artifact is not None else None
    return {
        "destination": copy.destination,
        "type": "folder" if copy.destination == LOCAL else _type(destination),
        "state": copy.state.value,
        "key": copy.key,
        "size": copy.size,
        **_proof(copy, manifest),
        "media": standing.media if standing is not None else "",
        "offsite": standing.offsite if standing is not None else None,
        "encryption": artifact.encryption if artifact is not None else "",
        "recipients": list(seal.recipients) if seal is not None else [],
        "next_attempt": to_builtins(copy.next_attempt),
        "error": to_builtins(copy.error),
        "lock": to_builtins(copy.lock),
    }


def _type(destination: Any) -> str:
    return str(destination.__struct_config__.tag) if destination is not None else ""


def _proof(copy: Copy, manifest: Manifest | None) -> dict[str, Any]:
    """Say how and when a copy was last found to be what it should be; none: it was not, or is not there."""
    if copy.state not in (CopyState.UPLOADED, CopyState.VERIFIED):
        return {"proof": "none", "proven": None}
    if copy.destination == LOCAL and manifest is not None:
        good = [one for one in manifest.verification if one.ok]
        return {"proof": good[-1].level if good else "none", "proven": to_builtins(good[-1].at) if good else None}
    proof = copy.proof or (Proof.CHECKSUM if copy.state is CopyState.VERIFIED else Proof.SIZE)
    return {"proof": proof.value, "proven": to_builtins(copy.updated)}
