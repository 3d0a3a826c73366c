"""Pure: which copies at one place to keep and which to delete, each with its reason. No files, no clock, no catalog.

Invariants (a test is named after each): the newest good copy at a place is never deleted, nor any of the newest
``min_keep``; what is pinned is never deleted, nor what a pinned slice needs; a copy that is not proven never pushes out
one that is; deleting in any interrupted order leaves what is still needed; the same input gives the same answer, and
applying the answer leaves nothing more to delete; what is deleted at one time would not be kept at a later one; one
group is judged as if the others were not there.
"""

from __future__ import annotations

from nanumpay_backupd.retention.foresight import Coming, foresee
from nanumpay_backupd.retention.place import decide, decide_place, deleting_order
from nanumpay_backupd.retention.records import Candidate, Decision, SliceCandidate
from nanumpay_backupd.retention.windows import horizon
from nanumpay_backupd.retention.words import rule_words

__all__ = [
    "Candidate",
    "Coming",
    "Decision",
    "SliceCandidate",
    "decide",
    "decide_place",
    "deleting_order",
    "foresee",
    "horizon",
    "rule_words",
]
