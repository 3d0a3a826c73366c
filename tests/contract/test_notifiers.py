"""What notifiers.base.Notifier promises, asked of every way to tell people, each against a real server of its kind."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from nanumpay_backupd.errors import NotifyError
from nanumpay_backupd.notifiers.base import AppriseTarget, DatabaseTarget, HeartbeatTarget, Message, Notifier, Target
from nanumpay_backupd.notifiers.factory import open_notifier
from nanumpay_backupd.system.secrets import Secret, redact
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.post import MAIL_PASSWORD, MailServer, WebServer, silent_server
from tests.servers.process import free_port

pytestmark = pytest.mark.servers

NOW: Final = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
SUBJECT: Final = "[db1] nanumpay 백업 실패: 백업할 서버에 연결할 수 없습니다"
TEXT: Final = (
    "마지막 백업이 성공하지 못했습니다.\n\nReason: *not* _there_ <b> & `co`\nWhat to do: systemctl status mongod"
)
TOKEN: Final = "TIiajkdnlazkcOXrIdevi7FQ"
QUICK: Final = 1.0
"""Seconds of patience, so that a silent server is noticed soon."""
PATIENT: Final = 10.0
"""Seconds of patience with a server that answers, on a busy machine."""
AWAY: Final = 3.0
"""So long the driver of MongoDB looks for a server that is down."""
_numbers = itertools.count(1)


def message(**changes: Any) -> Message:
    """Make a message of a failed backup, with an id of its own."""
    about: dict[str, Any] = {
        "id": f"20261121-020000-{next(_numbers)}",
        "at": NOW,
        "subject": SUBJECT,
        "title": "백업 실패",
        "text": TEXT,
        "event": "failed",
        "of": "failed",
        "severity": "error",
        "job": "nanumpay",
        "run": "r1",
        "signal": "fail",
    }
    return Message(**about | changes)


@dataclass
class Way:
    """A way to tell people: what arrived there, how its server is stopped, started and made to refuse."""

    kind: str
    target: Target
    arrived: Callable[[], list[str]]
    """Everything that arrived, each as one text."""
    stop: Callable[[], None]
    start: Callable[[], object]
    refuse: Callable[[], object]
    silent: Callable[[int], Target]
    """The same target, at another port of this host."""
    secret: str


def _apprise(address: str, timeout: float = PATIENT) -> AppriseTarget:
    return AppriseTarget(name="ops", address=Secret(address), timeout=timeout)


def _web_way(kind: str, server: WebServer, address: Callable[[int], str], secret: str) -> Way:
    def refuse() -> None:
        server.status = 403

    return Way(
        kind,
        _apprise(address(server.port)),
        lambda: [item.body for item in server.requests],
        server.stop,
        server.start,
        refuse,
        lambda port: _apprise(address(port), QUICK),
        secret,
    )


@contextlib.contextmanager
def _hooks(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """Slack, Discord and Telegram have their addresses in apprise; there they are pointed at a server of this host."""
    from apprise.plugins.discord import NotifyDiscord
    from apprise.plugins.slack import NotifySlack
    from apprise.plugins.telegram import NotifyTelegram

    plugin, attribute, path, address = {
        "slack": (NotifySlack, "webhook_url", "/services", f"slack://T1JJ3T3L2/A1BRTD4JD/{TOKEN}/#ops"),
        "discord": (NotifyDiscord, "notify_url", "/api/webhooks", f"discord://417429632418316298/{TOKEN * 3}"),
        "telegram": (NotifyTelegram, "notify_url", "/bot", f"tgram://123456789:{TOKEN}_hijklmnop/12315544/"),
    }[kind]
    server = WebServer().start()

    def at(port: int) -> str:
        monkeypatch.setattr(plugin, attribute, f"http://127.0.0.1:{port}{path}")
        return address

    if kind == "telegram":
        server.reply = b'{"ok": true, "result": {"message_id": 1}}'
    try:
        yield _web_way(kind, server, at, TOKEN)
    finally:
        server.stop()


@contextlib.contextmanager
def _webhook() -> Iterator[Way]:
    server = WebServer().start()
    try:
        yield _web_way("webhook", server, lambda port: f"json://127.0.0.1:{port}/hooks/{TOKEN}", TOKEN)
    finally:
        server.stop()


@contextlib.contextmanager
def _mail() -> Iterator[Way]:
    server = MailServer().start()

    def silent(port: int) -> Target:
        return _apprise(server.address().replace(f":{server.port}", f":{port}"), QUICK)

    def refuse() -> None:
        server.refusal = "550 5.1.1 no such user here"

    def arrived() -> list[str]:
        return [
            f"{mail['subject']}\n"
            + "\n".join(str(part.get_content()) for part in mail.walk() if not part.is_multipart())
            for mail in server.mails
        ]

    try:
        yield Way("mail", _apprise(server.address()), arrived, server.stop, server.start, refuse, silent, MAIL_PASSWORD)
    finally:
        server.stop()


@contextlib.contextmanager
def _heartbeat() -> Iterator[Way]:
    server = WebServer().start()

    def target(port: int, timeout: float = QUICK) -> Target:
        url = Secret(f"http://127.0.0.1:{port}/ping/{TOKEN}")
        return HeartbeatTarget(name="heartbeat/nanumpay", url=url, timeout=timeout)

    def refuse() -> None:
        server.status = 404

    def arrived() -> list[str]:
        return [item.body for item in server.requests]

    try:
        yield Way("heartbeat", target(server.port, PATIENT), arrived, server.stop, server.start, refuse, target, TOKEN)
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the seconds that apprise waits between two messages to one service."""
    from apprise.plugins.base import NotifyBase
    from apprise.plugins.email.base import NotifyEmail
    from apprise.plugins.slack import NotifySlack

    for plugin in (NotifyBase, NotifyEmail, NotifySlack):
        monkeypatch.setattr(plugin, "request_rate_per_sec", 0)


