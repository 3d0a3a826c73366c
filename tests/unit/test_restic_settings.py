"""Settings of a restic repository: what fits together, where it stands, how it is typed as one word."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.model import Artifact
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import parse_artifact
from nanumpay_backupd.pipeline.plain import stored_plain
from nanumpay_backupd.settings.destinations import ResticDestination
from nanumpay_backupd.settings.kinds import Place
from nanumpay_backupd.settings.merge import _encryption_warnings
from nanumpay_backupd.settings.natures import standing_of
from nanumpay_backupd.settings.place import read_place
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.settings.restic_kinds import Variables, Words
from nanumpay_backupd.settings.schema import HostConfig, JobEncryption, decode_hook, encode_hook, to_public
from nanumpay_backupd.system.secrets import Secret
from tests.workbench import NOW, manifest_of

SECRET = "geheim-repository-7"


def restic(repository: str, **changes: Any) -> ResticDestination:
    """Return a repository."""
    return ResticDestination(**{"name": "vault", "repository": repository, "password": Secret(SECRET), **changes})


@pytest.mark.parametrize(
    "repository,media,offsite",
    [
        ("/srv/my.restic", "disk", False),
        ("local:/srv/restic", "disk", False),
        ("s3:https://s3.amazonaws.com/bucket/x", "restic", True),
        ("s3:s3.amazonaws.com/bucket", "restic", True),
        ("s3:http://192.168.0.7:9000/bucket", "restic", False),
        ("sftp:backup@nas:/srv/x", "restic", False),
        ("sftp:backup@nas.example.com:/srv/x", "restic", True),
        ("sftp://backup@10.0.0.3:2222//srv/x", "restic", False),
        ("rest:https://backup.example.com/", "restic", True),
        ("rest:http://localhost:8000/", "restic", False),
        ("rclone:drive:backups", "restic", True),
        ("b2:bucket:path", "restic", True),
    ],
)
def test_where_a_repository_stands(repository: str, media: str, offsite: bool) -> None:
    """A folder is a disk of this host; anything else is off-site unless its address is of the own network."""
    assert standing_of(restic(repository)) == (media, offsite)


@pytest.mark.parametrize(
    "changes,key",
    [
        ({}, None),
        ({"password": Secret("")}, "password"),
        ({"repository": f"rest:https://me:{SECRET}@host/"}, "repository"),
        ({"repository": f"s3:https://me:{SECRET}@host/b"}, "repository"),
        ({"repository": f"sftp://me:{SECRET}@host/b"}, "repository"),
        ({"repository": "sftp://me@host:2222/b"}, None),
        ({"repository": "sftp:me@host:/b"}, None),
        ({"repository": "/srv/a@b"}, None),
        ({"rest_username": "me"}, "rest_username"),
        ({"rest_password": Secret("pw")}, "rest_password"),
        ({"access_key_id": "id"}, "access_key_id"),
        ({"access_key_id": "id", "secret_access_key": Secret("key")}, None),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], key: str | None) -> None:
    """What is missing, or would show a secret, is named by its key, and no text repeats it."""
    found = list(restic(**{"repository": "/srv/restic", **changes}).conflicts())
    assert [item[0] for item in found] == ([key] if key else [])
    assert SECRET not in str(found)


def test_variables_are_plain_or_secrets() -> None:
    """A region may stand in a file that all can read, a key may not; names of restic's own are refused."""
    kind, open_file = Variables(), Place("variables", world_readable=True)
    assert kind.parse({"AWS_DEFAULT_REGION": "eu-1"}, open_file) == (("AWS_DEFAULT_REGION", Secret("eu-1")),)
    assert SECRET not in kind.show(kind.parse({"B2_ACCOUNT_KEY": SECRET}, Place("variables")))
    for wrong in ({"B2_ACCOUNT_KEY": SECRET}, {"RESTIC_PASSWORD": "x"}, {"lower": "x"}, ["x"]):
        with pytest.raises(Mismatch) as caught:
            kind.parse(wrong, open_file)
        assert SECRET not in caught.value.reason + caught.value.fix


@pytest.mark.parametrize("wrong", [["no-value"], ["--json=x"], "s3.x=1", ["a=b", "a=b"], ["a=\n"]])
def test_options_are_of_the_form_that_restic_takes(wrong: Any) -> None:
    """Anything but name=value is refused."""
    with pytest.raises(Mismatch):
        Words().parse(wrong, Place("options"))


