"""A full dump of MariaDB or MySQL: one mariadb-dump of all databases, parted into a file for each on its way.

One run of the tool is one transaction, so that all databases are of one moment without a lock (decision 0026). Each
file begins and ends as the whole dump does and names no database, so that it can be restored under any name. What makes
the databases themselves is in a file of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote

from nanumpay_backupd.errors import BackupdError, ToolError, VerifyError
from nanumpay_backupd.model import Consistency, Part, SourceInfo
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.mariadb_client import Client, Tool, dotted, tool_fault
from nanumpay_backupd.sources.mariadb_facts import Facts, programs_of, tables_of
from nanumpay_backupd.sources.sql_reader import Mark, SqlReader, quoted
from nanumpay_backupd.system.process import Child

__all__ = ["ACCOUNTS", "DATABASES", "FOLDER", "MariadbDump", "database_of", "dump_argv", "file_of", "with_history"]

FOLDER: Final = "databases"
DATABASES: Final = "create-databases.sql"
ACCOUNTS: Final = "accounts.sql"
_PIPE_BYTES: Final = 1 << 20
_SHORT: Final = 1 << 17
_REST: Final = 0.002
_PACKET: Final = "--max-allowed-packet=1G"
_ENDED_SECONDS: Final = 60.0
_SHOWN: Final = 3


class MariadbDump(Dump):
    """A running mariadb-dump, and the thread that parts what it writes."""

    def __init__(self, settings: MariadbSource, client: Client, tool: Tool, facts: Facts, folder: Path) -> None:
        self._settings = settings
        self._client = client
        self._tool = tool
        self._facts = facts
        self._folder = folder
        self._logs = settings.binlog != "off" and facts.logs and _may_see_log(client, facts)
        self._reader = SqlReader()
        self._fault: BaseException | None = None
        (folder / FOLDER).mkdir()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            with client.options(tool) as fd:
                argv = dump_argv(tool, facts, fd, logs=self._logs)
                self._child = Child(argv, pass_fds=(fd,), stdout=writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._parting = threading.Thread(target=self._part, args=(reading,), daemon=True)
        self._parting.start()

    @property
    def running(self) -> bool:
        """See `Dump.running`."""
        return self._child.running or self._parting.is_alive()

    @property
    def documents(self) -> int:
        """See `Dump.documents`."""
        return self._reader.rows

    def pause(self) -> None:
        """See `Dump.pause`."""
        self._child.pause()

    def resume(self) -> None:
        """See `Dump.resume`."""
        self._child.resume()

    def wait(self, timeout: float) -> bool:
        """See `Dump.wait`."""
        if self._child.wait(timeout) is None:
            return False
        self._parting.join(timeout)
        return not self._parting.is_alive()

    def kill(self) -> None:
        """See `Dump.kill`."""
        self._child.resume()
        self._child.kill()
        self._parting.join(_ENDED_SECONDS)

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: exit code, end of the dump, then every table that was and is there must be in it."""
        code = self._child.wait() or 0
        self._parting.join(_ENDED_SECONDS)
        if isinstance(self._fault, (VerifyError, UnicodeError)) and code == 0:
            raise _incomplete(f"ended without an error, but {self._fault}") from None
        if code != 0:
            raise tool_fault(self._tool.name, code, self._child.tail, self._settings)
        if self._fault is not None:
            raise self._fault
        self._compare(sizes)
        parts = self._parts(sizes)
        return Harvest(
            source=SourceInfo(
                type="mariadb",
                server_version=self._facts.version,
                topology="dump",
                databases=self._facts.databases,
                collections=(),
                parts=parts,
                by_hand=tuple(_by_hand(self._facts.databases)),
                facts=self._told(),
            ),
            consistency=self._consistency(),
            tools={self._tool.name: self._tool.version},
            documents=sum(part.items for part in parts),
        )

    def _compare(self, sizes: dict[str, int]) -> None:
        """Hold the dump against the server: tables dropped or made meanwhile cannot be missed."""
        facts, reader = self._facts, self._reader
        if lost := [name for name in map(file_of, facts.databases) if name not in sizes]:
            raise _incomplete(f"wrote {lost[0]}, but that file is not there")
        expected = facts.tables & tables_of(self._client, facts.databases)
        missing = sorted(".".join(key) for key in expected - reader.tables.keys())
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise _incomplete(f"ended without an error, but did not write {', '.join(missing[:_SHOWN])}{more}")
        now = programs_of(self._client, facts.databases)
        for name in facts.databases:
            found = f"{reader.views[name]} {reader.programs[name]}"
            if facts.counts[name] == now[name] != found:
                what = "views and programs (triggers, routines, events)"
                raise _incomplete(f"wrote {found} {what} of {name!r}, the server has {now[name]}")

    def _parts(self, sizes: dict[str, int]) -> tuple[Part, ...]:
        reader = self._reader
        alone = {name for name in self._facts.databases if sum(key[0] == name for key in reader.tables) == 1}
        return tuple(
            Part(
                name=f"{database}.{table}",
                kind="table",
                items=rows,
                bytes=sizes[file_of(database)] if database in alone else reader.sizes.get((database, table), 0),
                file=file_of(database),
            )
            for (database, table), rows in sorted(reader.tables.items())
        )

    def _told(self) -> dict[str, str]:
        reader = self._reader
        counts = {f"programs:{name}": f"{reader.views[name]} {reader.programs[name]}" for name in self._facts.databases}
        if with_history(self._tool, self._facts):
            counts |= {f"history:{name}": "yes" for name in self._facts.versioned}
        return counts | ({"gtid": reader.facts["gtid"]} if "gtid" in reader.facts else {})

    def _consistency(self) -> Consistency:
        position = self._reader.facts.get("position", "") if self._logs else ""
        if not self._facts.unsafe:
            return Consistency(level="point-in-time", moment=self._facts.now, position=position)
        reason = f"{_some(self._facts.unsafe)}: no transaction holds such tables still"
        return Consistency(level="none", reason=reason, position=position)

    def _part(self, reading: int) -> None:
        """Read the pipe to its end; a fault ends the tool."""
        files = _Files(self._folder, frozenset(self._facts.databases))
        try:
            with open(reading, "rb", buffering=0) as pipe, files:
                while piece := pipe.read(_PIPE_BYTES):
                    for mark, span in self._reader.feed(piece):
                        files.take(mark, span, self._reader.database)
                    files.flush()
                    if len(piece) < _SHORT:
                        # The tool writes by 4 KiB: a short rest, so that more is there, costs it nothing.
                        self._child.wait(_REST)
                if not self._child.wait():
                    self._reader.finish()
        except (BackupdError, OSError, UnicodeError) as error:
            self._fault = error
            self._child.resume()
            self._child.kill()


