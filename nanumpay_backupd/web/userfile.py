"""The local users and the tokens: two small JSON files that root and the service write. No passwords, only hashes.

They are written by `nanumpay-backup-web user` and `token` (by way of ``backupctl``) and read again whenever they
changed, so that nothing has to be restarted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError
from nanumpay_backupd.system.files import make_private_dir, read_json_bytes, write_new
from nanumpay_backupd.system.files import rename as rename_durably
from nanumpay_backupd.web.passwords import hash_password
from nanumpay_backupd.web.people import ROLES, SCOPES

__all__ = ["Token", "Tokens", "User", "Users"]

_LIMIT: Final = 1 << 20
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_PREFIX: Final = "nbt_"


class User(msgspec.Struct, frozen=True):
    """A local user; ``hash`` is of `passwords.hash_password`."""

    name: str
    role: str
    hash: str
    made: datetime
    changed: datetime


class Token(msgspec.Struct, frozen=True):
    """A token of the API: its name, what it may, and the SHA-256 of its secret. ``until``: it ends then."""

    name: str
    scopes: tuple[str, ...]
    digest: str
    made: datetime
    until: datetime | None = None


T = TypeVar("T", User, Token)


class _File(Generic[T]):
    """A list of records with names, in a file of mode 0600 that belongs to whom its folder belongs to."""

    def __init__(self, path: Path, kind: type[T], what: str) -> None:
        self._path = path
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._what = what
        self._stamp: tuple[int, int, int] | None = None
        self._records: dict[str, T] = {}

    def all(self) -> dict[str, T]:
        """Return the records by name, as the file has them now; raises BackupdError (``web-state``)."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._records = None, {}
            return {}
        except OSError as error:
            raise self._unusable(error.strerror or "") from None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._records = self._load(found.st_mode)
            self._stamp = stamp
        return self._records

    def _load(self, mode: int) -> dict[str, T]:
        if mode & 0o077:
            raise self._unusable(f"others may read it; run: chmod 600 {self._path}")
        try:
            data = read_json_bytes(self._path, limit=_LIMIT) or b"[]"
            return {record.name: record for record in cast("list[T]", self._decoder.decode(data))}
        except (OSError, msgspec.DecodeError) as error:
            raise self._unusable(str(error)) from None

    def _save(self, records: dict[str, T]) -> None:
        folder = self._path.parent
        temporary = folder / f".{self._path.name}.{secrets.token_hex(8)}.tmp"
        try:
            make_private_dir(folder, mode=0o700)
            owner = folder.stat()
            write_new(temporary, msgspec.json.format(msgspec.json.encode(list(records.values())), indent=2), mode=0o600)
            try:
                if os.geteuid() == 0:
                    os.chown(temporary, owner.st_uid, owner.st_gid, follow_symlinks=False)
                rename_durably(temporary, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from None

    def remove(self, name: str) -> None:
        """Take one out; raises NotFoundError."""
        records = dict(self.all())
        if records.pop(name, None) is None:
            raise NotFoundError(f"there is no {self._what} {name!r}", hint=f"see: backupctl {self._command} list")
        self._save(records)

    @property
    def _command(self) -> str:
        return "web-user" if self._what == "user" else "token"

    def _unusable(self, why: str) -> BackupdError:
        return BackupdError(
            f"{self._path} cannot be used: {why}",
            hint=f"who may change it is root and the page's service user; see: backupctl {self._command} --help",
            code="web-state",
        )


class Users(_File[User]):
    """The local users."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, User, "user")

    def add(self, name: str, role: str, password: str, now: datetime) -> None:
        """Add one; raises RefusedError for a name, role or password that cannot be."""
        name = check_name(name)
        if role not in ROLES:
            raise RefusedError(f"there is no role {role!r}", hint=f"the roles are: {', '.join(ROLES)}")
        if name in self.all():
            raise RefusedError(
                f"there is a user {name!r} already", hint=f"another password: backupctl web-user password {name}"
            )
        self._save({**self.all(), name: User(name, role, hash_password(password), now, now)})

    def change(self, name: str, password: str, now: datetime) -> None:
        """Give one another password; raises NotFoundError, RefusedError."""
        user = self.all().get(name)
        if user is None:
            raise NotFoundError(f"there is no user {name!r}", hint="see: backupctl web-user list")
        changed = msgspec.structs.replace(user, hash=hash_password(password), changed=now)
        self._save({**self.all(), name: changed})


class Tokens(_File[Token]):
    """The tokens."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Token, "token")

    def create(self, name: str, scopes: tuple[str, ...], now: datetime, until: datetime | None) -> str:
        """Make one; returns its secret, which is shown this once. Raises RefusedError."""
        name = check_name(name)
        if not scopes or set(scopes) - set(SCOPES):
            raise RefusedError(
                f"a token cannot have: {', '.join(sorted(set(scopes) - set(SCOPES))) or 'no scope at all'}",
                hint=f"scopes: {', '.join(SCOPES)}; restoring and deleting take a person with a password",
            )
        if name in self.all():
            raise RefusedError(f"there is a token {name!r} already", hint=f"first: backupctl token revoke {name}")
        secret = _PREFIX + secrets.token_urlsafe(32)
        self._save({**self.all(), name: Token(name, scopes, _digest(secret), now, until)})
        return secret

    def find(self, secret: str, now: datetime) -> Token | None:
        """Return the token of a secret, None: there is none, or it has ended."""
        if not secret.startswith(_PREFIX) or len(secret) > 100:
            return None
        digest = _digest(secret)
        for token in self.all().values():
            if hmac.compare_digest(token.digest, digest):
                return token if token.until is None or now < token.until else None
        return None


def check_name(name: str) -> str:
    """Return a name of a user or token in lower case; raises RefusedError."""
    lower = name.strip().lower()
    if not _NAME.fullmatch(lower):
        raise RefusedError(
            f"{name!r} cannot be a name",
            hint="letters, digits and . _ @ -, at most 64, beginning with a letter or digit",
        )
    return lower


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
