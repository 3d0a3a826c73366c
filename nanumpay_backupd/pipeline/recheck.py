"""Reads copies again, here and at the destinations, and records which of them still are what was stored.

Deletes and repairs no artifact; a manifest that is lost beside a good artifact is written again. How one artifact is
proven is next door (`verify`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import (
    BackupdError,
    DecryptError,
    NotFoundError,
    RefusedError,
    SourceError,
    StoreError,
    ToolError,
    VerifyError,
)
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import (
    LOCAL,
    SLICES,
    Artifact,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Proof,
    Run,
    SourceInfo,
    Stage,
    Verification,
    error_info,
    to_json,
)
from nanumpay_backupd.pipeline.backup import disk_fault, recorded
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, SAFETY_SUFFIX, Layout
from nanumpay_backupd.pipeline.members import chunks_of
from nanumpay_backupd.pipeline.pins import BY_VERIFICATION, pin, unpin
from nanumpay_backupd.pipeline.proving import keep_proof, with_digests
from nanumpay_backupd.pipeline.publish import read_manifest
from nanumpay_backupd.pipeline.rebuild import fetch_manifest
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.upload import PLACE_FAULTS, OpenStore
from nanumpay_backupd.pipeline.verify import Check, opened, prove_checksum, prove_sealed, prove_stream, size_differs
from nanumpay_backupd.settings.schema import RunSpec, VerifyOrder
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.throttled import ThrottledStore
from nanumpay_backupd.system.units import human_size

__all__ = ["PINNED", "verify_copies"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
PINNED: Final = "is corrupt; this is the next older good one"
"""Ends the reasons of the pins that are made here, by which they are let go again."""
_RUN: Final = "make a new one now: backupctl run"


def verify_copies(spec: RunSpec, check: Check, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do the verification that ``spec`` orders (level ``checksum`` or ``structure``); returns the finished Run.

    ``check`` is the source's (`sources.base.Source.check`). Newest backups first, each at all its places. A copy that
    is not what was stored is ``corrupt`` from then on, one that is gone is ``missing``; both only where that was seen:
    a place that cannot be read is the place's fault, and the run is degraded. With a corrupt copy the run has failed,
    after all others were read, and the next older good full is pinned until a later run finds all well. Where the
    local artifact is corrupt and no other copy is good, the backup is.
    """
    layout = Layout(spec.paths.backups)

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            return _Recheck(spec, layout, check, catalog, recorder, open_store, keys=keys).run()

    return recorded(spec, layout, recorder, work, partly=Outcome.DEGRADED)


class _Task(msgspec.Struct, frozen=True):
    """One copy to be read, and how."""

    backup: str
    copy: Copy
    level: str

    @property
    def place(self) -> str:
        """Return where the copy is."""
        return self.copy.destination


