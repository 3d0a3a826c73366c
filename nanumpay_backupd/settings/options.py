"""The table of all keys of the host file: kind, default, meaning, example. Checking and the reference work from it.

A key's default is that of the record field it fills, so that it stands in one place only.
"""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.events import EVENTS
from nanumpay_backupd.settings.destination_tables import DESTINATIONS, FTP_EXTRAS, S3_EXTRAS
from nanumpay_backupd.settings.key_kinds import DecryptKeys, Passphrase, Recipients
from nanumpay_backupd.settings.kinds import (
    AbsolutePath,
    Choice,
    Command,
    Cron,
    Day,
    Duration,
    Factor,
    Flag,
    MongoUri,
    Names,
    QuietHours,
    SecretUrl,
    Size,
    Text,
    TimeZone,
    Whole,
)
from nanumpay_backupd.settings.limit_kinds import Windows
from nanumpay_backupd.settings.listening import BasePath, LoopbackAddress, PublicAddress, TextFile
from nanumpay_backupd.settings.schema import (
    ApplicationJob,
    Channel,
    ControlOptions,
    EncryptionOptions,
    FleetOptions,
    FtpExtras,
    HostConfig,
    HostGroup,
    HostJob,
    HostLimits,
    HostMonitor,
    Limits,
    LogOptions,
    MetricsOptions,
    MongoConnection,
    MonitorOptions,
    NotifyOptions,
    Paths,
    PlaceMonitor,
    Retention,
    RetryPolicy,
    S3Extras,
    Tools,
    WebOptions,
)
from nanumpay_backupd.settings.source_tables import DEFAULT_TYPE, READING, SOURCES
from nanumpay_backupd.settings.tables import Option, Table

__all__ = [
    "CHANNEL",
    "COUNTS",
    "DESTINATIONS",
    "GROUP",
    "JOB",
    "JOB_ENCRYPTION",
    "JOB_LIMITS",
    "JOB_RETRY",
    "MONITOR",
    "NAME",
    "PLACE_MONITOR",
    "RETENTION",
    "SINGLE",
    "TOP",
    "WINDOWS",
    "Option",
    "Table",
]


_TITLE: Final = "letters, digits and . _ - only"
NAME: Final = Text(
    "a name of lower-case letters, digits and dashes", pattern=r"[a-z][a-z0-9-]{0,39}", example='"offsite"'
)
_GROUP: Final = Text(f"a group's name ({_TITLE}), or empty", pattern=r"[A-Za-z0-9._-]{0,32}", example='"adm"')
_TOOL: Final = Text("a program's name or absolute path", pattern=r"(?:/\S+|[^\s/]+)", example='"/usr/bin/mongodump"')
_CATCH_UP: Final = Duration("0s", "365d")
_LEVEL: Final = Whole(0, 9)

_CATCH_UP_DOC: Final = (
    "A run missed while the daemon or the host was down is made up for once, if it was due less than this ago; "
    '"0s" switches that off.'
)
_LEVEL_DOC: Final = "Effort of the compression, from 0 (none) to 9 (smallest and slowest)."

