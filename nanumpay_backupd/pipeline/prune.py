"""Applies retention's decisions at each place, and deletes single copies. Decides nothing itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, NotFoundError, StoreError
from nanumpay_backupd.model import LOCAL, SLICES, Backup, BackupState, Copy, CopyState, Kind, OpTime
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.retention import Candidate, Decision, SliceCandidate, decide, decide_slices
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.system.files import fsync_dir
from nanumpay_backupd.system.units import human_size

__all__ = ["PruneLine", "delete_backup", "delete_copy", "named", "plan", "prune"]

_PRESENT: Final = frozenset({CopyState.UPLOADED, CopyState.VERIFIED, CopyState.CORRUPT})
_NAMED: Final = 5
OpenStore = Callable[[Destination], Store]


class PruneLine(msgspec.Struct, frozen=True, gc=False):
    """What retention says of one copy; ``action`` is ``keep`` or ``delete``."""

    backup: str
    destination: str
    action: str
    reason: str
    size: int


def plan(job: JobSpec, backups: Iterable[Backup], now: datetime) -> list[PruneLine]:
    """Say for every present copy of a job's backups whether retention keeps or deletes it, place by place."""
    backups = list(backups)
    places = [LOCAL, *(destination.name for destination in job.destinations)]
    lines: list[PruneLine] = []
    for place in places:
        here = [
            (backup, copy)
            for backup in backups
            for copy in backup.copies
            if copy.destination == place and copy.state in _PRESENT
        ]
        sizes = {backup.id: copy.size for backup, copy in here}
        whole = [(backup, copy) for backup, copy in here if backup.kind not in SLICES]
        decisions = decide((_candidate(backup, copy) for backup, copy in whole), job.retention, now)
        slices = [_slice(backup) for backup, _ in here if backup.kind in SLICES]
        kept = {decision.backup for decision in decisions if decision.keep}
        decisions += decide_slices(slices, _oldest(whole, kept), job.retention, now)
        lines.extend(_line(decision, place, sizes) for decision in decisions)
    return lines


def _oldest(copies: Iterable[tuple[Backup, Copy]], kept: set[str]) -> OpTime | None:
    """Return the moment of the oldest full from which slices may still have to lead on."""
    moments = [
        OpTime.parse(backup.end)
        for backup, copy in copies
        if backup.kind is Kind.FULL and backup.end and backup.id in kept and _candidate(backup, copy).good
    ]
    return min(moments, default=None)


def _slice(backup: Backup) -> SliceCandidate:
    return SliceCandidate(backup.id, backup.created, OpTime.parse(backup.end), backup.pinned)


def prune(
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    now: datetime,
    open_store: OpenStore,
    kinds: Collection[Kind] = frozenset(Kind),
    *,
    on_deleted: Callable[[PruneLine], None] = lambda _: None,
) -> tuple[list[PruneLine], list[BackupdError]]:
    """Delete what `plan` says, at every place; returns the lines and the faults of places that could not be reached.

    ``on_deleted`` is called for each copy once it is gone.
    Backups of other ``kinds`` are left alone.
    A fault at one place does not stop the others; what was not deleted comes up again at the next run.
    """
    lines = plan(job, catalog.backups(job.name, kinds=kinds), now)
    destinations = {destination.name: destination for destination in job.destinations}
    faults: list[BackupdError] = []
    for place in dict.fromkeys(line.destination for line in lines):
        doomed = [line for line in lines if line.destination == place and line.action == "delete"]
        if not doomed:
            continue
        try:
            with contextlib.ExitStack() as stack:
                store = None if place == LOCAL else stack.enter_context(open_store(destinations[place]))
                for line in doomed:
                    delete_copy(catalog, layout, line.backup, place, store)
                    on_deleted(line)
        except BackupdError as error:
            faults.append(error)
    _forget_vanished(job, catalog, layout, now, kinds)
    return lines, faults


def named(gone: Sequence[PruneLine]) -> str:
    """Say what was deleted, as the rest of a sentence: ``2 copies (3.1 MB): ONE at local, OTHER at app``."""
    size = human_size(sum(line.size for line in gone))
    places = [f"{line.backup} at {line.destination}" for line in gone[:_NAMED]]
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    return f"{len(gone)} {'copy' if len(gone) == 1 else 'copies'} ({size}): {', '.join(places)}{more}"


