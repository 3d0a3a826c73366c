"""Which administrator's document is in force, the last-good cache, and how long to wait between attempts."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nanumpay_backupd.settings.cache import CachedSettings, SettingsCache
from nanumpay_backupd.settings.document import parse_document
from nanumpay_backupd.settings.effective import judge
from nanumpay_backupd.settings.watch import backoff_delay

SAVED = CachedSettings(
    app=parse_document({"storage": {"type": "ftp", "ftp": {"host": "h", "username": "u", "password": "ftp-password"}}}),
    since=datetime(2026, 11, 21, 2, 0, tzinfo=UTC),
    place="localhost/nanumpay",
    document_id="1",
    token='{"_data": "82"}',
    token_at=datetime(2026, 11, 21, 3, 0, tzinfo=UTC),
)


def admin(number: int, backup: object, login: str | None = None) -> dict[str, Any]:
    """Return an administrator's document as the watch reads it."""
    return {"_id": number, "loginId": login or f"admin{number}", "systemSettings": {"backup": backup}}


def test_no_document_is_a_problem_with_a_hint() -> None:
    """A fresh install says what is missing and what to do."""
    verdict = judge([])
    assert verdict.app is None
    assert verdict.problem is not None
    assert verdict.problem.code == "settings-missing"
    assert "systemSettings.backup" in verdict.problem.message
    assert "save the backup settings once" in verdict.problem.hint


def test_the_first_document_is_in_force() -> None:
    """The documents come lowest _id first, and the first one counts."""
    verdict = judge([admin(1, {"time": "03:00"}), admin(2, {"time": "04:00"})])
    assert verdict.app is not None
    assert (verdict.app.time, verdict.document_id) == ("03:00", "1")


def test_differing_administrators_are_a_warning_that_names_them() -> None:
    """The warning says how many differ, whose settings are in force, and whose are not."""
    documents = [admin(1, {}), admin(2, {"time": "04:00"}), admin(3, {}), admin(4, {"time": "99:00"})]
    (warning,) = judge(documents).warnings
    assert "4 administrators carry backup settings, and 2 differ" in warning
    assert 'in force are those of "admin1"' in warning
    assert 'not those of "admin2", "admin4"' in warning


def test_the_same_meaning_in_other_numbers_is_no_difference() -> None:
    """Int, long, double and a missing field that all mean the default are the same settings."""
    documents = [
        admin(1, {"retention": {"count": 7}}),
        admin(2, {"retention": {"count": 7.0}}),
        admin(3, {"retention": {"count": Int64(7)}, "unknown": 1}),
        admin(4, {}),
    ]
    assert judge(documents).warnings == ()


def test_many_differing_administrators_stay_readable() -> None:
    """Of a crowd only some are named."""
    (warning,) = judge([admin(1, {}), *(admin(n, {"time": "04:00"}) for n in range(2, 30))]).warnings
    assert '"admin6" and 23 more' in warning


def test_a_bad_first_document_is_a_problem_although_others_are_good() -> None:
    """The document in force is not passed over silently: the application shows it, so it must be mended."""
    verdict = judge([admin(1, {"time": "25:00"}), admin(2, {})])
    assert verdict.app is None
    assert verdict.problem is not None
    assert verdict.problem.code == "settings-invalid"
    assert verdict.problem.message.startswith('the backup settings of administrator "admin1" are not usable: ')
    assert 'systemSettings.backup.time is "25:00"' in verdict.problem.message


def test_an_administrator_without_a_name_is_named_by_id() -> None:
    """A document without loginId is still told apart."""
    number = ObjectId()
    verdict = judge([{"_id": number, "systemSettings": {"backup": "x"}}])
    assert verdict.problem is not None
    assert str(number) in verdict.problem.message


def test_the_cache_keeps_everything_privately(tmp_path: Path) -> None:
    """What was saved is loaded again, secrets included, from a file that only its owner can read."""
    path = tmp_path / "state" / "settings.json"
    cache = SettingsCache(path)
    assert cache.load() is None
    cache.save(SAVED)
    assert cache.load() == SAVED
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"{}",
        b'{"app": {}}',
        b'{"app": {"time": 5}, "since": "2026-11-21T02:00:00Z", "place": "x", "document_id": "1"}',
        b'{"app": {"ftp": {"password": 5}}, "since": "2026-11-21T02:00:00Z", "place": "x", "document_id": "1"}',
        b'{"app": {}, "since": "2026-11-21T02:00:00Z", "place": "x", "document_id": "1", "format": 2}',
        b" " * ((1 << 20) + 1),
    ],
)
def test_a_damaged_cache_is_ignored_with_a_warning(tmp_path: Path, content: bytes) -> None:
    """Whatever is in the file, loading it gives nothing and one line in the log that names the file."""
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with capture_logs() as logs:
        assert SettingsCache(path).load() is None
    (line,) = logs
    assert (line["log_level"], line["file"]) == ("warning", str(path))


def test_a_truncated_cache_is_ignored(tmp_path: Path) -> None:
    """Half a file is no settings, wherever it was cut."""
    path = tmp_path / "settings.json"
    cache = SettingsCache(path)
    cache.save(SAVED)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert cache.load() is None


def test_a_disk_that_refuses_is_only_a_warning(tmp_path: Path) -> None:
    """Settings are in force even if they cannot be kept."""
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        SettingsCache(tmp_path / "file" / "settings.json").save(SAVED)
    assert [line["log_level"] for line in logs] == ["warning"]


@given(failures=st.integers(1, 10**6), jitter=st.floats(0, 1))
def test_the_wait_between_attempts_is_bounded(failures: int, jitter: float) -> None:
    """No wait is shorter than a quarter second or longer than half a minute."""
    assert 0.25 <= backoff_delay(failures, jitter) <= 30.0


def test_the_wait_grows_to_its_bound() -> None:
    """Each failure doubles the wait until it is half a minute."""
    waits = [backoff_delay(failures, 1.0) for failures in range(1, 9)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
