"""From source to staged artifact: preflight, dump, compress, encrypt. Publishes nothing."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, SpaceError
from nanumpay_backupd.model import FULLS, Artifact, BackupState, Kind, Manifest, Stage
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outbox import Encrypting
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.sources.base import Dump, FolderSource, Harvest, Since, Source, StreamSource
from nanumpay_backupd.system.files import can_punch_holes, free_bytes, is_disk_full
from nanumpay_backupd.system.sandbox import way_out
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.transforms.codec import Codec, gzip_codec, stored_codec
from nanumpay_backupd.transforms.flowing import FlowingArchive
from nanumpay_backupd.transforms.growing import ArchiveResult, GrowingArchive, writer_into
from nanumpay_backupd.wording import counted

__all__ = ["encrypted_in_words", "preflight", "prepare_keys", "produce", "staged_state"]

_BACKLOG_LIMIT: Final = 64 << 20
"""Raw bytes the dump may be ahead of compression before it is held: keeps staging near the artifact's own size."""
_RESERVE: Final = 64 << 20
"""Bytes left free on the filesystem for others: the dump stops before it takes the last of the disk."""
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the free space while an archive flows."""
_REST: Final = 0.015
"""Seconds between two looks; what is in the threads lasts longer than this."""
_FIRST_RATIO: Final = 0.6
"""Artifact bytes per raw byte assumed before there is a backup to learn from (BSON usually gets to 0.1 to 0.3)."""
_MARGIN: Final = 1.25
_FULL_HINT: Final = (
    "free space there or set [paths] backups to a larger disk; nothing was published, older backups are untouched"
)
_DIRECTORY_HINT: Final = "create it and give it to the service's user, or set [paths] backups in backupd.toml"


def preflight(
    source: Source, job: JobSpec, layout: Layout, catalog: Catalog, recorder: Recorder, keys: Keyring | None = None
) -> bool:
    """Check source, tools, keys, folder and space before anything is written; returns whether holes can be punched.

    Raises SourceError, ToolError, SpaceError (with bytes needed and free) or BackupdError (``folder-unusable``).
    """
    estimate = source.preflight()
    for warning in estimate.warnings:
        recorder.warn(warning)
    keys = keys or Keyring()
    prepare_keys(keys, job, recorder)
    try:
        layout.create()
        if keys.seals_here:
            layout.create_encrypted()
        punch = can_punch_holes(layout.staging)
        free = free_bytes(layout.staging)
    except OSError as error:
        raise _folder_error(error, layout) from None
    twice = keys.seals_for(job) or (keys.seals_here and not keys.provable)
    needed = _needed(estimate.raw_bytes, job, catalog, punch=punch, twice=twice) + estimate.work_bytes
    if free < needed:
        raise SpaceError(
            f"not enough room in {layout.backups}: this needs about {human_size(needed)}, {human_size(free)} are free",
            hint="free space there, shorten retention, or set [paths] backups to a larger disk; nothing was written",
        )
    recorder.detail(estimate.summary)
    return punch


def prepare_keys(keys: Keyring, job: JobSpec, recorder: Recorder) -> None:
    """Look at the keys before anything is made, if any are needed.

    Raises as `Keyring.prepare` where nothing could be kept without them; a plain backup here is made nevertheless, and
    its copies elsewhere wait.
    """
    if not keys.seals_here and not keys.seals_for(job):
        return
    try:
        for warning in keys.prepare(recorder.clock.now()):
            recorder.warn(warning)
    except BackupdError as error:
        if keys.seals_here:
            raise
        recorder.warn(f"the copies elsewhere cannot be encrypted, and are not made: {error.message}", error)


def _needed(raw: int, job: JobSpec, catalog: Catalog, *, punch: bool, twice: bool) -> int:
    """Estimate the bytes this run will occupy at its peak, from the last backup's ratio where there is one.

    ``twice``: the artifact is there plain and encrypted.
    """
    ratio = _learned_ratio(job, catalog)
    artifact = int(raw * ratio) * (2 if twice else 1)
    staging = min(_BACKLOG_LIMIT + (8 << 20), raw) if punch else raw
    return artifact + staging + _RESERVE


def _learned_ratio(job: JobSpec, catalog: Catalog) -> float:
    if not job.compress:
        return 1.02
    for summary in catalog.backups(job.name, limit=5, kinds=FULLS):
        if summary.state is not BackupState.VERIFIED:
            continue
        backup = catalog.backup(summary.id)
        manifest = backup.manifest if backup is not None else None
        if manifest is not None and manifest.artifact.compression == "gzip" and manifest.artifact.raw_bytes > 0:
            return manifest.artifact.size / manifest.artifact.raw_bytes * _MARGIN
    return _FIRST_RATIO


def produce(
    source: Source,
    job: JobSpec,
    backup: str,
    started: datetime,
    staging: Path,
    recorder: Recorder,
    *,
    punch: bool,
    kind: Kind = Kind.FULL,
    keys: Keyring | None = None,
    since: Since | None = None,
    beside: Encrypting | None = None,
) -> tuple[Path, Manifest]:
    """Dump and compress into ``staging``; returns the staged artifact (not yet durable) and its manifest.

    Where it is to be encrypted here, and can be decrypted to prove it, the archive goes straight to the tool: its plain
    bytes never touch the disk. Where it cannot, it is returned plain, to be proven first. With ``since`` it is an
    increment. What the next one needs (`Harvest.state`) is then in `staged_state`. ``beside`` encrypts the
    archive while it is put together, where only the destinations get an encrypted one.
    """
    codec = gzip_codec(job.compression_level) if job.compress else stored_codec()
    keys = keys or Keyring()
    output = staging / f"{backup}{codec.suffix}"
    try:
        with contextlib.ExitStack() as stack:
            sealed = None
            if keys.seals_here and keys.provable:
                # From now on: what makes a key of a passphrase takes its time, and the dump does too.
                output = output.with_name(output.name + keys.suffix)
                sealed = stack.enter_context(keys.writer(output, read_back=True))
            elsewhere = beside if keys.seals_for(job) else None
            into = sealed.write if sealed is not None else _written(output, elsewhere, stack)
            if isinstance(source, StreamSource):
                harvest, result = _produce_stream(source, codec, staging, into, recorder, since)
            else:
                assert isinstance(source, FolderSource), "there are two forms of sources"
                archive = _growing(staging, backup, codec, started, punch=punch)
                stack.callback(archive.close)
                harvest, result = _produce_folder(source, archive, staging, into, recorder, since)
            if harvest.state is not None:
                harvest.state.replace(staged_state(staging))
            manifest = _manifest(job, backup, started, recorder, kind=kind, harvest=harvest, result=result, codec=codec)
            if sealed is not None:
                with recorder.stage(Stage.ENCRYPT):
                    artifact = sealed.finish(manifest.artifact)
                    recorder.detail(encrypted_in_words(artifact))
                manifest = msgspec.structs.replace(manifest, artifact=artifact)
    except OSError as error:
        raise _write_error(error, staging) from None
    if elsewhere is not None:
        elsewhere.whole(manifest)
    return output, manifest


def _written(output: Path, elsewhere: Encrypting | None, stack: contextlib.ExitStack) -> Callable[[bytes], object]:
    """Return what takes the archive's bytes: into a new file, which is encrypted beside that."""
    write = writer_into(stack.enter_context(output.open("xb", buffering=0)))
    if elsewhere is None:
        return write
    elsewhere.follow(output)

    def and_tell(data: bytes) -> None:
        write(data)
        elsewhere.grown(len(data))

    return and_tell