_MAYBE_CRON: Final = Cron(off=True)
_OBJECTIVE: Final = Duration("0s", "365d")
_PROTECTION: Final = (
    Option(
        "incremental",
        _MAYBE_CRON,
        "When the changes since the last slice are saved (of a replica set, MariaDB, files).",
        '"0 */6 * * *"',
    ),
    Option("pitr", Duration("0s", "1d"), "Save the changes continuously, this often; `0s`: not.", '"60s"'),
    Option("differential", _MAYBE_CRON, "When all changes since the last full are saved in one piece.", '"0 12 * * *"'),
    Option("verify", _MAYBE_CRON, "When every copy, here and elsewhere, is read again.", '"0 4 1 * *"'),
    Option("verify_rate", Size("0KiB", "100GiB"), "The most that it reads per second; `0KiB`: no limit.", '"20MiB"'),
    Option(
        "read_back",
        Factor(0.01, 1.0),
        "Share of the uploaded copies that are read again as a whole right after the upload; 1: all, 0: none.",
        "0.1",
    ),
    Option(
        "read_back_unproven",
        Flag(),
        "All copies are read again whose destination confirms no checksum of what it got (FTP, folders).",
        "true",
    ),
    Option(
        "drill", _MAYBE_CRON, "When the newest backup is restored into a scratch place and compared.", '"0 5 * * *"'
    ),
    Option(
        "tier",
        Choice("", "critical", "important", "normal"),
        "Preset: critical is rpo 15m, rto 1h; important 1h, 4h; normal 24h, 24h.",
        '"critical"',
    ),
    Option("rpo", _OBJECTIVE, "The most that may be lost; status says whether it is kept. `0s`: no promise.", '"15m"'),
    Option("rto", _OBJECTIVE, "The longest that a restore may take; the drills measure it. `0s`: no promise.", '"1h"'),
    Option(
        "copies",
        Whole(0, 20),
        "How many copies there have to be at least, the data itself counted as one ([3-2-1](operations.md#3-2-1)). "
        "0: any number.",
        "3",
    ),
    Option("media", Whole(0, 20), "On how many different media, that of the data counted. 0: any number.", "2"),
    Option("offsite", Whole(0, 20), "How many copies have to be off-site. 0: any number.", "1"),
    Option(
        "heartbeat",
        SecretUrl(
            "an address that begins with https:// or http://",
            "https",
            "http",
            example='{ credential = "heartbeat" } or "https://hc-ping.com/…"',
        ),
        "Dead-man switch: pinged when a backup begins (`/start`), succeeded, or did not (`/fail`).",
        '{ credential = "heartbeat" }',
    ),
    Option(
        "before",
        Command(),
        "A command before each backup; where it fails, none is made ([more](operations.md#commands-before-and-after)).",
        '["/usr/local/bin/before-backup"]',
    ),
    Option("after", Command(), "A command after each backup, whatever came of it.", '"systemctl start app-worker"'),
    Option("hook_timeout", Duration("1s", "1d"), "How long each of them may take; then it is ended.", '"10m"'),
    Option(
        "runs_on",
        Choice("", "fleet", "host"),
        "Of more than one host ([fleet.md](fleet.md)): one of them at a time makes it, or each for itself.",
        '"host"',
        default='`"fleet"` for MongoDB, else `"host"`',
    ),
)

_RETRY: Final = (
    Option("attempts", Whole(1, 100), "How often an upload is tried, the first time included.", "3"),
    Option("delay", Duration("1s", "1h"), "Wait before the second try; doubles each time, up to 1 h.", '"60s"'),
    Option("run_attempts", Whole(1, 20), "How often a run by schedule is made, the first time included.", "3"),
    Option(
        "run_delay",
        Duration("1s", "1d"),
        "Wait before it is made again; doubles each time, and never goes past its next due time.",
        '"10m"',
    ),
)
_LIMIT: Final = Duration("0s", "30d")
_RUN_LIMITS: Final = (
    Option(
        "run", _LIMIT, "A backup until it is proven (uploads come later), a slice, a drill; `0s`: any time.", '"24h"'
    ),
    Option("preflight", _LIMIT, "The checks before a backup; `0s`: any time.", '"10m"'),
    Option("dump", _LIMIT, "The dump by itself; `0s`: any time.", '"6h"'),
    Option("verify", _LIMIT, "Reading back, and a verification of all copies; `0s`: any time.", '"12h"'),
    Option("upload", _LIMIT, "Each upload; it is queued again, others carry on. `0s`: any time.", '"12h"'),
    Option("restore", _LIMIT, "A restore; cut off, it leaves the database half restored. `0s`: any time.", '"0s"'),
    Option("stall", _LIMIT, "How long nothing may move: no byte, no document. `0s`: for ever.", '"30m"'),
    Option(
        "memory",
        Size("0KiB", "100TiB"),
        "The most memory that a run takes with all its tools; with more it is ended. `0KiB`: any.",
        '"2GiB"',
    ),
    Option(
        "blackout",
        Windows(),
        "Times in which no backup, verification, drill or queued upload begins by itself; slices go on.",
        '["mon-fri 09:00-18:00"]',
    ),
)

