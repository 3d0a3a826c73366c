"""PostgreSQL: what is there, and the judgement of what was written. Dump and restore are next door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from nanumpay_backupd.errors import SourceError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import PostgresSource
from nanumpay_backupd.sources.base import Driver, Dump, Estimate, FolderSource, FolderTarget, Need, Scratch
from nanumpay_backupd.sources.pg_archive import PgArchive
from nanumpay_backupd.sources.pg_client import HINT, Psql, address, major, open_pg, open_server
from nanumpay_backupd.sources.pg_dump import PgDump, PgFacts, archived, tables_of

__all__ = ["PostgresDriver", "PostgresServer"]


class PostgresDriver(Driver):
    """The rooms of a PostgreSQL server."""

    def __init__(self, settings: PostgresSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return PostgresServer(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        from nanumpay_backupd.sources.pg_target import PostgresTarget

        return PostgresTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        """See `Driver.scratch`: a server of our own."""
        from nanumpay_backupd.sources.pg_scratch import PostgresScratch

        return PostgresScratch(self._settings, folder, manifest)

    def needs(self) -> Iterator[Need]:
        """See `Driver.needs`."""
        settings = self._settings
        yield Need("restores", lambda: " ".join(map(str, open_pg(settings.pg_restore))))
        yield Need("drills", lambda: " ".join(map(str, open_server(settings.postgres))))


class PostgresServer(FolderSource):
    """Databases of one server."""

    def __init__(self, settings: PostgresSource) -> None:
        self._settings = settings
        self._psql = Psql(settings)
        self._facts: PgFacts | None = None

    def preflight(self) -> Estimate:
        """Reach the server, list what is there, find the tools. See `Source.preflight`."""
        facts = self._facts = _look(self._settings, self._psql)
        several = len(facts.databases) > 1
        count = sum(map(len, facts.tables.values()))
        return Estimate(
            raw_bytes=facts.raw_bytes,
            summary=f"PostgreSQL {facts.version} at {address(self._settings)}, {count} tables in "
            f"{len(facts.databases)} {'databases' if several else 'database'}, pg_dump {facts.tool_version}",
        )

    def start(self, folder: Path) -> Dump:
        """Start pg_dump. See `FolderSource.start`."""
        assert self._facts is not None, "preflight comes first"
        return PgDump(self._settings, self._psql, self._facts, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Read every block of an archive. See `Source.check`."""
        database = archived(name)
        return PgArchive(database) if database else None


def _look(settings: PostgresSource, psql: Psql) -> PgFacts:
    tool, tool_version = open_pg(settings.pg_dump)
    dumpall = open_pg(settings.pg_dumpall)[0] if settings.accounts else None
    version, now = psql.rows("SELECT current_setting('server_version'), extract(epoch FROM now())::bigint")[0]
    if major(tool_version) < major(version):
        raise ToolError(
            f"{tool} is of version {tool_version}, the server of version {version}: it cannot dump a newer server",
            hint=HINT,
            code="tool-too-old",
        )
    made = {
        row[0]: row
        for row in psql.rows(
            "SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), "
            "pg_database_size(oid) "
            "FROM pg_database WHERE datallowconn AND NOT datistemplate AND has_database_privilege(oid, 'CONNECT')"
        )
    }
    wanted = settings.database or tuple(sorted(made))
    if missing := sorted(set(wanted) - made.keys()):
        raise _empty(settings, f"database {missing[0]!r} is not there, or its user may not connect to it")
    tables = {name: tables_of(psql, name) for name in wanted}
    if not settings.database:
        # Every server has an empty database of that name.
        wanted = tuple(name for name in wanted if tables[name] or name != "postgres")
    if not wanted:
        raise _empty(settings, "there is no database with a table in it")
    return PgFacts(
        version=version.split()[0],
        now=datetime.fromtimestamp(int(now), UTC),
        databases=wanted,
        tables={name: tables[name] for name in wanted},
        made={name: msgspec.json.encode(made[name][1:5]).decode() for name in wanted},
        raw_bytes=sum(int(made[name][5]) for name in wanted),
        tool=tool,
        tool_version=tool_version,
        dumpall=dumpall,
    )


def _empty(settings: PostgresSource, what: str) -> SourceError:
    return SourceError(
        f"PostgreSQL at {address(settings)}: {what}",
        hint="check database in the job's table, and the user's rights (docs/sources/postgresql.md)",
        code="source-empty",
        retryable=False,
    )
