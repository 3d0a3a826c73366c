"""What another host of the fleet made of a job meanwhile: where its slices go on from. Reads no place itself."""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import BackupState, CopyState, Kind, OpTime

__all__ = ["follow_on"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50


def follow_on(catalog: Catalog, job: str) -> bool:
    """Let the slices of a job follow on from those of another host; returns whether they do from now on.

    To be called when the copies that are elsewhere were recorded. This host's own place in the stream is forgotten
    where a good slice that goes further is there: the next one begins at the end of that one (`slices.choose_start`).
    """
    stream = catalog.stream(job)
    if stream is None:
        return False
    for backup in catalog.backups(job, _LOOKED_AT, kinds=(Kind.INCREMENTAL,)):
        good = backup.state is BackupState.VERIFIED and any(copy.state in _PRESENT for copy in backup.copies)
        if good and backup.end and OpTime.parse(backup.end) > OpTime.parse(stream.position):
            catalog.forget_stream(job)
            return True
    return False
