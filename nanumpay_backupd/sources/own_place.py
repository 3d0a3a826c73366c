"""What the scratch places of drills have in common: a server of our own, or just a folder. No source is known here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import ToolError
from nanumpay_backupd.sources.base import FolderTarget, Scratch, Wanted
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.process import Child
from nanumpay_backupd.system.secrets import redact

__all__ = ["OwnFolder", "OwnServer"]

_START_SECONDS: Final = 60.0
_NAP: Final = 0.1


class OwnServer(Scratch):
    """A server in a folder of its own, reached by a socket only, which ends when this process does."""

    def __init__(self, folder: Path) -> None:
        """``folder`` gets its data, and its sockets where no shorter path is needed (``_sockets``)."""
        self._folder = folder
        self._sockets: Path | None = None
        self._child: Child | None = None

    def _launch(self, argv: list[str], check: Callable[[], None]) -> None:
        """Start the server and wait until it answers; raises ToolError (``scratch-failed``) with its own words."""
        self._child = Child(argv, both=True)
        for _ in range(int(_START_SECONDS / _NAP)):
            # Waiting for its end is our way to sleep.
            if self._child.wait(_NAP) is not None:
                break
            check()
            if self._answers():
                return
        why = self.trouble() or f"it did not answer within {_START_SECONDS:.0f} s"
        self.stop()
        raise self._failed(why)

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether it takes commands."""

    def _failed(self, why: str) -> ToolError:
        return ToolError(
            f"the scratch server could not be started: {why}",
            hint=f"is there room in {self._folder.parent}? does the server run by hand with an empty data folder?",
            code="scratch-failed",
            retryable=True,
        )

    @property
    def gone(self) -> bool:
        """See `Scratch.gone`."""
        return self._child is None or not self._child.running

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        if self._child is None:
            return "it was not started"
        if self._child.running:
            return ""
        said = self._child.tail.splitlines()
        said = [line for line in said if "[ERROR]" in line] or said
        return f"it ended with code {self._child.wait()} ({redact(said[-1] if said else '')[:300]})"

    def stop(self) -> None:
        """Kill the server (nobody needs what it would still write) and remove its data."""
        if self._child is not None:
            self._child.kill()
        for folder in {self._folder, self._sockets}:
            if folder is not None:
                remove_tree(folder)


class OwnFolder(Scratch):
    """A folder into which ``target`` restores files. ``wanted`` names it as that target does (`Wanted.to`)."""

    described = "a folder of its own"

    def __init__(self, folder: Path, target: FolderTarget, *, wanted: str) -> None:
        self._folder = folder
        self._target = target
        self._wanted = wanted

    def start(self, check: Callable[[], None]) -> None:
        """See `Scratch.start`."""
        check()
        self._folder.mkdir(mode=0o700, parents=True)

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        return "" if self._folder.is_dir() else "its folder is gone"

    def stop(self) -> None:
        """See `Scratch.stop`; the folder is in the run's staging, which is removed as a whole."""

    def target(self) -> FolderTarget:
        """See `Scratch.target`."""
        return self._target

    def wanted(self) -> Wanted:
        """See `Scratch.wanted`."""
        return Wanted(to=self._wanted)
