"""WebDAV servers (rclone, Apache) in the contract suite."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, OwnedParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.s3 import CACHE_SECONDS
from tests.servers.webdav import WebdavServer, start_apache, start_rclone_webdav

__all__ = ["start_webdav", "start_webdav_apache"]


class WebdavAccount(DiskParticipant):
    """Folders of one login."""

    settling: ClassVar[float] = 2 * CACHE_SECONDS
    # It does not say why: 500, 404, 405.
    says_full: ClassVar[frozenset[str]] = frozenset({"destination-full", "destination-failed"})
    takes: ClassVar[frozenset[str]] = frozenset()
    lists_while_writing: ClassVar[bool] = False

    def __init__(self, server: WebdavServer) -> None:
        self._server = server
        self.port = server.port
        self.program = server.program
        self.tls = bool(server.ca_file)

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"{name}/하위 sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / name / "하위 sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"password": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"url": self._server.url.replace(f"127.0.0.1:{self.port}", f"{host}:{port}")}

    def missing(self, name: str) -> dict[str, Any]:
        return {"path": f"{name}/하위 sub/file/deep"}


class ApacheAccount(WebdavAccount, OwnedParticipant):
    """Folders below one that Apache serves; what a test puts there is its own."""

    settling: ClassVar[float] = 0.0
    lists_while_writing: ClassVar[bool] = True
    # It answers 500 where its disk does not let it write, and hangs up where it cannot read a folder.
    says_denied: ClassVar[frozenset[str]] = frozenset(
        {"destination-denied", "destination-failed", "destination-unreachable"}
    )
    litter: ClassVar[str] = ".davfs.tmp"
    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        super().plant(name, files)
        for path in files:
            shutil.chown(self.on_disk(name) / path, "www-data", "www-data")
            shutil.chown((self.on_disk(name) / path).parent, "www-data", "www-data")


@contextlib.contextmanager
def start_webdav(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_rclone_webdav(folder, certificate) as server:
        yield WebdavAccount(server)


@contextlib.contextmanager
def start_webdav_apache(folder: Path) -> Iterator[Participant]:
    """Run Apache."""
    with start_apache(folder) as server:
        yield ApacheAccount(server)
