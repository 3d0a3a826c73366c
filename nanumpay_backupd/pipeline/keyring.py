"""The one door to what is encrypted: opens artifacts and manifests with the keys of a job, and encrypts what it makes.

Others see plain bytes, or are told that there is no key, that it is the wrong one, or that something is damaged.
What is not encrypted passes through untouched. Knows no method: those are in `transforms`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from nanumpay_backupd.errors import BackupdError, DecryptError, VerifyError
from nanumpay_backupd.model import Artifact, Manifest, Seal, SourceInfo, from_json, to_json
from nanumpay_backupd.pipeline.layout import sealed_by
from nanumpay_backupd.settings.merge import ALL, REMOTE
from nanumpay_backupd.settings.schema import JobEncryption, JobSpec
from nanumpay_backupd.transforms.encryption import PROBE, Encryption
from nanumpay_backupd.transforms.factory import open_method
from nanumpay_backupd.transforms.sealing import DamagedError, Framing, Sealed

__all__ = ["Keyring"]

_CHUNK: Final = 1 << 20
_SOON: Final = timedelta(days=30)
"""How long before its end a key is warned of."""
_PLAIN: Final = "none"


class Keyring:
    """The keys of one job. `close` ends the tools; only what is really encrypted starts any.

    Used by one thread at a time; private keys are brought to gpg in the thread that asks first, which must live on.
    """

    def __init__(self, options: JobEncryption | None = None) -> None:
        """Take the settings of a job; without them there are no keys, and nothing is encrypted."""
        self._options = options or JobEncryption()
        self._methods: dict[str, Encryption] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._check: Future[bytes] | None = None
        self._provable: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was started; may be called twice."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for method in self._methods.values():
            method.close()
        self._methods.clear()
        self._pool = self._check = self._provable = None

    # Reading

    def unlock(self, artifact: Artifact) -> None:
        """Make sure that there is a key for an artifact, by what its manifest has to try it on.

        Raises DecryptError: ``key-missing``, ``key-wrong``.
        """
        if artifact.encryption != _PLAIN and artifact.seal is not None:
            self._method(artifact.encryption).unlock(_check_of(artifact.seal), artifact.name)

    def opens(self, artifact: Artifact) -> bool:
        """Tell whether an artifact can be read here."""
        try:
            self.unlock(artifact)
        except DecryptError:
            return False
        return True

    def opened(self, artifact: Artifact, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Return the bytes of an artifact as they were before it was encrypted; ``chunks`` is not closed.

        Raises as `transforms.encryption.Encryption.opened`, when they are taken.
        """
        if artifact.encryption == _PLAIN:
            return chunks
        check = _check_of(artifact.seal) if artifact.seal is not None else b""
        return self._method(artifact.encryption).opened(chunks, artifact.name, check)

    def opened_by_name(self, name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Do so with an artifact of which there is no manifest."""
        method = sealed_by(name)
        return self._method(method).opened(chunks, name) if method else chunks

    def framing(self, artifact: Artifact) -> Framing:
        """Return what reads an encrypted artifact without a key."""
        return self._method(artifact.encryption).framing(artifact.name)

    def whole(self, manifest: Manifest) -> Manifest:
        """Return a manifest with all that it says; raises DecryptError where it is closed and there is no key.

        VerifyError: what is in it is damaged, or of another backup.
        """
        if not manifest.closed:
            return manifest
        label = f"the manifest of {manifest.backup}"
        method, _, text = manifest.closed.partition(":")
        try:
            body = self._method(method).unseal(base64.b64decode(text, validate=True), label)
            found = from_json(Manifest, body)
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            raise DamagedError(f"{label} is damaged", hint="restore another backup: backupctl list") from None
        outside, inside = manifest.artifact, found.at(manifest.artifact.name).artifact
        if (found.backup, inside.name, inside.size, inside.sha256) != (
            manifest.backup,
            outside.name,
            outside.size,
            outside.sha256,
        ):
            raise DamagedError(f"{label} is of another backup inside", hint="restore another backup: backupctl list")
        return found

    # Encrypting

    @property
    def seals_here(self) -> bool:
        """Tell whether the artifact in the backups folder is encrypted."""
        return self._options.on and self._options.scope == ALL

    def seals_for(self, job: JobSpec) -> bool:
        """Tell whether the destinations of a job get an encrypted artifact of a plain one."""
        return self._options.on and self._options.scope == REMOTE and bool(job.destinations)

    def is_current(self, artifact: Artifact) -> bool:
        """Tell whether an artifact is encrypted as the job would encrypt it now: to the same keys, or passphrase.

        Where nothing is encrypted now, anything is. Raises as `transforms.encryption.Encryption.recipients`.
        """
        if not self._options.on:
            return True
        if artifact.encryption != self._options.method or artifact.seal is None:
            return False
        wanted = {one.name for one in self._own.recipients()}
        if wanted or artifact.seal.recipients:
            return wanted == set(artifact.seal.recipients)
        # By a passphrase: by the one of now, not by one of those that may decrypt as well.
        with Keyring(msgspec.structs.replace(self._options, decrypt_with=())) as only:
            return only.opens(artifact)

    @property
    def suffix(self) -> str:
        """Return what is added to an artifact's name."""
        return self._own.suffix

    def prepare(self, now: datetime) -> list[str]:
        """Look at the keys before anything is made; returns warnings. Raises as `Encryption.recipients`.

        What takes long goes on in a thread.
        """
        found = self._own.recipients()
        if found:
            # Its private key, if it is here, comes in now: in this thread.
            self._note(self._own.make_check())
            _ = self.provable
        else:
            self._check = self._aside(self._own.make_check)
        ends = [one for one in found if one.expires is not None and one.expires < now + _SOON]
        return [
            f"the key {one.label or one.name} to which backups are encrypted ends on {one.expires:%Y-%m-%d}: "
            "extend it, or they cannot be encrypted any more"
            for one in ends
        ]

    def endings(self) -> list[tuple[str, datetime, bool]]:
        """Return what ends one day of the keys: label, when, and whether it is a private one.

        Raises as `Encryption.recipients`: also for a key that is over.
        """
        found: list[tuple[str, datetime, bool]] = []
        if self._options.on:
            ends = [(one.label or one.name, one.expires) for one in self._own.recipients()]
            found += [(label, expires, False) for label, expires in ends if expires is not None]
        if any("PGP PRIVATE KEY" in key.reveal() for key in self._options.decrypt_with):
            known = {label for label, _, _ in found}
            private = self._method("openpgp").private_endings()
            found += [(label, expires, True) for label, expires in private if label not in known]
        return found

    @property
    def provable(self) -> bool:
        """Tell whether what is encrypted now can be decrypted here."""
        if self._provable is None:
            self._provable = True
            try:
                if self._own.recipients():
                    self._own.unlock(self._tried_on(), "what is encrypted")
            except DecryptError:
                self._provable = False
        return self._provable

    def try_out(self) -> bool:
        """Encrypt a few bytes and decrypt them; returns whether the latter can be done here. Raises as `prepare`."""
        sealed = self._own.seal(PROBE)
        try:
            return self._own.unseal(sealed, "a few bytes") == PROBE
        except DecryptError:
            return False

    def tool(self) -> str:
        """Return name and version of what encrypts; raises ToolError."""
        return self._own.version()

    def writer(self, output: Path, *, read_back: bool = False) -> SealedFile:
        """Return what encrypts into a new file; raises as `Encryption.writer`.

        ``read_back``: it will be decrypted as soon as it is whole, so that is begun meanwhile.
        """
        return SealedFile(self, self._own, output, read_back=read_back)

    def seal(
        self,
        chunks: Iterator[bytes],
        plain: Callable[[], Artifact],
        output: Path,
        tick: Callable[[int], None],
        *,
        compare: bool = True,
    ) -> Artifact:
        """Encrypt an artifact, and say what was made; ``tick`` gets the bytes and may raise.

        ``plain`` is asked at the end what it is. Raises VerifyError (``verify-checksum``) where ``chunks`` are not that
        (without ``compare`` that is left to whom reads it back), and as `Encryption.writer`.
        """
        digest = hashlib.sha256()
        with self.writer(output) as writer:
            for data in chunks:
                tick(len(data))
                if compare:
                    digest.update(data)
                writer.write(data)
            artifact = plain()
            if compare and digest.hexdigest() != artifact.sha256:
                raise VerifyError(
                    f"{artifact.name} is not what was proven when it was to be encrypted",
                    hint="the disk may be failing (journalctl -k); make a new one: backupctl run",
                    code="verify-checksum",
                )
            return writer.finish(artifact)

    def describe(self, manifest: Manifest) -> bytes:
        """Return what is stored as the manifest beside an artifact elsewhere: of an encrypted one, closed.

        Raises BackupdError (``encryption-off``) where the job does not encrypt any more; as `Encryption.seal`.
        """
        found = self.describing(manifest)
        return found if isinstance(found, bytes) else found.result()

    def describing(self, manifest: Manifest) -> bytes | Future[bytes]:
        """Begin with that in a thread where it takes time; raises ``encryption-off`` at once, as `describe` does."""
        stored = manifest.stored_elsewhere
        if stored.encryption == _PLAIN or manifest.closed:
            return to_json(manifest)
        if not self._options.on:
            raise BackupdError(
                f"{stored.name} is encrypted, but nothing is encrypted any more, so its manifest cannot be",
                hint="switch encryption on again for the job, or delete that backup",
                code="encryption-off",
            )
        own = self._own

        def closed() -> bytes:
            body = base64.b64encode(own.seal(to_json(manifest))).decode("ascii")
            return to_json(_outline(manifest, stored, f"{own.method}:{body}"))

        return self._aside(closed)

    def sealed(self, plain: Artifact, made: Sealed) -> Artifact:
        """Describe what was made of an artifact."""
        return msgspec.structs.replace(
            plain,
            name=f"{plain.name}{self._own.suffix}",
            size=made.size,
            sha256=made.sha256,
            encryption=self._own.method,
            seal=Seal(
                recipients=tuple(one.name for one in self._own.recipients()),
                header=made.header,
                check=base64.b64encode(self._tried_on()).decode("ascii"),
                plain_size=plain.size,
                plain_sha256=plain.sha256,
            ),
        )

    def _aside(self, work: Callable[[], bytes]) -> Future[bytes]:
        """Let a message be made in a thread, one at a time: what makes a key of a passphrase takes its time."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
        return self._pool.submit(work)

    @property
    def _own(self) -> Encryption:
        """Return the method by which is encrypted."""
        return self._method(self._options.method)

    def _method(self, name: str) -> Encryption:
        if name not in self._methods:
            self._methods[name] = open_method(name, self._options)
        return self._methods[name]

    def _note(self, check: bytes) -> None:
        self._check = Future()
        self._check.set_result(check)

    def _tried_on(self) -> bytes:
        """Return the check, made once."""
        if self._check is None:
            self._note(self._own.make_check())
        assert self._check is not None
        return self._check.result()


class SealedFile:
    """A file that is being encrypted; `close` without `finish` before leaves none."""

    def __init__(self, keys: Keyring, method: Encryption, output: Path, *, read_back: bool) -> None:
        self._keys = keys
        self._method = method
        self._writer = method.writer(output)
        self._expected = not read_back

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Encrypt so much more; raises as `transforms.sealing.SealWriter.write`."""
        self._writer.write(data)
        if not self._expected and self._writer.head:
            self._expected = True
            self._method.expect(self._writer.head)

    def finish(self, plain: Artifact) -> Artifact:
        """End the file, and describe it; ``plain`` is what was encrypted."""
        return self._keys.sealed(plain, self._writer.finish())

    def close(self) -> None:
        """Let go; may be called twice."""
        self._writer.close()


def _check_of(seal: Seal) -> bytes:
    try:
        return base64.b64decode(seal.check, validate=True)
    except binascii.Error:
        raise VerifyError("what a manifest has to try keys on is damaged", code="verify-structure") from None


def _outline(manifest: Manifest, stored: Artifact, closed: str) -> Manifest:
    """Return what a closed manifest says openly: enough to list it, compare the file, and put a chain together."""
    seal = stored.seal or Seal()
    last = tuple(msgspec.structs.replace(item, detail="") for item in manifest.verification[-1:])
    return msgspec.structs.replace(
        manifest,
        host="",
        source=SourceInfo(type=manifest.source.type, server_version="", topology="", databases=(), collections=()),
        consistency=msgspec.structs.replace(manifest.consistency, reason=""),
        artifact=msgspec.structs.replace(stored, seal=msgspec.structs.replace(seal, plain_size=0, plain_sha256="")),
        tools={},
        verification=last,
        elsewhere=None,
        closed=closed,
    )
