"""Artifacts that are encrypted for the destinations only: made beside the plain one here, kept until they have arrived.

Such a file waits in the outbox while a copy of its backup is queued. It is made once, so that all destinations have the
same; the plain artifact, from which it is made, stays in the backups folder. Uploads nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BusyError, CancelledError, NotFoundError
from nanumpay_backupd.model import LOCAL, Artifact, Backup, CopyState, Manifest
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout, is_slice, job_of, parse_artifact
from nanumpay_backupd.pipeline.members import chunks_of
from nanumpay_backupd.pipeline.publish import rewrite_manifest
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.verify import opened, prove_same, prove_sealed
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.files import publish
from nanumpay_backupd.system.locks import FileLock

__all__ = ["Encrypting", "can_be_sent", "discard", "fill", "note", "note_form", "part_of", "proven", "sweep_outbox"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED, CopyState.CORRUPT)
_PART: Final = ".part"
_CHUNK: Final = 1 << 20


class Encrypting:
    """The encryption of an artifact for the destinations, in a thread beside what is done with the plain one.

    It follows an archive while that is put together (`follow`, `grown`, `whole`), or takes it as it lies in its folder
    (`start`). Its faults come out in `result` only: they are not those of the plain one. `close` always; what is not
    wanted then is not kept.
    """

    def __init__(self, layout: Layout, keys: Keyring, recorder: Recorder) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encrypt")
        self._layout = layout
        self._keys = keys
        self._recorder = recorder
        self._followed: _Growing | None = None
        self._future: Future[Artifact] | None = None
        self._stop = False
        self._taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        self._leave()
        self._pool.shutdown(wait=True)
        future = self._future
        if not self._taken and future is not None and future.exception() is None:
            self._layout.waiting(future.result().name).unlink(missing_ok=True)

    def follow(self, plain: Path) -> None:
        """Begin with a file that is just being written, with the artifact's name; one before that is left."""
        self._leave()
        self._followed = _Growing(plain)
        self._future = self._pool.submit(self._follow, self._followed)

    def grown(self, count: int) -> None:
        """Tell that the file has so many bytes more."""
        if self._followed is not None:
            self._followed.add(count)

    def whole(self, manifest: Manifest) -> None:
        """Tell that the file is whole, and is what ``manifest`` says."""
        if self._followed is not None:
            self._followed.end(manifest)

    def start(self, manifest: Manifest) -> None:
        """Begin with the plain artifact as it lies in its folder, unless it was followed."""
        if self._followed is None:
            self._future = self._pool.submit(
                _encrypt, manifest, self._layout, self._keys, self._recorder.clock, self._tick
            )

    def result(self) -> Artifact:
        """Wait for it; raises as `fill`."""
        assert self._future is not None, "it was begun"
        artifact = self._future.result()
        self._taken = True
        return artifact

    def _follow(self, growing: _Growing) -> Artifact:
        keys, part = self._keys, part_of(self._layout, growing.path.name)
        # What decrypts here is compared with what was made when it is read back.
        with growing:
            made = keys.seal(growing.chunks(), growing.artifact, part, self._tick, compare=not keys.provable)
        return proven(part, made, growing.manifest, self._layout, keys, self._recorder.clock, tick=self._tick)

    def _leave(self) -> None:
        """Let go of what is followed, unless it is whole."""
        if self._followed is not None:
            self._followed.end(None)

    def _tick(self, _count: int) -> None:
        self._recorder.alive()
        if self._stop:
            raise CancelledError("it is not wanted any more")


class _Growing:
    """A file that one thread writes and another one reads close behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("rb", buffering=0)
        self._news = threading.Condition()
        self._size = 0
        self._ended = False
        self._manifest: Manifest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, count: int) -> None:
        with self._news:
            self._size += count
            self._news.notify()

    def end(self, manifest: Manifest | None) -> None:
        """Without a manifest it never gets whole; only the first end counts."""
        with self._news:
            if not self._ended:
                self._ended, self._manifest = True, manifest
            self._news.notify()

    @property
    def manifest(self) -> Manifest:
        """Return what the whole file is; raises CancelledError when it did not get so far."""
        if self._manifest is None:
            raise CancelledError("it is not wanted any more")
        return self._manifest

    def artifact(self) -> Artifact:
        return self.manifest.artifact

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes as they come, to the end."""
        taken, ended = 0, False
        while not ended:
            with self._news:
                while self._size - taken < _CHUNK and not self._ended:
                    self._news.wait()
                there, ended = self._size, self._ended
            while taken < there and (data := self._stream.read(min(_CHUNK, there - taken))):
                taken += len(data)
                yield data


def fill(backup: Backup, layout: Layout, keys: Keyring, catalog: Catalog, recorder: Recorder) -> Backup:
    """Encrypt a backup for the destinations, unless that was done; returns its record as it is then.

    Raises NotFoundError (``artifact-missing``) where the plain artifact is gone, VerifyError where it is not any more
    what was proven, the faults of the tool (ToolError) and of the keys (ConfigError ``recipient-unusable``), OSError.
    """
    assert backup.manifest is not None
    stored = backup.manifest.elsewhere
    if stored is not None and layout.waiting(stored.name).exists():
        return backup
    if stored is not None and any(copy.state in _PRESENT and copy.destination != LOCAL for copy in backup.copies):
        raise NotFoundError(
            f"{stored.name}, which waited to be uploaded, is gone",
            hint="copies of it are elsewhere, and another encryption would not be the same file",
            code="artifact-missing",
        )
    artifact = _encrypt(backup.manifest, layout, keys, recorder.clock, lambda _: recorder.alive())
    return note(backup, artifact, layout, catalog)


