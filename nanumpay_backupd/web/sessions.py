"""Sessions: made at a sign-in, looked up with each request, ended by time or by hand. Stored by their digests only."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, NamedTuple

from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.web.ledger import Ledger, SessionRow

__all__ = ["Session", "Sessions", "same"]

_BYTES: Final = 32
_TOUCH: Final = 15.0
"""Seconds between two notes that a session is used."""
_AGENT: Final = 200
_CACHED: Final = 500


class Session(NamedTuple):
    """One living session; ``csrf`` stands in each of its forms."""

    key: str
    name: str
    origin: str
    csrf: str
    made: float


class Sessions:
    """The sessions. ``idle`` and ``longest`` are seconds."""

    def __init__(self, ledger: Ledger, clock: Clock, idle: float, longest: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._idle = idle
        self._longest = longest
        self._known: dict[str, SessionRow] = {}

    def begin(self, name: str, origin: str, address: str, agent: str) -> tuple[str, Session]:
        """Make a session for somebody who signed in; returns what the browser keeps, which nobody had before."""
        secret = secrets.token_urlsafe(_BYTES)
        now = self._now()
        row = SessionRow(
            _digest(secret), name, origin, secrets.token_urlsafe(_BYTES), now, now, address, agent[:_AGENT]
        )
        self._ledger.sweep(now - self._idle, now - self._longest)
        self._ledger.save_session(row)
        return secret, _session(row)

    def find(self, secret: str) -> Session | None:
        """Return the session of what a browser sent, None: there is none, or it has ended. Using it keeps it alive."""
        if not secret or len(secret) > 2 * _BYTES:
            return None
        key, now = _digest(secret), self._now()
        row = self._known.get(key) or self._ledger.session(key)
        if row is None:
            return None
        if not (now - self._idle <= row.seen <= now + _TOUCH and now - self._longest <= row.made):
            self.end(key)
            return None
        if now - row.seen >= _TOUCH:
            self._ledger.touch(key, now)
            row = row._replace(seen=now)
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[key] = row
        return _session(row)

    def end(self, key: str) -> None:
        """End one session; harmless when it has ended."""
        self._known.pop(key, None)
        self._ledger.drop_session(key)

    def end_all_of(self, name: str, origin: str) -> None:
        """End all sessions of one person."""
        self._known = {key: row for key, row in self._known.items() if (row.name, row.origin) != (name, origin)}
        self._ledger.drop_sessions_of(name, origin)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def same(given: str, wanted: str) -> bool:
    """Compare two secrets in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _session(row: SessionRow) -> Session:
    return Session(row.key, row.name, row.origin, row.csrf, row.made)
