"""What the tests of the web page share for the whole session: a site with data, its page, and people."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.servers.daemon import Site, open_site
from tests.servers.mongod import Mongod
from tests.servers.web import ODD, Page, add_admin, add_users, open_page


@pytest.fixture(scope="session")
def web_site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site with slices, promises, a second place, a job of files, and a full of each.

    Tests leave the daemon running, the settings as they were, and at least these fulls.
    """
    with open_site(mongod_rs) as site:
        for name in ("nas", "photos"):
            (site.folder / name).mkdir()
        (site.folder / "photos" / "one.txt").write_text("first", encoding="utf-8")
        site.write_config(
            "[nanumpay]\ndestinations = ['nas']\npitr = '5m'\nrpo = '1h'\ntier = 'critical'\n"
            f"[destination.nas]\ntype = 'local'\npath = '{site.folder}/nas'\n"
            f"[[job]]\nname = 'photos'\ntype = 'files'\npath = '{site.folder}/photos'\nschedule = '15 4 * * sun'\n"
        )
        add_admin(site)
        with site.db() as db:
            db[ODD].insert_one({"x": 1})
            db.orders.insert_many([{"n": at} for at in range(30)])
        site.start()
        for job in ("nanumpay", "photos"):
            assert site.run(job)["outcome"] == "succeeded"
        yield site


@pytest.fixture(scope="session")
def web_page(web_site: Site) -> Iterator[Page]:
    """The page of that site, with a local user of each role, who has the role's name."""
    with open_page(web_site) as page:
        add_users(web_site, "viewer", "operator", "admin")
        yield page


@pytest.fixture(scope="session")
def boss(web_page: Page) -> httpx.Client:
    """The application's administrator, signed in."""
    return web_page.signed_in()


@pytest.fixture(scope="session")
def viewer(web_page: Page) -> httpx.Client:
    """A local user who may only look, signed in."""
    return web_page.signed_in("viewer")
