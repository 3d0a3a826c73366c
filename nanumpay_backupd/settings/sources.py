"""What can be backed up, as settings: one record for each type of source. Their keys are described in `source_tables`.

A type is added by a record here and its place in the union `Source`, a table in `source_tables`, a driver in
`sources.factory`, and a row of words in `wording`. A field that has the name of a tool (``mongodump``) is filled from
the table ``[tools]``; all others from the job's table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import ClassVar

import msgspec

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.settings.mongouri import uri_database
from nanumpay_backupd.settings.redisurl import parse_redis_url
from nanumpay_backupd.system.secrets import Secret, stands_in
from nanumpay_backupd.wording import words_for

__all__ = [
    "FilesSource",
    "MariadbSource",
    "MongoSource",
    "N8nCredentials",
    "N8nSource",
    "PbmSource",
    "PostgresSource",
    "RedisMode",
    "RedisSource",
    "Source",
    "SourceKind",
    "SourceSettings",
    "SqliteSource",
    "mongodb_of",
    "settings_alone",
    "type_of",
]


class SourceKind(StrEnum):
    """What a job saves. Each source says of which kind it is (``holds``)."""

    DATABASE = "database"
    FILES = "files"


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Common shape of all sources' settings. ``tag`` of a record is what ``type`` says in the host file.

    ``increments``: backups of the changes alone can be made (`sources.base.Source.kinds`). ``kept_outside``: the data
    is stored by another program, where that was told to; the file here is its receipt, so there is nothing to copy.
    """

    holds: ClassVar[SourceKind] = SourceKind.DATABASE
    increments: ClassVar[bool] = False
    kept_outside: ClassVar[bool] = False

    @property
    def described(self) -> str:
        """Return what is backed up, in a few words without secrets, for ``backupctl jobs``."""
        return type_of(self)

    @property
    def sealed_only(self) -> str:
        """Return the key because of which every copy has to be encrypted by us, empty: none asks for it."""
        return ""

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Yield what does not fit together in a job's table: the key, the reason, the fix (see `problems.Problems`)."""
        return iter(())


class MongoSource(SourceSettings, frozen=True, tag="mongodb"):
    """A MongoDB database (``database`` empty: all of the server's).

    ``parallel_collections``: mongodump's memory grows with it (measured on 1.2 GB: 1 takes 105 MB, 2 takes 160 MB, its
    own default of 4 takes 290 MB) and its speed hardly does. ``read_preference`` and ``max_lag`` (seconds) say from
    which member of a replica set dumps are read (`sources.mongo_member`).
    """

    increments: ClassVar[bool] = True
    uri: Secret
    database: str
    mongodump: str = "mongodump"
    mongorestore: str = "mongorestore"
    mongoexport: str = "mongoexport"
    mongod: str = "mongod"
    parallel_collections: int = 2
    read_preference: str = "primary"
    max_lag: float = 90.0

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"mongodb database {self.database}" if self.database else "mongodb, all databases"

    @classmethod
    def of_job(
        cls, uri: Secret, database: str = "", read_preference: str = "primary", max_lag: float = 90.0
    ) -> MongoSource:
        """Return the source of a job: ``database`` empty means the one in ``uri``, ``*`` all of the server's."""
        named = database or uri_database(uri.reveal())
        return cls(
            uri=uri,
            database="" if named == "*" else named,
            read_preference=read_preference,
            max_lag=max_lag,
        )


class RedisMode(StrEnum):
    """How a Redis server is read: an RDB file by replication, its AOF files, or key by key."""

    SNAPSHOT = "snapshot"
    AOF = "aof"
    LOGICAL = "logical"


class RedisSource(SourceSettings, frozen=True, tag="redis"):
    """A Redis server (Valkey too). ``url`` is as `redisurl.parse_redis_url` reads it.

    ``databases`` (of `RedisMode.LOGICAL`), empty: all, or the one that ``url`` names. ``data_folder`` (of
    `RedisMode.AOF`) is the server's ``dir``. ``timeout`` (seconds) is how long its silence is waited for.
    """

    url: Secret
    mode: str = RedisMode.SNAPSHOT
    databases: tuple[int, ...] = ()
    data_folder: str = ""
    readable: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    timeout: float = 60.0
    redis_server: str = "redis-server"

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        which = f", databases {', '.join(map(str, self.databases))}" if self.databases else ""
        where = "" if stands_in(self.url) else f" at {parse_redis_url(self.url.reveal()).address}"
        return f"redis{where}, {self.mode}{which}"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `SourceSettings.conflicts`."""
        if self.mode == RedisMode.AOF and not self.data_folder:
            yield "data_folder", "is missing: an AOF is read from the server's files", "name the server's dir"
        if self.mode != RedisMode.LOGICAL and self.databases:
            yield "databases", 'is for mode = "logical"; others save all there are', "remove it"
        if bool(self.cert_file) != bool(self.key_file):
            yield "key_file" if self.cert_file else "cert_file", "is missing: a certificate has a key", "name both"


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


class FilesSource(SourceSettings, frozen=True, tag="files"):
    """Trees of files: ``path`` are absolute paths of folders.

    ``exclude`` and ``include`` are rules as in .gitignore (`sources.files_rules`), beside those of the ``preset`` and
    of files named ``ignore_file`` in the trees (empty: of none). ``unreadable``, ``vanished`` and ``changed`` say
    whether such files are a warning (``warn``) or make the run fail (``fail``). ``retries`` is how often files that
    changed while they were read are read again. ``check_device``: the number of its device is part of what makes a
    folder the same one.
    """

    holds: ClassVar[SourceKind] = SourceKind.FILES
    increments: ClassVar[bool] = True

    path: tuple[str, ...]
    preset: str = "none"
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    ignore_file: str = ".backupignore"
    one_file_system: bool = False
    xattrs: bool = True
    unreadable: str = "fail"
    vanished: str = "warn"
    changed: str = "warn"
    retries: int = 2
    check_device: bool = True
    tar: str = "tar"

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"files in {', '.join(self.path)}"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `SourceSettings.conflicts`."""
        for one in self.path:
            for other in self.path:
                if one != other and (one == "/" or other.startswith(f"{one}/")):
                    yield "path", f"names {other}, which is in {one}", "name each tree once"
        if "/" in self.path:
            yield "path", "names the whole system", "name the folders that the application needs, such as /etc, /srv"


