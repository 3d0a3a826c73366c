"""Where `restore --from` works: a private folder that goes again, and the place as a store reads it. Restores nothing.

What is left behind is a safety backup, where one was made: in a backups folder of its own, whose path is told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nanumpay_backupd.errors import BackupdError, ConfigError, SpaceError
from nanumpay_backupd.pipeline.layout import (
    GROUP_SUFFIX,
    MANIFEST_SUFFIX,
    SAFETY_SUFFIX,
    Layout,
    group_of,
    parse_artifact,
)
from nanumpay_backupd.pipeline.publish import read_manifest
from nanumpay_backupd.settings.schema import Destination, LocalDestination
from nanumpay_backupd.stores.base import store_error
from nanumpay_backupd.system.files import is_disk_full, remove_tree

__all__ = ["BACKUPS", "disk_fault", "readable", "workshop"]

BACKUPS = "backups"
"""The folder inside that holds the safety backup."""


def disk_fault(error: OSError, folder: Path) -> BackupdError:
    """Name a fault of the working folder's disk."""
    kind, hint = (SpaceError, "free space there") if is_disk_full(error) else (ConfigError, "look at its rights")
    return kind(
        f"the working folder {folder} cannot be used: {os.strerror(error.errno or 0)}",
        hint=f"{hint}, or name a folder with room: --work DIR",
    )


@contextlib.contextmanager
def workshop(wanted: str, now: datetime) -> Iterator[Path]:
    """Make a private folder to work in; it goes again, but for a safety backup that was put there."""
    root = Path(wanted or os.environ.get("TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - mkdtemp makes it private
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"nanumpay-restore-{now:%Y%m%d-%H%M%S}-", dir=root))
    except OSError as error:
        raise ConfigError(
            f"no working folder can be made in {root}: {os.strerror(error.errno or 0)}",
            hint="name one with room for the unpacked backup: --work DIR",
        ) from None
    try:
        yield folder
    finally:
        # A restore that is told to stop must still clean up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _tidy(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tidy(folder: Path) -> None:
    """Remove the working folder; where it holds a safety backup, all but a backups folder with that."""
    layout = Layout(folder / BACKUPS)
    if not any(layout.manifests.glob(f"*{SAFETY_SUFFIX}-backup-*.json")):
        remove_tree(folder)
        return
    for path in (*folder.iterdir(), layout.staging, layout.locks):
        if path != layout.backups:
            remove_tree(path)


@contextlib.contextmanager
def readable(place: Destination, folder: Path) -> Iterator[Destination]:
    """Return the place as a destination of copies; a backups folder is shown as one by links, nothing is copied."""
    layout = Layout(Path(place.path)) if isinstance(place, LocalDestination) else None
    if layout is None or not layout.manifests.is_dir():
        yield place
        return
    shown = folder / "place"
    shown.mkdir()
    artifacts: dict[str, Path] = {}
    for path in (*_files(layout.backups), *_files(layout.slices), *_files(layout.encrypted)):
        if (parsed := parse_artifact(path.name)) is not None:
            artifacts[parsed[0]] = path
    for path in artifacts.values():
        (shown / path.name).symlink_to(path)
    for path in _files(layout.manifests):
        name = artifacts[path.stem].name if path.stem in artifacts else _promised(path)
        if path.suffix == ".json" and name:
            (shown / f"{name}{MANIFEST_SUFFIX}").symlink_to(path)
    for path in _files(layout.groups):
        if group_of(path.stem) and path.suffix == GROUP_SUFFIX:
            (shown / path.name).symlink_to(path)
    yield LocalDestination(name=place.name, path=str(shown))


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder at the place; raises StoreError."""
    try:
        return [Path(entry.path) for entry in os.scandir(folder.absolute()) if entry.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(
            "destination-denied", f"{folder} cannot be read: {error.strerror}", f"look at: ls -ld {folder}"
        ) from None


def _promised(path: Path) -> str:
    """Return the name of the artifact that a manifest is of, although that is not there; empty: it cannot be told."""
    manifest = read_manifest(path)
    return manifest.artifact.name if manifest is not None and manifest.backup == path.stem else ""
