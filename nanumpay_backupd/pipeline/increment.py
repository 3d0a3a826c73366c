"""An increment of a source other than MongoDB, from start to end: what it goes on from, dump, commit, proof, upload.

The next increment may need a file that the last backup left (tar's snapshot file): it is kept on this host, in the
state folder, for this user only. Where it is lost, only a full can follow, which is then made by itself. The slices of
MongoDB's oplog are next door (`slices`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, DecryptError, RefusedError, SourceError, VerifyError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import (
    SLICES,
    Backup,
    BackupState,
    CopyState,
    Kind,
    Manifest,
    OpTime,
    Outcome,
    Run,
    Stage,
    Stream,
)
from nanumpay_backupd.pipeline.again import repeated
from nanumpay_backupd.pipeline.backup import announce, between_hooks, name_backup, recorded, upload_new
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outbox import Encrypting, sweep_outbox
from nanumpay_backupd.pipeline.produce import preflight, produce, staged_state
from nanumpay_backupd.pipeline.proving import encrypt_staged, prove_and_encrypt, prove_local
from nanumpay_backupd.pipeline.publish import clear_staging, commit, open_staging
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.states import StateFolder, stamped
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.sources.base import Since, Source, Unchanged
from nanumpay_backupd.system.files import remove_tree

__all__ = ["take_increment"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LOOKED_AT: Final = 50
_CUT_OFF: Final = 2
_TENTH: Final = 0.1


def take_increment(spec: RunSpec, source: Source, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Save what changed since the last backup (or since the last full) and return the finished Run."""

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            return _Increment(spec, source, catalog, recorder, open_store, keys=keys).take()

    return recorded(
        spec,
        Layout(spec.paths.backups),
        recorder,
        lambda: between_hooks(spec, catalog, recorder, work),
        partly=Outcome.DEGRADED,
    )


