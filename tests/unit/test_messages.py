"""The main events: which end of a run is which, and the catalog, which explains each of them in two languages."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from nanumpay_backupd.cli import options
from nanumpay_backupd.messages import Message, message_of
from nanumpay_backupd.model import ErrorInfo, Outcome, Run, Trigger
from tests.servers.tools import PROJECT
from tests.workbench import NOW

CATALOG = PROJECT / "systemd" / "nanumpay-backupd.catalog"
PACKAGE = PROJECT / "nanumpay_backupd"
LANGUAGES = ("", "ko")
_HEAD = re.compile(r"^-- ([0-9a-f]{32})(?: (\w+))?$", re.MULTILINE)
_FIELD = re.compile(r"@([A-Z_]+)@")
_HANGUL = re.compile(r"[가-힣]")
_WIDTH = 100


class Entry(NamedTuple):
    """One entry of the catalog: headers and text."""

    headers: dict[str, str]
    text: str


def entries() -> dict[tuple[str, str], Entry]:
    """Read the catalog (systemd.io/CATALOG) by id and language."""
    pieces = _HEAD.split(CATALOG.read_text(encoding="utf-8"))
    found: dict[tuple[str, str], Entry] = {}
    for number, language, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        head, _, text = body.strip("\n").partition("\n\n")
        headers = dict(line.split(": ", 1) for line in head.splitlines())
        assert (number, language or "") not in found
        found[number, language or ""] = Entry(headers, text)
    return found


def run(action: str, outcome: Outcome | None, code: str = "") -> Run:
    """Return the record of a run that ended like that."""
    error = ErrorInfo(code=code, message="it did") if code else None
    return Run(id="r", job="j", trigger=Trigger.MANUAL, started=NOW, action=action, outcome=outcome, error=error)


@pytest.mark.parametrize(
    "action, outcome, code, expected",
    [
        ("backup", Outcome.SUCCEEDED, "", Message.RUN_SUCCEEDED),
        ("collection", Outcome.SUCCEEDED, "", Message.RUN_SUCCEEDED),
        ("upload", Outcome.SUCCEEDED, "", Message.RUN_SUCCEEDED),
        ("slice", Outcome.SUCCEEDED, "", None),
        ("verify", Outcome.SUCCEEDED, "", Message.VERIFY_SUCCEEDED),
        ("drill", Outcome.SUCCEEDED, "", Message.DRILL_SUCCEEDED),
        ("restore", Outcome.SUCCEEDED, "", Message.RESTORE_SUCCEEDED),
        ("backup", Outcome.DEGRADED, "destination-unreachable", Message.RUN_DEGRADED),
        ("slice", Outcome.DEGRADED, "destination-unreachable", Message.RUN_DEGRADED),
        ("verify", Outcome.DEGRADED, "destination-unreachable", Message.RUN_DEGRADED),
        ("backup", Outcome.FAILED, "no-space", Message.RUN_FAILED),
        ("backup", Outcome.FAILED, "", Message.RUN_FAILED),
        ("backup", Outcome.FAILED, "verify-counts", Message.VERIFY_FAILED),
        ("verify", Outcome.FAILED, "verify-checksum", Message.VERIFY_FAILED),
        ("verify", Outcome.FAILED, "artifact-missing", Message.VERIFY_FAILED),
        ("verify", Outcome.FAILED, "folder-unusable", Message.RUN_FAILED),
        ("drill", Outcome.FAILED, "drill-failed", Message.DRILL_FAILED),
        ("drill", Outcome.FAILED, "verify-checksum", Message.VERIFY_FAILED),
        ("drill", Outcome.FAILED, "scratch-failed", Message.DRILL_NOT_DONE),
        ("drill", Outcome.FAILED, "drill-impossible", Message.DRILL_NOT_DONE),
        ("restore", Outcome.FAILED, "restore-failed", Message.RESTORE_FAILED),
        ("restore", Outcome.FAILED, "verify-checksum", Message.RESTORE_FAILED),
        ("slice", Outcome.FAILED, "chain-broken", Message.CHAIN_BROKEN),
        ("slice", Outcome.FAILED, "chain-missing", None),
        ("slice", Outcome.FAILED, "source-unreachable", Message.RUN_FAILED),
        *((action, Outcome.CANCELLED, "cancelled", Message.RUN_CANCELLED) for action in ("backup", "restore", "drill")),
        *((action, Outcome.INTERRUPTED, "interrupted", Message.RUN_INTERRUPTED) for action in ("backup", "slice")),
        ("backup", Outcome.SKIPPED, "busy", Message.RUN_SKIPPED),
        ("backup", None, "", None),
    ],
)
def test_which_event_the_end_of_a_run_is(action: str, outcome: Outcome | None, code: str, expected: object) -> None:
    """A drill that could not be done is no bad backup, a damaged copy is no mere failure, a good slice is no news."""
    assert message_of(run(action, outcome, code)) is expected


def test_ids_are_ids() -> None:
    """Each event has a random id of its own, as sd-id128 makes them."""
    ids = [message.id for message in Message]
    assert len(set(ids)) == len(ids)
    for number in ids:
        assert uuid.UUID(number).hex == number
        assert uuid.UUID(number).version == 4


def test_every_event_is_explained_in_both_languages_and_nothing_else_is() -> None:
    """The catalog and the table in the code name the same ids."""
    assert set(entries()) == {(message.id, language) for message in Message for language in LANGUAGES}


@pytest.mark.parametrize("message", Message, ids=lambda message: message.name)
def test_an_entry_is_complete(message: Message) -> None:
    """An entry has subject and text, says what to do by a command, and names only fields that are always there.

    The translation names the same fields and the same commands as the original, and is Korean.
    """
    told = entries()
    english, korean = told[message.id, ""], told[message.id, "ko"]
    for entry in (english, korean):
        assert list(entry.headers) == ["Subject", "Defined-By", "Documentation"]
        assert set(_FIELD.findall(entry.headers["Subject"] + entry.text)) <= set(message.fields)
        assert max(map(len, entry.text.splitlines())) <= _WIDTH
    assert not _HANGUL.search(english.headers["Subject"] + english.text)
    assert all(_HANGUL.search(part) for part in (korean.headers["Subject"], korean.text))
    commands = [
        re.findall(r"(?:backupctl|systemctl|journalctl) [a-z-]+|nanumpay-backupd check-config|@\w+@", text)
        for text in (english.text, korean.text)
    ]
    assert sorted(commands[0]) == sorted(commands[1])
    assert commands[0]


def test_the_page_has_every_event() -> None:
    """docs/operations.md lists each id with its fields."""
    page = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| `([0-9a-f]{32})` \| (.*) \|$", page, re.MULTILINE)
    assert {number: tuple(re.findall(r"`(\w+)`", fields)) for number, fields in rows} == {
        message.id: message.fields for message in Message
    }
    assert len(rows) == len(Message)


@pytest.mark.parametrize("message", Message, ids=lambda message: message.name)
def test_the_commands_can_be_typed(message: Message) -> None:
    """What an entry tells to type of backupctl is what backupctl takes."""
    for language in LANGUAGES:
        for line in re.findall(r"\bbackupctl ((?:[\w@.-]+ ?)+)", entries()[message.id, language].text):
            words = [re.sub(r"@\w+@", "x", word) for word in line.split()]
            options.parse(words)


def test_every_event_is_sent_by_somebody() -> None:
    """No id stands in the table that nothing uses; that of a failed daemon is the alert unit's."""
    used = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    unused = {message for message in Message if f"Message.{message.name}" not in used}
    assert unused == {Message.DAEMON_FAILED}
    alert = (PROJECT / "systemd" / "nanumpay-backupd-alert@.service").read_text(encoding="utf-8")
    assert f"MESSAGE_ID={Message.DAEMON_FAILED.id}" in alert
    assert all(f"{field}=%%s" in alert for field in Message.DAEMON_FAILED.fields)


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="systemd's own compiler of catalogs is not here")
def test_journalctl_takes_it(tmp_path: Path) -> None:
    """Systemd compiles the catalog without a complaint, and finds every entry in it."""
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, place)
    done = subprocess.run(
        ["journalctl", "--update-catalog", f"--root={tmp_path}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    database = (tmp_path / "var/lib/systemd/catalog/database").read_bytes()
    for entry in entries().values():
        assert entry.text.splitlines()[0].encode() in database
