"""Brings the slices that a restore replays to hand. What is in them is checked and joined elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nanumpay_backupd.model import LOCAL, Backup, Copy, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.system.units import human_size

__all__ = ["obtain_slices"]


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