def staged_state(staging: Path) -> Path:
    """Return where what the next increment needs is left, if there is such a thing."""
    return staging / "state"


def _growing(staging: Path, backup: str, codec: Codec, started: datetime, *, punch: bool) -> GrowingArchive:
    folder, scratch = staging / "dump", staging / "parts"
    folder.mkdir()
    scratch.mkdir()
    return GrowingArchive(folder, scratch, name=backup, codec=codec, mtime=started.timestamp(), punch=punch)


def _produce_folder(
    source: FolderSource,
    archive: GrowingArchive,
    staging: Path,
    into: Callable[[bytes], object],
    recorder: Recorder,
    since: Since | None,
) -> tuple[Harvest, ArchiveResult]:
    folder = staging / "dump"
    with recorder.stage(Stage.DUMP):
        begin = source.start if since is None else (lambda folder: source.follow_on(folder, since))
        harvest = _dump(begin, folder, archive, recorder, staging)
    for warning in harvest.warnings:
        recorder.warn(warning)
    with recorder.stage(Stage.COMPRESS):
        result = archive.finish(into, recorder.progress, harvest.leave_out)
        recorder.detail(f"{human_size(result.raw_bytes)} of data in {human_size(result.size)}")
    return harvest, result


def _produce_stream(
    source: StreamSource,
    codec: Codec,
    staging: Path,
    into: Callable[[bytes], object],
    recorder: Recorder,
    since: Since | None,
) -> tuple[Harvest, ArchiveResult]:
    """Let the source's tool write its archive, compressed on the way; a tool that is not read from waits."""
    work = staging / "work"
    work.mkdir()
    with recorder.stage(Stage.DUMP), contextlib.ExitStack() as stack:
        stream = source.open(work, since)
        stack.callback(stream.kill)
        archive = FlowingArchive(stream.fileno(), into, codec=codec)
        stack.callback(archive.close)
        told, looked = 0, recorder.clock.monotonic()
        while archive.step():
            recorder.progress(archive.read - told, stream.documents)
            told = archive.read
            if recorder.clock.monotonic() - looked > _LOOK_EVERY:
                _watch_space(staging)
                looked = recorder.clock.monotonic()
        result = archive.finish()
        harvest = stream.harvest(result.raw_bytes)
        recorder.progress(archive.read - told, harvest.documents)
        recorder.detail(f"{_held(harvest)}, {human_size(result.raw_bytes)} in {human_size(result.size)}")
    for warning in harvest.warnings:
        recorder.warn(warning)
    return harvest, result


