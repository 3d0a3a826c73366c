"""Dropbox for tests: no emulator exists, so this plays what Dropbox documents of the calls that the driver makes.

It keeps files on this disk, asks for access tokens, compares content hashes, knows revisions and upload sessions with
their offsets, and answers faults with Dropbox's words. `make test-dropbox` asks the same suite of the real service.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from nanumpay_backupd.settings.destinations import DropboxDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate

__all__ = ["DropboxServer", "start_dropbox"]

_KEY: Final = "appkeyofnanumpay"
_SECRET: Final = "appsecret-of-tests"
_TOKEN: Final = "refresh-token-of-tests"
_BLOCK: Final = 4 << 20


class _ApiError(Exception):
    """An answer 409 with a summary, and what stands beside it."""

    def __init__(self, summary: str, **error: Any) -> None:
        super().__init__(summary)
        self.body = {"error_summary": f"{summary}/...", "error": {".tag": summary.partition("/")[0], **error}}


class DropboxServer:
    """A running server. Attributes may be changed while it runs."""

    def __init__(self, endpoint: str, root: Path, ca_file: str) -> None:
        self.endpoint = endpoint
        self.root = root
        self.ca_file = ca_file
        self.tokens: set[str] = set()
        self.sessions: dict[str, bytearray] = {}
        self.revisions: dict[str, str] = {}
        self.quota = 1 << 40
        self.scopes = {"files.content.write", "files.content.read", "files.metadata.read", "account_info.read"}
        self.damage = False
        """The next chunk loses its first byte to another one."""
        self.cuts = 0
        """So many answers are lost from now on: what was asked is done, and the connection cut."""
        self.received = 0
        self.lock = threading.Lock()

    def destination(self, **changes: Any) -> DropboxDestination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "dropbox",
            "app_key": _KEY,
            "app_secret": Secret(_SECRET),
            "refresh_token": Secret(_TOKEN),
            "endpoint_url": self.endpoint,
            "ca_file": self.ca_file,
            "chunk_size": 4 << 20,
            "timeout": 20.0,
        }
        return DropboxDestination(**{**settings, **changes})

    # What each call does: its argument and content in, its answer out.

    def upload(self, argument: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Make a file of a content."""
        self._compare(argument, data)
        return self._make(argument, data)

    def start(self, argument: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Begin a session."""
        name = secrets.token_hex(8)
        self.sessions[name] = bytearray(data)
        return {"session_id": name}

    def append(self, argument: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Add to a session at its end, and nowhere else."""
        there = self._session(argument["cursor"], "")
        self._compare(argument, data)
        there += data
        return {}

    def finish(self, argument: dict[str, Any], data: bytes) -> dict[str, Any]:
        """Make a file of a session."""
        there = self._session(argument["cursor"], "lookup_failed/")
        made = self._make(argument["commit"], bytes(there) + data)
        del self.sessions[argument["cursor"]["session_id"]]
        return made

    def metadata(self, argument: dict[str, Any]) -> dict[str, Any]:
        """Describe a file or folder."""
        return self.describe(argument["path"])

    def delete(self, argument: dict[str, Any]) -> dict[str, Any]:
        """Delete a file."""
        path = self.path(argument["path"])
        if not path.is_file():
            raise _ApiError("path_lookup/not_found")
        described = self.describe(argument["path"])
        path.unlink()
        self.revisions.pop(argument["path"], None)
        return {"metadata": described}

    def listing(self, argument: dict[str, Any]) -> dict[str, Any]:
        """List a folder, or go on with that."""
        if "cursor" in argument:
            folder, start, limit = json.loads(argument["cursor"])
        else:
            folder, start, limit = argument["path"], 0, argument.get("limit", 2000)
        if folder == "/":
            raise _ApiError("path/malformed_path")
        place = self.path(folder)
        if not place.is_dir():
            raise _ApiError("path/not_found")
        names = sorted(entry.name for entry in place.iterdir())
        page = names[start : start + limit]
        return {
            "entries": [self.describe(f"{folder}/{name}", hashed=False) for name in page],
            "cursor": json.dumps([folder, start + limit, limit]),
            "has_more": start + limit < len(names),
        }

    def space(self, _: Any) -> dict[str, Any]:
        """Tell the room."""
        used = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        return {"used": used, "allocation": {".tag": "individual", "allocated": self.quota}}

    def account(self, _: Any) -> dict[str, Any]:
        """Tell whose account it is."""
        return {"email": "backup@example.com", "account_type": {".tag": "basic"}}

    def path(self, path: str) -> Path:
        """Return where a path of Dropbox is on this disk."""
        return self.root / path.lstrip("/")

    def describe(self, path: str, *, hashed: bool = True) -> dict[str, Any]:
        """Return the metadata of a file or folder."""
        place = self.path(path)
        if place.is_dir():
            return {".tag": "folder", "name": place.name}
        if not place.is_file():
            raise _ApiError("path/not_found", path={".tag": "not_found"})
        found = {".tag": "file", "name": place.name, "size": place.stat().st_size}
        if hashed:
            found |= {"rev": self.revisions.get(path, "0" * 9), "content_hash": content_hash(place.read_bytes())}
        return found

    def _session(self, cursor: dict[str, Any], where: str) -> bytearray:
        there = self.sessions.get(cursor["session_id"])
        if there is None:
            raise _ApiError(f"{where}not_found", lookup_failed={".tag": "not_found"})
        if len(there) != cursor["offset"]:
            told: dict[str, Any] = {".tag": "incorrect_offset", "correct_offset": len(there)}
            if where:
                raise _ApiError(f"{where}incorrect_offset", lookup_failed=told)
            raise _ApiError("incorrect_offset", **told)
        return there

    def _make(self, commit: dict[str, Any], data: bytes) -> dict[str, Any]:
        path = self.path(commit["path"])
        mode = commit["mode"]
        known = path.is_file() or path.is_dir()
        if (mode[".tag"] == "add" and known) or (
            mode[".tag"] == "update" and (not known or self.revisions.get(commit["path"], "0" * 9) != mode["update"])
        ):
            raise _ApiError("path/conflict/file")
        if len(data) > self.quota:
            raise _ApiError("path/insufficient_space")
        if any(folder.is_file() for folder in path.parents):
            raise _ApiError("path/conflict/file_ancestor")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.revisions[commit["path"]] = secrets.token_hex(9)
        found = self.describe(commit["path"])
        del found[".tag"]
        return found

    def _compare(self, argument: dict[str, Any], data: bytes) -> None:
        if argument.get("content_hash", content_hash(data)) != content_hash(data):
            raise _ApiError("content_hash_mismatch")

    def token(self, form: dict[str, list[str]], login: str) -> tuple[int, dict[str, Any]]:
        """Give an access token for the refresh token."""
        if login != "Basic " + base64.b64encode(f"{_KEY}:{_SECRET}".encode()).decode():
            return 400, {"error": "invalid_client", "error_description": "Invalid client_id or client_secret"}
        if form.get("refresh_token") != [_TOKEN]:
            return 400, {"error": "invalid_grant", "error_description": "refresh token is invalid or revoked"}
        token = secrets.token_urlsafe(16)
        self.tokens.add(token)
        return 200, {"access_token": token, "token_type": "bearer", "expires_in": 14400}


_CALLS: Final = {
    "files/get_metadata": ("metadata", "files.metadata.read"),
    "files/delete_v2": ("delete", "files.content.write"),
    "files/list_folder": ("listing", "files.metadata.read"),
    "files/list_folder/continue": ("listing", "files.metadata.read"),
    "users/get_space_usage": ("space", "account_info.read"),
    "users/get_current_account": ("account", "account_info.read"),
}
_UPLOADS: Final = {
    "files/upload": "upload",
    "files/upload_session/start": "start",
    "files/upload_session/append_v2": "append",
    "files/upload_session/finish": "finish",
}


@contextlib.contextmanager
def start_dropbox(
    folder: Path, certificate: Certificate | None = None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[DropboxServer]:
    """Run a server in this process that keeps its files below ``folder``; with a certificate it speaks HTTPS."""
    http = ThreadingHTTPServer((address, port), _Handler)
    http.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    root = folder / "dropbox"
    root.mkdir()
    scheme = "https" if certificate else "http"
    server = DropboxServer(
        f"{scheme}://{address}:{http.server_address[1]}", root, str(certificate.authority) if certificate else ""
    )
    http.RequestHandlerClass = partial(_Handler, server)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: DropboxServer, *args: Any) -> None:
        self.dropbox = server
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        announced = int(self.headers.get("Content-Length", "0"))
        data = self.rfile.read(announced)
        if len(data) < announced:  # cut: nothing of it is kept
            self.close_connection = True
            return
        server = self.dropbox
        code, body = 200, dict[str, Any]()
        download: tuple[int, bytes, dict[str, str]] | None = None
        with server.lock:
            server.received += len(data)
            if self.path == "/oauth2/token":
                code, body = server.token(parse_qs(data.decode()), self.headers.get("Authorization", ""))
            elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in server.tokens:
                code, body = (
                    401,
                    {"error_summary": "expired_access_token/...", "error": {".tag": "expired_access_token"}},
                )
            elif self.path == "/2/files/download":
                download = self._download(json.loads(self.headers["Dropbox-API-Arg"]))
            else:
                code, body = self._call(self.path.removeprefix("/2/"), data)
            if server.cuts and download is None:
                server.cuts -= 1
                self.close_connection = True
                return
        # Others may ask while somebody reads slowly.
        self._answer(*(download or (code, json.dumps(body).encode(), {})))

    def _call(self, name: str, data: bytes) -> tuple[int, dict[str, Any]]:
        server = self.dropbox
        method, scope = _CALLS.get(name) or (_UPLOADS[name], "files.content.write")
        if scope not in server.scopes:
            return 401, {
                "error_summary": "missing_scope/...",
                "error": {".tag": "missing_scope", "required_scope": scope},
            }
        if server.damage and data and name in _UPLOADS:
            data, server.damage = bytes([data[0] ^ 1]) + data[1:], False
        try:
            if name in _CALLS:
                return 200, getattr(server, method)(json.loads(data))
            return 200, getattr(server, method)(json.loads(self.headers["Dropbox-API-Arg"]), data)
        except _ApiError as error:
            return 409, error.body

    def _download(self, argument: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        try:
            described = self.dropbox.describe(argument["path"])
        except _ApiError as error:
            return 409, json.dumps(error.body).encode(), {}
        data = self.dropbox.path(argument["path"]).read_bytes()
        headers = {"Dropbox-API-Result": json.dumps(described)}
        wanted = self.headers.get("Range", "")
        if not wanted:
            return 200, data, headers
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        piece = data[int(first) : int(last) + 1 if last else None]
        if not piece:
            return 416, b"", {}
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}"
        return 206, piece, headers

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        # Whoever asked may have gone away.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


def content_hash(data: bytes) -> str:
    """Return Dropbox's hash of a content, worked out the short way."""
    blocks = (hashlib.sha256(data[at : at + _BLOCK]).digest() for at in range(0, len(data), _BLOCK))
    return hashlib.sha256(b"".join(blocks)).hexdigest()
