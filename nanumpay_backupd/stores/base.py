"""The contract of a Store, written once; drivers keep it, wrappers add retry. No driver code here."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Protocol, Self

import msgspec

from nanumpay_backupd.errors import StoreError

__all__ = [
    "CHUNK",
    "WORTH_RESUMING",
    "Finding",
    "Keeping",
    "Notes",
    "ObjectInfo",
    "Progress",
    "Properties",
    "PutResult",
    "Resumed",
    "ShortNotes",
    "Store",
    "aside_name",
    "check_key",
    "is_hidden",
    "left_behind",
    "part_key",
    "part_name",
    "store_error",
    "unreadable_source",
    "worth_keeping",
]

CHUNK: Final = 1 << 20
"""The most bytes that `Store.get` yields at once."""

WORTH_RESUMING: Final = 1 << 20
"""What an earlier put left is gone on with from this size; below, sending it again is as quick as looking."""

_PART: Final = ".part"
_LONGEST: Final = 800
_MENDED_BY_PEOPLE: Final = frozenset({"destination-auth", "destination-denied", "destination-tls"})
_RETRYABLE: Final = frozenset({"destination-unreachable", "destination-mismatch", "destination-failed"})
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

Progress = Callable[[int], None]
"""Called with the number of bytes moved since the last call; raising from it aborts the transfer."""


class Resumed(int):
    """For `Progress`: so many bytes were there already, left by an earlier try and proven. They did not move now."""


class Notes(Protocol):
    """What a driver writes down about its unfinished uploads, by the object's key: an upload id, a session's address.

    It outlives the process where the caller sees to that (`pipeline.unfinished`), and may be gone or be older than the
    place: a driver believes none of it without asking the place. At most some hundred KiB each; may hold what gives
    access to that one upload, so it is kept as privately as a password. Used by the thread that calls `Store.put`.
    """

    def read(self, key: str) -> bytes | None:
        """Return what was written last, or None."""

    def write(self, key: str, note: bytes | None) -> None:
        """Keep a note in the place of the one before; None: forget it."""

    def keys(self) -> Iterable[str]:
        """Return the keys of which there is a note, for `Store.sweep`."""


class ShortNotes:
    """Notes that live as long as this object: for stores that nobody gave others."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}

    def read(self, key: str) -> bytes | None:
        """Return what was written last, or None."""
        return self._notes.get(key)

    def write(self, key: str, note: bytes | None) -> None:
        """Keep a note, or forget it."""
        if note is None:
            self._notes.pop(key, None)
        else:
            self._notes[key] = note

    def keys(self) -> Iterable[str]:
        """Return the keys of which there is a note."""
        return tuple(self._notes)


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
    ``resumed`` of the bytes were there from an earlier put that had been broken off, and were not sent again.
    """

    size: int
    proven: bool
    durable: bool = False
    resumed: int = 0


class Properties(msgspec.Struct, frozen=True):
    """What a store can do, so that callers need not know which it is. What it cannot do is harmless to ask for.

    ``ranged_get``: a get from an offset, or of a length, moves about that much, and not the whole object.
    ``proves_content``: puts are ``proven``. ``tells_checksum``: `Store.stat` has a ``checksum`` of every object.
    ``resumes_put``: a put goes on with what an earlier one of the same key and content left, also one of a process that
    was killed; where it ``needs_notes``, by those of the earlier one alone (the place tells nobody of its unfinished
    uploads). ``forgets``: what is left there the place itself removes within some days, and nobody can before, so that
    `Store.sweep` has nothing to do. ``replaces_at_once``: while an object is replaced there is always the old or the
    new one under its name; else there is none for a moment. ``tells_room``: `Store.room` knows, if the server is one
    that tells. ``checks_itself``: `Store.check` looks over all objects at once, for less than reading each takes.
    """

    ranged_get: bool = True
    proves_content: bool = False
    tells_checksum: bool = False
    resumes_put: bool = False
    needs_notes: bool = False
    forgets: bool = False
    replaces_at_once: bool = True
    tells_room: bool = False
    checks_itself: bool = False


class Keeping(msgspec.Struct, frozen=True):
    """What a place keeps of objects that are deleted or replaced.

    ``versions``: the old ones stay, unless ``expiring``: then the place deletes them by itself some time. New objects
    cannot be deleted for ``locked_days``.
    """

    versions: bool = False
    expiring: bool = False
    locked_days: int = 0


class Finding(msgspec.Struct, frozen=True):
    """Something about a place that is worth telling: ``topic`` in a word or two, ``state`` ok, warning or failed.

    ``hint`` is what to do about it, or what is advised.
    """

    topic: str
    state: str
    message: str
    hint: str = ""


def store_error(code: str, message: str, hint: str = "", *, retryable: bool | None = None) -> StoreError:
    """Make the StoreError of one of the codes listed at `Store`; whether a retry helps follows from the code.

    What a server said may be anything: what cannot be printed is left out, and a page of text cut short.
    """
    if not message.isprintable() or len(message) > _LONGEST:
        message = " ".join("".join(c if c.isprintable() else " " for c in message[: 2 * _LONGEST]).split())
        message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
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


def part_name(key: str) -> str:
    """Return the name under which an object grows at a place of files, until it is whole and gets its own."""
    return f".{key}{_PART}"


def part_key(name: str) -> str | None:
    """Return of which object a file's name is the `part_name`, None: of none."""
    key = name[1 : -len(_PART)]
    return key if name == part_name(key) and _KEY.fullmatch(key) else None


