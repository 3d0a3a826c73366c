"""The application's document: every field, default and limit of the contract, and the schedule that it means."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import pytest
from bson import Decimal128, Int64
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.model import Policy
from nanumpay_backupd.settings.document import DOCUMENT_PATH, FIELDS, parse_document, to_schedule
from nanumpay_backupd.settings.schema import AppFtp, AppS3, AppSettings
from nanumpay_backupd.system.secrets import Secret

_PROMISE = "What is damaged or made to harm is refused, and nothing is written outside of its place."

FULL: dict[str, Any] = {
    "enabled": False,
    "frequency": "monthly",
    "time": "23:59",
    "dayOfWeek": 6,
    "dayOfMonth": 31,
    "retention": {"count": 365, "days": 1, "compress": False},
    "storage": {
        "type": "s3",
        "s3": {
            "region": "eu-central-1",
            "bucket": "b-1",
            "accessKeyId": "AKIAEXAMPLE",
            "secretAccessKey": "s3-secret-value",
            "prefix": "a/b/",
        },
        "ftp": {
            "host": "ftp.example.com",
            "port": 2121,
            "username": "user",
            "password": "ftp-secret-value",
            "remotePath": "/x",
            "secure": True,
        },
    },
}


def document(path: str, value: object) -> dict[str, Any]:
    """Return a document that sets one field."""
    *tables, name = path.split(".")
    found: dict[str, Any] = {name: value}
    for table in reversed(tables):
        found = {table: found}
    return found


def refusal(raw: object) -> ConfigError:
    """Return the error with which a document is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_document(raw)
    assert caught.value.code == "settings-invalid"
    return caught.value


def test_an_empty_document_means_the_contracts_defaults() -> None:
    """Missing fields take exactly the defaults of the contract's table."""
    settings = parse_document({})
    assert (settings.enabled, settings.frequency, settings.time) == (True, "daily", "02:00")
    assert (settings.day_of_week, settings.day_of_month) == (0, 1)
    assert (settings.retention, settings.compress, settings.storage) == (Policy(count=7, days=30), True, "ftp")
    assert settings.s3 == AppS3(region="ap-northeast-2", bucket="", access_key_id="", prefix="nanumpay-backup/")
    assert settings.ftp == AppFtp(host="", port=21, username="", remote_path="/backup/nanumpay", secure=False)


def test_every_field_is_read() -> None:
    """No field of a full document is lost or mixed up with another."""
    assert parse_document(FULL) == AppSettings(
        enabled=False,
        frequency="monthly",
        time="23:59",
        day_of_week=6,
        day_of_month=31,
        retention=Policy(count=365, days=1),
        compress=False,
        storage="s3",
        s3=AppS3(
            region="eu-central-1",
            bucket="b-1",
            access_key_id="AKIAEXAMPLE",
            secret_access_key=Secret("s3-secret-value"),
            prefix="a/b/",
        ),
        ftp=AppFtp(
            host="ftp.example.com",
            port=2121,
            username="user",
            password=Secret("ftp-secret-value"),
            remote_path="/x",
            secure=True,
        ),
    )


@pytest.mark.parametrize("path", [field.path for field in FIELDS])
def test_null_counts_as_missing(path: str) -> None:
    """A field that is null takes its default."""
    assert parse_document(document(path, None)) == parse_document({})


@pytest.mark.parametrize("path", ["retention", "storage", "storage.s3", "storage.ftp"])
def test_a_null_subdocument_counts_as_missing(path: str) -> None:
    """A whole part that is null takes its defaults."""
    assert parse_document(document(path, None)) == parse_document({})


@pytest.mark.parametrize("number", [5, 5.0, Int64(5)])
@pytest.mark.parametrize("path", ["dayOfWeek", "dayOfMonth", "retention.count", "retention.days", "storage.ftp.port"])
def test_numbers_may_be_int_long_or_double(path: str, number: object) -> None:
    """BSON int, long and integral double all become a plain int of the same value."""
    settings = parse_document(document(path, number))
    values = {
        "dayOfWeek": settings.day_of_week,
        "dayOfMonth": settings.day_of_month,
        "retention.count": settings.retention.count,
        "retention.days": settings.retention.days,
        "storage.ftp.port": settings.ftp.port,
    }
    assert values[path] == 5
    assert type(values[path]) is int


@pytest.mark.parametrize(
    "path,least,most",
    [
        ("dayOfWeek", 0, 6),
        ("dayOfMonth", 1, 31),
        ("retention.count", 1, 365),
        ("retention.days", 1, 365),
        ("storage.ftp.port", 1, 65535),
    ],
)
def test_limits_are_those_of_the_contract(path: str, least: int, most: int) -> None:
    """The first and last allowed number pass, the next ones are refused with path, value, limits and fix."""
    parse_document(document(path, least))
    parse_document(document(path, most))
    for beyond in (least - 1, most + 1, Int64(most + 1), float(least - 1)):
        error = refusal(document(path, beyond))
        limits = f"a whole number from {least} to {most}"
        assert error.message == f"{DOCUMENT_PATH}.{path} is {int(beyond)}, but must be {limits}"
        assert limits in error.hint
        assert path in error.hint


