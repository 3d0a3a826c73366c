"""A restic repository among other places: what goes into it, what comes back, and what is proven there."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.model import CopyState, Outcome, Proof
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX
from nanumpay_backupd.pipeline.rebuild import adopt_remote
from nanumpay_backupd.settings.schema import JobEncryption, LocalDestination, VerifyOrder
from nanumpay_backupd.stores.factory import open_store
from tests.integration.test_places import Servers, Site, keyed
from tests.keys import age_key
from tests.servers.restic import Repository

pytestmark = pytest.mark.servers

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One repository for all tests, each of which has a folder of its own in it."""
    folder = tmp_path_factory.mktemp("restic") / "vault"
    made = Repository(str(folder), folder)
    made.create()
    return made


@pytest.fixture
def site(tmp_path: Path, repository: Repository) -> Iterator[Site]:
    """A host with two places: the repository, and another disk."""
    vault = repository.destination(path=f"/test{next(_numbers)}")
    disk = LocalDestination(name="disk2", path=str(tmp_path / "disk2"))
    made = Site(tmp_path, Servers((vault, disk), {"disk2": tmp_path / "disk2"}))
    yield made
    made.catalog.close()


def plain(site: Site, artifact: str) -> bytes:
    """Return the archive as it was before it was compressed."""
    return gzip.decompress(site.layout.artifact(artifact).read_bytes())


def stored(site: Site) -> dict[str, bytes]:
    """Return what the repository holds."""
    with open_store(site.servers.destinations[0]) as store:
        return {info.key: b"".join(store.get(info.key)) for info in store.list()}


def test_the_plain_archive_goes_in_and_the_encrypted_one_elsewhere(site: Site) -> None:
    """Of one backup restic gets the tar, the disk what is encrypted; both are known, also from the places alone."""
    backup = site.make()
    job = site.job("vault", "disk2", encryption=keyed("first"), read_back=1.0)
    assert site.upload(backup, job) == []
    name = f"{backup.id}.tar"
    found = stored(site)
    assert set(found) == {name, f"{name}{MANIFEST_SUFFIX}"}
    assert found[name] == plain(site, backup.artifact)
    assert site.artifacts("disk2") == [f"{backup.artifact}.age"]
    copy = site.at(backup, "vault")
    assert copy is not None
    assert (copy.key, copy.size, copy.proof) == (name, len(found[name]), Proof.READ)
    manifest = site.now(backup).manifest
    assert manifest is not None
    assert [form.name for form in manifest.forms] == [name]
    assert site.run(job, "verify", verify=VerifyOrder(backup=backup.id, level="structure")).outcome is Outcome.SUCCEEDED

    site.drop_local(backup)
    site.layout.manifest(backup.id).unlink()
    site.catalog.clear_backups()
    assert adopt_remote(job, site.catalog, site.clock.now(), open_store, site.layout) == (2, [])
    assert {copy.key for copy in site.now(backup).copies} == {name, f"{backup.artifact}.age"}
    assert site.run(job, "verify", verify=VerifyOrder(backup=backup.id, level="structure")).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("readable", [True, False], ids=["with-key", "public-key-only"])
def test_what_is_made_of_an_encrypted_copy(site: Site, readable: bool) -> None:
    """Where only another place has a backup, encrypted, a key here makes it plain; without one it goes in as it is."""
    backup = site.make()
    job = site.job("disk2", encryption=keyed("first"))
    assert site.upload(backup, job) == []
    expected = plain(site, backup.artifact)
    site.drop_local(backup)
    options = keyed("first") if readable else JobEncryption(method="age", recipients=(age_key("first").recipient,))
    run = site.copy(site.job("vault", "disk2", encryption=options), backup, "vault")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    found = stored(site)
    if readable:
        assert found[f"{backup.id}.tar"] == expected
    else:
        assert found[f"{backup.artifact}.age"] == site.bytes_at(site.at(backup, "disk2"))
        assert any("as it is" in warning for warning in run.warnings)
    assert site.state(backup, "vault") is CopyState.VERIFIED


def test_nothing_leaves_the_repository_readable(site: Site) -> None:
    """What only restic has goes to a place that encrypts nothing itself only encrypted."""
    backup = site.make()
    both = site.job("vault", "disk2", encryption=keyed("first"))
    assert site.upload(backup, site.job("vault", encryption=keyed("first"))) == []
    site.drop_local(backup)
    assert [lacking.lost for lacking in site.sync(both, "disk2")] == [(backup.id,)]
    run = site.copy(both, backup, "disk2", "vault")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    (sealed,) = site.artifacts("disk2")
    assert sealed.endswith(".age")
    assert (
        site.run(both, "verify", verify=VerifyOrder(backup=backup.id, level="structure")).outcome is Outcome.SUCCEEDED
    )


def test_a_damaged_file_does_not_get_in(site: Site) -> None:
    """An artifact that changed since it was proven makes no snapshot, and the fault names it."""
    backup = site.make()
    path = site.layout.artifact(backup.artifact)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    (fault,) = site.upload(backup, site.job("vault"))
    assert fault.code == "verify-checksum"
    assert backup.artifact in fault.message
    assert stored(site) == {}


def test_the_repository_is_checked_as_a_whole_and_its_newest_copy_is_read(
    tmp_path: Path, site: Site, repository: Repository
) -> None:
    """Verifying all lets restic compare; with a pack that is damaged the copies that need it are corrupt."""
    own = repository.twin(tmp_path / "own")
    site.servers = Servers((own.destination(check_percent=100),), {})
    job = site.job("vault")
    backups = [site.make(days) for days in (0, 1)]
    for backup in backups:
        assert site.upload(backup, job) == []
    run = site.run(job, "verify", verify=VerifyOrder(source="vault"))
    assert run.outcome is Outcome.SUCCEEDED
    assert "1 were compared by their places themselves" in " ".join(stage.detail for stage in run.stages)

    pack = own.packs()[0]
    data = bytearray(pack.read_bytes())
    data[40] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    run = site.run(job, "verify", verify=VerifyOrder(source="vault"))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert run.error.code == "verify-checksum"
    states = [site.state(backup, "vault") for backup in backups]
    assert CopyState.CORRUPT in states
