"""A job's own commands, run around a backup of a small database: before, after, failing, hanging, cancelled."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Outcome, Run, Stage
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.schema import Paths, RunSpec
from nanumpay_backupd.settings.sources import SqliteSource
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.worker import execute
from tests.workbench import Ear, job_spec

Go = Callable[..., Run]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Give what makes one backup of a small database, with these commands."""
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as db, db:
        db.execute("CREATE TABLE things (at)")
    (tmp_path / "state").mkdir()
    paths = Paths(backups=tmp_path / "backups", state=tmp_path / "state", socket=tmp_path / "socket")

    def run(on_start: Callable[[Recorder], None] | None = None, ear: Ear | None = None, **job: Any) -> Run:
        source = SqliteSource(path=(str(tmp_path / "app.db"),))
        spec = RunSpec(run="run1", job=job_spec(source=source, **job), paths=paths, trigger="manual")
        return execute(spec, ear or Ear(), SystemClock(), on_start=on_start)

    return run


def shell(text: str) -> tuple[str, ...]:
    """Return a command as the settings have it."""
    return "/bin/sh", "-c", text


def backups(tmp_path: Path) -> list[str]:
    """Return the backups that there are."""
    with Catalog(tmp_path / "state/catalog.db") as catalog:
        return [item.id for item in catalog.backups()]


def test_both_are_told_what_they_need(go: Go, tmp_path: Path) -> None:
    """Before knows the run, after also what was made; nothing else of the environment is theirs."""
    told = tmp_path / "told"
    run = go(before=shell(f"env > {told}.before"), after=shell(f"env > {told}.after; echo well done"))
    assert run.outcome is Outcome.SUCCEEDED, run.error
    before, after = (
        dict(line.split("=", 1) for line in Path(f"{told}.{name}").read_text().splitlines())
        for name in ("before", "after")
    )
    assert (before["NANUMPAY_JOB"], before["NANUMPAY_RUN"], before["NANUMPAY_OUTCOME"]) == ("nanumpay", "run1", "")
    (backup,) = backups(tmp_path)
    assert (after["NANUMPAY_BACKUP"], after["NANUMPAY_OUTCOME"]) == (backup, "succeeded")
    assert Path(after["NANUMPAY_ARTIFACT"]).stat().st_size == int(after["NANUMPAY_SIZE"])
    assert "MONGODB_URI" not in before
    assert run.stages[0].stage is Stage.BEFORE
    assert (run.stages[-1].stage, run.stages[-1].detail) == (Stage.AFTER, "well done")


def test_without_a_good_beginning_there_is_no_backup(go: Go, tmp_path: Path) -> None:
    """What fails before fails the run with its own last words; after is told, so that it can take back."""
    run = go(
        before=shell("echo no room; exit 3"),
        after=shell(f"echo $NANUMPAY_OUTCOME $NANUMPAY_ERROR_CODE > {tmp_path}/after"),
    )
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert (run.error.code, "exit code 3: no room" in run.error.message) == ("hook-failed", True)
    assert backups(tmp_path) == []
    assert (tmp_path / "after").read_text() == "failed hook-failed\n"


def test_a_bad_end_spoils_no_backup(go: Go, tmp_path: Path) -> None:
    """What fails after leaves a good backup and a degraded run."""
    run = go(after=("/bin/false",))
    assert (run.outcome, run.error and run.error.code) == (Outcome.DEGRADED, "hook-failed")
    assert len(backups(tmp_path)) == 1


def test_what_hangs_is_ended_with_all_that_it_started(go: Go, tmp_path: Path) -> None:
    """When its time is over, the command and what it has in the background are gone."""
    mark = tmp_path / "mark"
    run = go(before=shell(f"(sleep 3; touch {mark}) & sleep 3600"), hook_timeout=0.5)
    assert run.error is not None
    assert "did not end within" in run.error.message
    assert backups(tmp_path) == []
    assert not _alive("sleep 3600")
    assert not mark.exists()


def _alive(command: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip() if entry.name.isdigit() else ""
            )
            if line == command:
                found.append(entry.name)
    return found


def test_a_cancelled_run_has_its_end_too(go: Go, tmp_path: Path) -> None:
    """Whoever cancels during the command before ends that; the command after is run all the same."""

    class Cancelling(Ear):
        def stage(self, record: Any) -> None:
            if record.stage is Stage.BEFORE and record.ended is None:
                self.recorder.cancel()

        recorder: Recorder

    ear = Cancelling()

    def begin(recorder: Recorder) -> None:
        ear.recorder = recorder

    began = time.monotonic()
    run = go(begin, ear, before=shell("sleep 600"), after=shell(f"touch {tmp_path}/after"))
    assert run.outcome is Outcome.CANCELLED
    assert time.monotonic() - began < 60
    assert (tmp_path / "after").exists()
    assert backups(tmp_path) == []


def test_a_command_that_is_not_there_is_told(go: Go) -> None:
    """A wrong path is a sentence, not a traceback."""
    run = go(before=("/no/such/program", "x"))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert "/no/such" in run.error.message or "program cannot be started" in run.error.message


@pytest.mark.parametrize(
    "text,words",
    [
        ('"touch /tmp/x"', ("/bin/sh", "-c", "touch /tmp/x")),
        ('["/usr/bin/touch", "/tmp/a b"]', ("/usr/bin/touch", "/tmp/a b")),
        ('["/usr/bin/true"]', ("/usr/bin/true",)),
        ('""', ()),
    ],
)
def test_how_a_command_is_written(text: str, words: tuple[str, ...]) -> None:
    """A text is the shell's, a list stands as it is."""
    host = parse_host_file(f"[nanumpay]\nbefore = {text}", "host.toml", environ={})
    assert host.nanumpay.before == words
