"""What can be backed up, as settings: one record for each type of source. Their keys are described in `source_tables`.

A type is added by a record here and its place in the union `Source`, a table in `source_tables`, a driver in
`sources.factory`, and a row of words in `wording`. A field that has the name of a tool (``mongodump``) is filled from
the table ``[tools]``; all others from the job's table.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import ClassVar

import msgspec

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.settings.mongouri import uri_database
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.wording import words_for

__all__ = [
    "MariadbSource",
    "MongoSource",
    "PostgresSource",
    "Source",
    "SourceKind",
    "SourceSettings",
    "SqliteSource",
    "mongodb_of",
    "type_of",
]


class SourceKind(StrEnum):
    """What a job saves. Each source says of which kind it is (``holds``)."""

    DATABASE = "database"
    FILES = "files"


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Common shape of all sources' settings. ``tag`` of a record is what ``type`` says in the host file.

    ``increments``: backups of the changes alone can be made (`sources.base.Source.kinds`).
    """

    holds: ClassVar[SourceKind] = SourceKind.DATABASE
    increments: ClassVar[bool] = False

    @property
    def described(self) -> str:
        """Return what is backed up, in a few words without secrets, for ``backupctl jobs``."""
        return type_of(self)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Yield what does not fit together in a job's table: the key, the reason, the fix (see `problems.Problems`)."""
        return iter(())


class MongoSource(SourceSettings, frozen=True, tag="mongodb"):
    """A MongoDB database (``database`` empty: all of the server's).

    ``parallel_collections``: mongodump's memory grows with it (measured on 1.2 GB: 1 takes 105 MB, 2 takes 160 MB, its
    own default of 4 takes 290 MB) and its speed hardly does.
    """

    increments: ClassVar[bool] = True
    uri: Secret
    database: str
    mongodump: str = "mongodump"
    mongorestore: str = "mongorestore"
    mongoexport: str = "mongoexport"
    mongod: str = "mongod"
    parallel_collections: int = 2

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"mongodb database {self.database}" if self.database else "mongodb, all databases"

    @classmethod
    def of_job(cls, uri: Secret, database: str = "") -> MongoSource:
        """Return the source of a job: ``database`` empty means the one in ``uri``, ``*`` all of the server's."""
        named = database or uri_database(uri.reveal())
        return cls(uri=uri, database="" if named == "*" else named)


class SqliteSource(SourceSettings, frozen=True, tag="sqlite"):
    """SQLite databases: ``path`` are absolute paths, also with ``*``, ``?``, ``[…]`` and ``**`` in them.

    ``exclude`` are patterns of those that are left out. ``timeout`` (seconds) is how long a lock of another program is
    waited for.
    """

    path: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    timeout: float = 60.0

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"sqlite {', '.join(self.path)}"


class MariadbSource(SourceSettings, frozen=True, tag="mariadb"):
    """Databases of a MariaDB or MySQL server: ``database`` empty means all but the server's own.

    Without ``host`` it is reached by ``socket`` (empty: the tools' own). ``tls`` is ``auto`` (as the tools do it),
    ``required`` or ``verify`` (the server's certificate is checked against ``tls_ca``). ``accounts``: users and their
    rights are saved too. ``binlog`` is ``auto``, ``off`` or ``required``: whether the position in the binary log is
    noted, from which increments go on.
    """

    host: str = ""
    port: int = 3306
    socket: str = ""
    user: str = ""
    password: Secret = Secret("")
    database: tuple[str, ...] = ()
    tls: str = "auto"
    tls_ca: str = ""
    accounts: bool = False
    binlog: str = "auto"
    mariadb_dump: str = "mariadb-dump"
    mariadb: str = "mariadb"
    mariadb_binlog: str = "mariadb-binlog"
    mariadbd: str = "mariadbd"
    mariadb_install_db: str = "mariadb-install-db"

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"mariadb {', '.join(self.database)}" if self.database else "mariadb, all databases"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `SourceSettings.conflicts`."""
        if self.host and self.socket:
            yield "socket", "is of no use beside host", "leave out one of them"
        if self.tls_ca and self.tls != "verify":
            yield "tls_ca", f'is of no use with tls = "{self.tls}"', 'write tls = "verify", or leave it out'


class PostgresSource(SourceSettings, frozen=True, tag="postgresql"):
    """Databases of a PostgreSQL server: ``database`` empty means all but the templates.

    ``host`` is a name, an address or the folder of a Unix socket (empty: the tools' own). ``maintenance`` is the
    database that is connected to for what is not about one. ``tls`` is libpq's sslmode. ``accounts``: roles and
    tablespaces (``pg_dumpall --globals-only``) are saved too, with ``passwords`` also their password hashes.
    """

    host: str = ""
    port: int = 5432
    user: str = ""
    password: Secret = Secret("")
    database: tuple[str, ...] = ()
    maintenance: str = "postgres"
    tls: str = "prefer"
    tls_ca: str = ""
    accounts: bool = True
    passwords: bool = False
    pg_dump: str = "pg_dump"
    pg_dumpall: str = "pg_dumpall"
    pg_restore: str = "pg_restore"
    psql: str = "psql"
    initdb: str = "initdb"
    postgres: str = "postgres"

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"postgresql {', '.join(self.database)}" if self.database else "postgresql, all databases"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `SourceSettings.conflicts`."""
        if self.tls_ca and not self.tls.startswith("verify-"):
            yield "tls_ca", f'is of no use with tls = "{self.tls}"', 'write tls = "verify-full", or leave it out'
        if self.passwords and not self.accounts:
            yield "passwords", "is of no use without accounts", "write accounts = true, or leave it out"


Source = MongoSource | SqliteSource | MariadbSource | PostgresSource
"""Every record; msgspec tells them apart by ``type``."""


def type_of(source: SourceSettings | type[SourceSettings]) -> str:
    """Return what ``type`` says of a source, such as ``mongodb``."""
    return str(source.__struct_config__.tag)


def mongodb_of(source: SourceSettings, what: str) -> MongoSource:
    """Return the settings of a MongoDB source; raises RefusedError, which says ``what`` is for such a source only."""
    if isinstance(source, MongoSource):
        return source
    raise RefusedError(
        f"{what}: that is for MongoDB, this job saves {words_for(type_of(source)).parts_of}",
        hint="leave that option out",
        code="not-for-this-source",
    )
