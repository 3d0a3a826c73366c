"""Kinds of value that say who may decrypt: passphrases, private keys, recipients. What is secret is never shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from nanumpay_backupd.settings.kinds import Kind, Place, SecretValue
from nanumpay_backupd.settings.problems import Mismatch, show
from nanumpay_backupd.system.secrets import Secret

__all__ = ["DecryptKeys", "Passphrase", "Recipients", "check_key", "check_passphrase"]

_LEAST: Final = 12
"""Characters of a passphrase: fewer are guessed from a stolen copy, however slow each guess is made."""
_PRIVATE: Final = ("BEGIN PGP PRIVATE KEY BLOCK", "AGE-SECRET-KEY-1", "PRIVATE KEY-----")
_PUBLIC: Final = re.compile(r"BEGIN PGP PUBLIC KEY BLOCK|\s*(?:age1|ssh-(?:ed25519|rsa) )")
_RECIPIENT: Final = re.compile(r"/\S.*|age1[a-z0-9]+|ssh-(?:ed25519|rsa) \S+(?: .*)?")


class Passphrase(SecretValue):
    """A passphrase: one line of text."""

    expected = "a passphrase of one line, as a secret: { credential = … }, { env = … } or { file = … }"

    def parse(self, value: object, place: Place) -> Secret:
        """Return the passphrase."""
        secret = super().parse(value, place)
        check_passphrase(secret)
        return secret


class DecryptKeys(SecretValue):
    """Passphrases and private keys, each a secret; one may stand without the list around it."""

    expected = "a list of secrets, each { credential = … }, { env = … } or { file = … }"

    def parse(self, value: object, place: Place) -> tuple[Secret, ...]:  # type: ignore[override]
        """Return the keys, each once."""
        items = value if isinstance(value, list) else [value]
        return tuple(dict.fromkeys(self._one(item, place) for item in items))

    def _one(self, value: object, place: Place) -> Secret:
        key = super().parse(value, place)
        check_key(key)
        return key

    def show(self, value: object) -> str:
        """Show how many there are."""
        assert isinstance(value, tuple)
        return f"[{', '.join(['***'] * len(value))}]"


class Recipients(Kind):
    """Whom to encrypt to: files, age recipients, ssh public keys. Whether they can be used is tried elsewhere."""

    expected = "a list of absolute paths of public key files, for age also age1… and ssh public keys"
    example = '["/etc/nanumpay/backup-key.asc"]'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the recipients, each once."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise self.mismatch(value)
        for item in items:
            if isinstance(item, str) and any(mark in item for mark in _PRIVATE):
                raise Mismatch(
                    "holds a private key", "write the public one here, and keep the private one away from this host"
                )
            if not isinstance(item, str) or not _RECIPIENT.fullmatch(item.strip()):
                raise self.mismatch(item)
        return tuple(dict.fromkeys(item.strip() for item in items))

    def show(self, value: object) -> str:
        """Show the list."""
        assert isinstance(value, tuple)
        return f"[{', '.join(show(item) for item in _texts(value))}]"


def check_passphrase(secret: Secret) -> None:
    """Raise Mismatch for what is no passphrase to encrypt with; it is not shown."""
    text = secret.reveal()
    if "\n" in text or "\r" in text or "\0" in text:
        raise Mismatch("has more than one line", "write the passphrase on a single line")
    if len(text) < _LEAST:
        raise Mismatch(
            f"is shorter than {_LEAST} characters",
            "make a long one, for example: openssl rand -base64 30",
        )


def check_key(secret: Secret) -> None:
    """Raise Mismatch for what can decrypt nothing; it is not shown."""
    text = secret.reveal()
    if any(mark in text for mark in _PRIVATE):
        return
    if _PUBLIC.search(text):
        raise Mismatch("is a public key, which decrypts nothing", "name the private key or the passphrase")
    if "\n" in text or "\r" in text or "\0" in text:
        raise Mismatch(
            "is neither a passphrase of one line nor a private key as text",
            "write the key with: gpg --armor --export-secret-keys KEY, or age-keygen",
        )


def _texts(items: Iterable[object]) -> list[str]:
    return [str(item) for item in items]
