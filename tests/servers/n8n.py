"""A real n8n for tests, out of .tools/n8n (``make test-n8n`` puts it there): its own folder and database, no network.

NANUMPAY_TEST_N8N names another folder in which it was installed. It listens on 127.0.0.1 and a free port, and dies
with the process that started it.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.sources import N8nSource
from nanumpay_backupd.system.process import die_with_parent
from nanumpay_backupd.system.secrets import Secret
from tests.servers.n8n_scenario import Api
from tests.servers.process import free_port
from tests.servers.tools import PROJECT

__all__ = ["N8n", "find_n8n", "start_n8n"]

_START_SECONDS: Final = 120.0
_OWNER: Final = {"email": "owner@example.com", "firstName": "Test", "lastName": "Owner", "password": "Passw0rd99"}
_ENVIRONMENT: Final = {
    "N8N_LISTEN_ADDRESS": "127.0.0.1",
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "N8N_PERSONALIZATION_ENABLED": "false",
    "N8N_RUNNERS_ENABLED": "false",
    "N8N_SECURE_COOKIE": "false",
    "N8N_PYTHON_ENABLED": "false",
}


def find_n8n() -> Path | None:
    """Return the program, None where it was not installed."""
    root = Path(os.environ.get("NANUMPAY_TEST_N8N") or PROJECT / ".tools" / "n8n")
    program = root / "node_modules" / "n8n" / "bin" / "n8n"
    return program if program.is_file() else None


class N8n:
    """One n8n. Every method blocks until what it promises is so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ""
        self._port = free_port(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def api(self) -> Api:
        """Return its interface."""
        return Api(self.url, self.key)

    @property
    def command(self) -> tuple[str, ...]:
        """Return how its program is run."""
        program, node = find_n8n(), shutil.which("node")
        assert program is not None
        assert node is not None, "n8n needs Node.js: apt-get install nodejs"
        return (node, str(program))

    def settings(self, **more: Any) -> N8nSource:
        """Return the settings of a job that reaches it."""
        said = {"url": self.url, "api_key": Secret(self.key), "command": self.command, "user_folder": str(self.folder)}
        return N8nSource(**{**said, **more})

    def start(self) -> None:
        """Start it and wait until it answers; the first time, make its owner and a key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "log").open("ab")
        own = {"N8N_USER_FOLDER": str(self.folder), "HOME": str(self.folder), "N8N_PORT": str(self._port)}
        with log:
            self._process = subprocess.Popen(
                [*self.command, "start"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], **_ENVIRONMENT, **own, "N8N_RUNNERS_BROKER_PORT": str(self._port + 1)},
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"n8n does not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        if not self.key:
            self._own()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def clear(self) -> None:
        """Delete all workflows and tags."""
        for kind in ("workflows", "tags"):
            for item in self.api.good("GET", f"/{kind}?limit=250")["data"]:
                self.api.good("DELETE", f"/{kind}/{item['id']}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/rest/settings", timeout=5) as reply:
            return bool(reply.read(1) == b"{")
        return False

    def _own(self) -> None:
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

        def call(path: str, body: Any = None) -> Any:
            headers = {"Content-Type": "application/json", "browser-id": "test"}
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{self.url}/rest{path}", data=data, headers=headers)
            with opener.open(request, timeout=30) as reply:
                return json.loads(reply.read())["data"]

        call("/owner/setup", _OWNER)
        scopes = call("/api-keys/scopes")
        self.key = call("/api-keys", {"label": "test", "expiresAt": None, "scopes": scopes})["rawApiKey"]


@contextlib.contextmanager
def start_n8n(folder: Path) -> Iterator[N8n]:
    """Run an n8n until the block ends."""
    server = N8n(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
