"""The door to Redis: source, target and scratch of one server."""

from __future__ import annotations

from pathlib import Path

from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Driver, FolderSource, FolderTarget, Scratch
from nanumpay_backupd.sources.redis_scratch import ScratchRedis
from nanumpay_backupd.sources.redis_source import RedisServer
from nanumpay_backupd.sources.redis_target import RedisTarget

__all__ = ["RedisDriver"]


class RedisDriver(Driver):
    """A Redis server with given settings."""

    def __init__(self, settings: RedisSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return RedisServer(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        return RedisTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        """See `Driver.scratch`."""
        return ScratchRedis(self._settings, folder, manifest)
