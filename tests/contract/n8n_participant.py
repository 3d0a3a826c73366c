"""n8n for the contract suite: the player of recordings, and with ``make test-n8n`` the real one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanumpay_backupd.settings.sources import Source
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.system.process import own_environment
from tests.contract.participants import Participant
from tests.servers.n8n import N8n, start_n8n
from tests.servers.n8n_player import Played, play_apart
from tests.servers.n8n_scenario import CREDENTIALS, called, calling, workflow

__all__ = ["N8nParticipant", "fill_n8n", "played_n8n", "real_n8n", "state_of"]

_KEPT = ("name", "nodes", "connections", "settings", "active")


class N8nParticipant(Participant):
    """Workflows with odd names, active and not, with tags, calling one another, with another version at work."""

    def __init__(self, server: N8n | Played) -> None:
        self.server = server
        self.secret = server.api.key

    @property
    def settings(self) -> Source:
        """See `Participant.settings`."""
        return self.server.settings()

    @property
    def broken(self) -> Source:
        """See `Participant.broken`."""
        return self.server.settings(url="http://127.0.0.1:1")

    def fill(self) -> None:
        """See `Participant.fill`."""
        self.server.clear()
        fill_n8n(self.server)

    def count(self) -> int:
        """See `Participant.count`."""
        return len(self.server.api.good("GET", "/workflows?limit=250")["data"])

    def grow(self, megabytes: int) -> None:
        """See `Participant.grow`."""
        for at in range(megabytes):
            grown = workflow(f"large {at}")
            grown["nodes"][1]["parameters"]["options"] = {"text": f"{at:04}" * (1 << 18)}
            self.server.api.good("POST", "/workflows", grown)

    def content(self) -> object:
        """See `Participant.content`."""
        return state_of(self.server)

    def spoil(self) -> None:
        """See `Participant.spoil`."""
        api = self.server.api
        rows = {row["name"]: row for row in api.good("GET", "/workflows?limit=250")["data"]}
        changed = workflow("한글 ../../x 🚀", settings={"executionOrder": "v0"})
        changed["nodes"][1] |= {"name": "Other", "parameters": {}}
        api.good("PUT", f"/workflows/{rows['한글 ../../x 🚀']['id']}", changed)
        api.good("PUT", f"/workflows/{rows['한글 ../../x 🚀']['id']}/tags", [])
        api.good("POST", f"/workflows/{rows['outer']['id']}/deactivate")
        api.good("POST", f"/workflows/{rows['twice']['id']}/activate", {})
        api.good("DELETE", f"/workflows/{rows['x' * 120]['id']}")

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        """See `Participant.elsewhere`."""
        target = folder / "n8n"
        return Wanted(to=str(target)), lambda: _state_in(target)


def fill_n8n(server: N8n | Played) -> None:
    """Give an n8n a little of everything that it can hold."""
    api = server.api
    tag = api.good("POST", "/tags", {"name": "운영"})["id"]
    api.good("POST", "/tags", {"name": "unused"})
    inner = api.good("POST", "/workflows", called("inner"))["id"]
    outer = api.good("POST", "/workflows", calling("outer", inner))["id"]
    api.good("POST", f"/workflows/{inner}/activate", {})
    api.good("POST", f"/workflows/{outer}/activate", {})
    odd = api.good("POST", "/workflows", workflow("한글 ../../x 🚀"))["id"]
    api.good("PUT", f"/workflows/{odd}/tags", [{"id": tag}])
    for name in ("", "x" * 120, "twice", "twice", "CON", ". .", "a\nb\u202ec", '{"name":"[{"}'):
        api.good("POST", "/workflows", workflow(name, staticData={"seen": [1, 2.5, None, "\u2028"]}))
    draft = workflow("draft")
    number = api.good("POST", "/workflows", draft)["id"]
    old = api.good("POST", f"/workflows/{number}/activate", {})["versionId"]
    draft["nodes"][1]["parameters"]["options"] = {"dotNotation": False}
    api.good("PUT", f"/workflows/{number}", draft)
    api.good("POST", f"/workflows/{number}/activate", {"versionId": old})
    bring_credentials(server)


def bring_credentials(server: N8n | Played, credentials: list[dict[str, Any]] = CREDENTIALS) -> None:
    """Import credentials by n8n's program."""
    done = subprocess.run(
        [*server.command, "import:credentials", "--input=/dev/stdin"],
        input=json.dumps(credentials).encode(),
        capture_output=True,
        env={**own_environment(), "N8N_USER_FOLDER": str(server.folder), "N8N_RUNNERS_ENABLED": "false"},
        check=False,
    )
    assert b"Successfully imported" in done.stdout, done


def state_of(server: N8n | Played) -> object:
    """Return what an n8n holds, without what a restore has to change: ids and moments."""
    rows = server.api.good("GET", "/workflows?limit=250")["data"]
    return _plain(rows)


def _plain(rows: list[dict[str, Any]]) -> object:
    names = {row["id"]: row["name"] for row in rows}
    found = []
    for row in rows:
        kept = {key: row[key] for key in _KEPT}
        active = row["activeVersion"]
        kept["published"] = (active["nodes"], active["connections"]) if active else None
        kept["tags"] = sorted(tag["name"] for tag in row["tags"])
        text = json.dumps(kept, sort_keys=True)
        for number, name in names.items():
            text = text.replace(number, f"<{name}>")
        found.append(text)
    return sorted(found)


def _state_in(folder: Path) -> object:
    rows, published = [], []
    for path in (folder / "workflows").iterdir():
        rows.append(row := json.loads(path.read_bytes()))
        other = folder / "published" / path.name
        published.append({**row, "activeVersion": row if row["active"] else None})
        if other.exists():
            published[-1]["activeVersion"] = json.loads(other.read_bytes())
    together = json.loads((folder / "all-workflows.json").read_bytes())
    assert sorted(rows, key=lambda row: str(row["id"])) == sorted(together, key=lambda row: str(row["id"]))
    assert json.loads((folder / "metadata.json").read_bytes())["totalWorkflows"] == len(rows)
    return _plain(published)


@contextlib.contextmanager
def played_n8n(folder: Path) -> Iterator[Participant]:
    """Play an n8n."""
    with play_apart(folder / "n8n") as server:
        yield N8nParticipant(server)


@contextlib.contextmanager
def real_n8n(folder: Path) -> Iterator[Participant]:
    """Run an n8n."""
    with start_n8n(folder / "n8n") as server:
        yield N8nParticipant(server)
