"""A look at a MariaDB or MySQL server: its databases, tables and programs, and where its binary log stands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.mariadb_client import SYSTEM_DATABASES, Client, address, dotted, literal

__all__ = ["Facts", "Log", "look", "names_in", "read_log", "tables_of"]

_TRANSACTIONAL: Final = frozenset({"InnoDB", "ROCKSDB", "TokuDB", "ndbcluster", "SEQUENCE", "InnoDB".lower()})


class Facts(msgspec.Struct, frozen=True):
    """What a look told. ``tables`` are ``(database, table)``; ``counts`` are views and programs of each database.

    ``unsafe`` are the tables that no transaction holds still, ``versioned`` those with a history of their own.
    """

    version: str
    mariadb: bool
    now: datetime
    logs: bool
    databases: tuple[str, ...]
    tables: frozenset[tuple[str, str]]
    unsafe: tuple[str, ...]
    versioned: tuple[str, ...]
    raw_bytes: int
    counts: dict[str, str]


class Log(msgspec.Struct, frozen=True):
    """Where the binary log stands: its newest file and how far that is written, and the files with their sizes."""

    file: str
    position: int
    files: dict[str, int]


def look(settings: MariadbSource, client: Client) -> Facts:
    """Look at the server; raises SourceError (``source-empty`` for a database that is not there, …)."""
    version, now, logs = client.rows("SELECT @@version, UNIX_TIMESTAMP(), @@log_bin")[0]
    there = [row[0] for row in client.rows("SELECT schema_name FROM information_schema.schemata ORDER BY 1")]
    wanted = settings.database or tuple(name for name in there if name.lower() not in SYSTEM_DATABASES)
    missing = sorted(set(wanted) - set(there))
    if missing or not wanted:
        what = f"database {missing[0]!r} is not there" if missing else "there is no database but the server's own"
        raise SourceError(
            f"MariaDB at {address(settings)}: {what}, or its user may not see it",
            hint="check database in the job's table, and the user's rights (docs/sources/mariadb.md)",
            code="source-empty",
            retryable=False,
        )
    tables, unsafe, versioned, raw = set(), [], [], 0
    for database, table, kind, engine, size in client.rows(
        "SELECT table_schema, table_name, table_type, COALESCE(engine, ''), "  # noqa: S608 - names are quoted
        "COALESCE(data_length, 0) FROM information_schema.tables "
        f"WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND table_schema IN ({names_in(wanted)})"
    ):
        tables.add((database, table))
        raw += int(size)
        if engine not in _TRANSACTIONAL:
            unsafe.append(f"{database}.{table} ({engine or 'broken'})")
        if kind == "SYSTEM VERSIONED":
            versioned.append(f"{database}.{table}")
    return Facts(
        version=version,
        mariadb="MariaDB" in version,
        now=datetime.fromtimestamp(int(now), UTC),
        logs=logs == "1",
        databases=tuple(wanted),
        tables=frozenset(tables),
        unsafe=tuple(sorted(unsafe)),
        versioned=tuple(sorted(versioned)),
        raw_bytes=raw,
        counts=programs_of(client, wanted),
    )


def tables_of(client: Client, databases: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Name the tables of databases."""
    return frozenset(
        (row[0], row[1])
        for row in client.rows(
            "SELECT table_schema, table_name FROM information_schema.tables "  # noqa: S608 - names are quoted
            f"WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND table_schema IN ({names_in(databases)})"
        )
    )


def programs_of(client: Client, databases: Iterable[str]) -> dict[str, str]:
    """Return ``views programs`` of each database, as far as this user may see them."""
    counts = {name: [0, 0] for name in databases}
    listed = names_in(counts)
    statement = " UNION ALL ".join(
        f"SELECT {column}, {literal(what)}, COUNT(*) FROM information_schema.{table} "  # noqa: S608 - names are quoted
        f"WHERE {column} IN ({listed}) GROUP BY {column}"
        for column, what, table in (
            ("table_schema", "views", "views"),
            ("trigger_schema", "programs", "triggers"),
            ("routine_schema", "programs", "routines"),
            ("event_schema", "programs", "events"),
        )
    )
    for database, what, count in client.rows(statement):
        counts[database][what == "programs"] += int(count)
    return {name: f"{views} {programs}" for name, (views, programs) in counts.items()}


def read_log(client: Client, facts: Facts) -> Log:
    """Ask where the binary log stands; raises SourceError (``source-auth`` without the right to)."""
    newer = not facts.mariadb and dotted(facts.version) >= (8, 4)
    status = client.rows("SHOW BINARY LOG STATUS" if newer else "SHOW MASTER STATUS")
    files = {row[0]: int(row[1]) for row in client.rows("SHOW BINARY LOGS")}
    if not status:
        raise SourceError("the server's binary log is off", code="source-failed", retryable=False)
    return Log(file=status[0][0], position=int(status[0][1]), files=files)


def names_in(names: Iterable[str]) -> str:
    """Return names as a list for ``IN``; of none, one that nothing has."""
    return ", ".join(literal(name) for name in names) or "''"
