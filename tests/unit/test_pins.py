"""Pins: whose they are, that they outlive the catalog, and that they go with their backup."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import LOCAL, Backup, Copy, CopyState, Pin
from nanumpay_backupd.pipeline.inventory import rebuild, sync_local
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import BY_VERIFICATION, pin, recall_pins, unpin
from nanumpay_backupd.pipeline.prune import delete_backup
from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Store
from tests.workbench import NOW, job_spec, published


def pinned(catalog: Catalog, backup: Backup) -> str:
    """Return why a backup is pinned, as listings show it."""
    found = catalog.backup(backup.id)
    assert found is not None
    return found.pinned


def test_each_owner_lets_go_his_own(layout: Layout, catalog: Catalog) -> None:
    """What a person pinned and what the daemon pinned stand side by side; each is shown until its owner lets go."""
    backup = published(layout, catalog)
    pin(catalog, layout, backup.id, BY_VERIFICATION, "a newer one is corrupt", NOW)
    pin(catalog, layout, backup.id, "kim", "before the move", NOW + timedelta(minutes=1))
    pin(catalog, layout, backup.id, "root", "", NOW + timedelta(minutes=2))
    assert pinned(catalog, backup) == "a newer one is corrupt; before the move (kim); asked for (root)"
    assert [(one.owner, one.by_daemon) for one in catalog.pins(backup.id)] == [
        (BY_VERIFICATION, True),
        ("kim", False),
        ("root", False),
    ]
    pin(catalog, layout, backup.id, "kim", "for the auditor", NOW + timedelta(minutes=3))
    unpin(catalog, layout, backup.id, BY_VERIFICATION)
    unpin(catalog, layout, backup.id, "nobody")
    assert pinned(catalog, backup) == "asked for (root); for the auditor (kim)"
    for owner in ("kim", "root"):
        unpin(catalog, layout, backup.id, owner)
    assert pinned(catalog, backup) == ""
    assert list(layout.pinned.iterdir()) == []


def test_a_look_at_the_folder_leaves_pins_alone(layout: Layout, catalog: Catalog) -> None:
    """A record that is written again, because a file vanished or was verified, stays pinned."""
    backup = published(layout, catalog)
    pin(catalog, layout, backup.id, "root", "why", NOW)
    layout.artifact(backup.artifact).unlink()
    assert sync_local(catalog, layout, NOW) == 1
    assert pinned(catalog, backup) == "why (root)"


@pytest.mark.parametrize("lost", [False, True], ids=["rebuilt", "lost"])
def test_pins_outlive_the_catalog(layout: Layout, catalog: Catalog, tmp_path: Path, lost: bool) -> None:
    """Whether it is rebuilt or begins anew in an empty state folder: what was pinned is, by whom and why."""
    backup, other = published(layout, catalog), published(layout, catalog, NOW - timedelta(days=1))
    pin(catalog, layout, backup.id, "root", "before the move", NOW)
    expected = catalog.pins()
    with Catalog(tmp_path / "new" / "catalog.db") as fresh:
        after = fresh if lost else catalog
        rebuild(after, layout, NOW)
        assert after.pins() == expected
        assert (pinned(after, backup), pinned(after, other)) == ("before the move (root)", "")


def test_pins_of_what_lies_elsewhere_come_back_with_it(layout: Layout, catalog: Catalog) -> None:
    """A backup that a rebuild finds at a destination only is pinned as soon as it is known again."""
    backup = published(layout, catalog)
    pin(catalog, layout, backup.id, "root", "why", NOW)
    layout.artifact(backup.artifact).unlink()
    layout.manifest(backup.id).unlink()
    rebuild(catalog, layout, NOW)
    assert catalog.backups() == []
    assert catalog.pins() == []
    catalog.save_backup(backup)
    recall_pins(catalog, layout)
    assert pinned(catalog, backup) == "why (root)"


def no_store(destination: Destination) -> Store:
    """Where nothing is remote, nobody connects."""
    raise AssertionError(destination)


def test_a_pin_goes_with_the_last_copy(layout: Layout, catalog: Catalog) -> None:
    """While there is a copy anywhere the pin stays; with the backup its file goes."""
    backup = published(layout, catalog)
    elsewhere = Copy(
        backup=backup.id,
        destination="gone",
        state=CopyState.UPLOADED,
        key=backup.artifact,
        size=backup.size,
        updated=NOW,
    )
    catalog.save_copy(elsewhere)
    pin(catalog, layout, backup.id, "root", "why", NOW)
    delete_backup(job_spec(), catalog, layout, backup.id, LOCAL, no_store)
    assert pinned(catalog, backup) == "why (root)"
    catalog.forget_copy(backup.id, "gone")
    assert catalog.pins() == []
    last = published(layout, catalog, NOW - timedelta(days=1))
    pin(catalog, layout, last.id, "root", "why", NOW)
    delete_backup(job_spec(), catalog, layout, last.id, None, no_store)
    assert not layout.pins(last.id).exists()
    assert catalog.pins() == []


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'[{"backup": 5}]', b"\xff", b"null"])
def test_a_damaged_file_pins_nothing_and_harms_no_other(layout: Layout, catalog: Catalog, content: bytes) -> None:
    """A rebuild goes on past it."""
    backup, other = published(layout, catalog), published(layout, catalog, NOW - timedelta(days=1))
    for one in (backup, other):
        pin(catalog, layout, one.id, "root", "why", NOW)
    layout.pins(backup.id).write_bytes(content)
    with Catalog(layout.backups.parent / "new" / "catalog.db") as fresh:
        rebuild(fresh, layout, NOW)
        assert (pinned(fresh, backup), pinned(fresh, other)) == ("", "why (root)")


def test_what_cannot_be_made_durable_is_not_pinned(layout: Layout, catalog: Catalog) -> None:
    """Nobody is told that a backup is pinned when a rebuild would forget it."""
    backup = published(layout, catalog)
    layout.pinned.write_text("not a folder", encoding="ascii")
    with pytest.raises(BackupdError, match="cannot be written") as caught:
        pin(catalog, layout, backup.id, "root", "why", NOW)
    assert caught.value.code == "folder-unusable"
    assert pinned(catalog, backup) == ""
    assert catalog.pins() == []


def test_no_login_is_taken_for_the_daemon() -> None:
    """A user may be called daemon, as one of Debian's is."""
    assert not Pin(backup="b", owner="daemon", reason="", made=NOW).by_daemon
    assert Pin(backup="b", owner=BY_VERIFICATION, reason="", made=NOW).by_daemon
