"""Encrypted backups from a real database to the destinations and back, with the stock tools and with ours.

With the key, without it, with a wrong one, damaged, waiting, after a change of keys, from the copies alone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.bare.workshop import readable
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.cli.byhand import chain_to, look_commands, replay_commands
from nanumpay_backupd.doctor import check_encryption
from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Run,
    Stage,
    StageRecord,
    from_json,
    to_builtins,
)
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.outbox import sweep_outbox
from nanumpay_backupd.pipeline.rebuild import adopt_place, adopt_remote, rebuild_local
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.verify import prove_sealed
from nanumpay_backupd.settings.schema import CollectionOrder, JobEncryption, LocalDestination, VerifyOrder
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.locks import FileLock
from tests.chain_story import Story
from tests.keys import OTHER, PASSPHRASE, age_key, gpg, home_folders, pgp_key
from tests.servers.mongod import Mongod
from tests.servers.tools import tools_path
from tests.workbench import NOW, Ear, SetClock, job_spec

pytestmark = pytest.mark.servers

SUFFIX: Final = ".manifest.json"
MARKER: Final = b"crypt_shop"
"""Begins the name of the database of every story, and of nothing else."""
WITHOUT: Final = JobEncryption(method="none")
"""The settings of a host that has no key."""


def ways() -> dict[str, JobEncryption]:
    """Return the ways to encrypt, as a host has them; `keys` has what opens each."""
    first, second, age = pgp_key("first"), pgp_key("second"), age_key("first")
    files = (str(first.public), str(second.public))
    return {
        "phrase-remote": JobEncryption(method="openpgp", passphrase=PASSPHRASE, scope="remote"),
        "keys-all": JobEncryption(method="openpgp", recipients=files, scope="all", decrypt_with=(first.private,)),
        "keys-all-blind": JobEncryption(method="openpgp", recipients=files, scope="all"),
        "age-all": JobEncryption(method="age", recipients=(age.recipient,), scope="all", decrypt_with=(age.identity,)),
        "age-remote-blind": JobEncryption(method="age", recipients=(age.recipient,), scope="remote"),
    }


def with_keys(encryption: JobEncryption) -> JobEncryption:
    """Return the settings with a key that opens everything."""
    keys = (PASSPHRASE, pgp_key("second").private, age_key("first").identity)
    return msgspec.structs.replace(encryption, decrypt_with=keys)


@dataclass
class House:
    """A host whose backups are encrypted in some way: a full, a slice after it, a collection; copies on a disk."""

    story: Story
    usb: Path
    encryption: JobEncryption
    full: Backup
    slice: Backup
    collection: Backup
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Backup, ...]:
        """Return the backups."""
        return (self.full, self.slice, self.collection)

    def local(self, backup: Backup) -> Path:
        """Return the file of a backup in the backups folder."""
        return self.story.layout.artifact(backup.artifact)

    def remote(self, backup: Backup) -> Path:
        """Return the file of a backup on the disk."""
        assert backup.manifest is not None
        return self.usb / backup.manifest.stored_elsewhere.name

    def using(self, encryption: JobEncryption) -> Story:
        """Return the host with other settings."""
        self.story.encryption = encryption
        return self.story


_numbers = iter(range(1000))


def make_story(server: Mongod, root: Path, encryption: JobEncryption, *more: LocalDestination) -> Story:
    """Return a host with an empty database, whose copies go to a disk (and to ``more``)."""
    usb = LocalDestination(name="usb", path=str(root / "usb"))
    name = f"{MARKER.decode()}{next(_numbers)}"
    return Story(server, name, root, (usb, *more), encryption=encryption, paced=False)


@pytest.fixture(scope="module", params=["phrase-remote", "keys-all-blind", "age-remote-blind"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mongod_rs: Mongod
) -> Iterator[House]:
    """Make the backups of one way."""
    root = tmp_path_factory.mktemp(request.param)
    encryption = ways()[request.param]
    story = make_story(mongod_rs, root, encryption)
    story.mark("one")
    full = story.full()
    story.mark("two")
    cut = story.slice()
    story.mark("three")
    collection = story.made("backup", collection=CollectionOrder(collection="notes"))
    yield House(story, root / "usb", encryption, full, cut, collection)
    with mongod_rs.client() as client:
        client.drop_database(story.database)


@pytest.fixture
def again(house: House) -> Iterator[House]:
    """Give the house to a test that changes settings or data of its own accord, and put them back."""
    yield house
    house.story.encryption = house.encryption


def decrypted(path: Path, home: Path) -> bytes:
    """Decrypt with the stock tool, as an operator does."""
    if path.suffix == ".age":
        (home / "identity").write_text(age_key("first").identity.reveal() + "\n")
        command = ["age", "--decrypt", "-i", str(home / "identity"), str(path)]
        return subprocess.run(command, capture_output=True, check=True).stdout
    (home / "phrase").write_text(PASSPHRASE.reveal())
    home.chmod(0o700)
    try:
        gpg(home, "--import", data=pgp_key("second").private.reveal().encode())
        return gpg(home, "--passphrase-file", str(home / "phrase"), "--decrypt", str(path)).stdout
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_what_lies_where_and_what_it_says(house: House, tmp_path: Path) -> None:
    """Elsewhere only encrypted files, with names of nothing; here what was asked for; nothing else stays."""
    layout = house.story.layout
    here = {entry.name for entry in layout.backups.iterdir()}
    kept_clear = house.encryption.scope == "remote"
    # The application's clean-up deletes what begins with its name there, but for archives.
    assert {name for name in here if name.startswith("nanumpay-backup-")} == (
        {house.full.artifact} if kept_clear else set()
    )
    suffix = {"openpgp": ".gpg", "age": ".age"}[house.encryption.method]
    for backup in house.all:
        assert backup.state is BackupState.VERIFIED
        assert house.local(backup).exists()
        assert house.local(backup).name.endswith(suffix) is not kept_clear
        assert house.remote(backup).name.endswith(suffix)
        for path in (house.local(backup), house.remote(backup)):
            assert path.stat().st_mode & 0o007 == 0 or path.parent == house.usb
    found = {path.name: path.read_bytes() for path in house.usb.iterdir() if not path.name.startswith(".")}
    assert len(found) == 2 * len(house.all)
    names = [MARKER, b"notes", b"fresh", b"mongodump"]
    for name, content in found.items():
        assert name.endswith((suffix, suffix + SUFFIX)), name
        assert not [word for word in names if word in content], name
        if name.endswith(SUFFIX):
            told = json.loads(content)
            assert (told["host"], told["tools"], told["source"]["server_version"]) == ("", {}, "")
    assert list(layout.staging.iterdir()) == []
    assert not layout.outbox.exists() or list(layout.outbox.iterdir()) == []
    recipients = len(house.encryption.recipients)
    for backup in house.all:
        assert backup.manifest is not None
        stored = backup.manifest.stored_elsewhere
        assert stored.seal is not None
        assert len(stored.seal.recipients) == recipients
        assert len(stored.seal.header) == max(1, recipients)
        assert sha256(house.remote(backup).read_bytes()).hexdigest() == stored.sha256


def test_stock_tools_open_it(house: House, tmp_path: Path) -> None:
    """Gpg or age alone give back what was encrypted: file and manifest."""
    for backup in house.all:
        manifest = backup.manifest
        assert manifest is not None
        seal = manifest.stored_elsewhere.seal
        assert seal is not None
        plain = decrypted(house.remote(backup), tmp_path)
        assert (len(plain), sha256(plain).hexdigest()) == (seal.plain_size, seal.plain_sha256)
        if house.encryption.scope == "remote":
            assert plain == house.local(backup).read_bytes()
        beside = json.loads(house.remote(backup).with_name(house.remote(backup).name + SUFFIX).read_text())
        (tmp_path / f"closed{house.remote(backup).suffix}").write_bytes(
            base64.b64decode(beside["closed"].partition(":")[2])
        )
        whole = from_json(Manifest, decrypted(tmp_path / f"closed{house.remote(backup).suffix}", tmp_path))
        assert (whole.backup, whole.source) == (manifest.backup, manifest.source)
    with tarfile.open(fileobj=io.BytesIO(decrypted(house.remote(house.full), tmp_path))) as archive:
        assert f"{house.full.id}/{house.story.database}/notes.bson" in archive.getnames()


def test_a_moment_comes_back_from_every_copy(again: House) -> None:
    """With a key, a full and the slice after it restore exactly, from here and from the disk; a collection too."""
    story = again.using(with_keys(again.encryption))
    for source in ("", "usb"):
        run = story.restore(at=str(story.moment("two")), source=source)
        assert run.outcome is Outcome.SUCCEEDED, run.error
        assert story.content() == story.held("two")
    run = story.restore(again.collection.id, source="usb", to_database=story.database)
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert story.content()["notes"] == story.held("three")["notes"]
    assert list(story.layout.staging.iterdir()) == []


def test_without_a_key_nothing_is_changed(again: House) -> None:
    """A restore of what no key here opens says so at once, whichever copy; a dry run says it as well."""
    wrong = msgspec.structs.replace(WITHOUT, decrypt_with=(pgp_key("third").private, age_key("third").identity, OTHER))
    before = again.story.content()
    for encryption, code in ((WITHOUT, "key-missing"), (wrong, "key-wrong")):
        story = again.using(encryption)
        run = story.restore(again.full.id, source="usb")
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert run.error.code == code, run.error
        assert "nothing was changed" in run.error.message
        assert [record.stage for record in run.stages] == [Stage.PREFLIGHT]
    assert again.story.content() == before


def test_a_wrong_key_and_no_key_say_nothing_about_the_copies(again: House) -> None:
    """Verified with the key, without any, with a wrong one: every copy stays good, and the answers differ."""

    def verify(encryption: JobEncryption) -> Run:
        return again.using(encryption).run("verify", verify=VerifyOrder(level="structure"))

    def states() -> set[CopyState]:
        return {copy.state for backup in again.all for copy in again.story.backup(backup.id).copies}

    run = verify(with_keys(again.encryption))
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert "checksums only" not in run.stages[-1].detail
    run = verify(WITHOUT)
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert "by their checksums only, for want of a key here" in run.stages[-1].detail
    run = verify(
        msgspec.structs.replace(WITHOUT, decrypt_with=(pgp_key("third").private, age_key("third").identity, OTHER))
    )
    assert run.outcome is Outcome.DEGRADED
    assert run.error is not None
    assert run.error.code == "key-wrong"
    assert len(run.warnings) == 1
    assert states() == {CopyState.VERIFIED}
    assert {again.story.backup(backup.id).state for backup in again.all} == {BackupState.VERIFIED}


def test_a_flipped_bit_is_damage_with_and_without_a_key(again: House) -> None:
    """One bit anywhere makes that copy corrupt, whoever looks, and only that one."""
    path = again.remote(again.full)
    good = path.read_bytes()
    blind = msgspec.structs.replace(again.encryption, decrypt_with=())
    try:
        for at, encryption in ((10, with_keys(again.encryption)), (len(good) // 2, blind), (-1, with_keys(blind))):
            spoilt = bytearray(good)
            spoilt[at] ^= 1
            path.write_bytes(bytes(spoilt))
            story = again.using(encryption)
            run = story.run("verify", verify=VerifyOrder(level="structure", backup=again.full.id))
            assert run.outcome is Outcome.FAILED
            assert run.error is not None
            assert run.error.code in {"verify-checksum", "verify-structure"}, run.error
            copies = {copy.destination: copy.state for copy in story.backup(again.full.id).copies}
            assert copies == {LOCAL: CopyState.VERIFIED, "usb": CopyState.CORRUPT}
            path.write_bytes(bytes(spoilt))
            run = again.using(with_keys(encryption)).restore(again.full.id, source="usb")
            assert run.error is not None
            assert run.error.code in {"copy-unusable", "verify-checksum", "verify-structure"}
    finally:
        path.write_bytes(good)
        again.using(with_keys(again.encryption)).run(
            "verify", verify=VerifyOrder(level="structure", backup=again.full.id)
        )
    assert {copy.state for copy in again.story.backup(again.full.id).copies} == {CopyState.VERIFIED}


def test_the_catalog_of_a_new_machine(again: House, tmp_path: Path) -> None:
    """From the copies alone: without a key all but names and counts is known, with it everything; both restore."""
    story = again.using(again.encryption)
    for encryption, known in (
        (
            WITHOUT,
            False,
        ),
        (with_keys(again.encryption), True),
    ):
        with Catalog(tmp_path / f"{known}.db") as catalog:
            job = job_spec(
                source=story.spec("backup").job.source, destinations=story.destinations, encryption=encryption
            )
            count, faults = adopt_remote(job, catalog, SystemClock().now(), open_store)
            assert (count, faults) == (3, [])
            full, cut = catalog.backup(again.full.id), catalog.backup(again.slice.id)
            assert full is not None
            assert cut is not None
            assert full.manifest is not None
            assert (full.state, full.end, full.kind) == (again.full.state, again.full.end, Kind.FULL)
            assert (cut.start, cut.end) == (again.slice.start, again.slice.end)
            assert cut.manifest is not None
            assert (cut.manifest.chain, cut.manifest.parent) == (again.full.id, again.full.id)
            assert [(copy.key, copy.state) for copy in full.copies] == [
                (again.remote(again.full).name, CopyState.UPLOADED)
            ]
            assert bool(full.manifest.source.databases) is known
            assert (full.documents == again.full.documents) is known
            collection = catalog.backup(again.collection.id)
            assert collection is not None
            assert (collection.collection == f"{story.database}.notes") is known
    shutil.copy(tmp_path / "False.db", story.paths.state / "catalog.db")
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (story.paths.state / name).unlink(missing_ok=True)
    story = again.using(with_keys(again.encryption))
    run = story.restore(at=str(story.moment("two")), source="usb")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert story.content() == story.held("two")
    with Catalog(story.paths.state / "catalog.db") as catalog:
        rebuild_local(catalog, story.layout, SystemClock().now())
        job = job_spec(source=story.spec("backup").job.source, destinations=story.destinations)
        assert adopt_remote(job, catalog, SystemClock().now(), open_store) == (3, [])
    for backup in again.all:
        found = story.backup(backup.id)
        assert found.manifest is not None
        assert not found.manifest.closed
        assert {copy.state for copy in found.copies} <= {CopyState.UPLOADED, CopyState.VERIFIED}
        assert found.artifact == backup.artifact


def test_a_drill_needs_the_key(again: House) -> None:
    """With the key a drill proves the backup; without it one that is due is skipped, one that is asked for says so."""
    story = again.using(with_keys(again.encryption))
    order = VerifyOrder(level="restore", source="usb")
    run = story.run("drill", verify=order)
    assert run.outcome is Outcome.SUCCEEDED, run.error
    run = again.using(WITHOUT).run("drill", verify=order)
    assert (run.outcome, run.error and run.error.code) == (Outcome.DEGRADED, "key-missing")
    spec = msgspec.structs.replace(again.story.spec("drill", verify=order), trigger="schedule")
    run = worker.execute(spec, Ear(), SystemClock())
    assert (run.outcome, run.error and run.error.code) == (Outcome.SKIPPED, "key-missing")


def test_the_old_backups_folder_is_a_place_too(again: House, tmp_path: Path) -> None:
    """What lies in the folder of a machine that is gone is found, encrypted or not, with its manifest or without."""
    story = again.using(with_keys(again.encryption))
    old = tmp_path / "old"
    shutil.copytree(story.layout.backups, old)
    lost = Layout(old).manifest(again.full.id)
    for everything in (True, False):
        folder = tmp_path / f"work-{everything}"
        folder.mkdir()
        place = LocalDestination(name="old", path=str(old))
        with readable(place, folder) as shown, Catalog(folder / "catalog.db") as catalog, open_store(shown) as store:
            survey = adopt_place("old", store, catalog, SystemClock().now(), everything=True)
            assert {backup.id for backup in catalog.backups()} == {backup.id for backup in again.all}
            found = catalog.backup(again.full.id)
            assert found is not None
            assert (found.kind is Kind.FULL) is everything
            assert len(survey.alone) == (0 if everything else 1)
        lost.unlink(missing_ok=True)


def test_without_its_manifest_it_still_opens_with_the_key(tmp_path: Path, mongod_rs: Mongod) -> None:
    """An encrypted archive of which nothing is known but its name is restored with the key, and needs it."""
    story = make_story(mongod_rs, tmp_path, ways()["keys-all-blind"])
    story.mark("one")
    full = story.full()
    story.layout.manifest(full.id).unlink()
    with Catalog(story.paths.state / "catalog.db") as catalog:
        rebuild_local(catalog, story.layout, SystemClock().now())
    assert story.backup(full.id).kind is Kind.LEGACY
    run = story.restore(full.id)
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "key-missing")
    story.encryption = with_keys(story.encryption)
    with mongod_rs.client() as client:
        client.drop_database(story.database)
    run = story.restore(full.id)
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert story.content() == story.held("one")


# Making them


class Watcher(Ear):
    """Notes at every stage which archives lie in the staging folder."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}
        self._layout = layout

    def stage(self, record: StageRecord) -> None:
        """Look when a stage ends."""
        if record.ended is not None:
            archives = {"".join(path.suffixes) for path in self._layout.staging.rglob("*.tar.*")}
            self.seen.setdefault(record.stage.value, set()).update(archives)


