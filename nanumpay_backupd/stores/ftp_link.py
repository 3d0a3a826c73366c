"""One FTP or FTPS connection: login, TLS with session reuse, transfers, what replies mean. No rules of storing."""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import FtpDestination
from nanumpay_backupd.stores.base import CHUNK, store_error
from nanumpay_backupd.system.secrets import redact

__all__ = ["REFUSED", "FtpLink", "classify_reply"]

REFUSED: Final = ("550", "553")
"""Replies that mean: not there, or not allowed; FTP does not tell which."""
_UNKNOWN: Final = ("500", "501", "502", "504")
_CONNECT_TIMEOUT: Final = 10.0
_REASON_TIMEOUT: Final = 3.0
"""Seconds to wait on the control connection for the reason why the data connection broke."""
_DATA: Final = 256 << 10
_TIME: Final = re.compile(r"\b(\d{14})\b")
_CHECKSUMS: Final = {"XSHA512": "sha512", "XSHA256": "sha256", "XSHA1": "sha1", "XMD5": "md5"}
_CHECKSUM_TIMEOUT: Final = 600.0
"""Seconds; a server reads some 100 MB of a file in one."""

_FULL: Final = re.compile(
    r"no space|space left|quota|disk (is )?full|(not enough|insufficient) (disk |storage )?space", re.IGNORECASE
)
# What vsftpd says when a write fails; it does not pass on why, and a full disk is nearly always the reason.
_FULL_PERHAPS: Final = re.compile(r"writing to local file", re.IGNORECASE)
_DENIED: Final = re.compile(r"permission|privilege|denied|not allowed|read.?only", re.IGNORECASE)
_TLS: Final = re.compile(r"\b(ssl|tls|encrypt\w*|session reuse|prot p)\b", re.IGNORECASE)
# proftpd says no more than this of a disk that is full.
_BROKEN_OFF: Final = re.compile(r"transfer aborted\W+input/output error", re.IGNORECASE)
# vsftpd gives nothing, and calls that done.
_UNREADABLE: Final = re.compile(r"failed to open directory", re.IGNORECASE)
_BUSY: Final = re.compile(r"too many|maximum|try again|busy", re.IGNORECASE)

_NETWORK_HINT: Final = (
    "check host, port and firewall; FTP also needs the server's passive ports (ask its administrator)"
)
_LOGIN_HINT: Final = "check user name and password, and that the account may log in from this host"
_ROOM_HINT: Final = "make room on the FTP server, raise the quota, or keep fewer backups"
_RIGHTS_HINT: Final = "let this user create, write, rename and delete in that folder"
_TLS_HINT: Final = "does the server want FTPS? then secure has to be true; does it not offer it? then false"


