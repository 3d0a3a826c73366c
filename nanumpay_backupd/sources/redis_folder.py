"""Brings the files of a backup into the data folder of a Redis server that is down. Starts no server."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import BackupdError, InternalError, RefusedError, SpaceError, ToolError, VerifyError
from nanumpay_backupd.model import Content, Manifest
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Comparison, Goal
from nanumpay_backupd.sources.own_place import Placed
from nanumpay_backupd.sources.redis_link import Link, Refusal
from nanumpay_backupd.sources.redis_restore import Plan
from nanumpay_backupd.sources.redis_source import checker_of
from nanumpay_backupd.system.files import fsync_dir, fsync_file, is_disk_full, remove_tree, rename
from nanumpay_backupd.system.sandbox import way_out

__all__ = ["FolderRestore", "compare_files", "look_at_folder", "place_files"]

_AOF_FOLDER: Final = "appendonlydir"
_AOF_FILE: Final = "appendonly.aof"
_DUMP: Final = "dump.rdb"
_SERVERS: Final = ("redis-server", "valkey-server", "redis-check-rdb")
_PIECE: Final = 1 << 20
_RDB_STEPS: Final = (
    "then: chown -R redis:redis {folder}; start it with appendonly no (an AOF would be loaded instead of the file), "
    "and, if it had one, turn it on again with: redis-cli CONFIG SET appendonly yes"
)
_AOF_STEPS: Final = "then: chown -R redis:redis {folder}; start it with appendonly yes"


def look_at_folder(settings: RedisSource, manifest: Manifest, plan: Plan, *, overwrite: bool) -> Goal:
    """Say what bringing the files into ``plan.folder`` would do; raises RefusedError."""
    folder = Path(plan.folder)
    if not folder.is_dir():
        raise RefusedError(
            f"there is no folder {folder}",
            hint=f"make it: install -d -o redis -g redis -m 750 {folder}",
            code="target-refused",
        )
    if user := _user_of(folder, settings):
        raise RefusedError(
            f"{user} works in {folder}: it would write its own files over those that are restored",
            hint="stop it first: systemctl stop redis-server",
            code="target-refused",
        )
    there = tuple(path.name for path in _old(folder))
    if there and not overwrite:
        raise RefusedError(
            f"{folder} holds {', '.join(there)}",
            hint="add --overwrite (they are kept under another name), or name another folder",
            code="target-exists",
        )
    steps = _AOF_STEPS if manifest.source.facts.get("mode") == RedisMode.AOF else _RDB_STEPS
    return Goal(
        server=os.uname().nodename,
        place=str(folder),
        parts=manifest.source.parts,
        there=there,
        warnings=(steps.format(folder=folder), *_not_known(settings, folder)),
    )


def _old(folder: Path) -> list[Path]:
    """Return what a server would load from a folder."""
    named = [folder / name for name in (_DUMP, _AOF_FILE, _AOF_FOLDER)]
    return [path for path in named if path.exists()]


def _user_of(folder: Path, settings: RedisSource) -> str:
    """Return who works in a folder, as far as that can be known: the job's server says it, or the kernel does."""
    with contextlib.suppress(BackupdError, Refusal, OSError, EOFError), Link(settings) as link:
        answer = link.ask("CONFIG", "GET", "dir")
        # Only a server of this host: a path elsewhere says nothing of the folder here.
        if _is_local(link) and len(answer) == 2 and Path(os.fsdecode(answer[1])).resolve() == folder.resolve():
            return f"Redis at {link.place.address}"
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            if name in _SERVERS and (process / "cwd").samefile(folder):
                return f"{name} (process {process.name})"
    return ""


def _not_known(settings: RedisSource, folder: Path) -> Iterator[str]:
    """Say that the job's server, which is of this host and runs, does not tell us where it works."""
    with contextlib.suppress(BackupdError, OSError, EOFError), Link(settings) as link:
        if not _is_local(link):
            return
        try:
            link.ask("CONFIG", "GET", "dir")
        except Refusal:
            yield f"Redis at {link.place.address} runs; if it works in {folder}, stop it first"


def _is_local(link: Link) -> bool:
    return bool(link.place.socket) or link.place.host in ("localhost", "127.0.0.1", "::1")


