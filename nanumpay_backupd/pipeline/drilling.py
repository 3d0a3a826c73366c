"""What every drill does: chooses a backup, proves it in a scratch place, keeps what was found out. Knows no source.

preflight → fetch (of a remote copy) → check → restore → compare. Nothing the job backs up is touched. What is proven is
kept with the backup, with the time that a restore took; what does not pass makes it corrupt, and the run has failed. A
fault that says nothing about the backup (no room, no tool, a killed one) leaves it as it was, and the run degraded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

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
from nanumpay_backupd.pipeline.fetch import RESERVE, make_sure_of_room
from nanumpay_backupd.pipeline.instead import other_choice
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import BY_VERIFICATION, pin
from nanumpay_backupd.pipeline.proving import with_proof
from nanumpay_backupd.pipeline.publish import open_staging, rewrite_manifest, sweep
from nanumpay_backupd.pipeline.recheck import PINNED
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import choose_copy
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import Check
from nanumpay_backupd.settings.schema import RunSpec, VerifyOrder
from nanumpay_backupd.system.files import free_bytes, remove_tree
from nanumpay_backupd.system.units import human_size

__all__ = ["Chosen", "Drilling", "drilled", "failed"]

_PER_RAW_BYTE: Final = 1.3
"""Bytes on the disk for a byte of a dump: unpacked, and once more in the server's own files."""
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_SHOWN: Final = 3


class _Place(Protocol):
    """What every scratch place has (`sources.base.Scratch`)."""

    @property
    def described(self) -> str: ...
    @property
    def gone(self) -> bool: ...
    def trouble(self) -> str: ...
    def stop(self) -> None: ...


PlaceT = TypeVar("PlaceT", bound=_Place)


def drilled(spec: RunSpec, make: Callable[[Keyring], Drilling[PlaceT]], recorder: Recorder) -> Run:
    """Do the drill that ``make`` gives and return the finished Run, whatever happened.

    Its order names a backup (empty: the newest verified full) and the place of its copy (empty: the best at hand).
    Where that is encrypted and no key is here, as is meant where this host shall not read its own backups, a drill that
    nobody asked for is skipped.
    """

    def work() -> list[BackupdError]:
        try:
            with Keyring(spec.job.encryption) as keys:
                make(keys).run()
        except (VerifyError, CancelledError):
            raise
        except BackupdError as error:
            return [error]
        return []

    def partly(error: BackupdError) -> Outcome:
        unasked = recorder.run.trigger in (Trigger.SCHEDULE, Trigger.CATCH_UP, Trigger.AGAIN)
        return Outcome.SKIPPED if unasked and error.code == "key-missing" else Outcome.DEGRADED

    return recorded(spec, Layout(spec.paths.backups), recorder, work, partly=partly)


class Chosen(msgspec.Struct, frozen=True):
    """What is to be proven."""

    backup: Backup
    copy: Copy
    manifest: Manifest

    @property
    def room(self) -> int:
        """Return the bytes that the drill takes on this host."""
        fetched = self.copy.size if self.copy.destination != LOCAL else 0
        return int(self.manifest.artifact.raw_bytes * _PER_RAW_BYTE) + fetched


class Drilling(ABC, Generic[PlaceT]):
    """One drill under way, into whatever place."""

    def __init__(
        self,
        spec: RunSpec,
        check: Check,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._keys = keys
        self._spec = spec
        self._check_of = check
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

    def _choose(self) -> Chosen:
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
        return Chosen(msgspec.structs.replace(backup, manifest=manifest), copy, manifest)

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

    @abstractmethod
    def _scratch(self, manifest: Manifest) -> PlaceT:
        """Find a place; raises ToolError, RefusedError."""

    @abstractmethod
    def _bring(self, chosen: Chosen, scratch: PlaceT, staging: Path) -> Manifest:
        """Fetch, read back and unpack, as a restore does; returns the manifest with what the reading told of it."""

    @abstractmethod
    def _restore(self, chosen: Chosen, scratch: PlaceT, staging: Path) -> float:
        """Restore; returns the seconds that a real restore would not have needed, because its server runs."""

    @abstractmethod
    def _compare(self, chosen: Chosen, scratch: PlaceT, staging: Path) -> tuple[int, str]:
        """Compare with what was dumped; returns how many documents, and a summary. Raises VerifyError."""

    def _prove(self, chosen: Chosen, scratch: PlaceT, staging: Path) -> None:
        started = self._recorder.clock.monotonic()
        try:
            manifest = self._bring(chosen, scratch, staging)
        except VerifyError as error:
            self._damaged(chosen, error)
            raise
        # With the digests of the documents, also where it had none.
        chosen = msgspec.structs.replace(chosen, manifest=manifest)
        try:
            waited = self._restore(chosen, scratch, staging)
            seconds = round(self._recorder.clock.monotonic() - started - waited, 3)
            documents, summary = self._compare(chosen, scratch, staging)
        except VerifyError as error:
            self._keep(chosen, self._proof(ok=False, detail=error.message), error)
            raise
        how = f"restored from {chosen.copy.destination} into {scratch.described}; {summary}"
        proof = self._proof(ok=True, detail=how)
        size = manifest.artifact.raw_bytes
        self._keep(chosen, msgspec.structs.replace(proof, seconds=seconds, documents=documents, bytes=size))

    def _other(self, chosen: Chosen) -> str:
        return other_choice(chosen.backup, chosen.copy.destination, self._spec, self._catalog)

    def _differing(self, chosen: Chosen, differences: tuple[str, ...]) -> VerifyError:
        some = "; ".join(differences[:_SHOWN])
        more = len(differences) - _SHOWN
        also = f" and {more} more" if more > 0 else ""
        return failed(chosen.backup, f"was restored, but is not what was dumped: {some}{also}")

    def _watch(self, scratch: PlaceT) -> None:
        """Stop where going on is no use or harms others."""
        if scratch.gone:
            self._blame(scratch)
        free = free_bytes(self._layout.staging)
        if free < RESERVE // 4:
            raise SpaceError(
                f"the disk of {self._layout.backups} filled up during the drill ({human_size(free)} left): stopped",
                hint="free space there or set [paths] backups to a larger disk; the backup itself is untouched",
            )

    def _blame(self, scratch: PlaceT) -> None:
        """Raise ToolError when the scratch place itself failed: that says nothing about the backup."""
        self._recorder.check()
        why = scratch.trouble()
        if why:
            raise ToolError(
                f"{scratch.described}, into which the backup was being restored, failed: {why}",
                hint="is there memory and room? journalctl -k | grep -i oom; the backup itself is untouched",
                code="scratch-failed",
                retryable=True,
            ) from None

    def _damaged(self, chosen: Chosen, error: VerifyError) -> None:
        """Mark the copy that is damaged; the backup is lost only where it was the last one."""
        places = {LOCAL, *(destination.name for destination in self._spec.job.destinations)} - {chosen.copy.destination}
        if any(copy.state in _PRESENT and copy.destination in places for copy in chosen.backup.copies):
            self._catalog.save_copy(self._marked(chosen.copy, error))
        else:
            self._keep(chosen, self._proof(ok=False, detail=error.message), error)

    def _keep(self, chosen: Chosen, proof: Verification, error: BackupdError | None = None) -> None:
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


def failed(backup: Backup, what: str) -> VerifyError:
    """Return what is said of a backup that a drill disproved."""
    return VerifyError(
        f"{backup.id} {what}",
        hint=f"do not rely on it; make a new one: backupctl run {backup.job}; older ones: backupctl list {backup.job}",
        code="drill-failed",
    )
