"""Which backup and which moment a wish means, among what was found at a place. Decides; reads no artifact."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError, RefusedError, UsageError
from nanumpay_backupd.model import FULLS, SLICES, Backup, BackupState, CopyState, Kind, OpTime
from nanumpay_backupd.pipeline.chains import known, no_such_moment, parse_moment, within
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX, backup_id, is_slice, parse_artifact
from nanumpay_backupd.pipeline.rebuild import Survey
from nanumpay_backupd.settings.schema import RestoreOrder

__all__ = ["Choice", "Wish", "job_of"]

_LATEST: Final = "latest"
_SHOWN: Final = 5


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line; empty: not said.

    Of a group, ``holds`` (database or files) leaves only such members; ``partial``: what there is of it.
    """

    place: str
    backup: str = _LATEST
    at: str = ""
    job: str = ""
    to_database: str = ""
    collection: str = ""
    only: tuple[str, ...] = ()
    overwrite: bool = False
    holds: str = ""
    partial: bool = False
    work: str = ""
    list_only: bool = False
    dry_run: bool = False
    yes: bool = False
    safety: bool = True
    identities: tuple[str, ...] = ()
    passphrase_file: str = ""


class Choice:
    """A wish, and what there is: the catalog made of a place, and what of it could not be recorded (``survey``).

    ``place`` is what the place is called, ``look`` the command that shows what is there.
    """

    def __init__(self, wish: Wish, catalog: Catalog, survey: Survey, place: str, look: str) -> None:
        self._wish = wish
        self._catalog = catalog
        self._survey = survey
        self._place = place
        self._look = look

    @property
    def jobs(self) -> list[str]:
        """Return the jobs of which there are backups; safety backups belong to the job for which they were made."""
        lost = (parsed[1] for key in self._survey.unreadable if (parsed := parse_artifact(key)))
        return sorted({job_of(item) for item in self._catalog.backups()} | {_plain(job) for job in lost})

    def listed(self) -> list[str]:
        """Return the jobs that are to be listed: the one that was asked for, or all. Raises NotFoundError."""
        if self._wish.job and self._wish.job not in self.jobs:
            raise self._no_job()
        return [self._wish.job] if self._wish.job else self.jobs

    def order(self, now: datetime) -> tuple[str, RestoreOrder]:
        """Return the job, and which of its backups and moments is meant. Raises NotFoundError, RefusedError."""
        wish = self._wish
        named = None if wish.backup == _LATEST else self._named(wish.backup)
        job = named.job if named is not None else self._job()
        if wish.job not in ("", _plain(job)):
            raise UsageError(f"{wish.backup} is not of job {wish.job}, but of {job}", hint="leave out --job")
        base = named if named is not None and named.kind not in SLICES else None
        moment = OpTime.parse(named.end) if named is not None and named.kind in SLICES else None
        if wish.at:
            moment = self._moment(job, now)
        if moment is None and base is None:
            base = self._newest(job)
        return job, RestoreOrder(
            backup=base.id if base is not None else "",
            at=str(moment) if moment is not None else "",
            to_database=wish.to_database,
            collection=wish.collection,
            safety=wish.safety,
            only=wish.only,
            overwrite=wish.overwrite,
        )

    def passed_over(self, chosen: str) -> list[str]:
        """Name the archives without a manifest that are newer than the backup that was ``chosen`` as the newest."""
        backup = self._catalog.backup(chosen)
        if backup is None or self._wish.backup != _LATEST or self._wish.at:
            return []
        archives = self._catalog.backups(backup.job, kinds=(Kind.LEGACY,))
        why = "no manifest is beside it: it is of the old program, or its upload was cut off"
        return [f"{item.artifact}: {why}" for item in archives if item.created > backup.created][:_SHOWN]

    def _moment(self, job: str, now: datetime) -> OpTime:
        """Return the oplog time that is meant. Raises RefusedError (``bad-time``), NotFoundError (no such moment)."""
        wanted = parse_moment(self._wish.at)
        if wanted is not None and wanted.moment > now:
            raise RefusedError(
                f"{wanted.moment:%Y-%m-%d %H:%M:%S} UTC is in the future (it is {now:%Y-%m-%d %H:%M:%S} UTC)",
                hint="check the date and the zone of the time",
                code="bad-time",
            )
        there = known(self._catalog, job)
        moment = within(there.ranges, wanted)
        if moment is None:
            error = no_such_moment(there, wanted, job)
            lost = sorted(name for name in (*self._survey.unreadable, *self._survey.alone) if is_slice(name))
            if lost:
                error.message += f"; slices whose manifests are damaged or missing: {', '.join(lost[:_SHOWN])}"
            raise error
        return moment

    def _job(self) -> str:
        """Return the job that was named, or the only one."""
        jobs = self.listed()
        if len(jobs) > 1:
            raise RefusedError(
                f"there are backups of {len(jobs)} jobs at {self._place}", hint=f"name one: --job {' or '.join(jobs)}"
            )
        return jobs[0] if jobs else ""

    def _no_job(self) -> NotFoundError:
        names = ", ".join(self.jobs) or "none"
        return NotFoundError(f"there is no backup of job {self._wish.job!r}", hint=f"the jobs are: {names}")

    def _named(self, name: str) -> Backup:
        for backup in self._catalog.backups():
            if name in (backup.id, backup.artifact):
                return backup
        for key in self._survey.unreadable:
            parsed = parse_artifact(key)
            if parsed is not None and name in (key, parsed[0]):
                raise self._unreadable(key, parsed[1], parsed[2])
        raise NotFoundError(f"there is no backup {name!r} at {self._place}", hint=f"see: {self._look}")

    def _unreadable(self, key: str, job: str, created: datetime) -> RefusedError:
        """Refuse what no readable manifest proves, and name what else is good."""
        older = (item for item in self._catalog.backups(job, kinds=(Kind.FULL,)) if item.created < created)
        good = next((item.id for item in older if _usable(item)), "")
        return RefusedError(
            f"{key} cannot be restored: the manifest beside it is damaged, or that of another backup",
            hint=f"take the next older good backup: backupctl restore {good}" if good else f"see: {self._look}",
            code="copy-unusable",
        )

    def _newest(self, job: str) -> Backup:
        """Return the newest full, whatever is known of it: an older one is not taken by itself."""
        newest = next(iter(self._catalog.backups(job, limit=1, kinds=(Kind.FULL,))), None)
        for key in self._survey.unreadable:
            parsed = parse_artifact(key)
            is_full = parsed is not None and backup_id(job, parsed[2]) == parsed[0]
            if parsed is not None and is_full and (newest is None or newest.created < parsed[2]):
                raise self._unreadable(key, job, parsed[2])
        if newest is not None:
            return newest
        archives = self._catalog.backups(job, limit=1, kinds=FULLS)
        raise NotFoundError(
            f"there is no full backup with a manifest of job {job!r} at {self._place}",
            hint=f"name an archive: backupctl restore {archives[0].id}" if archives else f"see: {self._look}",
        )


def job_of(backup: Backup) -> str:
    """Return the job that a backup belongs to: a safety backup to the one for which it was made."""
    return _plain(backup.job)


def _plain(job: str) -> str:
    return job.removesuffix(SAFETY_SUFFIX)


def _usable(backup: Backup) -> bool:
    present = any(copy.state in (CopyState.UPLOADED, CopyState.VERIFIED) for copy in backup.copies)
    return present and backup.state is BackupState.VERIFIED
