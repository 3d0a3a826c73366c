"""Where SQLite databases go back to: to their own paths or another folder; what is there is kept aside, never changed.

A database is written beside its place, checked by SQLite, and only then takes that place by a rename. What was there
is renamed before, with the files that belong to it. A program that has it open would go on with what is kept aside: it
is refused as long as one can be seen that has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, CancelledError, NotFoundError, RefusedError, ToolError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.own_place import OwnFolder
from nanumpay_backupd.sources.sqlite_copy import Damaged, check_whole, count_rows, open_for_reading
from nanumpay_backupd.system.files import fsync_dir, publish, rename

__all__ = ["SqliteScratch", "SqliteTarget"]

_BESIDE: Final = ("-wal", "-shm", "-journal")
_CHUNK: Final = 1 << 20
_TIMEOUT: Final = 10.0
_SHOWN: Final = 3


class _Step(msgspec.Struct, frozen=True):
    """One database that is brought back, and to where."""

    part: Part
    to: Path
    owner: str


class SqliteTarget(FolderTarget):
    """The paths from which databases came, or a folder (or, of one database, a file) in ``to``."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`."""
        steps = _steps(manifest, wanted)
        there = [step for step in steps if _exists(step.to)]
        for step in steps:
            _refuse_place(step.to)
        if there and not wanted.overwrite:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise RefusedError(
                f"{there[0].to}{more} is there already",
                hint="restore to another folder (--to), or add --overwrite: what is there is kept under another name",
                code="target-exists",
            )
        for step in there:
            if users := _users(step.to):
                raise RefusedError(
                    f"{step.to} is open in {users}, which would go on with what is there now",
                    hint="stop that program first, or restore to another folder: --to",
                    code="target-refused",
                )
        kept = f"what is there is kept beside it, as {there[0].to.name}.before-{_stamp(manifest)}" if there else ""
        return Goal(
            server="",
            place=wanted.to or _some([str(step.to) for step in steps]),
            parts=tuple(step.part for step in steps),
            there=tuple(str(step.to) for step in there),
            there_documents=sum(_rows(step.to) for step in there),
            warnings=(kept,) if kept else (),
        )

    def needs(self, name: str, wanted: Wanted) -> bool:
        """See `FolderTarget.needs`."""
        return not wanted.only or any(_is_meant(f"/{name}", one) for one in wanted.only)

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        return _Putting(folder, _steps(manifest, wanted), _stamp(manifest), self._kept)

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002
        """Read every database that was put there: its bytes by their digest, its content by SQLite and by its rows."""
        found: list[str] = []
        rows = 0
        steps = _steps(manifest, wanted)
        for step in steps:
            digest = _digest(step.to)
            if digest != step.part.digest:
                found.append(f"{step.to} has another content than the backup")
                continue
            try:
                with contextlib.closing(open_for_reading(step.to, _TIMEOUT)) as db:
                    check_whole(db)
                    count, _ = count_rows(db)
            except (sqlite3.Error, Damaged) as error:
                found.append(f"{step.to} cannot be read: {error}")
                continue
            if count != step.part.items:
                found.append(f"{step.to} has {count} rows instead of {step.part.items}")
            rows += count
        return Comparison(documents=rows, parts=len(steps), differences=tuple(found))

    def undo(self) -> str:
        """See `Target.undo`."""
        return f"what was there before is kept: {_some(self._kept)}" if self._kept else ""


