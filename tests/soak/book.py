"""Writers on MongoDB that outlive its faults, and a book of what they wrote when: the state at the end of any second.

A write whose outcome is unknown (the server was killed, or stepped down) leaves fog: the seconds from before it until
the writer has read again what is there, and no moment is drawn of them. Beside this one, `tests.oracle` is for servers
that stay. What the databases hold stays of one size however long it goes on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from nanumpay_backupd.model import OpTime
from tests.servers.daemon import backup_settings
from tests.servers.mongod import Mongod
from tests.soak.diary import Diary

__all__ = ["Book", "SettingsWriter", "Writer", "fill"]

Document = dict[str, Any]
Content = dict[str, dict[Any, Document]]
Change = tuple[str, Any, Document | None]
KEYS: Final = 60
"""How many documents each writer has in a collection at most."""
ADMIN: Final = ObjectId()
_SETTLE: Final = 2.0
_LAST: Final = 2**32 - 1


class Book:
    """Who wrote what at which oplog time, and when that is not known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log: list[tuple[OpTime, tuple[Change, ...]]] = []
        self._fog: list[tuple[int, int]] = []
        self._busy: dict[str, float] = {}
        self.writes = 0
        self.lost_sight = 0

    def begin(self, who: str) -> None:
        """Say that a writer begins a write."""
        with self._lock:
            self._busy[who] = time.time()

    def done(self, who: str, session: ClientSession, *changes: Change) -> None:
        """Say what it wrote, at the time that the server told."""
        stamp = session.operation_time
        assert isinstance(stamp, Timestamp)
        with self._lock:
            if changes:
                self._log.append((OpTime(stamp.time, stamp.inc), changes))
            self.writes += 1
            self._busy.pop(who, None)

    def done_nothing(self, who: str) -> None:
        """Say that there was nothing to write after all."""
        with self._lock:
            self._busy.pop(who, None)

    def cleared(self, who: str, session: ClientSession, *changes: Change) -> None:
        """Say what a writer found after it had lost sight: the seconds since it began are fog."""
        stamp = session.operation_time
        assert isinstance(stamp, Timestamp)
        with self._lock:
            self._log.append((OpTime(stamp.time, stamp.inc), changes))
            self._fog.append((int(self._busy[who]) - 1, stamp.time))
            self.lost_sight += 1
            self._busy.pop(who, None)

    def horizon(self) -> int:
        """Return the last second of which all is known."""
        with self._lock:
            return int(min([time.time(), *self._busy.values()])) - 2

    def clear(self, second: int) -> bool:
        """Tell whether it is known what was there at the end of a second."""
        with self._lock:
            foggy = any(first <= second < last for first, last in self._fog)
        return not foggy and second <= self.horizon()

    def state_at(self, second: int) -> Content:
        """Return what was there at the end of a second (Unix time)."""
        return self.state(OpTime(second, _LAST))

    def state(self, moment: OpTime) -> Content:
        """Return the documents of each collection that held any at an oplog time."""
        found: Content = {}
        with self._lock:
            done = sorted((item for item in self._log if item[0] <= moment), key=lambda item: item[0])
        for _, changes in done:
            for name, key, document in changes:
                if key is None:
                    found.pop(name, None)
                elif document is None:
                    found.get(name, {}).pop(key, None)
                else:
                    found.setdefault(name, {})[key] = document
        return {name: documents for name, documents in found.items() if documents}

    def forget_before(self, second: int) -> None:
        """Put everything up to a second into one entry, so that the book does not grow for ever."""
        state = self.state_at(second)
        with self._lock:
            later = [item for item in self._log if item[0] > OpTime(second, _LAST)]
            changes = tuple((name, key, doc) for name, docs in state.items() for key, doc in docs.items())
            self._log = [(OpTime(second, _LAST), changes), *later]
            self._fog = [item for item in self._fog if item[1] > second]


