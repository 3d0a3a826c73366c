"""Records notices in the application's database, where it can show them: collection `backupnotifications`, bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import pymongo
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from nanumpay_backupd.errors import NotifyError
from nanumpay_backupd.notifiers.base import DatabaseTarget, Message, Notifier, silent

__all__ = ["COLLECTION", "DatabaseNotifier", "document"]

COLLECTION: Final = "backupnotifications"
_UNAUTHORIZED: Final = frozenset({13, 18, 8000})
_ROLE: Final = "give the user of mongodb.uri the role readWrite on its database (docs/operations.md, Notifications)"


class DatabaseNotifier(Notifier):
    """Writes one document per notice, once; what is too old or too much goes by itself."""

    def __init__(self, target: DatabaseTarget) -> None:
        self._target = target
        self._client: pymongo.MongoClient[dict[str, Any]] | None = None

    def send(self, message: Message) -> str:
        """See `Notifier.send`."""
        target = self._target
        try:
            with pymongo.timeout(target.timeout):
                records = self._records()
                own = document(message, target.days)
                # A second try finds the first one's record, and what the application has noted on it stays.
                records.update_one({"_id": own.pop("_id")}, {"$setOnInsert": own}, upsert=True)
                self._bound(records)
        except OperationFailure as error:
            raise _refused(error) from None
        except ConfigurationError:
            raise NotifyError("the connection string cannot be used", code="notify-address", retryable=False) from None
        except PyMongoError as error:
            if getattr(error, "timeout", False) and not isinstance(error, ConnectionFailure):
                raise silent("MongoDB", target.timeout) from None
            raise NotifyError("MongoDB cannot be reached", hint="is mongod up?") from None
        return f"recorded in {target.database}.{COLLECTION}"

    def _records(self) -> pymongo.collection.Collection[dict[str, Any]]:
        if self._client is None:
            milliseconds = int(self._target.timeout * 1000)
            self._client = pymongo.MongoClient(
                self._target.uri.reveal(),
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                appname="nanumpay-backupd",
            )
        options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
        return self._client[self._target.database].get_collection(COLLECTION, codec_options=options)

    def _bound(self, records: pymongo.collection.Collection[dict[str, Any]]) -> None:
        """Keep the collection small: by an index of MongoDB's own (also while no daemon runs), and by number."""
        records.create_index("expiresAt", expireAfterSeconds=0, name="expires")
        records.create_index([("createdAt", -1)], name="newest")
        oldest = next(
            records.find({}, {"createdAt": 1}).sort("createdAt", -1).skip(self._target.count - 1).limit(1), None
        )
        if oldest is not None:
            records.delete_many({"createdAt": {"$lt": oldest["createdAt"]}})

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


def document(message: Message, days: int) -> dict[str, Any]:
    """Return the record of a message. Names are those of the application's other collections; empty is null.

    ``_id`` follows from the notice's own id, so that a second try makes no second record.
    """
    told: Mapping[str, Any] = {
        "_id": _identity(message),
        "noticeId": message.id,
        "createdAt": message.at,
        "expiresAt": message.at + timedelta(days=days),
        "event": message.event,
        "of": message.of,
        "phase": message.phase,
        "severity": message.severity,
        "title": message.title,
        "message": message.text,
        "language": message.language,
        "job": message.job,
        "run": message.run,
        "backup": message.backup,
        "reason": message.reason,
        "hint": message.hint,
        "code": message.code,
        "since": message.since,
        "count": message.count,
        "host": message.host,
        "read": False,
    }
    return {key: None if value == "" else value for key, value in told.items()}


def _identity(message: Message) -> ObjectId:
    """Return an ObjectId of the notice's time, whose other bytes are its id's."""
    seconds = int(message.at.timestamp()).to_bytes(4, "big")
    return ObjectId(seconds + hashlib.sha256(message.id.encode()).digest()[:8])


def _refused(error: OperationFailure) -> NotifyError:
    denied = error.code in _UNAUTHORIZED
    said = (error.details or {}).get("errmsg") or "the operation failed"
    return NotifyError(
        f"MongoDB refused the record: {said}",
        hint=_ROLE if denied else "look at mongod's log",
        retryable=not denied,
    )
