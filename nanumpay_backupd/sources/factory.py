"""Picks the Source for a job's settings; drivers are imported only when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanumpay_backupd.settings.schema import CollectionOrder, MongoSource
from nanumpay_backupd.sources.base import Source

if TYPE_CHECKING:
    from nanumpay_backupd.sources.mongorestore import MongoTarget
    from nanumpay_backupd.sources.oplog_slice import OplogReader

__all__ = ["open_oplog", "open_source", "open_target"]


def open_source(settings: MongoSource, order: CollectionOrder | None = None) -> Source:
    """Return the source that ``settings`` describe, or the one collection of it; nothing is connected yet."""
    # pymongo is heavy: only who uses it pays for it.
    if order is not None:
        from nanumpay_backupd.sources.mongo_collection import MongoCollection

        return MongoCollection(settings, order)
    from nanumpay_backupd.sources.mongodb import MongoDatabase

    return MongoDatabase(settings)


def open_target(settings: MongoSource) -> MongoTarget:
    """Return the server that ``settings`` describe as the target of a restore; nothing is connected yet."""
    from nanumpay_backupd.sources.mongorestore import MongoTarget

    return MongoTarget(settings)


def open_oplog(settings: MongoSource) -> OplogReader:
    """Return a reader of the oplog of the server that ``settings`` describe; raises SourceError, ConfigError."""
    from nanumpay_backupd.sources.oplog_slice import OplogReader

    return OplogReader(settings)
