"""The page on a host of a fleet: it shows the hosts, and what all of them did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.servers.daemon import backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.web import add_admin, open_page

pytestmark = pytest.mark.servers


def test_any_host_shows_all(mongod_rs: Mongod) -> None:
    """Hosts with their parts, and the runs of all; those of another lead nowhere, as only that host can tell more."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        add_admin(site)
        site.write_config("[fleet]\nenabled = true\nhost = 'here-1'\nlease = '6s'", top="timezone = 'UTC'")
        began = datetime.now(UTC) - timedelta(minutes=5)
        with site.db() as db:
            there: dict[str, Any] = {
                "kind": "host",
                "instance": "x",
                "role": "standby",
                "running": [],
                "version": "0.1.0",
            }
            # Heard of in the future: so it is still there when the page is looked at.
            db.backupfleet.insert_one(
                {"_id": "host:there-2", **there, "seen": datetime.now(UTC) + timedelta(minutes=5)}
            )
            run: dict[str, Any] = {
                "id": "20261122-020000-beef",
                "job": "nanumpay",
                "trigger": "schedule",
                "outcome": "succeeded",
            }
            run |= {
                "action": "backup",
                "started": began.isoformat(),
                "ended": began.isoformat(),
                "stages": [],
                "warnings": [],
            }
            own = {"kind": "run", "host": "there-2", "job": "nanumpay", "started": began, "run": run}
            db.backupfleet.insert_one({"_id": f"run:there-2:{run['id']}", **own})
            # What a version wrote that this one cannot read is left out.
            db.backupfleet.insert_one({"_id": "run:there-2:odd", **own, "run": {"id": "odd", "stages": 3}})
        site.start()
        wait_for(lambda: site.status()["fleet"]["role"] == "holder", "the lease")
        mine = site.run()["id"]
        wait_for(lambda: len(site.call("ListRuns", fleet=True)["runs"]) == 2, "the run in MongoDB")
        with open_page(site) as page:
            browser = page.signed_in()
            overview, runs = browser.get("/").text, browser.get("/run").text
            assert "<b>here-1</b>" in overview
            assert "<b>there-2</b>" in overview
            assert "makes the backups" in overview
            assert "stands by" in overview
            for text in (overview, runs):
                assert f"/run/{mine}" in text
                assert "there-2" in text
                assert run["id"] not in text
            assert "here-1" not in browser.get("/run?slices=1").text
            assert "백업 담당" in browser.get("/", headers={"accept-language": "ko"}).text
            assert "Traceback" not in page.log()
