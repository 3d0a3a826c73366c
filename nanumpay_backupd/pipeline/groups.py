"""Manifests of groups: which backups belong together. Written, sent after the copies, read, and gone with the last one.

A group's manifest is committed when all members of its run ended, so it names backups that exist. At a destination it
is put last: there it says that every member's copy which belongs there has arrived. What is deleted is decided by each
job's retention; here it is seen to that the newest whole group stays, and said which older ones are taken apart.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, StoreError
from nanumpay_backupd.model import (
    FULLS,
    LOCAL,
    Backup,
    BackupState,
    CopyState,
    ErrorInfo,
    GroupManifest,
    GroupMember,
    Outcome,
    Pin,
    Run,
    error_info,
    from_json,
    to_json,
)
from nanumpay_backupd.pipeline.layout import GROUP_SUFFIX, Layout, group_id, group_of
from nanumpay_backupd.pipeline.pins import BY_GROUP, pin, unpin
from nanumpay_backupd.settings.schema import Destination, GroupOrder, JobSpec
from nanumpay_backupd.settings.sources import type_of
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.system.files import fsync_dir, read_json_bytes, write_atomic
from nanumpay_backupd.system.locks import FileLock

__all__ = [
    "DONE",
    "WORST",
    "Concluded",
    "Find",
    "MemberState",
    "Part",
    "adopt_groups",
    "all_at_once",
    "conclude",
    "concluded_run",
    "described",
    "drop_groups",
    "fault_of",
    "members_as_they_are",
    "parted",
    "read_group",
    "read_groups",
    "send_groups",
    "state_of",
    "worst_of",
]

OpenStore = Callable[[Destination], Store]
Find = Callable[[str], Backup | None]
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_LARGEST: Final = 1 << 20
_SECOND: Final = timedelta(seconds=1)
DONE: Final = frozenset({Outcome.SUCCEEDED, Outcome.DEGRADED})
"""How a run ends that made a good backup."""
WORST: Final = (
    Outcome.CANCELLED,
    Outcome.INTERRUPTED,
    Outcome.FAILED,
    Outcome.SKIPPED,
    Outcome.DEGRADED,
    Outcome.SUCCEEDED,
)
"""How runs end, the worst first."""


def worst_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Return how a run ended whose parts ended so; that of no parts failed."""
    return min(outcomes, key=WORST.index, default=Outcome.FAILED)


# Reading


def read_groups(layout: Layout, group: str = "") -> Iterator[GroupManifest]:
    """Yield what is there of a group, or of all, the newest first; a damaged manifest is as none."""
    try:
        names = [path.name for path in layout.groups.iterdir()]
    except OSError:
        return
    ids = [name.removesuffix(GROUP_SUFFIX) for name in names if name.endswith(GROUP_SUFFIX)]
    chosen = [identifier for identifier in ids if group_of(identifier) and group in ("", group_of(identifier))]
    for identifier in sorted(chosen, key=lambda one: (one.removeprefix(group_of(one)), one), reverse=True):
        if (manifest := read_group(layout, identifier)) is not None:
            yield manifest


def read_group(layout: Layout, identifier: str) -> GroupManifest | None:
    """Return one, or None."""
    if not group_of(identifier):
        return None
    try:
        data = read_json_bytes(layout.group(identifier), limit=_LARGEST)
        return _parsed(data, identifier) if data is not None else None
    except (OSError, UnicodeDecodeError):
        return None


