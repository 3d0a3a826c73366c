"""A backup that pbm's agents make: begun, watched until its end, cancelled where it is not wanted, receipted.

What pbm said meanwhile is kept beside the receipt. A short silence of the cluster (an election) ends nothing.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, SourceError
from nanumpay_backupd.model import Consistency, OpTime, Part, SourceInfo
from nanumpay_backupd.settings.sources import PbmSource, type_of
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.pbm_link import DONE, ENDED, Description, PbmLink, moment_of
from nanumpay_backupd.system.clock import SystemClock

__all__ = ["NAME", "RECEIPT", "PbmDump", "Receipt"]

RECEIPT: Final = "pbm-backup.json"
LOG: Final = "pbm-progress.log"
NAME: Final = "pbm.name"
"""The fact that says what pbm calls the backup."""
_REST: Final = 1.0
_LONGEST_REST: Final = 10.0
_PATIENCE: Final = 300.0
"""Seconds for which pbm may not answer before the run is given up; what it does goes on meanwhile."""
_UNTIL_BEGUN: Final = 60.0


class Receipt(msgspec.Struct, frozen=True):
    """What is archived: what pbm says of its backup, in its own keys, and by which version of it."""

    backup: Description
    pbm: str = ""
    storage: str = ""
    format: int = 1


class PbmDump(Dump):
    """One backup in pbm's hands."""

    def __init__(self, settings: PbmSource, folder: Path, version: str) -> None:
        self._settings = settings
        self._link = PbmLink(settings)
        self._folder = folder
        self._version = version
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._name = ""
        self._found: Description | None = None
        self._storage = ""
        self._fault: BackupdError | None = None
        self._defect: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="pbm", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._thread.is_alive()

    @property
    def documents(self) -> int:
        """See `Dump.documents`: replica sets that are saved."""
        found = self._found
        return sum(one.good for one in found.members) if found is not None else 0

    def pause(self) -> None:
        """See `Dump.pause`: nothing is written here that could be too much."""

    def resume(self) -> None:
        """See `Dump.resume`."""

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Dump.kill`: what is not ended is cancelled, if it is this one that runs."""
        if self._stop.is_set():
            return
        self._stop.set()
        # What was just ordered has no name yet, and cannot be cancelled before the agents have taken it up.
        self._thread.join(_UNTIL_BEGUN)
        if not self._name or (self._found is not None and self._found.status in ENDED):
            return
        # Where that does not succeed, the next run finds pbm busy, and says with what.
        with contextlib.suppress(BackupdError):
            busy = self._link.status().busy
            if busy is not None and busy.name == self._name:
                self._link.cancel()

    def harvest(self, sizes: dict[str, int]) -> Harvest:  # noqa: ARG002 - pbm's sizes are those of its storage
        """See `Dump.harvest`: what pbm says of its backup at the end."""
        if self._defect is not None:
            raise self._defect
        if self._fault is not None:
            raise self._fault
        found = self._found
        if found is None or found.trouble:
            said = found.trouble if found is not None else "it has no backup of that name any more"
            cancelled = found is not None and found.status == "canceled"
            raise SourceError(
                f"pbm did not make the backup {self._name}: {said}",
                hint="it was cancelled at pbm" if cancelled else "look at: pbm logs -e backup; pbm status",
                code="source-failed",
                retryable=not cancelled,
            )
        return Harvest(
            source=self._info(found),
            consistency=Consistency(
                level="point-in-time", end=str(OpTime(found.last_write, 0)), moment=moment_of(found.last_write)
            ),
            tools={"pbm": self._version},
            documents=len(found.members),
        )

    def _info(self, found: Description) -> SourceInfo:
        parts = tuple(
            Part(name=one.name, kind="config servers" if one.configsvr else "shard", items=1, bytes=one.size)
            for one in sorted(found.members, key=lambda one: one.name)
        )
        facts = {
            NAME: found.name,
            "pbm.type": found.type,
            "pbm.storage": self._storage,
            "pbm.size": str(found.size),
            **({"pbm.profile": found.profile} if found.profile else {}),
        }
        return SourceInfo(
            type=type_of(self._settings),
            server_version=found.server,
            topology="sharded" if len(parts) > 1 else "replica-set",
            databases=(),
            collections=(),
            parts=parts,
            facts=facts,
            by_hand=(f"pbm describe-backup {found.name}", f"pbm restore {found.name}"),
        )

    def _work(self) -> None:
        """Have it made, and watch it to its end; what fails is told by `harvest`."""
        try:
            self._name = self._link.begin()
            self._watch()
            if self._found is not None and self._found.status == DONE:
                self._write()
        except BackupdError as error:
            self._fault = error
        except Exception as error:  # noqa: BLE001 - raised again where the harvest is asked for
            self._defect = error

    def _watch(self) -> None:
        rest, answered = _REST, self._clock.monotonic()
        with (self._folder / LOG).open("w", encoding="utf-8", buffering=1) as log:
            while not self._stop.wait(rest):
                rest = min(rest * 1.2, _LONGEST_REST)
                try:
                    self._found = self._link.describe(self._name)
                    stuck = self._stuck()
                except BackupdError as error:
                    if self._clock.monotonic() - answered > _PATIENCE:
                        raise
                    self._note(log.write, f"no answer: {error.message}")
                    continue
                answered = self._clock.monotonic()
                if self._found is None:
                    return
                told = " ".join(f"{one.name}={one.status}" for one in self._found.members)
                self._note(log.write, f"{self._found.status} {told}".strip())
                if self._found.status in ENDED:
                    return
                if stuck:
                    raise SourceError(
                        f"pbm's backup {self._name} does not go on: {stuck}",
                        hint="an agent may have ended: pbm status; systemctl status pbm-agent; pbm logs -e backup",
                        code="source-failed",
                        retryable=True,
                    )

    def _stuck(self) -> str:
        """Return what pbm says of a backup whose agents are silent, and note where it is stored."""
        status = self._link.status()
        self._storage = f"{status.backups.type} {status.backups.path}".strip()
        there = status.snapshot(self._name)
        running = self._found is not None and self._found.status not in ENDED
        return there.error if running and there is not None and there.status == "error" else ""

    def _note(self, write: object, text: str) -> None:
        assert callable(write)
        write(f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ} {text}\n")

    def _write(self) -> None:
        assert self._found is not None
        receipt = Receipt(backup=self._found, pbm=self._version, storage=self._storage)
        (self._folder / RECEIPT).write_bytes(msgspec.json.format(msgspec.json.encode(receipt), indent=2))
