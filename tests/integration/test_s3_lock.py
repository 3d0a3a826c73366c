"""Buckets that lock objects or keep versions: what retention does there, and what is said of it.

Behind a gate before rclone, which every run has, and the same at Ceph's radosgw, which `make test-s3-lock` starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.facts import retention
from nanumpay_backupd.doctor import Check, check_destination
from nanumpay_backupd.errors import LockedError, StoreError
from nanumpay_backupd.model import Backup, Copy, CopyState, Policy, to_json
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.outlook import PruneLine, look, plan
from nanumpay_backupd.pipeline.prune import delete_backup, prune
from nanumpay_backupd.settings.schema import Destination, JobSpec, S3Destination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from tests.servers.lock_gate import LockGate, start_lock_gate
from tests.servers.radosgw import Gateway, start_radosgw
from tests.servers.radosgw import destination as rgw_destination
from tests.servers.s3 import start_s3
from tests.workbench import SetClock, job_spec, published

pytestmark = pytest.mark.servers

REAL: Final = bool(os.environ.get("NANUMPAY_TEST_S3_LOCK"))
only_real = pytest.mark.skipif(not REAL, reason="needs a server with versions: make test-s3-lock")
POLICY: Final = Policy(count=1, days=30)


class Bucket:
    """A bucket that can lock objects, at the gate or at a real server; ``prefix`` keeps the tests apart."""

    def __init__(self, settings: S3Destination, gate: LockGate | None) -> None:
        self.settings = settings
        self.gate = gate
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key.reveal(),
            region_name="us-east-1",
        )

    def lock(self, key: str, until: datetime | None) -> None:
        """Lock an object until a moment (whole seconds), None: put it on legal hold."""
        if self.gate is not None:
            self.gate.locks[key] = until
            return
        where = {"Bucket": self.settings.bucket, "Key": f"{self.settings.prefix}{key}"}
        if until is None:
            self.client.put_object_legal_hold(**where, LegalHold={"Status": "ON"})
        else:
            kept = {"Mode": "COMPLIANCE", "RetainUntilDate": until}
            self.client.put_object_retention(**where, Retention=kept)

    def release(self, key: str) -> None:
        """End a legal hold."""
        if self.gate is not None:
            del self.gate.locks[key]
        else:
            where = {"Bucket": self.settings.bucket, "Key": f"{self.settings.prefix}{key}"}
            self.client.put_object_legal_hold(**where, LegalHold={"Status": "OFF"})

    def names(self) -> set[str]:
        """Return what a listing shows."""
        with open_store(self.settings) as store:
            return {item.key for item in store.list()}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway | None]:
    """Run radosgw, where that is wanted."""
    if not REAL:
        yield None
        return
    with start_radosgw(tmp_path_factory.mktemp("rgw")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, gateway: Gateway | None
) -> Iterator[tuple[S3Destination, LockGate | None]]:
    """Run a server whose bucket ``backups`` can lock objects."""
    folder = tmp_path_factory.mktemp("s3lock")
    if gateway is not None:
        settings = rgw_destination(gateway.endpoint)
        Bucket(settings, None).client.create_bucket(Bucket=settings.bucket, ObjectLockEnabledForBucket=True)
        yield settings, None
        return
    with start_s3(folder) as s3, start_lock_gate(s3.endpoint) as gate:
        yield s3.destination(endpoint_url=gate.endpoint), gate


@pytest.fixture
def bucket(server: tuple[S3Destination, LockGate | None], tmp_path: Path) -> Bucket:
    """Return the bucket with a prefix of its own, as if it had never been asked anything."""
    settings, gate = server
    if gate is not None:
        gate.locking, gate.lock_days, gate.versions, gate.expiring, gate.secretive = True, 0, False, False, False
        gate.locks.clear()
        gate.asked.clear()
    return Bucket(msgspec.structs.replace(settings, prefix=f"{tmp_path.name}/"), gate)


class Site:
    """A job with three backups, here and in the bucket; retention keeps the newest."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.now = datetime.now(UTC)
        self.layout = Layout(root / "backups")
        self.layout.create_slices()
        self.catalog = Catalog(root / "state" / "catalog.db")
        self.bucket = bucket
        self.opened: list[str] = []
        self.backups = [self.make(self.now - timedelta(days=age)) for age in (1, 2, 3)]

    @property
    def job(self) -> JobSpec:
        """Return the job."""
        return job_spec(destinations=(self.bucket.settings,), retention=POLICY)

    def make(self, created: datetime) -> Backup:
        """Publish a backup and copy it to the bucket."""
        backup = published(self.layout, self.catalog, created.replace(microsecond=0))
        with open_store(self.bucket.settings) as store:
            store.put(backup.artifact, self.layout.artifact(backup.artifact))
            store.put_bytes(f"{backup.artifact}{MANIFEST_SUFFIX}", to_json(backup.manifest))
        copy = Copy(
            backup=backup.id,
            destination=self.bucket.settings.name,
            state=CopyState.VERIFIED,
            key=backup.artifact,
            size=backup.size,
            updated=self.now,
        )
        self.catalog.save_copy(copy)
        return backup

    def open(self, destination: Destination) -> Store:
        """Open the bucket, and remember that it was."""
        self.opened.append(destination.name)
        return open_store(destination)

    def prune(self, now: datetime | None = None) -> dict[str, PruneLine]:
        """Prune, and return the lines about the bucket."""
        self.opened.clear()
        lines, faults = prune(self.job, self.catalog, self.layout, now or datetime.now(UTC), self.open)
        assert faults == []
        return {line.backup: line for line in lines if line.destination == self.bucket.settings.name}

    def copy(self, backup: Backup) -> Copy | None:
        """Return the record of a copy in the bucket."""
        found = self.catalog.backup(backup.id)
        copies = found.copies if found is not None else ()
        return next((copy for copy in copies if copy.destination == self.bucket.settings.name), None)

    def there(self, backup: Backup) -> int:
        """Return how much of a backup the bucket lists: artifact and manifest are two."""
        return sum(name.startswith(backup.artifact) for name in self.bucket.names())


