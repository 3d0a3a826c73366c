"""Any moment comes back exactly: random writers, fulls and slices meanwhile, restores compared with what was written.

NANUMPAY_PITR_SECONDS is how long the writers write (`make test-pitr`: five minutes, more fulls and more moments).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Backup, Kind, OpTime, Outcome, Policy, Run
from nanumpay_backupd.pipeline.chains import known
from nanumpay_backupd.settings.schema import MongoSource, Paths, RestoreOrder, RunSpec
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.timeline import Range
from tests.oracle import FOREIGN, Oracle
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise("Any moment that is offered is restored exactly.", item=13),
]

SECONDS: Final = float(os.environ.get("NANUMPAY_PITR_SECONDS", "6"))
LONG: Final = SECONDS >= 30
MOMENTS: Final = 60 if LONG else 20
FULLS: Final = 6 if LONG else 2
DATABASE: Final = "pitr"
SEED: Final = int(os.environ.get("NANUMPAY_PITR_SEED", "7"))
Content = dict[str, dict[Any, dict[str, Any]]]


class Desk:
    """A job on a replica set, its runs made in this process."""

    def __init__(self, server: Mongod, root: Path) -> None:
        self.server = server
        self.root = root
        self.runs = 0
        self.paths = Paths(backups=root / "backups", state=root / "state", socket=root / "socket")

    def run(self, action: str, **fields: Any) -> Run:
        """Do one run, whatever becomes of it."""
        self.runs += 1
        source = MongoSource(
            uri=Secret(self.server.uri_for(DATABASE)),
            database=DATABASE,
            mongodump=str(find_tool("mongodump")),
            mongorestore=str(find_tool("mongorestore")),
        )
        spec = RunSpec(
            run=f"run{self.runs}",
            job=job_spec(name="pitr", source=source, retention=Policy(count=365, days=30)),
            paths=self.paths,
            trigger="manual",
            action=action,
            **fields,
        )
        return worker.execute(spec, Ear(), SystemClock())

    def done(self, action: str, **fields: Any) -> Run:
        """Do one run that has to succeed."""
        run = self.run(action, **fields)
        assert run.outcome is Outcome.SUCCEEDED, (run.error, run.warnings)
        return run

    def backups(self, *kinds: Kind) -> list[Backup]:
        """Return the backups of these kinds, newest first."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            return catalog.backups("pitr", kinds=kinds)

    def ranges(self) -> list[Range]:
        """Return what can be restored."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            return known(catalog, "pitr").ranges

    def restored(self, moment: OpTime, database: str) -> Content:
        """Restore a moment into a database and read it."""
        to_database = "" if database == DATABASE else database
        order = RestoreOrder(backup="", at=str(moment), to_database=to_database, safety=False)
        self.done("restore", restore=order)
        with self.server.client() as client:
            db = client[database]
            found = {name: {item["_id"]: item for item in db[name].find()} for name in db.list_collection_names()}
            if to_database:
                client.drop_database(database)
            return {name: documents for name, documents in found.items() if documents}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A job on a replica set of its own."""
    with start_mongod(replica_set=True) as server:
        with server.client() as client:
            client[FOREIGN].create_collection("log")
            client[DATABASE].accounts.create_index("balance")
        yield Desk(server, tmp_path_factory.mktemp("pitr"))


def test_any_moment_is_restored_exactly(desk: Desk) -> None:
    """At random moments of acknowledged writes the restored content is the one of then, also under another name."""
    dice = random.Random(SEED)
    oracle = Oracle(desk.server, DATABASE, seed=SEED, pause=0.004)
    with oracle.at_work():
        time.sleep(0.5)
        with oracle.no_renames:
            desk.done("backup")
        end = time.monotonic() + SECONDS
        due = [time.monotonic() + SECONDS * at / FULLS for at in range(1, FULLS)]
        while time.monotonic() < end:
            time.sleep(dice.random() * SECONDS / 8)
            kind = Kind.DIFFERENTIAL if dice.random() < 0.2 else Kind.INCREMENTAL
            desk.done("slice", kind=kind.value)
            if due and time.monotonic() > due[0]:
                due.pop(0)
                with oracle.no_renames:
                    desk.done("backup")
    desk.done("slice")
    assert len(desk.backups(Kind.INCREMENTAL)) >= 3
    [whole] = desk.ranges()
    assert len(whole.bases) == FULLS
    moments = oracle.moments(dice, MOMENTS, whole.first, whole.last)
    assert len(moments) == MOMENTS
    assert oracle.writes > 10 * MOMENTS
    for number, moment in enumerate(moments):
        database = DATABASE if number == len(moments) - 1 else f"pitr_{number}"
        assert desk.restored(moment, database) == oracle.state(moment), f"{moment} into {database}"
