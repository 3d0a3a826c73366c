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
    """One object: its key relative to the store's root, and its size in bytes as the server says.

    ``checksum`` is the one of the content that the place keeps, as ``ALGORITHM:hex`` in lower case (``md5:``,
    ``sha256:``, ``crc32c:``); empty: it tells none, or none of the content alone (S3's of several parts).
    """

    key: str
    size: int
    checksum: str = ""


class PutResult(msgspec.Struct, frozen=True):
    """What the server holds after a put.

    ``proven``: it confirmed a checksum of the content, not only its size. ``durable``: it said that the content and
    its name outlast a loss of power there: by an fsync that was confirmed, or because that is what it promises by
    answering (S3 and its like).
    """

    size: int
    proven: bool
    durable: bool = False


class Properties(msgspec.Struct, frozen=True):
    """What a store can do, so that callers need not know which it is. What it cannot do is harmless to ask for.

    ``ranged_get``: a get from an offset, or of a length, moves about that much, and not the whole object.
    ``proves_content``: puts are ``proven``. ``tells_checksum``: `Store.stat` has a ``checksum`` of every object.
    ``resumes_put``: a put goes on with what an earlier one of the same key and content left, also one of a process that
    was killed. ``replaces_at_once``: while an object is replaced there is always the old or the new one under its name;
    else there is none for a moment. ``tells_room``: `Store.room` knows, if the server is one
    that tells.
    """

    ranged_get: bool = True
    proves_content: bool = False
    tells_checksum: bool = False
    resumes_put: bool = False
    replaces_at_once: bool = True
    tells_room: bool = False


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
    folder before them. What others put there is listed under whatever name it has; names with a dot in front are
    unfinished uploads, and are no objects.

    Every method may be called again after an error, and doing it again does no harm; `close` may be called twice; a
    closed store reconnects on its next use, and one whose connection was dropped while nobody used it does so unseen. A
    store is used by one thread at a time; while a `get` is read, other methods may be called. Making one connects to
    nobody. No method waits for ever: a silence of the settings' ``timeout`` is ``destination-unreachable``. Drivers
    move bytes and nothing else: trying again (`RetryingStore`) and going slowly (`ThrottledStore`) are wrapped around
    them. Memory does not grow with the object.

    All errors are `errors.StoreError` (never the driver's own; what a progress callback raises passes through), whose
    ``code`` is one of:

    - ``destination-unreachable`` (retryable): no connection, timed out, cut, name not found;
    - ``destination-auth``: wrong user, key or password (FTP 530, S3 403 on signature);
    - ``destination-not-found``: the bucket or folder does not exist and cannot be made;
    - ``destination-denied``: known to the server, but not allowed to do this;
    - ``destination-full``: no room, quota (FTP 452/552, ENOSPC, HTTP 507);
    - ``destination-tls``: the certificate or TLS session was not accepted;
    - ``destination-hostkey``: the server showed another SSH host key than the known one;
    - ``destination-mismatch`` (retryable): what arrived is not what was sent;
    - ``object-missing``: the named object does not exist (get only);
    - ``object-locked``: the place does not let it go yet (`errors.LockedError`; `delete` and `must_be_free` only);
    - ``extra-missing``: the driver's library is not installed (raised by `factory.open_store`, before anything else);
    - ``destination-failed`` (retryable): anything else.

    Messages name the place (host, bucket, folder) and never a secret; what a server answered in words is part of them.
    """

    name: str
    """The destination's name in the configuration, for messages."""
    properties: Properties

    @abstractmethod
    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Store a local file's content under ``key``: all or nothing, visible when whole, replacing what was there.

        Before it returns, whoever reads ``key`` gets what was there before (see ``Properties.replaces_at_once``), and
        lists nothing unfinished. It returns after the server has confirmed; size (and checksum where the server tells
        one) were compared, else StoreError ``destination-mismatch``. A put that failed leaves an object of that name as
        it was before. When it failed or was broken off, nothing that counts as an object is left, and nothing at all
        unless the next put of the key goes on with it, or takes it away (``Properties.resumes_put``).

        ``progress`` is called by the caller's thread, at least once a second while bytes move, with the bytes moved
        since; they add up to the size, also where an earlier put is gone on with: what need not be sent again counts
        as moved. What it raises ends the transfer: neither an object nor an unfinished upload is left then.
        """

    @abstractmethod
    def put_bytes(self, key: str, data: bytes) -> PutResult:
        """Like `put`, for a small object (a manifest) that is held in memory."""

    @abstractmethod
    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield an object's content from ``offset`` in chunks of at most 1 MiB; nothing when it ends before.

        ``length`` (1 or more) bounds how many bytes come (None: to its end); fewer come only where the object ends. It
        never ends early in silence: a cut is ``destination-unreachable``. The iterator is a generator: closing it frees
        what it holds. StoreError ``object-missing`` when there is none (raised on the first ``next`` at the latest).
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's size and, where the place keeps one, its checksum; None when it does not exist.

        None means that the place was reached and has no such object; what cannot be known is an error.
        """

    @abstractmethod
    def list(self) -> Iterator[ObjectInfo]:
        """Yield every object directly under this store's root, complete across pages, unfinished uploads left out.

        A root that does not exist yet is empty. The order is the place's own. What is put or deleted meanwhile may or
        may not be there; all else comes once each. Checksums need not be filled in. An error ends it: a list without
        one is complete.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; one that is not there is fine. Raises LockedError when the place refuses for a lock.

        After it returned, `stat` and `list` do not show the object.
        """

    def room(self) -> int | None:
        """Return how many bytes may still be written there, as far as the place tells; None: it does not."""
        return None

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
