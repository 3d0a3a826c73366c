"""Fulls out of turn: what asks for one, and how long to wait where the last one did not help. Starts nothing.

Every full pushes an older one out of the retention, so fulls that help nothing would eat up the history. One that was
good, but after which the slices or the proofs still fail, is therefore not followed by another for a day; where each
helps for a while only, each waits longer than the one before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["Cause", "Repairs", "cause_of"]

_FIRST: Final = 3600.0
"""Seconds from the second one that helped to the third, which is one too many; doubled each time, up to a day."""
_DAY: Final = 86400.0
_AFTER_FAULT: Final = 600.0
_LONGEST_AFTER_FAULT: Final = 3600.0
"""Seconds until one that failed, and so pushed nothing out, is tried again; doubled each time."""
_WANT_FULL: Final = frozenset({"chain-broken", "chain-missing"})
_PROOFS: Final = frozenset({"verify", "drill"})


class Cause(StrEnum):
    """What a full is wanted for: slices have to follow on from it, or the proof of an older one failed."""

    STREAM = "stream"
    PROOF = "proof"


class _Pace:
    """How often one job's fulls for one cause were made lately. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.begun = float("-inf")
        self.next = float("-inf")
        self.pause = 0.0
        self.faults = 0
        self.held = False

    def begin(self, now: float) -> None:
        """One is begun; until it is known what came of it, the next has to wait."""
        if now - self.begun > _DAY:
            self.pause = 0.0
        self.begun = now
        self.next = now + _AFTER_FAULT

    def made(self, now: float) -> None:
        """It is good; whether it helps shows later."""
        self.faults = 0
        self.held = True
        self.next = now + _DAY

    def failed(self, now: float) -> None:
        """It was not made."""
        self.next = now + min(_AFTER_FAULT * 2**self.faults, _LONGEST_AFTER_FAULT)
        self.faults += 1

    def helped(self) -> None:
        """What it was wanted for is well again."""
        if self.held:
            self.held = False
            self.next = self.begun + self.pause
            self.pause = min(max(_FIRST, self.pause * 2), _DAY)


class Repairs:
    """The fulls that are wanted out of turn. ``now`` is always monotonic seconds."""

    def __init__(self) -> None:
        self._wanted: dict[str, set[Cause]] = {}
        self._making: dict[str, set[Cause]] = {}
        self._paces: dict[tuple[str, Cause], _Pace] = {}

    def ask(self, job: str, cause: Cause) -> None:
        """Want a full of a job."""
        self._wanted.setdefault(job, set()).add(cause)

    def wanted(self) -> list[str]:
        """Return the jobs of which a full is wanted."""
        return list(self._wanted)

    def forget(self, job: str) -> None:
        """Want none any more."""
        self._wanted.pop(job, None)

    def wait(self, job: str, now: float) -> float:
        """Return the seconds until the one that is wanted may be made."""
        causes = self._wanted.get(job, ())
        return max(0.0, min((self._pace(job, cause).next for cause in causes), default=now) - now)

    def begun(self, job: str, now: float) -> None:
        """Note that it is made now."""
        self._making[job] = self._wanted.pop(job, set())
        for cause in self._making[job]:
            self._pace(job, cause).begin(now)

    def ended(self, job: str, now: float, *, good: bool, again: bool) -> None:
        """Note that a full of the job ended, whoever wanted it; one of ours that failed is wanted ``again``."""
        causes = self._making.pop(job, set())
        if good:
            self.forget(job)
        for cause in causes:
            if good:
                self._pace(job, cause).made(now)
            else:
                self._pace(job, cause).failed(now)
                if again:
                    self.ask(job, cause)

    def mended(self, job: str, cause: Cause) -> None:
        """Note that all is well again with what a full is wanted for."""
        wanted = self._wanted.get(job, set())
        wanted.discard(cause)
        if not wanted:
            self.forget(job)
        self._pace(job, cause).helped()

    def _pace(self, job: str, cause: Cause) -> _Pace:
        return self._paces.setdefault((job, cause), _Pace())


def cause_of(action: str, code: str) -> Cause | None:
    """Return what a new full is needed for after a run that failed so; None: one would not help."""
    if action == "slice":
        return Cause.STREAM if code in _WANT_FULL else None
    failed = code.startswith("verify-") or code in {"drill-failed", "artifact-missing"}
    return Cause.PROOF if action in _PROOFS and failed else None
