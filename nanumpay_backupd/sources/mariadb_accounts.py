"""Users and their rights beside a dump of MariaDB or MySQL, as the server itself writes them down."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nanumpay_backupd.errors import BackupdError, SourceError
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.mariadb_client import Client

__all__ = ["AccountsDump", "accounts_of"]

_LEFT_OUT = ("root", "mysql", "mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema", "PUBLIC", "")
"""Accounts that every server has of its own."""


class AccountsDump(Dump):
    """A dump with a file of accounts beside it, written when the dump has ended."""

    def __init__(self, client: Client, dump: Dump, path: Path) -> None:
        self._dump = dump
        self._fault: BackupdError | None = None
        try:
            path.write_text(accounts_of(client), encoding="utf-8", errors="surrogateescape")
        except BackupdError as error:
            dump.kill()
            raise SourceError(
                f"the accounts cannot be read: {error.message}",
                hint="give the user SELECT on the database mysql (docs/sources/mariadb.md), or write accounts = false",
                code="source-auth",
                retryable=False,
            ) from None

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._dump.running

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return self._dump.documents

    def pause(self) -> None:
        """See `Dump.pause`."""
        self._dump.pause()

    def resume(self) -> None:
        """See `Dump.resume`."""
        self._dump.resume()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        return self._dump.wait(timeout)

    def kill(self) -> None:
        """See `Dump.kill`."""
        self._dump.kill()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`."""
        harvest = self._dump.harvest(sizes)
        facts = harvest.source.facts | {"accounts": "yes"}
        return msgspec.structs.replace(harvest, source=msgspec.structs.replace(harvest.source, facts=facts))


def accounts_of(client: Client) -> str:
    """Return the statements that make the accounts: roles first, then users, then what each may do.

    Users that are there are left as they are (``IF NOT EXISTS``), so that the file can be run on any server.
    """
    mariadb = "MariaDB" in client.value("SELECT @@version")
    role = "is_role = 'Y'" if mariadb else "FALSE"
    accounts = client.rows(f"SELECT user, host, {role} FROM mysql.user ORDER BY 3 DESC, 1, 2")  # noqa: S608
    lines, rights = [], []
    for user, host, is_role in accounts:
        if user in _LEFT_OUT:
            continue
        name = _name(user) if is_role == "1" else f"{_name(user)}@{_name(host)}"
        if is_role == "1":
            lines.append(f"CREATE ROLE IF NOT EXISTS {name}")
        else:
            made = client.value(f"SHOW CREATE USER {name}")
            lines.append(made.replace("CREATE USER ", "CREATE USER IF NOT EXISTS ", 1))
        rights += [row[0] for row in client.rows(f"SHOW GRANTS FOR {name}")]
    return "".join(f"{line};\n" for line in [*lines, *rights])


def _name(text: str) -> str:
    return "`" + text.replace("`", "``") + "`"
