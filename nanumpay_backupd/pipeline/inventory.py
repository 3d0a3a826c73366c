"""Brings the catalog and the backups folder together: the folder is the truth, the catalog the index.

Files of the folder can vanish at any time (the application cleans up there): such copies become ``missing``, which is
a fact and not a fault. Archives of the old program, which have no manifest, are listed as ``legacy``. Foreign files are
not even looked at.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from nanumpay_backupd.catalog import Catalog, Placed
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import LOCAL, SLICES, Backup, BackupState, Copy, CopyState, ErrorInfo, Kind, Manifest
from nanumpay_backupd.pipeline.layout import Layout, backup_id, may_be_slice, parse_artifact, sealed_by
from nanumpay_backupd.pipeline.pins import recall_pins
from nanumpay_backupd.pipeline.publish import read_manifest, rewrite_manifest

__all__ = ["backup_from_manifest", "sync_local"]

_PRESENT = (CopyState.UPLOADED, CopyState.VERIFIED)


def sync_local(catalog: Catalog, layout: Layout, now: datetime, *, quick: bool = False) -> int:
    """Make the catalog's local copies say what the folder holds; returns how many records changed.

    A ``quick`` look takes it for granted that files which are known still have the size that they had.
    Raises BackupdError (``folder-unusable``) when the folder cannot be read: then nothing is called missing.
    """
    # A run in another process publishes and verifies meanwhile: what it records must come before or after this look.
    with catalog.together():
        changed = _differences(catalog, layout, now, quick=quick)
        if changed:
            catalog.save_backups(changed)
        # A catalog that was lost knows no pins, and the next run's retention goes by them.
        if any(layout.pins(backup.id).exists() for backup in changed):
            recall_pins(catalog, layout)
        return len(changed)


def _differences(catalog: Catalog, layout: Layout, now: datetime, *, quick: bool) -> list[Backup]:
    there = list(catalog.placed())
    artifacts = {placed.artifact: placed.size for placed in there}
    files = _artifacts(layout, artifacts, quick=quick)
    manifests = dict.fromkeys(_names(layout.manifests), 0)
    changed: list[Backup] = []
    for name in _doubtful(there, files, manifests):
        backup = catalog.backup(name)
        assert backup is not None, "nobody else writes meanwhile"
        unproven = backup.kind is Kind.LEGACY
        manifest = _own_manifest(layout, backup.id, manifests) if unproven else None
        if manifest is not None:
            changed.append(backup_from_manifest(manifest, _local_copy(manifest, files, now)))
            continue
        updated = _refresh(backup, files, now)
        if updated is not None:
            changed.append(updated)
        if f"{backup.id}.json" not in manifests and not unproven and backup.artifact in files:
            _heal_manifest(layout, backup)
    known = {placed.id for placed in there}
    for name in sorted(manifests.keys() - {f"{name}.json" for name in known}):
        identifier = name.removesuffix(".json")
        manifest = _own_manifest(layout, identifier, manifests) if identifier != name else None
        if manifest is not None:
            backup = backup_from_manifest(manifest, _local_copy(manifest, files, now))
            known.add(backup.id)
            artifacts[backup.artifact] = backup.size
            changed.append(backup)
    # Reading a date out of a name is slow for thousands of names, and nearly all are known.
    strange = {name: files[name] for name in sorted(files.keys() - artifacts.keys())}
    return changed + _legacy(strange, known, manifests, now)


def _artifacts(layout: Layout, known: Mapping[str, int], *, quick: bool) -> dict[str, int]:
    """Return name and size of the files that stand where artifacts of their name stand, of others too."""
    slices = {name for name in known if may_be_slice(name)}
    here = [name for name in _names(layout.backups) if not layout.in_slices(name) and not sealed_by(name)]
    there = [name for name in _names(layout.slices) if name in slices or layout.in_slices(name)]
    encrypted = [name for name in _names(layout.encrypted) if sealed_by(name) and not layout.in_slices(name)]
    trusted = known if quick else {}
    return (
        _sizes(layout.backups, here, trusted)
        | _sizes(layout.slices, there, trusted)
        | _sizes(layout.encrypted, encrypted, trusted)
    )


def _doubtful(there: Iterable[Placed], files: Mapping[str, int], manifests: Mapping[str, int]) -> list[str]:
    """Name the backups at which a closer look may change something: hardly any of tens of thousands, at most looks."""
    found = []
    for name, artifact, promised, good, absent, legacy in there:
        size, has_manifest = files.get(artifact), f"{name}.json" in manifests
        if size is None:
            as_it_was = absent and not (legacy and has_manifest)
        else:
            as_it_was = good and size == promised and legacy != has_manifest
        if not as_it_was:
            found.append(name)
    return found


def _own_manifest(layout: Layout, identifier: str, manifests: dict[str, int]) -> Manifest | None:
    """Return the manifest of a backup, if there is one and it is of that backup."""
    if f"{identifier}.json" not in manifests:
        return None
    manifest = read_manifest(layout.manifest(identifier))
    return manifest if manifest is not None and manifest.backup == identifier else None


def rebuild(catalog: Catalog, layout: Layout, now: datetime) -> int:
    """Forget all backups and read them anew from the folder's manifests; returns how many there are."""
    with catalog.together():
        pins, odd = catalog.pins(), catalog.oddities()
        catalog.clear_backups()
        sync_local(catalog, layout, now)
        recall_pins(catalog, layout, pins)
        for record in odd:
            if catalog.backup(record.backup) is not None:
                catalog.save_oddity(record)
        return len(catalog.backups())