class Writer:
    """One thread that writes documents of its own, or collections, or the application's settings."""

    def __init__(
        self, server: Mongod, database: str, book: Book, diary: Diary, *, name: str, seed: int, pause: float
    ) -> None:
        self.name = name
        self._server = server
        self._database = database
        self._book = book
        self._diary = diary
        self._dice = random.Random(f"{seed}-{name}")
        self._pause = pause
        self._stop = threading.Event()
        self._own: Content = {"accounts": {}, "ledger": {}, "notes": {}}
        self.thread = threading.Thread(target=self._run, name=f"writer-{name}", daemon=True)

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self.thread.join(90)

    def _run(self) -> None:
        options: dict[str, Any] = {"w": "majority", "serverSelectionTimeoutMS": 5000, "socketTimeoutMS": 20000}
        try:
            with self._server.client(**options) as client:
                while not self._stop.wait(self._pause * self._dice.uniform(0.3, 1.7)):
                    self._one(client)
        except Exception as error:  # the soak must not go on without a word
            self._diary.note("anomaly", what=f"a writer of the soak itself failed: {error!r}")

    def _one(self, client: MongoClient[Document]) -> None:
        self._book.begin(self.name)
        try:
            with client.start_session() as session:
                changes = self._write(client, session)
                self._book.done(self.name, session, *changes) if changes else self._book.done_nothing(self.name)
        except PyMongoError:
            self._look_again(client)

    def _write(self, client: MongoClient[Document], session: ClientSession) -> tuple[Change, ...]:
        draw = self._dice.random()
        ways: list[tuple[float, Callable[..., tuple[Change, ...]]]] = [
            (0.35, self._put),
            (0.6, self._update),
            (0.7, self._delete),
            (0.95, self._transact),
            (1.0, self._reshape),
        ]
        way = next(way for limit, way in ways if draw <= limit)
        return way(client[self._database], session)

    def _key(self) -> str:
        return f"{self.name}-{self._dice.randrange(KEYS)}"

    def _put(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        key = self._key()
        text = "지급 " * self._dice.randrange(20)
        document = {"_id": key, "balance": self._dice.randrange(1000), "text": text, "tags": []}
        db.accounts.replace_one({"_id": key}, document, upsert=True, session=session)
        self._own["accounts"][key] = document
        return (("accounts", key, document),)

    def _update(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        own = self._own["accounts"]
        if not own:
            return self._put(db, session)
        key = self._dice.choice(sorted(own))
        amount, tag = self._dice.randrange(1, 100), self._dice.randrange(10**6)
        change = {"$inc": {"balance": amount}, "$push": {"tags": {"$each": [tag], "$slice": -20}}}
        db.accounts.update_one({"_id": key}, change, session=session)
        before = own[key]
        own[key] = {**before, "balance": before["balance"] + amount, "tags": [*before["tags"], tag][-20:]}
        return (("accounts", key, own[key]),)

    def _delete(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        own = self._own["accounts"]
        if not own:
            return self._put(db, session)
        key = self._dice.choice(sorted(own))
        db.accounts.delete_one({"_id": key}, session=session)
        del own[key]
        return (("accounts", key, None),)

    def _transact(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        own = self._own["accounts"]
        keys = self._dice.sample(sorted(own), min(2, len(own)))
        entry_key = self._key()
        entry = {"_id": entry_key, "moved": keys, "filler": "x" * self._dice.randrange(2000)}
        note = {"_id": entry_key, "of": keys}
        with session.start_transaction():
            for one in keys:
                db.accounts.update_one({"_id": one}, {"$inc": {"balance": 1}}, session=session)
            db.ledger.replace_one({"_id": entry_key}, entry, upsert=True, session=session)
            db.notes.replace_one({"_id": entry_key}, note, upsert=True, session=session)
        for one in keys:
            own[one] = {**own[one], "balance": own[one]["balance"] + 1}
        self._own["ledger"][entry_key], self._own["notes"][entry_key] = entry, note
        moved: tuple[Change, ...] = tuple(("accounts", one, own[one]) for one in keys)
        return (*moved, ("ledger", entry_key, entry), ("notes", entry_key, note))

    def _reshape(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        """Make a collection with an index, or drop it."""
        name = f"passing_{self.name}_{self._dice.randrange(3)}"
        if name in self._own:
            db.drop_collection(name, session=session)
            del self._own[name]
            return ((name, None, None),)
        document = {"_id": 1, "value": self._dice.randrange(100)}
        self._own[name] = {}
        db[name].create_index("value", session=session)
        db[name].insert_one(document, session=session)
        self._own[name][1] = document
        return ((name, 1, document),)

    def _look_again(self, client: MongoClient[Document]) -> None:
        """Read what is there of one's own, when the server is back, and go on from that."""
        while not self._stop.wait(_SETTLE):
            try:
                with client.start_session() as session:
                    changes = self._read_own(client[self._database], session)
                    self._book.cleared(self.name, session, *changes)
                    return
            except PyMongoError:
                continue

    def _read_own(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        # A write of one's own first: what is read then is not older, and its time is known.
        marker = {"_id": f"marker-{self.name}", "at": self._dice.randrange(10**9)}
        db.notes.replace_one({"_id": marker["_id"]}, marker, upsert=True, session=session)
        changes: list[Change] = [("notes", marker["_id"], marker)]
        found: Content = {}
        for name in ("accounts", "ledger", "notes"):
            there = {item["_id"]: item for item in db[name].find({"_id": {"$regex": f"^{self.name}-"}})}
            found[name] = there
            changes += [(name, f"{self.name}-{at}", there.get(f"{self.name}-{at}")) for at in range(KEYS)]
        for at in range(3):
            name = f"passing_{self.name}_{at}"
            changes.append((name, None, None))
            if name in db.list_collection_names():
                found[name] = {item["_id"]: item for item in db[name].find()}
                changes += [(name, key, item) for key, item in found[name].items()]
        self._own = found
        return tuple(changes)


class SettingsWriter(Writer):
    """Saves the application's settings as its form does; by the time of day that it sets a full is made soon after."""

    def save(self, client: MongoClient[Document], session: ClientSession) -> tuple[Change, ...]:
        """Save once; returns what was written."""
        return self._write(client, session)

    def _write(self, client: MongoClient[Document], session: ClientSession) -> tuple[Change, ...]:
        db = client[self._database]
        due = time.localtime(time.time() + 60 * self._dice.choice([1, 2, 3]))
        retention = {"count": self._dice.choice([3, 4, 5]), "compress": self._dice.random() < 0.8}
        settings = backup_settings(time=time.strftime("%H:%M", due), retention=retention)
        settings["storage"]["type"] = "none"
        admin = {"_id": ADMIN, "loginId": "admin", "permissions": ["full_access"]}
        admin["systemSettings"] = {"maintenanceMode": False, "backup": settings}
        db.admins.replace_one({"_id": ADMIN}, admin, upsert=True, session=session)
        self._diary.note("deed", what="settings saved", time=settings["time"], **retention)
        return (("admins", ADMIN, admin),)

    def _read_own(self, db: Any, session: ClientSession) -> tuple[Change, ...]:
        db.admins.update_one({"_id": ADMIN}, {"$inc": {"looked": 1}}, upsert=True, session=session)
        return (("admins", ADMIN, db.admins.find_one({"_id": ADMIN}, session=session)),)


def fill(server: Mongod, database: str, book: Book, dice: random.Random, documents: int) -> None:
    """Put in what stays as it is (some 5 KB each), before anything else happens."""
    with server.client(w="majority") as client, client.start_session() as session:
        batch = [{"_id": at, "blob": dice.randbytes(2500).hex(), "이름": "김민준"} for at in range(documents)]
        client[database].archive.insert_many(batch, session=session)
        book.begin("fill")
        book.done("fill", session, *(("archive", item["_id"], item) for item in batch))
