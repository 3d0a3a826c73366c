"""People are told by a running daemon: once when it begins, once when it ends, whatever else is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_OK
from tests.servers.daemon import Site, backup_settings, catalog, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.post import MAIL_PASSWORD, MailServer, Request, WebServer, silent_server
from tests.servers.process import free_port
from tests.servers.proxy import BreakingProxy
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3

pytestmark = pytest.mark.servers

TOKEN: Final = "hook-Geheimnis-7f3a91"
BEAT: Final = "beat-Geheimnis-55d0c2"


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Where webhooks and pings arrive."""
    server = WebServer().start()
    yield server
    server.stop()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    """A mail server."""
    server = MailServer().start()
    yield server
    server.stop()


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site; not started."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        yield site


def channels(web: WebServer, mail: MailServer | None = None, *, more: str = "", hook: str = "") -> str:
    """Return the tables of the host file that tell by a webhook and by mail, and ping."""
    text = (
        f"[notify]\n{more}\n[nanumpay]\nheartbeat = '{web.url}/beat/{BEAT}'\n"
        f"[channel.hook]\naddress = 'json://127.0.0.1:{web.port}/hook/{TOKEN}'\n{hook}\n"
    )
    return text + (f"[channel.ops-mail]\naddress = '{mail.address()}'\n" if mail is not None else "")


def told(web: WebServer) -> list[str]:
    """Return the titles that the webhook brought, without the host's name."""
    return [item.json["title"].partition("] ")[2] for item in hooks(web)]


def hooks(web: WebServer) -> list[Request]:
    """Return what the webhook brought."""
    return [item for item in list(web.requests) if item.path.startswith("/hook/")]


def pings(web: WebServer) -> list[str]:
    """Return the pings: ``start``, ``fail``, ``log``, and nothing for a success."""
    return [path.removeprefix(f"/beat/{BEAT}").lstrip("/") for path in web.paths("/beat/")]


def notices(site: Site) -> list[dict[str, Any]]:
    """Return what is on record, oldest first."""
    return list(reversed(site.call("ListNotices", limit=1000)["notices"]))


def channel(site: Site, name: str) -> dict[str, Any]:
    """Return how a channel is doing."""
    return next(item for item in site.call("ListNotices")["channels"] if item["name"] == name)


def settled(site: Site) -> None:
    """Wait until the daemon has looked at the last run, and everything to be told of it arrived or was given up."""
    newest = next(run["id"] for run in site.runs() if run.get("outcome") and run["trigger"] != "retry")

    def quiet() -> bool:
        return newest in remembered(site)["seen"] and not any(
            item["waiting"] for item in site.call("ListNotices")["channels"]
        )

    wait_for(quiet, "what is to be told")


def remembered(site: Site) -> dict[str, Any]:
    """Return what the daemon keeps of what it told."""
    with catalog(site) as db:
        rows = db.execute("SELECT record FROM memory WHERE key = 'announcer'").fetchall()
    return dict(json.loads(rows[0][0])) if rows else {"seen": []}


