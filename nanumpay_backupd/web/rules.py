"""Schedules and rules of retention in the page's words. Pure; what is not simple is shown as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nanumpay_backupd.web.shown import size
from nanumpay_backupd.web.words import Words

__all__ = ["retention_told", "schedule_told"]

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WINDOWS: Final = (
    ("keep_daily_for_days", "keep.daily"),
    ("keep_weekly_for_weeks", "keep.weekly"),
    ("keep_monthly_for_months", "keep.monthly"),
    ("keep_yearly_for_years", "keep.yearly"),
)
_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


def schedule_told(t: Words, lines: Sequence[str]) -> str:
    """Say cron lines in words: ``daily at 02:00``, ``매일 02:00``."""
    texts = [_NAMED.get(line, " ".join(line.split())) for line in lines]
    if not texts:
        return t("schedule.none")
    return _month_end(t, texts) or t("schedule.and").join(_line(t, text) for text in texts)


def _month_end(t: Words, texts: Sequence[str]) -> str:
    """Recognise the lines that together mean a late day of the month, and in shorter months the last."""
    parts = [text.split() for text in texts]
    if len(parts) < 2 or any(len(part) != 5 for part in parts):
        return ""
    days = sorted(int(part[2]) for part in parts if part[2].isdigit())
    same = len({(part[0], part[1], part[3], part[4]) for part in parts}) == 1
    if not same or not days or days[-1] < 29 or any(part[2] not in {"L", "28", str(days[-1])} for part in parts):
        return ""
    at = _clock(parts[0][0], parts[0][1])
    return t("schedule.month-end", day=days[-1], at=at) if at else ""


def _line(t: Words, text: str) -> str:
    fields = text.split()
    if len(fields) == 5 and fields[3] == "*":
        minute, hour, day, _, weekday = fields
        at = _clock(minute, hour)
        if at and (told := _days(t, day, weekday, at)):
            return told
        if not at and day == weekday == "*" and (told := _often(t, minute, hour)):
            return told
    return t("schedule.cron", line=text)


def _clock(minute: str, hour: str) -> str:
    hours = hour.split(",")
    if not minute.isdigit() or not all(part.isdigit() for part in hours):
        return ""
    return ", ".join(f"{int(part):02d}:{int(minute):02d}" for part in hours)


def _days(t: Words, day: str, weekday: str, at: str) -> str:
    if weekday == "*":
        if day == "*":
            return t("schedule.daily", at=at)
        if day.upper() == "L":
            return t("schedule.last-day", at=at)
        return t("schedule.monthly", day=", ".join(day.split(",")), at=at) if day.replace(",", "").isdigit() else ""
    if day != "*":
        return ""
    first, dash, last = weekday.partition("-")
    if dash:
        ends = [_weekday(t, first), _weekday(t, last)]
        return t("schedule.days", first=ends[0], last=ends[1], at=at) if all(ends) else ""
    names = [_weekday(t, part) for part in weekday.split(",")]
    return t("schedule.weekly", days=", ".join(names), at=at) if all(names) else ""


def _weekday(t: Words, text: str) -> str:
    if text.isdigit() and int(text) <= 7:
        return t(f"weekday.{_DAYS[int(text) % 7]}")
    return t(f"weekday.{text.lower()}") if text.lower() in _DAYS else ""


def _often(t: Words, minute: str, hour: str) -> str:
    every_minutes, every_hours = minute.removeprefix("*/"), hour.removeprefix("*/")
    if hour == "*":
        if minute == "*":
            return t("schedule.minutes", n=1)
        if minute.startswith("*/") and every_minutes.isdigit():
            return t("schedule.minutes", n=int(every_minutes))
        return t("schedule.hourly", at=f"{int(minute):02d}") if minute.isdigit() else ""
    if minute.isdigit() and hour.startswith("*/") and every_hours.isdigit():
        return t("schedule.hours", n=int(every_hours), at=f"{int(minute):02d}")
    return ""


def retention_told(t: Words, rule: dict[str, Any]) -> str:
    """Say what is kept at one place: ``the newest 7, at most 30 days``."""
    if rule.get("keep_all_for_days") is not None:
        parts = [t("keep.all", n=rule["keep_all_for_days"])]
        parts += [t(key, n=rule[name]) for name, key in _WINDOWS if rule.get(name)]
    else:
        parts = [t("keep.count", n=rule["count"], days=rule["days"])]
    if rule["max_total_size"]:
        parts.append(t("keep.size", size=size(rule["max_total_size"])))
    if rule["min_keep"] > 1:
        parts.append(t("keep.least", n=rule["min_keep"]))
    return t("keep.join").join(parts)
