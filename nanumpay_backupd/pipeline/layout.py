"""Names and places: artifact names, the folders beside them. The one room that knows how a backups folder looks.

The application deletes everything in its backups folder whose name begins with ``nanumpay-backup-`` except the newest
``.tar.gz``; so only fulls have such a name there. Oplog slices lie in a folder of their own, ``slices``, and what else
is encrypted in ``encrypted``; what is not an artifact lives below ``.backupd``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.model import Kind
from nanumpay_backupd.system.files import make_private_dir

__all__ = [
    "ARTIFACT",
    "SAFETY_SUFFIX",
    "SEALS",
    "Layout",
    "backup_id",
    "form_name",
    "group_id",
    "group_of",
    "is_slice",
    "job_of",
    "lane",
    "may_be_slice",
    "parse_artifact",
    "plain_name",
    "sealed_by",
]

MANIFEST_SUFFIX: Final = ".manifest.json"
ARTIFACT: Final = re.compile(
    r"(?P<id>(?P<job>[a-z0-9][a-z0-9-]*)-(?:(?P<tar>backup|collection)|(?P<slice>slice|diff))"
    r"-(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d))(?P<suffix>(?(tar)\.tar(?:\.gz)?|(?:\.bson\.zst|\.tar(?:\.gz)?)))"
    r"(?:(?P<form>\.k[1-9]\d{0,3})?(?P<seal>\.gpg|\.age))?"
)
_ID: Final = re.compile(r"(?P<job>[a-z0-9][a-z0-9-]*)-(?:backup|collection|slice|diff)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")
_SLICE: Final = re.compile(
    r"[a-z0-9][a-z0-9-]*-(?:slice|diff)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:(?:\.bson\.zst|\.tar(?:\.gz)?)"
    r"(?:(?:\.k[1-9]\d{0,3})?(?:\.gpg|\.age))?)?"
)
_GROUP: Final = re.compile(r"(?P<group>[a-z][a-z0-9-]*)-group-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")
_FORM: Final = re.compile(r"\.k[1-9]\d{0,3}$")
GROUP_SUFFIX: Final = ".json"
"""Ends the name of a group's manifest, also at the destinations."""
SEALS: Final = {".gpg": "openpgp", ".age": "age"}
"""What ends the name of an encrypted artifact, and the method."""
_WORDS: Final = {
    Kind.FULL: "backup",
    Kind.LEGACY: "backup",
    Kind.COLLECTION: "collection",
    Kind.INCREMENTAL: "slice",
    Kind.DIFFERENTIAL: "diff",
}
SAFETY_SUFFIX: Final = "-safety"
"""Ends the job's name in safety backups, which a restore makes: retention and ``latest`` then leave them alone."""
_LANES: Final = {"slice": "slices", "verify": "checks", "drill": "checks"}
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"


def backup_id(job: str, moment: datetime, kind: Kind = Kind.FULL) -> str:
    """Return a backup's id, which also names its artifact and the folder inside; ``moment`` counts to the second."""
    return f"{job}-{_WORDS[kind]}-{moment.astimezone(UTC).strftime(_STAMP)}"


def group_id(group: str, moment: datetime) -> str:
    """Return the id of what a run of a group made; ``moment`` counts to the second."""
    return f"{group}-group-{moment.astimezone(UTC).strftime(_STAMP)}"


def group_of(name: str) -> str:
    """Return the group that such an id names, empty when it is none."""
    match = _GROUP.fullmatch(name)
    return match["group"] if match is not None else ""


def lane(job: str, action: str) -> str:
    """Return what a run excludes others of: its job, or a lane of its own beside the job's backups."""
    beside = _LANES.get(action)
    return f"{job}.{beside}" if beside else job


def is_slice(name: str) -> bool:
    """Tell whether a backup's id, or its artifact's name, is that of a slice."""
    return _SLICE.fullmatch(name) is not None


