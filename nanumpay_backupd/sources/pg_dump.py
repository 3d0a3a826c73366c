"""A full dump of PostgreSQL: one pg_dump for each database, one after the other, and the roles by pg_dumpall.

pg_dump writes into a pipe: into a file it would go back to its beginning, and what is compressed behind it could not be
given back to the disk. It does not compress itself, since the archive around it is.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from nanumpay_backupd.errors import BackupdError, ToolError, VerifyError
from nanumpay_backupd.model import Consistency, Part, SourceInfo
from nanumpay_backupd.settings.sources import PostgresSource
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.pg_archive import PgArchive
from nanumpay_backupd.sources.pg_client import Psql, conninfo, environment, literal, pg_fault
from nanumpay_backupd.system.process import Child

__all__ = ["FOLDER", "GLOBALS", "PgDump", "PgFacts", "archived", "file_of", "tables_of"]

FOLDER: Final = "databases"
GLOBALS: Final = "globals.sql"
_GLOBALS_END: Final = b"-- PostgreSQL database cluster dump complete"
_PIPE_BYTES: Final = 1 << 20
_SHORT: Final = 1 << 14
_REST: Final = 0.002
_BEGUN_SECONDS: Final = 30.0
_ENDED_SECONDS: Final = 60.0
_SHOWN: Final = 3


class PgFacts(msgspec.Struct, frozen=True):
    """What a look told. ``tables`` are ``schema.table`` of each database, ``made`` what each was made with."""

    version: str
    now: datetime
    databases: tuple[str, ...]
    tables: dict[str, frozenset[str]]
    made: dict[str, str]
    raw_bytes: int
    tool: Path
    tool_version: str
    dumpall: Path | None


class PgDump(Dump):
    """Running tools, one after the other, and the thread that takes what they write."""

    def __init__(self, settings: PostgresSource, psql: Psql, facts: PgFacts, folder: Path) -> None:
        self._settings, self._psql, self._facts, self._folder = settings, psql, facts, folder
        self._archives: dict[str, PgArchive] = {}
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._held = False
        self._killed = False
        self._fault: BaseException | None = None
        self._begun = threading.Event()
        (folder / FOLDER).mkdir()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._begun.wait(_BEGUN_SECONDS)

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._thread.is_alive()

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return sum(archive.count for archive in list(self._archives.values()))

    def pause(self) -> None:
        """See `Dump.pause`."""
        with self._lock:
            self._held = True
            if self._child is not None:
                self._child.pause()

    def resume(self) -> None:
        """See `Dump.resume`."""
        with self._lock:
            self._held = False
            if self._child is not None:
                self._child.resume()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Dump.kill`."""
        with self._lock:
            self._killed = True
            child = self._child
        if child is not None:
            child.resume()
            child.kill()
        self._thread.join(_ENDED_SECONDS)

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: every archive has its end, and every table that was and is there is in it."""
        self._thread.join(_ENDED_SECONDS)
        if isinstance(self._fault, VerifyError):
            raise _incomplete(f"ended without an error, but {self._fault.message}") from None
        if self._fault is not None:
            raise self._fault
        facts = self._facts
        for name in facts.databases:
            self._compare(name, sizes)
        parts = tuple(part for name in facts.databases for part in self._parts(name, sizes))
        tools = {"pg_dump": facts.tool_version}
        one = len(facts.databases) == 1
        why = "" if one else "each database is of one moment, but not all of the same one"
        consistency = Consistency(level="point-in-time", moment=facts.now) if one else Consistency("none", reason=why)
        return Harvest(
            source=SourceInfo(
                type="postgresql",
                server_version=facts.version,
                topology="dump",
                databases=facts.databases,
                collections=(),
                parts=parts,
                by_hand=tuple(_by_hand(facts.databases, accounts=facts.dumpall is not None)),
                facts={f"made:{name}": made for name, made in facts.made.items()},
            ),
            consistency=consistency,
            tools=tools,
            documents=sum(part.items for part in parts),
        )

    def _compare(self, name: str, sizes: dict[str, int]) -> None:
        if file_of(name) not in sizes:
            raise _incomplete(f"wrote {file_of(name)}, but that file is not there")
        there = self._facts.tables[name] & tables_of(self._psql, name)
        if missing := sorted(there - self._archives[name].rows.keys()):
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise _incomplete(f"ended without an error, but did not write {', '.join(missing[:_SHOWN])}{more}")

    def _parts(self, name: str, sizes: dict[str, int]) -> Iterator[Part]:
        archive = self._archives[name]
        for table, rows in sorted(archive.rows.items()):
            size = sizes[file_of(name)] if len(archive.rows) == 1 else archive.sizes[table]
            yield Part(name=f"{name}.{table}", kind="table", items=rows, bytes=size, file=file_of(name))

    def _run(self) -> None:
        try:
            for name in self._facts.databases:
                archive = self._archives[name] = PgArchive(name)
                argv = [str(self._facts.tool), "--format=custom", "--compress=0", "--no-password"]
                self._tool(argv, name, file_of(name), archive)
            if self._facts.dumpall is not None:
                argv = [str(self._facts.dumpall), "--globals-only", "--no-password"]
                argv += [] if self._settings.passwords else ["--no-role-passwords"]
                self._tool(argv, self._settings.maintenance, GLOBALS, _Globals())
        except (BackupdError, OSError) as error:
            self._fault = error
        finally:
            self._begun.set()

    def _tool(self, argv: list[str], database: str, file: str, take: PgArchive | _Globals) -> None:
        """Run a tool and take what it writes into a file; raises BackupdError, OSError."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with environment(self._settings) as (extra, fds), self._lock:
                if self._killed:
                    raise ToolError("the dump was stopped", code="tool-killed")
                argv.append(f"--dbname={conninfo(self._settings, database)}")
                child = self._child = Child(argv, pass_fds=fds, stdout=writing, extra=extra)
                if self._held:
                    child.pause()
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._begun.set()
        try:
            with os.fdopen(reading, "rb", buffering=0) as pipe, (self._folder / file).open("xb", buffering=0) as output:
                while piece := pipe.read(_PIPE_BYTES):
                    view = memoryview(piece)
                    while view:
                        view = view[output.write(view) :]
                    take(piece)
                    if len(piece) < _SHORT:
                        # The tool writes by few KiB: a short rest, so that more is there, costs it nothing.
                        child.wait(_REST)
        except BaseException:
            child.resume()
            child.kill()
            raise
        code = child.wait() or 0
        if code != 0:
            raise pg_fault(child.name, code, child.tail, self._settings)
        take(b"")


