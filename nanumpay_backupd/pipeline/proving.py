"""Proves what a run made, and keeps the proof in manifest and catalog. How an artifact is read is next door (`verify`).

What cannot be decrypted here is proven before it is encrypted; what is encrypted for the destinations only is encrypted
beside its proof.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, VerifyError
from nanumpay_backupd.model import (
    LOCAL,
    SLICES,
    Backup,
    Copy,
    CopyState,
    Manifest,
    Outcome,
    Stage,
    Verification,
    error_info,
)
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.members import chunks_of
from nanumpay_backupd.pipeline.outbox import Encrypting, note
from nanumpay_backupd.pipeline.produce import encrypted_in_words
from nanumpay_backupd.pipeline.publish import rewrite_manifest
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.verify import Proof, opened, prove, prove_sealed, prove_stream
from nanumpay_backupd.settings.schema import JobSpec
from nanumpay_backupd.sources.base import Source
from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.wording import words_for

__all__ = ["encrypt_staged", "keep_proof", "prove_and_encrypt", "prove_local", "with_digests", "with_proof"]


def prove_local(
    source: Source,
    layout: Layout,
    manifest: Manifest,
    catalog: Catalog,
    recorder: Recorder,
    keys: Keyring | None = None,
) -> Backup:
    """Read the committed artifact back: only now it is ``verified``. A mismatch marks it ``corrupt``, ends the run.

    One that cannot be decrypted here was proven before it was encrypted; then the file is held against that. Raises
    DecryptError where it was not.
    """
    with recorder.stage(Stage.VERIFY, total=manifest.artifact.raw_bytes):
        try:
            proof = _proof(source, layout, manifest, recorder, keys or Keyring())
        except VerifyError as error:
            failed = Verification(
                level="structure", at=recorder.clock.now(), ok=False, seconds=0.0, detail=error.message
            )
            keep_proof(layout, manifest, failed, catalog, recorder, error)
            raise
        found = proof.verification
        kind = manifest.source.type
        oplog = manifest.kind in SLICES and kind == "mongodb"
        what = f"{found.documents:,} oplog entries" if oplog else words_for(kind).count_items(found.documents)
        # Not every file has its content counted while it is read back.
        what = f"{what}, " if found.documents else ""
        recorder.detail(
            found.detail
            or f"{what}{human_size(found.bytes)} read back at {human_size(found.bytes / max(found.seconds, 0.001))}/s"
        )
        return keep_proof(layout, with_digests(manifest, proof), found, catalog, recorder)


def _proof(source: Source, layout: Layout, manifest: Manifest, recorder: Recorder, keys: Keyring) -> Proof:
    path = layout.artifact(manifest.artifact.name)
    before = any(item.ok and item.level == "structure" for item in manifest.verification)
    if before and not keys.opens(manifest.artifact):
        with opened(path, manifest) as stream:
            found = prove_sealed(_living(chunks_of(path, stream), recorder), manifest, recorder.clock, keys)
        return Proof(found, manifest.source.collections, manifest.source.parts)
    return prove(path, manifest, source.check, recorder.clock, recorder.progress, keys=keys)


def _living(chunks: Iterator[bytes], recorder: Recorder) -> Iterator[bytes]:
    """Hand chunks on, and note that they come."""
    for chunk in chunks:
        recorder.alive()
        yield chunk


def encrypt_staged(
    source: Source, plain: Path, manifest: Manifest, recorder: Recorder, keys: Keyring
) -> tuple[Path, Manifest]:
    """Encrypt a staged artifact; one that could not be proven any more afterwards is proven meanwhile.

    Returns the encrypted one and its manifest, which carries that proof; the plain one is gone.
    """
    target = plain.with_name(f"{manifest.artifact.name}{keys.suffix}")
    if not keys.provable:
        return target, _prove_and_seal(source, plain, target, manifest, recorder, keys)
    with recorder.stage(Stage.ENCRYPT, total=manifest.artifact.size):
        with opened(plain, manifest) as stream:
            made = keys.seal(chunks_of(plain, stream), lambda: manifest.artifact, target, recorder.progress)
        plain.unlink()
        recorder.detail(encrypted_in_words(made))
    return target, msgspec.structs.replace(manifest, artifact=made)


def _prove_and_seal(
    source: Source, plain: Path, target: Path, manifest: Manifest, recorder: Recorder, keys: Keyring
) -> Manifest:
    """Prove a staged artifact and encrypt the same bytes on their way: one reading, and the tool has its own processor.

    What was encrypted is kept only where the whole reading was good, so it is what was proven.
    """
    with contextlib.ExitStack() as stack:
        with recorder.stage(Stage.VERIFY, total=manifest.artifact.raw_bytes):
            writer = stack.enter_context(keys.writer(target))
            with opened(plain, manifest) as stream:
                chunks = _through(chunks_of(plain, stream), writer.write)
                proof = prove_stream(chunks, manifest, source.check, recorder.clock, recorder.progress)
            found = msgspec.structs.replace(
                proof.verification, detail="before it was encrypted: no key here decrypts it"
            )
            manifest = with_proof(with_digests(manifest, proof), found)
            recorder.detail("read back while it is encrypted: no key here decrypts it")
        with recorder.stage(Stage.ENCRYPT):
            made = writer.finish(manifest.artifact)
            plain.unlink()
            recorder.detail(encrypted_in_words(made))
    return msgspec.structs.replace(manifest, artifact=made)


def _through(chunks: Iterator[bytes], write: Callable[[bytes], None]) -> Iterator[bytes]:
    """Hand chunks on, each written before."""
    for chunk in chunks:
        write(chunk)
        yield chunk


def prove_and_encrypt(
    job: JobSpec,
    source: Source,
    layout: Layout,
    manifest: Manifest,
    catalog: Catalog,
    recorder: Recorder,
    *,
    keys: Keyring,
    beside: Encrypting | None = None,
) -> Backup:
    """Prove a committed artifact, as `prove_local`, and beside that encrypt it where only the destinations need that.

    ``beside`` may have begun with that, and is left open. An encryption that fails is a warning here: the upload tries
    it again, and says so where it fails once more.
    """
    if not keys.seals_for(job) or manifest.artifact.encryption != "none":
        return prove_local(source, layout, manifest, catalog, recorder, keys)
    with contextlib.ExitStack() as stack:
        encrypting = beside or stack.enter_context(Encrypting(layout, keys, recorder))
        encrypting.start(manifest)
        backup = prove_local(source, layout, manifest, catalog, recorder, keys)
        with recorder.stage(Stage.ENCRYPT):
            try:
                artifact = encrypting.result()
            except (BackupdError, OSError) as error:
                recorder.check()
                recorder.detail(str(error), Outcome.DEGRADED)
                return backup
            recorder.detail(f"{encrypted_in_words(artifact)}, for the copies elsewhere")
            return note(backup, artifact, layout, catalog)


def with_digests(manifest: Manifest, proof: Proof) -> Manifest:
    """Return the manifest with what the reading has learned of the collections."""
    return msgspec.structs.replace(
        manifest,
        source=msgspec.structs.replace(manifest.source, collections=proof.collections, parts=proof.parts),
    )


def with_proof(manifest: Manifest, found: Verification) -> Manifest:
    """Add a proof to a manifest; of the earlier ones stay the first, and the newest of each other level."""
    first, others = manifest.verification[:1], manifest.verification[1:]
    kept = (*first, *(item for item in others if item.level != found.level), found)
    return msgspec.structs.replace(manifest, verification=kept)


def keep_proof(
    layout: Layout,
    manifest: Manifest,
    found: Verification,
    catalog: Catalog,
    recorder: Recorder,
    error: BackupdError | None = None,
) -> Backup:
    """Write into manifest and catalog what a reading of the local artifact found; returns the backup as it is now.

    ``error`` is the fault of one that was not ok.
    """
    proven = with_proof(manifest, found)
    rewrite_manifest(layout, proven)
    copy = Copy(
        backup=manifest.backup,
        destination=LOCAL,
        state=CopyState.VERIFIED if found.ok else CopyState.CORRUPT,
        key=manifest.artifact.name,
        size=manifest.artifact.size,
        updated=recorder.clock.now(),
        error=error_info(error) if error is not None else None,
    )
    backup = backup_from_manifest(proven, copy)
    catalog.save_backup(backup)
    return backup
