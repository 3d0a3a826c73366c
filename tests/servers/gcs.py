"""Google Cloud Storage for tests: gcp-storage-emulator, and before it what it lacks, as Google documents it.

The emulator (PyPI) keeps buckets, objects and resumable uploads. It asks for no login, ignores preconditions, gives all
names in one page and answers errors without a body; here are access tokens for a signed assertion of the service
account, ``ifGenerationMatch``, pages, ``X-Goog-Hash`` of the last chunk, chunks of 256 KiB, finished and cancelled
sessions, retention, and errors in Google's words.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qs, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

from nanumpay_backupd.settings.destinations import GcsDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate

__all__ = ["GcsServer", "start_gcs"]

_BUCKET: Final = "backups"
_ACCOUNT: Final = "backup@project.iam.gserviceaccount.com"
_PAGE: Final = 1000
_STEP: Final = 256 << 10


class GcsServer:
    """A running server with one bucket. Attributes may be changed while it runs."""

    def __init__(self, endpoint: str, ca_file: str) -> None:
        self.endpoint = endpoint
        self.ca_file = ca_file
        self.bucket = _BUCKET
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket(_BUCKET, self.storage)
        self.storage.buckets[_BUCKET]["softDeletePolicy"] = {"retentionDurationSeconds": "0"}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.lock = threading.Lock()
        self.tokens: set[str] = set()
        self.conditions: dict[str, str] = {}
        """The generation that a session may replace, by its id."""
        self.finished: dict[str, str] = {}
        self.held: dict[str, datetime] = {}
        """Until when an object is retained, by its name in the bucket."""
        self.denied: set[str] = set()
        """Methods that the account may not use (403), such as DELETE; LIST is to list objects."""
        self.keys: set[str] = set()
        """The keys of Cloud KMS by which clients wanted objects encrypted."""
        self.damage = False
        """The next content that arrives loses its first byte to another one."""
        self.asked: list[str] = []
        """What clients asked, as ``METHOD path``."""

    def destination(self, **changes: Any) -> GcsDestination:
        """Return settings that reach this server; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "google",
            "bucket": self.bucket,
            "service_account": self.account(self.key),
            "endpoint_url": self.endpoint,
            "ca_file": self.ca_file,
            "chunk_size": 5 << 20,
            "timeout": 20.0,
        }
        return GcsDestination(**{**settings, **changes})

    def account(self, key: rsa.RSAPrivateKey, key_id: str = "key-1") -> Secret:
        """Return the text of a key file."""
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        info = {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": key_id,
            "private_key": pem.decode(),
            "client_email": _ACCOUNT,
            "token_uri": f"{self.endpoint}/token",
        }
        return Secret(json.dumps(info))

    def here(self) -> dict[str, dict[str, Any]]:
        """Return all objects of the bucket as the server describes them, by their names."""
        found: dict[str, dict[str, Any]] = self.storage.objects.setdefault(self.bucket, {})
        return found

    def content(self, name: str) -> bytes:
        """Return what an object holds."""
        return bytes(self.storage.get_file(self.bucket, name))

    def plant(self, name: str, data: bytes) -> None:
        """Make an object without asking the server."""
        made = objects._make_object_resource(self.endpoint, self.bucket, name, "text/plain", str(len(data)))
        path = self.storage._object_path(self.bucket, name)
        self.storage._store.write_bytes(path, data)
        self.here()[name] = objects._checksums(data, made)

    def token(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Answer who wants an access token for an assertion that is signed with the account's key."""
        head, payload, signature = form["assertion"][0].split(".")
        try:
            self.key.public_key().verify(
                _unpadded(signature), f"{head}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        assert json.loads(_unpadded(payload))["iss"] == _ACCOUNT
        token = secrets.token_urlsafe(24)
        self.tokens.add(token)
        return 200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}


@contextlib.contextmanager
def start_gcs(certificate: Certificate | None = None, address: str = "127.0.0.1", port: int = 0) -> Iterator[GcsServer]:
    """Run a server in this process; with a certificate it speaks HTTPS."""
    http = ThreadingHTTPServer((address, port), _Handler)
    http.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "https" if certificate else "http"
    server = GcsServer(
        f"{scheme}://{address}:{http.server_address[1]}", str(certificate.authority) if certificate else ""
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


class _Handler(emulator.RequestHandler):
    protocol_version = "HTTP/1.1"
    rfile: BinaryIO

    def __init__(self, server: GcsServer, *args: Any) -> None:
        self.gcs = server
        super().__init__(server.storage, *args)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        request = emulator.Request(self, method)
        response = emulator.Response(self)
        self.gcs.asked.append(f"{method} {unquote(request.path)}")
        self.gcs.keys |= {f"{method} {key}" for key in request.query.get("kmsKeyName", ())}
        announced = int(self.headers.get("Content-Length", "0"))
        given = self.rfile.read(announced)
        if len(given) < announced:  # cut: nothing of it is kept
            self.close_connection = True
            return
        connection = self.rfile
        self.rfile = io.BytesIO(given)
        _ = request.data
        self.rfile = connection
        with self.gcs.lock:
            refusal = self._refused(method, request)
            if refusal is None:
                self._route(method, request, response)
            else:
                _answer(response, *refusal)
        response.close()

    def _refused(self, method: str, request: Any) -> tuple[int, dict[str, Any]] | None:
        """Return the answer to what the emulator would let pass."""
        if request.path == "/token":
            return self.gcs.token(parse_qs(request.data.decode()))
        session = request.query.get("upload_id", [""])[0]
        token = request.get_header("Authorization", "").removeprefix("Bearer ")
        if not session and token not in self.gcs.tokens:
            return _error(401, "authError", "Invalid Credentials")
        listing = method == "GET" and request.path.endswith("/o")
        if method in self.gcs.denied or (listing and "LIST" in self.gcs.denied):
            return _error(403, "forbidden", f"{_ACCOUNT} does not have the access that {method} takes.")
        if session:
            return self._refused_session(method, session, request)
        name = request.query.get("name", [""])[0] or unquote(request.path.partition("/o/")[2])
        if isinstance(request.data, dict):
            name = name or (request.data.get("meta") or request.data).get("name", "")
        until = self.gcs.held.get(name)
        if method == "DELETE" and until is not None and until > datetime.now(UTC):
            return _error(403, "retentionPolicyNotMet", "Object is subject to bucket's retention policy.")
        wanted = request.query.get("ifGenerationMatch", [""])[0]
        if wanted and wanted != self.generation(name):
            return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        return None

    def _refused_session(self, method: str, session: str, request: Any) -> tuple[int, dict[str, Any]] | None:
        if session in self.gcs.finished:
            return 200, json.loads(self.gcs.finished[session])
        if session not in self.gcs.conditions:
            return _error(404, "notFound", "No such upload.")
        if method == "DELETE":
            del self.gcs.conditions[session]
            self.gcs.storage.delete_resumable_file_obj(session)
            return 499, {}
        made = self.gcs.storage.get_resumable_file_obj(session)
        given = request.get_header("Content-Range", "")
        size = len(request.data or b"")
        told = request.get_header("X-Goog-Hash", "")
        if told:
            made["crc32c"] = told.removeprefix("crc32c=")
        last = given.partition("-")[2].partition("/")
        ends = bool(last[0]) and int(last[0]) + 1 == int(last[2])
        if size and not ends and size % _STEP:
            return _error(400, "invalid", "Chunks are multiples of 262144 bytes.")
        if ends and self.gcs.conditions[session] not in ("", self.generation(made["name"])):
            return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        return None

    def generation(self, name: str) -> str:
        """Return what an object's generation is, 0 for none."""
        return str(self.gcs.here().get(name, {}).get("generation", "0"))

    def _route(self, method: str, request: Any, response: Any) -> None:
        if self.gcs.damage and isinstance(request.data, bytes) and request.data:
            request._data = bytes([request.data[0] ^ 1]) + request.data[1:]
            self.gcs.damage = False
        elif self.gcs.damage and isinstance(request.data, dict) and "content" in request.data:
            content = request.data["content"]
            request.data["content"] = bytes([content[0] ^ 1]) + content[1:]
            self.gcs.damage = False
        for regex, handlers in emulator.HANDLERS:
            match = emulator.re.compile(regex).fullmatch(request.path)
            if match:
                request.set_match(match)
                handlers[method](request, response, self.gcs.storage)
                break
        session = request.query.get("upload_id", [""])[0]
        if response.status == 404:
            what = "such object" if "/o/" in request.path else "such bucket: The specified bucket does not exist"
            _answer(response, *_error(404, "notFound", f"No {what}."))
        elif "Location" in response._headers:
            # The emulator knows nothing of HTTPS.
            scheme, address = self.gcs.endpoint.partition(":")[0], response._headers["Location"].partition("://")[2]
            response["Location"] = f"{scheme}://{address}"
            made = parse_qs(response._headers["Location"].partition("?")[2])["upload_id"][0]
            self.gcs.conditions[made] = request.query.get("ifGenerationMatch", [""])[0]
        elif session and response.status == 308:
            there = self.gcs.storage.get_resumable_byte_count(session)
            del response._headers["Range"]
            if there:
                response["Range"] = f"bytes=0-{there - 1}"
        elif session and response.status == 200:
            self.gcs.finished[session] = response._content
        elif method == "GET" and request.path.endswith("/o"):
            self._page(request, response)
        elif method == "GET" and "/o/" in request.path and "alt" not in request.query:
            self._retained(request, response)
        elif response.status == 206 and response._content == b"":
            _answer(response, *_error(416, "requestedRangeNotSatisfiable", "Request range not satisfiable"))

    @staticmethod
    def _page(request: Any, response: Any) -> None:
        found = json.loads(response._content)
        start = int(request.query.get("pageToken", ["0"])[0])
        end = start + min(_PAGE, int(request.query.get("maxResults", [str(_PAGE)])[0]))
        if end < len(found["items"]):
            found["nextPageToken"] = str(end)
        found["items"] = found["items"][start:end]
        response.json(found)

    def _retained(self, request: Any, response: Any) -> None:
        found = json.loads(response._content)
        until = self.gcs.held.get(found.get("name", ""))
        if until is not None:
            response.json({**found, "retentionExpirationTime": until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")})


def _error(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    errors = [{"domain": "global", "reason": reason, "message": message}]
    return code, {"error": {"code": code, "message": message, "errors": errors}}


class _Status(int):
    """What the emulator takes for a status: a number with a phrase."""

    phrase = ""

    @property
    def value(self) -> int:
        return int(self)


def _answer(response: Any, code: int, body: dict[str, Any]) -> None:
    response.status = _Status(code)
    response._headers.clear()
    response.json(body)


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def tomorrow() -> datetime:
    """Return a moment until which something may be retained."""
    return datetime.now(UTC) + timedelta(days=1)
