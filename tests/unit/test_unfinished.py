"""Notes of unfinished uploads, and the end of those that nobody goes on with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.model import Copy, CopyState
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.unfinished import ABANDONED, KeptNotes, sweep_unfinished
from nanumpay_backupd.settings.schema import Destination, LocalDestination
from nanumpay_backupd.stores.base import Store, part_name
from nanumpay_backupd.stores.factory import open_store
from tests.workbench import published

OURS = "nanumpay-backup-2026-11-01T02-00-00.tar.gz"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the catalog is."""
    return tmp_path / "state" / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    """An open catalog."""
    with Catalog(path) as catalog:
        yield catalog


@pytest.fixture
def disk(tmp_path: Path) -> LocalDestination:
    """A place with an old rest of an upload of ours, one of somebody else, and an object."""
    folder = tmp_path / "disk"
    folder.mkdir()
    for name in (part_name(OURS), part_name("somebody-elses"), OURS):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (0, 0))
    return LocalDestination(name="disk", path=str(folder))


def names(disk: LocalDestination) -> set[str]:
    """Return what is there."""
    return {entry.name for entry in Path(disk.path).iterdir()}


def test_notes_outlive_who_wrote_them_and_belong_to_one_place(path: Path) -> None:
    """What one process wrote another reads, for that destination and key only, until it is forgotten."""
    KeptNotes(path, "one").write("key", b"id")
    assert KeptNotes(path, "one").read("key") == b"id"
    assert KeptNotes(path, "one").read("other") is None
    assert KeptNotes(path, "two").read("key") is None
    KeptNotes(path, "one").write("key", None)
    KeptNotes(path, "one").write("key", None)
    assert KeptNotes(path, "one").read("key") is None


def test_a_catalog_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path) -> None:
    """An upload goes without a note then."""
    (tmp_path / "catalog.db").write_bytes(b"no catalog at all" * 100)
    notes = KeptNotes(tmp_path / "catalog.db", "one")
    notes.write("key", b"id")
    assert notes.read("key") is None


def test_what_is_old_and_ours_goes_with_its_note(path: Path, catalog: Catalog, disk: LocalDestination) -> None:
    """Others' rests and objects stay; a second look on the same day does not even connect."""
    KeptNotes(path, "disk").write(OURS, b"id")
    now = datetime.now(UTC)
    assert sweep_unfinished([disk], catalog, now, open_store) == [f"{OURS} at disk"]
    assert names(disk) == {part_name("somebody-elses"), OURS}
    assert KeptNotes(path, "disk").read(OURS) is None

    def refuse(_: Destination) -> Store:
        raise AssertionError

    assert sweep_unfinished([disk], catalog, now + timedelta(hours=23), refuse) == []


def test_what_is_young_or_queued_stays(path: Path, catalog: Catalog, disk: LocalDestination, tmp_path: Path) -> None:
    """Six days are no age, and a copy that is still to be made is gone on with, however old its rest is."""
    layout = Layout(tmp_path / "backups")
    layout.create()
    now = datetime.now(UTC).replace(microsecond=0)
    backup = published(layout, catalog, now)
    copy = Copy(backup.id, "disk", CopyState.PENDING, backup.artifact, 1, now, next_attempt=now)
    catalog.save_copy(copy)
    queued, young = Path(disk.path, part_name(backup.artifact)), Path(disk.path, part_name(OURS))
    queued.write_bytes(b"x")
    os.utime(queued, (0, 0))
    age = (now - ABANDONED + timedelta(days=1)).timestamp()
    os.utime(young, (age, age))
    assert sweep_unfinished([disk], catalog, now, open_store) == []
    assert {queued.name, young.name} <= names(disk)


def test_a_place_that_is_away_is_left_for_another_day(catalog: Catalog, disk: LocalDestination) -> None:
    """The fault is told by what it hinders, not by this; the other places are looked at all the same."""

    def away(destination: Destination) -> Store:
        if destination.name == "away":
            raise StoreError("gone", code="destination-unreachable")
        return open_store(destination)

    both = [msgspec.structs.replace(disk, name="away"), disk]
    assert sweep_unfinished(both, catalog, datetime.now(UTC), away) == [f"{OURS} at disk"]
