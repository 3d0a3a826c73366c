"""Brings back databases of PostgreSQL by pg_restore, each into a new database that then takes the place of the old one.

The old one keeps its data under another name until the new one is whole, so that a restore that fails leaves what was
there. Programs that are connected to it are disconnected.
"""

from __future__ import annotations

import re
import secrets
import threading
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError, SourceError, ToolError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.settings.sources import PostgresSource, SourceSettings
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.pg_archive import PgArchive
from nanumpay_backupd.sources.pg_client import (
    Psql,
    address,
    conninfo,
    environment,
    identifier,
    literal,
    major,
    open_pg,
    pg_fault,
)
from nanumpay_backupd.sources.pg_dump import GLOBALS, file_of, tables_of
from nanumpay_backupd.system.process import Child

__all__ = ["PostgresTarget"]

_LONG: Final = 24 * 3600.0
_AT_ONCE: Final = 200
"""Tables that one statement counts."""
_ENDED_SECONDS: Final = 60.0
_NAME_BYTES: Final = 63
_CHUNK: Final = 1 << 16
_HEADS: Final = (
    r"ALTER DATABASE |ALTER ROLE .* IN DATABASE |(?:GRANT|REVOKE) .* ON DATABASE |COMMENT ON DATABASE |"
    r"SECURITY LABEL .* ON DATABASE "
)


