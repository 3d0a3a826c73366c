"""What people read: every event in both languages, short subjects, what to do, no secrets, nothing left unfilled."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from nanumpay_backupd.alerts import Notice, Phase, merged
from nanumpay_backupd.events import EVENTS, Event, Fault, Severity, news_of
from nanumpay_backupd.model import Copy, CopyState, ErrorInfo, Outcome, Run, Stage, StageRecord, Trigger
from nanumpay_backupd.notifiers.letter import Sender, compose, ping, subject_of, trial
from nanumpay_backupd.notifiers.words import CAUSES, LANGUAGES
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.system.secrets import Secret
from tests.servers.tools import PROJECT
from tests.workbench import NOW, manifest_of

SEOUL: Final = ZoneInfo("Asia/Seoul")
TOLD: Final = [event for event in EVENTS if event not in {Event.HEALTHY, Event.REPORT}]
HANGUL: Final = re.compile("[가-힣]")
# Answers to somebody who asks; no run ends with them and nothing lasting is wrong.
ASKED: Final = frozenset(
    "bad-request bad-time cancelled catalog-newer control-socket daemon-stopping daemon-timeout daemon-unreachable "
    "failed job-disabled newest-verified no-such-moment not-allowed not-found permission-denied refused "
    "csrf not-signed-in not-typed password-weak settings-changed sign-in-refused sign-in-wait token-refused "
    "too-large web-listen web-state wrong-host "
    "pinned replay-refused swap-impossible target-exists target-refused not-for-this-source usage watch-ended".split()
)


@pytest.fixture(autouse=True)
def nothing_is_secret_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the secrets that other tests of this session made up; some are words of these."""
    monkeypatch.setattr("nanumpay_backupd.system.secrets._known", set())


