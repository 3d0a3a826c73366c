"""A restore of any source but MongoDB: fetch, prove, safety backup, the source's own tool, comparison.

What is done at the target is its driver's (`sources.base.Target`). Nothing there changes before every artifact was read
back whole. However it ends, the fault says what state the target is in. MongoDB's is next door (`restore`).
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, NotFoundError, RefusedError, VerifyError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Copy, Manifest, OpTime, Outcome, Run, Stage
from nanumpay_backupd.pipeline.backup import disk_fault, recorded, safety_backup
from nanumpay_backupd.pipeline.chains import known, order_chain, typed
from nanumpay_backupd.pipeline.chosen import known_backup, unlocked_backup, usable_copy
from nanumpay_backupd.pipeline.fetch import make_sure_of_room, obtain, wait_for
from nanumpay_backupd.pipeline.instead import other_choice
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import SAFETY_SUFFIX, Layout
from nanumpay_backupd.pipeline.members import Pump, chunks_of, inflater
from nanumpay_backupd.pipeline.publish import open_staging
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.pipeline.unpack import Unpacker
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.pipeline.verify import opened, prove
from nanumpay_backupd.settings.schema import RestoreOrder, RunSpec
from nanumpay_backupd.sources.base import FolderTarget, Goal, StreamTarget, Wanted
from nanumpay_backupd.sources.factory import open_driver, open_source
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.secrets import redact
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.wording import counted, words_for

__all__ = ["Piece", "bring_back", "feed", "pieces_of", "plan_bringing_back", "unpacked"]

_SHOWN: Final = 3


class Piece(msgspec.Struct, frozen=True):
    """A backup that is brought back, or one step of that: a full, then the increments in their order."""

    backup: Backup
    copy: Copy
    manifest: Manifest
    """That of the copy: its artifact is the file that is read."""


class _Prepared(msgspec.Struct, frozen=True):
    """What is decided before anything moves."""

    pieces: tuple[Piece, ...]
    wanted: Wanted
    goal: Goal
    plan: RestorePlan


def plan_bringing_back(spec: RunSpec, catalog: Catalog, now: datetime) -> RestorePlan:
    """Say what the restore that ``spec`` orders would do; changes nothing but the catalog's view of the folder.

    Raises NotFoundError, RefusedError (``copy-unusable``, ``target-exists``, …), SourceError, ToolError, DecryptError.
    """
    with Keyring(spec.job.encryption) as keys:
        return _prepare(spec, open_driver(spec.job.source).target(), catalog, now, keys).plan


def bring_back(spec: RunSpec, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do the restore that ``spec`` orders and return the finished Run, whatever happened."""

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            _BringingBack(spec, catalog, recorder, open_store, keys=keys).run()
        return []

    return recorded(spec, Layout(spec.paths.backups), recorder, work, partly=Outcome.FAILED)


def _order(spec: RunSpec) -> RestoreOrder:
    assert spec.restore is not None, "a restore needs an order"
    return spec.restore


def _prepare(
    spec: RunSpec, target: FolderTarget | StreamTarget, catalog: Catalog, now: datetime, keys: Keyring
) -> _Prepared:
    order = _order(spec)
    if order.swap:
        raise RefusedError(
            "restoring beside what is there and changing places is for MongoDB",
            hint="leave out --swap; or restore to another place: --to",
            code="not-for-this-source",
        )
    unknown = sorted(order.options.keys() - target.options.keys())
    if unknown:
        known = "; ".join(f"{key}: {text}" for key, text in target.options.items()) or "it knows none"
        raise RefusedError(f"a restore of this source has no option {unknown[0]!r}", hint=known)
    layout = Layout(spec.paths.backups)
    sync_local(catalog, layout, now)
    pieces = pieces_of(spec, catalog, layout, keys)
    only = order.only or ((order.collection,) if order.collection else ())
    wanted = Wanted(to=order.to_database, only=only, overwrite=order.overwrite, options=order.options, until=order.at)
    goal = target.look(pieces[0].manifest, wanted)
    exact = open_source(spec.job.source).exact
    safe = bool(goal.there) and order.safety and target.safety(pieces[0].manifest, wanted) is not None
    return _Prepared(pieces, wanted, goal, _plan(pieces, order, goal, safe=safe, exact=exact))


def pieces_of(spec: RunSpec, catalog: Catalog, layout: Layout, keys: Keyring) -> tuple[Piece, ...]:
    """Return the full and the increments that lead to what is wanted."""
    order = _order(spec)
    names: tuple[str, ...] = (order.backup,)
    if order.at:
        here = {order.source} if order.source else {LOCAL, *(item.name for item in spec.job.destinations)}
        until = OpTime.parse(order.at)
        exact = open_source(spec.job.source).exact
        if not exact:
            until = _ended_by(until, catalog, spec.job.name, here)
        chain = order_chain(catalog, spec.job.name, until, order.backup, here, exact=exact)
        names = (chain.base, *chain.slices)
    found = []
    for name in names:
        backup = known_backup(catalog, name, layout)
        copy = usable_copy(backup, spec, catalog)
        backup = unlocked_backup(backup, copy, keys)
        if backup.manifest is None or backup.manifest.source.type == "mongodb":
            what = "was made by the old program" if backup.manifest is None else "is of MongoDB"
            raise RefusedError(
                f"{name} {what}, and job {spec.job.name} saves something else", hint="see: backupctl list"
            )
        found.append(Piece(backup, copy, backup.manifest.at(copy.key)))
    return tuple(found)


