"""A real WebDAV server for tests: ``rclone serve webdav`` over a local folder, by HTTP or HTTPS, with a login."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.schema import WebdavDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.process import free_port, running
from tests.servers.s3 import CACHE_SECONDS, find_rclone

__all__ = ["PASSWORD", "WebdavServer", "start_rclone_webdav"]

PASSWORD: Final = "geheim+fuer%Tests:ü"
USER: Final = "backup"


@dataclass(frozen=True)
class WebdavServer:
    """A running server whose files are those below ``root``."""

    url: str
    port: int
    root: Path
    ca_file: str
    process: subprocess.Popen[bytes] = field(repr=False)

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
    with running([*argv, *more], folder / "rclone.log", "127.0.0.1", port) as process:
        yield WebdavServer(
            url=f"{scheme}://127.0.0.1:{port}/dav%20files",
            port=port,
            root=root,
            ca_file=str(certificate.authority) if certificate else "",
            process=process,
        )
