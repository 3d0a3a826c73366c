"""One run from end to end: real mongod, S3 and FTP servers, restore by hand, and all that can go wrong on the way."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Policy,
    Run,
    Stage,
    StageRecord,
    from_json,
)
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import MongoSource, Paths, RetryPolicy, RunSpec
from nanumpay_backupd.sources.base import Dump
from nanumpay_backupd.sources.mongodb import MongoDatabase
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.secrets import Secret
from tests import sample_data
from tests.compare import compare_databases
from tests.servers.ftp import FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.s3 import S3Server, start_s3
from tests.servers.tools import find_tool
from tests.workbench import NOW, Ear, SetClock, job_spec, small_disk

pytestmark = pytest.mark.servers

SOURCE = "run_source"
RESTORED = "run_restored"


@pytest.fixture(scope="module", params=["mongod_standalone", "mongod_rs"])
def any_server(request: pytest.FixtureRequest) -> Iterator[Mongod]:
    """Both kinds of server that sites have, with the sample data."""
    yield from _loaded(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def server(mongod_standalone: Mongod) -> Iterator[Mongod]:
    """The usual server, with the sample data."""
    yield from _loaded(mongod_standalone)


def _loaded(server: Mongod) -> Iterator[Mongod]:
    with server.client() as client:
        client.drop_database(SOURCE)
        sample_data.load(client[SOURCE], scale=0.02)
        yield server
        client.drop_database(SOURCE)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpServer]:
    """A real FTP server, empty."""
    with start_pyftpdlib(tmp_path / "ftp") as running:
        yield running


class RunClock(SetClock):
    """A set clock for waits; the short rests while mongodump writes are real, and do not move it."""

    def sleep(self, seconds: float) -> None:
        """Rest really for less than a twentieth of a second, else move on."""
        if seconds < 0.05:
            time.sleep(seconds)
        else:
            super().sleep(seconds)


@dataclass
class Site:
    """A host: its folders and its clock."""

    root: Path
    server: Mongod
    backups: Path
    clock: SetClock = field(default_factory=RunClock)
    ear: Ear = field(default_factory=Ear)
    started: int = 0

    @property
    def layout(self) -> Layout:
        """Return the places in the backups folder."""
        return Layout(self.backups)

    def spec(self, action: str = "backup", **job: Any) -> RunSpec:
        """Return what the worker is told."""
        self.started += 1
        source = MongoSource(uri=Secret(self.server.uri_for(SOURCE)), database=SOURCE)
        return RunSpec(
            run=f"run{self.started}",
            job=job_spec(**{"source": source, **job}),
            paths=Paths(backups=self.backups, state=self.root / "state", socket=self.root / "socket"),
            trigger="manual",
            action=action,
        )

    def run(
        self,
        action: str = "backup",
        *,
        ear: Ear | None = None,
        on_start: Callable[[Recorder], None] | None = None,
        retry: RetryPolicy | None = None,
        **job: Any,
    ) -> Run:
        """Do one run in this process."""
        self.ear = ear or Ear()
        return worker.execute(self.spec(action, **job), self.ear, self.clock, on_start=on_start, retry=retry)

    def catalog(self) -> Catalog:
        """Open the catalog as others see it."""
        return Catalog(self.root / "state" / "catalog.db")

    def only_backup(self) -> Backup:
        """Return the one backup there is, with its manifest."""
        with self.catalog() as catalog:
            (summary,) = catalog.backups()
            backup = catalog.backup(summary.id)
        assert backup is not None
        return backup

    def visible(self) -> list[str]:
        """Return what the application sees in the folder."""
        return sorted(entry.name for entry in self.backups.iterdir() if entry.name != ".backupd")

    def clean(self) -> bool:
        """Tell whether nothing is left of a run's work."""
        return list(self.layout.staging.iterdir()) == []


