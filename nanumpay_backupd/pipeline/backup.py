"""The stage order of one run, and what its outcome is. Every stage's own work is next door.

preflight → dump → compress → encrypt → publish (commit point) → verify → upload → retention. Verification comes before
the upload so that a damaged artifact never leaves the host and the remote manifest carries the proof
(docs/decisions/0002-verify-before-upload.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, BusyError, CancelledError, DecryptError, SpaceError, VerifyError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import (
    FULLS,
    LOCAL,
    SLICES,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Run,
    Stage,
    error_info,
)
from nanumpay_backupd.pipeline import hooks
from nanumpay_backupd.pipeline.again import repeated
from nanumpay_backupd.pipeline.ageing import counted_from
from nanumpay_backupd.pipeline.groups import send_groups
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import SEALS, Layout, backup_id
from nanumpay_backupd.pipeline.oddities import examine
from nanumpay_backupd.pipeline.outbox import Encrypting, sweep_outbox
from nanumpay_backupd.pipeline.outlook import PruneLine, too_large
from nanumpay_backupd.pipeline.produce import preflight, produce, staged_state
from nanumpay_backupd.pipeline.proving import encrypt_staged, prove_and_encrypt, prove_local
from nanumpay_backupd.pipeline.prune import named, prune
from nanumpay_backupd.pipeline.publish import clear_staging, commit, open_staging, sweep
from nanumpay_backupd.pipeline.report import Recorder, as_expected
from nanumpay_backupd.pipeline.states import StateFolder, stamped
from nanumpay_backupd.pipeline.swap import unfinished_swap
from nanumpay_backupd.pipeline.unfinished import sweep_unfinished
from nanumpay_backupd.pipeline.upload import OpenStore, upload, upload_due
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.settings.selection import bound_for
from nanumpay_backupd.sources.base import Source
from nanumpay_backupd.system.files import is_disk_full, remove_tree
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.sandbox import way_out
from nanumpay_backupd.system.shortage import shortage

__all__ = [
    "announce",
    "back_up",
    "between_hooks",
    "disk_fault",
    "interrupt",
    "name_backup",
    "recorded",
    "recover",
    "safety_backup",
    "tidy",
    "unfinished",
    "upload_new",
    "upload_queued",
]

_TENTH: Final = 0.1
_LEFTOVERS: Final = 10
"""How far back a run looks for backups that were committed but never proven."""


def back_up(spec: RunSpec, source: Source, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Make one backup and return the finished Run, whatever happened; a defect is raised after it was recorded.

    With ``spec.collection`` it is a snapshot of that collection, and ``source`` gives no more than that.
    """
    layout = Layout(spec.paths.backups)

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            return _stages(spec, source, layout, catalog, recorder, open_store, keys=keys)

    return recorded(
        spec, layout, recorder, lambda: between_hooks(spec, catalog, recorder, work), partly=Outcome.DEGRADED
    )


def between_hooks(
    spec: RunSpec, catalog: Catalog, recorder: Recorder, work: Callable[[], list[BackupdError]]
) -> list[BackupdError]:
    """Do ``work`` between the job's own commands; what fails before fails the run, what fails after degrades it.

    That after is run in any case, also where that before failed: it may have to take back what was begun.
    """
    error: BackupdError | None = None
    faults: list[BackupdError] = []
    try:
        hooks.before(spec, recorder)
        faults = work()
    except BackupdError as raised:
        error = raised
        raise
    finally:
        made = catalog.backup(recorder.run.backup) if recorder.run.backup else None
        fault = hooks.after(spec, recorder, made, error)
        if fault is not None and error is None:
            faults.append(fault)
        elif fault is not None:
            recorder.warn(f"after the backup: {fault.message}", fault)
    return faults


