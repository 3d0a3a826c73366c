"""What the daemon calls a problem about a job's protection: objectives, slices, drills, verifications. Tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanumpay_backupd.control.facts import disk_fault, job_faults
from nanumpay_backupd.events import Event

Record = dict[str, Any]
FAULT = {"code": "c", "message": "it is broken", "hint": "mend it", "retryable": False}


def job(*, enabled: bool = True, **protection: Any) -> Record:
    """Make a job as `looking` hands it on, with nothing wrong but what ``protection`` says."""
    shown = {
        "recoverable_until": "2026-11-20T20:00:00Z",
        "age": 12.0,
        "stream": "ok",
        "slices": 0,
        "window": 0.0,
        "problem": None,
        "rpo": 0.0,
        "rto": 0.0,
        "rpo_kept": None,
        "rto_kept": None,
        "last_verify": None,
        "last_drill": None,
        "restore_seconds": None,
        "spread": spread(kept=None),
    }
    return {
        "name": "shop",
        "enabled": enabled,
        "schedule": ["0 2 * * *"],
        "newest_backup": {"id": "b"},
        "last_run": None,
        "running": None,
        "pending_uploads": 0,
        "warnings": [],
        "protection": shown | protection,
    }


def spread(*lacking: str, kept: bool | None) -> Record:
    """Say how the copies of the newest backup are spread."""
    return {"backup": "b", "kept": kept, "lacking": list(lacking)}


def ended(outcome: str, error: Record | None = FAULT) -> Record:
    """Make a run that ended so."""
    return {"id": "r1", "outcome": outcome, "error": error}


def missed(age: float, stream: str = "ok") -> Record:
    """Make the protection of a job that promises 15 minutes."""
    return {"rpo": 900.0, "rpo_kept": age <= 900, "age": age, "stream": stream}


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({}, []),
        ({"rpo": 900.0}, []),  # promised, and not known yet: that there is no backup is told by itself
        (missed(900), []),
        ({"stream": "off"}, []),
        ({"stream": "waiting"}, []),
        ({"last_drill": ended("succeeded", None), "last_verify": ended("succeeded", None)}, []),
        (
            missed(1380),
            [
                (
                    "warning",
                    "the RPO of 15m is missed: nothing after 2026-11-20 20:00:00 UTC can be restored → save the",
                )
            ],
        ),
        (missed(1800), [("warning", "the RPO of 15m is missed")]),
        (missed(1801), [("failing", "the RPO of 15m is missed")]),
        (missed(1801) | {"enabled": False}, [("warning", "is disabled"), ("warning", "the RPO of 15m is missed")]),
        (missed(1380, "off"), [("warning", 'pitr = "60s"')]),
        (missed(1380, "broken"), [("warning", "is needed: it is made by itself, or now by backupctl run shop")]),
        (missed(1380, "waiting"), [("warning", "is needed: it is made by itself, or now by backupctl run shop")]),
        (missed(1380, "failing"), [("warning", "the slices have to be mended first: backupctl timeline shop")]),
        *(
            (
                {"stream": stream, "problem": FAULT},
                [("warning", "the changes are not being saved: it is broken → mend it")],
            )
            for stream in ("waiting", "failing", "broken")
        ),
        ({"problem": FAULT}, [("warning", "job shop: it is broken → mend it")]),  # an oplog that is short, foreseen
        (
            {"stream": "failing", "problem": FAULT, "window": 93_600.0},
            [("warning", "it is broken; nothing is lost while the oplog holds them (it holds about 26h) → mend it")],
        ),
        (
            {"stream": "failing", "problem": FAULT | {"hint": ""}},
            [("warning", "it is broken → backupctl timeline shop")],
        ),
        (
            {"last_drill": ended("failed")},
            [("failing", "job shop: the last drill failed: it is broken → mend it; then again: backupctl drill shop")],
        ),
        (
            {"last_verify": ended("failed")},
            [
                (
                    "failing",
                    "the last verification failed: it is broken → mend it; then again: backupctl verify --job shop",
                )
            ],
        ),
        ({"last_drill": ended("failed", None)}, [("failing", "no reason recorded → see: backupctl show r1; then")]),
        ({"last_verify": ended("degraded")}, [("warning", "the last verification was not complete: it is broken")]),
        (
            {"rto": 3600.0, "rto_kept": False, "restore_seconds": 4320.0},
            [("warning", "the RTO of 1h is missed: the last drill took 1h12m to restore → replay less")],
        ),
        ({"rto": 3600.0, "rto_kept": True, "restore_seconds": 41.0}, []),
    ],
)
def test_problems(changes: Record, expected: list[tuple[str, str]]) -> None:
    """Each broken promise and failed proof is a sentence with what to do, failing where data are at stake."""
    found = [(fault.state, fault.line) for fault in job_faults([job(**changes)])]
    assert [state for state, _ in found] == [state for state, _ in expected]
    for (_, text), (_, part) in zip(found, expected, strict=True):
        assert part in text
        assert text.startswith("job shop")
        assert " → " in text or "disabled" in text


def test_a_miss_that_lasts_stays_the_same_problem() -> None:
    """The sentence does not change while nothing does: who watches problems is told once."""
    assert job_faults([job(**missed(1000))]) == job_faults([job(**missed(1005))])


RUN: Record = {"id": "r1", "backup": None, "error": FAULT, "warnings": []}
BAD: list[tuple[Record, str, Event | None, bool]] = [
    ({"last_run": RUN | {"outcome": "failed"}}, "backup:shop", Event.FAILED, True),
    # A restart catches it up first.
    ({"last_run": RUN | {"outcome": "interrupted"}}, "backup:shop", Event.FAILED, False),
    ({"last_run": RUN | {"outcome": "degraded"}, "pending_uploads": 1}, "copies:shop", Event.DEGRADED, True),
    ({"last_run": RUN | {"outcome": "succeeded"}, "pending_uploads": 1}, "copies:shop", Event.DEGRADED, False),
    (
        {"last_run": RUN | {"outcome": "succeeded", "warnings": ["retention: nas refused"]}},
        "cleanup:shop",
        Event.CLEANUP_FAILED,
        True,
    ),
    ({"warnings": ["no server is named"]}, "warning:no server is named:shop", None, True),
    ({"newest_backup": None}, "none:shop", None, True),
    (missed(1380), "rpo:shop", Event.UNHEALTHY, False),
    ({"rto": 3600.0, "rto_kept": False, "restore_seconds": 4320.0}, "rto:shop", Event.UNHEALTHY, True),
    ({"problem": FAULT}, "oplog:shop", Event.UNHEALTHY, True),
    ({"stream": "waiting", "problem": FAULT}, "waiting:shop", None, True),
    ({"stream": "failing", "problem": FAULT}, "slices:shop", Event.SLICES_FAILED, False),
    ({"stream": "broken", "problem": FAULT}, "chain:shop", Event.CHAIN_BROKEN, True),
    ({"last_drill": ended("failed")}, "drill:shop", Event.DRILL_FAILED, True),
    ({"last_verify": ended("degraded")}, "verify:shop", Event.VERIFY_FAILED, True),
]


@pytest.mark.parametrize("changes,key,event,at_once", BAD, ids=[key for _, key, _, _ in BAD])
def test_what_people_are_told_of_it(changes: Record, key: str, event: Event | None, at_once: bool) -> None:
    """Each kind of trouble has a key of its own and its event; what mends itself mostly waits before it is told."""
    made = job()
    own = {name: value for name, value in changes.items() if name in made}
    found = job_faults(
        [made | own | {"protection": made["protection"] | {k: changes[k] for k in changes.keys() - own}}]
    )
    (fault,) = found
    assert (fault.key, fault.event, fault.patience == 0.0) == (key, event, at_once)
    assert fault.job == "shop"
    if event is not None and key != "copies:shop":
        assert fault.reason
        assert fault.hint


def test_keys_are_not_shared() -> None:
    """Two kinds of trouble are never taken for one."""
    assert len({key for _, key, _, _ in BAD}) == len({(key, event) for _, key, event, _ in BAD})


@pytest.mark.parametrize("free,expected", [(None, []), (2 << 30, []), (5_000_000, ["disk"])])
def test_a_disk_that_is_nearly_full(free: int | None, expected: list[str]) -> None:
    """It is told with the folder and what is left; what is not known is no fault."""
    found = disk_fault(free, Path("/srv/backups"))
    assert [fault.key for fault in found] == expected
    assert all("5.00 MB are free in /srv/backups" in fault.text and fault.hint for fault in found)