def _ended_by(moment: OpTime, catalog: Catalog, job: str, places: set[str]) -> OpTime:
    """Return the end of the newest backup that had begun by then: an increment is brought back as a whole."""
    there = known(catalog, job, places)
    ends = [base.end for base in there.bases if base.good]
    ends += [piece.end for piece in there.pieces if piece.good and piece.backup]
    return max((end for end in ends if end <= moment), default=moment)


def _plan(pieces: tuple[Piece, ...], order: RestoreOrder, goal: Goal, *, safe: bool, exact: bool) -> RestorePlan:
    first, last = pieces[0], pieces[-1]
    warnings = list(goal.warnings)
    if any(piece.backup.state is not BackupState.VERIFIED for piece in pieces):
        warnings.append("this backup was not read back yet; it is before anything is changed")
    moment = last.manifest.consistency.moment or last.backup.created
    if order.at and exact:
        moment = OpTime.parse(order.at).moment
    return RestorePlan(
        backup=first.backup.id,
        copy=first.copy.destination,
        server=goal.server,
        database=goal.place,
        collections=tuple(part.name for part in goal.parts),
        documents=sum(part.items for part in goal.parts),
        bytes=sum(part.bytes for part in goal.parts),
        moment=moment,
        replays_oplog=False,
        slices=tuple(piece.backup.id for piece in pieces[1:]),
        drops=goal.drops,
        target_exists=bool(goal.there),
        target_collections=len(goal.there),
        target_documents=goal.there_documents,
        safety_backup=safe,
        warnings=tuple(warnings),
        source=first.manifest.source.type,
        changes=goal.changes,
    )


def feed(piece: Piece, path: Path, keys: Keyring) -> Generator[bytes]:
    """Yield the plain archive of an artifact that was proven, in pieces as they come; raises VerifyError."""
    artifact = piece.manifest.artifact
    keys.unlock(artifact)
    with opened(path, piece.manifest) as stream:
        plain = Pump(keys.opened(artifact, chunks_of(path, stream)), inflater(artifact.compression, artifact.name))
        try:
            yield from plain.rest()
        finally:
            plain.close()


def unpacked(backup: str, needs: FolderTarget, wanted: Wanted, folder: Path) -> Unpacker:
    """Return what writes the files of a backup below ``folder`` that its target asks for."""

    def place(path: str) -> str | None:
        inside = path.removeprefix(f"{backup}/")
        return inside if needs.needs(inside, wanted) else None

    return Unpacker(folder, place)


