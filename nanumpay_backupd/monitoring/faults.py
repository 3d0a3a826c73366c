"""Turns checks that are not ok into faults, so that people are told; what they are told otherwise is left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.monitoring.checks import EXPIRY, FAILED, OK, REACH, ROOM, RUNS, WARNING, Check

__all__ = ["AGAIN", "faults_of", "shown_too"]

AGAIN: Final = 900.0
"""Seconds after which a place that did not answer is looked at again."""
_PATIENCE: Final = AGAIN + 60.0
"""Somebody is told of a place that did not answer twice, not of one that was restarted just then."""

_SAID: Final = frozenset({"none", "waiting", "slices", "chain", "oplog"})


def faults_of(checks: Iterable[Check], told: Iterable[Fault]) -> list[Fault]:
    """Return the faults, each once, but for what people are ``told`` anyway."""
    known = {key for fault in told for key in (fault.key, f"{fault.key}={fault.code}")}
    ending: set[str] = set()
    found = []
    for check in checks:
        if check.state == OK or check.silent or check.key in known or known & set(check.told):
            continue
        if check.check == EXPIRY:
            if check.destination and check.about in ending:  # two jobs use one place
                continue
            ending.add(check.about)
        known.add(check.key)
        found.append(_fault(check))
    return found


def shown_too(job: str, faults: Iterable[Fault]) -> list[Check]:
    """Return what else is wrong with a job (``control.facts.job_faults``) as checks, which nobody is told again.

    What the other checks say in their own words is left out: that there is no backup, and how the slices are.
    """
    found = [
        Check(
            job=job,
            destination="",
            check=RUNS,
            state=FAILED if fault.severity is Severity.ERROR else WARNING,
            message=fault.text.removeprefix(f"job {job}: "),
            hint=fault.hint,
            value=fault.key.partition(":")[0],
            code=fault.code,
            backup=fault.backup,
            silent=True,
        )
        for fault in faults
        if fault.job == job and fault.key.partition(":")[0] not in _SAID
    ]
    return found or [
        Check(job=job, destination="", check=RUNS, state=OK, message="the last run was good", value="good")
    ]


def _fault(check: Check) -> Fault:
    disk = check.check == ROOM
    where = f"job {check.job}" + (f", {check.destination}" if check.destination else "")
    return Fault(
        key=check.key,
        text=f"{where}: {check.message}",
        severity=Severity.ERROR if check.state == FAILED else Severity.WARNING,
        event=Event.DISK_LOW if disk else Event.UNHEALTHY,
        job="" if disk else check.job,
        reason=f"{check.destination}: {check.message}" if check.destination else check.message,
        hint=check.hint,
        code=check.code,
        occurrence=check.backup if check.about else "",
        backup=check.backup,
        patience=_PATIENCE if check.check == REACH else 0.0,
    )
