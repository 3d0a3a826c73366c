"""Pure: which jobs and which destinations a command means: one kind of source, only some places. Starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import LOCAL
from nanumpay_backupd.settings.schema import GroupSpec, JobSpec, SourceKind

__all__ = ["bound_for", "jobs_of", "members_of", "must_hold", "only_places"]

_WORDS = {SourceKind.DATABASE: "a database", SourceKind.FILES: "files"}


def only_places(job: JobSpec, names: Iterable[str]) -> tuple[str, ...] | None:
    """Return the destinations that ``names`` leave of a job's, in its order; None: all of them.

    ``local`` is the backups folder, where a backup is in any case: alone it means that no copy goes anywhere. Raises
    NotFoundError for a name that the job does not have, RefusedError where no name is given.
    """
    wanted = set(names)
    known = [destination.name for destination in job.destinations]
    if not wanted:
        raise RefusedError("no destination is named", hint=f"the destinations are: {', '.join([LOCAL, *known])}")
    for name in sorted(wanted - {LOCAL, *known}):
        raise NotFoundError(
            f"job {job.name} has no destination {name!r}", hint=f"its destinations are: {', '.join([LOCAL, *known])}"
        )
    found = tuple(name for name in known if name in wanted)
    return None if len(found) == len(known) else found


def bound_for(job: JobSpec, places: tuple[str, ...] | None) -> JobSpec:
    """Return the job with none but these destinations; None: as it is."""
    if places is None:
        return job
    return msgspec.structs.replace(job, destinations=tuple(item for item in job.destinations if item.name in places))


def must_hold(job: JobSpec, kind: SourceKind) -> None:
    """Raise RefusedError when a job's source is not of that kind."""
    if job.source.holds is not kind:
        raise RefusedError(
            f"job {job.name} saves {_WORDS[job.source.holds]}, not {_WORDS[kind]}",
            hint=f"without that option: backupctl run {job.name}",
        )


def jobs_of(jobs: Mapping[str, JobSpec], kind: SourceKind, *, disabled: bool = False) -> list[JobSpec]:
    """Return the jobs whose source is of that kind, those that are disabled only if asked for.

    Raises NotFoundError when there are none.
    """
    found = [job for job in jobs.values() if job.source.holds is kind]
    able = [job for job in found if job.enabled or disabled]
    if able:
        return able
    if found:
        names = ", ".join(job.name for job in found)
        raise NotFoundError(f"every job that saves {_WORDS[kind]} is disabled", hint=f"name one, with --force: {names}")
    raise NotFoundError(f"there is no job that saves {_WORDS[kind]}", hint="the jobs are in: backupctl jobs")


def members_of(group: GroupSpec, jobs: Mapping[str, JobSpec], kind: SourceKind | None = None) -> list[JobSpec]:
    """Return the jobs of a group in its order, with ``kind`` those that save such; raises NotFoundError."""
    found = [jobs[name] for name in group.jobs if name in jobs and kind in (None, jobs[name].source.holds)]
    if not found:
        what = "no job" if kind is None else f"no job that saves {_WORDS[kind]}"
        raise NotFoundError(f"group {group.name} has {what}", hint=f"its jobs are: {', '.join(group.jobs)}")
    return found