class _BringingBack:
    """One restore under way, and how far it came."""

    def __init__(
        self, spec: RunSpec, catalog: Catalog, recorder: Recorder, open_store: OpenStore, *, keys: Keyring
    ) -> None:
        self._keys = keys
        self._spec = spec
        self._order = _order(spec)
        self._target = open_driver(spec.job.source).target()
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._layout = Layout(spec.paths.backups)
        self._place = self._order.to_database
        self._safety = ""
        self._state = "untouched"

    def run(self) -> None:
        """Do it; every fault leaves with a sentence on the target's state."""
        try:
            self._steps()
        except BackupdError as error:
            # A Ctrl-C at a terminal reaches the tools as well, which then end with a fault of their own.
            cancelled = self._recorder.cancelled and not isinstance(error, CancelledError)
            raise self._told(CancelledError(error.message) if cancelled else error) from None
        except OSError as error:
            raise self._told(disk_fault(error, self._layout)) from None

    def _steps(self) -> None:
        with self._recorder.stage(Stage.PREFLIGHT):
            self._layout.create()
            ready = _prepare(self._spec, self._target, self._catalog, self._recorder.clock.now(), self._keys)
            self._place = ready.goal.place
            self._recorder.detail(f"{ready.plan.backup} from {ready.plan.copy} into {self._place}")
        for warning in ready.plan.warnings:
            self._recorder.warn(warning)
        staging, lock = open_staging(self._layout, f"{self._spec.run}-restore")
        try:
            paths = self._fetch(ready, staging)
            folders = self._check(ready, paths, staging)
            if ready.plan.safety_backup:
                self._make_safe(ready)
            work = staging / "work"
            work.mkdir()
            self._restore(ready, paths, folders, work)
            self._compare(ready, work)
        finally:
            remove_tree(staging)
            lock.release()

    def _fetch(self, ready: _Prepared, staging: Path) -> list[Path]:
        """Return where the artifacts are, once there is room to unpack them."""
        raw = sum(piece.manifest.artifact.raw_bytes for piece in ready.pieces)
        fetched = sum(piece.copy.size for piece in ready.pieces if piece.copy.destination != LOCAL)
        make_sure_of_room(self._layout, fetched + (raw if isinstance(self._target, FolderTarget) else 0))
        return [
            obtain(
                piece.backup,
                piece.copy,
                staging,
                self._spec,
                self._recorder,
                self._open_store,
                hint=partial(self._instead, piece),
            )
            for piece in ready.pieces
        ]

    def _check(self, ready: _Prepared, paths: list[Path], staging: Path) -> list[Path]:
        """Prove every artifact; of a source of files, unpack it on the way. Returns the folders."""
        check = open_source(self._spec.job.source).check
        recorder, folders = self._recorder, []
        with recorder.stage(Stage.CHECK, total=sum(piece.manifest.artifact.raw_bytes for piece in ready.pieces)):
            done = []
            for at, (piece, path) in enumerate(zip(ready.pieces, paths, strict=True)):
                unpacker = None
                if isinstance(self._target, FolderTarget):
                    folder = staging / f"unpacked{at}"
                    folder.mkdir()
                    folders.append(folder)
                    unpacker = unpacked(piece.backup.id, self._target, ready.wanted, folder)
                try:
                    proof = prove(
                        path, piece.manifest, check, recorder.clock, recorder.progress, unpacker, keys=self._keys
                    )
                except (VerifyError, NotFoundError) as error:
                    error.hint = self._instead(piece)
                    raise
                done.append(f"{human_size(proof.verification.bytes)} of {piece.backup.id} read back")
            recorder.detail("; ".join(done))
        return folders

    def _make_safe(self, ready: _Prepared) -> None:
        """Back the target up, under a job's name of its own: retention of the job is not misled by it."""
        job = self._spec.job
        source = self._target.safety(ready.pieces[0].manifest, ready.wanted)
        assert source is not None, "the plan says that there is one"
        name = f"{job.name.removesuffix(SAFETY_SUFFIX)}{SAFETY_SUFFIX}"
        safe = msgspec.structs.replace(job, name=name, source=source, destinations=())
        spec = msgspec.structs.replace(self._spec, job=safe)
        self._safety = safety_backup(spec, open_source(source), self._catalog, self._recorder).id

    def _restore(self, ready: _Prepared, paths: list[Path], folders: list[Path], work: Path) -> None:
        recorder, target = self._recorder, self._target
        kind, count = ready.plan.source, 0
        with recorder.stage(Stage.RESTORE, total=sum(piece.manifest.artifact.raw_bytes for piece in ready.pieces)):
            recorder.check()
            self._state = "half"
            for at, piece in enumerate(ready.pieces):
                if isinstance(target, FolderTarget):
                    count += wait_for(target.start(folders[at], piece.manifest, ready.wanted, work), recorder)
                else:
                    pieces = feed(piece, paths[at], self._keys)
                    count += wait_for(target.start(piece.manifest, ready.wanted, work), recorder, pieces=pieces)
            self._state = "written"
            recorder.detail(f"{words_for(kind).count_items(count)} restored into {self._place}")

    def _compare(self, ready: _Prepared, work: Path) -> None:
        with self._recorder.stage(Stage.COMPARE):
            found = self._target.compare(ready.pieces[-1].manifest, ready.wanted, work)
            if found.differences:
                more = len(found.differences) - _SHOWN
                raise VerifyError(
                    f"what is there now is not what the backup holds: {'; '.join(found.differences[:_SHOWN])}"
                    + (f" and {more} more" if more > 0 else ""),
                    hint="was a program writing there meanwhile? stop it",
                    code="restore-incomplete",
                )
            late = f"; {found.unknown} others cannot be compared" if found.unknown else ""
            self._recorder.detail(f"{counted(ready.plan.source, found.documents, found.parts)} as expected{late}")

    def _instead(self, piece: Piece) -> str:
        return other_choice(piece.backup, piece.copy.destination, self._spec, self._catalog)

    def _told(self, error: BackupdError) -> BackupdError:
        """Add to a fault what state the target is in and what can be done about it."""
        where = redact(self._place) or "the place"  # what was typed may have a login in it
        at = f" --at {typed(OpTime.parse(self._order.at))}" if self._order.at else ""
        again = f"restore again: backupctl restore {self._order.backup or 'latest'}{at}"
        back = f"; or go back to what was there before: backupctl restore {self._safety}" if self._safety else ""
        if isinstance(error, CancelledError):
            error.message, error.hint = "the restore was cancelled", ""
        if self._state == "untouched":
            error.message += f"; nothing was changed in {where}"
            return error
        is_now = "is half restored" if self._state == "half" else "is restored, but not as it should be"
        untouched, kept = self._target.untouched, self._target.undo()
        error.message += f"; nothing was changed in {where}" if untouched else f"; {where} {is_now}"
        error.hint = "; ".join(part for part in (error.hint, kept, again) if part) + back
        return error
