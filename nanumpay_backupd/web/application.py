"""The application's own database, as far as the page needs it: its administrators, and saving its backup settings.

The driver is loaded with the first question, and only where somebody signs in that way or saves settings.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nanumpay_backupd.errors import BackupdError, SourceError
from nanumpay_backupd.settings.schema import MongoConnection
from nanumpay_backupd.web.passwords import matches_application, waste

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection

__all__ = ["Administrator", "Application"]

_ALLOWED: Final = frozenset({"full_access", "system_config"})
_PATIENCE_MS: Final = 4000
_COLLECTION: Final = "admins"
_BACKUP: Final = "systemSettings.backup"
_FILTER: Final[dict[str, Any]] = {_BACKUP: {"$ne": None}}
_LOGIN: Final = {"loginId": 1, "passwordHash": 1, "permissions": 1, "isActive": 1, "lockUntil": 1, "name": 1}
_LONGEST_NAME: Final = 200


class Administrator(NamedTuple):
    """What is known of an administrator: whether they may come in now."""

    name: str
    welcome: bool


class Application:
    """The application's database. Every method blocks; raises SourceError (``source-unreachable``)."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._client: MongoClient[dict[str, Any]] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drop the connections; may be called twice."""
        if self._client is not None:
            self._client.close()

    def sign_in(self, name: str, password: str, now: datetime) -> Administrator | None:
        """Return the administrator of that name and password if they may come in, else None.

        Nothing is written: what a failed attempt does to ``loginAttempts`` and ``lockUntil`` is the application's own
        rule. Its lock is honoured before the password is looked at, so that a lock ends guessing here too.
        """
        found = self._find(name)
        stored = found.get("passwordHash") if found else None
        if found is None or not isinstance(stored, str) or _is_locked(found, now):
            waste()
            return None
        if not matches_application(password, stored) or not _is_welcome(found):
            return None
        return Administrator(str(found["loginId"]), welcome=True)

    def still_welcome(self, name: str) -> bool:
        """Tell whether an administrator who signed in before may stay."""
        found = self._find(name)
        return found is not None and _is_welcome(found)

    # Settings

    def settings(self) -> tuple[Any, dict[str, Any]] | None:
        """Return the ``_id`` of the document in force and its ``systemSettings``; None: no document has any."""
        found = self._ask(
            lambda admins: admins.find_one(_FILTER, {"systemSettings": 1}, sort=[("_id", 1)], max_time_ms=_PATIENCE_MS)
        )
        return (found["_id"], found["systemSettings"]) if found else None

    def first_document(self, name: str) -> Any:
        """Return the ``_id`` of the document that an administrator's first settings go to, None: there is none."""
        found = self._ask(
            lambda admins: admins.find_one({"loginId": name.lower()}, {"_id": 1}, max_time_ms=_PATIENCE_MS)
        )
        return found["_id"] if found else None

    def change(self, document: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Set single fields, if those are still as ``before``; both by full path, None: it is not there.

        Returns whether it was done: all of it at once, or nothing. Everything else in the document stays as it is.
        """
        wanted: dict[str, Any] = {"_id": document, **before}
        done = self._ask(lambda admins: admins.update_one(wanted, {"$set": dict(after)}))
        return bool(done.matched_count)

    def _find(self, name: str) -> dict[str, Any] | None:
        if not 0 < len(name) <= _LONGEST_NAME or "\0" in name:
            return None
        found: dict[str, Any] | None = self._ask(
            lambda admins: admins.find_one({"loginId": {"$eq": name.strip().lower()}}, _LOGIN, max_time_ms=_PATIENCE_MS)
        )
        return found

    def _ask(self, question: Any) -> Any:
        from pymongo.errors import PyMongoError

        try:
            return question(self._admins())
        except PyMongoError as error:
            raise SourceError(
                f"the application's database does not answer: {type(error).__name__}",
                hint="is mongod running, and may this service reach it? See: backupctl doctor",
                code="source-unreachable",
            ) from None

    def _admins(self) -> Collection[dict[str, Any]]:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
        return self._client[self._connection.database][_COLLECTION]

    def _connect(self) -> MongoClient[dict[str, Any]]:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        try:
            return MongoClient(
                self._connection.uri.reveal(),
                appname="nanumpay-backup-web",
                tz_aware=True,
                connect=False,
                maxPoolSize=4,
                serverSelectionTimeoutMS=_PATIENCE_MS,
                connectTimeoutMS=_PATIENCE_MS,
                socketTimeoutMS=2 * _PATIENCE_MS,
                heartbeatFrequencyMS=30_000,
            )
        except (PyMongoError, ValueError):
            raise BackupdError(
                "the application's database cannot be connected to: its connection string is not usable",
                hint="see [mongodb] uri of the host file, or MONGODB_URI",
                code="config-invalid",
            ) from None


def _is_locked(found: Mapping[str, Any], now: datetime) -> bool:
    until = found.get("lockUntil")
    if isinstance(until, (int, float)) and not isinstance(until, bool):  # milliseconds, as JavaScript has them
        until = datetime.fromtimestamp(min(until, 253_402_300_799_000) / 1000, UTC)
    return isinstance(until, datetime) and now < (until if until.tzinfo else until.replace(tzinfo=UTC))


def _is_welcome(found: Mapping[str, Any]) -> bool:
    """Tell whether an account is active and has the right permission; a missing ``isActive`` counts as active.

    The application's schema has it true unless it is told otherwise.
    """
    permissions = found.get("permissions")
    active = found.get("isActive", True) is True
    return (
        active
        and isinstance(permissions, list)
        and any(item in _ALLOWED for item in permissions if isinstance(item, str))
    )
