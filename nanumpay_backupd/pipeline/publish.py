"""The commit point, and what is done after a crash around it. Nothing else writes into the backups folder.

Order (each step durable before the next): artifact and intended manifest in staging → artifact renamed to its place →
manifest renamed to its place. The last rename is the commit: before it the backup does not exist.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import BackupdError, BusyError
from nanumpay_backupd.model import Manifest, from_json, to_json
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.files import (
    fsync_dir,
    make_private_dir,
    publish,
    read_json_bytes,
    remove_tree,
    rename,
    write_atomic,
)
from nanumpay_backupd.system.locks import FileLock

__all__ = ["clear_staging", "commit", "open_staging", "read_manifest", "rewrite_manifest", "sweep"]

_INTENT: Final = "manifest.json"
_LOCK: Final = "lock"
_DOOR: Final = ".staging.lock"


def open_staging(layout: Layout, run: str) -> tuple[Path, FileLock]:
    """Make a run's staging folder, locked for as long as the run's process lives."""
    folder = layout.run_staging(run)
    lock = FileLock(folder / _LOCK, f"run {run}")
    with _door(layout):
        make_private_dir(folder)
        lock.acquire()
    return folder, lock


def clear_staging(folder: Path) -> None:
    """Remove all that lies in a run's staging folder, which stays locked."""
    for entry in folder.iterdir():
        if entry.is_dir():
            remove_tree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


@contextlib.contextmanager
def _door(layout: Layout) -> Iterator[None]:
    """Let one process at a time make or sweep staging folders: a new one is never taken for a dead run's."""
    lock = FileLock(layout.locks / _DOOR, "the staging folder")
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def commit(layout: Layout, staging: Path, artifact: Path, manifest: Manifest) -> None:
    """Publish a staged artifact and its manifest; when this returns the backup exists and survives a power cut.

    Raises BackupdError (``publish-failed``) on any fault of the disk; the backup then does not exist.
    """
    final = layout.artifact(manifest.artifact.name)
    intent = staging / _INTENT
    try:
        # Published artifacts are for the application (same user) and the operators' group, not for everybody.
        artifact.chmod(0o640)
        write_atomic(intent, to_json(manifest))
        publish(artifact, final)
        _settle(layout, intent, manifest)
    except OSError as error:
        _withdraw(artifact, intent, final, layout.manifest(manifest.backup))
        raise BackupdError(
            f"{final} could not be made durable: {os.strerror(error.errno or 0)}",
            hint="check the disk (journalctl -k); nothing was published, older backups are untouched",
            code="publish-failed",
            retryable=True,
        ) from None


def _withdraw(artifact: Path, intent: Path, final: Path, manifest: Path) -> None:
    """Take back what a failed commit has put in place; what stood there before it is not touched.

    The intended manifest goes first, so that no sweep completes what is being taken back.
    """
    renamed = not artifact.exists()
    for path in (intent, manifest, final) if renamed else (intent,):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _settle(layout: Layout, intent: Path, manifest: Manifest) -> None:
    rename(intent, layout.manifest(manifest.backup))


def rewrite_manifest(layout: Layout, manifest: Manifest) -> None:
    """Replace a committed manifest as a whole, to add what verification found."""
    write_atomic(layout.manifest(manifest.backup), to_json(manifest))


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None when it is not there or not one (a damaged one proves nothing)."""
    try:
        data = read_json_bytes(path)
        return from_json(Manifest, data) if data is not None else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def sweep(layout: Layout) -> list[str]:
    """Clean up after runs whose process died: returns the ids of those runs.

    Staged files go. A run that died between the two renames of `commit` had its artifact whole and in place, so its
    commit is completed; before the first rename there is nothing to complete.
    """
    if not layout.staging.is_dir():
        return []
    with _door(layout):
        return [folder.name for folder in sorted(layout.staging.iterdir()) if _sweep_one(layout, folder)]


def _sweep_one(layout: Layout, folder: Path) -> bool:
    """Clean up one entry of the staging folder; returns whether it was a dead run's."""
    if not folder.is_dir():
        remove_tree(folder)
        return False
    lock = FileLock(folder / _LOCK, f"run {folder.name}")
    try:
        lock.acquire()
    except BusyError:
        return False
    try:
        _complete(layout, folder)
        remove_tree(folder)
    finally:
        lock.release()
    return True


def _complete(layout: Layout, folder: Path) -> None:
    manifest = read_manifest(folder / _INTENT)
    if manifest is None:
        return
    artifact = layout.artifact(manifest.artifact.name)
    with contextlib.suppress(FileNotFoundError):
        if artifact.stat().st_size == manifest.artifact.size and not layout.manifest(manifest.backup).exists():
            fsync_dir(artifact.parent)
            _settle(layout, folder / _INTENT, manifest)
