"""What `restore --from` says: hints of other rooms in words that work where there is neither daemon nor backupctl."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nanumpay_backupd.bare.text import Terms, complaints, moment_rows, plan_rows, reworded
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.pipeline.rebuild import Survey
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.timeline import Range
from tests.workbench import NOW

FULL = "nanumpay-backup-2026-11-21T02-00-00"
TERMS = Terms(
    program="nanumpay-backupd --config /a/b.toml",
    place="/mnt/my copies",
    name="/mnt/my copies",
    safety="/work/backups",
    keys="NANUMPAY_FTP_PASSWORD",
    target=(("--to-db", "beside"),),
)
SAFETY = "nanumpay-safety-backup-2026-11-21T02-00-01"
RESTORE = "nanumpay-backupd --config /a/b.toml restore"
HERE = "--from '/mnt/my copies'"


@pytest.mark.parametrize(
    "hint,said",
    [
        ("", ""),
        ("systemctl status mongod", "systemctl status mongod"),
        (
            f"take the next older good backup: backupctl restore {FULL}",
            f"take the next older good backup: {RESTORE} {FULL} {HERE} --to-db beside",
        ),
        (
            f"the same moment from another full: backupctl restore {FULL} --at 1:2 --to-db beside",
            f"the same moment from another full: {RESTORE} {FULL} --at 1:2 --to-db beside {HERE}",
        ),
        (
            f"restore again: backupctl restore {FULL}; or back: backupctl restore {SAFETY}",
            f"restore again: {RESTORE} {FULL} {HERE} --to-db beside; or back: {RESTORE} {SAFETY} --from /work/backups",
        ),
        ("see: backupctl list", f"see: {RESTORE} {HERE} --list"),
        ("what there is: backupctl timeline nanumpay", f"what there is: {RESTORE} {HERE} --list"),
        ("do not rely on it; run a new one now: backupctl run", "do not rely on it"),
        (
            "free space there or set [paths] backups to a larger disk; the backup itself is untouched",
            "free space there, or name a folder with room: --work DIR; the backup itself is untouched",
        ),
    ],
)
def test_hints_name_what_can_be_typed_here(hint: str, said: str) -> None:
    """Commands are this one's, with the place and the target; what only a daemon can do is left out."""
    assert reworded(BackupdError("x", hint=hint), TERMS).hint == said


@pytest.mark.parametrize("code", ["destination-auth", "destination-denied"])
def test_a_refused_login_leads_to_the_environment(code: str) -> None:
    """What was typed takes its secrets from there; what the host file names does not."""
    assert "NANUMPAY_FTP_PASSWORD" in reworded(BackupdError("x", hint="look", code=code), TERMS).hint
    named = Terms(program="p", place="disk", name="disk", safety="/s")
    assert reworded(BackupdError("x", hint="look", code=code), named).hint == "look"


def test_complaints_are_few() -> None:
    """Of many damaged files some are named, and how many more there are is said."""
    survey = Survey(misfits=tuple(f"a{at}" for at in range(7)), unreadable=("b",), lost=("c",))
    lines = complaints(survey)
    assert lines[:2] == ["a0: not of the size that the manifest says", "a1: not of the size that the manifest says"]
    assert lines[5:] == [
        "and 2 more: not of the size that the manifest says",
        "b: the manifest beside it is damaged, or of another backup",
        "c: gone: only its manifest is there",
    ]


def test_what_can_be_restored_to_the_second() -> None:
    """A range has two ends, a full without slices one."""
    first, last = OpTime(int(NOW.timestamp()), 1), OpTime(int((NOW + timedelta(hours=1)).timestamp()), 4)
    assert moment_rows("nanumpay", [Range(first, last, ()), Range(first, first, ())], UTC) == [
        "nanumpay: every second from 2026-11-21 02:00:00 UTC to 2026-11-21 03:00:00 UTC",
        "nanumpay: the moment 2026-11-21 02:00:00 UTC",
    ]


def plan(**changes: object) -> RestorePlan:
    """Return a plan into a database that holds something."""
    usual = {
        "backup": FULL,
        "copy": "/mnt",
        "server": "db:27017",
        "database": "nanumpay",
        "collections": ("admins", "users"),
        "documents": 1234,
        "bytes": 5_000_000,
        "moment": datetime(2026, 11, 21, 1, 30, 59, tzinfo=UTC),
        "replays_oplog": True,
        "target_exists": True,
        "target_collections": 3,
        "target_documents": 99,
        "safety_backup": True,
    }
    return RestorePlan(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes,lines",
    [
        (
            {},
            [
                "as of      2026-11-21 01:30:59 UTC, with its oplog replayed",
                "brings     1,234 documents, 5.00 MB: admins",
            ],
        ),
        (
            {"slices": ("a",)},
            ["replays    the changes after it, from 1 slice, up", "as of      2026-11-21 01:30:59 UTC"],
        ),
        ({"slices": ("a", "b")}, ["from 2 slices", "5.00 MB before the replay: admins, users"]),
        (
            {},
            ["there now  99 documents in 3 collections; collections of the same", "safety backup", "kept below /work"],
        ),
        ({"safety_backup": False}, ["before     no safety backup is made"]),
        ({"target_exists": False}, ["there now  nothing", "before     nothing to save"]),
        ({"collections": ()}, ["brings     what is in the archive"]),
        ({"collections": tuple("abcdefg")}, ["a, b, c, d, e and 2 more"]),
        ({"warnings": ("stays: late",)}, ["! stays: late"]),
    ],
)
def test_the_plan(changes: dict[str, object], lines: list[str]) -> None:
    """It says what is restored, of which moment, what it brings, into what, and what becomes of that."""
    said = "\n".join(plan_rows(plan(**changes), UTC, "/work"))
    for line in lines:
        assert line in said
