"""What retention judges and what it answers; no rules."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from nanumpay_backupd.model import OpTime

__all__ = ["Beside", "Candidate", "Decision", "SliceCandidate", "SliceVerdict", "Verdict"]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One copy of a full or a snapshot at one place. ``good``: it was proven whole.

    ``created`` is the backup's own time (UTC), ``moment`` the oplog time that a full is of, None: of none. ``pinned``
    says why it must stay, empty: the policy decides; ``anchor``: the daemon pinned it, so that slices go on leading on
    from it. Only what is in one ``group`` counts together: the fulls (empty), and the snapshots of each collection.
    ``size`` is in bytes.
    """

    backup: str
    created: datetime
    good: bool
    legacy: bool = False
    pinned: str = ""
    group: str = ""
    size: int = 0
    moment: OpTime | None = None
    anchor: bool = False

    @property
    def counts(self) -> bool:
        """Tell whether it takes a place: what is proven does, and the old program's archives."""
        return self.good or self.legacy


class SliceCandidate(msgspec.Struct, frozen=True, gc=False):
    """One copy of a slice at one place: the changes after the oplog time ``start`` and up to ``end``."""

    backup: str
    created: datetime
    end: OpTime
    pinned: str = ""
    start: OpTime = OpTime(0, 0)
    good: bool = True
    size: int = 0


class Beside(NamedTuple):
    """What stands at a place beside what is judged, and stays: fulls that take a place, and the bytes of all of it."""

    places: int = 0
    size: int = 0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What to do with one copy, and why, in a sentence for `prune`."""

    backup: str
    keep: bool
    reason: str


class Verdict(msgspec.Struct, gc=False):
    """What is thought of a candidate so far.

    ``firm``: nothing may take it away any more. ``ruled``: the rule itself keeps it, pinned or not. ``protected``: it
    is one of the newest, which are firm whatever a rule says.
    """

    item: Candidate
    keep: bool
    reason: str
    firm: bool = False
    ruled: bool = True
    protected: bool = False


class SliceVerdict(msgspec.Struct, gc=False):
    """What is thought of a slice so far; ``firm`` as in `Verdict`."""

    item: SliceCandidate
    keep: bool
    reason: str
    firm: bool = False
