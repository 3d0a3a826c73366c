"""Which copy a restore takes, where it goes, what it replaces: pure decisions. What carries them out is next door."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Copy, CopyState, Kind, OpTime
from nanumpay_backupd.settings.schema import RestoreOrder
from nanumpay_backupd.sources.base import TargetFacts
from nanumpay_backupd.sources.swap_plan import belongs, stamp_of

__all__ = ["RestorePlan", "choose_copy", "goal", "make_plan"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_INTERNAL: Final = frozenset({"admin", "config", "local"})
_BUCKETS: Final = "system.buckets."
_SHOWN: Final = 5


class RestorePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore will do, as it is shown before; ``moment`` is the time that the data then is of.

    ``documents`` and ``bytes`` (before compression) are 0 for an archive of the old program: they are not known.
    ``source`` is the type of source; of any but MongoDB ``collections`` are its parts, ``database`` is the place, and
    ``changes`` may say line by line what becomes of what is there.
    """

    backup: str
    copy: str
    server: str
    database: str
    collections: tuple[str, ...]
    documents: int
    bytes: int
    moment: datetime
    replays_oplog: bool
    slices: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    swap: bool = False
    target_exists: bool
    target_collections: int
    target_documents: int
    safety_backup: bool
    warnings: tuple[str, ...] = ()
    source: str = "mongodb"
    changes: tuple[str, ...] = ()


def choose_copy(backup: Backup, source: str, places: Iterable[str]) -> Copy:
    """Return the copy to read: that at ``source``, else the local one, else the first of ``places`` that has one.

    Raises NotFoundError or RefusedError (``copy-unusable``) when there is none that can be relied on.
    """
    copies = {copy.destination: copy for copy in backup.copies}
    if source and source not in copies:
        raise NotFoundError(
            f"{backup.id} has no copy at {source!r}", hint=f"its copies are at: {', '.join(copies) or 'no place'}"
        )
    if backup.state is BackupState.CORRUPT:
        faults = [copy.error.message for copy in backup.copies if copy.error is not None]
        raise RefusedError(
            f"{backup.id} is corrupt: {faults[0] if faults else 'it was read back and is not what was dumped'}",
            hint="restore an older one that is verified: backupctl list",
            code="copy-unusable",
        )
    wanted = [source] if source else [LOCAL, *places]
    # A remote place that is no longer configured cannot be read.
    usable = [copies[name] for name in wanted if name in copies and copies[name].state in _PRESENT]
    if usable:
        return usable[0]
    states = ", ".join(f"{copy.destination}: {copy.state.value}" for copy in backup.copies) or "it has none"
    one = f"its copy at {source} is {copies[source].state.value}" if source else ""
    raise RefusedError(
        f"{backup.id} cannot be restored: {one or f'none of its copies can be read ({states})'}",
        hint="another backup: backupctl list",
        code="copy-unusable",
    )


def goal(backup: Backup, order: RestoreOrder, default: str, *, replayed: bool = False) -> dict[str, str]:
    """Return the databases to restore, by their name in the backup, and the name that each gets.

    ``default`` is the job's database, for archives without a manifest; ``replayed``: slices may bring collections that
    the backup does not hold. Raises RefusedError, NotFoundError.
    """
    if order.to_database and (not _NAME.fullmatch(order.to_database) or order.to_database in _INTERNAL):
        raise RefusedError(
            f"{order.to_database!r} cannot be the name of a database to restore into",
            hint="letters, digits, - and _, at most 63 of them, and not admin, config or local",
        )
    held = backup.manifest.source.databases if backup.manifest is not None else (default,) if default else ()
    if not held and not order.to_database:
        raise RefusedError(
            f"{backup.id} was made by the old program, and its job has no database of its own",
            hint="say where it is to go: --to-db NAME",
        )
    if len(held) > 1 and (order.to_database or order.collection):
        raise RefusedError(
            f"{backup.id} holds several databases ({_some(held)}): it is restored as a whole only",
            hint="leave out --to-db and --collection, or take single parts by hand (docs/operations.md)",
        )
    if order.collection and backup.manifest is not None and not replayed:
        names = sorted({item.name.removeprefix(_BUCKETS) for item in backup.manifest.source.collections})
        if order.collection not in names:
            raise NotFoundError(
                f"{backup.id} has no collection {order.collection!r}",
                hint=f"its collections are: {', '.join(names)}",
            )
    if order.swap and len(held) > 1:
        raise RefusedError(
            f"{backup.id} holds several databases ({_some(held)}): only one can change places",
            hint="leave out --swap; a safety backup is made first",
            code="swap-impossible",
        )
    return {name: order.to_database or name for name in held or ("",)}