def test_a_store_that_is_down_for_many_runs_is_told_once_and_once_when_it_is_back(
    site: Site, web: WebServer, mail: MailServer, tmp_path: Path
) -> None:
    """Degraded runs and a restart in between are one message; the upload that succeeds at last is the other."""
    with start_s3(tmp_path) as s3:
        door = BreakingProxy("127.0.0.1", free_port(), (), int(s3.endpoint.rpartition(":")[2]))
        site.write_config(
            channels(web, mail) + "[retry]\nattempts = 1\n"
            f"[destination.cloud]\ntype = 's3'\nbucket = '{s3.bucket}'\naccess_key_id = '{ACCESS_KEY}'\n"
            f"secret_access_key = '{SECRET_KEY}'\nendpoint_url = 'http://127.0.0.1:{door.port}'\npath_style = true\n"
            "timeout = '2s'\n[[job]]\nname = 'shop'\ndestinations = ['cloud']\n"
        )
        site.start()
        for number in range(3):
            assert site.run("shop")["outcome"] == "degraded"
            if number == 0:
                wait_for(lambda: told(web), "the first message")
                assert site.stop() == EXIT_OK
                site.start()
        wait_for(lambda: mail.mails, "the mail")
        assert told(web) == [str(mail.mails[0]["subject"]).partition("] ")[2]]
        assert told(web)[0].startswith("a copy of shop is missing: destination 'cloud'")
        door.start()
        try:
            assert site.run("shop")["outcome"] == "succeeded"
            wait_for(lambda: site.job("shop")["pending_uploads"] == 0, "the uploads that had waited")
            wait_for(lambda: len(mail.mails) > 1 and len(told(web)) > 1, "the end")
        finally:
            door.stop()
    assert told(web)[1:] == ["all copies of shop are at their places again"]
    assert len(mail.mails) == 2
    body = mail.mails[0].get_body(("plain",))
    assert body is not None
    assert "What to do" in str(body.get_content())
    about = [(item["event"], item["phase"], [sent["channel"] for sent in item["sent"]]) for item in notices(site)]
    both = ["hook", "ops-mail"]
    assert [(event, phase, sorted(sent)) for event, phase, sent in about] == [
        ("degraded", "began", both),
        ("succeeded", "once", []),
        ("healthy", "ended", both),
    ]


def test_how_runs_end_is_told_and_the_switch_is_pinged(site: Site, web: WebServer) -> None:
    """A message for what is news, start and end for each run; of one with --disable-notifications, neither."""
    everything = "severity = 'info'"
    site.write_config(channels(web, hook=everything) + "[tools]\nmongodump = '/nonexistent/mongodump'\n")
    site.start()
    assert site.run(disable_notifications=True)["outcome"] == "failed"
    settled(site)
    assert site.status()["health"] == "failing"
    failed = site.run()
    wait_for(lambda: told(web), "the failure")
    assert told(web) == ["backup of nanumpay failed: /nonexistent/mongodump was not found"]
    wait_for(lambda: pings(web) == ["start", "fail"], "the pings")
    site.write_config(channels(web, hook=everything))
    site.call("Reload")
    good = site.run()
    wait_for(lambda: len(told(web)) == 2, "the end of the failure")
    # Who hears that backups work again need not hear of the run that showed it.
    assert told(web)[1] == "backup of nanumpay works again"
    assert site.run(disable_notifications=True)["outcome"] == "succeeded"
    again = site.run()
    wait_for(lambda: len(told(web)) == 3, "the success")
    assert told(web)[2] == "backup of nanumpay succeeded"
    assert f"Backup: {again['backup']}" in hooks(web)[2].json["message"]
    wait_for(lambda: pings(web) == ["start", "fail", "start", "", "start", ""], "all pings")
    ids = [item.path.partition("rid=")[2] for item in web.requests if item.path.startswith("/beat/")]
    assert [ids[at] == ids[at + 1] for at in range(5)] == [True, False, True, False, True]
    assert failed["id"] in next(item.body for item in web.requests if "/fail" in item.path)
    assert [item["run"] for item in notices(site)] == [failed["id"], failed["id"], good["id"], again["id"]]


