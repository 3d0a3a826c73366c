"""Catalogs of older formats become ours without losing anything; what a status asks for is answered from indexes."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.facts import job_facts, protection, retention
from nanumpay_backupd.model import (
    LOCAL,
    SLICES,
    Backup,
    Copy,
    CopyState,
    Kind,
    Manifest,
    OpTime,
    Outcome,
    Run,
    Stream,
    Trigger,
    to_json,
)
from nanumpay_backupd.monitoring.judging import gather
from nanumpay_backupd.monitoring.memory import recall
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import backup_id
from tests.workbench import NOW, job_spec, manifest_of

_FIRST: Final = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, started TEXT NOT NULL, outcome TEXT, record BLOB NOT NULL);
CREATE INDEX runs_by_time ON runs (started DESC);
CREATE INDEX runs_by_job ON runs (job, started DESC);
CREATE TABLE backups (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL, state TEXT NOT NULL,
    artifact TEXT NOT NULL, size INTEGER NOT NULL, documents INTEGER NOT NULL, run TEXT, manifest BLOB);
CREATE INDEX backups_by_time ON backups (created DESC);
CREATE INDEX backups_by_job ON backups (job, created DESC);
CREATE TABLE copies (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, destination TEXT NOT NULL, state TEXT NOT NULL,
    next_attempt TEXT, record BLOB NOT NULL, PRIMARY KEY (backup, destination));
CREATE INDEX copies_pending ON copies (next_attempt) WHERE state = 'pending';
CREATE TABLE plans (job TEXT PRIMARY KEY, due TEXT NOT NULL);
PRAGMA user_version = 1
"""
_SECOND: Final = """
ALTER TABLE runs ADD COLUMN action TEXT NOT NULL DEFAULT 'backup';
ALTER TABLE backups ADD COLUMN first TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN last TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN pinned TEXT NOT NULL DEFAULT '';
CREATE TABLE streams (job TEXT PRIMARY KEY, record BLOB NOT NULL);
UPDATE backups SET first = coalesce(json_extract(CAST(manifest AS TEXT), '$.consistency.start'), ''),
    last = coalesce(json_extract(CAST(manifest AS TEXT), '$.consistency.end'), '') WHERE manifest IS NOT NULL;
UPDATE runs SET action = json_extract(CAST(record AS TEXT), '$.action');
PRAGMA user_version = 2
"""
"""What the program of that time made of a catalog of the format before."""
_THIRD: Final = """
CREATE TABLE manifests (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, record BLOB NOT NULL);
INSERT INTO manifests SELECT id, manifest FROM backups WHERE manifest IS NOT NULL;
ALTER TABLE backups ADD COLUMN collection TEXT NOT NULL DEFAULT '';
UPDATE backups SET collection = coalesce(
    json_extract(CAST(manifest AS TEXT), '$.source.collections[0].database') || '.' ||
    replace(json_extract(CAST(manifest AS TEXT), '$.source.collections[0].name'), 'system.buckets.', ''), '')
    WHERE kind = 'collection';
ALTER TABLE backups DROP COLUMN manifest;
ALTER TABLE copies ADD COLUMN job TEXT NOT NULL DEFAULT '';
ALTER TABLE copies ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE copies SET job = (SELECT job FROM backups WHERE id = backup),
    size = json_extract(CAST(record AS TEXT), '$.size');
CREATE INDEX runs_by_action ON runs (job, action, outcome, started DESC, id DESC);
PRAGMA user_version = 3
"""
_FOURTH: Final = """
ALTER TABLE copies ADD COLUMN locked TEXT;
CREATE TABLE pins (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, owner TEXT NOT NULL, reason TEXT NOT NULL,
    made TEXT NOT NULL, PRIMARY KEY (backup, owner));
INSERT INTO pins SELECT id, 'daemon:verify', pinned, created FROM backups WHERE pinned != '';
CREATE TABLE notices (id TEXT PRIMARY KEY, job TEXT NOT NULL, at TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE memory (key TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE INDEX notices_by_time ON notices (at DESC, id DESC);
PRAGMA user_version = 4
"""
_WHOLE: Final = re.compile(
    r"SCAN (runs|backups|b|copies|c)\b(?! USING (COVERING )?INDEX (runs_but_slices|runs_unfinished|copies_pending))"
    r"|SEARCH (runs|backups|b) .*\(job=\?\)$"
)
"""What SQLite says of a query that reads all rows, or all of a job's; the three indexes are of a part of the rows."""


