"""What all ways of reading a Redis server have in common: a thread that writes files, and the record of them."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from pathlib import Path

from nanumpay_backupd.errors import BackupdError, InternalError, SourceError, SpaceError, ToolError
from nanumpay_backupd.model import Consistency, Part, SourceInfo
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.redis_link import Server
from nanumpay_backupd.system.files import is_disk_full

__all__ = ["ThreadedDump", "made"]


class _Ended(Exception):  # noqa: N818 - asked for
    """The dump is not wanted any more."""


class ThreadedDump(Dump):
    """A dump that a thread of this process writes. A subclass does it in `write` and describes it in `judge`."""

    def __init__(self, settings: RedisSource, server: Server, folder: Path) -> None:
        self.settings = settings
        self.server = server
        self.folder = folder
        self._go = threading.Event()
        self._go.set()
        self._ended = threading.Event()
        self._killed = False
        self._error: BaseException | None = None
        self.written: dict[str, int] = {}
        """The bytes of each file, which `write` notes when it is whole."""
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)
        self._thread.start()

    @abstractmethod
    def write(self) -> None:
        """Write the files, calling `step` now and then; raises BackupdError, OSError."""

    @abstractmethod
    def judge(self, sizes: dict[str, int]) -> Harvest:
        """Describe what was written whole; raises BackupdError."""

    @abstractmethod
    def hang_up(self) -> None:
        """Make a `write` that waits for the server end at once; from another thread, at any time, and twice."""

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return not self._ended.is_set()

    def pause(self) -> None:
        """See `Dump.pause`: nothing is read meanwhile, so the server waits too."""
        self._go.clear()

    def resume(self) -> None:
        """See `Dump.resume`."""
        self._go.set()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        return self._ended.wait(timeout)

    def kill(self) -> None:
        """See `Dump.kill`."""
        self._killed = True
        self._go.set()
        self.hang_up()
        self._thread.join()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`."""
        self._thread.join()
        error = self._error
        if isinstance(error, BackupdError):
            raise error
        if isinstance(error, OSError):
            if is_disk_full(error):
                raise SpaceError(
                    f"the disk of {self.folder} filled up while Redis was saved",
                    hint="free space there or set [paths] backups to a larger disk; nothing was published",
                )
            raise SourceError(f"what Redis sent could not be written: {error.strerror or error}")
        if error is not None:
            raise InternalError(f"saving Redis failed: {type(error).__name__}: {error}") from error
        missing = sorted(name for name, size in self.written.items() if sizes.get(name) != size)
        if missing:
            raise ToolError(
                f"the keys of Redis were read, but {missing[0]} is not there as it was written",
                hint="check the disk, then run again; nothing was published",
                code="dump-incomplete",
                retryable=True,
            )
        return self.judge(sizes)

    def step(self) -> None:
        """Wait while the dump is held; ends it where it is not wanted any more."""
        if not self._go.is_set():
            self._go.wait()
        if self._killed:
            raise _Ended

    def _run(self) -> None:
        try:
            self.write()
        except _Ended:
            self._error = SourceError("saving Redis was stopped")
        except BaseException as error:  # noqa: BLE001 - told where it is harvested
            self._error = error
        finally:
            with contextlib.suppress(Exception):
                self.hang_up()
            self._ended.set()


def made(
    server: Server,
    mode: str,
    parts: tuple[Part, ...],
    consistency: Consistency,
    *,
    facts: dict[str, str],
    by_hand: tuple[str, ...],
    warnings: tuple[str, ...] = (),
) -> Harvest:
    """Return the record of a dump."""
    return Harvest(
        source=SourceInfo(
            type="redis",
            server_version=server.version,
            topology=server.topology,
            databases=tuple(part.name for part in parts if part.kind == "database"),
            collections=(),
            parts=parts,
            by_hand=by_hand,
            facts={"mode": str(mode), **facts},
        ),
        consistency=consistency,
        tools={"redis": server.version or "not running"},
        documents=sum(part.items for part in parts),
        warnings=warnings,
    )
