"""`verify` of copies at real servers: every kind of damage at every place is found, named, and nothing else is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import zstandard
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Manifest,
    OpTime,
    Outcome,
    Policy,
    Run,
    Stage,
    Trigger,
    from_json,
)
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, sync_local
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, backup_id
from nanumpay_backupd.pipeline.outlook import look, plan
from nanumpay_backupd.pipeline.pins import pin
from nanumpay_backupd.pipeline.prune import delete_copy
from nanumpay_backupd.pipeline.publish import commit, open_staging, read_manifest
from nanumpay_backupd.pipeline.report import Progress, Recorder, new_run
from nanumpay_backupd.pipeline.restore_plan import choose_copy
from nanumpay_backupd.settings.schema import Destination, LocalDestination, Paths, RunSpec, VerifyOrder
from nanumpay_backupd.sources.slice_walk import SliceWalk
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.locks import FileLock
from tests.servers.ftp import start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.s3 import CACHE_SECONDS, start_s3
from tests.workbench import (
    NOW,
    Ear,
    SetClock,
    archive_bytes,
    documents,
    entries,
    job_spec,
    manifest_of,
    slice_manifest,
)

pytestmark = pytest.mark.servers

FORMS: Final = ("tar.gz", "tar", "slice")
PLACES: Final = (LOCAL, "cloud", "office", "disk2")
NEAR: Final = (LOCAL, "office", "disk2")
"""For what does not depend on the kind of store: opening one for S3 takes long."""
COUNT: Final = 300
DAY: Final = timedelta(days=1)


@dataclass
class Places:
    """The destinations, and the folder on this disk in which each keeps its objects."""

    destinations: tuple[Destination, ...]
    folders: dict[str, Path]

    def empty(self) -> None:
        """Remove all objects."""
        for folder in self.folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A real S3 server, a real FTP server, and another disk."""
    root = tmp_path_factory.mktemp("places")
    with start_s3(root) as s3, start_pyftpdlib(root / "ftp") as ftp:
        disk = LocalDestination(name="disk2", path=str(root / "disk2"))
        folders = {"cloud": s3.root / s3.bucket / "nanumpay", "office": ftp.folder, "disk2": root / "disk2"}
        yield Places((s3.destination(prefix="nanumpay/"), ftp.destination(), disk), folders)


