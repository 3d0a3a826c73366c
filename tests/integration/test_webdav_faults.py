"""WebDAV when something goes wrong: cuts, silence, certificates, rights, full disks, answers that are none."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.webdav_answers import read_multistatus
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate, make_certificate
from tests.servers.cloud_gate import start_cloud_gate
from tests.servers.process import free_port
from tests.servers.proxy import BreakingProxy, start_proxy
from tests.servers.webdav import PASSWORD, WebdavServer, start_apache, start_rclone_webdav
from tests.workbench import small_disk

pytestmark = pytest.mark.servers

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
MIB: Final = 1 << 20
DATA: Final = random.Random(8).randbytes(9 * MIB + 777)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make an authority and a server's certificate."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebdavServer]:
    """Run a server."""
    with start_rclone_webdav(tmp_path) as running:
        yield running


@pytest.fixture
def proxied(server: WebdavServer) -> Iterator[tuple[str, BreakingProxy]]:
    """Put the breaking proxy before the server; its address comes with it."""
    port = free_port()
    with start_proxy("127.0.0.1", port, forward_to=server.port) as proxy:
        yield server.url.replace(str(server.port), str(port)), proxy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file of 9 MiB to store."""
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


def _fails(call: Callable[[], Any]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    assert caught.value.hint
    return caught.value


def _names(server: WebdavServer) -> set[str]:
    return {entry.name for entry in server.folder.iterdir()}


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, certificate: Certificate) -> None:
    """It is destination-tls; its authority or its fingerprint makes it good, another fingerprint does not."""
    with start_rclone_webdav(tmp_path, certificate) as server:
        error = _fails(lambda: open_store(server.destination(ca_file="")).put_bytes(KEY, b"x"))
        assert (error.code, error.retryable) == ("destination-tls", False)
        pin = certificate.fingerprint
        assert pin in error.message
        assert f"tls_fingerprint = '{pin}'" in error.hint
        error = _fails(lambda: open_store(server.destination(tls_fingerprint="0" * 64)).put_bytes(KEY, b"x"))
        assert error.code == "destination-tls"
        assert pin in error.message
        error = _fails(lambda: open_store(server.destination(ca_file="/nowhere.pem")).stat(KEY))
        assert error.code == "destination-tls"
        assert not server.folder.exists()
        with open_store(server.destination(ca_file="", tls_fingerprint=pin)) as store:
            store.put_bytes(KEY, b"x")
            assert b"".join(store.get(KEY)) == b"x"


def test_a_server_that_only_lets_read(tmp_path: Path) -> None:
    """Without the right to write put and delete fail for good, nothing is changed, and the objects can be read."""
    with start_rclone_webdav(tmp_path, None, "--read-only") as server:
        server.folder.mkdir(parents=True)
        (server.folder / KEY).write_bytes(b"x")
        with open_store(server.destination()) as store:
            _fails(lambda: store.put_bytes(KEY, b"y"))
            _fails(lambda: store.delete(KEY))
            assert b"".join(store.get(KEY)) == b"x"
        assert _names(server) == {KEY}


def test_an_address_that_is_not_one_of_webdav(server: WebdavServer) -> None:
    """Where there is nothing, a put is destination-not-found with a hint at the address, and a stat finds nothing."""
    elsewhere = server.url.rpartition("/")[0] + "/elsewhere"
    error = _fails(lambda: open_store(server.destination(url=elsewhere)).put_bytes(KEY, b"x"))
    assert (error.code, error.retryable) == ("destination-not-found", False)
    assert "url" in error.hint


def test_a_server_with_digest_never_gets_the_password(tmp_path: Path, source: Path) -> None:
    """Everything works at Apache with Digest alone; what is sent has no password in it, and a wrong one is told."""
    port = free_port()
    with (
        start_apache(tmp_path / "apache", digest=True) as server,
        start_proxy("127.0.0.1", port, forward_to=server.port) as proxy,
    ):
        url = server.url.replace(str(server.port), str(port))
        with open_store(server.destination(url=url, path="backup/nanumpay")) as store:
            store.put_bytes(KEY, b"old")
            store.put(KEY, source)
            assert [(info.key, info.size) for info in store.list()] == [(KEY, len(DATA))]
            assert b"".join(store.get(KEY)) == DATA
            store.delete(KEY)
            assert store.stat(KEY) is None
        assert b"Authorization: Digest " in proxy.recorded
        assert b"Basic" not in proxy.recorded
        assert PASSWORD.encode() not in proxy.recorded
        wrong = server.destination(password=Secret("wrong"), path="backup")
        error = _fails(lambda: open_store(wrong).put_bytes(KEY, b"x"))
        assert (error.code, error.retryable) == ("destination-auth", False)