@pytest.fixture
def site(tmp_path: Path, bucket: Bucket) -> Iterator[Site]:
    """Return a job with three backups."""
    site = Site(tmp_path, bucket)
    yield site
    site.catalog.close()


def soon(seconds: float) -> datetime:
    """Return a whole second from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds + 1)).replace(microsecond=0)


def test_what_is_locked_is_told_not_tried_again_and_deleted_after_the_lock(site: Site) -> None:
    """Until the lock ends the copy is on record as locked and nobody asks for it; then it goes like any other."""
    newest, locked, free = site.backups
    until = soon(8)
    site.bucket.lock(locked.artifact, until)
    lines = site.prune()
    assert (lines[newest.id].action, lines[free.id].action) == ("keep", "delete")
    assert (lines[locked.id].action, lines[locked.id].locked_until) == ("locked", until)
    assert lines[locked.id].reason.startswith(f"locked there until {until:%Y-%m-%d %H:%M} UTC; then it goes: 1 newer")
    assert (site.there(newest), site.there(locked), site.there(free)) == (2, 2, 0)
    copy = site.copy(locked)
    assert copy is not None
    assert copy.lock is not None
    assert (copy.state, copy.lock.until) == (CopyState.VERIFIED, until)
    assert site.copy(free) is None

    # Nothing else is to be done there, so nobody even connects.
    assert site.prune()[locked.id].action == "locked"
    assert site.opened == []
    foreseen = plan(site.job, look(site.catalog, site.job.name), until)
    assert [(line.action, line.locked_until) for line in foreseen if line.backup == locked.id] == [("delete", None)]

    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 0.1)
    assert site.prune()[locked.id].action == "delete"
    assert site.there(locked) == 0
    assert site.copy(locked) is None


def test_status_tells_what_is_locked_and_until_when(site: Site) -> None:
    """How many copies and bytes should be gone and are not, and when they will be."""
    _, one, other = site.backups
    first, last = soon(3600), soon(7200)
    site.bucket.lock(one.artifact, last)
    site.bucket.lock(other.artifact, first)
    site.prune()
    told = {item["destination"]: item for item in retention(site.catalog, site.job)}
    here, there = told["local"], told[site.bucket.settings.name]
    assert (here["locked"], here["locked_first"]) == (0, None)
    assert (there["locked"], there["locked_bytes"]) == (2, one.size + other.size)
    ends = [datetime.fromisoformat(there[key]) for key in ("locked_first", "locked_last")]
    assert ends == [first, last]


def test_a_legal_hold_is_looked_at_again_once_a_day(site: Site) -> None:
    """It has no end that could be waited for, so it is asked for, but not with every prune."""
    _, held, _ = site.backups
    site.bucket.lock(held.artifact, None)
    line = site.prune()[held.id]
    assert (line.action, line.locked_until) == ("locked", None)
    assert "until somebody lifts it" in line.reason
    assert site.prune()[held.id].action == "locked"
    assert site.opened == []
    assert site.prune(site.now + timedelta(days=1, minutes=1))[held.id].action == "locked"
    assert site.opened == [site.bucket.settings.name]
    site.bucket.release(held.artifact)
    assert site.prune(site.now + timedelta(days=2, minutes=2))[held.id].action == "delete"
    assert site.there(held) == 0


def test_a_locked_manifest_keeps_its_artifact(site: Site) -> None:
    """Half a backup is of no use: where either of the two is locked, both stay."""
    _, older, _ = site.backups
    site.bucket.lock(f"{older.artifact}{MANIFEST_SUFFIX}", soon(3600))
    assert site.prune()[older.id].action == "locked"
    assert site.there(older) == 2


def test_who_asks_to_delete_what_is_locked_is_refused_with_the_date(site: Site) -> None:
    """By hand it is tried at once, and the answer says until when."""
    _, older, _ = site.backups
    until = soon(3600)
    site.bucket.lock(older.artifact, until)
    with pytest.raises(LockedError, match=f"locked until {until:%Y-%m-%d %H:%M} UTC") as caught:
        delete_backup(site.job, site.catalog, site.layout, older.id, None, site.open)
    assert (caught.value.code, caught.value.until, caught.value.retryable) == ("object-locked", until, False)
    assert site.there(older) == 2


def test_a_bucket_without_locks_is_asked_once(site: Site) -> None:
    """Where nothing can be locked, deleting takes no request more for each object."""
    if site.bucket.gate is None:
        pytest.skip("what is asked can only be seen at the gate")
    site.bucket.gate.locking = False
    site.bucket.gate.asked.clear()
    assert [line.action for line in site.prune().values()] == ["keep", "delete", "delete"]
    methods = [asked.partition(" ")[0] for asked in site.bucket.gate.asked]
    assert (methods.count("GET"), methods.count("HEAD"), methods.count("DELETE")) == (1, 0, 4)


def test_a_server_that_tells_nothing_of_locks_but_refuses(site: Site) -> None:
    """A key without the right to ask for locks learns of one by the refusal; other copies are deleted all the same."""
    if site.bucket.gate is None:
        pytest.skip("radosgw has no such key")
    _, older, oldest = site.backups
    site.bucket.gate.secretive = True
    for key in (oldest.artifact, f"{oldest.artifact}{MANIFEST_SUFFIX}"):
        site.bucket.lock(key, soon(3600))
    lines = site.prune()
    assert (lines[older.id].action, lines[oldest.id].action) == ("delete", "locked")
    assert lines[oldest.id].locked_until is None
    assert (site.there(older), site.there(oldest)) == (0, 2)


def checks(settings: S3Destination) -> list[Check]:
    """Return what the doctor says of a bucket."""
    return list(check_destination("nanumpay", settings, open_store))


@pytest.mark.parametrize(
    "bucket_is, told",
    [
        ({}, []),
        ({"lock_days": 30}, ["ok: new objects are locked for 30 days; retention deletes them after that"]),
        ({"versions": True}, ["warning: the bucket keeps versions, so what retention deletes goes on taking room"]),
        (
            {"versions": True, "expiring": True},
            ["ok: the bucket keeps versions of what is deleted; the bucket expires"],
        ),
    ],
    ids=["plain", "locks", "versions", "versions that expire"],
)
def test_the_doctor_says_once_what_a_bucket_keeps(bucket: Bucket, bucket_is: dict[str, Any], told: list[str]) -> None:
    """Deleting leaves something there: said with what can be done about it, and nothing of it fails."""
    if bucket.gate is None:
        pytest.skip("radosgw has a test of its own")
    for name, value in bucket_is.items():
        setattr(bucket.gate, name, value)
    first, *others = (check for check in checks(bucket.settings) if check.name.endswith(bucket.settings.name))
    assert first.state == "ok"
    assert len(others) == len(told)
    for check, words in zip(others, told, strict=True):
        state, _, sentence = words.partition(": ")
        assert check.state == state
        assert sentence in check.message


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_what_is_uploaded_is_locked_for_the_days_that_are_set(bucket: Bucket, tmp_path: Path, mode: str) -> None:
    """Artifacts in one piece or in parts, and manifests, are locked from the upload on; the doctor's probe is not."""
    settings = msgspec.structs.replace(bucket.settings, lock_mode=mode, lock_days=1, part_size=5 << 20)
    path = tmp_path / "artifact"
    path.write_bytes(bytes(6 << 20))
    with open_store(settings) as store:
        store.put("large", path)
        store.put_bytes("small", b"{}")
        for key in ("large", "small"):
            with pytest.raises(LockedError) as caught:
                store.must_be_free(key)
            assert caught.value.until is not None
            assert timedelta(hours=23) < caught.value.until - datetime.now(UTC) < timedelta(hours=25)
    tried, *others = checks(settings)
    assert tried.state == "ok"
    (lock,) = (check for check in others if check.name.endswith(": lock"))
    assert (lock.state, mode in lock.message) == ("ok", True)
    # The gate, which keeps no versions, does not let go what was locked for a minute to try it.
    assert {name for name in bucket.names() if REAL or not name.startswith("doctor-")} == {"large", "small"}
    if REAL:
        where = {"Bucket": settings.bucket, "Key": f"{settings.prefix}large"}
        assert bucket.client.head_object(**where)["ObjectLockMode"] == mode.upper()