_AGE: Final = Duration("0s", "3650d")
_DAYS: Final = Whole(1, 365)
_LIMITS_OF_ALL: Final = (
    Option(
        "max_age",
        _AGE,
        "How old the newest verified backup may be; `0s`: as old as it likes.",
        '"26h"',
        default="twice the longest pause of the schedule, and an hour",
    ),
    Option(
        "max_total_size",
        Size("0KiB", "1000TiB"),
        "How much of a job's copies may lie at a place until it is told; `0KiB`: any size. Nothing is deleted for it.",
        '"100GB"',
        default='`"0KiB"`',
    ),
    Option(
        "max_verify_age",
        _AGE,
        "How long ago a copy of a full may have been read again last; `0s`: any time.",
        '"40d"',
        default="by the schedule of `verify` as `max_age`; without one any time",
    ),
    Option("disk_days", _DAYS, "So many days before a disk is full it is told.", "14", default="`14`"),
    Option(
        "expiry_days",
        _DAYS,
        "So many days before keys, certificates and accesses end it is told.",
        "14",
        default="`14`",
    ),
)
_FACTORS: Final = (
    Option(
        "shrink_factor",
        Factor(0.01, 1.0),
        "A full that holds less than this share of what is usual, or lacks a collection, is odd: it is told, and the "
        "last good one is pinned. 0: it is not.",
        "0.5",
        default="`0.5`",
    ),
    Option(
        "grow_factor",
        Factor(1.0, 1000.0),
        "A full that holds more than so many times what is usual is odd. 0: it is not.",
        "3",
        default="`3`",
    ),
)
_SAME: Final = "as in `[monitor]`"

_MORE: Final = ", beside those in `[encryption]`"
_AS_ABOVE: Final = "as in `[encryption]`"


def _encryption(path: str, doc: str, method: str = _AS_ABOVE, inherited: str = _AS_ABOVE, more: str = "") -> Table:
    """Return the keys of encryption: for all jobs, or for one."""
    return Table(
        path,
        EncryptionOptions,
        doc,
        (
            Option(
                "method",
                Choice("none", "openpgp", "age"),
                "How backups are encrypted; with a key of its own a job also names who can decrypt.",
                '"openpgp"',
                default=method,
            ),
            Option(
                "passphrase",
                Passphrase(),
                "The passphrase to encrypt with; either this or `recipients`.",
                '{ credential = "backup-passphrase" }',
                default=inherited,
            ),
            Option(
                "recipients",
                Recipients(),
                "Whom to encrypt to: public key files, each with one key; for age also age1… and ssh keys.",
                '["/etc/nanumpay/backup-key.asc"]',
                default=inherited,
            ),
            Option(
                "scope",
                Choice("all", "remote"),
                'What is encrypted: every copy, or only those elsewhere (`"remote"`). The application can only see and '
                "offer what is not encrypted in the backups folder.",
                '"remote"',
                default='`"remote"` for the job `nanumpay`, else `"all"`' if not more else _AS_ABOVE,
            ),
            Option(
                "decrypt_with",
                DecryptKeys(),
                "Private keys and older passphrases that this host may decrypt with: to prove, drill and restore"
                f"{more}.",
                '[{ file = "/etc/nanumpay/backup-key.sec" }, { credential = "old-passphrase" }]',
            ),
        ),
    )


TOP: Final = Table(
    "",
    HostConfig,
    "Keys before the first table.",
    (
        Option(
            "timezone",
            TimeZone(),
            "Zone in which schedules are meant (IANA name).",
            '"Asia/Seoul"',
            default="the host's zone",
        ),
    ),
)