class PostgresTarget(FolderTarget):
    """A PostgreSQL server as the target of a restore; a ``plain`` one has none of the roles."""

    def __init__(self, settings: PostgresSource, *, plain: bool = False) -> None:
        self._settings = settings
        self._psql = Psql(settings)
        self._plain = plain
        self._running: _PgRestore | None = None

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`; ``there`` are tables as ``database.schema.table``."""
        names, parts = _choose(manifest, wanted)
        _, version = open_pg(self._settings.pg_restore)
        if major(version) < major(next(iter(manifest.tools.values()), "")):
            raise ToolError(
                f"pg_restore {version} is older than the pg_dump that made the backup",
                hint="install the client of that version or a newer one",
                code="tool-too-old",
            )
        there = self._there(names)
        if there and not wanted.overwrite:
            raise RefusedError(
                f"{', '.join(sorted(there))} at {address(self._settings)} is there, and this would replace it",
                hint="say so with --overwrite, or restore under another name: --to NAME",
                code="target-exists",
            )
        held = {part.name for part in parts}
        back = {new: old for old, new in names.items()}
        found = {f"{name}.{table}": f"{back[name]}.{table}" for name in there for table in tables_of(self._psql, name)}
        return Goal(
            server=address(self._settings),
            place=", ".join(names.values()),
            parts=parts,
            there=tuple(sorted(found)) or tuple(sorted(there)),
            drops=tuple(sorted(name for name, old in found.items() if old not in held)),
        )

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:
        """See `Target.safety`: the databases that are there now."""
        names, _ = _choose(manifest, wanted)
        there = self._there(names)
        if not there:
            return None
        return msgspec.structs.replace(self._settings, database=tuple(sorted(there)), accounts=False, passwords=False)

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        names, parts = _choose(manifest, wanted)
        count = sum(part.items for part in parts)
        running = _PgRestore(self._settings, self._psql, folder, manifest, names, count, plain=self._plain)
        self._running = running
        return running

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002 - the contract
        """See `Target.compare`: the rows of every table."""
        names, parts = _choose(manifest, wanted)
        differences, total = [], 0
        for old, new in names.items():
            mine = {part.name.removeprefix(f"{old}."): part for part in parts if part.name.startswith(f"{old}.")}
            now = self._counts(new)
            for table, part in mine.items():
                if table not in now:
                    differences.append(f"{new}.{table} is not there")
                elif now[table] != part.items:
                    differences.append(f"{new}.{table} holds {now[table]:,} rows, the backup {part.items:,}")
                total += now.get(table, 0)
        return Comparison(documents=total, parts=len(parts), differences=tuple(differences))

    def undo(self) -> str:
        """See `Target.undo`."""
        kept = self._running.kept if self._running is not None else {}
        return "; ".join(f"database {name!r} of before is kept as {aside!r}" for name, aside in kept.items())

    def _counts(self, database: str) -> dict[str, int]:
        counts = []
        for row in self._psql.rows(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
            database,
        ):
            place = ".".join(map(identifier, row))
            counts.append(f"SELECT {literal('.'.join(row))}, count(*) FROM {place}")  # noqa: S608 - quoted
        found: dict[str, int] = {}
        for at in range(0, len(counts), _AT_ONCE):
            rows = self._psql.rows(" UNION ALL ".join(counts[at : at + _AT_ONCE]), database, timeout=_LONG)
            found |= {name: int(count) for name, count in rows}
        return found

    def _there(self, names: dict[str, str]) -> set[str]:
        found = {row[0] for row in self._psql.rows("SELECT datname FROM pg_database")}
        return found & set(names.values())


class _PgRestore(Restoring):
    """pg_restore at work, one database after the other."""

    def __init__(
        self,
        settings: PostgresSource,
        psql: Psql,
        folder: Path,
        manifest: Manifest,
        names: dict[str, str],
        count: int,
        *,
        plain: bool,
    ) -> None:
        self.kept: dict[str, str] = {}
        self._settings, self._psql, self._folder = settings, psql, folder
        self._manifest, self._names, self._count, self._plain = manifest, names, count, plain
        self._tool, _ = open_pg(settings.pg_restore)
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._killed = False
        self._said = ""
        self._fault: BackupdError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`: it says nothing while it works."""
        return 0 if self._thread.is_alive() else self._count

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return self._said

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Restoring.kill`."""
        with self._lock:
            self._killed = True
            child = self._child
        if child is not None:
            child.kill()
        self._thread.join(_ENDED_SECONDS)

    def judge(self) -> int:
        """See `Restoring.judge`."""
        if isinstance(self._fault, SourceError) and self._fault.code == "source-unreachable":
            raise self._fault
        if self._fault is not None:
            code = self._fault.code if self._fault.code in ("source-auth", "tool-killed") else "restore-failed"
            raise ToolError(self._fault.message, hint=self._fault.hint, code=code) from None
        return self._count

    def _run(self) -> None:
        try:
            if self._plain and (self._folder / GLOBALS).exists():
                self._roles()
            for old, new in self._names.items():
                self._one(old, new)
        except BackupdError as error:
            self._fault = error

    def _one(self, old: str, new: str) -> None:
        """Restore a database under a name of its own, then let it take its place."""
        coming = _beside(new, "coming")
        self._psql.rows(_creating(coming, self._manifest.source.facts.get(f"made:{old}", ""), plain=self._plain))
        file = self._folder / file_of(old)
        try:
            self._restore(file, coming)
            if not self._plain:
                self._about(file, old, coming)
        except BackupdError:
            self._psql.rows(f"DROP DATABASE IF EXISTS {identifier(coming)} WITH (FORCE)")
            raise
        if [new] in self._psql.rows("SELECT datname FROM pg_database"):
            aside = _beside(new, "before")
            self._psql.rows(_renaming(new, aside))
            self.kept[new] = aside
        self._psql.rows(f"ALTER DATABASE {identifier(coming)} RENAME TO {identifier(new)}")
        if new in self.kept:
            self._psql.rows(f"DROP DATABASE {identifier(self.kept[new])} WITH (FORCE)")
            del self.kept[new]

    def _restore(self, file: Path, database: str) -> None:
        argv = [str(self._tool), "--exit-on-error", "--no-password"]
        argv += ["--no-owner", "--no-privileges"] if self._plain else []
        with environment(self._settings) as (extra, fds), self._lock:
            if self._killed:
                raise ToolError("the restore was stopped", code="tool-killed")
            argv += [f"--dbname={conninfo(self._settings, database)}", str(file)]
            child = self._child = Child(argv, pass_fds=fds, extra=extra)
        code = child.wait() or 0
        self._said = child.tail
        if code != 0:
            raise pg_fault("pg_restore", code, child.tail, self._settings)

    def _about(self, file: Path, old: str, coming: str) -> None:
        """Bring back what is about a database and not in it: rights on it, its settings, its comment.

        pg_restore does so only where it makes the database itself, under its own name.
        """
        archive = PgArchive()
        with file.open("rb", buffering=0) as stream:
            while not archive.listed and (piece := stream.read(_CHUNK)):
                archive(piece)
        if archive.about:
            self._psql.rows("\n".join(_of_another(statement, old, coming) for statement in archive.about))

    def _roles(self) -> None:
        """Make the roles that policies may name; those that are there, or need what is not here, are passed over."""
        for line in (self._folder / GLOBALS).read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if line.startswith("CREATE ROLE "):
                try:
                    self._psql.rows(line)
                except ToolError:
                    continue


