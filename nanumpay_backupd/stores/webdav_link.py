"""One HTTP connection to a WebDAV server: requests, answers, TLS, faults. What is stored is webdav's matter."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import WebdavDestination
from nanumpay_backupd.stores.base import store_error
from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.stores.webdav_login import Login
from nanumpay_backupd.system.secrets import redact

__all__ = ["WebdavLink"]

_MOST_WORDS: Final = 64 << 10
"""Bytes of an answer that is no content which are read at most."""
_FAREWELL: Final = 2.0
"""Seconds that a server may take to notice the end of what it was sent."""
_SEEN: Final = 200
"""Letters of a server's words that are shown."""


class WebdavLink:
    """One connection, for one request at a time. After an error it is closed, and of no more use."""

    def __init__(self, settings: WebdavDestination, login: Login) -> None:
        self._settings = settings
        self._login = login
        parts = urlsplit(settings.url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self.root = quote(unquote(parts.path)).rstrip("/")
        self._http = self._connection(parts.hostname or "", parts.port, tls=parts.scheme == "https")
        self._http.auto_open = 0  # only `_dial` opens it, which looks at the certificate
        self.used = False
        """Something was answered on it: then an end of it before the next answer may be one of idleness."""

    @property
    def place(self) -> str:
        """Return where it leads, for messages."""
        return f"folder {self._settings.path or '/'} of WebDAV server {self._settings.url}"

    def url(self, path: str) -> str:
        """Return the whole address of a path below the server's root, encoded."""
        return self._origin + self.encoded(path)

    def encoded(self, path: str) -> str:
        """Return the path of a request, encoded; ``path`` is relative to the configured address."""
        return f"{self.root}/{quote(path)}" if path else f"{self.root}/"

    def ask(
        self,
        method: str,
        path: str,
        doing: str,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] = (),
        *,
        length: int = 0,
        patience: float = 0.0,
    ) -> http.client.HTTPResponse:
        """Send a request and return the answer, whose content is not read yet; raises StoreError.

        ``body`` has ``length`` bytes. ``patience`` are seconds for the answer, beside the settings' ``timeout``. What
        ``body`` raises passes through. An answer is not judged here; 401 is: where the server only says how it wants
        to be told who we are, it is told so, once.
        """
        request = (method, path, headers or {}, body, length)
        try:
            answer = self._exchange(request, doing, patience)
            if answer.status != 401:
                return answer
            if not self._login.learn(answer.headers.get_all("WWW-Authenticate") or ()):
                raise self.fault(answer, doing)
            self.words(answer, doing)
            if not isinstance(body, Collection):
                raise store_error(
                    "destination-failed",
                    self._message(doing, "the server asked for another login in the middle"),
                    "try again: it is known from now on",
                )
            answer = self._exchange(request, doing, patience)
            if answer.status == 401:
                raise self.fault(answer, doing)
        except BaseException:
            self._break_off()
            raise
        return answer

    def _exchange(
        self, request: tuple[str, str, Mapping[str, str], Iterable[bytes], int], doing: str, patience: float
    ) -> http.client.HTTPResponse:
        with self._faults(doing):
            self._dial()
            self._send(*request)
            self._http.sock.settimeout(self._settings.timeout + patience)
            answer = self._http.getresponse()
            if self._http.sock is not None:  # it is with the answer when that is the last one
                self._http.sock.settimeout(self._settings.timeout)
            self.used = True
        return answer

    def words(self, answer: http.client.HTTPResponse, doing: str) -> bytes:
        """Read what else an answer says, so that the connection can be used again; returns its beginning."""
        found = b""
        with self._faults(doing):
            while chunk := answer.read(_MOST_WORDS):
                found = found or chunk
        if answer.will_close:
            self.close()
        return found

    def content(self, answer: http.client.HTTPResponse, size: int, doing: str) -> Iterator[bytes]:
        """Yield an answer's content, ``size`` bytes at once at most; raises StoreError where it ends early."""
        while True:
            with self._faults(doing):
                chunk = answer.read(size)
                # Of an answer of known length this Python calls an early end none.
                if not chunk and answer.length:
                    raise ConnectionError(f"the answer ended {answer.length} bytes early")
            if not chunk:
                return
            yield chunk

    def close(self) -> None:
        """Drop the connection."""
        self._http.close()

    def _break_off(self) -> None:
        """Drop the connection in the middle of something, once the server has seen that nothing more comes.

        Else what is asked next, by another connection, could come before it has put down what it got.
        """
        sock = self._http.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.settimeout(_FAREWELL)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(_MOST_WORDS):
                    pass
        self.close()

    @property
    def closed(self) -> bool:
        """Tell whether nothing more can be asked on it, after something was."""
        return self.used and not self._is_open

    @property
    def _is_open(self) -> bool:
        return self._http.sock is not None

    def fault(self, answer: http.client.HTTPResponse, doing: str) -> StoreError:
        """Make the error for an answer that is none of those that were hoped for; reads the rest of it."""
        said = b""
        with contextlib.suppress(StoreError):
            said = self.words(answer, doing)
        text = " ".join(said.decode("utf-8", errors="replace").split()) if b"<" not in said else ""
        code, hint, retryable = _judged(answer, self._settings)
        reason = f"{answer.status} {answer.reason}" + (f": {text[:_SEEN]}" if text else "")
        return store_error(code, self._message(doing, reason), hint, retryable=retryable)

    def _connection(self, host: str, port: int | None, *, tls: bool) -> http.client.HTTPConnection:
        timeout = self._settings.timeout
        if not tls:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        if self._settings.tls_fingerprint:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # exactly one certificate is accepted, whoever signed it: see _dial
        else:
            try:
                context = ssl.create_default_context(cafile=self._settings.ca_file or None)
            except OSError as error:
                raise store_error(
                    "destination-tls",
                    f"destination {self._settings.name!r}: ca_file {self._settings.ca_file} is of no use: "
                    f"{error.strerror or error}",
                    "ca_file is a PEM file with the certificate of the server's authority, readable by the service",
                ) from error
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)

    def _dial(self) -> None:
        if self._is_open:
            return
        self._http.connect()
        if not isinstance(self._http.sock, ssl.SSLSocket) or not self._settings.tls_fingerprint:
            return
        shown = hashlib.sha256(self._http.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if shown != self._settings.tls_fingerprint:
            raise ssl.SSLCertVerificationError(
                f"its certificate has the fingerprint {shown}, which is not the pinned one"
            )

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: Iterable[bytes], length: int) -> None:
        connection = self._http
        connection.putrequest(method, self.encoded(path))
        connection.putheader("User-Agent", "nanumpay-backupd")
        login = self._login.header(method, self.encoded(path), must=not isinstance(body, Collection))
        if login is not None:
            connection.putheader("Authorization", login)
        for name, value in headers.items():
            connection.putheader(name, value)
        if length or method == "PUT":
            connection.putheader("Content-Length", str(length))
        connection.endheaders()
        try:
            for chunk in body:
                connection.send(chunk)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            # A server that has enough says why before it hangs up; that is read next, if it is there.
            if not length:
                raise

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn the library's and the system's errors into ours."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(error, doing) from error
        except ssl.SSLError as error:
            hint = "does the server speak TLS at that port? then check the network"
            retry = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            code = "destination-unreachable" if retry else "destination-tls"
            raise store_error(code, self._message(doing, plain(error)), hint) from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", "") or plain(error)
            hint = "check url, network and firewall; does the server run?"
            raise store_error("destination-unreachable", self._message(doing, reason), hint) from error

    def _untrusted(self, error: ssl.SSLCertVerificationError, doing: str) -> StoreError:
        reason = error.verify_message if getattr(error, "verify_message", "") else str(error)
        hint = "ca_file names its authority, tls_fingerprint pins a self-signed one; is it the right server?"
        found = "" if self._settings.tls_fingerprint else self._ask_fingerprint()
        if found:
            reason += f" (SHA-256 fingerprint {found})"
            hint = (
                "name the file of the server's certificate authority in ca_file, or, if its administrator confirms "
                f"that this is the server's, pin it: tls_fingerprint = {found!r}"
            )
        return store_error("destination-tls", self._message(doing, reason), hint)

    def _ask_fingerprint(self) -> str:
        """Fetch the certificate of a server that is not trusted, to show it; nothing else is sent there."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        where = (self._http.host, self._http.port)
        try:
            with (
                socket.create_connection(where, self._settings.timeout) as plain,
                context.wrap_socket(plain, server_hostname=self._http.host) as sock,
            ):
                return hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
        except (OSError, ValueError):
            return ""

    def _message(self, doing: str, reason: str) -> str:
        return f"destination {self._settings.name!r}: {doing} failed in {self.place}: {redact(reason)}"


def _judged(answer: http.client.HTTPResponse, settings: WebdavDestination) -> tuple[str, str, bool | None]:
    """Return code, hint and whether a retry helps (None: as the code says) of an answer."""
    status = answer.status
    if status == 401:
        scheme = (answer.getheader("WWW-Authenticate") or "Basic").split()[0]
        hint = "check username and password; Nextcloud wants an app password"
        if scheme.lower() not in ("basic", "digest"):
            hint = f"it wants {scheme}, only Basic and Digest are known"
        return "destination-auth", hint, None
    if 300 <= status < 400:
        return "destination-failed", f"write url as it says: {answer.getheader('Location') or 'another'}", False
    if status == 413:
        return "destination-failed", "the server or a proxy before it limits the size (client_max_body_size)", False
    known = {
        400: ("destination-not-found", "check url and path: is there a file where the path wants a folder?"),
        403: ("destination-denied", f"let {settings.username or 'everybody'} write, read and delete in that folder"),
        404: ("destination-not-found", "check url and path: is it the address for WebDAV?"),
        405: ("destination-failed", "is it the address for WebDAV, may be written to, and has room?"),
        409: ("destination-not-found", "check url and path: what is above the folder has to exist"),
        423: ("destination-failed", "somebody has locked it"),
        507: ("destination-full", "make room there, or keep fewer backups"),
    }
    code, hint = known.get(status, ("destination-failed", "see the server's log"))
    return code, hint, None
