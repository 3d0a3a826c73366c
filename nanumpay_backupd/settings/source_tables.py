"""The keys of a ``[[job]]`` that belong to its ``type``: one table for each record in `sources`. Checks nothing."""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.settings.kinds import Duration, MongoUri, PathPatterns, Text
from nanumpay_backupd.settings.sources import MongoSource, SqliteSource, type_of
from nanumpay_backupd.settings.tables import Option, Table

__all__ = ["DEFAULT_TYPE", "SOURCES", "keys_elsewhere"]

DEFAULT_TYPE: Final = "mongodb"
"""What a job saves that does not say it."""
_DATABASE: Final = Text('a database\'s name, or "*" for all', pattern=r'[^\s/\\."$]+', example='"nanumpay"')
_TABLES: Final = (
    Table(
        "job",
        MongoSource,
        "A MongoDB database, or all of a server's.",
        (
            Option(
                "uri",
                MongoUri(),
                "Connection string of its MongoDB.",
                '{ credential = "shop-uri" }',
                default="`mongodb.uri`",
            ),
            Option(
                "database", _DATABASE, "Database; `*` means all.", '"shop"', default="the database in `uri`, else all"
            ),
        ),
    ),
    Table(
        "job",
        SqliteSource,
        "SQLite databases, each copied at one moment while it is written ([sources/sqlite.md](sources/sqlite.md)).",
        (
            Option("path", PathPatterns(), "The databases.", '["/srv/app/*.db"]', required=True),
            Option("exclude", PathPatterns(), "Which of them are left out.", '["/srv/app/cache.db"]'),
            Option("timeout", Duration("1s", "1h"), "How long a lock of another program is waited for.", '"60s"'),
        ),
    ),
)
SOURCES: Final[dict[str, Table]] = {type_of(table.record): table for table in _TABLES}
"""The table of each type that ``type`` may name, the default first."""


def keys_elsewhere(kind: str) -> dict[str, str]:
    """Return the keys that a job of that type cannot have, each with a type that has it."""
    own = {option.key for option in SOURCES[kind].options} if kind in SOURCES else set()
    return {option.key: other for other, table in SOURCES.items() for option in table.options if option.key not in own}
