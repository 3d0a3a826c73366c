"""A drill from start to end: a backup is restored into a scratch place, compared with what was dumped, thrown away.

preflight → fetch (of a remote copy) → check → restore → compare. Nothing the job backs up is touched. What is proven is
kept with the backup, with the time that a restore took; what does not pass makes it corrupt, and the run has failed. A
fault that says nothing about the backup (no room, no mongod, a killed tool) leaves it as it was, and the run degraded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    BackupdError,
    CancelledError,
    NotFoundError,
    RefusedError,
    SpaceError,
    ToolError,
    VerifyError,
)
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Run,
    Stage,
    Trigger,
    Verification,
    error_info,
)
from nanumpay_backupd.pipeline.backup import recorded
from nanumpay_backupd.pipeline.fetch import (
    RESERVE,
    finish_restoring,
    make_sure_of_room,
    obtain,
    placing,
)
from nanumpay_backupd.pipeline.instead import other_choice
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import BY_VERIFICATION, pin
from nanumpay_backupd.pipeline.proving import with_digests, with_proof
from nanumpay_backupd.pipeline.publish import open_staging, rewrite_manifest, sweep
from nanumpay_backupd.pipeline.recheck import PINNED
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import choose_copy
from nanumpay_backupd.pipeline.unpack import OPLOG, Unpacker
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import prove
from nanumpay_backupd.settings.schema import MongoSource, RunSpec, VerifyOrder
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.base import Source
from nanumpay_backupd.system.files import free_bytes, remove_tree
from nanumpay_backupd.system.units import human_size

if TYPE_CHECKING:
    from nanumpay_backupd.sources.restored import Findings, Replayed
    from nanumpay_backupd.sources.scratch import Scratch

__all__ = ["drill"]

_PER_RAW_BYTE: Final = 1.3
"""Bytes on the disk for a byte of BSON: unpacked, and once more in the server's compressed files."""
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_SHOWN: Final = 3
_EARLIER: Final = 500
"""How many runs back the databases of dead drills are looked for."""
OpenSource = Callable[[MongoSource], Source]


