"""What is done at the start about a catalog that is gone or damaged: real SQLite files, damaged in every way."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import LOCAL
from nanumpay_backupd.pipeline.healing import DAMAGED, is_owed, made_anew, notice_loss, settle
from nanumpay_backupd.pipeline.layout import Layout
from tests.unit.test_catalog import backup_of

NOW = datetime(2026, 11, 21, 2, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A backups folder with one manifest (what is in it does not matter here)."""
    found = Layout(tmp_path / "backups")
    found.manifests.mkdir(parents=True)
    (found.manifests / "nanumpay-backup-2026-11-21T02-00-00.json").write_text("{}")
    return found


def filled(state: Path) -> Path:
    """Make a catalog of many pages, its log written back; returns its path."""
    with Catalog(state / "catalog.db") as catalog:
        catalog.save_backups([backup_of(NOW - timedelta(days=at), LOCAL) for at in range(300)])
    return state / "catalog.db"


def test_a_whole_catalog_is_left_alone(tmp_path: Path, layout: Layout) -> None:
    """Nothing is said of it, nothing owed."""
    path = filled(tmp_path)
    assert not notice_loss(path, layout)
    assert not is_owed(tmp_path)
    with Catalog(path) as catalog:
        catalog.check()


def test_a_new_host_has_lost_nothing(tmp_path: Path) -> None:
    """Without a catalog and without manifests there was none: copies of others are not taken for one's own."""
    assert not notice_loss(tmp_path / "catalog.db", Layout(tmp_path / "backups"))
    assert not is_owed(tmp_path)


@pytest.mark.parametrize("how", ["deleted", "empty"])
def test_a_catalog_that_is_gone(tmp_path: Path, layout: Layout, how: str) -> None:
    """Where there are manifests but no catalog, copies are owed until they are settled, over any number of starts."""
    path = tmp_path / "catalog.db"
    if how == "empty":
        path.touch()
    assert notice_loss(path, layout)
    filled(tmp_path)
    assert not notice_loss(path, layout)
    assert is_owed(tmp_path)
    settle(tmp_path)
    assert not is_owed(tmp_path)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(path.stat().st_size - 4096))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(b"this is not a database" * 100),
    "pages overwritten": _overwrite,
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096),
}


@pytest.mark.promise("The catalog may be lost: the manifests beside the backups have what it takes to go on.", item=5)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_put_aside(tmp_path: Path, layout: Layout, damage: str) -> None:
    """It is kept under another name with its log, a new one opens, and what is elsewhere is owed."""
    path = filled(tmp_path)
    DAMAGES[damage](path)
    held = path.read_bytes()
    (tmp_path / "catalog.db-wal").write_bytes(b"")
    with pytest.raises(BackupdError) as caught, Catalog(path) as damaged:
        damaged.check()
    assert caught.value.code == DAMAGED
    catalog, aside, _ = made_anew(path, layout, NOW)
    with catalog:
        assert aside.read_bytes() == held
        assert is_owed(tmp_path)
        catalog.check()
        assert catalog.backups() == []


def test_a_catalog_of_a_newer_version_is_not_damaged(tmp_path: Path) -> None:
    """Whoever goes back to an older version by mistake must not lose it."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        catalog.select("PRAGMA user_version = 999")
    with pytest.raises(BackupdError) as caught:
        Catalog(tmp_path / "catalog.db")
    assert caught.value.code == "catalog-newer"