@pytest.fixture
def site(tmp_path: Path, server: Mongod) -> Site:
    """A host with the usual server."""
    return Site(tmp_path, server, tmp_path / "backups")


def restore_by_hand(server: Mongod, artifact: Path, folder: Path) -> list[str]:
    """Restore with the two commands of the contract into another database; returns the differences."""
    folder.mkdir()
    flag = "-xzf" if artifact.name.endswith(".gz") else "-xf"
    subprocess.run(["tar", flag, artifact], cwd=folder, check=True)
    (inside,) = folder.iterdir()
    assert inside.name == artifact.name.split(".")[0]
    with server.client() as client:
        client.drop_database(RESTORED)
        command = [
            str(find_tool("mongorestore")),
            f"--uri={server.uri}",
            f"--db={RESTORED}",
            "--drop",
            str(inside / SOURCE),
        ]
        subprocess.run(command, check=True, capture_output=True)
        try:
            return compare_databases(client, SOURCE, RESTORED)
        finally:
            client.drop_database(RESTORED)


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_a_backup_is_made_proven_copied_and_restores_with_stock_tools(
    tmp_path: Path, any_server: Mongod, s3: S3Server, ftp: FtpServer
) -> None:
    """From a real database to three places and back by tar and mongorestore, every collection is the same."""
    site = Site(tmp_path, any_server, tmp_path / "backups")
    prefix = f"{any_server.port}/"
    run = site.run(destinations=(s3.destination(prefix=prefix), ftp.destination()))
    assert (run.outcome, run.error, run.warnings) == (Outcome.SUCCEEDED, None, ())
    assert [record.stage for record in run.stages] == [
        Stage.PREFLIGHT,
        Stage.DUMP,
        Stage.COMPRESS,
        Stage.PUBLISH,
        Stage.VERIFY,
        Stage.UPLOAD,
        Stage.RETENTION,
    ]
    assert all(record.outcome is Outcome.SUCCEEDED and record.ended for record in run.stages)

    name = f"nanumpay-backup-{NOW:%Y-%m-%dT%H-%M-%S}"
    artifact = site.backups / f"{name}.tar.gz"
    assert site.visible() == [artifact.name]
    assert site.clean()
    assert oct(artifact.stat().st_mode & 0o777) == "0o640"
    assert site.ear.published == [(artifact.name, artifact.stat().st_size)]

    backup = site.only_backup()
    assert (backup.id, backup.kind, backup.state, backup.run) == (name, Kind.FULL, BackupState.VERIFIED, run.id)
    manifest = from_json(Manifest, site.layout.manifest(name).read_bytes())
    assert backup.manifest == manifest
    assert manifest.artifact.sha256 == sha256(artifact.read_bytes()).hexdigest()
    assert [proof.ok for proof in manifest.verification] == [True]
    assert manifest.verification[0].documents == backup.documents > 100
    assert manifest.source.topology == ("replica-set" if any_server.replica_set else "standalone")
    assert manifest.consistency.level == ("point-in-time" if any_server.replica_set else "none")
    assert bool(manifest.consistency.reason) is not any_server.replica_set

    for folder in (s3.root / s3.bucket / prefix, ftp.folder):
        assert sorted(path.name for path in folder.iterdir()) == [artifact.name, f"{artifact.name}.manifest.json"]
        assert (folder / artifact.name).read_bytes() == artifact.read_bytes()
        assert from_json(Manifest, (folder / f"{artifact.name}.manifest.json").read_bytes()) == manifest
    states = {copy.destination: copy.state for copy in backup.copies}
    assert states.keys() == {LOCAL, "cloud", "office"}
    assert states[LOCAL] is CopyState.VERIFIED
    assert set(states.values()) <= {CopyState.VERIFIED, CopyState.UPLOADED}

    assert restore_by_hand(any_server, artifact, tmp_path / "by-hand") == []


