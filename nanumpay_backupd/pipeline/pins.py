"""Pins: made and let go in the catalog and beside the manifests, so that a catalog that is made anew has them again.

The catalog's word counts. The files, one for each pinned backup, are read only when the catalog is rebuilt.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import BY_DAEMON, Pin, from_json, to_json
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.files import fsync_dir, make_private_dir, read_json_bytes, write_atomic

__all__ = ["BY_ANOMALY", "BY_GROUP", "BY_VERIFICATION", "drop_pins", "pin", "recall_pins", "unpin"]

BY_VERIFICATION: Final = f"{BY_DAEMON}verify"
"""The owner of pins on backups that are older than one that was found damaged."""
BY_ANOMALY: Final = f"{BY_DAEMON}anomaly"
"""The owner of pins on backups that are older than one from which data may be missing."""
BY_GROUP: Final = f"{BY_DAEMON}group"
"""The owner of pins on the backups of the newest whole group."""


def pin(catalog: Catalog, layout: Layout, backup: str, owner: str, reason: str, now: datetime) -> None:
    """Keep retention from a backup that is in the catalog, for one owner; a pin that he has there gets the new reason.

    Raises BackupdError (``folder-unusable``) when it cannot be made durable: then nothing is pinned.
    """
    fresh = Pin(backup=backup, owner=owner, reason=reason, made=now)
    with catalog.together():
        catalog.pin(fresh)
        _write(layout, backup, catalog.pins(backup))


def unpin(catalog: Catalog, layout: Layout, backup: str, owner: str) -> None:
    """Let go the pin of one owner; harmless when there is none. Raises BackupdError as `pin`."""
    with catalog.together():
        catalog.unpin(backup, owner)
        _write(layout, backup, catalog.pins(backup))


def drop_pins(layout: Layout, backup: str) -> None:
    """Forget the pins of a backup that is gone."""
    with contextlib.suppress(OSError):
        layout.pins(backup).unlink(missing_ok=True)


def recall_pins(catalog: Catalog, layout: Layout, known: Iterable[Pin] = ()) -> None:
    """Give a catalog that was made anew its pins again: those ``known`` and those on the disk, of backups it has."""
    for found in (*_on_disk(layout), *known):
        with catalog.together():
            if catalog.backup(found.backup) is not None:
                catalog.pin(found)


def _on_disk(layout: Layout) -> list[Pin]:
    """Read all files; one that is damaged pins nothing."""
    found: list[Pin] = []
    with contextlib.suppress(OSError):
        for path in sorted(layout.pinned.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                found += from_json(list[Pin], read_json_bytes(path) or b"[]")
    return found


def _write(layout: Layout, backup: str, pins: list[Pin]) -> None:
    path = layout.pins(backup)
    try:
        if pins:
            make_private_dir(path.parent)
            write_atomic(path, to_json(pins))
        elif path.exists():
            path.unlink()
            fsync_dir(path.parent)
    except OSError as error:
        raise BackupdError(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}",
            hint=f"check the owner and free space of {layout.private}",
            code="folder-unusable",
        ) from None
