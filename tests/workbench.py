"""What tests of single rooms stand on: a clock one can set, an ear for events, small real backups, a small disk."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import bson
import msgspec
from bson import Int64
from bson.timestamp import Timestamp

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import (
    LOCAL,
    Artifact,
    Backup,
    CollectionStat,
    Consistency,
    Copy,
    CopyState,
    ErrorInfo,
    Kind,
    Manifest,
    OpTime,
    Policy,
    SourceInfo,
    StageRecord,
    Trigger,
    Verification,
)
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from nanumpay_backupd.pipeline.publish import commit, open_staging
from nanumpay_backupd.pipeline.report import Progress, Recorder, new_run
from nanumpay_backupd.settings.schema import JobSpec, MongoSource
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.secrets import Secret

__all__ = [
    "NOW",
    "Ear",
    "SetClock",
    "archive_bytes",
    "documents",
    "entries",
    "job_spec",
    "manifest_of",
    "published",
    "recorder",
    "slice_manifest",
    "small_disk",
]

NOW: Final = datetime(2026, 11, 21, 2, 0, 0, tzinfo=UTC)


class SetClock:
    """A clock that stands where it was set and moves only when somebody sleeps."""

    def __init__(self, now: datetime = NOW) -> None:
        self.moment = now
        self.slept = 0.0

    def now(self) -> datetime:
        """Return the set moment."""
        return self.moment

    def monotonic(self) -> float:
        """Return the seconds slept so far."""
        return self.slept

    def uptime(self) -> float:
        """Return as much as the moment says has passed: whoever sets it means that this time was lived through."""
        return (self.moment - NOW).total_seconds() + 1e9

    def sleep(self, seconds: float) -> None:
        """Move on by so much."""
        self.slept += seconds
        self.moment += timedelta(seconds=seconds)


class Ear:
    """Keeps every event of a run."""

    def __init__(self) -> None:
        self.stages: list[StageRecord] = []
        self.heard: list[Progress] = []
        self.messages: list[tuple[str, str, ErrorInfo | None]] = []
        self.published: list[tuple[str, int]] = []

    def stage(self, record: StageRecord) -> None:
        """Keep a stage's beginning or end."""
        self.stages.append(record)

    def progress(self, progress: Progress) -> None:
        """Keep how far it is."""
        self.heard.append(progress)

    def message(self, level: str, text: str, error: ErrorInfo | None = None, message: object = None) -> None:
        """Keep a line."""
        self.messages.append((level, text, error))

    def committed(self, artifact: str, size: int) -> None:
        """Keep the artifact's name."""
        self.published.append((artifact, size))


def recorder(catalog: Catalog, clock: SetClock, run: str = "run1") -> Recorder:
    """Return the bookkeeping of a run of the job ``nanumpay``."""
    return Recorder(new_run(run, "nanumpay", Trigger.MANUAL, clock.now()), catalog, Ear(), clock)


def job_spec(**changes: Any) -> JobSpec:
    """Return the job ``nanumpay``; ``changes`` replace single settings."""
    settings: dict[str, Any] = {
        "name": "nanumpay",
        "source": MongoSource(uri=Secret("mongodb://127.0.0.1:1/nanumpay"), database="nanumpay"),
        "schedule": None,
        "retention": Policy(count=7, days=30),
    }
    return JobSpec(**{**settings, **changes})


