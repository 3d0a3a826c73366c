"""A gate before a WebDAV server (rclone) that tells checksums of what it got, the way Nextcloud or ownCloud do.

Nextcloud answers the request header ``X-Hash`` of a PUT by ``X-Hash-SHA1``; ownCloud has the property ``checksums``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["CloudGate", "start_cloud_gate"]

_SUMS: Final = (
    '<D:propstat><D:prop><o:checksums xmlns:o="http://owncloud.org/ns"><o:checksum>SHA1:{} MD5:0 ADLER32:0'
    "</o:checksum></o:checksums></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
)
_OWN: Final = ("content-length", "transfer-encoding", "connection", "date", "server")


class CloudGate:
    """``kind`` is nextcloud or owncloud; with ``damage`` one byte of what is stored is another."""

    def __init__(self, port: int, kind: str) -> None:
        self.forward = port
        self.kind = kind
        self.damage = False
        self.loses = False
        """What is moved to its name is another there."""
        self.port = 0
        self.sums: dict[str, str] = {}
        """The SHA-1 of what was stored, by its path, also where it was moved to."""


@contextlib.contextmanager
def start_cloud_gate(port: int, kind: str) -> Iterator[CloudGate]:
    """Stand before the server at a port of 127.0.0.1 until the block ends."""
    gate = CloudGate(port, kind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            _serve(gate, self)

        do_GET = do_PUT = do_DELETE = do_MOVE = do_MKCOL = do_PROPFIND = _any  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        gate.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield gate
        finally:
            server.shutdown()
            thread.join()


def _serve(gate: CloudGate, request: BaseHTTPRequestHandler) -> None:
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    if request.command == "PUT" and body:
        body = body[:-1] + bytes((body[-1] ^ gate.damage,))
    link = http.client.HTTPConnection("127.0.0.1", gate.forward, timeout=30)
    try:
        link.request(request.command, request.path, body, dict(request.headers.items()))
        answer = link.getresponse()
        content = answer.read()
        if request.command == "MOVE" and gate.loses:
            link.request("PUT", urlsplit(request.headers["Destination"]).path, b"?", _login(request))
            link.getresponse().read()
        headers = [pair for pair in answer.getheaders() if pair[0].lower() not in _OWN]
        if request.command == "PUT" and answer.status < 300:
            gate.sums[request.path] = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            if gate.kind == "nextcloud" and request.headers.get("X-Hash") == "sha1":
                headers.append(("X-Hash-SHA1", gate.sums[request.path]))
        if request.command == "PROPFIND" and gate.kind == "owncloud" and request.path in gate.sums:
            told = _SUMS.format(gate.sums[request.path]).encode()
            content = content.replace(b"</D:response>", told)
        _reply(request, answer.status, headers, content)
    finally:
        link.close()


def _login(request: BaseHTTPRequestHandler) -> dict[str, str]:
    return {"Authorization": request.headers["Authorization"]}


def _reply(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
