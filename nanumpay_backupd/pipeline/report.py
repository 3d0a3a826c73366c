"""Bookkeeping of one run: stages with their times, progress, warnings, cancelling. Moves no data."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError, InternalError, LimitError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.model import ErrorInfo, Outcome, Run, Stage, StageRecord, Trigger, error_info
from nanumpay_backupd.sources.base import Unchanged
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.shortage import shortage

__all__ = ["Elapsed", "Progress", "Recorder", "Reporter", "as_expected", "new_run"]

_SEEN_BY_OTHERS: Final = frozenset({Stage.PUBLISH, Stage.UPLOAD, Stage.RETENTION})
"""What a host that lost the fleet's lease must not begin."""
_INTERVAL: Final = 0.2
"""Seconds between two progress events."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the current stage is: bytes moved of ``total`` (None: not known), documents, bytes per second."""

    run: str
    job: str
    stage: Stage
    bytes: int
    total: int | None = None
    documents: int = 0
    rate: float = 0.0
    text: str = ""


class Reporter(Protocol):
    """Where a run's events go: a pipe to the daemon, or a terminal."""

    def stage(self, record: StageRecord) -> None:
        """Tell that a stage began (no ``ended``) or ended."""
        ...

    def progress(self, progress: Progress) -> None:
        """Tell how far the stage is."""
        ...

    def message(self, level: str, text: str, error: ErrorInfo | None = None, message: Message | None = None) -> None:
        """Tell something worth a line in the journal; ``level`` is ``info``, ``warning`` or ``error``.

        ``message`` says which of the main events it is, if it is one.
        """
        ...

    def committed(self, artifact: str, size: int) -> None:
        """Tell that the backup exists now."""
        ...


class Fence(Protocol):
    """What a run needs that only one host may make at a time. Its methods raise LeaseError."""

    @property
    def token(self) -> int:
        """Return the number under which it goes on; that of a later holder is higher."""
        ...

    def check(self) -> None:
        """Do nothing for as long as this host may go on, by its own clock."""
        ...

    def confirm(self, what: str) -> None:
        """Have it confirmed that no other host has taken over, before a step that others see."""
        ...

    def claim_name(self, name: str) -> bool:
        """Reserve the name of a backup; returns False where another host has given it."""
        ...


class Elapsed(NamedTuple):
    """How long it takes by now, in seconds: the run, its stage (None: between two), and since something moved."""

    stage: Stage | None
    run: float
    part: float
    idle: float


