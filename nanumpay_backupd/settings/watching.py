"""What counts as well, as the host file says it: whose word counts, table by table. Pure.

The keys and their limits are in options.py; what is done about them in `monitoring`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nanumpay_backupd.settings.schema import HealthLimits, HealthOptions

__all__ = ["limits_of"]


def limits_of(limits: HealthLimits, said: Iterable[HealthOptions]) -> HealthLimits:
    """Return what holds when tables say more than ``limits``, the most general first; each key by itself."""
    for table in said:
        names = set(table.__struct_fields__) & set(HealthLimits.__struct_fields__)
        values = {name: value for name in names if (value := getattr(table, name)) is not None}
        limits = msgspec.structs.replace(limits, **values)
    return limits
