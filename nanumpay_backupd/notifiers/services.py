"""Sends messages by apprise: mail, Slack, Discord, Telegram, webhooks, any of its addresses. Imported only to send.

apprise answers yes or no; why not is in what it logs, so that is listened to here. What it logs may hold tokens: the
parts of an address that apprise itself hides are registered as secrets, and all text passes `redact`.
"""

from __future__ import annotations

import contextvars
import logging
import re
from typing import Any, Final
from urllib.parse import unquote

import apprise
from apprise import AppriseAsset, NotifyFormat, NotifyType
from apprise.plugins.base import NotifyBase

from nanumpay_backupd.errors import NotifyError
from nanumpay_backupd.notifiers.base import AppriseTarget, Message, Notifier, silent
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["ServiceNotifier", "check_address"]

_TYPES: Final = {"error": NotifyType.FAILURE, "warning": NotifyType.WARNING, "info": NotifyType.INFO}
_MAILS: Final = frozenset(
    "mailto mailtos mailgun sendgrid ses postmark sparkpost smtp2go brevo mailersend resend o365 azure".split()
)
"""The services that show a page as it is; others take HTML to mean a few tags of their own."""
_PIECES: Final = re.compile(r"[/@:?&=,]+")
_ERROR_NUMBER: Final = re.compile(r"error=(\d{3})\b|\((5\d\d), b?['\"]")
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 410, 530, 534, 535, 550, 554})
"""HTTP and SMTP answers after which the same message will be refused again."""
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ([A-Z][^'\"\])>]*)")
_TELLING: Final = re.compile(r"Exception: (.*)|(.*certificate verify failed.*)", re.DOTALL)
_LONGEST: Final = 300
_TOKEN: Final = 8
"""So long is a part of a webhook's path at least that may be a token and no word."""
_heard: contextvars.ContextVar[list[logging.LogRecord] | None] = contextvars.ContextVar("heard", default=None)


class _Ear(logging.Handler):
    """Keeps what apprise logs for whoever is sending just now; contexts are handed on to its threads."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        heard = _heard.get()
        if heard is not None:
            heard.append(record)


_log = logging.getLogger("apprise")
_log.setLevel(logging.DEBUG)
_log.propagate = False
_log.handlers[:] = [_Ear()]


class ServiceNotifier(Notifier):
    """One apprise address."""

    def __init__(self, target: AppriseTarget) -> None:
        """Read the address; raises NotifyError (``notify-address``) when apprise does not understand it."""
        self._timeout = target.timeout
        self._plugin = _plugin(target.address, target.name)
        for name in ("socket_connect_timeout", "socket_read_timeout"):
            # What the address itself asks for (?cto=, ?rto=) stays.
            if getattr(self._plugin, name) == getattr(type(self._plugin), name):
                setattr(self._plugin, name, target.timeout)
        self._service = apprise.Apprise(asset=_asset())
        self._service.add(self._plugin)

    def send(self, message: Message) -> str:
        """See `Notifier.send`."""
        page = bool(message.html) and _shows_pages(self._plugin)
        heard: list[logging.LogRecord] = []
        token = _heard.set(heard)
        try:
            taken = self._service.notify(
                title=message.subject,
                body=message.html if page else message.text,
                body_format=NotifyFormat.HTML if page else NotifyFormat.TEXT,
                notify_type=_TYPES[message.severity],
            )
        finally:
            _heard.reset(token)
        name = str(self._plugin.service_name)
        if not taken:
            raise self._refusal(name, heard)
        return f"{name} took it"

    def _refusal(self, name: str, heard: list[logging.LogRecord]) -> NotifyError:
        """Put into a sentence why a service did not take a message."""
        warnings = [item.getMessage() for item in heard if item.levelno >= logging.WARNING]
        depths = [item.getMessage() for item in heard if item.levelno < logging.WARNING]
        reason = next(filter(None, map(_depth, reversed(depths))), "")
        said = " ".join(dict.fromkeys(" ".join(text.split()) for text in warnings)) or "it did not say why"
        if reason in {"timed out", "Operation timed out", "Connection timed out"}:
            return silent(name, self._timeout)
        numbers = [int(one or two) for one, two in _ERROR_NUMBER.findall(" ".join([*warnings, *depths]))]
        final = any(number in _FINAL for number in numbers)
        text = redact(f"{name}: {said}" + (f" ({reason})" if reason and reason not in said else ""))
        return NotifyError(
            text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…",
            hint="check the address of this channel: login, token, recipient"
            if final
            else "check the address of this channel, the service, and the firewall between",
            retryable=not final,
        )


def check_address(address: Secret, name: str) -> str:
    """Return the name of the service that an address means; raises NotifyError (``notify-address``). Sends nothing."""
    return str(_plugin(address, name).service_name)


def _asset() -> AppriseAsset:
    # Nothing is kept on the disk, and no message refers to a picture on a foreign server.
    return AppriseAsset(
        app_id="nanumpay-backupd",
        app_desc="nanumpay-backupd",
        app_url="",
        image_url_mask=None,
        image_url_logo=None,
        async_mode=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )


def _plugin(address: Secret, name: str) -> NotifyBase:
    heard: list[logging.LogRecord] = []
    token = _heard.set(heard)
    try:
        plugin: Any = apprise.Apprise.instantiate(address.reveal(), asset=_asset())
    finally:
        _heard.reset(token)
    if not isinstance(plugin, NotifyBase):
        scheme = address.reveal().partition("://")[0]
        raise NotifyError(
            f"apprise does not understand the {scheme}:// address of channel {name}",
            hint=f"correct channel.{name}.address; what belongs into it: apprise's page about {scheme}",
            code="notify-address",
            retryable=False,
        )
    if "overflow=" not in address.reveal():
        # A long message arrives in pieces instead of being refused.
        plugin.overflow_mode = apprise.OverflowMode.SPLIT
    _hide(plugin)
    return plugin


def _hide(plugin: Any) -> None:
    """Register as secrets those parts of an address that apprise would not show, and a webhook's path."""
    shown, hidden = (_PIECES.split(plugin.url(privacy=privacy)) for privacy in (False, True))
    pieces = [one for one, other in zip(shown, hidden, strict=False) if one != other]
    if not _schemes(plugin) & _MAILS:
        pieces += [part for part in (getattr(plugin, "fullpath", "") or "").split("/") if len(part) >= _TOKEN]
    for piece in pieces:
        Secret(unquote(piece))


def _shows_pages(plugin: Any) -> bool:
    """Tell whether a service is a mail that was not asked to be plain text."""
    formats = plugin.notify_format
    first = formats[0] if isinstance(formats, tuple) else formats
    return bool(_schemes(plugin) & _MAILS) and first == NotifyFormat.HTML


def _schemes(plugin: Any) -> set[str]:
    return {*_words(plugin.protocol), *_words(plugin.secure_protocol)}


def _words(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _depth(text: str) -> str:
    """Return what lies behind a failure, from a line that apprise logs for developers; empty: nothing."""
    found = _TELLING.search(text)
    if found is None:
        return ""
    detail = found[1] or found[2]
    number = _ERRNO.search(detail)
    if number is not None:
        return number[1].strip()
    for sign, words in (("timed out", "timed out"), ("certificate verify failed", "certificate verify failed")):
        if sign in detail:
            return words
    return " ".join(detail.split())[:_LONGEST]
