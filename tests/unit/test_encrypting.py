"""Encryption beside the plain artifact: it follows a file that grows, and leaves nothing where that is not to be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, ConfigError, VerifyError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from nanumpay_backupd.pipeline.outbox import Encrypting
from nanumpay_backupd.pipeline.proving import encrypt_staged
from nanumpay_backupd.settings.schema import JobEncryption
from nanumpay_backupd.settings.sources import mongodb_of
from nanumpay_backupd.sources.mongodb import MongoDatabase
from tests.keys import age_key
from tests.workbench import NOW, SetClock, archive_bytes, documents, job_spec, manifest_of, recorder


def options(*, key: bool = True) -> JobEncryption:
    """Return settings by which the copies elsewhere are encrypted."""
    pair = age_key("first")
    return JobEncryption(
        method="age", recipients=(pair.recipient,), scope="remote", decrypt_with=(pair.identity,) if key else ()
    )


@contextlib.contextmanager
def encrypting(folder: Path, how: JobEncryption) -> Iterator[tuple[Encrypting, Keyring, Layout]]:
    """Set up what a run has."""
    layout = Layout(folder / "backups")
    with (
        contextlib.closing(Catalog(folder / "catalog.sqlite")) as catalog,
        Keyring(how) as keys,
        Encrypting(layout, keys, recorder(catalog, SetClock())) as into,
    ):
        yield into, keys, layout


def growing(folder: Path, pieces: list[bytes], into: Encrypting, manifest: Manifest) -> Path:
    """Write a file piece by piece while it is followed; returns it, still to be called whole."""
    plain = folder / manifest.artifact.name
    with plain.open("wb", buffering=0) as stream:
        into.follow(plain)
        for piece in pieces:
            stream.write(piece)
            into.grown(len(piece))
    return plain


def plain_of(keys: Keyring, layout: Layout, into: Encrypting) -> bytes:
    """Return what an artifact in the outbox decrypts to."""
    artifact = into.result()
    return b"".join(keys.opened(artifact, iter([layout.waiting(artifact.name).read_bytes()])))


@given(sizes=st.lists(st.integers(0, 2 << 20), max_size=6))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_was_followed_is_what_was_written(sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """However a file grows, and although it is renamed meanwhile, all of it is encrypted, once."""
    folder = tmp_path_factory.mktemp("growing")
    pieces = [bytes([at % 251]) * size for at, size in enumerate(sizes)]
    manifest = manifest_of(b"".join(pieces))
    with encrypting(folder, options()) as (into, keys, layout):
        plain = growing(folder, pieces, into, manifest)
        plain.rename(folder / "published")
        into.whole(manifest)
        into.start(manifest)
        assert plain_of(keys, layout, into) == b"".join(pieces)
    assert [path.name for path in layout.outbox.iterdir()] == [f"{manifest.artifact.name}.age"]


@pytest.mark.parametrize("key", [True, False], ids=["key at hand", "no key here"])
def test_a_file_that_is_not_what_its_manifest_says_is_not_kept(key: bool, tmp_path: Path) -> None:
    """Whether it can be decrypted here or not: what is sent is the same as what is proven."""
    with encrypting(tmp_path, options(key=key)) as (into, _keys, layout):
        growing(tmp_path, [b"a", b"c"], into, manifest_of(b"ab"))
        into.whole(manifest_of(b"ab"))
        with pytest.raises(VerifyError) as caught:
            into.result()
        assert caught.value.code == "verify-checksum"
    assert list(layout.outbox.iterdir()) == []


def _nothing(_into: Encrypting, _manifest: Manifest) -> None:
    """The run fails in the middle of the file."""


def _whole(into: Encrypting, manifest: Manifest) -> None:
    """The run fails behind it."""
    into.whole(manifest)


@pytest.mark.parametrize("ends", [_nothing, _whole], ids=["cut off", "whole, not wanted"])
def test_what_is_not_wanted_leaves_nothing(ends: Callable[[Encrypting, Manifest], None], tmp_path: Path) -> None:
    """A run that fails ends the encryption, and no file and no tool of it is left."""
    manifest = manifest_of(b"ab")
    with encrypting(tmp_path, options()) as (into, _keys, layout):
        growing(tmp_path, [b"a", b"b"], into, manifest)
        ends(into, manifest)
    with contextlib.suppress(CancelledError):
        into.result()
    assert list(layout.outbox.iterdir()) == []


def test_a_second_attempt_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """A dump that is made again is followed anew; of the file before nothing is left."""
    first, second = manifest_of(b"first"), manifest_of(b"second", NOW + timedelta(seconds=1))
    with encrypting(tmp_path, options()) as (into, keys, layout):
        growing(tmp_path, [b"fir"], into, first)
        growing(tmp_path, [b"sec", b"ond"], into, second)
        into.whole(second)
        assert plain_of(keys, layout, into) == b"second"
    assert [path.name for path in layout.outbox.iterdir()] == [f"{second.artifact.name}.age"]


def test_a_key_that_cannot_be_used_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """Writing goes on; only who asks for the result gets to know."""
    bad = JobEncryption(method="age", recipients=("age1nothing",), scope="remote")
    manifest = manifest_of(b"ab")
    with encrypting(tmp_path, bad) as (into, _keys, _layout):
        growing(tmp_path, [b"a", b"b"], into, manifest)
        into.whole(manifest)
        with pytest.raises(BackupdError) as caught:
            into.result()
    assert isinstance(caught.value, ConfigError)
    assert caught.value.code == "recipient-unusable"


@pytest.mark.parametrize("spoilt", [False, True], ids=["whole", "damaged on the disk"])
def test_without_a_key_what_is_encrypted_is_what_is_proven_meanwhile(spoilt: bool, tmp_path: Path) -> None:
    """One reading proves and encrypts: an encrypted file is there only where the proof was good, and of these bytes."""
    content = documents(50)
    name = backup_id("nanumpay", NOW)
    data = archive_bytes(name, {f"{name}/nanumpay/users.bson": content})
    manifest = manifest_of(data, collections={"nanumpay.users": (50, len(content))}, raw_bytes=len(content))
    plain = tmp_path / manifest.artifact.name
    middle = len(data) // 2
    plain.write_bytes(data[:middle] + bytes([data[middle] ^ spoilt]) + data[middle + 1 :])
    with (
        contextlib.closing(Catalog(tmp_path / "catalog.sqlite")) as catalog,
        Keyring(options(key=False)) as keys,
        Keyring(options()) as other,
    ):
        source = MongoDatabase(mongodb_of(job_spec().source, "a test"))
        if spoilt:
            with pytest.raises(VerifyError):
                encrypt_staged(source, plain, manifest, recorder(catalog, SetClock()), keys)
            assert not list(tmp_path.glob("*.age"))
            return
        sealed, made = encrypt_staged(source, plain, manifest, recorder(catalog, SetClock()), keys)
        assert b"".join(other.opened(made.artifact, iter([sealed.read_bytes()]))) == data
    assert [item.level for item in made.verification if item.ok] == ["structure"]
    assert made.artifact.sha256 == sha256(sealed.read_bytes()).hexdigest()
    assert not plain.exists()
