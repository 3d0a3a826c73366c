"""What counts as well, as the host file says it: whose word counts, table by table. Pure: reads no file, looks at nothing.

The keys and their limits are in options.py; what is done about them in `monitoring`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nanumpay_backupd.settings.schema import HealthOptions, HealthLimits

__all__ = ["limits_of"]


def limits_of(limits: HealthLimits, said: Iterable[HealthOptions]) -> HealthLimits:
    """Return what holds when tables say more than ``limits``, the most general first; each key by itself."""
    for table in said:
        values = {name: getattr(table, name) for name in table.__struct_fields__ if name in HealthLimits.__struct_fields__}
        limits = msgspec.structs.replace(
            limits, **{name: value for name, value in values.items() if value is not None}
        )
    return limits
