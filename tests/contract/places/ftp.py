"""FTP and FTPS servers in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import DiskParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.ftp import FtpServer, start_pyftpdlib, start_vsftpd

__all__ = ["start_ftp"]


class FtpAccount(DiskParticipant):
    """Folders of one login."""

    def __init__(self, server: FtpServer) -> None:
        self._server = server

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"{self._server.base}/{name}/sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.home / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"password": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"host": host, "port": port}


@contextlib.contextmanager
def start_ftp(folder: Path, program: str, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run ``pyftpdlib`` or ``vsftpd``; with a certificate it speaks FTPS."""
    if program == "pyftpdlib":
        running = start_pyftpdlib(folder / "root", certificate)
    else:
        running = start_vsftpd(folder / "root", folder, certificate)
    with running as server:
        yield FtpAccount(server)
