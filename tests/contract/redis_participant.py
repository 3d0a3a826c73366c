"""Redis in the contract suite: a server with a password, once as its RDB file and once key by key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from nanumpay_backupd.settings.sources import RedisSource, Source
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.system.secrets import Secret
from tests.contract.participants import Participant
from tests.servers.redis import PASSWORD, Redis, content_of, fill_with_everything, start_redis

__all__ = ["redis_participant"]


class RedisParticipant(Participant):
    """A server with keys of every type in three databases."""

    secret = PASSWORD

    def __init__(self, server: Redis, other: Redis, mode: str) -> None:
        self._server = server
        self._other = other
        self._mode = mode

    @property
    def settings(self) -> Source:
        return self._server.settings(mode=self._mode)

    @property
    def broken(self) -> Source:
        return RedisSource(url=Secret("redis://127.0.0.1:1"), mode=self._mode)

    def fill(self) -> None:
        fill_with_everything(self._server)

    def count(self) -> int:
        return sum(self._server.ask("DBSIZE", database=number) for number in range(16))

    def grow(self, megabytes: int) -> None:
        with self._server.link() as link:
            for at in range(megabytes * 16):
                link.ask("SET", f"grown:{at}", f"{at:08d}" * 8192)

    def content(self) -> object:
        return content_of(self._server)

    def spoil(self) -> None:
        with self._server.link() as link:
            link.ask("DEL", "text", "zset")
            link.ask("SET", "number", "6")
            link.ask("PERSIST", "hash")
            link.ask("SET", "new", "one")

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        self._other.ask("FLUSHALL")
        return Wanted(to=f"redis://{self._other.address}"), lambda: content_of(self._other)


@contextlib.contextmanager
def redis_participant(folder: Path, mode: str) -> Iterator[Participant]:
    """Make a server that is saved in that way, and another one to restore into."""
    with start_redis(folder / "redis") as server, start_redis(folder / "other") as other:
        yield RedisParticipant(server, other, mode)
