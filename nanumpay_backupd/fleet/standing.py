"""How the fleet stands, for people: who holds the lease, who is there, and what is wrong with that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from nanumpay_backupd.events import Event, Fault, Severity

__all__ = ["Standing", "faults_of", "shown"]

_GONE: Final = 3.0
"""After how many times the lease a host that says nothing is told of as gone."""
_FORGOTTEN: Final = 30 * 86400.0
"""Seconds after which nobody is told any more of a host that is gone."""
_CLOCK: Final = 30.0
"""Seconds by which a host's clock may differ from the server's: names and due times are by the host's."""
_PATIENCE: Final = 300.0


class Standing(msgspec.Struct, frozen=True):
    """What one daemon knows: this host, its part, the lease document, what each host said last, what is in the way.

    ``length`` is that of the lease in seconds.
    """

    host: str
    me: str
    role: str
    length: float
    lease: Mapping[str, Any]
    hosts: Sequence[Mapping[str, Any]]
    problem: str = ""


def shown(standing: Standing, own: Iterable[str]) -> dict[str, Any]:
    """Return the fleet as the interface's type Fleet; ``own`` are the jobs that this host makes for itself."""
    lease = standing.lease
    held = standing.role != "standby"
    holder = standing.host if held else str(lease.get("host", "")) if not standing.problem else ""
    since = lease.get("since") if holder else None
    return {
        "host": standing.host,
        "role": standing.role,
        "holder": holder,
        "since": _text(since),
        "token": int(lease.get("token", 0)),
        "lease": standing.length,
        "own": sorted(own),
        "problem": standing.problem,
        "hosts": [_host(said, standing) for said in sorted(standing.hosts, key=lambda said: str(said["_id"]))],
    }


def _host(said: Mapping[str, Any], standing: Standing) -> dict[str, Any]:
    age = float(said.get("age", 0.0))
    gone = age > _GONE * standing.length
    return {
        "host": _name(said),
        "role": "gone" if gone else str(said.get("role", "standby")),
        "seen": _text(said.get("seen")),
        "age": round(max(0.0, age), 1),
        "version": str(said.get("version", "")),
        "settings": str(said.get("settings", "")),
        "running": [] if gone else [str(job) for job in said.get("running", ())],
        "clock": round(_ahead(said), 1),
    }


def faults_of(standing: Standing) -> list[Fault]:
    """Return what is wrong with the fleet, as it is seen from here."""
    if standing.problem:
        text = f"the fleet's lease cannot be asked for: {standing.problem}"
        hint = "no job of the fleet begins here until that is mended: docs/fleet.md"
        return [_fault("fleet", text, hint, Severity.ERROR, patience=_PATIENCE)]
    own = next((said for said in standing.hosts if _name(said) == standing.host), None)
    there = [said for said in standing.hosts if float(said.get("age", 0.0)) <= _GONE * standing.length]
    found = []
    if own is not None and own.get("instance") != standing.me:
        text = f"another daemon calls itself {standing.host} in the fleet"
        found.append(_fault("fleet-name", text, "give each host its own [fleet] host", Severity.ERROR))
    for said in standing.hosts:
        age = float(said.get("age", 0.0))
        if said not in there and age < _FORGOTTEN:
            text = f"host {_name(said)} of the fleet says nothing any more"
            hint = f"is its daemon running? Where it is gone for good: backupctl fleet forget {_name(said)}"
            found.append(_fault(f"fleet-host:{_name(said)}", text, hint, Severity.WARNING, patience=_PATIENCE))
    for said in there:
        found += _compared(own, said, standing)
    return found


def _compared(own: Mapping[str, Any] | None, said: Mapping[str, Any], standing: Standing) -> list[Fault]:
    """Return what is wrong with one host that is there, compared with this one."""
    name, found = _name(said), []
    if abs(_ahead(said)) > _CLOCK:
        way = "ahead of" if _ahead(said) > 0 else "behind"
        text = f"the clock of host {name} is {abs(_ahead(said)):.0f} s {way} MongoDB's"
        hint = "let both hosts get their time by NTP (timedatectl); who holds the lease does not depend on it"
        found.append(_fault(f"fleet-clock:{name}", text, hint, Severity.WARNING))
    if own is None or name == standing.host:
        return found
    if said.get("settings") != own.get("settings"):
        text = f"the settings of the shared jobs on host {name} are others than here"
        hint = "bring the host files in line: backupctl settings on both; each host makes the jobs as its own file says"
        found.append(_fault(f"fleet-settings:{name}", text, hint, Severity.WARNING, patience=60.0))
    both = sorted(set(said.get("own", ())) & set(own.get("own", ())))
    if both:
        text = f"host {name} also makes {'a job' if len(both) == 1 else 'jobs'} called {', '.join(both)} for itself"
        hint = 'at a shared destination their copies would mix: put {host} into the name, as in name = "files-{host}"'
        found.append(_fault(f"fleet-jobs:{name}", text, hint, Severity.WARNING))
    return found


def _name(said: Mapping[str, Any]) -> str:
    return str(said.get("_id", "")).removeprefix("host:")


def _ahead(said: Mapping[str, Any]) -> float:
    """Return by how many seconds a host's clock was ahead of the server's when it said that it is there."""
    now, seen = said.get("now"), said.get("seen")
    return (now - seen).total_seconds() if isinstance(now, datetime) and isinstance(seen, datetime) else 0.0


def _text(moment: object) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if isinstance(moment, datetime) else None


def _fault(key: str, text: str, hint: str, severity: Severity, *, patience: float = 0.0) -> Fault:
    return Fault(key=key, text=text, hint=hint, severity=severity, event=Event.UNHEALTHY, patience=patience)
