"""Several daemons of one fleet for tests: each a site of its own, all with one database and one destination."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.servers.daemon import Server, Site, open_site, wait_for

__all__ = ["JOB", "LEASE", "Fleet", "open_fleet"]

LEASE: Final = 5.0
JOB: Final = "nanumpay"


class Fleet:
    """Hosts by their names, ``a`` and so on. Not every one of them need be running."""

    def __init__(self, sites: dict[str, Site], lease: float) -> None:
        self.sites = sites
        self.lease = lease

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def configure(self, more: str = "") -> None:
        """Write the host files; ``{shared}`` in ``more`` is a folder that all have in common."""
        shared = next(iter(self.sites.values())).folder / "shared"
        shared.mkdir(exist_ok=True)
        for name, site in self.sites.items():
            fleet = f"[fleet]\nenabled = true\nhost = '{name}'\nlease = '{self.lease:g}s'\n"
            site.write_config(fleet + more.replace("{shared}", str(shared)))

    def facts(self, name: str) -> dict[str, Any]:
        """Return the fleet as one host sees it."""
        return dict(self[name].status()["fleet"])

    def role(self, name: str) -> str:
        """Return what a host is."""
        return str(self.facts(name)["role"])

    def wait_holder(self, *names: str, seconds: float = 60.0) -> str:
        """Wait until one of some hosts holds the lease and has taken over, and return its name."""
        found = wait_for(
            lambda: [name for name in names if self.role(name) == "holder"], f"a holder of {names}", seconds
        )
        assert len(found) == 1, found
        return found[0]

    def document(self) -> dict[str, Any]:
        """Return the lease as it is in MongoDB."""
        with next(iter(self.sites.values())).db() as db:
            return db.backupfleet.find_one({"_id": "lease"}) or {}

    def timed(self, condition: Callable[[], object], what: str) -> float:
        """Wait for something and return how many seconds it took."""
        began = time.monotonic()
        wait_for(condition, what)
        return time.monotonic() - began


@contextlib.contextmanager
def open_fleet(
    server: Server, *names: str, settings: dict[str, Any] | None = None, lease: float = LEASE
) -> Iterator[Fleet]:
    """Make the sites of a fleet, with one database for all; ends all daemons at the end of the block."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(open_site(server, settings))
        sites = {names[0]: first}
        for name in names[1:]:
            site = stack.enter_context(open_site(server, fill=False))
            site.database, site.uri = first.database, first.uri
            sites[name] = site
        fleet = Fleet(sites, lease)
        fleet.configure()
        yield fleet


def manifests(folder: Path) -> list[str]:
    """Return the names of the manifests in a folder and below."""
    return sorted(path.name for path in folder.rglob("*.manifest.json"))
