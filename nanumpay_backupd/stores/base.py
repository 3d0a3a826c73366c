"""The contract of a Store, written once; drivers keep it, wrappers add retry. No driver code here."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from nanumpay_backupd.errors import StoreError

__all__ = [
    "CHUNK",
    "Keeping",
    "ObjectInfo",
    "Progress",
    "Properties",
    "PutResult",
    "Store",
    "check_key",
    "is_hidden",
    "store_error",
    "unreadable_source",
]

CHUNK: Final = 1 << 20
"""The most bytes that `Store.get` yields at once."""

_RETRYABLE: Final = frozenset({"destination-unreachable", "destination-mismatch", "destination-failed"})
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

Progress = Callable[[int], None]
"""Called with the number of bytes moved since the last call; raising from it aborts the transfer."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """One object: its key relative to the store's root, and its size in bytes as the server says."""

    key: str
    size: int


class PutResult(msgspec.Struct, frozen=True):
    """What the server holds after a put. ``proven``: it confirmed a checksum of the content, not only its size."""

    size: int
    proven: bool


class Properties(msgspec.Struct, frozen=True):
    """What a store can do, so that callers need not know which it is."""

    ranged_get: bool = True
    proves_content: bool = False
    resumes_put: bool = False


class Keeping(msgspec.Struct, frozen=True):
    """What a place keeps of objects that are deleted or replaced.

    ``versions``: the old ones stay, unless ``expiring``: then the place deletes them by itself some time. New objects
    cannot be deleted for ``locked_days``.
    """

    versions: bool = False
    expiring: bool = False
    locked_days: int = 0


def store_error(code: str, message: str, hint: str = "", *, retryable: bool | None = None) -> StoreError:
    """Make the StoreError of one of the codes listed at `Store`; whether a retry helps follows from the code."""
    return StoreError(message, hint=hint, code=code, retryable=code in _RETRYABLE if retryable is None else retryable)


def check_key(key: str) -> str:
    """Return ``key`` if it is a plain file name as `Store` asks for, else raise StoreError (not retryable)."""
    if not _KEY.fullmatch(key):
        raise store_error(
            "destination-failed",
            f"{key!r} cannot be the name of a stored object",
            "names are made of letters, digits and . _ -, do not begin with a dot, and have at most 200 characters",
            retryable=False,
        )
    return key


def is_hidden(name: str) -> bool:
    """Tell whether a name at a destination is an unfinished upload or otherwise not an object (a leading dot)."""
    return name.startswith(".")


def unreadable_source(path: Path, error: OSError) -> StoreError:
    """Make the error for a local file that was to be stored but cannot be read: the destination is not to blame."""
    return store_error(
        "destination-failed",
        f"cannot read {path} to store it: {error.strerror or error}",
        "check that the file still exists and that the service's user may read it",
        retryable=False,
    )


class Store(ABC):
    """A flat set of named objects at one place.

    Keys are plain file names: letters, digits, ``. _ -``, no slash, no dot in front; the store puts its own prefix or
    folder before them. Every method may be called again after an error; `close` may be called twice; a closed store
    reconnects on its next use. A store is used by one thread at a time. All errors are `errors.StoreError` (never the
    driver's own; what a progress callback raises passes through), whose ``code`` is one of:

    - ``destination-unreachable`` (retryable): no connection, timed out, cut, name not found;
    - ``destination-auth``: wrong user, key or password (FTP 530, S3 403 on signature);
    - ``destination-not-found``: the bucket or folder does not exist and cannot be made;
    - ``destination-denied``: known to the server, but not allowed to do this;
    - ``destination-full``: no room, quota (FTP 452/552, ENOSPC);
    - ``destination-tls``: the certificate or TLS session was not accepted;
    - ``destination-mismatch`` (retryable): what arrived is not what was sent;
    - ``object-missing``: the named object does not exist (get only);
    - ``object-locked``: the place does not let it go yet (`errors.LockedError`; `delete` and `must_be_free` only);
    - ``destination-failed`` (retryable): anything else.

    Messages name the place (host, bucket, folder) and never a secret.
    """

    name: str
    """The destination's name in the configuration, for messages."""
    properties: Properties

    @abstractmethod
    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Store a local file's content under ``key``: all or nothing, visible when whole, replacing what was there.

        Returns after the server has confirmed; size (and checksum where the server tells one) were compared, else
        StoreError ``destination-mismatch``. A put that failed leaves an object of that name as it was before.

        Several places may be given the same file at once, as a `system.shared_file.SharedFile`: whoever opens it by
        ``path.open("rb")``, or reads it by `system.shared_file.pread`, shares one reading with the others.
        """

    @abstractmethod
    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Like `put`, for a small object (a manifest) that is held in memory."""

    @abstractmethod
    def get(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """Yield an object's content from ``offset`` (bytes) in chunks of at most 1 MiB; nothing when it ends before.

        StoreError ``object-missing`` when there is none (raised on the first ``next`` at the latest).
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None when it does not exist."""

    @abstractmethod
    def list(self) -> Iterator[ObjectInfo]:
        """Yield every object directly under this store's root, complete across pages, unfinished uploads left out.

        A root that does not exist yet is empty.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; one that is not there is fine. Raises LockedError when the place refuses for a lock."""

    def must_be_free(self, key: str) -> None:  # noqa: B027 - most places have no locks
        """Raise LockedError when the place does not let an object go, as far as it tells; one that is gone is free."""

    def keeping(self) -> Keeping:
        """Say what the place does with objects that are deleted or replaced, as far as it tells; may ask the server."""
        return Keeping()

    @abstractmethod
    def close(self) -> None:
        """Drop connections; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