@pytest.fixture(scope="module")
def locked_mongod() -> Iterator[Mongod]:
    """A MongoDB that demands a login."""
    with start_mongod(auth=True) as server:
        yield server


@contextlib.contextmanager
def _database(server: Mongod) -> Iterator[Way]:
    name = f"app{next(_numbers)}"
    password = "pw-of-the-application"
    with server.client() as client:
        client[name].command("createUser", "app", pwd=password, roles=["readWrite"])
        records = client[name].backupnotifications

        def target(port: int, timeout: float = QUICK) -> Target:
            uri = Secret(f"mongodb://app:{password}@127.0.0.1:{port}/{name}?authSource={name}&directConnection=true")
            return DatabaseTarget(name="database", uri=uri, database=name, days=90, count=50, timeout=timeout)

        def arrived() -> list[str]:
            return [f"{item['title']}\n{item['message']}\n{SUBJECT}" for item in records.find()]

        def refuse() -> None:
            client[name].command("updateUser", "app", roles=["read"])

        yield Way("database", target(server.port, AWAY), arrived, server.stop, server.start, refuse, target, password)


KINDS: Final = ("mail", "slack", "discord", "telegram", "webhook", "heartbeat", "database")


@pytest.fixture(params=KINDS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, locked_mongod: Mongod) -> Iterator[Way]:
    """Give each way with its server running."""
    kind: str = request.param
    made = {"mail": _mail, "webhook": _webhook, "heartbeat": _heartbeat}
    with contextlib.ExitStack() as stack:
        if kind == "database":
            yield stack.enter_context(_database(locked_mongod))
        elif kind in made:
            yield stack.enter_context(made[kind]())
        else:
            yield stack.enter_context(_hooks(kind, monkeypatch))


@pytest.fixture
def notifier(way: Way) -> Iterator[Notifier]:
    """Open the notifier of a way."""
    with open_notifier(way.target) as opened:
        yield opened


