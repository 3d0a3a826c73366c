"""The catalog: what goes in comes out, several processes at once, damaged and newer files, the queue, ten thousand."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.catalog_schema import SCHEMA_VERSION
from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    ErrorInfo,
    Kind,
    Outcome,
    Policy,
    Run,
    Stage,
    StageRecord,
    Trigger,
)
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import backup_id
from nanumpay_backupd.pipeline.outlook import look, plan
from tests.servers.tools import PROJECT
from tests.workbench import NOW, job_spec, manifest_of, small_disk

_PROMISE = "The catalog may be lost: the manifests beside the backups have what it takes to go on."

times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
faults = st.none() | st.builds(ErrorInfo, code=st.text("abc-", min_size=1), message=st.text(), hint=st.text())
stages = st.builds(
    StageRecord,
    stage=st.sampled_from(Stage),
    started=times,
    ended=st.none() | times,
    outcome=st.none() | st.sampled_from(Outcome),
    detail=st.text(),
)
runs = st.builds(
    Run,
    id=st.text("0123456789abcdef-", min_size=1, max_size=12),
    job=st.sampled_from(["nanumpay", "orders"]),
    trigger=st.sampled_from(Trigger),
    started=times,
    ended=st.none() | times,
    outcome=st.none() | st.sampled_from(Outcome),
    backup=st.none() | st.text(),
    stages=st.lists(stages, max_size=3).map(tuple),
    error=faults,
    warnings=st.lists(st.text(), max_size=2).map(tuple),
)


def backup_of(created: datetime, *places: str, job: str = "nanumpay", state: CopyState = CopyState.VERIFIED) -> Backup:
    """Return a verified backup with copies at places."""
    name = backup_id(job, created)
    copies = tuple(
        Copy(backup=name, destination=place, state=state, key=f"{name}.tar.gz", size=1000, updated=created)
        for place in places
    )
    return Backup(
        id=name,
        job=job,
        kind=Kind.FULL,
        created=created,
        state=BackupState.VERIFIED,
        artifact=f"{name}.tar.gz",
        size=1000,
        documents=12,
        run="run1",
        copies=copies,
    )


def pending(backup: Backup, place: str, due: datetime | None, attempts: int = 1) -> Copy:
    """Return a copy that waits for its upload."""
    return Copy(
        backup=backup.id,
        destination=place,
        state=CopyState.PENDING,
        key=backup.artifact,
        size=backup.size,
        updated=NOW,
        attempts=attempts,
        next_attempt=due,
        error=ErrorInfo(code="destination-unreachable", message="no answer", retryable=True),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(runs, unique_by=lambda run: run.id, max_size=6))
def test_runs_come_back_as_they_went_in_newest_first(
    tmp_path_factory: pytest.TempPathFactory, saved: list[Run]
) -> None:
    """Every field of a run survives the file, and listings are in the order of time, for one job or all."""
    with Catalog(tmp_path_factory.mktemp("catalog") / "catalog.db") as catalog:
        for run in saved:
            catalog.save_run(run)
        assert {run.id: catalog.run(run.id) for run in saved} == {run.id: run for run in saved}
        ordered = sorted(saved, key=lambda run: (run.started, run.id), reverse=True)
        assert catalog.runs(limit=99) == ordered
        assert catalog.runs(limit=2) == ordered[:2]
        assert catalog.runs("orders", limit=99) == [run for run in ordered if run.job == "orders"]
        assert {run.id for run in catalog.unfinished_runs()} == {run.id for run in saved if run.outcome is None}
        assert catalog.run("unknown") is None


def test_a_run_saved_again_replaces_itself(catalog: Catalog) -> None:
    """The record of a run grows while it runs; there is one of it."""
    run = Run(id="r1", job="nanumpay", trigger=Trigger.SCHEDULE, started=NOW)
    catalog.save_run(run)
    ended = msgspec.structs.replace(run, ended=NOW + timedelta(seconds=4), outcome=Outcome.SUCCEEDED, backup="b")
    catalog.save_run(ended)
    assert catalog.runs() == [ended]
    assert catalog.unfinished_runs() == []


def test_a_backup_comes_back_with_copies_and_manifest(catalog: Catalog) -> None:
    """The listing carries copies but not the manifest, which the single backup does."""
    manifest = manifest_of(b"artifact", collections={"nanumpay.users": (5, 500)}, raw_bytes=500, proven=True)
    local = Copy(
        backup=manifest.backup,
        destination=LOCAL,
        state=CopyState.VERIFIED,
        key=manifest.artifact.name,
        size=8,
        updated=NOW,
    )
    backup = backup_from_manifest(manifest, local)
    catalog.save_backup(backup)
    assert catalog.backup(backup.id) == backup
    assert catalog.backups() == [msgspec.structs.replace(backup, manifest=None)]
    assert (backup.documents, backup.state, backup.created) == (5, BackupState.VERIFIED, NOW)
    assert catalog.backup("unknown") is None


def test_saving_a_backup_again_updates_it_and_forgets_nothing(catalog: Catalog) -> None:
    """Copies that an update does not carry stay, and so do manifest and run."""
    manifest = manifest_of(b"artifact", proven=None)
    first = backup_from_manifest(manifest)
    catalog.save_backup(msgspec.structs.replace(first, copies=backup_of(NOW, LOCAL, "cloud").copies))
    catalog.save_backup(
        msgspec.structs.replace(first, manifest=None, run=None, state=BackupState.VERIFIED, documents=3, copies=())
    )
    found = catalog.backup(first.id)
    assert found is not None
    assert (found.manifest, found.run, found.state, found.documents) == (manifest, first.run, BackupState.VERIFIED, 3)
    assert [copy.destination for copy in found.copies] == ["cloud", LOCAL]


def test_for_which_places_a_backup_was_meant_is_remembered(catalog: Catalog) -> None:
    """Also that it was for none, and when it is saved again by somebody who cannot tell; it goes with the backup."""
    made = [backup_of(NOW - timedelta(days=at), LOCAL) for at in range(3)]
    for backup, places in zip(made, (None, ("nas", "offsite"), ()), strict=True):
        catalog.save_backup(msgspec.structs.replace(backup, only_to=places))
    catalog.save_backups(made)
    assert [backup.only_to for backup in catalog.backups()] == [None, ("nas", "offsite"), ()]
    found = [catalog.backup(backup.id) for backup in made]
    assert [backup.only_to for backup in found if backup is not None] == [None, ("nas", "offsite"), ()]
    catalog.forget_backup(made[1].id)
    catalog.save_backup(made[1])
    assert [backup.only_to for backup in catalog.backups()] == [None, None, ()]


def test_what_was_taken_for_an_old_programs_archive_becomes_what_it_is(catalog: Catalog) -> None:
    """Seen between the two renames of a commit an artifact looks like a legacy one; the run's record corrects that."""
    manifest = manifest_of(b"artifact", proven=None)
    right = backup_from_manifest(manifest)
    catalog.save_backup(msgspec.structs.replace(right, kind=Kind.LEGACY, state=BackupState.LEGACY, run=None))
    catalog.save_backup(right)
    assert catalog.backup(right.id) == right