class House:
    """A host with published backups, whose worker is run in this process."""

    def __init__(self, root: Path, servers: Places) -> None:
        self.root = root
        self.layout = Layout(root / "backups")
        self.layout.create_slices()
        self.destinations = servers.destinations
        self.places = (LOCAL, *(destination.name for destination in servers.destinations))
        self.folders = servers.folders | {LOCAL: self.layout.backups}
        self.catalog = Catalog(root / "state" / "catalog.db")
        self.clock = SetClock(NOW + 9 * DAY)
        self.ear = Ear()
        self.changes: dict[str, Any] = {}

    def make(self, form: str = "tar.gz", created: datetime = NOW, *, proven: bool | None = True) -> Backup:
        """Publish a backup by the real way, and put copies of it where the destinations' servers keep theirs."""
        data, manifest = _artifact(form, created)
        if proven is not None:
            proof = manifest_of(b"", proven=proven).verification
            manifest = msgspec.structs.replace(manifest, verification=proof)
        staging, lock = open_staging(self.layout, "publishing")
        (staging / "artifact").write_bytes(data)
        commit(self.layout, staging, staging / "artifact", manifest)
        remove_tree(staging)
        lock.release()
        copies = []
        for place in self.places[: 1 if proven is None else None]:
            state = CopyState.VERIFIED if proven else CopyState.UPLOADED
            copy = Copy(
                backup=manifest.backup,
                destination=place,
                state=state,
                key=manifest.artifact.name,
                size=len(data),
                updated=created,
            )
            copies.append(copy)
        backup = backup_from_manifest(manifest, *copies)
        self.catalog.save_backup(backup)
        for copy in copies[1:]:
            # As an upload leaves it; uploads have tests of their own.
            folder = self.folders[copy.destination]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / copy.key).write_bytes(data)
            (folder / f"{copy.key}{MANIFEST_SUFFIX}").write_bytes(msgspec.json.encode(manifest))
        return backup

    def file(self, backup: Backup, place: str) -> Path:
        """Return where a copy's content lies on this disk."""
        return self.layout.artifact(backup.artifact) if place == LOCAL else self.folders[place] / backup.artifact

    def verify(
        self,
        backup: str = "",
        level: str = "checksum",
        source: str = "",
        ear: Ear | None = None,
        on_start: Callable[[Recorder], None] | None = None,
        **changes: Any,
    ) -> Run:
        """Run the action in this process; ``changes`` replace the job's settings."""
        self.ear = ear or Ear()
        self._settle()
        settings = {"destinations": self.destinations, **self.changes, **changes}
        spec = RunSpec(
            run=f"run{len(self.catalog.runs(limit=1000))}",
            job=job_spec(**settings),
            paths=Paths(backups=self.layout.backups, state=self.root / "state", socket=self.root / "socket"),
            trigger="manual",
            action="verify",
            verify=VerifyOrder(backup=backup, level=level, source=source),
        )
        return worker.execute(spec, self.ear, self.clock, on_start=on_start)

    def _settle(self) -> None:
        """Wait until rclone must have noticed what was changed on its disk."""
        bucket = self.folders["cloud"]
        if "cloud" in self.places and bucket.exists():
            changed = max(path.stat().st_mtime for path in (bucket, *bucket.iterdir()))
            time.sleep(max(0.0, changed + 2 * CACHE_SECONDS - time.time()))

    def backup(self, backup: Backup) -> Backup:
        """Return a backup as the catalog has it after a look at the folder."""
        sync_local(self.catalog, self.layout, self.clock.now())
        found = self.catalog.backup(backup.id)
        assert found is not None
        return found

    def states(self, backup: Backup) -> dict[str, CopyState]:
        """Return what is known of a backup's copies."""
        return {copy.destination: copy.state for copy in self.backup(backup).copies}


@pytest.fixture
def wide_house(tmp_path: Path, servers: Places) -> Iterator[House]:
    """A host without backups, and empty destinations."""
    servers.empty()
    house = House(tmp_path, servers)
    yield house
    house.catalog.close()


@pytest.fixture
def house(tmp_path: Path, servers: Places) -> Iterator[House]:
    """The same without a bucket."""
    servers.empty()
    house = House(tmp_path, Places(servers.destinations[1:], servers.folders))
    yield house
    house.catalog.close()


def _artifact(form: str, created: datetime) -> tuple[bytes, Manifest]:
    """Return an artifact and its manifest; of two moments, the artifacts have one size and differ in content."""
    seconds = int(created.timestamp())
    if form == "slice":
        stamps = [OpTime(seconds + at, 1) for at in range(COUNT)]
        plain = entries(*stamps)
        data = zstandard.ZstdCompressor(1).compress(plain)
        return data, slice_manifest(data, OpTime(seconds, 0), stamps[-1], COUNT, len(plain), created)
    name = backup_id("nanumpay", created)
    content = documents(COUNT, 200)
    metadata = b'{"made":%d}' % seconds
    files = {f"{name}/nanumpay/users.bson": content, f"{name}/nanumpay/users.metadata.json": metadata}
    data = archive_bytes(name, files, suffix=f".{form}")
    sizes = {"nanumpay.users": (COUNT, len(content))}
    raw = len(content) + len(metadata)
    return data, manifest_of(data, created, collections=sizes, raw_bytes=raw, suffix=f".{form}")


def flip(path: Path, other: Path) -> None:
    """Turn one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path, other: Path) -> None:
    """Lose the end."""
    os.truncate(path, path.stat().st_size - 7)


def lose(path: Path, other: Path) -> None:
    """Lose the object."""
    path.unlink()


def swap(path: Path, other: Path) -> None:
    """Exchange it with another backup's."""
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