def words(text: str) -> str:
    """Return a text without the marks that a service writes in its own way, and without line ends."""
    plain = text.encode().decode("unicode_escape", "ignore") if "\\u" in text else text
    for sign, meant in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"), ("\\n", " ")):
        plain = plain.replace(sign, meant)
    return " ".join(plain.replace("\\", "").split())


def test_a_message_arrives_as_it_was_written(way: Way, notifier: Notifier) -> None:
    """Subject and text are there word for word, in any script, whatever signs are in it; the answer is a sentence."""
    answer = notifier.send(message())
    assert answer
    assert way.secret not in answer
    (arrived,) = way.arrived()
    raw = arrived if way.kind not in {"slack", "discord", "telegram", "webhook"} else _decoded(arrived)
    for part in (
        SUBJECT,
        "마지막 백업이 성공하지 못했습니다.",
        "systemctl status mongod",
        "*not*",
        "_there_",
        "<b> & `co`",
    ):
        assert part in words(raw), part


def _decoded(body: str) -> str:
    """Return all texts of a JSON body."""
    import json

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for item in value.values():
                yield from texts(item)
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    return "\n".join(texts(json.loads(body)))


def test_messages_arrive_in_their_order(way: Way, notifier: Notifier) -> None:
    """One notifier sends several."""
    for number in range(3):
        notifier.send(message(subject=f"{SUBJECT} {number}", title=f"number {number}", text=f"number {number}"))
    found = [next(at for at in range(3) if f"number {at}" in item) for item in map(_plain, way.arrived())]
    assert found == [0, 1, 2]


def _plain(text: str) -> str:
    return text.replace("\\", "")


def test_the_same_message_twice_is_no_fault(way: Way, notifier: Notifier) -> None:
    """Nobody knows what became of a try that was cut off; a record is there once."""
    same = message()
    notifier.send(same)
    notifier.send(same)
    assert len(way.arrived()) == (1 if way.kind == "database" else 2)


def test_a_server_that_is_down_is_told_and_worth_another_try(way: Way) -> None:
    """No traceback, no secret, what to do; and when it is back, the same notifier goes on."""
    way.stop()
    with open_notifier(way.target) as opened:
        with pytest.raises(NotifyError) as caught:
            opened.send(message())
        assert caught.value.retryable
        assert caught.value.code in {"notify-failed", "notify-timeout"}
        assert caught.value.hint
        assert "refused" in caught.value.message or way.kind == "database"
        assert way.secret not in redact(f"{caught.value.message} {caught.value.hint}")
        way.start()
        opened.send(message())
    assert len(way.arrived()) == 1


def test_a_server_that_says_nothing_does_not_hold_us(way: Way) -> None:
    """It is given up after its time, and worth another try."""
    with silent_server() as port, open_notifier(way.silent(port)) as opened:
        with pytest.raises(NotifyError) as caught:
            opened.send(message())
        assert caught.value.retryable
        assert caught.value.code == "notify-timeout" or way.kind == "database"
        assert way.secret not in redact(caught.value.message)


def test_a_refusal_is_for_good(way: Way, notifier: Notifier) -> None:
    """A wrong login, token or recipient is not mended by trying again."""
    way.refuse()
    with pytest.raises(NotifyError) as caught:
        notifier.send(message())
    assert not caught.value.retryable
    assert caught.value.hint
    assert way.secret not in redact(caught.value.message)


def test_a_wrong_password_is_for_good() -> None:
    """The mail server's 535 says so."""
    server = MailServer().start()
    try:
        with open_notifier(_apprise(server.address("wrong-password"))) as opened:
            with pytest.raises(NotifyError) as caught:
                opened.send(message())
            assert not caught.value.retryable
            assert "wrong-password" not in redact(caught.value.message)
    finally:
        server.stop()


