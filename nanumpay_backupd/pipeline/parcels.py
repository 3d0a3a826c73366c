"""What every destination of a backup gets: one file, and the manifest beside it. Made ready here, sent elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Artifact, Backup, Copy
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outbox import can_be_sent, fill
from nanumpay_backupd.pipeline.relay import fetch_beside, relay, relays
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import Destination, JobSpec
from nanumpay_backupd.stores.base import Store

__all__ = ["Parcel", "make_parcel", "obtainable", "relayed"]

OpenStore = Callable[[Destination], Store]


class Parcel(msgspec.Struct, frozen=True):
    """What every destination gets: a file, what it is, and the manifest beside it, which may still be in the making."""

    path: Path
    artifact: Artifact
    beside: bytes | Future[bytes]

    @property
    def manifest(self) -> bytes:
        """Return the manifest; waits for it, and raises as `Keyring.describe`."""
        return self.beside if isinstance(self.beside, bytes) else self.beside.result()


def obtainable(backup: Backup, layout: Layout, keys: Keyring, job: JobSpec) -> bool:
    """Tell whether the file that the destinations get is here, can still be made, or can be brought from elsewhere."""
    return can_be_sent(backup, layout, keys, job) or bool(relays(backup, job, as_it_is=True))


def make_parcel(
    backup: Backup,
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    *,
    keys: Keyring,
    open_store: OpenStore,
) -> Parcel:
    """Make ready what the destinations get, encrypted where that is to be; what is not here comes from one of them.

    Raises as `outbox.fill`, `relay.relay` and `Keyring.describe`.
    """
    assert backup.manifest is not None
    if not can_be_sent(backup, layout, keys, job) and (copies := relays(backup, job, as_it_is=True)):
        return relayed(backup, copies, job, layout, recorder, keys=keys, open_store=open_store)
    if backup.manifest.elsewhere is not None or (backup.manifest.artifact.encryption == "none" and keys.seals_for(job)):
        # An artifact that is encrypted here goes as it is.
        backup = fill(backup, layout, keys, catalog, recorder)
    manifest = backup.manifest
    assert manifest is not None
    stored = manifest.stored_elsewhere
    path = layout.artifact(stored.name) if manifest.elsewhere is None else layout.waiting(stored.name)
    return Parcel(path, stored, keys.describing(manifest))


def relayed(
    backup: Backup,
    copies: list[Copy],
    job: JobSpec,
    layout: Layout,
    recorder: Recorder,
    *,
    keys: Keyring,
    open_store: OpenStore,
) -> Parcel:
    """Make ready what lies elsewhere only, as it lies there."""
    assert backup.manifest is not None
    manifest = backup.manifest.at(copies[0].key)
    path, copy = layout.waiting(manifest.artifact.name), copies[0]
    # What waits since an earlier try was compared when it came.
    if not path.exists():
        alike = [one for one in copies if one.key == copy.key]
        path, copy = relay(backup, alike, job, layout, open_store, recorder)
        recorder.reporter.message("info", f"{copy.key} was brought from {copy.destination}, for other destinations")
    if manifest.artifact.encryption == "none":
        return Parcel(path, manifest.artifact, keys.describing(manifest))
    # Closed, so only who has a key could make another one of it.
    return Parcel(path, manifest.artifact, fetch_beside(copy, job, open_store))
