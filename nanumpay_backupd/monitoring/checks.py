"""One finding of the monitor, and its names. Nothing is judged here."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "AGE",
    "CHAIN",
    "EXPIRY",
    "FAILED",
    "ODD",
    "OK",
    "REACH",
    "ROOM",
    "RUNS",
    "SIZE",
    "VERIFIED",
    "WARNING",
    "Check",
]

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"

RUNS: Final = "runs"
REACH: Final = "reachable"
AGE: Final = "age"
SIZE: Final = "size"
ODD: Final = "content"
VERIFIED: Final = "verified"
CHAIN: Final = "changes"
ROOM: Final = "room"
EXPIRY: Final = "expiry"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. ``destination`` empty: it is of the job as a whole. ``value`` is the finding in a word or two.

    ``code`` is that of the fault where it is not ok. ``told``: keys of faults by which people are told of the same, one
    of which is enough (with ``=`` and a code: only of that cause); ``silent``: nobody is told. ``about`` tells findings
    of one check apart.
    """

    job: str
    destination: str
    check: str
    state: str
    message: str
    hint: str = ""
    value: str = ""
    code: str = ""
    told: tuple[str, ...] = ()
    about: str = ""
    backup: str = ""
    silent: bool = False

    @property
    def key(self) -> str:
        """Return the key of the fault that it is where it is not ok."""
        if self.check == ROOM:  # a disk is one thing, whatever lies there
            return f"{ROOM}:{self.about}"
        return "-".join(part for part in (self.check, self.destination, self.about) if part) + f":{self.job}"