def _choose(manifest: Manifest, wanted: Wanted) -> tuple[dict[str, str], tuple[Part, ...]]:
    """Return the databases that are wanted with the names they get, and their tables.

    Raises NotFoundError, RefusedError (``target-refused``).
    """
    databases = manifest.source.databases
    for only in wanted.only:
        if only in databases:
            continue
        if any(part.name == only for part in manifest.source.parts):
            raise RefusedError(
                "only whole databases can be restored; a table's keys and triggers are apart from it in the archive",
                hint="restore the database under another name (--to NAME) and copy the table; or pg_restore --table",
                code="target-refused",
            )
        raise NotFoundError(
            f"{manifest.backup} holds no database {only!r}", hint=f"its databases: {', '.join(databases)}"
        )
    chosen = [name for name in databases if not wanted.only or name in wanted.only]
    if wanted.to and (len(chosen) != 1 or wanted.to in ("template0", "template1")):
        why = f"cannot take {len(chosen)} databases" if len(chosen) != 1 else "is the server's own"
        raise RefusedError(
            f"{wanted.to!r} {why}", hint="choose one database: --only NAME --to OTHER", code="target-refused"
        )
    names = {name: wanted.to or name for name in chosen}
    files = {file_of(name) for name in chosen}
    return names, tuple(part for part in manifest.source.parts if part.file in files)


def _of_another(script: str, old: str, new: str) -> str:
    """Return statements about a database as they are for another one."""
    # pg_dump quotes a name only where it has to.
    names = f"(?:{re.escape(identifier(old))}|{re.escape(old)})"
    return re.sub(rf"(?m)^({_HEADS}){names}(?=[\s;])", lambda found: found[1] + identifier(new), script)


def _beside(name: str, what: str) -> str:
    """Return a name beside that of a database, which nothing has."""
    tail = f"_{what}_{secrets.token_hex(4)}"
    return name.encode()[: _NAME_BYTES - len(tail)].decode(errors="ignore") + tail


def _creating(name: str, made: str, *, plain: bool) -> str:
    statement = f"CREATE DATABASE {identifier(name)} TEMPLATE template0"
    if not made:
        return statement
    encoding, collate, ctype, owner = msgspec.json.decode(made, type=tuple[str, str, str, str])
    statement += f" ENCODING {literal(encoding)}"
    if plain:
        # The system's own locales may lack the one that the backup's server had.
        return f"{statement} LC_COLLATE 'C' LC_CTYPE 'C'"
    return f"{statement} LC_COLLATE {literal(collate)} LC_CTYPE {literal(ctype)};\n{_owned(name, owner)}"


def _renaming(name: str, other: str) -> str:
    """Return what disconnects everybody from a database and renames it."""
    return (
        f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS false;\n"
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {literal(name)} "
        "AND pid <> pg_backend_pid();\n"
        "SELECT pg_sleep(0.2);\n"
        f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(other)};\n"
        f"ALTER DATABASE {identifier(other)} ALLOW_CONNECTIONS true;\n"
    )


def _owned(name: str, owner: str) -> str:
    """Return what gives a database its owner, where there is such a role and this user may."""
    return (
        f"DO $do$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO %I', {literal(name)}, {literal(owner)}); "
        "EXCEPTION WHEN insufficient_privilege OR undefined_object THEN NULL; END $do$"
    )
