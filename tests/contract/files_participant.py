"""A tree of files with all that a tree can hold, for the contract suite of sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nanumpay_backupd.settings.sources import FilesSource, Source
from nanumpay_backupd.sources.base import Wanted
from tests.contract.participants import Participant
from tests.trees import clear, fill_tree, read_tree

__all__ = ["FilesParticipant"]

_LEFT_OUT = (".env", "vendor", "storage/logs/app.log")


class FilesParticipant(Participant):
    """Two trees: one of an application, with what its preset leaves out, and one of few files."""

    def __init__(self, folder: Path) -> None:
        self._roots = (folder / "my app", folder / "uploads")
        self._count = 0

    @property
    def settings(self) -> Source:
        """See `Participant`."""
        return FilesSource(path=tuple(str(root) for root in self._roots), preset="laravel")

    @property
    def broken(self) -> Source:
        """See `Participant`."""
        return FilesSource(path=(f"{self._roots[0]}-gone",))

    def fill(self) -> None:
        """See `Participant`."""
        for root in self._roots:
            clear(root)
        app, uploads = self._roots
        self._count = fill_tree(app)
        (app / "vendor" / "package").mkdir(parents=True)
        (app / "vendor" / "package" / "code.php").write_text("<?php")
        (app / ".env").write_text("APP_KEY=secret")
        (app / "storage" / "logs" / "app.log").write_text("log")
        (app / "storage" / "logs" / ".gitignore").write_text("*\n!.gitignore\n")
        (uploads / "2026").mkdir(parents=True)
        for at in range(300):
            (uploads / "2026" / f"{at}.jpg").write_bytes(os.urandom(at * 10))
        self._count += 301

    def count(self) -> int:
        """See `Participant`."""
        return self._count

    def grow(self, megabytes: int) -> None:
        """See `Participant`."""
        for at in range(megabytes):
            (self._roots[1] / "2026" / f"large-{at}").write_bytes(os.urandom(1 << 20))

    def content(self) -> object:
        """See `Participant`."""
        return [read_tree(root, _LEFT_OUT) for root in self._roots]

    def spoil(self) -> None:
        """See `Participant`."""
        app, uploads = self._roots
        (app / "public" / "a").write_text("another")
        (app / "storage" / "link").unlink()
        (app / "new").mkdir()
        (app / "new" / "file").write_text("new")
        clear(uploads)

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        """See `Participant`."""
        places = [folder / str(root).strip("/") for root in self._roots]
        return Wanted(to=str(folder)), lambda: [read_tree(place) for place in places]
