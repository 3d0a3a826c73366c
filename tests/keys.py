"""Keys for tests, made by the stock tools once a session: OpenPGP, age, ssh, passphrases. None protects anything."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.age import Age
from nanumpay_backupd.transforms.encryption import Encryption
from nanumpay_backupd.transforms.openpgp import OpenPgp

__all__ = [
    "OTHER",
    "PASSPHRASE",
    "VARIANTS",
    "AgeKey",
    "PgpKey",
    "Variant",
    "age_key",
    "gpg",
    "home_folders",
    "pgp_key",
    "ssh_key",
    "variant",
]

PASSPHRASE: Final = Secret("correct horse, battery staple")
OTHER: Final = Secret("quite another passphrase")
_HOME: Final = "nanumpay-gpg"
_LOOKS: Final = 3
_REST: Final = 0.05


@dataclass(frozen=True)
class PgpKey:
    """An OpenPGP key: its public half as a file, its private half as armored text, its fingerprint."""

    public: Path
    private: Secret
    fingerprint: str


@dataclass(frozen=True)
class AgeKey:
    """A pair of age or ssh keys; ``recipient`` is the word for the public one."""

    recipient: str
    identity: Secret


@dataclass(frozen=True)
class Variant:
    """One way to encrypt, and what fits to it: ``make`` takes the keys at hand, ``wrong`` are keys that do not fit."""

    name: str
    make: Callable[..., Encryption]
    keys: tuple[Secret, ...]
    wrong: tuple[Secret, ...]
    slow: bool = False
    """A second for every message."""


def gpg(home: Path, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the stock gpg in a home of its own."""
    base = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]
    return subprocess.run([*base, *words], input=data, capture_output=True, check=True)


@cache
def pgp_key(name: str, *, passphrase: str = "", expires: str = "never", made: str = "") -> PgpKey:
    """Make an OpenPGP key; ``made`` (seconds since 1970) is the time that gpg believes it to be meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix=f"keys-{name}-", dir="/dev/shm"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    then = ("--faked-system-time", made) if made else ()
    user = f"{name} <{name}@example.com>"
    try:
        gpg(home, *then, "--passphrase", passphrase, "--quick-gen-key", user, "future-default", "default", expires)
        public = folder / f"{name}.asc"
        public.write_bytes(gpg(home, "--armor", "--export", name).stdout)
        private = gpg(home, "--passphrase", passphrase, "--armor", "--export-secret-keys", name).stdout.decode()
        rows = gpg(home, "--with-colons", "--list-keys").stdout.decode().splitlines()
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    fingerprint = next(row.split(":")[9] for row in rows if row.startswith("fpr:"))
    return PgpKey(public, Secret(private), fingerprint)


@cache
def age_key(name: str) -> AgeKey:
    """Make an age key; the same name gives the same key."""
    assert name
    text = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout
    return AgeKey(text.partition("# public key: ")[2].partition("\n")[0], Secret(text.strip()))


@cache
def ssh_key(name: str) -> AgeKey:
    """Make an ssh key, as ssh-keygen writes it."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return AgeKey(f"{public.decode()} {name}@example.com", Secret(private.decode().strip()))


def variant(name: str) -> Variant:
    """Return one way to encrypt, with keys that are made at the first use."""
    return VARIANTS[name]()


def _openpgp_passphrase() -> Variant:
    def make(*keys: Secret) -> OpenPgp:
        # Encrypts with its passphrase; decrypts with the given ones only.
        sealing = OpenPgp(passphrase=PASSPHRASE, keys=keys)
        sealing._passphrases = tuple(keys)
        return sealing

    return Variant("openpgp-passphrase", make, (PASSPHRASE,), (OTHER,))


def _openpgp_keys() -> Variant:
    first, second = pgp_key("first"), pgp_key("second")
    files = (str(first.public), str(second.public))

    def make(*keys: Secret) -> OpenPgp:
        return OpenPgp(recipients=files, keys=keys)

    return Variant("openpgp-keys", make, (second.private,), (pgp_key("third").private,))


def _age_keys() -> Variant:
    first, second = age_key("first"), age_key("second")

    def make(*keys: Secret) -> Age:
        return Age(recipients=(first.recipient, second.recipient), keys=keys)

    return Variant("age-keys", make, (first.identity,), (age_key("third").identity,))


def _age_ssh() -> Variant:
    first, second = ssh_key("first"), age_key("second")

    def make(*keys: Secret) -> Age:
        return Age(recipients=(first.recipient, second.recipient), keys=keys)

    return Variant("age-ssh", make, (first.identity,), (ssh_key("third").identity,))


def _age_passphrase() -> Variant:
    def make(*keys: Secret) -> Age:
        sealing = Age(passphrase=PASSPHRASE, keys=keys)
        sealing._passphrases = tuple(keys)
        return sealing

    return Variant("age-passphrase", make, (PASSPHRASE,), (OTHER,), slow=True)


VARIANTS: Final[dict[str, Callable[[], Variant]]] = {
    "openpgp-passphrase": _openpgp_passphrase,
    "openpgp-keys": _openpgp_keys,
    "age-keys": _age_keys,
    "age-ssh": _age_ssh,
    "age-passphrase": _age_passphrase,
}


def home_folders() -> set[str]:
    """Return the private homes of gpg that this process has, or that nobody has any more; others' come and go."""
    found = {
        path for place in ("/dev/shm", tempfile.gettempdir()) for path in Path(place).iterdir() if _HOME in path.name
    }
    for _ in range(_LOOKS):  # one that is just being made or removed has no owner either, for a moment
        found = {path for path in found if path.exists() and not _has_another(path)}
        time.sleep(_REST)
    return {path.name for path in found}


def _has_another(home: Path) -> bool:
    """Tell whether another process holds a home's lock, without touching it."""
    try:
        number = str((home / "lock").stat().st_ino)
    except OSError:
        return False
    rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    owners = {row[4] for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == number}
    return bool(owners) and str(os.getpid()) not in owners
