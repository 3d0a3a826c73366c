"""Ending tasks: every one ends, also one on whose way a cancellation gets lost."""

from __future__ import annotations

import asyncio
import contextlib

from nanumpay_backupd.system.tasks import end_tasks


def test_all_have_ended() -> None:
    """Tasks that wait, that are done and that failed are all done afterwards, and nothing is raised."""

    async def fail() -> None:
        raise ValueError("expected")

    async def scene() -> None:
        tasks = [asyncio.create_task(work) for work in (asyncio.sleep(3600), asyncio.sleep(0), fail())]
        await asyncio.sleep(0.01)
        assert await end_tasks(tasks) == []
        assert all(task.done() for task in tasks)
        assert isinstance(tasks[2].exception(), ValueError)

    asyncio.run(scene())


def test_lost_cancellation() -> None:
    """A task that swallows the first cancellation gets another one."""

    async def deaf_once() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def scene() -> None:
        task = asyncio.create_task(deaf_once())
        await asyncio.sleep(0)
        assert await end_tasks([task]) == []
        assert task.cancelled()

    asyncio.run(scene())
