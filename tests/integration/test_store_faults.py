"""Stores when something goes wrong: cuts, full disks, certificates, servers with ways of their own. All real."""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import os
import random
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pyftpdlib.filesystems import AbstractedFS, FilesystemError
from pyftpdlib.handlers import FTPHandler

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import FtpDestination, LocalDestination, RetryPolicy
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate, make_certificate
from tests.servers.ftp import FtpServer, start_pyftpdlib, start_vsftpd
from tests.servers.process import free_port
from tests.servers.proxy import BreakingProxy, start_proxy
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3

pytestmark = pytest.mark.servers

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
PART: Final = f".{KEY}.part"
MIB: Final = 1 << 20
_random = random.Random(2)
DATA: Final = _random.randbytes(8 * MIB + 777)
OTHER: Final = _random.randbytes(3 * MIB)
SERVERS: Final = ("pyftpdlib", "pyftpdlib-tls", "vsftpd", "vsftpd-tls")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one authority and server certificate for all."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file of 8 MiB to store."""
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


class _Quick(SystemClock):
    """A clock that waits only as long as a local server needs to write down what it got."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.1))


# Not pyftpdlib with TLS: it does not notice that a TLS connection ended without good-bye, and does not write down
# what it got before its own timeout of minutes.
@pytest.fixture(params=["pyftpdlib", "vsftpd", "vsftpd-tls"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: Certificate
) -> Iterator[tuple[FtpServer, BreakingProxy]]:
    """Run each FTP server on 127.0.0.2 and the breaking proxy before it, at the same ports of 127.0.0.1."""
    kind, _, tls = request.param.partition("-")
    pem = certificate if tls else None
    with contextlib.ExitStack() as stack:
        if kind == "pyftpdlib":
            server = stack.enter_context(start_pyftpdlib(tmp_path / "root", pem, address="127.0.0.2"))
        else:
            server = stack.enter_context(start_vsftpd(tmp_path / "root", tmp_path, pem, address="127.0.0.2"))
        yield server, stack.enter_context(start_proxy("127.0.0.2", server.port, server.passive_ports))


def _through(server: FtpServer, **changes: Any) -> FtpDestination:
    return server.destination(**{"host": "127.0.0.1", **changes})


def _fails(call: Callable[[], Any]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    assert caught.value.message
    return caught.value


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ cuts


@pytest.mark.parametrize("everything", [False, True], ids=["data", "data+control"])
def test_cut_upload_is_resumed(proxied: tuple[FtpServer, BreakingProxy], source: Path, everything: bool) -> None:
    """An upload that is cut twice goes on where the server stands: the object is whole, and little is sent twice."""
    server, proxy = proxied
    proxy.cuts, proxy.cut_control = [5 * MIB, 2 * MIB], everything
    moved: list[int] = []
    with open_store(_through(server), clock=_Quick()) as store:
        result = store.put(KEY, source, moved.append)
        assert b"".join(store.get(KEY)) == DATA
    assert result.size == len(DATA)
    assert (server.folder / KEY).read_bytes() == DATA
    assert proxy.cuts == []
    # Starting again after each cut would take 15 MiB; what was on its way when it was cut is less than 2 MiB.
    assert proxy.sent < len(DATA) + 2 * MIB
    assert sum(moved) == len(DATA)
    assert _names(server.folder) == {KEY}


def test_a_later_put_goes_on_with_what_an_earlier_one_left(
    proxied: tuple[FtpServer, BreakingProxy], source: Path
) -> None:
    """After too many cuts the put fails as unreachable, the old object stays; the next put sends only the rest."""
    server, proxy = proxied
    with open_store(_through(server), clock=_Quick()) as store:
        store.put_bytes(KEY, b"old")
        proxy.cuts, proxy.cut_control = [MIB] * 6, True
        error = _fails(lambda: store.put(KEY, source))
        assert (error.code, error.retryable) == ("destination-unreachable", True)
        assert (server.folder / KEY).read_bytes() == b"old"
        there = (server.folder / PART).stat().st_size
        assert there > 5 * MIB
        proxy.sent = 0
        store.put(KEY, source)
    assert (server.folder / KEY).read_bytes() == DATA
    assert proxy.sent < len(DATA) - there + MIB
    assert _names(server.folder) == {KEY}


def test_cuts_without_any_progress_end_the_put(proxied: tuple[FtpServer, BreakingProxy], source: Path) -> None:
    """When nothing gets through between two cuts, the put gives up instead of trying for ever."""
    server, proxy = proxied
    proxy.cuts = [0] * 50
    with open_store(_through(server), clock=_Quick()) as store:
        error = _fails(lambda: store.put(KEY, source))
    assert error.code == "destination-unreachable"
    assert "disk" in error.hint
    assert len(proxy.cuts) >= 46
    assert KEY not in _names(server.folder)


@pytest.mark.parametrize(
    "left",
    [OTHER, DATA[:MIB] + OTHER, DATA + b"more", DATA[: 64 << 10]],
    ids=["other", "end-differs", "too-long", "too-short-to-matter"],
)
def test_a_part_of_other_content_is_not_gone_on_with(
    proxied: tuple[FtpServer, BreakingProxy], source: Path, left: bytes
) -> None:
    """What lies under the temporary name and does not fit the file is overwritten, also when the first try is cut."""
    server, proxy = proxied
    with open_store(_through(server), clock=_Quick()) as store:
        store.put_bytes("first", b"makes the folder")
        with store_part(server, left):
            proxy.cuts = [3 * MIB]
            store.put(KEY, source)
    assert (server.folder / KEY).read_bytes() == DATA


@contextlib.contextmanager
def store_part(server: FtpServer, data: bytes) -> Iterator[None]:
    """Put something under the temporary name, owned like the folder."""
    path = server.folder / PART
    path.write_bytes(data)
    owner = server.folder.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    yield


def test_the_last_answer_never_comes(source: Path, tmp_path: Path) -> None:
    """When the control connection dies silently during the transfer, the object is whole and was sent once."""
    with (
        start_pyftpdlib(tmp_path / "root", address="127.0.0.2") as server,
        start_proxy("127.0.0.2", server.port, server.passive_ports) as proxy,
        open_store(_through(server, timeout=1.0), clock=_Quick()) as store,
    ):
        proxy.mute_after_upload = True
        assert store.put(KEY, source).size == len(DATA)
        assert proxy.mute_after_upload is False
        assert proxy.sent == len(DATA)
        assert (server.folder / KEY).read_bytes() == DATA


class _NoRest(FTPHandler):
    """A server that offers neither REST nor MLSD."""

    proto_cmds: Final = {k: v for k, v in FTPHandler.proto_cmds.items() if k not in ("REST", "MLSD", "MLST")}

    def ftp_FEAT(self, line: str) -> None:
        self.push("211-Features:\r\n SIZE\r\n UTF8\r\n211 End FEAT.\r\n")


def test_without_rest_an_upload_is_continued_by_append(source: Path, tmp_path: Path) -> None:
    """A server that does not offer REST gets the rest by APPE; reading from an offset works there too."""
    with (
        start_pyftpdlib(tmp_path / "root", address="127.0.0.2", handler=_NoRest) as server,
        start_proxy("127.0.0.2", server.port, server.passive_ports) as proxy,
        open_store(_through(server), clock=_Quick()) as store,
    ):
        proxy.cuts = [5 * MIB]
        store.put(KEY, source)
        assert (server.folder / KEY).read_bytes() == DATA
        assert proxy.sent < len(DATA) + 2 * MIB
        assert f"APPE {PART}".encode() in proxy.recorded
        assert b"REST" not in proxy.recorded
        assert b"".join(store.get(KEY, 5 * MIB)) == DATA[5 * MIB :]
        assert [info.key for info in store.list()] == [KEY]


class _Sums(FTPHandler):
    """A server that works out checksums, as proftpd's mod_digest and others do."""

    proto_cmds: Final = {
        **FTPHandler.proto_cmds,
        "XSHA256": {"perm": "r", "auth": True, "arg": True, "help": "Syntax: XSHA256 <SP> file-name"},
    }

    def ftp_FEAT(self, line: str) -> None:
        self.push("211-Features:\r\n SIZE\r\n REST STREAM\r\n UTF8\r\n XSHA256\r\n211 End FEAT.\r\n")

    def ftp_XSHA256(self, path: str) -> None:
        """Answer with the checksum of the whole file."""
        with open(path, "rb") as stream:
            self.respond(f"250 {hashlib.file_digest(stream, 'sha256').hexdigest().upper()}")


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_a_server_that_tells_checksums_is_asked_for_one(source: Path, tmp_path: Path, damaged: bool) -> None:
    """What an earlier put left is proven without reading it back, and begun anew where a byte of it is another."""
    with (
        start_pyftpdlib(tmp_path / "root", address="127.0.0.2", handler=_Sums) as server,
        start_proxy("127.0.0.2", server.port, server.passive_ports) as proxy,
        open_store(_through(server), clock=_Quick()) as store,
    ):
        left = bytearray(DATA[: 3 * MIB])
        left[MIB] ^= damaged
        server.folder.mkdir(parents=True)
        (server.folder / PART).write_bytes(left)
        assert store.put(KEY, source).resumed == (0 if damaged else 3 * MIB)
        assert f"XSHA256 {PART}".encode() in proxy.recorded
        assert b"RETR" not in proxy.recorded
        assert (server.folder / KEY).read_bytes() == DATA


