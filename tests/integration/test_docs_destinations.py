"""What docs/destinations says about restoring by hand, done as it stands there, with stock tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanumpay_backupd.settings.destination_tables import DESTINATIONS
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from tests.servers.certs import make_certificate
from tests.servers.ftp import PASSWORD as FTP_PASSWORD
from tests.servers.ftp import start_pyftpdlib
from tests.servers.sftp import start_sshd
from tests.servers.tools import PROJECT
from tests.servers.webdav import PASSWORD, start_rclone_webdav

pytestmark = pytest.mark.servers

ARTIFACT, MANIFEST = bytes(range(256)) * 5000, b'{"format":1}'


def _commands(page: str) -> str:
    text = (PROJECT / "docs" / "destinations" / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"## Restoring by hand\n\n```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


def _store(store: Store) -> None:
    with store:
        store.put_bytes("NAME.tar.gz", ARTIFACT)
        store.put_bytes("NAME.tar.gz.manifest.json", MANIFEST)


def _run(script: str, folder: Path) -> None:
    done = subprocess.run(["sh", "-ec", script], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (folder / "NAME.tar.gz").read_bytes() == ARTIFACT
    assert (folder / "NAME.tar.gz.manifest.json").read_bytes() == MANIFEST


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