Damage = Callable[[Path, Path], None]
DAMAGES: Final[tuple[Damage, ...]] = (flip, cut, lose, swap)
CODES: Final[dict[Damage, set[str]]] = {
    flip: {"verify-checksum", "verify-structure", "verify-failed"},
    cut: {"verify-size"},
    lose: {"object-missing"},
    swap: {"verify-checksum", "verify-structure", "verify-size"},
}


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("form", FORMS)
def test_damage_at_any_place_is_told_by_name_and_nothing_else_is(wide_house: House, form: str, turn: int) -> None:
    """Flipped, cut off, lost and swapped, in each form at each place: just those copies change their state."""
    house = wide_house
    other, older, newer = (house.make(form, NOW + at * DAY) for at in range(3))
    level = ("checksum", "structure")[turn % 2]
    damages = {place: DAMAGES[(at + turn) % 4] for at, place in enumerate(PLACES)}
    for place, damage in damages.items():
        damage(house.file(newer, place), house.file(older, place))

    run = house.verify(level=level)
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    for (backup, place), damage in {
        **{(newer.id, place): damage for place, damage in damages.items()},
        **{(older.id, place): damage for place, damage in damages.items() if damage is swap},
    }.items():
        if (damage, place) == (lose, LOCAL):
            continue  # found by the look at the folder, which is no fault
        (error,) = (
            error
            for _, text, error in house.ear.messages
            if error and text.startswith(f"the copy of {backup} at {place} ")
        )
        assert error.code in CODES[damage], error
        assert error.hint
    swapped = {place for place, damage in damages.items() if damage is swap}
    assert house.states(older) == dict.fromkeys(PLACES, CopyState.VERIFIED) | dict.fromkeys(swapped, CopyState.CORRUPT)
    assert house.states(other) == dict.fromkeys(PLACES, CopyState.VERIFIED)
    assert house.states(newer) == {
        place: CopyState.MISSING if damage is lose else CopyState.CORRUPT for place, damage in damages.items()
    }
    assert newer.id in run.error.message


def test_all_well(house: House) -> None:
    """Every copy is read once, newest first; its state, the manifest's proof and the progress say so."""
    backups = [house.make(form, NOW + at * DAY) for at, form in enumerate(("tar.gz", "slice", "tar"))]
    (house.layout.backups / "nanumpay-backup-2020-01-01T02-00-00.tar.gz").write_bytes(b"old")
    for level in ("checksum", "structure"):
        house.clock.sleep(60)
        run = house.verify(level=level)
        assert (run.outcome, run.error, run.action, run.warnings) == (Outcome.SUCCEEDED, None, "verify", ())
        (stage,) = run.stages
        assert stage.stage is Stage.VERIFY
        assert stage.detail.startswith("9 of 9 copies of 3 backups are as they were stored")
        assert "passed over: 1 archives of the old program" in stage.detail
        for backup in backups:
            found = house.backup(backup)
            assert {copy.updated for copy in found.copies} == {house.clock.now()}
            manifest = read_manifest(house.layout.manifest(backup.id))
            assert manifest is not None
            assert manifest == found.manifest
            assert (manifest.verification[-1].level, manifest.verification[-1].at) == (level, house.clock.now())
    # Proofs do not pile up: the first, and the newest of each other level.
    house.verify(level="structure")
    manifest = read_manifest(house.layout.manifest(backups[0].id))
    assert manifest is not None
    assert [proof.level for proof in manifest.verification] == ["structure", "checksum", "structure"]
    assert len(manifest.source.collections[0].digest) == 32


def test_one_place_and_one_backup(house: House) -> None:
    """Who asks for one of them has only that read."""
    older, newer = house.make(), house.make(created=NOW + DAY)
    for backup in (older, newer):
        for place in NEAR:
            flip(house.file(backup, place), Path())
    assert house.verify(newer.id, source="office").outcome is Outcome.FAILED
    assert house.states(newer) == dict.fromkeys(NEAR, CopyState.VERIFIED) | {"office": CopyState.CORRUPT}
    assert house.verify(source="disk2").outcome is Outcome.FAILED
    assert house.states(older) == dict.fromkeys(NEAR, CopyState.VERIFIED) | {"disk2": CopyState.CORRUPT}
    assert house.states(newer) == {LOCAL: CopyState.VERIFIED, "office": CopyState.CORRUPT, "disk2": CopyState.CORRUPT}