def drill(spec: RunSpec, open_source: OpenSource, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do the drill that ``spec.verify`` orders and return the finished Run, whatever happened.

    Its order names a backup (empty: the newest verified full) and the place of its copy (empty: the best at hand).
    Where that is encrypted and no key is here, as is meant where this host shall not read its own backups, a drill that
    nobody asked for is skipped.
    """

    def work() -> list[BackupdError]:
        try:
            with Keyring(spec.job.encryption) as keys:
                _Drill(spec, open_source, catalog, recorder, open_store, keys=keys).run()
        except (VerifyError, CancelledError):
            raise
        except BackupdError as error:
            return [error]
        return []

    def partly(error: BackupdError) -> Outcome:
        unasked = recorder.run.trigger in (Trigger.SCHEDULE, Trigger.CATCH_UP)
        return Outcome.SKIPPED if unasked and error.code == "key-missing" else Outcome.DEGRADED

    return recorded(spec, Layout(spec.paths.backups), recorder, work, partly=partly)


class _Chosen(msgspec.Struct, frozen=True):
    """What is to be proven."""

    backup: Backup
    copy: Copy
    manifest: Manifest

    @property
    def room(self) -> int:
        """Return the bytes that the drill takes on this host."""
        fetched = self.copy.size if self.copy.destination != LOCAL else 0
        return int(self.manifest.artifact.raw_bytes * _PER_RAW_BYTE) + fetched


class _Drill:
    """One drill under way."""

    def __init__(
        self,
        spec: RunSpec,
        open_source: OpenSource,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._keys = keys
        self._spec = spec
        self._source = mongodb_of(spec.job.source, "this way of drilling")
        self._check_of = open_source(self._source).check
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._layout = Layout(spec.paths.backups)
        self._run = f"{spec.run}-drill"

    def run(self) -> None:
        """Do it; what was found out about the backup is kept, whichever way it ends."""
        with self._recorder.stage(Stage.PREFLIGHT):
            self._layout.create()
            sweep(self._layout)
            chosen = self._choose()
            self._recorder.about(chosen.backup.id)
            scratch = self._scratch(chosen.manifest)
            make_sure_of_room(self._layout, chosen.room)
            self._recorder.detail(f"{chosen.backup.id} from {chosen.copy.destination} into {scratch.described}")
        staging, lock = open_staging(self._layout, self._run)
        try:
            self._prove(chosen, scratch, staging)
        finally:
            try:
                scratch.stop()
            except BackupdError as error:
                self._recorder.warn(f"{scratch.described} was not thrown away: {error.message}", error)
            remove_tree(staging)
            lock.release()

    def _choose(self) -> _Chosen:
        """Find the backup and its copy; raises NotFoundError or RefusedError."""
        order = self._spec.verify or VerifyOrder(level="restore")
        places = [destination.name for destination in self._spec.job.destinations]
        sync_local(self._catalog, self._layout, self._recorder.clock.now())
        backup = self._catalog.backup(order.backup or self._newest({LOCAL, *places}))
        if backup is None:
            raise NotFoundError(f"there is no backup {order.backup!r}", hint="see: backupctl list")
        if backup.manifest is None or backup.kind is not Kind.FULL:
            raise RefusedError(
                f"{backup.id} is no full backup with a manifest, so there is nothing to compare a restore of it with",
                hint="name a full one: backupctl list",
            )
        copy = choose_copy(backup, order.source, places)
        self._keys.unlock(backup.manifest.at(copy.key).artifact)
        manifest = self._keys.whole(backup.manifest)
        return _Chosen(msgspec.structs.replace(backup, manifest=manifest), copy, manifest)

    def _newest(self, places: set[str]) -> str:
        """Return the job's newest verified full that has a copy within reach."""
        for backup in self._catalog.backups(self._spec.job.name, kinds=frozenset({Kind.FULL})):
            reached = any(copy.state in _PRESENT and copy.destination in places for copy in backup.copies)
            if backup.state is BackupState.VERIFIED and reached:
                return backup.id
        raise NotFoundError(
            f"job {self._spec.job.name} has no verified full backup to restore in a drill",
            hint=f"make one: backupctl run {self._spec.job.name}",
        )

    def _scratch(self, manifest: Manifest) -> Scratch:
        """Find a place: a mongod of our own, else a database beside the job's; raises ToolError, RefusedError."""
        # pymongo is heavy: other runs do without it.
        from nanumpay_backupd.sources import scratch
        from nanumpay_backupd.sources.mongorestore import MongoTarget

        source = self._source
        MongoTarget(source).tool()
        try:
            folder = self._layout.run_staging(self._run) / "scratch"
            return scratch.ScratchServer(source, folder, manifest.source.server_version)
        except ToolError as error:
            if error.code != "tool-missing":
                raise
        if not source.database or len(manifest.source.databases) != 1:
            raise scratch.impossible("the backup holds more than one database")
        runs = self._catalog.runs(self._spec.job.name, limit=_EARLIER, slices=False)
        earlier = (run.id for run in runs if run.action == "drill" and run.id != self._spec.run)
        return scratch.ScratchDatabase(source, self._spec.run, earlier)

    def _prove(self, chosen: _Chosen, scratch: Scratch, staging: Path) -> None:
        started = self._recorder.clock.monotonic()
        folder = staging / "unpacked"
        folder.mkdir()
        replay = scratch.replays and chosen.manifest.consistency.entries > 0
        try:
            manifest, oplog = self._bring(chosen, scratch, staging, folder, replay=replay)
        except VerifyError as error:
            self._damaged(chosen, error)
            raise
        # With the digests of the documents, also where it had none.
        chosen = msgspec.structs.replace(chosen, manifest=manifest)
        try:
            waited = self._restore(chosen, scratch, folder, replay=replay)
            seconds = round(self._recorder.clock.monotonic() - started - waited, 3)
            findings = self._compare(chosen, scratch, folder, oplog)
        except VerifyError as error:
            self._keep(chosen, self._proof(ok=False, detail=error.message), error)
            raise
        how = f"restored from {chosen.copy.destination} into {scratch.described}; {_summary(findings)}"
        proof = self._proof(ok=True, detail=how)
        size = manifest.artifact.raw_bytes
        self._keep(chosen, msgspec.structs.replace(proof, seconds=seconds, documents=findings.documents, bytes=size))

    def _bring(
        self, chosen: _Chosen, scratch: Scratch, staging: Path, folder: Path, *, replay: bool
    ) -> tuple[Manifest, Replayed]:
        """Fetch, read back and unpack, as a restore does; returns the manifest with what the reading told of it."""
        from nanumpay_backupd.pipeline.replay import join_oplog
        from nanumpay_backupd.sources import restored

        backup, manifest, recorder = chosen.backup, chosen.manifest, self._recorder

        def other() -> str:
            return other_choice(backup, chosen.copy.destination, self._spec, self._catalog)

        artifact = obtain(backup, chosen.copy, staging, self._spec, recorder, self._open_store, hint=other)
        names = scratch.names(manifest.source.databases)
        unpacker = Unpacker(folder, placing(backup.id, names, replay=replay))
        with recorder.stage(Stage.CHECK, total=manifest.artifact.raw_bytes):
            try:
                stored, clock = manifest.at(chosen.copy.key), recorder.clock
                proof = prove(artifact, stored, self._check_of, clock, recorder.progress, unpacker, keys=self._keys)
            except VerifyError as error:
                raise VerifyError(error.message, hint=other(), code=error.code) from None
            written, oplog = unpacker.written(), restored.Replayed()
            if replay:
                path = folder / OPLOG
                oplog = restored.replayed(path)
                join_oplog([], folder, names=names, progress=recorder.progress)
            recorder.detail(f"{len(written)} files, {human_size(sum(written.values()))}, read back and unpacked")
        return with_digests(manifest, proof), oplog

    def _restore(self, chosen: _Chosen, scratch: Scratch, folder: Path, *, replay: bool) -> float:
        """Restore; returns the seconds that a real restore would not have needed, because its server runs."""
        from nanumpay_backupd.sources.mongorestore import MongoTarget

        clock = self._recorder.clock
        with self._recorder.stage(Stage.RESTORE):
            before = clock.monotonic()
            scratch.start(self._recorder.check)
            scratch.prepare(folder)
            waited = clock.monotonic() - before
            running = MongoTarget(scratch.settings).start(folder, replay=replay)
            try:
                count = finish_restoring(running, self._recorder, lambda: self._watch(scratch))
            except BackupdError as error:
                self._blame(scratch)
                # Without its oplog a backup may be at odds with itself: then only the comparison can tell.
                if error.code == "restore-failed" and running.complained and scratch.replays:
                    raise _failed(chosen.backup, f"cannot be restored: {error.message}") from None
                raise
            replayed = ", oplog replayed" if replay else ""
            self._recorder.detail(f"{count:,} documents restored into {scratch.described}{replayed}")
        return waited

    def _compare(self, chosen: _Chosen, scratch: Scratch, folder: Path, oplog: Replayed) -> Findings:
        from nanumpay_backupd.sources import restored

        names = scratch.names(chosen.manifest.source.databases)
        stats = [item for item in chosen.manifest.source.collections if item.database in names]
        with self._recorder.stage(Stage.COMPARE, total=sum(item.bytes for item in stats)):
            items = restored.wanted(folder, stats, names, oplog)
            try:
                findings = restored.compare(scratch.settings, names, items, oplog, self._recorder.progress)
            except BackupdError:
                self._blame(scratch)
                raise
            if findings.differences:
                some = "; ".join(findings.differences[:_SHOWN])
                more = len(findings.differences) - _SHOWN
                also = f" and {more} more" if more > 0 else ""
                raise _failed(chosen.backup, f"was restored, but is not what was dumped: {some}{also}")
            self._recorder.detail(_summary(findings))
        return findings

    def _watch(self, scratch: Scratch) -> None:
        """Stop where going on is no use or harms others."""
        if scratch.gone:
            self._blame(scratch)
        free = free_bytes(self._layout.staging)
        if free < RESERVE // 4:
            raise SpaceError(
                f"the disk of {self._layout.backups} filled up during the drill ({human_size(free)} left): stopped",
                hint="free space there or set [paths] backups to a larger disk; the backup itself is untouched",
            )

    def _blame(self, scratch: Scratch) -> None:
        """Raise ToolError when the scratch place itself failed: that says nothing about the backup."""
        self._recorder.check()
        why = scratch.trouble()
        if why:
            raise ToolError(
                f"{scratch.described}, into which the backup was being restored, failed: {why}",
                hint="is there memory and room? journalctl -k | grep -i oom; the backup itself is untouched",
                code="scratch-failed",
            ) from None

    def _damaged(self, chosen: _Chosen, error: VerifyError) -> None:
        """Mark the copy that is damaged; the backup is lost only where it was the last one."""
        places = {LOCAL, *(destination.name for destination in self._spec.job.destinations)} - {chosen.copy.destination}
        if any(copy.state in _PRESENT and copy.destination in places for copy in chosen.backup.copies):
            self._catalog.save_copy(self._marked(chosen.copy, error))
        else:
            self._keep(chosen, self._proof(ok=False, detail=error.message), error)

    def _keep(self, chosen: _Chosen, proof: Verification, error: BackupdError | None = None) -> None:
        """Keep what was found out in manifest and catalog; `backup_from_manifest` draws the conclusion."""
        proven = with_proof(chosen.manifest, proof)
        with self._catalog.together():
            if self._catalog.backup(proven.backup) is None:
                return  # deleted meanwhile
            # Of a backup that lies elsewhere only, there is no manifest here to be rewritten.
            if self._layout.manifest(proven.backup).exists():
                rewrite_manifest(self._layout, proven)
            self._catalog.save_backup(backup_from_manifest(proven, self._marked(chosen.copy, error)))
            older = self._older_good(chosen.backup) if error is not None else None
            if older is not None:
                # A later verification lets it go again (`recheck`).
                reason, now = f"{proven.backup} {PINNED}", self._recorder.clock.now()
                pin(self._catalog, self._layout, older.id, BY_VERIFICATION, reason, now)

    def _older_good(self, backup: Backup) -> Backup | None:
        for older in self._catalog.backups(backup.job, kinds=frozenset({Kind.FULL})):
            good = older.state is BackupState.VERIFIED and any(copy.state in _PRESENT for copy in older.copies)
            if good and older.created < backup.created:
                return older
        return None

    def _marked(self, copy: Copy, error: BackupdError | None) -> Copy:
        return msgspec.structs.replace(
            copy,
            state=CopyState.VERIFIED if error is None else CopyState.CORRUPT,
            updated=self._recorder.clock.now(),
            error=error_info(error) if error is not None else None,
        )

    def _proof(self, *, ok: bool, detail: str) -> Verification:
        return Verification(level="restore", at=self._recorder.clock.now(), ok=ok, seconds=0.0, detail=detail)


def _summary(findings: Findings) -> str:
    text = f"{findings.documents:,} documents in {findings.collections} collections, indexes and options as dumped"
    if findings.unknown:
        text += f"; {findings.unknown} of them changed during the dump and were not compared by content"
    return text if findings.validated else f"{text}; not validated, for want of the right to do so"


def _failed(backup: Backup, what: str) -> VerifyError:
    return VerifyError(
        f"{backup.id} {what}",
        hint=f"do not rely on it; make a new one: backupctl run {backup.job}; older ones: backupctl list {backup.job}",
        code="drill-failed",
    )
