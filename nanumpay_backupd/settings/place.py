"""A destination written as one word: s3://…, sftp://…, dropbox:/… and so on, a folder, or a name of the host file.

For a machine that has nothing but the copies. Secrets never stand in the word: they come from the environment. What is
wrong with a word may be a password in it, so only those parts of one are ever shown that can hold none.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.destinations import (
    AzureDestination,
    DestinationSettings,
    DropboxDestination,
    GcsDestination,
)
from nanumpay_backupd.settings.kinds import Flag, Place
from nanumpay_backupd.settings.options import DESTINATIONS
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.settings.restic_place import RESTIC, read_repository
from nanumpay_backupd.settings.schema import (
    Destination,
    FtpDestination,
    HostConfig,
    LocalDestination,
    S3Destination,
    SftpDestination,
    WebdavDestination,
)
from nanumpay_backupd.settings.ssh_kinds import HostKeys
from nanumpay_backupd.system.secrets import Secret, read_secret

__all__ = [
    "AZURE_CONNECTION",
    "AZURE_KEY",
    "AZURE_SAS",
    "DROPBOX_LOGIN",
    "FTP_PASSWORD",
    "SFTP_KEY_FILE",
    "SFTP_PASSPHRASE",
    "SFTP_PASSWORD",
    "WEBDAV_PASSWORD",
    "read_place",
]

FTP_PASSWORD: Final = "NANUMPAY_FTP_PASSWORD"  # noqa: S105 - the name of the variable, not what is in it
"""The environment variable with the password of an FTP place."""
SFTP_PASSWORD, SFTP_KEY_FILE, SFTP_PASSPHRASE, WEBDAV_PASSWORD = (
    "NANUMPAY_SFTP_PASSWORD",
    "NANUMPAY_SFTP_KEY_FILE",
    "NANUMPAY_SFTP_PASSPHRASE",
    "NANUMPAY_WEBDAV_PASSWORD",
)
"""The same of others; the key is named by its file, which nobody else may read."""
AZURE_CONNECTION, AZURE_SAS, AZURE_KEY = (
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_KEY",
)
"""Variables that Azure's own tools know; the first that is set counts. None: the host's identity."""
DROPBOX_LOGIN: Final = ("DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN")
"""The variables with an app's key, its secret (none for PKCE), and the refresh token."""
_AWS_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|dropbox:(?=/|\?|$)", re.IGNORECASE)
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER: Final = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}")
_SUSPECT: Final = re.compile(r"[@:]")
"""What a bucket has not, and a login that somebody put before it has."""
_USER_AND_HOST: Final = re.compile(
    r"(?:(?P<user>[^:]*)@)?(?P<host>[^\s@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII
)
_SAYABLE: Final = {
    "s3": ("endpoint_url", "path_style", "region", "profile", "ca_file", "timeout"),
    "ftp": ("tls_verify", "tls_fingerprint", "ca_file", "timeout"),
    "sftp": ("host_key", "known_hosts", "timeout"),
    "webdav": ("ca_file", "tls_fingerprint", "timeout"),
    "gcs": ("endpoint_url", "ca_file", "timeout"),
    "azure": ("endpoint_url", "client_id", "ca_file", "timeout"),
    "dropbox": ("endpoint_url", "ca_file", "timeout"),
}
"""What may stand behind the question mark: keys of the host file that matter to a reader and can hold no secret."""
_EXAMPLES: Final = (
    "write s3://bucket/prefix/, ftp://user@host/path, ftps://user@host/path, sftp://user@host/path, "
    "webdavs://user@host/path, gs://bucket/prefix/, azure://account/container/prefix/, dropbox:/path, "
    "restic:REPOSITORY, /folder, "
    "or the name of a [destination.NAME] of the host file"
)


