"""What a type of destination has to bring into the contract suite: a `Participant`. No server is started here."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Keeping, Notes, Store

__all__ = ["DiskParticipant", "Participant", "Place"]


class Participant(ABC):
    """A running server (or folder) with room for any number of destinations, each called by a ``name``.

    What it has is looked at and changed by another way than the store's: its disk, its own client.
    """

    durable: ClassVar[bool] = False
    """What a put says of it (`PutResult.durable`)."""
    keeping: ClassVar[Keeping] = Keeping()
    """What it says that it keeps of what is deleted."""
    tells_room: ClassVar[bool] = False
    """Whether it tells how much room there is."""
    settling: ClassVar[float] = 0.0
    """Seconds until it notices what `plant` did."""

    many: ClassVar[int] = 1100
    """So many objects are more than it gives at a time, or as many as can be planted there in a second or two."""

    takes_empty: ClassVar[bool] = True
    """Whether it stores an object without content; no backup is one."""

    @abstractmethod
    def destination(self, name: str, **changes: Any) -> Destination:
        """Return settings of a destination that does not exist yet; ``changes`` replace single ones."""

    @abstractmethod
    def names(self, name: str) -> set[str]:
        """Return what really is directly in the destination's root: hidden files, unfinished uploads and all."""

    @abstractmethod
    def content(self, name: str, key: str) -> bytes:
        """Return what the server holds of an object."""

    @abstractmethod
    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        """Put files there; paths are relative to the destination's root, with folders and ``..`` in them."""

    @abstractmethod
    def made(self, name: str) -> bool:
        """Tell whether the destination's root exists."""

    def wrong_login(self, wrong: str) -> dict[str, Any]:
        """Return changes to the settings with which the server refuses the login; ``wrong`` is the secret."""
        raise NotImplementedError

    def elsewhere(self, host: str, port: int) -> dict[str, Any]:
        """Return changes to the settings that lead to another server."""
        raise NotImplementedError


class DiskParticipant(Participant):
    """One whose objects are plain files on this disk."""

    @abstractmethod
    def on_disk(self, name: str) -> Path:
        """Return the folder that is the destination's root."""

    def names(self, name: str) -> set[str]:
        """See `Participant.names`."""
        folder = self.on_disk(name)
        return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()

    def content(self, name: str, key: str) -> bytes:
        """See `Participant.content`."""
        return (self.on_disk(name) / key).read_bytes()

    def plant(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Participant.plant`."""
        for path, data in files.items():
            target = self.on_disk(name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def made(self, name: str) -> bool:
        """See `Participant.made`."""
        return self.on_disk(name).exists()


@dataclass
class Place:
    """An empty destination of some kind."""

    kind: str
    store: Store
    participant: Participant
    name: str
    notes: Notes
    """What the store notes of its unfinished uploads."""

    def destination(self, **changes: Any) -> Destination:
        """Return its settings; keyword arguments change single ones."""
        return self.participant.destination(self.name, **changes)

    def plant(self, files: Mapping[str, bytes]) -> None:
        """Put files there without the store, and let the server notice."""
        self.participant.plant(self.name, files)
        time.sleep(self.participant.settling)

    def names(self) -> set[str]:
        """Return what the server really has there, hidden files and all."""
        return self.participant.names(self.name)

    def content(self, key: str) -> bytes:
        """Return what the server really holds of an object."""
        return self.participant.content(self.name, key)

    def made(self) -> bool:
        """Tell whether its root exists."""
        return self.participant.made(self.name)