def upload_queued(spec: RunSpec, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Try the queued uploads of a job that are due; returns the finished Run as `back_up` does."""
    layout = Layout(spec.paths.backups)

    def work() -> list[BackupdError]:
        with recorder.stage(Stage.UPLOAD), Keyring(spec.job.encryption) as keys:
            done, count, faults = upload_due(spec.job, catalog, layout, recorder, open_store, keys=keys)
            recorder.detail(f"{done} of {count} queued copies uploaded", Outcome.FAILED if faults else None)
            # What a group waits for may have arrived.
            faults += send_groups([spec.job], catalog, layout, open_store)
        return faults

    return recorded(spec, layout, recorder, work, partly=Outcome.FAILED)


def recorded(
    spec: RunSpec,
    layout: Layout,
    recorder: Recorder,
    work: Callable[[], list[BackupdError]],
    *,
    partly: Outcome | Callable[[BackupdError], Outcome],
) -> Run:
    """Do ``work`` under the lock of the run's lane and record how it ended.

    ``partly`` is the outcome when it returns faults, or says it by the first one.
    """
    lock = FileLock(layout.lock(spec.job.name, spec.action), f"job {spec.job.name}")
    try:
        lock.acquire()
    except BusyError as error:
        return recorder.finish(Outcome.SKIPPED, error)
    except OSError as error:
        return recorder.finish(Outcome.FAILED, disk_fault(error, layout))
    try:
        faults = work()
        if not faults:
            return recorder.finish(Outcome.SUCCEEDED)
        return recorder.finish(partly(faults[0]) if callable(partly) else partly, _foremost(faults))
    except CancelledError as error:
        # A wait inside of a transfer ends in one way only, whatever the run is ended for.
        if recorder.fault is not None and not recorder.cancelled:
            return recorder.finish(Outcome.FAILED, recorder.fault)
        return recorder.finish(Outcome.CANCELLED, error)
    except OSError as error:
        return recorder.finish(Outcome.FAILED, recorder.fault or disk_fault(error, layout))
    except Exception as raised:
        # What failed because the run was being ended is not what it failed of.
        fault = recorder.fault or as_expected(raised)
        raised = fault if recorder.fault is not None else raised
        run = recorder.finish(Outcome.FAILED, fault)
        if fault is not raised:
            raise
        return run
    finally:
        lock.release()


def _foremost(faults: Sequence[BackupdError]) -> BackupdError:
    """Return the fault that a run shows; where there are more, it says so, and where they are told."""
    first = faults[0]
    if len(faults) == 1:
        return first
    text = f"{first.message} (the first of {len(faults)} faults)"
    hint = "; ".join(filter(None, (first.hint, "of the others tells: backupctl copies latest")))
    return BackupdError(text, hint=hint, code=first.code, retryable=first.retryable)


def disk_fault(error: OSError, layout: Layout) -> BackupdError:
    """Name a fault of the disk or the folder's rights, wherever in a run it shows."""
    if (fault := shortage(error)) is not None:
        return fault
    place = error.filename or layout.backups
    if is_disk_full(error):
        return SpaceError(
            f"the disk of {place} is full",
            hint="free space there or set [paths] backups to a larger disk; older backups are untouched",
        )
    return BackupdError(
        f"{place} cannot be used: {os.strerror(error.errno) if error.errno else error}",
        hint=way_out(layout.backups)
        or "create the backups folder and give it to the service's user, or set [paths] backups in backupd.toml; "
        "for a fault of the disk see journalctl -k",
        code="folder-unusable",
    )


def recover(catalog: Catalog, layout: Layout, now: datetime) -> list[Run]:
    """Clean up after runs whose process died, and mark them as interrupted; returns those runs.

    A run whose process still lives is left alone: its staging folder is locked, and so is its job.
    """
    tidy(catalog, layout, now)
    ended = []
    for run in catalog.unfinished_runs():
        lock = FileLock(layout.lock(run.job, run.action), f"job {run.job}")
        try:
            lock.acquire()
        except BusyError:
            continue
        except OSError:
            pass
        lock.release()
        ended.append(interrupt(catalog, run, now))
    return ended


def tidy(catalog: Catalog, layout: Layout, now: datetime) -> None:
    """Sweep what dead runs left in the backups folder and bring the catalog in line; raises BackupdError."""
    try:
        sweep(layout)
        sync_local(catalog, layout, now)
        sweep_outbox(layout, catalog)
    except OSError as error:
        raise BackupdError(
            f"the backups folder {layout.backups} cannot be used: {os.strerror(error.errno or 0)}",
            hint=way_out(layout.backups)
            or "create it and give it to the service's user, or set [paths] backups in backupd.toml",
            code="folder-unusable",
        ) from None


def interrupt(catalog: Catalog, run: Run, now: datetime, reason: str = "the process of the run ended") -> Run:
    """Record that a run ended without a word of its own."""
    error = BackupdError(
        f"{reason} before it was finished{_restored_by_then(run, catalog)}{unfinished(run)}",
        hint="backups committed before are untouched; look at the journal for the cause",
        code="interrupted",
        retryable=True,
    )
    stages = tuple(
        stage if stage.ended is not None else msgspec.structs.replace(stage, ended=now, outcome=Outcome.INTERRUPTED)
        for stage in run.stages
    )
    done = msgspec.structs.replace(run, ended=now, outcome=Outcome.INTERRUPTED, stages=stages, error=error_info(error))
    catalog.save_run(done)
    return done


def _restored_by_then(run: Run, catalog: Catalog) -> str:
    """Say, to be appended, which members of a group were restored when the run of its restore ended; else empty."""
    if run.action != "group-restore":
        return ""
    members = [member for name in run.members if (member := catalog.run(name)) is not None]
    done = [member.job for member in members if member.outcome is Outcome.SUCCEEDED]
    others = [member.job for member in members if member.outcome is not Outcome.SUCCEEDED]
    told = f"; restored by then: {', '.join(done) or 'nothing'}"
    return told + (f"; begun and not finished: {', '.join(others)}" if others else "")


def unfinished(run: Run) -> str:
    """Say, to be appended, what a restore that ended without a word of its own left behind; empty for other runs."""
    if run.action != "restore":
        return ""
    if swap := unfinished_swap(run):
        return swap
    if not any(record.stage is Stage.RESTORE for record in run.stages):
        return "; nothing was changed in the database"
    if any(record.stage is Stage.COMPARE for record in run.stages):
        return "; the database is restored, but was not compared with the backup"
    back = f", or go back to what was there before: backupctl restore {run.backup}" if run.backup else ""
    return f"; the database is half restored: restore again{back}"


def _stages(
    spec: RunSpec,
    source: Source,
    layout: Layout,
    catalog: Catalog,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring,
) -> list[BackupdError]:
    whole, spec = spec, msgspec.structs.replace(spec, job=bound_for(spec.job, spec.only_to))
    with recorder.stage(Stage.PREFLIGHT):
        punch = _look(spec, source, layout, catalog, recorder, keys)
        sweep(layout)
        sweep_outbox(layout, catalog, held=layout.lock(spec.job.name, spec.action))
    with Encrypting(layout, keys, recorder) as beside:
        manifest = _make(spec, source, layout, catalog, recorder, keys, punch=punch, beside=beside)
        backup = prove_and_encrypt(spec.job, source, layout, manifest, catalog, recorder, keys=keys, beside=beside)
    if _kind(spec) is Kind.FULL:
        _tell_oddity(spec, backup, layout, catalog, recorder)
    _verify_leftovers(spec, source, layout, catalog, recorder, keys)
    faults = upload_new(spec, backup, catalog, layout, recorder, open_store, keys=keys)
    with recorder.stage(Stage.RETENTION):
        _retain(whole, layout, catalog, recorder, open_store)
    return faults


def _look(spec: RunSpec, source: Source, layout: Layout, catalog: Catalog, recorder: Recorder, keys: Keyring) -> bool:
    """Do the checks before a backup, more than once where that helps; returns whether holes can be punched."""
    return repeated(
        recorder,
        spec.job.retry,
        "the preflight",
        lambda: preflight(source, spec.job, layout, catalog, recorder, keys),
    )


def _tell_oddity(spec: RunSpec, backup: Backup, layout: Layout, catalog: Catalog, recorder: Recorder) -> None:
    """Say when data may be missing from a good backup, and keep the last one that has it from retention.

    The backup is what the database held: that it is odd, or that this cannot be written down, is never the run's fault.
    """
    try:
        found = examine(spec.job, backup, catalog, layout, recorder.clock.now())
    except BackupdError as error:
        recorder.warn(f"whether data is missing from {backup.id} could not be settled: {error.message}", error)
        return
    if found is not None:
        record, kept = found
        stays = f"; pinned until that is settled: {', '.join(kept)}" if kept else ""
        recorder.warn(f"{backup.id} is odd: {record.text}{stays} (backupctl monitor)", message=Message.BACKUP_ODD)


def upload_new(
    spec: RunSpec,
    backup: Backup,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring,
) -> list[BackupdError]:
    """Bring a backup that was just proven to the job's destinations; returns the faults, one per destination."""
    places = len(spec.job.destinations)
    if not places:
        return []
    with recorder.stage(Stage.UPLOAD, total=backup.size * places):
        faults = upload(spec.job, backup, catalog, layout, recorder, open_store, keys=keys)
        only = "" if spec.only_to is None else f" (only to: {', '.join(spec.only_to)})"
        recorder.detail(f"{places - len(faults)} of {places} destinations{only}", Outcome.DEGRADED if faults else None)
    return faults


def _kind(spec: RunSpec) -> Kind:
    return Kind.FULL if spec.collection is None else Kind.COLLECTION


def _alike(spec: RunSpec) -> frozenset[Kind]:
    return FULLS if spec.collection is None else frozenset({Kind.COLLECTION})


def _make(
    spec: RunSpec,
    source: Source,
    layout: Layout,
    catalog: Catalog,
    recorder: Recorder,
    keys: Keyring,
    *,
    punch: bool,
    beside: Encrypting | None = None,
) -> Manifest:
    """Dump, compress, encrypt and commit; returns the committed backup's manifest."""
    staging, lock = open_staging(layout, spec.run)

    def attempt() -> tuple[Path, Manifest]:
        clear_staging(staging)
        started, identifier = name_backup(spec, layout, catalog, recorder, _kind(spec))
        artifact, manifest = produce(
            source,
            spec.job,
            identifier,
            started,
            staging,
            recorder,
            punch=punch,
            kind=_kind(spec),
            keys=keys,
            beside=beside,
        )
        manifest = msgspec.structs.replace(manifest, only_to=spec.only_to)
        if source.kinds & SLICES:
            manifest = stamped(manifest, started)
        if keys.seals_here and manifest.artifact.encryption == "none":
            artifact, manifest = encrypt_staged(source, artifact, manifest, recorder, keys)
        return artifact, manifest

    try:
        artifact, manifest = repeated(recorder, spec.job.retry, "the dump", attempt)
        with recorder.stage(Stage.PUBLISH):
            StateFolder(spec.paths.state).keep(manifest.backup, staged_state(staging))
            commit(layout, staging, artifact, manifest)
            announce(manifest, catalog, recorder)
            recorder.detail(manifest.artifact.name)
    finally:
        remove_tree(staging)
        lock.release()
    return manifest


def safety_backup(spec: RunSpec, source: Source, catalog: Catalog, recorder: Recorder) -> Backup:
    """Make and prove one backup within another run, which has the job's lock; it stays on this host.

    ``spec.job`` names it. Raises as the stages do; nothing is pruned.
    """
    layout = Layout(spec.paths.backups)
    with Keyring(spec.job.encryption) as keys:
        with recorder.stage(Stage.PREFLIGHT):
            punch = _look(spec, source, layout, catalog, recorder, keys)
        manifest = _make(spec, source, layout, catalog, recorder, keys, punch=punch)
        return prove_local(source, layout, manifest, catalog, recorder, keys)


def announce(manifest: Manifest, catalog: Catalog, recorder: Recorder) -> None:
    """Record a backup that was just committed, and tell of it."""
    copy = Copy(
        backup=manifest.backup,
        destination=LOCAL,
        state=CopyState.UPLOADED,
        key=manifest.artifact.name,
        size=manifest.artifact.size,
        updated=recorder.clock.now(),
    )
    catalog.save_backup(backup_from_manifest(manifest, copy))
    recorder.committed(manifest.backup, manifest.artifact.name, manifest.artifact.size)


def name_backup(
    spec: RunSpec, layout: Layout, catalog: Catalog, recorder: Recorder, kind: Kind = Kind.FULL
) -> tuple[datetime, str]:
    """Name the backup by the present second; when that name is taken, wait for the next one."""
    while True:
        started = recorder.clock.now()
        identifier = backup_id(spec.job.name, started, kind)
        taken = (
            catalog.backup(identifier) is not None
            or layout.manifest(identifier).exists()
            or any(
                layout.artifact(f"{identifier}{suffix}{seal}").exists()
                for suffix in (".tar.gz", ".tar", ".bson.zst")
                for seal in ("", *SEALS)
            )
        )
        if not taken and (recorder.fence is None or recorder.fence.claim_name(identifier)):
            return started, identifier
        recorder.check()
        recorder.clock.sleep(_TENTH)


def _verify_leftovers(
    spec: RunSpec, source: Source, layout: Layout, catalog: Catalog, recorder: Recorder, keys: Keyring
) -> None:
    """Prove what an earlier run committed but, being cut off, did not read back; its faults are warnings.

    Only backups of the kind that this run makes: a small snapshot shall not take as long as an old full.
    """
    for summary in catalog.backups(spec.job.name, limit=_LEFTOVERS, kinds=_alike(spec)):
        backup = catalog.backup(summary.id) if summary.state is BackupState.COMMITTED else None
        if backup is None or backup.manifest is None or not layout.artifact(backup.artifact).exists():
            continue
        try:
            prove_local(source, layout, backup.manifest, catalog, recorder, keys)
        except VerifyError as error:
            text = f"{backup.id}, which an interrupted run left unproven: {error.message}"
            recorder.warn(text, error, Message.COPY_CORRUPT)
        except DecryptError as error:
            recorder.warn(f"{backup.id}, which an interrupted run left unproven, stays so: {error.message}", error)


def _retain(spec: RunSpec, layout: Layout, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> None:
    """Prune after a verified backup. What cannot be deleted is a warning, never the run's failure.

    A snapshot of a collection makes room among its like only.
    """
    now, fulls = recorder.clock.now(), _kind(spec) is Kind.FULL
    sync_local(catalog, layout, now)
    now = counted_from(catalog, recorder.clock)
    kinds = frozenset(Kind) if fulls else _alike(spec)
    deleted: list[PruneLine] = []
    parted: list[str] = []

    def gone(line: PruneLine) -> None:
        deleted.append(line)
        if recorder.fence is not None:
            recorder.fence.check()

    lines, faults = prune(spec.job, catalog, layout, now, open_store, kinds, on_deleted=gone, on_note=parted.append)
    for fault in faults:
        recorder.warn(f"retention: {fault.message}", fault)
    for left in sweep_unfinished(spec.job.destinations, catalog, now, open_store):
        recorder.reporter.message("info", f"retention: an upload that nobody goes on with was removed: {left}")
    if fulls:
        for note in too_large(spec.job, lines):
            recorder.warn(f"retention: {note}")
    for text in parted:
        recorder.reporter.message("info", f"retention: {text}")
    if deleted:
        recorder.reporter.message("info", f"retention deleted {named(deleted)}", None, Message.COPIES_DELETED)
    locked = sum(line.action == "locked" for line in lines)
    held = f" ({locked} of them locked at their place)" if locked else ""
    recorder.detail(f"{len(deleted)} deleted and {len(lines) - len(deleted)} kept{held}, of {len(lines)} copies")
    catalog.forget_old_runs()