def test_backups_are_listed_newest_first_by_job_and_limit(catalog: Catalog) -> None:
    """Order is the moment in the name, not that of saving."""
    ages = [3, 0, 4, 1, 2]
    catalog.save_backups([backup_of(NOW - timedelta(days=age), LOCAL) for age in ages])
    catalog.save_backup(backup_of(NOW + timedelta(days=1), LOCAL, job="orders"))
    expected = [backup_id("nanumpay", NOW - timedelta(days=age)) for age in range(5)]
    assert [backup.id for backup in catalog.backups("nanumpay")] == expected
    assert [backup.id for backup in catalog.backups("nanumpay", limit=2)] == expected[:2]
    assert [backup.job for backup in catalog.backups(limit=2)] == ["orders", "nanumpay"]
    assert all(len(backup.copies) == 1 for backup in catalog.backups(limit=2))


def test_forgetting_the_last_copy_forgets_the_backup(catalog: Catalog) -> None:
    """A backup that is nowhere is no backup."""
    backup = backup_of(NOW, LOCAL, "cloud")
    catalog.save_backup(backup)
    catalog.forget_copy(backup.id, LOCAL)
    assert [copy.destination for copy in catalog.backups()[0].copies] == ["cloud"]
    catalog.forget_copy(backup.id, "cloud")
    assert catalog.backups() == []
    catalog.save_backup(backup)
    catalog.forget_backup(backup.id)
    assert catalog.backups() == []
    assert catalog.totals("nanumpay") == (0, 0, 0)


def test_clearing_backups_leaves_the_runs(catalog: Catalog) -> None:
    """A rebuild reads backups anew; the history of runs is not in the manifests and stays."""
    run = Run(id="r1", job="nanumpay", trigger=Trigger.MANUAL, started=NOW, outcome=Outcome.FAILED)
    catalog.save_run(run)
    catalog.save_backup(backup_of(NOW, LOCAL))
    catalog.clear_backups()
    assert (catalog.backups(), catalog.runs()) == ([], [run])


