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
from nanumpay_backupd.sources.base import FolderTarget, Scratch
from nanumpay_backupd.sources.mariadb_client import SERVER_HINT, Client, dotted, open_tool
from nanumpay_backupd.sources.mariadb_target import MariadbTarget
from nanumpay_backupd.sources.sockets import socket_folder
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.process import Child, find_tool, run_bytes
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["MariadbScratch"]

_SOCKET: Final = "mariadb.sock"
_START_SECONDS: Final = 60.0
_INSTALL_SECONDS: Final = 120.0
_NAP: Final = 0.1


class MariadbScratch(Scratch):
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
        self._settings = settings
        self._folder = folder
        self._sockets: Path | None = None
        self._child: Child | None = None
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
        self._child = Child(self._argv(data, socket), both=True)
        client = Client(self._settings)
        for _ in range(int(_START_SECONDS / _NAP)):
            # Waiting for its end is our way to sleep.
            if self._child.wait(_NAP) is not None:
                break
            check()
            if socket.exists() and _answers(client):
                return
        why = self.trouble() or f"it did not answer within {_START_SECONDS:.0f} s"
        self.stop()
        raise _failed(why, self._folder)

    @property
    def gone(self) -> bool:
        """See `Scratch.gone`."""
        return self._child is None or not self._child.running

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        if self._child is None:
            return "it was not started"
        if self._child.running:
            return ""
        said = [line for line in self._child.tail.splitlines() if "[ERROR]" in line] or self._child.tail.splitlines()
        return f"it ended with code {self._child.wait()} ({redact(said[-1] if said else '')[:300]})"

    def stop(self) -> None:
        """Kill the server (nobody needs what it would still write) and remove its data."""
        if self._child is not None:
            self._child.kill()
        for folder in {self._folder, self._sockets} - {None}:
            assert folder is not None
            remove_tree(folder)

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
            raise _failed(f"{Path(argv[0]).name} failed: {done.said}", self._folder)

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


def _answers(client: Client) -> bool:
    try:
        return client.value("SELECT 1") == "1"
    except BackupdError:
        return False


def _failed(why: str, folder: Path) -> ToolError:
    return ToolError(
        f"the scratch server could not be started: {why}",
        hint=f"is there room in {folder.parent}? does the server run by hand with an empty data folder?",
        code="scratch-failed",
        retryable=True,
    )
