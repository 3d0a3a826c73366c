"""How a MariaDB or MySQL server is reached: the stock client with a password on a memory file, its faults by name.

What is asked is said elsewhere. Nothing of this host's own option files is read: a ``where=`` or ``ignore-table=`` in
them would thin out a backup that looks whole.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, SourceError, SpaceError, ToolError
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.system.process import find_tool, run_bytes, run_text, secret_file
from nanumpay_backupd.system.secrets import redact

__all__ = [
    "CLIENT_HINT",
    "SERVER_HINT",
    "SYSTEM_DATABASES",
    "Client",
    "Tool",
    "address",
    "dotted",
    "literal",
    "open_tool",
    "tool_fault",
]

CLIENT_HINT: Final = "install MariaDB's client (package mariadb-client), or name the program in [tools] of backupd.toml"
SERVER_HINT: Final = (
    "install the server on this host (package mariadb-server-core; it need not run), "
    "or name it in [tools] mariadbd and mariadb_install_db of backupd.toml"
)
SYSTEM_DATABASES: Final = frozenset({"information_schema", "performance_schema", "mysql", "sys"})
_OTHER_NAMES: Final = {
    "mariadb-dump": "mysqldump",
    "mariadb": "mysql",
    "mariadb-binlog": "mysqlbinlog",
    "mariadbd": "mysqld",
    "mariadb-install-db": "mysql_install_db",
}
_ADMIN_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin")
_REFUSED: Final = frozenset({"1044", "1045", "1142", "1143", "1227", "1370", "1698", "1862", "3118"})
_UNREACHABLE: Final = frozenset(
    {"1040", "1053", "1129", "1130", "2002", "2003", "2005", "2006", "2012", "2013", "2026"}
)
_NUMBER: Final = re.compile(r"(?:ERROR|[Ee]rror:?) (\d{4})\b|\((\d{4})\)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "\\": "\\", "0": "\0"}
_CONNECT_SECONDS: Final = 10
_LONGEST_SAID: Final = 300


class Tool:
    """A stock tool that was found: where, what it calls itself, and whether it is MariaDB's or MySQL's."""

    def __init__(self, path: Path, told: str) -> None:
        self.path = path
        self.name = path.name
        found = re.search(r"Distrib (\d+\.\d+\.\d+)", told) or re.search(r"Ver (\d+(?:\.\d+)+)", told)
        self.version = found[1] if found is not None else ""
        # MariaDB's mysqlbinlog counts its own versions, and they never got beyond 3.
        self.mariadb = "MariaDB" in told or self.version.startswith("3.")


def open_tool(name: str) -> Tool:
    """Find a tool, also by MySQL's name and where servers are installed; raises ToolError (``tool-missing``)."""
    path = _found(name)
    told = run_text([str(path), "--no-defaults", "--version"])
    tool = Tool(path, told)
    if not tool.version:
        raise ToolError(f"{path} does not look like a tool of MariaDB or MySQL: it tells no version", hint=CLIENT_HINT)
    return tool


def _found(name: str) -> Path:
    for candidate in filter(None, (name, _OTHER_NAMES.get(name))):
        for folder in ("", *_ADMIN_FOLDERS):
            found = shutil.which(f"{folder}/{candidate}" if folder and "/" not in candidate else candidate)
            if found is not None:
                return Path(found)
    return find_tool(name, hint=CLIENT_HINT)


