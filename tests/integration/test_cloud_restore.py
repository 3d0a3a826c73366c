"""A backup at three clouds, made by the daemon, and brought back on a machine that has nothing but a login for one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.stores.factory import open_store
from tests.integration.test_cli import backupctl
from tests.integration.test_sqlite import Nowhere, make, rows
from tests.servers.azurite import ACCOUNT, KEY, start_azurite
from tests.servers.daemon import open_site
from tests.servers.dropbox import start_dropbox
from tests.servers.gcs import start_gcs

pytestmark = pytest.mark.servers

_ROWS: Final = 4000


@dataclass(frozen=True)
class Clouds:
    """What is known of a lost machine's copies: the words for the places, the logins, and the backup's name."""

    words: dict[str, str]
    logins: dict[str, dict[str, str]]
    backup: str
    listed: dict[str, set[str]]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    """Let a daemon make one backup of a database and put it at all three."""
    root = tmp_path_factory.mktemp("clouds")
    make(root / "data/app.db", _ROWS)
    with start_gcs() as google, start_azurite(root) as azurite, start_dropbox(root) as dropbox:
        drop = dropbox.destination(path="/shop")
        key = root / "key.json"
        key.write_text(google.account(google.key).reveal())
        secrets = {
            "sas": azurite.sas().reveal(),
            "secret": drop.app_secret.reveal(),
            "token": drop.refresh_token.reveal(),
        }
        for name, text in secrets.items():
            (root / name).write_text(text)
        for path in (key, *(root / name for name in secrets)):
            path.chmod(0o600)
        with open_site(Nowhere(), fill=False) as site:
            site.write_config(
                f"""
                [nanumpay]
                enabled = false
                [[job]]
                name = "app"
                type = "sqlite"
                path = ["{root}/data/app.db"]
                destinations = ["google", "azure", "dropbox"]
                [destination.google]
                type = "gcs"
                bucket = "{google.bucket}"
                prefix = "shop/"
                service_account = {{ file = "{key}" }}
                endpoint_url = "{google.endpoint}"
                [destination.azure]
                type = "azure"
                account = "{ACCOUNT}"
                container = "{azurite.container}"
                prefix = "shop/"
                sas_token = {{ file = "{root}/sas" }}
                endpoint_url = "{azurite.endpoint}"
                [destination.dropbox]
                type = "dropbox"
                path = "/shop"
                app_key = "{drop.app_key}"
                app_secret = {{ file = "{root}/secret" }}
                refresh_token = {{ file = "{root}/token" }}
                endpoint_url = "{dropbox.endpoint}"
                """
            )
            site.start()
            done = backupctl(site.socket, "run", "app")
            assert done.returncode == 0, done.stdout + done.stderr
            backup = site.call("DescribeBackup", backup="latest")["backup"]["id"]
            told = {
                name: [
                    (check["name"].rpartition(": ")[2], check["state"], check["message"])
                    for check in site.call("TestDestination", job="app", destination=name)["checks"]
                ]
                for name in ("google", "azure", "dropbox")
            }
        listed = {}
        for settings in (google.destination(prefix="shop/"), azurite.destination(prefix="shop/"), drop):
            with open_store(settings) as store:
                listed[settings.name] = {info.key for info in store.list()}
        yield Clouds(
            {
                "google": f"gs://{google.bucket}/shop?endpoint_url={google.endpoint}",
                "azure": f"azure://{ACCOUNT}/{azurite.container}/shop?endpoint_url={azurite.endpoint}",
                "dropbox": f"dropbox:/shop?endpoint_url={dropbox.endpoint}",
            },
            {
                "google": {"GOOGLE_APPLICATION_CREDENTIALS": str(key)},
                "azure": {"AZURE_STORAGE_KEY": KEY},
                "dropbox": {
                    "DROPBOX_APP_KEY": drop.app_key,
                    "DROPBOX_APP_SECRET": secrets["secret"],
                    "DROPBOX_REFRESH_TOKEN": secrets["token"],
                },
            },
            backup,
            listed,
            told,
        )


def _restore(word: str, login: dict[str, str], folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "work").mkdir(exist_ok=True)
    (folder / "empty.toml").touch(mode=0o600)
    argv = ["--config", str(folder / "empty.toml"), "restore", "--from", word, "--work", str(folder / "work"), *more]
    return subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd", *argv],
        env={**os.environ, **login},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("kind", ["google", "azure", "dropbox"])
def test_what_is_left_at_a_cloud_is_restored_from_there(clouds: Clouds, kind: str, tmp_path: Path) -> None:
    """From the place alone, with its login in the environment and no host file, it is listed and restored."""
    assert len(clouds.listed[kind]) == 2
    word, login = clouds.words[kind], clouds.logins[kind]
    listed = _restore(word, login, tmp_path, "--list")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert clouds.backup in listed.stdout
    done = _restore(word, login, tmp_path, "--only", "app.db", "--to", str(tmp_path / "back.db"), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(tmp_path / "back.db") == _ROWS


@pytest.mark.parametrize("kind", ["google", "azure", "dropbox"])
def test_a_login_that_does_not_fit_is_told_and_not_shown(clouds: Clouds, kind: str, tmp_path: Path) -> None:
    """A wrong secret is refused by the place, and no text of ours has it in it."""
    wrong = dict.fromkeys(clouds.logins[kind], "not-the-Secret-12345")
    if kind == "azure":
        wrong["AZURE_STORAGE_KEY"] = "bm90LXRoZS1TZWNyZXQtMTIzNDU="
    done = _restore(clouds.words[kind], wrong, tmp_path, "--list")
    assert done.returncode not in (0, 120)
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert not any(secret in said for name, secret in wrong.items() if name != "GOOGLE_APPLICATION_CREDENTIALS")


@pytest.mark.parametrize(
    "kind,topics",
    [
        (
            "google",
            {"credentials", "rights", "versioning", "lifecycle", "lock", "encryption", "public access", "replication"},
        ),
        ("azure", {"credentials", "public access", "lock", "encryption", "versioning", "replication"}),
        ("dropbox", {"account", "versioning"}),
    ],
)
def test_how_a_cloud_is_set_up_is_told(clouds: Clouds, kind: str, topics: set[str]) -> None:
    """Testing a destination tells of its settings, and fails for none of what these servers do not know."""
    found = {topic: (state, message) for topic, state, message in clouds.told[kind]}
    assert topics <= set(found), found
    assert not [topic for topic, (state, _) in found.items() if state == "failed"], found
