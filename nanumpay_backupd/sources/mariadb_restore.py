"""The tools at work that bring back MariaDB or MySQL: a client fed with a dump, or with what mariadb-binlog writes."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import Restoring
from nanumpay_backupd.sources.binlog import AS_IT_IS, FOLDER, in_order
from nanumpay_backupd.sources.binlog_filter import filter_log
from nanumpay_backupd.sources.mariadb_client import Client, Tool, open_tool, tool_fault
from nanumpay_backupd.sources.sql_reader import Mark, SqlReader, quoted
from nanumpay_backupd.system.process import Child

__all__ = ["LogReplay", "SqlRestore", "Step"]

_CHUNK: Final = 1 << 20
_ENDED_SECONDS: Final = 60.0


class Step(msgspec.Struct, frozen=True):
    """One database: its dump, the name it gets and had, which tables (none: all), what is to be run before."""

    file: Path
    database: str
    was: str
    tables: frozenset[str]
    make: bytes


class _Working(Restoring):
    """Work in a thread that starts tools one after the other."""

    def __init__(self, settings: MariadbSource, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._children: list[Child] = []
        self._said = ""
        self._fault: BackupdError | OSError | None = None
        self._killed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def tail(self) -> str:
        return self._said

    def wait(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            children = list(self._children)
        for child in children:
            child.kill()
        self._thread.join(_ENDED_SECONDS)

    def judge(self) -> int:
        """See `Restoring.judge`."""
        if isinstance(self._fault, OSError):
            raise self._fault
        if isinstance(self._fault, SourceError) and self._fault.code == "source-unreachable":
            raise self._fault
        if self._fault is not None:
            code = self._fault.code if self._fault.code in ("source-auth", "tool-killed") else "restore-failed"
            raise ToolError(self._fault.message, hint=self._fault.hint, code=code) from None
        return self.documents

    def _run(self) -> None:
        try:
            self._work()
        except (BackupdError, OSError) as error:
            self._fault = error

    @abstractmethod
    def _work(self) -> None:
        """Do it; raises BackupdError."""

    @contextlib.contextmanager
    def _fed(self, database: str) -> Iterator[int]:
        """Yield the pipe of a client that runs what is written there in ``database`` (empty: in none)."""
        tool = self._client.tool
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, writing)
            try:
                with self._client.options(tool) as fd:
                    # Without its own commands (--binary-mode) a dump cannot make the client run programs.
                    argv = [str(tool.path), f"--defaults-file=/dev/fd/{fd}", "--default-character-set=utf8mb4"]
                    argv += ["--binary-mode", "--max-allowed-packet=1G", *([f"--database={database}"] * bool(database))]
                    child = self._start(argv, fd, stdin=reading)
            finally:
                os.close(reading)
            with contextlib.suppress(BrokenPipeError):
                yield writing
            stack.close()
            self._ended(child, tool)

    def _start(self, argv: list[str], *pass_fds: int, **pipes: int) -> Child:
        with self._lock:
            if self._killed:
                raise ToolError("the restore was stopped", code="tool-killed")
            child = Child(argv, pass_fds=pass_fds, **pipes)  # type: ignore[arg-type]
            self._children.append(child)
        return child

    def _ended(self, child: Child, tool: Tool) -> None:
        code = child.wait() or 0
        self._said = child.tail or self._said
        if code != 0:
            raise tool_fault(tool.name, code, child.tail, self._settings)


class SqlRestore(_Working):
    """Dumps that are being fed to the client: all databases' tables, then all their views."""

    def __init__(self, settings: MariadbSource, client: Client, steps: list[Step]) -> None:
        super().__init__(settings, client)
        self._steps = steps
        self._done = 0
        self._reader = SqlReader()
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._done + self._reader.rows

    def _work(self) -> None:
        for step in self._steps:
            with self._fed("") as pipe:
                _write(pipe, step.make)
        views = []
        for step in self._steps:
            with self._fed(step.database) as pipe:
                if self._feed(step, pipe, views=False):
                    views.append(step)
        for step in views:
            if not step.tables:
                with self._fed(step.database) as pipe:
                    self._feed(step, pipe, views=True)

    def _feed(self, step: Step, pipe: int, *, views: bool) -> bool:
        """Feed the tables of a dump, or its views; tells whether there are views."""
        reader = self._reader = SqlReader()
        sieve = _Sieve(step, reader, views=views)
        with step.file.open("rb", buffering=0) as stream:
            while piece := stream.read(_CHUNK):
                _write(
                    pipe,
                    b"".join(_renamed(step, mark, span) for mark, span in reader.feed(piece) if sieve.passes(mark)),
                )
        reader.finish()
        if not views:
            self._done += sum(rows for key, rows in reader.tables.items() if not step.tables or key[1] in step.tables)
        self._reader = SqlReader()
        return bool(reader.views[step.was])


class _Sieve:
    """Tells which spans of a dump are wanted, in their order."""

    def __init__(self, step: Step, reader: SqlReader, *, views: bool) -> None:
        self._step = step
        self._reader = reader
        self._views = views
        self._times = 0
        self._end = False

    def passes(self, mark: Mark) -> bool:
        if mark is Mark.DATABASE:
            self._times += 1
        self._end |= mark is Mark.EPILOG
        if mark in (Mark.SANDBOX, Mark.USE, Mark.CREATE_DATABASE):
            return False
        if not self._times or self._end:
            return True
        # The second time that a dump names its database, the views follow.
        if self._views != (self._times > 1):
            return False
        return not self._step.tables or self._reader.table in self._step.tables


class LogReplay(_Working):
    """Binary logs that mariadb-binlog turns into statements for the client, without what is of other databases."""

    def __init__(
        self,
        settings: MariadbSource,
        client: Client,
        folder: Path,
        databases: tuple[str, ...],
        *,
        until: str,
        after: str,
    ) -> None:
        super().__init__(settings, client)
        self._tool = open_tool(settings.mariadb_binlog)
        self._files = [folder / FOLDER / name for name in in_order(path.name for path in (folder / FOLDER).iterdir())]
        self._databases = databases
        self._until = until
        self._after = after
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`: nobody counts the rows that change."""
        return 0

    def _work(self) -> None:
        file, _, position = self._after.rpartition(":")
        # An increment may begin before that: what was brought back may be a full of later.
        self._files = [path for path in self._files if not file or in_order([file, path.name])[0] == file]
        for path in self._files:
            whole = path.with_name(f".{path.name}")
            path.rename(whole)
            with whole.open("rb") as source, path.open("xb") as target:
                filter_log(source, target, self._databases, int(position) if path.name == file else 0)
            whole.unlink()
        if not self._files:
            return
        with self._fed("") as pipe:
            argv = [str(self._tool.path), "--no-defaults", AS_IT_IS]
            if self._until:
                # It stops before that second; the wanted one belongs to what is wanted.
                last = datetime.fromtimestamp(OpTime.parse(self._until).seconds + 1, UTC)
                argv.append(f"--stop-datetime={last:%Y-%m-%d %H:%M:%S}")
            with self._lock:
                child = Child([*argv, *map(str, self._files)], stdout=pipe, extra={"TZ": "UTC"})
                self._children.append(child)
            self._ended(child, self._tool)


def _renamed(step: Step, mark: Mark, span: bytes) -> bytes:
    """Return a span as it has to be where a database gets another name."""
    if mark is not Mark.ALTER_DATABASE:
        return span
    was, now = (quoted(name).encode("utf-8", "surrogateescape") for name in (step.was, step.database))
    return span.replace(was, now, 1)


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
