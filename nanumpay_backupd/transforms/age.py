"""age by its stock tool: to X25519 or ssh keys, or with a passphrase. What it makes opens with ``age -d``.

The tool takes a passphrase from a terminal only, so it gets one (`system.filter`). A passphrase costs about a second
and 256 MiB each time, by intention (scrypt); keys cost nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar, Final

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.system.filter import Filter, Typed
from nanumpay_backupd.system.process import find_tool, run_text, secret_file
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.age_format import SCRYPT, X25519, AgeFraming
from nanumpay_backupd.transforms.encryption import Encryption, Recipient, key_missing, key_wrong, named_exactly
from nanumpay_backupd.transforms.sealing import DamagedError, Framing, Meant, piped, tool_failed

__all__ = ["Age"]

_HINT: Final = "install it: apt-get install age (or name it in [tools])"
_NATIVE: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_SSH: Final = re.compile(r"(?P<kind>ssh-(?:ed25519|rsa)) (?P<key>[A-Za-z0-9+/=]+)(?: .*)?")
_IDENTITY: Final = ("AGE-SECRET-KEY-1", "PRIVATE KEY-----")
_WRONG: Final = ("no identity matched", "incorrect passphrase", "incorrect identity")
_LARGEST_LIST: Final = 1 << 20


class Age(Encryption):
    """Encrypts with ``passphrase``, or to ``recipients`` (``age1…``, ssh public keys, or files of these, one a line).

    Decrypts by ``keys``: each is the content of an identity file (age-keygen), an ssh private key without a passphrase,
    or a passphrase.
    """

    method: ClassVar[str] = "age"
    suffix: ClassVar[str] = ".age"

    def __init__(
        self,
        *,
        passphrase: Secret | None = None,
        recipients: Sequence[str] = (),
        keys: Sequence[Secret] = (),
        age: str = "age",
    ) -> None:
        super().__init__(passphrase)
        self._named = tuple(recipients)
        identities = [key for key in keys if any(mark in key.reveal() for mark in _IDENTITY)]
        self._identities = tuple(dict.fromkeys(identities))
        own = (passphrase,) if passphrase is not None else ()
        self._passphrases = tuple(dict.fromkeys((*own, *(key for key in keys if key not in identities))))
        self._age = age
        self._found: dict[str, Recipient] | None = None

    def close(self) -> None:
        """Nothing is held."""

    def version(self) -> str:
        """Return age's name and version."""
        return f"age {run_text([self._tool(), '--version']).strip()}"

    def framing(self, label: str) -> Framing:
        """Return what reads the header and counts the rest."""
        return AgeFraming(label)

    # Encrypting

    def recipients(self) -> tuple[Recipient, ...]:
        """Return whom the settings name."""
        return tuple(self._words().values())

    def encrypting(self) -> tuple[Filter, Meant]:
        """Start age, and say which header is meant."""
        if self._passphrase is not None:
            # It asks twice.
            typed = [(":", self._passphrase)] * 2
            return Filter([self._tool(), "--passphrase"], typed=typed), lambda header: header == (SCRYPT,)
        words = self._words()
        if not words:
            raise ConfigError("there is nobody to encrypt to", hint="set passphrase or recipients in [encryption]")
        argv = [self._tool(), "--encrypt", *chain.from_iterable(("--recipient", word) for word in words)]
        return Filter(argv), lambda header: named_exactly(header, words.values())

    def _words(self) -> dict[str, Recipient]:
        """Return the recipients by the word for each, as the tool takes it, each once."""
        if self._found is None:
            lines = chain.from_iterable(_lines_of(name) if name.startswith("/") else [name] for name in self._named)
            self._found = dict(_recipient(line) for line in lines)
        return self._found

    def _tool(self) -> str:
        return str(find_tool(self._age, hint=_HINT))

    # Decrypting

    def candidates(self, marks: tuple[str, ...], label: str) -> list[Secret | None]:
        """Return what may open a message."""
        found: list[Secret | None] = list(self._passphrases) if marks == (SCRYPT,) else []
        if marks != (SCRYPT,) and self._identities:
            found.append(None)
        if not found:
            raise key_missing(label, self.needed(marks))
        return found

    def decrypting(
        self, chunks: Iterator[bytes], label: str, candidate: Secret | None, *, sure: bool
    ) -> Iterator[bytes]:
        """Decrypt with one key."""
        child = self._started(candidate)

        def judge(code: int, said: list[str]) -> None:
            if code == 0:
                return
            if code < 0:
                raise tool_failed(child, code, "decrypt")
            if not sure and any(word in line for word in _WRONG for line in said):
                raise key_wrong(label, "with a passphrase" if candidate is not None else "to age keys")
            if any("panic" in line or "out of memory" in line for line in said):
                raise tool_failed(child, code, "decrypt")
            raise DamagedError(
                f"{label} is damaged: its encryption is cut off or was changed",
                hint="do not rely on this file; another copy may be whole",
            )

        yield from piped(child, chunks, judge)

    def needed(self, marks: tuple[str, ...]) -> str:
        """Say how a message is encrypted."""
        if marks == (SCRYPT,):
            return "with a passphrase"
        return f"to {len(marks)} age {'key' if len(marks) == 1 else 'keys'}"

    def _started(self, candidate: Secret | None) -> Filter:
        argv = [self._tool(), "--decrypt"]
        if candidate is not None:
            typed: list[Typed] = [(":", candidate)]
            return Filter(argv, typed=typed)
        with contextlib.ExitStack() as stack:
            fds = [stack.enter_context(secret_file(key.reveal() + "\n")) for key in self._identities]
            for fd in fds:
                argv += ["--identity", f"/dev/fd/{fd}"]
            return Filter(argv, pass_fds=fds)


