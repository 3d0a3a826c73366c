"""OpenPGP by the stock gpg: AES-256, integrity protection, no compression; with a passphrase or to public keys.

What it makes opens with ``gpg -d`` of GnuPG 2.2 or later. Passphrases go to gpg by a descriptor, never by argv or
environment; public keys are files that are named for the one call, and no keyring of the user is touched.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import ClassVar, Final

from nanumpay_backupd.errors import ConfigError, DecryptError, ToolError
from nanumpay_backupd.system.filter import Filter
from nanumpay_backupd.system.process import run_bytes, run_text, secret_file
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.encryption import Encryption, Recipient, key_missing, key_wrong, named_exactly
from nanumpay_backupd.transforms.gnupg import GnupgHome, status_lines
from nanumpay_backupd.transforms.openpgp_packets import PASSPHRASE, PacketFraming
from nanumpay_backupd.transforms.sealing import DamagedError, Framing, Meant, piped, some, tool_failed

__all__ = ["OpenPgp"]

_FORM: Final = (
    "--cipher-algo",
    "AES256",
    "--compress-algo",
    "none",
    "--s2k-mode",
    "3",
    "--s2k-digest-algo",
    "SHA512",
    "--s2k-cipher-algo",
    "AES256",
    # The most that the format has (a tenth of a second). Without it gpg asks an agent what this host can do.
    "--s2k-count",
    "65011712",
    "--force-mdc",
)
_DECRYPT: Final = ("--status-fd", "2", "--no-symkey-cache", "--decrypt")
_DEAD: Final = frozenset("eridn")
"""gpg's letters for a key that is expired, revoked, invalid, disabled or not to be used."""
_SAYS_OF_ITSELF: Final = ("fatal", "out of core", "No space left")
"""In what gpg says, where not the message but gpg is in trouble."""