class _Recheck:
    """One verification under way, and what it found."""

    def __init__(
        self,
        spec: RunSpec,
        layout: Layout,
        check: Check,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._keys = keys
        self._unopened = 0
        self._spec = spec
        self._order = spec.verify or VerifyOrder()
        self._layout = layout
        self._check = check
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._stores: dict[str, Store] = {}
        self._away: set[str] = set()
        self._good: dict[str, set[str]] = {}
        self._read = 0
        self._bad: list[tuple[Backup, BackupdError]] = []
        self._faults: list[BackupdError] = []
        self._passed_over: list[str] = []
        self._checked: dict[str, dict[str, int] | None] = {}
        self._unread = 0

    def run(self) -> list[BackupdError]:
        """Read all that is ordered; returns the faults of places, raises VerifyError when a copy is corrupt."""
        if self._order.level not in ("checksum", "structure"):
            raise RefusedError(
                f"{self._order.level!r} is no level of verification by reading", hint="take checksum or structure"
            )
        sync_local(self._catalog, self._layout, self._recorder.clock.now())
        tasks = self._tasks()
        total = sum(task.copy.size for task in tasks)
        with self._recorder.stage(Stage.VERIFY, total=total), contextlib.ExitStack() as after:
            after.callback(self._pin)
            after.callback(self._close)
            for name, group in itertools.groupby(tasks, key=lambda task: task.backup):
                self._one_backup(name, list(group))
            self._recorder.detail(self._summary(tasks), Outcome.DEGRADED if self._faults else None)
            self._judge()
        return self._faults

    # What is to be read

    def _tasks(self) -> list[_Task]:
        """List the copies to be read, newest backup first, its local copy first."""
        order = self._order
        if order.source not in ("", *self._places()):
            raise NotFoundError(
                f"job {self._spec.job.name} has no destination {order.source!r}", hint="see: backupctl status"
            )
        if order.backup:
            return self._tasks_of_one(order.backup)
        tasks = []
        legacy = corrupt = 0
        # What is being made just now is read by its own run.
        running = {run.id for run in self._catalog.unfinished_runs()}
        for backup in self._catalog.backups(self._spec.job.name):
            legacy += backup.kind is Kind.LEGACY
            corrupt += sum(copy.state is CopyState.CORRUPT and not _due(copy) for copy in backup.copies)
            if backup.state in (BackupState.VERIFIED, BackupState.COMMITTED) and backup.run not in running:
                tasks += self._of(backup, _due)
        if legacy:
            self._passed_over.append(f"{legacy} archives of the old program")
        if corrupt:
            self._passed_over.append(f"{corrupt} known to be corrupt (backupctl list)")
        return tasks

    def _tasks_of_one(self, name: str) -> list[_Task]:
        """List the copies of a backup that is named: also what is corrupt or missing, as it may be good again."""
        job = self._spec.job.name
        backup = self._catalog.backup(name)
        if backup is None or backup.job not in (job, f"{job}{SAFETY_SUFFIX}"):
            raise NotFoundError(f"job {job} has no backup {name!r}", hint="see: backupctl list")
        if backup.manifest is None:
            raise RefusedError(
                f"{name} was made by the old program: there is no manifest to compare it with",
                hint=f"look into it: tar -tzf {self._layout.artifact(backup.artifact)}",
            )
        tasks = self._of(backup, lambda copy: copy.state is not CopyState.PENDING)
        if not tasks:
            where = f"at {self._order.source}" if self._order.source else "that can be read"
            raise NotFoundError(f"{name} has no copy {where}", hint=f"see: backupctl show {name}")
        self._recorder.run = msgspec.structs.replace(self._recorder.run, backup=name)
        return tasks

    def _places(self) -> tuple[str, ...]:
        return (LOCAL, *(item.name for item in self._spec.job.destinations))

    def _of(self, backup: Backup, wanted: Callable[[Copy], bool]) -> list[_Task]:
        known = {LOCAL, *(item.name for item in self._spec.job.destinations)}
        copies = [copy for copy in backup.copies if wanted(copy) and self._order.source in ("", copy.destination)]
        for copy in copies:
            if copy.destination not in known:
                self._passed_over.append(f"{copy.key} at {copy.destination}, which is no longer configured")
        copies = sorted(
            (copy for copy in copies if copy.destination in known), key=lambda copy: copy.destination != LOCAL
        )
        return [_Task(backup.id, copy, self._level(backup, copy)) for copy in copies]

    def _level(self, backup: Backup, copy: Copy) -> str:
        """A checksum is enough only for what was walked before, and where the data is in the copy."""
        if self._spec.job.source.kept_outside:
            return "structure"
        unproven = copy.destination == LOCAL and backup.state is not BackupState.VERIFIED
        return "structure" if unproven else self._order.level

    # Reading

    def _one_backup(self, name: str, tasks: list[_Task]) -> None:
        """Read the copies of one backup, then say what that means for it."""
        # Only now: thousands of manifests take memory.
        backup = self._catalog.backup(name)
        if backup is None or backup.manifest is None:
            return
        failed: list[tuple[_Task, BackupdError]] = []
        for task in tasks:
            if task.place in self._away or self._now(task) is None:
                continue
            try:
                self._one(task, backup.manifest)
            except VerifyError as error:
                failed.append((task, error))
                self._mark(task, CopyState.CORRUPT, error)
            except (NotFoundError, StoreError) as error:
                if error.code == "object-damaged":
                    damaged = VerifyError(error.message, hint=error.hint, code="verify-checksum")
                    failed.append((task, damaged))
                    self._mark(task, CopyState.CORRUPT, damaged)
                    continue
                if error.code not in ("artifact-missing", "object-missing"):
                    self._unreadable(task, error)
                    continue
                failed.append((task, error))
                self._mark(task, CopyState.MISSING)
            except (DecryptError, SourceError, ToolError) as error:
                self._unreadable(task, error)
            except OSError as error:
                self._unreadable(task, disk_fault(error, self._layout))
        # What retention deleted while it was read is gone by right.
        failed = [(task, error) for task, error in failed if self._now(task)]
        if failed:
            self._settle(backup, backup.manifest, failed)

    def _one(self, task: _Task, manifest: Manifest) -> None:
        """Read one copy and record that it is good."""
        if task.place == LOCAL:
            path = self._layout.artifact(task.copy.key)
            with opened(path, manifest) as stream:
                found, manifest = self._prove(task, manifest, chunks_of(path, stream))
            self._keep(task, found, manifest.source)
        else:
            store, key = self._store(task.place), task.copy.key
            if (there := self._looked_over(task, store)) is not None:
                self._compare(task, manifest.at(key), there.get(key))
                return
            info = store.stat(key)
            if info is None:
                raise StoreError(f"{task.place} has no object of that name", code="object-missing", retryable=False)
            stored = manifest.at(key)
            if (error := size_differs(stored, info.size)) is not None:
                raise error
            self._prove(task, stored, store.get(key))
            self._mend_manifest(task, manifest, store)
            self._mark(task, CopyState.VERIFIED)
        self._good.setdefault(task.backup, set()).add(task.place)
        self._read += task.copy.size

    def _looked_over(self, task: _Task, store: Store) -> dict[str, int] | None:
        """Return what a place holds that compares all by itself, where it did and a copy was read: it is enough then.

        The newest copy is read in any case, and all are where the place found damage.
        """
        if self._order.backup or not store.properties.checks_itself:
            return None
        if task.place in self._checked:
            return self._checked[task.place]
        self._checked[task.place] = None
        try:
            store.check(self._recorder.check)
        except StoreError as error:
            if error.code != "object-damaged":
                raise
            self._faults.append(error)
            self._recorder.warn(f"{task.place} found damage: {error.message}", error)
        else:
            self._checked[task.place] = {info.key: info.size for info in store.list()}
        return None

    def _compare(self, task: _Task, manifest: Manifest, size: int | None) -> None:
        """Hold what a place tells of a copy that need not be read against its manifest."""
        if size is None:
            raise StoreError(f"{task.place} has no object of that name", code="object-missing", retryable=False)
        if (error := size_differs(manifest, size)) is not None:
            raise error
        self._unread += 1

    def _prove(self, task: _Task, manifest: Manifest, chunks: Iterator[bytes]) -> tuple[Verification, Manifest]:
        """Hold an artifact's chunks against the manifest; returns the manifest with what was learned."""
        recorder = self._recorder
        if task.level == "checksum":
            return prove_checksum(self._counted(chunks), manifest, recorder.clock), manifest
        counted = self._counted(chunks)
        if not self._can_open(task, manifest):
            return prove_sealed(counted, manifest, recorder.clock, self._keys), manifest
        # Of a closed manifest nobody knows here what is inside, before it is opened.
        manifest = self._keys.whole(manifest).at(manifest.artifact.name)
        proof = prove_stream(
            counted, manifest, self._check, recorder.clock, lambda _: recorder.check(), keys=self._keys
        )
        return proof.verification, with_digests(manifest, proof)

    def _can_open(self, task: _Task, manifest: Manifest) -> bool:
        """Tell whether an artifact can be read; a key that should and does not is the keys' fault, not the copy's.

        Raises DecryptError for one that was never read as a whole: its checksum alone proves nothing.
        """
        try:
            self._keys.unlock(manifest.artifact)
        except DecryptError as error:
            if not manifest.closed and not any(one.ok and one.level != "checksum" for one in manifest.verification):
                raise
            self._unopened += 1
            if error.code != "key-missing" and not any(fault.code == error.code for fault in self._faults):
                self._faults.append(error)
                self._recorder.warn(
                    f"{task.copy.key} at {task.place} was compared, not decrypted: {error.message}", error
                )
            return False
        return True

    def _mend_manifest(self, task: _Task, manifest: Manifest, store: Store) -> None:
        """Write the manifest beside a good artifact again where it is not its own."""
        key = task.copy.key
        beside = fetch_manifest(store, key)
        if self._now(task) is None or not self._tell_of_manifest(task, manifest.at(key), beside):
            return
        try:
            bare = manifest.at(key).artifact.encryption == "none"
            store.put_bytes(f"{key}{MANIFEST_SUFFIX}", to_json(manifest) if bare else self._keys.describe(manifest))
        except StoreError:
            raise
        except BackupdError as error:
            self._recorder.warn(f"it could not be written: {error.message}", error)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._recorder.progress(len(chunk))
            yield chunk

    def _tell_of_manifest(self, task: _Task, manifest: Manifest, beside: Manifest | None) -> bool:
        """Say so where the manifest beside a good artifact is not its own, and has to be written again."""
        if beside is not None and (beside.backup, _stored(beside, manifest)) == (
            task.backup,
            _stored(manifest, manifest),
        ):
            return False
        what = "is missing or damaged" if beside is None else f"is not its own, but of {beside.backup},"
        self._recorder.warn(
            f"the manifest of {task.backup} at {task.place} {what} although the artifact is good; it was written again"
        )
        return True

    def _store(self, place: str) -> Store:
        if place not in self._stores:
            destination = next(item for item in self._spec.job.destinations if item.name == place)
            store = self._open_store(destination)
            if rate := self._spec.job.verify_rate:
                recorder = self._recorder
                store = ThrottledStore(store, rate, clock=recorder.clock, cancelled=lambda: recorder.cancelled)
            self._stores[place] = store
        return self._stores[place]

    def _close(self) -> None:
        for store in self._stores.values():
            store.close()

    # What follows

    def _mark(self, task: _Task, state: CopyState, error: BackupdError | None = None) -> None:
        """Record what is known of a copy now."""
        with self._catalog.together():
            now = self._now(task)
            if now is not None:
                info = error_info(error) if error is not None else None
                moment = self._recorder.clock.now()
                proof = Proof.READ if state is CopyState.VERIFIED else None
                marked = msgspec.structs.replace(now[1], state=state, updated=moment, error=info, proof=proof)
                self._catalog.save_copy(marked)

    def _keep(self, task: _Task, found: Verification, source: SourceInfo, error: BackupdError | None = None) -> None:
        """Record what was found of the local copy, in the manifest as well."""
        with self._catalog.together():
            now = self._now(task)
            if now is not None:
                manifest = msgspec.structs.replace(now[0], source=source)
                if error is None:
                    self._tell_of_manifest(task, manifest, read_manifest(self._layout.manifest(task.backup)))
                keep_proof(self._layout, manifest, found, self._catalog, self._recorder, error)

    def _now(self, task: _Task) -> tuple[Manifest, Copy] | None:
        """Return manifest and copy as they are now, None when the copy was deleted: backups run beside this."""
        backup = self._catalog.backup(task.backup)
        if backup is None or backup.manifest is None:
            return None
        copy = next((copy for copy in backup.copies if copy.destination == task.place), None)
        return (backup.manifest, copy) if copy is not None else None

    def _unreadable(self, task: _Task, error: BackupdError) -> None:
        """A copy that could not be read is neither good nor bad."""
        if error.code in PLACE_FAULTS:
            self._away.add(task.place)
        self._faults.append(error)
        self._recorder.warn(f"{task.copy.key} at {task.place} could not be verified: {error.message}", error)

    def _settle(self, backup: Backup, manifest: Manifest, failed: list[tuple[_Task, BackupdError]]) -> None:
        """Say what is left of a backup of which copies failed, and record where that is nothing."""
        proven = sorted(self._good.get(backup.id, ()))
        believed = [
            copy.destination
            for copy in backup.copies
            if copy.state in _PRESENT
            and copy.destination in self._places()
            and copy.destination not in (*proven, *(task.place for task, _ in failed))
        ]
        left = bool(proven or (believed and backup.state is BackupState.VERIFIED))
        for task, error in failed:
            corrupt = isinstance(error, VerifyError)
            if corrupt and task.place == LOCAL and not left:
                now = self._recorder.clock.now()
                found = Verification(level=task.level, at=now, ok=False, seconds=0.0, detail=error.message)
                self._keep(task, found, manifest.source, error)
            told = f"the copy of {backup.id} at {task.place} is {'corrupt' if corrupt else 'gone'}: {error.message}"
            hint = self._instead(backup, task.place, proven, believed)
            fault = (VerifyError if corrupt else StoreError)(told, hint=hint, code=error.code, retryable=False)
            self._recorder.warn(told, fault, Message.COPY_CORRUPT if corrupt else None)
            if corrupt or not left:
                self._bad.append((backup, fault))
            elif task.place != LOCAL:
                # A local file that is gone is a fact: the application cleans up in that folder.
                self._faults.append(fault)

    def _instead(self, backup: Backup, place: str, proven: list[str], believed: list[str]) -> str:
        """Say what else is good."""
        if proven or believed:
            other = (proven or believed)[0]
            state = "is good" if proven else "was not read now, but was good before"
            take = "" if backup.kind in SLICES else f": backupctl restore {backup.id} --from {other}"
            return f"its copy at {other} {state}{take}; to drop this one: backupctl delete {backup.id} --from {place}"
        older = self._older(backup)
        if older is None:
            return f"there is no other good copy and no older verified backup; {_RUN}"
        return f"there is no other good copy of it; the next older good backup is {older.id}; {_RUN}"

    def _older(self, backup: Backup) -> Backup | None:
        """Return the next older full that was proven, has a copy, and was not found to be bad just now."""
        bad = {item.id for item, _ in self._bad}
        for older in self._catalog.backups(backup.job, kinds={Kind.FULL}):
            good = older.state is BackupState.VERIFIED and any(copy.state in _PRESENT for copy in older.copies)
            if good and older.created < backup.created and older.id not in bad:
                return older
        return None

    def _pin(self) -> None:
        """Keep retention from the next older good full of each bad backup; once all is well again, let go."""
        for backup, _ in self._bad:
            older = self._older(backup)
            if older is not None:
                reason, now = f"{backup.id} {PINNED}", self._recorder.clock.now()
                pin(self._catalog, self._layout, older.id, BY_VERIFICATION, reason, now)
        if self._bad or self._order != VerifyOrder(level=self._order.level):
            return
        fulls = self._catalog.backups(self._spec.job.name, kinds={Kind.FULL})
        newest = next((backup for backup in fulls if backup.id in self._good), None)
        for backup in fulls:
            if backup.pinned and newest is not None and newest.created > backup.created:
                unpin(self._catalog, self._layout, backup.id, BY_VERIFICATION)

    def _summary(self, tasks: list[_Task]) -> str:
        copies = sum(len(places) for places in self._good.values())
        unopened = f"; {self._unopened} by their checksums only, for want of a key here" if self._unopened else ""
        unread = f"; {self._unread} were compared by their places themselves" if self._unread else ""
        passed = f"; passed over: {', '.join(self._passed_over)}" if self._passed_over else ""
        # Of a receipt that says little: what counts is what the program says that has the data.
        asked = "; their data was not read, its program was asked" if self._spec.job.source.kept_outside else ""
        return (
            f"{copies} of {len(tasks)} copies of {len(self._good)} backups are as they were stored "
            f"({human_size(self._read)}){asked}{unread}{unopened}{passed}"
        )

    def _judge(self) -> None:
        """Raise the fault of the newest bad copy, which tells of the others."""
        if not self._bad:
            return
        _, fault = self._bad[0]
        if len(self._bad) > 1:
            fault.message += f"; and {len(self._bad) - 1} more: " + ", ".join(
                dict.fromkeys(backup.id for backup, _ in self._bad[1:4])
            )
        raise fault


def _stored(manifest: Manifest, of: Manifest) -> Artifact:
    """Return what a manifest says of the file that another one is ``of``, but for what a closed one leaves out."""
    artifact = manifest.at(of.artifact.name).artifact
    return msgspec.structs.replace(artifact, seal=None)


def _due(copy: Copy) -> bool:
    """Tell whether a copy is to be read: it should be there, or looks wrong and nobody was told so."""
    return copy.state in _PRESENT or (copy.state is CopyState.CORRUPT and copy.error is None)
