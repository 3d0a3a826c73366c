"""What a soak writes down while it runs: events and samples, one JSON line each, so that nothing is lost with it.

What it comes to is worked out from these files (`tests.soak.report`).
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["Diary"]

Document = dict[str, Any]


class Diary:
    """Two files in a folder: ``events.jsonl`` and ``samples.jsonl``. Times are seconds since the soak began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.began = time.time()
        self._lock = threading.Lock()
        self._events = (folder / "events.jsonl").open("a", encoding="utf-8")
        self._samples = (folder / "samples.jsonl").open("a", encoding="utf-8")

    def note(self, kind: str, **more: Any) -> None:
        """Write an event: ``begin``, ``fault``, ``proof``, ``anomaly``, ``life``, ``run``, ``deed`` or ``end``."""
        with self._lock:
            entry = {"at": round(time.time() - self.began, 1), "kind": kind, **more}
            self._events.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
            self._events.flush()
        if kind in {"fault", "proof", "anomaly", "life", "begin", "end"}:
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} {kind}: {_short(more)}", flush=True)

    def sample(self, **more: Any) -> None:
        """Write a sample."""
        with self._lock:
            self._samples.write(json.dumps({"at": round(time.time() - self.began, 1), **more}) + "\n")
            self._samples.flush()


def _short(more: Document) -> str:
    return ", ".join(f"{name}={str(value)[:400]}" for name, value in more.items())