def backup_from_manifest(manifest: Manifest, *copies: Copy) -> Backup:
    """Return the catalog's record of a backup whose manifest is at hand."""
    parsed = parse_artifact(manifest.artifact.name)
    sliced = manifest.kind in SLICES
    last = manifest.verification[-1] if manifest.verification else None
    state = BackupState.COMMITTED if last is None else BackupState.VERIFIED if last.ok else BackupState.CORRUPT
    return Backup(
        id=manifest.backup,
        job=manifest.job,
        kind=manifest.kind,
        created=parsed[2] if parsed is not None else manifest.started,
        state=state,
        artifact=manifest.artifact.name,
        size=manifest.artifact.size,
        documents=manifest.consistency.entries
        if sliced and manifest.source.type == "mongodb"
        else manifest.source.documents,
        run=manifest.run,
        start=manifest.consistency.start,
        end=manifest.consistency.end,
        collection=manifest.collection,
        only_to=manifest.only_to,
        copies=copies,
        manifest=manifest,
    )


def _names(folder: Path) -> list[str]:
    """Return the names of the plain files directly in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from None


def _sizes(folder: Path, names: Iterable[str], trusted: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of files by name, looked up where they are not ``trusted``; one that is gone is left out."""
    found = {}
    for name in names:
        size = trusted.get(name)
        if size is None:
            try:
                size = os.lstat(f"{folder}/{name}").st_size
            except FileNotFoundError:
                continue  # deleted in this moment
            except OSError as error:
                raise _unreadable(folder, error) from None
        found[name] = size
    return found


def _unreadable(folder: Path, error: OSError) -> BackupdError:
    return BackupdError(
        f"the folder {folder} cannot be read: {os.strerror(error.errno or 0)}",
        hint="check its owner and rights, and that its disk is mounted",
        code="folder-unusable",
    )


def _refresh(backup: Backup, files: dict[str, int], now: datetime) -> Backup | None:
    """Return the backup with its local copy's state corrected, or None when it was right."""
    for copy in backup.copies:
        if copy.destination != LOCAL:
            continue
        size = files.get(backup.artifact)
        if backup.kind is Kind.LEGACY and size not in (None, backup.size):
            # Nobody promised its size: the old program may still have been writing it when it was first seen.
            grown = msgspec.structs.replace(copy, state=CopyState.UPLOADED, size=size, updated=now)
            return msgspec.structs.replace(backup, size=size, copies=(grown,))
        if copy.state is CopyState.CORRUPT and copy.error is not None and size == backup.size:
            # It was read and is damaged: that its size is right says nothing until it is read again.
            return None
        state = _state(size, backup, copy.state)
        if state is copy.state:
            return None
        changed = msgspec.structs.replace(copy, state=state, updated=now, error=None)
        return msgspec.structs.replace(backup, copies=(changed,))
    if backup.artifact in files:
        copy = Copy(
            backup=backup.id,
            destination=LOCAL,
            state=_state(files[backup.artifact], backup, CopyState.UPLOADED),
            key=backup.artifact,
            size=backup.size,
            updated=now,
        )
        return msgspec.structs.replace(backup, copies=(copy,))
    return None


def _state(size: int | None, backup: Backup, before: CopyState) -> CopyState:
    if size is None:
        return CopyState.MISSING
    if size != backup.size or backup.state is BackupState.CORRUPT:
        return CopyState.CORRUPT
    if before in _PRESENT:
        return before
    # It came back (restored by somebody): its size is right, its content was not read again.
    return CopyState.UPLOADED


def _local_copy(manifest: Manifest, files: dict[str, int], now: datetime) -> Copy:
    size = files.get(manifest.artifact.name)
    proof = manifest.verification[-1] if manifest.verification else None
    if size is None:
        state = CopyState.MISSING
    elif size != manifest.artifact.size or (proof is not None and not proof.ok):
        state = CopyState.CORRUPT
    else:
        state = CopyState.VERIFIED if proof is not None else CopyState.UPLOADED
    return Copy(
        backup=manifest.backup,
        destination=LOCAL,
        state=state,
        key=manifest.artifact.name,
        size=manifest.artifact.size,
        updated=now,
    )


def _heal_manifest(layout: Layout, backup: Backup) -> None:
    """Write a manifest that was lost again, from the catalog's copy of it."""
    if backup.manifest is not None:
        layout.create()
        rewrite_manifest(layout, backup.manifest)


def _legacy(
    files: Mapping[str, int], known: Collection[str], manifests: Collection[str], now: datetime
) -> list[Backup]:
    """List the archives among ``files`` that carry a name of ours but have no manifest: the old program made them.

    One whose manifest is there and cannot be read is another matter: nothing proves what is in it.
    """
    found = []
    for name, size in files.items():
        parsed = parse_artifact(name)
        if parsed is None or parsed[0] in known or backup_id(parsed[1], parsed[2]) != parsed[0]:
            continue
        identifier, job, created = parsed
        copy = Copy(backup=identifier, destination=LOCAL, state=CopyState.UPLOADED, key=name, size=size, updated=now)
        damaged = f"{identifier}.json" in manifests
        if damaged:
            fault = ErrorInfo(code="copy-unusable", message="its manifest is damaged, or that of another backup")
            copy = msgspec.structs.replace(copy, state=CopyState.CORRUPT, error=fault)
        found.append(
            Backup(
                id=identifier,
                job=job,
                kind=Kind.LEGACY,
                created=created.astimezone(UTC),
                state=BackupState.CORRUPT if damaged else BackupState.LEGACY,
                artifact=name,
                size=size,
                copies=(copy,),
            )
        )
    return found
