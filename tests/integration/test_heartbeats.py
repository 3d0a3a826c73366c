"""Dead-man switches: which run asks for which ping, and what becomes of a ping that does not arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from nanumpay_backupd import heartbeats
from nanumpay_backupd.heartbeats import Heartbeats, signal_of
from nanumpay_backupd.model import Outcome, Run, Trigger
from nanumpay_backupd.notifiers.base import Receipt
from nanumpay_backupd.system.secrets import Secret
from tests.servers.post import WebServer
from tests.workbench import NOW, job_spec

pytestmark = pytest.mark.servers


def run(outcome: Outcome | None = None, action: str = "backup", trigger: Trigger = Trigger.SCHEDULE) -> Run:
    """Make a run."""
    return Run(id="r1", job="nanumpay", trigger=trigger, started=NOW, outcome=outcome, action=action)


@pytest.mark.parametrize(
    "given,expected",
    [
        (run(), "start"),
        (run(Outcome.SUCCEEDED), "success"),
        (run(Outcome.DEGRADED), "fail"),
        (run(Outcome.FAILED), "fail"),
        (run(Outcome.INTERRUPTED), "fail"),
        (run(Outcome.CANCELLED), "fail"),
        (run(Outcome.SKIPPED), None),
        (run(Outcome.SUCCEEDED, "slice"), None),
        (run(Outcome.SUCCEEDED, "drill"), None),
        (run(Outcome.SUCCEEDED, "collection"), None),
        (run(Outcome.SUCCEEDED, "backup", Trigger.RETRY), None),
        (run(Outcome.SUCCEEDED, "backup", Trigger.CATCH_UP), "success"),
    ],
)
def test_which_ping_a_run_asks_for(given: Run, expected: str | None) -> None:
    """A backup of everything begins and ends; all but a full success is a failure to who waits for one."""
    assert signal_of(given) == expected


def play(server: WebServer, story: Callable[[Heartbeats, list[Receipt]], Awaitable[None]]) -> list[Receipt]:
    """Let a story happen to the switch of one job; returns what was told of its pings."""
    told: list[Receipt] = []

    async def both() -> None:
        beats = Heartbeats("db1", told.append)
        job = msgspec.structs.replace(job_spec(), heartbeat=Secret(f"{server.url}/ping"))
        beats.configure([job], enabled=True)
        task = asyncio.create_task(beats.run())
        try:
            async with asyncio.timeout(30):
                await story(beats, told)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(both())
    return told


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.02)


def test_a_ping_that_is_late_gives_way_to_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is out of order when the run begins and mended when it has ended: the end is told, and no fault."""
    monkeypatch.setattr(heartbeats, "_PAUSES", (0.3, 0.3))
    server = WebServer().start()
    server.status = 503

    async def story(beats: Heartbeats, told: list[Receipt]) -> None:
        beats.hear(run())
        await _until(lambda: bool(server.requests))
        server.status = 200
        beats.hear(run(Outcome.SUCCEEDED))
        await _until(lambda: bool(told))

    assert [receipt.ok for receipt in play(server, story)] == [True]
    server.stop()
    assert server.paths() == ["/ping/start", "/ping"]


def test_a_switch_that_stays_away_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries, then it is a fault of this channel; pings of a muted run are not even tried."""
    monkeypatch.setattr(heartbeats, "_PAUSES", (0.05, 0.05))

    async def story(beats: Heartbeats, told: list[Receipt]) -> None:
        beats.mute("r0")
        beats.hear(msgspec.structs.replace(run(), id="r0"))
        await asyncio.sleep(0.1)
        assert not told
        beats.hear(run(Outcome.FAILED))
        await _until(lambda: bool(told))

    (receipt,) = play(WebServer(), story)
    assert (receipt.ok, receipt.channel, receipt.code) == (False, "heartbeat/nanumpay", "notify-failed")
