"""What a soak comes to."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["report"]


def report(folder: Path, page: Path) -> int:
    """Write the report of a soak; returns 1 when anything was wrong."""
    events = [json.loads(line) for line in (folder / "events.jsonl").open(encoding="utf-8")]
    wrong = [event for event in events if event["kind"] == "anomaly"]
    page.write_text(f"{len(wrong)} anomalies\n", encoding="utf-8")
    return bool(wrong)
