"""A gate before an S3 server without locks (rclone): it answers what is asked about locks, and refuses what is locked.

It says and does what Ceph's radosgw does for the same requests (`make test-s3-lock` runs the same tests there), as far
as the tests go: no versions are kept behind it.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

__all__ = ["LockGate", "start_lock_gate"]

_LOCKING: Final = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{}</ObjectLockConfiguration>"
_RULE: Final = "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>{}</Days></DefaultRetention></Rule>"
_ERROR: Final = "<Error><Code>{}</Code><Message>{}</Message></Error>"
_LIFECYCLE: Final = (
    "<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>"
    "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>"
    "</LifecycleConfiguration>"
)


class LockGate:
    """What the bucket is like, to be changed at any time; ``asked`` is what clients asked, as ``METHOD path?query``."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.endpoint = ""
        self.locking = True
        self.lock_days = 0
        self.versions = False
        self.expiring = False
        self.secretive = False
        """It tells nobody of locks, neither of the bucket's nor of an object's: a key without the rights to ask."""
        self.locks: dict[str, datetime | None] = {}
        """When the lock of an object ends, by its name without the prefix; None: it is on legal hold."""
        self.asked: list[str] = []

    def locked(self, path: str) -> bool:
        """Tell whether an object may not be deleted now."""
        name = path.rpartition("/")[2]
        until = self.locks.get(name)
        return name in self.locks and (until is None or until > datetime.now(UTC))

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, str] | None:
        """Answer a question about the bucket itself; None: the server behind does."""
        if "object-lock" in query:
            if self.secretive:
                return 403, _ERROR.format("AccessDenied", "")
            if not self.locking:
                return 404, _ERROR.format("ObjectLockConfigurationNotFoundError", "")
            return 200, _LOCKING.format(_RULE.format(self.lock_days) if self.lock_days else "")
        if "versioning" in query:
            status = "<Status>Enabled</Status>" if self.versions else ""
            return 200, f"<VersioningConfiguration>{status}</VersioningConfiguration>"
        if "lifecycle" in query:
            return (200, _LIFECYCLE) if self.expiring else (404, _ERROR.format("NoSuchLifecycleConfiguration", ""))
        return None


@contextlib.contextmanager
def start_lock_gate(upstream: str) -> Iterator[LockGate]:
    """Stand before the server at ``upstream`` (http) until the block ends."""
    gate = LockGate(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            _serve(gate, self)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        gate.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield gate
        finally:
            server.shutdown()
            thread.join()


def _serve(gate: LockGate, request: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(request.path)
    gate.asked.append(f"{request.command} {parts.path}{f'?{parts.query}' if parts.query else ''}")
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    own = gate.answer(parts.path, parse_qs(parts.query, keep_blank_values=True)) if request.command == "GET" else None
    if request.command == "DELETE" and gate.locked(parts.path):
        own = 403, _ERROR.format("AccessDenied", "forbidden by object lock")
    _note_lock(gate, request, parts.path)
    if own is not None:
        _reply(request, own[0], [("Content-Type", "application/xml")], own[1].encode())
        return
    link = http.client.HTTPConnection(urlsplit(gate.upstream).netloc, timeout=30)
    try:
        # With the headers as they are, the name of the host too: they are signed.
        link.request(request.command, request.path, body, dict(request.headers.items()))
        answer = link.getresponse()
        content = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if not name.lower().startswith(_OWN)]
        if request.command == "HEAD":
            headers += [("Content-Length", answer.getheader("Content-Length") or "0"), *_lock_headers(gate, parts.path)]
        _reply(request, answer.status, headers, content)
    finally:
        link.close()


_OWN: Final = ("content-length", "transfer-encoding", "connection", "date", "server", "x-amz-object-lock")
"""Headers that the gate writes itself; rclone gives back those of locks as it was given them."""


def _note_lock(gate: LockGate, request: BaseHTTPRequestHandler, path: str) -> None:
    """Lock what is stored with a lock, or begun in parts with one."""
    until = request.headers.get("x-amz-object-lock-retain-until-date")
    if request.command in ("PUT", "POST") and until:
        gate.locks[path.rpartition("/")[2]] = datetime.fromisoformat(until).astimezone(UTC)


def _lock_headers(gate: LockGate, path: str) -> list[tuple[str, str]]:
    name = path.rpartition("/")[2]
    if gate.secretive or name not in gate.locks:
        return []
    until = gate.locks[name]
    if until is None:
        return [("x-amz-object-lock-legal-hold", "ON")]
    return [
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-retain-until-date", f"{until:%Y-%m-%dT%H:%M:%S}.000000000Z"),
    ]


def _reply(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    if request.command != "HEAD":
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