# -------------------------------------------------------------------------- servers with ways of their own


class _NoOverwrite(AbstractedFS):
    """A disk on which a rename does not replace; with ``stubborn`` no file can get its final name."""

    stubborn = False

    def rename(self, src: str, dst: str) -> None:
        if os.path.exists(dst) or (self.stubborn and src.endswith(".part")):
            raise FilesystemError("file exists")
        super().rename(src, dst)


class _Stubborn(_NoOverwrite):
    stubborn = True


class _Losing(AbstractedFS):
    """A disk on which a renamed file is shorter."""

    def rename(self, src: str, dst: str) -> None:
        super().rename(src, dst)
        os.truncate(dst, os.stat(dst).st_size - 1)


def test_what_is_damaged_under_its_name_is_deleted(source: Path, tmp_path: Path) -> None:
    """An object that is found to be another size at the end is destination-mismatch, and does not pass for a backup."""
    with (
        start_pyftpdlib(tmp_path / "root", abstracted_fs=_Losing) as server,
        open_store(server.destination()) as store,
    ):
        error = _fails(lambda: store.put(KEY, source))
        assert (error.code, error.retryable) == ("destination-mismatch", True)
        assert "was deleted there" in error.hint
        assert _names(server.folder) == set()


def test_a_server_that_does_not_rename_onto_files(source: Path, tmp_path: Path) -> None:
    """Where RNTO refuses to replace, the old object steps aside and the new one takes its place."""
    with (
        start_pyftpdlib(tmp_path / "root", abstracted_fs=_NoOverwrite) as server,
        open_store(server.destination()) as store,
    ):
        store.put_bytes(KEY, b"old")
        store.put(KEY, source)
        assert (server.folder / KEY).read_bytes() == DATA
        assert _names(server.folder) == {KEY}


