"""Notices a full from which data may be missing, and keeps retention from the last good one. Deletes nothing.

What is odd is decided in `health.sizes`. One event is told once: what comes after it and lacks the same is marked, and
nothing more. It ends when a full is as usual again, or when somebody says that it is meant (`accept`); until then the
newest full before it stays pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.health.sizes import HISTORY, LEAST, Figures, Oddity, in_words, loses, oddities, usual
from nanumpay_backupd.model import (
    ACCEPTED,
    Backup,
    BackupState,
    CopyState,
    Kind,
    Manifest,
    OddityRecord,
    from_json,
    to_json,
)
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import BY_ANOMALY, pin, unpin
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.settings.sources import type_of

__all__ = ["OPEN", "PINNED", "accept", "examine", "figures"]

OPEN: Final = "open"
PINNED: Final = "differs from it so much that data may be lost (backupctl monitor)"
"""Ends the reasons of the pins that are made here."""
_OVER: Final = "over"
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)


class _Past(msgspec.Struct, frozen=True):
    """What a full held that is or was there."""

    backup: str
    created: datetime
    figures: Figures


class _Known(msgspec.Struct, frozen=True):
    """What is remembered of a job: its last fulls, and since when they count (None: always did)."""

    since: datetime | None = None
    history: tuple[_Past, ...] = ()


def figures(manifest: Manifest) -> Figures:
    """Return what a backup holds; views hold nothing, and MongoDB's own collections are not counted."""
    counted: dict[str, int] = {}
    for item in manifest.source.collections:
        name = item.namespace
        if item.type != "view" and not name.partition(".")[2].startswith("system."):
            counted[name] = counted.get(name, 0) + item.documents
    for part in manifest.source.parts:
        counted[part.name] = part.items
    size = sum(item.bytes for item in manifest.source.collections) + sum(part.bytes for part in manifest.source.parts)
    return Figures(documents=sum(counted.values()), size=size, collections=counted)


def examine(
    job: JobSpec, backup: Backup, catalog: Catalog, layout: Layout, now: datetime
) -> tuple[OddityRecord, list[str]] | None:
    """Hold a full that was just proven against those before it; returns a new event and the backups pinned for it.

    None: it is as usual, one of an event that was told, or nothing is known yet. Raises BackupdError where a pin or a
    record cannot be written.
    """
    limits = job.health
    found = _figures_of(backup)
    open_ones = [item for item in catalog.oddities(job.name, OPEN) if item.backup != backup.id]
    if not (limits.shrink_factor or limits.grow_factor):
        # Nobody looks any more: what was pinned would stay, and the slices since, and nothing would say so.
        _settle(catalog, layout, job.name, open_ones)
        return None
    if found is None:
        return None
    expected = _expected(open_ones[-1]) if open_ones else _usual(catalog, job.name, backup)
    if expected is None:
        _learn(catalog, job.name, backup, found)
        return None
    odd = oddities(found, expected, limits.shrink_factor, limits.grow_factor)
    if not odd:
        _settle(catalog, layout, job.name, open_ones)
        _learn(catalog, job.name, backup, found)
        return None
    told = _told_before(catalog, open_ones, found, odd, job)
    what = in_words(odd, type_of(job.source))
    text = what if told is None else f"{what}, as in {told}"
    # Before it is on record: what is pinned for nothing does no harm, and is let go when all is well.
    kept = _keep(catalog, layout, backup, now) if told is None else []
    record = OddityRecord(
        backup=backup.id,
        job=job.name,
        created=backup.created,
        text=text,
        loses=loses(odd),
        documents=expected.documents,
        size=expected.size,
        collections=expected.collections,
        event=told or backup.id,
    )
    catalog.save_oddity(record)
    return (record, kept) if told is None else None


def accept(catalog: Catalog, layout: Layout, backup: Backup, who: str) -> list[str]:
    """Take what is odd about a job's backups as meant: from the newest odd one on it is what is usual.

    Returns the backups whose pins were let go. Raises RefusedError when nothing is odd about it.
    """
    open_ones = catalog.oddities(backup.job, OPEN)
    if backup.id not in [item.backup for item in open_ones]:
        raise RefusedError(
            f"nothing is odd about {backup.id}, or it is settled already", hint="see what is: backupctl monitor --last"
        )
    newest = open_ones[-1]
    held = _figures_of(catalog.backup(newest.backup))
    past = (_Past(newest.backup, newest.created, held),) if held is not None else ()
    _remember(catalog, backup.job, _Known(newest.created, past))
    released = _release(catalog, layout, backup.job)
    for item in open_ones:
        catalog.save_oddity(msgspec.structs.replace(item, state=ACCEPTED, by=who))
    return released