def may_be_slice(name: str) -> bool:
    """Tell whether it is worth to look closer, with `is_slice`: that is slow for tens of thousands of names."""
    return "-slice-" in name or "-diff-" in name


def job_of(backup: str) -> str:
    """Return the job that a backup's id names, empty when it is no such id."""
    match = _ID.fullmatch(backup)
    return match["job"] if match is not None else ""


def sealed_by(name: str) -> str:
    """Return the method by which an artifact is encrypted, by its name, empty: it is not."""
    return SEALS.get(name[-4:], "")


def plain_name(name: str) -> str:
    """Return an artifact's name without what encryption added."""
    return _FORM.sub("", name[:-4]) if sealed_by(name) else name


def form_name(sealed: str, number: int) -> str:
    """Return the name of an artifact that was encrypted anew, to tell it from the others; from 1 on.

    ``sealed`` is its name with the suffix of the method: ``ID.tar.gz.gpg`` becomes ``ID.tar.gz.k1.gpg``.
    """
    return f"{sealed[:-4]}.k{number}{sealed[-4:]}"


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
        self.slices = backups / "slices"
        self.encrypted = backups / "encrypted"
        self.private = backups / ".backupd"
        self.staging = self.private / "staging"
        self.manifests = self.private / "manifests"
        self.locks = self.private / "locks"
        self.pinned = self.private / "pins"
        self.outbox = self.private / "outbox"
        self.groups = self.private / "groups"

    def artifact(self, name: str) -> Path:
        """Return where an artifact stands once it is published."""
        if self.in_slices(name):
            return self.slices / name
        return (self.encrypted if sealed_by(name) else self.backups) / name

    @staticmethod
    def in_slices(name: str) -> bool:
        """Tell whether an artifact of that name belongs into the folder of the slices."""
        match = ARTIFACT.fullmatch(name) if may_be_slice(name) else None
        return match is not None and bool(match["slice"])

    def waiting(self, name: str) -> Path:
        """Return where an artifact that is encrypted for the destinations only waits to be uploaded."""
        return self.outbox / name

    def manifest(self, backup: str) -> Path:
        """Return where a backup's manifest stands once it is committed."""
        return self.manifests / f"{backup}.json"

    def pins(self, backup: str) -> Path:
        """Return where the pins of a backup stand, if it has any."""
        return self.pinned / f"{backup}.json"

    def group(self, identifier: str) -> Path:
        """Return where the manifest of a group stands once it is committed."""
        return self.groups / f"{identifier}{GROUP_SUFFIX}"

    def groups_lock(self) -> Path:
        """Return the lock file of whoever changes a group's manifest; no job's has such a name."""
        return self.locks / ".groups.lock"

    def run_staging(self, run: str) -> Path:
        """Return the folder in which one run works."""
        return self.staging / run

    def lock(self, job: str, action: str = "backup") -> Path:
        """Return the lock file that makes runs of one lane exclude each other, whoever starts them."""
        return self.locks / f"{lane(job, action)}.lock"

    def changed(self) -> float:
        """Return when a name last came or went among artifacts or manifests (Unix time), or now."""
        try:
            # Where none were ever made there is no folder for them.
            more = [folder for folder in (self.slices, self.encrypted) if folder.is_dir()]
            return max(folder.stat().st_mtime for folder in (self.backups, *more, self.manifests))
        except OSError:
            return float("inf")

    def create(self) -> None:
        """Make the folders that are not there yet; raises OSError."""
        self._make(self.staging, self.manifests, self.locks)

    def create_slices(self) -> None:
        """Make the folder for slices as well; raises OSError."""
        self.create()
        self._make(self.slices)

    def create_encrypted(self) -> None:
        """Make the folders for encrypted artifacts as well; raises OSError."""
        self.create()
        self._make(self.encrypted, self.outbox)

    def create_groups(self) -> None:
        """Make the folder for the manifests of groups as well; raises OSError."""
        self.create()
        self._make(self.groups)

    def _make(self, *folders: Path) -> None:
        for folder in folders:
            make_private_dir(folder)