class OpenPgp(Encryption):
    """Encrypts with ``passphrase``, or to the keys in the files ``recipients``; decrypts by ``keys``.

    Each of ``keys`` is a passphrase or an armored private key; one that is protected is opened by whichever of the
    passphrases fits.
    """

    method: ClassVar[str] = "openpgp"
    suffix: ClassVar[str] = ".gpg"

    def __init__(
        self,
        *,
        passphrase: Secret | None = None,
        recipients: Sequence[str] = (),
        keys: Sequence[Secret] = (),
        gpg: str = "gpg",
        agent: str = "gpg-agent",
    ) -> None:
        super().__init__(passphrase)
        self._files = tuple(recipients)
        private = [key for key in keys if "PRIVATE KEY BLOCK" in key.reveal()]
        self._private = tuple(dict.fromkeys(private))
        own = (passphrase,) if passphrase is not None else ()
        self._passphrases = tuple(dict.fromkeys((*own, *(key for key in keys if key not in private))))
        self._tools = (gpg, agent)
        self._home: GnupgHome | None = None
        self._making = threading.Lock()
        self._found: tuple[Recipient, ...] | None = None
        self._at_hand: frozenset[str] | None = None
        self._begun: tuple[bytes, Filter] | None = None
        """The beginning of a message that is expected, and the tool that has got it."""

    @property
    def home(self) -> GnupgHome:
        """Return the private home, made at the first use."""
        with self._making:
            if self._home is None:
                self._home = GnupgHome(*self._tools)
            return self._home

    def close(self) -> None:
        """End the agent and remove the home."""
        self._leave()
        if self._home is not None:
            self._home.close()
        self._home, self._at_hand = None, None

    def version(self) -> str:
        """Return gpg's name and version."""
        return run_text(self.home.argv("--version")).partition("\n")[0]

    def framing(self, label: str) -> Framing:
        """Return what reads the packets."""
        return PacketFraming(label)

    # Encrypting

    def recipients(self) -> tuple[Recipient, ...]:
        """Return whose keys are in the files."""
        if self._found is None:
            self._found = tuple(self._recipient(file) for file in self._files)
        return self._found

    def private_endings(self) -> list[tuple[str, datetime]]:
        """Return label and end of the private keys at hand; none of them is brought into the home."""
        found = []
        for key in self._private:
            done = run_bytes(self.home.argv("--with-colons", "--show-keys"), given=key.reveal().encode() + b"\n")
            rows = [line.split(":") for line in done.stdout.decode("utf-8", "replace").splitlines()]
            first = next((row for row in rows if row[0] == "sec" and len(row) > 6 and row[6]), None)
            if first is not None:
                label = next((row[9] for row in rows if row[0] == "uid"), first[4])
                found.append((label, datetime.fromtimestamp(int(first[6]), UTC)))
        return found

    def encrypting(self) -> tuple[Filter, Meant]:
        """Start gpg, and say which header is meant."""
        words = ("--status-fd", "2", "--no-symkey-cache", *_FORM)
        if self._passphrase is not None:
            child = self._started(self._passphrase, *words, "--symmetric")
            return child, lambda header: header == (PASSPHRASE,)
        found = self.recipients()
        if not found:
            raise ConfigError("there is nobody to encrypt to", hint="set passphrase or recipients in [encryption]")
        files = chain.from_iterable(("--recipient-file", file) for file in self._files)
        child = self._started(None, *words, "--trust-model", "always", *files, "--encrypt")
        return child, lambda header: named_exactly(header, found)

    def _recipient(self, file: str) -> Recipient:
        """Read a public key file; raises ConfigError when nothing can be encrypted to it."""
        if not os.access(file, os.R_OK):
            raise _unusable(file, "cannot be read", f"look at: ls -l {file}")
        try:
            text = run_text(self.home.argv("--with-colons", "--show-keys", file))
        except ToolError as error:
            if error.code != "tool-failed":
                raise
            raise _unusable(file, "holds no OpenPGP key", "write it with: gpg --armor --export KEY") from None
        rows = [line.split(":") for line in text.splitlines() if line.count(":") > 8]
        main = [row for row in rows if row[0] in ("pub", "sec")]
        if len(main) != 1:
            raise _unusable(file, f"holds {len(main)} keys instead of one", "write each key into a file of its own")
        if main[0][0] == "sec":
            raise _unusable(
                file, "holds a private key, which is not needed to encrypt", "write only the public one: gpg --export"
            )
        return _described(file, rows)

    # Decrypting

    def candidates(self, marks: tuple[str, ...], label: str) -> list[Secret | None]:
        """Return what may open a message."""
        found: list[Secret | None] = []
        if self._private and any(mark != PASSPHRASE for mark in marks):
            if self._secret_ids() & set(marks):
                # One that is protected asks for its passphrase only now.
                found += [None, *self._passphrases]
            elif PASSPHRASE not in marks:
                raise key_wrong(label, self.needed(marks))
        if PASSPHRASE in marks:
            found += [one for one in self._passphrases if one not in found]
        if not found:
            raise key_missing(label, self.needed(marks))
        return found

    def needed(self, marks: tuple[str, ...]) -> str:
        """Say how a message is encrypted."""
        keys = [mark for mark in marks if mark != PASSPHRASE]
        return f"to the key {some(keys)}" if keys else "with a passphrase"

    def _secret_ids(self) -> frozenset[str]:
        """Bring the private keys into the home, and return the ids of the keys that they open."""
        if self._at_hand is None:
            self.home.start_agent()
            for key in self._private:
                self._bring_in(key)
            text = run_text(self.home.argv("--with-colons", "--list-secret-keys"))
            rows = [line.split(":") for line in text.splitlines() if line.startswith(("sec:", "ssb:"))]
            # Field 15 is "#" where the secret part is not there.
            self._at_hand = frozenset(row[4] for row in rows if len(row) > 14 and row[14] != "#")
        return self._at_hand

    def _bring_in(self, key: Secret) -> None:
        """Import a private key; one that is protected stays so. Raises DecryptError."""
        with self._started(None, "--status-fd", "2", "--import") as child:
            list(piped(child, [key.reveal().encode("utf-8") + b"\n"], lambda *_: None))
            results = [words for words in status_lines(child.said) if words[0] == "IMPORT_RES"]
            # Fields 11 and 12: secret keys imported, and those that were there before.
            if results and (int(results[0][11]) or int(results[0][12])):
                return
            said = "; ".join(line for line in child.said if not line.startswith("["))
        raise DecryptError(
            f"a private key in decrypt_with cannot be used: {said[-300:] or 'gpg gave no reason'}",
            hint="write it anew: gpg --armor --export-secret-keys KEY",
        )

    def decrypting(
        self, chunks: Iterator[bytes], label: str, candidate: Secret | None, *, sure: bool
    ) -> Iterator[bytes]:
        """Decrypt with one key."""
        child, chunks = self._decryptor(candidate, chunks)

        def judge(code: int, said: list[str]) -> None:
            words = status_lines(said)
            kinds = {line[0] for line in words}
            if code == 0 and "DECRYPTION_OKAY" in kinds and ("GOODMDC" in kinds or _with_aead(words)):
                return
            if code < 0 or any(sign in line for sign in _SAYS_OF_ITSELF for line in said):
                raise tool_failed(child, code, "decrypt")
            if not sure and not kinds & {"PLAINTEXT", "NODATA"}:
                raise key_wrong(label, "with a passphrase or to a key")
            raise DamagedError(
                f"{label} is damaged: its encryption is cut off or was changed",
                hint="do not rely on this file; another copy may be whole",
            )

        yield from piped(child, chunks, judge)

    def expect(self, head: bytes) -> None:
        """Begin to decrypt, where that is by the passphrase of now."""
        self._leave()
        if self._passphrase is not None:
            child = self._started(self._passphrase, *_DECRYPT)
            self._begun = head, child
            with contextlib.suppress(BrokenPipeError):  # it has ended; how, is judged when it is read from
                child.write(head)

    def _decryptor(self, candidate: Secret | None, chunks: Iterator[bytes]) -> tuple[Filter, Iterator[bytes]]:
        """Return gpg with the key, and what it still has to get of a message: all, unless this one was expected."""
        if self._begun is None or candidate != self._passphrase:
            return self._started(candidate, *_DECRYPT), chunks
        first = next(chunks, b"")
        head, child = self._begun
        if not first.startswith(head):
            return self._started(candidate, *_DECRYPT), chain([first], chunks)
        self._begun = None
        return child, chain([first[len(head) :]], chunks)

    def _leave(self) -> None:
        """End what was begun with a message that does not come."""
        if self._begun is not None:
            self._begun[1].close()
        self._begun = None

    def _started(self, passphrase: Secret | None, *words: str) -> Filter:
        """Start gpg with a passphrase on a descriptor of its own."""
        if passphrase is None:
            return Filter(self.home.argv(*words))
        with secret_file(passphrase.reveal() + "\n") as fd:
            os.lseek(fd, 0, os.SEEK_SET)
            return Filter(self.home.argv("--passphrase-fd", str(fd), *words), pass_fds=(fd,))


