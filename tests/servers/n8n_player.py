"""Plays n8n 2.4.8 for tests: its public interface as it was recorded, and what goes wrong on the way to it.

It holds workflows and answers as n8n-recording.json says that n8n does (test_n8n compares the two, request by
request); n8n itself is too heavy for every test run. Its program is played by `n8n_program`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from nanumpay_backupd.settings.sources import N8nSource
from nanumpay_backupd.system.process import die_with_parent
from nanumpay_backupd.system.secrets import Secret
from tests.servers.certs import Certificate
from tests.servers.n8n_scenario import Api
from tests.servers.tools import PROJECT

__all__ = ["KEY", "Broken", "Played", "Player", "play_apart", "start_player"]

KEY: Final = "eyJhbGciOiJIUzI1NiJ9.the-key-of-the-played-n8n.Zm9v"
_DATE: Final = "2026-11-22T09:00:00.000Z"
_SIGNS: Final = string.ascii_letters + string.digits
_BODY: Final = ("name", "nodes", "connections", "settings", "staticData", "shared", "activeVersion")
_SETTINGS: Final = (
    "saveExecutionProgress saveManualExecutions saveDataErrorExecution saveDataSuccessExecution executionTimeout "
    "errorWorkflow timezone executionOrder callerPolicy callerIds timeSavedPerExecution availableInMCP".split()
)
_NODE: Final = (
    "id name webhookId disabled notesInFlow notes type typeVersion executeOnce alwaysOutputData retryOnFail maxTries "
    "waitBetweenTries continueOnFail onError position parameters credentials createdAt updatedAt".split()
)
_ROW: Final = (
    "updatedAt createdAt id name description active isArchived nodes connections settings staticData meta pinData "
    "versionId activeVersionId".split()
)
_LICENSE: Final = (
    "Your license does not allow for {0}. To enable {0}, please upgrade to a license that supports this feature."
)
Row = dict[str, Any]


class Answer(Exception):  # noqa: N818 - not every answer is an error
    """What is answered instead of going on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Broken:
    """What happens to one request instead of its answer: a status with headers, a cut, or silence for seconds."""

    def __init__(
        self,
        status: int = 0,
        headers: dict[str, str] | None = None,
        *,
        text: str = '{"message": "played"}',
        cut: bool = False,
        silence: float = 0.0,
        path: str = "/api/v1/workflows",
    ) -> None:
        self.status, self.headers, self.text, self.path = status, headers or {}, text, path
        self.cut, self.silence = cut, silence


class Played:
    """A played n8n as its guests see it: the same for one in this process and one in a process of its own."""

    folder: Path
    url: str

    @property
    def api(self) -> Api:
        """Return its interface."""
        return Api(self.url, KEY)

    @property
    def command(self) -> tuple[str, ...]:
        """Return how its program is run."""
        return (sys.executable, "-I", str(Path(__file__).with_name("n8n_program.py")))

    def settings(self, **more: Any) -> N8nSource:
        """Return the settings of a job that reaches it."""
        said = {"url": self.url, "api_key": Secret(KEY), "command": self.command, "user_folder": str(self.folder)}
        return N8nSource(**{"timeout": 10.0, **said, **more})

    def clear(self) -> None:
        """Delete all workflows, tags and credentials."""
        for kind in ("workflows", "tags"):
            for item in self.api.good("GET", f"/{kind}?limit=250")["data"]:
                self.api.good("DELETE", f"/{kind}/{item['id']}")
        (self.folder / ".n8n" / "credentials.json").unlink(missing_ok=True)


