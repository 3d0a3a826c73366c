"""What is done at the daemon's start about a catalog that is lost or damaged: nobody has to rebuild it by hand.

The catalog is an index and never the truth: a damaged one is put aside, and everything is learnt anew. What lies here
is read from the manifests by the ordinary look at the folder (`inventory`); that the copies elsewhere are still to be
read is kept in a file, because their places may not answer for long. Who reads them is `control.changing`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.files import rename, write_atomic

__all__ = ["ASIDE", "examine", "is_owed", "settle"]

ASIDE: Final = "catalog.db.damaged"
_OWED: Final = "copies-to-learn"
_PARTS: Final = ("", "-wal", "-shm")


def examine(state: Path, layout: Layout) -> str:
    """Look at the catalog before it is used: whether it is there and whole. One that is not whole is put aside.

    Reads all of it once. Returns what happened to it, as a sentence; empty: nothing. Raises BackupdError where the
    state folder cannot be written.
    """
    path = state / "catalog.db"
    there = path.exists()
    fault = _fault(path) if there else ""
    if not fault and (there or not _has_manifests(layout)):
        return ""
    try:
        # Before anything is put aside: what was cut off here is found again at the next start.
        write_atomic(state / _OWED, b"")
        if not fault:
            return "the catalog is gone: it is made anew from the manifests"
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):
                rename(path.with_name(path.name + part), state / (ASIDE + part))
    except OSError as error:
        raise BackupdError(
            f"the catalog {path} cannot be put aside: {error.strerror}",
            hint="check the owner and free space of its folder",
            code="catalog-unusable",
            retryable=True,
        ) from None
    return f"{fault}; it was put aside as {ASIDE}, and is made anew from the manifests"


def is_owed(state: Path) -> bool:
    """Tell whether the copies elsewhere are still to be learnt."""
    return (state / _OWED).exists()


def settle(state: Path) -> None:
    """Say that they were."""
    with contextlib.suppress(OSError):
        (state / _OWED).unlink(missing_ok=True)


def _has_manifests(layout: Layout) -> bool:
    with contextlib.suppress(OSError):
        return any(path.suffix == ".json" for path in layout.manifests.iterdir())
    return False


def _fault(path: Path) -> str:
    """Return what is wrong with a catalog; empty: nothing, or nothing that putting it aside would mend."""
    try:
        with Catalog(path) as catalog:
            ((found,), *_) = catalog.select("PRAGMA quick_check(1)")
    except BackupdError as error:
        return error.message if error.code == "catalog-damaged" else ""
    return "" if found == "ok" else f"the catalog {path} is damaged: {str(found).splitlines()[-1]}"
