"""A session with an SSH server for its files: logging in, host keys, waiting, faults. What is stored is sftp's matter.

asyncssh runs in a loop of its own that turns only within a call: no thread, and whoever calls sets the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import asyncssh
from asyncssh.sftp import SFTPClient

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import SftpDestination
from nanumpay_backupd.stores.base import store_error
from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.processor import has_aes
from nanumpay_backupd.system.secrets import redact

__all__ = ["Session"]

_TICK: Final = 1.0
"""Seconds between two calls of a progress callback while nothing comes back."""
_FAREWELL: Final = 1.0
"""Seconds that the end of a connection may take; a server that is gone does not answer."""
_RSA: Final = ("rsa-sha2-512", "rsa-sha2-256")
_FAST: Final = "^aes256-gcm@openssh.com,aes128-gcm@openssh.com"
"""Asked for before the others that asyncssh takes: there a packet takes a third of the time of chacha20-poly1305."""
_DENIED: Final = (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)
_FULL: Final = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_MISSING: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory)
_LOST: Final = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError, OSError)

T = TypeVar("T")


class Session:
    """One connection, until it is closed; ``client`` is there once `open` returned. Used by one thread at a time."""

    client: SFTPClient

    def __init__(self, settings: SftpDestination, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        # Requests on their way fail with their connection; those that asyncssh made of ours would be told as forgotten.
        self._loop.set_exception_handler(lambda *_: None)
        # A name that nobody answers for blocks its thread, which the end does not wait for.
        self._resolver = ThreadPoolExecutor(1, thread_name_prefix="sftp-name")
        self._loop.set_default_executor(self._resolver)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._witness = _Witness(settings.host_key)
        self.closed = False

    @property
    def place(self) -> str:
        """Return where it leads, for messages."""
        settings = self._settings
        return f"folder {settings.path or '.'} of SFTP server {settings.host}:{settings.port}"

    def open(self) -> None:
        """Connect and log in; raises StoreError, after which the session is closed."""
        try:
            self.run(self._dial(), "connecting")
        except BaseException:
            self.close()
            raise

    def run(self, action: Coroutine[Any, Any, T], doing: str) -> T:
        """Return what ``action`` does, which takes one answer of the server or few; raises StoreError."""
        if self.closed:
            action.close()
            raise self._gone(doing)
        task = self._loop.create_task(action)
        self.wait((task,), doing)
        return self.result(task, doing)

    def start(self, action: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something that goes on whenever the session is waited for."""
        return self._loop.create_task(action)

    def wait(
        self,
        tasks: Collection[asyncio.Task[Any]],
        doing: str,
        tick: Callable[[int], None] | None = None,
        *,
        patience: float = 0.0,
        pulse: Callable[[], int] | None = None,
    ) -> set[asyncio.Task[Any]]:
        """Return those that are done, at least one. ``tick`` gets 0 once a second meanwhile, and may raise.

        Raises StoreError when none is for the settings' ``timeout``, or for ``patience`` seconds where that is more,
        since ``pulse`` last gave another number. Whatever is raised, all of them are ended then.
        """
        try:
            if self.closed:
                raise self._gone(doing)
            silent_since, beat = self._clock.monotonic(), 0
            while True:
                done, _ = self._loop.run_until_complete(
                    asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
                )
                if done:
                    return done
                if tick is not None:
                    tick(0)
                if pulse is not None and pulse() != beat:
                    silent_since, beat = self._clock.monotonic(), pulse()
                limit = max(self._settings.timeout, patience)
                if self._clock.monotonic() - silent_since >= limit:
                    raise self.fault(TimeoutError(f"no answer for {limit:.0f} s"), doing)
        except BaseException:
            self.drop(tasks)
            raise

    def result(self, task: asyncio.Task[T], doing: str) -> T:
        """Return what a task that is done brought; raises StoreError, or what is no fault of the server."""
        try:
            return task.result()
        except (asyncssh.Error, OSError, UnicodeError, asyncio.CancelledError) as error:
            raise self.fault(error, doing) from error

    def drop(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """End tasks, whatever comes of them."""
        if self._loop.is_closed() or not tasks:
            return
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(tasks, timeout=_FAREWELL))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen, so that nobody tells it as forgotten

    def close(self) -> None:
        """Say good-bye, without waiting long; may be called twice."""
        if self.closed:
            return
        self.closed = True
        connection = self._connection
        if connection is not None:
            connection.close()
            with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
                self._loop.run_until_complete(asyncio.wait_for(connection.wait_closed(), _FAREWELL))
            connection.abort()
        self.drop(asyncio.all_tasks(self._loop))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._resolver.shutdown(wait=False)
        self._loop.close()

    def fault(self, error: BaseException, doing: str) -> StoreError:
        """Make the StoreError of what went wrong with the server."""
        return self._made(*_judged(error, self._settings), doing, _reason(error))

    def missing_folder(self, doing: str, error: StoreError) -> StoreError:
        """Make the error for a folder that does not exist and cannot be made."""
        hint = "check the path: without a slash in front it begins at the login's own folder"
        return store_error("destination-not-found", error.message, f"{hint} ({doing})")

    def _made(self, code: str, hint: str, retryable: bool | None, doing: str, reason: str) -> StoreError:  # noqa: FBT001
        name = self._settings.name
        message = f"destination {name!r}: {doing} failed in {self.place}: {redact(reason)}"
        return store_error(code, message, hint, retryable=retryable)

    def _gone(self, doing: str) -> StoreError:
        return self._made("destination-unreachable", "try again", None, doing, "the connection was closed")

    async def _dial(self) -> None:
        settings = self._settings
        try:
            self._connection = await asyncio.wait_for(self._login(), settings.timeout)
        except asyncssh.HostKeyNotVerifiable:
            raise self._unknown_host() from None
        try:
            self.client = await asyncio.wait_for(
                self._connection.start_sftp_client(path_encoding="utf-8", path_errors="replace"), settings.timeout
            )
        except (asyncssh.ChannelOpenError, asyncssh.SFTPError) as error:
            raise self._made(
                "destination-denied",
                "let this user use SFTP: Subsystem sftp internal-sftp in sshd_config, and a shell or ForceCommand",
                None,
                "asking for SFTP",
                _reason(error),
            ) from error

    async def _login(self) -> asyncssh.SSHClientConnection:
        settings = self._settings
        return await asyncssh.connect(
            settings.host,
            settings.port,
            config=None,  # of nobody's home: what is done stands in the host file
            client_factory=lambda: self._witness,
            username=settings.username,
            password=settings.password.reveal() or None,
            client_keys=[self._key()] if settings.private_key else None,
            agent_path=None,
            known_hosts=self._known_hosts(),
            server_host_key_algs=self._witness.algorithms or (),
            gss_host=None,
            compression_algs=None,
            encryption_algs=_FAST if has_aes() else (),
            connect_timeout=settings.timeout,
            login_timeout=settings.timeout,
        )

    def _known_hosts(self) -> asyncssh.SSHKnownHosts | tuple[list[str], list[str], list[str]]:
        """Return what the file of known hosts says; without one no host is known but by `_Witness`."""
        file = self._settings.known_hosts
        if not file:
            return [], [], []
        try:
            return asyncssh.read_known_hosts(file)
        except (OSError, ValueError) as error:
            reason = f"known_hosts {file} cannot be read: {_reason(error)}"
            hint = "it is a file as ssh-keyscan writes it, and the service's user has to be able to read it"
            raise self._made("destination-hostkey", hint, None, "connecting", reason) from error

    def _key(self) -> asyncssh.SSHKey:
        settings = self._settings
        try:
            return asyncssh.import_private_key(
                settings.private_key.reveal() + "\n", settings.passphrase.reveal() or None
            )
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            # The library's words may quote the key.
            wrong = isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error)
            reason = "private_key cannot be decrypted with passphrase" if wrong else "private_key is not a private key"
            raise self._made(
                "destination-auth", "look at it with: ssh-keygen -y -f FILE", None, "logging in", reason
            ) from None

    def _unknown_host(self) -> StoreError:
        settings, shown = self._settings, self._witness.shown
        what = f"it showed the key {shown}" if shown else "it showed none that can be used"
        known = settings.known_hosts or ", ".join(settings.host_key)
        if known:
            reason = f"{what}, which is not the known one ({known})"
        else:
            reason = f"{what}, and neither host_key nor known_hosts says which is right"
        return self._made(
            "destination-hostkey",
            "compare it on the server (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) before it is pinned as "
            "host_key; a changed key may mean that somebody is in between",
            None,
            "connecting",
            reason,
        )