def _with_aead(words: list[list[str]]) -> bool:
    """Tell whether the data was authenticated by an AEAD mode: DECRYPTION_INFO <mdc> <cipher> <aead>."""
    return any(line[0] == "DECRYPTION_INFO" and len(line) > 3 and line[3] != "0" for line in words)


def _described(file: str, rows: list[list[str]]) -> Recipient:
    """Say whose key this is, by gpg's listing (doc/DETAILS of GnuPG); raises ConfigError."""
    usable, main, fingerprint, label = [], True, "", ""
    for row in rows:
        if row[0] == "fpr" and not fingerprint:
            fingerprint = row[9]
        elif row[0] == "uid" and not label:
            label = row[9]
        elif row[0] in ("pub", "sub"):
            dead = row[1][:1] in _DEAD
            if main and dead:
                raise _unusable(
                    file,
                    "has expired" if row[1] == "e" else "was revoked or cannot be used",
                    "extend the key, or take a new one",
                )
            main = False
            if "e" in row[11] and not dead:
                usable.append(row)
    if not usable:
        raise _unusable(
            file, "has no valid key for encryption", "add a subkey for encryption, or extend the one it has"
        )
    first = next(row for row in rows if row[0] == "pub")
    ends = [int(row[6]) for row in usable if row[6]]
    limits = [*([int(first[6])] if first[6] else []), *([max(ends)] if len(ends) == len(usable) else [])]
    return Recipient(
        name=fingerprint,
        headers=frozenset(row[4] for row in usable),
        label=label,
        expires=datetime.fromtimestamp(min(limits), UTC) if limits else None,
    )


def _unusable(file: str, what: str, fix: str) -> ConfigError:
    return ConfigError(
        f"the key file {file} {what}", hint=f"{fix}; recipients in [encryption]", code="recipient-unusable"
    )
