"""From the settings to who is told what: rules, targets, quiet hours, languages. Tables."""

from __future__ import annotations

from datetime import UTC, datetime, time

from nanumpay_backupd import ways
from nanumpay_backupd.alerts import Notice, Phase
from nanumpay_backupd.events import Event, Severity
from nanumpay_backupd.notifiers.base import AppriseTarget, DatabaseTarget, Receipt
from nanumpay_backupd.outbox import Outbox, add, heard
from nanumpay_backupd.settings.hostfile import parse_host_file

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
HOST = parse_host_file(
    """
    timezone = "Asia/Seoul"
    [mongodb]
    uri = "mongodb://db1/pay"
    [notify]
    language = "ko"
    quiet = "22:00-07:00"
    remind = "12h"
    max_per_hour = 5
    database = true
    database_days = 30
    [channel.ops]
    address = "json://h/x"
    [channel.team]
    address = "json://h/y"
    severity = "none"
    events = ["failed", "report"]
    jobs = ["nanumpay"]
    language = "en"
    timeout = "30s"
    """,
    "host.toml",
    environ={},
)
OFF = parse_host_file('[notify]\nenabled = false\n[channel.ops]\naddress = "json://h/x"', "host.toml", environ={})


def test_the_policy_is_what_the_host_file_says() -> None:
    """Each key has its effect."""
    policy = ways.policy(HOST)
    assert (policy.remind, policy.quiet, policy.cap) == (43200.0, (time(22), time(7)), 5)
    assert str(policy.zone) == "Asia/Seoul"
    ops, team = policy.rules
    assert (ops.severity, ops.events, ops.jobs) == (Severity.WARNING, frozenset(), frozenset())
    assert (team.severity, team.events, team.jobs) == (
        None,
        frozenset({Event.FAILED, Event.REPORT}),
        frozenset({"nanumpay"}),
    )


def test_where_messages_go() -> None:
    """The database is a target and no channel with a rule: it gets everything; switched off, there is nothing."""
    found = ways.targets(HOST)
    assert list(found) == ["ops", "team", "database"]
    team, database = found["team"], found["database"]
    assert isinstance(team, AppriseTarget)
    assert (team.address.reveal(), team.timeout) == ("json://h/y", 30.0)
    assert isinstance(database, DatabaseTarget)
    assert (database.uri.reveal(), database.database, database.days) == ("mongodb://db1/pay", "pay", 30)
    assert (ways.targets(OFF), ways.rules(OFF)) == ({}, ())


def test_each_channel_has_its_language() -> None:
    """Its own, else that of all."""
    assert [ways.sender(HOST, name, "db1").language for name in ("ops", "team", "database")] == ["ko", "en", "ko"]


def test_how_a_channel_is_described() -> None:
    """Unused, ok or failing, and what waits."""
    notice = Notice(id="n", at=NOW, phase=Phase.ONCE, event=Event.FAILED, of=Event.FAILED, severity=Severity.ERROR)
    box = add(Outbox(), [("ops", notice)])  # type: ignore[list-item]
    box = heard(box, Receipt(channel="team", message="x", ok=True), NOW, lost=False)
    box = heard(box, Receipt(channel="ops", message="x", ok=False, answer="no", hint="do"), NOW, lost=False)
    ops, team, database = ways.described(HOST, ways.targets(HOST), box)
    assert (ops["state"], ops["waiting"], ops["problem"]["message"]) == ("failing", 1, "no")
    assert (team["state"], team["last"], team["events"]) == ("ok", "2026-11-21T02:00:00Z", ["failed", "report"])
    assert (database["state"], database["severity"], database["type"]) == ("unused", "", "database")
