"""When the journal hears of a promise that is not kept: when it begins, when it gets worse, when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from nanumpay_backupd.events import Fault, Severity
from nanumpay_backupd.messages import Message
from nanumpay_backupd.promises import Broken, broken, news

LATE = Fault(key="rpo", text="late", severity=Severity.WARNING, hint="run")
FAR = Fault(key="rpo", text="very late", severity=Severity.ERROR, hint="run")
SLOW = Fault(key="rto", text="slow", severity=Severity.WARNING, hint="disk")


def job(**protection: Any) -> dict[str, Any]:
    """Return a job as the facts describe it, all promises kept, with changes."""
    shown = {
        "recoverable_until": "2026-11-21T04:00:00Z",
        "age": 100.0,
        "rpo": 900.0,
        "rto": 3600.0,
        "rpo_kept": True,
        "rto_kept": True,
        "restore_seconds": 60.0,
        "stream": "ok",
        "problem": None,
    }
    return {"name": "nanumpay", "enabled": True, "protection": shown | protection}


@pytest.mark.parametrize(
    "protection, expected",
    [
        ({}, {}),
        ({"rpo_kept": None, "rto_kept": None}, {}),
        ({"rpo_kept": False, "age": 1000.0}, {Message.RPO_MISSED: "warning"}),
        ({"rpo_kept": False, "age": 2000.0}, {Message.RPO_MISSED: "failing"}),
        ({"rto_kept": False, "restore_seconds": 4000.0}, {Message.RTO_MISSED: "warning"}),
        ({"problem": {"message": "short", "hint": "larger"}}, {Message.OPLOG_SHORT: "warning"}),
        # That the stream is broken or waits is told by its runs.
        ({"problem": {"message": "gone", "hint": "wait"}, "stream": "broken"}, {}),
    ],
)
def test_what_is_not_kept(protection: dict[str, Any], expected: dict[Message, str]) -> None:
    """What status would show of RPO, RTO and oplog is found, each with what to do."""
    found = broken(job(**protection))
    assert {message: problem.state for message, problem in found.items()} == expected
    assert all(problem.text.startswith("job nanumpay: ") and problem.hint for problem in found.values())


@pytest.mark.parametrize(
    "before, now, expected",
    [
        ({}, {}, []),
        ({}, {Message.RPO_MISSED: LATE}, [(Message.RPO_MISSED, LATE)]),
        ({Message.RPO_MISSED: LATE}, {Message.RPO_MISSED: LATE}, []),
        ({Message.RPO_MISSED: LATE}, {Message.RPO_MISSED: FAR}, [(Message.RPO_MISSED, FAR)]),
        ({Message.RPO_MISSED: FAR}, {Message.RPO_MISSED: FAR}, []),
        ({Message.RPO_MISSED: FAR}, {Message.RPO_MISSED: LATE}, []),
        ({Message.RPO_MISSED: FAR}, {}, [(Message.RPO_KEPT, None)]),
        ({Message.RTO_MISSED: SLOW}, {}, []),
        (
            {Message.RTO_MISSED: SLOW},
            {Message.RTO_MISSED: SLOW, Message.RPO_MISSED: LATE},
            [(Message.RPO_MISSED, LATE)],
        ),
        (
            {Message.RPO_MISSED: LATE},
            {Message.RTO_MISSED: SLOW},
            [(Message.RTO_MISSED, SLOW), (Message.RPO_KEPT, None)],
        ),
    ],
)
def test_what_is_news(before: Broken, now: Broken, expected: list[tuple[Message, Fault | None]]) -> None:
    """The same trouble is not told at every look; worse is; better is told of the RPO, which is a promise about now."""
    assert news(before, now) == expected