class _Witness(asyncssh.SSHClient):
    """Compares the key that a server shows with the pinned ones, and remembers it."""

    def __init__(self, pinned: tuple[str, ...]) -> None:
        self._pinned = frozenset(pinned)
        self.shown = ""
        kinds = [key.partition(" ")[0] for key in pinned if not key.startswith("SHA256:")]
        # Of keys the type is known, so that the server shows no other one; of fingerprints it is not.
        self.algorithms: tuple[str, ...] = ()
        if kinds and len(kinds) == len(pinned):
            self.algorithms = tuple(name for kind in kinds for name in (_RSA if kind == "ssh-rsa" else (kind,)))

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        """Tell whether the key is a pinned one; asked only when known_hosts does not know it."""
        fingerprint = key.get_fingerprint("sha256").rstrip("=")
        public = " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])
        self.shown = f"{public.partition(' ')[0]} {fingerprint}"
        return bool(self._pinned & {fingerprint, public})


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "the connection was closed"
    text = plain(error) if isinstance(error, _LOST) else getattr(error, "reason", "") or str(error)
    return str(text) or type(error).__name__


def _judged(error: BaseException, settings: SftpDestination) -> tuple[str, str, bool | None]:
    """Return code, hint and whether a retry helps (None: as the code says) of what asyncssh or the system raised."""
    if isinstance(error, asyncssh.PermissionDenied):
        way = "private_key belongs into ~/.ssh/authorized_keys there" if settings.private_key else "check the password"
        return "destination-auth", f"check username; {way}; the server's log says more", None
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return "destination-failed", "the server knows only algorithms that are no longer safe: update it", False
    if isinstance(error, _DENIED):
        return "destination-denied", f"let {settings.username} write, read and delete in that folder", None
    if isinstance(error, _FULL):
        return "destination-full", "make room there, or keep fewer backups", None
    if isinstance(error, _MISSING):
        return "destination-not-found", "check the path", None
    if isinstance(error, (*_LOST, asyncio.CancelledError)):
        return "destination-unreachable", "check host, port, network and firewall; is sshd running there?", None
    return "destination-failed", "see the log of sshd there", None
