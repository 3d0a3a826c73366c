"""A daemon whose catalog was deleted or destroyed while it was down goes on by itself, here and at its destinations."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanumpay_backupd.pipeline.healing import is_owed
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers


def copies(site: Site) -> dict[str, list[str]]:
    """Return where each backup is that is anywhere."""
    there = {"uploaded", "verified"}
    found = {
        backup["id"]: sorted(copy["destination"] for copy in backup["copies"] if copy["state"] in there)
        for backup in site.list_backups()
    }
    return {name: places for name, places in found.items() if places}


@pytest.mark.promise("The catalog may be lost: the manifests beside the backups have what it takes to go on.", item=5)
@pytest.mark.parametrize("how", ["deleted", "destroyed"])
def test_a_lost_catalog_is_learnt_anew(mongod_rs: Mongod, tmp_path: Path, how: str) -> None:
    """Backups and their copies elsewhere are known again, also one that is only there; retention goes on at both."""
    settings = backup_settings(retention={"count": 2})
    settings["storage"]["type"] = "none"
    with open_site(mongod_rs, settings) as site:
        usb = tmp_path / "usb"
        site.write_config(
            f"[nanumpay]\ndestinations = ['usb']\n[destination.usb]\ntype = 'local'\npath = '{usb}'\n"
            "[destination.usb.retention]\ncount = 3\ndays = 30\n"
        )
        site.start()
        made = [str(site.run()["backup"]) for _ in range(3)]
        before = copies(site)
        assert before == {made[0]: ["usb"], made[1]: ["local", "usb"], made[2]: ["local", "usb"]}
        site.stop()
        for path in site.state.glob("catalog.db*"):
            path.write_bytes(b"no database" * 999) if how == "destroyed" and path.suffix == ".db" else path.unlink()

        site.start()
        wait_for(lambda: not is_owed(site.state), "the copies at the destination are known")
        assert copies(site) == before
        assert bool(list(site.state.glob("catalog-damaged-*.db"))) == (how == "destroyed")
        assert len(site.status()["problems"]) == (how == "destroyed"), "what it may come from is worth a look"
        run = site.run()
        assert run["outcome"] == "succeeded"
        assert copies(site) == {
            made[1]: ["usb"],
            made[2]: ["local", "usb"],
            run["backup"]: ["local", "usb"],
        }
        assert not list(usb.glob(f"{made[0]}*")), "what retention no longer knew would stay for ever"
        assert "Traceback" not in site.log()
