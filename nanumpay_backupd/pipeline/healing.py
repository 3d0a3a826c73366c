"""A catalog that is damaged is put aside and made anew from the manifests in the backups folder. Deletes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.pins import recall_pins
from nanumpay_backupd.pipeline.rebuild import rebuild_local
from nanumpay_backupd.system.files import publish

__all__ = ["DAMAGED", "made_anew"]

DAMAGED = "catalog-damaged"
_PARTS = ("", "-wal", "-shm")


def made_anew(path: Path, layout: Layout, now: datetime) -> tuple[Catalog, Path, int]:
    """Put the catalog at ``path`` aside and make another; returns it, where the old one is, how many backups it knows.

    Nobody else may have it open. Raises BackupdError.
    """
    aside = path.with_name(f"{path.stem}-damaged-{now:%Y%m%d-%H%M%S}{path.suffix}")
    try:
        # The log of the old one goes last: without its file SQLite takes no notice of it.
        for part in _PARTS:
            file = Path(f"{path}{part}")
            if file.exists():
                publish(file, Path(f"{aside}{part}"))
    except OSError as error:
        raise BackupdError(
            f"the damaged catalog {path} cannot be put aside: {error.strerror}",
            hint="check the owner and free space of its folder",
            code="catalog-unusable",
            retryable=True,
        ) from None
    catalog = Catalog(path)
    count = rebuild_local(catalog, layout, now)
    recall_pins(catalog, layout)
    return catalog, aside, count
