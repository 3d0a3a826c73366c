"""Copies to the destinations, side by side, and the queue of those that failed. Knows no protocol."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, StoreError
from nanumpay_backupd.model import Backup, Copy, CopyState, error_info, to_json
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.report import Recorder, as_expected
from nanumpay_backupd.settings.schema import Destination, JobSpec, RetryPolicy
from nanumpay_backupd.stores.base import PutResult, Store
from nanumpay_backupd.system.units import human_size

__all__ = ["queue_again", "upload", "upload_due"]

OpenStore = Callable[[Destination], Store]
_LONGEST_DELAY: Final = 3600.0


def upload(
    job: JobSpec, backup: Backup, catalog: Catalog, layout: Layout, recorder: Recorder, open_store: OpenStore
) -> list[BackupdError]:
    """Bring one backup to all of a job's destinations at once; returns the faults, one per destination that failed.

    Every copy is recorded as pending before the first byte moves, so that none is forgotten when this process dies.
    """
    now = recorder.clock.now()
    due = now + timedelta(seconds=job.retry.delay)
    copies = [
        Copy(
            backup=backup.id,
            destination=destination.name,
            state=CopyState.PENDING,
            key=backup.artifact,
            size=backup.size,
            updated=now,
            next_attempt=due,
        )
        for destination in job.destinations
    ]
    for copy in copies:
        catalog.save_copy(copy)
    work = [(destination, backup, copy) for destination, copy in zip(job.destinations, copies, strict=True)]
    return _side_by_side(work, job, catalog, layout, recorder, open_store)


def upload_due(
    job: JobSpec, catalog: Catalog, layout: Layout, recorder: Recorder, open_store: OpenStore
) -> tuple[int, list[BackupdError]]:
    """Try the queued copies of a job that are due by now; returns how many there were, and the faults."""
    now = recorder.clock.now()
    destinations = {destination.name: destination for destination in job.destinations}
    work: list[tuple[Destination, Backup, Copy]] = []
    for copy in catalog.pending_copies(due=now):
        backup = catalog.backup(copy.backup)
        if backup is None or backup.job != job.name:
            continue
        destination = destinations.get(copy.destination)
        if destination is None or not layout.artifact(backup.artifact).exists():
            _give_up(copy, destination, catalog, recorder)
            continue
        work.append((destination, backup, copy))
    faults: list[BackupdError] = []
    # One backup after the other, so that a destination sees one connection at a time.
    for name in dict.fromkeys(item[1].id for item in work):
        some = [item for item in work if item[1].id == name]
        faults += _side_by_side(some, job, catalog, layout, recorder, open_store)
    return len(work), faults


def queue_again(catalog: Catalog, job: str, destination: str, now: datetime) -> int:
    """Put the copies that were given up back into the queue, because the destination works again or was changed."""
    count = 0
    for backup in catalog.backups(job):
        for copy in backup.copies:
            if copy.destination == destination and copy.state is CopyState.PENDING and copy.next_attempt is None:
                catalog.save_copy(msgspec.structs.replace(copy, attempts=0, next_attempt=now, updated=now))
                count += 1
    return count


def _side_by_side(
    work: list[tuple[Destination, Backup, Copy]],
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
) -> list[BackupdError]:
    if not work:
        return []
    faults: list[BackupdError] = []
    lock = threading.Lock()

    def one(destination: Destination, backup: Backup, copy: Copy) -> None:
        started = recorder.clock.monotonic()
        try:
            with contextlib.closing(open_store(destination)) as store:
                result = _put(store, backup, layout, recorder)
        except CancelledError:
            return
        except Exception as raised:  # noqa: BLE001 - one destination's fault, also a defect, must not stop the others
            error = as_expected(raised)
            with lock:
                faults.append(_failed(copy, error, job.retry, catalog, recorder))
            return
        seconds = recorder.clock.monotonic() - started
        with lock:
            _succeeded(copy, result, seconds, catalog, recorder)
            queue_again(catalog, job.name, destination.name, recorder.clock.now())

    with ThreadPoolExecutor(len(work), thread_name_prefix="upload") as pool:
        for future in [pool.submit(one, *item) for item in work]:
            future.result()
    recorder.check()
    return faults


def _put(store: Store, backup: Backup, layout: Layout, recorder: Recorder) -> PutResult:
    """Artifact first, manifest last: a reader of the destination never sees a manifest without its artifact."""
    assert backup.manifest is not None
    path = layout.artifact(backup.artifact)
    result = store.put(backup.artifact, path, recorder.progress)
    if result.size != backup.size:
        raise StoreError(
            f"{store.name} holds {result.size} bytes of {backup.artifact} instead of {backup.size}",
            hint="it is tried again; if it happens again, check the destination's disk and quota",
            code="destination-mismatch",
        )
    store.put_bytes(f"{backup.artifact}{MANIFEST_SUFFIX}", to_json(backup.manifest))
    return result


def _succeeded(copy: Copy, result: PutResult, seconds: float, catalog: Catalog, recorder: Recorder) -> None:
    state = CopyState.VERIFIED if result.proven else CopyState.UPLOADED
    now = recorder.clock.now()
    catalog.save_copy(
        msgspec.structs.replace(
            copy, state=state, updated=now, attempts=copy.attempts + 1, next_attempt=None, error=None
        )
    )
    rate = human_size(copy.size / max(seconds, 0.001))
    recorder.reporter.message(
        "info", f"{copy.key} is at {copy.destination} ({state.value}, {human_size(copy.size)}, {rate}/s)"
    )


def _failed(copy: Copy, error: BackupdError, retry: RetryPolicy, catalog: Catalog, recorder: Recorder) -> BackupdError:
    """Record a failed try and when the next one is; a fault that a retry cannot mend is not tried again by itself."""
    attempts = copy.attempts + 1
    now = recorder.clock.now()
    delay = min(retry.delay * 2 ** (attempts - 1), _LONGEST_DELAY)
    again = error.retryable and attempts < retry.attempts
    following = now + timedelta(seconds=delay) if again else None
    catalog.save_copy(
        msgspec.structs.replace(copy, attempts=attempts, next_attempt=following, updated=now, error=error_info(error))
    )
    if again:
        what = f"next try in {delay:.0f} s ({attempts} of {retry.attempts} done)"
    elif error.retryable:
        what = f"given up after {attempts} tries; queued again as soon as {copy.destination} works"
    else:
        what = f"not tried again until the settings of {copy.destination} change or it works again"
    recorder.warn(f"upload of {copy.key} to {copy.destination} failed: {error.message}; {what}", error)
    return error


def _give_up(copy: Copy, destination: Destination | None, catalog: Catalog, recorder: Recorder) -> None:
    """A queued copy that cannot be made any more: its destination or its local file is gone."""
    if destination is None:
        catalog.forget_copy(copy.backup, copy.destination)
        recorder.warn(f"{copy.key} is not uploaded to {copy.destination}: that destination is no longer configured")
        return
    catalog.save_copy(
        msgspec.structs.replace(copy, state=CopyState.MISSING, next_attempt=None, updated=recorder.clock.now())
    )
    recorder.warn(f"{copy.key} is not uploaded to {copy.destination}: the local file is gone")