SINGLE: Final = (
    Table(
        "mongodb",
        MongoConnection,
        "The application's database: where its settings are watched and what the job `nanumpay` backs up.",
        (
            Option(
                "uri",
                MongoUri(),
                "Connection string; a table refers to a secret.",
                '"mongodb://localhost:27017/nanumpay"',
                default='MONGODB_URI, else `"mongodb://localhost:27017/nanumpay"`',
            ),
            Option(
                "database",
                Text("a database's name", pattern=r'[^\s/\\."$*]+', example='"nanumpay"'),
                "Database with the collection `admins`.",
                '"nanumpay"',
                default='the database in `uri`, else `"nanumpay"`',
            ),
            Option(
                "poll_interval",
                Duration("1s", "1h"),
                "How often a standalone server is asked for changed settings (a replica set tells them by itself).",
                '"5s"',
            ),
            Option("connect_timeout", Duration("100ms", "5m"), "How long a connection may take.", '"5s"'),
            *READING,
        ),
    ),
    Table(
        "paths",
        Paths,
        "Where things lie on this host.",
        (
            Option(
                "backups",
                AbsolutePath(),
                "The backups folder; the application offers its files for download.",
                '"/opt/nanumpay/data/backups"',
                default='BACKUP_PATH, else `"/opt/nanumpay/data/backups"`',
            ),
            Option("state", AbsolutePath(), "Catalog, last good settings, locks.", '"/var/lib/nanumpay-backupd"'),
            Option("socket", AbsolutePath(), "The control socket.", '"/run/nanumpay-backupd/control.sock"'),
        ),
    ),
    Table(
        "tools",
        Tools,
        "Stock tools that do the work.",
        (
            Option("mongodump", _TOOL, "Name (looked up on PATH) or absolute path.", '"/usr/bin/mongodump"'),
            Option("mongorestore", _TOOL, "Needed to restore and for drills.", '"/usr/bin/mongorestore"'),
            Option("mongoexport", _TOOL, "Needed for a collection as JSON only.", '"/usr/bin/mongoexport"'),
            Option("mongod", _TOOL, "Drills start a scratch server with it.", '"/usr/bin/mongod"'),
            Option("mariadb_dump", _TOOL, "For MariaDB and MySQL; mysqldump serves too.", '"/usr/bin/mysqldump"'),
            Option("mariadb", _TOOL, "Their client; mysql serves too.", '"/usr/bin/mysql"'),
            Option("mariadb_binlog", _TOOL, "Needed for increments of them.", '"/usr/bin/mysqlbinlog"'),
            Option("mariadbd", _TOOL, "Drills start a scratch server with it.", '"/usr/sbin/mariadbd"'),
            Option("mariadb_install_db", _TOOL, "Needed for drills.", '"/usr/bin/mariadb-install-db"'),
            Option("pg_dump", _TOOL, "For PostgreSQL.", '"/usr/lib/postgresql/15/bin/pg_dump"'),
            Option("pg_dumpall", _TOOL, "For roles and tablespaces.", '"/usr/lib/postgresql/15/bin/pg_dumpall"'),
            Option("pg_restore", _TOOL, "Needed to prove and to restore.", '"/usr/lib/postgresql/15/bin/pg_restore"'),
            Option("psql", _TOOL, "PostgreSQL's client.", '"/usr/lib/postgresql/15/bin/psql"'),
            Option("initdb", _TOOL, "Needed for drills.", '"/usr/lib/postgresql/15/bin/initdb"'),
            Option("postgres", _TOOL, "Needed for drills.", '"/usr/lib/postgresql/15/bin/postgres"'),
            Option("gpg", _TOOL, "Needed for encryption by OpenPGP.", '"/usr/bin/gpg"'),
            Option("gpg_agent", _TOOL, "Needed to decrypt with a private OpenPGP key.", '"/usr/bin/gpg-agent"'),
            Option("age", _TOOL, "Needed for encryption by age.", '"/usr/bin/age"'),
            Option("redis_server", _TOOL, "Drills of a Redis job start one of their own.", '"/usr/bin/redis-server"'),
            Option("tar", _TOOL, "GNU tar, needed for files.", '"/usr/bin/tar"'),
            Option("pbm", _TOOL, "Percona Backup for MongoDB, for sharded clusters.", '"/usr/bin/pbm"'),
        ),
    ),
    Table(
        "control",
        ControlOptions,
        "Who may use `backupctl` besides root and the service's own user.",
        (
            Option(
                "group",
                _GROUP,
                "Its members may look and start runs. Where systemd makes the socket (nanumpay-backupd.socket) it is "
                "`SocketGroup=` there that counts.",
                '"adm"',
                default="the service user's own group",
            ),
            Option("admin_group", _GROUP, "Its members may also delete.", '"sudo"', default="nobody"),
        ),
    ),
    Table(
        "log",
        LogOptions,
        "What goes to the journal.",
        (Option("level", Choice("debug", "info", "warning", "error"), "The least that is logged.", '"info"'),),
    ),
    Table(
        "retry",
        RetryPolicy,
        "What failed for a passing reason is tried again (docs/operations.md, Retries and limits); the queue of "
        "uploads survives a restart.",
        _RETRY,
    ),
    Table(
        "limits",
        HostLimits,
        "How long runs and their parts may take, how much memory, and when nothing is begun (docs/operations.md, "
        "Retries and limits). What takes longer is ended with the code `deadline`.",
        (
            *_RUN_LIMITS,
            Option(
                "max_parallel",
                Whole(1, 100),
                "How many runs are made by themselves at one time, over all jobs. Slices and what a person starts do "
                "not wait.",
                "2",
            ),
        ),
    ),
    _encryption(
        "encryption",
        "How backups are encrypted, of every job that says nothing else (docs/encryption.md).",
        method='`"none"`',
        inherited="none",
    ),
    Table(
        "notify",
        NotifyOptions,
        "How people are told of what happens; the ways to tell them are `[channel.NAME]`.",
        (
            Option("enabled", Flag(), "Whether anything is sent: messages, records, heartbeats.", "true"),
            Option("language", Choice("en", "ko"), "Language of the messages.", '"ko"'),
            Option(
                "remind", Duration("0s", "365d"), "A fault that lasts is told again after this; `0s`: never.", '"24h"'
            ),
            Option(
                "quiet",
                QuietHours(),
                "Hours (of `timezone`) in which good news waits; faults are told at any time.",
                '"22:00-07:00"',
            ),
            Option(
                "max_per_hour",
                Whole(1, 1000),
                "Messages per channel and hour; what is more waits and becomes one summary.",
                "12",
            ),
            Option("report", Cron(off=True), "When the report of the last days is sent.", '"0 8 * * 1"'),
            Option(
                "database",
                Flag(),
                "Also record everything in the application's database, collection `backupnotifications`.",
                "true",
            ),
            Option("database_days", Whole(1, 3650), "How many days such a record is kept.", "90"),
            Option("database_count", Whole(1, 100_000), "How many of them are kept.", "1000"),
        ),
    ),
    Table(
        "monitor",
        HostMonitor,
        "What counts as well, and when everything is looked at (docs/operations.md, Monitoring).",
        (
            Option("at", Cron(off=True), "When all places are looked at by itself.", '"30 8 * * *"'),
            *_LIMITS_OF_ALL,
            *_FACTORS,
        ),
    ),
    Table(
        "metrics",
        MetricsOptions,
        "Figures for Prometheus and what reads its formats (docs/monitoring.md).",
        (
            Option(
                "listen",
                LoopbackAddress(),
                "Where they are fetched (`/metrics`): an address of this host only, or a Unix socket; empty: nowhere.",
                '"127.0.0.1:9618"',
            ),
            Option(
                "textfile",
                TextFile(),
                "A file for node_exporter, written once a minute and after each run; empty: none.",
                '"/var/lib/prometheus/node-exporter/nanumpay-backupd.prom"',
            ),
        ),
    ),
    Table(
        "web",
        WebOptions,
        "The web page, a service of its own: nanumpay-backup-web ([web.md](web.md)).",
        (
            Option(
                "listen",
                LoopbackAddress(
                    "write 127.0.0.1:PORT; from elsewhere people come by a reverse proxy with TLS (docs/web.md)"
                ),
                "An address of this host only, or a Unix socket.",
                '"127.0.0.1:9680"',
            ),
            Option(
                "address",
                PublicAddress(),
                "How people reach it through the reverse proxy; empty: only by `listen` (an SSH tunnel).",
                '"https://backup.example.com"',
            ),
            Option(
                "base_path", BasePath(), "The path at which the reverse proxy offers it; empty: the root.", '"/backup"'
            ),
            Option(
                "sign_in",
                Choice("both", "application", "local"),
                "Who may sign in: the application's administrators, those of `backupctl web-user list`, or both.",
                '"both"',
            ),
            Option("idle", Duration("1m", "7d"), "A session ends when it was not used for so long.", '"30m"'),
            Option("longest", Duration("5m", "30d"), "A session ends after so long in any case.", '"12h"'),
            Option(
                "state", AbsolutePath(), "Sessions, users, tokens, the audit trail.", '"/var/lib/nanumpay-backup-web"'
            ),
            Option(
                "users",
                AbsolutePath(as_text=True, empty=True),
                "The file of the users of `backupctl web-user list`.",
                '"/var/lib/nanumpay-backup-web/users.json"',
                default="`users.json` in `state`",
            ),
            Option(
                "user",
                Text("a user's name", pattern=r"[a-z_][a-z0-9_-]{0,31}", example='"nanumpay-backup-web"'),
                "Whom the service runs as.",
                '"nanumpay-backup-web"',
            ),
            Option(
                "changes",
                Flag(),
                "The daemon lets that user restore and delete. false: the page looks, starts runs and saves settings.",
                "true",
            ),
            Option("language", Choice("", "en", "ko"), "Language of the page; empty: as the browser asks.", '"ko"'),
        ),
    ),
    Table(
        "fleet",
        FleetOptions,
        "More than one host runs this daemon with the same settings ([fleet.md](fleet.md)).",
        (
            Option(
                "enabled", Flag(), "Whether there may be others, and a lease says who makes what all share.", "true"
            ),
            Option(
                "host",
                Text("a host's name, or empty", pattern=r"[A-Za-z0-9._-]{0,64}", example='"db1"'),
                "What this host is called among them; each has to have its own.",
                '"db1"',
                default="the host's name",
            ),
            Option("lease", Duration("3s", "10m"), "After this time another host takes over, at the latest.", '"30s"'),
            Option(
                "database",
                Text("a database's name, or empty", pattern=r'[^\s/\\."$*]*', example='"nanumpay"'),
                "Where the lease is kept.",
                '"nanumpay"',
                default="`mongodb.database`",
            ),
            Option(
                "collection",
                Text("a collection's name", pattern=r"[A-Za-z0-9_.-]{1,64}", example='"backupfleet"'),
                "In which collection: it holds nothing else.",
                '"backupfleet"',
            ),
        ),
    ),
    Table(
        "nanumpay",
        ApplicationJob,
        "The application's own job `nanumpay`: what its settings form cannot say.",
        (
            Option("enabled", Flag(), "Whether the application's settings are watched and its job exists.", "true"),
            Option("destinations", Names(), "Further destinations, by name.", '["offsite"]'),
            Option("catch_up", _CATCH_UP, _CATCH_UP_DOC, '"7d"'),
            Option("compression_level", _LEVEL, _LEVEL_DOC, "2"),
            *_PROTECTION,
        ),
    ),
    Table("nanumpay.s3", S3Extras, "More about the bucket that the application's form names.", S3_EXTRAS),
    Table("nanumpay.ftp", FtpExtras, "More about the FTP server that the application's form names.", FTP_EXTRAS),
    _encryption("nanumpay.encryption", "How the job `nanumpay` is encrypted, where it differs.", more=_MORE),
)

