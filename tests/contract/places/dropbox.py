"""A folder of a Dropbox (played: tests/servers/dropbox) in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Keeping
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.dropbox import DropboxServer, start_dropbox

__all__ = ["start_folder"]


class DropboxFolder(DiskParticipant):
    """Folders in one account."""

    durable: ClassVar[bool] = True
    keeping: ClassVar[Keeping] = Keeping(versions=True, expiring=True)

    def __init__(self, server: DropboxServer) -> None:
        self._server = server

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"/{name}/sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.root / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"refresh_token": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"endpoint_url": f"{self._server.endpoint.partition(':')[0]}://{host}:{port}"}


@contextlib.contextmanager
def start_folder(folder: Path, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run a server; with a certificate it speaks HTTPS."""
    with start_dropbox(folder, certificate) as server:
        yield DropboxFolder(server)
