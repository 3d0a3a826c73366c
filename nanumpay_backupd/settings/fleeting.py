"""What each host of a fleet is called, and ``{host}`` in the names of jobs that each makes for itself."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from nanumpay_backupd.settings.schema import JobSpec, to_public

__all__ = ["fingerprint", "host_name", "named_for_host"]

_PLACE: Final = "{host}"
_LONGEST: Final = 20
_OWN: Final = frozenset({"source", "encryption", "limits", "before", "after", "warnings"})
"""What may differ from host to host: how a server is reached, where tools and keys lie, how strong the host is."""


def host_name(said: str) -> str:
    """Return what this host is called in a fleet: what the host file says, else its own name without the domain."""
    return said or socket.gethostname().partition(".")[0]


def named_for_host(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a host file with this host's name in the place of ``{host}`` in the names of jobs.

    Where there is no fleet nothing changes; what is not of the right shape is told by whoever checks it.
    """
    fleet = raw.get("fleet")
    if not isinstance(fleet, dict) or fleet.get("enabled") is not True:
        return raw
    said = fleet.get("host")
    name = _word(host_name(said if isinstance(said, str) else ""))
    jobs, groups = raw.get("job"), raw.get("group")
    done = dict(raw)
    if isinstance(jobs, list):
        done["job"] = [_filled(job, "name", name) if isinstance(job, dict) else job for job in jobs]
    if isinstance(groups, dict):
        done["group"] = {
            key: _filled(group, "jobs", name) if isinstance(group, dict) else group for key, group in groups.items()
        }
    return done


def fingerprint(jobs: Iterable[JobSpec]) -> str:
    """Return a short digest of what has to be the same on all hosts of a fleet: jobs without secrets and paths."""
    said = [{key: value for key, value in to_public(job).items() if key not in _OWN} for job in jobs]
    data = msgspec.json.encode(sorted(said, key=lambda job: str(job["name"])), order="sorted")
    return hashlib.sha256(data).hexdigest()[:12]


def _filled(table: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    value = table.get(key)
    if isinstance(value, str):
        return {**table, key: value.replace(_PLACE, name)}
    if isinstance(value, list):
        return {**table, key: [item.replace(_PLACE, name) if isinstance(item, str) else item for item in value]}
    return table


def _word(host: str) -> str:
    """Return a host's name as it may stand in a job's."""
    return re.sub("[^a-z0-9]+", "-", host.lower()).strip("-")[:_LONGEST]
