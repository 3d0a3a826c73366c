"""What restores and drills share: room, the artifact at hand, which of its files go where, mongorestore under way."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from nanumpay_backupd.errors import BackupdError, CancelledError, SpaceError, VerifyError
from nanumpay_backupd.model import LOCAL, Backup, CollectionStat, Copy, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.unpack import OPLOG, collection_of
from nanumpay_backupd.pipeline.upload import OpenStore
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.sources import base
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.system.units import human_size

if TYPE_CHECKING:
    from nanumpay_backupd.sources.mongorestore import Restoring

__all__ = ["RESERVE", "finish_restoring", "make_sure_of_room", "obtain", "placing", "wait_for"]

RESERVE: Final = 64 << 20
"""Bytes left free on the filesystem of the staging folder."""
_REST: Final = 0.1


def make_sure_of_room(layout: Layout, needed: int) -> None:
    """Raise SpaceError unless staging has room for ``needed`` bytes and a reserve for others."""
    free = free_bytes(layout.staging)
    if free < needed + RESERVE:
        raise SpaceError(
            f"not enough room in {layout.backups} to unpack the backup: this needs about "
            f"{human_size(needed + RESERVE)}, {human_size(free)} are free",
            hint="free space there or set [paths] backups to a larger disk",
        )


def obtain(
    backup: Backup,
    copy: Copy,
    staging: Path,
    spec: RunSpec,
    recorder: Recorder,
    open_store: OpenStore,
    *,
    hint: Callable[[], str],
) -> Path:
    """Return where the artifact is; a remote copy is brought into ``staging`` first, its checksum taken on the way.

    Of an archive without a manifest nobody knows the checksum. Raises StoreError, or VerifyError (``verify-checksum``,
    with ``hint``) when it is not what was stored there.
    """
    if copy.destination == LOCAL:
        return Layout(spec.paths.backups).artifact(copy.key)
    manifest = backup.manifest.at(copy.key) if backup.manifest is not None else None
    destination = next(item for item in spec.job.destinations if item.name == copy.destination)
    artifact = staging / copy.key
    digest = hashlib.sha256()
    with recorder.stage(Stage.FETCH, total=copy.size):
        with open_store(destination) as store, artifact.open("xb") as stream:
            for chunk in store.get(copy.key):
                digest.update(chunk)
                stream.write(chunk)
                recorder.progress(len(chunk))
        size = artifact.stat().st_size
        if manifest is None:
            recorder.detail(f"{human_size(size)} from {copy.destination}; there is no checksum to compare it with")
            return artifact
        if size != manifest.artifact.size or digest.hexdigest() != manifest.artifact.sha256:
            raise VerifyError(
                f"the copy of {copy.key} at {copy.destination} is not what was stored there "
                f"({size} bytes, its manifest says {manifest.artifact.size}; the checksum differs)",
                hint=hint(),
                code="verify-checksum",
            )
        recorder.detail(f"{human_size(size)} from {copy.destination}, checksum as in the manifest")
    return artifact


def placing(
    root: str,
    names: Mapping[str, str],
    *,
    collection: str = "",
    replay: bool,
    lines: Mapping[str, CollectionStat] | None = None,
) -> Callable[[str], str | None]:
    """Return the function that says where in the unpacked folder a file of the archive goes, None: not wanted.

    ``root`` is the folder in the archive that holds the databases, ``names`` what they are to be called; ``collection``
    is the only one wanted, empty: all. ``lines`` are the files of Extended JSON (`snapshot.json_files`).
    """
    parts = len(PurePosixPath(root).parts)

    def place(path: str) -> str | None:
        inside = PurePosixPath(path).parts
        if "/".join(inside[:parts]) != root and parts:
            return None
        rest = inside[parts:]
        if rest == (OPLOG,):
            return OPLOG if replay else None
        if len(rest) != 2 or unquote(rest[0]) not in names:
            return None
        exported = (lines or {}).get("/".join(rest))
        found = exported.name if exported is not None else collection_of(rest[1])
        if found is None or collection not in ("", found):
            return None
        file = rest[1] if exported is None else f"{rest[1].removesuffix('.json')}.bson"
        return f"{quote(names[unquote(rest[0])], safe='')}/{file}"

    return place


def wait_for(
    running: base.Restoring,
    recorder: Recorder,
    watch: Callable[[], None] | None = None,
    *,
    pieces: Generator[bytes] | None = None,
) -> int:
    """Give the ``pieces`` to a tool that takes an archive, wait for its end, and return how many documents it restored.

    It is gone in any case. ``watch`` is called now and then and may raise. Raises as `Restoring.judge`, CancelledError.
    """
    try:
        if pieces is not None:
            assert isinstance(running, base.Writing), "only such a tool takes pieces"
            with contextlib.closing(pieces):
                for piece in pieces:
                    running.write(piece)
                    recorder.progress(len(piece), running.documents)
                    if watch is not None:
                        watch()
            running.write(b"")
        while not running.wait(_REST):
            recorder.progress(0, running.documents)
            if watch is not None:
                watch()
        return running.judge()
    except BackupdError as error:
        if not isinstance(error, CancelledError) and running.tail:
            recorder.reporter.message("warning", f"the tool said: {running.tail}")
        raise
    finally:
        running.kill()


def finish_restoring(running: Restoring, recorder: Recorder, watch: Callable[[], None] | None = None) -> int:
    """Wait for mongorestore and return how many documents it restored; it is gone in any case.

    ``watch`` is called now and then and may raise. Raises as `Restoring.judge` does, CancelledError.
    """
    try:
        while not running.wait(_REST):
            recorder.progress(0, running.documents)
            if watch is not None:
                watch()
        return running.judge()
    except BackupdError as error:
        if not isinstance(error, CancelledError):
            recorder.reporter.message("warning", f"mongorestore said: {running.tail}")
        raise
    finally:
        running.kill()
