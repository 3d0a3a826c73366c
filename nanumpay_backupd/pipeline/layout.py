"""Names and places: artifact names, the folders beside them. The one room that knows how a backups folder looks.

The application deletes everything in its backups folder whose name begins with ``nanumpay-backup-`` except the newest
``.tar.gz``; so all of ours but the artifacts lives below ``.backupd``, which that rule does not touch.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

__all__ = ["ARTIFACT", "SAFETY_SUFFIX", "Layout", "artifact_prefix", "backup_id", "parse_artifact"]

MANIFEST_SUFFIX: Final = ".manifest.json"
ARTIFACT: Final = re.compile(
    r"(?P<id>(?P<job>[a-z0-9][a-z0-9-]*)-backup-(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d))(?P<suffix>\.tar(?:\.gz)?)"
)
SAFETY_SUFFIX: Final = "-safety"
"""Ends the job's name in safety backups, which a restore makes: retention and ``latest`` then leave them alone."""
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"


def artifact_prefix(job: str) -> str:
    """Return what the names of a job's artifacts begin with."""
    return f"{job}-backup-"


def backup_id(job: str, moment: datetime) -> str:
    """Return a backup's id, which also names its artifact and the folder inside; ``moment`` counts to the second."""
    return f"{artifact_prefix(job)}{moment.astimezone(UTC).strftime(_STAMP)}"


def parse_artifact(name: str) -> tuple[str, str, datetime] | None:
    """Read (backup id, job, moment) from an artifact's file name, or None when it is not one of ours."""
    match = ARTIFACT.fullmatch(name)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match["stamp"], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return match["id"], match["job"], moment


class Layout:
    """The places below one backups folder."""

    def __init__(self, backups: Path) -> None:
        self.backups = backups
        self.private = backups / ".backupd"
        self.staging = self.private / "staging"
        self.manifests = self.private / "manifests"
        self.locks = self.private / "locks"

    def artifact(self, name: str) -> Path:
        """Return where an artifact stands once it is published."""
        return self.backups / name

    def manifest(self, backup: str) -> Path:
        """Return where a backup's manifest stands once it is committed."""
        return self.manifests / f"{backup}.json"

    def run_staging(self, run: str) -> Path:
        """Return the folder in which one run works."""
        return self.staging / run

    def lock(self, job: str) -> Path:
        """Return the lock file that makes runs of one job exclude each other, whoever starts them."""
        return self.locks / f"{job}.lock"

    def changed(self) -> float:
        """Return when a name last came or went in the backups folder or among the manifests (Unix time), or now."""
        try:
            return max(self.backups.stat().st_mtime, self.manifests.stat().st_mtime)
        except OSError:
            return float("inf")

    def create(self) -> None:
        """Make the folders that are not there yet; raises OSError."""
        for folder in (self.staging, self.manifests, self.locks):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
