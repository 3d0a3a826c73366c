"""The daemon under measurement: a real process beside a real mongod, driven by the control client and backupctl."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import UnreachableError
from tests.sample_data import save_settings
from tests.servers.mongod import Mongod
from tests.servers.tools import PROJECT

__all__ = ["DATABASE", "SETTINGS", "Site", "median_of"]

DATABASE: Final = "nanumpay"
SETTINGS: Final[dict[str, Any]] = {
    "enabled": True,
    "frequency": "daily",
    "time": "02:00",
    "dayOfWeek": 0,
    "dayOfMonth": 1,
    "retention": {"count": 2, "days": 30, "compress": True},
    "storage": {"type": "none"},
}
_PATIENCE: Final = 30.0
_AS_INSTALLED: Final = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
from nanumpay_backupd.__main__ import main
sys.exit(main())
"""
"""Starts the daemon as if what only the tests need were not there: structlog, pymongo and others take it up unasked."""


class Site:
    """Host file, folders and daemon below one folder."""

    def __init__(self, folder: Path, server: Mongod) -> None:
        self.server = server
        self.backups = folder / "backups"
        self.staging = self.backups / ".backupd" / "staging"
        self.state = folder / "state"
        self.socket = folder / "control.sock"
        self._config = folder / "backupd.toml"
        self._log = folder / "daemon.log"
        self._config.write_text(
            f"[mongodb]\nuri = '{server.uri_for(DATABASE)}'\n"
            f"[paths]\nbackups = '{self.backups}'\nstate = '{self.state}'\nsocket = '{self.socket}'\n",
            encoding="utf-8",
        )
        self._config.chmod(0o600)
        self.pid = 0

    @contextlib.contextmanager
    def daemon(self) -> Iterator[None]:
        """Run the daemon for the length of a with block."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _AS_INSTALLED, ",".join(_foreign()), "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = process.pid
        try:
            self._wait_ready(process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=90)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(UnreachableError):
                jobs = self.call("GetStatus")["jobs"]
                if jobs and jobs[0].get("next_run"):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the daemon did not come up:\n{self._log.read_text(encoding='utf-8')}")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the control interface."""
        with Client(str(self.socket)) as client:
            return client.call(method, params)

    def run(self) -> tuple[float, float, float, dict[str, Any]]:
        """Make a backup: seconds from dump to commit, from the call to the commit, to the end, and the run's record."""
        began = time.perf_counter()
        committed = 0.0
        record: dict[str, Any] = {}
        with Client(str(self.socket)) as client:
            for reply in client.stream("Run"):
                event = reply.get("event") or {}
                stage = event.get("stage") or {}
                if stage.get("stage") == "publish" and stage.get("ended"):
                    committed = time.perf_counter() - began
                record = event.get("run") or reply["run"]
        if record.get("outcome") != "succeeded":
            raise RuntimeError(f"the run did not succeed: {record}")
        whole = time.perf_counter() - began
        stages = {stage["stage"]: stage for stage in record["stages"]}
        dumped = datetime.fromisoformat(stages["dump"]["started"])
        published = datetime.fromisoformat(stages["publish"]["ended"])
        return (published - dumped).total_seconds(), committed, whole, record

    def backupctl(self, *words: str) -> float:
        """Return the wall seconds of one backupctl command as a whole process."""
        program = Path(sys.executable).with_name("backupctl")
        began = time.perf_counter()
        subprocess.run(
            [program, "--socket", str(self.socket), *words],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    def settings_latency(self, rounds: int) -> list[float]:
        """Return the seconds from saving a new time until the status tells the new next run, several times."""
        found = []
        with self.server.client() as client, Client(str(self.socket)) as control:
            for number in range(rounds):
                before = control.call("GetStatus")["jobs"][0]["next_run"]
                began = time.perf_counter()
                save_settings(client[DATABASE], {**SETTINGS, "time": f"03:{number:02d}"})
                while control.call("GetStatus")["jobs"][0]["next_run"] == before:
                    time.sleep(0.002)
                found.append(time.perf_counter() - began)
        return found


def median_of(work: list[float]) -> float:
    """Return the median of some measurements."""
    ordered = sorted(work)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _foreign() -> list[str]:
    """Return the modules that are here and not where the daemon is installed (`requirements.lock`)."""
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    ours = {"nanumpay-backupd", *re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)}
    found = importlib.metadata.packages_distributions().items()
    return [module for module, owners in found if not {_plain(owner) for owner in owners} & ours]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
