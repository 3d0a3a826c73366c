"""An OpenSSH server in the contract suite."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import OwnedParticipant, Participant
from tests.servers.sftp import SshServer, start_sshd

__all__ = ["start_ssh"]


class SshAccount(OwnedParticipant):
    """Folders of one login."""

    durable: ClassVar[bool] = True
    tells_room: ClassVar[bool] = True

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self.port = server.port
        self.program = server.program

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"{self._server.base}/{name}/sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.home / name / "sub"

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        super().plant(name, files)
        owner = self._server.home.stat()
        for path in files:
            os.chown(self.on_disk(name) / path, owner.st_uid, owner.st_gid)

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"private_key": Secret(""), "passphrase": Secret(""), "password": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"host": host, "port": port}

    def missing(self, name: str) -> dict[str, Any]:
        return {"path": f"{self._server.base}/{name}/sub/file/deep"}


@contextlib.contextmanager
def start_ssh(folder: Path) -> Iterator[Participant]:
    """Run a server."""
    with start_sshd(folder) as server:
        yield SshAccount(server)