class Client:
    """Asks the server by its stock client. Making one connects to nothing."""

    def __init__(self, settings: MariadbSource) -> None:
        self._settings = settings
        self._tool: Tool | None = None
        self._encrypted = settings.tls != "required"

    @property
    def tool(self) -> Tool:
        """Return the client program; raises ToolError (``tool-missing``)."""
        if self._tool is None:
            self._tool = open_tool(self._settings.mariadb)
        return self._tool

    @contextlib.contextmanager
    def options(self, tool: Tool) -> Iterator[int]:
        """Yield a descriptor for ``--defaults-file=/dev/fd/N`` of that tool."""
        with secret_file(_option_file(self._settings, tool)) as fd:
            yield fd

    def rows(self, statement: str, *, timeout: float = 60.0) -> list[list[str]]:
        """Run statements and return what they gave, as texts (``NULL`` stays that word).

        Raises SourceError (``source-auth``, ``source-unreachable``, ``source-failed``), ToolError.
        """
        if not self._encrypted:
            self._encrypted = True
            self._require_tls()
        tool = self.tool
        with self.options(tool) as fd:
            argv = [str(tool.path), f"--defaults-file=/dev/fd/{fd}", "--batch", "--skip-column-names"]
            argv += ["--default-character-set=utf8mb4", f"--connect-timeout={_CONNECT_SECONDS}"]
            done = run_bytes(argv, given=statement.encode("utf-8", "surrogateescape"), pass_fds=(fd,), timeout=timeout)
        if done.code != 0:
            raise tool_fault(tool.name, done.code, done.stderr.decode("utf-8", "replace"), self._settings)
        text = done.stdout.decode("utf-8", "surrogateescape")
        return [[_unescaped(field) for field in line.split("\t")] for line in text.split("\n") if line]

    def _require_tls(self) -> None:
        """Raise SourceError where the connection is plain: MariaDB's tools take that without a word (10.11 seen)."""
        if not self.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1]:
            self._encrypted = False
            raise SourceError(
                f"MariaDB at {address(self._settings)} does not encrypt the connection, and the job requires it",
                hint='give the server a certificate (ssl_cert, ssl_key), or write tls = "auto"',
                retryable=False,
            )

    def value(self, statement: str) -> str:
        """Return the one value that a statement gives, empty: none."""
        rows = self.rows(statement)
        return rows[0][0] if rows else ""

    def allowed(self, statement: str) -> bool:
        """Tell whether this user may run a statement; raises as `rows` for anything else than a refusal."""
        try:
            self.rows(statement)
        except SourceError as error:
            if error.code != "source-auth":
                raise
            return False
        return True


def address(settings: MariadbSource) -> str:
    """Return how the server is called, for people."""
    if settings.host:
        return f"{settings.host}:{settings.port}"
    return settings.socket or "its local socket"


def literal(text: str) -> str:
    """Return a text as a string of SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def dotted(version: str) -> tuple[int, ...]:
    """Return a version's numbers, such as (10, 11, 19)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found is not None else ()


def tool_fault(name: str, code: int, said: str, settings: MariadbSource) -> BackupdError:
    """Say what a tool that failed means by what it said."""
    lines = [line for line in said.splitlines() if line.strip() and not line.lower().startswith("warning")]
    last = redact(lines[-1] if lines else "")[:_LONGEST_SAID]
    numbers = [number for pair in _NUMBER.findall(said) for number in pair if number]
    where = f"MariaDB at {address(settings)}"
    if any(number in _REFUSED for number in numbers):
        return SourceError(
            f"{where} refused: {last}",
            hint="check user, password and rights (docs/sources/mariadb.md)",
            code="source-auth",
            retryable=False,
        )
    if any(number in _UNREACHABLE for number in numbers):
        return SourceError(
            f"{where} cannot be reached: {last}",
            hint="check that the server runs (systemctl status mariadb) and host, port or socket of the job",
            code="source-unreachable",
        )
    if "no space left" in said.lower() or "errcode: 28" in said.lower():
        return SpaceError(f"a disk filled up while {name} was working: {last}", hint="free space there")
    if code < 0:
        return ToolError(
            f"{name} was killed by signal {-code}",
            hint="look for the kernel's OOM killer: journalctl -k | grep -i oom",
            code="tool-killed",
            retryable=True,
        )
    return ToolError(
        f"{name} failed with exit code {code}: {last or 'it said nothing'}",
        hint="the journal has its whole output",
        retryable=True,
    )


def _option_file(settings: MariadbSource, tool: Tool) -> str:
    given = {"user": settings.user, "password": settings.password.reveal()}
    if settings.host:
        # By name, and never by the socket that "localhost" stands for.
        given |= {"host": settings.host, "port": str(settings.port), "protocol": "tcp"}
    elif settings.socket:
        given |= {"socket": settings.socket, "protocol": "socket"}
    if settings.tls_ca:
        given["ssl-ca"] = settings.tls_ca
    lines = [f"{key}={_quoted(value)}" for key, value in given.items() if value]
    if settings.tls != "auto":
        if tool.mariadb:
            lines += ["ssl", *(["ssl-verify-server-cert"] if settings.tls == "verify" else [])]
        else:
            lines.append(f"ssl-mode={'VERIFY_IDENTITY' if settings.tls == 'verify' else 'REQUIRED'}")
    return "[client]\n" + "".join(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(signs.get(sign, sign) for sign in value) + '"'


def _unescaped(field: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), field) if "\\" in field else field
