"""Reading back what was just uploaded: which copies, and comparing them. What follows from a fault is `upload`'s."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.model import Artifact, Copy
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.stores.base import Store

__all__ = ["read_back", "wants_reading"]

_RANGE: Final = 1 << 64


def wants_reading(job: JobSpec, copy: Copy, *, proven: bool) -> bool:
    """Tell whether a copy is one of those that are read back after their upload; ``proven``: by the place's checksum.

    Which ones belong to the sample is drawn from their names: a second try draws the same.
    """
    if job.read_back_unproven and not proven:
        return True
    drawn = hashlib.sha256(f"{copy.backup} {copy.destination}".encode()).digest()[:8]
    return int.from_bytes(drawn) < job.read_back * _RANGE


def read_back(store: Store, artifact: Artifact, moved: Callable[[int], None]) -> None:
    """Read an object as a whole and compare it; ``moved`` gets the bytes as they come and may raise.

    Raises StoreError: ``destination-mismatch`` (retryable) where it is not what was sent, and as `Store.get`.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in store.get(artifact.name):
        digest.update(chunk)
        size += len(chunk)
        moved(len(chunk))
    if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
        raise StoreError(
            f"{artifact.name} was read back from {store.name} and is not what was sent ({size} of {artifact.size} "
            "bytes, or another checksum)",
            hint="it is sent again; if it happens again, check the destination's disk, and the network",
            code="destination-mismatch",
            retryable=True,
        )
