"""The settings after validation, as frozen records: what every other room receives. Reading and checking is next door.

Durations are seconds, sizes bytes. Secrets are `Secret` objects, which hide themselves. `JobSpec` is all that a run
needs to know; it crosses to the worker process as JSON on standard input (`encode_spec`, `decode_spec`), never in argv.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from nanumpay_backupd.model import GroupManifest, Policy
from nanumpay_backupd.settings.destinations import (
    Destination,
    FtpDestination,
    LocalDestination,
    S3Destination,
    SftpDestination,
    WebdavDestination,
)
from nanumpay_backupd.settings.sources import MongoSource, Source, SourceKind, SourceSettings
from nanumpay_backupd.system.secrets import Secret

__all__ = [
    "APPLICATION_DESTINATION",
    "APPLICATION_JOB",
    "DATABASE_CHANNEL",
    "AppFtp",
    "AppS3",
    "AppSettings",
    "ApplicationJob",
    "Channel",
    "CollectionOrder",
    "ControlOptions",
    "CopyOrder",
    "Destination",
    "EncryptionOptions",
    "FenceTicket",
    "FleetOptions",
    "FtpDestination",
    "FtpExtras",
    "GroupOrder",
    "GroupSpec",
    "HealthLimits",
    "HealthOptions",
    "HostConfig",
    "HostGroup",
    "HostJob",
    "HostLimits",
    "HostMonitor",
    "JobEncryption",
    "JobSpec",
    "Limits",
    "LocalDestination",
    "LogOptions",
    "MetricsOptions",
    "MongoConnection",
    "MongoSource",
    "MonitorOptions",
    "NotifyOptions",
    "Paths",
    "PlaceMonitor",
    "Protection",
    "RestoreOrder",
    "Retention",
    "RetryPolicy",
    "RunSpec",
    "S3Destination",
    "S3Extras",
    "Schedule",
    "SftpDestination",
    "Source",
    "SourceKind",
    "SourceSettings",
    "Tools",
    "VerifyOrder",
    "WebOptions",
    "WebdavDestination",
    "decode_hook",
    "decode_spec",
    "encode_hook",
    "encode_spec",
    "to_public",
]

APPLICATION_JOB: Final = "nanumpay"
"""The job that the application's own settings define."""
APPLICATION_DESTINATION: Final = "app"
"""Name of the destination that the application's settings define: ``storage.s3`` or ``storage.ftp``."""