def _held(harvest: Harvest) -> str:
    info = harvest.source
    return counted(info.type, harvest.documents, len(info.collections) or len(info.parts))


def encrypted_in_words(artifact: Artifact) -> str:
    """Say by what and for whom an artifact was encrypted."""
    count = len(artifact.seal.recipients) if artifact.seal is not None else 0
    whom = f"to {count} {'key' if count == 1 else 'keys'}" if count else "with a passphrase"
    return f"{artifact.encryption} {whom}, {human_size(artifact.size)}"


def _dump(
    begin: Callable[[Path], Dump], folder: Path, archive: GrowingArchive, recorder: Recorder, staging: Path
) -> Harvest:
    """Let the dump run with the compression close behind; hold it when it gets too far ahead."""
    dump = begin(folder)
    try:
        told = 0
        while dump.running:
            busy = archive.step()
            backlog = archive.backlog
            if backlog > _BACKLOG_LIMIT:
                dump.pause()
            elif backlog < _BACKLOG_LIMIT // 2:
                dump.resume()
            written = archive.written
            recorder.progress(written - told, dump.documents)
            told = written
            if not busy:
                _watch_space(staging)
                recorder.clock.sleep(_REST)
        harvest = dump.harvest(archive.sizes())
        recorder.progress(archive.written - told, harvest.documents)
        recorder.detail(_held(harvest))
    finally:
        dump.resume()
        dump.kill()
    return harvest


def _watch_space(staging: Path) -> None:
    free = free_bytes(staging)
    if free < _RESERVE // 4:
        raise SpaceError(
            f"the disk of {staging.parent.parent.parent} filled up during the dump ({human_size(free)} left): stopped",
            hint=_FULL_HINT,
        )


def _manifest(
    job: JobSpec,
    backup: str,
    started: datetime,
    recorder: Recorder,
    *,
    kind: Kind,
    harvest: Harvest,
    result: ArchiveResult,
    codec: Codec,
) -> Manifest:
    return Manifest(
        backup=backup,
        job=job.name,
        kind=kind,
        run=recorder.run.id,
        host=socket.gethostname(),
        started=started,
        ended=recorder.clock.now(),
        source=harvest.source,
        consistency=harvest.consistency,
        artifact=Artifact(
            name=f"{backup}{codec.suffix}",
            size=result.size,
            sha256=result.sha256,
            compression=codec.name,
            level=codec.level,
            raw_bytes=result.raw_bytes,
        ),
        tools=harvest.tools,
    )


def _write_error(error: OSError, staging: Path) -> BackupdError:
    if is_disk_full(error):
        return SpaceError(
            f"the disk of {staging} is full",
            hint=_FULL_HINT,
        )
    return BackupdError(
        f"writing to {staging} failed: {os.strerror(error.errno) if error.errno else error}",
        hint="check the disk (journalctl -k) and the folder's rights; nothing was published",
        code="write-failed",
        retryable=True,
    )


def _folder_error(error: OSError, layout: Layout) -> BackupdError:
    if is_disk_full(error):
        return SpaceError(f"the disk of {layout.backups} is full", hint="free space there; nothing was written")
    return BackupdError(
        f"the backups folder {layout.backups} cannot be used: {os.strerror(error.errno or 0)}",
        hint=way_out(layout.backups) or _DIRECTORY_HINT,
        code="folder-unusable",
    )