def test_a_full_disk_at_apache_is_told(tmp_path: Path, source: Path) -> None:
    """No room is 507 there, which is destination-full; the old object stays, and the room is given back."""
    with small_disk(tmp_path / "disk", 4 * MIB) as disk, start_apache(tmp_path / "apache", disk) as server:
        with open_store(server.destination(path="backup/nanumpay")) as store:
            store.put_bytes(KEY, b"old")
            error = _fails(lambda: store.put(KEY, source))
            assert (error.code, error.retryable) == ("destination-full", False)
            assert b"".join(store.get(KEY)) == b"old"
        assert _names(server) <= {KEY, ".DAV"}


@pytest.mark.parametrize("kind", ["nextcloud", "owncloud"])
def test_checksums_that_a_server_tells_are_compared(kind: str, server: WebdavServer, source: Path) -> None:
    """With one a put is proven; one of other content is destination-mismatch, and the old object stays."""
    with start_cloud_gate(server.port, kind) as gate:
        url = server.url.replace(str(server.port), str(gate.port))
        with open_store(server.destination(url=url)) as store:
            assert store.put(KEY, source).proven
            assert store.put_bytes(f"{KEY}.json", b"{}").proven
            gate.damage = True
            error = _fails(lambda: store.put(KEY, source))
            assert (error.code, error.retryable) == ("destination-mismatch", True)
            assert "another checksum" in error.message
            assert (server.folder / KEY).read_bytes() == DATA
            assert _names(server) == {KEY, f"{KEY}.json"}
            gate.damage, gate.loses = False, True
            error = _fails(lambda: store.put(KEY, source))
            assert (error.code, error.retryable) == ("destination-mismatch", True)
            assert "was deleted there" in error.hint
            assert _names(server) == {f"{KEY}.json"}


def test_what_a_killed_process_left_is_swept(server: WebdavServer) -> None:
    """An unfinished upload that nobody added to since is deleted; a fresh one, and one of others, stay."""
    names = [f".{name}.part" for name in ("old.tar.gz", "fresh.tar.gz", "other.tar.gz")]
    server.folder.mkdir(parents=True)
    for name in names:
        (server.folder / name).write_bytes(b"x")
    week = timedelta(days=7)
    long_ago = (datetime.now(UTC) - 2 * week).timestamp()
    for name in (names[0], names[2]):
        os.utime(server.folder / name, (long_ago, long_ago))
    with open_store(server.destination(path="backup/nanumpay")) as store:
        gone = store.sweep(datetime.now(UTC) - week, lambda key: not key.startswith("other"))
    assert gone == ("old.tar.gz",)
    assert _names(server) == set(names[1:])


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_answers_are_read_as_servers_write_them(chunk: int) -> None:
    """Whole addresses, other prefixes, properties that are not found, folders and Nextcloud's quota are understood."""
    text = _NEXTCLOUD.encode()
    pieces = (text[at : at + chunk] for at in range(0, len(text), chunk))
    found = [(entry.name, entry.size, entry.room, entry.folder) for entry in read_multistatus(pieces, "/dav/급여 x")]
    assert found == [("a b.tar.gz", 12, None, False), ("folder", 0, None, True), ("full", 3, 77, False)]


_NEXTCLOUD: Final = """<?xml version="1.0"?>
<d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns">
<d:response><d:href>/dav/%EA%B8%89%EC%97%AC%20x/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/>
</d:resourcetype><d:quota-available-bytes>-3</d:quota-available-bytes></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
<d:response><d:href>https://cloud.example.com/dav/%EA%B8%89%EC%97%AC%20x/a%20b.tar.gz</d:href><d:propstat><d:prop>
<d:getcontentlength>12</d:getcontentlength><d:resourcetype/></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>
<d:propstat><d:prop><d:quota-available-bytes/></d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat>
</d:response>
<d:response><d:href>/dav/%EA%B8%89%EC%97%AC%20x/folder/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/>
</d:resourcetype><d:quota-available-bytes>-3</d:quota-available-bytes></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
<d:response><d:href>/dav/%EA%B8%89%EC%97%AC%20x/full</d:href><d:propstat><d:prop><d:getcontentlength>3
</d:getcontentlength><d:resourcetype/><d:quota-available-bytes>77</d:quota-available-bytes></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>
"""