def test_when_renaming_fails_the_old_object_comes_back(source: Path, tmp_path: Path) -> None:
    """A put whose last step is refused leaves the object of that name as it was."""
    with (
        start_pyftpdlib(tmp_path / "root", abstracted_fs=_Stubborn) as server,
        open_store(server.destination()) as store,
    ):
        server.folder.mkdir(parents=True)
        (server.folder / KEY).write_bytes(b"old")
        error = _fails(lambda: store.put(KEY, source))
        assert error.code == "destination-denied"
        assert _names(server.folder) == {KEY}
        assert (server.folder / KEY).read_bytes() == b"old"


class _WindowsList(AbstractedFS):
    """A disk that lists like a Windows server."""

    def format_list(self, basedir: str, listing: list[str], ignore_err: bool = True) -> Iterator[bytes]:
        for name in listing:
            path = os.path.join(basedir, name)
            kind = "     <DIR>     " if os.path.isdir(path) else f"{os.path.getsize(path):15}"
            yield f"11-21-26  08:09PM {kind} {name}\r\n".encode()


def test_a_listing_that_is_not_understood_is_replaced_by_names_and_sizes(tmp_path: Path) -> None:
    """A server with neither MLSD nor the usual LIST is listed by NLST and SIZE: files with sizes, no folders."""
    with (
        start_pyftpdlib(tmp_path / "root", handler=_NoRest, abstracted_fs=_WindowsList) as server,
        open_store(server.destination()) as store,
    ):
        store.put_bytes(KEY, b"12345")
        (server.folder / "folder").mkdir()
        assert [(info.key, info.size) for info in store.list()] == [(KEY, 5)]


def test_a_server_that_speaks_another_character_set(tmp_path: Path) -> None:
    """A Korean greeting in EUC-KR is no obstacle."""
    with (
        start_pyftpdlib(tmp_path / "root", encoding="euc-kr", banner="환영합니다") as server,
        open_store(server.destination()) as store,
    ):
        store.put_bytes(KEY, b"x")
        assert (server.folder / KEY).read_bytes() == b"x"