class Stopping(Ear):
    """Cancels at the beginning of a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.recorders: list[Recorder] = []

    def stage(self, record: StageRecord) -> None:
        """Look which stage it is."""
        if record.stage is Stage.COMPRESS:
            self.recorders[0].cancel()


@pytest.mark.parametrize("way", ["keys-all", "keys-all-blind"])
def test_the_plain_archive_is_never_published(way: str, tmp_path: Path, mongod_rs: Mongod) -> None:
    """With a key it is never on the disk; without one it is in staging until it was proven and encrypted."""
    story = make_story(mongod_rs, tmp_path, ways()[way])
    story.mark("one")
    watcher = Watcher(story.layout)
    run = worker.execute(story.spec("backup"), watcher, SystemClock())
    assert run.outcome is Outcome.SUCCEEDED, run.error
    plain = {".tar.gz"} if way == "keys-all-blind" else set()
    assert watcher.seen["compress"] - {".tar.gz.gpg"} == plain
    assert watcher.seen["encrypt"] == {".tar.gz.gpg"}
    stages = [record.stage.value for record in run.stages]
    assert stages.index("encrypt") < stages.index("publish")
    if plain:
        assert stages.index("verify") < stages.index("encrypt")
        proofs = story.backup(run.backup or "").manifest
        assert proofs is not None
        assert [(proof.level, proof.ok) for proof in proofs.verification] == [("structure", True), ("checksum", True)]
        assert all(stat.digest for stat in proofs.source.collections)
    assert not list(tmp_path.rglob("*.tar.gz"))


def test_copies_that_wait_are_the_same_file_everywhere(tmp_path: Path, mongod_rs: Mongod) -> None:
    """A destination that was away gets the very file that the others have, also when the local one is gone by then."""
    late = LocalDestination(name="late", path=str(tmp_path / "late"), require_mount=True)
    story = make_story(mongod_rs, tmp_path, ways()["phrase-remote"], late)
    story.mark("one")
    run = story.run("backup")
    assert run.outcome is Outcome.DEGRADED
    full = story.backup(run.backup or "")
    assert full.manifest is not None
    stored = full.manifest.stored_elsewhere
    waiting = story.layout.waiting(stored.name)
    assert sha256(waiting.read_bytes()).hexdigest() == stored.sha256
    with Catalog(story.paths.state / "catalog.db") as catalog:
        sweep_outbox(story.layout, catalog)
    assert waiting.exists()
    story.layout.artifact(full.artifact).unlink()
    story.destinations = (*story.destinations[:1], msgspec.structs.replace(late, require_mount=False))
    with Catalog(story.paths.state / "catalog.db") as catalog:
        for copy in catalog.given_up_copies("nanumpay", "late"):
            catalog.save_copy(msgspec.structs.replace(copy, next_attempt=SystemClock().now(), attempts=0))
        for copy in catalog.pending_copies():
            catalog.save_copy(msgspec.structs.replace(copy, next_attempt=SystemClock().now() - timedelta(seconds=1)))
    run = story.run("upload")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert (tmp_path / "usb" / stored.name).read_bytes() == (tmp_path / "late" / stored.name).read_bytes()
    assert not waiting.exists()
    run = story.restore(full.id, source="late")
    assert run.outcome is Outcome.SUCCEEDED, run.error
    assert story.content() == story.held("one")


def test_a_key_that_cannot_be_used(tmp_path: Path, mongod_rs: Mongod) -> None:
    """Encrypted everywhere, nothing is stored; encrypted elsewhere only, the local backup is good and copies wait."""
    key = tmp_path / "key.asc"
    for scope, outcome in (("all", Outcome.FAILED), ("remote", Outcome.DEGRADED)):
        encryption = JobEncryption(method="openpgp", recipients=(str(key),), scope=scope)
        story = make_story(mongod_rs, tmp_path / scope, encryption)
        story.mark("one")
        run = story.run("backup")
        assert (run.outcome, run.error and run.error.code) == (outcome, "recipient-unusable")
        assert not (tmp_path / scope / "usb").exists() or not list((tmp_path / scope / "usb").glob("nanumpay*"))
        if scope == "all":
            assert not run.backup
            continue
        full = story.backup(run.backup or "")
        assert full.state is BackupState.VERIFIED
        assert any("cannot be encrypted" in warning for warning in run.warnings)
        shutil.copy(pgp_key("first").public, key)
        with Catalog(story.paths.state / "catalog.db") as catalog:
            for copy in catalog.given_up_copies("nanumpay", "usb"):
                catalog.save_copy(
                    msgspec.structs.replace(copy, next_attempt=SystemClock().now() - timedelta(seconds=1))
                )
        run = story.run("upload")
        assert run.outcome is Outcome.SUCCEEDED, run.error
        (copy,) = [copy for copy in story.backup(full.id).copies if copy.destination == "usb"]
        assert copy.key == f"{full.artifact}.gpg"
        assert copy.state in {CopyState.UPLOADED, CopyState.VERIFIED}
        assert copy.size == (tmp_path / scope / "usb" / copy.key).stat().st_size


def test_after_a_change_of_keys_every_backup_finds_its_own(tmp_path: Path, mongod_rs: Mongod) -> None:
    """A chain whose full has an old passphrase, whose slices have a new key and age, restores with all keys at hand."""
    story = make_story(mongod_rs, tmp_path, msgspec.structs.replace(ways()["phrase-remote"], scope="all"))
    story.mark("one")
    story.full()
    for name, way in (("two", "keys-all"), ("three", "age-all")):
        story.mark(name)
        story.encryption = msgspec.structs.replace(ways()[way], decrypt_with=())
        run = story.run("slice", kind="incremental")
        assert run.outcome is Outcome.SUCCEEDED, run.error
    story.mark("four")
    story.encryption = JobEncryption(method="none")
    story.slice()
    story.encryption = JobEncryption(method="none", decrypt_with=(PASSPHRASE, pgp_key("first").private))
    run = story.restore(at=str(story.moment("four")))
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "key-missing"), run.error
    assert run.error is not None
    assert "nothing was changed" in run.error.message
    story.encryption = msgspec.structs.replace(
        story.encryption, decrypt_with=(*story.encryption.decrypt_with, age_key("first").identity)
    )
    for source in ("", "usb"):
        run = story.restore(at=str(story.moment("four")), source=source)
        assert run.outcome is Outcome.SUCCEEDED, run.error
        assert story.content() == story.held("four")


def test_the_commands_that_are_shown_restore_it(tmp_path: Path, mongod_rs: Mongod) -> None:
    """What `backupctl show` prints for slices, encrypted by gpg, by age and not at all, brings their end back."""
    story = make_story(mongod_rs, tmp_path, ways()["keys-all-blind"])
    story.mark("one")
    made = [story.full()]
    for number in range(5):  # so many gpg slices are taken from the listing, the others are named
        story.mark(f"gpg {number}")
        made.append(story.slice())
    for way in ("age-all", ""):
        story.encryption = ways()[way] if way else JobEncryption(method="none")
        story.mark(way or "plain")
        made.append(story.slice())
    records = [to_builtins(backup) for backup in made]
    chain = chain_to(records[-1], made[0].id, records)
    assert chain.full is not None
    assert chain.whole
    lines = replay_commands(chain.full["artifact"], [one["artifact"] for one in chain.slices], made[-1].end)
    assert lines[0].startswith("# KEY: ")
    assert len(lines) == 6
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (tmp_path / "identity").write_text(age_key("first").identity.reveal() + "\n")
    with mongod_rs.client() as client:
        client.drop_database(story.database)
    try:
        gpg(home, "--import", data=pgp_key("second").private.reveal().encode())
        script = "\n".join([*lines, *look_commands(made[1].artifact)[:1]])
        script = script.replace("=URI", f"={mongod_rs.uri}").replace("-i KEY", f"-i {tmp_path / 'identity'}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=story.layout.backups,
            env={**os.environ, "PATH": tools_path(), "GNUPGHOME": str(home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert story.content() == story.held("plain")
    assert (story.layout.backups / "oplog.bson").stat().st_size > 0


def test_a_safety_backup_is_encrypted_where_all_is(tmp_path: Path, mongod_rs: Mongod) -> None:
    """What a restore saves before it replaces anything is as secret as the backups, and brings it back."""
    story = make_story(mongod_rs, tmp_path, ways()["keys-all"])
    story.mark("one")
    full = story.full()
    story.mark("two")
    run = story.restore(full.id, safety=True)
    assert run.outcome is Outcome.SUCCEEDED, run.error
    safety = story.backup(run.backup or "")
    assert safety.artifact.endswith("-safety-backup-" + safety.id[-19:] + ".tar.gz.gpg")
    assert story.restore(safety.id).outcome is Outcome.SUCCEEDED
    assert story.content() == story.held("two")


def test_cancelled_while_it_encrypts_nothing_stays(tmp_path: Path, mongod_rs: Mongod) -> None:
    """A run that is stopped leaves no file, no process and no private home."""
    homes = home_folders()
    for way in ("keys-all", "phrase-remote"):
        story = make_story(mongod_rs, tmp_path / way, ways()[way])
        story.mark("one")

        ear = Stopping()
        run = worker.execute(story.spec("backup"), ear, SystemClock(), on_start=ear.recorders.append)
        assert run.outcome is Outcome.CANCELLED
        assert not [path for path in (tmp_path / way).rglob("*") if path.suffix in {".gpg", ".gz", ".part"}]
    assert home_folders() == homes


# Small parts


def test_what_waits_for_nothing_is_swept(tmp_path: Path) -> None:
    """Files of dead runs and deleted backups go; those of a living run stay."""
    layout = Layout(tmp_path)
    layout.create_encrypted()
    dead = layout.waiting("nanumpay-backup-2026-11-21T02-00-00.tar.gz.gpg")
    part = layout.outbox / ".nanumpay-slice-2026-11-21T02-00-00.bson.zst.part"
    for path in (dead, part):
        path.write_bytes(b"x")
    with Catalog(tmp_path / "catalog.db") as catalog:
        with FileLock(layout.lock("nanumpay"), "job"), FileLock(layout.lock("nanumpay", "slice"), "job"):
            sweep_outbox(layout, catalog)
            assert dead.exists()
            assert part.exists()
            sweep_outbox(layout, catalog, held=layout.lock("nanumpay", "slice"))
            assert dead.exists()
            assert not part.exists()
        sweep_outbox(layout, catalog)
    assert not dead.exists()


def test_a_file_for_others_is_told_without_a_key(again: House) -> None:
    """A file that is whole and has the right checksum, but is encrypted to somebody else, is not accepted."""
    manifest = again.full.manifest
    assert manifest is not None
    stored = manifest.stored_elsewhere
    assert stored.seal is not None
    others = msgspec.structs.replace(stored.seal, header=("0123456789ABCDEF",))
    forged = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(stored, seal=others), elsewhere=None)
    with Keyring() as keys, pytest.raises(VerifyError, match="encrypted for others"):
        prove_sealed(iter([again.remote(again.full).read_bytes()]), forged, SetClock(NOW), keys)


def test_doctor_tries_the_keys(tmp_path: Path) -> None:
    """It says what works, what cannot be read here, which key ends soon, and which cannot be used."""
    soon = f"{NOW + timedelta(days=20):%Y%m%dT%H%M%S}"
    made = str(int((NOW - timedelta(days=2)).timestamp()))
    ending = str(pgp_key("soon", expires=soon, made=made).public)

    def checks(encryption: JobEncryption) -> list[tuple[str, str]]:
        return [
            (one.state, one.message) for one in check_encryption(job_spec(encryption=encryption), SystemClock().now())
        ]

    assert checks(JobEncryption()) == []
    ((state, text),) = checks(ways()["phrase-remote"])
    assert state == "ok"
    assert "encrypted a few bytes and decrypted them (gpg" in text
    ((state, text),) = checks(ways()["age-remote-blind"])
    assert state == "ok"
    assert "no key here decrypts them (age" in text
    ((state, text),) = checks(JobEncryption(method="openpgp", recipients=(str(tmp_path / "none"),), scope="all"))
    assert state == "failed"
    assert "cannot be read" in text
    with Keyring(JobEncryption(method="openpgp", recipients=(ending,), scope="all")) as keys:
        (warning,) = keys.prepare(NOW)
    assert "ends on" in warning
    assert os.path.basename(ending).removesuffix(".asc") in warning
