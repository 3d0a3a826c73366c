"""A large upload that survives three kills of the daemon and one of the server: ``make test-resume SIZE=2GB``.

Only there, since it takes minutes and three times the size of disk; test_upload_kill.py has the same in small.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest

from tests.servers.daemon import Site, open_site, wait_for
from tests.servers.ftp import FOLDER, PASSWORD, start_vsftpd
from tests.servers.process import Program, free_port
from tests.servers.proxy import start_proxy
from tests.servers.radosgw import start_radosgw
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY
from tests.servers.sftp import start_sshd

SIZE: Final = os.environ.get("NANUMPAY_TEST_RESUME_SIZE", "")
pytestmark = [
    pytest.mark.promise("An upload that was cut off goes on where it stood; nobody has to do anything.", item=1),
    pytest.mark.servers,
    pytest.mark.skipif(not SIZE, reason="takes minutes: make test-resume SIZE=2GB"),
]

_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
BYTES: Final = int(SIZE[:-2]) * _UNITS[SIZE[-2:]] if SIZE else 0
MOST_SENT: Final = 1.2
_PATIENCE: Final = 900.0


class Place:
    """A destination before which bytes are counted, and whose server can be killed and comes back as it was."""

    def __init__(
        self,
        table: str,
        sent: Callable[[], int],
        kill_server: Callable[[], None],
        holds: Callable[[str, Path], bool],
    ) -> None:
        self.table = table
        self.sent = sent
        self.kill_server = kill_server
        self.holds = holds
        """Tell whether an object has just the bytes of a file; False also when there is none yet."""


class Nowhere:
    """A host without MongoDB."""

    def uri_for(self, database: str) -> str:
        """Return an address where nobody listens."""
        return f"mongodb://127.0.0.1:1/{database}?serverSelectionTimeoutMS=200"

    def client(self, **options: Any) -> Any:
        """There is none."""
        raise NotImplementedError(options)


@pytest.fixture(params=["s3", "ftp", "sftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind: Ceph's gateway, vsftpd, sshd, behind a proxy that counts."""
    with contextlib.ExitStack() as stack:
        yield {"s3": _s3, "ftp": _ftp, "sftp": _sftp}[request.param](stack, tmp_path)


def _s3(stack: contextlib.ExitStack, folder: Path) -> Place:
    gateway = stack.enter_context(start_radosgw(folder / "ceph", memory=3 * BYTES))
    port = free_port()
    forward = int(gateway.endpoint.rpartition(":")[2])
    proxy = stack.enter_context(start_proxy("127.0.0.1", port, forward_to=forward, record=False))
    client = boto3.client(
        "s3",
        endpoint_url=gateway.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="backups")

    def killed() -> None:
        gateway.kill()
        gateway.start()

    def holds(name: str, path: Path) -> bool:
        body = client.get_object(Bucket="backups", Key=name)["Body"]
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                if body.read(len(chunk)) != chunk:
                    return False
        return not body.read(1)

    table = (
        "type = 's3'\nbucket = 'backups'\nprefix = ''\nregion = 'us-east-1'\npath_style = true\n"
        f"endpoint_url = 'http://127.0.0.1:{port}'\n"
        f"access_key_id = '{ACCESS_KEY}'\nsecret_access_key = '{SECRET_KEY}'\n"
    )
    return Place(table, lambda: proxy.brought, killed, holds)


def _ftp(stack: contextlib.ExitStack, folder: Path) -> Place:
    server = stack.enter_context(start_vsftpd(folder / "root", folder, address="127.0.0.2"))
    proxy = stack.enter_context(start_proxy("127.0.0.2", server.port, server.passive_ports, record=False))
    assert server.program is not None
    revive = _revival(server.program)
    table = (
        f"type = 'ftp'\nhost = '127.0.0.1'\nport = {server.port}\nusername = '{server.user}'\n"
        f"password = '{PASSWORD}'\npath = '{server.base}{FOLDER}'\nsecure = false\n"
    )
    return Place(table, lambda: proxy.sent, revive, _same_in(server.folder))


def _sftp(stack: contextlib.ExitStack, folder: Path) -> Place:
    server = stack.enter_context(start_sshd(folder / "ssh"))
    port = free_port()
    proxy = stack.enter_context(start_proxy("127.0.0.1", port, forward_to=server.port, record=False))
    revive = _revival(server.program)
    key = server.keys / "plain"
    key.chmod(0o600)
    table = (
        f"type = 'sftp'\nhost = '127.0.0.1'\nport = {port}\nusername = 'backup'\n"
        f"private_key = {{ file = '{key}' }}\nhost_key = ['{server.fingerprint}']\npath = '{server.base}/nanumpay'\n"
    )
    return Place(table, lambda: proxy.brought, revive, _same_in(server.folder))


def _same_in(folder: Path) -> Callable[[str, Path], bool]:
    return lambda name, path: filecmp.cmp(folder / name, path, shallow=False)


def _revival(program: Program) -> Callable[[], None]:
    """Return what kills a server with all that it started, and starts it again just so."""

    def killed() -> None:
        program.kill()
        time.sleep(2.0)  # a machine takes longer to come back
        program.start()

    return killed


def test_three_kills_of_the_daemon_and_one_of_the_server(place: Place, tmp_path: Path) -> None:
    """Nobody has to do anything: the object is byte-equal in the end, and little was sent twice."""
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "noise").open("wb") as stream:
        for _ in range(BYTES >> 20):
            stream.write(os.urandom(1 << 20))
    with open_site(Nowhere(), fill=False) as site:
        site.write_config(
            "[nanumpay]\nenabled = false\n[retry]\nattempts = 50\ndelay = '1s'\n"
            f"[[job]]\nname = 'big'\ntype = 'files'\npath = ['{tree}']\ndestinations = ['away']\n"
            f"[destination.away]\n{place.table}bandwidth = '{max(1, BYTES >> 25)}MiB'\n"
        )
        site.start()
        site.begin("big")
        before = time.monotonic()
        for number, what in enumerate(("daemon", "server", "daemon", "daemon"), start=1):
            _wait_for_bytes(place, site, number * BYTES // 5)
            if what == "server":
                place.kill_server()
            else:
                site.kill()
                site.start()
        (backup,) = wait_for(site.list_backups, "the backup")
        wait_for(lambda: _arrived(site), "the copy", _PATIENCE)
        artifact = site.backups / backup["artifact"]
        assert place.holds(artifact.name, artifact)
        told = f"{place.sent():,} of {backup['size']:,} bytes sent: {place.sent() / backup['size']:.3f}"
        print(f"\n{told}; {time.monotonic() - before:.0f} s with the dump")  # the figure that is asked for
        print("\n".join(line for line in site.log().splitlines() if "earlier try" in line))
        assert place.sent() < MOST_SENT * backup["size"], told
        assert "were there from an earlier try" in site.log()


def _wait_for_bytes(place: Place, site: Site, sent: int) -> None:
    def enough() -> bool:
        assert not _arrived(site), "it was done before it was killed"
        return place.sent() >= sent

    wait_for(enough, f"{sent} bytes", _PATIENCE)


def _arrived(site: Site) -> bool:
    copies = [copy for backup in site.list_backups() for copy in backup.get("copies", ())]
    return any(copy["destination"] == "away" and copy["state"] in ("uploaded", "verified") for copy in copies)
