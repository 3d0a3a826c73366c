"""A cluster with Percona Backup for MongoDB, played by a program that answers as documented (`pbm_program`)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from nanumpay_backupd.settings.sources import PbmSource
from nanumpay_backupd.system.secrets import Secret

__all__ = ["SECRET", "START", "PlayedPbm"]

SECRET: Final = "pbm-pa55word-of-the-cluster"
START: Final = 1_795_226_400
"""2026-11-21T02:00:00Z."""


class PlayedPbm:
    """The program, in a folder of its own, and the cluster that it sees."""

    def __init__(self, folder: Path, **state: Any) -> None:
        folder.mkdir()
        self.program = folder / "pbm"
        played = (Path(__file__).parent / "pbm_program.py").read_text(encoding="utf-8")
        self.program.write_text(f"#!{sys.executable} -IS\n{played}", encoding="utf-8")
        self.program.chmod(0o755)
        self._state = folder / "state.json"
        self.uri = f"mongodb://pbmuser:{SECRET}@cfg0:27019,cfg1:27019/?replicaSet=cfg"
        start: dict[str, Any] = {
            "uri": self.uri,
            "version": "2.10.0",
            "clock": START,
            "storage": "S3",
            "sets": ["cfg", "rs1", "rs2"],
            "steps": ["running", "done"],
            "ill": [],
            "pitr": False,
            "spans": [],
            "running": {},
            "backups": [],
            "restores": [],
            "made": [],
            "asked": [],
            "faults": {},
            "next": {},
            "next_restore": {},
        }
        self._state.write_text(json.dumps(start | state), encoding="utf-8")

    def settings(self, **changes: Any) -> PbmSource:
        """Return settings that reach it."""
        return msgspec.structs.replace(PbmSource(uri=Secret(self.uri), pbm=str(self.program)), **changes)

    @contextlib.contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """Yield what the cluster is like, to be changed."""
        with self._state.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = json.load(file)
            yield held
            file.seek(0)
            file.truncate()
            json.dump(held, file)

    @property
    def state(self) -> dict[str, Any]:
        """Return what the cluster is like."""
        with self.changed() as held:
            return dict(held)

    def asked(self, command: str) -> list[list[str]]:
        """Return how a command was called."""
        return [words for words in self.state["asked"] if words[0] == command]

    @property
    def backups(self) -> list[str]:
        """Return the names of the backups that it has."""
        return [one["name"] for one in self.state["backups"]]
