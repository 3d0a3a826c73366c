"""What the steps of the demo share: where they write, the servers, the daemon's socket, what was measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from pymongo import MongoClient
from pymongo.database import Database

from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import UnreachableError
from tests.demo.house import House
from tests.demo.site import Site
from tests.demo.teller import DemoError, Teller
from tests.demo.zone import local_time

__all__ = ["DATABASE", "PATIENCE", "Document", "Reply", "Scene", "moment"]

Document = dict[str, Any]
Reply = dict[str, Any]

DATABASE: Final = "nanumpay"
PATIENCE: Final = 60.0
"""Seconds until the demo gives up waiting; far more than anything takes."""
_T = TypeVar("_T")


@dataclass
class Scene:
    """One demo on its way. The later fields are filled by the steps."""

    tell: Teller
    house: House
    site: Site
    summary: list[tuple[str, str]] = field(default_factory=list)
    servers: dict[str, Reply] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    due: datetime | None = None
    run: Reply = field(default_factory=dict)
    backup: Reply = field(default_factory=dict)
    client: MongoClient[Document] | None = None

    @property
    def database(self) -> Database[Document]:
        """Return the application's database."""
        return self.mongo[DATABASE]

    @property
    def mongo(self) -> MongoClient[Document]:
        """Return a client of the demo's MongoDB."""
        if self.client is None:
            self.client = MongoClient(self.servers["mongod"]["uri"], serverSelectionTimeoutMS=5000)
        return self.client

    @property
    def control(self) -> Client:
        """Return a client of the daemon."""
        return Client(str(self.house.socket))

    def job(self) -> Reply:
        """Ask the daemon about its one job."""
        job: Reply = self.control.call("GetStatus")["jobs"][0]
        return job

    def backupctl(self, *words: str) -> list[str]:
        """Show a ``backupctl`` command and its output."""
        colours = ["--color=always"] if self.tell.screen.colored else []
        return self.command(["backupctl", *words, *colours], shown=" ".join(["backupctl", *words]))

    def command(self, argv: Sequence[str], **options: Any) -> list[str]:
        """Show a command, run it in the demo's folder, and show its output; see `Teller.command`."""
        return self.tell.command(
            argv, **{"environment": self.house.environment, "folder": self.house.folder, **options}
        )

    def wait_for(self, look: Callable[[], _T | None], otherwise: str, *, pause: float = 0.02) -> _T:
        """Look again and again until there is something; raises DemoError with the sentence ``otherwise``."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if _has_ended(self.servers["daemon"]["pid"]):
                raise DemoError("the daemon ended", "its log says why")
            try:
                found = look()
            except UnreachableError:
                found = None
            if found is not None:
                return found
            time.sleep(pause)
        raise DemoError(otherwise, "the daemon's log says why")

    def local(self, when: datetime) -> datetime:
        """Return a moment in the demo's time zone."""
        return local_time(when, self.house.off)

    def close(self) -> None:
        """Let go of the connections; before the servers end."""
        if self.client is not None:
            self.client.close()


def _has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or a zombie that nobody has looked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def moment(text: str) -> datetime:
    """Read a moment of the control protocol."""
    return datetime.fromisoformat(text)
