"""A restore that can be undone: the side database around it, the stage in which places change, and what is kept.

How collections change places is the business of `sources.swap`; how a restore fills the side database is that of
`restore`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError
from nanumpay_backupd.model import Run, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.locks import FileLock

if TYPE_CHECKING:
    from nanumpay_backupd.sources.swap import Kept, Swap

__all__ = ["beside", "change_places", "check_swap", "manage", "unfinished_swap"]

_ACTION: Final = "swap:"


def check_swap(spec: RunSpec, databases: Sequence[str], coming: Mapping[str, str], *, whole: bool = False) -> None:
    """Refuse, for a plan, what could not change places; parameters as of `beside`. Writes nothing.

    Raises RefusedError (``swap-impossible``), SourceError.
    """
    from nanumpay_backupd.sources.swap_plan import stamp_of

    if len(databases) != 1 or not databases[0]:
        raise RefusedError(
            f"changing places is for one database, and this backup has {len(databases)}",
            hint="restore without --swap",
            code="swap-impossible",
        )
    _swap(spec, databases[0], stamp_of(spec.started or SystemClock().now())).check(coming, whole=whole)


@contextlib.contextmanager
def beside(
    spec: RunSpec, live: str, coming: Mapping[str, str], recorder: Recorder, *, backup: str = "", whole: bool = False
) -> Iterator[str]:
    """Begin a swap of the database ``live`` and yield the side database to restore into; then `change_places`.

    ``coming`` has the types (`CollectionStat.type`, or ``view``) of what will be restored, by name, as far as it is
    known. ``whole``: what else is live goes away too (it is kept as well) instead of staying as it is. Where a fault
    leaves the block before places were changed, nothing of the swap stays. Raises RefusedError (``swap-impossible``).
    """
    from nanumpay_backupd.sources.swap_plan import side_name, stamp_of

    stamp = stamp_of(recorder.clock.now())
    side = side_name(live, stamp)
    swap = _swap(spec, live, stamp)
    with recorder.stage(Stage.SWAP):
        swap.begin(side, coming, whole=whole, backup=backup, run=recorder.run.id)
        recorder.detail(f"the restore goes into {side} first")
    try:
        yield side
    except BaseException:
        try:
            swap.abandon()
        except BackupdError as error:
            recorder.warn(
                f"database {side}, into which the restore went, could not be removed: {error.message}; "
                f"remove it with: backupctl swaps drop {stamp}",
                error,
            )
        raise


def change_places(spec: RunSpec, side: str, live: str, recorder: Recorder) -> str:
    """Let what was restored into ``side`` change places with the database ``live``; returns what was done in words.

    It may be cancelled until the first live collection moves. Raises SourceError: ``swap-failed`` (places were changed
    back: nothing is changed), ``swap-unfinished`` (its sentence says what that means), others before anything live
    was touched.
    """
    from nanumpay_backupd.sources.swap_plan import swap_of_side

    stamp = swap_of_side(side)
    swap = _swap(spec, live, stamp)
    with recorder.stage(Stage.SWAP):
        count = swap.prepare(lambda documents: recorder.progress(0, documents))
        recorder.check()
        began = recorder.clock.monotonic()
        kept = swap.flip()
        took = recorder.clock.monotonic() - began
        text = (
            f"{count} collections changed places with those of {live} in {took:.2f} s; "
            f"to undo it: backupctl swaps undo {stamp}"
        )
        recorder.detail(text)
    if kept.strays:
        recorder.warn(
            "while a collection was away the application wrote to its name; that is in "
            + ", ".join(f"{live}.{name}" for name in kept.strays)
        )
    if swap.leftover:
        recorder.warn(
            f"database {swap.leftover} is empty now, but the user of MONGODB_URI may not drop it "
            "(that takes the role dbAdminAnyDatabase)"
        )
    return text


def unfinished_swap(run: Run) -> str:
    """Say, to be appended, what a restore that ended without a word left behind; empty when it was to swap nothing.

    Its first stage `Stage.SWAP` begins the side database, the second one changes places.
    """
    begun = sum(record.stage is Stage.SWAP for record in run.stages)
    if not begun:
        return ""
    if begun == 1:
        return "; nothing was changed in the database; what it had restored beside it: backupctl swaps"
    return (
        "; its collections were about to change places or did so, all or in part: backupctl swaps tells, "
        "and undo or drop there"
    )


def manage(spec: RunSpec) -> list[Kept]:
    """Do ``swap:list``, ``swap:undo:STAMP``, ``swap:redo:STAMP`` or ``swap:drop:STAMP``; returns the swaps it is about.

    Raises BusyError while a run of the job is active (not for the list), NotFoundError, RefusedError, SourceError.
    """
    from nanumpay_backupd.sources.swap import find_swaps

    verb, _, stamp = spec.action.removeprefix(_ACTION).partition(":")
    if verb == "list":
        return find_swaps(mongodb_of(spec.job.source, "a swap"))
    lock = FileLock(Layout(spec.paths.backups).lock(spec.job.name), f"job {spec.job.name}")
    with lock:
        databases = [kept.database for kept in find_swaps(mongodb_of(spec.job.source, "a swap")) if kept.stamp == stamp]
        if not databases:
            raise NotFoundError(f"there is no swap {stamp!r}", hint="see: backupctl swaps")
        if len(databases) > 1:
            raise RefusedError(
                f"{len(databases)} databases have a swap {stamp}: {', '.join(databases)}",
                hint=f"drop the collections swap.{stamp}… of those that are not meant by hand",
            )
        swap = _swap(spec, databases[0], stamp)
        return [{"undo": swap.undo, "redo": swap.redo, "drop": swap.drop}[verb]()]


def _swap(spec: RunSpec, database: str, stamp: str) -> Swap:
    # pymongo is heavy: only who uses it pays for it.
    from nanumpay_backupd.sources.swap import Swap

    return Swap(mongodb_of(spec.job.source, "a swap"), database, stamp)