def test_a_lock_that_the_bucket_does_not_have_fails_at_the_doctor(bucket: Bucket) -> None:
    """It is said before the first backup is refused."""
    if bucket.gate is not None:
        bucket.gate.locking = False
        settings = bucket.settings
    else:
        settings = msgspec.structs.replace(bucket.settings, bucket="without-locks")
        bucket.client.create_bucket(Bucket=settings.bucket)
    found = checks(msgspec.structs.replace(settings, lock_mode="governance", lock_days=1))
    assert [check.name.rpartition(": ")[2] for check in found if check.state == "failed"] == ["lock"]


def test_a_resumed_upload_is_locked_from_its_end_on(bucket: Bucket, tmp_path: Path) -> None:
    """An upload that was begun days ago, with its lock, is locked for the whole time all the same."""
    if bucket.gate is not None:
        pytest.skip("what the lock of a resumed upload is can only be seen at a real server")
    settings = msgspec.structs.replace(bucket.settings, lock_mode="governance", lock_days=10, part_size=5 << 20)
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(12 << 20))
    with open_store(settings, clock=SetClock(datetime.now(UTC) - timedelta(days=4))) as store:
        _break_off(store, path)
    with open_store(settings) as store:
        assert store.put("large", path).resumed > 0
        with pytest.raises(LockedError) as caught:
            store.must_be_free("large")
    assert caught.value.until is not None
    assert caught.value.until - datetime.now(UTC) > timedelta(days=9)


