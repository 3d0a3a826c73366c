"""What increments need of the backup before: the files that it left (`Harvest.state`), and the times it is known by."""

from __future__ import annotations

import contextlib
import shutil
from datetime import datetime
from pathlib import Path

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import SLICES, Manifest, OpTime
from nanumpay_backupd.pipeline.layout import job_of
from nanumpay_backupd.system.files import fsync_file, make_private_dir

__all__ = ["StateFolder", "stamped"]


def stamped(manifest: Manifest, started: datetime, since: str = "") -> Manifest:
    """Return the manifest with the time at which its dump began as its end, by which chains are found (`timeline`).

    ``since`` is the end of the backup that an increment goes on from. What the source has said itself stays.
    """
    own = manifest.consistency
    end = str(OpTime(int(started.timestamp()), 0))
    told = msgspec.structs.replace(own, start=since or end, end=end, moment=own.moment or started)
    return msgspec.structs.replace(manifest, consistency=told)


class StateFolder:
    """A folder of this host, beside the catalog; only this user reads it, for the names in it are not encrypted."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "increments"

    def keep(self, backup: str, staged: Path) -> None:
        """Keep the file that a backup leaves, if it leaves one; raises OSError."""
        if not staged.exists():
            return
        make_private_dir(self._folder, mode=0o700)
        target = self._folder / backup
        # Staging is on the filesystem of the backups, which may be another one.
        with staged.open("rb") as source, (self._folder / f".{backup}.new").open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        fsync_file(self._folder / f".{backup}.new")
        (self._folder / f".{backup}.new").replace(target)

    def borrow(self, backup: str, copy: Path) -> Path | None:
        """Return a copy of the file that a backup left, which may be written to, None: there is none."""
        source = self._folder / backup
        if not source.is_file():
            return None
        shutil.copyfile(source, copy)
        return copy

    def tidy(self, catalog: Catalog) -> None:
        """Delete what nothing can follow on from: of a job the fulls' stay, and that of the newest increment."""
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(self._folder.iterdir()):
                job = job_of(file.name)
                newest = [one.id for one in catalog.backups(job, 1, kinds=SLICES)] if job else []
                backup = catalog.backup(file.name)
                if backup is None or (backup.kind in SLICES and file.name not in newest):
                    file.unlink(missing_ok=True)
