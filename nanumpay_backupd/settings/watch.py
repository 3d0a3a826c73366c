"""Watches the application's settings in MongoDB and tells of every change. What they mean is judged next door.

On a replica set a change stream on ``admins`` says that something changed, whatever it was, and the documents are read
again; on a standalone server, and where the user may not watch, they are read every few seconds. The stream is opened
before the first read, so no change falls between the two. Whatever happens to MongoDB, the last good settings stay in
force.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec
import structlog
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import ErrorInfo
from nanumpay_backupd.settings.cache import CachedSettings, SettingsCache
from nanumpay_backupd.settings.effective import COLLECTION, FILTER, PROJECTION, Verdict, judge
from nanumpay_backupd.settings.mongofaults import AUTH_FAILED, describe, reason
from nanumpay_backupd.settings.mongouri import uri_place
from nanumpay_backupd.settings.schema import AppSettings
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import Secret

__all__ = ["SettingsUpdate", "SettingsWatch", "backoff_delay"]

_log = structlog.get_logger(__name__)

Document = dict[str, Any]
_Client = AsyncMongoClient[Document]
_Collection = AsyncCollection[Document]
_Stream = AsyncChangeStream[Document]
_Closable = TypeVar("_Closable", _Client, _Stream)

_DEBOUNCE: Final = 0.01
_REREAD: Final = 60.0
_AWAIT_MS: Final = 5000
_SOCKET_TIMEOUT_MS: Final = 20000
_BACKOFF_FIRST: Final = 0.5
_BACKOFF_MOST: Final = 30.0
# Resuming makes the server search its oplog from there on. The documents are read anew anyway, so an old token would
# only cost.
_TOKEN_AGE: Final = timedelta(hours=1)
_MOST_DOCUMENTS: Final = 1000
_CLOSE_SECONDS: Final = 0.3
_CLOSE_ATTEMPTS: Final = 4

_RIGHTS_AGE: Final = 600.0
"""Seconds after which a user who might not watch is tried again: rights may have been given."""

_UNAUTHORIZED: Final = 13
_NOT_A_REPLICA_SET: Final = 40573
# ChangeStreamFatalError, ChangeStreamHistoryLost, InvalidResumeToken, CappedPositionLost: this stream is lost, a new
# one is not.
_STREAM_LOST: Final = frozenset({280, 286, 260, 136})


class SettingsUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of the application's settings at one moment.

    ``app``: the settings in force, the last good ones if there is a ``problem``, None if none were ever seen.
    ``warnings``: about the documents in MongoDB (``app.warnings`` has those about the settings themselves).
    ``mode``: change-stream, polling or connecting. ``origin`` of ``app``: database, cache or none.
    ``server``: such as "MongoDB 6.0.5, replica set rs0", the last one seen. ``since`` (UTC): when ``app`` was first
    seen. Two updates that are equal say the same.
    """

    app: AppSettings | None = None
    problem: ErrorInfo | None = None
    warnings: tuple[str, ...] = ()
    mode: str = "connecting"
    origin: str = "none"
    connected: bool = False
    server: str = ""
    document_id: str = ""
    since: datetime | None = None


def backoff_delay(failures: int, jitter: float) -> float:
    """Return the seconds to wait after so many failures in a row (1 or more); ``jitter`` is from 0 to 1."""
    longest = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + jitter / 2)


