"""Turns checks that are not ok into faults, so that people are told; what they are told otherwise is left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.monitoring.checks import EXPIRY, FAILED, OK, REACH, ROOM, Check

__all__ = ["AGAIN", "faults_of"]

AGAIN: Final = 900.0
"""Seconds after which a place that did not answer is looked at again."""
_PATIENCE: Final = AGAIN + 60.0
"""Somebody is told of a place that did not answer twice, not of one that was restarted just then."""


def faults_of(checks: Iterable[Check], told: Collection[str]) -> list[Fault]:
    """Return the faults, each once; ``told`` are the keys of those that are told anyway."""
    known = set(told)
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