def _backups() -> list[Backup]:
    """A full with two copies, a slice, a snapshot of a time-series collection, and an archive without manifest."""
    full = manifest_of(b"full", collections={"nanumpay.users": (5, 500)}, raw_bytes=500, proven=True)
    moment = msgspec.structs.replace(full.consistency, level="point-in-time", start="1800000000:1", end="1800000060:2")
    full = msgspec.structs.replace(full, consistency=moment)
    series = msgspec.structs.replace(full.source.collections[0], database="shop", name="system.buckets.visits")
    only = msgspec.structs.replace(full.source, collections=(series,))
    snapshot = msgspec.structs.replace(
        full, backup=backup_id("nanumpay", NOW, Kind.COLLECTION), kind=Kind.COLLECTION, source=only
    )
    sliced = msgspec.structs.replace(full, backup=backup_id("nanumpay", NOW, Kind.INCREMENTAL), kind=Kind.INCREMENTAL)
    legacy = msgspec.structs.replace(backup_from_manifest(full), id="nanumpay-backup-2020-01-01T02-00-00")
    legacy = msgspec.structs.replace(legacy, kind=Kind.LEGACY, manifest=None, start="", end="", run=None)
    return [
        backup_from_manifest(full, _copy(full, LOCAL), _copy(full, "cloud", CopyState.PENDING)),
        *(backup_from_manifest(item, _copy(item, LOCAL)) for item in (sliced, snapshot)),
        legacy,
    ]


def _copy(manifest: Manifest, place: str, state: CopyState = CopyState.VERIFIED) -> Copy:
    return Copy(
        backup=manifest.backup,
        destination=place,
        state=state,
        key=manifest.artifact.name,
        size=manifest.artifact.size,
        updated=NOW,
    )


def _run(number: int, action: str = "backup", outcome: Outcome = Outcome.SUCCEEDED) -> Run:
    moment = NOW + timedelta(minutes=number)
    return Run(
        id=f"{action}-{number}",
        job="nanumpay",
        trigger=Trigger.SCHEDULE,
        started=moment,
        ended=moment,
        outcome=outcome,
        action=action,
    )


