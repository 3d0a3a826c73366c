"""The folder is the truth: what vanished, came back, changed or was never ours, and what is healed or rebuilt."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, NotFoundError, StoreError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Copy, CopyState, Kind, Policy, to_json
from nanumpay_backupd.pipeline.inventory import rebuild, sync_local
from nanumpay_backupd.pipeline.layout import Layout, backup_id, parse_artifact
from nanumpay_backupd.pipeline.outlook import PruneLine, look, plan
from nanumpay_backupd.pipeline.prune import delete_backup, prune
from nanumpay_backupd.pipeline.publish import read_manifest
from nanumpay_backupd.settings.schema import Destination, LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.local import LocalStore
from tests.workbench import NOW, job_spec, published

_PROMISE = "The catalog may be lost: the manifests beside the backups have what it takes to go on."

FOREIGN = (
    "notes.txt",
    "nanumpay-backup-latest.tar.gz",
    "nanumpay-backup-2026-13-41T02-00-00.tar.gz",
    "nanumpay-backup-2026-11-20T02-00-00.tar.gz.part",
    "nanumpay-backup-2026-11-20T02-00-00.zip",
    "Nanumpay-backup-2026-11-20T02-00-00.tar.gz",
    "mongodb-2026-11-20.tar.gz",
    ".hidden",
)


def local_state(catalog: Catalog, backup: Backup) -> CopyState:
    """Return what the catalog says of the copy in the folder."""
    found = catalog.backup(backup.id)
    assert found is not None
    (copy,) = (copy for copy in found.copies if copy.destination == LOCAL)
    return copy.state


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of the plain files directly in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,12}", fullmatch=True),
    st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1)),
    st.sampled_from([".tar", ".tar.gz"]),
)
def test_an_artifacts_name_tells_what_it_was_made_from(job: str, moment: datetime, suffix: str) -> None:
    """Job and second come back from every name that we give."""
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    identifier = backup_id(job, moment)
    assert parse_artifact(f"{identifier}{suffix}") == (identifier, job, moment)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_names_are_not_ours(name: str) -> None:
    """What does not fully match the pattern, or is no date, belongs to somebody else."""
    assert parse_artifact(name) is None


def test_nothing_changed_nothing_to_do(layout: Layout, catalog: Catalog) -> None:
    """A second look finds the catalog in line with the folder."""
    published(layout, catalog)
    (layout.backups / "nanumpay-backup-2026-11-01T02-00-00.tar.gz").write_bytes(b"old")
    assert sync_local(catalog, layout, NOW) == 1
    assert sync_local(catalog, layout, NOW) == 0


def test_a_file_that_vanished_is_missing_and_one_that_came_back_is_there(layout: Layout, catalog: Catalog) -> None:
    """Missing is a fact and not a fault; a file put back with its size is present, but was not read again."""
    backup = published(layout, catalog)
    path = layout.artifact(backup.artifact)
    content = path.read_bytes()
    path.unlink()
    assert sync_local(catalog, layout, NOW) == 1
    assert local_state(catalog, backup) is CopyState.MISSING
    assert sync_local(catalog, layout, NOW) == 0
    path.write_bytes(content)
    assert sync_local(catalog, layout, NOW) == 1
    assert local_state(catalog, backup) is CopyState.UPLOADED
    found = catalog.backup(backup.id)
    assert found is not None
    assert (found.state, found.manifest) == (BackupState.VERIFIED, backup.manifest)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_corrupt(layout: Layout, catalog: Catalog, change: int) -> None:
    """Its manifest promised its size: a shorter or longer file is not that backup any more."""
    backup = published(layout, catalog)
    os.truncate(layout.artifact(backup.artifact), backup.size + change)
    sync_local(catalog, layout, NOW)
    assert local_state(catalog, backup) is CopyState.CORRUPT
    assert sync_local(catalog, layout, NOW) == 0


def test_a_quick_look_sees_what_came_and_went_and_takes_known_sizes_for_granted(
    layout: Layout, catalog: Catalog
) -> None:
    """It finds files by their names; that a known one was cut off shows at the next whole look."""
    kept, gone = published(layout, catalog), published(layout, catalog, created=NOW - timedelta(days=1))
    new = published(layout, created=NOW - timedelta(days=2))
    os.truncate(layout.artifact(kept.artifact), kept.size - 1)
    layout.artifact(gone.artifact).unlink()
    assert sync_local(catalog, layout, NOW, quick=True) == 2
    states = [local_state(catalog, backup) for backup in (kept, gone, new)]
    assert states == [CopyState.VERIFIED, CopyState.MISSING, CopyState.VERIFIED]
    assert sync_local(catalog, layout, NOW) == 1
    assert local_state(catalog, kept) is CopyState.CORRUPT


def test_a_file_deleted_in_the_moment_of_a_look_is_the_only_one_missing(
    layout: Layout, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application deletes while the folder is read: what is gone between its name and its size harms no other."""
    kept, gone = published(layout, catalog), published(layout, catalog, created=NOW - timedelta(days=1))

    def lstat(path: str) -> os.stat_result:
        if path.endswith(gone.artifact):
            os.unlink(path)
        return os.stat(path, follow_symlinks=False)

    monkeypatch.setattr("nanumpay_backupd.pipeline.inventory.os.lstat", lstat)
    assert sync_local(catalog, layout, NOW) == 1
    assert [local_state(catalog, backup) for backup in (kept, gone)] == [CopyState.VERIFIED, CopyState.MISSING]


