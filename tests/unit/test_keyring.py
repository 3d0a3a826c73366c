"""The one door to what is encrypted, beside what the contract of the methods and whole runs already show."""

from __future__ import annotations

import base64
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd import shim
from nanumpay_backupd.cli import details
from nanumpay_backupd.cli.words import Times
from nanumpay_backupd.errors import BackupdError, DecryptError, ToolError, VerifyError
from nanumpay_backupd.model import Artifact, Kind, Manifest, from_json, to_builtins, to_json
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout, backup_id, is_slice, parse_artifact, plain_name, sealed_by
from nanumpay_backupd.pipeline.parcels import Parcel
from nanumpay_backupd.pipeline.verify import prove_stream
from nanumpay_backupd.settings.merge import encryption_in_words
from nanumpay_backupd.settings.schema import JobEncryption, LocalDestination
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.mongodb import MongoDatabase
from tests.keys import age_key
from tests.unit.cli_screens import screen
from tests.workbench import NOW, SetClock, archive_bytes, documents, job_spec, manifest_of


def age(*, scope: str = "remote", key: bool = True) -> JobEncryption:
    """Return settings that encrypt quickly."""
    pair = age_key("first")
    keys = (pair.identity,) if key else ()
    return JobEncryption(method="age", recipients=(pair.recipient,), scope=scope, decrypt_with=keys)


SOURCE = mongodb_of(job_spec().source, "a test")
CONTENT = documents(5)
NAME = backup_id("nanumpay", NOW)
PLAIN = archive_bytes(NAME, {f"{NAME}/nanumpay/users.bson": CONTENT})


def sealed_manifest(keys: Keyring, folder: Path) -> tuple[Manifest, bytes]:
    """Encrypt a small backup; returns its manifest, and the encrypted file."""
    manifest = manifest_of(
        PLAIN, collections={"nanumpay.users": (5, len(CONTENT))}, raw_bytes=len(CONTENT), proven=True
    )
    path = folder / "sealed"
    artifact = keys.seal(iter([PLAIN]), lambda: manifest.artifact, path, lambda _: None)
    return msgspec.structs.replace(manifest, elsewhere=artifact), path.read_bytes()


def test_what_is_not_encrypted_passes_through() -> None:
    """Without encryption nothing is started, nothing asked for, and a manifest is stored as it is."""
    manifest = manifest_of(PLAIN)
    with Keyring() as keys:
        assert b"".join(keys.opened(manifest.artifact, iter([b"a", b"b"]))) == b"ab"
        assert keys.opens(manifest.artifact)
        assert keys.whole(manifest) is manifest
        assert keys.describe(manifest) == to_json(manifest)
        assert not keys.seals_here
        assert not keys.seals_for(job_spec())


@pytest.mark.parametrize(
    "scope,places,here,there", [("all", 1, True, False), ("remote", 1, False, True), ("remote", 0, False, False)]
)
def test_what_is_encrypted_where(scope: str, places: int, here: bool, there: bool) -> None:
    """The scope and the destinations decide."""
    job = job_spec(destinations=(LocalDestination(name="usb", path="/mnt"),) * places)
    with Keyring(age(scope=scope)) as keys:
        assert (keys.seals_here, keys.seals_for(job)) == (here, there)


def test_a_closed_manifest_tells_no_names_and_opens_with_the_key(tmp_path: Path) -> None:
    """Outside is what lists and compares; inside is all; other content, or that of another backup, is refused."""
    with Keyring(age()) as keys:
        manifest, _ = sealed_manifest(keys, tmp_path)
        stored = keys.describe(manifest)
        closed = from_json(Manifest, stored)
        assert b"users" not in stored
        assert closed.source.databases == ()
        assert (closed.backup, closed.kind, closed.started) == (manifest.backup, manifest.kind, manifest.started)
        elsewhere = manifest.stored_elsewhere
        assert (closed.artifact.name, closed.artifact.sha256) == (elsewhere.name, elsewhere.sha256)
        assert closed.artifact.seal is not None
        assert closed.artifact.seal.plain_sha256 == ""
        assert keys.whole(closed) == manifest
        assert keys.describe(closed) == to_json(closed)
        other = msgspec.structs.replace(closed, backup="nanumpay-backup-2026-01-01T00-00-00")
        with pytest.raises(VerifyError, match="of another backup"):
            keys.whole(other)
        spoilt = base64.b64decode(closed.closed.partition(":")[2])[:-1]
        with pytest.raises(VerifyError, match="damaged"):
            keys.whole(msgspec.structs.replace(closed, closed=f"age:{base64.b64encode(spoilt).decode()}"))
        with pytest.raises(VerifyError, match="damaged"):
            keys.whole(msgspec.structs.replace(closed, closed="age:no base64"))
    with Keyring() as without, pytest.raises(DecryptError) as caught:
        without.whole(closed)
    assert caught.value.code == "key-missing"


def test_nothing_is_described_in_the_clear_once_encryption_is_off(tmp_path: Path) -> None:
    """The manifest of an encrypted copy is never stored openly, whatever the settings are by then."""
    with Keyring(age()) as keys:
        manifest, _ = sealed_manifest(keys, tmp_path)
    with Keyring(JobEncryption(method="none")) as off, pytest.raises(BackupdError) as caught:
        off.describe(manifest)
    assert caught.value.code == "encryption-off"


