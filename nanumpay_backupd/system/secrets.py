"""Secrets: where they come from (credential, environment, file), how they travel, how they are kept out of text."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.system.sandbox import hidden

__all__ = ["Secret", "credentials_unread", "read_secret", "redact", "stands_in"]

_URI_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/@:]*):[^\s@]*@")
_MASK = "***"
_known: set[str] = set()
_LIMIT = 64 << 10
_unread: list[str] | None = None
_STAND_IN = "mongodb://localhost/"
"""What is good as a password and as a connection string."""
_NOT_SEEN = (
    "the service does not see homes; move the file to /etc/nanumpay, or pass it as a credential (LoadCredential=)"
)
_OWN_WORDS = frozenset({"backup", "backups", "backupd", "nanumpay", "mongodb", "mongodump", "password", "restore"})
"""Poor passwords that people do choose; masking them would blank every message of ours and hide nothing."""


class Secret:
    """A string that hides itself from repr, str and logs; `reveal` gives it to the one call that needs it.

    Making a Secret registers it with `redact`, so that it is masked in any text that passes there.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        # A short word would mask innocent text, as would the bare head of an address; a real secret is longer.
        if len(value) >= 6 and value not in _OWN_WORDS and not value.endswith("://"):
            _known.update({value, quote(value, safe=""), quote_plus(value)})

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def redact(text: str) -> str:
    """Mask every registered secret and the password of every URI in a text meant for a person or a log."""
    for value in sorted(_known, key=len, reverse=True):
        if value in text:
            text = text.replace(value, _MASK)
    return _URI_PASSWORD.sub(rf"\g<head>:{_MASK}@", text)


def read_secret(reference: Mapping[str, str], path: str) -> Secret:
    """Resolve ``{credential = …}``, ``{env = …}`` or ``{file = …}``; ``path`` is the key's path for error text.

    A trailing newline is dropped. Raises ConfigError when it is missing, empty, or a file others may read.
    """
    if len(reference) != 1 or next(iter(reference)) not in ("credential", "env", "file"):
        raise ConfigError(
            f"{path}: a secret is given as exactly one of credential, env or file",
            hint=f'write for example: {path.rpartition(".")[2]} = {{ credential = "name" }}',
        )
    (source, name), *_ = reference.items()
    value = {"credential": _from_credential, "env": _from_environment, "file": _from_file}[source](name, path)
    value = value.rstrip("\r\n")
    if not value:
        raise ConfigError(
            f"{path}: the secret from {source} {name!r} is empty", hint=f"put the value into {source} {name!r}"
        )
    return Secret(value)


@contextlib.contextmanager
def credentials_unread() -> Iterator[list[str]]:
    """Within the block, take something in place of credentials where systemd passed none: in a shell, for a check.

    Yields the list of the names that were asked for.
    """
    global _unread
    before, _unread = _unread, []
    try:
        yield _unread
    finally:
        _unread = before


def stands_in(secret: Secret) -> bool:
    """Tell whether a secret is what `credentials_unread` takes in place of one."""
    return _unread is not None and secret.reveal() == _STAND_IN


def _from_credential(name: str, path: str) -> str:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder and _unread is not None:
        _unread.append(name)
        return _STAND_IN
    if not folder:
        raise ConfigError(
            f"{path}: credential {name!r} cannot be read, because systemd passed no credentials",
            hint=f"add LoadCredential={name}:/path/to/file to the unit (systemctl edit nanumpay-backupd)",
        )
    if "/" in name or name in ("", ".", ".."):
        raise ConfigError(f"{path}: {name!r} is not a credential's name", hint="use the name given in LoadCredential=")
    file = Path(folder) / name
    if not file.exists():
        raise ConfigError(
            f"{path}: systemd passed no credential {name!r}",
            hint=f"add LoadCredential={name}:/path/to/file to the unit (drop-in credentials.conf), then: "
            "systemctl daemon-reload && systemctl restart nanumpay-backupd (a reload passes no new ones)",
        )
    return _read(file, path, f"credential {name!r}")


def _from_environment(name: str, path: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise ConfigError(
            f"{path}: environment variable {name} is not set",
            hint=f"set {name} in the unit's EnvironmentFile, or use credential or file instead",
        ) from None


def _from_file(name: str, path: str) -> str:
    file = Path(name)
    if not file.is_absolute():
        raise ConfigError(f"{path}: {name!r} is not an absolute path", hint="write the path from the root, /etc/…")
    try:
        mode = file.stat().st_mode
    except OSError as error:
        hint = _NOT_SEEN if hidden(file) else "create the file, mode 0600"
        raise ConfigError(f"{path}: {name}: {error.strerror}", hint=hint) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(
            f"{path}: {name} can be read or written by every user of this host", hint=f"run: chmod o-rwx {name}"
        )
    return _read(file, path, name)


def _read(file: Path, path: str, what: str) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_LIMIT).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {what} cannot be read: {error.strerror}", hint="check its path and owner") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: {what} is not UTF-8 text", hint="store the secret as plain text") from None
