"""Several places at real servers: one reading for all, catching up, reading back, copies, moves, other keys."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.model import LOCAL, Backup, Copy, CopyState, Outcome, Policy, Proof, Run
from nanumpay_backupd.pipeline.copying import check_order
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.rebuild import adopt_remote, fetch_manifest, rebuild_local
from nanumpay_backupd.pipeline.relay import relays
from nanumpay_backupd.pipeline.syncing import Lacking, queue_missing
from nanumpay_backupd.pipeline.upload import upload, upload_due
from nanumpay_backupd.settings.schema import (
    CopyOrder,
    Destination,
    JobEncryption,
    JobSpec,
    Limits,
    LocalDestination,
    Paths,
    RetryPolicy,
    RunSpec,
    VerifyOrder,
)
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.local import LocalStore
from nanumpay_backupd.system.shared_file import SharedFile
from tests.keys import age_key
from tests.servers.ftp import start_pyftpdlib
from tests.servers.process import free_port
from tests.servers.s3 import start_s3
from tests.workbench import NOW, Ear, SetClock, job_spec, published, recorder

pytestmark = pytest.mark.servers

DAY: Final = timedelta(days=1)
PLACES: Final = ("cloud", "office", "disk2")


@dataclass(frozen=True)
class Servers:
    """The destinations, and where each server keeps its objects on this disk."""

    destinations: tuple[Destination, ...]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A real S3 server, a real FTP server, and another disk."""
    root = tmp_path_factory.mktemp("places")
    with start_s3(root) as s3, start_pyftpdlib(root / "ftp") as ftp:
        disk = LocalDestination(name="disk2", path=str(root / "disk2"))
        folders = {"cloud": s3.root / s3.bucket / "n", "office": ftp.folder, "disk2": root / "disk2"}
        yield Servers((s3.destination(prefix="n/"), ftp.destination(), disk), folders)


@dataclass
class Site:
    """A host, whose worker is run in this process."""

    root: Path
    servers: Servers
    clock: SetClock = field(default_factory=lambda: SetClock(NOW + 5 * DAY))
    open: Callable[[Destination], Store] = open_store

    def __post_init__(self) -> None:
        self.layout = Layout(self.root / "backups")
        self.catalog = Catalog(self.root / "state" / "catalog.db")
        self.ear = Ear()

    def job(self, *places: str, **changes: Any) -> JobSpec:
        """Return the job, with some of the destinations (none named: all)."""
        chosen = tuple(item for item in self.servers.destinations if item.name in (places or PLACES))
        retry = RetryPolicy(attempts=3, delay=1.0)
        return job_spec(**{"destinations": chosen, "retry": retry, **changes})

    def make(self, days: int = 0) -> Backup:
        """Publish a full of some day."""
        return published(self.layout, self.catalog, NOW + days * DAY)

    def upload(self, backup: Backup, job: JobSpec) -> list[Any]:
        """Bring it to the job's places; returns the faults."""
        with Keyring(job.encryption) as keys:
            told = recorder(self.catalog, self.clock)
            return list(upload(job, self.now(backup), self.catalog, self.layout, told, self.open, keys=keys))

    def due(self, job: JobSpec) -> tuple[int, int]:
        """Try what is queued; returns how many arrived, and how many were due."""
        with Keyring(job.encryption) as keys:
            told = recorder(self.catalog, self.clock)
            done, count, _ = upload_due(job, self.catalog, self.layout, told, self.open, keys=keys)
            return done, count

    def sync(self, job: JobSpec, *places: str) -> list[Lacking]:
        """Queue what the places lack."""
        return queue_missing(self.catalog, self.layout, job, places, self.clock.now())

    def run(self, job: JobSpec, action: str, **order: Any) -> Run:
        """Run an action as the worker does."""
        spec = RunSpec(
            run=f"run{len(self.catalog.runs(limit=1000))}",
            job=job,
            paths=Paths(backups=self.layout.backups, state=self.root / "state", socket=self.root / "socket"),
            trigger="manual",
            action=action,
            **order,
        )
        self.ear = Ear()
        return worker.execute(spec, self.ear, self.clock)

    def copy(self, job: JobSpec, backup: Backup, place: str, source: str = "", *, move: bool = False) -> Run:
        """Make one more copy, or move one."""
        return self.run(job, "copy", copying=CopyOrder(backup.id, place, source, move))

    def now(self, backup: Backup) -> Backup:
        """Return a backup as the catalog has it."""
        found = self.catalog.backup(backup.id)
        assert found is not None
        return found

    def at(self, backup: Backup, place: str) -> Copy | None:
        """Return what is known of a copy."""
        return next((copy for copy in self.now(backup).copies if copy.destination == place), None)

    def state(self, backup: Backup, place: str) -> CopyState | None:
        """Return the state of a copy, None: there is none."""
        found = self.at(backup, place)
        return found.state if found is not None else None

    def artifacts(self, place: str) -> list[str]:
        """Return the names of the artifacts that really are at a place."""
        folder = self.servers.folders[place]
        names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
        return sorted(name for name in names if not name.endswith(MANIFEST_SUFFIX) and not name.startswith("."))

    def bytes_at(self, copy: Copy | None) -> bytes:
        """Return what a place really holds."""
        assert copy is not None
        return (self.servers.folders[copy.destination] / copy.key).read_bytes()

    def drop_local(self, backup: Backup) -> None:
        """Delete a backup here, as the application's clean-up does."""
        self.layout.artifact(backup.artifact).unlink()
        self.catalog.forget_copy(backup.id, LOCAL)


