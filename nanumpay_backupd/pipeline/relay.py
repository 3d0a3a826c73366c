"""A backup's file brought here from one destination for another: where the backups folder does not have it any more.

It waits in the outbox as long as a copy of it is queued. What is brought is compared before anybody gets it. Sends
nothing itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, LimitError, SpaceError, StoreError, VerifyError
from nanumpay_backupd.model import Artifact, Backup, Copy, CopyState
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, sealed_by
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.transfers import Transfer, carry
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.system.files import free_bytes, is_disk_full, publish
from nanumpay_backupd.system.units import human_size

__all__ = ["fetch_beside", "relay", "relays"]

OpenStore = Callable[[Destination], Store]
_PRESENT: Final = (CopyState.VERIFIED, CopyState.UPLOADED)
_RESERVE: Final = 64 << 20
"""Bytes left free on the filesystem of the outbox."""
_MOST: Final = 1 << 26
"""Bytes that a manifest may have: one of ten thousand collections has 3 MiB."""


def relays(backup: Backup, job: JobSpec, *, as_it_is: bool = False) -> list[Copy]:
    """Return the copies at the job's places that a further one can be made of, the best first.

    That is the file that most destinations have, rather than one that was encrypted anew for a single place; and what
    is proven. ``as_it_is``: it is sent on without a change, so not what is readable only at a place that encrypts by
    itself, where the job encrypts.
    """
    if backup.manifest is None:
        return []
    name = backup.manifest.stored_elsewhere.name
    known = {destination.name for destination in job.destinations}
    good = [copy for copy in backup.copies if copy.state in _PRESENT and copy.destination in known]
    whole = [copy for copy in good if backup.manifest.at(copy.key).artifact.name == copy.key]
    if as_it_is and job.encryption.on:
        bare = {destination.name for destination in job.destinations if destination.wants_plain}
        whole = [copy for copy in whole if copy.destination not in bare or sealed_by(copy.key)]
    return sorted(whole, key=lambda copy: (copy.key != name, _PRESENT.index(copy.state)))


def relay(
    backup: Backup,
    copies: list[Copy],
    job: JobSpec,
    layout: Layout,
    open_store: OpenStore,
    recorder: Recorder,
    *,
    counted: bool = False,
) -> tuple[Path, Copy]:
    """Bring the file of one of ``copies``, which have the same name, into the outbox; returns it, and of which it is.

    ``counted``: the bytes are the run's progress. One that cannot be read, takes longer than an upload may or stands
    still for longer, or is not what was stored, gives way to the next; raises StoreError (``relay-failed``, retryable)
    when none is left, SpaceError, CancelledError.
    """
    assert backup.manifest is not None
    stored = backup.manifest.at(copies[0].key).artifact
    target = layout.waiting(stored.name)
    layout.create_encrypted()
    free = free_bytes(layout.outbox)
    if free < stored.size + _RESERVE:
        raise SpaceError(
            f"not enough room in {layout.backups} to bring {stored.name} there on its way: this needs "
            f"{human_size(stored.size + _RESERVE)}, {human_size(free)} are free",
            hint="free space there or set [paths] backups to a larger disk",
        )
    destinations = {destination.name: destination for destination in job.destinations}
    told: list[str] = []
    for copy in copies:
        transfer = Transfer(destinations[copy.destination], backup, copy, recorder, reading=True)
        fault = _carried(transfer, stored, target, job, recorder, open_store, counted=counted)
        if fault is None:
            publish(_part(target), target, replace=True)
            return target, copy
        told.append(fault.message)
    raise StoreError(
        f"the file of {backup.id} is not in the backups folder, and could not be brought from elsewhere: "
        + "; ".join(told),
        hint=f"where its copies are: backupctl copies {backup.id}",
        code="relay-failed",
        retryable=True,
    )


def fetch_beside(copy: Copy, job: JobSpec, open_store: OpenStore) -> bytes:
    """Return the manifest beside a copy as it lies there, for the same file elsewhere; raises StoreError."""
    destination = next(item for item in job.destinations if item.name == copy.destination)
    with contextlib.closing(open_store(destination)) as store:
        data = bytearray()
        for chunk in store.get(f"{copy.key}{MANIFEST_SUFFIX}"):
            data += chunk
            if len(data) > _MOST:
                break
        return bytes(data)


def _carried(
    transfer: Transfer,
    stored: Artifact,
    target: Path,
    job: JobSpec,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    counted: bool,
) -> BackupdError | None:
    """Bring one copy as a part of ``target`` within the limits of an upload; returns why not, None: it is there."""
    faults: list[BackupdError] = []

    def failed(one: Transfer, error: BackupdError) -> None:
        if one.settle():
            faults.append(error)

    def bring(one: Transfer) -> None:
        try:
            with contextlib.closing(open_store(one.destination)) as store:
                _bring(store, stored, _part(target), one.moved if counted else one.read)
        except (StoreError, VerifyError, LimitError) as error:
            # Of what fails while the run is ended, that is the reason.
            if recorder.fault is None:
                failed(one, one.given_up or error)
            return
        one.settle()

    carry((transfer,), bring, job, recorder, failed)
    recorder.check()
    return faults[0] if faults else None


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _bring(store: Store, stored: Artifact, part: Path, moved: Callable[[int], None]) -> None:
    """Write an object into a new file, which stays only if its checksum is right."""
    part.unlink(missing_ok=True)
    digest, size, made = hashlib.sha256(), 0, None
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "wb") as stream:
            made = os.fstat(stream.fileno()).st_ino
            for chunk in store.get(stored.name):
                digest.update(chunk)
                size += len(chunk)
                stream.write(chunk)
                moved(len(chunk))
        if (size, digest.hexdigest()) != (stored.size, stored.sha256):
            raise VerifyError(
                f"the copy of {stored.name} at {store.name} is not what was stored there ({size} of {stored.size} "
                "bytes, or another checksum)",
                hint="read it again: backupctl verify",
                code="verify-checksum",
            )
    except OSError as error:
        _drop(part, made)
        if is_disk_full(error):
            raise SpaceError(f"the disk of {part.parent} is full", hint="free space there") from error
        raise BackupdError(
            f"{part} cannot be written: {error.strerror or error}",
            hint="look at the folder's rights and at the disk's log (journalctl -k)",
            code="folder-unusable",
        ) from error
    except BaseException:
        _drop(part, made)
        raise


def _drop(part: Path, made: int | None) -> None:
    """Delete what was made, unless another one, begun when this one was left behind, has its name by now."""
    with contextlib.suppress(OSError):
        if part.stat().st_ino == made:
            part.unlink()
