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

from nanumpay_backupd.errors import BackupdError, SpaceError, StoreError, VerifyError
from nanumpay_backupd.model import Artifact, Backup, Copy, CopyState
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, sealed_by
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
    moved: Callable[[int], None],
) -> tuple[Path, Copy]:
    """Bring the file of one of ``copies``, which have the same name, into the outbox; returns it, and of which it is.

    ``moved`` gets the bytes as they come and may raise. One that cannot be read, or is not what was stored, gives way
    to the next; raises StoreError (``relay-failed``, retryable) when none is left, SpaceError.
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
        try:
            with contextlib.closing(open_store(destinations[copy.destination])) as store:
                _bring(store, stored, target, moved)
        except (StoreError, VerifyError) as error:
            told.append(error.message)
        else:
            return target, copy
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


def _bring(store: Store, stored: Artifact, target: Path, moved: Callable[[int], None]) -> None:
    """Write an object into a file; it gets its name once its checksum is right."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "wb") as stream:
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
        publish(part, target, replace=True)
    except OSError as error:
        part.unlink(missing_ok=True)
        if is_disk_full(error):
            raise SpaceError(f"the disk of {part.parent} is full", hint="free space there") from error
        raise BackupdError(
            f"{part} cannot be written: {error.strerror or error}",
            hint="look at the folder's rights and at the disk's log (journalctl -k)",
            code="folder-unusable",
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
