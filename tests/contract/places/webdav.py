"""A WebDAV server (rclone serve webdav) in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.s3 import CACHE_SECONDS
from tests.servers.webdav import WebdavServer, start_rclone_webdav

__all__ = ["start_webdav"]


class WebdavAccount(DiskParticipant):
    """Folders of one login."""

    settling: ClassVar[float] = 2 * CACHE_SECONDS

    def __init__(self, server: WebdavServer) -> None:
        self._server = server

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"{name}/하위 sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / name / "하위 sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"password": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"url": f"{self._server.url.partition(':')[0]}://{host}:{port}"}


@contextlib.contextmanager
def start_webdav(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_rclone_webdav(folder, certificate) as server:
        yield WebdavAccount(server)
