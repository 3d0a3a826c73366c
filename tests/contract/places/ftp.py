"""FTP and FTPS servers (pyftpdlib, vsftpd, proftpd) in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.system.secrets import Secret
from tests.contract.places.base import OwnedParticipant, Participant
from tests.servers.certs import Certificate
from tests.servers.ftp import FtpServer, start_proftpd, start_pyftpdlib, start_vsftpd

__all__ = ["start_ftp"]


class FtpAccount(OwnedParticipant):
    """Folders of one login."""

    def __init__(self, server: FtpServer) -> None:
        self._server = server
        self.port = server.port
        self.data_ports = server.passive_ports
        self.program = server.program
        self.tls = server.certificate is not None

    def destination(self, name: str, **changes: Any) -> Destination:
        return self._server.destination(**{"path": f"{self._server.base}/{name}/sub", **changes})

    def on_disk(self, name: str) -> Path:
        return self._server.home / name / "sub"

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        return {"password": Secret(wrong)}

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        return {"host": host, "port": port}

    def missing(self, name: str) -> dict[str, Any]:
        return {"path": f"{self._server.base}/{name}/sub/file/deep"}


class PythonFtpAccount(FtpAccount):
    """One at pyftpdlib, which runs as root, but has rights of its own."""

    # It breaks off without an answer, so that all we can know is that nothing gets through any more.
    says_full: ClassVar[frozenset[str]] = frozenset({"destination-unreachable"})

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        assert self._server.users is not None
        account = self._server.users.user_table[self._server.user]
        before = account["perm"]
        # Its letters: e change folder, l list, r read, a append, d delete, f rename, m make, w write, M T times.
        account["perm"] = "elr" if right == "put" else before.replace("l", "")
        try:
            yield {}
        finally:
            account["perm"] = before


@contextlib.contextmanager
def start_ftp(folder: Path, program: str, certificate: Certificate | None = None) -> Iterator[Participant]:
    """Run ``pyftpdlib``, ``vsftpd`` or ``proftpd``; with a certificate it speaks FTPS."""
    if program == "pyftpdlib":
        with start_pyftpdlib(folder / "root", certificate) as server:
            yield PythonFtpAccount(server)
        return
    start = start_vsftpd if program == "vsftpd" else start_proftpd
    with start(folder / "root", folder, certificate) as server:
        yield FtpAccount(server)
