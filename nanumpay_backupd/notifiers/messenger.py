"""The daemon's side of the process that sends: starts it, reads its receipts, ends it when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from nanumpay_backupd.notifiers.base import Message, Receipt, Target
from nanumpay_backupd.notifiers.errand import Errand, encode_errand
from nanumpay_backupd.system.process import die_with_parent, own_environment
from nanumpay_backupd.system.secrets import redact

__all__ = ["dispatch"]

_START: Final = 20.0
"""Seconds that the process may take to start and to read its drivers, on a busy machine."""
_LONGEST: Final = 300.0
_TAIL: Final = 300
Parcels = Sequence[tuple[Target, Sequence[Message]]]


async def dispatch(parcels: Parcels) -> list[Receipt]:
    """Send messages by a process of their own; returns a receipt for each that was tried.

    A target whose messages were not tried in time gets one for its first message, with the code ``notify-timeout``.
    Never raises but for a cancellation, at which the process is ended.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nanumpay_backupd",
            "sender",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env=own_environment(),
        )
    except OSError as error:
        return _untried(parcels, [], f"the process that sends cannot be started: {os.strerror(error.errno or 0)}")
    errand = Errand(parcels=tuple((target, tuple(messages)) for target, messages in parcels))
    output = asyncio.create_task(_exchange(process, encode_errand(errand)))
    receipts: list[Receipt] = []
    try:
        async with asyncio.timeout(_limit(parcels)):
            said = await _read(process, receipts)
            await output
    except TimeoutError:
        return _untried(parcels, receipts, "the service did not answer in time", code="notify-timeout")
    finally:
        output.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Not only its end: what is left of its pipes would be met by the garbage collector when the loop is gone.
        await process.communicate()
    return _untried(parcels, receipts, f"the process that sends ended early: {said}")


async def _exchange(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()


async def _read(process: asyncio.subprocess.Process, receipts: list[Receipt]) -> str:
    """Collect the receipts until the process closes its output; returns the last of what it complained."""
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            with contextlib.suppress(msgspec.MsgspecError):
                receipts.append(msgspec.json.decode(line, type=Receipt))
        return redact((await complaints).decode("utf-8", "replace").strip())[-_TAIL:]
    finally:
        complaints.cancel()


def _limit(parcels: Parcels) -> float:
    """Return how many seconds all may take: targets go side by side, and a service may be silent several times."""
    return min(
        _LONGEST, _START + max((len(messages) * (3 * target.timeout + 5) for target, messages in parcels), default=0)
    )


def _untried(parcels: Parcels, receipts: list[Receipt], why: str, code: str = "notify-failed") -> list[Receipt]:
    """Add receipts for targets of which nothing was heard."""
    heard = {receipt.channel for receipt in receipts}
    return [
        *receipts,
        *(
            Receipt(channel=target.name, message=messages[0].id, ok=False, answer=why, code=code)
            for target, messages in parcels
            if messages and target.name not in heard
        ),
    ]