def test_without_compression_it_is_a_plain_tar(site: Site, tmp_path: Path) -> None:
    """`compress: false` of the application's form gives a `.tar` that restores the same way."""
    run = site.run(compress=False)
    assert run.outcome is Outcome.SUCCEEDED
    (name,) = site.visible()
    assert name.endswith("T02-00-00.tar")
    artifact = site.only_backup().manifest
    assert artifact is not None
    assert (artifact.artifact.compression, artifact.artifact.level) == ("none", 0)
    assert restore_by_hand(site.server, site.backups / name, tmp_path / "by-hand") == []


@pytest.mark.promise(
    "A copy that did not arrive is tried again, over restarts, until it is there or is told as given up.", item=4
)
def test_a_destination_that_is_down_degrades_the_run_and_the_queue_brings_the_copy_later(
    site: Site, s3: S3Server, ftp: FtpServer
) -> None:
    """The local and the other remote copy are good, the missing one is queued and arrives by the upload action."""
    cloud = s3.destination(prefix="degraded/")
    run = site.run(destinations=(cloud, ftp.destination(port=free_port())))
    assert run.outcome is Outcome.DEGRADED
    assert run.error is not None
    assert run.error.code == "destination-unreachable"
    assert any("office" in warning for warning in run.warnings)
    assert [record.outcome for record in run.stages if record.stage is Stage.UPLOAD] == [Outcome.DEGRADED]
    backup = site.only_backup()
    copies = {copy.destination: copy for copy in backup.copies}
    assert backup.state is BackupState.VERIFIED
    assert copies["cloud"].state in (CopyState.UPLOADED, CopyState.VERIFIED)
    waiting = copies["office"]
    assert (waiting.state, waiting.attempts) == (CopyState.PENDING, 1)
    assert waiting.error is not None
    assert waiting.next_attempt == site.clock.now() + timedelta(seconds=60)

    early = site.run("upload", destinations=(cloud, ftp.destination()))
    assert (early.outcome, early.stages[0].detail) == (Outcome.SUCCEEDED, "0 of 0 queued copies uploaded")
    assert not ftp.folder.exists()
    site.clock.sleep(61)
    later = site.run("upload", destinations=(cloud, ftp.destination()))
    assert (later.outcome, later.stages[0].detail) == (Outcome.SUCCEEDED, "1 of 1 queued copies uploaded")
    assert (ftp.folder / backup.artifact).read_bytes() == (site.backups / backup.artifact).read_bytes()
    done = next(copy for copy in site.only_backup().copies if copy.destination == "office")
    assert done.state in (CopyState.UPLOADED, CopyState.VERIFIED)
    assert (done.error, done.next_attempt, done.attempts) == (None, None, 2)


def test_failed_uploads_are_tried_so_often_and_then_wait_for_the_destination(site: Site, ftp: FtpServer) -> None:
    """After the policy's tries a copy is given up, with growing pauses before; a later success brings it back."""
    down = (ftp.destination(port=free_port()),)
    site.run(destinations=down)
    waits = []
    for _ in range(2):
        copy = site.only_backup().copies[-1]
        assert copy.next_attempt is not None
        waits.append((copy.next_attempt - site.clock.now()).total_seconds())
        site.clock.sleep(waits[-1] + 1)
        assert site.run("upload", destinations=down).outcome is Outcome.FAILED
    assert waits == [60, 120]
    copy = site.only_backup().copies[-1]
    assert (copy.state, copy.attempts, copy.next_attempt) == (CopyState.PENDING, 3, None)
    site.clock.sleep(86_400)
    second = site.run(destinations=(ftp.destination(),))
    assert second.outcome is Outcome.SUCCEEDED
    site.clock.sleep(1)
    assert site.run("upload", destinations=(ftp.destination(),)).outcome is Outcome.SUCCEEDED
    assert len([path for path in ftp.folder.iterdir() if path.name.endswith(".tar.gz")]) == 2


