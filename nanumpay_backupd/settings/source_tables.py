"""The keys of a ``[[job]]`` that belong to its ``type``: one table for each record in `sources`. Checks nothing."""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.settings.kinds import (
    AbsolutePath,
    Choice,
    Command,
    Duration,
    Flag,
    Folders,
    MongoUri,
    Names,
    PathPatterns,
    PathRules,
    SecretValue,
    Text,
    Url,
    Whole,
)
from nanumpay_backupd.settings.redisurl import Databases, RedisUrl
from nanumpay_backupd.settings.sources import (
    FilesSource,
    MariadbSource,
    MongoSource,
    N8nCredentials,
    N8nSource,
    PbmSource,
    PostgresSource,
    RedisMode,
    RedisSource,
    SqliteSource,
    type_of,
)
from nanumpay_backupd.settings.tables import Option, Table

__all__ = ["DEFAULT_TYPE", "READING", "SOURCES", "keys_elsewhere"]

DEFAULT_TYPE: Final = "mongodb"
"""What a job saves that does not say it."""
_DATABASE: Final = Text('a database\'s name, or "*" for all', pattern=r'[^\s/\\."$]+', example='"nanumpay"')
_GRAVITY: Final = Choice("warn", "fail")
_HOST: Final = Text("a host's name, an address or a socket's folder", pattern=r"[^\s,]*")
READING: Final = (
    Option(
        "read_preference",
        Choice("primary", "secondaryPreferred", "secondary"),
        "Which member of a replica set is read by dumps: a secondary spares the primary.",
        '"secondaryPreferred"',
    ),
    Option("max_lag", Duration("1s", "1d"), "A secondary that is further behind than this is not read.", '"90s"'),
)
"""Keys of what is read from MongoDB."""
_AS_USUAL: Final = {"read_preference": '`"primary"`', "max_lag": '`"90s"`'}
_TABLES: Final = (
    Table(
        "job",
        MongoSource,
        "A MongoDB database, or all of a server's.",
        (
            Option(
                "uri",
                MongoUri(),
                "Connection string of its MongoDB.",
                '{ credential = "shop-uri" }',
                default="`mongodb.uri`",
            ),
            Option(
                "database", _DATABASE, "Database; `*` means all.", '"shop"', default="the database in `uri`, else all"
            ),
            *(option._replace(default=_AS_USUAL[option.key]) for option in READING),
        ),
    ),
    Table(
        "job",
        RedisSource,
        "A Redis server ([sources/redis.md](sources/redis.md)).",
        (
            Option(
                "url",
                RedisUrl(),
                "Address of its server: `redis://`, with TLS `rediss://`, or `unix://` and a socket's path.",
                '"redis://localhost:6379"',
                required=True,
            ),
            Option(
                "mode",
                Choice(*RedisMode),
                "What is saved: an RDB file got by replication, the server's AOF files, or key by key.",
                '"logical"',
            ),
            Option("databases", Databases(), "Which of them, where it is key by key.", "[0, 2]", default="all"),
            Option(
                "data_folder",
                AbsolutePath(as_text=True),
                "The server's `dir`, from which its AOF files are read.",
                '"/var/lib/redis"',
            ),
            Option("readable", Flag(), "Write what is saved key by key as JSON for people besides.", "false"),
            Option(
                "ca_file",
                AbsolutePath(as_text=True, empty=True),
                "Who vouches for the server's certificate.",
                '"/etc/redis/ca.crt"',
                default="the system's authorities",
            ),
            Option("cert_file", AbsolutePath(as_text=True, empty=True), "Our certificate.", '"/etc/redis/client.crt"'),
            Option("key_file", AbsolutePath(as_text=True, empty=True), "Its key.", '"/etc/redis/client.key"'),
            Option("timeout", Duration("1s", "1h"), "How long the server's silence is waited for.", '"60s"'),
        ),
    ),
    Table(
        "job",
        SqliteSource,
        "SQLite databases, each copied at one moment while it is written ([sources/sqlite.md](sources/sqlite.md)).",
        (
            Option("path", PathPatterns(), "The databases.", '["/srv/app/*.db"]', required=True),
            Option("exclude", PathPatterns(), "Which of them are left out.", '["/srv/app/cache.db"]'),
            Option("timeout", Duration("1s", "1h"), "How long a lock of another program is waited for.", '"60s"'),
        ),
    ),
    Table(
        "job",
        FilesSource,
        "Trees of files, saved by GNU tar ([sources/files.md](sources/files.md)).",
        (
            Option("path", Folders(), "The folders.", '["/srv/app"]', required=True),
            Option(
                "preset",
                Choice("none", "laravel", "node", "wordpress"),
                "What is left out of a tree of that kind: what can be made again, and secrets such as `.env`.",
                '"laravel"',
            ),
            Option("exclude", PathRules(), "Rules of what is left out besides.", '["*.tmp", "/storage/tmp/"]'),
            Option("include", PathRules(), "Rules of what is taken in all the same.", '[".env"]'),
            Option(
                "ignore_file",
                Text("a file's name, or empty", pattern=r"[^/\x00-\x1f\x7f]*", example='".backupignore"'),
                "Name of files in the trees with further rules, each for the folder that it is in; empty: none.",
                '".backupignore"',
            ),
            Option("one_file_system", Flag(), "Whether other filesystems mounted below are left out.", "true"),
            Option("xattrs", Flag(), "Whether extended attributes and access control lists are saved.", "true"),
            Option("unreadable", _GRAVITY, "Files that cannot be read: a warning, or the run fails.", '"fail"'),
            Option("vanished", _GRAVITY, "Files that vanish before they are read.", '"warn"'),
            Option("changed", _GRAVITY, "Files that change each time they are read.", '"warn"'),
            Option("retries", Whole(0, 10), "How often a file that changes while it is read is read again.", "2"),
            Option(
                "check_device",
                Flag(),
                "Whether a folder on another device number is a new one; `false` for snapshots and NFS.",
                "true",
            ),
        ),
    ),
    Table(
        "job",
        MariadbSource,
        "Databases of a MariaDB or MySQL server, all of one moment ([sources/mariadb.md](sources/mariadb.md)).",
        (
            Option("host", _HOST, "Name or address of the server.", '"db.example.com"', default="the socket is used"),
            Option("port", Whole(1, 65535), "Its port.", "3307"),
            Option(
                "socket",
                AbsolutePath(as_text=True, empty=True),
                "Its Unix socket, where there is no `host`.",
                '"/run/mysqld/mysqld.sock"',
                default="the tools' own",
            ),
            Option("user", Text("a user's name"), "Who reads it.", '"backup"', default="the service's own login"),
            Option("password", SecretValue(), "The password.", '{ credential = "shop-db" }', default="none"),
            Option("database", Names(), "Which databases.", '["shop"]', default="all but the server's own"),
            Option("tls", Choice("auto", "required", "verify"), "Whether the connection is encrypted.", '"verify"'),
            Option(
                "tls_ca",
                AbsolutePath(as_text=True, empty=True),
                "The certificates that are trusted.",
                '"/etc/ssl/db-ca.pem"',
                default="the tools' own",
            ),
            Option("accounts", Flag(), "Users and their rights are saved too.", "true"),
            Option(
                "binlog",
                Choice("auto", "off", "required"),
                "The position in the binary log is noted, for increments: where there is one, never, or it must be.",
                '"required"',
            ),
        ),
    ),
    Table(
        "job",
        PostgresSource,
        "Databases of a PostgreSQL server, each of one moment ([sources/postgresql.md](sources/postgresql.md)).",
        (
            Option(
                "host",
                _HOST,
                "Name or address of the server, or the folder of its socket.",
                '"db.example.com"',
                default="the tools' own socket",
            ),
            Option("port", Whole(1, 65535), "Its port.", "5433"),
            Option("user", Text("a user's name"), "Who reads it.", '"backup"', default="the service's own login"),
            Option("password", SecretValue(), "The password.", '{ credential = "shop-db" }', default="none"),
            Option("database", Names(), "Which databases.", '["shop"]', default="all but the templates"),
            Option("maintenance", Text("a database's name"), "Database for what is not about one.", '"postgres"'),
            Option(
                "tls",
                Choice("disable", "prefer", "require", "verify-ca", "verify-full"),
                "Whether the connection is encrypted, as libpq's sslmode.",
                '"verify-full"',
            ),
            Option(
                "tls_ca",
                AbsolutePath(as_text=True, empty=True),
                "The certificates that are trusted.",
                '"/etc/ssl/db-ca.pem"',
                default="the tools' own",
            ),
            Option("accounts", Flag(), "Roles and tablespaces are saved too.", "false"),
            Option(
                "passwords",
                Flag(),
                "Also the roles' password hashes; that takes `pg_read_all_data` or a superuser.",
                "true",
            ),
        ),
    ),
    Table(
        "job",
        N8nSource,
        "Workflows and credentials of an n8n ([sources/n8n.md](sources/n8n.md)).",
        (
            Option("url", Url(), "Its address.", '"https://n8n.example.com"', required=True),
            Option("api_key", SecretValue(), "A key of its API.", '{ credential = "n8n-key" }', required=True),
            Option(
                "ca_file",
                AbsolutePath(as_text=True, empty=True),
                "Who vouches for its certificate.",
                '"/etc/n8n/ca.crt"',
                default="the system's authorities",
            ),
            Option(
                "credentials",
                Choice(*N8nCredentials),
                "What of the credentials: nothing, as n8n encrypts them, or readable (only where `[encryption]` "
                "covers all copies).",
                '"none"',
            ),
            Option(
                "command",
                Command(),
                "How the program n8n is run, for the credentials.",
                '["/usr/bin/docker", "exec", "-i", "n8n", "n8n"]',
                default="none",
            ),
            Option(
                "user_folder",
                AbsolutePath(as_text=True, empty=True),
                "Its N8N_USER_FOLDER: the folder that holds `.n8n`.",
                '"/var/lib/n8n"',
                default="the home of the service's user",
            ),
            Option(
                "environment_file",
                AbsolutePath(as_text=True, empty=True),
                "A file with variables that it runs with, such as those of its database.",
                '"/etc/n8n/env"',
            ),
            Option(
                "encryption_key",
                SecretValue(),
                "n8n's encryption key, of which a fingerprint is kept.",
                '{ credential = "n8n-encryption-key" }',
                default="looked for in `environment_file` and `user_folder`",
            ),
            Option("timeout", Duration("1s", "1h"), "How long its silence is waited for.", '"60s"'),
        ),
    ),
    Table(
        "job",
        PbmSource,
        "A sharded cluster, saved by Percona Backup for MongoDB ([sources/pbm.md](sources/pbm.md)).",
        (
            Option(
                "uri",
                MongoUri(),
                "What pbm is given as PBM_MONGODB_URI: of a sharded cluster, its config servers.",
                '{ credential = "pbm-uri" }',
                required=True,
            ),
            Option("backup_type", Choice("logical", "physical"), "How pbm's agents save it.", '"physical"'),
            Option(
                "profile",
                Text("a profile's name, or empty", pattern=r"[A-Za-z0-9_.-]*", example='"nas"'),
                "The profile of pbm's configuration that names the storage.",
                '"nas"',
                default="pbm's main storage",
            ),
            Option("timeout", Duration("10s", "1h"), "How long one of pbm's commands may take.", '"120s"'),
        ),
    ),
)
SOURCES: Final[dict[str, Table]] = {type_of(table.record): table for table in _TABLES}
"""The table of each type that ``type`` may name, the default first."""


def keys_elsewhere(kind: str) -> dict[str, str]:
    """Return the keys that a job of that type cannot have, each with the types that have it, quoted."""
    own = {option.key for option in SOURCES[kind].options} if kind in SOURCES else set()
    found: dict[str, list[str]] = {}
    for other, table in SOURCES.items():
        for option in table.options:
            if option.key not in own:
                found.setdefault(option.key, []).append(f'"{other}"')
    return {key: " or ".join(types) for key, types in found.items()}
