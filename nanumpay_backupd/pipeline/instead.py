"""What can be restored in place of what is damaged or gone, in words. Looks at the catalog only; reads no artifact."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import FULLS, LOCAL, SLICES, Backup, BackupState, CopyState, OpTime
from nanumpay_backupd.pipeline.chains import known, typed
from nanumpay_backupd.pipeline.layout import Layout, parse_artifact
from nanumpay_backupd.settings.schema import RestoreOrder, RunSpec
from nanumpay_backupd.timeline import find_chain

__all__ = ["other_choice", "other_way", "strays"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_NOTHING: Final = "there is no other copy and no older verified backup; look for the file elsewhere"


def other_choice(backup: Backup, place: str, spec: RunSpec, catalog: Catalog) -> str:
    """Say what could be restored instead of the copy of a backup at ``place`` (empty: of any of its copies)."""
    places = _configured(spec)
    for other in backup.copies:
        if place and other.destination != place and other.state in _PRESENT and other.destination in places:
            return f"take another copy: backupctl restore {backup.id} --from {other.destination}"
    older = _older(backup, catalog)
    if older and backup.end and not backup.collection:
        moment = OpTime.parse(backup.end)
        if base := _base_without(backup, moment, catalog, backup.job, places):
            return f"the same moment from an older one: backupctl restore {base} --at {typed(moment)}"
    # Of a whole one only this collection is wanted then.
    only = f" --collection {shlex.quote(backup.collection.partition('.')[2])}" if backup.collection else ""
    return f"take the next older good backup: backupctl restore {older}{only}" if older else _NOTHING


def other_way(damaged: Backup, place: str, until: OpTime, order: RestoreOrder, spec: RunSpec, catalog: Catalog) -> str:
    """Say how a moment can be restored without the copy of a full or slice at ``place``, or which other moment can."""
    job, more = spec.job.name, _more(order)
    for other in sorted(_configured(spec) - {place}):
        there = known(catalog, job, {other})
        if chain := find_chain(there.bases, there.pieces, until):
            return (
                f"take the copies at {other}: backupctl restore {chain.base} --at {typed(until)} --from {other}{more}"
            )
    places = {order.source} if order.source else _configured(spec)
    if base := _base_without(damaged, until, catalog, job, places):
        return f"the same moment from another full: backupctl restore {base} --at {typed(until)}{more}"
    there = known(catalog, job, places)
    if find_chain(there.bases, [piece for piece in there.pieces if piece.backup != damaged.id], until) is not None:
        # The longest steps are taken: without this one, shorter ones lead there too.
        return f"other slices lead there as well: move {damaged.artifact} at {place} out of the way and restore again"
    before = OpTime.parse(damaged.start) if damaged.kind in SLICES else None
    if before is not None and (base := _base_without(damaged, before, catalog, job, places)):
        return f"all up to that slice can be had: backupctl restore {base} --at {typed(before)}{more}"
    return other_choice(damaged, "", spec, catalog) if damaged.kind not in SLICES else _NOTHING


def strays(layout: Layout, catalog: Catalog) -> list[str]:
    """Return the files of slices in the backups folder that are of no backup: their manifests are damaged or gone."""
    names = sorted(path.name for path in layout.slices.glob("*-*")) if layout.slices.is_dir() else []
    parsed = {name: parse_artifact(name) for name in names}
    return [name for name, found in parsed.items() if found is not None and catalog.backup(found[0]) is None]


def _older(backup: Backup, catalog: Catalog) -> str:
    """Return the next older full that was proven and has a copy, or nothing."""
    for older in catalog.backups(backup.job, kinds=FULLS):
        good = older.state is BackupState.VERIFIED and any(item.state in _PRESENT for item in older.copies)
        if good and older.id != backup.id and older.created <= backup.created:
            return older.id
    return ""


def _base_without(damaged: Backup, until: OpTime, catalog: Catalog, job: str, places: Collection[str]) -> str:
    """Return the newest full from which a restore of ``until`` takes another way than through ``damaged``."""
    there = known(catalog, job, places)
    for base in sorted(there.bases, key=lambda item: item.end, reverse=True):
        chain = find_chain([base], there.pieces, until) if base.backup != damaged.id else None
        if chain is not None and damaged.id not in chain.slices:
            return base.backup
    return ""


def _configured(spec: RunSpec) -> set[str]:
    return {LOCAL, *(item.name for item in spec.job.destinations)}


def _more(order: RestoreOrder) -> str:
    return "".join(
        f" {option} {shlex.quote(value)}"
        for option, value in (("--to-db", order.to_database), ("--collection", order.collection))
        if value
    )
