"""Passwords and their hashes, by bcrypt: ours, and those that the application stores. Knows no names and no files.

bcrypt looks at 72 bytes only. Ours are digested before, so that every character counts; the application's are cut off
there, as its own library does it.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import bcrypt

from nanumpay_backupd.errors import RefusedError

__all__ = ["LONGEST", "check_password", "hash_password", "matches_application", "waste"]

LONGEST: Final = 1024
"""Characters; a longer one is refused unread."""
_SHORTEST: Final = 10
_ROUNDS: Final = 12
_SCHEME: Final = "sha384-bcrypt:"
_BCRYPT_BYTES: Final = 72
_NOBODY: Final = b"$2b$12$FOTODMrL1Tt/KzZjlTWi8OJMREv4r.CpN39G8vQN3Ya/E65DuDu/y"


def hash_password(password: str) -> str:
    """Return what is stored of a password; raises RefusedError (``password-weak``) for one that is too short."""
    if len(password) < _SHORTEST or len(set(password)) < 4:
        raise RefusedError(
            f"a password has at least {_SHORTEST} characters, and not the same ones all over",
            hint="three or four words that have nothing to do with each other are easy to keep in mind",
            code="password-weak",
        )
    if len(password) > LONGEST:
        raise RefusedError(f"a password has at most {LONGEST} characters", hint="choose a shorter one")
    return _SCHEME + bcrypt.hashpw(_digest(password), bcrypt.gensalt(_ROUNDS)).decode("ascii")


def check_password(password: str, stored: str) -> bool:
    """Tell whether a password is the one of which `hash_password` made ``stored``. Takes some 200 ms of processor."""
    if not stored.startswith(_SCHEME):
        return False
    return _compare(_digest(password[:LONGEST]), stored.removeprefix(_SCHEME).encode("ascii", "replace"))


def matches_application(password: str, stored: str) -> bool:
    """Tell whether a password is the one of a bcrypt hash as the application stores it."""
    return _compare(
        password[:LONGEST].encode("utf-8", "surrogatepass")[:_BCRYPT_BYTES], stored.encode("ascii", "replace")
    )


def waste() -> None:
    """Take as long as a comparison does: who asks shall not learn from it that a name does not exist."""
    _compare(b"nobody", _NOBODY)


def _digest(password: str) -> bytes:
    return base64.b64encode(hashlib.sha384(password.encode("utf-8", "surrogatepass")).digest())


def _compare(password: bytes, stored: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, stored)
    except ValueError:  # not a hash of bcrypt, or a NUL in it
        return False
