"""The control socket from the caller's side: one call, one stream, faults as exceptions. No output, no asyncio.

Every `backupctl` command starts with importing this, so it imports next to nothing. Every call has a connection
of its own: the daemon may have been restarted since the last one, and an abandoned stream disturbs nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time

from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_USAGE,
    BackupdError,
    UnreachableError,
)

TYPE_CHECKING = False  # typing itself costs more than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

__all__ = ["DOWN", "Client", "RemoteError"]

DOWN = ".down"
"""Behind the socket's name: a file that is there while the daemon is down on purpose, although systemd listens.

Who only watches shall not start it again by connecting; who wants something may.
"""

_INTERFACE = "com.nanumpay.Backup."
_SERVICE = "org.varlink.service."
_USUAL_SOCKET = "/run/nanumpay-backupd/control.sock"
_BOOTED_BY_SYSTEMD = "/run/systemd/system"
_LOG_HINT = "look at: journalctl -u nanumpay-backupd -n 50"
_READ_SIZE = 256 << 10
_FULL_QUEUE_PAUSE = 0.02
_EXIT_BY_NAME = {
    f"{_INTERFACE}NotFound": EXIT_NOT_FOUND,
    f"{_INTERFACE}Busy": EXIT_BUSY,
    f"{_INTERFACE}Refused": EXIT_REFUSED,
    f"{_SERVICE}InvalidParameter": EXIT_USAGE,
    f"{_SERVICE}MethodNotFound": EXIT_USAGE,
}


class RemoteError(BackupdError):
    """The daemon's answer was an error; ``name`` is the Varlink error, the rest is what the daemon said of the fault.

    The code is the fault's own; for errors of the protocol itself, which carry no fault, it is ``bad-request``.
    """

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        fault = parameters.get("fault")
        if not isinstance(fault, dict):
            fault = _fault_of_protocol(name, parameters)
        super().__init__(
            str(fault.get("message") or name),
            hint=str(fault.get("hint") or ""),
            code=str(fault.get("code") or self.default_code),
            retryable=fault.get("retryable") is True,
        )
        self.name = name
        self.exit_code = _EXIT_BY_NAME.get(name, EXIT_FAILED)


class Client:
    """Calls methods of a running daemon. Safe to use from several threads; costs nothing until the first call."""

    def __init__(self, socket_path: str, timeout: float | None = 30.0) -> None:
        """``timeout`` in seconds bounds connecting, and for `call` also the whole reply; None: no bound."""
        self._path = socket_path
        self._timeout = timeout
        self._streams: set[_Link] = set()

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the reply's parameters.

        ``method`` is a short name ("GetStatus") or one with its interface. Raises RemoteError for an error reply and
        UnreachableError when there is no daemon, no permission, or no reply in time.
        """
        with _Link(self._path, method, self._timeout) as link:
            link.send(params, more=False)
            return link.receive()[0]

    def open(self, method: str, params: dict[str, Any] | None = None) -> tuple[dict[str, Any], int]:
        """As `call`, of a method that hands a file over; the descriptor is the caller's to close.

        Raises UnreachableError where none came: the daemon is older than that.
        """
        with _Link(self._path, method, self._timeout) as link:
            link.send(params, more=False)
            reply, fd = link.receive_handed()
        if fd is None:
            raise UnreachableError("the daemon handed over no file", hint=_LOG_HINT, retryable=False)
        return reply, fd

    def stream(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every reply until the daemon says that it was the last one.

        The request is sent when the first reply is asked for. ``timeout`` in seconds bounds the wait between two
        replies (None: for ever). Leaving the loop early closes the connection, which tells the daemon to stop.
        """
        link = _Link(self._path, method, self._timeout)
        self._streams.add(link)
        try:
            link.send(params, more=True)
            continues = True
            while continues:
                link.set_deadline(timeout)
                reply, continues = link.receive()
                yield reply
        finally:
            self._streams.discard(link)
            link.close()

    def close(self) -> None:
        """End the streams that are still open; the client may be used again afterwards."""
        for link in list(self._streams):
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Link:
    """One connection for one request; every socket error becomes an UnreachableError here."""

    def __init__(self, path: str, method: str, timeout: float | None) -> None:
        self._path = path
        self._method = method if "." in method else _INTERFACE + method
        self._buffer = bytearray()
        self.set_deadline(timeout)
        self._socket = self._connect()

    def set_deadline(self, timeout: float | None) -> None:
        """Give the next steps so many seconds from now (None: no bound)."""
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def send(self, params: dict[str, Any] | None, *, more: bool) -> None:
        """Write the request as one NUL-terminated message."""
        request: dict[str, Any] = {"method": self._method, "parameters": params or {}}
        if more:
            request["more"] = True
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\0")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon may have answered before it closed (too many connections): `receive` tells
        except TimeoutError:
            raise self._too_slow() from None
        except OSError as error:
            raise self._unreachable(error) from None

    def receive(self) -> tuple[dict[str, Any], bool]:
        """Return a reply's parameters and whether more replies follow; raises RemoteError for an error reply."""
        message = self._read_message()
        try:
            reply = json.loads(message)
            parameters = dict(reply.get("parameters") or {})
            name = reply.get("error")
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UnreachableError(
                f"{self._path} answered something that is not the daemon's protocol",
                hint="check that the socket's path is the one of nanumpay-backupd",
                retryable=False,
            ) from None
        if name is not None:
            raise RemoteError(str(name), parameters)
        return parameters, reply.get("continues") is True

    def receive_handed(self) -> tuple[dict[str, Any], int | None]:
        """As `receive`, with the descriptor that came along (None: none did); of an error reply it is closed."""
        found: list[int] = []
        try:
            return self._received(found), found.pop(0) if found else None
        finally:
            for fd in found:
                os.close(fd)

    def _received(self, found: list[int]) -> dict[str, Any]:
        # It comes with the first byte, and what reads that byte otherwise would lose it.
        try:
            self._socket.settimeout(self._left())
            data, found[:], _, _ = socket.recv_fds(self._socket, _READ_SIZE, 1)
        except TimeoutError:
            raise self._too_slow() from None
        except OSError:
            data = b""
        self._buffer += data
        return self.receive()[0]

    def close(self) -> None:
        """Close the connection; harmless when it is closed. A thread that waits for a reply is woken up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                link.settimeout(self._left())
                link.connect(self._path)
                return link
            except BlockingIOError:
                # Linux answers EAGAIN at once while the daemon's queue of new connections is full.
                time.sleep(_FULL_QUEUE_PAUSE)
            except TimeoutError:
                link.close()
                raise self._too_slow() from None
            except OSError as error:
                link.close()
                raise self._unreachable(error) from None
            except BaseException:
                link.close()
                raise

    def _read_message(self) -> bytes:
        scanned = 0
        while (end := self._buffer.find(b"\0", scanned)) < 0:
            scanned = len(self._buffer)
            try:
                self._socket.settimeout(self._left())
                data = self._socket.recv(_READ_SIZE)
            except TimeoutError:
                raise self._too_slow() from None
            except OSError:
                data = b""  # reset by a daemon that ends, or closed from another thread: the same to the caller
            if not data:
                raise UnreachableError(
                    f"the daemon closed the connection before it answered {self._method.removeprefix(_INTERFACE)}",
                    hint=_LOG_HINT,
                )
            self._buffer += data
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def _left(self) -> float | None:
        """Return the seconds until the deadline; raises TimeoutError when it has passed (0 would mean: do not wait)."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _too_slow(self) -> UnreachableError:
        return UnreachableError(
            f"the daemon did not answer {self._method.removeprefix(_INTERFACE)} within {self._timeout:g} s",
            hint=_LOG_HINT,
            code="daemon-timeout",
        )

    def _unreachable(self, error: OSError) -> UnreachableError:
        """Say in a sentence why there is no connection, and what to do about it."""
        if isinstance(error, FileNotFoundError):
            why = f"{self._path} does not exist"
            return UnreachableError(f"the daemon is not running: {why}", hint=_start_hint(self._path))
        if isinstance(error, ConnectionRefusedError):
            why = f"nothing listens on {self._path}"
            return UnreachableError(f"the daemon is not running: {why}", hint=_start_hint(self._path))
        if isinstance(error, PermissionError):
            return UnreachableError(
                f"this user may not talk to the daemon at {self._path}",
                hint=_permission_hint(self._path),
                code="permission-denied",
                retryable=False,
            )
        return UnreachableError(
            f"cannot connect to the daemon at {self._path}: {error.strerror or error}",
            hint="check the socket's path",
            retryable=False,
        )


def _start_hint(path: str) -> str:
    """Say how the daemon is started on this host, and where its socket may be when it runs after all."""
    start = "start it: systemctl start nanumpay-backupd (why it stopped: systemctl status nanumpay-backupd)"
    if not os.path.isdir(_BOOTED_BY_SYSTEMD):  # noqa: PTH112 - pathlib costs more than it gives here
        start = "start it: nanumpay-backupd serve (in a terminal, or as a container)"
    if path == _USUAL_SOCKET:
        return start
    return f"{start}; if it runs, name its socket ([paths] socket of its host file): --socket PATH"


def _permission_hint(path: str) -> str:
    """Name the group that opens the socket (or the folder in front of it), as far as this user may see it."""
    from pathlib import Path

    for place in (Path(path), Path(path).parent):
        try:
            group = place.group()
        except (OSError, KeyError):
            continue
        if group != "root":
            return f"use sudo, or join group {group}: sudo usermod -aG {group} $USER, then log in again"
    return "use sudo"


def _fault_of_protocol(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Put an error of Varlink itself into words; it names a method, an interface or a parameter, and no fault."""
    short = name.removeprefix(_SERVICE)
    if short == "InvalidParameter":
        reason = parameters.get("reason") or "not accepted by the daemon"
        message, hint = f"parameter {parameters.get('parameter')}: {reason}", "see: backupctl --help"
    elif short in ("MethodNotFound", "MethodNotImplemented", "InterfaceNotFound"):
        what = parameters.get("method") or parameters.get("interface")
        message = f"the running daemon does not know {what}"
        hint = "it may be older than this command; after an upgrade: systemctl restart nanumpay-backupd"
    else:
        message, hint = f"the daemon answered with error {name}", _LOG_HINT
    return {"code": "bad-request", "message": message, "hint": hint, "retryable": False}