_CUT: Final = ("destination-unreachable", _NETWORK_HINT)
_TLS_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""How TLS calls a connection that ended without its good-bye."""

Phase = Literal["tls", "login", "session"]


def classify_reply(reply: str, phase: Phase = "session") -> tuple[str, str, bool | None]:
    """Return our code, a hint and whether a retry helps (None: as usual for the code) for a 4xx or 5xx reply.

    ``phase`` is where it came: a refusal while TLS begins is about TLS, one while logging in about the user.
    """
    number = reply[:3]
    if number in ("452", "552") or _FULL.search(reply):
        return "destination-full", _ROOM_HINT, None
    if number == "451" and (_FULL_PERHAPS.search(reply) or _BROKEN_OFF.search(reply)):
        return "destination-full", f"most likely the server's disk is full: {_ROOM_HINT}", None
    if number in ("421", "425", "426", "430", "530") and _BUSY.search(reply):
        return "destination-unreachable", "the server has too many connections; it is tried again", None
    refused_tls = number in ("522", "533", "534", "536") or (phase == "tls" and number != "421")
    if refused_tls or (_TLS.search(reply) and (phase == "login" or number in ("425", "426", "431"))):
        return "destination-tls", _TLS_HINT, None
    if number in ("421", "425", "426"):
        return "destination-unreachable", _NETWORK_HINT, None
    if number in ("430", "530", "532") or (phase == "login" and number in ("331", "332", *REFUSED)):
        return "destination-auth", _LOGIN_HINT, None
    if number in REFUSED:
        return "destination-denied", _RIGHTS_HINT, None
    # vsftpd's last word before the process of a session ends; while logging in it is about its configuration.
    died = phase == "session" and reply.startswith("500 OOPS")
    return "destination-failed", "see the FTP server's own log", died or number.startswith("4")


class FtpLink:
    """A connection that is logged in and set to binary. After a StoreError ``destination-unreachable`` it is of no use.

    All errors are StoreError. Making one connects, which may take ``timeout`` seconds for each step.
    """

    def __init__(self, settings: FtpDestination) -> None:
        self._settings = settings
        server = f"{'FTPS' if settings.secure else 'FTP'} server {settings.host}:{settings.port}"
        self._place = f"{server}, folder {settings.path}" if settings.path else server
        self._phase: Phase = "login"
        self.features: frozenset[str] = frozenset()
        self.refusal = ""
        """The last reply that `ask` was told to accept as a refusal."""
        self.entered = False
        """For the user of this connection to note that it stands in the destination's folder."""
        self._owed = False  # the server still has to say how a transfer ended
        self._ftp = _Client(timeout=settings.timeout, context=self._tls_context())
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, doing: str, refusals: Sequence[str] = ()) -> str | None:
        """Send a command and return the reply, or None when its number is one of ``refusals``."""
        with self._faults(doing):
            try:
                return self._ftp.sendcmd(command)
            except (ftplib.error_perm, ftplib.error_temp) as error:
                if str(error)[:3] not in refusals:
                    raise
                self.refusal = redact(str(error))
                return None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file in the current folder, or None when there is no such file."""
        reply = self.ask(f"SIZE {name}", f"asking for the size of {name}", REFUSED)
        if reply is None:
            return None
        with self._faults(f"asking for the size of {name}"):
            return int(reply[3:].strip())

    def modified(self, name: str) -> datetime | None:
        """Return when a file was written to last (UTC), None where the server does not say (RFC 3659, 3)."""
        if "MDTM" not in self.features:
            return None
        reply = self.ask(f"MDTM {name}", f"asking for the time of {name}", (*REFUSED, *_UNKNOWN)) or ""
        found = _TIME.search(reply)
        return datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC) if found else None

    def checksum(self, name: str) -> tuple[str, str] | None:
        """Return a checksum of a file as the server works it out: algorithm (for hashlib) and hex; None: it does not.

        There is no standard; these commands are what servers have. A large file takes them long.
        """
        for command, algorithm in _CHECKSUMS.items():
            if command not in self.features:
                continue
            assert self._ftp.sock is not None
            self._ftp.sock.settimeout(max(_CHECKSUM_TIMEOUT, self._settings.timeout))
            reply = self.ask(f"{command} {name}", f"asking for a checksum of {name}", (*REFUSED, *_UNKNOWN, "556"))
            self._ftp.sock.settimeout(self._settings.timeout)
            length = 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size
            found = re.search(rf"\b[0-9a-f]{{{length}}}\b", (reply or "").lower())
            if found:
                return algorithm, found[0]
        return None

    def upload(
        self, command: str, doing: str, rest: int | None, chunks: Iterable[bytes], sent: Callable[[int], None]
    ) -> None:
        """Send data with STOR (from byte ``rest``) or APPE; ``sent`` gets the size of each chunk given to the network.

        Returns when the server has confirmed. What ``sent`` or ``chunks`` raise passes through.
        """
        data = self._data(command, doing, rest)
        try:
            for chunk in chunks:
                try:
                    data.sendall(chunk)
                except OSError as error:
                    data.close()
                    self._explain_break(doing, ConnectionError(f"the data connection broke: {error.strerror or error}"))
                sent(len(chunk))
            _shut(data)
        finally:
            data.close()
        self._conclude(doing)

    def download(self, name: str, doing: str, offset: int = 0) -> Iterator[bytes]:
        """Yield a file's content from ``offset`` until the server ends it; the caller compares the length."""
        data = self._data(f"RETR {name}", doing, offset or None)
        try:
            yield from self._read(data, doing)
        finally:
            data.close()
        self._conclude(doing)

    def lines(self, command: str, doing: str, refusals: Sequence[str] = ()) -> tuple[str, ...] | None:
        """Return the lines of a listing, or None when the server refuses the command with one of ``refusals``."""
        try:
            data = self._data(command, doing, None, refusals)
        except _RefusedError as refused:
            # Nothing to list, or nothing that may be: an empty answer would be taken for an empty folder.
            if _DENIED.search(str(refused)):
                raise self._no_listing(doing, redact(str(refused))) from refused
            return None
        try:
            text = b"".join(self._read(data, doing))
        finally:
            data.close()
        reply = self._conclude(doing)
        if not text and _UNREADABLE.search(reply):
            raise self._no_listing(doing, redact(reply))
        return tuple(text.decode("utf-8", errors="replace").splitlines())

    def abandon(self, name: str) -> None:
        """Delete an upload that was broken off by us, if the connection still lets us. Best effort, never raises."""
        with contextlib.suppress(OSError, EOFError, ftplib.Error, ValueError):
            self._hurry()
            if self._owed:
                with contextlib.suppress(ftplib.Error):
                    self._ftp.voidresp()
            self._ftp.sendcmd(f"DELE {name}")

    def close(self) -> None:
        """Say good-bye, without waiting for an answer: the server may be gone."""
        with contextlib.suppress(OSError, EOFError, ftplib.Error):
            if self._ftp.sock is not None:
                self._hurry()
                self._ftp.putcmd("QUIT")
        self._ftp.close()

    def fault(self, doing: str, reply: str) -> StoreError:
        """Make the error for a refusal (550) that turned out to matter."""
        code, hint, retryable = classify_reply(reply)
        return store_error(code, self._message(doing, reply), hint, retryable=retryable)

    def _no_listing(self, doing: str, reply: str) -> StoreError:
        return store_error("destination-denied", self._message(doing, reply), "let this user list that folder")

    def _open(self) -> None:
        settings, ftp = self._settings, self._ftp
        doing = "connecting"
        with self._faults(doing):
            ftp.reach(settings.host, settings.port)
            if settings.secure:
                self._phase = "tls"
                ftp.auth()
                ftp.check_pin = self._check_pin
                self._check_pin(ftp.sock)
                self._phase = "login"
        doing = f"logging in as {settings.username or 'anonymous'}"
        with self._faults(doing):
            ftp.login(settings.username, settings.password.reveal(), secure=False)
            if settings.secure:
                ftp.prot_p()
        self._phase = "session"
        features = self.ask("FEAT", doing, (*_UNKNOWN, "530", "550")) or ""
        self.features = frozenset(
            line.split()[0].upper() for line in features.splitlines() if line.startswith(" ") and line.strip()
        )
        if "UTF8" in self.features:
            self.ask("OPTS UTF8 ON", doing, (*_UNKNOWN, "550", "451"))
        self.ask("TYPE I", doing)

    def _data(self, command: str, doing: str, rest: int | None, refusals: Sequence[str] = ()) -> socket.socket:
        """Open a data connection for a command; _RefusedError when the reply's number is one of ``refusals``."""
        with self._faults(doing):
            try:
                data = self._ftp.transfercmd(command, rest)
                self._owed = True
                return data
            except (ftplib.error_perm, ftplib.error_temp) as error:
                if str(error)[:3] not in refusals:
                    raise
                raise _RefusedError(str(error)) from error
            except ssl.SSLError as error:
                self._explain_break(doing, error)

    def _read(self, data: socket.socket, doing: str) -> Iterator[bytes]:
        with data.makefile("rb", buffering=_DATA) as stream:
            while True:
                with self._faults(doing):
                    chunk = stream.read(CHUNK)
                if not chunk:
                    break
                yield chunk
        _shut(data)

    def _explain_break(self, doing: str, error: OSError) -> NoReturn:
        """Raise the server's own reason for a broken data connection, if it gives one, else ``error``."""
        with self._faults(doing):
            try:
                self._hurry()
                self._ftp.voidresp()
            except (OSError, EOFError):
                pass
            raise error

    def _conclude(self, doing: str) -> str:
        """Read how the transfer ended, and return it."""
        with self._faults(doing):
            reply = self._ftp.voidresp()
        self._owed = False
        return reply

    def _hurry(self) -> None:
        if self._ftp.sock is not None:
            self._ftp.sock.settimeout(min(_REASON_TIMEOUT, self._settings.timeout))

    def _tls_context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError as error:
            raise store_error(
                "destination-tls",
                f"destination {settings.name!r}: ca_file {settings.ca_file} cannot be used: {error.strerror or error}",
                "ca_file is a PEM file with the certificate of the server's authority, readable by the service's user",
            ) from error
        # Many servers end a data connection without TLS's good-bye; what was cut short is found by comparing sizes.
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        if settings.tls_fingerprint or not settings.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _check_pin(self, sock: socket.socket | None) -> None:
        pin = self._settings.tls_fingerprint.replace(":", "").strip().lower()
        if not pin:
            return
        found = _fingerprint(sock)
        if found != pin:
            raise store_error(
                "destination-tls",
                f"destination {self._settings.name!r}: the certificate of {self._place} has the fingerprint {found},"
                f" not the pinned {pin}",
                "if the server got a new certificate, set tls_fingerprint to the new one; else somebody is in between",
            )

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn the library's and the system's errors into ours."""
        try:
            yield
        except (ftplib.error_perm, ftplib.error_temp, ftplib.error_reply) as error:
            code, hint, retryable = classify_reply(str(error), self._phase)
            raise store_error(code, self._message(doing, str(error)), hint, retryable=retryable) from error
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(error) from error
        except (*_TLS_CUT, EOFError) as error:
            reason = "the connection was cut"
            raise store_error("destination-unreachable", self._message(doing, reason), _NETWORK_HINT) from error
        except ssl.SSLError as error:
            reason = f"TLS failed: {error.reason or error}"
            # Once TLS was agreed upon on the control connection, what makes no sense later was cut short.
            code, hint = ("destination-tls", _TLS_HINT) if self._phase == "tls" else _CUT
            raise store_error(code, self._message(doing, reason), hint) from error
        except OSError as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise store_error("destination-unreachable", self._message(doing, reason), _NETWORK_HINT) from error
        except (ftplib.error_proto, ValueError) as error:  # no FTP server, or a line break in a setting
            reason = f"not understood: {error}"
            raise store_error(
                "destination-failed", self._message(doing, reason), "is it an FTP server?", retryable=False
            ) from error

    def _message(self, doing: str, reason: str) -> str:
        return redact(f"destination {self._settings.name!r}: {doing} failed at {self._place}: {reason}")

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> StoreError:
        found = self._ask_fingerprint()
        hint = "name the file of the server's certificate authority in ca_file"
        if found:
            hint += (
                f", or, if its administrator confirms that this is the server's, pin it: tls_fingerprint = {found!r}"
            )
        shown = f" (SHA-256 fingerprint {found})" if found else ""
        reason = f"the certificate is not trusted: {error.verify_message}{shown}"
        return store_error("destination-tls", self._message("connecting", reason), hint)

    def _ask_fingerprint(self) -> str:
        """Fetch the certificate of a server that is not trusted, to show it; nothing else is sent there."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        probe = _Client(timeout=min(_CONNECT_TIMEOUT, self._settings.timeout), context=context)
        try:
            probe.reach(self._settings.host, self._settings.port)
            probe.auth()
            return _fingerprint(probe.sock)
        except (OSError, EOFError, ValueError, ftplib.Error):
            return ""
        finally:
            probe.close()


