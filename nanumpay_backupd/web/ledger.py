"""What the page keeps of its own, in one SQLite file of mode 0600: sessions and the audit trail. No rules of either."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.system.files import make_private_dir

__all__ = ["AuditLine", "Ledger", "SessionRow"]

_FORMAT: Final = 1
_KEPT: Final = 50_000
"""Lines of the audit trail."""
_TABLES: Final = (
    """CREATE TABLE sessions (
        key TEXT PRIMARY KEY, name TEXT NOT NULL, origin TEXT NOT NULL, csrf TEXT NOT NULL, made REAL NOT NULL,
        seen REAL NOT NULL, address TEXT NOT NULL, agent TEXT NOT NULL)""",
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL, address TEXT NOT NULL,
        action TEXT NOT NULL, subject TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL)""",
    "CREATE INDEX audit_by_time ON audit (at DESC, id DESC)",
    "CREATE TABLE used (token TEXT PRIMARY KEY, at REAL NOT NULL, address TEXT NOT NULL)",
)


class SessionRow(NamedTuple):
    """One session. ``key`` is the digest of what the browser has; times are seconds since 1970."""

    key: str
    name: str
    origin: str
    csrf: str
    made: float
    seen: float
    address: str
    agent: str


class AuditLine(NamedTuple):
    """Who did what, from where, and what came of it (``ok``, ``refused``, ``failed``)."""

    at: float
    who: str
    address: str
    action: str
    subject: str
    outcome: str
    detail: str


class Ledger:
    """The open file. Safe to use from several threads; errors of the disk are BackupdError (``web-state``)."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        try:
            make_private_dir(folder, mode=0o700)
            path = folder / "web.db"
            # Made by us, before SQLite does it with another mode; its journal takes that of the file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA cache_size = -512")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                with self._write() as db:
                    for statement in _TABLES:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {_FORMAT}")
        except (OSError, sqlite3.Error) as error:
            raise _unusable(folder, error) from None
        self._folder = folder

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    # Sessions

    def save_session(self, row: SessionRow) -> None:
        """Insert or replace a session."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def session(self, key: str) -> SessionRow | None:
        """Return one session, or None."""
        rows = self._read("SELECT * FROM sessions WHERE key = ?", key)
        return SessionRow(*rows[0]) if rows else None

    def touch(self, key: str, now: float) -> None:
        """Note that a session was used."""
        with self._write() as db:
            db.execute("UPDATE sessions SET seen = ? WHERE key = ?", (now, key))

    def drop_session(self, key: str) -> None:
        """End one session."""
        with self._write() as db:
            db.execute("DELETE FROM sessions WHERE key = ?", (key,))

    def drop_sessions_of(self, name: str, origin: str) -> None:
        """End all sessions of one person."""
        with self._write() as db:
            db.execute("DELETE FROM sessions WHERE name = ? AND origin = ?", (name, origin))

    def sweep(self, seen_before: float, made_before: float) -> None:
        """Forget the sessions that have ended by themselves."""
        with self._write() as db:
            db.execute("DELETE FROM sessions WHERE seen < ? OR made < ?", (seen_before, made_before))

    # Audit trail

    def note(self, line: AuditLine) -> None:
        """Add a line; the oldest go beyond 50,000."""
        with self._write() as db:
            db.execute(
                "INSERT INTO audit (at, who, address, action, subject, outcome, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
                line,
            )
            db.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (_KEPT,))

    def audit(self, limit: int, skip: int = 0) -> list[AuditLine]:
        """Return the newest lines first."""
        rows = self._read(
            "SELECT at, who, address, action, subject, outcome, detail FROM audit ORDER BY at DESC, id DESC "
            "LIMIT ? OFFSET ?",
            limit,
            skip,
        )
        return [AuditLine(*row) for row in rows]

    # Tokens

    def token_used(self, token: str, at: float, address: str) -> None:
        """Note when a token was used last; ``token`` is its public name."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", (token, at, address))

    def tokens_used(self) -> dict[str, tuple[float, str]]:
        """Return when and from where each token was used last."""
        return {str(name): (float(at), str(address)) for name, at, address in self._read("SELECT * FROM used")}

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _unusable(getattr(self, "_folder", Path()), error) from None

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise _unusable(self._folder, error) from None


def _unusable(folder: Path, error: Exception) -> BackupdError:
    return BackupdError(
        f"the page's own folder {folder} cannot be used: {error}",
        hint="it belongs to the service's user alone; see: [web] state",
        code="web-state",
    )
