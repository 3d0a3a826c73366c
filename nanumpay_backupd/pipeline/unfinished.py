"""Unfinished uploads: the drivers' notes about them, kept in the catalog, and an end to those nobody goes on with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, parse_artifact
from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Store

__all__ = ["ABANDONED", "KeptNotes", "sweep_unfinished"]

ABANDONED: Final = timedelta(days=7)
"""So old is what is removed; a bucket's lifecycle rule for the same should not be shorter."""
_EACH: Final = timedelta(days=1)


class KeptNotes:
    """The notes of one destination's driver (`stores.base.Notes`), in the catalog at ``path``.

    They outlive the process. A note is a help and no condition: where the catalog cannot be used, there is none.
    """

    def __init__(self, path: Path, destination: str) -> None:
        self._path = path
        self._destination = destination

    def read(self, key: str) -> bytes | None:
        """Return what was written last, or None."""
        with contextlib.suppress(BackupdError), Catalog(self._path) as catalog:
            return catalog.remembered(self._name(key))
        return None

    def write(self, key: str, note: bytes | None) -> None:
        """Keep a note, or forget it."""
        # A connection of its own each time: uploads run in threads, and a catalog belongs to one.
        with contextlib.suppress(BackupdError), Catalog(self._path) as catalog:
            if note is None:
                catalog.forget(self._name(key))
            else:
                catalog.remember(self._name(key), note)

    def keys(self) -> Iterable[str]:
        """Return the keys of which there is a note."""
        start = self._name("")
        with contextlib.suppress(BackupdError), Catalog(self._path) as catalog:
            return [name.removeprefix(start) for name in catalog.remembered_keys(start)]
        return ()

    def _name(self, key: str) -> str:
        return f"upload:{self._destination}:{key}"


def sweep_unfinished(
    destinations: Iterable[Destination], catalog: Catalog, now: datetime, open_store: Callable[[Destination], Store]
) -> list[str]:
    """Remove what uploads that nobody goes on with left at the places; returns ``KEY at PLACE``. Looks once a day.

    A copy that is still queued is gone on with, however old it is. A place where one waits because of a fault is left
    alone, as it may be silent, and the run would wait for it. What cannot be looked for or removed is left: it
    takes room, and nothing else; a fault of the place is told by what it hinders.
    """
    gone = []
    for destination in destinations:
        name = f"swept:{destination.name}"
        last = catalog.remembered(name)
        if last is not None and abs(now - datetime.fromisoformat(last.decode())) < _EACH:
            continue
        waiting = [copy for copy in catalog.pending_copies() if copy.destination == destination.name]
        if any(copy.error is not None for copy in waiting):
            continue
        catalog.remember(name, now.isoformat().encode())
        queued = {copy.key for copy in waiting}

        def ours(key: str, queued: set[str] = queued) -> bool:
            return key not in queued and parse_artifact(key.removesuffix(MANIFEST_SUFFIX)) is not None

        with contextlib.suppress(BackupdError), open_store(destination) as store:
            for key in store.sweep(now - ABANDONED, ours):
                catalog.forget(f"upload:{destination.name}:{key}")
                gone.append(f"{key} at {destination.name}")
    return gone
