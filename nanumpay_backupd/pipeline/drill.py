"""A drill of MongoDB: a backup is restored into a scratch mongod and compared with what was dumped.

What every drill does is in `drilling`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, ToolError, VerifyError
from nanumpay_backupd.model import Manifest, Run, Stage
from nanumpay_backupd.pipeline.drilling import Chosen, Drilling, drilled, failed
from nanumpay_backupd.pipeline.fetch import finish_restoring, obtain, placing
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.proving import with_digests
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.unpack import OPLOG, Unpacker
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import prove
from nanumpay_backupd.settings.schema import MongoSource, RunSpec
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.base import Source
from nanumpay_backupd.system.units import human_size

if TYPE_CHECKING:
    from nanumpay_backupd.sources.restored import Findings, Replayed
    from nanumpay_backupd.sources.scratch import Scratch

__all__ = ["drill"]

_UNPACKED: Final = "unpacked"
_EARLIER: Final = 500
"""How many runs back the databases of dead drills are looked for."""
OpenSource = Callable[[MongoSource], Source]


def drill(spec: RunSpec, open_source: OpenSource, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do the drill that ``spec.verify`` orders and return the finished Run, whatever happened."""

    def make(keys: Keyring) -> _Drill:
        source = mongodb_of(spec.job.source, "this way of drilling")
        return _Drill(spec, open_source(source).check, catalog, recorder, open_store, keys=keys)

    return drilled(spec, make, recorder)


class _Drill(Drilling["Scratch"]):
    """One drill of MongoDB under way."""

    _oplog: Replayed

    def _scratch(self, manifest: Manifest) -> Scratch:
        """Find a place: a mongod of our own, else a database beside the job's; raises ToolError, RefusedError."""
        # pymongo is heavy: other runs do without it.
        from nanumpay_backupd.sources import scratch
        from nanumpay_backupd.sources.mongorestore import MongoTarget

        source = mongodb_of(self._spec.job.source, "this way of drilling")
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

    def _bring(self, chosen: Chosen, scratch: Scratch, staging: Path) -> Manifest:
        """Fetch, read back and unpack, as a restore does; returns the manifest with what the reading told of it."""
        from nanumpay_backupd.pipeline.replay import join_oplog
        from nanumpay_backupd.sources import restored

        backup, manifest, recorder = chosen.backup, chosen.manifest, self._recorder
        folder = staging / _UNPACKED
        folder.mkdir()
        replay = _replays(chosen, scratch)

        artifact = obtain(
            backup, chosen.copy, staging, self._spec, recorder, self._open_store, hint=partial(self._other, chosen)
        )
        names = scratch.names(manifest.source.databases)
        unpacker = Unpacker(folder, placing(backup.id, names, replay=replay))
        with recorder.stage(Stage.CHECK, total=manifest.artifact.raw_bytes):
            try:
                stored, clock = manifest.at(chosen.copy.key), recorder.clock
                proof = prove(artifact, stored, self._check_of, clock, recorder.progress, unpacker, keys=self._keys)
            except VerifyError as error:
                raise VerifyError(error.message, hint=self._other(chosen), code=error.code) from None
            written, oplog = unpacker.written(), restored.Replayed()
            if replay:
                path = folder / OPLOG
                oplog = restored.replayed(path)
                join_oplog([], folder, names=names, progress=recorder.progress)
            recorder.detail(f"{len(written)} files, {human_size(sum(written.values()))}, read back and unpacked")
        self._oplog = oplog
        return with_digests(manifest, proof)

    def _restore(self, chosen: Chosen, scratch: Scratch, staging: Path) -> float:
        """Restore; returns the seconds that a real restore would not have needed, because its server runs."""
        from nanumpay_backupd.sources.mongorestore import MongoTarget

        clock = self._recorder.clock
        folder, replay = staging / _UNPACKED, _replays(chosen, scratch)
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
                    raise failed(chosen.backup, f"cannot be restored: {error.message}") from None
                raise
            replayed = ", oplog replayed" if replay else ""
            self._recorder.detail(f"{count:,} documents restored into {scratch.described}{replayed}")
        return waited

    def _compare(self, chosen: Chosen, scratch: Scratch, staging: Path) -> tuple[int, str]:
        from nanumpay_backupd.sources import restored

        oplog = self._oplog
        names = scratch.names(chosen.manifest.source.databases)
        stats = [item for item in chosen.manifest.source.collections if item.database in names]
        with self._recorder.stage(Stage.COMPARE, total=sum(item.bytes for item in stats)):
            items = restored.wanted(staging / _UNPACKED, stats, names, oplog)
            try:
                findings = restored.compare(scratch.settings, names, items, oplog, self._recorder.progress)
            except BackupdError:
                self._blame(scratch)
                raise
            if findings.differences:
                raise self._differing(chosen, tuple(findings.differences))
            self._recorder.detail(_summary(findings))
        return findings.documents, _summary(findings)


def _replays(chosen: Chosen, scratch: Scratch) -> bool:
    return scratch.replays and chosen.manifest.consistency.entries > 0


def _summary(findings: Findings) -> str:
    text = f"{findings.documents:,} documents in {findings.collections} collections, indexes and options as dumped"
    if findings.unknown:
        text += f"; {findings.unknown} of them changed during the dump and were not compared by content"
    return text if findings.validated else f"{text}; not validated, for want of the right to do so"