def test_an_artifact_in_the_wrong_folder_is_not_there(layout: Layout, catalog: Catalog) -> None:
    """A full among the slices, or a slice among the fulls, is none that a restore would find."""
    full = published(layout, catalog)
    layout.artifact(full.artifact).rename(layout.slices / full.artifact)
    (layout.backups / f"{backup_id('nanumpay', NOW, Kind.INCREMENTAL)}.bson.zst").write_bytes(b"slice")
    assert sync_local(catalog, layout, NOW) == 1
    assert local_state(catalog, full) is CopyState.MISSING
    assert len(catalog.backups()) == 1


def test_copies_elsewhere_are_not_touched_by_a_look_at_the_folder(layout: Layout, catalog: Catalog) -> None:
    """The local file is gone, the one in the cloud still counts."""
    backup = published(layout, catalog)
    cloud = Copy(
        backup=backup.id,
        destination="cloud",
        state=CopyState.VERIFIED,
        key=backup.artifact,
        size=backup.size,
        updated=NOW,
    )
    catalog.save_copy(cloud)
    layout.artifact(backup.artifact).unlink()
    sync_local(catalog, layout, NOW)
    assert {copy.destination: copy.state for copy in catalog.backups()[0].copies} == {
        "cloud": CopyState.VERIFIED,
        LOCAL: CopyState.MISSING,
    }


def test_the_old_programs_archives_are_listed_and_count(layout: Layout, catalog: Catalog) -> None:
    """An archive with our kind of name and no manifest is legacy, with its size and the moment of its name."""
    names = [f"nanumpay-backup-2026-11-{day:02d}T02-00-00.tar.gz" for day in range(12, 20)]
    for name in names:
        (layout.backups / name).write_bytes(b"archive of the old program")
    published(layout, catalog)
    assert sync_local(catalog, layout, NOW) == 8
    found = [backup for backup in catalog.backups("nanumpay") if backup.kind is Kind.LEGACY]
    assert [backup.artifact for backup in found] == names[::-1]
    assert {(backup.state, backup.size, backup.manifest) for backup in found} == {(BackupState.LEGACY, 26, None)}
    lines = plan(job_spec(retention=Policy(count=4, days=30)), look(catalog, "nanumpay"), NOW)
    assert [line.action for line in lines] == ["keep"] * 4 + ["delete"] * 5


def test_an_archive_that_the_old_program_was_still_writing_grows(layout: Layout, catalog: Catalog) -> None:
    """Nobody promised its size, so a new size is its size and no damage."""
    path = layout.backups / "nanumpay-backup-2026-11-20T02-00-00.tar.gz"
    path.write_bytes(b"half")
    sync_local(catalog, layout, NOW)
    path.write_bytes(b"half and the other half")
    assert sync_local(catalog, layout, NOW) == 1
    (backup,) = catalog.backups()
    assert (backup.kind, backup.state, backup.size) == (Kind.LEGACY, BackupState.LEGACY, 23)
    assert [(copy.state, copy.size) for copy in backup.copies] == [(CopyState.UPLOADED, 23)]


