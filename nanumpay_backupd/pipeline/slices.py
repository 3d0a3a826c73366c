"""One oplog slice from start to end: where it begins, capture, commit, proof, upload. Knows no oplog format itself.

A slice continues the job's stream (docs/decisions/0007-one-stream-of-slices.md). One that finds nothing new for the
job's databases leaves neither a file nor a record: only the stream's position moves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, DecryptError, SourceError, SpaceError, VerifyError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import (
    SLICES,
    Artifact,
    Backup,
    BackupState,
    Consistency,
    CopyState,
    Kind,
    Manifest,
    OpTime,
    Outcome,
    Run,
    SourceInfo,
    Stage,
    Stream,
)
from nanumpay_backupd.pipeline.backup import announce, name_backup, recorded, upload_new
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outbox import sweep_outbox
from nanumpay_backupd.pipeline.produce import prepare_keys
from nanumpay_backupd.pipeline.proving import encrypt_staged, prove_and_encrypt, prove_local
from nanumpay_backupd.pipeline.publish import commit, open_staging
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.settings.schema import MongoSource, RunSpec
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.base import Source
from nanumpay_backupd.sources.oplog_slice import OplogReader, OplogState, SliceRead
from nanumpay_backupd.system.files import free_bytes, remove_tree
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.transforms.zstd import LEVEL, Written, ZstdWriter

__all__ = ["choose_start", "take_slice"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50
"""How many fulls are looked through for one to begin at."""
_CUT_OFF: Final = 2
"""How many of the newest slices may have been left unfinished: one, and what was made while nobody looked."""
_RESERVE: Final = 64 << 20
"""Bytes left free on the filesystem for others."""
_SUFFIX: Final = ".bson.zst"
_WHAT: Final = "slices of the oplog"
OpenReader = Callable[[MongoSource], OplogReader]


class Start(msgspec.Struct, frozen=True):
    """Where a slice begins: the oplog is read from ``read``, the slice counts from ``after``, the end of ``parent``.

    The two differ when there was nothing to save in between. It goes no further than ``until``: the moment of a full
    that was made meanwhile, so that the full's own slices begin where it ends. ``fresh``: the stream begins anew here.
    """

    read: OpTime
    after: OpTime
    parent: str
    chain: str
    until: OpTime | None = None
    fresh: bool = False


def choose_start(kind: Kind, stream: Stream | None, base: Backup | None) -> list[Start]:
    """Return where a slice may begin, the best place first; empty: nowhere, a full has to be made.

    ``base`` is the newest good full of one moment.
    """
    begin = None
    if base is not None:
        moment = OpTime.parse(base.end)
        begin = Start(moment, moment, base.id, base.id, fresh=True)
    if kind is Kind.DIFFERENTIAL:
        return [msgspec.structs.replace(begin, fresh=False)] if begin is not None else []
    found = []
    position = OpTime.parse(stream.position) if stream is not None else None
    if stream is not None and position is not None and not stream.broken:
        ahead = begin.after if begin is not None and begin.after > position else None
        # A slice is of the chain of the newest full that it leads on from.
        chain = begin.parent if begin is not None and ahead is None else stream.chain
        found.append(Start(position, OpTime.parse(stream.since), stream.parent, chain, until=ahead))
    if begin is not None and (position is None or begin.after > position):
        found.append(begin)
    return found


def _nowhere(stream: Stream | None) -> BackupdError:
    """Return the fault of a slice for which there is no place to begin at."""
    if stream is not None and stream.broken:
        return SourceError(
            f"the changes cannot follow on from the last slice: {stream.broken}",
            hint="a new full is made by itself, and the slices go on from there",
            code="chain-broken",
            retryable=False,
        )
    return SourceError(
        "there is no verified full of one moment yet that slices could follow on from",
        hint="one is made by itself; where it stays without a moment, its warnings say why: backupctl show latest",
        code="chain-missing",
        retryable=False,
    )


def _too_far_back(base: Backup, fault: BackupdError) -> BackupdError:
    """Return the fault of a differential whose full the oplog does not reach back to; the stream is not hurt by it."""
    return SourceError(
        f"the oplog does not reach back to {base.id}: {fault.message}",
        hint="take incremental slices (pitr, incremental), make fulls more often, or the oplog larger "
        "(replSetResizeOplog)",
        code="full-too-old",
        retryable=False,
    )


def take_slice(
    spec: RunSpec, source: Source, open_reader: OpenReader, catalog: Catalog, recorder: Recorder, open_store: OpenStore
) -> Run:
    """Save what was written since the last slice (or since the last full) and return the finished Run."""

    def work() -> list[BackupdError]:
        with open_reader(mongodb_of(spec.job.source, _WHAT)) as reader, Keyring(spec.job.encryption) as keys:
            return _Slice(spec, source, reader, catalog, recorder, open_store, keys=keys).take()

    return recorded(spec, Layout(spec.paths.backups), recorder, work, partly=Outcome.DEGRADED)


class _Slice:
    """One slice under way."""

    def __init__(
        self,
        spec: RunSpec,
        source: Source,
        reader: OplogReader,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._keys = keys
        self._spec = spec
        self._kind = Kind(spec.kind)
        self._source = source
        self._reader = reader
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._layout = Layout(spec.paths.backups)
        self._now = recorder.clock.now()

    def take(self) -> list[BackupdError]:
        """Capture, commit, prove and upload; returns the faults of destinations."""
        self._layout.create_slices()
        faults = self._take_up()
        ended = False
        while not ended:  # up to a full's moment; the rest is the full's own
            more, ended = self._take_one()
            faults += more
        return faults

    def _take_up(self) -> list[BackupdError]:
        """Prove and upload what a run committed that was cut off, so that the stream goes on behind it."""
        faults: list[BackupdError] = []
        for summary in reversed(self._catalog.backups(self._spec.job.name, _CUT_OFF, kinds=SLICES)):
            if not self._layout.artifact(summary.artifact).exists():
                continue
            if summary.state is BackupState.COMMITTED:
                self._prove_late(summary.id)
            backup = self._catalog.backup(summary.id)
            if backup is not None and backup.manifest is not None and backup.state is BackupState.VERIFIED:
                self._join(backup, backup.manifest)
                faults += self._bring_where_it_is_not(backup)
        return faults

    def _prove_late(self, name: str) -> None:
        backup = self._catalog.backup(name)
        if backup is None or backup.manifest is None:
            return
        self._recorder.loud()
        try:
            prove_local(self._source, self._layout, backup.manifest, self._catalog, self._recorder, self._keys)
        except (VerifyError, DecryptError) as error:
            text = f"{name}, which a run committed that was cut off, is not good: {error.message}"
            self._recorder.warn(text, message=Message.COPY_CORRUPT)

    def _join(self, made: Backup, manifest: Manifest) -> None:
        """Let the stream go on behind a proven slice of which it does not know."""
        stream = self._catalog.stream(made.job)
        if stream is None or made.kind is not Kind.INCREMENTAL:
            return
        position, start = OpTime.parse(stream.position), OpTime.parse(made.start)
        anew = manifest.parent == manifest.chain and start >= position
        if OpTime.parse(made.end) > position and (made.start == stream.since or anew):
            self._catalog.save_stream(
                msgspec.structs.replace(
                    stream,
                    position=made.end,
                    since=made.end,
                    parent=made.id,
                    chain=manifest.chain or "",
                    broken="",
                )
            )

    def _bring_where_it_is_not(self, backup: Backup) -> list[BackupdError]:
        there = {copy.destination for copy in backup.copies}
        missing = tuple(place for place in self._spec.job.destinations if place.name not in there)
        job = msgspec.structs.replace(self._spec.job, destinations=missing)
        spec = msgspec.structs.replace(self._spec, job=job)
        return upload_new(spec, backup, self._catalog, self._layout, self._recorder, self._open_store, keys=self._keys)

    def _take_one(self) -> tuple[list[BackupdError], bool]:
        """Take one slice; tells whether it reached the present."""
        staging, lock = open_staging(self._layout, self._spec.run)
        try:
            output = staging / f"slice{_SUFFIX}"
            with self._recorder.stage(Stage.CAPTURE):
                state = self._reader.state()
                start, read, result = self._capture(output)
                if not read.entries:
                    self._move(start, read, state)
                    self._recorder.detail(f"nothing new since {start.after.moment:%Y-%m-%d %H:%M:%S} UTC")
                    return [], start.until is None
                self._recorder.loud()
                many = "entry" if read.entries == 1 else "entries"
                self._recorder.detail(f"{read.entries:,} oplog {many}, {human_size(result.size)}")
            sweep_outbox(self._layout, self._catalog, held=self._layout.lock(self._spec.job.name, self._spec.action))
            # Only now: a slice that holds nothing asks for no key.
            prepare_keys(self._keys, self._spec.job, self._recorder)
            manifest = self._commit(staging, output, start, read, result, state)
        finally:
            remove_tree(staging)
            lock.release()
        if read.broken:
            text = f"the changes after this slice cannot follow on: {read.broken}"
            self._recorder.warn(text, message=Message.CHAIN_BROKEN)
        backup = prove_and_encrypt(
            self._spec.job, self._source, self._layout, manifest, self._catalog, self._recorder, keys=self._keys
        )
        # Only now: one that is not good leaves the stream where it was, and the next one takes the changes up again.
        self._move(start, read, state, manifest.backup)
        faults = upload_new(
            self._spec, backup, self._catalog, self._layout, self._recorder, self._open_store, keys=self._keys
        )
        return faults, start.until is None or bool(read.broken)

    def _capture(self, output: Path) -> tuple[Start, SliceRead, Written]:
        """Read from the best place that the oplog still holds; the stream is noted as broken when there is none."""
        stream, base = self._catalog.stream(self._spec.job.name) or self._remembered(), self._base()
        starts = choose_start(self._kind, stream, base)
        fault = _nowhere(stream)
        for start in starts:
            try:
                read, written = self._read(start, output)
            except SourceError as error:
                if error.code != "chain-broken":
                    raise
                fault = error
                continue
            if start.fresh and stream is not None and self._promised:
                self._recorder.warn(f"the slices begin anew at {start.parent}; the changes before it are not saved")
            return start, read, written
        if self._kind is Kind.DIFFERENTIAL and base is not None:
            raise _too_far_back(base, fault)
        if stream is not None and self._kind is Kind.INCREMENTAL:
            broken = stream.broken or fault.message
            self._catalog.save_stream(msgspec.structs.replace(stream, broken=broken))
        raise fault

    @property
    def _promised(self) -> bool:
        """Tell whether the job's changes are to be saved without a gap, not only when somebody asks for it."""
        return bool(self._spec.job.pitr or self._spec.job.incremental)

    def _remembered(self) -> Stream | None:
        """Return the stream as the newest good slice tells it, where the catalog was lost or made anew."""
        for backup in self._catalog.backups(self._spec.job.name, _LOOKED_AT, kinds=(Kind.INCREMENTAL,)):
            if backup.state is not BackupState.VERIFIED or not any(copy.state in _PRESENT for copy in backup.copies):
                continue
            whole = self._catalog.backup(backup.id)
            chain = whole.manifest.chain if whole is not None and whole.manifest is not None else None
            return Stream(
                job=backup.job,
                position=backup.end,
                parent=backup.id,
                since=backup.end,
                chain=chain or "",
                checked=backup.created,
            )
        return None

    def _base(self) -> Backup | None:
        """Return the newest good full of one moment of which a copy is left.

        For a differential the newest of those that were meant for every destination, where there is one: at a place
        without its full it would lead on from nothing.
        """
        able = [
            backup
            for backup in self._catalog.backups(self._spec.job.name, _LOOKED_AT, kinds=(Kind.FULL,))
            if backup.state is BackupState.VERIFIED
            and backup.end
            and any(copy.state in _PRESENT for copy in backup.copies)
        ]
        everywhere = [backup for backup in able if backup.only_to is None]
        preferred = everywhere if self._kind is Kind.DIFFERENTIAL and everywhere else able
        return preferred[0] if preferred else None

    def _read(self, start: Start, output: Path) -> tuple[SliceRead, Written]:
        source, recorder = mongodb_of(self._spec.job.source, _WHAT), self._recorder
        databases = (source.database,) if source.database else ()
        output.unlink(missing_ok=True)  # what was begun from a place that the oplog no longer holds
        with ZstdWriter(output) as writer:
            told = 0

            def check(entries: int, size: int) -> None:
                nonlocal told
                self._watch_space()
                recorder.progress(size - told, entries)
                told = size

            read = self._reader.read(start.read, databases, writer.write, check, until=start.until)
            return read, writer.finish()

    def _watch_space(self) -> None:
        free = free_bytes(self._layout.staging)
        if free < _RESERVE:
            raise SpaceError(
                f"the disk of {self._layout.backups} is nearly full ({human_size(free)} left): the slice was stopped",
                hint="free space there or set [paths] backups to a larger disk; the changes stay in the oplog for now",
            )

    def _commit(
        self, staging: Path, output: Path, start: Start, read: SliceRead, result: Written, state: OplogState
    ) -> Manifest:
        started, identifier = name_backup(self._spec, self._layout, self._catalog, self._recorder, self._kind)
        artifact = output.rename(staging / f"{identifier}{_SUFFIX}")
        manifest = self._manifest(identifier, started, start, read, result, state)
        if self._keys.seals_here:
            artifact, manifest = encrypt_staged(self._source, artifact, manifest, self._recorder, self._keys)
        with self._recorder.stage(Stage.PUBLISH):
            commit(self._layout, staging, artifact, manifest)
            announce(manifest, self._catalog, self._recorder)
            self._recorder.detail(manifest.artifact.name)
        return manifest

    def _move(self, start: Start, read: SliceRead, state: OplogState, made: str = "") -> None:
        """Note how far the changes are captured now; a differential is beside the stream."""
        if self._kind is Kind.DIFFERENTIAL:
            return
        self._catalog.save_stream(
            Stream(
                job=self._spec.job.name,
                position=str(read.end),
                parent=made or start.parent,
                since=str(read.end if made else start.after),
                chain=start.chain,
                checked=self._now,
                broken=read.broken,
                first=str(state.first),
                newest=str(state.newest),
                window=state.window,
            )
        )

    def _manifest(
        self, identifier: str, started: datetime, start: Start, read: SliceRead, result: Written, state: OplogState
    ) -> Manifest:
        source = mongodb_of(self._spec.job.source, _WHAT)
        return Manifest(
            backup=identifier,
            job=self._spec.job.name,
            kind=self._kind,
            run=self._recorder.run.id,
            host=socket.gethostname(),
            started=started,
            ended=self._recorder.clock.now(),
            parent=start.parent,
            chain=start.chain,
            source=SourceInfo(
                type="mongodb",
                server_version=state.version,
                topology="replica-set",
                databases=(source.database,) if source.database else (),
                collections=(),
            ),
            consistency=Consistency(
                level="point-in-time",
                start=str(start.after),
                end=str(read.end),
                moment=read.end.moment,
                entries=read.entries,
            ),
            artifact=Artifact(
                name=f"{identifier}{_SUFFIX}",
                size=result.size,
                sha256=result.sha256,
                compression="zstd",
                level=LEVEL,
                raw_bytes=result.raw_bytes,
            ),
            tools={},
        )