def test_a_repository_as_one_word() -> None:
    """The word is restic's own, its secrets are restic's variables, and further logins go with it."""
    environ = {"RESTIC_PASSWORD": SECRET, "AWS_ACCESS_KEY_ID": "id", "HOME": "/root"}
    place = read_place("restic:s3:https://s3.example.com/bucket/x?path=/other", HostConfig(), environ)
    assert place == ResticDestination(
        name="restic:s3:https://s3.example.com/bucket/x",
        repository="s3:https://s3.example.com/bucket/x",
        path="/other",
        password=Secret(SECRET),
        variables=(("AWS_ACCESS_KEY_ID", Secret("id")),),
    )
    assert place.wants_plain


@pytest.mark.parametrize(
    "word",
    ["restic:", "restic:relative/path", f"restic:rest:https://me:{SECRET}@h/", f"restic:/srv/x?password={SECRET}"],
)
def test_words_that_are_refused(word: str) -> None:
    """What names no repository, or holds a secret, is refused without showing it."""
    with pytest.raises(ConfigError) as caught:
        read_place(word, HostConfig(), {"RESTIC_PASSWORD": SECRET})
    assert SECRET not in caught.value.message + caught.value.hint


def test_a_password_is_needed() -> None:
    """Without one the variables are named."""
    with pytest.raises(ConfigError) as caught:
        read_place("restic:/srv/x", HostConfig(), {})
    assert "RESTIC_PASSWORD_FILE" in caught.value.hint


def test_its_secrets_reach_the_worker_and_nobody_else() -> None:
    """Settings with variables arrive in another process as they were; as they are shown they hold no secret."""
    place = restic("b2:bucket:path", variables=(("B2_ACCOUNT_KEY", Secret(SECRET)),))
    sent = msgspec.json.encode(place, enc_hook=encode_hook)
    assert msgspec.json.decode(sent, type=ResticDestination, dec_hook=decode_hook) == place
    assert SECRET not in f"{place!r} {to_public(place)}"


@pytest.mark.parametrize(
    "changes,warned",
    [
        ({}, False),
        ({"method": "age", "scope": "all", "recipients": ("age1x",)}, True),
        ({"method": "age", "scope": "all", "recipients": ("age1x",), "decrypt_with": (Secret("key"),)}, False),
        ({"method": "age", "scope": "remote", "recipients": ("age1x",)}, False),
        ({"method": "openpgp", "scope": "all", "passphrase": Secret("long enough")}, False),
    ],
)
def test_it_is_told_where_nothing_is_shared(changes: dict[str, Any], warned: bool) -> None:
    """Only what is encrypted before, to keys that are not here, takes its full room each time; that is said."""
    told = _encryption_warnings(JobEncryption(**changes), (restic("/srv/restic"),), of_application=False)
    assert any("vault has nothing in common" in text for text in told) is warned


@pytest.mark.parametrize(
    "name,compression,stored",
    [
        ("nanumpay-backup-2026-11-21T02-00-00.tar.gz", "gzip", "nanumpay-backup-2026-11-21T02-00-00.tar"),
        ("nanumpay-backup-2026-11-21T02-00-00.tar", "none", "nanumpay-backup-2026-11-21T02-00-00.tar"),
        ("nanumpay-slice-2026-11-21T02-00-00.bson.zst", "zstd", "nanumpay-slice-2026-11-21T02-00-00.bson.zst"),
        ("site-slice-2026-11-21T02-00-00.tar.gz", "gzip", "site-slice-2026-11-21T02-00-00.tar"),
        ("shop-collection-2026-11-21T02-00-00.tar.gz", "gzip", "shop-collection-2026-11-21T02-00-00.tar"),
    ],
)
def test_names_of_what_goes_in_are_names_of_ours(name: str, compression: str, stored: str) -> None:
    """Without its compression an artifact has a name that a rebuild knows again, of the same backup."""
    artifact = Artifact(name=name, size=10, sha256="", compression=compression, level=2, raw_bytes=99)
    manifest = msgspec.structs.replace(manifest_of(b"", NOW), artifact=artifact)
    with Keyring() as keys:
        assert stored_plain(manifest, keys) == (stored, 10 if stored == name else 99)
    before, after = parse_artifact(name), parse_artifact(stored)
    assert before is not None
    assert after == before