def test_an_artifact_seen_before_its_manifest_is_corrected(layout: Layout, catalog: Catalog) -> None:
    """Between the two renames of a commit it looks like a legacy archive; the next look knows better."""
    backup = published(layout)
    manifest = layout.manifest(backup.id)
    aside = manifest.rename(manifest.with_name("aside"))
    sync_local(catalog, layout, NOW)
    assert catalog.backups()[0].kind is Kind.LEGACY
    aside.rename(manifest)
    assert sync_local(catalog, layout, NOW) == 1
    found = catalog.backup(backup.id)
    assert found is not None
    assert (found.kind, found.state, found.manifest) == (Kind.FULL, BackupState.VERIFIED, backup.manifest)


def test_foreign_files_are_never_touched(layout: Layout, catalog: Catalog) -> None:
    """Neither looking nor pruning changes, lists or deletes what is not ours, folders and links included."""
    for name in FOREIGN:
        (layout.backups / name).write_text(name)
    folder = layout.backups / "nanumpay-backup-2026-10-19T02-00-00.tar.gz"
    folder.mkdir()
    (folder / "inside").write_text("inside")
    (layout.backups / "nanumpay-backup-2026-10-18T02-00-00.tar.gz").symlink_to("notes.txt")
    for age in range(3):
        published(layout, catalog, NOW - timedelta(days=age))
    before = snapshot(layout.backups)
    sync_local(catalog, layout, NOW)
    lines, faults = prune(job_spec(retention=Policy(count=1, days=1)), catalog, layout, NOW, no_store)
    assert faults == []
    assert len(lines) == 3
    after = snapshot(layout.backups)
    gone = {backup_id("nanumpay", NOW - timedelta(days=age)) + ".tar.gz" for age in (1, 2)}
    assert after == {name: content for name, content in before.items() if name not in gone}
    assert (folder / "inside").read_text() == "inside"


def no_store(destination: Destination) -> Store:
    """Where nothing is remote, nobody connects."""
    raise AssertionError(destination)


@pytest.mark.promise(_PROMISE, item=5)
def test_a_lost_manifest_is_written_again(layout: Layout, catalog: Catalog) -> None:
    """Whoever deletes the hidden folder loses nothing while the catalog is there."""
    backup = published(layout, catalog)
    shutil.rmtree(layout.private)
    sync_local(catalog, layout, NOW)
    assert read_manifest(layout.manifest(backup.id)) == backup.manifest


@pytest.mark.promise(_PROMISE, item=5)
def test_a_lost_catalog_is_rebuilt_from_the_manifests(layout: Layout, catalog: Catalog, tmp_path: Path) -> None:
    """Backups, their states and their manifests come back from the folder alone."""
    ages = {0: True, 1: None, 2: False, 3: True}
    for age, proven in ages.items():
        published(layout, catalog, NOW - timedelta(days=age), proven=proven)
    layout.artifact(f"{backup_id('nanumpay', NOW - timedelta(days=3))}.tar.gz").unlink()
    sync_local(catalog, layout, NOW)
    expected = [(backup.id, backup.state, [copy.state for copy in backup.copies]) for backup in catalog.backups()]
    with Catalog(tmp_path / "new" / "catalog.db") as fresh:
        assert sync_local(fresh, layout, NOW) == 4
        assert [
            (backup.id, backup.state, [copy.state for copy in backup.copies]) for backup in fresh.backups()
        ] == expected
        assert sync_local(fresh, layout, NOW) == 0
        first = fresh.backup(backup_id("nanumpay", NOW))
    assert first is not None
    assert first.manifest == read_manifest(layout.manifest(first.id))


def test_rebuild_forgets_what_has_neither_file_nor_manifest(layout: Layout, catalog: Catalog) -> None:
    """Asked for, the catalog is read anew, and it counts what it found."""
    gone = published(layout, catalog, NOW - timedelta(days=1))
    published(layout, catalog)
    layout.artifact(gone.artifact).unlink()
    layout.manifest(gone.id).unlink()
    assert rebuild(catalog, layout, NOW) == 1
    assert [backup.id for backup in catalog.backups()] == [backup_id("nanumpay", NOW)]


