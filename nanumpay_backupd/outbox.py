"""What still has to be sent, by which channel, and when it is tried again. Pure; nothing is sent here.

The messages of a channel keep their order. A channel that fails is tried ever more seldom; a message that has waited
too long is given up, and that is a fault of the channel, which the others are told of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from nanumpay_backupd.alerts import Delivery, Notice, merged
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.notifiers.base import Receipt

__all__ = [
    "Channel",
    "Outbox",
    "Outgoing",
    "Settled",
    "add",
    "batches",
    "faults",
    "heard",
    "next_due",
    "only",
    "settle",
]

ATTEMPTS: Final = 8
"""How often a message is tried: within about an hour."""
_PATIENCE: Final = timedelta(hours=6)
"""How old a message may become while others of its channel are tried before it."""
_FIRST: Final = 30.0
_LONGEST: Final = 1800.0
_MOST: Final = 200
"""Messages that may wait for one channel."""
_AT_ONCE: Final = 20
"""Messages that are sent in one go."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One notice on its way to one channel."""

    channel: str
    notice: Notice
    attempts: int = 0


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel whose last message did not arrive. ``lost``: one was given up. ``due``: when it is tried again."""

    since: datetime
    due: datetime
    failures: int = 1
    answer: str = ""
    hint: str = ""
    code: str = ""
    lost: bool = False


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """All that waits, and which channels fail. ``last`` is when each channel took something last."""

    queue: tuple[Outgoing, ...] = ()
    failing: dict[str, Channel] = {}
    last: dict[str, datetime] = {}


class Settled(NamedTuple):
    """What came of sending: the outbox as it is now, what arrived, what waits for another try, what was given up."""

    outbox: Outbox
    sent: list[tuple[Outgoing, Receipt]]
    waiting: list[tuple[Outgoing, Receipt]]
    lost: list[tuple[Outgoing, Receipt]]


def add(outbox: Outbox, deliveries: Iterable[Delivery]) -> Outbox:
    """Put deliveries into the queue; of too many for one channel the oldest go."""
    queue = [*outbox.queue, *(Outgoing(channel=channel, notice=notice) for channel, notice in deliveries)]
    for channel in {item.channel for item in queue}:
        surplus = [item for item in queue if item.channel == channel][:-_MOST]
        queue = [item for item in queue if item not in surplus] if surplus else queue
    return msgspec.structs.replace(outbox, queue=tuple(queue))


def only(outbox: Outbox, channels: Collection[str]) -> Outbox:
    """Forget the channels that are no more."""
    return Outbox(
        queue=tuple(item for item in outbox.queue if item.channel in channels),
        failing={name: item for name, item in outbox.failing.items() if name in channels},
        last={name: at for name, at in outbox.last.items() if name in channels},
    )


def batches(
    outbox: Outbox, now: datetime, *, together: int, whole: Collection[str] = ()
) -> tuple[Outbox, dict[str, list[Outgoing]]]:
    """Return what is to be sent now, by channel.

    What has piled up for a channel becomes one message, but for the channels in ``whole``, and but for reports.
    """
    found: dict[str, list[Outgoing]] = {}
    for item in outbox.queue:
        failing = outbox.failing.get(item.channel)
        if failing is None or _wait(failing, now) <= 0:
            found.setdefault(item.channel, []).append(item)
    queue = list(outbox.queue)
    for channel, items in found.items():
        piled = [item for item in items if item.notice.event is not Event.REPORT]
        if len(piled) > together and channel not in whole:
            one = Outgoing(
                channel=channel,
                notice=merged([item.notice for item in piled], now),
                attempts=max(item.attempts for item in piled),
            )
            kept = [one, *(item for item in items if item.notice.event is Event.REPORT)]
            queue = [*(item for item in queue if item.channel != channel), *kept]
            found[channel] = kept
    return msgspec.structs.replace(outbox, queue=tuple(queue)), {
        name: items[:_AT_ONCE] for name, items in found.items()
    }


def _wait(failing: Channel, now: datetime) -> float:
    """Return the seconds until a channel is tried again; a time that is too far away was noted by a wrong clock."""
    wait = max(0.0, (failing.due - now).total_seconds())
    return wait if wait <= _LONGEST else 0.0


def next_due(outbox: Outbox, now: datetime) -> float | None:
    """Return the seconds until something is to be sent; None: nothing waits."""
    waits = [
        _wait(outbox.failing[item.channel], now) if item.channel in outbox.failing else 0.0 for item in outbox.queue
    ]
    return min(waits, default=None)


def settle(outbox: Outbox, receipts: Sequence[Receipt], now: datetime) -> Settled:
    """Draw the conclusions from what came of sending."""
    by_item = {(receipt.channel, receipt.message): receipt for receipt in receipts}
    settled = Settled(outbox, [], [], [])
    failing, last = dict(outbox.failing), dict(outbox.last)
    queue: list[Outgoing] = []
    for item in outbox.queue:
        receipt = by_item.get((item.channel, item.notice.id))
        if receipt is None:
            queue.append(item)
            continue
        tried = msgspec.structs.replace(item, attempts=item.attempts + 1)
        if receipt.ok:
            settled.sent.append((tried, receipt))
            failing.pop(item.channel, None)
            last[item.channel] = now
        else:
            old = now - item.notice.at > _PATIENCE
            lost = old or not receipt.retryable or tried.attempts >= ATTEMPTS
            (settled.lost if lost else settled.waiting).append((tried, receipt))
            queue += [] if lost else [tried]
            failing[item.channel] = _failed(failing.get(item.channel), receipt, now, lost=lost)
    return settled._replace(outbox=Outbox(queue=tuple(queue), failing=failing, last=last))


def heard(outbox: Outbox, receipt: Receipt, now: datetime, *, lost: bool) -> Outbox:
    """Take note of what came of a message that was not in the queue: a ping, or a test, which nobody misses."""
    failing, last = dict(outbox.failing), dict(outbox.last)
    if receipt.ok:
        failing.pop(receipt.channel, None)
        last[receipt.channel] = now
    else:
        failing[receipt.channel] = _failed(failing.get(receipt.channel), receipt, now, lost=lost)
    return Outbox(queue=outbox.queue, failing=failing, last=last)


def _failed(before: Channel | None, receipt: Receipt, now: datetime, *, lost: bool) -> Channel:
    count = before.failures + 1 if before is not None else 1
    pause = min(_FIRST * 2 ** min(count - 1, 10), _LONGEST)
    return Channel(
        since=before.since if before is not None else now,
        due=now + timedelta(seconds=pause),
        failures=count,
        answer=receipt.answer,
        hint=receipt.hint,
        code=receipt.code,
        lost=lost or (before is not None and before.lost),
    )


def faults(outbox: Outbox) -> list[Fault]:
    """Say which channels fail. The other channels are told as soon as a message was given up."""
    return [
        Fault(
            key=f"channel:{name}",
            text=f"channel {name}: the last message did not arrive: {channel.answer}",
            severity=Severity.WARNING,
            event=Event.CHANNEL_FAILED if channel.lost else None,
            reason=channel.answer,
            hint="; ".join(filter(None, [channel.hint, f"then: backupctl notify test {name}"])),
            code=channel.code,
        )
        for name, channel in outbox.failing.items()
    ]
