"""What `restore --from` says: what there is, the plan, progress, faults. Words only: decides and restores nothing.

Faults come from rooms that speak of the daemon and of `backupctl`. Neither is there on such a machine, so what a hint
tells to type is said here in words that work.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import Backup, CopyState, ErrorInfo, Kind, StageRecord
from nanumpay_backupd.once import Lines
from nanumpay_backupd.pipeline.layout import sealed_by
from nanumpay_backupd.pipeline.rebuild import Survey
from nanumpay_backupd.pipeline.report import Progress
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.timeline import Range
from nanumpay_backupd.wording import counted, words_for

__all__ = [
    "Screen",
    "Terms",
    "backup_rows",
    "closed_row",
    "complaints",
    "moment_rows",
    "plan_rows",
    "reworded",
    "shown",
]

_SHOWN: Final = 5
_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)
_RESTORE: Final = re.compile(r"backupctl restore (?P<words>.+)")
_LOOK: Final = re.compile(r"backupctl (?:list|timeline|show)(?: [\w-]+)?")
_SAFETY: Final = re.compile(r"\S+-safety-backup-\S+")
_ROOM: Final = "free space there, or name a folder with room: --work DIR"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How this command is typed again: the program, what is said of the place and of the target, where safety is.

    ``name`` is the place as faults call it; ``keys`` are the variables with its secrets, empty where the host file has
    them; ``target`` are the options that say where to and which part.
    """

    program: str
    place: str
    name: str
    safety: str
    keys: str = ""
    target: tuple[tuple[str, str], ...] = ()

    def restore(self, words: str) -> str:
        """Return the command that restores what ``words`` (a backup, options) say, in place of `backupctl restore`."""
        if _SAFETY.match(words):
            # It says itself which database it is of.
            return f"{self.program} restore {words} --from {shlex.quote(self.safety)}"
        words = words.replace(f" --from {self.name}", "")
        more = "".join(f" {option} {shlex.quote(value)}" for option, value in self.target if option not in words)
        return f"{self.program} restore {words} --from {shlex.quote(self.place)}{more}"

    @property
    def look(self) -> str:
        """Return the command that shows what there is."""
        return f"{self.program} restore --from {shlex.quote(self.place)} --list"


def reworded(error: BackupdError, terms: Terms) -> BackupdError:
    """Say a fault's hint in words that work on a machine without the daemon."""
    if terms.keys and error.code in ("destination-auth", "destination-denied"):
        error.hint = f"check what the environment says: {terms.keys}; the right to list and to read is enough"
        return error
    if error.code == "catalog-unusable":
        error.hint = _ROOM  # it lies in the working folder
        return error
    clauses = (_clause(clause, terms) for clause in error.hint.split("; "))
    error.hint = "; ".join(dict.fromkeys(filter(None, clauses)))
    return error


def _clause(clause: str, terms: Terms) -> str:
    if found := _RESTORE.search(clause):
        return clause[: found.start()] + terms.restore(found["words"])
    clause = _LOOK.sub(lambda _: terms.look, clause)
    if "[paths] backups" in clause:
        return _ROOM
    return "" if "backupctl" in clause else clause


