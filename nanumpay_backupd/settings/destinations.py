"""Where copies go, as settings: one record for each type of destination. Their keys are in `destination_tables`.

A type is added by a record here and its place in the union `Destination`, a table in `destination_tables`, a driver
(one module in `stores`, named in `stores.factory`) and a participant of the contract suite (tests/contract/places).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from nanumpay_backupd.system.secrets import Secret

__all__ = [
    "AzureDestination",
    "Destination",
    "DestinationSettings",
    "DropboxDestination",
    "FtpDestination",
    "GcsDestination",
    "LocalDestination",
    "ResticDestination",
    "S3Destination",
    "SftpDestination",
    "TlsServer",
    "WebdavDestination",
    "has_login",
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
    is typed as one word (`place.read_place`). ``wants_plain``: the place compresses and encrypts by itself, and keeps
    only what it has not got yet, so it is given what is neither (`pipeline.plain`). ``media`` names what the copies
    there lie on (two places of one name are one medium), ``offsite`` says whether it stands elsewhere than this host;
    empty, None: as follows from the type and the address (`natures`).
    """

    extra: ClassVar[str] = ""
    environment: ClassVar[tuple[str, ...]] = ()
    wants_plain: ClassVar[bool] = False
    name: str
    bandwidth: int = 0
    media: str = ""
    offsite: bool | None = None

    @property
    def address(self) -> str:
        """Return where it is, in one word without secrets, for messages."""
        raise NotImplementedError

    @property
    def tls_server(self) -> TlsServer | None:
        """Return the server whose certificate is watched; None where none is shown."""
        return None

    @property
    def for_probe(self) -> Self:
        """Return the settings with which something is put that is to be deleted at once."""
        return self

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """Yield what does not fit together in its table: the key, the reason, the fix (see `problems.Problems`)."""
        return iter(())


class S3Destination(DestinationSettings, frozen=True, tag="s3"):
    """A bucket. ``endpoint_url`` empty means AWS; with a foreign endpoint checksums are sent only when required.

    Without ``access_key_id`` boto3 finds the credentials: those of ``profile``, else the environment, ~/.aws, a web
    identity, the machine's or container's role. ``lock_mode`` (``governance``, ``compliance``) locks each new object
    for ``lock_days``.
    """

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
    profile: str = ""
    lock_mode: str = ""
    lock_days: int = 0
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
        yield from kms_conflicts(self.sse, self.sse_kms_key_id)
        if bool(self.lock_mode) != bool(self.lock_days):
            given, lacking = ("lock_mode", "lock_days") if self.lock_mode else ("lock_days", "lock_mode")
            fix = "lock_days = 30" if self.lock_mode else 'lock_mode = "governance"'
            yield given, f"is set without {lacking}", f"add: {fix}"

    @property
    def for_probe(self) -> Self:
        """See `DestinationSettings.for_probe`."""
        return msgspec.structs.replace(self, lock_days=0)


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


class SftpDestination(DestinationSettings, frozen=True, tag="sftp"):
    """A folder on an SSH server, by SFTP; ``path`` empty or relative: from the login's own folder.

    ``private_key`` is the text of a key, ``passphrase`` what it is encrypted with. ``host_key`` are the keys or
    SHA-256 fingerprints of the host that are accepted, ``known_hosts`` is a file of OpenSSH's with such keys. Without
    either no server is.
    """

    extra: ClassVar[str] = "sftp"
    environment: ClassVar[tuple[str, ...]] = ("NANUMPAY_SFTP_PASSWORD", "NANUMPAY_SFTP_KEY_FILE")
    host: str
    username: str
    port: int = 22
    password: Secret = Secret("")
    private_key: Secret = Secret("")
    passphrase: Secret = Secret("")
    host_key: tuple[str, ...] = ()
    known_hosts: str = ""
    path: str = "backup/nanumpay"
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"sftp://{self.username}@{self.host}:{self.port}/{self.path}"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        if not self.password and not self.private_key:
            yield "private_key", "is missing, and so is a password", 'add: private_key = { credential = "nas-key" }'
        if self.passphrase and not self.private_key:
            yield "passphrase", "is set without the key that it belongs to", "add private_key, or drop passphrase"
        if self.host_key and self.known_hosts:
            yield "known_hosts", "is set beside host_key", "write one of them"