DATABASE_CHANNEL: Final = "database"
"""Name of the channel that is the record in the application's database (``notify.database``)."""


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common shape of all settings."""


class Schedule(_Settings, frozen=True):
    """When a job is due: cron expressions (the earliest counts) in a time zone (IANA name, empty: the host's)."""

    cron: tuple[str, ...]
    timezone: str = ""


class Retention(_Settings, frozen=True):
    """What one table of the host file says about how long to keep; None: nothing. See `model.Policy` for the meaning.

    Either ``count`` and ``days``, or the windows, or neither: then the rule is that of a more general table.
    """

    count: int | None = None
    days: int | None = None
    keep_all_for_days: int | None = None
    keep_daily_for_days: int | None = None
    keep_weekly_for_weeks: int | None = None
    keep_monthly_for_months: int | None = None
    keep_yearly_for_years: int | None = None
    max_total_size: int | None = None
    min_keep: int | None = None


class HealthOptions(_Settings, frozen=True):
    """What one table says about what counts as well, of a job or a place; None: nothing. See `HealthLimits`."""

    max_age: float | None = None
    max_total_size: int | None = None
    max_verify_age: float | None = None
    disk_days: int | None = None
    expiry_days: int | None = None


class MonitorOptions(HealthOptions, frozen=True):
    """What the table of a job says."""

    shrink_factor: float | None = None
    grow_factor: float | None = None


class HostMonitor(MonitorOptions, frozen=True):
    """What holds for all jobs, and when all places are looked at (cron expressions, none: only when asked)."""

    at: tuple[str, ...] = ("30 8 * * *",)


class PlaceMonitor(HealthOptions, frozen=True):
    """What the table of a destination says; ``expires`` is when an access there ends by what cannot be seen."""

    expires: date | None = None


class HealthLimits(_Settings, frozen=True):
    """What counts as well, complete. Ages are seconds, sizes bytes; 0: no limit, None: what the schedule makes of it.

    ``shrink_factor`` and ``grow_factor`` are shares of what is usual (`health.sizes`). It is told ``disk_days`` before
    a disk is full, and ``expiry_days`` before something ends.
    """

    max_age: float | None = None
    max_total_size: int = 0
    max_verify_age: float | None = None
    shrink_factor: float = 0.5
    grow_factor: float = 3.0
    disk_days: int = 14
    expiry_days: int = 14
    expires: date | None = None


class RetryPolicy(_Settings, frozen=True):
    """How often and how soon what failed for a passing reason is tried again. Each delay doubles, up to a limit.

    ``attempts`` and ``delay`` are of uploads; a run tries its first stages as often, sooner (`pipeline.again`).
    ``run_attempts`` and ``run_delay`` are of runs by schedule that failed nevertheless.
    """

    attempts: int = 3
    delay: float = 60.0
    run_attempts: int = 3
    run_delay: float = 600.0


class Limits(_Settings, frozen=True):
    """How long a run and its parts may take (seconds, 0: any), and how much memory (bytes, 0: any).

    ``run`` is without uploads, of which ``upload`` is each one's; ``stall`` is how long nothing may move. ``blackout``
    are windows of the week (`blackout.parse`) in which nothing is begun by itself but slices.
    """

    run: float = 86400.0
    preflight: float = 600.0
    dump: float = 0.0
    verify: float = 0.0
    upload: float = 0.0
    restore: float = 0.0
    stall: float = 1800.0
    memory: int = 0
    blackout: tuple[str, ...] = ()


class HostLimits(Limits, frozen=True, kw_only=True):
    """The limits of every job that sets none of its own, and how many runs are made by themselves at one time."""

    max_parallel: int = 2


class Paths(_Settings, frozen=True):
    """Where things lie on this host."""

    backups: Path = Path("/opt/nanumpay/data/backups")
    state: Path = Path("/var/lib/nanumpay-backupd")
    socket: Path = Path("/run/nanumpay-backupd/control.sock")


class Protection(_Settings, frozen=True, kw_only=True):
    """What a job does beyond its fulls. Schedules are cron expressions, empty: never; durations are seconds, 0: off.

    ``incremental`` and ``differential`` save the changes since the last slice, or since the last full; ``pitr`` does
    the former that often. ``verify`` reads all copies again, at most ``verify_rate`` bytes per second (0: no limit);
    ``drill`` restores the newest backup into a scratch place. ``rpo`` is the most that may be lost, ``rto`` the longest
    that a restore may take; ``tier`` is a preset for both. ``heartbeat`` is an address that is pinged at each backup.
    ``before`` and ``after`` are commands that are run with each backup (one text: by a shell), each for at most
    ``hook_timeout``. ``read_back`` is the share of uploaded copies that are read again at once, and with
    ``read_back_unproven`` all are whose place confirms no checksum. ``copies``, ``media`` and ``offsite`` are the least
    of each that the newest backup has to have, the data itself counted as a copy; 0: nothing is demanded. ``runs_on``
    is ``fleet`` (by one host of it at a time) or ``host`` (by each for itself); empty: as its type is.
    """

    incremental: tuple[str, ...] = ()
    differential: tuple[str, ...] = ()
    pitr: float = 0.0
    verify: tuple[str, ...] = ()
    verify_rate: int = 0
    read_back: float = 0.0
    read_back_unproven: bool = False
    drill: tuple[str, ...] = ("0 5 * * 0",)
    tier: str = ""
    rpo: float = 0.0
    rto: float = 0.0
    copies: int = 0
    media: int = 0
    offsite: int = 0
    heartbeat: Secret = Secret("")
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    hook_timeout: float = 600.0
    runs_on: str = ""


class EncryptionOptions(_Settings, frozen=True):
    """How backups are encrypted. ``method`` is none, openpgp or age (empty in a job's own table: as everywhere).

    Either ``passphrase`` or ``recipients`` is there: for openpgp paths of public key files, for age also recipients
    themselves. ``scope`` is ``all`` (also the copy in the backups folder) or ``remote`` (only copies elsewhere);
    ``decrypt_with`` are further passphrases and private keys, for what was encrypted before or to keys.
    """

    method: str = ""
    scope: str = ""
    passphrase: Secret = Secret("")
    recipients: tuple[str, ...] = ()
    decrypt_with: tuple[Secret, ...] = ()

    @property
    def on(self) -> bool:
        """Tell whether anything is encrypted."""
        return self.method not in ("", "none")


class JobEncryption(EncryptionOptions, frozen=True):
    """How the backups of one job are encrypted, complete, and the tools for it."""

    gpg: str = "gpg"
    gpg_agent: str = "gpg-agent"
    age: str = "age"


class JobSpec(Protection, frozen=True, kw_only=True):
    """One job, complete: what, when, how, where, how long.

    ``timezone`` is that of the schedules beside the backup's, and of the days that retention counts. ``policies`` are
    those of the places for which another than ``retention`` holds, ``healths`` the limits of those for which others
    than ``health`` hold. ``group`` is the group that the job is made with: then ``schedule`` is that of the group, and
    the job is not due by itself. ``shared``: it is made by the host that holds the fleet's lease, and by no other.
    """

    name: str
    source: Source
    schedule: Schedule | None
    destinations: tuple[Destination, ...] = ()
    retention: Policy = Policy()
    policies: dict[str, Policy] = {}
    health: HealthLimits = HealthLimits()
    healths: dict[str, HealthLimits] = {}
    compress: bool = True
    compression_level: int = 2
    enabled: bool = True
    catch_up: float = 7 * 86400.0
    timezone: str = ""
    retry: RetryPolicy = RetryPolicy()
    limits: Limits = Limits()
    encryption: JobEncryption = JobEncryption()
    warnings: tuple[str, ...] = ()
    group: str = ""
    shared: bool = False

    def policy_at(self, place: str) -> Policy:
        """Return how long this job's copies are kept at a place."""
        return self.policies.get(place, self.retention)

    def health_at(self, place: str) -> HealthLimits:
        """Return what counts as well of this job's copies at a place."""
        return self.healths.get(place, self.health)


class GroupSpec(_Settings, frozen=True, kw_only=True):
    """Jobs that are made and brought back together, complete. ``jobs`` are their names, in the order of the file.

    ``limits`` has the blackouts of all of them. ``notes`` are sentences about what is legal, but should be known.
    """

    name: str
    jobs: tuple[str, ...]
    schedule: Schedule | None
    enabled: bool = True
    catch_up: float = 7 * 86400.0
    timezone: str = ""
    limits: Limits = Limits()
    notes: tuple[str, ...] = ()


class AppS3(_Settings, frozen=True):
    """``storage.s3`` of the application's settings; an empty bucket means none yet."""

    region: str = "ap-northeast-2"
    bucket: str = ""
    access_key_id: str = ""
    secret_access_key: Secret = Secret("")
    prefix: str = "nanumpay-backup/"


class AppFtp(_Settings, frozen=True):
    """``storage.ftp`` of the application's settings; an empty host means none yet."""

    host: str = ""
    port: int = 21
    username: str = ""
    password: Secret = Secret("")
    remote_path: str = "/backup/nanumpay"
    secure: bool = False


class AppSettings(_Settings, frozen=True):
    """The application's backup settings after validation, every default filled in.

    ``time`` is HH:MM in the host's zone, ``day_of_week`` counts from Sunday as 0, ``storage`` is s3, ftp, local or
    none. ``warnings`` are sentences about what is legal but hardly meant, such as FTP chosen with an empty host.
    """

    enabled: bool = True
    frequency: str = "daily"
    time: str = "02:00"
    day_of_week: int = 0
    day_of_month: int = 1
    retention: Policy = Policy()
    compress: bool = True
    storage: str = "ftp"
    s3: AppS3 = AppS3()
    ftp: AppFtp = AppFtp()
    warnings: tuple[str, ...] = ()


class MongoConnection(_Settings, frozen=True):
    """How the application's MongoDB is reached; times in seconds. ``database`` holds the collection ``admins``.

    ``read_preference`` and ``max_lag`` are as in `MongoSource`.
    """

    uri: Secret = Secret("mongodb://localhost:27017/nanumpay")
    database: str = "nanumpay"
    poll_interval: float = 5.0
    connect_timeout: float = 5.0
    read_preference: str = "primary"
    max_lag: float = 90.0


class Tools(_Settings, frozen=True):
    """Stock tools by name (looked up on PATH) or absolute path."""

    mongodump: str = "mongodump"
    mongorestore: str = "mongorestore"
    mongoexport: str = "mongoexport"
    mongod: str = "mongod"
    mariadb_dump: str = "mariadb-dump"
    mariadb: str = "mariadb"
    mariadb_binlog: str = "mariadb-binlog"
    mariadbd: str = "mariadbd"
    mariadb_install_db: str = "mariadb-install-db"
    pg_dump: str = "pg_dump"
    pg_dumpall: str = "pg_dumpall"
    pg_restore: str = "pg_restore"
    psql: str = "psql"
    initdb: str = "initdb"
    postgres: str = "postgres"
    gpg: str = "gpg"
    gpg_agent: str = "gpg-agent"
    age: str = "age"
    redis_server: str = "redis-server"
    tar: str = "tar"
    pbm: str = "pbm"


class ControlOptions(_Settings, frozen=True):
    """Who may use the control socket: ``group`` looks and runs, ``admin_group`` also deletes. Empty: nobody more."""

    group: str = ""
    admin_group: str = ""


class LogOptions(_Settings, frozen=True):
    """How much is logged: debug, info, warning or error."""

    level: str = "info"


class S3Extras(_Settings, frozen=True):
    """What the application's form cannot say about its bucket; fields as in `S3Destination`."""

    endpoint_url: str = ""
    path_style: bool = False
    sse: str = ""
    sse_kms_key_id: str = ""
    storage_class: str = ""
    ca_file: str = ""
    delete_versions: bool = False
    profile: str = ""
    lock_mode: str = ""
    lock_days: int = 0
    bandwidth: int = 0


class FtpExtras(_Settings, frozen=True):
    """What the application's form cannot say about its FTP server; fields as in `FtpDestination`."""

    tls_verify: bool = True
    ca_file: str = ""
    tls_fingerprint: str = ""
    timeout: float = 60.0
    bandwidth: int = 0


class ApplicationJob(Protection, frozen=True, kw_only=True):
    """What the host adds to the job `APPLICATION_JOB`. ``enabled`` off: the application's settings are not watched.

    ``retry`` and ``limits`` None: as of all jobs.
    """

    enabled: bool = True
    destinations: tuple[str, ...] = ()
    catch_up: float = 7 * 86400.0
    compression_level: int = 2
    retention: Retention = Retention()
    monitor: MonitorOptions = MonitorOptions()
    s3: S3Extras = S3Extras()
    ftp: FtpExtras = FtpExtras()
    encryption: EncryptionOptions = EncryptionOptions()
    retry: RetryPolicy | None = None
    limits: Limits | None = None


class HostJob(Protection, frozen=True, kw_only=True):
    """A further job of the host file. No ``schedule``: it runs only when asked.

    ``retry`` and ``limits`` None: as of all jobs.
    """

    name: str
    source: Source
    schedule: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    retention: Retention = Retention()
    monitor: MonitorOptions = MonitorOptions()
    compress: bool = True
    compression_level: int = 2
    enabled: bool = True
    catch_up: float = 7 * 86400.0
    encryption: EncryptionOptions = EncryptionOptions()
    retry: RetryPolicy | None = None
    limits: Limits | None = None


class HostGroup(_Settings, frozen=True, kw_only=True):
    """Jobs of the host file that are made together. No ``schedule``: as the application's form says, or when asked."""

    name: str
    jobs: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()
    enabled: bool = True
    catch_up: float = 7 * 86400.0


class Channel(_Settings, frozen=True):
    """One way to tell people: ``address`` is apprise's. What it is told: `alerts.Rule`. Empty ``language``: the usual.

    ``severity`` is info, warning, error or none; ``timeout`` seconds is how long the service may be silent.
    """

    name: str
    address: Secret
    severity: str = "warning"
    events: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    language: str = ""
    timeout: float = 15.0


class NotifyOptions(_Settings, frozen=True):
    """How people are told. ``remind``: seconds, 0: never; ``quiet`` is HH:MM-HH:MM, or empty: no quiet hours.

    ``database``: also record in the application's database, for ``database_days`` and at most ``database_count``.
    ``report`` are cron expressions.
    """

    enabled: bool = True
    language: str = "en"
    remind: float = 86400.0
    quiet: str = ""
    max_per_hour: int = 12
    report: tuple[str, ...] = ("0 8 * * 1",)
    database: bool = False
    database_days: int = 90
    database_count: int = 1000


class MetricsOptions(_Settings, frozen=True):
    """Where figures for a monitoring system are to be had. ``listen``: HOST:PORT or a Unix socket's path; empty: not.

    ``textfile`` is the path of a file for node_exporter, empty: none.
    """

    listen: str = ""
    textfile: str = ""


class FleetOptions(_Settings, frozen=True):
    """More than one host (docs/fleet.md). ``host`` empty: the host's own name; ``lease`` is in seconds.

    ``database`` empty: the application's.
    """

    enabled: bool = False
    host: str = ""
    lease: float = 30.0
    database: str = ""
    collection: str = "backupfleet"


class WebOptions(_Settings, frozen=True):
    """The web page: where it listens, who signs in and for how long (seconds), where its own files lie.

    ``address`` is the public one (``https://host[:port]``, no path), empty where there is no reverse proxy;
    ``base_path`` is the path that the proxy gives it, ``/`` left out at the end. ``user`` is who the service runs as:
    with ``changes`` the daemon lets it restore and delete.
    """

    listen: str = "127.0.0.1:9680"
    address: str = ""
    base_path: str = ""
    sign_in: str = "both"
    idle: float = 1800.0
    longest: float = 43200.0
    state: Path = Path("/var/lib/nanumpay-backup-web")
    users: str = ""
    user: str = "nanumpay-backup-web"
    changes: bool = True
    language: str = ""


class HostConfig(_Settings, frozen=True):
    """The host file after validation, secrets resolved. ``origin`` is the file's path, empty when there is none.

    ``retentions`` are what the destinations' own tables say about how long to keep, by the destination's name, and
    ``monitors`` what they say about what counts as well.
    """

    origin: str = ""
    timezone: str = ""
    mongodb: MongoConnection = MongoConnection()
    paths: Paths = Paths()
    tools: Tools = Tools()
    control: ControlOptions = ControlOptions()
    log: LogOptions = LogOptions()
    retry: RetryPolicy = RetryPolicy()
    limits: HostLimits = HostLimits()
    notify: NotifyOptions = NotifyOptions()
    monitor: HostMonitor = HostMonitor()
    channels: tuple[Channel, ...] = ()
    metrics: MetricsOptions = MetricsOptions()
    web: WebOptions = WebOptions()
    fleet: FleetOptions = FleetOptions()
    encryption: EncryptionOptions = EncryptionOptions()
    nanumpay: ApplicationJob = ApplicationJob()
    destinations: tuple[Destination, ...] = ()
    retentions: dict[str, Retention] = {}
    monitors: dict[str, PlaceMonitor] = {}
    jobs: tuple[HostJob, ...] = ()
    groups: tuple[HostGroup, ...] = ()


class RestoreOrder(_Settings, frozen=True):
    """What is to be restored. Empty: the database's own name, all collections, the copy that is best at hand.

    ``at`` is the oplog time (`model.OpTime`) to restore, from the best chain when ``backup`` is empty. ``source``
    names the destination whose copies are taken; ``safety``: back the target up first when it holds anything. ``swap``:
    restore beside the database first, then change places with it.

    Of other sources than MongoDB ``to_database`` is any other place, ``only`` are the parts or paths that are wanted,
    ``overwrite``: what is there may be replaced, ``options`` what else that source knows (`sources.base.Wanted`).
    """

    backup: str
    at: str = ""
    to_database: str = ""
    collection: str = ""
    source: str = ""
    safety: bool = True
    swap: bool = False
    only: tuple[str, ...] = ()
    overwrite: bool = False
    options: dict[str, str] = {}


class VerifyOrder(_Settings, frozen=True):
    """What is to be proven. ``level`` is ``checksum``, ``structure`` or ``restore``.

    ``backup`` empty: all of the job's (for ``restore``, a drill, the newest); ``source`` empty: the copies at all
    places (for a drill: the one that is best at hand).
    """

    backup: str = ""
    level: str = "checksum"
    source: str = ""


class CollectionOrder(_Settings, frozen=True):
    """One collection to be backed up by itself, as ``bson`` or as ``json`` (Extended JSON, a document a line)."""

    collection: str
    format: str = "bson"


class CopyOrder(_Settings, frozen=True):
    """A further copy of a backup at ``destination``, of the one at ``source`` (empty: the best at hand).

    ``move``: that one is deleted once the new one is proven.
    """

    backup: str
    destination: str
    source: str = ""
    move: bool = False


class GroupOrder(_Settings, frozen=True):
    """A run of a group that is to be concluded: what its members made, and their jobs as they were then."""

    manifest: GroupManifest
    jobs: tuple[JobSpec, ...]


class FenceTicket(_Settings, frozen=True):
    """What a run under the fleet's lease needs to know of it: where it is kept, and under which token it began.

    ``fd`` is a file that holds when the last renewal was sent (`system.clock.since_boot`, a double; 0: it is lost); the
    run ends ``stop`` seconds after that, by force at ``end``. ``patience``: how long MongoDB may take for an answer.
    """

    uri: Secret
    database: str
    collection: str
    holder: str
    host: str
    token: int
    fd: int
    stop: float
    end: float
    patience: float


class RunSpec(_Settings, frozen=True):
    """What the worker process is told: the job, where things lie, and which run this is.

    ``action`` is ``backup`` (with ``collection``: of that alone, with ``only_to``: for no other destinations),
    ``slice`` (the changes, as ``kind``), ``verify`` and ``drill`` (with the order in ``verify``), ``upload`` (only the
    queued copies that are due), ``prune``, ``look``, ``delete:BACKUP[@PLACE]``, ``adopt`` (record what the destinations
    hold), ``doctor`` or ``doctor:DESTINATION``, ``swap:list`` or ``swap:undo:STAMP`` (also ``redo``, ``drop``),
    ``restore`` or ``restore-plan`` (both with the order in ``restore``), ``group`` (conclude a group's run, with the
    order in ``concluding``), ``copy`` (with the order in ``copying``). ``group`` is the id of the group's run that this
    run is part of. ``started`` (UTC) is when the run began for whoever asked for it; None: when the worker begins.
    ``fence`` is there for what only the holder of the fleet's lease may do.
    """

    run: str
    job: JobSpec
    paths: Paths
    trigger: str
    action: str = "backup"
    started: datetime | None = None
    restore: RestoreOrder | None = None
    verify: VerifyOrder | None = None
    collection: CollectionOrder | None = None
    kind: str = "incremental"
    only_to: tuple[str, ...] | None = None
    group: str = ""
    concluding: GroupOrder | None = None
    copying: CopyOrder | None = None
    fence: FenceTicket | None = None


def encode_hook(value: Any) -> Any:
    """Teach msgspec our types for writing, secrets in the clear: for a pipe to ourselves or a private file only."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def decode_hook(kind: type, value: Any) -> Any:
    """Teach msgspec our types for reading."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    # msgspec makes a ValidationError of this, with the place in the data.
    raise TypeError(f"expected a text for {kind.__name__}, got {type(value).__name__}")


def _mask(value: Any) -> Any:
    if isinstance(value, Secret):
        return str(value) if value else ""
    return encode_hook(value)


def to_public(record: object) -> Any:
    """Turn settings into plain dicts, lists and strings for people: a secret shows only whether there is one."""
    return msgspec.to_builtins(record, enc_hook=_mask)


def encode_spec(spec: RunSpec) -> bytes:
    """Encode a run specification, secrets included: for a pipe to our own worker and nothing else."""
    return msgspec.json.encode(spec, enc_hook=encode_hook)


def decode_spec(data: bytes) -> RunSpec:
    """Decode what `encode_spec` made; raises msgspec.ValidationError otherwise."""
    return msgspec.json.decode(data, type=RunSpec, dec_hook=decode_hook)