def read_place(word: str, host: HostConfig, environ: Mapping[str, str]) -> Destination:
    """Return the destination that ``word`` stands for; its name is the word itself, without what follows a ``?``.

    Raises ConfigError with what to write instead, and never with a password in it.
    """
    if re.search(r"[\x00-\x1f\x7f]", unquote(word)):
        raise ConfigError("the place has a control character in it", hint=_EXAMPLES)
    if word.startswith(RESTIC):
        return read_repository(word, environ)
    if not _URL.match(word):
        return _folder_or_name(word, host)
    scheme = word.partition(":")[0].lower()
    try:
        parts = urlsplit(word)
    except ValueError:
        raise _wrong(scheme, "cannot be read") from None
    if parts.fragment or word.endswith("#"):
        raise _wrong(scheme, "has a # in it", hint="write it as %23")
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or parts.query:
            raise _wrong(scheme, "names more than a folder of this host", hint="write /folder")
        return _folder_or_name(unquote(parts.path), host)
    if scheme not in _KINDS:
        raise ConfigError(f"{scheme}:// is no kind of place that is known", hint=_EXAMPLES)
    kind, read = _KINDS[scheme]
    return read(parts, _more(parts, kind), environ)


def _wrong(scheme: str, why: str, *, hint: str = _EXAMPLES) -> ConfigError:
    return ConfigError(f"the place {scheme}://… {why}", hint=hint)


def _folder_or_name(word: str, host: HostConfig) -> Destination:
    for destination in host.destinations:
        if destination.name == word:
            return destination
    path = Path(word)
    try:
        kind = path.stat().st_mode if word else 0
    except (FileNotFoundError, NotADirectoryError):
        kind = 0
    except OSError as error:
        raise ConfigError(f"the place cannot be looked at: {error.strerror}", hint="look at its path: ls -ld") from None
    if stat.S_ISDIR(kind):
        return LocalDestination(name=str(path.absolute()), path=str(path.absolute()))
    if stat.S_ISREG(kind):
        raise ConfigError(
            f"{path} is a file; a place is the folder that holds backups",
            hint=f"name the backup and its folder: restore {path.name} --from {path.absolute().parent}",
        )
    if path.is_absolute():
        raise ConfigError(f"there is no folder {path}", hint="is its disk mounted? " + _EXAMPLES)
    names = ", ".join(item.name for item in host.destinations) or "none"
    # user:password@host is a way of writing that other programs know.
    shown = repr(word) if "@" not in word else "what was given"
    raise ConfigError(f"{shown} is neither a folder nor a destination ({names} in the host file)", hint=_EXAMPLES)


