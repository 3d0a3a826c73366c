"""Where one demo lives: its folder, its host file, the environment to work in, what is kept of it. Starts nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.demo.teller import DemoError
from tests.demo.zone import write_zone, zone_named
from tests.servers.tools import PROJECT

__all__ = ["KEPT", "House", "kept_facts", "stop_kept"]

KEPT: Final = PROJECT / ".demo"
_MARK: Final = "demo.json"
_LONGEST_SOCKET_PATH: Final = 90  # Linux takes 107 bytes; the daemon makes it under a longer name first
_STOP_SECONDS: Final = 60.0

_HOST_FILE: Final = """\
timezone = "{timezone}"

[mongodb]
uri = "{uri}"

[paths]
backups = "{folder}/backups"
state = "{folder}/state"
socket = "{socket}"

[nanumpay]  # what the application's form cannot say:
destinations = ["office"]  # a second place for copies
pitr = "10s"               # every change is saved: any second can be restored

[nanumpay.s3]  # an S3 server that is not AWS
endpoint_url = "{endpoint}"
path_style = true

[destination.office]
type = "ftp"
host = "{host}"
port = {port}
username = "{username}"
password = {{ file = "{folder}/ftp-password" }}
path = "{path}"
"""


class House:
    """One demo's folder."""

    def __init__(self, kept: Path | None = None) -> None:
        """``kept`` is where a demo that is left running lives; others have a temporary folder."""
        self.folder = _kept_folder(kept) if kept else Path(tempfile.mkdtemp(prefix="nanumpay-demo-"))
        self.socket = self.folder / "control.sock"
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            # Deleted by the demo's servers (site) when they end.
            self.socket = Path(tempfile.mkdtemp(prefix="nanumpay-demo-", dir="/tmp")) / "control.sock"
        self.off = 0
        self.note()

    @property
    def config(self) -> Path:
        """Return the host file."""
        return self.folder / "backupd.toml"

    @property
    def backups(self) -> Path:
        """Return the backups folder."""
        return self.folder / "backups"

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables that a shell needs to use this demo."""
        zones = {"PYTHONTZPATH": str(self.folder / "zoneinfo")} if self.off else {}
        return {"NANUMPAY_BACKUPD_SOCKET": str(self.socket), **zones}

    @property
    def environment(self) -> dict[str, str]:
        """Return the whole environment for commands and for the daemon."""
        # The C library, which writes the log's times, has a variable of its own for where zones are.
        zones = {"TZDIR": str(self.folder / "zoneinfo")} if self.off else {}
        return {**os.environ, **self.variables, **zones, "TZ": zone_named(self.off), "PYTHONUTF8": "1"}

    def furnish(self, uri: str, s3: Mapping[str, Any], ftp: Mapping[str, Any], off: int) -> str:
        """Write the host file and what it refers to; returns its text."""
        self.off = off
        if off:
            write_zone(self.folder / "zoneinfo", off)
        password = self.folder / "ftp-password"
        password.touch(mode=0o600)
        password.write_text(ftp["password"] + "\n", encoding="utf-8")
        self.backups.mkdir()
        text = _HOST_FILE.format(
            timezone=zone_named(off),
            uri=uri,
            folder=self.folder,
            socket=self.socket,
            endpoint=s3["endpoint"],
            **{name: ftp[name] for name in ("host", "port", "username", "path")},
        )
        self.config.write_text(text, encoding="utf-8")
        return text

    def note(self, **facts: Any) -> None:
        """Keep facts for `stop_kept` and `kept_facts`."""
        known = {**_facts(self.folder), "folder": str(self.folder), **facts}
        (self.folder / _MARK).write_text(json.dumps(known, indent=2), encoding="utf-8")

    def remove(self) -> None:
        """Delete everything of this demo."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stop_kept(folder: Path) -> bool:
    """Stop the demo that was left running and delete its folder; tells whether one was running."""
    facts = _facts(folder)
    running = _is_site(facts.get("pid"))
    if running:
        os.kill(facts["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _is_site(facts["pid"]):
            if time.monotonic() > deadline:
                raise DemoError(f"the demo (process {facts['pid']}) does not stop", f"kill -9 {facts['pid']}")
            time.sleep(0.05)
    if facts:
        shutil.rmtree(folder, ignore_errors=True)
    return running


def kept_facts(folder: Path) -> dict[str, Any]:
    """Return what is known of the demo that was left running; raises DemoError when there is none."""
    facts = _facts(folder)
    if not _is_site(facts.get("pid")):
        raise DemoError("no demo is running", "make demo KEEP=1")
    return facts


def _kept_folder(folder: Path) -> Path:
    facts = _facts(folder)
    if _is_site(facts.get("pid")):
        raise DemoError(f"a demo is running already (process {facts['pid']})", "make demo-stop")
    if facts:
        shutil.rmtree(folder)
    try:
        folder.mkdir()
    except FileExistsError:
        raise DemoError(
            f"{folder} exists and was not made by the demo", f"move it away: mv {folder} {folder}.old"
        ) from None
    return folder


def _facts(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        facts: dict[str, Any] = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        return facts
    return {}


def _is_site(pid: int | None) -> bool:
    """Tell whether a process is the demo's servers; a number may have been given to another one meanwhile."""
    with contextlib.suppress(OSError):
        return pid is not None and b"tests.demo.site" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