class FolderRestore(Placed):
    """The files, which are in their place as soon as this is made."""

    def __init__(self, folder: Path, manifest: Manifest, plan: Plan) -> None:
        self._count = sum(part.items for part in manifest.source.parts)
        self.kept: tuple[str, ...] = ()
        self._error: BaseException | None = None
        self._folder = plan.folder
        try:
            self.kept = place_files(folder, Path(plan.folder))
        except OSError as error:
            self._error = error

    def judge(self) -> int:
        """See `Restoring.judge`."""
        error = self._error
        if isinstance(error, OSError):
            if is_disk_full(error):
                raise SpaceError(
                    f"the disk of {self._folder} has no room for the backup's files",
                    hint="free space there and restore again; nothing in it was changed",
                )
            raise ToolError(
                f"the files could not be brought into the data folder: {error.strerror}",
                hint=way_out(Path(self._folder))
                or "who runs this must be allowed to write there (docs/sources/redis.md)",
                code="restore-failed",
            )
        if error is not None:
            raise InternalError(f"restoring Redis failed: {error}") from error
        return self._count


def place_files(unpacked: Path, folder: Path) -> tuple[str, ...]:
    """Bring what was unpacked into a data folder, durably; what a server would load there is kept under another name.

    Returns those names. The files get the folder's own owner, where we may give them. Until all of them are on its
    filesystem nothing in it changes. Raises OSError.
    """
    moment = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    coming = folder / f".restore-{moment}"
    coming.mkdir(mode=0o750)
    try:
        _bring_all(unpacked, coming, folder.stat())
        kept = []
        for path in _old(folder):
            aside = path.with_name(f"{path.name}.before-restore-{moment}")
            rename(path, aside)
            kept.append(str(aside))
        for path in sorted(coming.iterdir()):
            rename(path, folder / path.name)
    finally:
        remove_tree(coming)
    fsync_dir(folder)
    return tuple(kept)


def _bring_all(unpacked: Path, coming: Path, owner: os.stat_result) -> None:
    """Bring files into a folder beside which they are to be, with their last owner and modes, durably."""
    for path in sorted(unpacked.rglob("*")):
        target = coming / path.relative_to(unpacked)
        if path.is_dir():
            target.mkdir(exist_ok=True, mode=0o750)
        else:
            _bring(path, target)
            fsync_file(target)
        if os.geteuid() == 0:
            os.chown(target, owner.st_uid, owner.st_gid)
    for place in {coming, *(path for path in coming.iterdir() if path.is_dir())}:
        fsync_dir(place)


def _bring(path: Path, target: Path) -> None:
    """Move a file, or copy it where that is another filesystem."""
    try:
        rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(path, target)
    target.chmod(0o640)


def compare_files(folder: Path, manifest: Manifest) -> Comparison:
    """Compare the files in a data folder with what the manifest says of them, by reading them back."""
    differences = []
    by_file: dict[str, dict[str, Content]] = {}
    for part in manifest.source.parts:
        by_file.setdefault(part.file, {})[part.name] = Content(documents=part.items, digest=part.digest)
    for name, parts in by_file.items():
        found = _content(folder / name, name)
        if isinstance(found, str):
            differences.append(found)
            continue
        for known, content in parts.items():
            there = found.get(known) or found.get("")
            if there is None or there.documents != content.documents or content.digest not in ("", there.digest):
                differences.append(f"{name} holds another {known} than the backup")
    return Comparison(
        documents=sum(part.items for part in manifest.source.parts),
        parts=len(manifest.source.parts),
        differences=tuple(differences),
    )


def _content(path: Path, name: str) -> dict[str, Content] | str:
    """Return what a file holds by part (empty: all of it), or what is wrong with it."""
    checker = checker_of(name)
    assert checker is not None, "every part's file has one"
    try:
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(_PIECE):
                checker(piece)
        checker(b"")
    except (OSError, VerifyError) as error:
        return f"{name}: {error}"
    parts: dict[str, Content] = getattr(checker, "parts", {})
    whole = Content(documents=getattr(checker, "count", 0), digest=getattr(checker, "digest", ""))
    return parts or {"": whole}
