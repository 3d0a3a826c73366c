"""What is asked of an n8n, one request after the other, and its answers in a form that is the same each time.

The answers of the real one are kept in n8n-recording.json (``make test-n8n RECORD=1`` writes it). The player
(`n8n_player`), on which the other tests stand, has to give the same; and so has the real one, by ``make test-n8n``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

__all__ = ["CREDENTIALS", "RECORDING", "Api", "called", "calling", "program_scenario", "scenario", "workflow"]

RECORDING: Final = Path(__file__).with_name("n8n-recording.json")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?")
_IDS: Final = frozenset({"id", "versionId", "activeVersionId", "workflowId", "projectId", "creatorId", "userId"})
_RESTLESS: Final = frozenset({"versionCounter", "triggerCount", "workflowPublishHistory", "lastActiveAt"})
_QUIET: Final = {"N8N_DIAGNOSTICS_ENABLED": "false", "N8N_RUNNERS_ENABLED": "false", "N8N_LOG_LEVEL": "info"}
_NODE_IDS: Final = re.compile(r"node-\d+")


class Api:
    """The public interface at an address, with a key; `said` keeps what was asked and answered."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.said: list[dict[str, Any]] = []
        self._ids: dict[str, str] = {}

    def __call__(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
        """Ask and return status and answer; note both."""
        status, answer = self.ask(method, path, body, key=key)
        asked = {"method": method, "path": path, "body": body}
        if "limit=1&" in path:
            # The order is that of the ids, which are another each time.
            keys = [sorted(item.keys() - _RESTLESS) for item in answer["data"]]
            answer = {"data": keys, "nextCursor": answer["nextCursor"]}
        self.said.append({**self._calm(asked), "status": status, "answer": self._calm(answer)})
        return status, answer

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
        """Ask and return status and answer."""
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-N8N-API-KEY": self.key if key is None else key},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def good(self, method: str, path: str, body: Any = None) -> Any:
        """Ask for something that has to succeed, and note nothing."""
        status, answer = self.ask(method, path, body)
        assert 200 <= status < 300, (status, answer)
        return answer

    def _calm(self, value: Any, key: str = "") -> Any:
        """Return an answer with ids by their order and without what is another each time."""
        if isinstance(value, dict):
            return {name: self._calm(item, name) for name, item in sorted(value.items()) if name not in _RESTLESS}
        if isinstance(value, list):
            return [self._calm(item, key) for item in value]
        if not isinstance(value, str):
            return value
        if key in _IDS and not _NODE_IDS.fullmatch(value) and value not in ("nope", "chosen"):
            self._ids.setdefault(value, f"<{len(self._ids) + 1}>")
        if key in _IDS or key in ("path", "value", "message"):
            for found, stands in self._ids.items():
                value = value.replace(found, stands)
        return _DATE.sub("<date>", value)


def workflow(name: str, **more: Any) -> dict[str, Any]:
    """Return a workflow that can be active: it does something every hour."""
    nodes = [
        {
            "id": "node-1",
            "name": "Every hour",
            "type": "n8n-nodes-base.scheduleTrigger",
            "typeVersion": 1.2,
            "position": [0, 0],
            "parameters": {"rule": {"interval": [{"field": "hours"}]}},
        },
        {
            "id": "node-2",
            "name": "Set",
            "type": "n8n-nodes-base.set",
            "typeVersion": 3.4,
            "position": [220, 0],
            "parameters": {"assignments": {"assignments": []}, "options": {}},
        },
    ]
    connections = {"Every hour": {"main": [[{"node": "Set", "type": "main", "index": 0}]]}}
    body = {"name": name, "nodes": nodes, "connections": connections, "settings": {"executionOrder": "v1"}}
    return {**body, **more}


def called(name: str) -> dict[str, Any]:
    """Return a workflow that others call."""
    node = {
        "id": "node-1",
        "name": "When called",
        "type": "n8n-nodes-base.executeWorkflowTrigger",
        "typeVersion": 1.1,
        "position": [0, 0],
        "parameters": {"inputSource": "passthrough"},
    }
    return workflow(name, nodes=[node], connections={})


def calling(name: str, number: str) -> dict[str, Any]:
    """Return a workflow that calls another one."""
    found = workflow(name)
    found["nodes"][1] = {
        "id": "node-2",
        "name": "Set",
        "type": "n8n-nodes-base.executeWorkflow",
        "typeVersion": 1.2,
        "position": [220, 0],
        "parameters": {"workflowId": {"__rl": True, "value": number, "mode": "id"}, "options": {}},
    }
    return found


def scenario(api: Api) -> list[dict[str, Any]]:
    """Ask an n8n that holds nothing everything that matters to a backup; returns what was asked and answered."""
    api("GET", "/workflows")
    api("GET", "/workflows", key="no key of this n8n")
    api("GET", "/tags")
    api("GET", "/projects")
    api("GET", "/variables")
    api("GET", "/nothing-like-that")
    _refused(api)
    first = api("POST", "/workflows", workflow("한글 ../../x 🚀"))[1]["id"]
    second = api("POST", "/workflows", workflow("", staticData={"seen": 1}))[1]["id"]
    third = api("POST", "/workflows", workflow("x" * 300, settings={"executionOrder": "v1", "timezone": "Asia/Seoul"}))
    api("GET", f"/workflows/{first}")
    _pages(api)
    _tags(api, first)
    _versions(api, first)
    api("PUT", f"/workflows/{third[1]['id']}", workflow("shorter"))
    api("PUT", f"/workflows/{third[1]['id']}", workflow("shorter", settings={"timezone": "DEFAULT"}))
    _calls(api)
    api("DELETE", f"/workflows/{second}")
    api("GET", f"/workflows/{second}")
    return api.said


def _refused(api: Api) -> None:
    api("POST", "/workflows", workflow("refused", id="chosen"))
    api("POST", "/workflows", workflow("refused", pinData={}))
    api("POST", "/workflows", workflow("refused", settings={"binaryMode": "separate"}))
    odd = workflow("refused")
    odd["nodes"][1]["color"] = "red"
    api("POST", "/workflows", odd)
    api("POST", "/workflows", {"name": "refused"})
    api("PUT", "/workflows/nope", workflow("refused"))
    api("POST", "/workflows/nope/activate", {})
    api("GET", "/workflows?limit=251")
    api("GET", "/workflows?cursor=nonsense")


def _pages(api: Api) -> None:
    cursor = ""
    for _ in range(3):
        page = api("GET", f"/workflows?limit=1&excludePinnedData=true{cursor}")[1]
        cursor = f"&cursor={page['nextCursor']}"
    assert page["nextCursor"] is None
    # Without a limit the mark of the next page is that of this one: a list that never ends.
    assert api.ask("GET", "/workflows?limit=0")[1]["nextCursor"]
    api("GET", f"/workflows?limit=1&cursor={api.ask('GET', '/workflows?limit=0')[1]['nextCursor']}")


def _tags(api: Api, number: str) -> None:
    tag = api("POST", "/tags", {"name": "운영"})[1]["id"]
    api("POST", "/tags", {"name": "운영"})
    api("POST", "/tags", {"name": "x" * 30})
    api("PUT", f"/workflows/{number}/tags", [{"id": tag}])
    api("PUT", f"/workflows/{number}/tags", [{"id": "nope"}])
    api("GET", f"/workflows/{number}")
    api("PUT", f"/workflows/{number}/tags", [])
    api("GET", "/tags")


def _versions(api: Api, number: str) -> None:
    """Write, publish, go back to an older version, and write again."""
    old = api("POST", f"/workflows/{number}/activate", {})[1]["versionId"]
    changed = workflow("renamed")
    changed["nodes"][1]["parameters"]["options"] = {"dotNotation": False}
    api("PUT", f"/workflows/{number}", changed)
    api("POST", f"/workflows/{number}/activate", {"versionId": old})
    api("GET", f"/workflows/{number}")
    api("PUT", f"/workflows/{number}", changed)
    api("POST", f"/workflows/{number}/activate", {"versionId": "nope"})
    api("POST", f"/workflows/{number}/deactivate")
    api("POST", f"/workflows/{number}/deactivate")


def _calls(api: Api) -> None:
    """A workflow is not activated before those that it calls."""
    inner = api("POST", "/workflows", called("inner"))[1]["id"]
    outer = api("POST", "/workflows", calling("outer", inner))[1]["id"]
    api("POST", f"/workflows/{outer}/activate", {})
    api("POST", f"/workflows/{inner}/activate", {})
    api("POST", f"/workflows/{outer}/activate", {})
    api("POST", f"/workflows/{outer}/deactivate")
    api("DELETE", f"/workflows/{outer}")
    api("DELETE", f"/workflows/{inner}")


CREDENTIALS: Final = [
    {
        "updatedAt": "2026-11-22T09:00:00.000Z",
        "createdAt": "2026-11-22T09:00:00.000Z",
        "id": "credential1",
        "name": "비밀",
        "data": "U2FsdGVkX1/nAHAKY8aLZCZyoPhiGhIgbgZZ0gRjjVeeCHTvDWnQiDYD1hWYEzNk",
        "type": "httpBasicAuth",
        "isManaged": False,
        "isGlobal": False,
        "isResolvable": False,
        "resolvableAllowFallback": False,
        "resolverId": None,
    }
]


def program_scenario(command: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """Run n8n's program on an n8n without credentials and return what it wrote and how it ended."""
    said = []
    export = ["export:credentials", "--all", "--output=/dev/stdout"]
    runs: tuple[tuple[list[str], Any], ...] = (
        (["--version"], None),
        (export, None),
        (["import:credentials", "--input=/dev/stdin"], CREDENTIALS),
        (export, None),
        (export[:2], None),
        (["import:credentials", "--input=/dev/stdin"], {"no": "list"}),
    )
    for arguments, given in runs:
        done = subprocess.run(
            [*command, *arguments],
            input=None if given is None else json.dumps(given).encode(),
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "N8N_USER_FOLDER": str(folder), **_QUIET},
            check=False,
        )
        text = _DATE.sub("<date>", done.stdout.decode()), _DATE.sub("<date>", done.stderr.decode())
        said.append({"arguments": arguments, "code": done.returncode, "stdout": text[0], "stderr": text[1]})
    return said
