"""The Varlink server on the control socket: listening, accepting, how many, closing. One caller is in `connection`.

What it promises whatever a caller does: requests of one connection are answered in order; a request is bounded in
size, a connection in idleness, all of them in number; a watcher that went away frees its generator within about a
second; an unexpected exception goes to the journal and never to a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from nanumpay_backupd import __version__
from nanumpay_backupd.control.access import Peer, is_user, may_administer
from nanumpay_backupd.control.connection import (
    SERVICE,
    Call,
    Connection,
    ExpectedMore,
    Handed,
    Handler,
    Limits,
    ProtocolError,
    Service,
)
from nanumpay_backupd.control.idl import Interface
from nanumpay_backupd.control.listener import Listener, group_differs
from nanumpay_backupd.control.wire import encode
from nanumpay_backupd.messages import Message

__all__ = [
    "GROUP_HINT",
    "Call",
    "ControlServer",
    "ExpectedMore",
    "Handed",
    "Handler",
    "Limits",
    "Peer",
    "is_user",
    "may_administer",
]

GROUP_HINT: Final = "set SocketGroup= instead: systemctl edit nanumpay-backupd.socket (drop-in socket-group.conf)"
_COMPLAIN_EVERY: Final = 60.0
_PAUSE_WITH_ROOM: Final = 0.01
_PAUSE_WITHOUT_ROOM: Final = 0.2
_log = structlog.get_logger(__name__)

_SERVICE_TEXT: Final = """\
# What every Varlink service offers.
interface org.varlink.service

# Who answers here, and with which interfaces.
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

# The definition of one interface.
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
"""


class ControlServer:
    """Serves one interface on a Unix socket. `start` it once, `close` it once, both on the same event loop."""

    def __init__(
        self,
        interface_text: str,
        handlers: Mapping[str, Handler],
        *,
        path: Path,
        mode: int = 0o660,
        group: str | None = None,
        listen_fd: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        """``handlers`` are registered by short method names; a method without one answers MethodNotImplemented.

        With ``listen_fd`` the socket comes from systemd: it must be the one at ``path``; ``mode`` and ``group`` are
        systemd's business, and where ``group`` is another one `problem` says so once it was started.
        """
        interface = Interface(interface_text)
        unknown = handlers.keys() - interface.methods.keys()
        if unknown:
            raise ValueError(f"not in {interface.name}: {', '.join(sorted(unknown))}")
        service: dict[str, Handler] = {"GetInfo": self._get_info, "GetInterfaceDescription": self._get_description}
        self._service = Service(
            name=interface.name,
            interfaces={
                SERVICE: (Interface(_SERVICE_TEXT), service),
                interface.name: (interface, dict(handlers)),
            },
            limits=limits or Limits(),
        )
        self.problem = ""
        self._where = (path, mode, group, listen_fd)
        self._listener: Listener | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Listen and accept; raises BusyError when another daemon is running, ConfigError for an unusable path."""
        path, mode, group, listen_fd = self._where
        if listen_fd is None:
            self._listener = Listener.open(path, mode=mode, group=group)
        else:
            self._listener = Listener.adopt(listen_fd, path)
            if group and group_differs(path, group):
                self.problem = f"the control socket comes from systemd, so [control] group = {group!r} has no effect"
                _log.warning(self.problem, hint=GROUP_HINT)
        self._acceptor = asyncio.create_task(self._accept(self._listener.socket), name="control-accept")

    async def close(self) -> None:
        """Stop accepting, end the streams, let other calls in progress finish within ``close_grace`` seconds."""
        if self._acceptor is not None:
            self._acceptor.cancel()
            await asyncio.wait({self._acceptor})
        if self._listener is not None:
            self._listener.close()
        self._service.stopping.set()
        for connection, task in self._connections.items():
            if not connection.busy:
                task.cancel()
        tasks = set(self._connections.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._service.limits.close_grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        complain_after = loop.time()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                # Out of descriptors or memory: somebody must end first.
                if loop.time() >= complain_after:
                    _log.error("control socket cannot accept", reason=error.strerror)
                    complain_after = loop.time() + _COMPLAIN_EVERY
                await asyncio.sleep(_PAUSE_WITH_ROOM if self._make_room() else _PAUSE_WITHOUT_ROOM)
                continue
            self._admit(accepted)
            # Accepting succeeds at once while callers queue up: give the others their turn. It also lets the new
            # one's request be seen, so that a burst of connections cannot push it out as idle.
            await asyncio.sleep(0)

    def _admit(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)  # noqa: FBT003 - its one argument
        if len(self._connections) >= self._service.limits.connections and not self._make_room():
            _turn_away(accepted, self._service.name)
            return
        connection = Connection(self._service, accepted)
        task = asyncio.create_task(connection.serve(), name="control-connection")
        self._connections[connection] = task
        task.add_done_callback(functools.partial(self._ended, connection))

    def _ended(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._connections.pop(connection, None)
        connection.close()
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("control connection failed", message=Message.DEFECT, ERROR_CODE="internal", exc_info=fault)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False when every one has a call in progress."""
        idle = [connection for connection in self._connections if not connection.busy]
        if not idle:
            return False
        longest = min(idle, key=lambda connection: connection.active)
        self._connections.pop(longest).cancel()
        _log.info("control connection closed to make room", pid=longest.peer.pid, uid=longest.peer.uid)
        return True

    async def _get_info(self, _: Call) -> dict[str, Any]:
        return {
            "vendor": "nanumpay",
            "product": "nanumpay-backupd",
            "version": __version__,
            "url": "",
            "interfaces": list(self._service.interfaces),
        }

    async def _get_description(self, call: Call) -> dict[str, Any]:
        name = call.params["interface"]
        if name not in self._service.interfaces:
            raise ProtocolError("InterfaceNotFound", interface=name)
        return {"description": self._service.interfaces[name][0].description}


def _turn_away(accepted: socket.socket, interface: str) -> None:
    """Tell a caller that there is no room, as far as that goes without waiting."""
    fault = {
        "code": "busy",
        "message": "the daemon has as many callers as it can serve",
        "hint": "try again in a moment",
        "retryable": True,
    }
    with contextlib.suppress(OSError), accepted:
        accepted.send(encode({"error": f"{interface}.Busy", "parameters": {"fault": fault}}, b"\0"))
