"""What of a job waits, and what is tried again, in words. Rows only; nothing is written, asked or decided here."""

from __future__ import annotations

from nanumpay_backupd.cli.terminal import Screen
from nanumpay_backupd.cli.words import Times

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["waiting_rows"]

_NAMES = {
    "backup": "the backup",
    "verify": "the verification",
    "drill": "the drill",
    "upload": "queued uploads",
    "copy": "a copy",
}


def waiting_rows(screen: Screen, job: Reply, times: Times) -> list[tuple[str, str]]:
    """Write the rows of one job's block in the status: what is due and waits, and which failed run is made again."""
    label = screen.paint("waits", "yellow")
    rows = [(label, _waits(wait, times)) for wait in job.get("waiting") or ()]
    label = screen.paint("again", "yellow")
    return [*rows, *((label, _again(again, times)) for again in job.get("again") or ())]


def _waits(wait: Reply, times: Times) -> str:
    text = f"{_NAMES.get(wait['what'], wait['what'])}, due {times.when(wait['due'])}"
    if wait["reason"] == "blackout" and wait.get("until"):
        return f"{text}, for the blackout until {times.when(wait['until'])}"
    return f"{text}: {wait['active']} of {wait['most']} runs are active"


def _again(again: Reply, times: Times) -> str:
    of = f"attempt {again['attempt']} of {again['attempts']}"
    return f"{_NAMES.get(again['action'], again['action'])} is tried again {times.both(again['due'])}, {of}"
