"""SQLite databases: which there are, the copy by a program of its own (`sqlite_copy`), the judgement of what it wrote.

Where they go back to is next door (`sqlite_target`). A database is copied by SQLite's own backup within one read
transaction, checked by SQLite as a copy (``integrity_check``), and its rows are counted there; the digest of exactly
that file is in the manifest, so that a file that is read back with this digest is one that was found whole.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.errors import BackupdError, SourceError, SpaceError, ToolError, VerifyError
from nanumpay_backupd.model import Consistency, Manifest, Part, SourceInfo
from nanumpay_backupd.settings.sources import SqliteSource
from nanumpay_backupd.sources import sqlite_copy
from nanumpay_backupd.sources.base import Driver, Dump, Estimate, FolderSource, FolderTarget, Harvest, Scratch
from nanumpay_backupd.sources.sqlite_target import SqliteScratch, SqliteTarget
from nanumpay_backupd.system.process import Child, secret_file
from nanumpay_backupd.system.units import human_size

__all__ = ["SqliteDatabases", "SqliteDriver", "inner_name"]

_MAGIC: Final = b"SQLite format 3\0"
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""What ends the names of the files that SQLite keeps beside a database."""
_HEADER: Final = 100
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


class SqliteDriver(Driver):
    """The rooms of the type ``sqlite``."""

    def __init__(self, settings: SqliteSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return SqliteDatabases(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        return SqliteTarget()

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:  # noqa: ARG002 - any backup can be unpacked
        """See `Driver.scratch`."""
        return SqliteScratch(folder)


class SqliteDatabases(FolderSource):
    """The databases that match the patterns."""

    def __init__(self, settings: SqliteSource) -> None:
        self._settings = settings
        self._found: tuple[Path, ...] | None = None

    def preflight(self) -> Estimate:
        """Find the databases and look at their first bytes. See `Source.preflight`."""
        found, warnings = [], []
        for path, named in _matching(self._settings):
            why = _no_database(path)
            if why and named:
                raise SourceError(
                    f"{path} cannot be backed up: {why}",
                    hint="check the path of this job in backupd.toml, and that the service's user may read it",
                    retryable=False,
                )
            if why:
                warnings.append(f"{path} is left out: {why}")
            else:
                found.append(path)
        if not found:
            raise SourceError(
                f"there is no SQLite database at {', '.join(self._settings.path)}: there is nothing to back up",
                hint="check path and exclude of this job in backupd.toml",
                code="source-empty",
                retryable=False,
            )
        self._found = tuple(found)
        # What is not yet in the database itself is copied too.
        sizes = [sum(_size(f"{path}{end}") for end in ("", "-wal")) for path in found]
        count = f"{len(found)} databases" if len(found) > 1 else str(found[0])
        return Estimate(
            raw_bytes=sum(sizes),
            summary=f"SQLite {sqlite3.sqlite_version}: {count}, {human_size(sum(sizes))}",
            warnings=tuple(warnings),
            work_bytes=max(sizes),
        )

    def start(self, folder: Path) -> Dump:
        """Start the copying. See `FolderSource.start`."""
        assert self._found is not None, "preflight comes first"
        return _Copying(self._settings, self._found, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Take the digest of a database, and see that its pages are all there. See `Source.check`."""
        return _FileCheck(name)


class _Copying(Dump):
    """The copying program under way, and what it said."""

    def __init__(self, settings: SqliteSource, paths: tuple[Path, ...], folder: Path) -> None:
        self._paths = paths
        self._copied: dict[str, dict[str, Any]] = {}
        self._fault: dict[str, Any] = {}
        work = folder.with_name("copying")
        work.mkdir()
        order = {
            "databases": [{"path": str(path), "file": str(folder / inner_name(path))} for path in paths],
            "work": str(work),
            "timeout": settings.timeout,
        }
        program = Path(sqlite_copy.__file__)
        with secret_file(json.dumps(order)) as fd:
            argv = [sys.executable, "-I", str(program), f"/dev/fd/{fd}"]
            self._child = Child(argv, on_line=self._line, pass_fds=(fd,))

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def documents(self) -> int:
        return sum(item["rows"] for item in list(self._copied.values()))

    def pause(self) -> None:
        self._child.pause()

    def resume(self) -> None:
        self._child.resume()

    def wait(self, timeout: float) -> bool:
        return self._child.wait(timeout) is not None

    def kill(self) -> None:
        self._child.kill()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: every database that was found must have been reported, with the bytes that are there."""
        code = self._child.wait() or 0
        if self._fault or code != 0:
            raise _failure(code, self._fault, self._child.tail)
        for path in self._paths:
            told = self._copied.get(str(path))
            if told is None or sizes.get(inner_name(path)) != told["bytes"]:
                raise ToolError(
                    f"the copying ended without an error, but {path} is not there as it was reported",
                    hint="check the disk (journalctl -k) and run again; nothing was published",
                    code="dump-incomplete",
                    retryable=True,
                )
        return Harvest(
            source=SourceInfo(
                type="sqlite",
                server_version=sqlite3.sqlite_version,
                topology="",
                databases=(),
                collections=(),
                parts=tuple(self._part(path) for path in self._paths),
                facts={str(path): self._owner(path) for path in self._paths},
                by_hand=tuple(_by_hand(self._paths)),
            ),
            consistency=self._consistency(),
            tools={"sqlite": sqlite3.sqlite_version},
            documents=self.documents,
        )

    def _part(self, path: Path) -> Part:
        told = self._copied[str(path)]
        return Part(
            name=str(path),
            kind="database",
            items=told["rows"],
            bytes=told["bytes"],
            file=inner_name(path),
            digest=told["digest"],
        )

    def _owner(self, path: Path) -> str:
        told = self._copied[str(path)]
        return f"{told['mode']:04o} {told['uid']} {told['gid']}"

    def _consistency(self) -> Consistency:
        moments = [datetime.fromisoformat(item["moment"]) for item in self._copied.values()]
        if len(moments) == 1:
            return Consistency(level="point-in-time", moment=moments[0])
        return Consistency(level="none", reason="each database is of the moment at which its own copy began")

    def _line(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return  # a traceback, which stays in the tail
        if not isinstance(said, dict):
            return
        if "copied" in said:
            self._copied[said["copied"]] = said
        elif "fault" in said:
            self._fault = said


class _FileCheck:
    """Judges one database file as it is read; ``digest`` is its SHA-256."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sha = hashlib.sha256()
        self._head = b""
        self._size = 0

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was read so far, as hex digits."""
        return self._sha.hexdigest()

    def __call__(self, piece: bytes) -> None:
        """See `Checker`."""
        if piece:
            self._sha.update(piece)
            self._size += len(piece)
            if len(self._head) < _HEADER:
                self._head += piece[: _HEADER - len(self._head)]
            return
        why = _no_file(self._head, self._size)
        if why:
            raise VerifyError(f"{self._name} in the archive is damaged: {why}", hint=_HINT, code="verify-structure")


def inner_name(path: Path) -> str:
    """Return where a database stands in the archive, below the backup's folder."""
    return str(path).lstrip("/")


def _no_file(head: bytes, size: int) -> str:
    """Say why bytes that begin with ``head`` are no whole database (https://www.sqlite.org/fileformat2.html)."""
    if size == 0:
        return ""  # a database without a table
    if len(head) < _HEADER or not head.startswith(_MAGIC):
        return "it is no SQLite database"
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    if page < 512 or size % page:
        return f"its {size} bytes are no whole number of pages of {page} bytes"
    return ""


def _matching(settings: SqliteSource) -> Iterator[tuple[Path, bool]]:
    """Yield the plain files that match, each once, and whether one was named without a pattern."""
    seen: set[str] = set()
    for pattern in settings.path:
        named = not glob.has_magic(pattern)
        for found in [pattern] if named else sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - absolute
            real = os.path.realpath(found)
            left_out = any(fnmatchcase(found, one) for one in settings.exclude)
            if real in seen or left_out or (not named and (found.endswith(_BESIDE) or not Path(found).is_file())):
                continue
            seen.add(real)
            yield Path(found), named


def _no_database(path: Path) -> str:
    """Say why a file cannot be backed up as a database, empty: it seems to be one."""
    try:
        os.fsencode(path).decode("utf-8")
        with path.open("rb") as stream:
            head = stream.read(len(_MAGIC))
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or "it cannot be read"
    return "" if head in (b"", _MAGIC) else "it is no SQLite database (or it is encrypted)"


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _by_hand(paths: tuple[Path, ...]) -> Iterator[str]:
    yield "# stop the program that uses it; move the old one away, and with it what stands beside it as -wal and -shm"
    for path in paths:
        copy = f"{{folder}}/{shlex.quote(inner_name(path))}"
        yield f"sqlite3 {copy} 'PRAGMA integrity_check'"
        yield f"cp {copy} {shlex.quote(str(path))}"


def _failure(code: int, fault: dict[str, Any], tail: str) -> BackupdError:
    """Name the fault with which the copying ended."""
    path, text = fault.get("path", ""), fault.get("text", "")
    full = "database or disk is full" in text or fault.get("errno") in (28, 122)
    if full:
        return SpaceError(
            f"the disk filled up while {path} was copied",
            hint="free space there or set [paths] backups to a larger disk; nothing was published",
        )
    if fault.get("fault") == "damaged":
        return SourceError(
            f"{path} is damaged, says SQLite: {text}",
            hint="repair it (sqlite3 FILE .recover) or restore an older backup: backupctl list; nothing was published",
            code="source-damaged",
            retryable=False,
        )
    if fault:
        busy = "locked" in text
        return SourceError(
            f"{path} cannot be copied: {text}",
            hint="another program holds it locked; raise timeout of this job in backupd.toml"
            if busy
            else "the service's user has to read it and, in WAL mode, to write its -shm file in the same folder",
            retryable=busy or fault.get("fault") == "system",
        )
    if code < 0:
        return ToolError(
            f"the copying of SQLite databases was killed by signal {-code}",
            hint="look for the kernel's OOM killer: journalctl -k | grep -i oom; nothing was published",
            code="tool-killed",
            retryable=True,
        )
    last = tail.splitlines()[-1] if tail else "it said nothing"
    return ToolError(f"the copying of SQLite databases failed with exit code {code}: {last}", retryable=True)