def documents(count: int, size: int = 100) -> bytes:
    """Return a BSON file's content: so many documents, each with ``size`` bytes of text that does not repeat."""
    return b"".join(bson.encode({"_id": at, "text": (f"{at:08x}" * (size // 8 + 1))[:size]}) for at in range(count))


def entries(*stamps: OpTime) -> bytes:
    """Return the content of an oplog slice: one entry for each of these oplog times."""
    return b"".join(
        bson.encode({"op": "i", "ns": "nanumpay.users", "o": {"_id": at}, "ts": Timestamp(*stamp), "t": Int64(1)})
        for at, stamp in enumerate(stamps)
    )


def archive_bytes(name: str, files: Mapping[str, bytes], *, member: int = 40_000, suffix: str = ".tar.gz") -> bytes:
    """Return an archive as the old way makes it, in gzip members of ``member`` plain bytes; names are used as given."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo(name)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = plain.getvalue()
    if suffix == ".tar":
        return data
    return b"".join(zlib.compress(data[at : at + member], 6, 31) for at in range(0, len(data), member))


def manifest_of(
    artifact: bytes,
    created: datetime = NOW,
    *,
    collections: Mapping[str, tuple[int, int]] | None = None,
    raw_bytes: int = 0,
    suffix: str = ".tar.gz",
    proven: bool | None = None,
    job: str = "nanumpay",
) -> Manifest:
    """Return the manifest of an artifact; ``collections`` gives documents and bytes by ``database.collection``."""
    backup = backup_id(job, created)
    stats = tuple(
        CollectionStat(database=ns.partition(".")[0], name=ns.partition(".")[2], documents=count, bytes=size, indexes=1)
        for ns, (count, size) in (collections or {}).items()
    )
    proofs = () if proven is None else (Verification(level="structure", at=created, ok=proven, seconds=0.1),)
    return Manifest(
        backup=backup,
        job=job,
        kind=Kind.FULL,
        run=f"run-{backup}",
        host="testhost",
        started=created,
        ended=created + timedelta(seconds=4),
        source=SourceInfo(
            type="mongodb",
            server_version="6.0.5",
            topology="standalone",
            databases=("nanumpay",),
            collections=stats,
        ),
        consistency=Consistency(level="none", reason="standalone"),
        artifact=Artifact(
            name=f"{backup}{suffix}",
            size=len(artifact),
            sha256=sha256(artifact).hexdigest(),
            compression="gzip" if suffix == ".tar.gz" else "none",
            level=2,
            raw_bytes=raw_bytes,
        ),
        tools={"mongodump": "100.7.0"},
        verification=proofs,
    )


def slice_manifest(
    artifact: bytes, start: OpTime, end: OpTime, count: int, raw_bytes: int, created: datetime = NOW
) -> Manifest:
    """Return the manifest of an oplog slice with ``count`` entries after ``start`` and up to ``end``."""
    manifest = manifest_of(artifact, created, raw_bytes=raw_bytes)
    backup = backup_id(manifest.job, created, Kind.INCREMENTAL)
    return msgspec.structs.replace(
        manifest,
        backup=backup,
        kind=Kind.INCREMENTAL,
        consistency=Consistency(
            level="point-in-time", start=str(start), end=str(end), moment=end.moment, entries=count
        ),
        artifact=msgspec.structs.replace(manifest.artifact, name=f"{backup}.bson.zst", compression="zstd", level=3),
        tools={},
    )


def published(
    layout: Layout, catalog: Catalog | None = None, created: datetime = NOW, *, proven: bool | None = True
) -> Backup:
    """Publish a small backup by the real way and enter it into the catalog; returns its record."""
    layout.create_slices()
    staging, lock = open_staging(layout, f"publishing-{os.getpid()}")
    name = backup_id("nanumpay", created)
    content = documents(3)
    data = archive_bytes(name, {f"{name}/nanumpay/users.bson": content})
    staged = staging / "artifact"
    staged.write_bytes(data)
    manifest = manifest_of(
        data, created, collections={"nanumpay.users": (3, len(content))}, raw_bytes=len(content), proven=proven
    )
    commit(layout, staged.parent, staged, manifest)
    remove_tree(staging)
    lock.release()
    state = {None: CopyState.UPLOADED, True: CopyState.VERIFIED, False: CopyState.CORRUPT}[proven]
    copy = Copy(
        backup=name, destination=LOCAL, state=state, key=manifest.artifact.name, size=len(data), updated=created
    )
    backup = backup_from_manifest(manifest, copy)
    if catalog is not None:
        catalog.save_backup(backup)
    return backup


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of ``size`` bytes at ``folder`` for the length of a with block; needs root, as CI is."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"tests of a full disk need root, to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a server that is being stopped may still have a file of it open.
        subprocess.run(["umount", "-l", folder], check=True)
