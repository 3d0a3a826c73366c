"""Of more than one host: the runs of all of them, as any of them shows it. No page of its own."""

from __future__ import annotations

from typing import Any

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.web.site import Site

__all__ = ["runs_of_all"]


async def runs_of_all(site: Site, status: dict[str, Any], job: str | None, limit: int) -> list[dict[str, Any]] | None:
    """Return the runs of all hosts, newest first; None: there is one host, or MongoDB, which knows them, is away.

    Each says its ``host``, and ``here``: whether this host can tell more of it.
    """
    fleet = status.get("fleet")
    if not fleet or fleet["problem"]:
        return None
    try:
        found = (await site.link.ask("ListRuns", {"job": job, "limit": limit, "fleet": True}))["runs"]
    except BackupdError:
        return None  # the page is needed most when something is away
    return [{**run, "here": run["host"] == fleet["host"]} for run in found]
