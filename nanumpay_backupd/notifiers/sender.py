"""The process that sends: an errand on standard input, a receipt for each message as a line on standard output.

A process of its own, so that a service that hangs, or a driver that fails, touches neither the daemon nor a run. It
sends to all targets side by side and to each in order, up to the first that may arrive later, and ends. When to try
again is decided in `outbox`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, NotifyError
from nanumpay_backupd.notifiers.base import Message, Notifier, Receipt, Target
from nanumpay_backupd.notifiers.errand import Errand, decode_errand
from nanumpay_backupd.notifiers.factory import open_notifier
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.secrets import redact

__all__ = ["main", "perform"]

_EXIT_OK: Final = 0


def perform(errand: Errand, clock: Clock, tell: Callable[[Receipt], None]) -> None:
    """Send what can be sent; ``tell`` hears of each message that was tried, from several threads but one at a time."""
    lock = threading.Lock()

    def settled(receipt: Receipt) -> None:
        with lock:
            tell(receipt)

    # Daemons: a driver that never returns must not keep the process.
    threads = [
        threading.Thread(target=_deliver, args=(target, messages, clock, settled), name=target.name, daemon=True)
        for target, messages in errand.parcels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _deliver(target: Target, messages: Iterable[Message], clock: Clock, tell: Callable[[Receipt], None]) -> None:
    notifier: Notifier | None = None
    try:
        for message in messages:
            since = clock.monotonic()
            try:
                notifier = notifier or open_notifier(target)
                answer, fault = notifier.send(message), None
            except BackupdError as error:
                answer, fault = error.message, error
            except Exception as error:  # noqa: BLE001 - whatever a driver does, the other messages go on
                fault = NotifyError(f"a defect while sending: {type(error).__name__}: {error}", code="internal")
                answer = fault.message
            tell(
                Receipt(
                    channel=target.name,
                    message=message.id,
                    ok=fault is None,
                    answer=redact(answer),
                    hint=fault.hint if fault is not None else "",
                    code=fault.code if fault is not None else "",
                    retryable=fault is None or fault.retryable,
                    seconds=round(clock.monotonic() - since, 3),
                )
            )
            if fault is not None and fault.retryable:
                return  # what follows would wait for the same silence; its turn is when this one has arrived
    finally:
        if notifier is not None:
            notifier.close()


def main() -> int:
    """Run as the process that sends; the exit code is 0 also where nothing arrived: the receipts tell."""
    errand = decode_errand(sys.stdin.buffer.read())

    def tell(receipt: Receipt) -> None:
        sys.stdout.write(msgspec.json.encode(receipt).decode() + "\n")
        sys.stdout.flush()

    perform(errand, SystemClock(), tell)
    return _EXIT_OK