class MariadbSource(SourceSettings, frozen=True, tag="mariadb"):
    """Databases of a MariaDB or MySQL server: ``database`` empty means all but the server's own.

    Without ``host`` it is reached by ``socket`` (empty: the tools' own). ``tls`` is ``auto`` (as the tools do it),
    ``required`` or ``verify`` (the server's certificate is checked against ``tls_ca``). ``accounts``: users and their
    rights are saved too. ``binlog`` is ``auto``, ``off`` or ``required``: whether the position in the binary log is
    noted, from which increments go on.
    """

    increments: ClassVar[bool] = True

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


class N8nCredentials(StrEnum):
    """What is saved of the credentials of n8n: nothing, as they are (encrypted with n8n's key), or readable."""

    NONE = "none"
    ENCRYPTED = "encrypted"
    DECRYPTED = "decrypted"


class N8nSource(SourceSettings, frozen=True, tag="n8n"):
    """The workflows of an n8n, by its public interface at ``url``, and its credentials by ``command``.

    ``command`` is how the program n8n is run, arguments of its own come behind it. It runs with the variables of
    ``environment_file`` and with ``user_folder`` as N8N_USER_FOLDER. ``encryption_key`` is n8n's own, of which only a
    fingerprint is kept; empty: looked for where that n8n has it. ``timeout`` (seconds) is how long silence is waited
    for.
    """

    url: str
    api_key: Secret
    ca_file: str = ""
    credentials: str = N8nCredentials.ENCRYPTED
    command: tuple[str, ...] = ()
    user_folder: str = ""
    environment_file: str = ""
    encryption_key: Secret = Secret("")
    timeout: float = 60.0

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        return f"n8n at {self.url}"

    @property
    def sealed_only(self) -> str:
        """See `SourceSettings.sealed_only`."""
        return "credentials" if self.credentials == N8nCredentials.DECRYPTED else ""

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `SourceSettings.conflicts`."""
        if self.credentials != N8nCredentials.NONE and not self.command:
            fix = 'name the program, such as ["/usr/bin/n8n"], or write credentials = "none"'
            yield "command", "is missing: n8n gives credentials to its own program only", fix
        if not self.command:
            for key in ("user_folder", "environment_file"):
                if getattr(self, key):
                    yield key, "is of no use without command", "name the command, or leave it out"


class PbmSource(SourceSettings, frozen=True, tag="pbm"):
    """A sharded cluster (or a replica set) that Percona Backup for MongoDB saves, to the storage that it has.

    ``uri`` is what ``pbm`` itself is given (PBM_MONGODB_URI): of a cluster, that of the config servers.
    ``backup_type`` and ``profile`` are its options; empty: its main storage. ``timeout`` (seconds) is how long one of
    its commands may take.
    """

    kept_outside: ClassVar[bool] = True

    uri: Secret
    backup_type: str = "logical"
    profile: str = ""
    timeout: float = 120.0
    pbm: str = "pbm"

    @property
    def described(self) -> str:
        """See `SourceSettings.described`."""
        where = f", profile {self.profile}" if self.profile else ""
        return f"mongodb by Percona Backup for MongoDB, {self.backup_type}{where}"


Source = MongoSource | RedisSource | SqliteSource | FilesSource | MariadbSource | PostgresSource | N8nSource | PbmSource
"""Every record; msgspec tells them apart by ``type``."""


def type_of(source: SourceSettings | type[SourceSettings]) -> str:
    """Return what ``type`` says of a source, such as ``mongodb``."""
    return str(source.__struct_config__.tag)


def settings_alone(kind: str, parts: tuple[str, ...], environ: Mapping[str, str]) -> Source | None:
    """Return settings with which a backup that has these parts can be restored where no host file knows its job.

    Redis is the one that ``REDIS_URL`` names, else this host's own. None: a server has to be named in the host file.
    """
    if kind == type_of(RedisSource):
        return RedisSource(url=Secret(environ.get("REDIS_URL", "").strip() or "redis://localhost:6379"))
    alone: tuple[type[SqliteSource | FilesSource], ...] = (SqliteSource, FilesSource)
    return next((settings(path=parts) for settings in alone if kind == type_of(settings)), None)


def mongodb_of(source: SourceSettings, what: str) -> MongoSource:
    """Return the settings of a MongoDB source; raises RefusedError, which says ``what`` is for such a source only."""
    if isinstance(source, MongoSource):
        return source
    raise RefusedError(
        f"{what}: that is for MongoDB, this job saves {words_for(type_of(source)).parts_of}",
        hint="leave that option out",
        code="not-for-this-source",
    )