def test_the_right_files_put_back_are_good_again(house: House) -> None:
    """Who mends a place by hand and asks for that backup finds it good, also one of which nothing was left."""
    house.make(created=NOW - DAY)
    backup = house.make()
    before = {place: house.file(backup, place).read_bytes() for place in NEAR}
    for place, damage in zip(NEAR, (flip, cut, lose), strict=True):
        damage(house.file(backup, place), Path())
    assert house.verify().outcome is Outcome.FAILED
    assert house.backup(backup).state is BackupState.CORRUPT
    for place in NEAR:
        house.file(backup, place).write_bytes(before[place])
    assert house.verify().outcome is Outcome.SUCCEEDED
    assert house.states(backup)[LOCAL] is CopyState.CORRUPT
    run = house.verify(backup.id)
    assert (run.outcome, run.error, run.backup) == (Outcome.SUCCEEDED, None, backup.id)
    assert house.states(backup) == dict.fromkeys(NEAR, CopyState.VERIFIED)
    assert house.backup(backup).state is BackupState.VERIFIED


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
@pytest.mark.parametrize("level", ["checksum", "structure"])
def test_a_rotten_local_copy_does_not_cost_the_good_one_elsewhere(house: House, level: str) -> None:
    """The backup stays good by its other copies: a restore takes them, retention counts them, the fault names them."""
    older, newer = house.make(), house.make(created=NOW + DAY)
    flip(house.file(newer, LOCAL), Path())
    run = house.verify(level=level)
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert f"the copy of {newer.id} at local is corrupt" in run.error.message
    assert f"backupctl restore {newer.id} --from disk2" in run.error.hint
    found = house.backup(newer)
    assert found.state is BackupState.VERIFIED
    assert house.states(newer) == dict.fromkeys(NEAR, CopyState.VERIFIED) | {LOCAL: CopyState.CORRUPT}
    assert choose_copy(found, "", ["disk2"]).destination == "disk2"
    # It is told once; until it is asked for by name, it is known to be bad.
    again = house.verify(level=level)
    assert (again.outcome, again.error) == (Outcome.SUCCEEDED, None)
    assert house.states(newer)[LOCAL] is CopyState.CORRUPT
    assert house.verify(newer.id, level).outcome is Outcome.FAILED
    assert house.states(older) == dict.fromkeys(NEAR, CopyState.VERIFIED)


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
def test_a_rotten_remote_copy_is_that_copys_fault_alone(house: House) -> None:
    """The local one is named as good, and the backup stays verified."""
    backup = house.make()
    flip(house.file(backup, "office"), Path())
    run = house.verify()
    assert run.error is not None
    assert f"the copy of {backup.id} at office is corrupt" in run.error.message
    assert "its copy at disk2 is good" in run.error.hint
    assert house.backup(backup).state is BackupState.VERIFIED
    assert house.states(backup) == dict.fromkeys(NEAR, CopyState.VERIFIED) | {"office": CopyState.CORRUPT}


@pytest.mark.promise(
    "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
)
def test_without_any_good_copy_the_backup_is_corrupt_and_the_older_one_is_kept(house: House) -> None:
    """The next older good full is pinned and named; once a newer one was found good, retention may have it again."""
    oldest, older, newer = (house.make(created=NOW + at * DAY) for at in range(3))
    for place in NEAR:
        flip(house.file(newer, place), Path())
    run = house.verify()
    assert run.error is not None
    assert f"the copy of {newer.id} at local is corrupt" in run.error.message
    assert "; and 2 more" in run.error.message
    assert f"the next older good backup is {older.id}" in run.error.hint
    assert house.backup(newer).state is BackupState.CORRUPT
    manifest = read_manifest(house.layout.manifest(newer.id))
    assert manifest is not None
    assert not manifest.verification[-1].ok
    assert (house.backup(oldest).pinned, house.backup(newer).pinned) == ("", "")
    assert house.backup(older).pinned.startswith(f"{newer.id} is corrupt")

    fresh = house.make(created=NOW + 3 * DAY)
    job = job_spec(retention=Policy(count=1, days=30))
    lines = {line.backup: line for line in plan(job, look(house.catalog, "nanumpay"), house.clock.now())}
    assert (lines[older.id].action, lines[oldest.id].action) == ("keep", "delete")
    assert lines[older.id].reason.startswith(f"pinned: {newer.id} is corrupt")
    assert house.verify(fresh.id).outcome is Outcome.SUCCEEDED
    assert house.backup(older).pinned
    assert house.verify().outcome is Outcome.SUCCEEDED
    assert house.backup(older).pinned == ""


