"""Where copies go, as settings: one record for each type of destination. Their keys are in `destination_tables`.

A type is added by a record here and its place in the union `Destination`, a table in `destination_tables`, a driver
(one module in `stores`, named in `stores.factory`) and a participant of the contract suite (tests/contract/places).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple
from urllib.parse import urlsplit

import msgspec

from nanumpay_backupd.system.secrets import Secret

__all__ = [
    "Destination",
    "DestinationSettings",
    "FtpDestination",
    "LocalDestination",
    "S3Destination",
    "TlsServer",
    "kms_conflicts",
    "type_of_destination",
]

_HTTPS = 443


class TlsServer(NamedTuple):
    """A server that shows a certificate: where, how long it is waited for (seconds), by AUTH TLS of FTP or at once."""

    host: str
    port: int
    timeout: float
    ftp: bool = False


class DestinationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Common shape of all destinations' settings. ``tag`` of a record is what ``type`` says in the host file.

    ``name`` is the one in the host file. ``bandwidth`` is the most bytes per second that go there or come from there,
    0: any. ``extra`` is the optional extra of this package that the driver takes (``pip install
    'nanumpay-backupd[sftp]'``), empty: none. ``environment`` are the variables that hold the secrets of a place that
    is typed as one word (`place.read_place`).
    """

    extra: ClassVar[str] = ""
    environment: ClassVar[tuple[str, ...]] = ()
    name: str
    bandwidth: int = 0

    @property
    def address(self) -> str:
        """Return where it is, in one word without secrets, for messages."""
        raise NotImplementedError

    @property
    def tls_server(self) -> TlsServer | None:
        """Return the server whose certificate is watched; None where none is shown."""
        return None

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Yield what does not fit together in its table: the key, the reason, the fix (see `problems.Problems`)."""
        return iter(())


class S3Destination(DestinationSettings, frozen=True, tag="s3"):
    """A bucket. ``endpoint_url`` empty means AWS; with a foreign endpoint checksums are sent only when required."""

    environment: ClassVar[tuple[str, ...]] = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
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
    delete_versions: bool = False
    part_size: int = 16 << 20
    parallel_parts: int = 3
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`; AWS keeps its own in order."""
        return _https_server(self.endpoint_url, self.timeout)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        return kms_conflicts(self.sse, self.sse_kms_key_id)


class FtpDestination(DestinationSettings, frozen=True, tag="ftp"):
    """A folder on an FTP server. ``secure``: explicit FTPS, certificate checked unless pinned or ``tls_verify`` is off.

    ``tls_fingerprint`` is the SHA-256 of the server's certificate in hex: accepts exactly that certificate.
    """

    environment: ClassVar[tuple[str, ...]] = ("NANUMPAY_FTP_PASSWORD",)
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

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"{'ftps' if self.secure else 'ftp'}://{self.host}:{self.port}{self.path}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`."""
        return TlsServer(self.host, self.port, self.timeout, ftp=True) if self.secure else None


class LocalDestination(DestinationSettings, frozen=True, tag="local"):
    """A further folder on this host, typically another disk or a mount. ``require_mount``: refuse when not mounted."""

    path: str
    require_mount: bool = False

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return self.path


Destination = S3Destination | FtpDestination | LocalDestination


def type_of_destination(record: type | object) -> str:
    """Return what ``type`` says in the host file for that record or its class."""
    kind = record if isinstance(record, type) else type(record)
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]  # every record is a Struct


def kms_conflicts(sse: str, key_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield what does not fit together in how a bucket encrypts; see `DestinationSettings.conflicts`."""
    if key_id and sse != "aws:kms":
        yield "sse_kms_key_id", "is set without its mode", 'add: sse = "aws:kms"'


def _https_server(url: str, timeout: float) -> TlsServer | None:
    if not url.startswith("https://"):
        return None
    parts = urlsplit(url)
    return TlsServer(parts.hostname or "", parts.port or _HTTPS, timeout)
