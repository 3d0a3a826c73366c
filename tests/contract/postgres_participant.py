"""PostgreSQL for the contract suite: one database with a little of everything that it can hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from nanumpay_backupd.settings.sources import Source
from nanumpay_backupd.sources.base import Wanted
from tests.contract.participants import Participant
from tests.servers.postgres import PASSWORD, Postgres, start_postgres, tool

__all__ = ["postgres"]

_DATABASE = "con tract-é"
CONTENT = r"""
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE, data bytea, j jsonb, feels mood, many int[],
  twice int GENERATED ALWAYS AS (id * 2) STORED, at timestamptz, much numeric(30,10));
INSERT INTO users (name, data, j, feels, many, at, much)
  SELECT E'사용자 ''"\\\n\r\t\\.;' || g || repeat('글', 30), '\x00ff0a0d'::bytea, '{"a": "\\n"}', 'bad', '{1,NULL,3}',
  '2026-01-01 00:00:00+00', g / 7.0 FROM generate_series(1, 3000) g;
CREATE TABLE empty_one (id int);
CREATE TABLE no_columns ();
CREATE VIEW v AS SELECT id, name FROM users;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM users;
CREATE TABLE p (id int, d date) PARTITION BY RANGE (d);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
INSERT INTO p VALUES (1, '2025-01-01');
CREATE SCHEMA "Odd .x";
CREATE TABLE "Odd .x"."t "".b" (a text);
INSERT INTO "Odd .x"."t "".b" VALUES (NULL), (''), (E'\\.'), (E'a\nb');
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
CREATE FUNCTION upper_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER upper_name BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION upper_name();
SELECT lo_from_bytea(4711, '\x0102030a');
"""


class PostgresParticipant(Participant):
    """A database of an odd name and odd content, read and restored by a superuser who gives a password."""

    secret = PASSWORD

    def __init__(self, server: Postgres) -> None:
        self.server = server
        server.make_user("SUPERUSER")

    @property
    def settings(self) -> Source:
        """See `Participant.settings`."""
        return self.server.settings(_DATABASE)

    @property
    def broken(self) -> Source:
        """See `Participant.broken`."""
        return self.server.settings(_DATABASE, host=str(self.server.folder / "nothing"))

    def fill(self) -> None:
        """See `Participant.fill`."""
        self._drop(_DATABASE)
        self.server.run(f'CREATE DATABASE "{_DATABASE}"')
        self.server.run(CONTENT, _DATABASE)

    def _drop(self, name: str) -> None:
        self.server.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def count(self) -> int:
        """See `Participant.count`."""
        query = """SELECT sum((xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', nspname,
          relname), false, true, '')))[1]::text::int) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')"""
        return int(self.server.run(query, _DATABASE)[0][0])

    def grow(self, megabytes: int) -> None:
        """See `Participant.grow`."""
        self.server.run(
            f"CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 2048) t FROM generate_series(1, {megabytes * 16}) g",
            _DATABASE,
        )

    def content(self) -> object:
        """See `Participant.content`."""
        return self.dumped(_DATABASE)

    def dumped(self, database: str) -> object:
        """Return all of a database as statements."""
        argv = [str(tool("pg_dump")), "-h", str(self.server.folder), "-U", "postgres", "-d", database]
        done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, "PGPASSWORD": PASSWORD})
        made = self.server.run(
            "SELECT pg_encoding_to_char(encoding), datcollate, pg_get_userbyid(datdba) "
            f"FROM pg_database WHERE datname = '{database}'"
        )
        lines = [line for line in done.stdout.splitlines() if not line.startswith((b"\\restrict", b"\\unrestrict"))]
        return made, lines, done.returncode

    def spoil(self) -> None:
        """See `Participant.spoil`."""
        self.server.run(
            "DELETE FROM users WHERE id % 2 = 0; DROP TABLE p; CREATE TABLE more (id int); DROP FUNCTION twice",
            _DATABASE,
        )

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        """See `Participant.elsewhere`."""
        self._drop("else where")
        return Wanted(to="else where"), lambda: self.dumped("else where")


@contextlib.contextmanager
def postgres(_folder: Path) -> Iterator[Participant]:
    """Start a server with the participant."""
    with start_postgres() as server:
        yield PostgresParticipant(server)