def test_without_a_daemon_the_run_itself_tries_again(site: Site, ftp: FtpServer) -> None:
    """`run-once` has no queue: it waits and tries within the run, and is degraded only after that."""
    run = site.run(retry=RetryPolicy(attempts=3, delay=10.0), destinations=(ftp.destination(port=free_port()),))
    assert run.outcome is Outcome.DEGRADED
    assert 25.0 < site.clock.slept < 35.0, "two waits, of ten and twenty seconds or so"


def test_a_wrong_password_is_not_tried_again_by_itself(site: Site, ftp: FtpServer) -> None:
    """Trying a refused password again and again locks accounts: it waits for new settings."""
    run = site.run(destinations=(ftp.destination(password=Secret("wrong password")),))
    assert run.outcome is Outcome.DEGRADED
    assert run.error is not None
    assert (run.error.code, run.error.retryable) == ("destination-auth", False)
    copy = next(copy for copy in site.only_backup().copies if copy.destination == "office")
    assert (copy.state, copy.next_attempt) == (CopyState.PENDING, None)


def test_retention_prunes_every_place(site: Site, ftp: FtpServer) -> None:
    """After four days of runs with a count of two, two are left here and at the server, each with its manifest."""
    for _ in range(4):
        assert site.run(destinations=(ftp.destination(),), retention=Policy(count=2, days=30)).outcome is (
            Outcome.SUCCEEDED
        )
        site.clock.sleep(86_400)
    expected = [f"nanumpay-backup-2026-11-{day}T02-00-00.tar.gz" for day in (23, 24)]
    assert site.visible() == expected
    assert sorted(path.name for path in ftp.folder.iterdir()) == sorted(
        name for artifact in expected for name in (artifact, f"{artifact}.manifest.json")
    )
    assert sorted(path.stem for path in site.layout.manifests.iterdir()) == [name.split(".")[0] for name in expected]
    with site.catalog() as catalog:
        assert [backup.artifact for backup in catalog.backups()] == expected[::-1]
        run = catalog.runs(limit=1)[0]
    assert run.stages[-1].detail == "2 deleted and 4 kept, of 6 copies"


class Tampering(Ear):
    """Does something to the artifact right after its commit, before it is read back."""

    def __init__(self, deed: Callable[[Path], None], backups: Path) -> None:
        super().__init__()
        self._deed = deed
        self._backups = backups

    def committed(self, artifact: str, size: int) -> None:
        """Do it."""
        super().committed(artifact, size)
        self._deed(self._backups / artifact)


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        (value,) = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([value ^ 1]))


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
def test_a_damaged_artifact_is_corrupt_stays_here_and_nothing_is_pruned(site: Site, ftp: FtpServer) -> None:
    """A bit that flips between commit and read-back: the run fails, nothing is uploaded, older backups all stay."""
    office = ftp.destination()
    for _ in range(2):
        site.run(destinations=(office,))
        site.clock.sleep(86_400)
    there = sorted(path.name for path in ftp.folder.iterdir())
    run = site.run(ear=Tampering(flip_a_bit, site.backups), destinations=(office,), retention=Policy(count=1, days=1))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code.startswith("verify-")
    assert run.stages[-1].stage is Stage.VERIFY
    assert sorted(path.name for path in ftp.folder.iterdir()) == there
    assert len(site.visible()) == 3
    with site.catalog() as catalog:
        newest, *older = catalog.backups()
    assert (newest.state, newest.run) == (BackupState.CORRUPT, run.id)
    assert [(copy.destination, copy.state) for copy in newest.copies] == [(LOCAL, CopyState.CORRUPT)]
    assert [backup.state for backup in older] == [BackupState.VERIFIED] * 2
    manifest = from_json(Manifest, site.layout.manifest(newest.id).read_bytes())
    assert [proof.ok for proof in manifest.verification] == [False]
    # The next good run does not count it as one that is kept.
    site.clock.sleep(86_400)
    assert site.run(destinations=(office,), retention=Policy(count=3, days=30)).outcome is Outcome.SUCCEEDED
    with site.catalog() as catalog:
        assert [backup.state for backup in catalog.backups()] == [
            BackupState.VERIFIED,
            BackupState.CORRUPT,
            BackupState.VERIFIED,
            BackupState.VERIFIED,
        ]


