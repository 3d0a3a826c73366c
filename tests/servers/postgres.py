"""A real PostgreSQL server for tests: data in a temporary folder, a Unix socket, passwords asked for.

It runs as an ordinary user, since it refuses root, and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import ToolError
from nanumpay_backupd.settings.sources import PostgresSource
from nanumpay_backupd.sources.pg_client import open_pg
from nanumpay_backupd.system.process import die_with_parent
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.mongod import free_port
from tests.servers.tools import find_tool

__all__ = ["PASSWORD", "Postgres", "start_postgres", "tool"]

PASSWORD: Final = "geheim:\\ '백업\"%"
"""Of the user ``backup`` and the superuser: with signs that a password file takes for something else."""
_START_SECONDS: Final = 60.0


class Postgres:
    """A running server."""

    def __init__(self, folder: Path, certificate: Certificate | None = None) -> None:
        self.folder = folder
        self.port = free_port() if certificate is not None else 5432
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None

    def settings(self, *databases: str, user: str = "backup", **more: object) -> PostgresSource:
        """Return settings that reach it."""
        given = {"host": str(self.folder), "user": user, "password": Secret(PASSWORD), "database": databases}
        given["port"] = self.port
        names = ("pg_dump", "pg_dumpall", "pg_restore", "psql", "initdb", "postgres")
        tools = {name: str(tool(name)) for name in names}
        return PostgresSource(**{**given, **tools, **more})  # type: ignore[arg-type]

    def run(self, statements: str, database: str = "postgres", *, check: bool = True) -> list[list[str]]:
        """Run statements as the superuser and return the rows."""
        argv = [str(tool("psql")), "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [*argv, "-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database],
            input=statements.encode(),
            capture_output=True,
            check=False,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )
        if check and done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return [line.split("\t") for line in done.stdout.decode("utf-8", "replace").splitlines()]

    def start(self) -> None:
        """Make its data folder, start it, and wait until it answers."""
        before, name = [], ""
        if os.geteuid() == 0:
            name = next(name for name in ("postgres", "nobody") if _is_there(name))
            shutil.chown(self.folder, user=name)
            before = ["setpriv", f"--reuid={name}", f"--regid={pwd.getpwnam(name).pw_gid}", "--clear-groups"]
        secret = self.folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        argv = [*before, str(tool("initdb")), "-D", str(self.folder / "data"), "-U", "postgres", "-E", "UTF8"]
        argv += ["--locale=C.UTF-8", "-N", "-A", "scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        argv = [*before, str(tool("postgres")), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        argv += ["-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", f"port={self.port}", *self._network(name)]
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

    def _network(self, owner: str) -> list[str]:
        """Return what has it listen, with TLS, where there is a certificate; it reads none but its own key."""
        if self._certificate is None:
            return ["-c", "listen_addresses="]
        key = self.folder / "server.key"
        key.write_bytes(self._certificate.key.read_bytes())
        key.chmod(0o600)
        certificate = self.folder / "server.pem"
        certificate.write_bytes(self._certificate.certificate.read_bytes())
        if owner:
            shutil.chown(key, user=owner)
        given = {"listen_addresses": "127.0.0.1", "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key}
        return [word for name, value in given.items() for word in ("-c", f"{name}={value}")]

    def stop(self) -> None:
        """End it at once (SIGQUIT: its children go with it)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def make_user(self, rights: str = "") -> None:
        """Make the user ``backup``; ``rights`` is what stands after CREATE ROLE … LOGIN."""
        secret = PASSWORD.replace("'", "''")
        self.run(f"SET standard_conforming_strings = on; CREATE ROLE backup LOGIN {rights} PASSWORD '{secret}'")


def _is_there(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def tool(name: str) -> Path:
    """Return a program: that of the host's newest version, else the one that `make tools` fetched."""
    try:
        return open_pg(name)[0]
    except ToolError:
        return find_tool(name)


@contextlib.contextmanager
def start_postgres(certificate: Certificate | None = None) -> Iterator[Postgres]:
    """Run a server for the length of a with block, with TLS where a certificate is given; its data goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="test-postgres-"))
    server = Postgres(folder, certificate)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
