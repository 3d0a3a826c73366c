"""A restore from start to end: fetch, prove, unpack, safety backup, mongorestore, comparison. Decisions are next door.

Nothing in the target changes before the artifact was read back whole (it is unpacked into staging on the way), and the
target was backed up. However it ends, the fault says what state the target is in.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, NotFoundError, StoreError, VerifyError
from nanumpay_backupd.model import LOCAL, SLICES, Backup, Copy, OpTime, Outcome, Run, Stage
from nanumpay_backupd.pipeline.backup import disk_fault, recorded, safety_backup
from nanumpay_backupd.pipeline.chains import order_chain, typed
from nanumpay_backupd.pipeline.chosen import known_backup, unlocked_backup, usable_copy
from nanumpay_backupd.pipeline.expectation import (
    legacy_root,
    oplogs_in,
    parent_of,
    promised,
    settled_counts,
    stored_name,
    with_indexes,
    without_touched,
)
from nanumpay_backupd.pipeline.fetch import finish_restoring, make_sure_of_room, obtain, placing
from nanumpay_backupd.pipeline.instead import other_choice, other_way, strays
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX, Layout
from nanumpay_backupd.pipeline.publish import open_staging
from nanumpay_backupd.pipeline.replay import join_oplog, obtain_slices
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import RestorePlan, goal, make_plan
from nanumpay_backupd.pipeline.snapshot import MEASURED, json_files, writer
from nanumpay_backupd.pipeline.swap import beside, change_places, check_swap
from nanumpay_backupd.pipeline.unpack import Unpacker, look_through, unpack
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import Check, Sink, prove
from nanumpay_backupd.settings.schema import MongoSource, RestoreOrder, RunSpec
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.base import Expected, Source
from nanumpay_backupd.sources.oplog_replay import Replay
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.units import human_size

if TYPE_CHECKING:
    from nanumpay_backupd.sources.mongorestore import MongoTarget

__all__ = ["plan_restore", "restore"]

_BUCKETS: Final = "system.buckets."
_SHOWN: Final = 4
OpenSource = Callable[[MongoSource], Source]


def plan_restore(spec: RunSpec, target: MongoTarget, catalog: Catalog, now: datetime) -> RestorePlan:
    """Say what the restore that ``spec`` orders would do; changes nothing but the catalog's view of the folder.

    Raises NotFoundError, RefusedError (``copy-unusable``), SourceError (server not reached), ToolError; DecryptError
    (``key-missing``, ``key-wrong``) where no key here opens what is to be restored.
    """
    with Keyring(spec.job.encryption) as keys:
        return _prepare(spec, target, catalog, now, keys).plan


def restore(
    spec: RunSpec,
    target: MongoTarget,
    open_source: OpenSource,
    catalog: Catalog,
    recorder: Recorder,
    open_store: OpenStore,
) -> Run:
    """Do the restore that ``spec`` orders and return the finished Run, whatever happened."""
    layout = Layout(spec.paths.backups)

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            _Restore(spec, target, open_source, catalog, recorder, open_store, keys=keys).run()
        return []

    return recorded(spec, layout, recorder, work, partly=Outcome.FAILED)


class _Prepared(msgspec.Struct, frozen=True):
    """What is decided before anything moves; ``names`` as of `restore_plan.goal`."""

    backup: Backup
    copy: Copy
    names: dict[str, str]
    plan: RestorePlan
    slices: tuple[tuple[Backup, Copy], ...] = ()
    until: OpTime | None = None


def _order(spec: RunSpec) -> RestoreOrder:
    assert spec.restore is not None, "a restore needs an order"
    return spec.restore


def _source(spec: RunSpec) -> MongoSource:
    return mongodb_of(spec.job.source, "this way of restoring")


def _prepare(spec: RunSpec, target: MongoTarget, catalog: Catalog, now: datetime, keys: Keyring) -> _Prepared:
    order = _order(spec)
    layout = Layout(spec.paths.backups)
    sync_local(catalog, layout, now)
    places = [destination.name for destination in spec.job.destinations]
    until, chain = None, None
    if order.at:
        until = OpTime.parse(order.at)
        here = {order.source} if order.source else {LOCAL, *places}
        try:
            chain = order_chain(catalog, spec.job.name, until, order.backup, here)
        except NotFoundError as error:
            if lost := strays(layout, catalog):
                error.message += f"; slices whose manifests are damaged or missing: {', '.join(lost[:_SHOWN])}"
            raise
    backup = known_backup(catalog, chain.base if chain is not None else order.backup, layout)
    copy = usable_copy(backup, spec, catalog)
    slices = []
    for name in chain.slices if chain is not None else ():
        one = known_backup(catalog, name, layout)
        slices.append((one, usable_copy(one, spec, catalog)))
    backup = unlocked_backup(backup, copy, keys)
    # The others are tried one after the other, before anything is changed.
    for last, its in slices[-1:]:
        unlocked_backup(last, its, keys)
    names = goal(backup, order, _source(spec).database, replayed=bool(slices))
    if order.swap:
        check_swap(spec, list(names.values()), _types(backup, order), whole=_whole(order))
    target.tool()
    facts = target.look(names.values())
    plan = make_plan(backup, order, copy, names, facts, [one for one, _ in slices])
    return _Prepared(backup, copy, names, plan, tuple(slices), until)


def _unpacked(backup: Backup) -> int:
    """Return the bytes that a backup takes unpacked; a slice is read once and written once more."""
    manifest = backup.manifest
    if manifest is None:
        return 0
    return manifest.artifact.raw_bytes * (2 if backup.kind in SLICES else 1)


class _Restore:
    """One restore under way, and how far it came."""

    def __init__(
        self,
        spec: RunSpec,
        target: MongoTarget,
        open_source: OpenSource,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        self._keys = keys
        self._spec = spec
        self._order = _order(spec)
        self._target = target
        self._open_source = open_source
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._layout = Layout(spec.paths.backups)
        self._database = self._order.to_database or _source(spec).database
        self._safety = ""
        self._state = "untouched"

    def run(self) -> None:
        """Do it; every fault leaves with a sentence on the target's state."""
        try:
            self._steps()
        except BackupdError as error:
            # A Ctrl-C at a terminal reaches the tools as well, which then end with a fault of their own.
            cancelled = self._recorder.cancelled and not isinstance(error, CancelledError)
            found = CancelledError(error.message) if cancelled else self._recorder.fault or error
            raise self._told(found) from None
        except OSError as error:
            raise self._told(self._recorder.fault or disk_fault(error, self._layout)) from None

    def _steps(self) -> None:
        with self._recorder.stage(Stage.PREFLIGHT):
            self._layout.create()
            ready = _prepare(self._spec, self._target, self._catalog, self._recorder.clock.now(), self._keys)
            plan = ready.plan
            self._database = plan.database or self._database
            self._recorder.detail(f"{plan.backup} from {plan.copy} into {self._database} at {plan.server}")
        for warning in plan.warnings:
            self._recorder.warn(warning)
        if self._order.swap:
            self._beside(ready)
        else:
            self._into_place(ready)

    def _beside(self, ready: _Prepared) -> None:
        """Restore into a side database, then let it change places with the live one."""
        [(held, live)] = ready.names.items()
        coming, whole = _types(ready.backup, self._order), _whole(self._order)
        with beside(self._spec, live, coming, self._recorder, backup=ready.backup.id, whole=whole) as side:
            aside = msgspec.structs.replace(ready.plan, database=side, drops=(), safety_backup=False)
            self._into_place(msgspec.structs.replace(ready, names={held: side}, plan=aside))
            change_places(self._spec, side, live, self._recorder)

    def _into_place(self, ready: _Prepared) -> None:
        """Fetch, prove, unpack, save what is there, restore and compare."""
        staging, lock = open_staging(self._layout, f"{self._spec.run}-restore")
        try:
            artifact, slices = self._fetch(ready, staging)
            folder = staging / "unpacked"
            folder.mkdir()
            expected = self._check(ready, artifact, slices, folder)
            if ready.plan.safety_backup:
                self._make_safe(ready)
            self._restore(folder, ready)
            self._compare(expected)
        finally:
            remove_tree(staging)
            lock.release()

    def _fetch(self, ready: _Prepared, staging: Path) -> tuple[Path, list[Path]]:
        """Return where the full's artifact and the slices are, once there is room to unpack them."""
        backup, copy = ready.backup, ready.copy
        taken = [(backup, copy), *ready.slices]
        fetched = sum(one.size for _, one in taken if one.destination != LOCAL)
        make_sure_of_room(self._layout, fetched + sum(_unpacked(item) for item, _ in taken))
        try:
            artifact = obtain(
                backup,
                copy,
                staging,
                self._spec,
                self._recorder,
                self._open_store,
                hint=lambda: self._instead(backup, copy, ready),
            )
            return artifact, obtain_slices(ready.slices, staging, self._spec, self._recorder, self._open_store)
        except StoreError as error:
            gone = next((pair for pair in taken if pair[1].key in error.message), None)
            if error.code == "object-missing" and gone is not None:
                error.hint = self._instead(*gone, ready)
            raise

    def _check(self, ready: _Prepared, artifact: Path, slices: list[Path], folder: Path) -> list[Expected]:
        """Prove the artifact, unpack what is wanted, and return what then has to be in the database."""
        backup, recorder = ready.backup, self._recorder
        check = self._open_source(_source(self._spec)).check
        manifest = backup.manifest.at(ready.copy.key) if backup.manifest is not None else None
        with recorder.stage(Stage.CHECK):
            try:
                if manifest is not None:
                    unpacker = Unpacker(folder, self._place(backup.id, ready), _creator(ready))
                    prove(artifact, manifest, check, recorder.clock, recorder.progress, unpacker, keys=self._keys)
                    expected, written = promised(backup, ready.names, self._order.collection), unpacker.written()
                else:
                    expected, written = self._check_legacy(ready, artifact, folder, check)
            except (VerifyError, NotFoundError) as error:
                error.hint = self._instead(backup, ready.copy, ready)
                raise
            if not slices and not any(name.endswith((".bson", ".json")) and "/" in name for name in written):
                what = f"collection {self._order.collection!r}" if self._order.collection else "collection"
                raise NotFoundError(f"{backup.artifact} holds no {what}", hint=f"look into it: tar -tf {artifact}")
            expected = with_indexes(expected, folder)
            done = f"{len(written)} files, {human_size(sum(written.values()))}, read back and unpacked"
            if ready.plan.replays_oplog:
                replay = self._join(ready, slices, folder, check)
                # Of a later moment nobody knows the counts.
                settled = settled_counts(backup, ready.names) if ready.until is None else {}
                expected = without_touched(expected, replay.touched, settled)
                done += f"; {replay.entries:,} oplog entries to replay"
            recorder.detail(done)
        return expected

    def _join(self, ready: _Prepared, slices: list[Path], folder: Path, check: Check) -> Replay:
        """Prove the slices and put together the oplog that is replayed: up to the moment, under the new names."""
        pieces = []
        for (backup, copy), path in zip(ready.slices, slices, strict=True):
            assert backup.manifest is not None, "slices are known by their manifests"
            manifest = backup.manifest.at(copy.key)
            # What is encrypted is decrypted once, into staging.
            plain = None if manifest.artifact.encryption == "none" else folder.parent / f"{backup.id}.bson"
            keep = None if plain is None else (lambda _, plain=plain: plain.open("xb"))
            try:
                prove(path, manifest, check, self._recorder.clock, self._recorder.progress, keep, keys=self._keys)
            except (VerifyError, NotFoundError) as error:
                error.hint = (
                    f"{self._instead(backup, copy, ready)}; what else there is: backupctl timeline {backup.job}"
                )
                raise
            pieces.append(plain or path)
        return join_oplog(
            pieces,
            folder,
            after=OpTime.parse(ready.backup.end) if ready.backup.end else None,
            until=ready.until,
            names=ready.names,
            collection=self._order.collection,
            progress=self._recorder.progress,
        )

    def _check_legacy(
        self, ready: _Prepared, artifact: Path, folder: Path, check: Check
    ) -> tuple[list[Expected], dict[str, int]]:
        """Read an archive twice: only what is in it says where the dump is and how much room it takes."""
        found = look_through(artifact, check, self._recorder.progress, self._keys)
        if any(found[path].documents for path in oplogs_in(found)):
            self._recorder.warn("its oplog is not replayed without a manifest: the collections are not of one moment")
        root, names = legacy_root(ready.backup, found, ready.names)
        place = self._place(root, msgspec.structs.replace(ready, names=names))
        expected = [
            Expected(database, stored_name(path), found[path].documents)
            for path in found
            if path.endswith(".bson") and (database := parent_of(place(path)))
        ]
        make_sure_of_room(self._layout, sum(item.size for path, item in found.items() if place(path)))
        return expected, unpack(artifact, folder, place, self._recorder.progress, self._keys)

    def _place(self, root: str, ready: _Prepared) -> Callable[[str], str | None]:
        return placing(
            root,
            ready.names,
            collection=self._order.collection,
            replay=ready.plan.replays_oplog,
            lines=json_files(ready.backup.manifest),
        )

    def _make_safe(self, ready: _Prepared) -> None:
        """Back the target up, under a job's name of its own: retention of the job is not misled by it."""
        job = self._spec.job
        one = next(iter(ready.names.values())) if len(ready.names) == 1 else ""
        source = msgspec.structs.replace(_source(self._spec), database=one)
        name = f"{job.name.removesuffix(SAFETY_SUFFIX)}{SAFETY_SUFFIX}"
        spec = msgspec.structs.replace(
            self._spec, job=msgspec.structs.replace(job, name=name, source=source, destinations=())
        )
        self._safety = safety_backup(spec, self._open_source(source), self._catalog, self._recorder).id

    def _restore(self, folder: Path, ready: _Prepared) -> None:
        replay = ready.plan.replays_oplog
        with self._recorder.stage(Stage.RESTORE):
            # From here on collections are dropped and filled anew.
            self._recorder.check()
            self._state = "half"
            if ready.plan.drops:
                self._target.drop(ready.plan.database, ready.plan.drops)
            count = finish_restoring(self._target.start(folder, replay=replay), self._recorder)
            measured = folder.with_name(MEASURED)
            if measured.exists():
                again = self._target.start(measured, replay=False, drop=False)
                count += finish_restoring(again, self._recorder)
            self._state = "written"
            replayed = ", oplog replayed" if replay else ""
            self._recorder.detail(f"{count:,} documents restored into {ready.plan.database}{replayed}")

    def _compare(self, expected: list[Expected]) -> None:
        with self._recorder.stage(Stage.COMPARE):
            differing = self._target.differences(expected)
            if differing:
                raise VerifyError(
                    f"what is there now is not what the backup holds: {'; '.join(differing[:3])}"
                    + (f" and {len(differing) - 3} more" if len(differing) > 3 else ""),
                    hint="was the application writing meanwhile? stop it",
                    code="restore-incomplete",
                )
            unknown = sum(item.documents is None for item in expected)
            late = f"; {unknown} others were changed by the oplog after they were counted" if unknown else ""
            self._recorder.detail(f"documents and indexes of {len(expected) - unknown} collections as expected{late}")

    def _instead(self, backup: Backup, copy: Copy, ready: _Prepared) -> str:
        if ready.until is None:
            return other_choice(backup, copy.destination, self._spec, self._catalog)
        return other_way(backup, copy.destination, ready.until, self._order, self._spec, self._catalog)

    def _told(self, error: BackupdError) -> BackupdError:
        """Add to a fault what state the target is in and what can be done about it."""
        where = f"database {self._database}" if self._database else "the database"
        at = f" --at {typed(OpTime.parse(self._order.at))}" if self._order.at else ""
        again = f"restore again: backupctl restore {self._order.backup or 'latest'}{at}"
        back = f"; or go back to what was there before: backupctl restore {self._safety}" if self._safety else ""
        if error.code == "swap-unfinished":
            return error  # it says itself what state the database is in
        if isinstance(error, CancelledError):
            error.message, error.hint = "the restore was cancelled", ""
        if self._state == "untouched" or self._order.swap:
            error.message += f"; nothing was changed in {where}"
            return error
        is_now = "is half restored" if self._state == "half" else "is restored, but not as it should be"
        error.message += f"; {where} {is_now}"
        error.hint = "; ".join(part for part in (error.hint, again) if part) + back
        return error


def _types(backup: Backup, order: RestoreOrder) -> dict[str, str]:
    """Return what is known of the types of what will be restored, by name."""
    stats = backup.manifest.source.collections if backup.manifest is not None else ()
    return {item.name: item.type for item in stats if order.collection in ("", item.name.removeprefix(_BUCKETS))}


def _whole(order: RestoreOrder) -> bool:
    """Tell whether the whole database is to be what it was at a moment, without what came later."""
    return bool(order.at) and not order.collection


def _creator(ready: _Prepared) -> Callable[[str, Path], Sink]:
    """Return what opens the files that are unpacked: those of Extended JSON arrive as BSON."""
    lines = {f"{ready.backup.id}/{path}": stat for path, stat in json_files(ready.backup.manifest).items()}

    def create(path: str, file: Path) -> Sink:
        return file.open("xb") if path not in lines else writer(lines[path], file)

    return create
