"""A policy in words, for people. Decides nothing."""

from __future__ import annotations

from nanumpay_backupd.model import Policy, Tiers
from nanumpay_backupd.system.units import human_size

__all__ = ["rule_words"]


def rule_words(policy: Policy) -> str:
    """Complete the sentence "keeps …": ``7, at most 30 days``, ``all of 7 days, then one a day for 16 days``."""
    parts = [_windows(policy.tiers) if policy.tiers is not None else _counted(policy)]
    if policy.max_total_size:
        parts.append(f"at most {human_size(policy.max_total_size)}")
    if policy.min_keep > 1:
        parts.append(f"never fewer than {policy.min_keep}")
    return "; ".join(parts)


def _counted(policy: Policy) -> str:
    return f"{policy.count}, at most {_many(policy.days, 'day')}"


def _windows(tiers: Tiers) -> str:
    thinned = [
        f"{each} for {_many(length, unit)}"
        for each, length, unit in (
            ("a day", tiers.keep_daily_for_days, "day"),
            ("a week", tiers.keep_weekly_for_weeks, "week"),
            ("a month", tiers.keep_monthly_for_months, "month"),
            ("a year", tiers.keep_yearly_for_years, "year"),
        )
        if length
    ]
    everything = f"all of {_many(tiers.keep_all_for_days, 'day')}"
    return f"{everything}, then one {', '.join(thinned)}" if thinned else everything


def _many(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
