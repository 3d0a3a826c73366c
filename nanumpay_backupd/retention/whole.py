"""What the rule says of fulls and snapshots: by count and days, or by windows. Slices and sizes are next door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, tzinfo

from nanumpay_backupd.model import Policy
from nanumpay_backupd.retention.records import Candidate, Verdict
from nanumpay_backupd.retention.windows import Windows, periods_of, said

__all__ = ["judge"]


def judge(
    candidates: Iterable[Candidate],
    policy: Policy,
    windows: Windows | None,
    now: datetime,
    zone: tzinfo,
    places: int = 0,
) -> dict[str, list[Verdict]]:
    """Judge what stands at one place, group by group; in each group the newest come first.

    ``places`` are those that fulls take which are not among the candidates (`records.Beside`).
    """
    groups: dict[str, list[Candidate]] = {}
    for item in sorted(candidates, key=_newness, reverse=True):
        groups.setdefault(item.group, []).append(item)
    return {name: _judge_group(groups[name], policy, windows, now, zone, places) for name in sorted(groups)}


def _newness(item: Candidate) -> tuple[datetime, str]:
    return item.created, item.backup


def _judge_group(
    ordered: list[Candidate], policy: Policy, windows: Windows | None, now: datetime, zone: tzinfo, places: int
) -> list[Verdict]:
    """Judge one group by its rule, then see to what no rule may delete."""
    good = [item.backup for item in ordered if item.good]
    if not good:
        what = "snapshot of this collection" if ordered[0].group else "backup here"
        return [Verdict(item, keep=True, reason=f"kept: no {what} is verified yet", firm=True) for item in ordered]
    if windows is None:
        taken = 0 if ordered[0].group else places
        found = list(_by_count(ordered, policy, now - timedelta(days=policy.days), taken))
    else:
        found = list(_by_windows(ordered, policy, windows, zone))
    protected = set(good[: policy.min_keep])
    for verdict in found:
        item, verdict.ruled = verdict.item, verdict.keep
        if item.backup in protected:
            verdict.firm = verdict.ruled = verdict.protected = True
            if not verdict.keep:
                verdict.keep, verdict.reason = True, _never_deleted(item, policy)
        if item.pinned:
            verdict.keep, verdict.firm, verdict.reason = True, True, f"pinned: {item.pinned}"
    return found


def _never_deleted(item: Candidate, policy: Policy) -> str:
    """Say that a copy is one of the newest, which stay whatever a rule says."""
    if policy.min_keep > 1:
        what = "snapshots of a collection" if item.group else "backups"
        return f"the newest {policy.min_keep} verified {what} are never deleted"
    what = "snapshot of a collection" if item.group else "backup"
    return f"the newest verified {what} is never deleted"


def _by_count(ordered: list[Candidate], policy: Policy, limit: datetime, taken: int) -> Iterator[Verdict]:
    """Apply the application's rule: keep the newest ``count``, and of those none older than ``days``.

    Copies that are proven, and those of the old program, count. One that is not proven (corrupt, or not read back yet)
    does not count; it is deleted once ``count`` newer ones exist or it is older than ``days``.
    """
    older, newer = f"older than {policy.days} days", f"{policy.count} newer ones are kept"
    place = taken + 1
    for item in ordered:
        if item.created < limit:
            yield Verdict(item, keep=False, reason=older)
        elif place > policy.count:
            yield Verdict(item, keep=False, reason=newer)
        elif item.counts:
            told = f"number {place} of the newest {policy.count}, within {policy.days} days"
            yield Verdict(item, keep=True, reason=told)
        else:
            yield Verdict(item, keep=True, reason="not verified: kept until newer ones take its place")
        place += item.counts


def _by_windows(ordered: list[Candidate], policy: Policy, windows: Windows, zone: tzinfo) -> Iterator[Verdict]:
    """Apply the windows: all that is young, then the newest of each day, week, month and year, each for its time.

    Each period is judged by itself and over all backups, not over those that another window left: so the newest of a
    month stays for the months also while it is as young as the weeks. What is not proven takes no place: it is judged
    as if it were, and stays beside the one that does.
    """
    assert policy.tiers is not None
    days = policy.tiers.keep_all_for_days
    young = f"within the last {'day' if days == 1 else f'{days} days'}, of which all are kept"
    old = f"older than all windows, which reach back to {windows.end.astimezone(zone):%Y-%m-%d}"
    limit = windows.everything.timestamp()
    taken: dict[str, str] = {}
    for item in ordered:
        names = periods_of(item.created, zone)
        # A full is of the moment when its dump ended.
        if item.created >= windows.everything or (item.moment is not None and item.moment.seconds >= limit):
            yield Verdict(item, keep=True, reason=young)
        else:
            yield _in_window(item, names, windows, taken) or Verdict(item, keep=False, reason=old)
        if item.counts:
            for name in names:
                taken.setdefault(name, item.backup)


def _in_window(
    item: Candidate, names: tuple[str, str, str, str], windows: Windows, taken: dict[str, str]
) -> Verdict | None:
    """Judge what is too old for all to be kept; None: it is older than every window."""
    verdict = None
    for period, end in windows.thinned:
        if item.created < end:
            continue
        name = names[period]
        newer = taken.get(name)
        if newer is None:
            told = f"the newest of {said(period, name)}"
            return Verdict(item, keep=True, reason=told if item.counts else f"not verified, but {told}")
        verdict = verdict or Verdict(item, keep=False, reason=f"{said(period, name)} has a newer one: {newer}")
    return verdict
