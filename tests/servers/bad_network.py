"""Servers at the other end of a bad network: silent, half open, reset, dripping, too busy, certificates that ended."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.servers.certs import make_certificate

__all__ = ["FAULTS", "bad_server"]

_STORM: Final = (
    b"HTTP/1.1 %s\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/xml\r\n\r\n"
)


def _silent(_link: socket.socket, stop: threading.Event) -> None:
    """Take the connection, never read from it."""
    stop.wait()


def _half_open(link: socket.socket, stop: threading.Event) -> None:
    """Read, begin an answer, and be gone without a word."""
    link.recv(4096)
    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
    stop.wait()


def _reset(link: socket.socket, _stop: threading.Event) -> None:
    """Break off in the middle of the request."""
    link.recv(100)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _drip(link: socket.socket, stop: threading.Event) -> None:
    """Answer one byte at a time, so that something always comes and nothing ever ends."""
    link.recv(4096)
    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nContent-Type: application/xml\r\n\r\n")
    while not stop.wait(0.2):
        link.sendall(b"<")


def _storm(status: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def answer(link: socket.socket, _stop: threading.Event) -> None:
        link.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while link.recv(1 << 20):
                link.sendall(_STORM % status)

    return answer


def _garbage(link: socket.socket, _stop: threading.Event) -> None:
    """Speak another protocol."""
    link.recv(100)
    link.sendall(b"\x00\xff220 nobody\r\n" * 50)


FAULTS: Final[dict[str, Callable[[socket.socket, threading.Event], None]]] = {
    "silent drop": _silent,
    "half-open": _half_open,
    "reset": _reset,
    "slow drip": _drip,
    "503 storm": _storm(b"503 Slow Down"),
    "429 storm": _storm(b"429 Too Many Requests"),
    "another protocol": _garbage,
    "expired certificate": _storm(b"200 OK"),
}


@contextlib.contextmanager
def bad_server(fault: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Serve like that until the end of the block; gives its URL and the file with the authority to trust, if any."""
    stop, links = threading.Event(), list[socket.socket]()
    context, trust = None, ""
    if fault == "expired certificate":
        certificate = make_certificate(folder, days=-0.5)
        context, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), str(certificate.authority)
        context.load_cert_chain(certificate.certificate, certificate.key)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(link: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(link):
            FAULTS[fault](context.wrap_socket(link, server_side=True) if context else link, stop)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = listening.accept()
                links.append(link)
                threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{listening.getsockname()[1]}", trust
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for link in links:
            link.close()
