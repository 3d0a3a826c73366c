"""The web page where things are not as usual: nothing yet, a group, the daemon hangs or is down, what the page may."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.servers.daemon import Site, as_user, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.web import PASSWORD, Page, add_admin, open_page

pytestmark = pytest.mark.servers

PAGES = ("/", "/backups", "/run", "/recover", "/settings", "/jobs", "/events", "/health")


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site without a backup, with a group of the database and a job of files."""
    with open_site(mongod_rs) as site:
        folder = site.folder / "docs"
        folder.mkdir()
        (folder / "one.txt").write_text("first", encoding="utf-8")
        site.write_config(
            "[control]\ngroup = 'nogroup'\n"
            f"[[job]]\nname = 'docs'\ntype = 'files'\npath = '{folder}'\n[group.house]\njobs = ['nanumpay', 'docs']\n"
        )
        add_admin(site)
        site.start()
        yield site


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    """Its page."""
    with open_page(site, "user = 'nobody'") as page:
        yield page


@pytest.fixture(scope="module")
def boss(page: Page) -> httpx.Client:
    """Its administrator, signed in."""
    return page.signed_in()


def test_nothing_yet(boss: httpx.Client) -> None:
    """Without a backup the pages are there and say so."""
    for path in PAGES:
        assert boss.get(path).status_code == 200, path
    assert "Nothing can be restored yet" in boss.get("/recover?job=docs").text


def test_a_group_comes_back_together(site: Site, boss: httpx.Client) -> None:
    """What was backed up together is shown with its members, planned one by one, and restored by one order."""
    assert site.run("house")["outcome"] == "succeeded"
    file = site.folder / "docs" / "one.txt"
    shown = boss.get("/recover?group=house")
    assert shown.status_code == 200, shown.text
    (made,) = site.call("ListBackups", job="house")["groups"]
    assert f'value="{made["id"]}" checked' in shown.text
    file.write_text("spoilt", encoding="utf-8")
    with site.db() as db:
        db.users.drop()
    plan = boss.post("/recover/plan", data={"group": "house", "made": made["id"]})
    assert plan.text.count('class="plan"') == 2
    form = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', plan.text)}
    form = {name: form[name] for name in ("job", "order", "seal") if name in form} | {"password": PASSWORD}
    assert boss.post("/recover/restore", data=form).status_code == 409, "its name was not typed"
    answer = boss.post("/recover/restore", data={**form, "typed": made["id"]})
    name = answer.headers["location"].rpartition("/")[2]
    wait_for(lambda: site.call("DescribeRun", run=name)["run"].get("outcome"), "the end of the group's run")
    run = site.call("DescribeRun", run=name)["run"]
    assert (run["action"], run["outcome"]) == ("group-restore", "succeeded")
    with site.db() as db:
        assert db.users.count_documents({}) == 40
    assert file.read_text(encoding="utf-8") == "first"
    assert boss.post("/recover/plan", data={"group": "house", "made": "nothing"}).status_code == 404


def test_a_daemon_that_hangs(site: Site, boss: httpx.Client) -> None:
    """The service itself answers while the daemon does not."""
    assert site.process is not None
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        assert boss.get("/alive").status_code == 200
        with contextlib.suppress(httpx.ReadTimeout):
            assert boss.get("/events?what=audit", timeout=1).status_code == 200
        assert boss.get("/sign-in").status_code in {200, 303}
    finally:
        os.kill(site.process.pid, signal.SIGCONT)


def test_a_page_that_heals_itself(site: Site, boss: httpx.Client) -> None:
    """While the daemon is down pages say so with 503, and nobody is signed out; everything is back when it is.

    Also where no job is left.
    """
    site.stop()
    for path in PAGES:
        answer = boss.get(path)
        assert (answer.status_code, "data-heal" in answer.text, answer.headers["retry-after"]) == (503, True, "5"), path
    wait_for(lambda: not boss.get("/alive").json()["daemon"] or not site.socket.exists(), "the word")
    reply = boss.get("/api/admin/backup/status")
    assert (reply.status_code, reply.json()["success"]) == (503, False)
    assert boss.post("/health/doctor").status_code == 503
    lines = boss.post("/health/doctor", headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert json.loads(lines[-1])["fault"]
    before = site.config.read_text(encoding="utf-8")
    try:
        site.write_config("[control]\ngroup = 'nogroup'\n[nanumpay]\nenabled = false\n")
        site.start()
        assert wait_for(lambda: boss.get("/").status_code == 200, "the page")
        for path in PAGES:
            assert boss.get(path).status_code == 200, path
    finally:
        site.config.write_text(before, encoding="utf-8")
        site.call("Reload")


def test_what_the_page_may_is_for_the_daemon_to_say(site: Site, page: Page) -> None:
    """Its user may take backups away, and delete and restore unless the host file says no; other users may neither."""
    name = page.site.list_backups()[0]["artifact"] if site.list_backups() else _made(site)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("Delete", {"backup": "nothing"}),
        ("Restore", {"backup": "nothing", "dry_run": True}),
        ("OpenArtifact", {"name": name}),
    ]
    text = site.config.read_text(encoding="utf-8")
    for changes in (True, False):
        site.config.write_text(f"{text}\nchanges = {str(changes).lower()}\n", encoding="utf-8")
        site.call("Reload")
        codes = [answer.get("code") for answer in as_user(site, "nobody", "nogroup", calls)]
        assert codes == (["not-found", "not-found", None] if changes else ["not-allowed", "not-allowed", None])
        others = [answer.get("code") for answer in as_user(site, "daemon", "nogroup", calls)]
        assert others == ["not-allowed"] * 3


def _made(site: Site) -> str:
    return str(site.call("DescribeBackup", backup=site.run()["backup"])["backup"]["artifact"])