class Recorder:
    """Keeps the Run record true in the catalog while the stages go by, and tells the reporter.

    `progress` may be called from several threads, and what says so; everything else from the run's own.
    """

    def __init__(
        self,
        run: Run,
        catalog: Catalog,
        reporter: Reporter,
        clock: Clock,
        *,
        quiet: bool = False,
        fence: Fence | None = None,
    ) -> None:
        """Begin the record of ``run``; a ``quiet`` one is only kept from `loud` on, or when it does not succeed."""
        self.run = run
        self.fence = fence
        self.reporter = reporter
        self.clock = clock
        self._catalog = catalog
        self._cancel = threading.Event()
        # Whoever breaks off a wait from a signal's handler may meet it in its own hands.
        self._lock = threading.RLock()
        self._stage: Stage | None = None
        self._bytes = 0
        self._documents = 0
        self._total: int | None = None
        self._since = 0.0
        self._told = 0.0
        self._quiet = quiet
        self._begun = clock.monotonic()
        self._moved = self._begun
        self._fault: LimitError | None = None
        self._remarks = ""
        self._save()

    def loud(self) -> None:
        """Keep the record from now on: the run has something to tell."""
        self._quiet = False
        self._save()

    def _save(self) -> None:
        if not self._quiet:
            self._catalog.save_run(self.run)

    def cancel(self) -> None:
        """Ask the run to stop at its next step; safe in a signal handler."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Tell whether somebody asked for the end."""
        return self._cancel.is_set()

    @property
    def ending(self) -> bool:
        """Tell whether the run is to end at its next step, for whichever reason."""
        return self._cancel.is_set() or self._fault is not None

    @property
    def fault(self) -> LimitError | None:
        """Return which limit the run has passed, None: none."""
        return self._fault

    def check(self) -> None:
        """Raise CancelledError when somebody asked for the end, LimitError once a limit was passed."""
        if self._cancel.is_set():
            raise CancelledError("the run was cancelled", hint="nothing that was not committed before is kept")
        if self._fault is not None:
            raise self._fault
        if self.fence is not None:
            self.fence.check()

    def exceed(self, fault: LimitError) -> None:
        """End the run at its next step because a limit was passed; the first one counts. For any thread."""
        with self._lock:
            self._fault = self._fault or fault

    def elapsed(self) -> Elapsed:
        """Return how long the run and its stage take by now. For any thread."""
        with self._lock:
            now = self.clock.monotonic()
            return Elapsed(self._stage, now - self._begun, now - self._since, now - max(self._moved, self._since))

    def alive(self) -> None:
        """Note that something moves which is not counted; raises as `check`. For any thread."""
        self._moved = self.clock.monotonic()
        self.check()

    @contextlib.contextmanager
    def stage(self, stage: Stage, total: int | None = None) -> Iterator[None]:
        """Run one stage: its times and its end are recorded, whatever way it ends."""
        self.check()
        if self.fence is not None and stage in _SEEN_BY_OTHERS:
            self.fence.confirm(stage.value)
        with self._lock:
            self._stage, self._bytes, self._documents, self._total = stage, 0, 0, total
            self._since = self._told = self.clock.monotonic()
        self._remarks = ""
        self._record(StageRecord(stage=stage, started=self.clock.now()))
        try:
            yield
        except Unchanged:
            self._close(None, "nothing has changed")
            raise
        except BaseException as error:
            cancelled = isinstance(error, CancelledError)
            self._close(Outcome.CANCELLED if cancelled else Outcome.FAILED, str(error) if cancelled else "")
            raise
        self._close(None, "")

    def detail(self, text: str, outcome: Outcome | None = None) -> None:
        """Put a sentence (and an outcome other than succeeded) on the current stage, behind what was remarked."""
        last = self.run.stages[-1]
        text = f"{self._remarks}; {text}" if self._remarks else text
        self._replace(msgspec.structs.replace(last, detail=text, outcome=outcome))

    def remark(self, text: str) -> None:
        """Add a sentence to the newest stage, also when it has ended."""
        self._remarks = f"{self._remarks}; {text}" if self._remarks else text
        self._replace(msgspec.structs.replace(self.run.stages[-1], detail=self._remarks))
        self._save()

    def progress(self, count: int = 0, documents: int | None = None) -> None:
        """Add bytes to the current stage and set its documents; raises CancelledError when cancelled."""
        self.check()
        with self._lock:
            now = self.clock.monotonic()
            if count > 0 or (documents is not None and documents > self._documents):
                self._moved = now
            self._bytes += count
            if documents is not None:
                self._documents = documents
            if now - self._told < _INTERVAL or self._stage is None:
                return
            self._told = now
            elapsed = max(now - self._since, 0.001)
            event = Progress(
                run=self.run.id,
                job=self.run.job,
                stage=self._stage,
                bytes=self._bytes,
                total=self._total,
                documents=self._documents,
                rate=round(self._bytes / elapsed, 1),
            )
        self.reporter.progress(event)

    def warn(self, text: str, error: BackupdError | None = None, message: Message | None = None) -> None:
        """Keep a warning with the run and tell it."""
        self.run = msgspec.structs.replace(self.run, warnings=(*self.run.warnings, text))
        self.reporter.message("warning", text, error_info(error) if error is not None else None, message)

    def committed(self, backup: str, artifact: str, size: int) -> None:
        """Note which backup this run made."""
        self.run = msgspec.structs.replace(self.run, backup=backup)
        self._save()
        self.reporter.committed(artifact, size)

    def about(self, backup: str) -> None:
        """Note which backup this run proves."""
        self.run = msgspec.structs.replace(self.run, backup=backup)
        self._save()

    def finish(self, outcome: Outcome, error: BackupdError | None = None) -> Run:
        """Write the run's end into the catalog and return it."""
        self.run = msgspec.structs.replace(
            self.run,
            ended=self.clock.now(),
            outcome=outcome,
            error=error_info(error) if error is not None else None,
        )
        self._quiet = self._quiet and outcome is Outcome.SUCCEEDED
        self._save()
        return self.run

    def _record(self, record: StageRecord) -> None:
        self.run = msgspec.structs.replace(self.run, stages=(*self.run.stages, record))
        self._save()
        self.reporter.stage(record)

    def _replace(self, record: StageRecord) -> None:
        self.run = msgspec.structs.replace(self.run, stages=(*self.run.stages[:-1], record))

    def _close(self, outcome: Outcome | None, detail: str) -> None:
        last = self.run.stages[-1]
        record = msgspec.structs.replace(
            last,
            ended=self.clock.now(),
            outcome=outcome or last.outcome or Outcome.SUCCEEDED,
            detail=detail or last.detail,
        )
        self._stage = None
        self._replace(record)
        self._save()
        self.reporter.stage(record)


def new_run(run_id: str, job: str, trigger: Trigger, started: datetime, action: str = "backup", group: str = "") -> Run:
    """Return the record of a run that begins now; ``group`` is the id of the group's run that it is part of."""
    return Run(id=run_id, job=job, trigger=trigger, started=started, action=action, group=group)


def as_expected(error: Exception) -> BackupdError:
    """Return the fault itself when it is an expected one, else one that says that this software is at fault."""
    if isinstance(error, BackupdError):
        return error
    if (fault := shortage(error)) is not None:
        return fault
    return InternalError(
        f"a defect of nanumpay-backupd: {type(error).__name__}",
        hint="the journal has the details; please report them",
    )
