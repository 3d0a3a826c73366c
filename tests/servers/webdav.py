"""Real WebDAV servers for tests, over a local folder, with a login: rclone, and Apache with mod_dav."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.schema import WebdavDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.process import Program, free_port, serving
from tests.servers.s3 import CACHE_SECONDS, find_rclone
from tests.servers.tools import PROJECT

__all__ = ["PASSWORD", "WebdavServer", "start_apache", "start_rclone_webdav"]

PASSWORD: Final = "geheim+fuer%Tests:ü"
USER: Final = "backup"


@dataclass(frozen=True)
class WebdavServer:
    """A running server whose files are those below ``root``."""

    url: str
    port: int
    root: Path
    ca_file: str
    program: Program = field(repr=False)

    @property
    def folder(self) -> Path:
        """Return where the objects of `destination` lie."""
        return self.root / "backup" / "nanumpay"

    def destination(self, **changes: Any) -> WebdavDestination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "cloud",
            "url": self.url,
            "username": USER,
            "password": Secret(PASSWORD),
            "ca_file": self.ca_file,
            "timeout": 10.0,
        }
        return WebdavDestination(**{**settings, **changes})


@contextlib.contextmanager
def start_rclone_webdav(folder: Path, certificate: Certificate | None = None, *more: str) -> Iterator[WebdavServer]:
    """Run a server that keeps its data below ``folder / "dav"``; with a certificate it speaks HTTPS."""
    root = folder / "dav"
    root.mkdir(parents=True)
    port = free_port()
    argv = [str(find_rclone()), "serve", "webdav", str(root), "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
    argv += ["--user", USER, "--pass", PASSWORD, "--dir-cache-time", f"{CACHE_SECONDS}s", "--baseurl", "/dav files"]
    if certificate is not None:
        argv += ["--cert", str(certificate.certificate), "--key", str(certificate.key)]
    scheme = "https" if certificate else "http"
    with serving([*argv, *more], folder / "rclone.log", "127.0.0.1", port) as program:
        yield WebdavServer(
            url=f"{scheme}://127.0.0.1:{port}/dav%20files",
            port=port,
            root=root,
            ca_file=str(certificate.authority) if certificate else "",
            program=program,
        )


@contextlib.contextmanager
def start_apache(folder: Path, root: Path | None = None, *, digest: bool = False) -> Iterator[WebdavServer]:
    """Run Apache with mod_dav over ``folder / "dav"`` or ``root``, in a mount namespace of its own. Needs root.

    With ``digest`` it asks for that login, and for no other.
    """
    program, modules = (
        PROJECT / ".tools" / "bin" / "apache2",
        PROJECT / ".tools" / "apache2-bin" / "usr/lib/apache2/modules",
    )
    if not program.exists() or os.geteuid() != 0:
        raise RuntimeError("tests with Apache need `make tools` and root")
    root = root or folder / "dav"
    root.mkdir(parents=True, exist_ok=True)
    # It serves as an ordinary user, who cannot see a temporary folder of root's.
    shutil.chown(root, "www-data", "www-data")
    locks = folder / "locks"
    locks.mkdir(parents=True)
    shutil.chown(locks, "www-data", "www-data")
    asked = ["openssl", "passwd", "-apr1", "-stdin"]
    secret = subprocess.run(asked, check=True, input=PASSWORD, text=True, stdout=subprocess.PIPE).stdout.strip()
    if digest:
        secret = "backups:" + hashlib.md5(f"{USER}:backups:{PASSWORD}".encode(), usedforsecurity=False).hexdigest()
    (folder / "users").write_text(f"{USER}:{secret}\n", encoding="utf-8")
    port = free_port()
    config = folder / "apache.conf"
    lines = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in _MODULES]
    login = {"login": "Digest" if digest else "Basic", "provider": "AuthDigestProvider file" if digest else ""}
    config.write_text("\n".join(lines) + _APACHE.format(port=port, folder=folder, **login), encoding="utf-8")
    script = (
        f"mount --bind {root} /mnt; mount --bind {locks} /media; cp {folder}/users /media/users; "
        f"exec {program} -X -d {folder} -f {config}"
    )
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]
    with serving(argv, folder / "apache.log", "127.0.0.1", port) as started:
        yield WebdavServer(f"http://127.0.0.1:{port}/dav", port, root, "", started)


_MODULES: Final = (
    *("mpm_event", "alias", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "auth_digest"),
    *("dav", "dav_fs"),
)
_APACHE: Final = """
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
User www-data
Group www-data
DavLockDB /media/locks
Alias /dav /mnt
<Location /dav>
    Dav On
    AuthType {login}
    {provider}
    AuthName backups
    AuthUserFile /media/users
    Require valid-user
</Location>
"""