@pytest.mark.promise(_PROMISE, item=5)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe", b"null"])
def test_a_damaged_manifest_proves_nothing(layout: Layout, catalog: Catalog, content: bytes) -> None:
    """Its artifact is then one without a manifest, and nothing fails."""
    backup = published(layout)
    layout.manifest(backup.id).write_bytes(content)
    sync_local(catalog, layout, NOW)
    (found,) = catalog.backups()
    assert (found.id, found.kind) == (backup.id, Kind.LEGACY)


@pytest.mark.promise(_PROMISE, item=5)
def test_a_manifest_under_another_backups_name_is_not_believed(layout: Layout, catalog: Catalog) -> None:
    """A copied manifest does not make a backup of what it was copied to."""
    backup = published(layout)
    other = backup_id("nanumpay", NOW - timedelta(days=1))
    shutil.copy(layout.manifest(backup.id), layout.manifest(other))
    sync_local(catalog, layout, NOW)
    assert [found.id for found in catalog.backups()] == [backup.id]


def test_keys_of_a_newer_manifest_are_ignored(layout: Layout, catalog: Catalog) -> None:
    """A manifest with keys of a later version is still read."""
    backup = published(layout)
    path = layout.manifest(backup.id)
    record = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**record, "later": {"key": 1}}))
    sync_local(catalog, layout, NOW)
    assert catalog.backups()[0].kind is Kind.FULL


def test_the_applications_clean_up_takes_artifacts_and_leaves_ours_alone(layout: Layout, catalog: Catalog) -> None:
    """It deletes all that begins with nanumpay-backup- but the newest .tar.gz: then they are missing, no more."""
    for age in range(4):
        published(layout, catalog, NOW - timedelta(days=age))
    keep = max(path for path in layout.backups.glob("nanumpay-backup-*.tar.gz"))
    for path in layout.backups.iterdir():
        if path.name.startswith("nanumpay-backup-") and path != keep:
            path.unlink()
    assert layout.staging.is_dir()
    assert len(list(layout.manifests.iterdir())) == 4
    sync_local(catalog, layout, NOW)
    states = [copy.state for backup in catalog.backups() for copy in backup.copies]
    assert states == [CopyState.VERIFIED] + [CopyState.MISSING] * 3
    lines = plan(job_spec(), look(catalog, "nanumpay"), NOW)
    assert [(line.backup, line.action) for line in lines] == [(backup_id("nanumpay", NOW), "keep")]


def test_a_folder_that_cannot_be_read_calls_nothing_missing(layout: Layout, catalog: Catalog) -> None:
    """A disk that is away is a fault, and the catalog stays as it was."""
    backup = published(layout, catalog)
    aside = layout.backups.rename(layout.backups.with_name("aside"))
    layout.backups.write_text("not a folder")
    with pytest.raises(BackupdError, match="cannot be read") as caught:
        sync_local(catalog, layout, NOW)
    assert caught.value.code == "folder-unusable"
    assert local_state(catalog, backup) is CopyState.VERIFIED
    layout.backups.unlink()
    aside.rename(layout.backups)
    assert sync_local(catalog, layout, NOW) == 0


# Deleting


class Refusing(LocalStore):
    """A place that refuses to delete."""

    def delete(self, key: str) -> None:
        """Refuse."""
        raise StoreError(f"{key}: no", hint="ask the admin", code="destination-denied")


def with_copy(catalog: Catalog, backup: Backup, folder: Path) -> LocalDestination:
    """Give a backup a copy on a further disk, artifact and manifest, and return the disk."""
    folder.mkdir(exist_ok=True)
    assert backup.manifest is not None
    (folder / backup.artifact).write_bytes(b"x" * backup.size)
    (folder / f"{backup.artifact}.manifest.json").write_bytes(to_json(backup.manifest))
    catalog.save_copy(
        Copy(
            backup=backup.id,
            destination="disk2",
            state=CopyState.UPLOADED,
            key=backup.artifact,
            size=backup.size,
            updated=NOW,
        )
    )
    return LocalDestination(name="disk2", path=str(folder))