def test_channels_that_fail_hold_nothing_up_and_are_told_by_the_others(
    site: Site, web: WebServer, mail: MailServer
) -> None:
    """One is down, one is silent, one refuses for good; the backup succeeds, the status names them, a test mends them.

    What waited is sent in its turn, also when the daemon was killed meanwhile; nothing is told twice, and that a
    channel fails is no message to itself.
    """
    mail.stop()
    gone = WebServer().start()
    gone.status = 404
    with silent_server() as port:
        more = "severity = 'info'\n"
        site.write_config(
            channels(web, mail, hook=more)
            + f"[channel.deaf]\naddress = 'json://127.0.0.1:{port}/x'\n{more}timeout = '1s'\n"
            f"[channel.gone]\naddress = 'json://127.0.0.1:{gone.port}/x'\n{more}"
        )
        site.start()
        assert site.run()["outcome"] == "succeeded"
        wait_for(lambda: len(told(web)) == 2, "the webhook, although the others do not answer")
        assert told(web)[0] == "backup of nanumpay succeeded"
        assert told(web)[1].startswith("messages by gone do not arrive: JSON: ")
        both = ("channel deaf", "channel ops-mail")
        wait_for(lambda: all(name in "\n".join(site.status()["problems"]) for name in both), "both in the status")
        problems = "\n".join(site.status()["problems"])
        assert "channel ops-mail: the last message did not arrive" in problems
        assert "Connection refused" in problems
        assert site.status()["health"] == "warning"
        first, second = ({sent["channel"]: sent["state"] for sent in item["sent"]} for item in notices(site))
        assert first == {"hook": "sent", "deaf": "waiting", "gone": "failed"}
        assert second == {"hook": "sent", "ops-mail": "waiting", "deaf": "waiting"}
        site.kill()
        mail.start()
        gone.status = 200
        site.start()
        # Also before the daemon has looked at what it kept.
        results = {item["channel"]: item for item in site.call("TestNotify")["results"]}
        assert [results[name]["ok"] for name in ("hook", "ops-mail", "deaf", "gone")] == [True, True, False, True]
        assert results["deaf"]["code"] == "notify-timeout"
        wait_for(lambda: "arrive again" in _mailed(mail), "the messages that waited")
        for title in ("test message", "messages by gone do not", "messages by gone arrive"):
            assert _mailed(mail).count(title) == 1, title
        wait_for(lambda: len(told(web)) == 4, "the end")
        assert told(web)[2:] == ["test message", "messages by gone arrive again"]
        wait_for(lambda: channel(site, "ops-mail")["state"] == "ok", "the channel")
        assert "ops-mail" not in "\n".join(site.status()["problems"])
    assert gone.paths() == ["/x", "/x"]
    gone.stop()


def _mailed(mail: MailServer) -> str:
    """Return the subjects of all mails; of a summary what it holds."""
    found = []
    for item in list(mail.mails):
        body = item.get_body(("plain",))
        summary = "messages in one" in str(item["subject"]) and body is not None
        found.append(str(body.get_content()) if summary and body is not None else str(item["subject"]))
    return "\n".join(found)


def test_refused_settings_and_reloads_are_told(site: Site, web: WebServer) -> None:
    """Both while they last, each with its end, by the channels of the configuration that stays in force."""
    site.write_config(channels(web))
    site.start()
    good = site.config.read_text()
    site.config.write_text(good + "\n[nonsense]\nx = 1\n")
    with pytest.raises(RemoteError):
        site.call("Reload")
    site.save(backup_settings(time="25:00"))
    wait_for(lambda: len(told(web)) == 2, "both refusals")
    assert all(title.startswith("settings were refused: ") for title in told(web))
    bodies = "\n".join(item.json["message"] for item in hooks(web))
    assert "nonsense" in bodies
    assert "25:00" in bodies
    site.config.write_text(good)
    site.call("Reload")
    site.save(backup_settings(storage={"type": "none"}))
    wait_for(lambda: len(told(web)) == 4, "both ends")
    assert told(web)[2:] == ["settings are accepted again"] * 2
    with pytest.raises(RemoteError) as caught:
        site.call("TestNotify", channel="hok")
    assert "hook, heartbeat/nanumpay" in caught.value.hint


def test_where_notifications_are_off_there_is_the_record(site: Site, web: WebServer) -> None:
    """Nothing is sent, no ping either; whoever looks later sees what there was to tell."""
    site.write_config(channels(web, more="enabled = false\ndatabase = true"))
    site.start()
    with pytest.raises(RemoteError) as caught:
        site.call("TestNotify")
    assert caught.value.code == "refused"
    run = site.run()
    settled(site)
    assert not web.requests
    (notice,) = notices(site)
    assert (notice["event"], notice["run"], notice["sent"]) == ("succeeded", run["id"], [])
    assert site.call("ListNotices")["channels"] == []
    with site.db() as db:
        assert "backupnotifications" not in db.list_collection_names()


