"""The program restic at work for `restic.ResticStore`: its environment, its output, its faults in our words.

No secret stands in its arguments: the repository's name and password are handed over in files of memory, logins in its
environment. Knows nothing of objects.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from nanumpay_backupd.errors import StoreError, ToolError
from nanumpay_backupd.settings.destinations import ResticDestination
from nanumpay_backupd.stores.base import CHUNK, store_error
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.process import NOTHING, Child, find_tool, secret_file
from nanumpay_backupd.system.secrets import redact

__all__ = ["BUSY", "DAMAGED", "GONE", "INSTALL", "Restic", "Running"]

INSTALL: Final = "install it: apt-get install restic (0.14 or later), or set program to where it is"
BUSY: Final = "destination-busy"
DAMAGED: Final = "object-damaged"
GONE: Final = "object-missing"
_NAP: Final = 0.5
"""Seconds between two looks at a child that is silent."""
_SIGN: Final = 4 << 10
"""Bytes that a child must have moved to count as alive: less is the talk of somebody who tries again."""
_GRACE: Final = 3.0
"""Seconds in which a child that is asked to end takes its lock away."""
_PAUSE: Final = 1.0
"""Seconds between two tries at a repository that is locked."""
_LOCKED: Final = re.compile(r"already locked (?:exclusively )?by PID (\d+) on (\S+)")
_EXITS: Final = {10: "destination-not-found", 11: BUSY, 12: "destination-auth"}
"""What restic 0.17 and later tell by their exit code."""
_SAID: Final = (
    ("destination-auth", r"wrong password or no key found|empty password|InvalidAccessKeyId|SignatureDoesNotMatch"),
    (
        "destination-auth",
        r"Access Key Id|signature we calculated|\(401\)|401 Unauthorized|Permission denied \(publickey",
    ),
    (BUSY, r"unable to create lock in backend|repository is already locked"),
    ("destination-hostkey", r"Host key verification failed"),
    ("destination-tls", r"x509: |tls: |certificate "),
    ("destination-full", r"no space left on device|quota exceeded|QuotaExceeded|\(507\)|No space left"),
    ("destination-denied", r"Access ?Denied|permission denied|\(403\)|403 Forbidden|read-only file system"),
    (GONE, r"no matching ID found|no snapshot found|not found in snapshot"),
    (DAMAGED, r"ciphertext verification failed|invalid hash|invalid data returned|does not match id"),
    (
        DAMAGED,
        r"not contained in index|not found in index|Blob ID does not match|pack ID does not match|unexpected EOF",
    ),
    ("destination-unreachable", r"connection refused|no such host|i/o timeout|connection reset|broken pipe"),
    ("destination-unreachable", r"is unreachable|no route to host|unable to start the sftp session|server misbehaving"),
    ("destination-unreachable", r"Could not resolve|timed out|TLS handshake timeout|deadline exceeded"),
)
_NO_REPOSITORY: Final = re.compile(
    r"no such file or directory|does not exist|\(404\)|object not found|NoSuchBucket|file does not exist"
)
_LOST: Final = re.compile(r"pack \S+: does not exist|Load\(<data/.*(?:no such file|does not exist|\(404\))")
"""What restic says of data that is gone; it asks for it again for minutes."""
_HINTS: Final = {
    "destination-auth": "check password, and the login of the place behind it; try it: restic snapshots",
    "destination-hostkey": "ssh does not know the host's key: put it into the known_hosts of the service's user",
    "destination-tls": "check the certificate, or name its authority with ca_file",
    "destination-full": "make room there, or keep fewer backups; what is pruned frees room once a day",
    "destination-denied": "let the login write, read, list and delete there",
    "destination-unreachable": "check the address, the network and the server",
    DAMAGED: "other copies may be good (backupctl copies); look into the repository: restic check --read-data",
    BUSY: "it is tried again; if nobody works there any more: restic unlock",
}


class Running:
    """One restic that was started; `close` always. What it writes is taken with `read`, what it is given by `write`.

    ``tick`` is called about once a second while it waits and bytes move, and may raise.
    """

    def __init__(self, link: Restic, argv: Sequence[str], doing: str, tick: Callable[[], None], *, fed: bool) -> None:
        self._link, self._doing, self._tick = link, doing, tick
        self._lines: list[str] = []
        self._out, output = os.pipe()
        # A socket, of which restic holds our end as well: only `end_input` ends what it reads, not the end of this
        # process. Else a part of a file would become a snapshot when we are killed.
        self._feed: socket.socket | None = None
        given: socket.socket | None = None
        if fed:
            self._feed, given = socket.socketpair()
        try:
            with contextlib.ExitStack() as secrets:
                extra, fds = link.environment(secrets)
                if self._feed is not None:
                    fds.append(self._feed.fileno())
                self._child = Child(
                    argv,
                    on_line=self._take,
                    stdout=output,
                    pass_fds=fds,
                    extra=extra,
                    stdin=given.fileno() if given is not None else NOTHING,
                )
        except BaseException:
            os.close(self._out)
            if self._feed is not None:
                self._feed.close()
            raise
        finally:
            os.close(output)
            if given is not None:
                given.close()
        if self._feed is not None:
            self._feed.settimeout(0.0)
        self._moved, self._since = 0, link.clock.monotonic()
        self._looked = self._since
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Give it all of ``data``; raises StoreError when it takes no more."""
        assert self._feed is not None
        view = memoryview(data)
        while view:
            poll = select.poll()
            poll.register(self._feed, select.POLLOUT)
            if poll.poll(_NAP * 1000):
                try:
                    view = view[self._feed.send(view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise self._broken() from None
            elif not self._child.running:
                # Our own copy of its end keeps the socket open.
                raise self._broken()
            self._watch()

    def end_input(self) -> None:
        """Say that nothing follows."""
        assert self._feed is not None
        self._feed.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Return what it has written, at most 1 MiB; empty: that was all."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        while not poll.poll(_NAP * 1000):
            self._watch()
        return os.read(self._out, CHUNK)

    def finish(self) -> bytes:
        """Take all that is left, wait for its end, and judge it; raises StoreError."""
        rest = b"".join(iter(self.read, b""))
        while (code := self._child.wait(_NAP)) is None:
            self._watch()
        if code != 0:
            raise self._link.fault(code, self._said, self._doing)
        return rest

    def close(self) -> None:
        """End it, so that it leaves no lock if it can be helped; may be called twice."""
        if self._ended:
            return
        self._ended = True
        # Before the socket is closed: what it was given so far must not become a snapshot.
        if self._child.running:
            self._child.interrupt()
            self._child.wait(_GRACE)
        self._child.kill()
        os.close(self._out)
        if self._feed is not None:
            self._feed.close()

    @property
    def _said(self) -> str:
        return "\n".join(self._lines[-20:])

    def _take(self, line: str) -> None:
        self._lines.append(line)
        del self._lines[:-50]

    def _broken(self) -> StoreError:
        """Return why it took no more."""
        code = self._child.wait(_GRACE)
        return self._link.fault(code if code is not None else -1, self._said, self._doing)

    def _watch(self) -> None:
        """End it when it has done nothing for too long."""
        now = self._link.clock.monotonic()
        if now - self._looked < _NAP:
            return
        self._looked, moved = now, self._child.moved
        if moved - self._moved >= _SIGN:
            self._tick()
            self._moved, self._since = moved, now
        elif now - self._since > self._link.timeout and self._child.running:
            self._child.kill()
            raise self._link.silent(self._said, self._doing)


class Restic:
    """How restic is called for one destination."""

    def __init__(self, destination: ResticDestination, clock: Clock) -> None:
        self.name = destination.name
        self.timeout = destination.timeout
        self.clock = clock
        self._settings = destination
        self._program: Path | None = None

    def environment(self, secrets: contextlib.ExitStack) -> tuple[dict[str, str], list[int]]:
        """Return what restic finds in its environment, and the descriptors that this names."""
        settings = self._settings
        repository = settings.repository
        if settings.rest_username and repository.startswith("rest:"):
            scheme, _, rest = repository.removeprefix("rest:").partition("://")
            login = f"{quote(settings.rest_username, safe='')}:{quote(settings.rest_password.reveal(), safe='')}"
            repository = f"rest:{scheme}://{login}@{rest}"
        place = secrets.enter_context(secret_file(repository))
        password = secrets.enter_context(secret_file(settings.password.reveal()))
        found = {
            "RESTIC_REPOSITORY_FILE": f"/dev/fd/{place}",
            "RESTIC_PASSWORD_FILE": f"/dev/fd/{password}",
            "RESTIC_PROGRESS_FPS": "0.2",
            "LC_ALL": "C.UTF-8",
        }
        if settings.access_key_id:
            found["AWS_ACCESS_KEY_ID"] = settings.access_key_id
            found["AWS_SECRET_ACCESS_KEY"] = settings.secret_access_key.reveal()
        found |= {name: value.reveal() for name, value in settings.variables}
        if cache := self._cache():
            found["RESTIC_CACHE_DIR"] = cache
        return found, [place, password]

    def start(
        self, args: Sequence[str], doing: str, tick: Callable[[], None] = lambda: None, *, fed: bool = False
    ) -> Running:
        """Start restic; raises StoreError (``tool-missing``)."""
        try:
            if self._program is None:
                self._program = find_tool(self._settings.program, hint=INSTALL)
            return Running(self, [str(self._program), *args, *self._options()], doing, tick, fed=fed)
        except ToolError as error:
            raise StoreError(
                f"destination {self.name!r}: {error.message}", hint=INSTALL, code="tool-missing", retryable=False
            ) from error

    def run(self, args: Sequence[str], doing: str, tick: Callable[[], None] = lambda: None) -> bytes:
        """Run restic to its end and return what it wrote; raises StoreError.

        A lock of a process of this host that is dead is taken away; one that lives is waited for, up to ``timeout``.
        """
        until = self.clock.monotonic() + self.timeout
        while True:
            try:
                with self.start(args, doing, tick) as running:
                    return running.finish()
            except StoreError as error:
                if error.code != BUSY:
                    raise
                if not self.unlock(error) and self.clock.monotonic() >= until:
                    raise
                self.clock.sleep(_PAUSE)
                tick()

    def unlock(self, error: StoreError) -> bool:
        """Take away the lock that ``error`` tells of if its process was of this host and is dead; tells whether."""
        found = _LOCKED.search(error.message)
        if found is None or found[2] != os.uname().nodename or _lives(int(found[1])):
            return False
        with self.start(["unlock"], "removing a lock that was left") as running:
            running.finish()
        return True

    def fault(self, code: int, said: str, doing: str) -> StoreError:
        """Return the fault of a restic that ended so."""
        told = " ".join(redact(said).split())[-600:]
        kind = _EXITS.get(code) or next((name for name, words in _SAID if re.search(words, said)), "")
        if kind in ("", "destination-failed", GONE) and _is_absent(said):
            kind = "destination-not-found"
        kind = kind or "destination-failed"
        ended = "was killed" if code < 0 else f"ended with exit code {code}"
        message = (
            f"destination {self.name!r}: {doing} failed at {self._settings.repository}: {told or f'restic {ended}'}"
        )
        if kind == "destination-not-found":
            return store_error(
                kind,
                f"destination {self.name!r}: there is no repository at {self._settings.repository}",
                self.how_to_init,
            )
        hint = _HINTS.get(kind, "look at what restic says; try it by hand: restic check")
        return store_error(kind, message, hint, retryable=True if kind == BUSY else None)

    def silent(self, said: str, doing: str) -> StoreError:
        """Return the fault of a restic that did nothing for too long."""
        told = redact(said).strip().rpartition("\n")[2][-300:]
        if _LOST.search(said):
            where = self._settings.repository
            message = f"destination {self.name!r}: {doing} failed at {where}: data is missing there: {told}"
            return store_error(DAMAGED, message, _HINTS[DAMAGED])
        return store_error(
            "destination-unreachable",
            f"destination {self.name!r}: {doing} at {self._settings.repository} did not go on for "
            f"{self.timeout:g} s{f' ({told})' if told else ''}",
            _HINTS["destination-unreachable"],
        )

    @property
    def how_to_init(self) -> str:
        """Return what makes the repository."""
        return (
            f"check the address (is its disk mounted?); to make a new one: restic -r {self._settings.repository} init, "
            "with the same password; or set init = true"
        )

    def _cache(self) -> str:
        return self._settings.cache or (
            f"{folder.split(':')[0]}/restic" if (folder := os.environ.get("CACHE_DIRECTORY", "")) else ""
        )

    def _options(self) -> Iterator[str]:
        settings = self._settings
        if settings.folder:
            yield "--no-cache"
        if settings.bandwidth:
            rate = max(1, settings.bandwidth >> 10)
            yield from (f"--limit-upload={rate}", f"--limit-download={rate}")
        if settings.ca_file:
            yield f"--cacert={settings.ca_file}"
        for option in settings.options:
            yield f"--option={option}"


def _is_absent(said: str) -> bool:
    return "Is there a repository at the following location" in said and _NO_REPOSITORY.search(said) is not None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
