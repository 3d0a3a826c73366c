"""Makes the catalog anew from what exists: manifests in the backups folder and at the destinations.

For a catalog that was lost or damaged, and for a new machine. Nothing is deleted or moved anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, StoreError
from nanumpay_backupd.model import Backup, Copy, CopyState, Manifest, from_json
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, rebuild
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, parse_artifact
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.stores.base import Store

__all__ = ["adopt_place", "adopt_remote", "rebuild_local"]

_LARGEST_MANIFEST = 64 << 20


def rebuild_local(catalog: Catalog, layout: Layout, now: datetime) -> int:
    """Forget all backups and read them anew from the backups folder; returns how many there are.

    Queued uploads of backups that still exist stay queued.
    """
    queued = [copy for backup in catalog.backups() for copy in backup.copies if copy.state is CopyState.PENDING]
    with catalog.together():
        count = rebuild(catalog, layout, now)
        known = {backup.id for backup in catalog.backups()}
        for copy in queued:
            if copy.backup in known:
                catalog.save_copy(copy)
    return count


def adopt_remote(
    job: JobSpec, catalog: Catalog, now: datetime, open_store: Callable[[Destination], Store]
) -> tuple[int, list[BackupdError]]:
    """Record the copies of a job's backups that its destinations hold; returns how many, and the places' faults.

    Only objects with one of our manifests beside them count; everything else at a destination is foreign.
    """
    count = 0
    faults: list[BackupdError] = []
    for destination in job.destinations:
        try:
            with open_store(destination) as store:
                count += adopt_place(destination.name, store, catalog, now, job.name)
        except BackupdError as error:
            faults.append(error)
    return count, faults


def adopt_place(place: str, store: Store, catalog: Catalog, now: datetime, job: str = "") -> int:
    """Record the copies at one place, of one job or of all; returns how many. Raises StoreError."""
    sizes = {item.key: item.size for item in store.list()}
    count = 0
    for key, size in sizes.items():
        parsed = parse_artifact(key)
        if parsed is None or job not in ("", parsed[1]) or f"{key}{MANIFEST_SUFFIX}" not in sizes:
            continue
        backup = catalog.backup(parsed[0]) or _fetch(store, key)
        if backup is None or backup.artifact != key:
            continue
        copy = Copy(
            backup=backup.id,
            destination=place,
            state=CopyState.UPLOADED if size == backup.size else CopyState.CORRUPT,
            key=key,
            size=size,
            updated=now,
        )
        catalog.save_backup(msgspec.structs.replace(backup, copies=(*backup.copies, copy)))
        count += 1
    return count


def _fetch(store: Store, key: str) -> Backup | None:
    """Return the backup that the manifest beside an artifact describes; None when that is damaged or not its own."""
    manifest = fetch_manifest(store, key)
    return backup_from_manifest(manifest) if manifest is not None and manifest.artifact.name == key else None


def fetch_manifest(store: Store, key: str) -> Manifest | None:
    """Read the manifest beside an artifact at a destination; None when it is not there or not one."""
    data = bytearray()
    try:
        for piece in store.get(f"{key}{MANIFEST_SUFFIX}"):
            data += piece
            if len(data) > _LARGEST_MANIFEST:
                return None
        return from_json(Manifest, bytes(data))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    except StoreError as error:
        if error.code != "object-missing":
            raise
        return None
