"""A destination written as one word: s3://bucket/prefix, ftp://user@host/path, a folder, or a name of the host file.

For a machine that has nothing but the copies. Secrets never stand in the word: they come from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.kinds import Flag, Place, Whole
from nanumpay_backupd.settings.options import DESTINATIONS
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.settings.schema import Destination, FtpDestination, HostConfig, LocalDestination, S3Destination
from nanumpay_backupd.system.secrets import Secret

__all__ = ["FTP_PASSWORD", "PLACE_NAME", "read_place"]

PLACE_NAME: Final = "from"
"""Name of the destination that a word stands for."""
FTP_PASSWORD: Final = "NANUMPAY_FTP_PASSWORD"  # noqa: S105 - the name of the variable, not what is in it
"""The environment variable with the password of an FTP place."""
_EXAMPLES: Final = (
    "write s3://bucket/prefix/, ftp://user@host/path, ftps://user@host/path, /folder, "
    "or the name of a [destination.NAME] of the host file"
)


def read_place(word: str, host: HostConfig, environ: Mapping[str, str]) -> Destination:
    """Return the destination that ``word`` stands for. Raises ConfigError with what to write instead."""
    parts = urlsplit(word)
    if parts.scheme in ("", "file"):
        return _folder_or_name(unquote(parts.path) if parts.scheme else word, host)
    if parts.password is not None:
        raise ConfigError(
            f"a password in {parts.scheme}://…@{parts.hostname} could be read by everyone on this host",
            hint=f"leave it out and put it into the environment: {FTP_PASSWORD}",
        )
    more = _more(parts)
    try:
        if parts.scheme == "s3":
            return _s3(parts, more, environ)
        if parts.scheme in ("ftp", "ftps"):
            return _ftp(parts, more, environ)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{word!r} is no place that can be read: {error}", hint=_EXAMPLES) from None
    raise ConfigError(f"{parts.scheme}:// is no kind of place that is known", hint=_EXAMPLES)


def _folder_or_name(word: str, host: HostConfig) -> Destination:
    for destination in host.destinations:
        if destination.name == word:
            return destination
    path = Path(word)
    if path.is_absolute() or path.is_dir():
        return LocalDestination(name=PLACE_NAME, path=str(path.absolute()))
    names = ", ".join(item.name for item in host.destinations) or "none"
    raise ConfigError(f"{word!r} is neither a folder nor a destination ({names} in the host file)", hint=_EXAMPLES)


def _s3(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> S3Destination:
    if not parts.netloc:
        raise ValueError("the bucket's name is missing")
    prefix = unquote(parts.path.lstrip("/"))
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    values = {"endpoint_url": endpoint, "path_style": bool(endpoint), **({"region": region} if region else {}), **more}
    return S3Destination(name=PLACE_NAME, bucket=parts.netloc, prefix=prefix, **values)


def _ftp(parts: SplitResult, more: dict[str, Any], environ: Mapping[str, str]) -> FtpDestination:
    if not parts.hostname:
        raise ValueError("the host's name is missing")
    values: dict[str, Any] = {"secure": parts.scheme == "ftps", **more}
    return FtpDestination(
        name=PLACE_NAME,
        host=parts.hostname,
        port=parts.port or 21,
        username=unquote(parts.username or ""),
        password=Secret(environ.get(FTP_PASSWORD, "")),
        path=unquote(parts.path) or "/",
        **values,
    )


def _more(parts: SplitResult) -> dict[str, Any]:
    """Read what stands behind ``?``: keys as in the host file, such as endpoint_url or tls_fingerprint."""
    kind = "ftp" if parts.scheme == "ftps" else parts.scheme
    options = {option.key: option for option in DESTINATIONS[kind].options} if kind in DESTINATIONS else {}
    values: dict[str, Any] = {}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        option = options.get(key)
        if option is None or "secret" in key or "password" in key:
            raise ConfigError(f"{key} is nothing that a place can say", hint=f"known: {', '.join(sorted(options))}")
        value: object = text
        if isinstance(option.kind, Flag):
            value = {"true": True, "false": False}.get(text, text)
        elif isinstance(option.kind, Whole) and text.isdigit():
            value = int(text)
        try:
            values[option.target] = option.kind.parse(value, Place(key))
        except Mismatch as mismatch:
            raise ConfigError(f"{key} {mismatch.reason}", hint=mismatch.fix) from None
    return values
