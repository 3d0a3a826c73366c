"""The door to Redis: source, target and scratch of one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Driver, FolderSource, FolderTarget, Need, Scratch
from nanumpay_backupd.sources.redis_scratch import ScratchRedis, find_server
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

    def needs(self) -> Iterator[Need]:
        """See `Driver.needs`: a server of our own."""
        yield Need("drills", lambda: " ".join(map(str, find_server(self._settings))))