class _Files:
    """The files of a dump: each gets the whole dump's beginning, what belongs to its database, and the whole's end."""

    def __init__(self, folder: Path, databases: frozenset[str]) -> None:
        self._folder = folder
        self._databases = databases
        self._begun: set[str] = set()
        self._prolog: list[bytes] = []
        self._epilog: list[bytes] | None = None
        self._spans: list[bytes] = []
        self._open: IO[bytes] | None = None
        self._name = ""
        self._creating = (folder / DATABASES).open("wb", buffering=0)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.flush()
        for name in sorted(self._begun):
            self._switch(name)
            self._spans += self._epilog or []
            self.flush()
        if self._open is not None:
            self._open.close()
        self._creating.close()

    def take(self, mark: Mark, span: bytes, database: str) -> None:
        """Put a span where it belongs."""
        if mark is Mark.EPILOG or self._epilog is not None:
            self._epilog = [*(self._epilog or []), span]
        elif mark is Mark.DATABASE:
            if database not in self._databases:
                raise VerifyError(f"it names the database {database!r}, which was not asked for")
            self._switch(database)
            self._spans.append(span)
        elif not database:
            self._prolog.append(span)
        elif mark is Mark.CREATE_DATABASE:
            self._creating.write(span)
        elif mark is not Mark.USE:
            self._spans.append(span)

    def flush(self) -> None:
        """Write what was collected."""
        if self._spans and self._open is not None:
            data = memoryview(b"".join(self._spans))
            while data:
                data = data[self._open.write(data) :]
        self._spans.clear()

    def _switch(self, name: str) -> None:
        if name == self._name:
            return
        self.flush()
        if self._open is not None:
            self._open.close()
        self._name = name
        self._open = (self._folder / file_of(name)).open("ab", buffering=0)
        if name not in self._begun:
            self._begun.add(name)
            self._spans += self._prolog


def file_of(database: str) -> str:
    """Return the file of a database, below the dump's folder."""
    return f"{FOLDER}/{quote(database, safe=' ')}.sql"


def database_of(file: str) -> str:
    """Return the database whose file that is, empty: of none."""
    inside = file.startswith(f"{FOLDER}/") and file.endswith(".sql")
    return unquote(file.removeprefix(f"{FOLDER}/").removesuffix(".sql")) if inside else ""


def dump_argv(tool: Tool, facts: Facts, fd: int, *, logs: bool) -> Sequence[str]:
    """Return the command; ``fd`` is that of its option file."""
    argv = [str(tool.path), f"--defaults-file=/dev/fd/{fd}", "--single-transaction", "--quick", "--hex-blob"]
    argv += ["--routines", "--triggers", "--events", "--default-character-set=utf8mb4", _PACKET]
    if tool.mariadb:
        argv += ["--master-data=2"] if logs else []
        argv += ["--dump-history"] if with_history(tool, facts) else []
    else:
        argv += ["--set-gtid-purged=OFF", "--no-tablespaces"]
        if dotted(tool.version) >= (8,) and (facts.mariadb or dotted(facts.version) < (8,)):
            argv.append("--column-statistics=0")
        if logs:
            argv.append("--source-data=2" if dotted(tool.version) >= (8, 0, 26) else "--master-data=2")
    return [*argv, "--databases", "--", *facts.databases]


def _by_hand(databases: Sequence[str]) -> Iterator[str]:
    yield "# each database that is there gives way; add --host, --user and --password as needed"
    for name in databases:
        yield f"mariadb --execute={shlex.quote(f'DROP DATABASE IF EXISTS {quoted(name)}')}"
    yield f"mariadb < {{folder}}/{DATABASES}"
    for name in databases:
        file = f"{{folder}}/{shlex.quote(file_of(name))}"
        target = shlex.quote(f"--database={name}")
        yield f"mariadb --binary-mode --default-character-set=utf8mb4 {target} < {file}"


def with_history(tool: Tool, facts: Facts) -> bool:
    """Tell whether the rows of earlier that system-versioned tables keep can be dumped, where there are any."""
    newest = min(dotted(tool.version), dotted(facts.version))
    return bool(facts.versioned) and tool.mariadb and facts.mariadb and newest >= (10, 11)


def _may_see_log(client: Client, facts: Facts) -> bool:
    newer = not facts.mariadb and dotted(facts.version) >= (8, 4)
    return client.allowed("SHOW BINARY LOG STATUS" if newer else "SHOW MASTER STATUS")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _incomplete(what: str) -> ToolError:
    return ToolError(
        f"the dump tool {what}",
        hint="check the tool's version and the user's rights (docs/sources/mariadb.md) and run again; "
        "nothing was published",
        code="dump-incomplete",
        retryable=True,
    )
