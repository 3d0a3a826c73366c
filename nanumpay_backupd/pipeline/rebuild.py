"""Makes the catalog anew from what exists: manifests in the backups folder and at the destinations.

For a catalog that was lost or damaged, and for a new machine. Nothing is deleted or moved anywhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, DecryptError, StoreError, ToolError, VerifyError
from nanumpay_backupd.model import SLICES, Artifact, Backup, BackupState, Copy, CopyState, Kind, Manifest, from_json
from nanumpay_backupd.pipeline.groups import adopt_groups
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, rebuild
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, backup_id, parse_artifact
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.stores.base import Store

__all__ = ["Survey", "adopt_place", "adopt_remote", "rebuild_local"]

_LARGEST_MANIFEST: Final = 64 << 20
_HELPERS: Final = 3
"""Further connections that read manifests; FTP servers rarely allow a host more than five."""
_MANY: Final = 16
"""Manifests from which on further connections are worth their opening."""
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_SIZED: Final = {True: CopyState.UPLOADED, False: CopyState.CORRUPT}


class Survey(msgspec.Struct, frozen=True):
    """What a place holds: how many copies were recorded as ``whole``, and what else carries a name of ours (artifacts).

    ``misfits``: of another size than their manifest says. ``unreadable``: the manifest is damaged or another backup's.
    ``lost``: there is a manifest only. ``alone``: there is none, as of the old program's archives and of uploads that
    were cut off. ``closed``: the manifest is encrypted, and no key here opened it.
    """

    whole: int = 0
    misfits: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


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
    job: JobSpec,
    catalog: Catalog,
    now: datetime,
    open_store: Callable[[Destination], Store],
    layout: Layout | None = None,
) -> tuple[int, list[BackupdError]]:
    """Record the copies of a job's backups that its destinations hold; returns how many, and the places' faults.

    Only objects with one of our manifests beside them count; everything else at a destination is foreign. With
    ``layout`` the manifests of the job's groups that are there are taken over as well.
    """
    with Keyring(job.encryption) as keys:
        return _adopt_remote(job, catalog, now, open_store, layout, keys)


def _adopt_remote(
    job: JobSpec,
    catalog: Catalog,
    now: datetime,
    open_store: Callable[[Destination], Store],
    layout: Layout | None,
    keys: Keyring,
) -> tuple[int, list[BackupdError]]:
    count = 0
    faults: list[BackupdError] = []
    for destination in job.destinations:

        def another(destination: Destination = destination) -> Store:
            return open_store(destination)

        try:
            with another() as store:
                found = adopt_place(
                    destination.name, store, catalog, now, lambda name: name[1] == job.name, another=another, keys=keys
                )
                count += found.whole + len(found.misfits)
                if layout is not None:
                    adopt_groups(destination.name, store, layout, [job.name])
        except BackupdError as error:
            faults.append(error)
    return count, faults


def adopt_place(
    place: str,
    store: Store,
    catalog: Catalog,
    now: datetime,
    wanted: Callable[[tuple[str, str, datetime]], bool] = lambda _: True,
    *,
    another: Callable[[], Store] | None = None,
    everything: bool = False,
    keys: Keyring | None = None,
) -> Survey:
    """Record the copies at one place. Raises StoreError.

    ``wanted`` picks by what a name says (`layout.parse_artifact`). ``another`` opens a further connection. With
    ``everything`` those are recorded as well that only somebody who has nothing else asks for: archives without a
    manifest as ``legacy``, and manifests without their artifact as ``missing``. Encrypted manifests, but for those of
    slices, are opened with ``keys``; where that cannot be, what they say openly is recorded.
    """
    sizes = {item.key: item.size for item in store.list()}
    described = {key.removesuffix(MANIFEST_SUFFIX) for key in sizes if key.endswith(MANIFEST_SUFFIX)}
    names = {key: parsed for key in sorted({*sizes, *described}) if (parsed := parse_artifact(key)) and wanted(parsed)}
    known = {key: catalog.backup(parsed[0]) for key, parsed in names.items() if key in described}
    others = {key: backup for key, backup in known.items() if backup is not None and not _is_of(backup.manifest, key)}
    known = {key: backup for key, backup in known.items() if backup is not None and key not in others}
    asked = [key for key in names if key in described and key not in known and (key in sizes or everything)]
    fetched, closed = _with_keys(_fetch_all(store, asked, another), keys)
    taken: list[Backup] = []
    sorts: dict[str, list[str]] = {"misfits": [], "unreadable": [], "lost": [], "alone": []}
    for key, (identifier, _, _) in names.items():
        backup = known.get(key) or _joined(fetched.get(key), others.get(key), key)
        if key not in described:
            sorts["alone"].append(key)
            if everything and (archive := _legacy(key, sizes[key])) is not None:
                taken.append(_with_copy(archive, place, key, sizes[key], now))
        elif backup is None or backup.id != identifier:
            sorts["unreadable" if key in sizes else "lost"].append(key)
        else:
            size = sizes.get(key)
            if size != _promised(backup, key):
                sorts["lost" if size is None else "misfits"].append(key)
            if size is not None or everything:
                taken.append(_with_copy(backup, place, key, size, now))
    catalog.save_backups(taken)
    whole = sum(copy.state in _PRESENT for backup in taken for copy in backup.copies if copy.destination == place)
    return Survey(whole, **{sort: tuple(found) for sort, found in sorts.items()}, closed=tuple(closed))


def _is_of(manifest: Manifest | None, key: str) -> bool:
    """Tell whether a manifest is of the file that is stored under ``key``."""
    return manifest is not None and manifest.at(key).artifact.name == key


def _joined(found: Backup | None, known: Backup | None, key: str) -> Backup | None:
    """Return what is known of a backup of which another file is here, under ``key``, with what ``found`` tells of it.

    That may be the form that the destinations have, of which a closed manifest tells, or one of a place's own.
    """
    manifest = found.manifest if found is not None else None
    before = known.manifest if known is not None else None
    if found is None or manifest is None or known is None or before is None:
        return found
    if before.closed:
        if manifest.closed:
            return found
        return msgspec.structs.replace(found, manifest=_with_form(manifest, before.artifact))
    return msgspec.structs.replace(known, manifest=_with_form(before, manifest.at(key).artifact))


def _with_form(manifest: Manifest, artifact: Artifact) -> Manifest:
    """Add a file to those that a manifest tells of; the first encrypted one of a plain artifact is for all places."""
    if manifest.at(artifact.name).artifact.name == artifact.name:
        return manifest
    if manifest.elsewhere is None and manifest.artifact.encryption == "none" and artifact.encryption != "none":
        return msgspec.structs.replace(manifest, elsewhere=artifact)
    return msgspec.structs.replace(manifest, forms=(*manifest.forms, artifact))


def _promised(backup: Backup, key: str) -> int:
    """Return the bytes that the file stored under ``key`` has to have."""
    return backup.manifest.at(key).artifact.size if backup.manifest is not None else backup.size


def _with_keys(fetched: dict[str, Backup], keys: Keyring | None) -> tuple[dict[str, Backup], list[str]]:
    """Open the encrypted manifests of whole backups; returns all, and which stayed closed."""
    closed = []
    for key, backup in list(fetched.items()):
        manifest = backup.manifest
        if manifest is None or not manifest.closed or backup.kind in SLICES:
            continue
        try:
            fetched[key] = backup_from_manifest((keys or Keyring()).whole(manifest))
        except (DecryptError, ToolError):
            closed.append(key)
        except VerifyError:
            del fetched[key]
    return fetched, closed


def _with_copy(backup: Backup, place: str, key: str, size: int | None, now: datetime) -> Backup:
    """Add the copy at a place to a backup's record; without a ``size`` it is missing there."""
    promised = _promised(backup, key)
    copy = Copy(
        backup=backup.id,
        destination=place,
        state=CopyState.MISSING if size is None else _SIZED[size == promised],
        key=key,
        size=promised if size is None else size,
        updated=now,
    )
    return msgspec.structs.replace(backup, copies=(*backup.copies, copy))


