"""The contract of a notifier, the message that it takes, what it knows of its target. No way is known here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from types import TracebackType
from typing import Self

import msgspec

from nanumpay_backupd.errors import NotifyError
from nanumpay_backupd.system.secrets import Secret

__all__ = ["AppriseTarget", "DatabaseTarget", "HeartbeatTarget", "Message", "Notifier", "Receipt", "Target", "silent"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something ready to be sent: ``subject`` is one short line (the ``title``, and from which host), ``text`` plain.

    ``html`` is the same as a page, for mails; empty: there is none.
    The other fields are those of `alerts.Notice`, for who keeps a record. ``signal`` makes it a ping: ``start``,
    ``success``, ``fail``, or ``log``, which counts for nothing.
    """

    id: str
    at: datetime
    subject: str
    title: str
    text: str
    html: str = ""
    language: str = "en"
    event: str = ""
    of: str = ""
    phase: str = "once"
    severity: str = "info"
    job: str = ""
    run: str = ""
    backup: str = ""
    reason: str = ""
    hint: str = ""
    code: str = ""
    since: datetime | None = None
    count: int = 1
    host: str = ""
    signal: str = ""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one message on one way; ``answer`` is a short sentence for people, without secrets.

    ``retryable``: it may help to try again. ``seconds`` is what it took.
    """

    channel: str
    message: str
    ok: bool
    answer: str = ""
    hint: str = ""
    code: str = ""
    retryable: bool = True
    seconds: float = 0.0


class _Target(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Where to; ``timeout`` is how many seconds the other side may be silent."""

    name: str
    timeout: float = 15.0


class AppriseTarget(_Target, frozen=True, tag="apprise"):
    """Any service that apprise knows, by its address."""

    address: Secret


class DatabaseTarget(_Target, frozen=True, tag="database"):
    """The collection `backupnotifications` of the application's database; records are kept ``days``, and ``count``."""

    uri: Secret
    database: str
    days: int = 90
    count: int = 1000


class HeartbeatTarget(_Target, frozen=True, tag="heartbeat"):
    """A dead-man switch that is pinged by HTTP."""

    url: Secret


Target = AppriseTarget | DatabaseTarget | HeartbeatTarget


class Notifier(ABC):
    """One way to tell people. Used by one thread, in a process of its own, and closed afterwards.

    `send` is all or nothing as far as the other side allows: when it returns, the other side has taken the message.
    The same message may be sent twice (nobody knows what became of the first try); a record is then there once.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def send(self, message: Message) -> str:
        """Send one message and return what the other side said to it, in a few words.

        Raises NotifyError: ``notify-address`` where the target cannot be one (not retryable), ``notify-timeout`` when
        the other side was silent for too long, ``notify-failed`` for all else. No text holds a secret after `redact`.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections; may be called twice."""


def silent(what: str, timeout: float) -> NotifyError:
    """Return the fault of a service that did not answer in time."""
    return NotifyError(
        f"{what} did not answer within {timeout:.0f} s",
        hint="is the service up, and reachable from this host?",
        code="notify-timeout",
    )
