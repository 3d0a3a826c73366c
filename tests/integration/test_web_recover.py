"""Recover, health and jobs as pages, on a real daemon and MongoDB: what they show, and that data come back by them."""

from __future__ import annotations

import html
import json
import re
import sqlite3
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import pytest

from nanumpay_backupd.web.words import LANGUAGES
from tests.servers.daemon import Site, wait_for
from tests.servers.web import ADMIN, ODD, PASSWORD, Page, make_slice

pytestmark = pytest.mark.servers

PAGES: Final = ("/recover", "/health", "/jobs")


@pytest.fixture(scope="module")
def site(web_site: Site) -> Site:
    """The shared site, of which every second since the last full can be restored."""
    make_slice(web_site)
    return web_site


@pytest.fixture(scope="module")
def page(web_page: Page) -> Page:
    """The shared page."""
    return web_page


def planned(browser: httpx.Client, **form: str) -> httpx.Response:
    """Ask what a restore would do."""
    own = {"job": "nanumpay", "when": "backup", "what": "all", "where": "other", "to": "x", "safety": "1"}
    return browser.post("/recover/plan", data=own | form)


def agreed(answer: httpx.Response, **more: str) -> dict[str, str]:
    """Return the form of a plan that was shown, filled in."""
    assert answer.status_code == 200, answer.text
    found = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', answer.text)}
    return {name: found[name] for name in ("job", "order", "seal")} | {"password": PASSWORD} | more


def finished(site: Site, answer: httpx.Response) -> dict[str, Any]:
    """Wait for the end of the run that an answer leads to."""
    assert answer.status_code == 303, answer.text
    return site.ended(answer.headers["location"].rpartition("/")[2])


def newest(site: Site, job: str = "nanumpay") -> str:
    """Return the newest full of a job."""
    return next(str(one["id"]) for one in site.list_backups() if one["job"] == job and one["kind"] == "full")


class TestShown:
    """What the pages show."""

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(
        "path", [*PAGES, "/recover?job=photos", "/recover?span=1h", "/recover?span=7d&until=nonsense"]
    )
    def test_with_real_data(self, boss: httpx.Client, path: str, language: str) -> None:
        """Each is there in both languages, names what it is about, and has no word that was not put into words."""
        answer = boss.get(path, headers={"accept-language": language})
        assert answer.status_code == 200, answer.text
        assert f'<html lang="{language}"' in answer.text
        assert "nanumpay" in answer.text
        assert not re.search(r">\s*(?:None|\{\w+\}|Undefined)\s*<", answer.text)

    @pytest.mark.parametrize("path", PAGES)
    def test_names_are_text(self, site: Site, boss: httpx.Client, path: str) -> None:
        """A collection, a job or a moment that is written like a tag is shown, never made one."""
        text = boss.get(path).text + boss.get("/recover", params={"at": f"'>{ODD}", "when": "moment"}).text
        assert ODD not in text
        plan = planned(boss, backup=newest(site))
        assert ODD not in plan.text
        assert html.escape(ODD) in plan.text
        refused = planned(boss, job=ODD)
        assert (refused.status_code, ODD in refused.text) == (404, False)

    def test_the_band(self, site: Site, boss: httpx.Client) -> None:
        """What can be restored is drawn; each link on it leads to a moment that the daemon says can be restored."""
        found = site.call("Timeline", job="nanumpay")
        text = boss.get("/recover").text
        assert 'class="reach"' in text
        bases = [base for one in found["ranges"] for base in one["bases"]]
        drawn = re.findall(r'data-backup="([^"]+)"', text)
        assert set(drawn) <= set(bases)
        assert drawn[-1] == bases[-1], "the newest of those on one spot"
        spans = [tuple(datetime.fromisoformat(one[end]) for end in ("first", "last")) for one in found["ranges"]]
        moments = [
            datetime.fromisoformat(html.unescape(at).replace("%3A", ":")).replace(tzinfo=UTC)
            for at in re.findall(r'class="slot" href="[^"]*[?;]at=([^&"]+)', text)
        ]
        assert moments
        for moment in moments:
            assert any(first.replace(microsecond=0) <= moment <= last for first, last in spans), moment

    def test_jobs_in_words(self, site: Site, boss: httpx.Client) -> None:
        """Schedules, retention and the next five runs are told, each job's own."""
        english = boss.get("/jobs", headers={"accept-language": "en"}).text
        korean = boss.get("/jobs", headers={"accept-language": "ko"}).text
        assert "daily at 02:00" in english
        assert "every Sunday at 04:15" in english
        assert "매주 일요일 04:15" in korean
        assert "the newest 7, for at most 30 days" in english
        upcoming = {one["job"]: one["runs"] for one in site.call("ListUpcoming")["jobs"]}
        for runs in upcoming.values():
            assert len(runs) == 5
            assert all(f'datetime="{at}"' in english for at in runs)

    def test_how_it_stands(self, site: Site, boss: httpx.Client) -> None:
        """Every finding of the monitor that is not good is on the page, with the commands of its hint to copy."""
        assert boss.post("/health/doctor", data={"what": "places"}).status_code == 303
        text = html.unescape(boss.get("/health").text)
        bad = [one for one in site.call("Monitor", recorded=True)["checks"] if one["state"] != "ok"]
        assert bad, "the settings name no server yet"
        assert all(one["message"] in text for one in bad)
        assert "<code>" in text or not any("backupctl" in one["hint"] for one in bad)
        for one in ("reachable", "room"):
            assert any(check["check"] == one for check in site.call("Monitor", recorded=True)["checks"])


