"""The contract of a Source, written once. No source's own knowledge here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import msgspec

from nanumpay_backupd.model import Consistency, SourceInfo

__all__ = ["Dump", "Estimate", "Expected", "Harvest", "Source", "TargetFacts"]


class Estimate(msgspec.Struct, frozen=True):
    """What preflight learned: ``raw_bytes`` expected before compression, and the lines worth telling the operator."""

    raw_bytes: int
    summary: str
    warnings: tuple[str, ...] = ()


class Harvest(msgspec.Struct, frozen=True):
    """What a finished dump holds, as the dump tool itself reported it; goes into the manifest.

    ``leave_out`` names files of the folder that do not belong into the archive.
    """

    source: SourceInfo
    consistency: Consistency
    tools: dict[str, str]
    documents: int
    leave_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class TargetFacts(msgspec.Struct, frozen=True):
    """What stands where a restore would go: collections and views, documents in all, and how the server is called.

    ``may_replay`` tells whether this user is allowed to replay an oplog there.
    """

    address: str
    collections: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    documents: int = 0
    may_replay: bool = True


class Expected(msgspec.Struct, frozen=True):
    """What a restored collection has to hold; ``documents`` None: not known (the oplog changed it afterwards)."""

    database: str
    name: str
    documents: int | None
    indexes: int = 0


class Dump(ABC):
    """A dump that is being written into a folder. Files are only ever appended to; their names do not change."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Tell whether it is still being written."""

    @property
    @abstractmethod
    def documents(self) -> int:
        """Return the documents (rows, keys) reported so far; may lag behind."""

    @abstractmethod
    def pause(self) -> None:
        """Hold the writer until `resume`; for seconds at most. Harmless when it has ended."""

    @abstractmethod
    def resume(self) -> None:
        """Let a held writer go on; harmless when it is not held."""

    @abstractmethod
    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; tells whether it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with all its children; may be called at any time and twice."""

    @abstractmethod
    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """Judge an ended dump. An exit code of 0 is not believed: what was written is compared with what was there.

        ``sizes`` gives the bytes of every file written, by its path below the folder. Small files are still readable
        in the folder; large ones may have been given back to the disk. Raises ToolError (died, failed, incomplete),
        SourceError (connection lost) or SpaceError.
        """


class Source(ABC):
    """Something that can be dumped into a folder of files. Errors are `errors.BackupdError`."""

    @abstractmethod
    def preflight(self) -> Estimate:
        """Check that it can be reached and read and that the tools are there, without writing anything.

        Raises SourceError, ToolError (``tool-missing`` with the install hint). May be called again.
        """

    @abstractmethod
    def start(self, folder: Path) -> Dump:
        """Begin to write the dump into ``folder`` (exists, empty). `preflight` was called before."""

    @abstractmethod
    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Return a fresh checker for the file ``name`` of a dump, or None when any content is fine.

        The checker is fed the file's content piece by piece, then once ``b""`` for its end, and raises VerifyError
        when the content is not what this source writes. ``checker.count`` is the documents seen so far.
        """