class _Increment:
    """One increment under way."""

    def __init__(
        self,
        spec: RunSpec,
        source: Source,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._spec = spec
        self._source = source
        self._kind = Kind(spec.kind)
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._keys = keys
        self._layout = Layout(spec.paths.backups)
        self._states = StateFolder(spec.paths.state)

    def take(self) -> list[BackupdError]:
        """Do it; returns the faults of destinations."""
        job, recorder, catalog = self._spec.job, self._recorder, self._catalog
        if self._kind not in self._source.kinds:
            raise RefusedError(
                f"job {job.name} saves something of which only whole backups are made",
                hint="leave out --kind, and incremental, differential and pitr of its table",
                code="not-for-this-source",
            )
        self._layout.create_slices()
        self._prove_leftovers()
        with recorder.stage(Stage.PREFLIGHT):
            parent, chain = self._parent()
            punch = preflight(self._source, job, self._layout, catalog, recorder, self._keys)
            sweep_outbox(self._layout, catalog, held=self._layout.lock(job.name, self._spec.action))
            recorder.detail(f"since {parent.id}")
        try:
            backup = self._made(parent, chain, punch=punch)
        except Unchanged:
            self._note(parent, chain, parent.end)
            return []
        except SourceError as error:
            if error.code == "chain-broken":
                self._broken(error)
            raise
        self._note(backup, chain, backup.end)
        self._states.tidy(catalog)
        return upload_new(self._spec, backup, catalog, self._layout, recorder, self._open_store, keys=self._keys)

    def _prove_leftovers(self) -> None:
        """Prove what a run committed that was cut off, so that the next can follow on from it; faults are warnings."""
        for summary in self._catalog.backups(self._spec.job.name, _CUT_OFF, kinds=SLICES):
            backup = self._catalog.backup(summary.id) if summary.state is BackupState.COMMITTED else None
            if backup is None or backup.manifest is None or not self._layout.artifact(backup.artifact).exists():
                continue
            self._recorder.loud()
            try:
                prove_local(self._source, self._layout, backup.manifest, self._catalog, self._recorder, self._keys)
            except (VerifyError, DecryptError) as error:
                text = f"{backup.id}, which a run committed that was cut off, is not good: {error.message}"
                self._recorder.warn(text, message=Message.COPY_CORRUPT)

    def _parent(self) -> tuple[Backup, str]:
        """Return the backup that is gone on from, and the full that it belongs to; raises SourceError."""
        full = self._newest((Kind.FULL,))
        if full is None:
            raise SourceError(
                "there is no verified full yet that increments could follow on from",
                hint="one is made by itself; or now: backupctl run",
                code="chain-missing",
                retryable=False,
            )
        found = full
        if self._kind is Kind.INCREMENTAL:
            newest = self._newest((Kind.INCREMENTAL,), chain=full.id)
            found = newest or full
        if found.manifest is not None:
            return found, full.id
        raise SourceError(
            f"{found.id} has no manifest, so nothing can follow on from it",
            hint="a new full is made by itself, and the increments go on from there",
            code="chain-broken",
            retryable=False,
        )

    def _newest(self, kinds: tuple[Kind, ...], chain: str = "") -> Backup | None:
        """Return the newest good backup of these kinds of which a copy is left, with its manifest."""
        for summary in self._catalog.backups(self._spec.job.name, _LOOKED_AT, kinds=kinds):
            present = any(copy.state in _PRESENT for copy in summary.copies)
            if summary.state is not BackupState.VERIFIED or not summary.end or not present:
                continue
            backup = self._catalog.backup(summary.id)
            manifest = backup.manifest if backup is not None else None
            if chain and (manifest is None or manifest.chain != chain):
                continue
            return backup
        return None

    def _made(self, parent: Backup, chain: str, *, punch: bool) -> Backup:
        """Make and prove it; raises as `_make`."""
        job, layout, recorder, keys = self._spec.job, self._layout, self._recorder, self._keys
        with Encrypting(layout, keys, recorder) as beside:
            manifest = self._make(parent, chain, beside, punch=punch)
            recorder.loud()
            return prove_and_encrypt(
                job, self._source, layout, manifest, self._catalog, recorder, keys=keys, beside=beside
            )

    def _make(self, parent: Backup, chain: str, beside: Encrypting, *, punch: bool) -> Manifest:
        """Dump, compress, encrypt and commit; raises Unchanged where there is nothing to be kept."""
        spec, recorder, layout = self._spec, self._recorder, self._layout
        staging, lock = open_staging(layout, f"{spec.run}")
        assert parent.manifest is not None, "it was chosen by its manifest"
        whole = self._keys.whole(parent.manifest)

        def attempt() -> tuple[Path, Manifest]:
            clear_staging(staging)
            started, identifier = self._name(OpTime.parse(parent.end))
            since = Since(whole, self._states.borrow(parent.id, staging / "since"))
            artifact, manifest = produce(
                self._source,
                spec.job,
                identifier,
                started,
                staging,
                recorder,
                punch=punch,
                kind=self._kind,
                keys=self._keys,
                since=since,
                beside=beside,
            )
            manifest = msgspec.structs.replace(
                stamped(manifest, started, since=parent.end), parent=parent.id, chain=chain
            )
            if self._keys.seals_here and manifest.artifact.encryption == "none":
                artifact, manifest = encrypt_staged(self._source, artifact, manifest, recorder, self._keys)
            return artifact, manifest

        try:
            artifact, manifest = repeated(recorder, spec.job.retry, "the dump", attempt)
            with recorder.stage(Stage.PUBLISH):
                self._states.keep(manifest.backup, staged_state(staging))
                commit(layout, staging, artifact, manifest)
                announce(manifest, self._catalog, recorder)
                recorder.detail(manifest.artifact.name)
        finally:
            remove_tree(staging)
            lock.release()
        return manifest

    def _name(self, after: OpTime) -> tuple[datetime, str]:
        """Name it by a second after that of its parent: the end of each is told by its second."""
        while True:
            started, identifier = name_backup(self._spec, self._layout, self._catalog, self._recorder, self._kind)
            if started.timestamp() >= after.seconds + 1:
                return started, identifier
            self._recorder.check()
            self._recorder.clock.sleep(_TENTH)

    def _note(self, newest: Backup, chain: str, position: str) -> None:
        """Note how far the changes are saved now; a differential is beside the stream."""
        if self._kind is Kind.DIFFERENTIAL:
            return
        self._catalog.save_stream(
            Stream(
                job=self._spec.job.name,
                position=position,
                parent=newest.id,
                since=position,
                chain=chain,
                checked=self._recorder.clock.now(),
                first=position,
                newest=position,
            )
        )

    def _broken(self, error: SourceError) -> None:
        stream = self._catalog.stream(self._spec.job.name)
        if stream is not None and self._kind is Kind.INCREMENTAL:
            self._catalog.save_stream(msgspec.structs.replace(stream, broken=error.message))