class WebdavDestination(DestinationSettings, frozen=True, tag="webdav"):
    """A folder on a WebDAV server: ``path`` below ``url``, which has to exist already.

    ``tls_fingerprint`` is the SHA-256 of the server's certificate in hex: accepts exactly that certificate.
    """

    environment: ClassVar[tuple[str, ...]] = ("NANUMPAY_WEBDAV_PASSWORD",)
    url: str
    username: str = ""
    password: Secret = Secret("")
    path: str = "backup/nanumpay"
    ca_file: str = ""
    tls_fingerprint: str = ""
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"{self.url}/{self.path.strip('/')}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`."""
        return _https_server(self.url, self.timeout)


class GcsDestination(DestinationSettings, frozen=True, tag="gcs"):
    """A bucket of Google Cloud Storage. Without ``service_account`` (the text of its key file) the host's own login.

    ``chunk_size`` is a multiple of 256 KiB: so much is sent, and held in memory, at once.
    """

    extra: ClassVar[str] = "gcs"
    environment: ClassVar[tuple[str, ...]] = ("GOOGLE_APPLICATION_CREDENTIALS",)
    bucket: str
    prefix: str = "nanumpay-backup/"
    service_account: Secret = Secret("")
    storage_class: str = ""
    kms_key_name: str = ""
    delete_versions: bool = False
    endpoint_url: str = ""
    ca_file: str = ""
    chunk_size: int = 16 << 20
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"gs://{self.bucket}/{self.prefix}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`; Google keeps its own in order."""
        return _https_server(self.endpoint_url, self.timeout)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        if self.chunk_size % (256 << 10):
            yield "chunk_size", "is no multiple of 256KiB, as Google asks for", 'chunk_size = "16MiB"'


class AzureDestination(DestinationSettings, frozen=True, tag="azure"):
    """A container of Azure Blob Storage. At most one of the three logins; none: the host's managed identity.

    ``endpoint_url`` empty means ``https://ACCOUNT.blob.core.windows.net``; a connection string brings its own.
    """

    extra: ClassVar[str] = "azure"
    environment: ClassVar[tuple[str, ...]] = (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_KEY",
    )
    container: str
    account: str = ""
    prefix: str = "nanumpay-backup/"
    connection_string: Secret = Secret("")
    account_key: Secret = Secret("")
    sas_token: Secret = Secret("")
    client_id: str = ""
    tier: str = ""
    endpoint_url: str = ""
    ca_file: str = ""
    block_size: int = 8 << 20
    parallel_blocks: int = 3
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"azure://{self.account or 'account'}/{self.container}/{self.prefix}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`; Microsoft keeps its own in order."""
        return _https_server(self.endpoint_url, self.timeout)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        logins = [name for name in ("connection_string", "account_key", "sas_token") if getattr(self, name)]
        if len(logins) > 1:
            yield logins[1], f"is set beside {logins[0]}", "name one login only"
        if self.connection_string and self.endpoint_url:
            yield "endpoint_url", "is set beside connection_string, which has its own", "leave out one of them"
        if not self.account and not self.connection_string and not self.endpoint_url:
            yield "account", "is missing", 'account = "mystorageaccount"'
        if self.account_key and not self.account:
            yield "account", "is missing, and account_key belongs to one", 'account = "mystorageaccount"'
        if self.client_id and logins:
            yield "client_id", f"is of a managed identity, and {logins[0]} is set", "leave out one of them"