def _s3(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> S3Destination:
    if not parts.netloc:
        raise _wrong("s3", "has no bucket in it")
    if _SUSPECT.search(parts.netloc) or "@" in parts.path:
        raise _secret_in_it("s3", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    _check_name("s3", "bucket", parts.netloc)
    prefix = _as_prefix(parts.path)
    for name in _AWS_SECRETS:
        Secret(environ.get(name, ""))  # the driver takes them from the environment by itself; known, they are masked
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    values = {"endpoint_url": endpoint, **({"region": region} if region else {}), **more}
    values.setdefault("path_style", bool(values["endpoint_url"]))
    return S3Destination(name=f"s3://{parts.netloc}/{prefix}", bucket=parts.netloc, prefix=prefix, **values)


def _ftp(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> FtpDestination:
    user, host, port = _login(parts, 21, FTP_PASSWORD)
    if user and FTP_PASSWORD not in environ:
        raise ConfigError(f"there is no password for {user} at {host}", hint=f"set {FTP_PASSWORD}")
    return FtpDestination(
        name=f"{parts.scheme}://{parts.netloc}{parts.path}",
        host=host,
        port=port,
        username=user,
        password=Secret(environ.get(FTP_PASSWORD, "") if user else ""),
        path=unquote(parts.path),
        secure=parts.scheme == "ftps",
        **more,
    )


def _sftp(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> SftpDestination:
    """Read it as other programs do: the path begins at the server's root, and at the login's folder after ``/~/``."""
    user, host, port = _login(parts, 22, SFTP_PASSWORD)
    key, password = environ.get(SFTP_KEY_FILE, ""), environ.get(SFTP_PASSWORD, "")
    if not user or not (key or password):
        what = f"there is neither a key nor a password for {user} at {host}" if user else f"nobody is named for {host}"
        raise ConfigError(what, hint=f"write sftp://user@host/path; set {SFTP_KEY_FILE} or {SFTP_PASSWORD}")
    secret = read_secret({"file": key}, SFTP_KEY_FILE) if key else Secret("")
    return SftpDestination(
        name=f"{parts.scheme}://{parts.netloc}{parts.path}",
        host=host,
        port=port,
        username=user,
        private_key=secret,
        passphrase=Secret(environ.get(SFTP_PASSPHRASE, "") if key else ""),
        password=Secret(password),
        path=unquote(parts.path).removeprefix("/~/"),
        **more,
    )


def _webdav(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> WebdavDestination:
    scheme = "https" if parts.scheme == "webdavs" else "http"
    user, host, port = _login(parts, 443 if scheme == "https" else 80, WEBDAV_PASSWORD)
    if user and WEBDAV_PASSWORD not in environ:
        raise ConfigError(f"there is no password for {user} at {host}", hint=f"set {WEBDAV_PASSWORD}")
    return WebdavDestination(
        name=f"{parts.scheme}://{parts.netloc}{parts.path}",
        url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{quote(unquote(parts.path)).rstrip('/')}",
        username=user,
        password=Secret(environ.get(WEBDAV_PASSWORD, "") if user else ""),
        path="",
        **more,
    )


def _gcs(parts: SplitResult, more: dict[str, Any], _: Mapping[str, str]) -> GcsDestination:
    """Read a bucket of Google's; the driver finds the login by itself (application default credentials)."""
    if not parts.netloc:
        raise _wrong("gs", "has no bucket in it")
    if _SUSPECT.search(parts.netloc) or "@" in parts.path:
        raise _secret_in_it("gs", "GOOGLE_APPLICATION_CREDENTIALS names the key file")
    _check_name("gcs", "bucket", parts.netloc)
    prefix = _as_prefix(parts.path)
    return GcsDestination(name=f"gs://{parts.netloc}/{prefix}", bucket=parts.netloc, prefix=prefix, **more)


def _azure(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> AzureDestination:
    account, (container, _, path) = parts.netloc, parts.path.lstrip("/").partition("/")
    if _SUSPECT.search(account + container) or "@" in path:
        raise _secret_in_it("azure", f"{AZURE_SAS}, {AZURE_KEY} or {AZURE_CONNECTION}")
    if not account or not container:
        raise _wrong("azure", "is not of the form azure://account/container/prefix/")
    if not _ACCOUNT.fullmatch(account):
        raise ConfigError("the account's name is no name of a storage account", hint="3 to 24 small letters and digits")
    if not _CONTAINER.fullmatch(container):  # which is not shown: it may be part of a key, with its slashes
        raise ConfigError("the container's name is none that there can be", hint="small letters, digits and dashes")
    prefix = _as_prefix(path)
    # The empty ones as well: known, they are masked.
    given = [Secret(environ.get(name, "")) for name in (AZURE_CONNECTION, AZURE_SAS, AZURE_KEY)]
    used = next((secret for secret in given if secret), Secret(""))
    connection, sas, key = (secret if secret is used else Secret("") for secret in given)
    named = re.search(r"AccountName=([^;]+)", connection.reveal())
    if named is not None and named[1] != account:
        raise ConfigError(f"{AZURE_CONNECTION} is of another account than {account}", hint="name the same one in both")
    if connection and "endpoint_url" in more:
        raise ConfigError(f"{AZURE_CONNECTION} has an address of its own", hint=f"set {AZURE_SAS} or {AZURE_KEY}")
    return AzureDestination(
        name=f"azure://{account}/{container}/{prefix}",
        account=account,
        container=container,
        prefix=prefix,
        connection_string=connection,
        sas_token=sas,
        account_key=key,
        **more,
    )


def _dropbox(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> DropboxDestination:
    if parts.netloc:
        raise _wrong("dropbox", "has a host in it", hint="write dropbox:/path")
    app_key, secret, token = (environ.get(name, "") for name in DROPBOX_LOGIN)
    if not app_key or not token:
        needed = ", ".join(DROPBOX_LOGIN)
        raise ConfigError("there is no login for Dropbox", hint=f"set {needed} (docs/destinations/dropbox.md)")
    path = unquote(parts.path).rstrip("/")
    return DropboxDestination(
        name=f"dropbox:{path or '/'}",
        path=path,
        app_key=app_key,
        app_secret=Secret(secret),
        refresh_token=Secret(token),
        **more,
    )


def _secret_in_it(scheme: str, variables: str) -> ConfigError:
    return _wrong(
        scheme,
        "has an @ or a : in it; keys that stand there could be read by everyone on this host",
        hint=f"leave them out and put them into the environment: {variables}; an @ in a prefix is written %40",
    )


def _check_name(kind: str, key: str, text: str) -> None:
    option = next(option for option in DESTINATIONS[kind].options if option.key == key)
    try:
        option.kind.parse(text, Place(key))
    except Mismatch as mismatch:
        raise ConfigError(f"the {key}'s name {mismatch.reason}", hint=mismatch.fix) from None


def _as_prefix(path: str) -> str:
    prefix = unquote(path.lstrip("/"))
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _login(parts: SplitResult, usual: int, variable: str) -> tuple[str, str, int]:
    """Return user, host and port of user@host:port/path; raises ConfigError where a password may stand in it."""
    found = _USER_AND_HOST.fullmatch(parts.netloc)
    port = int(found["port"] or usual) if found else 0
    if found is None or "@" in parts.path or not 0 < port <= 65535:
        raise _wrong(
            parts.scheme,
            "is not of the form user@host:port/path; a password that stands there could be read by everyone on this "
            "host",
            hint=f"leave it out and put it into the environment: {variable}; an @ in a path is written %40",
        )
    return unquote(found["user"] or ""), found["host"].strip("[]"), port


def _more(parts: SplitResult, kind: str) -> dict[str, Any]:
    """Read what stands behind ``?``: keys as in the host file, such as endpoint_url or tls_fingerprint."""
    options = {option.key: option for option in DESTINATIONS[kind].options if option.key in _SAYABLE[kind]}
    values: dict[str, Any] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        option = options.get(key)
        if option is None:
            # The key itself is not shown: what stands there may have been meant as another part of the word.
            raise _wrong(parts.scheme, "has something behind the ? that cannot be said there", hint=_known(kind))
        value: object = text
        if isinstance(option.kind, Flag):
            value = {"true": True, "false": False}.get(text.lower(), text)
        if isinstance(option.kind, HostKeys) and text.startswith("SHA256:"):
            value = text.replace(" ", "+")  # which a plus sign means there, unless it is written %2B
        try:
            values[option.target] = option.kind.parse(value, Place(key))
        except Mismatch as mismatch:
            raise ConfigError(f"{key} {mismatch.reason}", hint=mismatch.fix) from None
    return values


_Reader = Callable[[SplitResult, dict[str, Any], Mapping[str, str]], Destination]
_KINDS: Final[dict[str, tuple[str, _Reader]]] = {
    "s3": ("s3", _s3),
    "ftp": ("ftp", _ftp),
    "ftps": ("ftp", _ftp),
    "sftp": ("sftp", _sftp),
    "webdav": ("webdav", _webdav),
    "webdavs": ("webdav", _webdav),
    "gs": ("gcs", _gcs),
    "azure": ("azure", _azure),
    "dropbox": ("dropbox", _dropbox),
}
"""What stands before the colon: the type of destination, and who reads the rest."""


def _known(kind: str) -> str:
    record: type[DestinationSettings] = DESTINATIONS[kind].record
    secrets = ", ".join(record.environment)
    return f"known there: {', '.join(_SAYABLE[kind])}; secrets come from the environment: {secrets}"