def test_a_closed_manifest_is_made_beside_and_its_faults_come_when_it_is_taken(tmp_path: Path) -> None:
    """Who begins it need not wait; who takes it gets what `describe` gives, or the tool's fault."""
    with Keyring(age()) as keys:
        manifest, _ = sealed_manifest(keys, tmp_path)
        made = Parcel(tmp_path, manifest.stored_elsewhere, keys.describing(manifest)).manifest
        assert keys.whole(from_json(Manifest, made)) == manifest
    broken = msgspec.structs.replace(age(), age="/nowhere/age")
    with Keyring(broken) as keys:
        parcel = Parcel(tmp_path, manifest.stored_elsewhere, keys.describing(manifest))
        with pytest.raises(ToolError) as caught:
            _ = parcel.manifest
        assert caught.value.code == "tool-missing"


def test_a_file_that_changed_since_it_was_proven_is_not_encrypted(tmp_path: Path) -> None:
    """What goes into the tool has to be what was read back."""
    with Keyring(age()) as keys:
        manifest = manifest_of(PLAIN)
        with pytest.raises(VerifyError) as caught:
            keys.seal(iter([PLAIN[:-1], b"?"]), lambda: manifest.artifact, tmp_path / "sealed", lambda _: None)
        assert caught.value.code == "verify-checksum"
        assert list(tmp_path.iterdir()) == []


def test_damage_is_only_what_is_not_as_it_was_stored(tmp_path: Path) -> None:
    """A file that does not decrypt is damaged where its checksum says so; where it does not, the tool is at fault."""
    with Keyring(age()) as keys:
        manifest, content = sealed_manifest(keys, tmp_path)
        stored = manifest.at(manifest.stored_elsewhere.name)
        proof = prove_stream(
            iter([content]), stored, MongoDatabase(SOURCE).check, SetClock(), lambda _: None, keys=keys
        )
        assert proof.verification.ok
        spoilt = content[:-1] + bytes([content[-1] ^ 1])
        with pytest.raises(VerifyError):
            prove_stream(iter([spoilt]), stored, MongoDatabase(SOURCE).check, SetClock(), lambda _: None, keys=keys)
        believed = msgspec.structs.replace(
            stored, artifact=msgspec.structs.replace(stored.artifact, sha256=sha256(spoilt).hexdigest())
        )
        with pytest.raises(ToolError, match="byte for byte what was stored"):
            prove_stream(iter([spoilt]), believed, MongoDatabase(SOURCE).check, SetClock(), lambda _: None, keys=keys)


@pytest.mark.parametrize("kind", [Kind.FULL, Kind.COLLECTION, Kind.INCREMENTAL, Kind.DIFFERENTIAL])
@pytest.mark.parametrize("seal,method", [("", ""), (".gpg", "openpgp"), (".age", "age")])
def test_names_of_encrypted_artifacts(kind: Kind, seal: str, method: str, tmp_path: Path) -> None:
    """Encryption adds to the name, which means the same backup; where such files lie the clean-up does not look."""
    identifier = backup_id("nanumpay", NOW, kind)
    sliced = kind in (Kind.INCREMENTAL, Kind.DIFFERENTIAL)
    name = f"{identifier}{'.bson.zst' if sliced else '.tar.gz'}{seal}"
    parsed = parse_artifact(name)
    assert parsed is not None
    assert parsed[:2] == (identifier, "nanumpay")
    assert (sealed_by(name), is_slice(name)) == (method, sliced)
    assert plain_name(name) == name.removesuffix(seal)
    folder = "slices" if sliced else "encrypted" if seal else tmp_path.name
    assert Layout(tmp_path).artifact(name).parent.name == folder
    assert parse_artifact(f"{name}.asc") is None


def test_the_application_is_told_only_of_what_it_can_offer(capsys: pytest.CaptureFixture[str]) -> None:
    """The line that it waits for names a .tar.gz; of an encrypted one, and before there is a file, it says nothing."""
    for artifact in (None, f"{NAME}.tar.gz.gpg", f"{NAME}.tar.gz"):
        shim._tell_file(artifact)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "압축 완료" in line] == [f"✅ 압축 완료: {NAME}.tar.gz"]


def test_encryption_in_words() -> None:
    """The status says by what, for whom, and which copies."""
    assert encryption_in_words(JobEncryption(method="none")) == "none"
    assert encryption_in_words(age(scope="all")) == "age to 1 recipient: every copy"
    assert "the copies elsewhere" in encryption_in_words(age())


def test_the_screen_of_an_encrypted_backup(tmp_path: Path) -> None:
    """It names the keys, how it is stored here and elsewhere, and says where a manifest cannot be opened."""
    with Keyring(age()) as keys:
        manifest, _ = sealed_manifest(keys, tmp_path)
        closed = from_json(Manifest, keys.describe(manifest))
    record = {
        "id": manifest.backup,
        "job": "nanumpay",
        "kind": "full",
        "created": "2026-11-21T02:00:00Z",
        "state": "verified",
        "artifact": manifest.artifact.name,
        "size": 10,
        "copies": [],
        "start": "",
        "end": "",
    }
    paper, times = screen(100)[0], Times("Asia/Seoul", "2026-11-21T20:00:00Z")
    whole = "\n".join(details.backup_lines(paper, record | {"manifest": to_builtins(manifest)}, times))
    assert f"none here; elsewhere age, to {age_key('first').recipient}" in whole
    outside = "\n".join(details.backup_lines(paper, record | {"manifest": to_builtins(closed)}, times))
    assert "there is no key here that opens it" in outside


def artifact_of(data: bytes, encryption: str) -> Artifact:
    """Return the record of a file that claims a method."""
    return msgspec.structs.replace(manifest_of(data).artifact, encryption=encryption)


def test_a_method_that_is_not_known_is_damage() -> None:
    """A manifest that names another method is not believed."""
    with Keyring() as keys, pytest.raises(VerifyError, match="not known"):
        list(keys.opened(artifact_of(b"x", "rot13"), iter([b"x"])))