def make_plan(
    backup: Backup,
    order: RestoreOrder,
    copy: Copy,
    names: dict[str, str],
    facts: TargetFacts,
    slices: Sequence[Backup] = (),
) -> RestorePlan:
    """Say what the restore of ``names`` (`goal`) from ``copy`` will do to a target that looks like ``facts``.

    Raises RefusedError (``replay-refused``) where a moment is wanted and the user may not replay.
    """
    manifest = backup.manifest
    stats = [
        item
        for item in (manifest.source.collections if manifest is not None else ())
        if not order.collection or item.name.removeprefix(_BUCKETS) == order.collection
    ]
    collections = tuple(sorted({item.name.removeprefix(_BUCKETS) for item in stats}))
    replay, moment, warnings = _moment(backup, order, facts, slices)
    if backup.kind is Kind.LEGACY:
        warnings.append("an archive of the old program: what it holds is only known once it has been read")
    elif backup.state is not BackupState.VERIFIED:
        warnings.append("this backup was not read back yet; it is before anything is changed")
    exists = bool(facts.collections or facts.views)
    # Views are in a dump too, but a manifest does not name them.
    later = sorted(set(facts.collections) - set(collections)) if backup.kind is not Kind.COLLECTION else []
    later = [name for name in later if not _kept(name, moment, replay=bool(order.at))]
    # Of a moment, the whole database is to be what it was; and what the replay makes must not be there already.
    drops = tuple(later) if order.at and not order.collection and len(names) == 1 else ()
    if drops and order.swap:
        warnings.append(f"not in the full backup, put aside (the replay makes again what there was): {_some(drops)}")
        drops = ()
    elif drops:
        warnings.append(f"not in the full backup, dropped (the replay makes again what there was): {_some(drops)}")
    elif later and collections and not order.collection:
        warnings.append(f"not in the backup, stays as it is: {_some(later)}")
    return RestorePlan(
        backup=backup.id,
        copy=copy.destination,
        server=facts.address,
        database=", ".join(names.values()),
        collections=collections,
        documents=sum(item.documents for item in stats),
        bytes=sum(item.bytes for item in stats),
        moment=moment,
        replays_oplog=replay,
        slices=tuple(item.id for item in slices),
        drops=drops,
        swap=order.swap,
        target_exists=exists,
        target_collections=len(facts.collections) + len(facts.views),
        target_documents=facts.documents,
        safety_backup=order.safety and exists and not order.swap,
        warnings=tuple(warnings),
    )


def _moment(
    backup: Backup, order: RestoreOrder, facts: TargetFacts, slices: Sequence[Backup]
) -> tuple[bool, datetime, list[str]]:
    """Tell whether the oplog is replayed, of which moment the data then is, and what is to be said about that."""
    manifest = backup.manifest
    single = backup.kind is Kind.COLLECTION
    different = f"the {'documents' if single else 'collections'} are of slightly different moments"
    if manifest is None or manifest.consistency.level != "point-in-time":
        return False, backup.created, [different]
    moment = OpTime.parse(order.at).moment if order.at else manifest.consistency.moment or backup.created
    if not manifest.consistency.entries and not slices:
        return False, moment, []
    if facts.may_replay:
        return True, moment, []
    why = "the user of MONGODB_URI may not replay the oplog (that takes the role root)"
    if order.at:
        raise RefusedError(
            f"a moment cannot be restored: {why}",
            hint="give it a role with anyAction on anyResource for as long as it takes, or restore a whole backup",
            code="replay-refused",
        )
    return False, backup.created, [f"{why}, so {different}"]


def _kept(name: str, moment: datetime, *, replay: bool) -> bool:
    """Tell whether a restore that can be undone keeps a collection, and it has to stay.

    Where the oplog is replayed up to ``moment``, the swaps before that are replayed too, and made again.
    """
    found = belongs(name)
    return found is not None and (not replay or found[0] >= stamp_of(moment))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
