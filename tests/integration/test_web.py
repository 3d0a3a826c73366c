"""The web page on a real daemon and MongoDB: who gets in, what is refused, what is done, what is written down."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.web.app import ROUTES
from tests.servers.daemon import Site, backup_settings, wait_for
from tests.servers.web import ADMIN, ODD, PASSWORD, Page, add_admin, csrf_of, open_page

pytestmark = pytest.mark.servers

CHANGES: Final = [way for way in ROUTES if way.method != "GET"]
PART: Final = "/recover/kept"
"""Not a page, but a part of one."""
PAGES: Final = [way.path for way in ROUTES if way.method == "GET" and way.right and "{" not in way.path]


@pytest.fixture(scope="module")
def site(web_site: Site) -> Site:
    """The shared site."""
    return web_site


@pytest.fixture(scope="module")
def page(web_page: Page) -> Page:
    """The shared page."""
    return web_page


def fulls(site: Site) -> list[dict[str, Any]]:
    """Return the fulls of the database, newest first."""
    return [one for one in site.list_backups() if (one["job"], one["kind"]) == ("nanumpay", "full")]


def artifact(site: Site) -> str:
    """Return the name of the newest full's file."""
    return str(fulls(site)[0]["artifact"])


class TestSignIn:
    """Who comes in."""

    @pytest.mark.parametrize("path", PAGES)
    def test_who_is_not_known_sees_nothing(self, page: Page, path: str) -> None:
        """Every page leads to the sign-in, every part of the interface answers 401."""
        answer = page.browser().get(path)
        if path.startswith("/api/"):
            assert (answer.status_code, answer.json()["code"]) == (401, "not-signed-in")
        else:
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/sign-in?next=/")

    @pytest.mark.parametrize(
        "more",
        [
            {"isActive": False},
            {"permissions": ["report_view"]},
            {"permissions": []},
            {"lockUntil": datetime.now(UTC) + timedelta(hours=1)},
            {"passwordHash": "not a hash"},
            {"passwordHash": None},
        ],
        ids=lambda more: next(iter(more)),
    )
    def test_an_administrator_who_may_not(self, site: Site, page: Page, more: dict[str, Any]) -> None:
        """Inactive, without the permission, locked, without a good hash: refused, and the document is as it was."""
        name = f"x{abs(hash(str(more))) % 10**8}"
        add_admin(site, name, **more)
        with site.db() as db:
            before = db.admins.find_one({"loginId": name})
            browser = page.browser()
            form = {"csrf": csrf_of(browser.get("/sign-in").text), "name": name, "password": PASSWORD}
            answer = browser.post("/sign-in", data=form)
            assert answer.status_code == 401
            assert "Name or password is wrong, or the account is locked" in answer.text
            assert db.admins.find_one({"loginId": name}) == before

    def test_a_lock_that_has_passed(self, site: Site, page: Page) -> None:
        """A lock counts until its end only; the permission system_config is enough, the name may be in capitals."""
        add_admin(site, "late", lockUntil=datetime.now(UTC) - timedelta(seconds=1), permissions=["system_config"])
        assert page.signed_in("LATE").get("/").status_code == 200

    def test_a_session_is_new_at_each_sign_in(self, page: Page) -> None:
        """What a browser had before is of no use afterwards (fixation); nor is it after the sign-out."""
        browser = page.browser()
        browser.cookies.set("nbweb", "planted", domain="127.0.0.1", path="/")
        form = {"csrf": csrf_of(browser.get("/sign-in").text), "name": ADMIN, "password": PASSWORD}
        answer = browser.post("/sign-in", data=form)
        (line,) = (line for line in answer.headers.get_list("set-cookie") if line.startswith("nbweb="))
        assert "HttpOnly" in line
        assert "SameSite=Lax" in line
        first = line.partition(";")[0].partition("=")[2]
        assert first != "planted"
        known = page.browser(cookie=f"nbweb={first}")
        token = csrf_of(known.get("/").text)
        assert known.post("/sign-out", data={"csrf": token}).status_code == 303
        assert known.get("/").status_code == 303

    def test_a_session_ends_with_the_account(self, page: Page) -> None:
        """A changed password, and a user who is removed, end their sessions at once."""
        assert page.command("user", "add", "brief", typed=PASSWORD).returncode == 0
        first = page.signed_in("brief")
        time.sleep(0.01)
        assert page.command("user", "password", "brief", typed="another one, 12345").returncode == 0
        assert first.get("/").status_code == 303
        second = page.signed_in("brief", "another one, 12345")
        assert page.command("user", "remove", "brief").returncode == 0
        assert second.get("/").status_code == 303

    def test_guessing_is_slowed_down(self, page: Page) -> None:
        """After some failures even the right password has to wait, and the page says how long."""
        add_admin(page.site, "guessed")
        browser = page.browser()
        form = {"csrf": csrf_of(browser.get("/sign-in").text), "name": "guessed", "password": "wrong"}
        for _ in range(5):
            assert browser.post("/sign-in", data=form).status_code == 401
        answer = browser.post("/sign-in", data={**form, "password": PASSWORD})
        assert answer.status_code == 429
        assert page.signed_in("viewer").get("/").status_code == 200, "others are not kept out"

    def test_local_users_are_hashed_and_private(self, site: Site, page: Page) -> None:
        """The file has no password in it, and nobody else may read it."""
        file = site.folder / "web" / "users.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert PASSWORD not in file.read_text(encoding="utf-8")
        assert page.command("user", "add", "short", typed="abc").returncode == 7


