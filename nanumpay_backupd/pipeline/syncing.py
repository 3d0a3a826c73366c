"""What a place lacks: everything that retention would keep there and that is not, queued. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Backup, BackupState
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outlook import look, worth_having
from nanumpay_backupd.pipeline.upload import can_be_made, is_there, queued_copy, stored_as
from nanumpay_backupd.settings.schema import JobSpec

__all__ = ["Lacking", "queue_missing"]


class Lacking(msgspec.Struct, frozen=True):
    """What one place lacks of a job: what was ``queued``, and its bytes; what is ``waiting`` in the queue already.

    ``lost`` is what should be there, and of which no file is left that could be sent.
    """

    job: str
    destination: str
    queued: tuple[str, ...]
    size: int
    waiting: int
    lost: tuple[str, ...]


def queue_missing(
    catalog: Catalog, layout: Layout, job: JobSpec, places: Iterable[str], now: datetime
) -> list[Lacking]:
    """Queue for each place what it lacks of a job, oldest first, so that each chain grows from its beginning.

    A copy that is missing or corrupt there is made again. What was made for other places only is not sent, nor what is
    not verified.
    """
    backups = {backup.id: backup for backup in catalog.backups(job.name)}
    seen = look(catalog, job.name)
    found: list[Lacking] = []
    with Keyring(job.encryption) as keys:
        for place in places:
            meant = {name for name, backup in backups.items() if _is_meant(backup, place)}
            wanted = worth_having(job, seen, place, now, meant)
            absent = [backups[name] for name in wanted if not _is_at(backups[name], place)]
            found.append(_queue(catalog, layout, job, place, absent, now, keys=keys))
    return found


def _is_meant(backup: Backup, place: str) -> bool:
    """Tell whether a backup belongs to a place at all."""
    return backup.state is BackupState.VERIFIED and (backup.only_to is None or place in backup.only_to)


def _is_at(backup: Backup, place: str) -> bool:
    """Tell whether nothing is to be done, as the copy is there."""
    return any(is_there(copy) and copy.next_attempt is None for copy in backup.copies if copy.destination == place)


def _queue(
    catalog: Catalog,
    layout: Layout,
    job: JobSpec,
    place: str,
    absent: Collection[Backup],
    now: datetime,
    *,
    keys: Keyring,
) -> Lacking:
    destination = next(item for item in job.destinations if item.name == place)
    queued: list[str] = []
    lost: list[str] = []
    size = waiting = 0
    with catalog.together():
        for at, summary in enumerate(absent):
            if any(copy.destination == place and copy.next_attempt is not None for copy in summary.copies):
                waiting += 1
                continue
            # Only now: thousands of manifests take memory.
            backup = catalog.backup(summary.id)
            if backup is None or backup.manifest is None or not can_be_made(backup, layout, keys, job, destination):
                lost.append(summary.id)
                continue
            key, length = stored_as(backup, job, keys, destination)
            # They are tried in the order in which they became due.
            due = now - timedelta(microseconds=len(absent) - at)
            catalog.save_copy(queued_copy(backup.id, place, key, length, due))
            queued.append(backup.id)
            size += length
    return Lacking(job.name, place, tuple(queued), size, waiting, tuple(lost))
