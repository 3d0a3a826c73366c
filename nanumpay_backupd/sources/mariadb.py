"""MariaDB and MySQL: what is there, and the judgement of what was written. Dump, log and restore are next door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Final

from nanumpay_backupd.errors import SourceError, ToolError, VerifyError
from nanumpay_backupd.model import Content, Kind, Manifest
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import Driver, Dump, Estimate, FolderSource, FolderTarget, Need, Scratch, Since
from nanumpay_backupd.sources.binlog import BinlogDump, BinlogWalk
from nanumpay_backupd.sources.mariadb_accounts import AccountsDump
from nanumpay_backupd.sources.mariadb_client import SERVER_HINT, Client, Tool, address, open_tool
from nanumpay_backupd.sources.mariadb_dump import ACCOUNTS, FOLDER, MariadbDump, database_of, with_history
from nanumpay_backupd.sources.mariadb_facts import Facts, look, read_log
from nanumpay_backupd.sources.sql_reader import SqlReader

__all__ = ["MariadbDriver", "MariadbServer", "missing_rights"]

_NEEDED: Final = ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")
_SHOWN: Final = 3


class MariadbDriver(Driver):
    """The rooms of a MariaDB or MySQL server."""

    def __init__(self, settings: MariadbSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return MariadbServer(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        from nanumpay_backupd.sources.mariadb_target import MariadbTarget

        return MariadbTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        """See `Driver.scratch`: a mariadbd of our own."""
        from nanumpay_backupd.sources.mariadb_scratch import MariadbScratch

        return MariadbScratch(self._settings, folder, manifest)

    def needs(self) -> Iterator[Need]:
        """See `Driver.needs`."""
        settings = self._settings
        yield Need("increments and restores to a moment", lambda: _called(settings.mariadb_binlog))
        yield Need("drills", lambda: _called(settings.mariadbd, hint=SERVER_HINT))


class MariadbServer(FolderSource):
    """Databases of one server."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.FULL, Kind.INCREMENTAL, Kind.DIFFERENTIAL})
    exact: ClassVar[bool] = True

    def __init__(self, settings: MariadbSource) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._facts: Facts | None = None

    def preflight(self) -> Estimate:
        """Reach the server, list what is there, find the tools. See `Source.preflight`."""
        settings, client = self._settings, self._client
        tool = open_tool(settings.mariadb_dump)
        facts = self._facts = look(settings, client)
        if settings.binlog == "required":
            _require_log(settings, client, facts)
        if not facts.tables and not any(count != "0 0" for count in facts.counts.values()):
            names = ", ".join(facts.databases[:_SHOWN])
            raise SourceError(
                f"MariaDB at {address(settings)}: {names} holds nothing that its user may read",
                hint="check database in the job's table, and the user's rights (docs/sources/mariadb.md)",
                code="source-empty",
                retryable=False,
            )
        return Estimate(
            raw_bytes=facts.raw_bytes,
            summary=f"{'MariaDB' if facts.mariadb else 'MySQL'} {facts.version} at {address(settings)}, "
            f"{len(facts.tables)} tables in {len(facts.databases)} databases, {tool.name} {tool.version}",
            warnings=tuple(self._warnings(facts, tool)),
        )

    def start(self, folder: Path) -> Dump:
        """Start mariadb-dump. See `FolderSource.start`."""
        assert self._facts is not None, "preflight comes first"
        tool = open_tool(self._settings.mariadb_dump)
        dump = MariadbDump(self._settings, self._client, tool, self._facts, folder)
        return AccountsDump(self._client, dump, folder / ACCOUNTS) if self._settings.accounts else dump

    def follow_on(self, folder: Path, since: Since) -> Dump:
        """Fetch the binary log from where the backup before ended. See `FolderSource.follow_on`."""
        assert self._facts is not None, "preflight comes first"
        return BinlogDump(self._settings, self._client, self._facts, folder, since)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Read every statement of a dump, every event of a log. See `Source.check`."""
        if name.startswith(f"{FOLDER}/"):
            return DumpWalk(name)
        return BinlogWalk(name) if name.startswith("binlog/") else None

    def _warnings(self, facts: Facts, tool: Tool) -> Iterable[str]:
        if facts.unsafe:
            yield (
                f"these tables are not of the same moment as the others, no transaction holds them still: "
                f"{_some(facts.unsafe)}"
            )
        if facts.versioned and not with_history(tool, facts):
            yield f"rows of earlier are not saved, that takes MariaDB 10.11: {_some(facts.versioned)}"
        grants = [row[0] for row in self._client.rows("SHOW GRANTS")]
        _refuse_columns(self._settings, grants, facts.databases)
        for database in facts.databases:
            if missing := missing_rights(grants, database):
                yield f"the user lacks {', '.join(missing)} on {database}, so what that shows is missing in the backup"


class DumpWalk:
    """Judges one database's file: every statement, the rows of each table. See `Checker`."""

    def __init__(self, name: str) -> None:
        self._database = database_of(name)
        self._reader = SqlReader(hashing=True)

    def __call__(self, piece: bytes, /) -> None:
        """Take the next piece."""
        if not piece:
            self._reader.finish()
            return
        for _ in self._reader.feed(piece):
            if self._reader.database not in ("", self._database):
                raise VerifyError(
                    f"the file of {self._database!r} holds the database {self._reader.database!r}",
                    code="verify-structure",
                )

    @property
    def count(self) -> int:
        """Return the rows so far."""
        return self._reader.rows

    @property
    def parts(self) -> dict[str, Content]:
        """Return the rows of each table."""
        reader = self._reader
        return {
            ".".join(key): Content(documents=rows, digest=reader.digests.get(key, ""))
            for key, rows in reader.tables.items()
        }

    @property
    def digest(self) -> str:
        """Return a digest of all that was read."""
        return self._reader.digest


