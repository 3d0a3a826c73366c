"""Keeps the lease of a fleet for one daemon: asks MongoDB what the state machine orders, and does what follows of it.

Starts no run itself; whoever does is told when it may, when it has to end what it began, and what others did.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import structlog
from bson.errors import BSONError
from pymongo.errors import PyMongoError

from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.fleet.fence import publish_sent, sent_fd
from nanumpay_backupd.fleet.lease import (
    Action,
    Answer,
    End,
    Gave,
    Give,
    Look,
    Looked,
    Lost,
    Renew,
    Renewed,
    Role,
    Silent,
    State,
    Stop,
    Take,
    Terms,
    Tick,
    Took,
    acting,
    step,
    wake_in,
)
from nanumpay_backupd.fleet.room import Document, Room, seen_of
from nanumpay_backupd.fleet.standing import Standing
from nanumpay_backupd.fleet.tasks import TaskRecord, exact, records_of
from nanumpay_backupd.settings.mongofaults import reason
from nanumpay_backupd.settings.schema import FenceTicket
from nanumpay_backupd.system.clock import since_boot
from nanumpay_backupd.system.secrets import Secret

__all__ = ["House", "Keeper", "Place"]

_MOST_RECORDS: Final = 500
_CLOSING: Final = 2.0
_AWAY: Final = (PyMongoError, BSONError, OSError)
"""What the driver raises when there is no answer, or none that makes sense."""
log = structlog.get_logger()


class Place:
    """Where a fleet keeps its lease, and what this host is called in it. ``lease`` is in seconds."""

    def __init__(self, uri: Secret, database: str, collection: str, host: str, lease: float) -> None:
        self.uri, self.database, self.collection, self.host = uri, database, collection, host
        self.terms = Terms(lease=lease)


class House(Protocol):
    """Who begins the runs that the lease is for."""

    @property
    def shared_runs(self) -> int:
        """Return how many runs under the lease are active."""
        ...

    def wake(self) -> None:
        """Look at once whether something is due."""
        ...

    def lease_at_risk(self) -> None:
        """Hear that the runs under the lease are about to end by themselves."""
        ...

    def lease_lost(self) -> None:
        """End the runs under the lease by force."""
        ...

    async def others_did(self, records: Mapping[str, TaskRecord]) -> None:
        """Hear what was taken up of what is due."""
        ...

    async def take_over(self, records: Mapping[str, TaskRecord], token: int, before: str) -> None:
        """Prepare for being the holder: what others made, what they left undone. Raises BackupdError.

        ``before`` is the host that held the lease before, empty: none did.
        """
        ...

    def fleet_facts(self) -> dict[str, Any]:
        """Return what the other hosts are told of this one."""
        ...


class Keeper:
    """One daemon's part in the fleet. All methods belong to the event loop."""

    def __init__(self, place: Place, house: House) -> None:
        self.place = place
        self.me = f"{place.host}:{os.getpid()}:{secrets.token_hex(4)}"
        self.hosts: list[Document] = []
        self.problem = ""
        self._house = house
        self._room = Room(place.uri, place.database, place.collection, self.me, place.host, place.terms)
        self._state = State(me=self.me, host=place.host, terms=place.terms)
        self._lease: Document = {}
        self._leaving = False
        self._to = ""
        self._ready = False
        self._fd: int | None = None
        self._asking: asyncio.Task[Answer] | None = None
        self._nudged = asyncio.Event()
        self._left = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._claims: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._queue: list[tuple[dict[str, Any], datetime]] = []
        self._unfinished: list[tuple[str, datetime, str, str, int]] = []

    # What others ask

    @property
    def role(self) -> Role:
        """Return what this host is just now."""
        return self._state.role

    @property
    def acting(self) -> bool:
        """Tell whether runs under the lease may begin."""
        return self._ready and acting(self._state, since_boot())

    @property
    def token(self) -> int:
        """Return the token under which this host acts; 0: it does not."""
        return self._state.token

    @property
    def lease(self) -> Document:
        """Return the lease document as it was heard of last."""
        return self._lease

    @property
    def holder(self) -> str:
        """Return the name of the host that holds the lease, as far as it is known; empty: none does."""
        return str(self._lease.get("host", ""))

    def holds(self, token: int) -> bool:
        """Tell whether the lease of that token is still ours by this host's measure."""
        state = self._state
        return bool(token) and state.token == token and since_boot() < state.sent + state.terms.end

    def ticket(self) -> FenceTicket:
        """Return what a run under the lease needs; raises RefusedError where this host does not hold it."""
        self.require()
        assert self._fd is not None, "a holder has it"
        place, terms = self.place, self.place.terms
        return FenceTicket(
            uri=place.uri,
            database=place.database,
            collection=place.collection,
            holder=self.me,
            host=place.host,
            token=self._state.token,
            fd=self._fd,
            stop=terms.stop,
            end=terms.end,
            patience=terms.patience,
        )

    def require(self, what: str = "this job") -> None:
        """Raise RefusedError unless runs under the lease may begin here."""
        if self.acting:
            return
        if self._state.role is not Role.STANDBY:
            text = f"{what} cannot begin here just now: this host is about to take over or to give the lease away"
            raise RefusedError(text, hint="try again in a moment: backupctl fleet", code="not-holder", retryable=True)
        holder = self.holder
        raise RefusedError(
            f"{what} is made by host {holder}, which holds the fleet's lease"
            if holder and not self.problem
            else f"{what} is made by the host that holds the fleet's lease, and nobody is known to hold it",
            hint=f"do it there, or let this host take over: backupctl fleet take{' (on this host)' if holder else ''}",
            code="not-holder",
            retryable=True,
        )

    # What is due

    async def claim(self, task: str, due: datetime) -> bool | None:
        """Take up a due time: True: it is ours now; False: it was done; None: that cannot be said now."""
        try:
            done = await self._room.claim(self._state.token, task, exact(due))
        except (*_AWAY, LookupError) as error:
            log.info("what is due cannot be taken up now", task=task, reason=reason(error))
            return None
        if done and not self.acting:
            return None
        return done

    def begun(self, name: str, action: str, task: str, due: datetime) -> None:
        """Note that what a run of ``action`` does was claimed, until it is `ended`."""
        self._claims[name, action] = (task, exact(due))

    async def ended(self, name: str, action: str, run: str, outcome: str) -> None:
        """Note that what was due is done, whatever came of it; nothing where it was not claimed."""
        claimed = self._claims.pop((name, action), None)
        if claimed is None:
            return
        self._unfinished.append((*claimed, run, outcome, self._state.token))
        await self._finish()

    def dropped(self, name: str, action: str) -> None:
        """Leave a claim open for the next holder: the run did not come to its end."""
        self._claims.pop((name, action), None)

    async def _finish(self) -> None:
        """Write down what is done; what cannot be written is tried again for as long as the lease is ours."""
        rest, self._unfinished = self._unfinished, []
        for task, due, run, outcome, token in rest:
            try:
                await self._room.finish(token, task, due, run, outcome)
            except _AWAY:
                if token == self._state.token:
                    self._unfinished.append((task, due, run, outcome, token))

    # Leaving

    def hand_over(self, to: str = "") -> None:
        """Begin no more, and give the lease away once the runs under it ended; ``to`` names who is to have it."""
        self._leaving, self._to = True, to
        self._left.clear()
        self._nudged.set()

    async def leave(self, patience: float) -> None:
        """Give the lease back at the end of the daemon, if it is ours, within ``patience`` seconds."""
        if self._state.role is Role.STANDBY:
            self._leaving = True
            return
        self.hand_over()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._left.wait()

    def nudge(self) -> None:
        """Look at once: a run under the lease ended."""
        self._nudged.set()

    async def want(self) -> None:
        """Ask the holder to hand the lease over to this host. Raises BackupdError."""
        try:
            if not await self._room.ask_for(self.place.host):
                raise RefusedError("nobody holds the lease, or this host does", hint="see: backupctl fleet")
        except _AWAY as error:
            raise self._away(error) from None

    async def try_out(self) -> None:
        """Read and write as the lease asks for it; raises BackupdError."""
        try:
            await self._room.look()
            self.hosts = await self._room.appear({**self._house.fleet_facts(), "role": self._part})
        except _AWAY as error:
            raise self._away(error) from None

    async def forget(self, host: str) -> bool:
        """Forget a host that is gone; returns whether it was known. Raises BackupdError."""
        try:
            return await self._room.forget(host)
        except _AWAY as error:
            raise self._away(error) from None

    async def runs(self, job: str | None, limit: int) -> list[Document]:
        """Return the runs of all hosts, the newest first. Raises BackupdError."""
        try:
            return await self._room.runs(job, limit)
        except _AWAY as error:
            raise self._away(error) from None

    def _away(self, error: Exception) -> BackupdError:
        return BackupdError(
            f"the fleet's collection in MongoDB cannot be used: {reason(error)}",
            hint="is MongoDB there, and may its user write there (docs/fleet.md, Rights)?",
            code="fleet-unreachable",
            retryable=True,
        )

    # Life

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        beside = asyncio.create_task(self._appear())
        try:
            while True:
                self._nudged.clear()
                if self._leaving and self._unfinished:
                    await self._finish()
                idle = not self._house.shared_runs and not self._unfinished
                await self._tell(Tick(leaving=self._leaving, idle=idle, to=self._to))
                await self._wait(max(0.01, wake_in(self._state, since_boot())))
        finally:
            beside.cancel()
            for task in (self._asking, *self._tasks):
                if task is not None:
                    task.cancel()
            self._forget_fd()
            with contextlib.suppress(PyMongoError, TimeoutError):
                async with asyncio.timeout(_CLOSING):
                    await self._room.close()

    async def _wait(self, seconds: float) -> None:
        """Wait for an answer, a nudge, or so many seconds; an answer is told."""
        nudge = asyncio.create_task(self._nudged.wait())
        waits: list[asyncio.Task[Any]] = [nudge, *([self._asking] if self._asking is not None else [])]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nudge.cancel()
        if self._asking is not None and self._asking.done():
            answer, self._asking = self._asking.result(), None
            await self._tell(answer)

    async def _tell(self, event: Tick | Answer) -> None:
        before = self._state
        self._state, orders = step(before, since_boot(), event)
        if self._state.sent != before.sent and self._fd is not None and self._state.token == before.token:
            publish_sent(self._fd, self._state.sent)
        if before.role is Role.STANDBY and self._state.role is Role.HOLDER:
            self._begin()
        for order in orders:
            self._obey(order)
        if isinstance(event, Looked | Renewed):
            with contextlib.suppress(BackupdError):
                await self._house.others_did(records_of(self._lease))

    def _obey(self, order: Action) -> None:
        match order:
            case Stop():
                log.warning("the fleet's lease could not be renewed in time: the runs under it end", code="lease-lost")
                self._house.lease_at_risk()
            case End():
                self._forget_fd()
                self._house.lease_lost()
            case Lost():
                self._lost()
            case _:
                self._asking = asyncio.create_task(self._ask(order))

    def _begin(self) -> None:
        """Begin to hold the lease."""
        self._forget_fd()
        self._fd = sent_fd()
        publish_sent(self._fd, self._state.sent)
        self._ready = False
        self._claims.clear()
        log.info("this host holds the fleet's lease", token=self._state.token)
        self._spawn(self._take_over(self._state.token))

    async def _take_over(self, token: int) -> None:
        try:
            await self._house.take_over(records_of(self._lease), token, str(self._lease.get("before", "")))
        except BackupdError as error:
            log.warning(f"taking over: {error.message}", code=error.code, hint=error.hint)
        if self._state.token == token:
            self._ready = True
            self._house.wake()

    def _lost(self) -> None:
        log.warning("this host no longer holds the fleet's lease", given=self._leaving)
        self._forget_fd()
        self._ready = False
        self._unfinished.clear()
        self._claims.clear()
        if not self._left.is_set():
            self._leaving, self._to = False, ""
        self._left.set()
        self._house.wake()

    def _forget_fd(self) -> None:
        """Let runs that are still there see that the lease is lost."""
        if self._fd is not None:
            publish_sent(self._fd, 0.0)
            os.close(self._fd)
            self._fd = None

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, order: Action) -> Answer:
        try:
            answer = await self._asked(order)
        except _AWAY as error:
            if not self.problem:
                log.warning("the fleet's lease cannot be asked for", code="fleet-unreachable", reason=reason(error))
            self.problem = reason(error)
            return Silent()
        if self.problem:
            log.info("the fleet's lease can be asked for again")
        self.problem = ""
        return answer

    async def _asked(self, order: Action) -> Answer:
        match order:
            case Look():
                self._lease = await self._room.look()
                return Looked(seen_of(self._lease))
            case Take(token=token, beat=beat):
                taken = await self._room.take(token, beat)
                self._lease = taken or self._lease
                return Took(int(taken["token"]) if taken is not None else 0)
            case Renew(token=token):
                renewed = await self._room.renew(token)
                self._lease = renewed or self._lease
                if renewed is not None and renewed.get("wanted") and not self._leaving:
                    self.hand_over(str(renewed["wanted"]))
                return Renewed(ours=renewed is not None)
            case Give(token=token, to=to):
                await self._room.give(token, to)
                return Gave()
        raise AssertionError(order)

    # Beside: who is there, and what was done

    def record(self, run: dict[str, Any], started: datetime) -> None:
        """Have the record of a run kept for all hosts to see."""
        self._queue.append((run, started))
        del self._queue[:-_MOST_RECORDS]

    async def _appear(self) -> None:
        """Say now and then that this host is there, and bring what was noted meanwhile."""
        pause = min(10.0, self.place.terms.lease / 3)
        while True:
            with contextlib.suppress(*_AWAY):
                self.hosts = await self._room.appear({**self._house.fleet_facts(), "role": self._part})
                await self._finish()
                await self._bring_records()
            await asyncio.sleep(pause)

    async def _bring_records(self) -> None:
        while self._queue:
            run, started = self._queue[0]
            await self._room.record(run, started)
            if self._queue and self._queue[0][0] is run:
                self._queue.pop(0)

    @property
    def _part(self) -> str:
        """Return what this host is for people: one that still learns what the last holder made is not yet it."""
        learning = self._state.role is Role.HOLDER and not self._ready
        return "taking-over" if learning else self._state.role.value

    def standing(self) -> Standing:
        """Return how the fleet stands, as far as it is known here."""
        place = self.place
        return Standing(
            host=place.host,
            me=self.me,
            role=self._part,
            length=place.terms.lease,
            lease=self._lease,
            hosts=self.hosts,
            problem=self.problem,
        )
