"""The durable record of runs, backups and copies, in SQLite; rebuilt from manifests. Decides nothing.

Several processes use it at once (daemon, workers, `run-once`): write-ahead log, each change one transaction. It is an
index, never the truth: a backup exists because its manifest does, and `pipeline.inventory` brings the two together.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError
from nanumpay_backupd.model import (
    Backup,
    BackupState,
    CollectionStat,
    Copy,
    CopyState,
    Kind,
    Manifest,
    Outcome,
    Run,
    Stream,
    Trigger,
    from_json,
    to_json,
)

__all__ = ["Catalog"]

SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, started TEXT NOT NULL, outcome TEXT, record BLOB NOT NULL,
    action TEXT NOT NULL DEFAULT 'backup');
CREATE INDEX runs_by_time ON runs (started DESC);
CREATE INDEX runs_by_job ON runs (job, started DESC);
CREATE TABLE backups (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL, state TEXT NOT NULL,
    artifact TEXT NOT NULL, size INTEGER NOT NULL, documents INTEGER NOT NULL, run TEXT, manifest BLOB,
    first TEXT NOT NULL DEFAULT '', last TEXT NOT NULL DEFAULT '', pinned TEXT NOT NULL DEFAULT '');
CREATE INDEX backups_by_time ON backups (created DESC);
CREATE INDEX backups_by_job ON backups (job, created DESC);
CREATE TABLE copies (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, destination TEXT NOT NULL, state TEXT NOT NULL,
    next_attempt TEXT, record BLOB NOT NULL, PRIMARY KEY (backup, destination));
CREATE INDEX copies_pending ON copies (next_attempt) WHERE state = 'pending';
CREATE TABLE plans (job TEXT PRIMARY KEY, due TEXT NOT NULL);
CREATE TABLE streams (job TEXT PRIMARY KEY, record BLOB NOT NULL);
"""
_UPGRADES: Final = {
    1: """
ALTER TABLE runs ADD COLUMN action TEXT NOT NULL DEFAULT 'backup';
UPDATE runs SET action = json_extract(CAST(record AS TEXT), '$.action')
    WHERE json_extract(CAST(record AS TEXT), '$.action') IS NOT NULL;
ALTER TABLE backups ADD COLUMN first TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN last TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN pinned TEXT NOT NULL DEFAULT '';
UPDATE backups SET first = coalesce(json_extract(CAST(manifest AS TEXT), '$.consistency.start'), ''),
    last = coalesce(json_extract(CAST(manifest AS TEXT), '$.consistency.end'), '') WHERE manifest IS NOT NULL;
CREATE TABLE streams (job TEXT PRIMARY KEY, record BLOB NOT NULL)
"""
}
"""How a catalog of an older format becomes one of the next."""
_KEPT_RUNS: Final = 20_000
_BACKUP_COLUMNS: Final = "id, job, kind, created, state, artifact, size, documents, run, first, last, pinned"
_COLLECTION: Final = (
    "CASE kind WHEN 'collection' THEN json_extract(CAST(manifest AS TEXT), '$.source.collections[0]') END"
)
"""The one collection that a snapshot is of, which only its manifest tells."""


