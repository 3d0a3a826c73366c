"""What people are told of: the events and their weight, faults that last, news of runs that ended. Pure.

When somebody is told, how often and by what way is decided in `alerts`; the words are in `notifiers.words`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from nanumpay_backupd.model import Backup, CopyState, Outcome, Run, Stage, Trigger
from nanumpay_backupd.system.units import human_size

__all__ = ["EVENTS", "Event", "Fault", "News", "Severity", "news_of"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_TELLING: Final = frozenset({Stage.CHECK, Stage.RESTORE, Stage.COMPARE, Stage.SWAP, Stage.VERIFY})
"""The stages whose detail says what came of a restore, a drill or a verification."""


class Severity(StrEnum):
    """How bad: ``info`` is good news, ``warning`` can wait for the morning, ``error`` puts data at stake."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def weight(self) -> int:
        """Return its place in the order, from 0."""
        return _ORDER.index(self)


_ORDER: Final = (Severity.INFO, Severity.WARNING, Severity.ERROR)


class Event(StrEnum):
    """What happened. The values are what the host file and the records say."""

    SUCCEEDED = "succeeded"
    DEGRADED = "degraded"
    FAILED = "failed"
    CLEANUP_FAILED = "cleanup-failed"
    VERIFY_SUCCEEDED = "verify-succeeded"
    VERIFY_FAILED = "verify-failed"
    DRILL_SUCCEEDED = "drill-succeeded"
    DRILL_FAILED = "drill-failed"
    RESTORE_SUCCEEDED = "restore-succeeded"
    RESTORE_FAILED = "restore-failed"
    SLICES_FAILED = "slices-failed"
    CHAIN_BROKEN = "chain-broken"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"
    DISK_LOW = "disk-low"
    SETTINGS_REFUSED = "settings-refused"
    CHANNEL_FAILED = "channel-failed"
    REPORT = "report"
    SUMMARY = "summary"
    TEST = "test"


EVENTS: Final[dict[Event, str]] = {
    Event.SUCCEEDED: "a backup was made, proven, and is at all its places",
    Event.DEGRADED: "a backup is good here, but a copy could not be brought to a destination",
    Event.FAILED: "a backup was not made, or is not what was to be backed up",
    Event.CLEANUP_FAILED: "retention could not delete what is to go",
    Event.VERIFY_SUCCEEDED: "all copies were read again and are good",
    Event.VERIFY_FAILED: "a copy is not what it was, or not all could be read",
    Event.DRILL_SUCCEEDED: "a backup was restored into a scratch place, and the same came back",
    Event.DRILL_FAILED: "a drill did not bring the same back, or could not be made",
    Event.RESTORE_SUCCEEDED: "somebody restored a backup",
    Event.RESTORE_FAILED: "a restore failed",
    Event.SLICES_FAILED: "the changes between two backups are not being saved",
    Event.CHAIN_BROKEN: "the changes cannot follow on: for some time only whole backups can be restored",
    Event.UNHEALTHY: "a promise (rpo, rto) is not kept, MongoDB does not answer, or a check of the monitor is not ok",
    Event.HEALTHY: "a fault of any kind has ended; whoever was told of it is told this too",
    Event.DISK_LOW: "hardly any room is left in the backups folder, or a disk will soon be full",
    Event.SETTINGS_REFUSED: "settings or a reload were refused; the last good ones are in force",
    Event.CHANNEL_FAILED: "another channel cannot be reached",
    Event.REPORT: "the report of the last days",
}
"""What a channel can ask for, and what it means. The others (`summary`, `test`) come by themselves."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now and lasts until it is mended.

    ``key`` names it (``backup:nanumpay``): two of one key are the same fault at two times. ``text`` is the sentence for
    the status; ``reason``, ``hint`` and ``code`` are the cause in the words of whoever found it. ``event`` None: it is
    shown, but nobody is told. ``occurrence`` names the last time that it showed (a run's id). It is told when it has
    lasted ``patience`` seconds, and has ended when it was away for ``settle`` seconds.
    """

    key: str
    text: str
    severity: Severity
    event: Event | None = None
    job: str = ""
    reason: str = ""
    hint: str = ""
    code: str = ""
    occurrence: str = ""
    backup: str = ""
    patience: float = 0.0
    settle: float = 0.0

    @property
    def state(self) -> str:
        """Return what it makes of the daemon's health: ``warning`` or ``failing``."""
        return "failing" if self.severity is Severity.ERROR else "warning"

    @property
    def line(self) -> str:
        """Return it as the status shows it: the sentence, and what to do."""
        return f"{self.text} → {self.hint}" if self.hint else self.text


class News(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened once. ``key`` is that of the fault whose absence it shows, empty: of none.

    ``details`` are pairs of a label (`notifiers.words` has it in each language) and a value that needs no translation.
    """

    event: Event
    severity: Severity
    key: str = ""
    job: str = ""
    run: str = ""
    backup: str = ""
    reason: str = ""
    hint: str = ""
    code: str = ""
    details: tuple[tuple[str, str], ...] = ()


_GOOD: Final = {
    "backup": Event.SUCCEEDED,
    "collection": Event.SUCCEEDED,
    "verify": Event.VERIFY_SUCCEEDED,
    "drill": Event.DRILL_SUCCEEDED,
    "restore": Event.RESTORE_SUCCEEDED,
}
_BAD: Final = {"collection": Event.FAILED, "restore": Event.RESTORE_FAILED}
"""What failed once and is over. Of the other actions the fault lasts until one succeeds, and is told as that."""
_LASTING: Final = frozenset({"backup", "verify", "drill"})


def news_of(run: Run, backup: Backup | None) -> News | None:
    """Return what is to be told of a run that ended, or None: its fault lasts (`Fault`), or nobody wants to know.

    ``backup`` is the one that it made or proved.
    """
    good = run.outcome is Outcome.SUCCEEDED
    if run.trigger is Trigger.RETRY or not (good or run.outcome in {Outcome.FAILED, Outcome.INTERRUPTED}):
        return None
    event = (_GOOD if good else _BAD).get(run.action)
    if event is None:
        return None
    error = run.error
    return News(
        event=event,
        severity=Severity.INFO if good else Severity.ERROR,
        key=f"{run.action}:{run.job}" if run.action in _LASTING else "",
        job=run.job,
        run=run.id,
        backup=run.backup or "",
        reason=error.message if error is not None else "",
        hint=error.hint if error is not None else "",
        code=error.code if error is not None else "",
        details=tuple(_details(run, backup)),
    )


def _details(run: Run, backup: Backup | None) -> Iterator[tuple[str, str]]:
    """Yield the figures of a run that say how well it went."""
    if run.ended is not None:
        yield "took", f"{(run.ended - run.started).total_seconds():.1f} s"
    if backup is not None:
        yield "size", human_size(backup.size)
        manifest = backup.manifest
        mongodb = manifest is None or manifest.source.type == "mongodb"
        yield "documents" if mongodb else "items", f"{backup.documents:,}"
        places = [copy.destination for copy in backup.copies if copy.state in _PRESENT]
        if places:
            yield "copies", ", ".join(places)
    found = [item.detail for item in run.stages if item.stage in _TELLING and item.detail]
    if found and run.action not in {"backup", "collection"}:
        yield "found", "; ".join(found)
    for text in run.warnings:
        yield "warning", text