class _Globals:
    """Judges what pg_dumpall wrote by its last line."""

    def __init__(self) -> None:
        self._end = b""

    def __call__(self, piece: bytes) -> None:
        self._end = (self._end + piece)[-len(_GLOBALS_END) - 8 :]
        if not piece and _GLOBALS_END not in self._end:
            raise VerifyError("the file of roles has no end", code="verify-structure")


def file_of(database: str) -> str:
    """Return the file of a database, below the dump's folder."""
    return f"{FOLDER}/{quote(database, safe=' ')}.dump"


def archived(file: str) -> str:
    """Return the database whose archive that is, empty: of none."""
    inside = file.startswith(f"{FOLDER}/") and file.endswith(".dump")
    return unquote(file.removeprefix(f"{FOLDER}/").removesuffix(".dump")) if inside else ""


def tables_of(psql: Psql, database: str) -> frozenset[str]:
    """Name the tables whose rows pg_dump saves, as ``schema.table``: neither temporary nor an extension's own."""
    rows = psql.rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "  # noqa: S608
        "WHERE c.relkind = 'r' AND c.relpersistence <> 't' "
        "AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') "
        f"AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = {literal('pg_class')}::regclass "
        "AND d.objid = c.oid AND d.deptype = 'e')",
        database,
    )
    return frozenset(".".join(row) for row in rows)


def _by_hand(databases: tuple[str, ...], *, accounts: bool) -> Iterator[str]:
    yield "# each database that is there gives way; add --host, --port and --username as needed"
    if accounts:
        yield f"psql --dbname=postgres --file={{folder}}/{GLOBALS}"
    for name in databases:
        yield f"dropdb --if-exists --force -- {shlex.quote(name)}"
        yield f"pg_restore --create --exit-on-error --dbname=postgres {{folder}}/{shlex.quote(file_of(name))}"


def _incomplete(what: str) -> ToolError:
    return ToolError(
        f"pg_dump {what}",
        hint="check the tool's version and the user's rights (docs/sources/postgresql.md) and run again; "
        "nothing was published",
        code="dump-incomplete",
        retryable=True,
    )