def aside_name(key: str) -> str:
    """Return the name of an object that steps aside where a file cannot be renamed onto another."""
    return f".{key}.old"


def left_behind(names: Iterable[str]) -> dict[str, str]:
    """Return what of a folder's files may be left of puts that were broken off, with the key that each is of.

    Those are unfinished uploads, and objects that stepped aside for another, once that one is there.
    """
    all_of_them = set(names)
    parts = {name: key for name in all_of_them if (key := part_key(name)) is not None}
    aside = {aside_name(key): key for key in all_of_them if not is_hidden(key)}
    return parts | {name: key for name, key in aside.items() if name in all_of_them}


def worth_keeping(error: BaseException) -> bool:
    """Tell whether a put that ended so may be gone on with: not where there is no room, or nothing to read here."""
    return (
        not isinstance(error, StoreError)
        or (error.retryable and error.code != "destination-mismatch")
        or (error.code in _MENDED_BY_PEOPLE)
    )


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
    - ``object-damaged``: the place itself says that what it holds is damaged (`get`, `check`);
    - ``destination-busy`` (retryable): others work there who must not be disturbed;
    - ``tool-missing``: the program that the driver runs is not installed;
    - ``destination-failed`` (retryable): anything else.

    Messages name the place (host, bucket, folder) and never a secret; what a server answered in words is part of them.
    """

    name: str
    """The destination's name in the configuration, for messages."""
    properties: Properties
    rights: Mapping[str, str] = MappingProxyType({})
    """What this kind of place calls the right to ``put``, ``list``, ``get`` and ``delete`` an object; see `doctor`."""

    @abstractmethod
    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        """Store a local file's content under ``key``: all or nothing, visible when whole, replacing what was there.

        Before it returns, whoever reads ``key`` gets what was there before (see ``Properties.replaces_at_once``), and
        lists nothing unfinished. It returns after the server has confirmed; size (and checksum where the server tells
        one) were compared, else StoreError ``destination-mismatch``. A put that failed leaves an object of that name as
        it was before. When it failed or was broken off, nothing that counts as an object is left, and nothing at all
        unless the next put of the key goes on with it, or takes it away (``Properties.resumes_put``).

        The next put of that key goes on as far as what is there is proven to be the beginning of this file (compared
        with it, or by checksums of the place), reports that to ``progress`` as `Resumed`, and begins anew otherwise.
        `sweep` removes what nobody went on with.

        ``progress`` is called by the caller's thread, at least once a second while bytes move, with the bytes moved
        since; they add up to the size, also where an earlier put is gone on with: what need not be sent again counts
        as moved. What it raises ends the transfer, and what was brought stays to be gone on with: so a run ends when
        the daemon is stopped.

        Several places may be given the same file at once, as a `system.shared_file.SharedFile`: whoever opens it by
        ``path.open("rb")``, or reads it by `system.shared_file.pread`, shares one reading with the others.
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

    def sweep(self, before: datetime, ours: Callable[[str], bool]) -> tuple[str, ...]:  # noqa: ARG002
        """Remove unfinished uploads that were begun, or last added to, ``before`` (UTC); returns their keys.

        Only those whose key is ``ours``: others may use the place too. Where puts leave nothing, there is nothing.
        """
        return ()

    def survey(self, key: str) -> tuple[Finding, ...]:  # noqa: ARG002
        """Look at how the place is set up; what it does not tell is a Finding, not an error.

        ``key`` is of no object, and may be used to try rights out; nothing of it stays.
        """
        return ()

    def check(self, tick: Callable[[], None]) -> None:  # noqa: B027 - most places keep each object by itself
        """Let the place compare all that it holds with what it should (``Properties.checks_itself``).

        ``tick`` is called now and then, and may raise. Raises StoreError (``object-damaged``) where something is wrong:
        which objects that concerns tells only a `get` of each.
        """

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