@pytest.mark.parametrize("address", ["nosuchservice://x", "slack://too-short", "mailto://ops:pw"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    """By the channel's name and not by its content."""
    with pytest.raises(NotifyError) as caught:
        open_notifier(_apprise(address))
    assert (caught.value.code, caught.value.retryable) == ("notify-address", False)
    assert "ops" in caught.value.message
    assert address not in caught.value.message


def test_a_mail_is_a_page_with_a_plain_part() -> None:
    """Whoever reads mail without pages reads the same."""
    server = MailServer().start()
    try:
        with open_notifier(_apprise(server.address())) as opened:
            opened.send(message(html="<div><b>백업 실패</b> at db1</div>"))
        (mail,) = server.mails
        kinds = [part.get_content_type() for part in mail.walk()]
        assert kinds == ["multipart/alternative", "text/plain", "text/html"]
        assert "<b>백업 실패</b>" in str(mail.get_payload(1).get_content())  # type: ignore[union-attr]
        assert "백업 실패 at db1" in " ".join(str(mail.get_payload(0).get_content()).split())  # type: ignore[union-attr]
        assert mail["to"] == "admin@example.com"
    finally:
        server.stop()


def test_a_service_that_shows_no_pages_gets_the_text() -> None:
    """A chat would show the tags."""
    server = WebServer().start()
    try:
        with open_notifier(_apprise(f"json://127.0.0.1:{server.port}/x")) as opened:
            opened.send(message(html="<b>x</b>"))
        assert server.requests[0].json["message"] == TEXT
        assert server.requests[0].json["type"] == "failure"
    finally:
        server.stop()


def test_a_record_is_kept_for_its_time_and_in_its_number(locked_mongod: Mongod) -> None:
    """The newest stay; the index lets the old ones go by themselves; what the application noted on one stays."""
    with _database(locked_mongod) as way, open_notifier(way.target) as opened, locked_mongod.client() as client:
        assert isinstance(way.target, DatabaseTarget)
        records = client[way.target.database].backupnotifications
        first = message()
        opened.send(first)
        records.update_one({"noticeId": first.id}, {"$set": {"read": True}})
        opened.send(first)
        assert records.find_one({"noticeId": first.id}, {"read": 1, "_id": 0}) == {"read": True}
        for number in range(60):
            opened.send(message(at=NOW.replace(minute=number % 60, hour=3)))
        assert records.count_documents({}) == 50
        assert records.find_one({"noticeId": first.id}) is None
        expiring = [index for index in records.list_indexes() if index.get("expireAfterSeconds") == 0]
        assert [dict(index["key"]) for index in expiring] == [{"expiresAt": 1}]
        newest = records.find_one(sort=[("createdAt", -1)])
        assert newest is not None
        assert (newest["expiresAt"] - newest["createdAt"]).days == 90


def test_a_ping_goes_where_the_switch_wants_it() -> None:
    """Start and failure behind the address, its query kept, one id for the pings of a run; nowhere else."""
    server = WebServer().start()
    try:
        url = Secret(f"{server.url}/ping/{TOKEN}/?create=1")
        with open_notifier(HeartbeatTarget(name="heartbeat/x", url=url, timeout=PATIENT)) as opened:
            for signal, run in (("start", "r1"), ("success", "r1"), ("fail", "r2"), ("log", "")):
                opened.send(message(signal=signal, run=run))
            server.status = 302
            with pytest.raises(NotifyError) as caught:
                opened.send(message())
        assert not caught.value.retryable
        base = f"/ping/{TOKEN}"
        assert server.paths() == [f"{base}/start", base, f"{base}/fail", f"{base}/log", f"{base}/fail"]
        queries = [item.path.partition("?")[2] for item in server.requests]
        assert all(query.startswith("create=1") for query in queries)
        assert queries[0] == queries[1] != queries[2]
    finally:
        server.stop()


def test_nobody_listens_on_a_free_port() -> None:
    """What the tests take for a server that is down is one."""
    with pytest.raises(NotifyError):
        open_notifier(_apprise(f"json://127.0.0.1:{free_port()}/x")).send(message())