def _lines_of(file: str) -> list[str]:
    """Return the recipients in a file; raises ConfigError."""
    try:
        with Path(file).open(encoding="utf-8") as stream:
            text = stream.read(_LARGEST_LIST)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise _unusable(f"the file {file} cannot be read: {why}", f"look at: ls -l {file}") from None
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise _unusable(f"the file {file} names nobody", "write one recipient a line (age-keygen -y, or *.pub)")
    return found


def _recipient(line: str) -> tuple[str, Recipient]:
    """Return the word for the tool, and who that is; raises ConfigError. Nothing secret is shown."""
    if _NATIVE.fullmatch(line):
        return line, Recipient(name=line, headers=frozenset({X25519}))
    found = _SSH.fullmatch(line)
    if found is None:
        shown = "a private key" if any(mark in line for mark in _IDENTITY) else repr(line[:20] + "…")
        raise _unusable(
            f"{shown} is no recipient that the stock age takes",
            "write age1… (age-keygen -y KEYFILE), or a public key of kind ssh-ed25519 or ssh-rsa",
        )
    kind = found["kind"].encode("ascii")
    try:
        blob = base64.b64decode(found["key"], validate=True)
    except binascii.Error:
        blob = b""
    # RFC 4253: the length of the key's kind, the kind, the key.
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        raise _unusable("an ssh public key is not whole", "copy the whole line of the .pub file")
    digest = hashlib.sha256(blob).digest()
    name = base64.b64encode(digest).decode("ascii").rstrip("=")
    mark = base64.b64encode(digest[:4]).decode("ascii").rstrip("=")
    label = line.split(" ", 2)[2] if line.count(" ") > 1 else ""
    word = f"{found['kind']} {found['key']}"
    return word, Recipient(name=f"SHA256:{name}", headers=frozenset({f"{found['kind']} {mark}"}), label=label)


def _unusable(sentence: str, fix: str) -> ConfigError:
    return ConfigError(sentence, hint=f"{fix}; recipients in [encryption]", code="recipient-unusable")
