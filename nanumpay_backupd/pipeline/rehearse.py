"""A drill of any source but MongoDB: restored into the driver's scratch place by its own target, compared, thrown away.

What every drill does is in `drilling`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, VerifyError
from nanumpay_backupd.model import Manifest, Run, Stage
from nanumpay_backupd.pipeline.bringback import Piece, feed, unpacked
from nanumpay_backupd.pipeline.drilling import Chosen, Drilling, drilled, failed
from nanumpay_backupd.pipeline.fetch import obtain, wait_for
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.proving import with_digests
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import prove
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.sources.base import FolderTarget, Scratch
from nanumpay_backupd.sources.factory import open_driver
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.wording import counted, words_for

__all__ = ["rehearse"]

_UNPACKED: Final = "unpacked"
_WORK: Final = "work"


def rehearse(spec: RunSpec, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do the drill that ``spec.verify`` orders and return the finished Run, whatever happened."""

    def make(keys: Keyring) -> _Rehearsal:
        check = open_driver(spec.job.source).source().check
        return _Rehearsal(spec, check, catalog, recorder, open_store, keys=keys)

    return drilled(spec, make, recorder)


class _Rehearsal(Drilling[Scratch]):
    """One drill under way."""

    _artifact: Path

    def _scratch(self, manifest: Manifest) -> Scratch:
        driver = open_driver(self._spec.job.source)
        return driver.scratch(self._layout.run_staging(self._run) / "scratch", manifest)

    def _bring(self, chosen: Chosen, scratch: Scratch, staging: Path) -> Manifest:
        recorder, hint = self._recorder, partial(self._other, chosen)
        self._artifact = obtain(chosen.backup, chosen.copy, staging, self._spec, recorder, self._open_store, hint=hint)
        folder = staging / _UNPACKED
        folder.mkdir()
        (staging / _WORK).mkdir()
        target = open_driver(self._spec.job.source).target()
        stored = chosen.manifest.at(chosen.copy.key)
        unpacker = None
        if isinstance(target, FolderTarget):
            unpacker = unpacked(chosen.backup.id, target, scratch.wanted(), folder)
        with recorder.stage(Stage.CHECK, total=stored.artifact.raw_bytes):
            try:
                proof = prove(
                    self._artifact,
                    stored,
                    self._check_of,
                    recorder.clock,
                    recorder.progress,
                    unpacker,
                    keys=self._keys,
                )
            except VerifyError as error:
                raise VerifyError(error.message, hint=hint(), code=error.code) from None
            recorder.detail(f"{human_size(proof.verification.bytes)} read back")
        return with_digests(chosen.manifest, proof)

    def _restore(self, chosen: Chosen, scratch: Scratch, staging: Path) -> float:
        recorder, clock, manifest = self._recorder, self._recorder.clock, chosen.manifest
        work, wanted = staging / _WORK, scratch.wanted()
        with recorder.stage(Stage.RESTORE, total=manifest.artifact.raw_bytes):
            before = clock.monotonic()
            scratch.start(recorder.check)
            waited = clock.monotonic() - before
            target = scratch.target()
            try:
                target.look(manifest, wanted)
                if isinstance(target, FolderTarget):
                    running = target.start(staging / _UNPACKED, manifest, wanted, work)
                    count = wait_for(running, recorder, lambda: self._watch(scratch))
                else:
                    piece = Piece(chosen.backup, chosen.copy, manifest.at(chosen.copy.key))
                    count = wait_for(
                        target.start(manifest, wanted, work),
                        recorder,
                        lambda: self._watch(scratch),
                        pieces=feed(piece, self._artifact, self._keys),
                    )
            except BackupdError as error:
                self._blame(scratch)
                if error.code == "restore-failed":
                    raise failed(chosen.backup, f"cannot be restored: {error.message}") from None
                raise
            words = words_for(manifest.source.type)
            recorder.detail(f"{words.count_items(count)} restored into {scratch.described}")
        return waited

    def _compare(self, chosen: Chosen, scratch: Scratch, staging: Path) -> tuple[int, str]:
        with self._recorder.stage(Stage.COMPARE):
            try:
                found = scratch.target().compare(chosen.manifest, scratch.wanted(), staging / _WORK)
            except BackupdError:
                self._blame(scratch)
                raise
            if found.differences:
                raise self._differing(chosen, found.differences)
            summary = f"{counted(chosen.manifest.source.type, found.documents, found.parts)} as backed up"
            if found.unknown:
                summary += f"; {found.unknown} others cannot be compared"
            self._recorder.detail(summary)
        return found.documents, summary
