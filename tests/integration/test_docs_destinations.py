"""What docs/destinations says about restoring by hand, done as it stands there, with stock tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanumpay_backupd.settings.destination_tables import DESTINATIONS
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from tests.servers.azurite import ACCOUNT, KEY, start_azurite
from tests.servers.certs import make_certificate
from tests.servers.dropbox import start_dropbox
from tests.servers.ftp import PASSWORD as FTP_PASSWORD
from tests.servers.ftp import start_pyftpdlib
from tests.servers.gcs import start_gcs
from tests.servers.process import TRUST_VARIABLES
from tests.servers.s3 import find_rclone
from tests.servers.sftp import start_sshd
from tests.servers.tools import PROJECT
from tests.servers.webdav import PASSWORD, start_rclone_webdav

pytestmark = pytest.mark.servers

ARTIFACT, MANIFEST = bytes(range(256)) * 5000, b'{"format":1}'


def _commands(page: str) -> str:
    text = (PROJECT / "docs" / "destinations" / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"## Restoring by hand\n\n```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


def _marked(page: str, mark: str) -> str:
    text = (PROJECT / "docs" / "destinations" / page).read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- test: {mark} -->\n```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


def _rclone(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment for the rclone that the tests have, without a configuration of anybody's."""
    (folder / "bin").mkdir()
    (folder / "bin/rclone").symlink_to(find_rclone())
    kept = {name: value for name, value in os.environ.items() if name not in TRUST_VARIABLES}
    return {**kept, "PATH": f"{folder}/bin:{kept['PATH']}", "RCLONE_CONFIG": os.devnull, "RCLONE_RETRIES": "1", **more}


def _store(store: Store) -> None:
    with store:
        store.put_bytes("NAME.tar.gz", ARTIFACT)
        store.put_bytes("NAME.tar.gz.manifest.json", MANIFEST)


def _run(script: str, folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(["sh", "-ec", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (folder / "NAME.tar.gz").read_bytes() == ARTIFACT
    assert (folder / "NAME.tar.gz.manifest.json").read_bytes() == MANIFEST
    return done.stdout + done.stderr


def test_copies_come_from_an_ssh_server_by_hand(tmp_path: Path) -> None:
    """OpenSSH's sftp fetches artifact and manifest by the commands of docs/destinations/sftp.md."""
    here = tmp_path / "here"
    here.mkdir()
    with start_sshd(tmp_path / "server") as server:
        _store(open_store(server.destination(path="files/nanumpay")))
        shutil.copy(server.keys / "plain", here / "nas-key")
        (here / "nas-key").chmod(0o600)
        options = (
            f"-q -P {server.port} -o HostName=127.0.0.1 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        )
        _run(f'sftp() {{ command sftp {options} "$@"; }}\n{_commands("sftp.md")}', here)


def test_copies_come_from_a_webdav_server_by_hand(tmp_path: Path) -> None:
    """Curl fetches artifact and manifest by the commands of docs/destinations/webdav.md."""
    here = tmp_path / "here"
    here.mkdir()
    with start_rclone_webdav(tmp_path) as server:
        _store(open_store(server.destination(path="nanumpay")))
        commands = _commands("webdav.md").replace("-u backup ", f"-sSf -u 'backup:{PASSWORD}' ")
        _run(commands.replace("https://cloud.example.com/remote.php/dav/files/backup", server.url), here)


def test_copies_come_from_an_ftp_server_by_hand(tmp_path: Path) -> None:
    """Curl fetches artifact and manifest over TLS by the commands of docs/destinations/ftp.md."""
    here = tmp_path / "here"
    here.mkdir()
    certificate = make_certificate(tmp_path / "certificate")
    with start_pyftpdlib(tmp_path / "root", certificate) as server:
        _store(open_store(server.destination(path="/backup/nanumpay")))
        login = f"--cacert {certificate.authority} -sSf -u '{server.user}:{FTP_PASSWORD}' "
        commands = _commands("ftp.md").replace("-u backup ", login)
        _run(commands.replace("ftp.example.com", f"{server.host}:{server.port}"), here)


def test_copies_come_from_a_folder_by_hand(tmp_path: Path) -> None:
    """Cp fetches artifact and manifest by the commands of docs/destinations/local.md."""
    here, disk = tmp_path / "here", tmp_path / "disk"
    here.mkdir()
    _store(open_store(LocalDestination(name="usb", path=str(disk))))
    _run(_commands("local.md").replace("/mnt/usb", str(disk)), here)


def test_every_kind_of_destination_has_a_page_that_is_named_everywhere() -> None:
    """Each type of the host file has docs/destinations/TYPE.md, and the READMEs and the reference lead to it."""
    known = {path.stem for path in (PROJECT / "docs" / "destinations").glob("*.md")}
    assert known >= set(DESTINATIONS)
    for kind in DESTINATIONS:
        for page in ("README.md", "README.ko.md"):
            assert f"docs/destinations/{kind}.md" in (PROJECT / page).read_text(encoding="utf-8")
        reference = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
        assert f"(destinations/{kind}.md)" in reference


def test_copies_come_from_google_by_hand(tmp_path: Path) -> None:
    """Rclone lists, fetches and compares by the commands of docs/destinations/gcs.md; their checksums are right."""
    here = tmp_path / "here"
    here.mkdir()
    with start_gcs() as server:
        _store(open_store(server.destination(prefix="nanumpay-backup/")))
        (here / "gcs-key.json").write_text(server.account(server.key).reveal())
        env = _rclone(tmp_path, RCLONE_GCS_ENDPOINT=f"{server.endpoint}/storage/v1/")
        said = _run(_marked("gcs.md", "rclone").replace("my-backups", server.bucket), here, env)
    assert said.startswith("NAME.tar.gz\nNAME.tar.gz.manifest.json\n")
    assert "0 differences found" in said
    assert "could not be checked" not in said


def test_copies_come_from_azure_by_hand(tmp_path: Path) -> None:
    """Rclone lists, fetches and compares by the commands of docs/destinations/azure.md; their checksums are right."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "azure-key").write_text(f"{KEY}\n")
    with start_azurite(tmp_path) as server:
        # In blocks: their MD5 is the one that we have put there.
        _store(open_store(server.destination(prefix="nanumpay-backup/", block_size=1 << 20)))
        env = _rclone(tmp_path, RCLONE_AZUREBLOB_ENDPOINT=server.endpoint)
        said = _run(_marked("azure.md", "rclone").replace("mystorageaccount", ACCOUNT), here, env)
    assert said.startswith("NAME.tar.gz\nNAME.tar.gz.manifest.json\n")
    assert "0 differences found" in said
    assert "could not be checked" not in said


def test_copies_come_from_dropbox_by_hand(tmp_path: Path) -> None:
    """Curl fetches artifact and manifest by the commands of docs/destinations/dropbox.md, no secret on its line."""
    here = tmp_path / "here"
    here.mkdir()
    with start_dropbox(tmp_path) as server:
        settings = server.destination(path="/nanumpay-backup")
        _store(open_store(settings))
        login = f'user = "{settings.app_key}:{settings.app_secret.reveal()}"\n'
        (here / "login").write_text(f'{login}data = "refresh_token={settings.refresh_token.reveal()}"\n')
        script = _marked("dropbox.md", "curl")
        for host in ("https://api.dropboxapi.com", "https://content.dropboxapi.com"):
            script = script.replace(host, server.endpoint)
        _run(script, here)
