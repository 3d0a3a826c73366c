"""The announcer by itself, on a real catalog and a real web server: what it does when the rest is broken."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nanumpay_backupd.announcer import Announcer
from nanumpay_backupd.broadcast import Broadcast
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.model import Outcome, Run, Trigger
from nanumpay_backupd.reports.figures import Report
from nanumpay_backupd.settings.schema import Channel, HostConfig
from nanumpay_backupd.system.secrets import Secret
from tests.servers.post import WebServer
from tests.workbench import NOW, SetClock

pytestmark = pytest.mark.servers

T = TypeVar("T")
Found = tuple[list[Fault], list[dict[str, Any]]]
DISK = Fault(key="disk", text="only 3 MB are free", severity=Severity.WARNING, event=Event.DISK_LOW)


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Where messages arrive."""
    server = WebServer().start()
    yield server
    server.stop()


class Stage:
    """An announcer with a catalog of its own, whose look at the daemon is what a test says."""

    def __init__(self, folder: Path, web: WebServer) -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.web = web
        self.clock = SetClock(NOW)
        self.looks = 0
        self.look: Callable[[], Found] = lambda: ([], [])
        self.events = Broadcast(self.clock)
        self.announcer = Announcer(self.clock, self._ask, look=self._look, review=self._review)
        address = Secret(f"json://127.0.0.1:{web.port}/x")
        self.host = HostConfig(channels=(Channel(name="hook", address=address, severity="info"),))

    async def _ask(self, work: Callable[[Catalog], T]) -> T:
        return work(self.catalog)

    async def _look(self) -> Found:
        self.looks += 1
        return self.look()

    async def _review(self, _days: int) -> Report:
        raise AssertionError("nobody asks for a report here")

    @property
    def told(self) -> list[str]:
        """Return the titles that arrived."""
        return [item.json["title"].partition("] ")[2] for item in list(self.web.requests)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something, and have the announcer look again meanwhile."""
        async with asyncio.timeout(30):
            while not condition():
                self.announcer.configure(self.host, [])
                await asyncio.sleep(0.05)


def play(stage: Stage, story: Callable[[], Awaitable[None]]) -> None:
    """Run the announcer while a story is told."""

    async def both() -> None:
        stage.announcer.configure(stage.host, [])
        task = asyncio.create_task(stage.announcer.run(stage.events))
        try:
            await story()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(both())


def test_a_catalog_that_cannot_be_read_is_told_and_ends_nothing_else(tmp_path: Path, web: WebServer) -> None:
    """What was wrong before is still wrong as far as anybody knows; when it can be read again, both ends are true."""
    stage = Stage(tmp_path, web)

    def broken() -> Found:
        raise BackupdError("the catalog is damaged", hint="stop the daemon", code="catalog-damaged")

    async def story() -> None:
        stage.look = lambda: ([DISK], [])
        await stage.until(lambda: stage.told == ["the disk is nearly full: only 3 MB are free"])
        stage.look = broken
        looks = stage.looks
        await stage.until(lambda: stage.looks > looks)
        assert len(stage.told) == 1, "a catalog may be locked for a moment"
        stage.clock.sleep(180)
        await stage.until(lambda: len(stage.told) == 2)
        stage.look, looks = lambda: ([DISK], []), stage.looks
        await stage.until(lambda: stage.looks > looks + 1)
        stage.clock.sleep(180)
        await stage.until(lambda: len(stage.told) == 3)

    play(stage, story)
    assert stage.told[1:] == [
        "the backup system needs attention: the catalog is damaged",
        "the backup system is well again",
    ]


def test_a_defect_does_not_end_the_telling(tmp_path: Path, web: WebServer) -> None:
    """It is logged, and the next look is made as if nothing had been."""
    stage = Stage(tmp_path, web)

    def defect() -> Found:
        raise KeyError("a defect for the test")

    async def story() -> None:
        stage.look = defect
        await stage.until(lambda: stage.looks > 1)
        stage.look = lambda: ([DISK], [])
        await stage.until(lambda: len(stage.told) == 1)

    play(stage, story)


def test_a_record_that_cannot_be_written_keeps_nobody_uninformed(tmp_path: Path, web: WebServer) -> None:
    """The disk is full, and that is just what has to be told."""
    stage = Stage(tmp_path, web)
    stage.look = lambda: ([DISK], [])
    with contextlib.closing(sqlite3.connect(tmp_path / "catalog.db")) as db:
        db.execute("PRAGMA busy_timeout = 0")
        stage.catalog._db.execute("PRAGMA busy_timeout = 0")
        db.execute("BEGIN IMMEDIATE")  # nobody else can write

        async def story() -> None:
            await stage.until(lambda: len(stage.told) == 1)

        play(stage, story)
        db.execute("ROLLBACK")
    assert stage.catalog.notices() == []


def test_a_run_that_took_long_is_told_although_many_began_after_it(tmp_path: Path, web: WebServer) -> None:
    """A restore of hours beside a retry every minute; what ended before the start is no news."""
    stage = Stage(tmp_path, web)

    def run(number: int, minutes: float, action: str = "upload", ended: bool = True) -> Run:
        begun = NOW + timedelta(minutes=minutes)
        return Run(
            id=f"r{number}",
            job="shop",
            trigger=Trigger.MANUAL,
            started=begun,
            ended=begun + timedelta(seconds=5) if ended else None,
            outcome=Outcome.SUCCEEDED if ended else None,
            action=action,
        )

    stage.catalog.save_run(run(0, -600, "restore"))
    stage.catalog.save_run(run(1, -300, "restore", ended=False))

    async def story() -> None:
        await stage.until(lambda: stage.looks > 0)
        for number in range(150):
            stage.catalog.save_run(run(10 + number, number))
        done = run(1, -300, "restore")
        stage.catalog.save_run(done)
        stage.events.publish("run-ended", run=done)
        await stage.until(lambda: bool(stage.told))

    play(stage, story)
    assert stage.told == ["shop was restored"]