def _parsed(data: bytes, identifier: str) -> GroupManifest | None:
    try:
        manifest = from_json(GroupManifest, data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return manifest if manifest.id == identifier else None


class MemberState(msgspec.Struct, frozen=True):
    """What is left of a member's backup. ``state`` is good, unproven, corrupt, gone, or never: none was made.

    ``copies`` are the places that have it, ``size`` its bytes.
    """

    member: GroupMember
    state: str
    copies: tuple[str, ...] = ()
    size: int = 0


def members_as_they_are(manifest: GroupManifest, find: Find) -> list[MemberState]:
    """Say of each member of a group whether its backup can be restored, by what the catalog knows (``find``)."""
    return [_member(member, find) for member in manifest.members]


def all_at_once(catalog: Catalog) -> Find:
    """Return what finds any full of the catalog: all are read when the first is wanted, which is quicker for many."""
    every = cache(lambda: {backup.id: backup for backup in catalog.backups(kinds=FULLS)})
    return lambda name: every().get(name)


def _member(member: GroupMember, find: Find) -> MemberState:
    if member.backup is None:
        return MemberState(member, "never")
    backup = find(member.backup)
    copies = _places(backup)
    if backup is None or not copies:
        return MemberState(member, "gone")
    states = {BackupState.VERIFIED: "good", BackupState.CORRUPT: "corrupt"}
    return MemberState(member, states.get(backup.state, "unproven"), copies, backup.size)


def _places(backup: Backup | None) -> tuple[str, ...]:
    """Return the places that have a copy of a backup, this host first."""
    there = [copy.destination for copy in backup.copies if copy.state in _PRESENT] if backup is not None else []
    return tuple(sorted(there, key=lambda place: (place != LOCAL, place)))


def state_of(states: Iterable[MemberState]) -> str:
    """Return what is left of a group: ``whole``, ``partial`` or ``gone``."""
    usable = [item.state in {"good", "unproven"} for item in states]
    return "whole" if usable and all(usable) else "partial" if any(usable) else "gone"


# Writing and sending


class Part(msgspec.Struct, frozen=True):
    """How one member's part in the run of a group ended; ``run`` is None where none could be begun."""

    job: JobSpec
    outcome: Outcome
    run: Run | None = None
    error: ErrorInfo | None = None


def described(run: Run, parts: Iterable[Part], catalog: Catalog, now: datetime) -> GroupManifest:
    """Return the manifest of a group's run whose parts ended so."""
    return GroupManifest(
        id=group_id(run.job, run.started),
        group=run.job,
        run=run.id,
        started=run.started,
        ended=now,
        outcome=run.outcome or Outcome.FAILED,
        members=tuple(_described(part, catalog) for part in parts),
    )


def _described(part: Part, catalog: Catalog) -> GroupMember:
    made = part.run.backup if part.run is not None and part.outcome in DONE else None
    backup = catalog.backup(made) if made is not None else None
    return GroupMember(
        job=part.job.name,
        type=type_of(part.job.source),
        holds=part.job.source.holds.value,
        run=part.run.id if part.run is not None else "",
        outcome=part.outcome,
        backup=made,
        created=backup.created if backup is not None else None,
        code=part.error.code if part.error is not None else "",
        places=(LOCAL, *(destination.name for destination in part.job.destinations)) if made else (),
    )


def fault_of(parts: Iterable[Part]) -> ErrorInfo | None:
    """Return the fault of the worst member, with the names of all that are not well; None: all are."""
    bad = [part for part in parts if part.outcome is not Outcome.SUCCEEDED]
    if not bad:
        return None
    worst = worst_of(part.outcome for part in bad)
    first = next(part for part in bad if part.outcome is worst)
    why = first.error.message if first.error is not None else worst.value
    others = [f"{part.job.name} {part.outcome.value}" for part in bad if part is not first]
    text = f"job {first.job.name} {worst.value}: {why}" + (f"; {', '.join(others)}" if others else "")
    if first.error is None:
        return ErrorInfo(code="failed", message=text)
    return msgspec.structs.replace(first.error, message=text, retryable=False)


class Concluded(msgspec.Struct, frozen=True):
    """A run of a group, concluded: its manifest, and the faults of places that could not take it."""

    manifest: GroupManifest
    faults: tuple[ErrorInfo, ...] = ()


def conclude(order: GroupOrder, catalog: Catalog, layout: Layout, open_store: OpenStore) -> Concluded:
    """Commit the manifest of a run that ended, keep its backups if it is whole, and send it after the copies.

    Raises BackupdError (``publish-failed``) when it cannot be made durable here: then there is no such group.
    """
    manifest = order.manifest
    with _changing(layout):
        started = manifest.started
        while layout.group(identifier := group_id(manifest.group, started)).exists():
            started += _SECOND
        manifest = msgspec.structs.replace(manifest, id=identifier)
        _write(layout, manifest)
    if manifest.whole:
        _keep(manifest, catalog, layout)
    faults = send_groups(order.jobs, catalog, layout, open_store)
    return Concluded(read_group(layout, manifest.id) or manifest, tuple(error_info(fault) for fault in faults))


def concluded_run(
    run: Run, parts: Sequence[Part], catalog: Catalog, layout: Layout, now: datetime, open_store: OpenStore
) -> Run:
    """Conclude a group's run in this process, and return its record with the outcome, which is saved."""
    run = msgspec.structs.replace(run, outcome=worst_of(part.outcome for part in parts), error=fault_of(parts))
    if run.outcome is not Outcome.CANCELLED and any(part.outcome in DONE for part in parts):
        try:
            order = GroupOrder(described(run, parts, catalog, now), tuple(part.job for part in parts))
            done = conclude(order, catalog, layout, open_store)
        except BackupdError as error:
            run = msgspec.structs.replace(run, outcome=Outcome.FAILED, error=error_info(error))
        else:
            run = msgspec.structs.replace(run, backup=done.manifest.id)
            if done.faults and run.outcome is Outcome.SUCCEEDED:
                run = msgspec.structs.replace(run, outcome=Outcome.DEGRADED, error=done.faults[0])
    run = msgspec.structs.replace(run, ended=now)
    catalog.save_run(run)
    return run


@contextlib.contextmanager
def _changing(layout: Layout) -> Iterator[None]:
    """Let one process at a time write manifests of groups."""
    try:
        layout.create_groups()
        lock = FileLock(layout.groups_lock(), "the groups")
        lock.acquire(wait=True)
    except OSError as error:
        raise _unwritten(layout, error) from None
    try:
        yield
    finally:
        lock.release()


def _write(layout: Layout, manifest: GroupManifest) -> None:
    try:
        write_atomic(layout.group(manifest.id), to_json(manifest))
    except OSError as error:
        raise _unwritten(layout, error) from None


def _unwritten(layout: Layout, error: OSError) -> BackupdError:
    return BackupdError(
        f"the group could not be put on record in {layout.groups}: {os.strerror(error.errno or 0)}",
        hint="check the disk (journalctl -k); the backups of its jobs are there, each by itself",
        code="publish-failed",
        retryable=True,
    )


def _keep(manifest: GroupManifest, catalog: Catalog, layout: Layout) -> None:
    """Pin what the newest whole group is made of, and let go what the one before it was."""
    ours = {member.backup: member.job for member in manifest.members if member.backup is not None}
    told = f"in the newest whole group, {manifest.id}"
    for backup in ours:
        if catalog.backup(backup) is not None:
            pin(catalog, layout, backup, BY_GROUP, told, manifest.ended)
    for old in _of_jobs(catalog.pins(), set(ours.values()), catalog):
        if old.backup not in ours:
            unpin(catalog, layout, old.backup, BY_GROUP)


def _of_jobs(pins: Iterable[Pin], jobs: Collection[str], catalog: Catalog) -> list[Pin]:
    found = []
    for item in pins:
        backup = catalog.backup(item.backup) if item.owner == BY_GROUP else None
        if backup is not None and backup.job in jobs:
            found.append(item)
    return found


def send_groups(jobs: Sequence[JobSpec], catalog: Catalog, layout: Layout, open_store: OpenStore) -> list[BackupdError]:
    """Put manifests of these jobs' groups at the destinations whose copies have all arrived; returns the faults.

    A place that misses a copy gets the manifest with a later call: it is last there.
    """
    destinations = {destination.name: destination for job in jobs for destination in job.destinations}
    names = {job.name for job in jobs}
    waiting: dict[str, list[GroupManifest]] = {}
    for manifest in read_groups(layout):
        if names.intersection(member.job for member in manifest.members):
            for place in destinations.keys() - set(manifest.sent):
                if _arrived(manifest, place, catalog):
                    waiting.setdefault(place, []).append(manifest)
    faults: list[BackupdError] = []
    for place, manifests in waiting.items():
        try:
            with contextlib.closing(open_store(destinations[place])) as store:
                for manifest in reversed(manifests):
                    store.put_bytes(f"{manifest.id}{GROUP_SUFFIX}", to_json(msgspec.structs.replace(manifest, sent=())))
                    _mark(layout, manifest.id, place, there=True)
        except BackupdError as error:
            faults.append(error)
    return faults


def _arrived(manifest: GroupManifest, place: str, catalog: Catalog) -> bool:
    """Tell whether all backups of a group that belong to a place are there, and any is."""
    bound = [member.backup for member in manifest.members if member.backup is not None and place in member.places]
    return bool(bound) and all(place in _places(catalog.backup(name)) for name in bound)


def _mark(layout: Layout, identifier: str, place: str, *, there: bool) -> None:
    """Put on record that a destination has a manifest, or has it no more."""
    with _changing(layout):
        manifest = read_group(layout, identifier)
        if manifest is not None:
            others = tuple(name for name in manifest.sent if name != place)
            sent = (*others, place) if there else others
            _write(layout, msgspec.structs.replace(manifest, sent=sent))


# Retention


def parted(manifests: Iterable[GroupManifest], catalog: Catalog, doomed: Collection[str]) -> list[str]:
    """Say which groups can be restored in part only once the ``doomed`` backups are gone, copies and all."""
    told: list[str] = []
    for manifest in manifests if doomed else ():
        going = [member.job for member in manifest.members if member.backup in doomed]
        if not going:
            continue
        usable = [item for item in members_as_they_are(manifest, catalog.backup) if item.state in {"good", "unproven"}]
        left = [item.member.job for item in usable if item.member.backup not in doomed]
        if left and len(usable) == len(manifest.members):
            told.append(
                f"group {manifest.id} can be restored in part only: its backup of {' and '.join(going)} goes, "
                f"that of {' and '.join(left)} stays"
            )
    return told


def drop_groups(job: JobSpec, catalog: Catalog, layout: Layout, open_store: OpenStore) -> list[BackupdError]:
    """Delete the manifests of groups at places that have none of their backups any more, last of all here.

    Only of groups that ``job`` is a member of; returns the faults of places that refuse.
    """
    destinations = {destination.name: destination for destination in job.destinations}
    faults: list[BackupdError] = []
    find = all_at_once(catalog)
    for manifest in read_groups(layout):
        if all(member.job != job.name for member in manifest.members):
            continue
        backups = [find(member.backup) for member in manifest.members if member.backup is not None]
        known = {copy.destination for one in backups if one is not None for copy in one.copies}
        for place in set(manifest.sent) - known:
            if place in destinations:
                try:
                    with contextlib.closing(open_store(destinations[place])) as store:
                        store.delete(f"{manifest.id}{GROUP_SUFFIX}")
                    _mark(layout, manifest.id, place, there=False)
                except BackupdError as error:
                    faults.append(error)
        left = read_group(layout, manifest.id)
        if not known and left is not None and not destinations.keys() & set(left.sent):
            with _changing(layout), contextlib.suppress(OSError):
                layout.group(manifest.id).unlink(missing_ok=True)
                fsync_dir(layout.groups)
    return faults


# Read anew from the destinations


def adopt_groups(place: str, store: Store, layout: Layout, jobs: Collection[str] | None = None) -> int:
    """Take over the manifests of groups at a destination that are not here; returns how many. Raises StoreError.

    ``jobs``: only groups that have one of these as a member.
    """
    count = 0
    for item in store.list():
        identifier = item.key.removesuffix(GROUP_SUFFIX)
        if not item.key.endswith(GROUP_SUFFIX) or not group_of(identifier) or item.size > _LARGEST:
            continue
        known = read_group(layout, identifier)
        manifest = known or _fetched(store, identifier)
        if manifest is None or (jobs is not None and not set(jobs) & {member.job for member in manifest.members}):
            continue
        if known is None:
            with _changing(layout):
                _write(layout, msgspec.structs.replace(manifest, sent=()))
        if place not in (known.sent if known is not None else ()):
            _mark(layout, identifier, place, there=True)
        count += known is None
    return count


def _fetched(store: Store, identifier: str) -> GroupManifest | None:
    try:
        return _parsed(b"".join(store.get(f"{identifier}{GROUP_SUFFIX}")), identifier)
    except StoreError as error:
        if error.code != "object-missing":
            raise
        return None