CHANNEL: Final = Table(
    "channel.NAME",
    Channel,
    "A way to tell people. It is told what is at least as severe as `severity`, and beside that the `events` named.",
    (
        Option(
            "address",
            SecretUrl(
                "an apprise address (mailtos://…, slack://…, discord://…, tgram://…, json://…)",
                example='{ credential = "mail" } or "slack://…"',
            ),
            "Where to, as [apprise](https://github.com/caronc/apprise/wiki) writes it.",
            '{ credential = "ops-mail" }',
            required=True,
        ),
        Option(
            "severity",
            Choice("info", "warning", "error", "none"),
            "The least that is told; `info`: also that all is well, `none`: only `events`.",
            '"error"',
        ),
        Option(
            "events",
            Names(*EVENTS, what="a list of events"),
            "What is told whatever its severity.",
            '["drill-succeeded", "report"]',
        ),
        Option("jobs", Names(), "Only what concerns these jobs, or none; empty: all.", '["nanumpay"]'),
        Option("language", Choice("", "en", "ko"), "Language of its messages; empty: `notify.language`.", '"ko"'),
        Option("timeout", Duration("1s", "2m"), "How long the service may be silent.", '"15s"'),
    ),
)

_LIMITS: Final = (
    Option(
        "max_total_size",
        Size("0KiB", "1000TiB"),
        "The most that may lie there of a job's copies; what is too much goes, the oldest first. `0KiB`: no limit.",
        '"50GB"',
        default="no limit",
    ),
    Option(
        "min_keep",
        Whole(1, 365),
        "So many of the newest verified ones are never deleted.",
        "3",
        default="`1`",
    ),
)
COUNTS: Final = (
    Option("count", Whole(1, 365), "How many are kept.", "14", default="`7`"),
    Option("days", Whole(1, 365), "How old, in days, a kept one may become.", "60", default="`30`"),
)
WINDOWS: Final = (
    Option(
        "keep_all_for_days",
        Whole(1, 3650),
        "All backups of so many days are kept, slices too; required where one of the next four is set.",
        "7",
        default="no windows",
    ),
    *(
        Option(
            f"keep_{each}_for_{unit}s",
            Whole(0, most),
            f"Then the newest of each {period} for so many {unit}s more; 0: none.",
            example,
            default="none",
        )
        for each, unit, period, most, example in (
            ("daily", "day", "day", 3650, "16"),
            ("weekly", "week", "ISO week (Monday to Sunday)", 520, "8"),
            ("monthly", "month", "month", 1200, "4"),
            ("yearly", "year", "year", 100, "2"),
        )
    ),
)
RETENTION: Final = Table(
    "job.retention",
    Retention,
    "How long a job's backups are kept. The newest verified one is never deleted. [nanumpay.retention] and "
    "[destination.NAME.retention] have the same keys; of those for a place, the most special one that says it counts.",
    (*COUNTS, *WINDOWS, *_LIMITS),
)

