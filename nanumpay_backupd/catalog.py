"""The durable record of runs, backups and copies, in SQLite; rebuilt from manifests. Decides nothing.

Several processes use it at once (daemon, workers, `run-once`): write-ahead log, each change one transaction. It is an
index, never the truth: a backup exists because its manifest does, and `pipeline.inventory` brings the two together.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec

from nanumpay_backupd.catalog_schema import SCHEMA_VERSION, create, upgrade
from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError
from nanumpay_backupd.model import (
    ACCEPTED,
    FULLS,
    LOCAL,
    SLICES,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    Lock,
    Manifest,
    OddityRecord,
    Outcome,
    Pin,
    Run,
    Stream,
    Trigger,
    from_json,
    to_json,
)
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.files import free_bytes

if TYPE_CHECKING:
    from nanumpay_backupd.alerts import NoticeRecord  # a worker, which starts every minute, has no use for it

__all__ = ["Catalog", "Held", "Locked", "Placed", "Span", "Tally"]

_PATIENCE: Final = 10.0
"""Seconds to wait for another process that writes."""
_NAP: Final = 0.02
_ROOM: Final = 64 << 10
"""Bytes: with less than this free, SQLite's shared index alone (32 KiB) may not fit."""
_KEPT_RUNS: Final = 20_000
_KEPT_SLICE_RUNS: Final = 10_000
_KEPT_NOTICES: Final = 5_000
_FORGOTTEN: Final = "forgotten-runs"
"""Remembers how the runs ended that are no more on record: rows of job, action, outcome, how many."""
_BACKUP_COLUMNS: Final = (
    "id, job, kind, created, state, artifact, size, documents, run, first, last, pinned, collection, odd"
)
_KINDS: Final = {kind.value: kind for kind in Kind}
_STATES: Final = {state.value: state for state in BackupState}
_COPY: Final = msgspec.json.Decoder(Copy)


class Span(msgspec.Struct, frozen=True, gc=False):
    """What a timeline needs of a backup; ``present``: a copy of it is there. Empty ``start``, ``end``: of no moment."""

    id: str
    kind: Kind
    state: BackupState
    created: datetime
    start: str
    end: str
    present: bool


class Placed(NamedTuple):
    """What a look at the backups folder needs of a backup.

    ``good``: a copy is known to be there, and nothing is known against it; ``absent``: none is. ``legacy``: without
    a manifest.
    """

    id: str
    artifact: str
    size: int
    good: bool
    absent: bool
    legacy: bool


class Held(msgspec.Struct, frozen=True, gc=False):
    """What retention needs of one present copy: of the backup, then of the copy."""

    id: str
    kind: Kind
    created: datetime
    verified: bool
    start: str
    end: str
    pinned: str
    collection: str
    destination: str
    corrupt: bool
    size: int


class Locked(NamedTuple):
    """The copies at one place that should go and are locked there; from ``first`` to ``last`` the locks end (UTC).

    None: some are until somebody lifts it.
    """

    destination: str
    copies: int
    size: int
    first: datetime | None
    last: datetime | None