@pytest.mark.parametrize(
    "value", [True, "7", 7.5, float("nan"), float("inf"), [7], {"n": 7}, Decimal128("7"), datetime.now()]
)
def test_what_is_not_a_whole_number_is_refused(value: object) -> None:
    """Booleans, texts, fractions and containers are no numbers."""
    assert f"{DOCUMENT_PATH}.retention.count is " in refusal(document("retention.count", value)).message


@pytest.mark.parametrize("path", ["enabled", "retention.compress", "storage.ftp.secure"])
@pytest.mark.parametrize("value", [0, 1, "true", 1.0, []])
def test_only_booleans_are_booleans(path: str, value: object) -> None:
    """A switch that is not true or false is refused, not guessed."""
    assert f"{DOCUMENT_PATH}.{path}" in refusal(document(path, value)).message


@pytest.mark.parametrize(
    "path",
    [field.path for field in FIELDS if field.path.startswith("storage.") and isinstance(field.default, (str, Secret))],
)
def test_texts_must_be_texts(path: str) -> None:
    """A number where a text belongs is refused."""
    assert f"{DOCUMENT_PATH}.{path}" in refusal(document(path, 12345)).message


@pytest.mark.parametrize("time,read", [("00:00", "00:00"), ("23:59", "23:59"), ("2:05", "02:05"), (" 02:00 ", "02:00")])
def test_times_of_day(time: str, read: str) -> None:
    """HH:MM is read, also with a single digit for the hour and blanks around it."""
    assert parse_document({"time": time}).time == read


@pytest.mark.parametrize(
    "time", ["25:00", "24:00", "02:60", "2", "02:0", "2:00 AM", "", "02:00:00", "-1:00", "\u0660\u0662:00", 200]
)
def test_impossible_times_are_refused(time: object) -> None:
    """A time that no clock shows is refused with the value seen and the form expected."""
    error = refusal({"time": time})
    assert error.message.startswith(f"{DOCUMENT_PATH}.time is ")
    assert "00:00 to 23:59" in error.message
    assert '"02:00"' in error.hint


@pytest.mark.parametrize("frequency", ["hourly", "DAILY", "", 1])
def test_unknown_frequencies_are_refused(frequency: object) -> None:
    """A frequency that the application does not have is refused with those that it has."""
    assert 'must be "daily", "weekly" or "monthly"' in refusal({"frequency": frequency}).message


@pytest.mark.parametrize("storage", ["s3", "ftp", "local", "none"])
def test_storage_types(storage: str) -> None:
    """The types of the contract are accepted, local and none too."""
    assert parse_document(document("storage.type", storage)).storage == storage


def test_an_unknown_storage_type_is_refused() -> None:
    """A storage nobody knows is refused, not ignored."""
    assert f'{DOCUMENT_PATH}.storage.type is "gcs"' in refusal(document("storage.type", "gcs")).message


@pytest.mark.parametrize("path", ["retention", "storage", "storage.s3", "storage.ftp"])
@pytest.mark.parametrize("value", ["x", 1, [], True])
def test_a_part_that_is_no_document_is_refused(path: str, value: object) -> None:
    """A scalar where a document belongs is refused by its path."""
    assert refusal(document(path, value)).message.startswith(f"{DOCUMENT_PATH}.{path} is ")


@pytest.mark.parametrize("raw", ["x", 7, [], True])
def test_a_value_that_is_no_document_is_refused(raw: object) -> None:
    """systemSettings.backup itself must be a document."""
    assert refusal(raw).message.startswith(f"{DOCUMENT_PATH} is ")


def test_unknown_fields_are_tolerated() -> None:
    """The application may add fields: they change nothing."""
    raw = {"theme": "dark", "retention": {"weeks": 3}, "storage": {"gcs": {"bucket": 1}, "s3": {"acl": None}}}
    assert parse_document(raw) == parse_document({})


def test_all_problems_are_told_together() -> None:
    """The first problem is the sentence, the others follow with their number, and every fix is in the hint."""
    error = refusal({"time": "25:00", "frequency": "x", "retention": {"count": 0}})
    assert error.message.startswith(f'{DOCUMENT_PATH}.frequency is "x"')
    assert "; and 2 more: " in error.message
    assert f'{DOCUMENT_PATH}.time is "25:00"' in error.message
    assert f"{DOCUMENT_PATH}.retention.count is 0" in error.message
    assert all(path in error.hint for path in ("frequency", "time", "retention.count"))


def test_secrets_are_never_shown() -> None:
    """Neither the repr of settings nor the refusal of a bad secret shows it."""
    assert "s3-secret-value" not in repr(parse_document(FULL))
    error = refusal(document("storage.ftp.password", 987654321))
    assert "987654321" not in error.message + error.hint


