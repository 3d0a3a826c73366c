"""The oplog that a restore replays: brings the slices to hand and puts the one file together. Proves no slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.model import LOCAL, Backup, Copy, OpTime, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.unpack import OPLOG
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.sources.oplog_replay import Replay, build_replay
from nanumpay_backupd.sources.oplog_validation import levels_in
from nanumpay_backupd.system.files import rename
from nanumpay_backupd.system.units import human_size

__all__ = ["join_oplog", "obtain_slices"]

_JOINED: Final = "joined-oplog.bson"


def join_oplog(
    slices: Sequence[Path],
    folder: Path,
    *,
    after: OpTime | None = None,
    until: OpTime | None = None,
    names: Mapping[str, str],
    collection: str = "",
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Put the replay for an unpacked ``folder`` together, in it; arguments and errors as of `build_replay`.

    Validators are only switched off for the replay where it writes to their collections.
    """
    own, joined = folder / OPLOG, folder.parent / _JOINED
    own.touch()  # a full without changes during its dump has none
    replay = build_replay(
        [own, *slices], joined, after=after, until=until, names=names, collection=collection, progress=progress
    )
    levels = {name: level for name, level in levels_in(folder).items() if name in replay.touched}
    if levels:
        build_replay([joined], own, after=None, until=None, names={}, levels=levels)
    else:
        rename(joined, own)
    return replay


def obtain_slices(
    slices: Iterable[tuple[Backup, Copy]], staging: Path, spec: RunSpec, recorder: Recorder, open_store: OpenStore
) -> list[Path]:
    """Return where each slice's file is, in order; remote ones are brought into ``staging`` first. Raises StoreError.

    Their checksums are not looked at here: they are proven as a whole before anything is changed.
    """
    slices = list(slices)
    layout = Layout(spec.paths.backups)
    places = dict.fromkeys(copy.destination for _, copy in slices if copy.destination != LOCAL)
    folder = staging / "slices"
    folder.mkdir()
    for place in places:
        wanted = [copy for _, copy in slices if copy.destination == place]
        destination = next(item for item in spec.job.destinations if item.name == place)
        with recorder.stage(Stage.FETCH, total=sum(copy.size for copy in wanted)), open_store(destination) as store:
            for copy in wanted:
                with (folder / copy.key).open("xb") as stream:
                    for chunk in store.get(copy.key):
                        stream.write(chunk)
                        recorder.progress(len(chunk))
            size = human_size(sum(copy.size for copy in wanted))
            recorder.detail(f"{len(wanted)} slices, {size}, from {place}")
    return [layout.artifact(copy.key) if copy.destination == LOCAL else folder / copy.key for _, copy in slices]
