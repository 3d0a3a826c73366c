"""What a type of destination has to bring into the contract suite: a `Participant`. No server is started here."""

from __future__ import annotations

import contextlib
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nanumpay_backupd.settings.schema import Destination
from nanumpay_backupd.stores.base import Keeping, Notes, ShortNotes, Store
from tests.servers.process import Program

__all__ = ["DiskParticipant", "OwnedParticipant", "Participant", "Place"]


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

    # What the faults of test_faults ask for. A kind that cannot have one leaves it as it is.
    port: int = 0
    """Where it listens on 127.0.0.1; 0: it is no server."""
    data_ports: tuple[int, ...] = ()
    """Further ports, to which its answers lead."""
    program: Program | None = None
    """The server's process; None: it runs in this one, and is frozen and killed as seen from outside (by a proxy)."""
    forgets: ClassVar[bool] = False
    """It keeps everything in memory: killed, it has nothing."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """The rights (``put``, ``list``) that `taken` can take away."""
    says_full: ClassVar[frozenset[str]] = frozenset({"destination-full"})
    """How it may be told that there is no room. Other codes only where the server does not say why it fails."""
    says_denied: ClassVar[frozenset[str]] = frozenset({"destination-denied"})
    """How it may be told that a right is missing; likewise."""
    lists_while_writing: ClassVar[bool] = True
    """It answers to a listing while an object is being stored there."""
    litter: ClassVar[str] = ""
    """How the names begin of what the server itself leaves lying when it is killed."""
    tls: bool = False
    """Its connections are by TLS, with the certificate that it was given."""
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

    def missing(self, name: str) -> dict[str, Any]:
        """Return changes to the settings with which the root is not there and cannot be made."""
        raise NotImplementedError

    def taken(self, name: str, right: str) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """Take a right away at a destination that exists, for as long as the block; gives changes to the settings."""
        raise NotImplementedError

    def limited(self, name: str, size: int) -> contextlib.AbstractContextManager[None]:
        """Let about so many bytes be stored and no more. Where that is the disk's matter see `places.FULL`."""
        raise NotImplementedError

    def revived(self) -> None:  # noqa: B027 - most come back as they were
        """Make ready what does not come back by itself after the server was killed and started again."""


class DiskParticipant(Participant):
    """One whose objects are plain files on this disk."""

    takes: ClassVar[frozenset[str]] = frozenset({"put"})

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

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        """See `Participant.taken`: the folder becomes one that can only be read, which holds for root too."""
        folder = self.on_disk(name)
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            yield {}
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


class OwnedParticipant(DiskParticipant):
    """One whose server writes as an ordinary user, whom the disk itself may refuse."""

    takes: ClassVar[frozenset[str]] = frozenset({"put", "list"})

    @contextlib.contextmanager
    def taken(self, name: str, right: str) -> Iterator[dict[str, Any]]:
        """See `Participant.taken`: the folder gets other permissions."""
        folder = self.on_disk(name)
        before = folder.stat().st_mode
        folder.chmod(0o555 if right == "put" else 0o333)
        try:
            yield {}
        finally:
            folder.chmod(before)


@dataclass
class Place:
    """An empty destination of some kind."""

    kind: str
    store: Store
    participant: Participant
    name: str
    notes: Notes = field(default_factory=ShortNotes)
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