MONITOR: Final = Table(
    "job.monitor",
    MonitorOptions,
    "What counts as well of one job. [nanumpay.monitor] has the same keys; what is not said there is as in [monitor].",
    tuple(option._replace(default=_SAME) for option in (*_LIMITS_OF_ALL, *_FACTORS)),
)
PLACE_MONITOR: Final = Table(
    "destination.NAME.monitor",
    PlaceMonitor,
    "What counts as well at one place, which may also be local or app; what is not said there is as of the job.",
    (
        *(option._replace(default="as of the job") for option in _LIMITS_OF_ALL),
        Option(
            "expires",
            Day(),
            "The day on which access there ends by something that cannot be seen: an access key, a password, a token.",
            "2027-01-31",
            default="it does not",
        ),
    ),
)

JOB: Final = Table(
    "job",
    HostJob,
    "A further job; write `[[job]]` once for each.",
    (
        Option("name", NAME, "Its name; `nanumpay` is the application's.", '"shop"', required=True),
        Option(
            "type",
            Choice(*SOURCES),
            "What it saves; decides which further keys there are.",
            f'"{DEFAULT_TYPE}"',
            field="source",
            default=f'`"{DEFAULT_TYPE}"`',
        ),
        Option("schedule", Cron(), "When it runs.", '"30 3 * * *"', default="only when asked"),
        Option("destinations", Names(), "Where further copies go, by name.", '["offsite"]'),
        Option("compress", Flag(), "`.tar.gz` when true, `.tar` when false.", "true"),
        Option("compression_level", _LEVEL, _LEVEL_DOC, "2"),
        Option("enabled", Flag(), "Whether it runs by itself.", "true"),
        Option("catch_up", _CATCH_UP, _CATCH_UP_DOC, '"7d"'),
        *_PROTECTION,
    ),
)

GROUP: Final = Table(
    "group.NAME",
    HostGroup,
    "Jobs that are made together and can be brought back together ([groups.md](groups.md)).",
    (
        Option(
            "jobs",
            Names(),
            "Which, in the order in which their backups begin. They have no `schedule` of their own.",
            '["mariadb", "files"]',
            required=True,
        ),
        Option(
            "schedule",
            Cron(),
            "When all of them are made; not where `nanumpay` is one of them, for its form says when.",
            '"0 2 * * *"',
            default="only when asked, or as the application's form says",
        ),
        Option("enabled", Flag(), "Whether it runs by itself.", "true"),
        Option("catch_up", _CATCH_UP, _CATCH_UP_DOC, '"7d"'),
    ),
)

JOB_ENCRYPTION: Final = _encryption("job.encryption", "How this job is encrypted, where it differs.", more=_MORE)

JOB_RETRY: Final = Table("job.retry", RetryPolicy, "How this job is tried again, where it differs.", _RETRY)
JOB_LIMITS: Final = Table("job.limits", Limits, "The limits of this job, where they differ.", _RUN_LIMITS)
