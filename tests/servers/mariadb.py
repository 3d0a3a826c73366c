"""A real MariaDB server for tests: data in a temporary folder, a Unix socket and a port of 127.0.0.1.

It dies with the process that started it. Its programs are those that `make tools` fetched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.system.process import die_with_parent
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import free_port
from tests.servers.tools import find_tool

__all__ = ["PASSWORD", "RIGHTS", "Mariadb", "start_mariadb"]

PASSWORD: Final = "geheim \"'\\#백업;%"
"""Of the user ``backup``: with signs that an option file and SQL take for something else."""
RIGHTS: Final = "SELECT, SHOW VIEW, TRIGGER, EVENT, BINLOG MONITOR, REPLICATION SLAVE"
"""What docs/sources/mariadb.md gives that user."""
_START_SECONDS: Final = 60.0


class Mariadb:
    """A running server. ``root`` are its superuser's settings, by the socket."""

    def __init__(self, folder: Path, *, extra: Sequence[str] = ()) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.port = free_port()
        self._extra = tuple(extra)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    def settings(
        self, *databases: str, user: str = "backup", password: str = PASSWORD, **more: object
    ) -> MariadbSource:
        """Return settings that reach it by its socket."""
        given = {"socket": str(self.socket), "user": user, "password": Secret(password), "database": databases}
        named = ("mariadb_dump", "mariadb", "mariadb_binlog", "mariadbd", "mariadb_install_db")
        tools = {name: str(find_tool(name.replace("_", "-"))) for name in named}
        return MariadbSource(**{**given, **tools, **more})  # type: ignore[arg-type]

    def root(self, *databases: str) -> MariadbSource:
        """Return the superuser's settings."""
        return self.settings(*databases, user="root", password="")

    def run(self, statements: str, *, user: str = "root") -> list[list[str]]:
        """Run statements and return the rows, each a list of texts as the client writes them."""
        argv = [str(find_tool("mariadb")), "--no-defaults", f"--socket={self.socket}", f"--user={user}", "--batch"]
        argv += ["--skip-column-names", "--default-character-set=utf8mb4"]
        done = subprocess.run(argv, input=statements.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return [line.split("\t") for line in done.stdout.decode("utf-8", "replace").splitlines()]

    def start(self) -> None:
        """Make its data folder where there is none, start it, and wait until it answers."""
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        data = self.folder / "data"
        if not data.exists():
            install = [str(find_tool("mariadb-install-db")), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
            install += ["--auth-root-authentication-method=normal", *as_root]
            subprocess.run(install, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        argv = [str(find_tool("mariadbd")), "--no-defaults", f"--datadir={data}", f"--socket={self.socket}"]
        argv += [f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve", f"--pid-file={data}/pid"]
        argv += ["--log-bin=bin", "--server-id=1", "--innodb-buffer-pool-size=64M", "--innodb-use-native-aio=0"]
        argv += ["--innodb-flush-log-at-trx-commit=0", *as_root, *self._extra]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(RuntimeError):
                self.run("SELECT 1")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def purge(self) -> None:
        """Begin a new binary log and delete all before it, once InnoDB no longer needs those after a crash."""
        self.run("FLUSH BINARY LOGS")
        newest = self.run("SHOW MASTER STATUS")[0][0]
        deadline = time.monotonic() + _START_SECONDS
        while len(self.run(f"PURGE BINARY LOGS TO '{newest}'; SHOW BINARY LOGS")) > 1:
            if time.monotonic() > deadline:
                raise TimeoutError("the binary log was not purged")
            time.sleep(0.05)

    def make_user(self) -> None:
        """Make the user ``backup`` with the rights of the documentation, and no others."""
        secret = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
        self.run(f"CREATE USER backup@'%' IDENTIFIED BY '{secret}'; GRANT {RIGHTS} ON *.* TO backup@'%';")


@contextlib.contextmanager
def start_mariadb(*, extra: Sequence[str] = ()) -> Iterator[Mariadb]:
    """Run a server for the length of a with block; its data goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="test-mariadb-"))
    server = Mariadb(folder, extra=extra)
    try:
        server.start()
        server.make_user()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