def missing_rights(grants: Iterable[str], database: str) -> tuple[str, ...]:
    """Return what of a database's content this user may not see, by what ``SHOW GRANTS`` says.

    Without them the tool leaves out in silence. Rights that come by a role are those that the server lists.
    """
    held: set[str] = set()
    for grant in grants:
        rights, found, rest = grant.removeprefix("GRANT ").partition(" ON ")
        scope = rest.rpartition(" TO ")[0].strip()
        names = {"*.*", f"`{database}`.*", "`" + database.replace("_", "\\_") + "`.*"}
        if found and (scope in names or ("%" in scope and scope.endswith(".*"))):
            held.update(right.strip() for right in rights.split(","))
    if held & {"ALL", "ALL PRIVILEGES"}:
        return ()
    return tuple(right for right in _NEEDED if right not in held)


def _refuse_columns(settings: MariadbSource, grants: Iterable[str], databases: Iterable[str]) -> None:
    """Raise SourceError where this user may read only some columns of a table: the tool would dump those alone."""
    for grant in grants:
        rights, _, rest = grant.partition(" ON ")
        scope = rest.rpartition(" TO ")[0]
        if "SELECT (" in rights and any(scope.startswith(f"`{name}`.") for name in databases):
            raise SourceError(
                f"MariaDB at {address(settings)}: the user may read only some columns of {scope}",
                hint="give it SELECT on the whole database (docs/sources/mariadb.md)",
                code="source-auth",
                retryable=False,
            )


def _require_log(settings: MariadbSource, client: Client, facts: Facts) -> None:
    """Raise SourceError where increments are wanted and there is nothing that they could go on from."""
    if not facts.logs:
        raise SourceError(
            f"MariaDB at {address(settings)} writes no binary log, and the job says that it must",
            hint='switch it on (log_bin, see docs/sources/mariadb.md), or write binlog = "auto"',
            retryable=False,
        )
    read_log(client, facts)


def _called(name: str, *, hint: str = "") -> str:
    try:
        tool = open_tool(name)
    except ToolError as error:
        raise ToolError(error.message, hint=hint or error.hint, code=error.code) from None
    return f"{tool.path} {tool.version}"


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
