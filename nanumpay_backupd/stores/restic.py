"""A Store in a restic repository: one snapshot for each object. Running restic is the matter of `restic_link`.

A snapshot that holds exactly one file, directly in the destination's folder, is an object; of several with the same
path the newest. Its size stands in a tag, as restic's list of snapshots tells none.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Final

import msgspec

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.destinations import ResticDestination
from nanumpay_backupd.stores.base import (
    CHUNK,
    Finding,
    ObjectInfo,
    Progress,
    Properties,
    PutResult,
    Store,
    check_key,
    is_hidden,
    store_error,
    unreadable_source,
)
from nanumpay_backupd.stores.restic_link import BUSY, DAMAGED, GONE, Restic, Running
from nanumpay_backupd.system import files
from nanumpay_backupd.system.clock import Clock, SystemClock
from nanumpay_backupd.system.poured_file import PouredFile
from nanumpay_backupd.system.units import human_size

__all__ = ["ResticStore"]

_TAG: Final = "nanumpay-backupd"
_SIZE: Final = "size="
_FRESH: Final = 20.0
"""Seconds for which a list is believed by `get` and `delete`: each takes restic half a second or more."""
_TRIAL: Final = re.compile(r"doctor-[0-9a-f]+\.probe")
"""What `probe` puts."""
_CONFIRMED: Final = ("s3:", "gs:", "azure:", "b2:", "swift:")
"""Kinds of repository whose servers promise by answering that nothing is lost."""
_REPOSITORY: Final = "destination-not-found"


class _Snapshot(msgspec.Struct, frozen=True):
    """One snapshot, as restic lists it."""

    id: str
    time: datetime
    paths: tuple[str, ...]
    tags: tuple[str, ...] | None = None

    @property
    def size(self) -> int | None:
        """Return the bytes of its one file, where we noted them."""
        sizes = [tag.removeprefix(_SIZE) for tag in self.tags or () if tag.startswith(_SIZE)]
        return int(sizes[0]) if _TAG in (self.tags or ()) and sizes and sizes[0].isdecimal() else None


_Found = dict[str, list[_Snapshot]]
"""The snapshots of each object, oldest first."""


class ResticStore(Store):
    """A folder in the snapshots of a repository."""

    rights = MappingProxyType(
        {
            "put": "to write (for restic: data, index, locks, snapshots)",
            "list": "to list and read",
            "get": "to list and read",
            "delete": "to delete below locks and snapshots (for pruning: data, index)",
        }
    )

    def __init__(self, destination: ResticDestination, clock: Clock | None = None) -> None:
        self.name = destination.name
        self.properties = Properties(ranged_get=False, checks_itself=True, tells_room=bool(destination.folder))
        self._settings = destination
        self._clock = clock or SystemClock()
        self._restic = Restic(destination, self._clock)
        self._root = str(PurePosixPath(destination.path))
        self._known: _Found = {}
        self._asked = float("-inf")

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Back a file up as a snapshot of its own; see `Store.put`."""
        check_key(key)
        try:
            stream = path.open("rb")
            size = path.size if isinstance(path, PouredFile) else os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise unreadable_source(path, error) from error
        with stream:
            return self._store(key, path, stream, size, progress or (lambda _: None))

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Back up a few bytes; see `Store.put_bytes`."""
        return self._store(check_key(key), Path(key), io.BytesIO(data), len(data), lambda _: None)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Dump the file of a snapshot; see `Store.get`. What lies before ``offset`` is read and passed over."""
        check_key(key)
        fresh = self._fresh(key)
        try:
            yield from self._dump(key, fresh or self._look().get(key), offset, length)
        except StoreError as error:
            # What was known may have been replaced by another process, and forgotten since.
            if error.code != GONE or not fresh:
                raise
            yield from self._dump(key, self._look().get(key), offset, length)

    def _dump(self, key: str, found: Sequence[_Snapshot] | None, offset: int, length: int | None) -> Iterator[bytes]:
        if not found:
            raise store_error(GONE, f"destination {self.name!r}: there is no {key} in {self._where}")
        # Without a lock: a copy can be read with a login that may not write, and while somebody prunes.
        with self._restic.start(["dump", "--no-lock", found[-1].id, self._path(key)], f"reading {key}") as running:
            for chunk in _part(iter(running.read, b""), offset, length):
                yield chunk
                if length is not None:
                    length -= len(chunk)
                    if length == 0:
                        return
            running.finish()

    def stat(self, key: str) -> ObjectInfo | None:
        """Look for the newest snapshot of an object; see `Store.stat`."""
        found = self._look().get(check_key(key))
        return ObjectInfo(key=key, size=self._size(key, found[-1])) if found else None

    def list(self) -> Iterator[ObjectInfo]:
        """Yield the objects by name; see `Store.list`."""
        for key, found in sorted(self._look().items()):
            yield ObjectInfo(key=key, size=self._size(key, found[-1]))

    def delete(self, key: str) -> None:
        """Forget all snapshots of an object; what only they had goes with the next `sweep`. See `Store.delete`."""
        check_key(key)
        found = self._fresh(key) or self._look().get(key)
        if found:
            self._forget([one.id for one in found], f"deleting {key}")
            self._known.pop(key, None)

    def room(self) -> int | None:
        """Return what the filesystem of a local repository has free; see `Store.room`."""
        folder = Path(self._settings.folder or "/")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return files.free_bytes(folder) if self._settings.folder else None

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:  # noqa: ARG002 - none shows
        """Forget what was replaced, and free what no snapshot has; see `Store.sweep`.

        What a backup that was broken off brought is among it; `restic` itself leaves alone what somebody writes now.
        Where others work in the repository it is left for another day.
        """
        try:
            listed = self._look()
            replaced = [one.id for found in listed.values() for one in found[:-1]]
            # Of a trial that could not take away what it had put, as others worked there.
            replaced += [
                found[-1].id for key, found in listed.items() if _TRIAL.fullmatch(key) and found[-1].time < before
            ]
            if replaced:
                self._forget(replaced, "removing what was replaced")
            self._restic.run(
                ["prune", "--quiet", f"--max-repack-size={max(self._settings.repack, 1)}"], "freeing what nobody needs"
            )
        except StoreError as error:
            if error.code not in (BUSY, _REPOSITORY):
                raise
        return ()

    def check(self, tick: Callable[[], None]) -> None:
        """Let restic look whether all is there that snapshots need, and read a part of it; see `Store.check`."""
        args = ["check"]
        if percent := self._settings.check_percent:
            args.append(f"--read-data-subset={percent}%")
        try:
            self._restic.run(args, "checking", tick)
        except StoreError as error:
            if error.code in (DAMAGED, "destination-failed"):
                raise store_error(
                    DAMAGED,
                    error.message,
                    "the copies there are read one by one now; then see: restic help rebuild-index, restic help repair",
                ) from error
            raise

    def survey(self, key: str) -> tuple[Finding, ...]:  # noqa: ARG002
        """Tell version and size; see `Store.survey`."""
        version = self._restic.run(["version"], "asking for the version").decode("utf-8", "replace").strip()
        stats = json.loads(self._restic.run(["stats", "--no-lock", "--mode=raw-data", "--json"], "measuring"))
        held = sum(self._size(name, found[-1]) for name, found in self._look().items())
        return (
            Finding("restic", "ok", version),
            Finding(
                "deduplication",
                "ok",
                f"{human_size(held)} of backups take {human_size(int(stats['total_size']))} in the repository",
            ),
        )

    def close(self) -> None:
        """Forget what is known; nothing is held open."""
        self._known, self._asked = {}, float("-inf")

    # Writing

    def _store(self, key: str, path: Path, stream: IO[bytes], size: int, moved: Progress) -> PutResult:
        doing = f"storing {key} ({size} bytes)"
        if not size:
            raise store_error(
                "destination-failed",
                f"destination {self.name!r}: {key} is empty, and restic takes nothing empty from a pipe",
                "a backup is never empty: look at what made that file",
                retryable=False,
            )
        args = ["backup", "--json", "--stdin", f"--stdin-filename={self._path(key)}"]
        args += [f"--host={_TAG}", f"--tag={_TAG},{_SIZE}{size}"]
        begun = self._clock.now()
        reported = _Once(moved)

        def attempt() -> dict[str, object]:
            with self._restic.start(args, doing, lambda: moved(0), fed=True) as running:
                self._give(running, key, path, stream, size, reported.attempt())
                return _summary(running.finish())

        while True:
            try:
                summary = attempt()
            except StoreError as error:
                if not self._mended(error):
                    raise
                stream.seek(0)
            else:
                break
        arrived = summary.get("total_bytes_processed")
        if arrived != size:
            raise store_error(
                "destination-mismatch",
                f"destination {self.name!r}: restic took {arrived} of {size} bytes of {key} ({self._where})",
                "it is tried again",
            )
        made = _Snapshot(str(summary["snapshot_id"]), begun, (self._path(key),), (_TAG, f"{_SIZE}{size}"))
        self._known.setdefault(key, []).append(made)
        durable = bool(self._settings.folder) or self._settings.repository.startswith(_CONFIRMED)
        return PutResult(size=size, proven=False, durable=durable)

    def _give(self, running: Running, key: str, path: Path, stream: IO[bytes], size: int, moved: Progress) -> None:
        """Give restic all of a file; it makes a snapshot only when it was told that this is the end."""
        given = 0
        while True:
            try:
                chunk = stream.read(CHUNK)
            except OSError as error:
                raise unreadable_source(path, error) from error
            if not chunk:
                break
            running.write(chunk)
            given += len(chunk)
            moved(len(chunk))
        if given != size:
            raise store_error(
                "destination-mismatch",
                f"destination {self.name!r}: {given} of {size} bytes of {key} were read from the file",
                "was the file changed meanwhile? check the disk and its log (dmesg)",
            )
        running.end_input()

    def _mended(self, error: StoreError) -> bool:
        """Make the repository where it is not there and may be made, or take away a lock that was left."""
        if error.code == _REPOSITORY and self._settings.init:
            self._restic.run(["init"], "making the repository")
            return True
        return error.code == BUSY and self._restic.unlock(error)

    def _forget(self, ids: Sequence[str], doing: str) -> None:
        for at in range(0, len(ids), 500):
            self._restic.run(["forget", "--quiet", *ids[at : at + 500]], doing)

    # Looking

    def _look(self) -> _Found:
        """Ask restic for all snapshots; returns those of each object, oldest first."""
        try:
            listed = self._restic.run(["snapshots", "--json", "--no-lock"], "listing")
        except StoreError as error:
            if error.code != _REPOSITORY or not self._settings.init:
                raise
            listed = b"[]"
        found: _Found = {}
        for one in sorted(_snapshots(listed), key=lambda one: one.time):
            path = PurePosixPath(one.paths[0]) if len(one.paths) == 1 else None
            if path is not None and str(path.parent) == self._root and not is_hidden(path.name):
                found.setdefault(path.name, []).append(one)
        self._known, self._asked = found, self._clock.monotonic()
        return found

    def _fresh(self, key: str) -> Sequence[_Snapshot] | None:
        """Return what was known of an object a moment ago."""
        return self._known.get(key) if self._clock.monotonic() - self._asked < _FRESH else None

    def _size(self, key: str, one: _Snapshot) -> int:
        """Return an object's bytes; of one that others made, by its tree."""
        if one.size is not None:
            return one.size
        listed = self._restic.run(["ls", "--json", "--no-lock", one.id], f"looking at {key}")
        nodes = [json.loads(line) for line in listed.splitlines()]
        return next((int(node.get("size", 0)) for node in nodes if node.get("path") == self._path(key)), 0)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    @property
    def _where(self) -> str:
        return f"folder {self._root} of {self._settings.repository}"


def _snapshots(listed: bytes) -> list[_Snapshot]:
    """Read restic's list; an empty repository has ``null``."""
    return msgspec.json.decode(listed or b"[]", type=list[_Snapshot] | None) or []


def _summary(output: bytes) -> dict[str, object]:
    """Return the last message of a backup."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if message.get("message_type") == "summary":
                return dict(message)
    raise store_error("destination-failed", "restic ended without saying what it stored", "update restic")


def _part(chunks: Iterator[bytes], offset: int, length: int | None) -> Iterator[bytes]:
    """Yield what lies between, in pieces that are not empty."""
    for chunk in chunks:
        piece = chunk[offset:]
        offset = max(0, offset - len(chunk))
        if length is not None:
            piece = piece[:length]
        if piece:
            if length is not None:
                length -= len(piece)
            yield piece


class _Once:
    """Reports no byte twice, where a beginning is given again."""

    def __init__(self, moved: Progress) -> None:
        self._moved = moved
        self._most = 0

    def attempt(self) -> Progress:
        """Return the progress of one more attempt."""
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            new = max(0, done - self._most)
            self._most += new
            self._moved(new)

        return moved
