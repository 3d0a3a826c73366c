"""Copies to the destinations, side by side, and the queue of those that failed. Knows no protocol."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, NotFoundError, RefusedError, StoreError
from nanumpay_backupd.model import SLICES, Backup, BackupState, Copy, CopyState, Proof, error_info
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.outbox import discard
from nanumpay_backupd.pipeline.parcels import Parcel, make_parcel, obtainable
from nanumpay_backupd.pipeline.plain import make_plain, plain_here, stored_plain
from nanumpay_backupd.pipeline.readback import read_back, wants_reading
from nanumpay_backupd.pipeline.report import Recorder, as_expected
from nanumpay_backupd.pipeline.transfers import Transfer, carry
from nanumpay_backupd.settings.schema import Destination, JobSpec, RetryPolicy
from nanumpay_backupd.stores.base import PutResult, Store
from nanumpay_backupd.system.shared_file import SharedFile
from nanumpay_backupd.system.units import human_size

__all__ = [
    "PLACE_FAULTS",
    "can_be_made",
    "is_there",
    "queue_again",
    "queue_copies",
    "queued_copy",
    "send_parcel",
    "stored_as",
    "upload",
    "upload_due",
]

OpenStore = Callable[[Destination], Store]
_LONGEST_DELAY: Final = 3600.0
_LONGEST_SLICE_DELAY: Final = 600.0
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_TOLD: Final = 10
"""If more copies arrive at once, only their number is told."""
PLACE_FAULTS: Final = frozenset(
    {"destination-unreachable", "destination-auth", "destination-not-found", "destination-denied", "destination-tls"}
)
"""Faults that every other copy at the place would meet too."""


def upload(
    job: JobSpec,
    backup: Backup,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring | None = None,
) -> list[BackupdError]:
    """Bring one backup to all of a job's destinations at once; returns the faults, one per destination that failed.

    Every copy is recorded as pending before the first byte moves, so that none is forgotten when this process dies.
    A slice is not even tried where others wait already for a place that could not be used: it joins them.
    """
    keys = keys or Keyring()
    now = recorder.clock.now()
    due = now + timedelta(seconds=job.retry.delay)
    down = _waited_for(job, catalog, now) if backup.kind in SLICES else {}
    faults: list[BackupdError] = []
    work: list[tuple[Destination, Backup, Copy]] = []
    for destination in job.destinations:
        other = down.get(destination.name)
        key, size = stored_as(backup, job, keys, destination)
        copy = Copy(
            backup=backup.id,
            destination=destination.name,
            state=CopyState.PENDING,
            key=key,
            size=size,
            updated=now if other is None else other.updated,
            next_attempt=due if other is None else other.next_attempt,
            error=None if other is None else other.error,
        )
        catalog.save_copy(copy)
        if other is None:
            work.append((destination, backup, copy))
        else:
            faults.append(_joined(copy))
    return faults + _side_by_side(work, job, catalog, layout, recorder, open_store, keys=keys)


def upload_due(
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring | None = None,
) -> tuple[int, int, list[BackupdError]]:
    """Try the queued copies of a job that are due by now; returns how many arrived, how many were due, and the faults.

    Once a place turns out not to be usable at all, the others that are due there wait with the one that was tried.
    """
    now = recorder.clock.now()
    keys = keys or Keyring()
    work = _due(job, catalog, layout, recorder, now, keys)
    down: dict[str, Copy] = {}
    faults: list[BackupdError] = []
    held = 0
    # One backup after the other, so that a destination sees one connection at a time.
    for name in dict.fromkeys(item[1].id for item in work):
        some = [item for item in work if item[1].id == name and item[0].name not in down]
        for _, backup, copy in (item for item in work if item[1].id == name and item[0].name in down):
            _hold(copy, down[copy.destination], backup, job.retry, now, catalog)
            held += 1
        faults += _side_by_side(some, job, catalog, layout, recorder, open_store, keys=keys, tell=len(work) <= _TOLD)
        down |= {copy.destination: copy for copy in _after(catalog, name) if _is_down(copy)}
    if held:
        recorder.warn(f"{held} more copies wait for {', '.join(sorted(down))} and were not tried")
    return len(work) - len(faults) - held, len(work), faults


def stored_as(backup: Backup, job: JobSpec, keys: Keyring, destination: Destination) -> tuple[str, int]:
    """Return name and size of a backup as a destination gets it; one that is yet to be encrypted grows a little."""
    assert backup.manifest is not None
    if destination.wants_plain:
        return stored_plain(backup.manifest, keys)
    stored = backup.manifest.stored_elsewhere
    yet = stored.encryption == "none" and keys.seals_for(job)
    return f"{stored.name}{keys.suffix}" if yet else stored.name, stored.size


def can_be_made(backup: Backup, layout: Layout, keys: Keyring, job: JobSpec, destination: Destination) -> bool:
    """Tell whether the file that a destination gets is here, can still be made, or can be brought from elsewhere."""
    if destination.wants_plain:
        return plain_here(backup, layout, job)
    return obtainable(backup, layout, keys, job)


def _due(
    job: JobSpec, catalog: Catalog, layout: Layout, recorder: Recorder, now: datetime, keys: Keyring
) -> list[tuple[Destination, Backup, Copy]]:
    """Return the queued copies that are due and can still be made."""
    destinations = {destination.name: destination for destination in job.destinations}
    work: list[tuple[Destination, Backup, Copy]] = []
    for copy in catalog.pending_copies(due=now):
        backup = catalog.backup(copy.backup)
        if backup is None or backup.job != job.name:
            continue
        destination = destinations.get(copy.destination)
        if destination is None or not can_be_made(backup, layout, keys, job, destination):
            _give_up(copy, destination, catalog, recorder)
            continue
        work.append((destination, backup, copy))
    return work


def _after(catalog: Catalog, name: str) -> tuple[Copy, ...]:
    backup = catalog.backup(name)
    return backup.copies if backup is not None else ()


def _is_down(copy: Copy) -> bool:
    """Tell whether a copy waits because of its place, so that no other would arrive there either."""
    return copy.state is CopyState.PENDING and copy.error is not None and copy.error.code in PLACE_FAULTS


def _waited_for(job: JobSpec, catalog: Catalog, now: datetime) -> dict[str, Copy]:
    """Return for each place that could not be used a moment ago a copy that waits for it."""
    found = {}
    for copy in catalog.pending_copies():
        if _is_down(copy) and copy.next_attempt is not None and copy.next_attempt > now:
            found[copy.destination] = copy
    recent = now - timedelta(seconds=_LONGEST_SLICE_DELAY)
    for destination in job.destinations:
        for copy in catalog.given_up_copies(job.name, destination.name):
            lasts = copy.error is not None and not copy.error.retryable
            if lasts and _is_down(copy) and copy.updated > recent:
                found.setdefault(copy.destination, copy)
    return found


def _joined(copy: Copy) -> BackupdError:
    """Return the fault of a copy that was not tried because others wait for the same place."""
    assert copy.error is not None
    text = f"{copy.key} waits with others for {copy.destination}: {copy.error.message}"
    return StoreError(text, hint=copy.error.hint, code=copy.error.code, retryable=copy.error.retryable)


def _hold(copy: Copy, tried: Copy, backup: Backup, retry: RetryPolicy, now: datetime, catalog: Catalog) -> None:
    """Let a copy wait with one that was tried at the same place; a slice also where that one was given up."""
    following = tried.next_attempt
    if following is None and backup.kind in SLICES and tried.error is not None and tried.error.retryable:
        following = now + _delay(retry, tried.attempts, _LONGEST_SLICE_DELAY)
    held = msgspec.structs.replace(
        copy, attempts=tried.attempts, next_attempt=following, updated=now, error=tried.error
    )
    catalog.save_copy(held)


def _delay(retry: RetryPolicy, attempts: int, longest: float) -> timedelta:
    """Return how long to wait after so many tries."""
    return timedelta(seconds=min(retry.delay * 2 ** min(attempts - 1, 20), longest))


def queue_again(catalog: Catalog, job: str, destination: str, now: datetime) -> int:
    """Put the copies that were given up back into the queue, because the destination works again or was changed."""
    given_up = catalog.given_up_copies(job, destination)
    for copy in given_up:
        catalog.save_copy(msgspec.structs.replace(copy, attempts=0, next_attempt=now, updated=now))
    return len(given_up)


def queue_copies(
    catalog: Catalog, layout: Layout, job: JobSpec, name: str, places: Collection[str], now: datetime
) -> list[str]:
    """Queue a backup for those of the places where it is not, also where it was not wanted; returns them.

    Raises NotFoundError when there is no such backup or its file is not here any more, RefusedError when it is not
    proven.
    """
    backup = catalog.backup(name)
    if backup is None:
        raise NotFoundError(f"there is no backup {name!r}", hint="see: backupctl list")
    if backup.state is not BackupState.VERIFIED or backup.manifest is None:
        raise RefusedError(
            f"{name} is {backup.state.value}: only what was verified is sent",
            hint=f"read it back first: backupctl verify {name}",
        )
    there = {copy.destination for copy in backup.copies if is_there(copy)}
    missing = [destination for destination in job.destinations if destination.name in {*places} - there]
    with Keyring(job.encryption) as keys, catalog.together():
        if not all(can_be_made(backup, layout, keys, job, destination) for destination in missing):
            raise NotFoundError(
                f"the file of {name} that the destinations get is not in the backups folder any more, nor elsewhere",
                hint="where its copies are: backupctl copies " + name,
                code="artifact-missing",
            )
        for destination in missing:
            key, size = stored_as(backup, job, keys, destination)
            catalog.save_copy(queued_copy(name, destination.name, key, size, now))
    return [destination.name for destination in missing]


def is_there(copy: Copy) -> bool:
    """Tell whether a copy need not be queued: it is there, or is queued already."""
    return copy.state in _PRESENT or copy.next_attempt is not None


def queued_copy(backup: str, place: str, key: str, size: int, now: datetime) -> Copy:
    """Return a copy that is still to be made, due at once."""
    return Copy(
        backup=backup,
        destination=place,
        state=CopyState.PENDING,
        key=key,
        size=size,
        updated=now,
        next_attempt=now,
    )


def send_parcel(
    parcel: Parcel,
    backup: Backup,
    copy: Copy,
    job: JobSpec,
    *,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    keys: Keyring,
) -> list[BackupdError]:
    """Bring what is ready to one place, and read it back there; returns the fault, after which it is queued."""
    destination = next(item for item in job.destinations if item.name == copy.destination)
    work = [(destination, backup, copy)]
    return _side_by_side(work, job, catalog, layout, recorder, open_store, keys=keys, parcel=parcel)


def _side_by_side(
    work: list[tuple[Destination, Backup, Copy]],
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring,
    tell: bool = True,
    parcel: Parcel | None = None,
) -> list[BackupdError]:
    """Upload one backup; with ``tell`` each copy that arrives is told.

    A ``parcel`` that is ready already is read back wherever it goes.
    """
    asked = parcel is not None
    if not work:
        return []
    faults: list[BackupdError] = []
    lock = threading.Lock()
    if parcel is None:
        parcels, faults = _parcels(work, job, catalog, layout, recorder, open_store, keys=keys)
        work = [item for item in work if item[0].wants_plain in parcels]
    else:
        parcels = {work[0][0].wants_plain: parcel}
    if not work:
        return faults

    def failed(transfer: Transfer, error: BackupdError) -> None:
        with lock:
            if transfer.settle():
                lasting = transfer.backup.kind in SLICES
                faults.append(_failed(transfer.copy, error, job.retry, catalog, recorder, lasting=lasting))

    def one(transfer: Transfer) -> None:
        parcel = parcels[transfer.destination.wants_plain]
        try:
            with contextlib.closing(open_store(transfer.destination)) as store:
                result, proof = _put(
                    store, sources[transfer.destination.wants_plain], parcel, transfer, job=job, reading=asked
                )
        except CancelledError:
            return
        except Exception as raised:  # noqa: BLE001 - one destination's fault, also a defect, must not stop the others
            # Of what fails while it is given up, or the run is ended, that is the reason.
            if recorder.fault is None:
                failed(transfer, transfer.given_up or as_expected(raised))
            return
        with lock:
            if not transfer.settle():
                return  # given up a moment ago; the next try finds it there
            text = _succeeded(transfer.copy, proof, result.resumed, transfer.taken, catalog, recorder)
            if tell:
                recorder.reporter.message("info", text)
            queue_again(catalog, job.name, transfer.destination.name, recorder.clock.now())

    sources = _sources(parcels, work)
    transfers = [
        Transfer(destination, backup, _as_stored(copy, parcels[destination.wants_plain]), recorder)
        for destination, backup, copy in work
    ]
    carry(transfers, one, job, recorder, failed)
    discard(work[0][1].id, layout, catalog)
    recorder.check()
    return faults


def _parcels(
    work: list[tuple[Destination, Backup, Copy]],
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    keys: Keyring,
) -> tuple[dict[bool, Parcel], list[BackupdError]]:
    """Make ready what the destinations get, by whether they want it plain; returns the faults of what cannot be."""
    parcels: dict[bool, Parcel] = {}
    faults: list[BackupdError] = []
    backup = work[0][1]
    for plain in sorted({destination.wants_plain for destination, _, _ in work}):
        make = make_plain if plain else make_parcel
        try:
            parcels[plain] = make(backup, job, catalog, layout, recorder, keys=keys, open_store=open_store)
            # What was noted of one form belongs to the record of the next.
            backup = catalog.backup(backup.id) or backup
        except Exception as raised:  # noqa: BLE001 - also a defect must not lose what is queued
            recorder.check()
            error, lasting = as_expected(raised), backup.kind in SLICES
            left = [copy for destination, _, copy in work if destination.wants_plain == plain]
            faults += [_failed(copy, error, job.retry, catalog, recorder, lasting=lasting) for copy in left]
    return parcels, faults


def _sources(parcels: dict[bool, Parcel], work: list[tuple[Destination, Backup, Copy]]) -> dict[bool, Path]:
    """Return what is read: a file by all at once from one reading, as long as they keep step."""
    sources: dict[bool, Path] = {plain: parcel.path for plain, parcel in parcels.items()}
    if sum(not destination.wants_plain for destination, _, _ in work) > 1:
        sources[False] = SharedFile.of(sources[False])
    return sources


def _as_stored(copy: Copy, parcel: Parcel) -> Copy:
    return msgspec.structs.replace(copy, key=parcel.artifact.name, size=parcel.artifact.size)


def _put(
    store: Store, source: Path, parcel: Parcel, transfer: Transfer, *, job: JobSpec, reading: bool
) -> tuple[PutResult, Proof]:
    """Artifact first, manifest last: a reader of the destination never sees a manifest without its artifact.

    What is to be read again (in any case with ``reading``) is read in between; returns also how the copy is proven.
    """
    name = parcel.artifact.name
    result = store.put(name, source, transfer.moved)
    if result.size != parcel.artifact.size:
        raise StoreError(
            f"{store.name} holds {result.size} bytes of {name} instead of {parcel.artifact.size}",
            hint="it is tried again; if it happens again, check the destination's disk and quota",
            code="destination-mismatch",
        )
    proof = Proof.CHECKSUM if result.proven else Proof.SIZE
    if reading or wants_reading(job, transfer.copy, proven=result.proven):
        read_back(store, parcel.artifact, transfer.read)
        proof = Proof.READ
    store.put_bytes(f"{name}{MANIFEST_SUFFIX}", parcel.manifest)
    return result, proof


def _succeeded(copy: Copy, proof: Proof, resumed: int, seconds: float, catalog: Catalog, recorder: Recorder) -> str:
    """Record that a copy arrived, ``resumed`` bytes of which were there already; returns a sentence about it."""
    state = CopyState.UPLOADED if proof is Proof.SIZE else CopyState.VERIFIED
    now = recorder.clock.now()
    catalog.save_copy(
        msgspec.structs.replace(
            copy, state=state, updated=now, attempts=copy.attempts + 1, next_attempt=None, error=None, proof=proof
        )
    )
    rate = human_size((copy.size - resumed) / max(seconds, 0.001))
    there = f", of which {human_size(resumed)} were there from an earlier try" if resumed else ""
    return f"{copy.key} is at {copy.destination} ({state.value}, {human_size(copy.size)}{there}, {rate}/s)"


def _failed(
    copy: Copy, error: BackupdError, retry: RetryPolicy, catalog: Catalog, recorder: Recorder, *, lasting: bool
) -> BackupdError:
    """Record a failed try and when the next one is; a fault that a retry cannot mend is not tried again by itself.

    ``lasting``: it is never given up, as slices are not, for each of which a gap would be left at that place.
    """
    attempts = copy.attempts + 1
    now = recorder.clock.now()
    delay = _delay(retry, attempts, _LONGEST_SLICE_DELAY if lasting else _LONGEST_DELAY)
    again = error.retryable and (lasting or attempts < retry.attempts)
    following = now + delay if again else None
    catalog.save_copy(
        msgspec.structs.replace(copy, attempts=attempts, next_attempt=following, updated=now, error=error_info(error))
    )
    if again:
        what = f"next try in {delay.total_seconds():.0f} s" + (
            "" if lasting else f" ({attempts} of {retry.attempts} done)"
        )
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