def delete_backup(
    job: JobSpec, catalog: Catalog, layout: Layout, name: str, place: str | None, open_store: OpenStore
) -> list[PruneLine]:
    """Delete a backup at one place, or at all of them; remote copies go first, the local one last.

    Raises StoreError when a place refuses; copies deleted before that stay deleted.
    """
    backup = catalog.backup(name)
    if backup is None:
        raise NotFoundError(f"there is no backup {name!r}", hint="see: backupctl list")
    destinations = {destination.name: destination for destination in job.destinations}
    if place is not None and all(copy.destination != place for copy in backup.copies):
        raise NotFoundError(f"{name} has no copy at {place!r}", hint=f"see: backupctl show {name}")
    lines: list[PruneLine] = []
    for copy in sorted(backup.copies, key=lambda item: item.destination == LOCAL):
        if place not in (None, copy.destination):
            continue
        destination = destinations.get(copy.destination)
        if copy.destination != LOCAL and destination is None:
            raise NotFoundError(
                f"{name} has a copy at {copy.destination}, which is no longer configured",
                hint=f"delete it there by hand, then: backupctl delete {name} --from {LOCAL}",
            )
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(open_store(destination)) if destination is not None else None
            delete_copy(catalog, layout, name, copy.destination, store)
        lines.append(PruneLine(name, copy.destination, "delete", "asked for", copy.size))
    return lines


def delete_copy(catalog: Catalog, layout: Layout, backup_id: str, place: str, store: Store | None) -> int:
    """Delete one copy; returns its bytes.

    The catalog's record goes last, so that what a crash cut off is done again. In the backups folder the artifact goes
    before its manifest (an artifact alone would look like the old program's); at a destination the manifest goes first
    (a reader of the destination believes manifests).

    Raises StoreError or BackupdError when the place refuses; the record then stays.
    """
    backup = catalog.backup(backup_id)
    copy = next((item for item in backup.copies if item.destination == place), None) if backup is not None else None
    if backup is None or copy is None:
        return 0
    if store is None:
        _delete_local(layout, copy)
    else:
        store.delete(f"{copy.key}{MANIFEST_SUFFIX}")
        store.delete(copy.key)
    catalog.forget_copy(backup_id, place)
    if catalog.backup(backup_id) is None:
        _delete_manifest(layout, backup_id)
    return copy.size


def _delete_local(layout: Layout, copy: Copy) -> None:
    path = layout.artifact(copy.key)
    try:
        path.unlink(missing_ok=True)
        fsync_dir(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be deleted: {os.strerror(error.errno or 0)}",
            hint="check the folder's owner and rights",
            code="destination-denied",
        ) from None


def _delete_manifest(layout: Layout, backup: str) -> None:
    with contextlib.suppress(OSError):
        layout.manifest(backup).unlink(missing_ok=True)
        fsync_dir(layout.manifests)


def _forget_vanished(job: JobSpec, catalog: Catalog, layout: Layout, now: datetime, kinds: Collection[Kind]) -> None:
    """Drop the record of copies that somebody else deleted, once they would have been deleted anyway."""
    limit = now - timedelta(days=job.retention.days)
    for backup in catalog.backups(job.name, kinds=kinds):
        vanished = [copy for copy in backup.copies if copy.state is CopyState.MISSING]
        if not vanished or backup.created >= limit:
            continue
        for copy in vanished:
            catalog.forget_copy(backup.id, copy.destination)
        if len(vanished) == len(backup.copies):
            _delete_manifest(layout, backup.id)


def _candidate(backup: Backup, copy: Copy) -> Candidate:
    good = backup.state is BackupState.VERIFIED and copy.state in (CopyState.UPLOADED, CopyState.VERIFIED)
    return Candidate(
        backup=backup.id,
        created=backup.created,
        good=good,
        legacy=backup.kind is Kind.LEGACY,
        pinned=backup.pinned,
        # Before its manifest was read anew nobody knows of what a snapshot is: such ones make a group of their own.
        group=f"collection {backup.collection}" if backup.kind is Kind.COLLECTION else "",
    )


def _line(decision: Decision, place: str, sizes: dict[str, int]) -> PruneLine:
    return PruneLine(
        backup=decision.backup,
        destination=place,
        action="keep" if decision.keep else "delete",
        reason=decision.reason,
        size=sizes[decision.backup],
    )