@pytest.fixture
def site(tmp_path: Path, servers: Servers) -> Iterator[Site]:
    """A host without backups, and empty destinations."""
    for folder in servers.folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    made = Site(tmp_path, servers)
    yield made
    made.catalog.close()


def keyed(name: str, *readable: str, scope: str = "remote") -> JobEncryption:
    """Return encryption to one of the tests' keys, which can open what was encrypted to others."""
    keys = tuple(age_key(one).identity for one in (name, *readable))
    return JobEncryption(method="age", recipients=(age_key(name).recipient,), scope=scope, decrypt_with=keys)


def test_three_places_from_one_reading(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3, FTP and a folder get the same bytes at once, and the file is read from the disk once for all of them."""
    shared: list[SharedFile] = []
    real = SharedFile.of

    def kept(path: Path) -> SharedFile:
        shared.append(real(path))
        return shared[-1]

    monkeypatch.setattr(SharedFile, "of", kept)
    backup = site.make()
    data = site.layout.artifact(backup.artifact).read_bytes()
    assert site.upload(backup, site.job()) == []
    assert {site.bytes_at(site.at(backup, place)) for place in PLACES} == {data}
    assert [one.taken for one in shared] == [len(data)]
    proofs = {copy.destination: copy.proof for copy in site.now(backup).copies if copy.destination != LOCAL}
    assert proofs == {"cloud": Proof.CHECKSUM, "office": Proof.SIZE, "disk2": Proof.SIZE}


def test_a_dead_place_keeps_nothing_from_the_others(site: Site) -> None:
    """With one server down the others have their copies, and its own waits by itself."""
    job = site.job()
    gone = msgspec.structs.replace(job.destinations[1], port=free_port())
    job = msgspec.structs.replace(job, destinations=(job.destinations[0], gone, job.destinations[2]))
    backup = site.make()
    (fault,) = site.upload(backup, job)
    assert fault.code == "destination-unreachable"
    states = {copy.destination: copy.state for copy in site.now(backup).copies}
    assert (states["cloud"], states["office"]) == (CopyState.VERIFIED, CopyState.PENDING)
    assert states["disk2"] is CopyState.UPLOADED


def test_a_new_place_catches_up_oldest_first(site: Site) -> None:
    """What retention would keep there is queued and nothing older; also what only another destination has."""
    old, middle, newest = (site.make(day) for day in range(3))
    before = site.job("cloud")
    for backup in (old, middle, newest):
        assert site.upload(backup, before) == []
    site.drop_local(middle)
    job = site.job("cloud", "disk2", policies={"disk2": Policy(count=2, days=30)})
    (found,) = site.sync(job, "disk2")
    assert (found.queued, found.lost) == ((middle.id, newest.id), ())
    assert site.catalog.pending_copies()[0].backup == middle.id
    assert site.sync(job, "disk2")[0].waiting == 2, "what waits is not queued twice"
    assert site.due(job) == (2, 2)
    assert site.artifacts("disk2") == [middle.artifact, newest.artifact]
    assert site.bytes_at(site.at(middle, "disk2")) == site.bytes_at(site.at(middle, "cloud"))
    assert list(site.layout.outbox.iterdir()) == [], "what came on its way does not stay"
    assert site.sync(job, "disk2")[0].queued == ()


def test_what_is_nowhere_is_told_and_what_is_damaged_is_sent_again(site: Site) -> None:
    """A corrupt copy is made anew; of a backup without any file left it is said so."""
    one, two = site.make(0), site.make(1)
    job = site.job("cloud", "disk2")
    for backup in (one, two):
        assert site.upload(backup, job) == []
    there = site.at(two, "disk2")
    assert there is not None
    (site.servers.folders["disk2"] / there.key).write_bytes(b"damaged")
    assert site.run(job, "verify", verify=VerifyOrder(backup=two.id)).outcome is Outcome.FAILED
    assert site.state(two, "disk2") is CopyState.CORRUPT
    site.drop_local(one)
    site.catalog.forget_copy(one.id, "cloud")
    lost = site.at(one, "disk2")
    assert lost is not None
    site.catalog.save_copy(msgspec.structs.replace(lost, state=CopyState.MISSING))
    (found,) = site.sync(job, "disk2")
    assert found.queued == (two.id,)
    assert site.due(job) == (1, 1)
    assert site.bytes_at(site.at(two, "disk2")) == site.layout.artifact(two.artifact).read_bytes()


def test_an_encrypted_backup_reaches_a_new_place_as_it_is_elsewhere(site: Site) -> None:
    """The file here is plain, that for destinations was sent long ago: a new place gets that one, byte for byte."""
    backup = site.make()
    assert site.upload(backup, site.job("cloud", encryption=keyed("first"))) == []
    job = site.job("cloud", "disk2", encryption=keyed("first"))
    assert site.sync(job, "disk2")[0].queued == (backup.id,)
    assert site.due(job) == (1, 1)
    copy = site.at(backup, "disk2")
    assert copy is not None
    assert copy.key.endswith(".age")
    assert site.bytes_at(copy) == site.bytes_at(site.at(backup, "cloud"))
    folders = [site.servers.folders[place] / f"{copy.key}{MANIFEST_SUFFIX}" for place in ("cloud", "disk2")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_a_copy_elsewhere_that_is_damaged_gives_way_to_another(site: Site) -> None:
    """What is brought is compared: a damaged one is never sent on; with none left it is tried again later."""
    backup = site.make()
    assert site.upload(backup, site.job("cloud", "office")) == []
    data = site.layout.artifact(backup.artifact).read_bytes()
    site.drop_local(backup)
    job = site.job()
    first, second = relays(site.now(backup), job)
    for copy in (first, second):
        path = site.servers.folders[copy.destination] / copy.key
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        if copy is first:
            assert site.sync(job, "disk2")[0].queued == (backup.id,)
            assert site.due(job) == (1, 1)
            assert site.bytes_at(site.at(backup, "disk2")) == data
            site.catalog.forget_copy(backup.id, "disk2")
    assert site.sync(job, "disk2")[0].queued == (backup.id,)
    assert site.due(job) == (0, 1)
    waits = site.at(backup, "disk2")
    assert waits is not None
    assert (waits.state, waits.error and waits.error.code) == (CopyState.PENDING, "relay-failed")
    assert waits.next_attempt is not None


class Dripping(LocalStore):
    """A disk that gives a byte in an hour."""

    clock: SetClock

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Give some bytes."""
        for chunk in super().get(key, offset, length):
            for at in range(60):
                yield chunk[at : at + 1]
                self.clock.sleep(3600.0)
                time.sleep(0.1)


def test_a_copy_elsewhere_that_drips_is_given_up(site: Site) -> None:
    """What is brought from elsewhere has the limits of an upload; where it is the only one, it is tried again later."""
    backup = site.make()
    assert site.upload(backup, site.job("disk2")) == []
    site.drop_local(backup)
    job = site.job("disk2", "office", limits=Limits(upload=5 * 3600.0))
    assert site.sync(job, "office")[0].queued == (backup.id,)

    def opened(destination: Destination) -> Store:
        if destination.name != "disk2":
            return open_store(destination)
        assert isinstance(destination, LocalDestination)
        store = Dripping(destination)
        store.clock = site.clock
        return store

    site.open = opened
    assert site.due(job) == (0, 1)
    waits = site.at(backup, "office")
    assert waits is not None
    assert waits.error is not None
    assert waits.error.code == "relay-failed"
    assert "the reading from disk2 was ended: it took longer than 5h" in waits.error.message
    site.open = open_store
    site.clock.sleep(10.0)
    assert site.due(job) == (1, 1)
    assert site.state(backup, "office") is CopyState.UPLOADED


class Rotten(LocalStore):
    """A disk that confirms what it got and keeps something else."""

    def put(self, key: str, path: Path, progress: Any = None) -> Any:
        """Store it, then flip a bit."""
        found = super().put(key, path, progress)
        stored = self._root / key
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.write_bytes(data)
        return found


@pytest.mark.parametrize("share", [{"read_back": 1.0}, {"read_back_unproven": True}])
def test_what_is_read_back_is_proven(share: dict[str, Any], site: Site) -> None:
    """Copies at places that confirm no checksum count as verified once they were read back."""
    backup = site.make()
    assert site.upload(backup, site.job("office", "disk2", **share)) == []
    for place in ("office", "disk2"):
        copy = site.at(backup, place)
        assert copy is not None
        assert (copy.state, copy.proof) == (CopyState.VERIFIED, Proof.READ)


def test_a_disk_that_lies_is_found_out(site: Site) -> None:
    """A copy that reads back as something else did not arrive: it is queued again, with no manifest beside it."""
    backup = site.make()
    site.open = Rotten  # type: ignore[assignment]
    (fault,) = site.upload(backup, site.job("disk2", read_back=1.0))
    assert (fault.code, fault.retryable) == ("destination-mismatch", True)
    assert site.state(backup, "disk2") is CopyState.PENDING
    assert [path.name for path in site.servers.folders["disk2"].iterdir()] == [backup.artifact]


def test_a_copy_is_moved_only_once_it_is_proven(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved to a disk that lies, the old copy stays; to a good one, it goes, with its manifest."""
    backup = site.make()
    job = site.job()
    assert site.upload(backup, site.job("cloud")) == []
    with monkeypatch.context() as patch:
        patch.setattr("nanumpay_backupd.stores.local.LocalStore", Rotten)
        assert site.copy(job, backup, "disk2", "cloud", move=True).outcome is Outcome.FAILED
    assert site.state(backup, "cloud") is CopyState.VERIFIED
    assert site.artifacts("cloud") == [backup.artifact]
    assert site.copy(job, backup, "disk2", "cloud", move=True).outcome is Outcome.SUCCEEDED
    assert site.state(backup, "disk2") is CopyState.VERIFIED
    assert site.state(backup, "cloud") is None
    assert (site.artifacts("cloud"), site.artifacts("disk2")) == ([], [backup.artifact])


def test_a_copy_that_is_only_on_record_is_made(site: Site) -> None:
    """Where a place has lost what is on record as there, a copy to it is sent, and not called done."""
    backup = site.make()
    assert site.upload(backup, site.job("disk2")) == []
    (site.servers.folders["disk2"] / backup.artifact).unlink()
    run = site.copy(site.job("disk2"), backup, "disk2")
    assert run.outcome is Outcome.SUCCEEDED
    assert any("is not at disk2" in warning for warning in run.warnings)
    assert site.artifacts("disk2") == [backup.artifact]


@pytest.mark.parametrize("local", [True, False])
def test_other_keys_make_another_file_and_the_old_one_goes_last(local: bool, site: Site) -> None:
    """Copied in place after a change of keys: only the new key opens it, and it is proven before the old one goes."""
    backup = site.make()
    plain = sha256(site.layout.artifact(backup.artifact).read_bytes()).hexdigest()
    assert site.upload(backup, site.job("cloud", "disk2", encryption=keyed("first"))) == []
    if not local:
        site.drop_local(backup)
    job = site.job("cloud", "disk2", encryption=keyed("second", "first"))
    run = site.copy(job, backup, "disk2")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    copy = site.at(backup, "disk2")
    assert copy is not None
    assert site.artifacts("disk2") == [copy.key] == [f"{backup.artifact}.k1.age"]
    assert copy.state is CopyState.VERIFIED
    manifest = site.now(backup).manifest
    assert manifest is not None
    with Keyring(keyed("second")) as only:
        artifact = manifest.at(copy.key).artifact
        opened = b"".join(only.opened(artifact, iter([site.bytes_at(copy)])))
        with open_store(job.destinations[1]) as store:
            beside = fetch_manifest(store, copy.key)
        assert beside is not None
        assert only.whole(beside).artifact.name == backup.artifact
        assert not only.opens(manifest.stored_elsewhere)
    assert sha256(opened).hexdigest() == plain
    # The other place has its own file, and all of them still are what they should be.
    assert site.artifacts("cloud") == [f"{backup.artifact}.age"]
    assert site.run(job, "verify", verify=VerifyOrder(backup=backup.id)).outcome is Outcome.SUCCEEDED
    assert list(site.layout.outbox.iterdir()) == []
    assert site.copy(job, backup, "disk2").outcome is Outcome.SUCCEEDED
    assert site.artifacts("disk2") == [copy.key], "what is encrypted as now is left alone"


def test_forms_are_known_again_after_a_rebuild(site: Site) -> None:
    """The local manifest tells of the file that one place has in a form of its own."""
    backup = site.make()
    assert site.upload(backup, site.job("disk2", encryption=keyed("first"))) == []
    job = site.job("disk2", encryption=keyed("second", "first"))
    assert site.copy(job, backup, "disk2").outcome is Outcome.SUCCEEDED
    rebuild_local(site.catalog, site.layout, site.clock.now())
    manifest = site.now(backup).manifest
    assert manifest is not None
    assert [form.name for form in manifest.forms] == [f"{backup.artifact}.k1.age"]


def test_a_disk_that_lies_does_not_cost_the_old_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encrypted anew reads back wrong: the old copy is there and known, and nothing of the new one is."""
    backup = site.make()
    assert site.upload(backup, site.job("disk2", encryption=keyed("first"))) == []
    before = site.at(backup, "disk2")
    monkeypatch.setattr("nanumpay_backupd.stores.local.LocalStore", Rotten)
    run = site.copy(site.job("disk2", encryption=keyed("second", "first")), backup, "disk2")
    assert run.outcome is Outcome.FAILED
    assert site.at(backup, "disk2") == before
    assert site.artifacts("disk2") == [f"{backup.artifact}.age"]


def test_the_places_alone_tell_of_their_forms(site: Site) -> None:
    """Catalog and backups folder are lost: read anew from the places, each copy is known as the file that it is."""
    backup = site.make()
    assert site.upload(backup, site.job("cloud", "disk2", encryption=keyed("first"))) == []
    job = site.job("cloud", "disk2", encryption=keyed("second", "first"))
    assert site.copy(job, backup, "disk2").outcome is Outcome.SUCCEEDED
    shutil.rmtree(site.layout.backups)
    site.layout.create()
    site.catalog.clear_backups()
    count, faults = adopt_remote(job, site.catalog, site.clock.now(), open_store, site.layout)
    assert (count, faults) == (2, [])
    assert {copy.key for copy in site.now(backup).copies} == {f"{backup.artifact}.age", f"{backup.artifact}.k1.age"}
    assert site.run(job, "verify", verify=VerifyOrder(backup=backup.id)).outcome is Outcome.SUCCEEDED


def test_without_the_old_key_a_copy_stays_as_it_is(site: Site) -> None:
    """Nobody here can open it: a further place gets the same file and it is said so; in place it is refused."""
    backup = site.make()
    assert site.upload(backup, site.job("cloud", encryption=keyed("first"))) == []
    site.drop_local(backup)
    job = site.job("cloud", "disk2", encryption=keyed("second"))
    run = site.copy(job, backup, "disk2")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert "no key here" in " ".join(run.warnings)
    assert site.bytes_at(site.at(backup, "disk2")) == site.bytes_at(site.at(backup, "cloud"))
    again = site.copy(job, backup, "disk2")
    assert (again.outcome, again.error and again.error.code) == (Outcome.FAILED, "key-missing")
    assert site.state(backup, "disk2") is CopyState.VERIFIED


def test_orders_that_make_no_sense(site: Site) -> None:
    """A move needs a place to move from, another one than where it goes."""
    backup = site.make()
    for source in ("", "disk2"):
        with pytest.raises((RefusedError, Exception)) as refused:
            check_order(CopyOrder(backup.id, "disk2", source, move=True), backup, site.job())
        assert refused.value.exit_code in {6, 7}  # type: ignore[attr-defined]
    assert relays(backup, site.job()) == [], "the file here is not one that has to be brought"
