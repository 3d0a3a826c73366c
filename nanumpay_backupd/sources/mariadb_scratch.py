"""A scratch mariadbd for drills: data in a folder of its own, reached by a socket only, gone when this process ends.

Facts this relies on (MariaDB 10.11): mariadb-install-db makes the data folder of an empty server in about a second;
mariadbd refuses to run as root unless it is told to (``--user=root``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import FolderTarget
from nanumpay_backupd.sources.mariadb_client import SERVER_HINT, Client, dotted, open_tool
from nanumpay_backupd.sources.mariadb_target import MariadbTarget
from nanumpay_backupd.sources.own_place import OwnServer
from nanumpay_backupd.sources.sockets import socket_folder
from nanumpay_backupd.system.process import find_tool, run_bytes
from nanumpay_backupd.system.secrets import Secret

__all__ = ["MariadbScratch"]

_SOCKET: Final = "mariadb.sock"
_INSTALL_SECONDS: Final = 120.0


class MariadbScratch(OwnServer):
    """A server of our own."""

    def __init__(self, settings: MariadbSource, folder: Path, manifest: Manifest) -> None:
        """Find the server; raises ToolError: ``tool-missing``, ``tool-too-old``."""
        try:
            self._tool = open_tool(settings.mariadbd)
        except ToolError as error:
            raise ToolError(error.message, hint=SERVER_HINT, code=error.code) from None
        version = manifest.source.server_version
        same = self._tool.mariadb == ("MariaDB" in version)
        if not same or dotted(self._tool.version)[:2] < dotted(version)[:2]:
            raise ToolError(
                f"{self._tool.path} is {'MariaDB' if self._tool.mariadb else 'MySQL'} {self._tool.version}, "
                f"but the backup is of a server of version {version}",
                hint="install a server of that version or a newer one, and name it in [tools] mariadbd",
                code="tool-too-old",
            )
        self._install = _open_install(settings.mariadb_install_db) if self._tool.mariadb else None
        super().__init__(folder)
        self._settings = settings
        self._client = Client(settings)
        self.described = f"a {self._tool.name} {self._tool.version} of its own"

    def start(self, check: Callable[[], None]) -> None:
        """Make a data folder, start the server, wait until it answers; raises ToolError (``scratch-failed``)."""
        data = self._folder / "data"
        self._folder.mkdir(mode=0o700, parents=True)
        check()
        self._fill(data)
        self._sockets = socket_folder(self._folder, _SOCKET)
        socket = self._sockets / _SOCKET
        self._settings = msgspec.structs.replace(
            self._settings, host="", socket=str(socket), user="root", password=Secret(""), tls="auto", tls_ca=""
        )
        self._client = Client(self._settings)
        self._launch(self._argv(data, socket), check)

    def _answers(self) -> bool:
        try:
            return (
                self._sockets is not None
                and (self._sockets / _SOCKET).exists()
                and self._client.value("SELECT 1") == "1"
            )
        except BackupdError:
            return False

    def target(self) -> FolderTarget:
        """See `Scratch.target`."""
        return MariadbTarget(self._settings)

    def _fill(self, data: Path) -> None:
        """Make the data folder of an empty server."""
        if self._install is not None:
            argv = [str(self._install), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
            argv += ["--auth-root-authentication-method=normal", *self._as_root()]
        else:
            argv = [str(self._tool.path), "--no-defaults", "--initialize-insecure", f"--datadir={data}"]
            argv += self._as_root()
        done = run_bytes(argv, timeout=_INSTALL_SECONDS)
        if done.code != 0:
            raise self._failed(f"{Path(argv[0]).name} failed: {done.said}")

    def _argv(self, data: Path, socket: Path) -> list[str]:
        return [
            str(self._tool.path),
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            f"--pid-file={self._folder / 'pid'}",
            f"--tmpdir={self._folder}",
            "--skip-networking",
            "--skip-log-bin",
            # Nothing of the backup is to run by itself.
            "--event-scheduler=OFF",
            "--max-allowed-packet=1G",
            # What is written is read once and thrown away.
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=0",
            "--skip-innodb-doublewrite",
            "--innodb-use-native-aio=0",
            *self._as_root(),
        ]

    @staticmethod
    def _as_root() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


def _open_install(name: str) -> Path:
    """Find what makes a data folder; raises ToolError (``tool-missing``)."""
    return find_tool(name, hint=SERVER_HINT)
