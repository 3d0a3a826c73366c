"""Which slices are still of use at a place, and which fulls they need. Knows no rule for the fulls themselves.

By count and days, slices are kept from the oldest full on that is kept. By windows, they are kept for as long as all
backups are: every second of that time can be restored, and behind it only what the fulls are of. So the newest full
from before that time, from which its slices lead on, stays with them (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.retention.records import SliceCandidate, SliceVerdict, Verdict
from nanumpay_backupd.retention.windows import Windows
from nanumpay_backupd.timeline import Base, Piece, find_chain

__all__ = ["anchors", "first_kept", "judge_slices", "keep_pinned_chains"]

_LEADS = "it leads on from a full that is kept here"
_BEFORE = "it ends before the oldest full that is kept here"
_BEFORE_BASE = "it ends before the full from which the slices lead on"


def anchors(fulls: Sequence[Verdict], slices: Sequence[SliceCandidate], windows: Windows | None) -> list[Verdict]:
    """Return the fulls from which slices lead on, the oldest first; by windows, that one is kept for it."""
    able = _able(fulls)
    if windows is None:
        # What somebody wanted to keep is kept by itself, without all changes since.
        return [verdict for verdict in able if verdict.keep and (verdict.ruled or verdict.item.anchor)]
    before = [verdict for verdict in able if _is_before(verdict, windows.everything)]
    if not before:
        return [verdict for verdict in able if verdict.keep]
    base = before[-1]
    if not base.keep and any(item.end > _moment(base) for item in slices):
        base.keep = base.ruled = True
        base.reason = "the slices of the time of which all is kept lead on from it"
    return [verdict for verdict in able if verdict.keep and _moment(verdict) >= _moment(base)]


def _able(fulls: Iterable[Verdict]) -> list[Verdict]:
    """Return the fulls from which slices can lead on, the oldest first."""
    able = [verdict for verdict in fulls if verdict.item.good and verdict.item.moment is not None]
    return sorted(able, key=lambda verdict: (_moment(verdict), verdict.item.backup))


def _moment(verdict: Verdict) -> OpTime:
    assert verdict.item.moment is not None
    return verdict.item.moment


def _is_before(verdict: Verdict, limit: datetime) -> bool:
    return verdict.item.created < limit and _moment(verdict).seconds < limit.timestamp()


def first_kept(leads: Iterable[Verdict]) -> OpTime | None:
    """Return the moment from which slices are of use, None where no full says so."""
    return next((verdict.item.moment for verdict in leads if verdict.keep), None)


def keep_pinned_chains(fulls: Iterable[Verdict], slices: Sequence[SliceCandidate]) -> dict[str, str]:
    """Keep the full that leads to each pinned slice; returns for each slice on the way there why it stays.

    By itself a slice restores nothing.
    """
    pinned = sorted((item for item in slices if item.pinned), key=attrgetter("end", "backup"))
    if not pinned:
        return {}
    by_name = {verdict.item.backup: verdict for verdict in fulls}
    bases = [Base(verdict.item.backup, _moment(verdict)) for verdict in _able(by_name.values())]
    pieces = [Piece(item.backup, item.start, item.end, item.good) for item in slices]
    reasons: dict[str, str] = {}
    for item in pinned:
        chain = find_chain(bases, pieces, item.end)
        if chain is None:
            continue
        reason = f"needed by {item.backup}, which is pinned"
        reasons |= dict.fromkeys(chain.slices, reason)
        base = by_name[chain.base]
        if not base.firm:
            base.keep, base.firm, base.reason = True, True, reason
    return reasons


def judge_slices(
    slices: Iterable[SliceCandidate],
    needed: Mapping[str, str],
    fulls: Iterable[Verdict],
    leads: Sequence[Verdict],
    windows: Windows | None,
    limit: datetime,
) -> list[SliceVerdict]:
    """Say which slices at one place are still of use, newest first.

    ``needed`` are those that stay for a reason of their own (`keep_pinned_chains`), ``leads`` those of ``fulls`` from
    which slices lead on. A slice that ends by the oldest of them leads on from nothing. Without any, slices are kept
    back to ``limit``: what they lead on from may be elsewhere.
    """
    oldest = first_kept(leads)
    standing = oldest or max((_moment(verdict) for verdict in _able(fulls) if verdict.keep), default=None)
    before = _BEFORE if windows is None else _BEFORE_BASE
    found = []
    for item in sorted(slices, key=attrgetter("end", "backup"), reverse=True):
        if item.pinned:
            verdict = SliceVerdict(item, keep=True, reason=f"pinned: {item.pinned}", firm=True)
        elif item.backup in needed:
            verdict = SliceVerdict(item, keep=True, reason=needed[item.backup], firm=True)
        elif standing is not None and item.end <= standing:
            verdict = SliceVerdict(item, keep=False, reason=before)
        elif oldest is not None:
            verdict = SliceVerdict(item, keep=True, reason=_LEADS)
        elif item.created < limit:
            verdict = SliceVerdict(item, keep=False, reason=f"made before {limit:%Y-%m-%d}")
        else:
            verdict = SliceVerdict(item, keep=True, reason="no full here says yet whether it is needed")
        found.append(verdict)
    return found
