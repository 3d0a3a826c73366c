"""A scratch PostgreSQL server for drills: data in a folder of its own, reached by a socket only.

PostgreSQL refuses to run as root. Where this process is root it runs as the user ``postgres``, else ``nobody``, in a
folder of that user below the one for temporary files.
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, RefusedError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import PostgresSource
from nanumpay_backupd.sources.base import FolderTarget
from nanumpay_backupd.sources.own_place import OwnServer
from nanumpay_backupd.sources.pg_client import SERVER_HINT, Psql, major, open_server
from nanumpay_backupd.sources.pg_target import PostgresTarget
from nanumpay_backupd.sources.sockets import socket_folder
from nanumpay_backupd.system.process import run_bytes
from nanumpay_backupd.system.secrets import Secret

__all__ = ["PostgresScratch"]

_PORT: Final = 5432
_SOCKET: Final = f".s.PGSQL.{_PORT}.lock"
_INIT_SECONDS: Final = 120.0
_OTHERS: Final = ("postgres", "nobody")


class PostgresScratch(OwnServer):
    """A server of our own."""

    def __init__(self, settings: PostgresSource, folder: Path, manifest: Manifest) -> None:
        """Find the server; raises ToolError (``tool-missing``, ``tool-too-old``), RefusedError."""
        self._initdb, version = open_server(settings.initdb)
        self._postgres, _ = open_server(settings.postgres)
        if major(version) < major(manifest.source.server_version):
            raise ToolError(
                f"{self._postgres} is of version {version}, the backup of a server of {manifest.source.server_version}",
                hint=SERVER_HINT,
                code="tool-too-old",
            )
        super().__init__(folder)
        self._settings = settings
        self._psql = Psql(settings)
        self._before = _as_other() if os.geteuid() == 0 else []
        self.described = f"a PostgreSQL {version} of its own"

    def start(self, check: Callable[[], None]) -> None:
        """Make a data folder, start the server, wait until it answers; raises ToolError (``scratch-failed``)."""
        check()
        self._make_folder()
        data = self._folder / "data"
        argv = [*self._before, str(self._initdb), f"--pgdata={data}", "--username=postgres", "--auth=trust"]
        argv += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        done = run_bytes(argv, timeout=_INIT_SECONDS, extra={"LC_ALL": "C"})
        if done.code != 0:
            self.stop()
            raise self._failed(f"initdb failed: {done.said}")
        self._sockets = socket_folder(self._folder, _SOCKET)
        self._settings = msgspec.structs.replace(
            self._settings,
            host=str(self._sockets),
            port=_PORT,
            user="postgres",
            password=Secret(""),
            maintenance="postgres",
            tls="disable",
            tls_ca="",
        )
        self._psql = Psql(self._settings)
        self._launch([*self._before, *self._argv(data)], check)

    def _answers(self) -> bool:
        try:
            return self._psql.rows("SELECT 1") == [["1"]]
        except BackupdError:
            return False

    def target(self) -> FolderTarget:
        """See `Scratch.target`."""
        return PostgresTarget(self._settings, plain=True)

    def _make_folder(self) -> None:
        if not self._before:
            self._folder.mkdir(mode=0o700, parents=True)
            return
        # The staging folder is root's own; the other user could not even reach a folder in it.
        self._folder = Path(tempfile.mkdtemp(prefix=f"nanumpay-drill-{os.getpid()}-"))
        shutil.chown(self._folder, user=self._before[1].removeprefix("--reuid="))

    def _argv(self, data: Path) -> list[str]:
        settings = {
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            "port": str(_PORT),
            # What is written is read once and thrown away.
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "shared_buffers": "64MB",
            "autovacuum": "off",
            "jit": "off",
        }
        return [str(self._postgres), "-D", str(data), *(f"--{key}={value}" for key, value in settings.items())]


def _as_other() -> list[str]:
    """Return what runs a command as an ordinary user; raises RefusedError (``drill-impossible``)."""
    setpriv = shutil.which("setpriv")
    for name in _OTHERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if setpriv is not None:
            return [setpriv, f"--reuid={found.pw_name}", f"--regid={found.pw_gid}", "--clear-groups"]
    raise RefusedError(
        "no drill is possible: PostgreSQL does not run as root, and there is no other user to run it as",
        hint="run the daemon as its own user, as its unit does",
        code="drill-impossible",
    )
