"""Real FTP and FTPS servers for tests: pyftpdlib in a thread, vsftpd and proftpd as processes."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer as PyServer

from nanumpay_backupd.settings.schema import FtpDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.process import Program, free_port, serving
from tests.servers.tools import PROJECT

__all__ = ["FtpServer", "start_proftpd", "start_pyftpdlib", "start_vsftpd"]

PASSWORD: Final = "geheim+fuer%Tests"
PASSIVE_PORTS: Final = 8
FOLDER: Final = "/backup/nanumpay"


@dataclass(frozen=True)
class FtpServer:
    """A running server. ``user`` may do everything in the folder he sees as ``base``; on this disk it is ``home``."""

    host: str
    port: int
    home: Path
    base: str
    user: str
    certificate: Certificate | None
    passive_ports: tuple[int, ...] = ()
    program: Program | None = field(default=None, repr=False)
    """None: it runs in this process."""
    users: DummyAuthorizer | None = field(default=None, repr=False)
    """Of pyftpdlib: who may do what, to be changed while it runs."""

    def destination(self, **changes: Any) -> FtpDestination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "office",
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": Secret(PASSWORD),
            "path": self.base + FOLDER,
            "secure": self.certificate is not None,
            "ca_file": str(self.certificate.authority) if self.certificate else "",
            "timeout": 10.0,
        }
        return FtpDestination(**{**settings, **changes})

    @property
    def folder(self) -> Path:
        """Return where the objects of `destination` lie."""
        return self.home / FOLDER.lstrip("/")


@contextlib.contextmanager
def start_pyftpdlib(
    root: Path,
    certificate: Certificate | None = None,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    permissions: str = "elradfmwMT",
    handler: type[Any] | None = None,
    require_tls: bool = True,
    **attributes: Any,
) -> Iterator[FtpServer]:
    """Run pyftpdlib in a thread. ``handler`` and ``attributes`` make it a server with its own ways."""
    root.mkdir(parents=True, exist_ok=True)
    users = DummyAuthorizer()
    users.add_user("backup", PASSWORD, str(root), perm=permissions)
    first = free_port(PASSIVE_PORTS)
    passive = tuple(range(first, first + PASSIVE_PORTS))
    base = handler or (TLS_FTPHandler if certificate else FTPHandler)
    # The library keeps its settings in class attributes: a class of its own for each server.
    settings: dict[str, Any] = {"authorizer": users, "passive_ports": passive, "auth_failed_timeout": 0.05}
    if certificate is not None:
        settings |= {"certfile": str(certificate.bundle), "ssl_context": None}
        settings |= {"tls_control_required": require_tls, "tls_data_required": require_tls}
    loop = IOLoop()
    server = PyServer((address, port or free_port()), type("Handler", (base,), {**settings, **attributes}), ioloop=loop)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            loop.loop(timeout=0.05, blocking=False)

    thread = threading.Thread(target=serve, name="pyftpdlib", daemon=True)
    thread.start()
    try:
        yield FtpServer(address, server.socket.getsockname()[1], root, "", "backup", certificate, passive, None, users)
    finally:
        stop.set()
        thread.join(10)
        server.close_all()
        loop.close()


@contextlib.contextmanager
def start_vsftpd(
    root: Path,
    folder: Path,
    certificate: Certificate | None = None,
    *,
    address: str = "127.0.0.1",
    extra: str = "",
    newest_tls: str = "",
) -> Iterator[FtpServer]:
    """Run vsftpd over ``root / "files"``; with a certificate it insists on FTPS and on the reuse of TLS sessions.

    Its one user is ``anonymous`` with a password that is checked (secure_email_list), so that the host's own accounts
    are left alone. Needs root. ``newest_tls`` (``TLSv1.2``) keeps it from newer versions.
    """
    program = shutil.which("vsftpd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or os.geteuid() != 0:
        raise RuntimeError("tests with vsftpd need the package vsftpd (apt-get install vsftpd) and root")
    # It refuses a root that its user may write to, and so the user gets a folder below.
    (root / "files").mkdir(parents=True, exist_ok=True)
    # It looks into this account's home before anything else, so the home has to exist.
    account = next(user for user in pwd.getpwall() if 0 < user.pw_uid < 1000 and os.path.isdir(user.pw_dir))
    os.chown(root / "files", account.pw_uid, account.pw_gid)
    empty = folder / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    (folder / "passwords").write_text(PASSWORD + "\n", encoding="ascii")
    port = free_port()
    first = free_port(PASSIVE_PORTS)
    lines = [
        _VSFTPD,
        f"ftp_username={account.pw_name}",
        f"listen_address={address}",
        f"listen_port={port}",
        f"anon_root={root}",
    ]
    lines += [f"email_password_file={folder / 'passwords'}", f"secure_chroot_dir={empty}"]
    lines += [
        f"pasv_min_port={first}",
        f"pasv_max_port={first + PASSIVE_PORTS - 1}",
        f"vsftpd_log_file={folder / 'vsftpd.log'}",
    ]
    if certificate is not None:
        lines += [_VSFTPD_TLS, f"rsa_cert_file={certificate.certificate}", f"rsa_private_key_file={certificate.key}"]
    config = folder / "vsftpd.conf"
    config.write_text("\n".join([*lines, extra, ""]), encoding="ascii")
    openssl = folder / "openssl.cnf"
    openssl.write_text(_OPENSSL.format(version=newest_tls or "TLSv1.3"), encoding="ascii")
    environment = {"OPENSSL_CONF": str(openssl)}
    with serving([program, str(config)], folder / "vsftpd.out", address, port, environment) as started:
        passive = tuple(range(first, first + PASSIVE_PORTS))
        yield FtpServer(address, port, root / "files", "/files", "anonymous", certificate, passive, started)


@contextlib.contextmanager
def start_proftpd(
    root: Path, folder: Path, certificate: Certificate | None = None, *, address: str = "127.0.0.1", extra: str = ""
) -> Iterator[FtpServer]:
    """Run proftpd over ``root / "files"``; with a certificate it insists on FTPS and on the reuse of TLS sessions.

    Its user is in a file of its own. It tells checksums (mod_digest). Needs root.
    """
    tree = PROJECT / ".tools" / "proftpd-core"
    program = PROJECT / ".tools" / "bin" / "proftpd"
    if not program.exists() or os.geteuid() != 0:
        raise RuntimeError("tests with proftpd need `make tools` and root")
    home = root / "files"
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, _UID, _UID)
    asked = ["openssl", "passwd", "-6", "-stdin"]
    secret = subprocess.run(asked, check=True, input=PASSWORD, text=True, stdout=subprocess.PIPE).stdout.strip()
    (folder / "users").write_text(f"backup:{secret}:{_UID}:{_UID}::{root}:/bin/sh\n", encoding="ascii")
    (folder / "groups").write_text(f"backup:x:{_UID}:\n", encoding="ascii")
    for name in ("users", "groups"):
        (folder / name).chmod(0o600)
    port = free_port()
    first = free_port(PASSIVE_PORTS)
    modules = ("digest", "tls") if certificate else ("digest",)
    where = {"address": address, "port": port, "folder": folder, "first": first, "last": first + PASSIVE_PORTS - 1}
    lines = [f"ModulePath {tree}/usr/lib/proftpd", *(f"LoadModule mod_{name}.c" for name in modules)]
    lines.append(_PROFTPD.format(root=root, **where))
    if certificate is not None:
        lines.append(_PROFTPD_TLS.format(certificate=certificate.certificate, key=certificate.key, folder=folder))
    config = folder / "proftpd.conf"
    config.write_text("\n".join([*lines, extra, ""]), encoding="ascii")
    argv = [str(program), "-n", "-q", "-c", str(config)]
    with serving(argv, folder / "proftpd.out", address, port) as started:
        passive = tuple(range(first, first + PASSIVE_PORTS))
        yield FtpServer(address, port, home, "/files", "backup", certificate, passive, started)


_UID: Final = 48124
_PROFTPD: Final = """\
DigestEngine on
ServerName test
ServerType standalone
DefaultAddress {address}
Port {port}
UseIPv6 off
SocketBindTight on
UseReverseDNS off
User nobody
Group nogroup
AuthUserFile {folder}/users
AuthGroupFile {folder}/groups
AuthOrder mod_auth_file.c
RequireValidShell off
DefaultRoot {root}
PassivePorts {first} {last}
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
MaxInstances 60
PidFile {folder}/proftpd.pid
ScoreboardFile {folder}/proftpd.scoreboard
DelayTable none
DelayEngine off
WtmpLog off
SystemLog {folder}/proftpd.log
TransferLog none
Umask 022
"""
_PROFTPD_TLS: Final = """\
TLSEngine on
TLSRequired on
TLSLog {folder}/tls.log
TLSRSACertificateFile {certificate}
TLSRSACertificateKeyFile {key}
TLSVerifyClient off
"""
_VSFTPD: Final = """\
listen=YES
background=NO
seccomp_sandbox=NO
anonymous_enable=YES
local_enable=NO
secure_email_list_enable=YES
nopriv_user=nobody
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
delay_failed_login=0
delay_successful_login=0
use_localtime=NO
xferlog_enable=YES
log_ftp_protocol=YES"""

_VSFTPD_TLS: Final = """\
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
require_ssl_reuse=YES
ssl_ciphers=HIGH"""

_OPENSSL: Final = """\
openssl_conf = start
[start]
ssl_conf = sections
[sections]
system_default = limits
[limits]
MaxProtocol = {version}
"""