def _legacy(key: str, size: int) -> Backup | None:
    """Return the record of an archive without a manifest; None for what is no full by its name."""
    parsed = parse_artifact(key)
    if parsed is None or backup_id(parsed[1], parsed[2]) != parsed[0]:
        return None
    identifier, job, created = parsed
    return Backup(
        id=identifier,
        job=job,
        kind=Kind.LEGACY,
        created=created,
        state=BackupState.LEGACY,
        artifact=key,
        size=size,
    )


def _fetch_all(store: Store, keys: Iterable[str], another: Callable[[], Store] | None) -> dict[str, Backup]:
    """Read the manifests beside many artifacts, over several connections where there may be; raises StoreError."""
    waiting = deque(keys)
    found: dict[str, Backup] = {}

    def work(own: Store) -> None:
        while waiting:
            with contextlib.suppress(IndexError):
                key = waiting.popleft()
                try:
                    backup = _fetch(own, key)
                except BaseException:
                    waiting.append(key)
                    raise
                if backup is not None:
                    found[key] = backup

    def help_out() -> None:
        # Where no further connection is allowed, the first one does it all.
        with contextlib.suppress(StoreError):
            assert another is not None
            with another() as own:
                work(own)

    helpers = _HELPERS if another is not None and len(waiting) > _MANY else 0
    threads = [threading.Thread(target=help_out, name="manifests", daemon=True) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    try:
        work(store)
        for thread in threads:
            thread.join()
        work(store)  # what a helper gave back
    except BaseException:
        waiting.clear()
        raise
    return found


def _fetch(store: Store, key: str) -> Backup | None:
    """Return the backup that the manifest beside an artifact describes; None when that is damaged or not its own."""
    manifest = fetch_manifest(store, key)
    return backup_from_manifest(manifest) if manifest is not None and _is_of(manifest, key) else None


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