def _break_off(store: Store, path: Path) -> None:
    def stop(size: int) -> None:
        if size:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put("large", path, stop)


@only_real
def test_a_bucket_with_faults_is_told_all_of_them(bucket: Bucket) -> None:
    """Open to everybody, and with a rule that deletes backups: the one fails, the other warns, each with its advice."""
    settings = msgspec.structs.replace(bucket.settings, bucket="with-faults")
    bucket.client.create_bucket(Bucket=settings.bucket)
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 5}}
    rules = {"Rules": [rule]}
    bucket.client.put_bucket_lifecycle_configuration(Bucket=settings.bucket, LifecycleConfiguration=rules)
    bucket.client.put_bucket_acl(Bucket=settings.bucket, ACL="public-read")
    found = {check.name.rpartition(": ")[2]: check for check in checks(settings)}
    assert found["lifecycle"].state == "warning"
    assert "'old' deletes objects after 5 days" in found["lifecycle"].message
    assert found["public access"].state == "failed"
    assert found["lifecycle"].hint
    assert found["public access"].hint
    assert {check.state for name, check in found.items() if name not in ("lifecycle", "public access")} == {"ok"}


@only_real
def test_an_upload_outlives_the_gateway(bucket: Bucket, gateway: Gateway, tmp_path: Path) -> None:
    """Radosgw is killed in the middle and started again: only what it did not have is sent."""
    settings = msgspec.structs.replace(bucket.settings, part_size=5 << 20, parallel_parts=2, timeout=5.0)
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(32 << 20))
    moved = 0

    def kill(size: int) -> None:
        nonlocal moved
        moved += size
        if moved >= 10 << 20:
            gateway.kill()

    with open_store(settings) as store:
        with pytest.raises(StoreError) as caught:
            store.put("large", path, kill)
        assert caught.value.code == "destination-unreachable"
        gateway.start()
        result = store.put("large", path)
        assert result.resumed >= moved
        assert b"".join(store.get("large")) == path.read_bytes()
    assert result.proven


