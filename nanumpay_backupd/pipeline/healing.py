"""A catalog that is lost or damaged is made anew from the manifests in the backups folder. Deletes nothing.

The catalog is an index and never the truth, so nobody has to rebuild it by hand. That the copies elsewhere are still to
be read is kept in a file, because their places may not answer for long. Who reads them is `control.changing`.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import recall_pins
from nanumpay_backupd.pipeline.rebuild import rebuild_local
from nanumpay_backupd.system.files import publish, write_atomic

__all__ = ["DAMAGED", "is_owed", "made_anew", "notice_loss", "settle"]

DAMAGED: Final = "catalog-damaged"
_PARTS: Final = ("", "-wal", "-shm")
_OWED: Final = "copies-to-learn"


def notice_loss(path: Path, layout: Layout) -> bool:
    """Tell whether the catalog at ``path`` is gone although there are manifests; then the copies elsewhere are owed.

    What lies here is read by the ordinary look at the folder (`inventory`). Raises BackupdError.
    """
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size:
            return False
    if not _has_manifests(layout):
        return False
    _owe(path)
    return True


def made_anew(path: Path, layout: Layout, now: datetime) -> tuple[Catalog, Path, int]:
    """Put the catalog at ``path`` aside and make another; returns it, where the old one is, how many backups it knows.

    Nobody else may have it open. Raises BackupdError.
    """
    aside = path.with_name(f"{path.stem}-damaged-{now:%Y%m%d-%H%M%S}{path.suffix}")
    # Before anything is put aside: what was cut off here is found again at the next start.
    _owe(path)
    try:
        # The log of the old one goes last: without its file SQLite takes no notice of it.
        for part in _PARTS:
            file = Path(f"{path}{part}")
            if file.exists():
                publish(file, Path(f"{aside}{part}"))
    except OSError as error:
        raise _unusable(path, error) from None
    catalog = Catalog(path)
    count = rebuild_local(catalog, layout, now)
    recall_pins(catalog, layout)
    return catalog, aside, count


def is_owed(state: Path) -> bool:
    """Tell whether the copies elsewhere are still to be learnt."""
    return (state / _OWED).exists()


def settle(state: Path) -> None:
    """Say that they were."""
    with contextlib.suppress(OSError):
        (state / _OWED).unlink(missing_ok=True)


def _owe(path: Path) -> None:
    try:
        write_atomic(path.with_name(_OWED), b"")
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> BackupdError:
    return BackupdError(
        f"the damaged catalog {path} cannot be put aside: {error.strerror}",
        hint="check the owner and free space of its folder",
        code="catalog-unusable",
        retryable=True,
    )


def _has_manifests(layout: Layout) -> bool:
    with contextlib.suppress(OSError):
        return any(path.suffix == ".json" for path in layout.manifests.iterdir())
    return False