class Player(Played):
    """The played n8n itself: what it holds, what it was asked, and what shall go wrong next."""

    def __init__(self, folder: Path, certificate: Certificate | None = None) -> None:
        self.folder = folder
        self.rows: dict[str, Row] = {}
        self.versions: dict[str, Row] = {}
        self.tags: dict[str, Row] = {}
        self.asked: list[str] = []
        self.broken: list[Broken] = []
        self.projects: list[Row] | None = None
        self.folders: dict[str, list[Row]] | None = None
        """Of each project, as n8n 2.41 documents them; 2.4.8 does not have them, so they are not in the recording."""
        self.release = "2.4.8"
        self.before: Callable[[str], None] = lambda path: None
        (folder / ".n8n").mkdir(parents=True, exist_ok=True)
        (folder / ".n8n" / "config").write_text('{"encryptionKey": "the-key-of-the-credentials"}')
        self._lock = threading.Lock()
        self._ended = threading.Event()
        player = self

        class Handler(_Handler):
            n8n = player

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.bundle)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def silent(self, seconds: float) -> None:
        """Wait for so long, or until it ends."""
        self._ended.wait(seconds)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Answer a request, as n8n does."""
        parts = urlsplit(path)
        way = [unquote(part) for part in parts.path.removeprefix("/api/v1/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            try:
                match way, method:
                    case ["workflows"], "GET":
                        return 200, self._listed(query, list(self._shown(query)))
                    case ["workflows"], "POST":
                        return 200, self._make(body)
                    case ["workflows", number], _:
                        return 200, self._one(method, number, body)
                    case ["workflows", number, "tags"], "PUT":
                        return 200, self._tag(self._row(number), body)
                    case ["workflows", number, "activate"], "POST":
                        return 200, self._activate(self._row(number), body or {})
                    case ["workflows", number, "deactivate"], "POST":
                        row = self._row(number)
                        row |= {"active": False, "activeVersionId": None}
                        return 200, {**_of(row), "shared": self._shared(row, project=True), "activeVersion": None}
                    case ["tags"], "GET":
                        return 200, self._listed(query, sorted(self.tags.values(), key=lambda tag: str(tag["id"])))
                    case ["tags"], "POST":
                        return 201, self._make_tag(body)
                    case ["tags", number], "DELETE":
                        return 200, self.tags.pop(number)
                    case ["projects"], "GET" if self.projects is not None:
                        return 200, self._listed(query, self.projects)
                    case ["projects", number, "folders"], "GET" if self.folders is not None:
                        skip, take = int(query.get("skip", "0")), int(query.get("take", "10"))
                        held = self.folders.get(number, [])
                        return 200, {"count": len(held), "data": held[skip : skip + take]}
                    case ["projects" | "variables" as what], "GET":
                        feature = "feat:projectRole:admin" if what == "projects" else "feat:variables"
                        raise Answer(403, _LICENSE.format(feature))
                    case _:
                        raise Answer(404, "not found")
            except Answer as answer:
                return answer.status, {"message": str(answer)}

    def _row(self, number: str) -> Row:
        if number not in self.rows:
            raise Answer(404, "Not Found")
        return self.rows[number]

    def _listed(self, query: dict[str, str], items: list[Row]) -> Row:
        limit, offset = int(query.get("limit", "100")), 0
        if limit > 250:
            raise Answer(400, "request/query/limit must be <= 250")
        if "cursor" in query:
            try:
                mark = json.loads(base64.b64decode(query["cursor"]))
            except ValueError:
                raise Answer(400, "An invalid cursor was provided") from None
            limit, offset = mark["limit"], mark["offset"]
        said = json.dumps({"limit": limit, "offset": offset + limit}, separators=(",", ":")).encode()
        more = base64.b64encode(said).decode() if len(items) > offset + limit else None
        return {"data": items[offset : offset + limit] if limit else items, "nextCursor": more}

    def _shown(self, query: dict[str, str]) -> Iterator[Row]:
        hidden = {"description", *(["pinData"] if query.get("excludePinnedData") == "true" else [])}
        for _, row in sorted(self.rows.items()):
            shown = {key: value for key, value in _of(row).items() if key not in hidden}
            yield {**shown, "shared": self._shared(row), "activeVersion": self._active(row), "tags": self._tags(row)}

    def _one(self, method: str, number: str, body: Any) -> Row:
        if method == "PUT":
            _check(body)
        row = self._row(number)
        if method == "GET":
            beside = {"shared": self._shared(row, project=True), "tags": self._tags(row)}
            return {**_of(row), **beside, "activeVersion": self._active(row)}
        if method == "DELETE":
            del self.rows[number]
            return {**_of(row), "shared": self._shared(row, project=True)}
        return self._update(row, body)

    def _make(self, body: Row) -> Row:
        _check(body)
        row = {**dict.fromkeys(_ROW), **body, "id": _word(16), "updatedAt": _DATE, "createdAt": _DATE}
        row |= {"active": False, "isArchived": False, "settings": _with_defaults(body["settings"]), "tags": []}
        self._version(row)
        self.rows[row["id"]] = row
        return _of(row)

    def _update(self, row: Row, body: Row) -> Row:
        changed = (body["nodes"], body["connections"]) != (row["nodes"], row["connections"])
        settings = {**row["settings"], **_with_defaults(body["settings"])}
        row |= {**deepcopy(body), "settings": {key: value for key, value in settings.items() if value != "DEFAULT"}}
        if changed:
            self._version(row)
        if row["active"]:
            row["activeVersionId"] = row["versionId"]
        return {**_of(row), "tags": self._tags(row), "activeVersion": self._active(row)}

    def _version(self, row: Row) -> None:
        row["versionId"] = number = _word(36)
        kept = {"nodes": deepcopy(row["nodes"]), "connections": deepcopy(row["connections"])}
        more = {"authors": "Test Owner", "name": None, "description": None, "autosaved": False}
        ids = {"versionId": number, "workflowId": row["id"]}
        self.versions[number] = {"updatedAt": _DATE, "createdAt": _DATE, **ids, **kept, **more}

    def _activate(self, row: Row, body: Row) -> Row:
        version = self.versions.get(str(body.get("versionId", row["versionId"])))
        if version is None or version["workflowId"] != row["id"]:
            raise Answer(404, "Not Found")
        for node in version["nodes"]:
            called = node["parameters"].get("workflowId")
            other = self.rows.get(called["value"]) if isinstance(called, dict) else None
            if other is not None and not other["active"]:
                raise Answer(
                    400,
                    f'Cannot publish workflow: Node "{node["name"]}" references workflow {other["id"]} '
                    f'("{other["name"]}") which is not published. Please publish all referenced sub-workflows first.',
                )
        row |= {"active": True, "activeVersionId": version["versionId"]}
        clocks = [node["name"] for node in version["nodes"] if node["type"].endswith("scheduleTrigger")]
        remembered: Row = {f"node:{name}": {"recurrenceRules": []} for name in clocks}
        row["staticData"] = {**(row["staticData"] or {}), **remembered} or None
        return {**_of(row), "activeVersion": self._active(row)}

    def _active(self, row: Row) -> Row | None:
        return self.versions[row["activeVersionId"]] if row["activeVersionId"] else None

    def _tag(self, row: Row, body: list[Row]) -> list[Row]:
        if any(tag["id"] not in self.tags for tag in body):
            raise Answer(404, "Some tags not found")
        row["tags"] = [tag["id"] for tag in body]
        return self._tags(row)

    def _tags(self, row: Row) -> list[Row]:
        return [self.tags[number] for number in row["tags"] if number in self.tags]

    def _make_tag(self, body: Row) -> Row:
        name = body["name"].strip()
        if not 0 < len(name) <= 24 or any(tag["name"] == name for tag in self.tags.values()):
            raise Answer(409, "Tag already exists")
        tag = {"name": name, "id": _word(16), "updatedAt": _DATE, "createdAt": _DATE}
        self.tags[tag["id"]] = tag
        return tag

    def _shared(self, row: Row, *, project: bool = False) -> list[Row]:
        dates = {"updatedAt": _DATE, "createdAt": _DATE}
        share = {**dates, "role": "workflow:owner", "workflowId": row["id"], "projectId": "project-of-the-owner"}
        if project:
            user = {
                "email": "owner@example.com",
                "firstName": "Test",
                "lastName": "Owner",
                "isPending": False,
                "personalizationAnswers": None,
                "settings": {"userActivated": False},
                "lastActiveAt": "2026-11-22",
                **dates,
                "id": "some-account",
                "disabled": False,
                "mfaEnabled": False,
            }
            ids = {"userId": "some-account", "projectId": "project-of-the-owner"}
            share["project"] = {
                **dates,
                "id": "project-of-the-owner",
                "name": "Test Owner <owner@example.com>",
                "type": "personal",
                "icon": None,
                "description": None,
                "creatorId": "some-account",
                "projectRelations": [{**dates, **ids, "user": user}],
            }
        return [share]


class _Handler(BaseHTTPRequestHandler):
    n8n: Player
    protocol_version = "HTTP/1.1"
    # Otherwise every answer waits for the client to acknowledge its headers.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.n8n.asked.append(f"{self.command} {self.path}")
        self.n8n.before(self.path)
        if self.path == "/":
            said = base64.b64encode(json.dumps({"release": f"n8n@{self.n8n.release}"}).encode()).decode()
            page = f'<html><meta name="n8n:config:sentry" content="{said}"></html>'
            return self._say(200, page, {"Content-Type": "text/html"})
        broken = next((one for one in self.n8n.broken if self.path.startswith(one.path)), None)
        if broken is not None:
            self.n8n.broken.remove(broken)
            self.n8n.silent(broken.silence)
            if broken.status:
                return self._say(broken.status, broken.text, broken.headers)
        if self.headers.get("X-N8N-API-KEY") != KEY:
            return self._say(401, '{"message": "unauthorized"}')
        status, answer = self.n8n.answer(self.command, self.path, body)
        self._say(status, json.dumps(answer), cut=broken is not None and broken.cut)
        return None

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - their names are http.server's

    def _say(self, status: int, text: str, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data[: len(data) * 2 // 3] if cut else data)
        self.close_connection = cut

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _check(body: Row) -> None:
    """Refuse what n8n's description of its interface refuses, in its words."""
    for key in body:
        if key in ("id", "active", "tags", "createdAt", "updatedAt"):
            raise Answer(400, f"request/body/{key} is read-only")
    for where, value, known in (
        ("", body, _BODY),
        ("/settings", body.get("settings", {}), _SETTINGS),
        *((f"/nodes/{at}", node, _NODE) for at, node in enumerate(body.get("nodes", []))),
    ):
        if set(value) - set(known):
            raise Answer(400, f"request/body{where} must NOT have additional properties")
    for key in ("name", "nodes", "connections", "settings"):
        if key not in body:
            raise Answer(400, f"request/body must have required property '{key}'")


def _of(row: Row) -> Row:
    return deepcopy({key: row[key] for key in _ROW})


def _with_defaults(settings: Row) -> Row:
    return {"callerPolicy": "workflowsFromSameOwner", "availableInMCP": False, **settings}


def _word(length: int) -> str:
    return "".join(secrets.choice(_SIGNS) for _ in range(length))


class _Apart(Played):
    """A player in a process of its own, whose memory is not that of this one."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url


@contextlib.contextmanager
def play_apart(folder: Path) -> Iterator[Played]:
    """Play an n8n in a process of its own until the block ends."""
    argv = [sys.executable, "-m", __name__, str(folder)]
    process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield _Apart(folder, process.stdout.readline().decode().strip())
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def start_player(folder: Path, certificate: Certificate | None = None) -> Iterator[Player]:
    """Play an n8n until the block ends."""
    player = Player(folder, certificate)
    try:
        yield player
    finally:
        player.stop()


if __name__ == "__main__":
    with start_player(Path(sys.argv[1])) as _player:
        print(_player.url, flush=True)
        threading.Event().wait()
