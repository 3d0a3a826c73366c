"""What can be read off a MongoDB connection string without connecting: its place, its database. No pymongo here."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from nanumpay_backupd.errors import ConfigError

__all__ = ["check_uri", "has_password", "uri_database", "uri_place"]

_URI: Final = re.compile(
    r"mongodb(?:\+srv)?://(?:(?P<user>[^/@?]*)@)?(?P<hosts>[^/@?\s]+)(?:/(?P<database>[^?\s]*))?(?:\?(?P<options>\S*))?"
)


def _parts(uri: str) -> re.Match[str]:
    match = _URI.fullmatch(uri)
    if match is None:
        # The string itself is not shown: whatever is wrong with it, it may hold a password.
        raise ConfigError(
            "it is not of the form mongodb://[user:password@]host[:port][,…]/[database][?options]",
            hint="write it like mongodb://localhost:27017/nanumpay, and / : @ % in user or password as %2F %3A %40 %25",
        )
    return match


def check_uri(uri: str) -> None:
    """Raise ConfigError unless it is a MongoDB connection string: says what it should look like, never shows it."""
    database = uri_database(uri)
    if re.search(r'[\s/\\."$]', database):
        raise ConfigError(
            "the database's name in it has a character that MongoDB does not allow", hint="see the part after the host"
        )


def has_password(uri: str) -> bool:
    """Tell whether the string carries a password, and so is a secret; one that cannot be read counts as such."""
    match = _URI.fullmatch(uri)
    return match is None or ":" in (match["user"] or "") or "password" in (match["options"] or "").lower()


def uri_database(uri: str) -> str:
    """Return the database that the string names, or an empty text; raises ConfigError as `check_uri` does."""
    return unquote(_parts(uri)["database"] or "")


def uri_place(uri: str, database: str) -> str:
    """Return ``host:port[,host:port…]/database`` for messages: no user, no password, no options."""
    match = _URI.fullmatch(uri)
    return f"{match['hosts'] if match else '?'}/{database}"