def test_the_queue_gives_what_is_due_soonest_first(catalog: Catalog) -> None:
    """Pending copies with a time are the queue; given-up ones and finished ones are not in it."""
    backup = backup_of(NOW, LOCAL)
    catalog.save_backup(backup)
    later, sooner = (pending(backup, place, NOW + timedelta(minutes=at)) for place, at in (("b", 5), ("a", 1)))
    for copy in (later, sooner, pending(backup, "given-up", None, attempts=3)):
        catalog.save_copy(copy)
    assert catalog.pending_copies() == [sooner, later]
    assert catalog.pending_copies(due=NOW) == []
    assert catalog.pending_copies(due=NOW + timedelta(minutes=1)) == [sooner]
    done = msgspec.structs.replace(sooner, state=CopyState.UPLOADED, next_attempt=None, error=None)
    catalog.save_copy(done)
    assert catalog.pending_copies() == [later]


def test_totals_count_what_is_there(catalog: Catalog) -> None:
    """Backups, bytes of present copies, uploads that wait: of one job, missing and corrupt copies not counted."""
    first, second = backup_of(NOW, LOCAL, "cloud"), backup_of(NOW - timedelta(days=1), LOCAL)
    catalog.save_backups([first, second, backup_of(NOW, LOCAL, job="orders")])
    catalog.save_copy(pending(second, "cloud", NOW))
    catalog.save_copy(msgspec.structs.replace(second.copies[0], state=CopyState.MISSING))
    assert catalog.totals("nanumpay") == (2, 2000, 1)
    assert catalog.totals("unknown") == (0, 0, 0)


def test_a_copy_of_a_backup_that_is_gone_is_refused_with_a_sentence(catalog: Catalog) -> None:
    """A backup deleted during its upload is not called a damaged catalog."""
    with pytest.raises(NotFoundError, match="of which a copy is to be recorded"):
        catalog.save_copy(pending(backup_of(NOW), "cloud", NOW))


def test_plans_are_remembered_across_processes(tmp_path: Path) -> None:
    """The due time that was planned is what tells a restarted daemon that it missed one."""
    path = tmp_path / "catalog.db"
    with Catalog(path) as catalog:
        assert catalog.plan("nanumpay") is None
        catalog.save_plan("nanumpay", NOW)
        catalog.save_plan("nanumpay", NOW + timedelta(days=1))
        catalog.save_plan("orders", NOW)
        catalog.save_plan("orders", None)
    with Catalog(path) as catalog:
        assert (catalog.plan("nanumpay"), catalog.plan("orders")) == (NOW + timedelta(days=1), None)