def test_texts_are_trimmed_and_an_empty_region_is_the_default() -> None:
    """Blanks around a pasted name do no harm, and a region cannot be empty."""
    raw = {
        "storage": {"type": "s3", "s3": {"bucket": " b ", "region": " ", "accessKeyId": "A ", "secretAccessKey": " B"}}
    }
    s3 = parse_document(raw).s3
    assert (s3.bucket, s3.region, s3.access_key_id, s3.secret_access_key.reveal()) == ("b", "ap-northeast-2", "A", "B")


@pytest.mark.parametrize("prefix,read", [("", ""), ("/", ""), ("x", "x/"), ("/x/y/", "x/y/")])
def test_the_prefix_is_a_folder(prefix: str, read: str) -> None:
    """A prefix ends in a slash and does not begin with one."""
    assert parse_document(document("storage.s3.prefix", prefix)).s3.prefix == read


@pytest.mark.parametrize(
    "storage,word",
    [
        ({"type": "ftp"}, "storage.ftp.host"),
        ({"type": "ftp", "ftp": {"host": "  "}}, "storage.ftp.host"),
        ({"type": "s3"}, "storage.s3.bucket"),
        ({"type": "s3", "s3": {"bucket": "b"}}, "this host's own AWS credentials"),
        ({"type": "s3", "s3": {"bucket": "b", "accessKeyId": "A"}}, "storage.s3.secretAccessKey is empty"),
        ({"type": "s3", "s3": {"bucket": "b", "secretAccessKey": "A"}}, "storage.s3.accessKeyId is empty"),
        ({"type": "ftp", "ftp": {"host": "h"}}, "anonymous"),
        ({"type": "ftp", "ftp": {"host": "ftp://u:pw-1234@h", "username": "u"}}, "not just a host's name"),
    ],
)
def test_half_filled_forms_are_a_warning(storage: dict[str, Any], word: str) -> None:
    """What the form allows but cannot be meant is said in one warning, not refused."""
    (warning,) = parse_document({"storage": storage}).warnings
    assert word in warning
    assert "pw-1234" not in warning


@pytest.mark.parametrize(
    "storage", [{"type": "none"}, {"type": "local"}, FULL["storage"], {**FULL["storage"], "type": "ftp"}]
)
def test_a_complete_form_gives_no_warning(storage: dict[str, Any]) -> None:
    """Nothing is warned about when everything is filled in, or no remote place is wanted."""
    assert parse_document({"storage": storage}).warnings == ()


@pytest.mark.parametrize(
    "raw,cron",
    [
        ({"time": "02:05"}, ("5 2 * * *",)),
        ({"frequency": "weekly", "time": "23:00", "dayOfWeek": 0}, ("0 23 * * 0",)),
        ({"frequency": "weekly", "dayOfWeek": 6}, ("0 2 * * 6",)),
        ({"frequency": "monthly", "dayOfMonth": 1}, ("0 2 1 * *",)),
        ({"frequency": "monthly", "dayOfMonth": 28}, ("0 2 28 * *",)),
        ({"frequency": "monthly", "dayOfMonth": 29}, ("0 2 29 1,3-12 *", "0 2 L 2 *")),
        ({"frequency": "monthly", "dayOfMonth": 30}, ("0 2 30 1,3-12 *", "0 2 L 2 *")),
        ({"frequency": "monthly", "dayOfMonth": 31}, ("0 2 L * *",)),
    ],
)
def test_schedules(raw: dict[str, Any], cron: tuple[str, ...]) -> None:
    """The form's choice becomes these cron lines in the zone given."""
    schedule = to_schedule(parse_document(raw), "Asia/Seoul")
    assert (schedule.cron, schedule.timezone) == (cron, "Asia/Seoul")


@given(day=st.integers(1, 31), year=st.integers(2020, 2060), month=st.integers(1, 12))
def test_a_monthly_backup_runs_once_in_every_month(day: int, year: int, month: int) -> None:
    """Whatever the day, each month has exactly one run: on that day, or on the last one where it has none."""
    schedule = to_schedule(AppSettings(frequency="monthly", day_of_month=day), "")
    start = datetime(year, month, 1)
    after = datetime(year + month // 12, month % 12 + 1, 1)
    due = set()
    for line in schedule.cron:
        runs = croniter(line, datetime.fromtimestamp(start.timestamp() - 1))
        while (moment := runs.get_next(datetime)) < after:
            due.add(moment)
    last = (after - start).days
    assert due == {datetime(year, month, min(day, last), 2, 0)}


@pytest.mark.promise(_PROMISE, item=8)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["enabled", "time", "retention", "storage", "s3", "ftp", "count", "port", "host", "type"]),
            inner,
        ),
    )
)
def test_any_document_is_read_or_refused(raw: object) -> None:
    """Whatever stands in the database, the answer is settings or a ConfigError, never another exception."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_document(raw), AppSettings)
