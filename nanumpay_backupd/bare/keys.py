"""The keys for `restore --from`: those of the host file, files that are named, what is typed at the terminal.

Decides only which keys there are; what they open is found out elsewhere.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import ConfigError, DecryptError
from nanumpay_backupd.model import Artifact, Manifest
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.settings.key_kinds import check_key
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.settings.schema import HostConfig, JobEncryption
from nanumpay_backupd.system.secrets import Secret

__all__ = ["keys_at_hand", "unlocked"]

_TRIES: Final = 3
_LARGEST: Final = 64 << 10
_PASSPHRASES: Final = frozenset({"passphrase", "scrypt"})
"""What a header says of a message that a passphrase opens."""


def keys_at_hand(host: HostConfig, identities: Iterable[str], passphrase_file: str) -> JobEncryption:
    """Return all keys that were named on the command line or in the host file; raises ConfigError."""
    named = [_read(file, "--identity") for file in identities]
    if passphrase_file:
        named.append(Secret(_read(passphrase_file, "--passphrase-file").reveal().partition("\n")[0]))
    of_host = [host.encryption, host.nanumpay.encryption, *(job.encryption for job in host.jobs)]
    for options in of_host:
        named += [*([options.passphrase] if options.passphrase else []), *options.decrypt_with]
    tools = host.tools
    return JobEncryption(
        method="none",
        decrypt_with=tuple(dict.fromkeys(named)),
        gpg=tools.gpg,
        gpg_agent=tools.gpg_agent,
        age=tools.age,
    )


def unlocked(manifest: Manifest, keys: JobEncryption) -> tuple[Manifest, JobEncryption]:
    """Return a manifest with all that it says, and the keys, with one that was typed where that was needed.

    A passphrase is asked for on a terminal only. Raises DecryptError.
    """
    tries = _TRIES if sys.stdin.isatty() else 0
    while True:
        with Keyring(keys) as keyring:
            try:
                keyring.unlock(manifest.artifact)
                return keyring.whole(manifest), keys
            except DecryptError as error:
                if tries == 0 or not _asks_for_words(manifest.artifact, keys):
                    raise
                if tries < _TRIES:
                    sys.stderr.write(f"{error.message}\n")
        tries -= 1
        typed = getpass.getpass(f"Passphrase of {manifest.artifact.name}: ")
        if not typed:
            raise DecryptError(
                f"no passphrase was given for {manifest.artifact.name}",
                hint="name the file that holds it: --passphrase-file FILE",
                code="key-missing",
            )
        keys = msgspec.structs.replace(keys, decrypt_with=(Secret(typed), *keys.decrypt_with))


def _asks_for_words(artifact: Artifact, keys: JobEncryption) -> bool:
    """Tell whether a passphrase may help: that of the artifact, or of a private key that is at hand."""
    header = artifact.seal.header if artifact.seal is not None else ()
    protected = any("PRIVATE KEY" in key.reveal() for key in keys.decrypt_with)
    return bool(_PASSPHRASES & set(header)) or protected


def _read(name: str, option: str) -> Secret:
    """Read a key from a file."""
    try:
        with Path(name).open("rb") as stream:
            text = stream.read(_LARGEST).decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{option}: {name}: {error.strerror}", hint=f"look at: ls -l {name}") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{option}: {name} is not text", hint="write the key as text: gpg --armor --export-secret-keys KEY"
        ) from None
    if not text:
        raise ConfigError(f"{option}: {name} is empty", hint="name the file that holds the key")
    key = Secret(text)
    try:
        check_key(key)
    except Mismatch as mismatch:
        if option == "--identity":
            raise ConfigError(f"{option}: {name} {mismatch.reason}", hint=mismatch.fix) from None
    return key