class TestDoctor:
    """The doctor on demand."""

    def test_findings_while_they_come(self, site: Site, boss: httpx.Client) -> None:
        """Each line has more of them than the one before; the last has those of the daemon's own answer."""
        headers = {"accept": "application/x-ndjson"}
        counts: list[int] = []
        with boss.stream("POST", "/health/doctor", data={}, headers=headers) as stream:
            assert stream.headers["content-type"] == "application/x-ndjson"
            for line in stream.iter_lines():
                told = json.loads(line)
                counts.append(told["html"].count('class="finding"'))
        assert counts == sorted(counts)
        assert counts[0] < counts[-1] == len(site.call("Doctor")["checks"])
        assert told["done"]

    def test_without_a_script(self, page: Page) -> None:
        """The same button answers with the whole page; who may start runs may try everything."""
        answer = page.signed_in("operator").post("/health/doctor")
        assert answer.status_code == 200
        assert "backups folder" in answer.text

    def test_who_may(self, page: Page) -> None:
        """Who only looks may not: it writes to all places."""
        viewer = page.signed_in("viewer")
        assert "data-doctor" not in viewer.get("/health").text
        assert viewer.post("/health/doctor").status_code == 403


class TestRestore:
    """Data come back by the page, and not without the password."""

    def test_a_dropped_collection_comes_back(self, site: Site, boss: httpx.Client) -> None:
        """A moment before the accident, one collection, in place, with name and password; the others are untouched."""
        with site.db() as db:
            db.orders.insert_one({"n": "last"})
            before = sorted(str(one) for one in db.orders.find())
        site.run("nanumpay", kind="incremental")
        at = datetime.now(UTC)
        wait_for(lambda: datetime.now(UTC).timestamp() > int(at.timestamp()) + 2, "two seconds")
        with site.db() as db:
            db.orders.drop()
            db.users.insert_one({"loginId": "after"})
        moment = {"when": "moment", "at": f"{at:%Y-%m-%dT%H:%M:%S}", "what": "some", "collection": "orders"}
        plan = planned(boss, **moment, where="place")
        form = agreed(plan, typed=site.database)
        assert "orders" in plan.text
        run = finished(site, boss.post("/recover/restore", data=form))
        assert (run["outcome"], run["action"]) == ("succeeded", "restore")
        with site.db() as db:
            assert sorted(str(one) for one in db.orders.find()) == before
            assert db.users.count_documents({"loginId": "after"}) == 1
        with sqlite3.connect(site.folder / "web" / "web.db") as ledger:
            (line,) = ledger.execute("SELECT who, outcome FROM audit WHERE detail = ?", (run["id"],)).fetchall()
        assert line == (f"application:{ADMIN}", "ok")

    def test_into_another_database(self, site: Site, boss: httpx.Client) -> None:
        """Where nothing is, nothing has to be typed; the whole backup is there then."""
        target = f"{site.database}_copy"
        client = site.server.client()
        try:
            run = finished(
                site, boss.post("/recover/restore", data=agreed(planned(boss, backup=newest(site), to=target)))
            )
            assert run["outcome"] == "succeeded"
            assert set(client[target].list_collection_names()) == {"admins", "users", "orders", ODD}
            assert client[target].orders.count_documents({}) == 30
        finally:
            client.drop_database(target)
            client.close()

    def test_changing_places(self, site: Site, boss: httpx.Client) -> None:
        """What was live is kept, and the page says how it comes back."""
        plan = planned(boss, when="latest", where="swap")
        run = finished(site, boss.post("/recover/restore", data=agreed(plan, typed=site.database)))
        assert run["outcome"] == "succeeded"
        (swap,) = site.call("ListSwaps")["swaps"]
        assert 'href="/recover/swaps"' in boss.get("/recover").text
        assert swap["stamp"] in boss.get("/recover/swaps").text
        site.call("DropSwap", swap=swap["stamp"])

    def test_files(self, site: Site, boss: httpx.Client) -> None:
        """Another kind of source: one path of it, into another folder."""
        target = site.folder / "back"
        form = {"job": "photos", "backup": newest(site, "photos"), "to": str(target)}
        plan = planned(boss, **form, what="some", only=f"{site.folder}/photos")
        run = finished(site, boss.post("/recover/restore", data=agreed(plan)))
        assert run["outcome"] == "succeeded"
        assert [path.read_text(encoding="utf-8") for path in target.rglob("one.txt")] == ["first"]

    def test_refused(self, site: Site, page: Page) -> None:
        """Without the password, the name, or the plan that was shown, nothing is begun."""
        browser = page.signed_in("admin")
        runs = site.runs()[0]["id"]
        good = agreed(planned(browser, backup=newest(site), where="place"), typed=site.database)
        for change, status in (
            ({"password": "wrong"}, 401),
            ({"password": ""}, 401),
            ({"typed": ""}, 409),
            ({"typed": "another"}, 409),
            ({"seal": "0" * 24}, 409),
            ({"order": "{}"}, 400),
            ({"order": "[" * 5000}, 400),
            ({"order": '{"backup": "latest", "dry_run": false}'}, 400),
            ({"order": '{"backup": ["latest"]}'}, 400),
        ):
            answer = browser.post("/recover/restore", data=good | change)
            assert answer.status_code == status, (change, answer.text)
        assert site.runs()[0]["id"] == runs

    def test_a_plan_that_changed(self, site: Site, boss: httpx.Client) -> None:
        """What is there by now was not there when it was shown: it is shown again, and nothing is begun."""
        target = f"{site.database}_late"
        form = agreed(planned(boss, backup=newest(site), to=target))
        client = site.server.client()
        try:
            client[target].users.insert_one({"x": 1})
            answer = boss.post("/recover/restore", data=form, headers={"accept-language": "en"})
            assert answer.status_code == 409
            assert "Things have changed meanwhile" in answer.text
            assert client[target].users.count_documents({}) == 1
        finally:
            client.drop_database(target)
            client.close()

    def test_who_may(self, site: Site, page: Page) -> None:
        """Roles without the right see no form, and are refused; so is who sends no token, or comes from elsewhere."""
        for role in ("viewer", "operator"):
            browser = page.signed_in(role)
            assert 'action="/recover/plan"' not in browser.get("/recover").text
            for path in ("/recover/plan", "/recover/restore"):
                assert browser.post(path, data={"job": "nanumpay"}).status_code == 403
        admin = page.signed_in("admin")
        form = agreed(planned(admin, backup=newest(site), to="never"))
        for headers in ({"x-csrf-token": ""}, {"x-csrf-token": "x" * 43}, {"origin": "https://elsewhere.example"}):
            assert admin.post("/recover/restore", data=form, headers=headers).status_code == 403
        assert page.token("read", "run", "download", "settings").post("/recover/restore", data=form).status_code in {
            401,
            403,
        }

    @pytest.mark.parametrize(
        "form, code",
        [
            ({"when": "moment", "at": "yesterday-ish"}, "usage"),
            ({"when": "moment", "at": "2099-01-01T00:00:00"}, "bad-time"),
            ({"when": "moment", "at": "2020-01-01T00:00:00"}, "no-such-moment"),
            ({"when": "backup", "backup": "nothing"}, "not-found"),
            ({"what": "some", "collection": ""}, "bad-request"),
            ({"to": ""}, "bad-request"),
            ({"to": "admin"}, "refused"),
        ],
        ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value,
    )
    def test_what_cannot_be(self, site: Site, boss: httpx.Client, form: dict[str, str], code: str) -> None:
        """The form is shown again with what was typed and the reason, and no fault of the page."""
        answer = planned(boss, **({"backup": newest(site)} | form))
        assert 400 <= answer.status_code < 500, answer.text
        assert f"<code>{code}</code>" in answer.text
        assert 'action="/recover/plan"' in answer.text