def test_pins_of_others_are_left_alone(house: House) -> None:
    """Only what a verification pinned is let go by one."""
    older, _ = house.make(), house.make(created=NOW + DAY)
    pin(house.catalog, house.layout, older.id, "root", "for the auditor", NOW)
    assert house.verify().outcome is Outcome.SUCCEEDED
    assert house.backup(older).pinned == "for the auditor (root)"


def test_a_remote_copy_that_is_gone_degrades_the_run(house: House) -> None:
    """It is missing from then on; while another copy is good that is a warning, without one it is a failure."""
    house.make(created=NOW - DAY)
    backup = house.make()
    house.file(backup, "office").unlink()
    run = house.verify()
    assert run.outcome is Outcome.DEGRADED
    assert run.error is not None
    assert (run.error.code, run.error.retryable) == ("object-missing", False)
    assert f"the copy of {backup.id} at office is gone" in run.error.message
    assert "its copy at disk2 is good" in run.error.hint
    assert house.states(backup)["office"] is CopyState.MISSING
    assert house.verify().outcome is Outcome.SUCCEEDED
    for place in ("disk2", LOCAL):
        house.file(backup, place).unlink()
    run = house.verify(level="structure")
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == "object-missing"
    assert "there is no other good copy of it; the next older good backup is" in run.error.hint


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
def test_a_place_that_cannot_be_reached_changes_nothing(house: House) -> None:
    """Its copies stay as they were, the others are read, and the run is degraded; a corrupt one elsewhere is worse."""
    backups = [house.make(created=NOW + at * DAY) for at in range(2)]
    away = msgspec.structs.replace(house.destinations[0], port=free_port(), timeout=2.0)
    house.changes = {"destinations": (away, house.destinations[1])}
    for level in ("checksum", "structure"):
        house.clock.sleep(60)
        started = house.clock.now()
        run = house.verify(level=level)
        assert run.outcome is Outcome.DEGRADED
        assert run.error is not None
        assert run.error.code == "destination-unreachable"
        assert len(run.warnings) == 1, "a place that is away is asked once"
        for backup in backups:
            assert set(house.states(backup).values()) == {CopyState.VERIFIED}
            times = {copy.destination: copy.updated for copy in house.backup(backup).copies}
            assert times.pop("office") == backup.created
            assert min(times.values()) >= started
    flip(house.file(backups[0], "disk2"), Path())
    run = house.verify()
    assert run.outcome is Outcome.FAILED
    assert any("could not be verified" in warning for warning in run.warnings)


def test_a_place_that_is_no_longer_configured_is_passed_over(house: House) -> None:
    """What it holds cannot be read any more: that is said and is no fault."""
    house.make()
    run = house.verify(destinations=house.destinations[:1])
    assert run.outcome is Outcome.SUCCEEDED
    assert "at disk2, which is no longer configured" in run.stages[-1].detail


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_a_manifest_that_is_not_its_own_is_told_and_written_again(house: House) -> None:
    """A new machine believes the manifests beside the artifacts, so they are checked with them."""
    backups = [house.make(created=NOW + at * DAY) for at in range(5)]

    def beside(at: int, place: str) -> Path:
        if place == LOCAL:
            return house.layout.manifest(backups[at].id)
        return house.folders[place] / f"{backups[at].artifact}{MANIFEST_SUFFIX}"

    shutil.copy(beside(4, "disk2"), beside(0, "disk2"))
    shutil.copy(beside(4, LOCAL), beside(1, LOCAL))
    beside(2, "office").write_bytes(b'{"format": 1')
    beside(3, "disk2").unlink()
    run = house.verify()
    assert run.outcome is Outcome.SUCCEEDED
    told = {
        (0, "disk2"): f"is not its own, but of {backups[4].id},",
        (1, LOCAL): f"is not its own, but of {backups[4].id},",
        (2, "office"): "is missing or damaged",
        (3, "disk2"): "is missing or damaged",
    }
    assert sorted(run.warnings) == sorted(
        f"the manifest of {backups[at].id} at {place} {what} although the artifact is good; it was written again"
        for (at, place), what in told.items()
    )
    for at, place in told:
        manifest, before = from_json(Manifest, beside(at, place).read_bytes()), backups[at].manifest
        assert before is not None
        assert (manifest.backup, manifest.artifact) == (before.backup, before.artifact)
    assert house.verify().warnings == ()