class _Tags(HTMLParser):
    """Counts what is open, and notes what a mail program would not show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(html: str) -> _Tags:
    """Read a page; fails where it is not well-formed."""
    tags = _Tags()
    tags.feed(html)
    assert not tags.open
    assert not tags.seen & {"script", "style", "svg", "img", "link", "iframe", "form"}
    return tags


def notice(**changes: Any) -> Notice:
    """Make a notice of a failed backup."""
    about: dict[str, Any] = {
        "id": "20261121-020000-1",
        "at": NOW,
        "phase": Phase.BEGAN,
        "event": Event.FAILED,
        "of": Event.FAILED,
        "severity": Severity.ERROR,
        "key": "backup:nanumpay",
        "job": "nanumpay",
        "run": "20261121-020000-7f3a",
        "reason": "MongoDB at localhost:27017 did not answer; connection refused",
        "hint": "systemctl status mongod, then: backupctl run",
        "code": "source-unreachable",
        "since": NOW - timedelta(hours=26),
        "count": 3,
    }
    return Notice(**about | changes)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ONCE])
@pytest.mark.parametrize("event", TOLD)
def test_every_event_can_be_told(event: Event, phase: Phase, language: str) -> None:
    """In both languages, at every point of a fault, also where no job, reason or code is known: nothing is unfilled."""
    for bare in ({}, {"job": "", "reason": "", "code": "", "hint": "", "run": "", "since": None}):
        if phase is Phase.ENDED:
            own = notice(phase=phase, of=event, event=Event.HEALTHY, severity=Severity.INFO, **bare)
            if not LANGUAGES[language].events[event].ended:
                continue  # what happens once does not end
        else:
            own = notice(phase=phase, event=event, of=event, **bare)
        message = compose(own, Sender("db1", SEOUL, language))
        for text in (message.subject, message.text, message.html):
            assert "{" not in text
            assert "None" not in text
        assert len(message.subject) <= 110
        assert "\n" not in message.subject
        assert message.subject.startswith("[db1] ")
        assert read_page(message.html).text
        assert bool(HANGUL.search(message.title)) is (language == "ko")


def test_both_languages_have_the_same_words() -> None:
    """Nothing can be told in one that cannot be told in the other."""
    english, korean = LANGUAGES["en"], LANGUAGES["ko"]
    assert english.events.keys() == korean.events.keys() == set(Event) - {Event.HEALTHY}
    assert english.labels.keys() == korean.labels.keys()
    for event, words in english.events.items():
        assert bool(words.ended) is bool(korean.events[event].ended)


def test_every_code_that_people_are_told_has_its_korean_words() -> None:
    """Of the documented codes, those that only answer a question are left out; no word is for a code that is none."""
    section = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Error codes\n")[2]
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert documented - CAUSES.keys() == ASKED
    assert CAUSES.keys() <= documented
    assert all(HANGUL.search(text) and text.endswith(".") for text in CAUSES.values())


def test_a_fault_in_english() -> None:
    """A plain sentence, why, what to do, the details, and the command that shows more."""
    message = compose(notice(), Sender("db1", SEOUL, "en"))
    assert message.subject == "[db1] backup of nanumpay failed: MongoDB at localhost:27017 did not answer"
    assert message.text == (
        "The last backup did not succeed. Older backups are untouched.\n\n"
        "Reason: MongoDB at localhost:27017 did not answer; connection refused\n"
        "What to do: systemctl status mongod, then: backupctl run\n"
        "Job: nanumpay\n"
        "Time: 2026-11-21 11:00:00 KST\n"
        "Since: 2026-11-20 09:00:00 KST (shown 3 times)\n"
        "Code: source-unreachable\n"
        "More: backupctl show 20261121-020000-7f3a"
    )


def test_a_fault_in_korean() -> None:
    """The cause in Korean by its code, and the words of whoever found it as the detail."""
    message = compose(notice(phase=Phase.REMINDER), Sender("db1", SEOUL, "ko"))
    assert message.subject == "[db1] 계속됨: nanumpay 백업 실패: 백업할 서버에 연결할 수 없습니다"
    assert "원인: 백업할 서버에 연결할 수 없습니다.\n상세: MongoDB at localhost:27017 did not answer" in message.text
    assert "시작: 2026-11-20 09:00:00 KST (3회 발생)" in message.text


def test_the_end_of_a_fault() -> None:
    """It says what it was and how long it lasted, and asks for nothing."""
    ended = notice(phase=Phase.ENDED, event=Event.HEALTHY, severity=Severity.INFO)
    message = compose(ended, Sender("db1", SEOUL, "en"))
    assert message.subject == "[db1] backup of nanumpay works again"
    assert "It was: MongoDB at localhost:27017 did not answer" in message.text
    assert "Until: 2026-11-21 11:00:00 KST\nSince: 2026-11-20 09:00:00 KST" in message.text
    assert "What to do" not in message.text


def test_a_summary_names_what_it_holds() -> None:
    """One line each, the worst first, and how many are not named."""
    parts = [notice(id=f"n-{at}", key=str(at), severity=Severity.WARNING, event=Event.DEGRADED) for at in range(45)]
    message = compose(merged([*parts, notice(id="n-99")], NOW), Sender("db1", SEOUL, "en"))
    assert message.subject == "[db1] 46 messages in one"
    first, *rest = message.text.partition("\n\n")[2].splitlines()
    assert first == ("2026-11-21 11:00:00 KST: backup of nanumpay failed: MongoDB at localhost:27017 did not answer")
    assert (len(rest), rest[-1]) == (40, "and 6 more")


def test_no_secret_is_told_wherever_it_hides() -> None:
    """Passwords that are known, and those of addresses, are masked in every part of a message."""
    Secret("hunter2-of-the-database")
    leaking = "mongodb://root:s3cr3t@h/db refused hunter2-of-the-database"
    message = compose(
        notice(reason=leaking, hint=leaking, details=(("found", leaking), ("warning", leaking)), text=leaking),
        Sender("db1", SEOUL, "en"),
    )
    shown = f"{message.subject}{message.title}{message.text}{message.html}{message.reason}{message.hint}"
    assert "hunter2" not in shown
    assert "s3cr3t" not in shown


def test_a_page_shows_markup_as_text() -> None:
    """What a server said cannot change the page."""
    message = compose(notice(reason='<script>alert("x")</script> & more'), Sender("db1", SEOUL, "en"))
    assert '<script>alert("x")</script> & more' in read_page(message.html).text


@pytest.mark.parametrize("title", ["x" * 300, "one\ntwo\r\nthree: \x00 four", "가" * 200])
def test_a_subject_is_one_short_line(title: str) -> None:
    """Whatever stands in it: a header of a mail has one line."""
    subject = subject_of(title, "db1")
    assert len(subject) <= 110
    assert not re.search(r"[\r\n]", subject)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_test_says_that_it_is_one(language: str) -> None:
    """And by which channel it came."""
    message = trial("test-1", "ops-mail", NOW, Sender("db1", SEOUL, language))
    assert "ops-mail" in message.text
    assert (message.event, message.severity) == ("test", "info")
    read_page(message.html)


def run(outcome: Outcome | None, action: str = "backup", **changes: Any) -> Run:
    """Make a run that ended so."""
    bad = outcome in {Outcome.FAILED, Outcome.DEGRADED, Outcome.INTERRUPTED}
    about: dict[str, Any] = {
        "id": "20261121-020000-7f3a",
        "job": "nanumpay",
        "trigger": Trigger.SCHEDULE,
        "started": NOW,
        "ended": NOW + timedelta(seconds=4.2),
        "outcome": outcome,
        "action": action,
        "error": ErrorInfo(code="no-space", message="the disk is full", hint="free space") if bad else None,
    }
    return Run(**about | changes)


def test_a_success_has_its_figures() -> None:
    """Size, documents, how long it took, where the copies are, and what a run warned of."""
    manifest = manifest_of(b"x" * 1200, collections={"nanumpay.users": (7121, 500)}, raw_bytes=500, proven=True)
    places = {"local": CopyState.VERIFIED, "nas": CopyState.UPLOADED, "app": CopyState.PENDING}
    copies = [
        Copy(backup=manifest.backup, destination=name, state=state, key="k", size=1200, updated=NOW)
        for name, state in places.items()
    ]
    backup = backup_from_manifest(manifest, *copies)
    news = news_of(run(Outcome.SUCCEEDED, warnings=("retention: nas refused",)), backup)
    assert news is not None
    assert dict(news.details) == {
        "took": "4.2 s",
        "size": "1.20 kB",
        "documents": "7,121",
        "copies": "local, nas",
        "warning": "retention: nas refused",
    }


@pytest.mark.parametrize(
    "outcome,action,trigger,expected",
    [
        (Outcome.SUCCEEDED, "backup", Trigger.SCHEDULE, Event.SUCCEEDED),
        (Outcome.SUCCEEDED, "backup", Trigger.RETRY, None),
        (Outcome.SUCCEEDED, "upload", Trigger.RETRY, None),
        (Outcome.SUCCEEDED, "slice", Trigger.SCHEDULE, None),
        (Outcome.SUCCEEDED, "verify", Trigger.MANUAL, Event.VERIFY_SUCCEEDED),
        (Outcome.SUCCEEDED, "drill", Trigger.SCHEDULE, Event.DRILL_SUCCEEDED),
        (Outcome.SUCCEEDED, "restore", Trigger.MANUAL, Event.RESTORE_SUCCEEDED),
        (Outcome.SUCCEEDED, "collection", Trigger.MANUAL, Event.SUCCEEDED),
        # These last until one succeeds, so they are told as faults.
        (Outcome.FAILED, "backup", Trigger.SCHEDULE, None),
        (Outcome.FAILED, "drill", Trigger.SCHEDULE, None),
        (Outcome.DEGRADED, "backup", Trigger.SCHEDULE, None),
        # These are over.
        (Outcome.FAILED, "restore", Trigger.MANUAL, Event.RESTORE_FAILED),
        (Outcome.INTERRUPTED, "restore", Trigger.MANUAL, Event.RESTORE_FAILED),
        (Outcome.FAILED, "collection", Trigger.MANUAL, Event.FAILED),
        (Outcome.CANCELLED, "backup", Trigger.MANUAL, None),
        (Outcome.SKIPPED, "backup", Trigger.SCHEDULE, None),
        (None, "backup", Trigger.SCHEDULE, None),
    ],
)
def test_what_is_news(outcome: Outcome | None, action: str, trigger: Trigger, expected: Event | None) -> None:
    """A run that ended is news when it is over with it; what lasts is told as a fault."""
    news = news_of(run(outcome, action, trigger=trigger), None)
    assert (news.event if news is not None else None) is expected
    if news is not None and outcome is Outcome.FAILED:
        assert (news.reason, news.hint, news.code) == ("the disk is full", "free space", "no-space")


def test_what_a_restore_found_is_told() -> None:
    """Its stages say what came back."""
    stage = StageRecord(
        stage=Stage.RESTORE, started=NOW, ended=NOW, outcome=Outcome.SUCCEEDED, detail="7,121 documents"
    )
    news = news_of(run(Outcome.SUCCEEDED, "restore", stages=(stage,)), None)
    assert news is not None
    assert ("found", "7,121 documents") in news.details


def test_a_ping_says_what_happened() -> None:
    """The switch's own log has the run and the reason."""
    message = ping(run(Outcome.FAILED), "fail", "db1")
    assert message.text == "run 20261121-020000-7f3a by schedule\nthe disk is full\nfree space"
    assert (message.subject, message.signal, message.severity) == ("[db1] nanumpay: failed", "fail", "error")


def test_a_fault_shows_as_the_status_does() -> None:
    """The line of a status is the sentence and what to do."""
    fault = Fault(key="k", text="it is broken", severity=Severity.ERROR, hint="mend it")
    assert (fault.state, fault.line) == ("failing", "it is broken → mend it")
    assert Fault(key="k", text="t", severity=Severity.WARNING).line == "t"
