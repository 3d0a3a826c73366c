"""Random writers on a replica set, and a log of what was acknowledged at which oplog time: the state at any moment.

Each writer owns its documents, so the log tells the content of every collection at every moment without a second
database. Writes are inserts, replacements, updates with operators, deletions, and transactions over several collections
and a foreign database; now and then a collection is created, indexed, renamed and dropped.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from nanumpay_backupd.model import OpTime
from tests.servers.mongod import Mongod

__all__ = ["COLLECTIONS", "FOREIGN", "Oracle"]

Document = dict[str, Any]
Change = tuple[str, Any, Document | None]
COLLECTIONS: Final = ("accounts", "ledger", "notes")
FOREIGN: Final = "pitr_foreign"
_OWNED: Final = 40


class Oracle:
    """Writers at work and what they did: `state` is what a database must hold at a moment.

    ``pause`` is the seconds that each writer rests between two writes.
    """

    def __init__(self, server: Mongod, database: str, *, writers: int = 3, seed: int = 1, pause: float = 0.0) -> None:
        self._server = server
        self._database = database
        self._pause = pause
        self._log: list[tuple[OpTime, tuple[Change, ...]]] = []
        self._lock = threading.Lock()
        self.no_renames = threading.Lock()
        """Held by whoever makes a full: a rename during a dump would rightly leave it without a moment."""
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._write, seed * 100 + at)) for at in range(writers)
        ]
        self._threads.append(threading.Thread(target=self._guarded, args=(self._reshape, seed)))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Write for the length of a with block; a writer's fault is raised at its end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if self._faults:
            raise self._faults[0]

    @property
    def writes(self) -> int:
        """Return how many writes were acknowledged so far."""
        with self._lock:
            return len(self._log)

    def moments(self, dice: random.Random, count: int, first: OpTime, last: OpTime) -> list[OpTime]:
        """Draw oplog times at which something was acknowledged, from ``first`` to ``last``."""
        with self._lock:
            known = sorted({moment for moment, _ in self._log if first <= moment <= last})
        return sorted(dice.sample(known, min(count, len(known))))

    def state(self, moment: OpTime) -> dict[str, dict[Any, Document]]:
        """Return the documents of each collection that held any at ``moment``, by their ``_id``."""
        found: dict[str, dict[Any, Document]] = {}
        with self._lock:
            done = sorted((item for item in self._log if item[0] <= moment), key=lambda item: item[0])
        for _, changes in done:
            for name, key, document in changes:
                if key is None:  # the whole collection is gone
                    found.pop(name, None)
                elif document is None:
                    found.get(name, {}).pop(key, None)
                else:
                    found.setdefault(name, {})[key] = document
        return {name: documents for name, documents in found.items() if documents}

    def _guarded(self, work: Callable[[random.Random], None], seed: int) -> None:
        try:
            work(random.Random(seed))
        except BaseException as error:  # raised again in the test's own thread
            self._faults.append(error)
            self._stop.set()

    def _note(self, session: ClientSession, *changes: Change) -> None:
        stamp = session.operation_time
        assert isinstance(stamp, Timestamp)
        with self._lock:
            self._log.append((OpTime(stamp.time, stamp.inc), changes))

    # One writer: its documents in accounts and notes are its own

    def _write(self, dice: random.Random) -> None:
        with self._server.client() as client, client.start_session() as session:
            own: dict[Any, Document] = {}
            me = dice.randrange(2**30)
            for number in range(10**9):
                if self._stop.wait(self._pause):
                    return
                draw = dice.random()
                if not own or draw < 0.3:
                    self._insert(client, session, own, f"{me}-{number % _OWNED}", dice)
                elif draw < 0.5:
                    self._update(client, session, own, dice)
                elif draw < 0.6:
                    self._delete(client, session, own, dice)
                elif draw < 0.8:
                    self._transact(client, session, own, f"{me}-{number}", dice)
                else:
                    self._replace(client, session, own, dice)

    def _insert(
        self,
        client: MongoClient[Document],
        session: ClientSession,
        own: dict[Any, Document],
        key: str,
        dice: random.Random,
    ) -> None:
        if key in own:
            return
        document = {"_id": key, "balance": dice.randrange(1000), "text": "지급 " * dice.randrange(20), "tags": []}
        client[self._database].accounts.insert_one(document, session=session)
        own[key] = document
        self._note(session, ("accounts", key, dict(document)))

    def _update(
        self, client: MongoClient[Document], session: ClientSession, own: dict[Any, Document], dice: random.Random
    ) -> None:
        key = dice.choice(sorted(own))
        amount, tag = dice.randrange(1, 100), dice.randrange(10**6)
        change = {"$inc": {"balance": amount}, "$push": {"tags": tag}, "$set": {"seen": {"by": tag}}}
        client[self._database].accounts.update_one({"_id": key}, change, session=session)
        before = own[key]
        own[key] = {
            **before,
            "balance": before["balance"] + amount,
            "tags": [*before["tags"], tag],
            "seen": {"by": tag},
        }
        self._note(session, ("accounts", key, own[key]))

    def _replace(
        self, client: MongoClient[Document], session: ClientSession, own: dict[Any, Document], dice: random.Random
    ) -> None:
        key = dice.choice(sorted(own))
        document = {"_id": key, "balance": dice.randrange(1000), "tags": [dice.randrange(10)], "text": "바꿈"}
        client[self._database].accounts.replace_one({"_id": key}, document, session=session)
        own[key] = document
        self._note(session, ("accounts", key, document))

    def _delete(
        self, client: MongoClient[Document], session: ClientSession, own: dict[Any, Document], dice: random.Random
    ) -> None:
        key = dice.choice(sorted(own))
        client[self._database].accounts.delete_one({"_id": key}, session=session)
        del own[key]
        self._note(session, ("accounts", key, None))

    def _transact(
        self,
        client: MongoClient[Document],
        session: ClientSession,
        own: dict[Any, Document],
        key: str,
        dice: random.Random,
    ) -> None:
        db = client[self._database]
        keys = dice.sample(sorted(own), min(2, len(own)))
        entry = {"_id": key, "moved": keys, "filler": "x" * dice.randrange(2000)}
        try:
            with session.start_transaction():
                for one in keys:
                    db.accounts.update_one({"_id": one}, {"$inc": {"balance": 1}}, session=session)
                db.ledger.insert_one(entry, session=session)
                client[FOREIGN].log.insert_one({"key": key}, session=session)
                db.notes.replace_one({"_id": key}, {"_id": key, "of": keys}, upsert=True, session=session)
        except OperationFailure as error:
            if error.has_error_label("TransientTransactionError"):
                return
            raise
        for one in keys:
            own[one] = {**own[one], "balance": own[one]["balance"] + 1}
        self._note(
            session,
            *(("accounts", one, own[one]) for one in keys),
            ("ledger", key, entry),
            ("notes", key, {"_id": key, "of": keys}),
        )

    # Collections that come and go

    def _reshape(self, dice: random.Random) -> None:
        with self._server.client() as client, client.start_session() as session:
            db = client[self._database]
            for number in range(10**9):
                name, later = f"passing{number}", f"renamed{number}"
                document = {"_id": number, "value": dice.randrange(100)}
                db[name].insert_one(document, session=session)
                self._note(session, (name, number, document))
                db[name].create_index("value", session=session)
                if self._stop.wait(0.1 + dice.random() * 0.3):
                    return
                if dice.random() < 0.5:
                    with self.no_renames:
                        client.admin.command(
                            {"renameCollection": f"{self._database}.{name}", "to": f"{self._database}.{later}"},
                            session=session,
                        )
                        self._note(session, (name, None, None), (later, number, document))
                    name = later
                if dice.random() < 0.7:
                    db.drop_collection(name, session=session)
                    self._note(session, (name, None, None))
