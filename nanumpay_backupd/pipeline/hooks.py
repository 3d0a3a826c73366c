"""Commands of the operator's own before and after a backup: for all that this program does not know.

Each is a process group of its own, so that nothing of it goes on when its time is over. What it has to know of the run
is in its environment (`facts`); what it says goes to the run's log. Why it is run is decided in `backup`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, ToolError
from nanumpay_backupd.model import Backup, Outcome, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.system.process import Child

__all__ = ["after", "before", "facts"]

_SHELL: Final = ("/bin/sh", "-c")
_LAST: Final = 20.0
"""Seconds that a command after a run has which is being ended: whoever ends it does not wait for long."""
_TICK: Final = 0.2
_SHOWN: Final = 300


def before(spec: RunSpec, recorder: Recorder) -> None:
    """Run the command that comes before, if there is one; raises ToolError (``hook-failed``), CancelledError."""
    if spec.job.before:
        with recorder.stage(Stage.BEFORE):
            _run(spec.job.before, spec, recorder, facts(spec, recorder))


def after(spec: RunSpec, recorder: Recorder, made: Backup | None, error: BackupdError | None) -> BackupdError | None:
    """Run the command that comes after, whatever happened; returns its own fault, which spoils no backup.

    ``made`` is the backup of this run, if there is one, ``error`` what it failed of.
    """
    if not spec.job.after:
        return None
    try:
        # A run that is being ended begins no stage any more.
        with contextlib.nullcontext() if _ending(recorder) else recorder.stage(Stage.AFTER):
            given = facts(spec, recorder, made, error, ended=True)
            _run(spec.job.after, spec, recorder, given, ending=_ending(recorder))
    except BackupdError as fault:
        return fault
    return None


def facts(
    spec: RunSpec,
    recorder: Recorder,
    made: Backup | None = None,
    error: BackupdError | None = None,
    *,
    ended: bool = False,
) -> dict[str, str]:
    """Return the variables that a command gets; those of what is not known are empty."""
    artifact = str(Layout(spec.paths.backups).artifact(made.artifact)) if made is not None else ""
    outcome = "" if not ended else (Outcome.SUCCEEDED if error is None else Outcome.FAILED).value
    return {
        "NANUMPAY_JOB": spec.job.name,
        "NANUMPAY_RUN": recorder.run.id,
        "NANUMPAY_TRIGGER": recorder.run.trigger.value,
        "NANUMPAY_ACTION": recorder.run.action,
        "NANUMPAY_BACKUPS": str(spec.paths.backups),
        "NANUMPAY_OUTCOME": outcome,
        "NANUMPAY_ERROR_CODE": error.code if error is not None else "",
        "NANUMPAY_ERROR": error.message if error is not None else "",
        "NANUMPAY_BACKUP": made.id if made is not None else "",
        "NANUMPAY_ARTIFACT": artifact,
        "NANUMPAY_SIZE": str(made.size) if made is not None else "",
        "NANUMPAY_ITEMS": str(made.documents) if made is not None else "",
    }


def _ending(recorder: Recorder) -> bool:
    return recorder.cancelled or recorder.fault is not None


def _run(
    command: tuple[str, ...], spec: RunSpec, recorder: Recorder, environment: dict[str, str], *, ending: bool = False
) -> None:
    name = Path((command[-1].split() or [""])[0] if command[:-1] == _SHELL else command[0]).name
    child = Child(command, both=True, extra=environment, group=True)
    clock, limit = recorder.clock, min(spec.job.hook_timeout, _LAST) if ending else spec.job.hook_timeout
    started = clock.monotonic()
    try:
        while (code := child.wait(_TICK)) is None:
            if not ending:
                recorder.alive()
            if clock.monotonic() - started > limit:
                raise ToolError(
                    f"the command {name} did not end within {limit:.0f} s, and was ended",
                    hint="raise hook_timeout of this job in backupd.toml, or see why it hangs",
                    code="hook-failed",
                )
    finally:
        # Also what it may have left in the background.
        child.kill()
    said = child.tail.strip()
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise ToolError(
            f"the command {name} {how}: {said[-_SHOWN:] or 'it said nothing'}",
            hint="try it by hand as the service's user; docs/operations.md has what it is given",
            code="hook-failed",
        )
    if not ending:
        recorder.detail(said.splitlines()[-1][:_SHOWN] if said else f"{name} succeeded")
