"""The settings watch against a real mongod: replica set, standalone, three nodes, and faults of each.

Each test has a database of its own on servers that are shared by the module.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec
from uuid import uuid4

import msgspec
import pymongo
import pytest
from bson import Int64
from structlog.testing import capture_logs

from nanumpay_backupd.settings import watch
from nanumpay_backupd.settings.cache import SettingsCache
from nanumpay_backupd.settings.watch import SettingsUpdate, SettingsWatch
from nanumpay_backupd.system.secrets import Secret
from tests.servers.mongod import Mongod, free_port, start_mongod, start_replica_set

_PROMISE = (
    "Whatever happens to MongoDB or is saved there, the last good settings "
    "are in force, and the newest once they can be read."
)

pytestmark = pytest.mark.servers

Document = dict[str, Any]
P = ParamSpec("P")
_PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is measured against it."""


def story(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(function(*args, **kwargs))

    return run


class Site:
    """One application's database on a server, written to as the application does."""

    def __init__(self, server: Any, client: pymongo.MongoClient[Document]) -> None:
        self.database = f"pay_{uuid4().hex[:12]}"
        self.uri: str = server.uri_for(self.database)
        self.client = client
        self.admins = client[self.database].admins

    def save(self, number: int, backup: object, *, login: str = "") -> None:
        """Save settings as administrator ``number``: the whole of systemSettings is replaced."""
        names = {"$setOnInsert": {"loginId": login or f"admin{number}"}}
        settings = {"systemSettings": {"maintenanceMode": False, "backup": backup}}
        self.admins.update_one({"_id": number}, {"$set": settings, **names}, upsert=True)


class Watcher:
    """A running watch and all that it told."""

    def __init__(self, uri: str, database: str, cache: Path | None = None, **options: Any) -> None:
        self.updates: list[SettingsUpdate] = []
        self._news = asyncio.Event()
        self.watch = SettingsWatch(
            Secret(uri),
            database,
            on_change=self._note,
            cache=SettingsCache(cache) if cache else None,
            **{"poll_interval": 0.1, "connect_timeout": 0.5, **options},
        )

    async def _note(self, update: SettingsUpdate) -> None:
        self.updates.append(update)
        self._news.set()

    async def until(self, condition: Callable[[SettingsUpdate], bool]) -> SettingsUpdate:
        """Wait until the latest update fulfils a condition."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not (self.updates and condition(self.updates[-1])):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen; last updates: {self.updates[-3:]}") from None
        return self.updates[-1]

    async def time(self, time: str) -> SettingsUpdate:
        """Wait until settings with this time of day are in force without problem."""
        return await self.until(lambda update: _time(update) == time and update.problem is None and update.connected)

    async def problem(self, code: str) -> SettingsUpdate:
        """Wait until there is a problem of this code."""
        return await self.until(lambda update: update.problem is not None and update.problem.code == code)


def _time(update: SettingsUpdate) -> str | None:
    return update.app.time if update.app else None


@contextlib.asynccontextmanager
async def watching(site: Site, cache: Path | None = None, **options: Any) -> AsyncIterator[Watcher]:
    """Run a watch on a site for the length of a with block."""
    watcher = Watcher(site.uri, site.database, cache, **options)
    task = asyncio.create_task(watcher.watch.run())
    try:
        yield watcher
        assert not task.done(), "the watch ended by itself"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def replica_set() -> Iterator[Mongod]:
    """Run a one-node replica set that can be told to fail."""
    with start_mongod(replica_set=True, extra_args=["--setParameter", "enableTestCommands=1"]) as server:
        yield server


@pytest.fixture(scope="module")
def standalone() -> Iterator[Mongod]:
    """Run a standalone server."""
    with start_mongod() as server:
        yield server


@pytest.fixture
def site(replica_set: Mongod) -> Iterator[Site]:
    """Return a database on the replica set."""
    with replica_set.client() as client:
        yield Site(replica_set, client)


@pytest.fixture(params=["replica_set", "standalone"])
def any_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Return a database on each kind of server in turn."""
    server: Mongod = request.getfixturevalue(request.param)
    with server.client() as client:
        yield Site(server, client)


# What is noticed, on both kinds of server


@story
async def test_a_save_is_noticed(any_site: Site) -> None:
    """Settings saved while the watch runs are told, whatever BSON type their numbers have."""
    any_site.save(1, {"time": "03:00"})
    async with watching(any_site) as watcher:
        first = await watcher.time("03:00")
        assert (first.origin, first.problem, first.document_id) == ("database", None, "1")
        any_site.save(1, {"time": "04:00", "retention": {"count": Int64(5), "days": 9.0}, "dayOfWeek": 3})
        update = await watcher.time("04:00")
        assert update.app is not None
        assert (update.app.retention.count, update.app.retention.days, update.app.day_of_week) == (5, 9, 3)
        assert first.since is not None
        assert update.since is not None
        assert update.since > first.since


@story
async def test_the_way_of_watching_and_the_server_are_told(replica_set: Mongod, standalone: Mongod) -> None:
    """Status can say whether a change stream or polling is at work, and on what."""
    for server, mode, topology in (
        (replica_set, "change-stream", "replica set rs0"),
        (standalone, "polling", "standalone"),
    ):
        with server.client() as client:
            async with watching(Site(server, client)) as watcher:
                update = await watcher.until(lambda update: update.connected)
                version = client.server_info()["version"]
                assert (update.mode, update.server) == (mode, f"MongoDB {version}, {topology}")


@story
async def test_a_fresh_install_says_what_is_missing(any_site: Site) -> None:
    """Without any document there are no settings, a problem and a hint; the first save ends that."""
    any_site.admins.insert_one({"_id": 1, "loginId": "root", "systemSettings": {"backup": None}})
    async with watching(any_site) as watcher:
        update = await watcher.problem("settings-missing")
        assert (update.app, update.origin, update.connected) == (None, "none", True)
        assert update.problem is not None
        assert update.problem.hint
        any_site.save(1, {})
        await watcher.time("02:00")


@story
async def test_another_administrators_save_is_a_warning(any_site: Site) -> None:
    """A save that does not count changes nothing but is said, with the name of who counts; and unsaid again."""
    any_site.save(5, {"time": "03:00"}, login="root")
    async with watching(any_site) as watcher:
        await watcher.time("03:00")
        any_site.save(6, {"time": "04:00"}, login="second")
        update = await watcher.until(lambda update: bool(update.warnings))
        assert _time(update) == "03:00"
        assert 'those of "root"' in update.warnings[0]
        assert '"second"' in update.warnings[0]
        any_site.save(6, {"time": "03:00"})
        await watcher.until(lambda update: not update.warnings)


@story
async def test_the_lowest_id_with_settings_is_in_force(any_site: Site) -> None:
    """When an older administrator saves for the first time, that one counts from then on."""
    any_site.admins.insert_one({"_id": 1, "loginId": "first"})
    any_site.save(5, {"time": "03:00"})
    async with watching(any_site) as watcher:
        assert (await watcher.time("03:00")).document_id == "5"
        any_site.save(1, {"time": "04:00"})
        update = await watcher.time("04:00")
        assert update.document_id == "1"
        assert update.warnings
        any_site.admins.delete_one({"_id": 1})
        assert (await watcher.time("03:00")).document_id == "5"


@story
async def test_a_bad_document_keeps_the_last_good_settings(any_site: Site) -> None:
    """Path, reason and fix are told, the plan stays; a mended document is in force at once."""
    any_site.save(1, {"time": "03:00"})
    async with watching(any_site) as watcher:
        await watcher.time("03:00")
        any_site.save(1, {"time": "25:00", "retention": {"count": 0}})
        update = await watcher.problem("settings-invalid")
        assert (_time(update), update.origin, update.connected) == ("03:00", "database", True)
        assert update.problem is not None
        assert 'systemSettings.backup.time is "25:00"' in update.problem.message
        assert "systemSettings.backup.retention.count is 0" in update.problem.message
        assert "the last good settings stay in force" in update.problem.message
        assert "00:00 to 23:59" in update.problem.hint
        any_site.save(1, {"time": "05:00"})
        await watcher.time("05:00")


@story
async def test_a_vanished_document_keeps_the_last_good_settings(any_site: Site) -> None:
    """An administrator who is deleted, or whose settings are unset, does not stop the backups."""
    any_site.save(1, {"time": "03:00"})
    async with watching(any_site) as watcher:
        await watcher.time("03:00")
        any_site.admins.update_one({"_id": 1}, {"$unset": {"systemSettings": 1}})
        update = await watcher.problem("settings-missing")
        assert _time(update) == "03:00"
        assert update.problem is not None
        assert "the last good settings stay in force" in update.problem.message
        any_site.save(1, {"time": "03:00"})
        await watcher.time("03:00")


@story
async def test_what_changes_nothing_is_not_told(any_site: Site) -> None:
    """Logins and saves of the same settings make no news."""
    any_site.save(1, {"time": "03:00"})
    async with watching(any_site) as watcher:
        await watcher.time("03:00")
        told = len(watcher.updates)
        any_site.admins.update_one({"_id": 1}, {"$inc": {"loginAttempts": 1}})
        any_site.save(1, {"time": "03:00", "retention": {"count": 7.0}})
        watcher.watch.nudge()
        await asyncio.sleep(0.3)
        any_site.save(1, {"time": "04:00"})
        await watcher.time("04:00")
        assert len(watcher.updates) == told + 1


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_after_a_burst_the_last_save_is_in_force(any_site: Site) -> None:
    """Many saves in a row end in the settings of the last one."""
    async with watching(any_site) as watcher:
        for minute in range(60):
            any_site.save(1, {"time": f"03:{minute:02}"})
            await asyncio.sleep(0)
        await watcher.time("03:59")


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_strange_documents_do_not_end_the_watch(any_site: Site) -> None:
    """Dates beyond Python's calendar and texts that are not UTF-8 are judged, not fatal."""
    database = any_site.client[any_site.database]
    async with watching(any_site) as watcher:
        await watcher.problem("settings-missing")
        database.command(
            "insert",
            "admins",
            documents=[{"_id": 1, "loginId": 5, "systemSettings": {"backup": {"time": 1}}}],
        )
        await watcher.problem("settings-invalid")
        pipeline = [{"$set": {"systemSettings.backup.time": {"$toDate": Int64(9_000_000_000_000_000)}}}]
        any_site.admins.update_one({"_id": 1}, pipeline)
        await watcher.until(lambda update: update.problem is not None and "Datetime" in update.problem.message)
        any_site.save(1, {"time": "04:00"})
        await watcher.time("04:00")


# Change streams


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_a_dropped_collection_keeps_the_last_good_settings(site: Site) -> None:
    """The stream is invalidated, a new one is opened, and the next save is noticed."""
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        site.admins.drop()
        update = await watcher.problem("settings-missing")
        assert (_time(update), update.mode) == ("03:00", "change-stream")
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_a_dropped_database_keeps_the_last_good_settings(site: Site) -> None:
    """Even the whole database may go and come back."""
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        site.client.drop_database(site.database)
        await watcher.problem("settings-missing")
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")


@story
async def test_a_renamed_collection_is_noticed_both_ways(site: Site) -> None:
    """Renamed away the settings are missing; another collection that takes the name is read, also in its place."""
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        site.admins.rename("admins_old")
        assert _time(await watcher.problem("settings-missing")) == "03:00"
        site.client[site.database].admins_old.rename("admins")
        await watcher.time("03:00")
        settings = {"maintenanceMode": False, "backup": {"time": "06:00"}}
        site.client[site.database].restored.insert_one({"_id": 1, "systemSettings": settings})
        site.client[site.database].restored.rename("admins", dropTarget=True)
        await watcher.time("06:00")


@pytest.mark.promise(_PROMISE, item=7)
@pytest.mark.parametrize("code", [280, 286, 136, 6, 11600])
@story
async def test_a_lost_stream_is_replaced(replica_set: Mongod, site: Site, code: int) -> None:
    """History lost, fatal, capped position lost, host unreachable, shutting down: no later save is missed."""
    before = _injected(site)
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        data = {"failCommands": ["getMore"], "errorCode": code, "appName": "nanumpay-backupd"}
        site.client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")
        site.save(1, {"time": "05:00"})
        await watcher.time("05:00")
    assert _injected(site) == before + 1


@story
async def test_a_stream_that_ends_while_changes_settle_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream lost in the short wait after an event is noticed then, not at the next regular reading."""
    monkeypatch.setattr(watch, "_DEBOUNCE", 0.3)
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        await asyncio.sleep(0.2)
        data = {"failCommands": ["getMore"], "errorCode": 286, "appName": "nanumpay-backupd"}
        site.client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        # The getMore under way brings this one, the next one fails.
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")
        site.save(1, {"time": "05:00"})
        await watcher.time("05:00")


@story
async def test_a_cut_connection_is_made_anew(replica_set: Mongod, site: Site) -> None:
    """Connections that break in the middle of any command are replaced, and no later save is missed."""
    before = _injected(site)
    site.save(1, {"time": "03:00"})
    async with watching(site) as watcher:
        await watcher.time("03:00")
        data = {
            "failCommands": ["getMore", "find", "aggregate"],
            "closeConnection": True,
            "appName": "nanumpay-backupd",
        }
        site.client.admin.command("configureFailPoint", "failCommand", mode={"times": 3}, data=data)
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")
    assert _injected(site) == before + 3


def _injected(site: Site) -> int:
    """Return how many faults were injected since the server started."""
    return int(site.client.admin.command("configureFailPoint", "failCommand", mode="off")["count"])


@story
async def test_a_change_that_no_event_told_is_found(site: Site) -> None:
    """The regular reading finds what a stream would have missed."""
    site.save(1, {"time": "03:00"})
    async with watching(site, reread_interval=0.2) as watcher:
        await watcher.time("03:00")
        # The document changes while the watch is made to believe that its stream is silent.
        watcher.watch._dirty.set = lambda: None  # type: ignore[method-assign]
        site.save(1, {"time": "04:00"})
        await watcher.time("04:00")


@pytest.mark.promise(_PROMISE, item=7)
@pytest.mark.parametrize(
    "forge,code",
    [
        (lambda _: '{"_data": "8263BOGUS"}', 9),
        (lambda _: '{"_data": "00"}', 50811),
        (lambda _: "[]", None),
        (lambda _: "not json", None),
    ],
    ids=["bogus", "short", "list", "no-json"],
)
@story
async def test_an_unusable_resume_token_means_a_new_stream(
    site: Site, tmp_path: Path, forge: Callable[[str], str], code: int | None
) -> None:
    """A damaged token costs nothing: everything is read again and the next save is noticed."""
    path = tmp_path / "settings.json"
    site.save(1, {"time": "03:00"})
    async with watching(site, path) as watcher:
        await watcher.time("03:00")
    cached = SettingsCache(path).load()
    assert cached is not None
    assert cached.token
    SettingsCache(path).save(msgspec.structs.replace(cached, token=forge(cached.token), token_at=datetime.now(UTC)))
    site.save(1, {"time": "04:00"})
    with capture_logs() as logs:
        async with watching(site, path) as watcher:
            update = await watcher.time("04:00")
            assert update.mode == "change-stream"
            site.save(1, {"time": "05:00"})
            await watcher.time("05:00")
            assert not any(update.problem for update in watcher.updates)
    assert [line["code"] for line in logs if "change stream" in line["event"]] == ([code] if code else [])


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_an_expired_resume_token_means_a_new_stream(tmp_path: Path) -> None:
    """When the oplog no longer reaches back to where the stream stood, everything is read again."""
    path = tmp_path / "settings.json"
    with start_mongod(replica_set=True) as server:
        with server.client() as client:
            site = Site(server, client)
            site.save(1, {"time": "03:00"})
            async with watching(site, path) as watcher:
                await watcher.time("03:00")
            # The stream may stand where the first of these is; the second is certainly after it.
            site.save(1, {"time": "03:30"})
            site.save(1, {"time": "04:00"})
        server.forget_oplog()
        with server.client() as site.client, capture_logs() as logs:
            site.admins = site.client[site.database].admins
            async with watching(site, path) as watcher:
                await watcher.time("04:00")
                site.save(1, {"time": "05:00"})
                await watcher.time("05:00")
                assert not any(update.problem for update in watcher.updates)
    assert [line["code"] for line in logs if "change stream" in line["event"]] == [286]


@story
async def test_the_resume_token_survives_a_restart(site: Site, tmp_path: Path) -> None:
    """A token that is good and fresh is taken up; one that is too old or of another place is left alone."""
    path = tmp_path / "settings.json"
    site.save(1, {"time": "03:00"})
    async with watching(site, path) as watcher:
        await watcher.time("03:00")
    cached = SettingsCache(path).load()
    assert cached is not None
    assert cached.token_at is not None
    # Whoever tried these tokens would be told by the server that they are damaged.
    old = msgspec.structs.replace(cached, token_at=cached.token_at - timedelta(hours=2), token='{"_data": "00"}')
    elsewhere = msgspec.structs.replace(cached, place="elsewhere/nanumpay", token='{"_data": "00"}')
    for kept in (cached, old, elsewhere):
        SettingsCache(path).save(kept)
        with capture_logs() as logs:
            async with watching(site, path) as watcher:
                await watcher.time("03:00")
        assert not [line for line in logs if "change stream" in line["event"]]


# Outages


@pytest.mark.promise(_PROMISE, item=7)
@pytest.mark.parametrize("kind", ["replica_set", "standalone"])
@story
async def test_an_outage_is_survived_and_logged_once(kind: str, request: pytest.FixtureRequest) -> None:
    """While MongoDB is down the settings stay; when it is back, changes are noticed; one line each in the log."""
    server: Mongod = request.getfixturevalue(kind)
    with server.client() as client, capture_logs() as logs:
        site = Site(server, client)
        site.save(1, {"time": "03:00"})
        async with watching(site) as watcher:
            good = await watcher.time("03:00")
            server.stop()
            update = await watcher.problem("settings-unreachable")
            assert (_time(update), update.origin, update.connected) == ("03:00", "database", False)
            assert (update.mode, update.since) == ("connecting", good.since)
            assert update.problem is not None
            assert update.problem.retryable
            assert server.address in update.problem.message
            await asyncio.sleep(0.8)
            server.restart()
            await watcher.time("03:00")
            site.save(1, {"time": "04:00"})
            assert (await watcher.time("04:00")).mode == good.mode
    lines = [
        (line["log_level"], line["event"]) for line in logs if line["log_level"] != "info" or "reached" in line["event"]
    ]
    assert [level for level, _ in lines] == ["warning", "info"]
    assert "does not answer" in lines[0][1]
    assert "can be reached again" in lines[1][1]


@story
async def test_a_start_without_mongodb_recovers_by_itself(tmp_path: Path) -> None:
    """Down at the start and without a cache: no settings, a problem; then MongoDB comes up, and all is well."""
    port = free_port()
    uri = f"mongodb://127.0.0.1:{port}/nanumpay"
    watcher = Watcher(uri, "nanumpay")
    task = asyncio.create_task(watcher.watch.run())
    try:
        update = await watcher.problem("settings-unreachable")
        assert (update.app, update.origin, update.connected) == (None, "none", False)
        assert update.problem is not None
        assert "job nanumpay does not run by itself" in update.problem.message
        with start_mongod(tmp_path / "db", port=port) as server, server.client() as client:
            client.nanumpay.admins.insert_one({"_id": 1, "systemSettings": {"backup": {"time": "03:00"}}})
            watcher.watch.nudge()
            await watcher.time("03:00")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@story
async def test_the_cache_is_used_while_mongodb_is_down(site: Site, tmp_path: Path) -> None:
    """The last good settings are in force at once after a start, before and while MongoDB does not answer."""
    path = tmp_path / "state" / "settings.json"
    site.save(1, {"time": "03:00", "storage": {"ftp": {"host": "h", "username": "u", "password": "ftp-password"}}})
    async with watching(site, path) as watcher:
        good = await watcher.time("03:00")
    assert path.stat().st_mode & 0o777 == 0o600
    site.uri = f"mongodb://127.0.0.1:{free_port()}/{site.database}"
    async with watching(site, path) as watcher:
        update = await watcher.problem("settings-unreachable")
        assert (update.app, update.origin, update.connected) == (good.app, "cache", False)
        assert (update.since, update.document_id) == (good.since, "1")
        first = watcher.updates[0]
        assert (first.app, first.origin, first.mode, first.problem) == (good.app, "cache", "connecting", None)
        assert update.app is not None
        assert update.app.ftp.password.reveal() == "ftp-password"


@story
async def test_a_bad_document_at_the_start_leaves_the_cache_in_force(site: Site, tmp_path: Path) -> None:
    """A restart in the middle of a mistake still has a schedule, and does not overwrite the good settings."""
    path = tmp_path / "settings.json"
    site.save(1, {"time": "03:00"})
    async with watching(site, path) as watcher:
        await watcher.time("03:00")
    site.save(1, {"time": "bad"})
    for _ in range(2):
        async with watching(site, path) as watcher:
            update = await watcher.problem("settings-invalid")
            assert (_time(update), update.origin, update.connected) == ("03:00", "cache", True)


@story
async def test_a_wrong_password_is_told_without_showing_it() -> None:
    """A refused login is a problem of its own, and ends when the password is right."""
    with start_mongod(replica_set=True, auth=True) as server, server.client() as client:
        site = Site(server, client)
        site.save(1, {"time": "03:00"})
        async with watching(site) as watcher:
            await watcher.time("03:00")
        password = "a-wrong-password"
        right, site.uri = site.uri, site.uri.replace("geheim", password)
        async with watching(site) as watcher:
            update = await watcher.problem("settings-auth")
            assert update.problem is not None
            assert "authSource" in update.problem.hint
            assert password not in update.problem.message
        site.uri = right
        async with watching(site) as watcher:
            await watcher.time("03:00")
        site.uri = f"mongodb://looker:looking@{server.address}/{site.database}?authSource=admin"
        await _who_may_only_read(site, client)


async def _who_may_only_read(site: Site, client: pymongo.MongoClient[Document]) -> None:
    """A login that may read the administrators but not watch them: they are read again and again."""
    admins = {"resource": {"db": site.database, "collection": "admins"}, "actions": ["find"]}
    client.admin.command("createRole", "look", privileges=[admins], roles=[])
    client.admin.command("createUser", "looker", pwd="looking", roles=["look"])
    async with watching(site, poll_interval=0.1) as watcher:
        assert (await watcher.time("03:00")).mode == "polling"
        await asyncio.to_thread(site.save, 1, {"time": "04:00"})
        update = await watcher.time("04:00")
        assert (update.mode, update.problem) == ("polling", None)


@story
async def test_a_connection_string_that_the_driver_refuses_is_told() -> None:
    """What only the driver can tell about a connection string is a problem, not the end of the watch."""
    watcher = Watcher("mongodb://user:secret-password@localhost:99999/nanumpay", "nanumpay")
    task = asyncio.create_task(watcher.watch.run())
    update = await watcher.problem("settings-uri")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert update.problem is not None
    assert "localhost:99999/nanumpay" in update.problem.message
    assert "secret-password" not in update.problem.message
    assert "mongodb.uri" in update.problem.hint


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_a_missing_right_is_told(standalone: Mongod) -> None:
    """A login that may not read the administrators is a problem of its own."""
    with start_mongod(auth=True) as server, server.client() as client:
        client.other.command("createUser", "reader", pwd="reader-password", roles=["read"])
        uri = f"mongodb://reader:reader-password@{server.address}/nanumpay?authSource=other"
        watcher = Watcher(uri, "nanumpay")
        task = asyncio.create_task(watcher.watch.run())
        update = await watcher.problem("settings-auth")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert update.problem is not None
        assert "not authorized on nanumpay" in update.problem.message


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_the_death_of_the_primary_is_survived() -> None:
    """In a set of three the watch follows to the new primary, and later saves are noticed."""
    with start_replica_set() as servers, servers.client() as client:
        site = Site(servers, client)
        site.save(1, {"time": "03:00"})
        async with watching(site, connect_timeout=1.0) as watcher:
            assert (await watcher.time("03:00")).mode == "change-stream"
            servers.primary().kill()
            await asyncio.to_thread(site.save, 1, {"time": "04:00"})
            assert (await watcher.time("04:00")).mode == "change-stream"
            await asyncio.to_thread(site.save, 1, {"time": "05:00"})
            await watcher.time("05:00")


@pytest.mark.promise(_PROMISE, item=7)
@story
async def test_a_standalone_that_becomes_a_replica_set_and_back() -> None:
    """The way of watching follows what the server is, without a restart of the daemon."""
    with start_mongod() as server:
        # The application's own connection string says nothing of a replica set.
        uri = f"mongodb://{server.address}/nanumpay"
        watcher = Watcher(uri, "nanumpay")
        task = asyncio.create_task(watcher.watch.run())

        def save(time: str) -> None:
            with server.direct() as client:
                backup = {"time": time}
                client.nanumpay.admins.update_one({"_id": 1}, {"$set": {"systemSettings.backup": backup}}, upsert=True)

        try:
            save("03:00")
            assert (await watcher.time("03:00")).mode == "polling"
            server.restart(replica_set=True)
            await watcher.until(lambda update: update.mode == "change-stream")
            save("04:00")
            assert (await watcher.time("04:00")).server.endswith("replica set rs0")
            server.restart(replica_set=False)
            await watcher.until(lambda update: update.mode == "polling")
            save("05:00")
            assert (await watcher.time("05:00")).server.endswith("standalone")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.promise(_PROMISE, item=7)
@pytest.mark.parametrize("kind", ["replica_set", "standalone"])
@story
async def test_a_frozen_server_does_not_hold_up_the_stop(kind: str, request: pytest.FixtureRequest) -> None:
    """Cancelling ends the watch although the server answers nothing, not even a goodbye."""
    server: Mongod = request.getfixturevalue(kind)
    with server.client() as client:
        site = Site(server, client)
        site.save(1, {"time": "03:00"})
        async with watching(site, connect_timeout=5.0) as watcher:
            await watcher.time("03:00")
            os.kill(server.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGCONT)


@story
async def test_a_defect_in_the_listener_is_not_hidden(site: Site) -> None:
    """An exception from whoever is told ends the watch, so that it is seen."""

    async def broken(_: SettingsUpdate) -> None:
        raise ZeroDivisionError

    watch = SettingsWatch(Secret(site.uri), site.database, on_change=broken)
    with pytest.raises(ZeroDivisionError):
        await watch.run()