def _write(path: Path, version: int, backups: list[Backup], runs: list[Run]) -> None:
    """Make a catalog as an older program left it."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_FIRST)
        for run in runs:
            values = (run.id, run.job, run.started.isoformat(timespec="microseconds"), run.outcome, to_json(run))
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", values)
        for backup in backups:
            created = backup.created.isoformat(timespec="microseconds")
            manifest = to_json(backup.manifest) if backup.manifest is not None else None
            row = (backup.artifact, backup.size, backup.documents, backup.run, manifest)
            db.execute(
                "INSERT INTO backups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (backup.id, backup.job, backup.kind, created, backup.state, *row),
            )
            for copy in backup.copies:
                values = (copy.backup, copy.destination, copy.state, None, to_json(copy))
                db.execute("INSERT INTO copies VALUES (?, ?, ?, ?, ?)", values)
        if version > 1:
            db.executescript(_SECOND)
        if version > 2:
            db.executescript(_THIRD)
            db.execute("UPDATE backups SET pinned = 'a newer one is corrupt' WHERE id = ?", (backups[0].id,))
        if version > 3:
            db.executescript(_FOURTH)


def _tables(path: Path) -> set[tuple[str, str]]:
    """Return the tables with their columns, and the indexes."""
    with closing(sqlite3.connect(path)) as db:
        columns = db.execute(
            "SELECT m.name, group_concat(c.name) FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
            "WHERE m.type = 'table' GROUP BY m.name"
        ).fetchall()
        indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    return {(name, ",".join(sorted(names.split(",")))) for name, names in columns} | set(indexes)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_catalog_of_an_older_format_becomes_ours_and_loses_nothing(tmp_path: Path, version: int) -> None:
    """Backups with their manifests and copies, runs, totals and the lookups by kind are as if made by this program."""
    backups, runs = _backups(), [_run(0), _run(1, "slice"), _run(2, "drill", Outcome.FAILED)]
    _write(tmp_path / "old.db", version, backups, runs)
    with Catalog(tmp_path / "new.db") as fresh:
        fresh.save_backups(backups)
        for run in runs:
            fresh.save_run(run)
    with Catalog(tmp_path / "old.db") as old, Catalog(tmp_path / "new.db") as new:
        if version >= 3:
            # Until then the daemon alone made pins.
            (found,) = old.pins()
            assert (found.backup, found.reason, found.by_daemon) == (backups[0].id, "a newer one is corrupt", True)
            new.pin(found)
        assert old.backups() == new.backups()
        assert old.locked("nanumpay") == new.locked("nanumpay") == []
        assert len(old.backups()) == len(backups)
        for backup in backups:
            assert old.backup(backup.id) == new.backup(backup.id)
        assert old.totals("nanumpay") == new.totals("nanumpay")
        assert sorted(old.placed()) == sorted(new.placed())
        assert old.spans("nanumpay", SLICES) == new.spans("nanumpay", SLICES)
        assert old.runs(slices=False) == [runs[2], runs[0]]
        assert old.notices() == []
        assert old.remembered("announcer") is None
        assert old.oddities() == []
        assert old.last_run("nanumpay", "drill", Outcome.FAILED) == runs[2]
    assert _tables(tmp_path / "old.db") == _tables(tmp_path / "new.db")


def test_a_status_reads_no_table_from_end_to_end(tmp_path: Path) -> None:
    """However many slices and runs there are: what is said of a job comes from indexes, also where it has none."""
    said: list[str] = []
    job = job_spec(pitr=60.0)
    with Catalog(tmp_path / "catalog.db") as catalog:
        catalog.save_backups(_backups())
        catalog.save_run(_run(0))
        position = str(OpTime(1_800_000_060, 2))
        stream = Stream(job=job.name, position=position, parent="a", since=position, chain="b", checked=NOW)
        catalog.save_stream(stream)
        catalog._db.set_trace_callback(said.append)
        job_facts(catalog, job.name)
        retention(catalog, job)
        protection(catalog, job, lambda _: None, datetime.now(UTC))
        gather(catalog, job)
        recall(catalog)
        catalog.runs(slices=False)
        catalog.unfinished_runs()
        catalog.pending_copies()
        catalog._db.set_trace_callback(None)
        asked = [sql for sql in said if sql.startswith("SELECT")]
        assert len(asked) > 10
        for sql in asked:
            for *_, step in catalog._db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall():
                assert not _WHOLE.search(step), f"{step}: {sql}"


def test_the_runs_of_slices_do_not_push_out_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a slice every minute: the drill of last week, which told how long a restore takes, stays on record."""
    monkeypatch.setattr("nanumpay_backupd.catalog._KEPT_SLICE_RUNS", 2)
    with Catalog(tmp_path / "catalog.db") as catalog:
        for run in [_run(0, "drill"), *(_run(at, "slice") for at in range(1, 6))]:
            catalog.save_run(run)
        catalog.forget_old_runs()
        assert [run.id for run in catalog.runs()] == ["slice-5", "slice-4", "drill-0"]
