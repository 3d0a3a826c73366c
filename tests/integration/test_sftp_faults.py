"""SFTP when something goes wrong, and with servers that offer less: host keys, logins, cuts, silence, full disks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncssh
import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.sftp import samples
from nanumpay_backupd.system.secrets import Secret
from tests.servers.sftp import PASSPHRASE, PASSWORD, SshServer, start_sshd

pytestmark = pytest.mark.servers

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
PART: Final = f".{KEY}.part"
MIB: Final = 1 << 20
DATA: Final = random.Random(7).randbytes(24 * MIB + 777)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Run a server for all tests."""
    with start_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def server(shared: SshServer) -> SshServer:
    """Give the server, empty."""
    shutil.rmtree(shared.folder, ignore_errors=True)
    return shared


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file of 24 MiB to store."""
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


def _fails(call: Callable[[], Any]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    assert caught.value.hint
    return caught.value


def _names(server: SshServer) -> set[str]:
    return {entry.name for entry in server.folder.iterdir()}


# --------------------------------------------------------------------------------------------- logins, host keys


@pytest.mark.parametrize("way", ["password", "encrypted-key"])
def test_other_ways_to_log_in(server: SshServer, way: str) -> None:
    """A password does as well as a key, and so does a key that is encrypted."""
    login = {"private_key": server.key("locked"), "passphrase": Secret(PASSPHRASE)}
    if way == "password":
        login = {"private_key": Secret(""), "password": Secret(PASSWORD)}
    with open_store(server.destination(**login)) as store:
        store.put_bytes(KEY, b"x")
    assert _names(server) == {KEY}


@pytest.mark.parametrize("passphrase", ["", "wrong-Secret-9"])
def test_a_key_that_cannot_be_used_is_told_without_it(server: SshServer, passphrase: str) -> None:
    """A wrong passphrase is destination-auth, and neither it nor the key is in the message."""
    login = {"private_key": server.key("locked"), "passphrase": Secret(passphrase)}
    error = _fails(lambda: open_store(server.destination(**login)).stat(KEY))
    assert (error.code, error.retryable) == ("destination-auth", False)
    assert "passphrase" in error.message
    assert "Secret-9" not in error.message
    assert "OPENSSH" not in error.message


def test_what_is_no_key_is_told_without_it(server: SshServer) -> None:
    """A text that is no private key is destination-auth, and not shown."""
    error = _fails(lambda: open_store(server.destination(private_key=Secret("Secret-text-8"))).stat(KEY))
    assert error.code == "destination-auth"
    assert "Secret-text-8" not in error.message + error.hint


@pytest.mark.parametrize("way", ["public-key", "known-hosts"])
def test_a_host_is_known_in_other_ways_too(server: SshServer, tmp_path: Path, way: str) -> None:
    """The public key itself may be pinned, or stand in a file of OpenSSH's."""
    public = " ".join((server.keys / "host.pub").read_text().split()[:2])
    known: dict[str, Any] = {"host_key": (public,)}
    if way == "known-hosts":
        (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {public}\n")
        known = {"host_key": (), "known_hosts": str(tmp_path / "known")}
    with open_store(server.destination(**known)) as store:
        assert store.stat(KEY) is None


@pytest.mark.parametrize("known", ["nothing", "another"])
def test_a_host_that_is_not_known_is_refused(server: SshServer, known: str) -> None:
    """Without a pinned key, and with another one, nothing is sent; the message tells the fingerprint that was shown."""
    pinned = () if known == "nothing" else (" ".join((server.keys / "other.pub").read_text().split()[:2]),)
    error = _fails(lambda: open_store(server.destination(host_key=pinned)).put_bytes(KEY, b"x"))
    assert (error.code, error.retryable) == ("destination-hostkey", False)
    assert server.fingerprint in error.message
    assert not server.folder.exists()


@pytest.mark.parametrize("content", [None, "nonsense\n", "host ssh-ed25519 AAAA-not-a-key\n"])
def test_known_hosts_that_cannot_be_read_know_nobody(server: SshServer, tmp_path: Path, content: str | None) -> None:
    """A file that is not there or not of that kind is destination-hostkey and no crash, and nothing is sent."""
    if content is not None:
        (tmp_path / "known").write_text(content)
    known = {"host_key": (), "known_hosts": str(tmp_path / "known")}
    error = _fails(lambda: open_store(server.destination(**known)).put_bytes(KEY, b"x"))
    assert (error.code, error.retryable) == ("destination-hostkey", False)
    assert str(tmp_path / "known") in error.message
    assert not server.folder.exists()


def test_a_login_without_sftp(tmp_path: Path) -> None:
    """A server that lets the login in and gives no SFTP is destination-denied, and says what to allow."""
    with start_sshd(tmp_path, sftp="/bin/false") as server:
        error = _fails(lambda: open_store(server.destination()).stat(KEY))
    assert (error.code, error.retryable) == ("destination-denied", False)
    assert "internal-sftp" in error.hint


# ------------------------------------------------------------------------------------------------ cuts, silence


def test_an_upload_that_was_cut_is_gone_on_with(server: SshServer, source: Path) -> None:
    """After a cut the old object stays, and the next put sends only what is missing; the object is whole then."""
    with open_store(server.destination()) as store:
        store.put_bytes(KEY, b"old")
        moved = 0

        def cut(size: int) -> None:
            nonlocal moved
            moved += size
            if moved > 20 * MIB:
                server.cut()

        error = _fails(lambda: store.put(KEY, source, cut))
        assert (error.code, error.retryable) == ("destination-unreachable", True)
        assert (server.folder / KEY).read_bytes() == b"old"
        assert [info.key for info in store.list()] == [KEY]
        steps: list[int] = []
        store.put(KEY, source, steps.append)
    assert steps[0] > 14 * MIB
    assert sum(steps) == len(DATA)
    assert (server.folder / KEY).read_bytes() == DATA
    assert _names(server) == {KEY}


@pytest.mark.parametrize("left", [DATA[: 12 * MIB] + bytes(6 * MIB), bytes(18 * MIB), DATA + b"more", DATA[:MIB]])
def test_what_is_of_something_else_is_not_gone_on_with(server: SshServer, source: Path, left: bytes) -> None:
    """A part with other content, too long, or too short to be worth it, is written anew."""
    with open_store(server.destination()) as store:
        store.put_bytes("other", b"x")
        (server.folder / PART).write_bytes(left)
        owner = server.home.stat()
        shutil.chown(server.folder / PART, owner.st_uid, owner.st_gid)
        steps: list[int] = []
        store.put(KEY, source, steps.append)
    assert steps[0] == 0
    assert (server.folder / KEY).read_bytes() == DATA
    assert _names(server) == {KEY, "other"}


def test_the_samples_of_a_part_lie_within_it() -> None:
    """Compared is the end of a part and places all over it, and never what lies behind."""
    for size in (0, 1, 16 << 10, 256 << 10, (256 << 10) + 1, 14 * MIB, 5 << 30):
        places = samples(size)
        assert all(start >= 0 and start + length <= size for start, length in places)
        assert max((start + length for start, length in places), default=0) == size


# ------------------------------------------------------------------------------------------------ rights, room


class _Losing(asyncssh.SFTPServer):
    """A server on which a renamed file is shorter."""

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        super().posix_rename(oldpath, newpath)
        where = self.map_path(newpath)
        os.truncate(where, os.stat(where).st_size - 1)


@contextlib.contextmanager
def losing_server(folder: Path) -> Iterator[int]:
    """Run such a server, which knows anybody, in a thread; gives its port, and takes ``folder`` as its root."""
    loop = asyncio.new_event_loop()

    async def serve() -> int:
        listener = await asyncssh.create_server(
            _Open,
            "127.0.0.1",
            server_host_keys=[str(folder.parent / "host")],
            sftp_factory=lambda chan: _Losing(chan, chroot=str(folder).encode()),
        )
        return listener.get_port()

    started = loop.create_task(serve())
    port = loop.run_until_complete(asyncio.wait_for(started, 20))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class _Open(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


def test_what_is_damaged_under_its_name_is_deleted(server: SshServer, source: Path, tmp_path: Path) -> None:
    """An object that is found to be another size at the end is destination-mismatch, and does not pass for a backup."""
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(server.keys / "host", tmp_path / "host")
    with losing_server(folder) as port, open_store(server.destination(port=port, path="/")) as store:
        error = _fails(lambda: store.put(KEY, source))
    assert (error.code, error.retryable) == ("destination-mismatch", True)
    assert "was deleted there" in error.hint
    assert list(folder.iterdir()) == []


def test_a_server_without_extensions_serves_too(tmp_path: Path) -> None:
    """Without posix-rename, fsync and statvfs objects are replaced as well; nothing durable or known is claimed."""
    with start_sshd(tmp_path, sftp="internal-sftp -P posix-rename,fsync,statvfs,limits") as server:
        with open_store(server.destination()) as store:
            assert store.put_bytes(KEY, b"old").durable is False
            assert store.put_bytes(KEY, b"new").durable is False
            assert store.room() is None
            assert b"".join(store.get(KEY)) == b"new"
        assert _names(server) == {KEY}
