"""The page's decisions, without a server: who waits, which part is sent, what is shown, which words there are."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.settings.document import FIELDS
from nanumpay_backupd.web.app import ROUTES
from nanumpay_backupd.web.charts import Point, line, steps_of
from nanumpay_backupd.web.download import wanted_part
from nanumpay_backupd.web.ledger import AuditLine, Ledger
from nanumpay_backupd.web.openapi import describe
from nanumpay_backupd.web.pages.settings import read_form
from nanumpay_backupd.web.passwords import check_password, hash_password, matches_application
from nanumpay_backupd.web.people import CHANGE, RIGHTS, SCOPES
from nanumpay_backupd.web.saving import Known, changes, flat, nested
from nanumpay_backupd.web.sessions import Sessions
from nanumpay_backupd.web.shown import Shown, size
from nanumpay_backupd.web.throttle import Throttle
from nanumpay_backupd.web.userfile import Tokens, Users
from nanumpay_backupd.web.visit import local_path
from nanumpay_backupd.web.words import LANGUAGES, chosen, words
from tests.servers.tools import PROJECT

WEB: Final = PROJECT / "nanumpay_backupd" / "web"
NOW: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        """Return what it shows."""
        return self.at

    def monotonic(self) -> float:
        """Return the same in seconds."""
        return self.at.timestamp()

    def uptime(self) -> float:
        """Return the same in seconds."""
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        """Move it on."""
        self.at += timedelta(seconds=seconds)


# Words


def test_both_languages_have_the_same_words() -> None:
    """No text is missing in one of them, and what is put into a sentence is the same in both."""
    korean, english = (words(name).texts for name in LANGUAGES)
    assert korean.keys() == english.keys()
    for key, text in korean.items():
        marks = [set(re.findall(r"\{(\w+)\}", one)) for one in (text, english[key])]
        assert marks[0] == marks[1], key
    assert sum(bool(re.search("[가-힣]", text)) for text in korean.values()) > 0.9 * len(korean)


def test_every_word_that_templates_name_is_there() -> None:
    """A key that is written out in a template is one of the words."""
    known = words("en").texts.keys()
    for file in (WEB / "templates").glob("*.html"):
        for key in re.findall(r"\bt\('([a-z0-9.-]+)'[,)]", file.read_text(encoding="utf-8")):
            assert key in known, f"{file.name}: {key}"


@pytest.mark.parametrize(
    "picked,configured,accepted,language",
    [
        ("", "", "", "en"),
        ("ko", "en", "en", "ko"),
        ("", "ko", "en", "ko"),
        ("", "", "ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("", "", "fr,en;q=0.2,ko;q=0.5", "ko"),
        ("", "", "fr;q=1", "en"),
        ("xx", "", "ko;q=nan-sense,en", "en"),
        ("", "", "ko;q=0", "en"),
    ],
)
def test_which_language(picked: str, configured: str, accepted: str, language: str) -> None:
    """What was picked counts before what is configured, and that before what the browser asks for."""
    assert chosen(picked, configured, accepted) == language


@given(st.text(max_size=300))
def test_any_accepted_language_gives_one_that_there_is(accepted: str) -> None:
    """Whatever a browser sends."""
    assert chosen("", "", accepted) in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
@given(seconds=st.floats(0, 1e9), value=st.integers(0, 10**18))
def test_anything_can_be_shown(language: str, seconds: float, value: int) -> None:
    """Any length of time, size and moment has a text."""
    show = Shown(words(language), "Asia/Seoul", NOW.isoformat())
    assert show.span(seconds)
    assert show.brief(seconds)
    assert size(value)
    moment = (NOW - timedelta(seconds=min(seconds, 1e9))).isoformat()
    assert show.when(moment)
    assert show.ago(moment)
    assert show.exact(moment).endswith("KST")


# Sign-in


@given(st.integers(0, 60))
def test_a_few_failures_are_free_and_many_are_not(failures: int) -> None:
    """Up to five failures nobody waits; from then on longer and longer, but never more than fifteen minutes."""
    throttle = Throttle()
    for _ in range(failures):
        throttle.failed("kim", "198.51.100.7", 0.0)
    wait = throttle.wait("kim", "198.51.100.7", 0.0)
    assert (wait > 0) == (failures >= 5)
    assert wait <= 900
    assert throttle.wait("kim", "198.51.100.7", 3601.0) == 0
    # Somebody else's guessing keeps nobody out elsewhere until it is a flood.
    assert (throttle.wait("kim", "203.0.113.9", 0.0) > 0) == (failures >= 40)


def test_success_forgets_the_own_failures_only() -> None:
    """Who guesses many names from one address is not let off by knowing one of them."""
    throttle = Throttle()
    for at in range(30):
        throttle.failed(f"name{at}", "198.51.100.7", 0.0)
    throttle.passed("name1", "198.51.100.7")
    assert throttle.wait("name1", "198.51.100.7", 0.0) > 0


def test_passwords_count_to_their_last_character() -> None:
    """Bcrypt's 72 bytes are no limit of ours; they are of the application's, whose hashes are of that."""
    long = "가나다라" * 10
    stored = hash_password(long + "1")
    assert check_password(long + "1", stored)
    assert not check_password(long + "2", stored)
    assert not check_password("", stored)
    for weak in ("short", "aaaaaaaaaaaaaaa", "x" * 2000):
        with pytest.raises(RefusedError):
            hash_password(weak)
    for broken in ("", "plain", "$2b$12$short", "\0", "$2a$10$" + "x" * 53):
        assert not matches_application("x", broken)
        assert not check_password("x", broken)


def test_sessions_end_by_time_and_by_hand(tmp_path: Path) -> None:
    """Idle, too old, ended: gone, also after a restart. Only the digest of what the browser has is stored."""
    clock = Hands()
    ledger = Ledger(tmp_path / "web")
    sessions = Sessions(ledger, clock, idle=100, longest=1000)
    secret, session = sessions.begin("kim", "local", "198.51.100.7", "agent")
    assert secret.encode() not in b"".join(file.read_bytes() for file in (tmp_path / "web").iterdir())
    for _ in range(19):
        clock.sleep(50)
        assert sessions.find(secret) == session
    clock.sleep(60)
    assert sessions.find(secret) is None, "longer than the longest"
    secret, session = sessions.begin("kim", "local", "", "")
    again = Sessions(Ledger(tmp_path / "web"), clock, idle=100, longest=1000)
    assert again.find(secret) == session
    clock.sleep(101)
    assert again.find(secret) is None
    secret, session = sessions.begin("kim", "local", "", "")
    sessions.end(session.key)
    assert sessions.find(secret) is None
    for nonsense in ("", "x", "x" * 1000, session.key):
        assert sessions.find(nonsense) is None
    assert (tmp_path / "web" / "web.db").stat().st_mode & 0o777 == 0o600


def test_the_audit_trail_is_kept_in_order(tmp_path: Path) -> None:
    """Newest first, page by page."""
    ledger = Ledger(tmp_path)
    for at in range(10):
        ledger.note(AuditLine(float(at), "kim", "", "run", str(at), "ok", ""))
    assert [one.subject for one in ledger.audit(3)] == ["9", "8", "7"]
    assert [one.subject for one in ledger.audit(3, 3)] == ["6", "5", "4"]


def test_users_and_tokens_are_read_again_when_they_change(tmp_path: Path) -> None:
    """Without a restart; a file that others may read is refused, and a token ends when it was said to."""
    users, other = Users(tmp_path / "users.json"), Users(tmp_path / "users.json")
    users.add("Kim", "viewer", "long enough 1", NOW)
    assert other.all()["kim"].role == "viewer"
    other.remove("kim")
    assert users.all() == {}
    tokens = Tokens(tmp_path / "tokens.json")
    secret = tokens.create("app", ("read",), NOW, NOW + timedelta(days=1))
    assert tokens.find(secret, NOW) is not None
    assert tokens.find(secret, NOW + timedelta(days=2)) is None
    assert tokens.find(secret + "x", NOW) is None
    (tmp_path / "tokens.json").chmod(0o644)
    with pytest.raises(Exception, match="others may read it"):
        Tokens(tmp_path / "tokens.json").all()
    for name in ("", "../x", "A B", "x" * 99):
        with pytest.raises(RefusedError):
            users.add(name, "viewer", "long enough 1", NOW)


def test_no_token_can_have_what_takes_a_password() -> None:
    """Restoring and deleting are for people."""
    assert set(RIGHTS) - set(SCOPES) == {CHANGE}
    dangerous = {way.path for way in ROUTES if way.right == CHANGE}
    assert {"/backups/{backup}/delete", "/recover/restore"} <= dangerous
    assert not any(path.startswith("/api/") for path in dangerous)


# Downloads, paths


@pytest.mark.parametrize(
    "asked,part",
    [
        ("", None),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 10)),
        ("bytes=10-1000", (10, 90)),
        ("bytes=-5", (95, 5)),
        ("bytes=-500", (0, 100)),
        ("bytes=-0", ()),
        ("bytes=100-", ()),
        ("bytes=99-99", (99, 1)),
        ("bytes=5-3", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("bytes=1" + "0" * 30 + "-", None),
    ],
)
def test_which_part_of_a_file(asked: str, part: Any) -> None:
    """As RFC 9110 has it; what is no range, or several, means the whole file."""
    assert wanted_part(asked, 100) == part


@given(st.text(max_size=40), st.integers(0, 10**6))
def test_a_part_lies_within_the_file(asked: str, length: int) -> None:
    """Whatever is asked for."""
    part = wanted_part(f"bytes={asked}", length)
    if part:
        first, many = part
        assert first >= 0
        assert 1 <= many <= length - first


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil", "javascript:x", "\\\\x", "/\n/x", ""]
)
def test_nobody_is_sent_to_another_site(path: str) -> None:
    """What is no path of ours becomes the first page."""
    assert local_path(path) == "/"
    assert local_path("/backups?page=2") == "/backups?page=2"


# Settings


def test_only_what_differs_is_set() -> None:
    """Fields that are as they were are left alone; those that are missing are set, also to their default."""
    raw = {"time": "02:00", "retention": {"count": 7.0}}
    values = {field.path: field.default for field in FIELDS}
    known = Known(1, raw, values, maintenance=False, revision="")
    assert changes(known, {"time": "02:00", "retention.count": 7}) == {}
    assert changes(known, {"time": "03:00", "retention.days": 30}) == {"time": "03:00", "retention.days": 30}


def test_the_form_is_the_document() -> None:
    """A form as a browser sends it becomes what the application stores; an empty secret does not come."""
    form = {
        "frequency": "weekly",
        "time": "02:10",
        "dayOfWeek": "3",
        "retention.count": "x",
        "storage.ftp.password": "",
    }
    found = read_form(form)
    assert found["dayOfWeek"] == 3
    assert found["retention.count"] == "x", "what is no number is for the check to refuse"
    assert found["enabled"] is False
    assert "storage.ftp.password" not in found
    assert read_form({"clear:storage.ftp.password": "1"})["storage.ftp.password"] == ""
    assert flat({"backup": nested(found)}) == found


# Charts


@given(st.floats(0, 1e18), st.sampled_from([1000.0, 60.0]))
def test_an_axis_reaches_what_is_drawn(most: float, base: float) -> None:
    """Few steps, the last of them not below the largest value."""
    steps = steps_of(most, base)
    assert steps[-1] >= most * 0.999999
    assert 2 <= len(steps) <= 6
    assert steps == sorted(set(steps))


def test_charts_escape_what_they_are_told() -> None:
    """A text in a chart is text."""
    points = [Point("<b>", 1.0, "<script>"), Point("x", None, "y"), Point("z", 5.0, '"')]
    drawn = str(line('<title>"', "<i>", points, lambda value: f"<{value}>"))
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert "<i>" not in drawn


# The interface's description


def test_the_description_says_only_what_it_defines() -> None:
    """Every reference leads somewhere, and the settings in it are the application's fields."""
    document = describe("/backup")
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    backup = document["components"]["schemas"]["Backup"]["properties"]

    def paths(table: dict[str, Any], above: str = "") -> set[str]:
        found = set()
        for name, schema in table.items():
            inner = schema.get("properties")
            found |= paths(inner, f"{above}{name}.") if inner else {above + name}
        return found

    assert paths(backup) == {field.path for field in FIELDS}


def test_no_word_is_left_that_nobody_says() -> None:
    """Each text is named by a template or the code, by itself or by its beginning."""
    sources = [*WEB.rglob("*.html"), *WEB.rglob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in sources)
    said = set(re.findall(r"['\"]([a-z][a-z0-9._?-]+)['\"]", text))
    begun = set(re.findall(r"\bof\(['\"]([a-z.-]+)['\"]", text)) | set(re.findall(r"['\"]([a-z.-]+)\.(?:['{])", text))
    for key in words("en").texts:
        known = key in said or key.removesuffix(".one") in said
        assert known or any(key.startswith(f"{word}.") for word in begun), key
