"""Where messages arrive in tests: a mail server (aiosmtpd), a web server that keeps what it is sent, a silent one.

Each keeps its port when it is stopped and started again, as a service that was away does.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.servers.process import free_port

__all__ = ["MAIL_PASSWORD", "MAIL_USER", "MailServer", "Request", "WebServer", "silent_server"]

MAIL_USER: Final = "ops"
MAIL_PASSWORD: Final = "correct-horse-battery"


@dataclass
class Request:
    """One request: its path with the query, and its body as text."""

    path: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class WebServer:
    """A web server that takes everything, or answers with ``status``; ``reply`` is its body."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200
        self.reply = b"ok"
        self.requests: list[Request] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Return its address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Begin to listen."""
        own = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's name
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                own.requests.append(Request(self.path, body, dict(self.headers)))
                self.send_response(own.status)
                self.send_header("Content-Length", str(len(own.reply)))
                if own.status in {301, 302, 307}:
                    self.send_header("Location", f"{own.url}/elsewhere")
                self.end_headers()
                self.wfile.write(own.reply)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening; may be called twice."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def paths(self, below: str = "/") -> list[str]:
        """Return the paths that were asked for, without their queries."""
        return [item.path.partition("?")[0] for item in list(self.requests) if item.path.startswith(below)]


class MailServer:
    """A mail server that demands a login; with ``refusal`` it refuses every recipient in these words."""

    def __init__(self) -> None:
        self.port = free_port()
        self.refusal = ""
        self.mails: list[EmailMessage] = []
        self._controller: Controller | None = None

    def address(self, password: str = MAIL_PASSWORD, to: str = "admin@example.com") -> str:
        """Return apprise's address of it."""
        return f"mailto://{MAIL_USER}:{password}@127.0.0.1:{self.port}?from=backup@example.com&to={to}"

    def start(self) -> Self:
        """Begin to listen."""
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=_authenticate,
            auth_required=True,
            auth_require_tls=False,
        )
        self._controller.start()
        return self

    def stop(self) -> None:
        """Stop listening; may be called twice."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _: Any) -> str:
        """Take or refuse a recipient (aiosmtpd's name)."""
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Keep a mail (aiosmtpd's name)."""
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    good = (data.login, data.password) == (MAIL_USER.encode(), MAIL_PASSWORD.encode())
    return AuthResult(success=good, handled=good)  # what is not handled gets a 535


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Yield the port of a server that accepts connections and never says a word."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=50)) as server:
        yield server.getsockname()[1]