@pytest.mark.parametrize("path", ["/백업/나눔페이", "relative/folder", "", "/"])
def test_folders_are_made_level_by_level(tmp_path: Path, path: str) -> None:
    """The destination's folder may be in Korean, several levels deep, relative to the login folder, or that folder."""
    with start_pyftpdlib(tmp_path / "root") as server, open_store(server.destination(path=path)) as store:
        store.put_bytes(KEY, b"x")
        assert (server.home / path.strip("/") / KEY).read_bytes() == b"x"
        assert [info.key for info in store.list()] == [KEY]


def test_ipv6(tmp_path: Path, source: Path) -> None:
    """Over IPv6 passive mode is EPSV, and everything works."""
    with start_pyftpdlib(tmp_path / "root", address="::1") as server, open_store(server.destination()) as store:
        store.put(KEY, source)
        assert b"".join(store.get(KEY)) == DATA


# ------------------------------------------------------------------------------------------ refused by the server


def test_an_account_that_may_write_but_not_read(tmp_path: Path, source: Path) -> None:
    """A drop box works: what cannot be compared is sent again from the start."""
    with (
        start_pyftpdlib(tmp_path / "root", permissions="eladfmwMT") as server,
        open_store(server.destination()) as store,
    ):
        store.put_bytes("first", b"x")
        with store_part(server, DATA[: 2 * MIB]):
            store.put(KEY, source)
        assert (server.folder / KEY).read_bytes() == DATA
        assert _fails(lambda: next(store.get(KEY))).code == "destination-denied"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 2 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.fail(f"tests of full disks need root and the right to mount: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# ---------------------------------------------------------------------------------------------------- local


def test_require_mount(tiny_disk: Path, tmp_path: Path, source: Path) -> None:
    """With require_mount a folder where nothing is mounted is unreachable for every call, and is not made."""
    with open_store(LocalDestination(name="usb", path=str(tmp_path / "not-mounted"), require_mount=True)) as store:
        for call in (
            lambda: store.put(KEY, source),
            lambda: next(store.get(KEY)),
            lambda: store.stat(KEY),
            lambda: next(store.list()),
            lambda: store.delete(KEY),
        ):
            error = _fails(call)
            assert (error.code, error.retryable) == ("destination-unreachable", True)
            assert "mount" in error.hint
    assert not (tmp_path / "not-mounted").exists()
    with open_store(LocalDestination(name="usb", path=str(tiny_disk), require_mount=True)) as store:
        store.put_bytes(KEY, b"x")
        assert [info.key for info in store.list()] == [KEY]


# ------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(params=["pyftpdlib", "vsftpd"])
def ftps(request: pytest.FixtureRequest, tmp_path: Path, certificate: Certificate) -> Iterator[FtpServer]:
    """Run each FTPS server."""
    if request.param == "pyftpdlib":
        with start_pyftpdlib(tmp_path / "root", certificate) as server:
            yield server
    else:
        with start_vsftpd(tmp_path / "root", tmp_path, certificate) as server:
            yield server


def test_a_certificate_nobody_vouches_for(ftps: FtpServer, certificate: Certificate) -> None:
    """An unknown authority is destination-tls, and the message tells the fingerprint to pin after asking."""
    with open_store(ftps.destination(ca_file="")) as store:
        error = _fails(lambda: store.put_bytes(KEY, b"x"))
    assert (error.code, error.retryable) == ("destination-tls", False)
    assert certificate.fingerprint in error.message
    assert f"tls_fingerprint = '{certificate.fingerprint}'" in error.hint
    assert "ca_file" in error.hint


@pytest.mark.parametrize("form", ["plain", "colons"])
def test_a_pinned_certificate(ftps: FtpServer, certificate: Certificate, form: str) -> None:
    """With the right fingerprint, in either spelling, no authority is needed, for storing and for reading."""
    pin = certificate.fingerprint
    if form == "colons":
        pin = ":".join(pin[at : at + 2] for at in range(0, 64, 2)).upper()
    with open_store(ftps.destination(ca_file="", tls_fingerprint=pin)) as store:
        store.put_bytes(KEY, b"x")
        assert b"".join(store.get(KEY)) == b"x"
        assert [info.key for info in store.list()] == [KEY]


def test_a_wrong_pin(ftps: FtpServer, certificate: Certificate) -> None:
    """With another fingerprint nothing is sent, not even to a certificate that the authority vouches for."""
    pin = "00" * 32
    # A wrong password would be told if it came so far as to log in.
    with open_store(ftps.destination(tls_fingerprint=pin, password=Secret("wrong-password"))) as store:
        error = _fails(lambda: store.put_bytes(KEY, b"x"))
    assert error.code == "destination-tls"
    assert pin in error.message
    assert certificate.fingerprint in error.message


def test_verification_switched_off(ftps: FtpServer) -> None:
    """Who sets tls_verify to false gets encryption without a check."""
    with open_store(ftps.destination(ca_file="", tls_verify=False)) as store:
        store.put_bytes(KEY, b"x")
        assert b"".join(store.get(KEY)) == b"x"


@pytest.mark.parametrize("kind", ["pyftpdlib", "vsftpd"])
def test_secure_against_a_server_without_tls(kind: str, tmp_path: Path) -> None:
    """Asking a plain FTP server for TLS is destination-tls with a hint at ``secure``; the password is not sent."""
    starting = start_pyftpdlib(tmp_path / "root") if kind == "pyftpdlib" else start_vsftpd(tmp_path / "root", tmp_path)
    with starting as server, open_store(server.destination(secure=True, password=Secret("wrong-password"))) as store:
        error = _fails(lambda: store.stat(KEY))
    assert error.code == "destination-tls"
    assert "secure" in error.hint


def test_plain_against_a_server_that_wants_tls(ftps: FtpServer) -> None:
    """Plain FTP where TLS is required is destination-tls with a hint at ``secure``."""
    with open_store(ftps.destination(secure=False)) as store:
        error = _fails(lambda: store.stat(KEY))
    assert error.code == "destination-tls"
    assert "secure" in error.hint


class _StockClient(ftplib.FTP_TLS):
    """The standard library's client, as it is."""


@pytest.mark.parametrize("newest", ["TLSv1.2", "TLSv1.3"])
def test_vsftpd_insists_on_session_reuse(tmp_path: Path, certificate: Certificate, source: Path, newest: str) -> None:
    """Where the stock client is refused for not resuming its TLS session, ours stores, with TLS 1.2 and with 1.3."""
    with start_vsftpd(tmp_path / "root", tmp_path, certificate, newest_tls=newest) as server:
        settings = server.destination()
        client = _StockClient(context=ssl.create_default_context(cafile=settings.ca_file))
        client.connect(server.host, server.port, timeout=10)
        client.login(server.user, settings.password.reveal())
        client.prot_p()
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == newest
        with pytest.raises((ssl.SSLError, ftplib.error_perm, ftplib.error_temp, EOFError)):
            client.nlst()
        client.close()
        with open_store(settings) as store:
            store.put(KEY, source)
            assert b"".join(store.get(KEY)) == DATA


# ------------------------------------------------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run one S3 server for all."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


S3_CALLS: Final[dict[str, Callable[[Store, Path], Any]]] = {
    "put": lambda store, source: store.put(KEY, source),
    "put_bytes": lambda store, _: store.put_bytes(KEY, b"x"),
    "get": lambda store, _: next(store.get(KEY)),
    "stat": lambda store, _: store.stat(KEY),
    "list": lambda store, _: tuple(store.list()),
}


@pytest.mark.parametrize("call", S3_CALLS)
def test_unknown_access_key(s3: S3Server, source: Path, call: str) -> None:
    """An access key that the server does not know is destination-auth for every call."""
    with open_store(s3.destination(access_key_id="AKIAUNKNOWN")) as store:
        error = _fails(lambda: S3_CALLS[call](store, source))
    assert (error.code, error.retryable) == ("destination-auth", False)


def test_keys_from_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys in the settings boto3 finds them itself; when there are none, that is destination-auth."""
    settings = s3.destination(access_key_id="", secret_access_key=Secret(""))
    with open_store(settings) as store:
        error = _fails(lambda: store.stat(KEY))
        assert error.code == "destination-auth"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with open_store(settings) as store:
        store.put_bytes("by-environment", b"x")
        assert store.stat("by-environment") is not None


@pytest.mark.parametrize("address", ["not an address", "ftp://127.0.0.1", "127.0.0.1:9000"])
def test_an_endpoint_that_is_none(s3: S3Server, address: str) -> None:
    """An endpoint that is no http address is a StoreError that names it, not a traceback."""
    with open_store(s3.destination(endpoint_url=address)) as store:
        error = _fails(lambda: store.stat(KEY))
    assert address in error.message


@contextlib.contextmanager
def _before(s3: S3Server) -> Iterator[tuple[BreakingProxy, str]]:
    """Put the breaking proxy before an S3 server; gives its address."""
    port = free_port()
    with start_proxy("127.0.0.1", port, forward_to=int(s3.endpoint.rpartition(":")[2])) as proxy:
        yield proxy, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("sound, size", [(0, 100), (0, 6 * MIB), (20 * MIB, MIB)], ids=["whole", "parts", "last part"])
def test_data_damaged_on_the_way(s3: S3Server, tmp_path: Path, sound: int, size: int) -> None:
    """A byte that changes on the way is found: destination-mismatch, retryable, the old object stays.

    By the server, or, once it is known to tell the checksum of each part, by what it tells.
    """
    path = tmp_path / "zeros"
    path.write_bytes(random.Random(1).randbytes(sound) + b"\0" * size)
    with _before(s3) as (proxy, address), open_store(s3.destination(endpoint_url=address, prefix="damage")) as store:
        store.put_bytes(KEY, b"old")
        proxy.damage = b"\0" * 64
        error = _fails(lambda: store.put(KEY, path))
        assert (error.code, error.retryable) == ("destination-mismatch", True)
        proxy.damage = b""
        assert b"".join(store.get(KEY)) == b"old"
        store.put(KEY, path)
        assert b"".join(store.get(KEY)) == path.read_bytes()


def test_s3_connection_cut_for_good(s3: S3Server, source: Path) -> None:
    """A connection that is cut again and again is destination-unreachable, and the old object stays."""
    with _before(s3) as (proxy, address), open_store(s3.destination(endpoint_url=address, prefix="cut")) as store:
        store.put_bytes(KEY, b"old")
        proxy.refuse_after = 3 * MIB
        error = _fails(lambda: store.put(KEY, source))
        assert (error.code, error.retryable) == ("destination-unreachable", True)
        proxy.refuse_after = None
        assert b"".join(store.get(KEY)) == b"old"
        # What the cut left half uploaded is cleared away by the next put.
        store.put(KEY, source)
    with open_store(s3.destination(prefix="cut")) as store:
        assert b"".join(store.get(KEY)) == DATA
        client = store._connect()  # type: ignore[attr-defined]
        assert "Uploads" not in client.list_multipart_uploads(Bucket=s3.bucket)


@pytest.mark.parametrize("size", [100, 6 * MIB], ids=["whole", "parts"])
def test_encryption_and_storage_class_are_asked_for(s3: S3Server, tmp_path: Path, size: int) -> None:
    """What the settings say about encryption and storage class is in the request that creates the object."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    changes = {"sse": "aws:kms", "sse_kms_key_id": "alias/backup", "storage_class": "STANDARD_IA"}
    with _before(s3) as (proxy, address), open_store(s3.destination(endpoint_url=address, **changes)) as store:
        store.put(KEY, path)
        assert store.properties.proves_content is False
        recorded = bytes(proxy.recorded).lower()
    assert b"x-amz-server-side-encryption: aws:kms\r\n" in recorded
    assert b"x-amz-server-side-encryption-aws-kms-key-id: alias/backup\r\n" in recorded
    assert b"x-amz-storage-class: standard_ia\r\n" in recorded


# -------------------------------------------------------------------------------------------------- retrying


class _Waiting(SystemClock):
    """A clock on which something happens while the program waits."""

    def __init__(self, event: Callable[[], None]) -> None:
        self.slept = 0.0
        self._event: Callable[[], None] | None = event

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self._event is not None:
            event, self._event = self._event, None
            event()


def test_a_server_that_comes_back_while_we_wait(tmp_path: Path, source: Path) -> None:
    """With a retry policy, a put to a server that is away succeeds once it is there, after the configured delay."""
    with contextlib.ExitStack() as stack:
        with start_pyftpdlib(tmp_path / "root") as server:
            settings = server.destination()

        def start() -> None:
            stack.enter_context(start_pyftpdlib(tmp_path / "root", port=settings.port))

        clock = _Waiting(start)
        said: list[str] = []
        policy = RetryPolicy(attempts=3, delay=60.0)
        with open_store(settings, retry=policy, clock=clock, on_retry=said.append) as store:
            store.put(KEY, source)
            assert b"".join(store.get(KEY)) == DATA
        assert 54.0 <= clock.slept <= 66.0
        assert len(said) == 1
        assert "attempt 2 of 3" in said[0]
