"""``python -m tests.shots`` takes the pictures of docs/web.md anew, from a real daemon, MongoDB and browser.

They are looked at by whoever takes them. Nothing here is a test.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

from nanumpay_backupd.control.client import RemoteError
from tests import sample_data
from tests.servers.daemon import Site, backup_settings, open_site
from tests.servers.environment import clean_environment
from tests.servers.mongod import start_mongod
from tests.servers.tools import PROJECT
from tests.servers.web import ADMIN, PASSWORD, add_admin, open_page

__all__ = ["main"]

FOLDER: Final = PROJECT / "docs" / "web"
CHROMIUM: Final = "/usr/bin/chromium"
_PAGES: Final = {"overview": "/", "recover": "/recover?when=moment", "jobs": "/jobs", "health": "/health"}


def main() -> None:
    """Take them."""
    clean_environment()
    with start_mongod(replica_set=True) as server, open_site(server, backup_settings(), fill=False) as site:
        site.database = "nanumpay"
        site.uri = server.uri_for("nanumpay")
        _fill(site)
        with open_page(site) as page, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            context = browser.new_context(viewport={"width": 1180, "height": 820}, locale="en-GB", color_scheme="light")
            tab = context.new_page()
            tab.goto(f"{page.origin}/sign-in")
            tab.fill("input[name=name]", ADMIN)
            tab.fill("input[name=password]", PASSWORD)
            tab.click("button.primary")
            tab.goto(f"{page.origin}/health")
            tab.click("[data-doctor] button")
            tab.wait_for_selector("[data-findings] > .note")
            tab.click("text=Look now")
            for name, path in _PAGES.items():
                tab.goto(page.origin + path)
                tab.wait_for_timeout(500)
                tab.screenshot(path=FOLDER / f"{name}.png", full_page=True)
            tab.goto(f"{page.origin}/recover?when=moment")
            tab.check("input[name=where][value=place]")
            tab.click(".recover button.primary")
            tab.wait_for_selector(".plan")
            tab.screenshot(path=FOLDER / "plan.png", full_page=True)
            browser.close()


def _fill(site: Site) -> None:
    """Make a site that looks like one in use: data, a second place, fulls with changes between them."""
    for name in ("nas", "uploads"):
        (site.folder / name).mkdir()
    chosen = random.Random(7)
    (site.folder / "uploads" / "receipt.pdf").write_bytes(chosen.randbytes(400_000))
    site.write_config(
        "[nanumpay]\ndestinations = ['nas']\npitr = '5m'\nrpo = '15m'\nrto = '1h'\ncopies = 3\n"
        f"[destination.nas]\ntype = 'local'\npath = '{site.folder}/nas'\n"
        f"[[job]]\nname = 'uploads'\ntype = 'files'\npath = '{site.folder}/uploads'\nschedule = '30 3 * * *'\n",
        top="timezone = 'Asia/Seoul'",
    )
    with site.db() as db:
        sample_data.load(db, scale=0.3)
    site.save(backup_settings(storage={"type": "none"}))
    add_admin(site)
    site.start()
    for job in ("nanumpay", "uploads", "nanumpay"):
        for _ in range(20):
            try:
                site.run(job)
                break
            except RemoteError:
                time.sleep(1)
        time.sleep(20 if job == "nanumpay" else 0)
        with site.db() as db:
            db.orders.insert_many([{"n": at} for at in range(50)])
    site.run("nanumpay", kind="incremental")


if __name__ == "__main__":
    Path(FOLDER).mkdir(exist_ok=True)
    main()
