"""The contract of a method of encryption, written once; OpenPGP and age keep it. No tool is called here.

What is encrypted is one message of the method's own format, which its stock tool opens. Data goes through the tool in a
pipe: memory does not depend on its size, and nothing of the plain bytes touches a disk on the way.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import msgspec

from nanumpay_backupd.errors import DecryptError
from nanumpay_backupd.system.filter import Filter
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.sealing import (
    DamagedError,
    Framing,
    Meant,
    SealWriter,
    others_than_meant,
    piped,
    tool_failed,
)

__all__ = ["PROBE", "Encryption", "Recipient", "key_missing", "key_wrong", "named_exactly"]

HEAD: Final = 64 << 10
"""Bytes in which the header of a message of ours is whole."""
PROBE: Final = b"nanumpay-backupd: whoever can read this can read the backup\n"
"""What the small message holds on which keys are tried."""


class Recipient(msgspec.Struct, frozen=True):
    """Somebody who can decrypt.

    ``name`` identifies the key (OpenPGP: the fingerprint; age: the recipient, or for an ssh key ``SHA256:…``);
    ``headers`` are the marks in a message's header, of which one must be his; ``label`` is for people.
    """

    name: str
    headers: frozenset[str]
    label: str = ""
    expires: datetime | None = None


class Encryption(ABC):
    """One method of encryption: whom to encrypt to, and the keys at hand that may decrypt.

    An instance holds what its tool needs (OpenPGP: a private home with the private keys, in memory where there is such
    a place) from the first use to `close`, which may be called twice; it is used by one thread at a time, but
    several messages may be under way. All children die with this process.
    """

    method: ClassVar[str]
    suffix: ClassVar[str]
    """What is added to a file's name."""

    def __init__(self, passphrase: Secret | None) -> None:
        """``passphrase`` is the one to encrypt with, None: it is done to recipients."""
        self._passphrase = passphrase
        self._known: dict[bytes, Secret | None] = {}
        """The key that opens a check, by the check."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Encrypting

    @abstractmethod
    def recipients(self) -> tuple[Recipient, ...]:
        """Return who will be able to decrypt, empty: who knows the passphrase.

        Raises ConfigError (``recipient-unusable``) for a key that is not one, has expired or cannot encrypt; ToolError
        (``tool-missing``).
        """

    def private_endings(self) -> list[tuple[str, datetime]]:
        """Return label and end of the private keys at hand that end one day; raises ToolError."""
        return []

    @abstractmethod
    def encrypting(self) -> tuple[Filter, Meant]:
        """Start the tool so that it encrypts what it is given, and say which header is meant; raises as that."""

    def writer(self, output: Path) -> SealWriter:
        """Return what encrypts into the new file ``output``; raises as `recipients` does."""
        child, meant = self.encrypting()
        return SealWriter(child, output, self.framing(output.name), meant)

    def seal(self, data: bytes) -> bytes:
        """Encrypt a small message in memory; raises as `writer` and `SealWriter` do."""
        child, meant = self.encrypting()

        def judge(code: int, _said: list[str]) -> None:
            if code != 0:
                raise tool_failed(child, code, "encrypt")

        sealed = b"".join(piped(child, [data], judge))
        framing = self.framing("a small message")
        framing.feed(sealed)
        framing.finish()
        if not meant(framing.header):
            raise others_than_meant(child, framing)
        return sealed

    def make_check(self) -> bytes:
        """Return a small message, encrypted as the backup is, on which a key can be tried (`unlock`).

        It is no easier to break than the backup beside which it stands: it is made in the same way, with a salt of its
        own, and what it holds is known to everybody.
        """
        check = self.seal(PROBE)
        if self._passphrase is not None:
            self._known[check] = self._passphrase
        return check

    # Decrypting

    @abstractmethod
    def candidates(self, marks: tuple[str, ...], label: str) -> list[Secret | None]:
        """Return what may open a message with such a header: passphrases, or None for the private keys at hand.

        Raises DecryptError where there is nothing of the kind.
        """

    @abstractmethod
    def decrypting(
        self, chunks: Iterator[bytes], label: str, candidate: Secret | None, *, sure: bool
    ) -> Iterator[bytes]:
        """Decrypt with one of the `candidates`; ``sure``: it is the right one, so what fails is damage."""

    def expect(self, head: bytes) -> None:  # noqa: B027 - what is not slow to begin need not begin early
        """Begin to decrypt a message of ours that starts with ``head``, as the rest of it will be read back soon.

        What makes a key of a passphrase is then done by the time. Only a message that starts with just these bytes is
        decrypted so. The thread that calls it must live until then.
        """

    @abstractmethod
    def needed(self, marks: tuple[str, ...]) -> str:
        """Say how a message with such a header is encrypted, to be put behind "is encrypted"."""

    def unlock(self, check: bytes, label: str = "the backup") -> None:
        """Find the key that opens ``check`` (`make_check`), and remember that for `opened`.

        Raises DecryptError: ``key-missing`` where there is none of the kind that is needed, ``key-wrong`` where none of
        them opens it; DamagedError, ToolError.
        """
        if check in self._known:
            return
        marks = self._marks(check, label)
        for candidate in self.candidates(marks, label):
            try:
                if b"".join(self.decrypting(iter([check]), label, candidate, sure=False)) == PROBE:
                    self._known[check] = candidate
                    return
            except DecryptError:
                continue
        raise key_wrong(label, self.needed(marks))

    def opened(self, chunks: Iterator[bytes], label: str, check: bytes = b"") -> Iterator[bytes]:
        """Yield the plain bytes of a message that comes in chunks, taken in another thread; ``label`` names it.

        Yielded bytes count for nothing before the end was reached. With ``check`` (`unlock`, called here where it was
        not before) everything that goes wrong afterwards is damage; without, a wrong key and a damaged header may look
        the same. Raises DecryptError as `unlock`, DamagedError, ToolError where the tool died, and what ``chunks``
        raises; ``chunks`` is not closed.
        """
        if check:
            self.unlock(check, label)
            yield from self.decrypting(chunks, label, self._known[check], sure=True)
            return
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) >= HEAD:
                break
        marks = self._marks(head, label)
        candidates = self.candidates(marks, label)
        fitting = [one for one in candidates if len(candidates) == 1 or self._fits(head, label, one)]
        if not fitting:
            raise key_wrong(label, self.needed(marks))
        yield from self.decrypting(itertools.chain([head], chunks), label, fitting[0], sure=False)

    def unseal(self, data: bytes, label: str, check: bytes = b"") -> bytes:
        """Decrypt a small message; raises as `opened` does."""
        return b"".join(self.opened(iter([data]), label, check))

    def _marks(self, head: bytes, label: str) -> tuple[str, ...]:
        """Return whom a header names; raises DamagedError where there is none."""
        framing = self.framing(label)
        framing.feed(head[:HEAD])
        if not framing.header:
            framing.finish()
            raise framing.damaged("it has no header")
        return framing.header

    def _fits(self, head: bytes, label: str, candidate: Secret | None) -> bool:
        """Tell whether a key opens a message of which only the beginning is at hand."""
        try:
            for _ in self.decrypting(iter([head]), label, candidate, sure=False):
                return True
        except DecryptError:
            return False
        except DamagedError:
            pass  # it is cut off, which shows only behind the header
        return True

    @abstractmethod
    def framing(self, label: str) -> Framing:
        """Return what reads a message of this method without a key."""

    @abstractmethod
    def version(self) -> str:
        """Return the tool's name and version; raises ToolError."""

    @abstractmethod
    def close(self) -> None:
        """End what was started, and remove the keys from where the tool had them."""


def key_missing(label: str, needed: str) -> DecryptError:
    """Return the fault of who has no key of the kind that is needed."""
    return DecryptError(
        f"{label} is encrypted {needed}, and there is no such key here",
        hint="give the key to who restores: [encryption] decrypt_with in the host file, or on another machine "
        "nanumpay-backupd restore --from PLACE --identity FILE",
        code="key-missing",
    )


def key_wrong(label: str, needed: str) -> DecryptError:
    """Return the fault of who has keys, of which none fits."""
    return DecryptError(
        f"{label} is encrypted {needed}, and none of the keys here opens it",
        hint="this is no sign of damage: find the key that was in force when it was made, and add it to decrypt_with "
        "(docs/encryption.md)",
        code="key-wrong",
    )


def named_exactly(header: Iterable[str], recipients: Iterable[Recipient]) -> bool:
    """Tell whether each mark of a header is that of one recipient, and each recipient has one."""
    left = list(header)
    for recipient in recipients:
        mark = next((mark for mark in left if mark in recipient.headers), None)
        if mark is None:
            return False
        left.remove(mark)
    return not left
