"""Secrets passed as systemd does it (files in $CREDENTIALS_DIRECTORY), all the way to real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.errors import EXIT_OK, EXIT_USAGE
from tests.servers.daemon import Site, open_site
from tests.servers.mongod import PASSWORD, Mongod, start_mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def guarded() -> Iterator[Mongod]:
    """A mongod that asks for a password."""
    with start_mongod(auth=True) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("cloud")) as server:
        yield server


@pytest.fixture
def site(guarded: Mongod, s3: S3Server) -> Iterator[Site]:
    """A site whose host file holds no secret: the connection string and the S3 key are credentials."""
    with open_site(guarded) as site:
        site.config.write_text(
            "[mongodb]\nuri = { credential = 'mongodb-uri' }\n"
            f"[paths]\nbackups = '{site.backups}'\nstate = '{site.state}'\nsocket = '{site.socket}'\n"
            "[nanumpay]\ndestinations = ['cloud']\n"
            f"[destination.cloud]\ntype = 's3'\nbucket = '{s3.bucket}'\nendpoint_url = '{s3.endpoint}'\n"
            f"path_style = true\naccess_key_id = '{ACCESS_KEY}'\nsecret_access_key = {{ credential = 's3-secret' }}\n"
        )
        yield site


def pass_on(site: Site, **credentials: str) -> dict[str, str]:
    """Write credentials as systemd does (read-only, for this user alone) and return the environment that names them."""
    folder = site.folder / "credentials"
    folder.mkdir(mode=0o700)
    for name, value in credentials.items():
        path = folder / name.replace("_", "-")
        path.write_text(value, encoding="utf-8")
        path.chmod(0o400)
    folder.chmod(0o500)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


def test_a_backup_with_nothing_but_credentials(site: Site) -> None:
    """Settings are watched, the dump is made and the copy is stored with secrets that are in no file of the daemon's.

    A trailing newline, as editors leave it, does no harm; workers are not told where the credentials are.
    """
    site.start(environment=pass_on(site, mongodb_uri=f"{site.uri}\n", s3_secret=SECRET_KEY))
    site.hold("nanumpay_backupd.pipeline.proving:prove")
    run = site.begin()
    site.wait_held()
    (worker,) = site.workers()
    environment = Path(f"/proc/{worker}/environ").read_bytes()
    assert b"NANUMPAY_TEST_SITE=" in environment
    assert b"CREDENTIALS_DIRECTORY" not in environment
    site.release()
    assert site.ended(run)["outcome"] == "succeeded"
    copies = {copy["destination"]: copy["state"] for copy in site.list_backups()[0]["copies"]}
    assert copies == {"local": "verified", "cloud": "verified"}
    assert site.stop() == EXIT_OK
    kept = [path.read_bytes() for path in (*site.state.rglob("*"), site.config, site.log_file) if path.is_file()]
    assert not [secret for secret in (PASSWORD, SECRET_KEY) if any(secret.encode() in data for data in kept)]


@pytest.mark.parametrize(
    "credentials, said",
    [
        (None, "credential 'mongodb-uri' cannot be read, because systemd passed no credentials"),
        ({"mongodb_uri": "mongodb://h/db"}, "systemd passed no credential 's3-secret'"),
        ({"mongodb_uri": "mongodb://h/db", "s3_secret": ""}, "the secret from credential 's3-secret' is empty"),
        ({"mongodb_uri": "http://h", "s3_secret": "x"}, "mongodb.uri"),
    ],
)
def test_what_is_missing_is_named(site: Site, credentials: dict[str, str] | None, said: str) -> None:
    """A credential that is not there, is empty or is no URI keeps the daemon from starting, and is named."""
    site.start(environment=pass_on(site, **credentials) if credentials is not None else {}, ready=False)
    assert site.process is not None
    assert site.process.wait(60) == EXIT_USAGE
    assert said in site.log()
    assert "Traceback" not in site.log()


def test_a_host_file_with_credentials_can_be_checked_in_a_shell(site: Site) -> None:
    """Where systemd passed nothing, all else in the file is checked, and the credentials are named as not checked."""
    command = [sys.executable, "-m", "nanumpay_backupd", "--config", str(site.config), "check-config"]
    done = subprocess.run(command, capture_output=True, text=True, env=site.environment(), cwd=PROJECT, timeout=60)
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    assert "only the service has them: the credentials mongodb-uri, s3-secret\n" in done.stdout
    site.config.write_text(f"nonsense = 1\n{site.config.read_text()}")
    done = subprocess.run(command, capture_output=True, text=True, env=site.environment(), cwd=PROJECT, timeout=60)
    assert done.returncode == EXIT_USAGE
    assert "nonsense is not a known key" in done.stderr
    assert "credential" not in done.stderr