def shown(moment: datetime, zone: tzinfo) -> str:
    """Write a moment to the second with its zone."""
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def backup_rows(backups: Iterable[Backup], zone: tzinfo) -> list[str]:
    """List backups, one a line: id, when, kind, size, documents, what is known of it."""
    rows = [
        (
            backup.id,
            shown(backup.created, zone),
            backup.kind.value,
            human_size(backup.size),
            _holds(backup),
            _known(backup),
        )
        for backup in backups
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _holds(backup: Backup) -> str:
    if backup.documents:
        return f"{backup.documents:,} documents"
    if backup.kind is Kind.LEGACY:
        return "no manifest"
    return "encrypted" if sealed_by(backup.artifact) else "0 documents"


def _known(backup: Backup) -> str:
    copies = [copy.state for copy in backup.copies]
    if copies and not any(state in _PRESENT for state in copies):
        return copies[0].value
    return backup.state.value


def moment_rows(job: str, ranges: Iterable[Range], zone: tzinfo) -> list[str]:
    """Say what can be restored to the second."""
    return [
        f"{job}: every second from {shown(item.first.moment, zone)} to {shown(item.last.moment, zone)}"
        if item.first != item.last
        else f"{job}: the moment {shown(item.first.moment, zone)}"
        for item in ranges
    ]


def complaints(survey: Survey) -> list[str]:
    """Say what at the place carries a name of ours and cannot be used."""
    sorts = (
        (survey.misfits, "not of the size that the manifest says"),
        (survey.unreadable, "the manifest beside it is damaged, or of another backup"),
        (survey.lost, "gone: only its manifest is there"),
    )
    return [line for names, why in sorts for line in _some(names, why)]


def closed_row(survey: Survey) -> list[str]:
    """Say of how many backups no more is known without a key."""
    many = "backup says" if len(survey.closed) == 1 else "backups say"
    hint = "name its key: --identity FILE, --passphrase-file FILE"
    return [f"{len(survey.closed)} {many} no more than this without a key; {hint}"] if survey.closed else []


def _some(names: tuple[str, ...], why: str) -> Iterator[str]:
    yield from (f"{name}: {why}" for name in names[:_SHOWN])
    if len(names) > _SHOWN:
        yield f"and {len(names) - _SHOWN} more: {why}"


def plan_rows(plan: RestorePlan, zone: tzinfo, work: str) -> list[str]:
    """Say what a restore will do."""
    words = words_for(plan.source)
    mongodb = plan.source == "mongodb"
    there = counted(plan.source, plan.target_documents, plan.target_collections)
    count = len(plan.slices)
    replay = f"the changes after it, from {count} {'slice' if count == 1 else 'slices'}, up to that moment"
    late = " before the replay" if count and mongodb else ""
    brings = f"{words.count_items(plan.documents)}, {human_size(plan.bytes)}{late}"
    names = ", ".join(plan.collections[:_SHOWN])
    more = f" and {len(plan.collections) - _SHOWN} more" if len(plan.collections) > _SHOWN else ""
    rows = [
        ("restore", f"{plan.backup}, copy: {plan.copy}"),
        *([("replays", replay)] if count else []),
        ("as of", shown(plan.moment, zone) + (", with its oplog replayed" if plan.replays_oplog and not count else "")),
        ("brings", f"{brings}: {names}{more}" if plan.collections else "what is in the archive"),
        ("into", f"database {plan.database} at {plan.server}" if mongodb else plan.database),
        ("there now", f"{there}; {words.parts} of the same name are replaced" if plan.target_exists else "nothing"),
        ("before", _before(plan, work)),
    ]
    lines = [f"{name.ljust(11)}{text}" for name, text in rows]
    lines += [f"  {line}" for line in plan.changes]
    return [*lines, *(f"! {warning}" for warning in plan.warnings)]


def _before(plan: RestorePlan, work: str) -> str:
    if not plan.target_exists:
        return "nothing to save"
    if not plan.safety_backup:
        return "no safety backup is made"
    return f"a safety backup of what is there is made and kept below {work}"


class Screen(Lines):
    """Lines for every stage, and on a terminal how far the present one is. ``told`` is not said once more."""

    def __init__(self, terms: Terms, told: Iterable[str] = ()) -> None:
        super().__init__(sys.stdout)
        self._terms = terms
        self._told = frozenset(told)
        self._moves = sys.stdout.isatty()

    def progress(self, progress: Progress) -> None:
        """Show how far it is, in place."""
        of = f" of {human_size(progress.total)}" if progress.total else ""
        count = f", {progress.documents:,} documents" if progress.documents else ""
        self.passing(f"{progress.stage:<10} {human_size(progress.bytes)}{of}{count} ...")

    def stage(self, record: StageRecord) -> None:
        """Write a line when a stage has ended."""
        self.passing("" if record.ended is not None else f"{record.stage} ...")
        super().stage(record)

    def message(self, level: str, text: str, error: ErrorInfo | None = None, message: object = None) -> None:
        """Write what is worth a line and was not said before."""
        if text not in self._told:
            self.passing("")
            if error is not None:
                fault = reworded(BackupdError(error.message, hint=error.hint, code=error.code), self._terms)
                error = msgspec.structs.replace(error, hint=fault.hint)
            super().message(level, text, error, message)

    def passing(self, text: str) -> None:
        """Put a line on a terminal that gives way to the next one."""
        if self._moves:
            sys.stdout.write(f"\r\x1b[K{text}")
            sys.stdout.flush()