class TestChanges:
    """Every request that changes something."""

    @pytest.mark.parametrize("way", CHANGES, ids=lambda way: f"{way.method} {way.path}")
    def test_without_its_token_nothing_is_changed(self, page: Page, boss: httpx.Client, way: Any) -> None:
        """Without the token, and with a wrong one, it is refused as such."""
        path = way.path.format(backup="x", run="x", job="x", swap="x", verb="undo")
        for headers in ({"x-csrf-token": ""}, {"x-csrf-token": "wrong"}):
            answer = boss.request(way.method, path, headers=headers)
            assert (answer.status_code, "csrf" in answer.text) == (403, True)

    @pytest.mark.parametrize("way", CHANGES, ids=lambda way: f"{way.method} {way.path}")
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
    def test_from_another_page_nothing_is_changed(self, boss: httpx.Client, way: Any, origin: str) -> None:
        """With a foreign Origin even the right token is refused."""
        path = way.path.format(backup="x", run="x", job="x", swap="x", verb="undo")
        assert boss.request(way.method, path, headers={"origin": origin}).status_code == 403

    @pytest.mark.parametrize("way", CHANGES, ids=lambda way: f"{way.method} {way.path}")
    def test_with_a_session_that_has_ended_nothing_is_changed(self, page: Page, boss: httpx.Client, way: Any) -> None:
        """With a cookie that is nobody's it is refused."""
        path = way.path.format(backup="x", run="x", job="x", swap="x", verb="undo")
        stale = page.browser(cookie="nbweb=" + "a" * 43)
        stale.headers["x-csrf-token"] = boss.headers["x-csrf-token"]
        assert stale.request(way.method, path).status_code in {401, 403}

    @pytest.mark.parametrize(
        "way", [way for way in CHANGES if way.right not in {None, "read"}], ids=lambda way: way.path
    )
    def test_who_may_only_look_changes_nothing(self, viewer: httpx.Client, way: Any) -> None:
        """A viewer is told that they may not."""
        path = way.path.format(backup="x", run="x", job="x", swap="x", verb="undo")
        answer = viewer.request(way.method, path, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")

    def test_rights_of_roles_and_tokens(self, site: Site, page: Page) -> None:
        """An operator runs and downloads, but neither saves nor restores; a token does what its scopes say."""
        operator = page.signed_in("operator")
        assert operator.get("/api/admin/backup/download", params={"file": artifact(site)}).status_code == 200
        assert operator.put("/api/admin/settings/system", json={}).status_code == 403
        assert operator.post("/recover/plan", data={"job": "nanumpay"}).status_code == 403
        reader = page.token("read")
        assert reader.get("/api/admin/backup/status").status_code == 200
        assert reader.post("/api/admin/backup/run-now").status_code == 403
        assert reader.get("/api/admin/backup/download", params={"file": artifact(site)}).status_code == 403
        assert reader.get("/backups").status_code == 303, "a token is for the interface, not for pages"
        for scopes in (("change",), ("everything",)):
            assert page.command("token", "create", "bad", "--scope", *scopes).returncode == 2

    def test_a_revoked_token(self, page: Page) -> None:
        """It is of no use at once; its secret is nowhere in the file."""
        program = page.token("read", name="gone")
        secret = program.headers["authorization"].removeprefix("Bearer ")
        assert program.get("/api/admin/backup/status").status_code == 200
        assert secret not in (page.site.folder / "web" / "tokens.json").read_text(encoding="utf-8")
        assert page.command("token", "revoke", "gone").returncode == 0
        assert program.get("/api/admin/backup/status").json()["code"] == "token-refused"

    @pytest.mark.promise(
        "No client, whatever it sends and however many they are, stops the daemon or locks others out.", item=8
    )
    @pytest.mark.parametrize(
        "body",
        [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"job": 7}', b'{"nothing": 1}', b"[" * 100_000, b'{"kind": null}'],
        ids=repr,
    )
    def test_bodies_that_make_no_sense(self, boss: httpx.Client, body: bytes) -> None:
        """They are a fault in JSON, and start nothing."""
        answer = boss.post("/api/admin/backup/run-now", content=body[:200_000])
        assert (answer.status_code, answer.json()["success"]) == (400, False)

    @pytest.mark.promise(
        "No client, whatever it sends and however many they are, stops the daemon or locks others out.", item=8
    )
    def test_a_body_that_is_too_large(self, page: Page, boss: httpx.Client) -> None:
        """It is refused by its length, or while it comes, without being kept."""
        assert boss.post("/api/admin/backup/run-now", content=b"x" * 300_000).status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b"y" * 65536

        with contextlib.suppress(httpx.TransportError):  # the service may not wait for the rest
            assert boss.post("/api/admin/backup/run-now", content=endless()).status_code in {400, 413}
        assert page.memory() < 80 << 20

    @pytest.mark.promise(
        "No client, whatever it sends and however many they are, stops the daemon or locks others out.", item=8
    )
    def test_who_is_not_known_fills_no_memory(self, page: Page) -> None:
        """A large body is refused unread; at the sign-in a form may be 16 KiB."""
        browser = page.browser()
        assert browser.post("/api/admin/backup/run-now", content=b"x" * 100_000).status_code == 401
        form = {"csrf": csrf_of(browser.get("/sign-in").text), "name": "x" * 20_000, "password": "x"}
        assert browser.post("/sign-in", data=form).status_code == 413

    def test_names_that_are_not_ours(self, page: Page) -> None:
        """A name that leads here by somebody else's doing is refused (DNS rebinding)."""
        assert page.browser(host="evil.example").get("/sign-in").status_code == 421
        assert page.browser(host="localhost").get("/sign-in").status_code == 200

    def test_headers_of_every_answer(self, page: Page, boss: httpx.Client) -> None:
        """No inline script or style may run, nobody frames a page, nothing is stored by others."""
        for path in ("/", "/sign-in", "/nothing", "/api/admin/backup/status", "/static/x/y"):
            answer = boss.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("/", "/backups", "/run", "/recover", "/settings", "/jobs", "/events", "/health"):
            text = boss.get(path).text
            assert " style=" not in text
            assert " onclick" not in text
            assert "<style" not in text


class TestPages:
    """What pages show and do."""

    @pytest.mark.parametrize("language", ["ko", "en"])
    @pytest.mark.parametrize("path", [path for path in PAGES if not path.startswith("/api/") and path != PART])
    def test_every_page_in_both_languages(self, page: Page, boss: httpx.Client, path: str, language: str) -> None:
        """It is there, in the language that is asked for."""
        answer = boss.get(path, headers={"accept-language": language})
        assert answer.status_code == 200, answer.text
        assert f'<html lang="{language}"' in answer.text

    def test_a_run_by_the_page(self, site: Site, boss: httpx.Client) -> None:
        """Back up now begins a run and shows it; who listens hears it begin and end; the audit trail has who did it."""
        kinds: list[str] = []
        begun = threading.Event()

        def listen() -> None:
            with boss.stream("GET", "/api/admin/backup/events", timeout=30) as stream:
                for line in stream.iter_lines():
                    if line.startswith("data: "):
                        event = json.loads(line[6:])
                        kinds.append(event["kind"])
                        begun.set()
                        if event["kind"] == "run-ended" and event["run"]["trigger"] == "manual":
                            return

        thread = threading.Thread(target=listen)
        thread.start()
        assert begun.wait(20)
        wait_for(lambda: "up" in kinds, "the daemon's stream")
        answer = boss.post("/run", data={"job": "nanumpay"})
        assert answer.status_code == 303, answer.text
        run = answer.headers["location"].rpartition("/")[2]
        assert site.ended(run)["outcome"] == "succeeded"
        thread.join(20)
        assert {"run-started", "stage", "run-ended"} <= set(kinds)
        shown = boss.get(answer.headers["location"])
        assert run in shown.text
        trail = boss.get("/events?what=audit").text
        assert run in trail
        assert f"application:{ADMIN}" in trail

    def test_a_backup_in_detail(self, site: Site, boss: httpx.Client) -> None:
        """Its copies are shown, it can be verified and pinned; unpinning takes the password."""
        backup = fulls(site)[0]["id"]
        assert "nas" in boss.get(f"/backups/{backup}").text
        assert boss.get("/backups/nope").status_code == 404
        answer = boss.post(f"/backups/{backup}/verify", data={"level": "checksum"})
        assert site.ended(answer.headers["location"].rpartition("/")[2])["outcome"] == "succeeded"
        assert boss.post(f"/backups/{backup}/pin", data={"reason": "<b>audit</b>"}).status_code == 303
        assert "&lt;b&gt;audit" in boss.get(f"/backups/{backup}").text
        assert boss.post(f"/backups/{backup}/unpin", data={"password": "wrong"}).status_code == 401
        assert boss.post(f"/backups/{backup}/unpin", data={"password": PASSWORD}).status_code == 303
        assert not site.call("DescribeBackup", backup=backup)["backup"]["pinned"]

    def test_deleting_takes_the_name_and_the_password(self, site: Site, boss: httpx.Client) -> None:
        """Neither alone deletes; both do, and it is written down."""
        if len(fulls(site)) < 2:
            site.run()
        backup = fulls(site)[-1]["id"]
        path = f"/backups/{backup}/delete"
        assert boss.post(path, data={"typed": "x", "password": PASSWORD}).status_code == 409
        assert boss.post(path, data={"typed": backup, "password": "x"}).status_code == 401
        assert site.call("DescribeBackup", backup=backup)["backup"]["copies"]
        assert boss.post(path, data={"typed": backup, "password": PASSWORD}).status_code == 303
        assert backup not in [one["id"] for one in site.list_backups()]
        assert backup in boss.get("/events?what=audit").text

    def test_names_with_markup_are_shown_as_they_are(self, site: Site, boss: httpx.Client) -> None:
        """A collection's name is text, wherever it is shown."""
        text = boss.get(f"/backups/{fulls(site)[0]['id']}").text
        assert html.escape(ODD) in text
        assert ODD not in text


class TestSettings:
    """The application's settings."""

    def test_only_what_differs_is_written(self, site: Site, boss: httpx.Client) -> None:
        """What else is in the document stays: the application's other settings, fields that nobody here knows."""
        with site.db() as db:
            db.admins.update_one(
                {"loginId": "admin"},
                {"$set": {"systemSettings.theme": "dark", "systemSettings.backup.unknown": 1, "x": {"y": 2}}},
            )
            answer = boss.put("/api/admin/settings/system", json={"backup": {"time": "03:30"}})
            assert answer.status_code == 200, answer.text
            document = db.admins.find_one({"loginId": "admin"}) or {}
        system = document["systemSettings"]
        assert (system["theme"], system["backup"]["unknown"], document["x"]) == ("dark", 1, {"y": 2})
        assert system["backup"]["time"] == "03:30"
        assert system["backup"]["retention"] == {"count": 7, "days": 30, "compress": True}
        wait_for(lambda: site.job()["schedule"] == ["30 3 * * *"], "the settings in force")

    def test_the_second_sees_what_the_first_changed(self, site: Site, page: Page, boss: httpx.Client) -> None:
        """Of two who save at once, the second is told what is there now, and nothing is overwritten unseen."""
        other = page.signed_in("admin")
        first = boss.get("/api/admin/settings/system")
        second = other.get("/settings")
        tag = {"if-match": first.headers["etag"]}
        assert (
            boss.put("/api/admin/settings/system", json={"backup": {"time": "04:10"}}, headers=tag).status_code == 200
        )
        assert (
            boss.put("/api/admin/settings/system", json={"backup": {"time": "05:10"}}, headers=tag).status_code == 409
        )
        revision = second.text.partition('name="revision" value="')[2].partition('"')[0]
        form = {"revision": revision, "enabled": "1", "frequency": "daily", "time": "06:10", "retention.count": "7"}
        form |= {"retention.days": "30", "retention.compress": "1", "storage.type": "ftp", "storage.ftp.port": "21"}
        answer = other.post("/settings", data=form)
        assert answer.status_code == 409
        assert "04:10" in answer.text
        with site.db() as db:
            document = db.admins.find_one({"loginId": "admin"}) or {}
            assert document["systemSettings"]["backup"]["time"] == "04:10"
        again = answer.text.partition('name="revision" value="')[2].partition('"')[0]
        assert other.post("/settings", data={**form, "revision": again}).status_code == 303

    def test_secrets_are_never_shown_and_stay(self, site: Site, boss: httpx.Client) -> None:
        """A password comes back as ***; saving that, or nothing, keeps it."""
        site.save(backup_settings(ftp={"host": "127.0.0.1", "username": "u", "password": "hidden-word-77"}))
        answer = boss.get("/api/admin/settings/system")
        assert answer.json()["backup"]["storage"]["ftp"]["password"] == "***"
        assert "hidden-word-77" not in answer.text + boss.get("/settings").text
        body = answer.json()["backup"] | {"time": "02:20"}
        saved = boss.put("/api/admin/settings/system", json={"maintenanceMode": True, "backup": body})
        assert saved.status_code == 200, saved.text
        with site.db() as db:
            system = (db.admins.find_one({"loginId": "admin"}) or {})["systemSettings"]
        assert system["backup"]["storage"]["ftp"]["password"] == "hidden-word-77"
        assert (system["maintenanceMode"], system["backup"]["time"]) == (True, "02:20")
        site.save(backup_settings())
        wait_for(lambda: site.job()["schedule"] == ["0 2 * * *"], "the settings in force")

    def test_a_password_is_for_the_server_it_was_saved_for(self, site: Site, boss: httpx.Client) -> None:
        """Who may change settings cannot have a stored password sent to a server of their own, now or later."""
        site.save(backup_settings(ftp={"host": "nas.example", "username": "u", "password": "hidden-word-78"}))
        with socket.create_server(("127.0.0.1", 0)) as spy:
            for password in ({}, {"password": "***"}):
                ftp = {"host": "127.0.0.1", "port": spy.getsockname()[1], **password}
                body = {"backup": {"storage": {"type": "ftp", "ftp": ftp}}}
                for answer in (
                    boss.put("/api/admin/settings/system", json=body),
                    boss.post("/api/admin/settings/test", json=body),
                ):
                    assert answer.status_code == 422
                    assert "was saved for another server" in answer.text
                # What it would mean can be seen all the same, while one still types.
                assert len(boss.post("/api/admin/settings/preview", json=body).json()["runs"]) == 5
            page = boss.get("/settings").text
            revision = page.partition('name="revision" value="')[2].partition('"')[0]
            form = {"revision": revision, "storage.type": "ftp", "storage.ftp.host": "127.0.0.1", "time": "02:00"}
            answer = boss.post("/settings", data=form)
            assert answer.status_code == 422
            assert "hidden-word-78" not in answer.text
            spy.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody came
                spy.accept()
        own = {"backup": {"storage": {"type": "ftp", "ftp": {"host": "127.0.0.1", "password": "another-word-1"}}}}
        assert boss.put("/api/admin/settings/system", json=own).status_code == 200
        with site.db() as db:
            system = (db.admins.find_one({"loginId": "admin"}) or {})["systemSettings"]
        assert system["backup"]["storage"]["ftp"]["password"] == "another-word-1"
        site.save(backup_settings())
        wait_for(lambda: site.job()["schedule"] == ["0 2 * * *"], "the settings in force")

    @pytest.mark.parametrize(
        "backup, status",
        [
            ({"time": "25:00"}, 422),
            ({"frequency": "yearly"}, 422),
            ({"retention": {"count": 0}}, 422),
            ({"retention": []}, 400),
            ({"storage": {"s3": {"bucket": {"$gt": ""}}}}, 400),
            ({"$where": "1"}, 400),
            ({"__proto__": {"x": 1}}, 400),
        ],
    )
    def test_what_cannot_be_is_refused(self, site: Site, boss: httpx.Client, backup: Any, status: int) -> None:
        """Impossible values and operators are refused, and nothing of it is stored."""
        with site.db() as db:
            before = db.admins.find_one({"loginId": "admin"})
            answer = boss.put("/api/admin/settings/system", json={"backup": {"time": "01:01", **backup}})
            assert answer.status_code == status, answer.text
            assert db.admins.find_one({"loginId": "admin"}) == before

    def test_what_they_would_mean(self, boss: httpx.Client) -> None:
        """The next five runs are told before anything is saved; a place that does not answer as well."""
        form = {"backup": {"frequency": "monthly", "dayOfMonth": 31, "time": "23:59"}}
        runs = boss.post("/api/admin/settings/preview", json=form).json()["runs"]
        assert len(runs) == 5
        bad = boss.post("/api/admin/settings/preview", json={"backup": {"time": "nine"}}).json()
        assert "time" in bad["problem"]["message"]
        place = {"backup": {"storage": {"type": "ftp", "ftp": {"host": "127.0.0.1", "port": 1, "username": "x"}}}}
        checks = boss.post("/api/admin/settings/test", json=place).json()["checks"]
        assert checks[0]["state"] == "failed"


class TestInterface:
    """The application's own requests."""

    def test_execute_and_download_as_the_application_does(self, site: Site, page: Page) -> None:
        """Run now answers with the file's name, and that file can be fetched: byte for byte, in parts, resumed."""
        program = page.token("run", "download")
        done = program.post("/api/admin/backup/execute").json()
        assert (done["success"], done["outcome"]) == (True, "succeeded")
        whole = (site.backups / done["file"]).read_bytes()
        for source in (None, "nas"):
            params = {"file": done["file"], **({"source": source} if source else {})}
            answer = program.get("/api/admin/backup/download", params=params)
            assert answer.content == whole
            assert answer.headers["x-backup-source"] == (source or "local")
            assert answer.headers["etag"] == f'"{hashlib.sha256(whole).hexdigest()}"'
            part = program.get("/api/admin/backup/download", params=params, headers={"range": "bytes=10-99"})
            assert (part.status_code, part.content) == (206, whole[10:100])
            assert part.headers["content-range"] == f"bytes 10-99/{len(whole)}"
            resumed = {"range": f"bytes={len(whole) - 5}-", "if-range": answer.headers["etag"]}
            assert program.get("/api/admin/backup/download", params=params, headers=resumed).content == whole[-5:]
            other = {"range": "bytes=5-", "if-range": '"other"'}
            assert program.get("/api/admin/backup/download", params=params, headers=other).content == whole
            beyond = program.get("/api/admin/backup/download", params=params, headers={"range": f"bytes={len(whole)}-"})
            assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole)}")

    def test_a_file_that_is_gone_here_comes_from_elsewhere(self, site: Site, page: Page) -> None:
        """The application deletes files by itself: then a copy at another place is sent.

        So it is where somebody put a link in its place: nothing else of this host is sent that way.
        """
        name = artifact(site)
        file = site.backups / name
        whole = file.read_bytes()
        aside = file.rename(site.folder / "aside")
        program = page.token("download")
        try:
            for link in (False, True):
                if link:
                    file.symlink_to("/etc/passwd")
                answer = program.get("/api/admin/backup/download", params={"file": name})
                assert (answer.content, answer.headers["x-backup-source"]) == (whole, "nas")
        finally:
            file.unlink(missing_ok=True)
            aside.rename(file)

    @pytest.mark.parametrize(
        "name",
        [
            "../../etc/passwd",
            "/etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "nanumpay-backup-../x.tar.gz",
            "nanumpay-backup-2026-01-01T00-00-00.tar.gz\0.txt",
            ".backupd/manifests",
            "nanumpay-backup-x.tar.gz\r\nX-Evil: 1",
            "",
            "x" * 5000,
            "link.tar.gz",
        ],
        ids=lambda name: name[:20] or "empty",
    )
    def test_tricks_with_paths(self, site: Site, boss: httpx.Client, name: str) -> None:
        """Only what the catalog knows as a backup's file is sent; a link in the folder is not followed."""
        link = site.backups / "link.tar.gz"
        if not link.is_symlink():
            link.symlink_to("/etc/passwd")
        answer = boss.get("/api/admin/backup/download", params={"file": name})
        assert answer.status_code in {400, 404}
        assert "root:" not in answer.text

    def test_backups_in_groups(self, site: Site, boss: httpx.Client) -> None:
        """As the dashboard of old: by what they save, with name, size, createdAt and type."""
        found = boss.get("/api/admin/backups").json()
        assert {"mongodb", "n8n", "redis", "files", "mysql"} <= found.keys()
        known = {one["artifact"]: one for one in site.list_backups() if one["job"] == "nanumpay"}
        assert {one["name"] for one in found["mongodb"]} == set(known)
        assert {one["name"] for one in found["files"]} == {
            one["artifact"] for one in site.list_backups() if one["job"] == "photos"
        }
        for one in found["mongodb"]:
            assert (one["size"], one["type"]) == (known[one["name"]]["size"], "full")
            assert datetime.fromisoformat(one["createdAt"]) < datetime.now(UTC)

    def test_all_of_them_take_little_memory(self, page: Page, boss: httpx.Client) -> None:
        """However many are asked for, what is sent is made piece by piece, and is the same."""
        few, many = (boss.get("/api/admin/backups", params={"limit": limit}) for limit in ("1", "10000"))
        assert sum(map(len, few.json().values())) == 1
        assert many.headers["content-type"] == "application/json"
        assert few.json()["files"] + few.json()["mongodb"] == [
            max((one for group in many.json().values() for one in group), key=lambda one: one["createdAt"])
        ]
        assert page.memory() < 80 << 20

    def test_the_description_is_of_these_routes(self, page: Page) -> None:
        """Every path of the interface is described with its methods, and nothing else is."""
        document = page.browser().get("/api/openapi.json").json()
        assert document["openapi"] == "3.1.0"
        described = {(path, method.upper()) for path, ways in document["paths"].items() for method in ways}
        served = {(way.path, way.method) for way in ROUTES if way.path.startswith("/api/admin/")}
        assert described == served