def test_deleting_takes_artifact_manifest_and_record_of_every_place(
    layout: Layout, catalog: Catalog, tmp_path: Path
) -> None:
    """Asked for, a backup is gone everywhere, remote first; its neighbours are untouched."""
    backup = published(layout, catalog)
    other = published(layout, catalog, NOW - timedelta(days=1))
    disk = with_copy(catalog, backup, tmp_path / "disk2")
    lines = delete_backup(job_spec(destinations=(disk,)), catalog, layout, backup.id, None, open_local)
    assert lines == [PruneLine(backup.id, place, "delete", "asked for", backup.size) for place in ("disk2", LOCAL)]
    assert list((tmp_path / "disk2").iterdir()) == []
    assert [path.name for path in layout.manifests.iterdir()] == [f"{other.id}.json"]
    assert list(snapshot(layout.backups)) == [other.artifact]
    assert [found.id for found in catalog.backups()] == [other.id]
    assert sync_local(catalog, layout, NOW) == 0


def open_local(destination: Destination) -> Store:
    """Open the further disk."""
    assert isinstance(destination, LocalDestination)
    return LocalStore(destination)


def test_deleting_at_one_place_leaves_the_others(layout: Layout, catalog: Catalog, tmp_path: Path) -> None:
    """The manifest stays as long as there is a copy anywhere."""
    backup = published(layout, catalog)
    job = job_spec(destinations=(with_copy(catalog, backup, tmp_path / "disk2"),))
    delete_backup(job, catalog, layout, backup.id, LOCAL, open_local)
    assert not layout.artifact(backup.artifact).exists()
    assert layout.manifest(backup.id).exists()
    assert sync_local(catalog, layout, NOW) == 0
    delete_backup(job, catalog, layout, backup.id, "disk2", open_local)
    assert not layout.manifest(backup.id).exists()
    assert catalog.backups() == []


@pytest.mark.parametrize(
    "name, place, sentence",
    [
        pytest.param("nanumpay-backup-2020-01-01T00-00-00", None, "there is no backup", id="no such backup"),
        pytest.param(backup_id("nanumpay", NOW), "disk3", "has no copy at 'disk3'", id="no such place"),
        pytest.param(backup_id("nanumpay", NOW), "disk2", "no longer configured", id="place without settings"),
    ],
)
def test_deleting_what_is_not_there_is_refused(
    layout: Layout, catalog: Catalog, tmp_path: Path, name: str, place: str | None, sentence: str
) -> None:
    """A misspelled name or place is told, and nothing is deleted."""
    with_copy(catalog, published(layout, catalog), tmp_path / "disk2")
    with pytest.raises(NotFoundError, match=sentence):
        delete_backup(job_spec(), catalog, layout, name, place, open_local)
    assert len(catalog.backups()[0].copies) == 2


def test_a_place_that_refuses_to_delete_keeps_its_record_and_stops_no_other(
    layout: Layout, catalog: Catalog, tmp_path: Path
) -> None:
    """Retention goes on elsewhere, tells the fault, and tries again the next time."""
    disks = [
        with_copy(catalog, published(layout, catalog, NOW - timedelta(days=age)), tmp_path / "disk2")
        for age in range(3)
    ]
    job = job_spec(destinations=disks[:1], retention=Policy(count=1, days=30))
    _, faults = prune(job, catalog, layout, NOW, lambda destination: Refusing(disks[0]))
    assert [fault.code for fault in faults] == ["destination-denied"]
    assert len(snapshot(layout.backups)) == 1
    assert [[copy.destination for copy in backup.copies] for backup in catalog.backups()] == [
        ["disk2", LOCAL],
        ["disk2"],
        ["disk2"],
    ]
    _, faults = prune(job, catalog, layout, NOW, open_local)
    assert faults == []
    assert len(list((tmp_path / "disk2").iterdir())) == 2
    assert len(catalog.backups()) == len(list(layout.manifests.iterdir())) == 1


def test_records_of_vanished_copies_are_dropped_when_their_time_is_over(layout: Layout, catalog: Catalog) -> None:
    """What somebody else deleted is shown as missing until retention would have deleted it anyway."""
    ages = (0, 10, 29, 31, 400)
    for age in ages:
        backup = published(layout, catalog, NOW - timedelta(days=age))
        if age:
            layout.artifact(backup.artifact).unlink()
    sync_local(catalog, layout, NOW)
    prune(job_spec(), catalog, layout, NOW, no_store)
    assert [(NOW - backup.created).days for backup in catalog.backups()] == [0, 10, 29]
    assert len(list(layout.manifests.iterdir())) == 3
    assert sync_local(catalog, layout, NOW) == 0
