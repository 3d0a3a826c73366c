"""The lease and what belongs to it in MongoDB: one collection, conditional writes, the server's clock. Decides nothing.

One document, ``lease``, says who holds it, and for each task which due time was taken up last and what became of it: a
single document, so that a claim under a token that is no longer valid changes nothing. ``host:NAME`` says when each
host was there last, ``run:ID`` what each run came to. Every write is acknowledged by a majority, with the journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pymongo
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConfigurationError, DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from nanumpay_backupd.fleet.lease import Seen, Terms
from nanumpay_backupd.fleet.tasks import AHEAD
from nanumpay_backupd.system.secrets import Secret

__all__ = ["CODEC", "LEASE", "MAJORITY", "Document", "Room", "seen_of"]

Document = dict[str, Any]
LEASE: Final = "lease"
MAJORITY: Final = WriteConcern("majority", j=True)
CODEC: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_AHEAD_MS: Final = int(AHEAD.total_seconds() * 1000)
_KEPT: Final = timedelta(days=90)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Room:
    """The collection of a fleet, for one daemon. Its methods raise PyMongoError, `Terms.patience` at the latest."""

    def __init__(self, uri: Secret, database: str, collection: str, me: str, host: str, terms: Terms) -> None:
        self._uri = uri
        self._place = database, collection
        self._me = me
        self._host = host
        self._ttl = int(terms.ttl * 1000)
        self._patience = terms.patience
        self._prepared = False
        self._client: AsyncMongoClient[Document] | None = None

    @property
    def _records(self) -> AsyncCollection[Document]:
        if self._client is None:
            self._client = self._connected()
        database, collection = self._place
        return self._client.get_database(database).get_collection(
            collection,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=MAJORITY,
        )

    def _connected(self) -> AsyncMongoClient[Document]:
        milliseconds = max(100, int(self._patience * 1000))
        try:
            return AsyncMongoClient(
                self._uri.reveal(),
                appname="nanumpay-backupd",
                maxPoolSize=6,
                connectTimeoutMS=milliseconds,
                serverSelectionTimeoutMS=milliseconds,
                heartbeatFrequencyMS=2000,
            )
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(str(error)) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _prepare(self) -> None:
        """Make what is not there yet: the lease that nobody holds, and the index by which old records go."""
        if self._prepared:
            return
        nobody = {"token": 0, "beat": 0, "holder": "", "host": "", "to": "", "expires": _BEGINNING, "tasks": {}}
        with contextlib.suppress(DuplicateKeyError):  # another host was as quick
            await self._records.update_one({"_id": LEASE}, {"$setOnInsert": nobody}, upsert=True)
        with contextlib.suppress(OperationFailure):  # without that right old records stay, and nothing else is amiss
            await self._records.create_index("expiresAt", expireAfterSeconds=0, name="expires")
        self._prepared = True

    async def look(self) -> Document:
        """Return the lease, with ``over``: for how many seconds it is over by the server's clock."""
        with pymongo.timeout(self._patience):
            await self._prepare()
            over = {"$divide": [{"$subtract": ["$$NOW", "$expires"]}, 1000]}
            cursor = await self._records.aggregate(
                [{"$match": {"_id": LEASE}}, {"$set": {"over": over, "now": "$$NOW"}}]
            )
            found = await cursor.to_list()
        if not found:  # somebody emptied the collection
            self._prepared = False
            return await self.look()
        return found[0]

    async def take(self, token: int, beat: int) -> Document | None:
        """Take the lease if it is still this one; returns it as it is then, None: it is not."""
        change = {
            "holder": self._me,
            "host": self._host,
            "token": token + 1,
            "beat": beat + 1,
            "since": "$$NOW",
            "before": {"$ifNull": ["$of", ""]},
            "of": self._host,
            "to": "",
            "wanted": "",
            **self._renewal(),
        }
        return await self._change({"token": token, "beat": beat}, change)

    async def renew(self, token: int) -> Document | None:
        """Renew the lease; returns it, None: it is no longer ours."""
        own = {"token": token, "holder": self._me}
        return await self._change(own, {"beat": {"$add": ["$beat", 1]}, **self._renewal()})

    async def give(self, token: int, to: str) -> None:
        """Give the lease back, for the host ``to`` or for any; nothing where it is no longer ours."""
        own = {"token": token, "holder": self._me}
        await self._change(
            own, {"holder": "", "host": "", "to": to, "beat": {"$add": ["$beat", 1]}, "expires": "$$NOW"}
        )

    async def ask_for(self, host: str) -> bool:
        """Ask the holder to hand the lease over to a host; returns False where nobody holds it, or that host does."""
        with pymongo.timeout(self._patience):
            done = await self._records.update_one(
                {"_id": LEASE, "host": {"$nin": ["", host]}}, {"$set": {"wanted": host}}
            )
        return bool(done.matched_count)

    def _renewal(self) -> Document:
        return {"renewed": "$$NOW", "expires": {"$add": ["$$NOW", self._ttl]}}

    async def _change(self, condition: Mapping[str, Any], change: Mapping[str, Any]) -> Document | None:
        with pymongo.timeout(self._patience):
            return await self._records.find_one_and_update(
                {"_id": LEASE, **condition}, [{"$set": change}], return_document=pymongo.ReturnDocument.AFTER
            )

    # What is due

    async def claim(self, token: int, task: str, due: datetime) -> bool:
        """Take up a due time of a task; returns False where that was done already. Raises LookupError: not our lease.

        A claim that was made before by somebody who did not come to its end may be made again.
        """
        at, own = f"tasks.{task}", {"_id": LEASE, "token": token, "holder": self._me}
        free = [
            {at: {"$exists": False}},
            {f"{at}.due": {"$lt": due}},
            {f"{at}.due": due, f"{at}.state": {"$ne": "done"}},
            # What a host with a clock that is days ahead took up must not keep the others from anything.
            {"$expr": {"$gt": [f"${at}.due", {"$add": ["$$NOW", _AHEAD_MS]}]}},
        ]
        again = {"$cond": [{"$eq": [f"${at}.due", due]}, {"$add": [{"$ifNull": [f"${at}.tries", 0]}, 1]}, 1]}
        claimed = {"due": due, "state": "begun", "token": token, "host": self._host, "at": "$$NOW", "tries": again}
        with pymongo.timeout(self._patience):
            done = await self._records.update_one({**own, "$or": free}, [{"$set": {at: claimed}}])
            if done.matched_count:
                return True
            if await self._records.find_one(own, {"_id": 1}) is None:
                raise LookupError
        return False

    async def finish(self, token: int, task: str, due: datetime, run: str, outcome: str) -> bool:
        """Note that what was due is done, whatever came of it; returns False where the lease is no longer ours."""
        at = f"tasks.{task}"
        own = {"_id": LEASE, "token": token, "holder": self._me, f"{at}.due": due}
        change = {f"{at}.state": "done", f"{at}.run": run, f"{at}.outcome": outcome}
        with pymongo.timeout(self._patience):
            done = await self._records.update_one(own, {"$set": change, "$currentDate": {f"{at}.at": True}})
        return bool(done.matched_count)

    # Who is there, and what was done

    async def appear(self, facts: Mapping[str, Any]) -> list[Document]:
        """Say that this host is there; returns what all hosts said last, each with ``age``, seconds by the server."""
        with pymongo.timeout(self._patience):
            said = {key: {"$literal": value} for key, value in facts.items()}
            change = {**said, "kind": "host", "instance": self._me, "seen": "$$NOW"}
            await self._records.update_one({"_id": f"host:{self._host}"}, [{"$set": change}], upsert=True)
            age = {"$divide": [{"$subtract": ["$$NOW", "$seen"]}, 1000]}
            cursor = await self._records.aggregate([{"$match": {"kind": "host"}}, {"$set": {"age": age}}])
            return await cursor.to_list()

    async def forget(self, host: str) -> bool:
        """Forget a host that is gone; returns whether it was known."""
        with pymongo.timeout(self._patience):
            done = await self._records.delete_one({"_id": f"host:{host}", "kind": "host"})
        return bool(done.deleted_count)

    async def record(self, run: Mapping[str, Any], started: datetime) -> None:
        """Keep the record of a run, so that all hosts can show it."""
        own = {"kind": "run", "host": self._host, "job": run["job"], "started": started, "run": dict(run)}
        own["expiresAt"] = started + _KEPT
        with pymongo.timeout(self._patience):
            await self._records.replace_one({"_id": f"run:{self._host}:{run['id']}"}, own, upsert=True)

    async def runs(self, job: str | None, limit: int) -> list[Document]:
        """Return what the runs of all hosts came to, the newest first."""
        wanted: Document = {"kind": "run", **({"job": job} if job else {})}
        with pymongo.timeout(self._patience):
            cursor = self._records.find(wanted, {"run": 1, "host": 1}).sort("started", -1).limit(limit)
            return [{**found["run"], "host": found["host"]} for found in await cursor.to_list()]


def seen_of(lease: Mapping[str, Any]) -> Seen:
    """Return the lease as the state machine wants it."""
    return Seen(
        token=int(lease.get("token", 0)),
        beat=int(lease.get("beat", 0)),
        holder=str(lease.get("holder", "")),
        over=float(lease.get("over", 0.0)),
        to=str(lease.get("to", "")),
    )