Make = Callable[[str], S3Destination]


@pytest.fixture
def versioned(bucket: Bucket) -> Make:
    """Return a function that makes a bucket which keeps versions; ``how`` is what else it does."""

    def make(how: str) -> S3Destination:
        settings = msgspec.structs.replace(bucket.settings, bucket=f"versions-{how}")
        client = bucket.client
        client.create_bucket(Bucket=settings.bucket, ObjectLockEnabledForBucket=how == "locked")
        if how == "locked":
            kept = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 2}}
            rule = {"ObjectLockEnabled": "Enabled", "Rule": kept}
            client.put_object_lock_configuration(Bucket=settings.bucket, ObjectLockConfiguration=rule)
            return settings
        client.put_bucket_versioning(Bucket=settings.bucket, VersioningConfiguration={"Status": "Enabled"})
        if how == "expiring":
            rule = {
                "ID": "old",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            }
            client.put_bucket_lifecycle_configuration(Bucket=settings.bucket, LifecycleConfiguration={"Rules": [rule]})
        return settings

    return make


@only_real
def test_real_versions_stay_unless_configured(bucket: Bucket, versioned: Make) -> None:
    """A plain delete leaves the bytes behind; with delete_versions nothing is left, what was replaced included."""
    settings = versioned("plain")
    for wanted, left in ((False, 3), (True, 0)):
        own = msgspec.structs.replace(settings, delete_versions=wanted, prefix=f"{wanted}/")
        with open_store(own) as store:
            store.put_bytes("a", b"first")
            store.put_bytes("a", b"second")
            store.put_bytes("ab", b"neighbour")
            store.delete("a")
            store.delete("a")
            assert store.stat("a") is None
            assert store.stat("ab") is not None
        page = bucket.client.list_object_versions(Bucket=settings.bucket, Prefix=own.prefix)
        entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        found = [entry for entry in entries if entry["Key"] == f"{own.prefix}a"]
        # Two versions, and at least one mark that hides them.
        assert len(found) >= left if left else found == []


@only_real
def test_real_locked_versions_are_refused(bucket: Bucket) -> None:
    """Also who deletes versions cannot delete a locked one, and then none of them is deleted."""
    own = msgspec.structs.replace(bucket.settings, delete_versions=True)
    locked = Bucket(own, None)
    with open_store(own) as store:
        store.put_bytes("a", b"first")
        locked.lock("a", until := soon(3600))
        store.put_bytes("a", b"second")
        with pytest.raises(LockedError) as caught:
            store.delete("a")
        assert caught.value.until == until
        assert b"".join(store.get("a")) == b"second"


@only_real
@pytest.mark.parametrize(
    "how, told",
    [
        ("warned", ["warning: keeps versions, so what retention deletes goes on taking room"]),
        ("expiring", ["ok: the bucket expires them by itself"]),
        ("locked", ["ok: new objects are locked for 2 days", "warning: keeps versions"]),
    ],
)
def test_the_doctor_knows_a_real_bucket(versioned: Make, how: str, told: list[str]) -> None:
    """What the gate says in the other tests, a real server says too."""
    settings = versioned(how)
    first, *others = (check for check in checks(settings) if check.name.endswith(settings.name))
    assert first.state == "ok"
    assert [check.state for check in others] == [words.partition(": ")[0] for words in told]
    assert all(words.partition(": ")[2] in check.message for check, words in zip(others, told, strict=True))
