"""A short history of a database and the backups made of it: two fulls, slices, a differential, and what held when.

Everything is made by the product's own runs, in this process. The states are those that the writes acknowledged, at the
oplog times that the server told; each is in a second of its own, so that it can be asked for by a time of day, unless
the story is not ``paced``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import MongoClient

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Backup, Kind, OpTime, Outcome, Policy, Run
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import (
    CollectionOrder,
    Destination,
    JobEncryption,
    MongoSource,
    Paths,
    RestoreOrder,
    RunSpec,
)
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import Mongod
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec

__all__ = ["Content", "Story", "read"]

Document = dict[str, Any]
Content = dict[str, dict[Any, Document]]
JOB: Final = "nanumpay"


def read(client: MongoClient[Document], database: str) -> Content:
    """Return the documents of each collection that holds any, by their ``_id``."""
    db = client[database]
    found = {name: {item["_id"]: item for item in db[name].find()} for name in db.list_collection_names()}
    return {name: documents for name, documents in found.items() if documents}


@dataclass
class Story:
    """A job on a replica set, its runs, and the states that its database went through (`mark`)."""

    server: Mongod
    database: str
    root: Path
    destinations: tuple[Destination, ...] = ()
    job: str = JOB
    compress: bool = True
    export: str = "mongoexport"
    paced: bool = True
    encryption: JobEncryption = field(default_factory=JobEncryption)
    states: dict[str, tuple[OpTime, Content]] = field(default_factory=dict)
    ear: Ear = field(default_factory=Ear)
    _count: int = 0

    @property
    def layout(self) -> Layout:
        """Return the places in the backups folder."""
        return Layout(self.root / "backups")

    @property
    def paths(self) -> Paths:
        """Return where this host's things lie."""
        return Paths(backups=self.root / "backups", state=self.root / "state", socket=self.root / "socket")

    def spec(self, action: str, **fields: Any) -> RunSpec:
        """Return what the worker is told."""
        self._count += 1
        source = MongoSource(
            uri=Secret(self.server.uri_for(self.database)),
            database=self.database,
            mongodump=str(find_tool("mongodump")),
            mongorestore=str(find_tool("mongorestore")),
            mongoexport=self.export,
        )
        job = job_spec(
            name=self.job,
            source=source,
            destinations=self.destinations,
            retention=Policy(count=365, days=365),
            compress=self.compress,
            encryption=self.encryption,
        )
        return RunSpec(run=f"run{self._count}", job=job, paths=self.paths, trigger="manual", action=action, **fields)

    def run(self, action: str, **fields: Any) -> Run:
        """Do one run in this process, whatever becomes of it."""
        self.ear = Ear()
        return worker.execute(self.spec(action, **fields), self.ear, SystemClock())

    def made(self, action: str, kind: Kind = Kind.FULL, collection: CollectionOrder | None = None) -> Backup:
        """Make a backup and return it."""
        run = self.run(action, kind=kind.value, **({"collection": collection} if collection is not None else {}))
        assert run.outcome is Outcome.SUCCEEDED, (run.error, run.warnings)
        assert run.backup, "nothing was new"
        return self.backup(run.backup)

    def full(self) -> Backup:
        """Make a full; each is in a second of its own."""
        return self.made("backup")

    def slice(self, kind: Kind = Kind.INCREMENTAL) -> Backup:
        """Save the changes."""
        return self.made("slice", kind)

    def backup(self, name: str) -> Backup:
        """Return a backup as the catalog has it."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            backup = catalog.backup(name)
        assert backup is not None
        return backup

    def restore(self, backup: str = "", **order: Any) -> Run:
        """Restore in this process, without a safety backup unless one is asked for."""
        wanted = RestoreOrder(**{"backup": backup, "safety": False, **order})
        return self.run("restore", restore=wanted)

    def mark(self, name: str) -> None:
        """Change the database, and remember as ``name`` what it then holds."""
        number = len(self.states)
        with self.server.client() as client, client.start_session() as session:
            db = client[self.database]
            db.notes.insert_one({"_id": number, "text": f"메모 {name}", "balance": 10 * number}, session=session)
            db.notes.update_one({"_id": number // 2}, {"$inc": {"seen": 1}}, session=session)
            db.notes.delete_one({"_id": number - 4}, session=session)
            db[f"fresh{number}"].insert_one({"_id": number}, session=session)
            db.drop_collection(f"fresh{number - 2}", session=session)
            stamp = session.operation_time
            assert isinstance(stamp, Timestamp)
            self.states[name] = (OpTime(stamp.time, stamp.inc), read(client, self.database))
        while self.paced and time.time() < stamp.time + 1:
            time.sleep(0.05)

    def moment(self, name: str) -> OpTime:
        """Return the oplog time of a state."""
        return self.states[name][0]

    def held(self, name: str) -> Content:
        """Return what the database held then."""
        return self.states[name][1]

    def content(self) -> Content:
        """Return what it holds now."""
        with self.server.client() as client:
            return read(client, self.database)