class TestNonsense:
    """Whatever is sent to the pages (`test_web_openapi`: to the interface)."""

    @given(path=st.sampled_from(["backups", "run", "recover", "events", "jobs"]), query=st.text(max_size=60))
    @settings(max_examples=40)
    def test_pages(self, boss: httpx.Client, path: str, query: str) -> None:
        """It is understood or refused; the service has no defect to tell of."""
        names = ("page", "sort", "order", "text", "job", "kind", "state", "destination", "slices", "what")
        answer = boss.get(f"/{path}", params=dict.fromkeys(names, query))
        assert answer.status_code in {200, 400, 404, 409}, answer.text


def test_behind_a_proxy(site: Site) -> None:
    """With a public address cookies go over TLS only, pages are at their path, and the caller is who the proxy saw."""
    with open_page(site, "address = 'https://backup.example.com'", base="/backup") as page:
        assert page.browser(host="backup.example.com").get("/../elsewhere").status_code == 404
        headers = {"host": "backup.example.com", "origin": "https://backup.example.com"}
        browser = page.browser(**headers, **{"x-forwarded-for": "203.0.113.9, 198.51.100.7"})
        answer = browser.get("/sign-in")
        lines = answer.headers.get_list("set-cookie")
        assert all("Secure" in line and "Path=/backup" in line and line.startswith("__Secure-") for line in lines)
        assert answer.headers["strict-transport-security"]
        pair = lines[0].partition(";")[0]
        form = {"csrf": csrf_of(answer.text), "name": ADMIN, "password": "x"}
        refused = browser.post("/sign-in", data=form, headers={"cookie": pair})
        assert refused.status_code == 401
        done = browser.post("/sign-in", data={**form, "password": PASSWORD}, headers={"cookie": pair})
        assert (done.status_code, done.headers["location"]) == (303, "/backup/")
        assert "198.51.100.7" in page.log()
        assert "203.0.113.9" not in page.log()