def _usual(catalog: Catalog, job: str, backup: Backup) -> Figures | None:
    """Say what the fulls before a backup held, None: there were too few."""
    known = _recall(catalog, job)
    history = [past.figures for past in _history(catalog, job, backup, known)]
    # What somebody accepted is known to be as it should.
    return usual(history) if len(history) >= (LEAST if known.since is None else 1) else None


def _history(catalog: Catalog, job: str, backup: Backup, known: _Known) -> list[_Past]:
    """Return the fulls before a backup that say what is usual, oldest first; also those that retention deleted."""
    found = {past.backup: past for past in known.history if past.created < backup.created}
    for older in catalog.backups(job, HISTORY, {Kind.FULL}):
        good = older.state is BackupState.VERIFIED and not older.odd and older.created < backup.created
        if not good or older.id in found or (known.since is not None and older.created < known.since):
            continue
        held = _figures_of(catalog.backup(older.id))
        if held is not None:
            found[older.id] = _Past(older.id, older.created, held)
    return sorted(found.values(), key=lambda past: past.created)[-HISTORY:]


def _learn(catalog: Catalog, job: str, backup: Backup, found: Figures) -> None:
    """Remember what a full held that is as usual: retention may keep less than it takes to know what is."""
    known = _recall(catalog, job)
    history = (*_history(catalog, job, backup, known), _Past(backup.id, backup.created, found))
    _remember(catalog, job, _Known(known.since, history[-HISTORY:]))


def _recall(catalog: Catalog, job: str) -> _Known:
    data = catalog.remembered(f"usual:{job}")
    try:
        return from_json(_Known, data) if data is not None else _Known()
    except msgspec.MsgspecError:  # of another version
        return _Known()


def _remember(catalog: Catalog, job: str, known: _Known) -> None:
    catalog.remember(f"usual:{job}", to_json(known))


def _figures_of(backup: Backup | None) -> Figures | None:
    """Return what a backup holds, None where its manifest does not tell here."""
    if backup is None or backup.manifest is None or backup.manifest.closed:
        return None
    return figures(backup.manifest)


def _expected(record: OddityRecord) -> Figures:
    return Figures(documents=record.documents, size=record.size, collections=record.collections)


def _told_before(
    catalog: Catalog, open_ones: Sequence[OddityRecord], found: Figures, odd: Sequence[Oddity], job: JobSpec
) -> str | None:
    """Return the backup at which this was told already, None: it is something new."""
    if not open_ones or open_ones[-1].loses != loses(odd):
        return None
    event = open_ones[-1].event
    first = _figures_of(catalog.backup(event)) or _figures_of(catalog.backup(open_ones[-1].backup))
    if first is None:
        return event
    shrink, grow = (job.health.shrink_factor, 0.0) if loses(odd) else (0.0, job.health.grow_factor)
    # What there is more of again, or less after a growth, is on its way back.
    return None if oddities(found, usual([first]), shrink, grow) else event


def _keep(catalog: Catalog, layout: Layout, backup: Backup, now: datetime) -> list[str]:
    """Pin the newest good full before an odd one; where that one lacks something itself, also the newest that does not.

    Returns them.
    """
    kept: list[str] = []
    for older in catalog.backups(backup.job, kinds={Kind.FULL}):
        good = older.state is BackupState.VERIFIED and any(copy.state in _PRESENT for copy in older.copies)
        if not good or older.created >= backup.created or (kept and older.odd):
            continue
        pin(catalog, layout, older.id, BY_ANOMALY, f"{backup.id} {PINNED}", now)
        kept.append(older.id)
        if not older.odd:
            break
    return kept


def _settle(catalog: Catalog, layout: Layout, job: str, open_ones: Sequence[OddityRecord]) -> None:
    """End what was odd: a full is as usual again."""
    for item in open_ones:
        catalog.save_oddity(msgspec.structs.replace(item, state=_OVER))
    _release(catalog, layout, job)


def _release(catalog: Catalog, layout: Layout, job: str) -> list[str]:
    """Let go what was pinned of a job; returns those backups."""
    released = []
    for held in catalog.pins():
        if held.owner == BY_ANOMALY:
            backup = catalog.backup(held.backup)
            if backup is not None and backup.job == job:
                unpin(catalog, layout, held.backup, BY_ANOMALY)
                released.append(held.backup)
    return released