class Catalog:
    """An open catalog. Not thread-safe: each thread or process opens its own. Errors of the disk are BackupdError."""

    def __init__(self, path: Path) -> None:
        """Open or create the catalog.

        Raises BackupdError: ``catalog-damaged`` when the file is not one, ``catalog-newer`` when a newer version made
        it, ``catalog-unusable`` when its folder cannot be written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise _named(error, path) from None
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()
            path.chmod(0o640)
        except (sqlite3.Error, OSError) as error:
            self._db.close()
            raise _named(error, path) from None
        except BackupdError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version > SCHEMA_VERSION:
            raise BackupdError(
                f"the catalog {self._path} was made by a newer nanumpay-backupd (format {version})",
                hint="install that version again, or move the file away: it is then rebuilt from the manifests",
                code="catalog-newer",
            )
        with self._write() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            # Another process may have done it meanwhile.
            steps = [_SCHEMA] if version == 0 else [_UPGRADES[older] for older in range(version, SCHEMA_VERSION)]
            for statement in ";".join(steps).split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make what is read and written inside one transaction: no other process writes in between."""
        with self._write():
            yield

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction, or a part of the one that is open; the whole is on the disk when its end is reached."""
        if self._in_transaction():
            yield self._db
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # After some faults (disk full) SQLite has taken everything back by itself.
                if self._in_transaction():
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _named(error, self._path) from None

    def _in_transaction(self) -> bool:
        return self._db.in_transaction

    def _read(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _named(error, self._path) from None

    # Runs

    def save_run(self, run: Run) -> None:
        """Insert or replace a run."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                (run.id, run.job, _stamp(run.started), run.outcome, to_json(run), run.action),
            )

    def run(self, run_id: str) -> Run | None:
        """Return one run, or None."""
        rows = self._read("SELECT record FROM runs WHERE id = ?", run_id)
        return from_json(Run, _blob(rows[0][0])) if rows else None

    def runs(self, job: str | None = None, limit: int = 20, *, slices: bool = True) -> list[Run]:
        """Return the newest runs first; without ``slices`` those are left out that only captured the changes."""
        rows = self._read(
            "SELECT record FROM runs WHERE (?1 IS NULL OR job = ?1) AND (?3 OR action != 'slice') "
            "ORDER BY started DESC, id DESC LIMIT ?2",
            job,
            limit,
            slices,
        )
        return [from_json(Run, _blob(row[0])) for row in rows]

    def forget_run(self, run_id: str) -> None:
        """Drop one run: a slice that found nothing new leaves no trace."""
        with self._write() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def last_run(self, job: str, action: str, *outcomes: Outcome) -> Run | None:
        """Return the newest run of ``action`` that ended in one of ``outcomes``; retries of uploads do not count."""
        marks = ", ".join("?" * len(outcomes))
        rows = self._read(
            f"SELECT record FROM runs WHERE job = ? AND action = ? AND outcome IN ({marks}) "  # noqa: S608
            "ORDER BY started DESC, id DESC LIMIT 20",
            job,
            action,
            *outcomes,
        )
        runs = (from_json(Run, _blob(row[0])) for row in rows)
        return next((run for run in runs if run.trigger is not Trigger.RETRY), None)

    def unfinished_runs(self) -> list[Run]:
        """Return the runs without an outcome: running now, or cut off with their process."""
        rows = self._read("SELECT record FROM runs WHERE outcome IS NULL ORDER BY started")
        return [from_json(Run, _blob(row[0])) for row in rows]

    def forget_old_runs(self) -> None:
        """Keep the record from growing for ever: the newest 20,000 runs stay."""
        with self._write() as db:
            db.execute(
                "DELETE FROM runs WHERE id IN (SELECT id FROM runs ORDER BY started DESC LIMIT -1 OFFSET ?)",
                (_KEPT_RUNS,),
            )

    # Backups and copies

    def save_backup(self, backup: Backup) -> None:
        """Insert or update a backup and the copies it carries; copies it does not carry stay."""
        with self._write() as db:
            self._put_backup(db, backup)

    def save_backups(self, backups: list[Backup]) -> None:
        """Save many backups in one transaction."""
        with self._write() as db:
            for backup in backups:
                self._put_backup(db, backup)

    def _put_backup(self, db: sqlite3.Connection, backup: Backup) -> None:
        manifest = to_json(backup.manifest) if backup.manifest is not None else None
        db.execute(
            f"INSERT INTO backups ({_BACKUP_COLUMNS}, manifest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (id) DO UPDATE SET job = excluded.job, kind = excluded.kind, created = excluded.created, "
            "state = excluded.state, artifact = excluded.artifact, size = excluded.size, "
            "documents = excluded.documents, run = coalesce(excluded.run, run), "
            "first = excluded.first, last = excluded.last, "
            "manifest = coalesce(excluded.manifest, manifest)",
            (
                backup.id,
                backup.job,
                backup.kind,
                _stamp(backup.created),
                backup.state,
                backup.artifact,
                backup.size,
                backup.documents,
                backup.run,
                backup.start,
                backup.end,
                backup.pinned,
                manifest,
            ),
        )
        for copy in backup.copies:
            self._put_copy(db, copy)

    def save_copy(self, copy: Copy) -> None:
        """Insert or replace one copy; raises NotFoundError when its backup is not in the catalog (any more)."""
        with self._write() as db:
            if not db.execute("SELECT 1 FROM backups WHERE id = ?", (copy.backup,)).fetchone():
                raise NotFoundError(
                    f"the catalog has no backup {copy.backup!r} (any more), of which a copy is to be recorded",
                    hint="it was deleted meanwhile; see: backupctl list",
                )
            self._put_copy(db, copy)

    def _put_copy(self, db: sqlite3.Connection, copy: Copy) -> None:
        due = _stamp(copy.next_attempt) if copy.next_attempt is not None else None
        db.execute(
            "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?, ?)",
            (copy.backup, copy.destination, copy.state, due, to_json(copy)),
        )

    def forget_copy(self, backup: str, destination: str) -> None:
        """Drop one copy; a backup without any copy left is dropped with it."""
        with self._write() as db:
            db.execute("DELETE FROM copies WHERE backup = ? AND destination = ?", (backup, destination))
            db.execute(
                "DELETE FROM backups WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM copies WHERE backup = ?1)", (backup,)
            )

    def forget_backup(self, backup: str) -> None:
        """Drop a backup and the record of all its copies."""
        with self._write() as db:
            db.execute("DELETE FROM backups WHERE id = ?", (backup,))

    def clear_backups(self) -> None:
        """Drop all backups and copies, before they are read anew from the manifests. Runs stay."""
        with self._write() as db:
            db.execute("DELETE FROM copies")
            db.execute("DELETE FROM backups")

    def backups(
        self, job: str | None = None, limit: int | None = None, kinds: Collection[Kind] = frozenset(Kind)
    ) -> list[Backup]:
        """Return backups of these kinds with their copies, newest first, without manifests."""
        chosen = (
            "FROM backups WHERE (?1 IS NULL OR job = ?1) AND kind IN (SELECT value FROM json_each(?3)) "
            "ORDER BY created DESC, id DESC LIMIT ?2"
        )
        values = (job, -1 if limit is None else limit, to_json([kind.value for kind in kinds]).decode())
        rows = self._read(f"SELECT {_BACKUP_COLUMNS}, {_COLLECTION} {chosen}", *values)
        copies: dict[str, list[Copy]] = {}
        for name, record in self._read(
            f"SELECT backup, record FROM copies WHERE backup IN (SELECT id {chosen}) ORDER BY backup, destination",  # noqa: S608
            *values,
        ):
            copies.setdefault(str(name), []).append(from_json(Copy, _blob(record)))
        return [_backup(row, tuple(copies.get(str(row[0]), ()))) for row in rows]

    def count(self, job: str | None, kinds: Collection[Kind]) -> int:
        """Return how many backups of these kinds a job has (None: all jobs)."""
        kinds_json = to_json([kind.value for kind in kinds]).decode()
        ((count,),) = self._read(
            "SELECT count(*) FROM backups WHERE (?1 IS NULL OR job = ?1) AND kind IN (SELECT value FROM json_each(?2))",
            job,
            kinds_json,
        )
        return int(str(count))

    def doubtful(self, job: str, kinds: Collection[Kind], since: datetime) -> bool:
        """Tell whether a job's backup of these kinds, made at ``since`` or later, is not proven or has no copy left."""
        kinds_json = to_json([kind.value for kind in kinds]).decode()
        ((found,),) = self._read(
            "SELECT EXISTS (SELECT 1 FROM backups AS b WHERE job = ?1 AND created >= ?3 "
            "AND kind IN (SELECT value FROM json_each(?2)) AND (b.state != 'verified' OR NOT EXISTS "
            "(SELECT 1 FROM copies AS c WHERE c.backup = b.id AND c.state IN ('uploaded', 'verified'))))",
            job,
            kinds_json,
            _stamp(since),
        )
        return bool(found)

    def pin(self, backup: str, reason: str) -> None:
        """Keep retention from deleting a backup; an empty reason lets it go again."""
        with self._write() as db:
            db.execute("UPDATE backups SET pinned = ? WHERE id = ?", (reason, backup))

    def backup(self, backup_id: str) -> Backup | None:
        """Return one backup with copies and manifest, or None."""
        rows = self._read(
            f"SELECT {_BACKUP_COLUMNS}, {_COLLECTION}, manifest FROM backups WHERE id = ?",  # noqa: S608
            backup_id,
        )
        if not rows:
            return None
        copies = self._read("SELECT record FROM copies WHERE backup = ? ORDER BY destination", backup_id)
        manifest = from_json(Manifest, _blob(rows[0][-1])) if rows[0][-1] is not None else None
        return _backup(rows[0][:-1], tuple(from_json(Copy, _blob(row[0])) for row in copies), manifest)

    def totals(self, job: str) -> tuple[int, int, int]:
        """Return how many fulls a job has, the bytes of all its present copies, and how many uploads wait or failed."""
        ((count,),) = self._read("SELECT count(*) FROM backups WHERE job = ? AND kind IN ('full', 'legacy')", job)
        ((size, pending),) = self._read(
            "SELECT coalesce(sum(CASE WHEN c.state IN ('uploaded', 'verified') THEN b.size END), 0), "
            "count(CASE WHEN c.state = 'pending' THEN 1 END) "
            "FROM copies c JOIN backups b ON b.id = c.backup WHERE b.job = ?",
            job,
        )
        return int(str(count)), int(str(size)), int(str(pending))

    def pending_copies(self, due: datetime | None = None) -> list[Copy]:
        """Return the copies that wait for their upload, soonest first; with ``due`` only those due by then."""
        rows = self._read(
            "SELECT record FROM copies WHERE state = ?1 AND next_attempt IS NOT NULL "
            "AND (?2 IS NULL OR next_attempt <= ?2) ORDER BY next_attempt, backup",
            CopyState.PENDING,
            _stamp(due) if due is not None else None,
        )
        return [from_json(Copy, _blob(row[0])) for row in rows]

    def given_up_copies(self, job: str, destination: str) -> list[Copy]:
        """Return a job's copies that wait for their upload to one place without being tried again by themselves."""
        rows = self._read(
            "SELECT c.record FROM copies AS c JOIN backups AS b ON b.id = c.backup "
            "WHERE c.state = 'pending' AND c.next_attempt IS NULL AND c.destination = ? AND b.job = ?",
            destination,
            job,
        )
        return [from_json(Copy, _blob(row[0])) for row in rows]

    # Streams: how far the changes of each job are captured

    def stream(self, job: str) -> Stream | None:
        """Return how far the changes of a job are captured, or None."""
        rows = self._read("SELECT record FROM streams WHERE job = ?", job)
        return from_json(Stream, _blob(rows[0][0])) if rows else None

    def save_stream(self, stream: Stream) -> None:
        """Remember how far the changes of a job are captured."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?)", (stream.job, to_json(stream)))

    # Plans: when each job is due next, so that a due time that passed while nobody was there is noticed

    def plan(self, job: str) -> datetime | None:
        """Return the due time that was last planned for a job, or None."""
        rows = self._read("SELECT due FROM plans WHERE job = ?", job)
        return datetime.fromisoformat(str(rows[0][0])) if rows else None

    def save_plan(self, job: str, due: datetime | None) -> None:
        """Remember when a job is due next; None forgets it."""
        with self._write() as db:
            if due is None:
                db.execute("DELETE FROM plans WHERE job = ?", (job,))
            else:
                db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (job, _stamp(due)))


def _backup(row: tuple[object, ...], copies: tuple[Copy, ...], manifest: Manifest | None = None) -> Backup:
    identifier, job, kind, created, state, artifact, size, documents, run, first, last, pinned, only = row
    return Backup(
        id=str(identifier),
        job=str(job),
        kind=Kind(str(kind)),
        created=datetime.fromisoformat(str(created)),
        state=BackupState(str(state)),
        artifact=str(artifact),
        size=int(str(size)),
        documents=int(str(documents)),
        run=None if run is None else str(run),
        start=str(first),
        end=str(last),
        pinned=str(pinned),
        collection=_namespace(only),
        copies=copies,
        manifest=manifest,
    )


def _namespace(stat: object) -> str:
    """Name what a snapshot of one collection holds, from its record in the manifest; None: it is none."""
    return "" if stat is None else from_json(CollectionStat, str(stat)).namespace


def _stamp(moment: datetime) -> str:
    """Write a moment so that text order is time order; all moments are UTC."""
    return moment.isoformat(timespec="microseconds")


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _named(error: sqlite3.Error | OSError, path: Path) -> BackupdError:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return BusyError(f"the catalog {path} is locked by another process", hint="try again in a moment")
    if isinstance(error, (sqlite3.OperationalError, OSError)):
        return BackupdError(
            f"the catalog {path} cannot be used: {error.strerror if isinstance(error, OSError) else error}",
            hint="check the owner and free space of its folder",
            code="catalog-unusable",
            retryable=True,
        )
    return BackupdError(
        f"the catalog {path} is damaged: {error}",
        hint="stop the daemon, move the file away and start again: it is rebuilt from the manifests; no backup is lost",
        code="catalog-damaged",
    )
