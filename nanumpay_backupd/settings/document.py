"""The application's settings document: every field with its default and limits, and the schedule that it means.

Which of several documents counts, and how they are watched, is next door.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from nanumpay_backupd.model import Policy
from nanumpay_backupd.settings.kinds import Choice, ClockTime, Flag, Kind, Place, SecretText, Text, Whole
from nanumpay_backupd.settings.problems import Mismatch, Problems, show
from nanumpay_backupd.settings.schema import AppFtp, AppS3, AppSettings, Schedule

__all__ = ["DOCUMENT_PATH", "FIELDS", "Field", "parse_document", "to_schedule"]

DOCUMENT_PATH: Final = "systemSettings.backup"
_GUARANTEED_DAYS: Final = 28


class Field(NamedTuple):
    """One field of the document: its path below `DOCUMENT_PATH`, its kind, its default and what it means."""

    path: str
    kind: Kind
    default: object
    doc: str


_APP: Final = AppSettings()

FIELDS: Final = (
    Field("enabled", Flag(), _APP.enabled, "Whether backups run by themselves."),
    Field("frequency", Choice("daily", "weekly", "monthly"), _APP.frequency, "How often."),
    Field("time", ClockTime(), _APP.time, "When, in the host's time zone (or `timezone` of the host file)."),
    Field("dayOfWeek", Whole(0, 6, doubles=True), _APP.day_of_week, "Day of a weekly backup; 0 is Sunday."),
    Field(
        "dayOfMonth",
        Whole(1, 31, doubles=True),
        _APP.day_of_month,
        "Day of a monthly backup; in a shorter month it runs on the last day.",
    ),
    Field("retention.count", Whole(1, 365, doubles=True), _APP.retention.count, "How many backups are kept."),
    Field(
        "retention.days", Whole(1, 365, doubles=True), _APP.retention.days, "How old, in days, a kept one may become."
    ),
    Field("retention.compress", Flag(), _APP.compress, "`.tar.gz` when true, `.tar` when false."),
    Field("storage.type", Choice("s3", "ftp", "local", "none"), _APP.storage, "Where further copies go."),
    Field("storage.s3.region", Text(), _APP.s3.region, "AWS region; empty means the default."),
    Field("storage.s3.bucket", Text(), _APP.s3.bucket, "Bucket; empty means no remote place yet (a warning)."),
    Field("storage.s3.accessKeyId", Text(), _APP.s3.access_key_id, "Empty: the host's own AWS credentials are used."),
    Field("storage.s3.secretAccessKey", SecretText(), _APP.s3.secret_access_key, "Never shown."),
    Field("storage.s3.prefix", Text(), _APP.s3.prefix, "Folder in the bucket; a missing slash at its end is added."),
    Field("storage.ftp.host", Text(), _APP.ftp.host, "Server; empty means no remote place yet (a warning)."),
    Field("storage.ftp.port", Whole(1, 65535, doubles=True), _APP.ftp.port, "Port of the control connection."),
    Field("storage.ftp.username", Text(), _APP.ftp.username, "Empty: anonymous login."),
    Field("storage.ftp.password", SecretText(), _APP.ftp.password, "Never shown."),
    Field("storage.ftp.remotePath", Text(), _APP.ftp.remote_path, "Folder on the server; empty: the login's own."),
    Field("storage.ftp.secure", Flag(), _APP.ftp.secure, "True means FTPS (explicit TLS)."),
)


def parse_document(raw: object) -> AppSettings:
    """Check the value of ``systemSettings.backup`` and fill in the defaults.

    Missing fields and nulls take their default, unknown fields are ignored, numbers may be int, long or double.
    Raises ConfigError (code ``settings-invalid``) that names every field that is wrong, with reason and fix.
    """
    problems = Problems()
    if not isinstance(raw, Mapping):
        problems.add(DOCUMENT_PATH, f"is {show(raw)}, but must be a document", _fix("save them anew", DOCUMENT_PATH))
        raw = {}
    tables = _tables(raw, problems)
    values: dict[str, Any] = {field.path: _value(field, tables, problems) for field in FIELDS}
    problems.raise_if_any(code="settings-invalid")
    settings = AppSettings(
        enabled=values["enabled"],
        frequency=values["frequency"],
        time=values["time"],
        day_of_week=values["dayOfWeek"],
        day_of_month=values["dayOfMonth"],
        retention=Policy(count=values["retention.count"], days=values["retention.days"]),
        compress=values["retention.compress"],
        storage=values["storage.type"],
        s3=_s3(values),
        ftp=_ftp(values),
    )
    return _with_warnings(settings)


def to_schedule(settings: AppSettings, timezone: str) -> Schedule:
    """Turn the form's choice into cron expressions in ``timezone`` (empty: the host's), whether enabled or not.

    A month that lacks the chosen day runs on its last one: day 31 is cron's ``L``, 29 and 30 need an own line for
    February, whose last day may be the 28th or the 29th.
    """
    hour, minute = (int(part) for part in settings.time.split(":"))
    at = f"{minute} {hour}"
    if settings.frequency == "daily":
        cron: tuple[str, ...] = (f"{at} * * *",)
    elif settings.frequency == "weekly":
        cron = (f"{at} * * {settings.day_of_week}",)
    elif settings.day_of_month <= _GUARANTEED_DAYS:
        cron = (f"{at} {settings.day_of_month} * *",)
    elif settings.day_of_month == 31:
        cron = (f"{at} L * *",)
    else:
        cron = (f"{at} {settings.day_of_month} 1,3-12 *", f"{at} L 2 *")
    return Schedule(cron=cron, timezone=timezone)


def _tables(raw: Mapping[str, Any], problems: Problems) -> dict[str, Mapping[str, Any]]:
    """Return the document and the documents within it by path; a missing or null one is empty."""
    tables: dict[str, Mapping[str, Any]] = {"": raw}
    for path in ("retention", "storage", "storage.s3", "storage.ftp"):
        above, _, name = path.rpartition(".")
        found = tables[above].get(name)
        if found is not None and not isinstance(found, Mapping):
            full = f"{DOCUMENT_PATH}.{path}"
            problems.add(full, f"is {show(found)}, but must be a document", _fix("save them anew", path))
            found = None
        tables[path] = found or {}
    return tables


def _value(field: Field, tables: Mapping[str, Mapping[str, Any]], problems: Problems) -> object:
    table, _, name = field.path.rpartition(".")
    raw = tables[table].get(name)
    if raw is None:
        return field.default
    path = f"{DOCUMENT_PATH}.{field.path}"
    try:
        return field.kind.parse(raw, Place(path))
    except Mismatch as mismatch:
        problems.add(path, mismatch.reason, _fix(mismatch.fix, field.path))
        return field.default


def _fix(what: str, path: str) -> str:
    return f"in the application's backup settings ({path}), {what}, and save"


def _s3(values: Mapping[str, Any]) -> AppS3:
    prefix = values["storage.s3.prefix"].lstrip("/")
    return AppS3(
        region=values["storage.s3.region"] or _APP.s3.region,
        bucket=values["storage.s3.bucket"],
        access_key_id=values["storage.s3.accessKeyId"],
        secret_access_key=values["storage.s3.secretAccessKey"],
        prefix=prefix if not prefix or prefix.endswith("/") else prefix + "/",
    )


def _ftp(values: Mapping[str, Any]) -> AppFtp:
    return AppFtp(
        host=values["storage.ftp.host"],
        port=values["storage.ftp.port"],
        username=values["storage.ftp.username"],
        password=values["storage.ftp.password"],
        remote_path=values["storage.ftp.remotePath"],
        secure=values["storage.ftp.secure"],
    )


def _with_warnings(settings: AppSettings) -> AppSettings:
    found = {"s3": _s3_warnings(settings.s3), "ftp": _ftp_warnings(settings.ftp)}.get(settings.storage, ())
    return msgspec.structs.replace(settings, warnings=found)


def _s3_warnings(s3: AppS3) -> tuple[str, ...]:
    if not s3.bucket:
        return (
            (
                "S3 is chosen in the application's backup settings, but no bucket is named (storage.s3.bucket): "
                "no remote place yet, backups stay on this host"
            ),
        )
    if not s3.access_key_id and not s3.secret_access_key:
        return (
            (
                f"the application's backup settings name bucket {s3.bucket} without a key (storage.s3.accessKeyId): "
                "this host's own AWS credentials are used"
            ),
        )
    if not s3.access_key_id or not s3.secret_access_key:
        lacking = "secretAccessKey" if s3.access_key_id else "accessKeyId"
        return (
            (
                f"the application's backup settings for bucket {s3.bucket} have only half of the access key: "
                f"storage.s3.{lacking} is empty, so uploads will be refused until it is filled in"
            ),
        )
    return ()


def _ftp_warnings(ftp: AppFtp) -> tuple[str, ...]:
    if not ftp.host:
        return (
            (
                "FTP is chosen in the application's backup settings, but no server is named (storage.ftp.host): "
                "no remote place yet, backups stay on this host"
            ),
        )
    found = []
    if any(mark in ftp.host for mark in "/@ "):
        found.append(
            "storage.ftp.host in the application's backup settings is not just a host's name: "
            "write only the name, such as ftp.example.com, without ftp:// and without a user"
        )
    if not ftp.username:
        found.append(f"the application's backup settings name no user for {ftp.host}: the login is anonymous")
    return tuple(found)
