"""Where `restore --from` works: what it leaves behind, and how it looks at a folder of another machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.bare.workshop import readable, workshop
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import ConfigError, StoreError
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, backup_id
from nanumpay_backupd.pipeline.rebuild import Survey, adopt_place
from nanumpay_backupd.settings.place import read_place
from nanumpay_backupd.settings.schema import HostConfig, LocalDestination
from nanumpay_backupd.stores.factory import open_store
from tests.workbench import NOW, published


def place(folder: Path) -> LocalDestination:
    """Return a folder as a place."""
    return LocalDestination(name=str(folder), path=str(folder))


def test_nothing_is_left_of_a_folder_to_work_in(tmp_path: Path) -> None:
    """Whatever was in it and however it ends, it is gone; it was nobody else's to read."""
    for fault in (None, KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt), workshop(str(tmp_path), NOW) as folder:
            assert folder.stat().st_mode & 0o77 == 0
            Layout(folder / "backups").create()
            (folder / "backups" / "nanumpay-safety-backup-2026-11-21T02-00-00.tar.gz").touch()  # never committed
            if fault is not None:
                raise fault
        assert list(tmp_path.iterdir()) == []


def test_a_safety_backup_is_left(tmp_path: Path) -> None:
    """It stays as a backups folder that can be restored from, without what was only for the work."""
    with workshop(str(tmp_path), NOW) as folder:
        layout = Layout(folder / "backups")
        backup = published(layout)
        safety = backup_id("nanumpay-safety", NOW)
        layout.artifact(backup.artifact).rename(layout.artifact(f"{safety}.tar.gz"))
        layout.manifest(backup.id).rename(layout.manifest(safety))
        (folder / "state").mkdir()
        (folder / "place").symlink_to(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["backups"]
    assert sorted(str(path.relative_to(layout.backups)) for path in layout.backups.rglob("*") if path.is_file()) == [
        f".backupd/manifests/{safety}.json",
        f"{safety}.tar.gz",
    ]


def test_a_backups_folder_is_shown_as_a_destination(tmp_path: Path) -> None:
    """Artifacts and slices with the manifests beside them; those without the one or the other are seen as such."""
    layout = Layout(tmp_path / "old")
    made = published(layout)
    gone = published(layout, created=NOW.replace(day=20))
    layout.artifact(gone.artifact).unlink()
    alone = backup_id("nanumpay", NOW.replace(day=19)) + ".tar"
    layout.artifact(alone).touch()
    slice_ = "nanumpay-slice-2026-11-21T02-01-00"
    layout.artifact(f"{slice_}.bson.zst").touch()
    layout.manifest(slice_).write_bytes(b"{")
    (layout.backups / "holiday.jpg").touch()
    with readable(place(layout.backups), tmp_path) as shown, Catalog(tmp_path / "catalog.db") as catalog:
        assert isinstance(shown, LocalDestination)
        assert shown.name == str(layout.backups)
        names = sorted(path.name for path in Path(shown.path).iterdir())
        assert names == [
            alone,
            f"{gone.artifact}{MANIFEST_SUFFIX}",
            made.artifact,
            f"{made.artifact}{MANIFEST_SUFFIX}",
            f"{slice_}.bson.zst",
            f"{slice_}.bson.zst{MANIFEST_SUFFIX}",
        ]
        with open_store(shown) as store:
            found = adopt_place("old", store, catalog, NOW)
        assert found == Survey(1, unreadable=(f"{slice_}.bson.zst",), lost=(gone.artifact,), alone=(alone,))


def test_another_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    """A folder of copies needs no links."""
    with readable(place(tmp_path), tmp_path / "work") as shown:
        assert shown == place(tmp_path)


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder that everybody may enter, with manifests that only root may."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    Layout(folder).create()
    for path in (folder / ".backupd", Layout(folder).manifests):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Have no more rights than anybody."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_that_may_not_be_read(tmp_path: Path, theirs: Path) -> None:
    """It is said which folder it is, and nothing is taken for empty."""
    with nobody(), pytest.raises(ConfigError, match="cannot be looked at: Permission denied"):
        read_place(str(tmp_path / "anything"), HostConfig(), {})
    Layout(theirs).manifests.chmod(0o700)
    work = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.chown(work, 65534, 65534)
    try:
        with (
            nobody(),
            pytest.raises(StoreError, match="manifests cannot be read") as caught,
            readable(place(theirs), work),
        ):
            pass
        assert caught.value.code == "destination-denied"
    finally:
        shutil.rmtree(work)
