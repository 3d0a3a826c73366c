"""What places get that compress and encrypt by themselves: the plain archive, made of the artifact while it is sent.

It never lies on the disk. Its size and checksum are a form of the backup in its manifest. What cannot be opened here
goes as it is. Sends nothing itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError, VerifyError
from nanumpay_backupd.model import LOCAL, Artifact, Backup, Manifest, to_json
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout, plain_name
from nanumpay_backupd.pipeline.members import UNREADABLE, chunks_of, inflater
from nanumpay_backupd.pipeline.outbox import note_form
from nanumpay_backupd.pipeline.parcels import OpenStore, Parcel, relayed
from nanumpay_backupd.pipeline.relay import relays
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.verify import opened
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.system.poured_file import PouredFile

__all__ = ["make_plain", "plain_here", "stored_plain"]

_GZIP: Final = "gzip"
"""The only compression that is undone: slices of MongoDB (zstd) hold nothing that is in another one."""
_PLAIN: Final = "none"


def stored_plain(manifest: Manifest, keys: Keyring) -> tuple[str, int]:
    """Return name and size of a backup as such places get it; before it was made the size is that of the data."""
    artifact = manifest.artifact
    if not _opens(artifact, keys):
        return artifact.name, artifact.size
    name = _name(artifact)
    form = manifest.at(name).artifact
    return name, form.size if form.name == name else artifact.raw_bytes


def plain_here(backup: Backup, layout: Layout, job: JobSpec) -> bool:
    """Tell whether it can be made of the file here, or of one that lies elsewhere."""
    return layout.artifact(backup.artifact).exists() or bool(relays(backup, job))


def make_plain(
    backup: Backup,
    job: JobSpec,
    catalog: Catalog,
    layout: Layout,
    recorder: Recorder,
    *,
    keys: Keyring,
    open_store: OpenStore,
    source: str = "",
) -> Parcel:
    """Make ready what such a place gets, out of the copy at ``source`` (empty: the nearest).

    Raises NotFoundError (``artifact-missing``), VerifyError where what is there is not any more what was proven, and as
    `parcels.relayed`.
    """
    assert backup.manifest is not None
    artifact = backup.manifest.artifact
    path = layout.artifact(artifact.name)
    beside: bytes | Future[bytes] | None = None
    if source not in ("", LOCAL) or not path.exists():
        copies = [one for one in relays(backup, job) if source in ("", one.destination)]
        readable = [one for one in copies if _opens(backup.manifest.at(one.key).artifact, keys)]
        if not copies:
            raise NotFoundError(
                f"there is no file of {backup.id} that could be copied",
                hint=f"where its copies are: backupctl copies {backup.id}",
                code="artifact-missing",
            )
        brought = relayed(backup, readable or copies, job, layout, recorder, keys=keys, open_store=open_store)
        path, artifact, beside = brought.path, brought.artifact, brought.beside
    if not _opens(artifact, keys):
        recorder.warn(
            f"{artifact.name} is stored as it is, as no key here opens it: it has nothing in common with others"
        )
        return Parcel(path, artifact, beside or keys.describing(backup.manifest))
    return _poured(backup, path, artifact, job, lambda form: note_form(backup, form, layout, catalog), recorder.alive)


def _poured(
    backup: Backup,
    path: Path,
    artifact: Artifact,
    job: JobSpec,
    note: Callable[[Artifact], None],
    tick: Callable[[], None],
) -> Parcel:
    """Return what pours out of a file that can be opened; ``note`` is told of a form that was not known."""
    manifest = backup.manifest
    assert manifest is not None
    name = _name(artifact)
    if name == artifact.name:
        return Parcel(path, artifact, to_json(manifest))
    whole = msgspec.structs.replace(manifest, artifact=artifact, elsewhere=None, forms=())
    form = manifest.at(name).artifact
    if form.name != name:
        form = _measured(path, whole, name, job, tick)
        note(form)
        manifest = msgspec.structs.replace(manifest, forms=(*manifest.forms, form))
    poured = PouredFile.of(path, form.size, lambda: _compared(path, whole, form, job))
    return Parcel(poured, form, to_json(manifest))


def _measured(path: Path, whole: Manifest, name: str, job: JobSpec, tick: Callable[[], None]) -> Artifact:
    """Read a file once to say what will pour out of it; it has to be what was proven."""
    digest, raw, size = hashlib.sha256(), hashlib.sha256(), 0
    for piece in _pieces(path, whole, job, raw.update):
        digest.update(piece)
        size += len(piece)
        tick()
    if raw.hexdigest() != whole.artifact.sha256:
        raise _changed(path.name)
    return msgspec.structs.replace(
        whole.artifact,
        name=name,
        size=size,
        sha256=digest.hexdigest(),
        compression=_PLAIN if whole.artifact.compression == _GZIP else whole.artifact.compression,
        level=0,
        encryption=_PLAIN,
        seal=None,
    )


def _compared(path: Path, whole: Manifest, form: Artifact, job: JobSpec) -> Iterator[bytes]:
    """Yield what pours out of a file; raises VerifyError before the end where it is not ``form``."""
    digest, size, last = hashlib.sha256(), 0, b""
    for piece in _pieces(path, whole, job, lambda _: None):
        digest.update(piece)
        size += len(piece)
        if last:
            yield last
        last = piece
    if (size, digest.hexdigest()) != (form.size, form.sha256):
        raise _changed(path.name)
    yield last


def _pieces(path: Path, whole: Manifest, job: JobSpec, taken: Callable[[bytes], None]) -> Iterator[bytes]:
    """Open a file and undo its compression; ``taken`` gets its bytes as they are."""
    artifact = whole.artifact

    def chunks() -> Iterator[bytes]:
        for chunk in chunks_of(path, stream):
            taken(chunk)
            yield chunk

    # A keyring of its own: several places may read at once, each in a thread.
    with Keyring(job.encryption) as keys, opened(path, whole) as stream:
        inflate = inflater(_GZIP, artifact.name) if artifact.compression == _GZIP else None
        with contextlib.closing(_iterator(keys.opened(artifact, chunks()))) as plain:
            try:
                yield from inflate(plain) if inflate is not None else plain
            except UNREADABLE as error:
                raise _changed(path.name) from error


def _iterator(chunks: Iterator[bytes]) -> Generator[bytes]:  # a generator, which can be closed
    yield from chunks


def _changed(name: str) -> VerifyError:
    return VerifyError(
        f"{name} is not what was proven when it was made",
        hint="the disk may be failing (journalctl -k); make a new one: backupctl run",
        code="verify-checksum",
    )


def _opens(artifact: Artifact, keys: Keyring) -> bool:
    return artifact.encryption == _PLAIN or keys.opens(artifact)


def _name(artifact: Artifact) -> str:
    """Return the name of what pours out of an artifact."""
    name = plain_name(artifact.name)
    return name.removesuffix(".gz") if artifact.compression == _GZIP else name