def test_an_artifact_that_is_deleted_before_it_was_read_back_is_missing_and_not_corrupt(site: Site) -> None:
    """The application's own clean-up may take it at any time; that is told in a sentence of its own."""
    run = site.run(ear=Tampering(Path.unlink, site.backups))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == "artifact-missing"
    assert site.only_backup().state is BackupState.COMMITTED


class Stopping(Ear):
    """Cancels the run when a stage begins."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._at = stage
        self.recorder: Recorder | None = None

    def stage(self, record: StageRecord) -> None:
        """Cancel at the beginning of the stage."""
        super().stage(record)
        if record.stage is self._at and record.ended is None:
            assert self.recorder is not None
            self.recorder.cancel()


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
@pytest.mark.parametrize("stage", [Stage.DUMP, Stage.VERIFY, Stage.UPLOAD])
def test_a_run_can_be_cancelled_in_every_stage(site: Site, ftp: FtpServer, stage: Stage) -> None:
    """It ends as cancelled, leaves no staging and no half copy, and what was committed before the cancel stays."""
    ear = Stopping(stage)

    def on_start(recorder: Recorder) -> None:
        ear.recorder = recorder

    run = site.run(ear=ear, on_start=on_start, destinations=(ftp.destination(),))
    assert run.outcome is Outcome.CANCELLED
    assert run.error is not None
    assert run.error.code == "cancelled"
    assert (run.stages[-1].stage, run.stages[-1].outcome) == (stage, Outcome.CANCELLED)
    assert site.clean()
    assert not ftp.folder.exists() or list(ftp.folder.iterdir()) == []
    if stage is Stage.DUMP:
        assert site.visible() == []
        return
    backup = site.only_backup()
    assert site.visible() == [backup.artifact]
    copies = {copy.destination: copy.state for copy in backup.copies}
    if stage is Stage.VERIFY:
        assert (backup.state, copies) == (BackupState.COMMITTED, {LOCAL: CopyState.UPLOADED})
    else:
        assert (backup.state, copies) == (
            BackupState.VERIFIED,
            {LOCAL: CopyState.VERIFIED, "office": CopyState.PENDING},
        )
    assert site.run(destinations=(ftp.destination(),)).outcome is Outcome.SUCCEEDED


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path, server: Mongod) -> None:
    """Preflight says how much is needed and how much is free; mongodump is not even started."""
    with small_disk(tmp_path / "disk", 32 << 20) as disk:
        site = Site(tmp_path, server, disk / "backups")
        run = site.run()
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert run.error.code == "no-space"
        figures = r"not enough room in (.+): this needs about [\d.]+ MB, 3[\d.]+ MB are free"
        found = re.fullmatch(figures, run.error.message)
        assert found is not None, run.error.message
        assert found[1] == str(site.backups)
        assert [record.stage for record in run.stages] == [Stage.PREFLIGHT]
        assert site.visible() == []
        assert site.clean()


class Filling(MongoDatabase):
    """Somebody else fills the disk between the look at it and the dump."""

    disk: Path

    def start(self, folder: Path) -> Dump:
        """Leave less room than one collection needs, and start the dump."""
        with (self.disk / "foreign").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free_bytes(self.disk) - (64 << 10))
        return super().start(folder)


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
def test_a_disk_that_fills_up_during_the_dump_fails_the_run_and_nothing_else(
    tmp_path: Path, server: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run says so, gives back what it took, and the backup from before is untouched; with room it works again."""
    with small_disk(tmp_path / "disk", 160 << 20) as disk:
        site = Site(tmp_path, server, disk / "backups")
        assert site.run().outcome is Outcome.SUCCEEDED
        before = site.visible()
        site.clock.sleep(86_400)
        Filling.disk = disk
        with monkeypatch.context() as patched:
            patched.setattr(worker, "open_source", lambda settings, _=None: Filling(settings))
            run = site.run()
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert run.error.code == "no-space"
        assert "older backups are untouched" in run.error.hint
        assert site.clean()
        assert site.visible() == before
        (disk / "foreign").unlink()
        assert site.run().outcome is Outcome.SUCCEEDED
        assert len(site.visible()) == 2


