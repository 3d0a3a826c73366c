"""How long to keep, as the host file says it: what contradicts itself, and whose word counts. Pure: reads no file."""

from __future__ import annotations

from typing import Final

import msgspec

from nanumpay_backupd.model import Policy, Tiers
from nanumpay_backupd.settings.problems import Problems
from nanumpay_backupd.settings.schema import Retention

__all__ = ["check_retention", "policy_of"]

_COUNTED: Final = ("count", "days")
_EVERYTHING: Final = "keep_all_for_days"


def check_retention(said: Retention, path: str, problems: Problems) -> None:
    """Note what one table says that cannot be meant together."""
    counted = [name for name in _COUNTED if getattr(said, name) is not None]
    windows = [name for name in Tiers.__struct_fields__ if getattr(said, name) is not None]
    if counted and windows:
        problems.add(
            f"{path}.{counted[0]}",
            f"contradicts {windows[0]}: the one keeps by number and age, the other by windows of time",
            "keep count and days, or the keep_… keys; max_total_size and min_keep go with both",
        )
    elif windows and said.keep_all_for_days is None:
        problems.add(
            f"{path}.{_EVERYTHING}",
            f"is missing: {windows[0]} begins where that window ends",
            f"add for example: {_EVERYTHING} = 7",
        )
    if said.min_keep is not None and said.count is not None and said.min_keep > said.count:
        problems.add(
            f"{path}.min_keep",
            f"is {said.min_keep}, but count keeps only {said.count}",
            f"write min_keep = {said.count} or less, or a larger count",
        )


def policy_of(policy: Policy, *said: Retention) -> Policy:
    """Return what holds when tables say more than ``policy``, the most general first.

    The rule (count and days, or windows), the size and the number that always stay are taken each from the last table
    that says it. A rule is taken as a whole: what its table leaves out is the default, not a more general table's.
    """
    for table in said:
        if table.keep_all_for_days is not None:
            windows = {name: getattr(table, name) or 0 for name in Tiers.__struct_fields__}
            policy = msgspec.structs.replace(policy, tiers=Tiers(**windows))
        elif table.count is not None or table.days is not None:
            counted = {name: value for name in _COUNTED if (value := getattr(table, name)) is not None}
            policy = Policy(**counted, max_total_size=policy.max_total_size, min_keep=policy.min_keep)
        if table.max_total_size is not None:
            policy = msgspec.structs.replace(policy, max_total_size=table.max_total_size)
        if table.min_keep is not None:
            policy = msgspec.structs.replace(policy, min_keep=table.min_keep)
    return policy
