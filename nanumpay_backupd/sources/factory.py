"""Picks the Source for a job's settings; drivers are imported only when they are needed."""

from __future__ import annotations

from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.base import Source

__all__ = ["open_source"]


def open_source(settings: MongoSource) -> Source:
    """Return the source that ``settings`` describe; nothing is connected yet."""
    # pymongo is heavy: only who uses it pays for it.
    from nanumpay_backupd.sources.mongodb import MongoDatabase

    return MongoDatabase(settings)