def test_the_report_comes_when_it_is_due_and_the_application_has_its_record(
    site: Site, web: WebServer, mail: MailServer
) -> None:
    """Also when the daemon was not there at its time: a page by mail, text to a chat, to nobody who has not asked."""
    config = channels(web, more="report = '0 8 * * 1'\nlanguage = 'ko'\ndatabase = true") + (
        f"[channel.boss]\naddress = '{mail.address()}'\nseverity = 'none'\nevents = ['report']\n"
        f"[channel.chat]\naddress = 'json://127.0.0.1:{web.port}/hook/chat'\nseverity = 'none'\nevents = ['report']\n"
    )
    site.write_config(config, top="timezone = 'UTC'")
    site.start()
    run = site.run()
    with site.db() as db:
        record = wait_for(db.backupnotifications.find_one, "a record")
        assert record is not None
    assert (record["event"], record["phase"], record["severity"]) == ("succeeded", "once", "info")
    assert (record["title"], record["run"], record["read"]) == ("nanumpay 백업 성공", run["id"], False)
    assert f"백업: {run['backup']}" in record["message"]
    wait_for(lambda: channel(site, "database")["state"] == "ok", "the receipt")
    assert site.stop() == EXIT_OK
    kept = remembered(site)
    due = kept["report_due"]
    kept["report_due"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    with catalog(site) as db:
        db.execute("UPDATE memory SET record = ? WHERE key = 'announcer'", (json.dumps(kept).encode(),))
    site.start()
    wait_for(lambda: mail.mails and hooks(web), "the report")
    page = mail.mails[0].get_body(("html",))
    assert page is not None
    html = str(page.get_content())
    assert "<td width=" in html
    assert "날짜별 크기" in html
    assert "성공 1" in html
    assert [item.path for item in hooks(web)] == ["/hook/chat"]
    assert "백업 보고서" in hooks(web)[0].json["message"]
    assert remembered(site)["report_due"] == due


def test_no_address_is_shown_anywhere(site: Site, web: WebServer, mail: MailServer) -> None:
    """Not in answers, logs, records, settings, files or process lists, whether messages arrive or not."""
    wrong = mail.address("falsches-Geheimnis")
    site.write_config(
        channels(web, mail, hook="severity = 'info'", more="database = true")
        + f"[channel.wrong]\naddress = '{wrong}'\nseverity = 'info'\n[log]\nlevel = 'debug'\n"
    )
    site.start()
    results = site.call("TestNotify")["results"]
    assert [item["channel"] for item in results if not item["ok"]] == ["wrong"]
    site.run()
    seen = _watch_processes(site, lambda: len(mail.mails) >= 1 and len(told(web)) >= 2)
    web.status = 500
    site.run()
    wait_for(lambda: channel(site, "hook")["state"] == "failing", "the refused webhook")
    answers = [site.call(name) for name in ("GetStatus", "GetSettings", "ListNotices", "GetReport", "Doctor")]
    with site.db() as db:
        records = list(db.backupnotifications.find())
    site.stop()
    files = b"".join(path.read_bytes() for path in site.state.rglob("*") if path.is_file())
    everything = f"{results}{answers}{records}{seen}{site.log()}".encode() + files
    for secret in (TOKEN, BEAT, MAIL_PASSWORD, "falsches-Geheimnis"):
        assert secret.encode() not in everything, secret


def _watch_processes(site: Site, until: Callable[[], bool]) -> str:
    """Return what stands on the command lines and in the environments of the site's processes meanwhile."""
    seen: set[str] = set()
    sender = False

    def look() -> bool:
        nonlocal sender
        for pid, command in site.processes().items():
            sender = sender or command.endswith("sender")
            seen.add(command)
            try:
                seen.add(Path(f"/proc/{pid}/environ").read_text(errors="replace"))
            except OSError:
                continue
        return until()

    wait_for(look, "the messages")
    assert sender, "no process was seen that sends"
    return "\n".join(seen)