class Tally(NamedTuple):
    """The copies of one kind in one state at one place: how many, their bytes, and the newest that is proven.

    ``newest`` is when that backup was made, ``newest_size`` its copy's bytes; None: none of them was read back.
    """

    destination: str
    kind: str
    state: str
    copies: int
    size: int
    newest: datetime | None
    newest_size: int


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
            self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise _named(error, path) from None
        try:
            self._log_ahead(SystemClock())
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

    def _log_ahead(self, clock: Clock) -> None:
        """Switch the write-ahead log on. SQLite's own patience does not cover this: two may open a new file at once."""
        deadline = clock.monotonic() + _PATIENCE
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or clock.monotonic() >= deadline:
                    raise
            else:
                return
            clock.sleep(_NAP)

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
            if version == SCHEMA_VERSION:  # another process did it meanwhile
                return
            if version == 0:
                create(db)
            else:
                upgrade(db, version)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def check(self) -> None:
        """Read the whole file; raises BackupdError (``catalog-damaged``) where it is not what it should be."""
        said = str(self._read("PRAGMA quick_check(1)")[0][0])
        if said != "ok":
            raise _named(sqlite3.DatabaseError(said.splitlines()[-1]), self._path)

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

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _named(error, self._path) from None

    def select(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask what no method here answers (`catalog_pages`); only reads. Raises BackupdError as all methods."""
        return self._read(sql, *values)

    def version(self) -> tuple[int, int]:
        """Return what is another pair whenever this process or another one has written since; of this object only."""
        ((others,),) = self._read("PRAGMA data_version")
        return int(str(others)), self._db.total_changes

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
        only = "" if slices else "AND action != 'slice' "
        rows = self._read(
            f"SELECT record FROM runs WHERE (?1 IS NULL OR job = ?1) {only}"  # noqa: S608
            "ORDER BY started DESC, id DESC LIMIT ?2",
            job,
            limit,
        )
        return [from_json(Run, _blob(row[0])) for row in rows]

    def forget_run(self, run_id: str) -> None:
        """Drop one run: a slice that found nothing new leaves no trace."""
        with self._write() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def last_run(self, job: str, action: str, *outcomes: Outcome) -> Run | None:
        """Return the newest run of ``action`` that ended in one of ``outcomes``; retries of uploads do not count."""
        # One look into the index for each outcome: there may be thousands of runs, or none.
        one = (
            "SELECT * FROM (SELECT record, started, id FROM runs WHERE job = ?1 AND action = ?2 AND outcome = ?{} "
            "ORDER BY started DESC, id DESC LIMIT 20)"
        )
        each = " UNION ALL ".join(one.format(at) for at in range(3, 3 + len(outcomes)))
        rows = self._read(f"{each} ORDER BY started DESC, id DESC LIMIT 20", job, action, *outcomes)
        runs = (from_json(Run, _blob(row[0])) for row in rows)
        return next((run for run in runs if run.trigger is not Trigger.RETRY), None)

    def unfinished_runs(self) -> list[Run]:
        """Return the runs without an outcome: running now, or cut off with their process."""
        rows = self._read("SELECT record FROM runs WHERE outcome IS NULL ORDER BY started")
        return [from_json(Run, _blob(row[0])) for row in rows]

    def forget_old_runs(self) -> None:
        """Keep the record from growing for ever: the newest 10,000 runs of slices stay, and 20,000 of all others."""
        with self._write() as db:
            for which, kept in (("action = 'slice'", _KEPT_SLICE_RUNS), ("action != 'slice'", _KEPT_RUNS)):
                old = f"id IN (SELECT id FROM runs WHERE {which} ORDER BY started DESC LIMIT -1 OFFSET ?)"  # noqa: S608
                self._count_forgotten(db, old, kept)
                db.execute(f"DELETE FROM runs WHERE {old}", (kept,))  # noqa: S608

    def _count_forgotten(self, db: sqlite3.Connection, which: str, kept: int) -> None:
        """Keep how those runs ended: what counts them must never go back."""
        rows = db.execute(
            f"SELECT job, action, outcome, count(*) FROM runs WHERE outcome IS NOT NULL AND {which} "  # noqa: S608
            "GROUP BY job, action, outcome",
            (kept,),
        ).fetchall()
        if not rows:
            return
        known = self.remembered(_FORGOTTEN)
        counts = {(job, action, outcome): count for job, action, outcome, count in from_json(list[Any], known or b"[]")}
        for job, action, outcome, count in rows:
            counts[job, action, outcome] = counts.get((job, action, outcome), 0) + count
        self.remember(_FORGOTTEN, to_json([[*ended, count] for ended, count in counts.items()]))

    def run_counts(self, job: str) -> dict[tuple[str, str], int]:
        """Return how many runs of a job ended ever since, by action and outcome, also those no more on record."""
        rows = self._read(
            "SELECT action, outcome, sum(many) FROM ("
            "SELECT action, outcome, count(*) AS many FROM runs WHERE job = ?1 AND outcome IS NOT NULL "
            "GROUP BY action, outcome UNION ALL "
            "SELECT json_extract(old.value, '$[1]'), json_extract(old.value, '$[2]'), json_extract(old.value, '$[3]') "
            "FROM memory, json_each(CAST(record AS TEXT)) AS old "
            "WHERE memory.key = ?2 AND json_extract(old.value, '$[0]') = ?1) GROUP BY action, outcome",
            job,
            _FORGOTTEN,
        )
        return {(str(action), str(outcome)): int(str(many)) for action, outcome, many in rows}

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
        db.execute(
            f"INSERT INTO backups ({_BACKUP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (id) DO UPDATE SET job = excluded.job, kind = excluded.kind, created = excluded.created, "
            "state = excluded.state, artifact = excluded.artifact, size = excluded.size, "
            "documents = excluded.documents, run = coalesce(excluded.run, run), "
            "first = excluded.first, last = excluded.last, "
            "collection = coalesce(nullif(excluded.collection, ''), collection)",
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
                backup.collection,
                backup.odd,
            ),
        )
        if backup.only_to is not None:
            db.execute("INSERT OR REPLACE INTO limited VALUES (?, ?)", (backup.id, to_json(backup.only_to)))
        if backup.manifest is not None:
            db.execute("INSERT OR REPLACE INTO manifests VALUES (?, ?)", (backup.id, to_json(backup.manifest)))
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
            "INSERT OR REPLACE INTO copies (backup, destination, state, next_attempt, record, size, locked, job) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT job FROM backups WHERE id = ?1))",
            (copy.backup, copy.destination, copy.state, due, to_json(copy), copy.size, _locked(copy)),
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
        chosen, values = _choice(job, limit, kinds)
        rows = self._read(chosen.format(_BACKUP_COLUMNS), *values)
        if limit is None:
            rows.sort(key=_newness, reverse=True)  # quicker than SQLite, which moves the whole rows about
        copies: dict[str, list[Copy]] = {}
        which = f"backup IN ({chosen.format('id')})"
        if limit is None and job is not None and SLICES.issubset(kinds):
            which, values = "job = ?", [job]  # nearly all of them
        for name, record in self._read(f"SELECT backup, record FROM copies WHERE {which}", *values):  # noqa: S608
            copies.setdefault(name, []).append(_COPY.decode(record))
        limited = self._limited()
        return [_backup(row, _by_place(copies.get(row[0], [])), only_to=limited.get(row[0])) for row in rows]

    def newest_made(self) -> datetime | None:
        """Return when the newest of all backups was made, None: there is none."""
        rows = self._read("SELECT max(created) FROM backups")
        return datetime.fromisoformat(str(rows[0][0])) if rows[0][0] is not None else None

    def backups_named(self, names: Collection[str]) -> list[Backup]:
        """Return the backups of these ids with their copies, in that order, without manifests."""
        marks = ", ".join("?" * len(names))
        chosen = f"SELECT {_BACKUP_COLUMNS} FROM backups WHERE id IN ({marks})"  # noqa: S608
        rows = {row[0]: row for row in self._read(chosen, *names)}
        copies: dict[str, list[Copy]] = {}
        for name, record in self._read(f"SELECT backup, record FROM copies WHERE backup IN ({marks})", *names):  # noqa: S608
            copies.setdefault(name, []).append(_COPY.decode(record))
        limited = self._limited()
        return [
            _backup(rows[name], _by_place(copies.get(name, [])), only_to=limited.get(name))
            for name in names
            if name in rows
        ]

    def _limited(self, backup: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return, of the few backups that are not meant for every destination, for which they are."""
        rows = self._read("SELECT backup, places FROM limited WHERE ?1 IS NULL OR backup = ?1", backup)
        return {str(name): from_json(tuple[str, ...], _blob(places)) for name, places in rows}

    def spans(self, job: str, kinds: Collection[Kind], places: Collection[str] | None = None) -> list[Span]:
        """Return what a timeline needs of a job's backups, in no order; with ``places`` only copies there count."""
        rows = self._read(
            "SELECT b.id, b.kind, b.state, b.created, b.first, b.last, EXISTS (SELECT 1 FROM copies AS c "
            "WHERE c.backup = b.id AND c.state IN ('uploaded', 'verified') "
            "AND (?2 IS NULL OR c.destination IN (SELECT value FROM json_each(?2)))) "
            "FROM backups AS b WHERE b.job = ?1 AND b.kind IN (SELECT value FROM json_each(?3))",
            job,
            to_json(list(places)).decode() if places is not None else None,
            _as_list(kinds),
        )
        return [
            Span(name, _KINDS[kind], _STATES[state], datetime.fromisoformat(created), first, last, bool(present))
            for name, kind, state, created, first, last, present in rows
        ]

    def placed(self) -> Iterator[Placed]:
        """Return what a look at the backups folder needs of every backup, in no order."""
        rows = self._read(
            "SELECT b.id, b.artifact, b.size, "
            "coalesce(c.state IN ('uploaded', 'verified') AND b.state != 'corrupt', 0), "
            "coalesce(c.state, 'missing') = 'missing', b.kind = 'legacy' "
            "FROM backups AS b LEFT JOIN copies AS c ON c.backup = b.id AND c.destination = ?",
            LOCAL,
        )
        return map(Placed._make, rows)

    def count(self, job: str | None, kinds: Collection[Kind]) -> int:
        """Return how many backups of these kinds a job has (None: all jobs)."""
        own = "" if job is None else "job = ?2 AND "
        ((count,),) = self._read(
            f"SELECT count(*) FROM backups WHERE {own}kind IN (SELECT value FROM json_each(?1))",  # noqa: S608
            _as_list(kinds),
            *([] if job is None else [job]),
        )
        return int(str(count))

    def doubtful(self, job: str, kinds: Collection[Kind], since: datetime) -> bool:
        """Tell whether a job's backup of these kinds, made at ``since`` or later, is not proven or has no copy left."""
        ((found,),) = self._read(
            "SELECT EXISTS (SELECT 1 FROM backups AS b WHERE job = ?1 AND created >= ?3 "
            "AND kind IN (SELECT value FROM json_each(?2)) AND (b.state != 'verified' OR NOT EXISTS "
            "(SELECT 1 FROM copies AS c WHERE c.backup = b.id AND c.state IN ('uploaded', 'verified'))))",
            job,
            _as_list(kinds),
            _stamp(since),
        )
        return bool(found)

    def pin(self, pin: Pin) -> None:
        """Keep retention from deleting a backup, which is in the catalog; replaces a pin of the same owner."""
        with self._write() as db:
            values = (pin.backup, pin.owner, pin.reason, _stamp(pin.made))
            db.execute("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?)", values)
            self._sum_up(db, pin.backup)

    def unpin(self, backup: str, owner: str) -> None:
        """Drop the pin of one owner; harmless when there is none."""
        with self._write() as db:
            db.execute("DELETE FROM pins WHERE backup = ? AND owner = ?", (backup, owner))
            self._sum_up(db, backup)

    def pins(self, backup: str | None = None) -> list[Pin]:
        """Return the pins of one backup, or all, the oldest first."""
        rows = self._read(
            "SELECT backup, owner, reason, made FROM pins WHERE ?1 IS NULL OR backup = ?1 ORDER BY made, owner", backup
        )
        return [
            Pin(backup=name, owner=owner, reason=reason, made=datetime.fromisoformat(made))
            for name, owner, reason, made in rows
        ]

    def _sum_up(self, db: sqlite3.Connection, backup: str) -> None:
        """Write all reasons into the backup's own row, where listings read them."""
        told = "; ".join(pin.told for pin in self.pins(backup))
        db.execute("UPDATE backups SET pinned = ? WHERE id = ?", (told, backup))

    def held(self, job: str) -> list[Held]:
        """Return what retention needs of every present copy of a job's backups, in no order."""
        rows = self._read(
            "SELECT b.id, b.kind, b.created, b.state, b.first, b.last, b.pinned, b.collection, "
            "c.destination, c.state, c.size FROM copies AS c JOIN backups AS b ON b.id = c.backup "
            "WHERE c.job = ? AND c.state IN ('uploaded', 'verified', 'corrupt')",
            job,
        )
        parse = datetime.fromisoformat
        return [
            Held(
                name,
                _KINDS[kind],
                parse(made),
                proven == "verified",
                start,
                end,
                pin,
                of,
                place,
                state == "corrupt",
                size,
            )
            for name, kind, made, proven, start, end, pin, of, place, state, size in rows
        ]

    def locked(self, job: str) -> list[Locked]:
        """Return what is locked of a job's copies that should go, place by place."""
        rows = self._read(
            "SELECT destination, count(*), sum(size), min(nullif(locked, '')), max(nullif(locked, '')) "
            "FROM copies WHERE job = ? AND locked IS NOT NULL GROUP BY destination",
            job,
        )
        return [
            Locked(place, count, size, *(datetime.fromisoformat(end) if end else None for end in ends))
            for place, count, size, *ends in rows
        ]

    def locks(self, job: str) -> dict[tuple[str, str], Lock]:
        """Return the locks of a job's copies, by backup and place."""
        rows = self._read("SELECT record FROM copies WHERE job = ? AND locked IS NOT NULL", job)
        copies = (_COPY.decode(_blob(row[0])) for row in rows)
        return {(copy.backup, copy.destination): copy.lock for copy in copies if copy.lock is not None}

    def missing(self, job: str, kinds: Collection[Kind]) -> list[tuple[str, str, datetime]]:
        """Return the copies of a job that somebody else deleted: backup, place, and when the backup was made.

        Only backups of these kinds.
        """
        rows = self._read(
            "SELECT b.id, c.destination, b.created FROM copies AS c JOIN backups AS b ON b.id = c.backup "
            "WHERE c.job = ?1 AND c.state = 'missing' AND b.kind IN (SELECT value FROM json_each(?2))",
            job,
            _as_list(kinds),
        )
        return [(name, place, datetime.fromisoformat(created)) for name, place, created in rows]

    def backup(self, backup_id: str) -> Backup | None:
        """Return one backup with copies and manifest, or None."""
        rows = self._read(f"SELECT {_BACKUP_COLUMNS} FROM backups WHERE id = ?", backup_id)  # noqa: S608
        if not rows:
            return None
        copies = self._read("SELECT record FROM copies WHERE backup = ? ORDER BY destination", backup_id)
        manifests = self._read("SELECT record FROM manifests WHERE backup = ?", backup_id)
        manifest = from_json(Manifest, _blob(manifests[0][0])) if manifests else None
        only_to = self._limited(backup_id).get(backup_id)
        return _backup(rows[0], tuple(from_json(Copy, _blob(row[0])) for row in copies), manifest, only_to=only_to)

    def totals(self, job: str) -> tuple[int, int, int]:
        """Return how many fulls a job has, the bytes of all its present copies, and how many uploads wait or failed."""
        rows = self._read("SELECT state, count(*), sum(size) FROM copies WHERE job = ? GROUP BY state", job)
        found = {str(state): (int(str(count)), int(str(size))) for state, count, size in rows}
        size = sum(found.get(state.value, (0, 0))[1] for state in (CopyState.UPLOADED, CopyState.VERIFIED))
        return self.count(job, FULLS), size, found.get(CopyState.PENDING.value, (0, 0))[0]

    def tallies(self, job: str) -> list[Tally]:
        """Return what a job has where, by place, kind and state of the copies, in no order."""
        # Beside max() SQLite takes the plain columns from the row that has it.
        rows = self._read(
            "SELECT c.destination, b.kind, c.state, count(*), sum(c.size), "
            "max(CASE b.state WHEN 'verified' THEN b.created END), c.size "
            "FROM copies AS c JOIN backups AS b ON b.id = c.backup WHERE c.job = ? "
            "GROUP BY c.destination, b.kind, c.state",
            job,
        )
        return [
            Tally(place, kind, state, count, size, datetime.fromisoformat(newest) if newest else None, length)
            for place, kind, state, count, size, newest, length in rows
        ]

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

    def sizes(self, job: str) -> dict[str, tuple[int, int]]:
        """Return of each place how many present copies of a job are there, and their bytes."""
        rows = self._read(
            "SELECT destination, count(*), sum(size) FROM copies "
            "WHERE job = ? AND state IN ('uploaded', 'verified') GROUP BY destination",
            job,
        )
        return {str(place): (int(str(count)), int(str(size))) for place, count, size in rows}

    # Oddities: backups that differ from those before them

    def save_oddity(self, oddity: OddityRecord) -> None:
        """Insert or replace what is on record of an odd backup, which is in the catalog; listings show it."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO oddities VALUES (?, ?, ?, ?)",
                (oddity.backup, oddity.job, oddity.state, to_json(oddity)),
            )
            shown = oddity.text if oddity.state != ACCEPTED else ""
            db.execute("UPDATE backups SET odd = ? WHERE id = ?", (shown, oddity.backup))

    def oddities(self, job: str | None = None, state: str | None = None) -> list[OddityRecord]:
        """Return what is on record of odd backups, the oldest backup first."""
        rows = self._read(
            "SELECT record FROM oddities WHERE (?1 IS NULL OR job = ?1) AND (?2 IS NULL OR state = ?2)", job, state
        )
        found = [from_json(OddityRecord, _blob(row[0])) for row in rows]
        return sorted(found, key=lambda item: (item.created, item.backup))

    # Streams: how far the changes of each job are captured

    def stream(self, job: str) -> Stream | None:
        """Return how far the changes of a job are captured, or None."""
        rows = self._read("SELECT record FROM streams WHERE job = ?", job)
        return from_json(Stream, _blob(rows[0][0])) if rows else None

    def save_stream(self, stream: Stream) -> None:
        """Remember how far the changes of a job are captured."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?)", (stream.job, to_json(stream)))

    def forget_stream(self, job: str) -> None:
        """Forget it: what the newest slice tells counts then."""
        with self._write() as db:
            db.execute("DELETE FROM streams WHERE job = ?", (job,))

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

    # Notices: what people were told, and what has to be remembered to tell it once

    def save_notices(self, records: Iterable[NoticeRecord]) -> None:
        """Insert or replace what was told; the newest 5,000 stay."""
        with self._write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO notices VALUES (?, ?, ?, ?)",
                [
                    (record.notice.id, record.notice.job, _stamp(record.notice.at), to_json(record))
                    for record in records
                ],
            )
            db.execute(
                "DELETE FROM notices WHERE id IN (SELECT id FROM notices ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?)",
                (_KEPT_NOTICES,),
            )

    def notice(self, identity: str) -> NoticeRecord | None:
        """Return what is on record of one notice, or None."""
        from nanumpay_backupd.alerts import NoticeRecord

        rows = self._read("SELECT record FROM notices WHERE id = ?", identity)
        return from_json(NoticeRecord, _blob(rows[0][0])) if rows else None

    def notices(self, job: str | None = None, limit: int = 20) -> list[NoticeRecord]:
        """Return the newest notices first, of one job or of all and of none."""
        from nanumpay_backupd.alerts import NoticeRecord

        own = "" if job is None else "WHERE job = ?2 "
        rows = self._read(
            f"SELECT record FROM notices {own}ORDER BY at DESC, id DESC LIMIT ?1",  # noqa: S608
            limit,
            *([] if job is None else [job]),
        )
        return [from_json(NoticeRecord, _blob(row[0])) for row in rows]

    def remembered(self, key: str) -> bytes | None:
        """Return what `remember` kept, or None."""
        rows = self._read("SELECT record FROM memory WHERE key = ?", key)
        return _blob(rows[0][0]) if rows else None

    def remembered_keys(self, start: str) -> list[str]:
        """Return the keys that begin so of what `remember` kept."""
        return [
            str(row[0]) for row in self._read("SELECT key FROM memory WHERE substr(key, 1, ?) = ?", len(start), start)
        ]

    def remember(self, key: str, record: bytes) -> None:
        """Keep something small over a restart."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (key, record))

    def forget(self, key: str) -> None:
        """Let go of what `remember` kept; harmless when there is nothing."""
        if self.remembered(key) is not None:
            with self._write() as db:
                db.execute("DELETE FROM memory WHERE key = ?", (key,))


def _choice(job: str | None, limit: int | None, kinds: Collection[Kind]) -> tuple[str, list[object]]:
    """Return a query for backups, with a place for its columns, and the values for its parameters.

    With ``limit`` it gives the newest, newest first, else all in no order.
    """
    newest = "ORDER BY created DESC, id DESC LIMIT ?2"
    if limit is None:
        which = "SELECT {} FROM backups WHERE kind IN (SELECT value FROM json_each(?1))"
        return (which, [_as_list(kinds)]) if job is None else (f"{which} AND job = ?2", [_as_list(kinds), job])
    if job is None:
        which = "kind IN (SELECT value FROM json_each(?1))"
        return f"SELECT {{}} FROM backups WHERE {which} {newest}", [_as_list(kinds), limit]  # noqa: S608
    # One look into the index for each kind: a few fulls may stand behind thousands of slices.
    one = f"SELECT * FROM (SELECT * FROM backups WHERE job = ?1 AND kind = ?{{}} {newest})"  # noqa: S608
    each = " UNION ALL ".join(one.format(at) for at in range(3, 3 + len(kinds)))
    return f"SELECT {{}} FROM ({each}) {newest}", [job, limit, *(kind.value for kind in kinds)]  # noqa: S608


def _newness(row: tuple[Any, ...]) -> tuple[str, str]:
    """Return what the rows of `_BACKUP_COLUMNS` are put in order by."""
    return row[3], row[0]


def _by_place(copies: list[Copy]) -> tuple[Copy, ...]:
    return tuple(copies) if len(copies) < 2 else tuple(sorted(copies, key=lambda copy: copy.destination))


def _as_list(kinds: Collection[Kind]) -> str:
    """Write kinds as SQLite's json_each reads them."""
    return to_json([kind.value for kind in kinds]).decode()