def test_a_cut_off_local_file_is_told_although_a_look_at_the_folder_came_first(house: House) -> None:
    """The folder's inventory marks it by its size and tells nobody: the verification does."""
    backup = house.make()
    cut(house.file(backup, LOCAL), Path())
    assert house.states(backup)[LOCAL] is CopyState.CORRUPT
    run = house.verify()
    assert run.error is not None
    assert (run.outcome, run.error.code) == (Outcome.FAILED, "verify-size")
    assert house.verify().outcome is Outcome.SUCCEEDED


def test_a_backup_that_was_never_walked_is_walked(house: House) -> None:
    """For what a crashed run left unproven a checksum proves nothing: it is the checksum of what was never read."""
    backup = house.make(proven=None)
    assert house.backup(backup).state is BackupState.COMMITTED
    assert house.verify(level="checksum").outcome is Outcome.SUCCEEDED
    found = house.backup(backup)
    assert found.state is BackupState.VERIFIED
    assert found.manifest is not None
    assert [proof.level for proof in found.manifest.verification] == ["structure"]
    assert found.manifest.source.collections[0].digest


class Ticking(SetClock):
    """A clock on which every look takes a second, so that all progress is told."""

    def monotonic(self) -> float:
        """Return the seconds so far."""
        self.slept += 1.0
        return self.slept


@pytest.mark.parametrize("level", ["checksum", "structure"])
def test_cancelled_in_the_middle_keeps_what_was_found(house: House, level: str) -> None:
    """Cancelling ends the reading at its next step; what was found to be corrupt by then stays found."""
    older, newer = house.make(), house.make(created=NOW + DAY)
    flip(house.file(newer, LOCAL), Path())
    started: list[Recorder] = []

    class Impatient(Ear):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.bytes > newer.size:  # the second copy
                started[0].cancel()

    house.clock = Ticking(house.clock.now())
    run = house.verify(level=level, ear=Impatient(), on_start=started.append)
    assert run.outcome is Outcome.CANCELLED
    assert house.states(newer) == dict.fromkeys(NEAR, CopyState.VERIFIED) | {LOCAL: CopyState.CORRUPT}
    times = {copy.destination: copy.updated for copy in (*house.backup(newer).copies, *house.backup(older).copies)}
    assert times["disk2"] < house.clock.now()
    assert house.backup(older).copies[0].updated < house.clock.now()


def test_the_rate_holds_for_all_destinations_together(house: House) -> None:
    """Reading two remote copies at so many bytes per second takes their bytes' time, and the local one none."""
    backup = house.make()
    assert backup.manifest is not None
    beside = len(msgspec.json.encode(backup.manifest))
    for level in ("checksum", "structure"):
        before = house.clock.slept
        assert house.verify(level=level, verify_rate=1000).outcome is Outcome.SUCCEEDED
        assert house.clock.slept - before == pytest.approx(2 * (backup.size + beside) / 1000, rel=0.01)


def test_what_cannot_be_verified_is_refused(house: House) -> None:
    """Unknown names, archives of the old program, places without a copy and unknown levels are told as such."""
    backup = house.make()
    pending = house.make(created=NOW + DAY, proven=None)
    house.catalog.save_copy(
        Copy(
            backup=pending.id,
            destination="disk2",
            state=CopyState.PENDING,
            key=pending.artifact,
            size=pending.size,
            updated=NOW,
        )
    )
    legacy = house.layout.backups / "nanumpay-backup-2020-01-01T02-00-00.tar.gz"
    legacy.write_bytes(b"old")
    sync_local(house.catalog, house.layout, NOW)
    orders: list[tuple[dict[str, Any], str, str]] = [
        ({"backup": "nope"}, "not-found", "job nanumpay has no backup 'nope'"),
        ({"backup": legacy.name.removesuffix(".tar.gz")}, "refused", "was made by the old program"),
        ({"source": "nope"}, "not-found", "has no destination 'nope'"),
        ({"backup": pending.id, "source": "disk2"}, "not-found", "has no copy at disk2"),
        ({"backup": backup.id, "level": "restore"}, "refused", "'restore' is no level"),
    ]
    for order, code, sentence in orders:
        run = house.verify(**order)
        assert run.error is not None
        assert (run.outcome, run.error.code) == (Outcome.FAILED, code)
        assert sentence in run.error.message
        assert run.error.hint


