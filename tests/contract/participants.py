"""Every type of source on its real server, as the contract suite (test_sources) asks for it: one `Participant` each.

A new one is a class here (or in a module of its own, imported here) and its place in `PARTICIPANTS`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

from nanumpay_backupd.settings.sources import MongoSource, Source, SqliteSource
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import PASSWORD, USER, Mongod, start_mongod

__all__ = ["PARTICIPANTS", "Participant"]


class Participant(ABC):
    """One type of source with its real server (or files), filled with a little of everything that it can hold.

    It is made once for all tests of the suite; a test that changes something brings it back by `fill`.
    """

    secret: str = ""
    """A password in the settings, which must be seen nowhere; empty: it has none."""
    restores: ClassVar[bool] = True
    """Whether it has a `Driver`, whose target and scratch place are asked too; MongoDB has tests of its own."""

    @property
    @abstractmethod
    def settings(self) -> Source:
        """The settings that reach it."""

    @property
    @abstractmethod
    def broken(self) -> Source:
        """Settings with which nothing can be read: a server that is down, a file that is not there."""

    @abstractmethod
    def fill(self) -> None:
        """Make it hold what it held at the beginning; may be called again."""

    @abstractmethod
    def count(self) -> int:
        """Return how many documents (rows, keys, files) it holds, counted by another way than the source's."""

    @abstractmethod
    def grow(self, megabytes: int) -> None:
        """Let it hold so many megabytes more; `fill` takes them away."""

    @abstractmethod
    def content(self) -> object:
        """Return all that it holds, read by another way than the source's, so that it can be compared."""

    def spoil(self) -> None:
        """Change, remove and add something."""
        raise NotImplementedError

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        """Return how to restore to another place (below ``folder``, or a database of that name), and its content."""
        raise NotImplementedError


class MongoParticipant(Participant):
    """A database of a standalone mongod that asks for a password."""

    secret = PASSWORD
    restores = False

    def __init__(self, server: Mongod) -> None:
        self._server = server

    @property
    def settings(self) -> Source:
        user = f"{USER}:{quote(PASSWORD, safe='')}"
        return MongoSource(
            uri=Secret(f"mongodb://{user}@{self._server.address}/?authSource=admin"), database="contract"
        )

    @property
    def broken(self) -> Source:
        return MongoSource(uri=Secret("mongodb://127.0.0.1:1/"), database="contract")

    def fill(self) -> None:
        with self._server.client() as client:
            client.drop_database("contract")
            client.contract.users.insert_many([{"_id": at, "name": f"사용자 {at}" * 20} for at in range(3000)])
            client.contract.users.create_index("name")
            client.contract.orders.insert_many([{"of": at % 7, "at": at} for at in range(500)])

    def count(self) -> int:
        with self._server.client() as client:
            db = client.contract
            return sum(db[name].count_documents({}) for name in db.list_collection_names())

    def grow(self, megabytes: int) -> None:
        with self._server.client() as client:
            for at in range(megabytes):
                client.contract.bulk.insert_many([{"at": at, "text": f"{at}-{n}-" * 2000} for n in range(64)])

    def content(self) -> object:
        with self._server.client() as client:
            db = client.contract
            return {name: list(db[name].find().sort("_id")) for name in sorted(db.list_collection_names())}