def test_old_runs_make_room(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of runs does not grow for ever; the newest stay."""
    monkeypatch.setattr("nanumpay_backupd.catalog._KEPT_RUNS", 3)
    for at in range(6):
        catalog.save_run(Run(id=f"r{at}", job="n", trigger=Trigger.MANUAL, started=NOW + timedelta(minutes=at)))
    catalog.forget_old_runs()
    assert [run.id for run in catalog.runs()] == ["r5", "r4", "r3"]


# Faults


@pytest.mark.promise(_PROMISE, item=5)
def test_a_file_that_is_no_catalog_is_damaged_and_says_what_to_do(tmp_path: Path) -> None:
    """The message names the file and that nothing is lost."""
    path = tmp_path / "catalog.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(BackupdError, match="is damaged") as caught:
        Catalog(path)
    assert caught.value.code == "catalog-damaged"
    assert str(path) in caught.value.message
    assert "anew from the manifests" in caught.value.hint


@pytest.mark.promise(_PROMISE, item=5)
def test_damage_inside_is_found_when_it_is_read(tmp_path: Path) -> None:
    """A catalog whose pages were overwritten opens perhaps, and says that it is damaged when it is used."""
    path = tmp_path / "catalog.db"
    with Catalog(path) as catalog:
        catalog.save_backups([backup_of(NOW - timedelta(days=at), LOCAL) for at in range(300)])
    with path.open("r+b") as stream:
        stream.seek(8192)
        stream.write(os.urandom(path.stat().st_size - 8192))
    with pytest.raises(BackupdError) as caught, Catalog(path) as catalog:
        catalog.backups()
    assert caught.value.code == "catalog-damaged"


def test_a_catalog_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """An older program does not touch what it does not understand, and does not hold it open."""
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(BackupdError, match=f"format {SCHEMA_VERSION + 1}") as caught:
        Catalog(path)
    assert caught.value.code == "catalog-newer"
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd) == str(path)]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    """Where the state folder cannot be made, the fault says so."""
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(BackupdError, match="cannot be used") as caught:
        Catalog(tmp_path / "state" / "catalog.db")
    assert caught.value.code == "catalog-unusable"


def test_a_full_disk_is_a_sentence_and_the_catalog_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A change that did not fit is not half there, and the same open catalog works again afterwards."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk, Catalog(disk / "catalog.db") as catalog:
        catalog.save_backup(backup_of(NOW, LOCAL))
        with (disk / "foreign").open("wb") as stream:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            os.posix_fallocate(stream.fileno(), 0, free - 8192)
        many = [backup_of(NOW - timedelta(days=at), LOCAL) for at in range(1, 400)]
        with pytest.raises(BackupdError, match=r"cannot be used: .*full") as caught:
            catalog.save_backups(many)
        assert caught.value.code == "catalog-unusable"
        assert caught.value.retryable
        (disk / "foreign").unlink()
        assert len(catalog.backups()) == 1
        catalog.save_backups(many)
        assert len(catalog.backups()) == 400


@pytest.mark.promise(_PROMISE, item=5)
def test_a_catalog_that_stays_locked_is_busy(tmp_path: Path) -> None:
    """A writer that never ends is named as such and not as damage."""
    path = tmp_path / "catalog.db"
    with Catalog(path) as one, Catalog(path) as other:
        other._db.execute("PRAGMA busy_timeout = 50")
        with one.together(), pytest.raises(BusyError, match="locked by another process"):
            other.save_plan("nanumpay", NOW)
        other.save_plan("nanumpay", NOW)


def test_together_is_all_or_nothing(catalog: Catalog) -> None:
    """What is written inside is there as a whole, or not at all when it ends in an error."""

    def half() -> None:
        with catalog.together():
            catalog.save_backup(backup_of(NOW, LOCAL))
            catalog.save_copy(pending(backup_of(NOW - timedelta(days=1)), "cloud", NOW))

    with pytest.raises(NotFoundError):
        half()
    assert catalog.backups() == []
    with catalog.together():
        catalog.save_backup(backup_of(NOW, LOCAL))
        catalog.save_plan("nanumpay", NOW)
    assert len(catalog.backups()) == 1


_WRITER: Final = """
    import sys
    from datetime import timedelta
    from pathlib import Path
    from nanumpay_backupd.catalog import Catalog
    from nanumpay_backupd.model import Run, Trigger
    from tests.unit.test_catalog import NOW, LOCAL, backup_of

    name, path = sys.argv[1], Path(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    with Catalog(path) as catalog:
        for at in range(60):
            catalog.save_run(Run(id=f"{name}-{at}", job=name, trigger=Trigger.MANUAL, started=NOW))
            catalog.save_backup(backup_of(NOW + timedelta(seconds=at), LOCAL, job=name))
            assert len(catalog.backups(name)) == at + 1
"""


def test_two_processes_create_and_write_at_once(tmp_path: Path) -> None:
    """Daemon and worker share the file from its first moment: every record of both is there."""
    path = tmp_path / "catalog.db"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_WRITER), name, path],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    with Catalog(path) as catalog:
        assert len(catalog.runs(limit=1000)) == 120
        assert [len(catalog.backups(name)) for name in ("one", "two")] == [60, 60]


def test_ten_thousand_backups_are_listed_and_judged_rightly(catalog: Catalog) -> None:
    """What holds for seven holds for ten thousand: order, copies, totals, and what retention says of each."""
    catalog.save_backups([backup_of(NOW - timedelta(hours=at), LOCAL, "cloud") for at in range(10_000)])
    found = catalog.backups("nanumpay")
    assert [backup.created for backup in found] == [NOW - timedelta(hours=at) for at in range(10_000)]
    assert all([copy.destination for copy in backup.copies] == ["cloud", LOCAL] for backup in found)
    assert catalog.totals("nanumpay") == (10_000, 20_000_000, 0)
    lines = plan(job_spec(retention=Policy(count=100, days=3)), look(catalog, "nanumpay"), NOW)
    assert [line.destination for line in lines] == [LOCAL] * 10_000, "the cloud is not configured: not judged"
    kept = [line.backup for line in lines if line.action == "keep"]
    assert kept == [backup.id for backup in found[:73]], "three days of hours, both ends included"
