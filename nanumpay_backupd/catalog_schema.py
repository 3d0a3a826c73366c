"""The tables of the catalog, and how those of an older format become ours. What is in them is `catalog`'s own.

Manifests lie apart from the backups: a listing reads tens of thousands of backups, and hardly ever a manifest. What a
status asks for (totals, the newest of a kind, the last run of a kind) is answered from an index alone.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["SCHEMA_VERSION", "create", "upgrade"]

SCHEMA_VERSION: Final = 5
_INDEXES: Final = """
CREATE INDEX runs_by_time ON runs (started DESC);
CREATE INDEX runs_by_job ON runs (job, started DESC);
CREATE INDEX runs_by_action ON runs (job, action, outcome, started DESC, id DESC);
CREATE INDEX runs_but_slices ON runs (started DESC, id DESC) WHERE action != 'slice';
CREATE INDEX runs_unfinished ON runs (started) WHERE outcome IS NULL;
CREATE INDEX backups_by_time ON backups (created DESC);
CREATE INDEX backups_by_job ON backups (job, created DESC);
CREATE INDEX backups_by_kind ON backups (job, kind, created DESC, id DESC);
CREATE INDEX copies_pending ON copies (next_attempt) WHERE state = 'pending';
CREATE INDEX copies_by_job ON copies (job, state, size);
CREATE INDEX copies_locked ON copies (job, destination, locked, size) WHERE locked IS NOT NULL;
CREATE INDEX oddities_by_job ON oddities (job, state);
CREATE INDEX notices_by_time ON notices (at DESC, id DESC);
CREATE INDEX notices_by_job ON notices (job, at DESC, id DESC)
"""
_TABLES: Final = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, started TEXT NOT NULL, outcome TEXT, record BLOB NOT NULL,
    action TEXT NOT NULL DEFAULT 'backup');
CREATE TABLE backups (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL, state TEXT NOT NULL,
    artifact TEXT NOT NULL, size INTEGER NOT NULL, documents INTEGER NOT NULL, run TEXT,
    first TEXT NOT NULL DEFAULT '', last TEXT NOT NULL DEFAULT '', pinned TEXT NOT NULL DEFAULT '',
    collection TEXT NOT NULL DEFAULT '', odd TEXT NOT NULL DEFAULT '');
CREATE TABLE manifests (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, record BLOB NOT NULL);
CREATE TABLE copies (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, destination TEXT NOT NULL, state TEXT NOT NULL,
    next_attempt TEXT, record BLOB NOT NULL, job TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0,
    locked TEXT, PRIMARY KEY (backup, destination));
CREATE TABLE pins (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, owner TEXT NOT NULL, reason TEXT NOT NULL,
    made TEXT NOT NULL, PRIMARY KEY (backup, owner));
CREATE TABLE limited (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, places BLOB NOT NULL);
CREATE TABLE oddities (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, job TEXT NOT NULL, state TEXT NOT NULL,
    record BLOB NOT NULL);
CREATE TABLE plans (job TEXT PRIMARY KEY, due TEXT NOT NULL);
CREATE TABLE streams (job TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE notices (id TEXT PRIMARY KEY, job TEXT NOT NULL, at TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE memory (key TEXT PRIMARY KEY, record BLOB NOT NULL);
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
""",
    2: """
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
    size = json_extract(CAST(record AS TEXT), '$.size')
""",
    3: """
ALTER TABLE copies ADD COLUMN locked TEXT;
CREATE TABLE pins (
    backup TEXT NOT NULL REFERENCES backups (id) ON DELETE CASCADE, owner TEXT NOT NULL, reason TEXT NOT NULL,
    made TEXT NOT NULL, PRIMARY KEY (backup, owner));
INSERT INTO pins SELECT id, 'daemon:verify', pinned, created FROM backups WHERE pinned != '';
CREATE TABLE notices (id TEXT PRIMARY KEY, job TEXT NOT NULL, at TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE memory (key TEXT PRIMARY KEY, record BLOB NOT NULL)
""",
    4: """
CREATE TABLE limited (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, places BLOB NOT NULL);
ALTER TABLE backups ADD COLUMN odd TEXT NOT NULL DEFAULT '';
CREATE TABLE oddities (
    backup TEXT PRIMARY KEY REFERENCES backups (id) ON DELETE CASCADE, job TEXT NOT NULL, state TEXT NOT NULL,
    record BLOB NOT NULL)
""",
}
"""How the tables of an older format become those of the next."""


def create(db: sqlite3.Connection) -> None:
    """Make the tables in an empty file, inside the transaction that is open; raises sqlite3.Error."""
    _execute(db, _TABLES + _INDEXES)


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Make those of format ``version`` ours, inside the transaction that is open; raises sqlite3.Error."""
    for older in range(version, SCHEMA_VERSION):
        _execute(db, _UPGRADES[older])
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for (name,) in names:
        db.execute(f"DROP INDEX {name}")
    _execute(db, _INDEXES)


def _execute(db: sqlite3.Connection, statements: str) -> None:
    # Not executescript, which would end the transaction.
    for statement in statements.split(";"):
        db.execute(statement)
