"""Which member of a replica set is read: a secondary where the primary is to be spared, never one that lags too far.

One member is chosen and then talked to directly, by mongodump and by whoever reads the oplog beside it: what a dump saw
and what its oplog says is then of one server. (A driver left to choose by itself may read each collection from another
member, and the oplog from a third that is ahead: what lies between would be missing in the backup.)
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from nanumpay_backupd.errors import ConfigError, SourceError
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.system.secrets import Secret

__all__ = ["Member", "best", "choose", "direct_uri"]

_TIMEOUT_MS: Final = 5000
_PRIMARY: Final = "primary"
_STRICT: Final = "secondary"
_SET_OPTIONS: Final = frozenset(
    {"replicaset", "directconnection", "readpreference", "readpreferencetags", "maxstalenessseconds", "loadbalanced"}
)
"""Options that mean a whole set, and not one member."""


class Member(NamedTuple):
    """One member: its address, whether it is the primary, and how many seconds it is behind the newest write."""

    address: str
    primary: bool
    lag: float


def best(members: list[Member], preference: str, most: float) -> Member | None:
    """Return which member is to be read; None: none that may be.

    With ``secondary`` the primary is never read, with ``secondaryPreferred`` where no secondary is good enough. The one
    that is least behind is taken, ``most`` seconds at the utmost.
    """
    good = sorted((item for item in members if not item.primary and item.lag <= most), key=lambda item: item.lag)
    if good:
        return good[0]
    return None if preference == _STRICT else next((item for item in members if item.primary), None)


def choose(settings: MongoSource) -> tuple[MongoSource, str]:
    """Return the settings to read with, and a word for people about it; raises SourceError and PyMongoError.

    They are ``settings`` themselves where the primary is to be read, and on what is no replica set.
    """
    if settings.read_preference == _PRIMARY:
        return settings, ""
    with _client(settings.uri.reveal()) as client:
        hello = client.admin.command("hello")
    if "setName" not in hello:
        return settings, ""
    members = [seen for address in hello.get("hosts", ()) if (seen := _look(settings, str(address))) is not None]
    chosen = best(_behind(members), settings.read_preference, settings.max_lag)
    if chosen is None:
        known = ", ".join(f"{item.address} {item.lag:.0f} s" for item in _behind(members) if not item.primary)
        raise SourceError(
            f"no secondary may be read: none is less than {settings.max_lag:g} s behind ({known or 'none answers'})",
            hint='rs.printSecondaryReplicationInfo() tells more; "secondaryPreferred" takes the primary then',
            code="source-lagging",
        )
    if chosen.primary:
        return settings, "from the primary: no secondary is good enough"
    uri = Secret(direct_uri(settings.uri.reveal(), chosen.address))
    word = f"from the secondary {chosen.address}, {chosen.lag:.0f} s behind"
    return msgspec.structs.replace(settings, uri=uri), word


class _Seen(NamedTuple):
    address: str
    primary: bool
    written: float


def _look(settings: MongoSource, address: str) -> _Seen | None:
    """Ask one member how far it is; None: it does not answer, or holds no data that can be read."""
    try:
        with _client(direct_uri(settings.uri.reveal(), address)) as client:
            hello = client.admin.command("hello")
    except PyMongoError:
        return None
    if not (hello.get("secondary") or hello.get("isWritablePrimary")) or "lastWrite" not in hello:
        return None
    return _Seen(address, bool(hello.get("isWritablePrimary")), hello["lastWrite"]["lastWriteDate"].timestamp())


def _behind(seen: list[_Seen]) -> list[Member]:
    newest = max((item.written for item in seen), default=0.0)
    return [Member(item.address, item.primary, newest - item.written) for item in seen]


def direct_uri(uri: str, address: str) -> str:
    """Return the connection string for one member of the set that ``uri`` names; raises ConfigError."""
    parts = urlsplit(uri)
    if parts.scheme != "mongodb":
        raise ConfigError(
            "read_preference needs a connection string that names the members: mongodb://host,host/…",
            hint="write it without +srv, or leave read_preference out",
        )
    login = parts.netloc.rpartition("@")[0]
    kept = [item for item in parts.query.split("&") if item and item.partition("=")[0].lower() not in _SET_OPTIONS]
    query = "&".join([*kept, "directConnection=true"])
    return f"mongodb://{f'{login}@' if login else ''}{address}/{parts.path.lstrip('/')}?{query}"


def _client(uri: str) -> MongoClient[dict[str, Any]]:
    return pymongo.MongoClient(
        uri, serverSelectionTimeoutMS=_TIMEOUT_MS, connectTimeoutMS=_TIMEOUT_MS, appname="nanumpay-backupd"
    )