def test_it_runs_beside_backups_and_alone_among_checks(house: House) -> None:
    """Hours of reading hold up no backup; a second verification of the job at the same time is skipped."""
    house.make()
    for action, outcome in (("backup", Outcome.SUCCEEDED), ("drill", Outcome.SKIPPED)):
        lock = FileLock(house.layout.lock("nanumpay", action), "job nanumpay")
        lock.acquire()
        try:
            assert house.verify().outcome is outcome
        finally:
            lock.release()


@pytest.mark.parametrize("level", ["checksum", "structure"])
@pytest.mark.parametrize("place", NEAR)
def test_what_retention_deletes_meanwhile_does_not_come_back(house: House, level: str, place: str) -> None:
    """A backup that is deleted while a copy of it is read is gone: no record, no manifest, no fault."""
    older, newer = house.make(), house.make(created=NOW + DAY)
    copies = 1 + NEAR.index(place)

    class Pruning(Ear):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.bytes == copies * newer.size:
                with Catalog(house.root / "state" / "catalog.db") as catalog:
                    for destination in house.destinations:
                        with open_store(destination) as store:
                            delete_copy(catalog, house.layout, newer.id, destination.name, store)
                    delete_copy(catalog, house.layout, newer.id, LOCAL, None)

    house.clock = Ticking(house.clock.now())
    run = house.verify(level=level, ear=Pruning())
    assert (run.outcome, run.error, run.warnings) == (Outcome.SUCCEEDED, None, ())
    assert house.catalog.backup(newer.id) is None
    assert not house.layout.manifest(newer.id).exists()
    assert not house.file(newer, "disk2").with_name(f"{newer.artifact}{MANIFEST_SUFFIX}").exists()
    assert house.states(older) == dict.fromkeys(NEAR, CopyState.VERIFIED)


def test_what_is_being_made_is_left_to_its_own_run(house: House) -> None:
    """A backup whose run has not ended is read by that run."""
    backup = house.make(proven=None)
    assert backup.run is not None
    house.catalog.save_run(new_run(backup.run, "nanumpay", Trigger.MANUAL, NOW))
    assert house.verify().outcome is Outcome.SUCCEEDED
    assert house.backup(backup).state is BackupState.COMMITTED


def test_a_real_oplog_is_walked(mongod_rs: Mongod) -> None:
    """Retryable writes, updates, deletes, commands and transactions: every entry's time is found where it stands."""
    with mongod_rs.client() as client:
        db = client["slice_walk"]
        (first,) = client.local["oplog.rs"].find().sort("$natural", -1).limit(1)
        db.users.insert_many([{"_id": at, "ts": Timestamp(1, at)} for at in range(50)])
        db.users.update_many({}, {"$set": {"name": "x"}})
        db.users.create_index("name")
        with client.start_session() as session, session.start_transaction():
            db.users.delete_many({"_id": {"$lt": 10}}, session=session)
        db.users.find_one_and_delete({"_id": 20})
        client.drop_database("slice_walk")
        raw = CodecOptions(document_class=RawBSONDocument)
        oplog: Any = client.local.get_collection("oplog.rs", codec_options=raw)
        found = list(oplog.find({"ts": {"$gt": first["ts"]}}).sort("$natural", 1))
    assert len(found) > 100
    assert len({next(iter(entry)) for entry in found}) > 1, "entries begin with different fields"
    start, end = (OpTime(stamp.time, stamp.inc) for stamp in (first["ts"], found[-1]["ts"]))
    walker = SliceWalk("a-slice.bson", start, end)
    walker(b"".join(entry.raw for entry in found))
    walker(b"")
    assert walker.count == len(found)
