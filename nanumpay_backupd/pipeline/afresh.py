"""What is still to be learnt after the catalog was lost: which copies the destinations hold. Kept as a file of state.

What lies here is read from the manifests by the ordinary look at the folder (`inventory`) or by `healing`. The places
may not answer for long, and until then nobody would delete there what retention has done with. Who reads them is
`control.changing`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.files import write_atomic

__all__ = ["is_gone", "is_owed", "owe", "settle"]

_OWED: Final = "copies-to-learn"


def is_gone(state: Path, layout: Layout) -> bool:
    """Tell whether there is no catalog, or an empty one, although there are backups of ours: no new host."""
    with contextlib.suppress(OSError):
        if (state / "catalog.db").stat().st_size > 0:
            return False
    with contextlib.suppress(OSError):
        return any(path.suffix == ".json" for path in layout.manifests.iterdir())
    return False


def owe(state: Path) -> None:
    """Say durably that the copies elsewhere are to be learnt; raises OSError."""
    write_atomic(state / _OWED, b"")


def is_owed(state: Path) -> bool:
    """Tell whether they are."""
    return (state / _OWED).exists()


def settle(state: Path) -> None:
    """Say that they were."""
    with contextlib.suppress(OSError):
        (state / _OWED).unlink(missing_ok=True)
