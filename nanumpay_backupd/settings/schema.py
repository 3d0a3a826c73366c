"""The settings after validation, as frozen records: what every other room receives. Reading and checking is next door.

Durations are seconds, sizes bytes. Secrets are `Secret` objects, which hide themselves. `JobSpec` is all that a run
needs to know; it crosses to the worker process as JSON on standard input (`encode_spec`, `decode_spec`), never in argv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from nanumpay_backupd.model import Policy
from nanumpay_backupd.system.secrets import Secret

__all__ = [
    "APPLICATION_JOB",
    "Destination",
    "FtpDestination",
    "JobSpec",
    "LocalDestination",
    "MongoSource",
    "Paths",
    "RetryPolicy",
    "RunSpec",
    "S3Destination",
    "Schedule",
    "decode_spec",
    "encode_spec",
]

APPLICATION_JOB: Final = "nanumpay"
"""The job that the application's own settings define."""
APPLICATION_DESTINATION: Final = "app"
"""Name of the destination that the application's settings define: ``storage.s3`` or ``storage.ftp``."""


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common shape of all settings."""


class Schedule(_Settings, frozen=True):
    """When a job is due: cron expressions (the earliest counts) in a time zone (IANA name, empty: the host's)."""

    cron: tuple[str, ...]
    timezone: str = ""


class RetryPolicy(_Settings, frozen=True):
    """How often and how soon a failed upload is tried again; the delay doubles each time up to an hour."""

    attempts: int = 3
    delay: float = 60.0


class S3Destination(_Settings, frozen=True, tag_field="type", tag="s3"):
    """A bucket. ``endpoint_url`` empty means AWS; with a foreign endpoint checksums are sent only when required."""

    name: str
    bucket: str
    region: str = "ap-northeast-2"
    access_key_id: str = ""
    secret_access_key: Secret = Secret("")
    prefix: str = "nanumpay-backup/"
    endpoint_url: str = ""
    path_style: bool = False
    sse: str = ""
    sse_kms_key_id: str = ""
    storage_class: str = ""
    ca_file: str = ""
    part_size: int = 16 << 20
    parallel_parts: int = 3
    timeout: float = 60.0


class FtpDestination(_Settings, frozen=True, tag_field="type", tag="ftp"):
    """A folder on an FTP server. ``secure``: explicit FTPS, certificate checked unless pinned or ``tls_verify`` is off.

    ``tls_fingerprint`` is the SHA-256 of the server's certificate in hex: accepts exactly that certificate.
    """

    name: str
    host: str
    port: int = 21
    username: str = ""
    password: Secret = Secret("")
    path: str = "/backup/nanumpay"
    secure: bool = False
    tls_verify: bool = True
    ca_file: str = ""
    tls_fingerprint: str = ""
    timeout: float = 60.0


class LocalDestination(_Settings, frozen=True, tag_field="type", tag="local"):
    """A further folder on this host, typically another disk or a mount. ``require_mount``: refuse when not mounted."""

    name: str
    path: str
    require_mount: bool = False


Destination = S3Destination | FtpDestination | LocalDestination


class MongoSource(_Settings, frozen=True, tag_field="type", tag="mongodb"):
    """A MongoDB database (``database`` empty: all of the server's)."""

    uri: Secret
    database: str
    mongodump: str = "mongodump"
    parallel_collections: int = 4


class Paths(_Settings, frozen=True):
    """Where things lie on this host."""

    backups: Path = Path("/opt/nanumpay/data/backups")
    state: Path = Path("/var/lib/nanumpay-backupd")
    socket: Path = Path("/run/nanumpay-backupd/control.sock")


class JobSpec(_Settings, frozen=True):
    """One job, complete: what, when, how, where, how long."""

    name: str
    source: MongoSource
    schedule: Schedule | None
    destinations: tuple[Destination, ...] = ()
    retention: Policy = Policy()
    compress: bool = True
    compression_level: int = 2
    enabled: bool = True
    catch_up: float = 7 * 86400.0
    retry: RetryPolicy = RetryPolicy()
    warnings: tuple[str, ...] = ()


class RunSpec(_Settings, frozen=True):
    """What the worker process is told: the job, where things lie, and which run this is.

    ``action`` is ``backup`` or ``upload`` (only the copies that are due in the queue; ``backup`` names none then).
    """

    run: str
    job: JobSpec
    paths: Paths
    trigger: str
    action: str = "backup"


def _encode(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"cannot decode {kind.__name__}")


def encode_spec(spec: RunSpec) -> bytes:
    """Encode a run specification, secrets included: for a pipe to our own worker and nothing else."""
    return msgspec.json.encode(spec, enc_hook=_encode)


def decode_spec(data: bytes) -> RunSpec:
    """Decode what `encode_spec` made; raises msgspec.ValidationError otherwise."""
    return msgspec.json.decode(data, type=RunSpec, dec_hook=_decode)