def _backup(
    row: tuple[Any, ...],
    copies: tuple[Copy, ...],
    manifest: Manifest | None = None,
    *,
    only_to: tuple[str, ...] | None = None,
) -> Backup:
    identifier, job, kind, created, state, artifact, size, documents, run, first, last, pinned, collection, odd = row
    return Backup(
        id=identifier,
        job=job,
        kind=_KINDS[kind],
        created=datetime.fromisoformat(created),
        state=_STATES[state],
        artifact=artifact,
        size=size,
        documents=documents,
        run=run,
        start=first,
        end=last,
        pinned=pinned,
        collection=collection,
        only_to=only_to,
        odd=odd,
        copies=copies,
        manifest=manifest,
    )


def _stamp(moment: datetime) -> str:
    """Write a moment so that text order is time order; all moments are UTC."""
    return moment.isoformat(timespec="microseconds")


def _locked(copy: Copy) -> str | None:
    """Write a lock's end so that it can be compared; empty: it has none."""
    if copy.lock is None:
        return None
    return _stamp(copy.lock.until) if copy.lock.until is not None else ""


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _is_full(folder: Path) -> bool:
    """Tell whether there is no room, of which SQLite says "disk I/O error" only."""
    try:
        return free_bytes(folder) < _ROOM
    except OSError:
        return False


def _named(error: sqlite3.Error | OSError, path: Path) -> BackupdError:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return BusyError(f"the catalog {path} is locked by another process", hint="try again in a moment")
    if isinstance(error, (sqlite3.OperationalError, OSError)):
        why = error.strerror if isinstance(error, OSError) else str(error)
        full = _is_full(path.parent)
        return BackupdError(
            f"the catalog {path} cannot be used: {'its disk is full' if full else why}",
            hint="make room there; no backup is lost" if full else "check the owner and free space of its folder",
            code="catalog-unusable",
            retryable=True,
        )
    return BackupdError(
        f"the catalog {path} is damaged: {error}",
        hint="no backup is lost: the daemon puts it aside and makes it anew from the manifests; "
        "without a daemon, move it away",
        code="catalog-damaged",
    )
