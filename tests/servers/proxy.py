"""A TCP proxy that breaks things: cuts, freezes, drips, keeps an answer back, or notes what passes.

It listens on a loopback address (127.0.0.1) on the same port numbers that the server uses on another (127.0.0.2), so
an FTP client that follows the server's passive port comes through here too, whether it speaks TLS or not.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence

__all__ = ["BreakingProxy", "start_proxy"]


class BreakingProxy:
    """What goes wrong is told by the attributes, at any time; what went through is counted."""

    def __init__(
        self,
        target: str,
        port: int,
        data_ports: Sequence[int],
        forward_to: int,
        address: str = "127.0.0.1",
        *,
        record: bool = True,
    ) -> None:
        self.address = address
        self.port = port
        self._forward_to = forward_to
        self._record = record
        self.cuts: list[int] = []
        """Bytes towards the server after which a data connection is reset; one number for each cut to come."""
        self.cut_control = False
        """A cut ends the control connections as well."""
        self.mute_after_upload = False
        """Once a data connection has brought something to the server, the next answer on a control connection is kept
        back for ever, as a router does that has forgotten the connection."""
        self.damage = b""
        """The first byte of these, where they pass towards the main port within one read, is changed."""
        self.refuse_after: int | None = None
        """Connections to the main port are reset when they have brought so many bytes."""
        self.sent = 0
        """Bytes that clients sent on data connections."""
        self.recorded = bytearray()
        """What clients sent on the main port."""
        self.brought = 0
        """Bytes of that, also where nothing is recorded."""
        self.passed = 0
        """Bytes that went either way on any connection."""
        self.at: tuple[int, Callable[[], None]] | None = None
        """Once `passed` has reached the number this is called, once, before the bytes go on their way."""
        self.drip = 0
        """Bytes per second and connection at most, 0 for all that comes."""
        self.open_road = threading.Event()
        """While this is not set nothing passes, as when a server or a router hangs."""
        self.open_road.set()
        self._target = target
        self._data_ports = tuple(data_ports)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._control: set[socket.socket] = set()
        self._muted: set[socket.socket] = set()
        self._listeners: list[socket.socket] = []

    def start(self) -> None:
        """Listen on all ports."""
        for port in (self.port, *self._data_ports):
            listener = socket.create_server((self.address, port))
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def stop(self) -> None:
        """Close everything; it may be started again."""
        for listener in self._listeners:
            # shutdown wakes the thread that waits in accept
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._listeners.clear()
        self.open_road.set()
        self.drop_all()

    def drop_all(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            for sock in self._open:
                _reset(sock)
            self._open.clear()
            self._control.clear()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                is_data = port != self.port
                server = socket.create_connection((self._target, port if is_data else self._forward_to), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
                if not is_data:
                    self._control |= {client, server}
            up = self._send_data if is_data else self._send_control
            threading.Thread(target=self._guard, args=(up, client, server), daemon=True).start()
            down = self._pass_on if is_data else self._pass_on_unless_muted
            threading.Thread(target=self._guard, args=(down, server, client), daemon=True).start()

    def _chunks(self, source: socket.socket) -> Iterator[bytes]:
        """Yield what comes, when and as far as it may pass."""
        while chunk := source.recv(max(1, self.drip // 20) if self.drip else 16384):
            with self._lock:
                self.passed += len(chunk)
                action = None
                if self.at is not None and self.passed >= self.at[0]:
                    (_, action), self.at = self.at, None
            if action is not None:
                action()
            if self.drip:
                time.sleep(len(chunk) / self.drip)
            self.open_road.wait()
            yield chunk

    @staticmethod
    def _guard(move: object, source: socket.socket, sink: socket.socket) -> None:
        # A connection that breaks under us is what this is about; who is at its other end has to hear of it.
        try:
            move(source, sink)  # type: ignore[operator]  # one of the methods below
        except OSError:
            _reset(source)
            _reset(sink)

    def _send_data(self, client: socket.socket, server: socket.socket) -> None:
        moved = 0
        for chunk in self._chunks(client):
            with self._lock:
                self.sent += len(chunk)
                limit = self.cuts[0] if self.cuts else None
                cut = limit is not None and moved + len(chunk) >= limit
                if cut:
                    self.cuts.pop(0)
            if cut:
                assert limit is not None
                server.sendall(chunk[: limit - moved])
                self._cut(client, server)
                return
            server.sendall(chunk)
            moved += len(chunk)
        if moved and self.mute_after_upload:
            with self._lock:
                self.mute_after_upload = False
                self._muted |= self._control
        server.shutdown(socket.SHUT_WR)

    def _cut(self, client: socket.socket, server: socket.socket) -> None:
        # The server gets an orderly end and keeps what arrived; the client is told that nobody is there.
        server.shutdown(socket.SHUT_WR)
        _reset(client)
        if self.cut_control:
            # A server whose control connection goes away throws away what it has not yet read of the data.
            with contextlib.suppress(OSError):
                server.settimeout(5)
                while server.recv(16384):
                    pass
            with self._lock:
                for sock in self._control:
                    _reset(sock)
                self._control.clear()

    def _send_control(self, client: socket.socket, server: socket.socket) -> None:
        moved = 0
        for chunk in self._chunks(client):
            with self._lock:
                self.brought += len(chunk)
            if self._record:
                self.recorded += chunk
            moved += len(chunk)
            if self.refuse_after is not None and moved >= self.refuse_after:
                _reset(client)
                _reset(server)
                return
            server.sendall(self._damaged(chunk))
        server.shutdown(socket.SHUT_WR)

    def _damaged(self, chunk: bytes) -> bytes:
        at = chunk.find(self.damage) if self.damage else -1
        return chunk if at < 0 else chunk[:at] + bytes((chunk[at] ^ 1,)) + chunk[at + 1 :]

    def _pass_on_unless_muted(self, server: socket.socket, client: socket.socket) -> None:
        for chunk in self._chunks(server):
            if client not in self._muted:
                client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)

    def _pass_on(self, server: socket.socket, client: socket.socket) -> None:
        for chunk in self._chunks(server):
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def start_proxy(
    target: str,
    port: int,
    data_ports: Sequence[int] = (),
    *,
    forward_to: int | None = None,
    address: str = "127.0.0.1",
    record: bool = True,
) -> Iterator[BreakingProxy]:
    """Stand between clients on ``address`` and the server at ``target``; same ports, or ``forward_to`` for the first.

    The ports are those of ``target``, whose own address is another.
    """
    proxy = BreakingProxy(target, port, data_ports, forward_to or port, address, record=record)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # close alone does not wake a thread that waits in recv on it
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