def note(backup: Backup, artifact: Artifact, layout: Layout, catalog: Catalog) -> Backup:
    """Record in manifest and catalog how a backup is stored elsewhere."""
    assert backup.manifest is not None
    manifest = msgspec.structs.replace(backup.manifest, elsewhere=artifact)
    noted = msgspec.structs.replace(backup, manifest=manifest)
    if layout.manifest(backup.id).exists():
        rewrite_manifest(layout, manifest)
    catalog.save_backup(msgspec.structs.replace(noted, copies=()))
    return noted


def note_form(backup: Backup, artifact: Artifact, layout: Layout, catalog: Catalog) -> None:
    """Record in manifest and catalog that a place is to have a backup in a form of its own, unless it is known."""
    assert backup.manifest is not None
    manifest = backup.manifest
    if manifest.at(artifact.name).artifact.name == artifact.name:
        return
    noted = msgspec.structs.replace(manifest, forms=(*manifest.forms, artifact))
    if layout.manifest(backup.id).exists():
        rewrite_manifest(layout, noted)
    catalog.save_backup(msgspec.structs.replace(backup, manifest=noted, copies=()))


def can_be_sent(backup: Backup, layout: Layout, keys: Keyring, job: JobSpec) -> bool:
    """Tell whether the file that the destinations are to have is there, or can still be made."""
    stored = backup.manifest.elsewhere if backup.manifest is not None else None
    plain = layout.artifact(backup.artifact).exists()
    if stored is not None:
        unsent = not any(copy.state in _PRESENT and copy.destination != LOCAL for copy in backup.copies)
        return layout.waiting(stored.name).exists() or (plain and unsent and keys.seals_for(job))
    return plain


def discard(name: str, layout: Layout, catalog: Catalog) -> None:
    """Remove what waited for a backup of which no copy is queued any more."""
    backup = catalog.backup(name)
    manifest = backup.manifest if backup is not None else None
    if backup is None or manifest is None or _queued(backup):
        return
    # Any of its forms may have come here on its way from one destination to another.
    for form in (manifest.stored_elsewhere, *manifest.forms):
        layout.waiting(form.name).unlink(missing_ok=True)


def sweep_outbox(layout: Layout, catalog: Catalog, *, held: Path | None = None) -> None:
    """Remove what waits for nothing: of runs that died, of backups that were deleted. Living runs are left alone.

    ``held`` is the lock that the caller has.
    """
    if not layout.outbox.is_dir():
        return
    for path in layout.outbox.iterdir():
        parsed = parse_artifact(path.name.removeprefix(".").removesuffix(_PART))
        name = parsed[0] if parsed is not None else ""
        backup = catalog.backup(name) if name else None
        if backup is not None and _queued(backup) and not path.name.startswith("."):
            continue
        # Whoever makes it has the lock of its lane until its copies are queued.
        lane = layout.lock(job_of(name) or "unknown", "slice" if is_slice(name) else "backup")
        with (
            contextlib.suppress(BusyError, OSError),
            contextlib.nullcontext() if lane == held else FileLock(lane, name),
        ):
            path.unlink(missing_ok=True)


def _queued(backup: Backup) -> bool:
    return any(copy.state is CopyState.PENDING for copy in backup.copies)


def _encrypt(manifest: Manifest, layout: Layout, keys: Keyring, clock: Clock, tick: Callable[[int], None]) -> Artifact:
    """Encrypt the plain artifact into the outbox, read it back from the disk, and only then let it be seen."""
    part = part_of(layout, manifest.artifact.name)
    path = layout.artifact(manifest.artifact.name)
    with opened(path, manifest) as stream:
        made = keys.seal(chunks_of(path, stream), lambda: manifest.artifact, part, tick)
    return proven(part, made, manifest, layout, keys, clock, tick=tick)


def part_of(layout: Layout, name: str) -> Path:
    """Return where the encrypted form of an artifact grows; nothing is there."""
    layout.create_encrypted()
    part = layout.outbox / f".{name}{_PART}"
    part.unlink(missing_ok=True)
    return part


def proven(
    part: Path,
    made: Artifact,
    manifest: Manifest,
    layout: Layout,
    keys: Keyring,
    clock: Clock,
    *,
    tick: Callable[[int], None],
) -> Artifact:
    """Read what was made of an artifact back from the disk, and let it be seen; what is not good is removed."""
    try:
        what = msgspec.structs.replace(manifest, artifact=made, elsewhere=None)
        with opened(part, what) as stream:
            chunks = chunks_of(part, stream)
            if keys.provable:
                prove_same(chunks, what, keys, tick)
            else:
                prove_sealed(chunks, what, clock, keys)
        publish(part, layout.waiting(made.name), replace=True)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return made
