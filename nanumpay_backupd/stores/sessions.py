"""Sessions of uploads that were broken off, as they are noted: of which file, how far, when. Asks no server anything.

For places that tell nobody of their unfinished uploads: who has the note goes on, who lost it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from nanumpay_backupd.stores.base import CHUNK, Notes
from nanumpay_backupd.stores.payload import Counted, Payload
from nanumpay_backupd.system.clock import Clock

__all__ = ["RunningHash", "Session", "Sessions", "proven"]


class Session(msgspec.Struct):
    """One unfinished upload. ``address`` is the place's name of it: who knows it may write that one object.

    ``size`` is that of the file, ``replaces`` what the place wants to know of the object that it may replace.
    ``beginnings`` are the hashes of all before an offset, for where the session stands or will stand after what is on
    its way; ``at`` is when that was written down (UTC).
    """

    address: str
    size: int
    at: datetime
    replaces: str = ""
    beginnings: dict[int, str] = {}


class RunningHash(Protocol):
    """The hash of a file's beginning, which only grows."""

    def up_to(self, end: int) -> str:
        """Return it for all bytes before ``end``, which is not before that of an earlier call."""


class Sessions:
    """The notes about the sessions of one store."""

    def __init__(self, notes: Notes, clock: Clock) -> None:
        self._notes = notes
        self._clock = clock

    def read(self, key: str) -> Session | None:
        """Return the session of an earlier put of that name, if one is noted."""
        text = self._notes.read(key)
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=Session)
        except msgspec.MsgspecError:  # damaged, or of another version
            return None

    def begun(self, key: str, address: str, size: int, replaces: str = "") -> Session:
        """Note a session that the place just made."""
        session = Session(address, size, self._clock.now(), replaces)
        self._write(key, session)
        return session

    def sending(self, key: str, session: Session, beginnings: dict[int, str]) -> None:
        """Note where a session stands and will stand, before that is sent: so what a death leaves can be proven."""
        session.beginnings, session.at = beginnings, self._clock.now()
        self._write(key, session)

    def forget(self, key: str) -> None:
        """Note that there is no session any more."""
        self._notes.write(key, None)

    def sweep(self, before: datetime, ours: Callable[[str], bool], end: Callable[[Session], None]) -> tuple[str, ...]:
        """Forget what was last added to ``before`` a moment, and ``end`` it at the place; returns its keys."""
        gone = []
        for key in tuple(self._notes.keys()):
            session = self.read(key)
            if session is None or session.at.astimezone(UTC) >= before or not ours(key):
                continue
            end(session)
            self.forget(key)
            gone.append(key)
        return tuple(gone)

    def _write(self, key: str, session: Session) -> None:
        self._notes.write(key, msgspec.json.encode(session))


def proven(session: Session, stands: int, payload: Payload, digest: RunningHash, counted: Counted) -> bool:
    """Compare what a session has, ``stands`` bytes, with the beginning of the file, as far as its note tells.

    The note may end before ``stands``: what is between is for the place to compare in the end.
    """
    if session.size != payload.size or stands > payload.size:
        return False
    known = max((offset for offset in session.beginnings if offset <= stands), default=0)
    for end in (*range(CHUNK, known, CHUNK), known):
        digest.up_to(end)
        counted.found(0)  # so that the callback can break off
    if known and digest.up_to(known) != session.beginnings[known]:
        return False
    counted.found(stands)
    return True