@pytest.mark.promise(
    "Two backups of one second, a prune during a run, one run during another: nothing is lost by it.",
    item=6,
)
def test_two_backups_of_one_second_get_different_names(site: Site) -> None:
    """A name that is taken, by whomever, is never used again: the second waits for the next second."""
    assert site.run().outcome is Outcome.SUCCEEDED
    assert site.run().outcome is Outcome.SUCCEEDED
    (site.backups / "nanumpay-backup-2026-11-21T02-00-02.tar").write_bytes(b"of somebody else")
    assert site.run().outcome is Outcome.SUCCEEDED
    assert site.visible() == [
        "nanumpay-backup-2026-11-21T02-00-00.tar.gz",
        "nanumpay-backup-2026-11-21T02-00-01.tar.gz",
        "nanumpay-backup-2026-11-21T02-00-02.tar",
        "nanumpay-backup-2026-11-21T02-00-03.tar.gz",
    ]
    assert (site.backups / "nanumpay-backup-2026-11-21T02-00-02.tar").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("action", ["backup", "upload"])
def test_a_run_while_another_of_the_job_is_active_is_skipped(site: Site, action: str) -> None:
    """It is recorded as skipped, says who is at work, and writes nothing."""
    with FileLock(site.layout.lock("nanumpay"), "job nanumpay"):
        run = site.run(action)
    assert run.outcome is Outcome.SKIPPED
    assert run.error is not None
    assert f"process {os.getpid()}" in run.error.message
    assert run.stages == ()
    assert site.visible() == []
    with site.catalog() as catalog:
        assert catalog.run(run.id) == run


@pytest.mark.parametrize("action", ["backup", "upload"])
def test_a_folder_that_cannot_be_used_is_a_sentence_and_no_defect(site: Site, action: str) -> None:
    """Where the backups folder cannot be made, the run fails with its path and what to do."""
    site.backups.write_text("a file is in the way")
    run = site.run(action)
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == "folder-unusable"
    assert str(site.backups) in run.error.message
    assert "create the backups folder" in run.error.hint


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
def test_a_defect_is_recorded_before_it_is_raised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception leaves a finished run in the catalog, and its traceback goes on to the journal."""

    class Broken(MongoDatabase):
        """Has a defect."""

        def start(self, folder: Path) -> Dump:
            raise ZeroDivisionError("a defect")

    monkeypatch.setattr(worker, "open_source", lambda settings, _=None: Broken(settings))
    with pytest.raises(ZeroDivisionError):
        site.run()
    with site.catalog() as catalog:
        (run,) = catalog.runs()
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == "internal"
    assert site.clean()


def test_an_expected_fault_of_the_source_fails_the_run_with_its_own_words(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the source says reaches the run's record as it is: code, sentence, hint and whether to try again."""
    fault = BackupdError("the source said no", hint="ask it nicely", code="source-no", retryable=True)

    class Refusing(MongoDatabase):
        """Says no."""

        def start(self, folder: Path) -> Dump:
            raise fault

    monkeypatch.setattr(worker, "open_source", lambda settings, _=None: Refusing(settings))
    run = site.run()
    assert run.error is not None
    assert msgspec.to_builtins(run.error) == {
        "code": "source-no",
        "message": "the source said no",
        "hint": "ask it nicely",
        "retryable": True,
    }
