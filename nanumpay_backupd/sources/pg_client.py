"""How a PostgreSQL server is reached: stock tools with a password on a memory file, psql for questions, its faults."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, SpaceError, ToolError
from nanumpay_backupd.settings.sources import PostgresSource
from nanumpay_backupd.system.process import find_tool, run_bytes, run_text, secret_file
from nanumpay_backupd.system.secrets import redact

__all__ = [
    "HINT",
    "SERVER_HINT",
    "Psql",
    "address",
    "conninfo",
    "environment",
    "identifier",
    "literal",
    "major",
    "open_pg",
    "open_server",
    "pg_fault",
]

HINT: Final = "install PostgreSQL's client (package postgresql-client), or name the program in [tools] of backupd.toml"
SERVER_HINT: Final = (
    "install the server on this host (package postgresql-15; it need not run), or name it in [tools] postgres"
)
_DEBIAN: Final = Path("/usr/lib/postgresql")
_FIELD: Final = "\x1f"
_RECORD: Final = "\x1e"
_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|permission denied|must be (?:owner|superuser|member)|"
    r"no pg_hba.conf entry|role .* does not exist|row-level security"
)
_UNREACHABLE: Final = re.compile(
    r"could not connect|connection to server .* failed|could not translate host|server closed the connection|"
    r"Connection refused|timeout expired|the database system is (?:starting|shutting)|too many clients|SSL|"
    r"terminating connection|no connection to the server"
)
_LONGEST_SAID: Final = 300


def open_pg(name: str) -> tuple[Path, str]:
    """Find a tool and return it with its version; raises ToolError (``tool-missing``).

    Debian's /usr/bin/pg_dump chooses a version by this host's own clusters, so the newest one is looked for first.
    """
    path = Path(name)
    if "/" not in name:
        folders = sorted(_DEBIAN.glob("*/bin"), key=lambda folder: major(folder.parent.name), reverse=True)
        found = next((folder / name for folder in folders if os.access(folder / name, os.X_OK)), None)
        path = found or find_tool(name, hint=HINT)
    elif shutil.which(name) is None:
        path = find_tool(name, hint=HINT)
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)*)", run_text([str(path), "--version"]))
    if match is None:
        raise ToolError(f"{path} does not look like a tool of PostgreSQL: it tells no version", hint=HINT)
    return path, match[1]


def open_server(name: str) -> tuple[Path, str]:
    """Find a program of the server, as `open_pg`."""
    try:
        return open_pg(name)
    except ToolError as error:
        raise ToolError(error.message, hint=SERVER_HINT, code=error.code) from None


def major(version: str) -> int:
    """Return the number that PostgreSQL's versions are told apart by; 0 for what is none."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found is not None else 0


def conninfo(settings: PostgresSource, database: str) -> str:
    """Return how to connect, without the password."""
    given = {"host": settings.host, "port": str(settings.port), "user": settings.user, "dbname": database}
    given |= {"sslmode": settings.tls, "sslrootcert": settings.tls_ca, "connect_timeout": "10"}
    return " ".join(f"{key}={_quoted(value)}" for key, value in given.items() if value)


@contextlib.contextmanager
def environment(settings: PostgresSource) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Yield what is added to a tool's environment, and the descriptors that it gets."""
    extra = {"LC_ALL": "C.UTF-8", "PGCLIENTENCODING": "UTF8", "PGSERVICEFILE": "/dev/null", "PGOPTIONS": ""}
    password = settings.password.reveal()
    if not password:
        yield {**extra, "PGPASSFILE": "/dev/null"}, ()
        return
    with secret_file("*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n") as fd:
        yield {**extra, "PGPASSFILE": f"/dev/fd/{fd}"}, (fd,)


class Psql:
    """Asks the server by psql. Making one connects to nothing."""

    def __init__(self, settings: PostgresSource) -> None:
        self._settings = settings
        self._path: Path | None = None

    def rows(self, statement: str, database: str = "", *, timeout: float = 60.0) -> list[list[str]]:
        """Run statements in a database (empty: that for maintenance) and return what the one that gives rows gave.

        Raises SourceError (``source-auth``, ``source-unreachable``, ``source-failed``), ToolError.
        """
        if self._path is None:
            self._path, _ = open_pg(self._settings.psql)
        argv = [str(self._path), "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"]
        argv += [f"--field-separator={_FIELD}", f"--record-separator={_RECORD}", "--set=ON_ERROR_STOP=1"]
        argv.append(f"--dbname={conninfo(self._settings, database or self._settings.maintenance)}")
        with environment(self._settings) as (extra, fds):
            given = statement.encode("utf-8", "surrogateescape")
            done = run_bytes(argv, given=given, extra=extra, pass_fds=fds, timeout=timeout)
        if done.code != 0:
            raise pg_fault("psql", done.code, done.stderr.decode("utf-8", "replace"), self._settings)
        text = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
        return [record.split(_FIELD) for record in text.split(_RECORD) if record]


def address(settings: PostgresSource) -> str:
    """Return how the server is called, for people."""
    if settings.host and not settings.host.startswith("/"):
        return f"{settings.host}:{settings.port}"
    return f"its socket in {settings.host}" if settings.host else "its local socket"


def literal(text: str) -> str:
    """Return a text as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(text: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + text.replace('"', '""') + '"'


def pg_fault(name: str, code: int, said: str, settings: PostgresSource) -> BackupdError:
    """Say what a tool that failed means by what it said."""
    lines = [line for line in said.splitlines() if line.strip()]
    worst = [line for line in lines if re.search(r"error:|ERROR|FATAL", line)]
    first = redact((worst or lines or [""])[0])[:_LONGEST_SAID]
    where = f"PostgreSQL at {address(settings)}"
    if _REFUSED.search(said):
        return SourceError(
            f"{where} refused: {first}",
            hint="check user, password and rights (docs/sources/postgresql.md)",
            code="source-auth",
            retryable=False,
        )
    if _UNREACHABLE.search(said):
        return SourceError(
            f"{where} cannot be reached: {first}",
            hint="check that the server runs (systemctl status postgresql) and host and port of the job",
            code="source-unreachable",
        )
    if "no space left" in said.lower():
        return SpaceError(f"a disk filled up while {name} was working: {first}", hint="free space there")
    if code < 0:
        return ToolError(
            f"{name} was killed by signal {-code}",
            hint="look for the kernel's OOM killer: journalctl -k | grep -i oom",
            code="tool-killed",
            retryable=True,
        )
    return ToolError(
        f"{name} failed with exit code {code}: {first or 'it said nothing'}",
        hint="the journal has its whole output",
        retryable=True,
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
