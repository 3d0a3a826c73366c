"""Applies retention's decisions at each place, and deletes single copies. Decides nothing itself: that is `outlook`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, LockedError, NotFoundError, StoreError
from nanumpay_backupd.model import LOCAL, Copy, Kind, Lock
from nanumpay_backupd.pipeline.groups import drop_groups, parted, read_groups
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.outlook import PruneLine, as_locked, gone_by, in_order, look, plan
from nanumpay_backupd.pipeline.pins import drop_pins
from nanumpay_backupd.retention import horizon
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.sources.factory import release
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.system.files import fsync_dir
from nanumpay_backupd.system.units import human_size

__all__ = ["delete_backup", "delete_copy", "named", "prune"]

_NAMED: Final = 5
_MOST_DENIED: Final = 3
"""So many copies that a place refuses to delete are tried; it may be that single ones are held there."""
OpenStore = Callable[[Destination], Store]


def prune(
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    now: datetime,
    open_store: OpenStore,
    kinds: Collection[Kind] = frozenset(Kind),
    *,
    on_deleted: Callable[[PruneLine], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> tuple[list[PruneLine], list[BackupdError]]:
    """Delete what `plan` says, at every place; returns the lines and the faults of places that could not be reached.

    ``on_deleted`` is called for each copy once it is gone, ``on_note`` with a sentence for each group that can be
    restored in part only from then on. Backups of other ``kinds`` are left alone. A fault at one
    place does not stop the others; what was not deleted comes up again at the next run. What is locked at its place is
    recorded so, and comes up again when the lock has ended.
    """
    seen = look(catalog, job.name)
    ours = {item.id for item in seen.held if item.kind in kinds}
    lines = [line for line in plan(job, seen, now) if line.backup in ours]
    destinations = {destination.name: destination for destination in job.destinations}
    faults: list[BackupdError] = []
    locked: dict[tuple[str, str], Lock] = {}
    for note in parted(read_groups(layout), catalog, gone_by(lines)):
        on_note(note)
    for place in dict.fromkeys(line.destination for line in lines):
        doomed = {line.backup: line for line in lines if line.destination == place and line.action == "delete"}
        if not doomed:
            continue
        try:
            with contextlib.ExitStack() as stack:
                store = None if place == LOCAL else stack.enter_context(open_store(destinations[place]))
                delete = _Deleting(job, catalog, layout, store, now=now, locked=locked, on_deleted=on_deleted)
                faults += delete.all(doomed[name] for name in in_order(seen, place, doomed))
        except BackupdError as error:
            faults.append(error)
    for line in lines:
        # The rules, or what stands beside it, are others than when it should have gone.
        if line.action == "keep" and (line.backup, line.destination) in seen.locks:
            _mark_locked(catalog, line.backup, line.destination, None)
    _forget_vanished(job, catalog, layout, now, kinds)
    faults += drop_groups(job, catalog, layout, open_store)
    return [as_locked(line, locked.get((line.backup, line.destination))) for line in lines], faults


class _Deleting:
    """Deletes copies at one place; those that are ``locked`` there are recorded, by backup and place."""

    def __init__(
        self,
        job: JobSpec,
        catalog: Catalog,
        layout: Layout,
        store: Store | None,
        *,
        now: datetime,
        locked: dict[tuple[str, str], Lock],
        on_deleted: Callable[[PruneLine], None],
    ) -> None:
        self._job = job
        self._catalog = catalog
        self._layout = layout
        self._store = store
        self._now = now
        self._locked = locked
        self._on_deleted = on_deleted

    def all(self, doomed: Iterable[PruneLine]) -> list[BackupdError]:
        """Delete them; returns the first fault of those that the place denies.

        Raises BackupdError for any other fault, and for one denial too many: the next copy would meet the same.
        """
        denied: list[BackupdError] = []
        for line in doomed:
            try:
                _release(self._job, self._catalog, line.backup, line.destination)
                delete_copy(self._catalog, self._layout, line.backup, line.destination, self._store)
                self._on_deleted(line)
            except LockedError as error:
                lock = Lock(until=error.until, asked=self._now)
                self._locked[line.backup, line.destination] = lock
                _mark_locked(self._catalog, line.backup, line.destination, lock)
            except StoreError as error:
                denied.append(error)
                if error.code != "destination-denied" or self._store is None or len(denied) == _MOST_DENIED:
                    raise
        return denied[:1]


def _mark_locked(catalog: Catalog, backup: str, place: str, lock: Lock | None) -> None:
    """Record what hinders the deletion of a copy, None: nothing does."""
    with catalog.together():
        found = catalog.backup(backup)
        for copy in found.copies if found is not None else ():
            if copy.destination == place:
                catalog.save_copy(msgspec.structs.replace(copy, lock=lock))


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

    Raises StoreError when a place refuses (LockedError: for now); copies deleted before that stay deleted.
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
            _release(job, catalog, name, copy.destination)
            delete_copy(catalog, layout, name, copy.destination, store)
        lines.append(PruneLine(name, copy.destination, "delete", "asked for", copy.size))
    return lines


def _release(job: JobSpec, catalog: Catalog, name: str, place: str) -> None:
    """Delete the data of which the file here is only the receipt; raises as `sources.base.Driver.release`.

    Before the receipt: what a crash cuts off in between is deleted again, and is gone by then.
    """
    if place != LOCAL or not job.source.kept_outside:
        return
    backup = catalog.backup(name)
    if backup is not None and backup.manifest is not None:
        release(job.source, backup.manifest)


def delete_copy(catalog: Catalog, layout: Layout, backup_id: str, place: str, store: Store | None) -> int:
    """Delete one copy; returns its bytes.

    The catalog's record goes last, so that what a crash cut off is done again. In the backups folder the artifact goes
    before its manifest (an artifact alone would look like the old program's); at a destination the manifest goes first
    (a reader of the destination believes manifests).

    Raises LockedError when the place keeps either of them (then both are untouched), StoreError or BackupdError when it
    refuses otherwise; the record then stays.
    """
    backup = catalog.backup(backup_id)
    copy = next((item for item in backup.copies if item.destination == place), None) if backup is not None else None
    if backup is None or copy is None:
        return 0
    if store is None:
        _delete_local(layout, copy)
    else:
        manifest = f"{copy.key}{MANIFEST_SUFFIX}"
        for key in (copy.key, manifest):
            store.must_be_free(key)
        store.delete(manifest)
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
            retryable=False,
        ) from None


def _delete_manifest(layout: Layout, backup: str) -> None:
    """Delete what is left here of a backup that is gone everywhere."""
    drop_pins(layout, backup)
    with contextlib.suppress(OSError):
        layout.manifest(backup).unlink(missing_ok=True)
        fsync_dir(layout.manifests)


def _forget_vanished(job: JobSpec, catalog: Catalog, layout: Layout, now: datetime, kinds: Collection[Kind]) -> None:
    """Drop the record of copies that somebody else deleted, once they would have been deleted anyway."""
    for name, place, created in catalog.missing(job.name, kinds):
        if created >= horizon(job.policy_at(place), now):
            continue
        catalog.forget_copy(name, place)
        if catalog.backup(name) is None:
            _delete_manifest(layout, name)
