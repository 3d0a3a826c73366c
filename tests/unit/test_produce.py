"""From source to staged artifact: the pace between dump and compression, and the room that is asked for before."""

from __future__ import annotations

import os
import tarfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import SpaceError
from nanumpay_backupd.model import Consistency, SourceInfo, Stage
from nanumpay_backupd.pipeline import produce as room
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.produce import preflight, produce
from nanumpay_backupd.pipeline.report import Recorder, new_run
from nanumpay_backupd.sources.base import Dump, Estimate, Harvest
from nanumpay_backupd.sources.base import FolderSource as Source
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.transforms.codec import gzip_codec
from nanumpay_backupd.transforms.growing import BLOCK
from tests.workbench import NOW, Ear, SetClock, job_spec, published, recorder, small_disk

PATIENCE: Final = 30.0
MB: Final = 1 << 20


class Turns(Dump):
    """A writer that goes on to its next piece only when it was held and let go again."""

    def __init__(self, folder: Path, pieces: list[bytes], *, files: int) -> None:
        self._go = threading.Event()
        self._held = threading.Event()
        self.turns = 0
        self._thread = threading.Thread(target=self._write, args=(folder, pieces, files))
        self._thread.start()

    def _write(self, folder: Path, pieces: list[bytes], files: int) -> None:
        for piece in pieces:
            for at in range(files):
                with (folder / f"c{at}.bson").open("ab") as stream:
                    stream.write(piece)
            if not self._held.wait(PATIENCE) or not self._go.wait(PATIENCE):
                return
            self._held.clear()
            self.turns += 1

    @property
    def running(self) -> bool:
        """Tell whether it still writes."""
        return self._thread.is_alive()

    @property
    def documents(self) -> int:
        """Return the turns taken."""
        return self.turns

    def pause(self) -> None:
        """Be held."""
        if not self._held.is_set():
            self._go.clear()
            self._held.set()

    def resume(self) -> None:
        """Go on."""
        self._go.set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """End; the thread ends by itself."""
        self._held.set()
        self._go.set()
        self._thread.join()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """Tell that all went well."""
        info = SourceInfo(type="test", server_version="1", topology="none", databases=(), collections=())
        return Harvest(source=info, consistency=Consistency(level="none"), tools={}, documents=self.turns)


class Pieces(Source):
    """A source of pieces in so many files, of which so many bytes are announced."""

    def __init__(self, pieces: list[bytes], *, files: int = 1, announced: int = 0) -> None:
        self._pieces = pieces
        self._files = files
        self._announced = announced
        self.dump: Turns | None = None

    def preflight(self) -> Estimate:
        """Announce."""
        return Estimate(raw_bytes=self._announced, summary="pieces", warnings=("a warning",))

    def start(self, folder: Path) -> Dump:
        """Begin to write."""
        self.dump = Turns(folder, self._pieces, files=self._files)
        return self.dump

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Any content is fine."""
        return None


def test_a_dump_that_gets_ahead_is_held_and_let_go_again(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the backlog's limit the writer is held, behind it it goes on, and all of it is in the archive."""
    monkeypatch.setattr(room, "_BACKLOG_LIMIT", 2 * BLOCK)
    # A compression that any writer outruns, however busy the machine is.
    fast = gzip_codec(2)

    def outrun(data: bytes) -> bytes:
        time.sleep(0.2)
        return fast.encode(data)

    slow = msgspec.structs.replace(fast, encode=outrun)
    monkeypatch.setattr(room, "gzip_codec", lambda _level: slow)
    # Ends of files alone are more than the limit: they must hold nobody.
    piece = os.urandom(BLOCK + BLOCK // 2)
    source = Pieces([piece] * 3, files=4)
    clock = SystemClock()
    book = Recorder(new_run("run1", "nanumpay", recorder(catalog, SetClock()).run.trigger, NOW), catalog, Ear(), clock)
    output, manifest = produce(source, job_spec(), "nanumpay-backup-x", NOW, tmp_path, book, punch=True)
    assert source.dump is not None
    assert source.dump.turns == 3
    assert manifest.artifact.raw_bytes == 3 * 4 * len(piece)
    with tarfile.open(output) as archive:
        contents = [stream.read() for member in archive if (stream := archive.extractfile(member))]
    assert contents == [piece * 3] * 4
    assert [record.stage for record in book.run.stages] == [Stage.DUMP, Stage.COMPRESS]


def look(source: Source, folder: Path, catalog: Catalog, **job: object) -> Recorder:
    """Do the preflight and return the run's bookkeeping."""
    book = recorder(catalog, SetClock())
    with book.stage(Stage.PREFLIGHT):
        preflight(source, job_spec(**job), Layout(folder), catalog, book)
    return book


def test_preflight_keeps_summary_and_warnings(tmp_path: Path, catalog: Catalog) -> None:
    """What the source says is in the run's record."""
    book = look(Pieces([], announced=1000), tmp_path / "backups", catalog)
    assert book.run.stages[0].detail == "pieces"
    assert book.run.warnings == ("a warning",)


@pytest.mark.parametrize(
    "announced, compress, punch, fits",
    [
        # Artifact 0.6 of the data where nothing is known yet, 72 MB for what is under way, 64 MB left for others.
        pytest.param(80 * MB, True, True, True, id="48 + 72 + 64 of 200"),
        pytest.param(120 * MB, True, True, False, id="72 + 72 + 64 of 200"),
        pytest.param(80 * MB, True, False, True, id="48 + 80 + 64 of 200"),
        pytest.param(90 * MB, True, False, False, id="54 + 90 + 64 of 200: without holes all of the dump stays"),
        pytest.param(60 * MB, False, True, True, id="61 + 60 + 64 of 200: a plain tar"),
        pytest.param(70 * MB, False, True, False, id="71 + 70 + 64 of 200: a plain tar"),
    ],
)
def test_the_room_asked_for_before_anything_is_written(
    tmp_path: Path,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
    announced: int,
    compress: bool,
    punch: bool,
    fits: bool,
) -> None:
    """On a disk of 200 MB the announced data fits or is refused, by what the run occupies at its peak."""
    monkeypatch.setattr(room, "can_punch_holes", lambda _: punch)
    with small_disk(tmp_path / "disk", 200 * MB) as disk:
        source = Pieces([], announced=announced)
        if fits:
            look(source, disk / "backups", catalog, compress=compress)
            return
        with pytest.raises(SpaceError, match="not enough room") as caught:
            look(source, disk / "backups", catalog, compress=compress)
        assert "nothing was written" in caught.value.hint
        assert list(Layout(disk / "backups").staging.iterdir()) == []


def test_the_last_proven_backup_tells_how_well_the_data_compresses(tmp_path: Path, catalog: Catalog) -> None:
    """After a good backup its ratio counts instead of the first guess; one that is not proven teaches nothing."""
    with small_disk(tmp_path / "disk", 200 * MB) as disk:
        layout = Layout(disk / "backups")
        source = Pieces([], announced=100 * MB)
        look(source, layout.backups, catalog)
        published(layout, catalog, NOW - timedelta(days=2), proven=None)
        published(layout, catalog, NOW - timedelta(days=1), proven=False)
        look(source, layout.backups, catalog)
        good = published(layout, catalog).manifest
        assert good is not None
        assert good.artifact.size / good.artifact.raw_bytes * 1.25 > 0.65, "so few documents compress badly"
        with pytest.raises(SpaceError):
            look(source, layout.backups, catalog)
