"""What a host of a fleet has to do about its plans when it hears what the others took up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

__all__ = ["AHEAD", "MOST_TRIES", "Replan", "TaskRecord", "catch_up", "exact", "passed", "records_of", "replan"]

MOST_TRIES: Final = 3
"""How often one due time is taken up: what brings down every host that takes it up is not tried for ever."""
AHEAD: Final = timedelta(minutes=10)
"""A due time that is further in the future was taken up by a host whose clock is wrong: it counts for nothing."""
_GRAIN: Final = timedelta(milliseconds=1)
"""MongoDB keeps moments in milliseconds."""


class TaskRecord(msgspec.Struct, frozen=True):
    """Which due time of a task was taken up last, by the holder of which token, as which try; whether it is done."""

    due: datetime
    done: bool
    token: int
    tries: int = 1
    host: str = ""


class Replan(msgspec.Struct, frozen=True):
    """What is to be planned anew: the first time after ``done``, or ``undone`` itself, which is made up for."""

    done: datetime
    undone: datetime | None = None


def records_of(lease: Mapping[str, Any]) -> dict[str, TaskRecord]:
    """Read the tasks of a lease document; what is of another shape is left out."""
    found = {}
    tasks = lease.get("tasks")
    for name, said in tasks.items() if isinstance(tasks, dict) else ():
        if isinstance(said, dict) and isinstance(said.get("due"), datetime):
            found[name] = TaskRecord(
                due=said["due"],
                done=said.get("state") == "done",
                token=int(said.get("token", 0)),
                tries=int(said.get("tries", 1)),
                host=str(said.get("host", "")),
            )
    return found


def exact(due: datetime) -> datetime:
    """Return a due time as MongoDB will have it."""
    return due.replace(microsecond=due.microsecond // 1000 * 1000)


def catch_up(record: TaskRecord | None, token: int) -> datetime | None:
    """Return the due time that the holder of ``token`` has to take up because another did not come to its end."""
    if record is None or record.done or record.token >= token or record.tries >= MOST_TRIES:
        return None
    return record.due


def passed(record: TaskRecord | None, planned: datetime | None) -> bool:
    """Tell whether what is planned here was done by another host, so that only the next time counts."""
    if record is None or planned is None:
        return False
    settled = record.done or record.tries >= MOST_TRIES
    return planned < record.due or (settled and exact(planned) <= record.due + _GRAIN)


def replan(record: TaskRecord | None, planned: datetime, now: datetime, token: int = 0) -> Replan | None:
    """Decide what becomes of a plan when ``record`` is heard of; None: it stays as it is.

    ``token`` is of a host that has just become the holder: it makes up for what another left undone, and for what
    nobody took up since the last time that is on record. Who stands by only leaves out what was done.
    """
    if record is None or record.due > now + AHEAD:
        return None
    undone = catch_up(record, token) if token else None
    if undone is not None or passed(record, planned) or (token and planned > now):
        return Replan(done=record.due, undone=undone)
    return None
