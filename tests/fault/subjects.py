"""Sources with a little in them, for runs that are killed or lied to: a tree, an encrypted one, SQLite, MongoDB."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import uuid
from pathlib import Path
from typing import Any

from nanumpay_backupd.settings.schema import JobEncryption
from nanumpay_backupd.settings.sources import FilesSource, MongoSource, SqliteSource
from nanumpay_backupd.system.secrets import Secret
from tests.keys import PASSPHRASE
from tests.servers.mongod import Mongod

__all__ = ["Encrypted", "Mongo", "Sqlite", "Subject"]


class Subject:
    """A source with something in it, and how it is restored."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.job: dict[str, Any] = {}
        self.order: dict[str, Any] = {"overwrite": True}
        self.fill()

    @property
    def source(self) -> Any:
        """Its settings."""
        return FilesSource(path=(str(self.root / "tree"),))

    def fill(self) -> None:
        """Make it hold what it is to hold."""
        shutil.rmtree(self.root / "tree", ignore_errors=True)
        (self.root / "tree").mkdir()
        for at in range(5):
            (self.root / "tree" / f"file{at}").write_text(f"{at}" * 3000)

    def spoil(self) -> None:
        """Change something, as one does before a restore."""
        (self.root / "tree" / "file1").write_text("spoiled")
        (self.root / "tree" / "file2").unlink(missing_ok=True)

    def content(self) -> object:
        """Return what it holds, where it is restored to."""
        return {path.name: path.read_text() for path in (self.root / "tree").iterdir()}


class Encrypted(Subject):
    """A tree whose backups are encrypted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.job = {"encryption": JobEncryption(method="openpgp", scope="all", passphrase=PASSPHRASE)}


class Sqlite(Subject):
    """A database in a file."""

    @property
    def source(self) -> Any:
        """See `Subject`."""
        return SqliteSource(path=(str(self.root / "app.db"),))

    def fill(self) -> None:
        """See `Subject`."""
        with contextlib.closing(sqlite3.connect(self.root / "app.db")) as db, db:
            db.execute("DROP TABLE IF EXISTS users")
            db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
            db.executemany("INSERT INTO users VALUES (?, ?)", [(at, f"user {at}" * 10) for at in range(50)])

    def spoil(self) -> None:
        """See `Subject`."""
        with contextlib.closing(sqlite3.connect(self.root / "app.db")) as db, db:
            db.execute("DELETE FROM users WHERE id > 20")

    def content(self) -> object:
        """See `Subject`."""
        with contextlib.closing(sqlite3.connect(self.root / "app.db")) as db:
            return db.execute("SELECT * FROM users ORDER BY id").fetchall()


class Mongo(Subject):
    """A small database, restored beside itself."""

    def __init__(self, root: Path, server: Mongod) -> None:
        self._server = server
        self._database = f"kill_{uuid.uuid4().hex[:8]}"
        super().__init__(root)
        self.order = {"to_database": f"{self._database}_back", "safety": False}

    @property
    def source(self) -> Any:
        """See `Subject`."""
        return MongoSource(uri=Secret(self._server.uri_for(self._database)), database=self._database)

    def fill(self) -> None:
        """See `Subject`."""
        with self._server.client() as client:
            client.drop_database(self._database)
            client[self._database].users.insert_many([{"_id": at, "name": f"user {at}" * 10} for at in range(50)])
            client[self._database].orders.insert_many([{"_id": at, "of": at % 7} for at in range(20)])

    def spoil(self) -> None:
        """See `Subject`."""

    def content(self) -> object:
        """See `Subject`."""
        with self._server.client() as client:
            db = client[f"{self._database}_back"]
            if not db.list_collection_names():
                db = client[self._database]
            return {name: list(db[name].find().sort("_id")) for name in sorted(db.list_collection_names())}

    def close(self) -> None:
        """Drop what was made."""
        with self._server.client() as client:
            client.drop_database(self._database)
            client.drop_database(f"{self._database}_back")
