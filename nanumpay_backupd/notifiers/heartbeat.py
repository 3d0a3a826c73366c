"""Pings a dead-man switch (healthchecks style): it raises the alarm when nothing comes. Only HTTP, no messages."""

from __future__ import annotations

import socket
import uuid
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import NotifyError
from nanumpay_backupd.notifiers.base import HeartbeatTarget, Message, Notifier, silent

__all__ = ["HeartbeatNotifier", "ping_url"]

_PATHS: Final = {"start": "/start", "success": "", "fail": "/fail", "log": "/log"}
_RUNS: Final = uuid.UUID("6e8bc430-9c3a-5f0e-8f2d-0a1f6f6c9a11")
"""Namespace of the ids by which a switch tells runs apart; what it is does not matter, only that it stays."""
_MOST: Final = 10_000
"""Bytes of text that go with a ping, which is what healthchecks keeps."""


class HeartbeatNotifier(Notifier):
    """Pings one address."""

    def __init__(self, target: HeartbeatTarget) -> None:
        self._target = target
        # A ping that is led elsewhere would send its text along with it.
        self._open = build_opener(_NoRedirects).open

    def send(self, message: Message) -> str:
        """See `Notifier.send`; the message says which ping by its ``signal``."""
        url = ping_url(self._target.url.reveal(), message.signal, message.run)
        host = urlsplit(url).hostname or "the address"
        request = Request(  # noqa: S310 - http and https only, as the settings check
            url,
            data=f"{message.subject}\n\n{message.text}".encode()[:_MOST],
            headers={"User-Agent": f"nanumpay-backupd/{__version__}", "Content-Type": "text/plain; charset=utf-8"},
            method="POST",
        )
        try:
            with self._open(request, timeout=self._target.timeout) as reply:
                return f"{host} answered {reply.status}"
        except HTTPError as error:
            raise _refused(host, error.code) from None
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise silent(host, self._target.timeout) from None
            raise _unreachable(host, error.reason) from None
        except TimeoutError:
            raise silent(host, self._target.timeout) from None
        except (OSError, HTTPException) as error:
            raise _unreachable(host, error) from None


def ping_url(url: str, signal: str, run: str) -> str:
    """Return the address of a ping: ``/start`` and ``/fail`` behind the path, and the run by its id."""
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, f"rid={uuid.uuid5(_RUNS, run)}" if run else ""]))
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + _PATHS[signal], query=query, fragment=""))


class _NoRedirects(HTTPRedirectHandler):
    """Takes a redirection for a refusal."""

    def redirect_request(self, *_: object) -> None:
        """Follow nowhere."""


def _refused(host: str, status: int) -> NotifyError:
    gone = status in {401, 403, 404, 410} or 300 <= status < 400
    return NotifyError(
        f"{host} answered {status} to the ping",
        hint="check the address of heartbeat in backupd.toml" if gone else "is the service well?",
        retryable=not gone,
    )


def _unreachable(host: str, reason: object) -> NotifyError:
    if isinstance(reason, socket.gaierror):
        text = "its name is not known"
    else:
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
    return NotifyError(f"{host} cannot be reached: {text}", hint="check the address and the firewall")