class SettingsWatch:
    """Follows the settings of one database until its task is cancelled.

    ``on_change`` is awaited with a `SettingsUpdate` whenever one differs from that before it: with the cached settings
    at once, otherwise when the first attempt to reach MongoDB has succeeded or failed. It is called from the task that
    runs `run`, one call at a time; an exception in it ends the watch. Times are in seconds.
    """

    def __init__(
        self,
        uri: Secret,
        database: str,
        *,
        on_change: Callable[[SettingsUpdate], Awaitable[None]],
        cache: SettingsCache | None = None,
        poll_interval: float = 5.0,
        connect_timeout: float = 5.0,
        reread_interval: float = _REREAD,
        clock: Clock | None = None,
    ) -> None:
        self._uri = uri
        self._database = database
        self._place = uri_place(uri.reveal(), database)
        self._on_change = on_change
        self._cache = cache
        self._poll_interval = poll_interval
        self._connect_timeout = connect_timeout
        self._reread_interval = reread_interval
        self._clock = clock or SystemClock()
        self._state = SettingsUpdate()
        self._saved: CachedSettings | None = None
        self._token: Mapping[str, Any] | None = None
        self._token_at: datetime | None = None
        self._dirty = asyncio.Event()
        self._failures = 0
        self._outage: tuple[str, float] | None = None
        self._unwatched = False

    @property
    def state(self) -> SettingsUpdate:
        """Return the latest update."""
        return self._state

    def nudge(self) -> None:
        """Look now instead of at the next interval: ends a wait between two attempts or two readings."""
        self._dirty.set()

    async def run(self) -> None:
        """Watch until cancelled. MongoDB's faults never end it; they show in the updates."""
        await self._begin_with_cache()
        try:
            while True:
                try:
                    await self._session()
                except (PyMongoError, BSONError) as error:
                    self._failures += 1
                    await self._note_outage(error)
                    self._dirty.clear()
                    await self._pause(backoff_delay(self._failures, random.random()))  # noqa: S311 - spreads load only
        finally:
            self._keep_last()

    # One connection

    async def _session(self) -> None:
        """Watch over one client. Returns when the server turned into another kind; raises when the connection fails."""
        async with _closing(self._client()) as client:
            hello = await client.admin.command("hello")
            version = (await client.admin.command("buildInfo")).get("version", "?")
            server = f"MongoDB {version}, {_topology(hello)}"
            options: CodecOptions[Document] = CodecOptions(
                unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
            )
            collection = client.get_database(self._database, codec_options=options).get_collection(COLLECTION)
            if not _has_change_streams(hello):
                await self._poll(client, collection, server)
                return
            try:
                await self._follow(collection, server)
            except OperationFailure as error:
                if error.code != _UNAUTHORIZED:
                    raise
                # Who may not read either hears of that from the first reading.
                await self._read_only(collection, server)

    def _client(self) -> _Client:
        """Return a new client; a fresh one each time, because an old one does not forget what the server once was."""
        milliseconds = int(self._connect_timeout * 1000)
        try:
            return AsyncMongoClient(
                self._uri.reveal(),
                appname="nanumpay-backupd",
                maxPoolSize=3,
                connectTimeoutMS=milliseconds,
                serverSelectionTimeoutMS=milliseconds,
                socketTimeoutMS=_SOCKET_TIMEOUT_MS,
            )
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(str(error)) from None

    async def _poll(self, client: _Client, collection: _Collection, server: str) -> None:
        """Read again and again, until there are change streams."""
        async for _ in self._readings(collection, server):
            if _has_change_streams(await client.admin.command("hello")):
                _log.info("MongoDB has become a replica set: settings are watched by change stream from now on")
                return

    async def _read_only(self, collection: _Collection, server: str) -> None:
        """Poll for a while because the user may read the settings, but not watch them."""
        until = self._clock.monotonic() + _RIGHTS_AGE
        async for _ in self._readings(collection, server, unwatched=True):
            if self._clock.monotonic() >= until:
                return

    async def _readings(self, collection: _Collection, server: str, *, unwatched: bool = False) -> AsyncIterator[None]:
        """Read the settings, and go on after each pause for as long as it is asked for."""
        while True:
            self._dirty.clear()
            await self._refresh(collection, "polling", server)
            if unwatched and not self._unwatched:
                self._unwatched = True
                _log.warning(
                    f"the user of MongoDB at {self._place} may read the settings, but not watch them: "
                    f"they are read every {self._poll_interval:g} s",
                    hint="give it the role read on that database",
                )
            await self._pause(self._poll_interval)
            yield

    async def _follow(self, collection: _Collection, server: str) -> None:
        """Keep a change stream open; one that was invalidated (drop, rename) or lost is replaced by a new one."""
        while True:
            try:
                async with _closing(await self._open(collection)) as stream:
                    await self._follow_stream(stream, collection, server)
            except OperationFailure as error:
                if error.code not in _STREAM_LOST:
                    raise
                _log.info("the change stream was lost and is opened anew", code=error.code, reason=reason(error))
            self._token = None
            await asyncio.sleep(_DEBOUNCE)

    async def _open(self, collection: _Collection) -> _Stream:
        # Only that something changed is of interest; the documents are read apart, which also finds the right one.
        pipeline = [{"$project": {"operationType": 1}}]
        if self._token is not None and self._token_at is not None:
            try:
                if self._clock.now() - self._token_at < _TOKEN_AGE:
                    return await collection.watch(pipeline, resume_after=self._token, max_await_time_ms=_AWAIT_MS)
            except OperationFailure as error:
                if error.code == _NOT_A_REPLICA_SET or error.code in AUTH_FAILED:
                    raise
                _log.info("the change stream cannot be resumed and starts anew", code=error.code, reason=reason(error))
            self._token = None
        return await collection.watch(pipeline, max_await_time_ms=_AWAIT_MS)

    async def _follow_stream(self, stream: _Stream, collection: _Collection, server: str) -> None:
        """Read all once, then after each change, and once a minute in case a change went unnoticed."""
        self._dirty.clear()
        self._note_token(stream)
        pump = asyncio.create_task(self._pump(stream), name="settings change stream")
        pump.add_done_callback(lambda _: self._dirty.set())
        try:
            await self._refresh(collection, "change-stream", server)
            while True:
                await self._pause(self._reread_interval)
                # One save may be several events, and a burst of them need not be a burst of reads.
                await asyncio.sleep(_DEBOUNCE)
                self._dirty.clear()
                # Looked at after the flag is cleared: the end of the pump sets it only once.
                if pump.done():
                    return pump.result()
                await self._refresh(collection, "change-stream", server)
        finally:
            await _end(pump)

    async def _pump(self, stream: _Stream) -> None:
        """Turn events into the dirty flag, until the stream ends (invalidated) or fails."""
        while stream.alive:
            change = await stream.try_next()
            self._note_token(stream)
            if change is not None:
                self._dirty.set()

    def _note_token(self, stream: _Stream) -> None:
        token = stream.resume_token
        if token is not None:
            self._token, self._token_at = token, self._clock.now()

    async def _pause(self, seconds: float) -> None:
        """Wait for so many seconds, or until the dirty flag is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._dirty.wait()

    # What was read

    async def _refresh(self, collection: _Collection, mode: str, server: str) -> None:
        cursor = collection.find(FILTER, PROJECTION).sort("_id", 1).limit(_MOST_DOCUMENTS)
        verdict = judge(await cursor.to_list())
        self._note_recovery(server)
        await self._take(verdict, mode, server)

    async def _take(self, verdict: Verdict, mode: str, server: str) -> None:
        """Put a verdict in force: new settings, or the last good ones with the problem of the new."""
        known: dict[str, Any] = {"mode": mode, "server": server, "connected": True, "warnings": verdict.warnings}
        if verdict.app is None:
            assert verdict.problem is not None
            await self._tell(problem=self._with_consequence(verdict.problem), **known)
            return
        since = self._state.since if verdict.app == self._state.app else self._clock.now()
        await self._tell(
            app=verdict.app, problem=None, origin="database", document_id=verdict.document_id, since=since, **known
        )
        await self._save(verdict)

    async def _tell(self, **changes: Any) -> None:
        update = msgspec.structs.replace(self._state, **changes)
        if update != self._state:
            self._state = update
            await self._on_change(update)

    def _with_consequence(self, problem: ErrorInfo) -> ErrorInfo:
        app = self._state.app
        effect = (
            "job nanumpay does not run by itself until this is mended"
            if app is None
            else "the last good settings stay in force"
        )
        return msgspec.structs.replace(problem, message=f"{problem.message}; {effect}")

    # Outages

    async def _note_outage(self, error: Exception) -> None:
        """Show a lost or refused connection; the log hears of it once, not at every attempt."""
        problem = describe(error, self._place)
        if self._outage is None or self._outage[0] != problem.code:
            began = self._outage[1] if self._outage else self._clock.monotonic()
            self._outage = (problem.code, began)
            unreachable = Message.SETTINGS_UNREACHABLE
            _log.warning(problem.message, message=unreachable, code=problem.code, hint=problem.hint)
        await self._tell(problem=self._with_consequence(problem), mode="connecting", connected=False)

    def _note_recovery(self, server: str) -> None:
        self._failures = 0
        if self._outage is not None:
            seconds = round(self._clock.monotonic() - self._outage[1], 1)
            self._outage = None
            _log.info("MongoDB can be reached again", place=self._place, server=server, after_seconds=seconds)

    # Cache

    async def _begin_with_cache(self) -> None:
        cached = self._cache.load() if self._cache else None
        if cached is None:
            return
        self._saved = cached
        if cached.place == self._place and cached.token:
            with contextlib.suppress(ValueError, TypeError):
                token = json_util.loads(cached.token)
                self._token, self._token_at = (token if isinstance(token, Mapping) else None), cached.token_at
        await self._tell(app=cached.app, origin="cache", document_id=cached.document_id, since=cached.since)

    async def _save(self, verdict: Verdict) -> None:
        """Keep new settings on disk, after everybody has heard of them: the disk may take its time."""
        now = self._to_keep()
        before = self._saved
        if self._cache is None or now is None or verdict.app is None:
            return
        if before is None or (before.app, before.place, before.document_id) != (now.app, now.place, now.document_id):
            self._saved = now
            await asyncio.to_thread(self._cache.save, now)

    def _to_keep(self) -> CachedSettings | None:
        state = self._state
        if state.app is None or state.since is None or state.origin != "database":
            return None
        return CachedSettings(
            app=state.app,
            since=state.since,
            place=self._place,
            document_id=state.document_id,
            token=json_util.dumps(self._token) if self._token is not None else "",
            token_at=self._token_at if self._token is not None else None,
        )

    def _keep_last(self) -> None:
        """Save what is in force and where the stream stood, for the next start."""
        now = self._to_keep()
        if self._cache is not None and now is not None:
            self._cache.save(now)


@contextlib.asynccontextmanager
async def _closing(resource: _Closable) -> AsyncIterator[_Closable]:
    """Close a client or stream at the end, also when its server is gone.

    The driver says goodbye to the server first and waits for it as for any answer. Each interrupted attempt leaves one
    step less to do, and what is on this side is always closed.
    """
    try:
        yield resource
    finally:
        for _ in range(_CLOSE_ATTEMPTS):
            with contextlib.suppress(TimeoutError, PyMongoError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await resource.close()
                    break


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended: the driver answers the first cancellation with a goodbye to the server."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
    if not task.cancelled():
        task.exception()


def _has_change_streams(hello: Mapping[str, Any]) -> bool:
    return "setName" in hello or hello.get("msg") == "isdbgrid"


def _topology(hello: Mapping[str, Any]) -> str:
    if "setName" in hello:
        return f"replica set {hello['setName']}"
    if hello.get("isreplicaset"):
        return "replica set, not yet initiated"
    return "sharded cluster" if hello.get("msg") == "isdbgrid" else "standalone"
