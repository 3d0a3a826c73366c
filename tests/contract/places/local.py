"""A folder of this host in the contract suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination, LocalDestination
from tests.contract.places.base import DiskParticipant, Participant

__all__ = ["start_local"]


class LocalFolder(DiskParticipant):
    """Folders below one."""

    durable: ClassVar[bool] = True
    tells_room: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def destination(self, name: str, **changes: Any) -> Destination:
        return LocalDestination(**{"name": "disk2", "path": str(self.on_disk(name)), **changes})

    def on_disk(self, name: str) -> Path:
        return self._folder / name / "sub"

    def missing(self, name: str) -> dict[str, Any]:
        return {"path": str(self.on_disk(name) / "file" / "deep")}


@contextlib.contextmanager
def start_local(folder: Path) -> Iterator[Participant]:
    """Nothing needs to run."""
    yield LocalFolder(folder)