class _RefusedError(Exception):
    """The server refused a command in a way that the caller expected."""


class _Client(ftplib.FTP_TLS):
    """The standard library's client, for FTP and FTPS alike, with what FTPS servers of today ask for added."""

    check_pin: Callable[[socket.socket | None], None] | None = None

    def reach(self, host: str, port: int) -> None:
        """Connect and read the greeting, which may be in any character set."""
        self.host, self.port = host, port
        limit = self.timeout or _CONNECT_TIMEOUT
        self.sock = socket.create_connection((host, port), min(_CONNECT_TIMEOUT, limit))
        self.sock.settimeout(self.timeout)
        # During a long transfer nothing is said here; routers forget connections that are silent.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding=self.encoding, errors="replace")
        self.welcome = self.getresp()

    def auth(self) -> str:
        """Begin TLS on the control connection."""
        reply = self.voidcmd("AUTH TLS")
        assert self.sock is not None
        self.sock = self.context.wrap_socket(self.sock, server_hostname=self.host)
        # A new reader: what somebody in between may have slipped in before TLS is forgotten.
        self.file = self.sock.makefile("r", encoding=self.encoding, errors="replace")
        return reply

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Open a data connection; over TLS it resumes the control connection's session, which servers insist on."""
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if not isinstance(self.sock, ssl.SSLSocket):
            return data, size
        try:
            data = self.context.wrap_socket(data, server_hostname=self.host, session=self.sock.session)
            if self.check_pin is not None:
                self.check_pin(data)
        except BaseException:
            data.close()
            raise
        return data, size


def _fingerprint(sock: socket.socket | None) -> str:
    certificate = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    return hashlib.sha256(certificate or b"").hexdigest()


def _shut(data: socket.socket) -> None:
    """Say good-bye in TLS and read the other's: closing with unread session tickets would reset the connection."""
    if isinstance(data, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            data.unwrap()