class SqliteParticipant(Participant):
    """Two databases, one in WAL mode, of odd names and with odd content; a program writes one of them meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = (folder / "app.db", folder / "sub folder" / "it's 급여.sqlite")

    @property
    def settings(self) -> Source:
        return SqliteSource(path=(str(self._paths[0]), f"{self._folder}/**/*.sqlite"))

    @property
    def broken(self) -> Source:
        return SqliteSource(path=(str(self._folder / "gone.db"),))

    def fill(self) -> None:
        self._paths[1].parent.mkdir(exist_ok=True)
        for path in (*self._folder.glob("*.db*"), *self._paths[1].parent.glob("*")):
            path.unlink()
        for path, mode in zip(self._paths, ("wal", "delete"), strict=True):
            with contextlib.closing(sqlite3.connect(path)) as db, db:
                db.execute(f"PRAGMA journal_mode = {mode}")
                db.execute('CREATE TABLE "odd ""name" (at INTEGER PRIMARY KEY, text TEXT, data BLOB, number REAL)')
                db.execute("CREATE TABLE bare (a, b)")
                db.execute('CREATE INDEX by_text ON "odd ""name" (text)')
                db.execute('CREATE VIEW some AS SELECT at FROM "odd ""name" WHERE at > 5')
                db.executemany(
                    'INSERT INTO "odd ""name" VALUES (?, ?, ?, ?)',
                    [(at, f"글 {at}" * 20, bytes([at % 256]) * 100, at / 3) for at in range(2000)],
                )
                db.executemany("INSERT INTO bare VALUES (?, ?)", [(None, at) for at in range(70)])

    def count(self) -> int:
        return 2 * 2070

    def grow(self, megabytes: int) -> None:
        with contextlib.closing(sqlite3.connect(self._paths[0])) as db, db:
            db.execute("CREATE TABLE bulk (data BLOB)")
            db.executemany("INSERT INTO bulk VALUES (randomblob(1048576))", [()] * megabytes)

    def content(self) -> object:
        return [_dumped(path) for path in self._paths]

    def spoil(self) -> None:
        with contextlib.closing(sqlite3.connect(self._paths[0])) as db, db:
            db.execute('DELETE FROM "odd ""name" WHERE at % 2')
            db.execute("INSERT INTO bare VALUES (1, 2)")
        self._paths[1].unlink()

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        places = [folder / str(path).lstrip("/") for path in self._paths]
        return Wanted(to=f"{folder}/"), lambda: [_dumped(path) for path in places]


def _dumped(path: Path) -> object:
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [db.execute("PRAGMA journal_mode").fetchone(), *db.iterdump()]


@contextlib.contextmanager
def _mongodb(_folder: Path) -> Iterator[Participant]:
    with start_mongod(auth=True) as server:
        yield MongoParticipant(server)


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[Participant]:
    yield SqliteParticipant(folder)


def _redis(folder: Path, mode: str = "snapshot") -> contextlib.AbstractContextManager[Participant]:
    from tests.contract.redis_participant import redis_participant

    return redis_participant(folder, mode)


@contextlib.contextmanager
def _files(folder: Path) -> Iterator[Participant]:
    # It is a participant itself, and knows the class of this module.
    from tests.contract.files_participant import FilesParticipant

    yield FilesParticipant(folder)


@contextlib.contextmanager
def _mariadb(folder: Path) -> Iterator[Participant]:
    from tests.contract.mariadb_participant import mariadb

    with mariadb(folder) as participant:
        yield participant


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[Participant]:
    from tests.contract.postgres_participant import postgres

    with postgres(folder) as participant:
        yield participant


@contextlib.contextmanager
def _n8n(folder: Path, *, real: bool = False) -> Iterator[Participant]:
    from tests.contract.n8n_participant import played_n8n, real_n8n

    with (real_n8n if real else played_n8n)(folder) as participant:
        yield participant


PARTICIPANTS: Final[dict[str, Callable[[Path], contextlib.AbstractContextManager[Participant]]]] = {
    "mongodb": _mongodb,
    "redis": _redis,
    "redis, key by key": partial(_redis, mode="logical"),
    "sqlite": _sqlite,
    "files": _files,
    "mariadb": _mariadb,
    "postgresql": _postgres,
    "n8n": _n8n,
    # By make test-n8n only: it takes 1.6 GB, and four seconds each time that its program is run.
    **({"n8n, the real one": partial(_n8n, real=True)} if os.environ.get("NANUMPAY_TEST_REAL_N8N") else {}),
}
"""Each by the type of its settings, and behind a comma what is special: makes it in an empty folder."""
