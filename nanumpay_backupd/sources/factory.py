"""Picks the rooms of a job's source by its type; drivers are imported only when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.errors import InternalError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.schema import CollectionOrder
from nanumpay_backupd.settings.sources import (
    FilesSource,
    MariadbSource,
    MongoSource,
    N8nSource,
    PbmSource,
    PostgresSource,
    RedisSource,
    SourceSettings,
    SqliteSource,
    mongodb_of,
    type_of,
)
from nanumpay_backupd.sources.base import Driver, FolderSource, Need, StreamSource
from nanumpay_backupd.system.process import find_tool

if TYPE_CHECKING:
    from nanumpay_backupd.sources.mongorestore import MongoTarget
    from nanumpay_backupd.sources.oplog_slice import OplogReader

__all__ = ["needs_of", "open_driver", "open_oplog", "open_source", "open_target", "release"]

_MONGODB_TOOLS: Final = "install mongodb-database-tools, or name the program in [tools] of backupd.toml"
_MONGOD: Final = (
    "install mongodb-org-server (it need not run), or name it in [tools] mongod; "
    "without it a drill takes a scratch database on the job's own server, where its user may"
)


def open_driver(settings: SourceSettings) -> Driver:
    """Return the driver of a source that is not MongoDB, whose rooms are richer; nothing is connected yet."""
    if isinstance(settings, RedisSource):
        from nanumpay_backupd.sources.redis_driver import RedisDriver

        return RedisDriver(settings)
    if isinstance(settings, MariadbSource):
        from nanumpay_backupd.sources.mariadb import MariadbDriver

        return MariadbDriver(settings)
    if isinstance(settings, SqliteSource):
        from nanumpay_backupd.sources.sqlite import SqliteDriver

        return SqliteDriver(settings)
    if isinstance(settings, FilesSource):
        from nanumpay_backupd.sources.files import FilesDriver

        return FilesDriver(settings)
    if isinstance(settings, PostgresSource):
        from nanumpay_backupd.sources.postgresql import PostgresDriver

        return PostgresDriver(settings)
    if isinstance(settings, N8nSource):
        from nanumpay_backupd.sources.n8n import N8nDriver

        return N8nDriver(settings)
    if isinstance(settings, PbmSource):
        from nanumpay_backupd.sources.pbm import PbmDriver

        return PbmDriver(settings)
    raise InternalError(f"there is no driver for sources of the type {type_of(settings)!r}")


def open_source(settings: SourceSettings, order: CollectionOrder | None = None) -> FolderSource | StreamSource:
    """Return the source that ``settings`` describe, or the one collection of it; nothing is connected yet.

    Raises RefusedError (``not-for-this-source``) for a collection of anything but MongoDB.
    """
    # pymongo is heavy: only who uses it pays for it.
    if order is not None:
        mongodb = mongodb_of(settings, "a snapshot of one collection")
        from nanumpay_backupd.sources.mongo_collection import MongoCollection

        return MongoCollection(mongodb, order)
    if not isinstance(settings, MongoSource):
        return open_driver(settings).source()
    from nanumpay_backupd.sources.mongodb import MongoDatabase

    return MongoDatabase(settings)


def needs_of(settings: SourceSettings) -> Iterator[Need]:
    """Yield what restores, drills and increments of a source need on this host; nothing is connected."""
    if not isinstance(settings, MongoSource):
        yield from open_driver(settings).needs()
        return
    yield Need("restores", lambda: str(find_tool(settings.mongorestore, hint=_MONGODB_TOOLS)))
    yield Need("drills", lambda: str(find_tool(settings.mongod, hint=_MONGOD)))


def release(settings: SourceSettings, manifest: Manifest) -> None:
    """Delete what a backup is outside of its file (`Driver.release`); nothing for most."""
    if settings.kept_outside and manifest.source.type == type_of(settings):
        open_driver(settings).release(manifest)


def open_target(settings: SourceSettings) -> MongoTarget:
    """Return the MongoDB server that ``settings`` describe as the target of a restore; nothing is connected yet."""
    from nanumpay_backupd.sources.mongorestore import MongoTarget

    return MongoTarget(mongodb_of(settings, "mongorestore"))


def open_oplog(settings: SourceSettings) -> OplogReader:
    """Return a reader of the oplog of the server that ``settings`` describe; raises SourceError, ConfigError."""
    from nanumpay_backupd.sources.oplog_slice import OplogReader

    return OplogReader(mongodb_of(settings, "slices of the oplog"))