class DropboxDestination(DestinationSettings, frozen=True, tag="dropbox"):
    """A folder of a Dropbox, or of an app's own folder in it. ``app_secret`` is empty for an app of PKCE.

    ``chunk_size`` is a multiple of 4 MiB: so much is sent, and held in memory, at once.
    """

    environment: ClassVar[tuple[str, ...]] = ("DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN")
    app_key: str
    path: str = "/nanumpay-backup"
    app_secret: Secret = Secret("")
    refresh_token: Secret = Secret("")
    endpoint_url: str = ""
    ca_file: str = ""
    chunk_size: int = 16 << 20
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"dropbox:{self.path}"

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`; Dropbox keeps its own in order."""
        return _https_server(self.endpoint_url, self.timeout)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        if not self.refresh_token:
            yield "refresh_token", "is missing", 'refresh_token = { credential = "dropbox-token" }'
        if self.chunk_size % (4 << 20):
            yield "chunk_size", "is no multiple of 4MiB, as Dropbox asks for", 'chunk_size = "16MiB"'


class ResticDestination(DestinationSettings, frozen=True, tag="restic"):
    """A restic repository, by the program ``restic``; objects are files in the folder ``path`` of its snapshots.

    ``repository`` is as restic takes it, without a password in it. ``rest_username`` and ``rest_password`` are those of
    a REST server; ``variables`` are added to restic's environment, ``options`` to its ``-o``. ``init``: one that is not
    there is made. ``check_percent`` of the data is read by each check, and at most ``repack`` bytes are written anew by
    each pruning.
    """

    environment: ClassVar[tuple[str, ...]] = ("RESTIC_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    wants_plain: ClassVar[bool] = True
    repository: str
    password: Secret = Secret("")
    path: str = "/nanumpay-backup"
    access_key_id: str = ""
    secret_access_key: Secret = Secret("")
    rest_username: str = ""
    rest_password: Secret = Secret("")
    variables: tuple[tuple[str, Secret], ...] = ()
    options: tuple[str, ...] = ()
    program: str = "restic"
    cache: str = ""
    ca_file: str = ""
    init: bool = False
    check_percent: int = 10
    repack: int = 1 << 30
    timeout: float = 60.0

    @property
    def address(self) -> str:
        """See `DestinationSettings.address`."""
        return f"restic:{self.repository}"

    @property
    def folder(self) -> str:
        """Return the folder of this host that the repository is, empty: it is elsewhere."""
        repository = self.repository.removeprefix("local:")
        return repository if repository.startswith("/") else ""

    @property
    def server(self) -> TlsServer | None:
        """Return the host and port of its server, as far as the repository's name tells them (port 0: the usual)."""
        kind, _, rest = self.repository.partition(":")
        if kind not in ("s3", "rest", "sftp", "swift"):
            return None
        if kind == "sftp" and not rest.startswith("//"):
            host = rest.partition(":")[0].rpartition("@")[2]
            return TlsServer(host, 0, self.timeout) if host else None
        bare = rest if "://" in rest else f"https://{rest.lstrip('/')}"
        parts = urlsplit(bare)
        usual = 0 if kind == "sftp" else (80 if parts.scheme == "http" else _HTTPS)
        return TlsServer(parts.hostname or "", parts.port or usual, self.timeout) if parts.hostname else None

    @property
    def tls_server(self) -> TlsServer | None:
        """See `DestinationSettings.tls_server`; AWS keeps its own in order."""
        return _https_server(self.repository.partition(":")[2], self.timeout)

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """See `DestinationSettings.conflicts`."""
        if not self.password:
            yield "password", "is missing", 'add: password = { credential = "restic-password" }'
        if has_login(self.repository):
            yield "repository", "has a login in it", "write it into keys of its own: rest_username, rest_password"
        if bool(self.rest_username) != bool(self.rest_password):
            given = "rest_username" if self.rest_username else "rest_password"
            yield given, "is set alone", "write rest_username and rest_password"
        if bool(self.access_key_id) != bool(self.secret_access_key):
            given = "access_key_id" if self.access_key_id else "secret_access_key"
            yield given, "is set alone", "write access_key_id and secret_access_key"


Destination = (
    S3Destination
    | FtpDestination
    | LocalDestination
    | SftpDestination
    | WebdavDestination
    | GcsDestination
    | AzureDestination
    | DropboxDestination
    | ResticDestination
)


def type_of_destination(record: type | object) -> str:
    """Return what ``type`` says in the host file for that record or its class."""
    kind = record if isinstance(record, type) else type(record)
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]  # every record is a Struct


def has_login(repository: str) -> bool:
    """Tell whether a restic repository's name has a login in it that may be a secret; a user of SSH alone is none."""
    kind, _, rest = repository.partition(":")
    login = rest.partition("://")[2].partition("/")[0] if "://" in rest else rest.partition("/")[0]
    if kind == "sftp":
        login = rest.removeprefix("//").partition("/")[0]
        return ":" in login.rpartition("@")[0]
    return "@" in login


def kms_conflicts(sse: str, key_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield what does not fit together in how a bucket encrypts; see `DestinationSettings.conflicts`."""
    if key_id and sse != "aws:kms":
        yield "sse_kms_key_id", "is set without its mode", 'add: sse = "aws:kms"'


def _https_server(url: str, timeout: float) -> TlsServer | None:
    if not url.startswith("https://"):
        return None
    parts = urlsplit(url)
    return TlsServer(parts.hostname or "", parts.port or _HTTPS, timeout)