class SqliteScratch(OwnFolder):
    """A folder of our own, into which any database can be put."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SqliteTarget(), wanted=f"{folder}/")


class _Putting(Restoring):
    """Puts unpacked databases into place in a thread: every one is written and proven before the first is renamed."""

    def __init__(self, folder: Path, steps: tuple[_Step, ...], stamp: str, kept: list[str]) -> None:
        self._folder = folder
        self._steps = steps
        self._stamp = stamp
        self._kept = kept
        self._rows = 0
        self._stop = threading.Event()
        self._fault: BackupdError | None = None
        self._thread = threading.Thread(target=self._run, name="sqlite-restore", daemon=True)
        self._thread.start()

    @property
    def documents(self) -> int:
        return self._rows

    @property
    def tail(self) -> str:
        return ""

    def wait(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        self._stop.set()
        self._thread.join()

    def judge(self) -> int:
        if self._fault is not None:
            raise self._fault
        return self._rows

    def _run(self) -> None:
        staged: list[tuple[Path, _Step]] = []
        try:
            for step in self._steps:
                file = step.to.with_name(f".{step.to.name}.restoring-{self._stamp}")
                step.to.parent.mkdir(parents=True, exist_ok=True)
                staged.append((file, step))
                self._write(self._folder / step.part.file, file, step)
            for file, step in staged:
                self._put_aside(step.to)
                publish(file, step.to)
                self._rows += step.part.items
        except BackupdError as error:
            self._fault = error
        except OSError as error:
            self._fault = ToolError(
                f"{error.filename or 'a database'} cannot be written: {os.strerror(error.errno or 0)}",
                hint="check the folder's rights and its room; with ProtectSystem the unit needs ReadWritePaths for it",
                code="restore-failed",
            )
        finally:
            for file, _ in staged:
                with contextlib.suppress(OSError):
                    file.unlink()

    def _write(self, source: Path, file: Path, step: _Step) -> None:
        """Copy an unpacked database beside its place and prove it there."""
        digest = hashlib.sha256()
        file.unlink(missing_ok=True)
        with source.open("rb") as reading, file.open("xb") as writing:
            _give(writing.fileno(), step)
            while data := reading.read(_CHUNK):
                if self._stop.is_set():
                    raise CancelledError("the restore was cancelled")
                digest.update(data)
                writing.write(data)
        if digest.hexdigest() != step.part.digest:
            raise ToolError(
                f"what was unpacked of {step.part.name} is not what the backup holds",
                hint="the disk may be failing (journalctl -k); restore again",
                code="restore-failed",
            )

    def _put_aside(self, path: Path) -> None:
        """Rename what is there, with what belongs to it; nothing of it is lost."""
        if not _exists(path):
            return
        kept = path.with_name(f"{path.name}.before-{self._stamp}")
        number = 1
        while _exists(kept):
            number += 1
            kept = path.with_name(f"{path.name}.before-{self._stamp}.{number}")
        rename(path, kept)
        self._kept.append(str(kept))
        for end in _BESIDE:
            beside = path.with_name(path.name + end)
            if _exists(beside):
                rename(beside, kept.with_name(kept.name + end))
        fsync_dir(path.parent)


def _steps(manifest: Manifest, wanted: Wanted) -> tuple[_Step, ...]:
    """Say which databases go where; raises NotFoundError, RefusedError."""
    parts = manifest.source.parts
    for one in wanted.only:
        if not any(_is_meant(part.name, one) for part in parts):
            raise NotFoundError(
                f"{manifest.backup} holds no database {one!r}",
                hint=f"its databases are: {_some([part.name for part in parts])}",
            )
    chosen = [part for part in parts if not wanted.only or any(_is_meant(part.name, one) for one in wanted.only)]
    if wanted.to and not wanted.to.startswith("/"):
        raise RefusedError(
            f"{wanted.to!r} is no absolute path",
            hint="write the folder as /…: --to /srv/restored/",
            code="target-refused",
        )
    found = []
    for part in chosen:
        if not wanted.to:
            to = Path(part.name)
        elif len(chosen) == 1 and not wanted.to.endswith("/") and not Path(wanted.to).is_dir():
            to = Path(wanted.to)
        else:
            to = Path(wanted.to) / part.file
        found.append(_Step(part, to, manifest.source.facts.get(part.name, "")))
    return tuple(found)


def _is_meant(path: str, word: str) -> bool:
    """Tell whether a word means that database: its path, its name, or a folder above it."""
    return path == word or Path(path).name == word or path.startswith(word.rstrip("/") + "/")


def _refuse_place(path: Path) -> None:
    """Raise RefusedError where no database can be put."""
    if path.is_symlink() or (_exists(path) and not path.is_file()):
        raise RefusedError(
            f"{path} is no plain file: it would not be replaced, but what it leads to",
            hint="name the file itself: --to",
            code="target-refused",
        )


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _give(fd: int, step: _Step) -> None:
    """Give a new file the rights and the owner of what it replaces, else those that the database had."""
    try:
        status = step.to.stat()
        mode, uid, gid = status.st_mode & 0o7777, status.st_uid, status.st_gid
    except OSError:
        words = step.owner.split()
        mode, uid, gid = (int(words[0], 8), int(words[1]), int(words[2])) if len(words) == 3 else (0o600, -1, -1)
    os.fchmod(fd, mode)
    with contextlib.suppress(OSError):  # only root may give files away
        os.fchown(fd, uid, gid)


def _users(path: Path) -> str:
    """Name the processes that have the database open, as far as they can be seen; empty: none."""
    return _some(list(_opened_by(path)))


def _opened_by(path: Path) -> Iterator[str]:
    try:
        wanted = path.stat()
    except OSError:
        return
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    status = link.stat()
                    if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                        yield f"process {process.name} ({(process / 'comm').read_text(encoding='utf-8').strip()})"
                        break


def _rows(path: Path) -> int:
    """Count what a database that is there holds; 0 where that cannot be known."""
    try:
        with contextlib.closing(open_for_reading(path, _TIMEOUT)) as db:
            return count_rows(db)[0]
    except sqlite3.Error:
        return 0


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while data := stream.read(_CHUNK):
                digest.update(data)
    except OSError:
        return ""
    return digest.hexdigest()


def _stamp(manifest: Manifest) -> str:
    """Return what tells apart what different restores keep: the moment of the backup that was restored."""
    return f"{manifest.started:%Y-%m-%dT%H-%M-%S}"


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
