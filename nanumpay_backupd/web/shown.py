"""Sizes, lengths of time and moments as people read them, in one language and zone. Pure; no HTML."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from nanumpay_backupd.system.clock import host_timezone
from nanumpay_backupd.web.words import Words

__all__ = ["Shown", "parse", "size"]

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
_DAYS: Final = {"ko": "일월화수목금토", "en": ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse(moment: str) -> datetime:
    """Read a moment of the protocol."""
    return datetime.fromisoformat(moment)


def size(value: float) -> str:
    """Write a number of bytes with about three digits: ``512 B``, ``1.17 GB``."""
    if value < 999.5:
        return f"{value:.0f} B"
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError  # the last unit always returns


class Shown:
    """Writes things for one reader. ``now`` is the daemon's clock: both sides of an "ago" come from there."""

    def __init__(self, words: Words, zone: str = "", now: str | None = None) -> None:
        self._t = words
        self.zone = _zone(zone)
        self.now = parse(now) if now else datetime.now(UTC)

    size = staticmethod(size)

    def number(self, value: float) -> str:
        """Write a whole number with thousands separated."""
        return f"{value:,.0f}"

    def rate(self, value: float) -> str:
        """Write bytes per second."""
        return f"{size(value)}/s"

    def span(self, seconds: float) -> str:
        """Write a length of time in at most two units: ``4.1 s``, ``3 min 12 s``, ``3 days 4 h``."""
        seconds = max(0.0, seconds)
        if seconds < 0.0995:
            return self._t("span.ms", n=f"{seconds * 1000:.0f}")
        if seconds < 9.95:
            return self._t("span.s", n=f"{seconds:.1f}")
        whole = round(seconds)
        for unit, length, rest, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
            if whole >= length:
                count, left = divmod(whole, length)
                text = self._t(f"span.{unit}", n=count) if count != 1 else self._t(f"span.{unit}.one", n=count)
                more = left // part
                return (
                    f"{text} {self._t(f'span.{rest}' if more != 1 else f'span.{rest}.one', n=more)}" if more else text
                )
        return self._t("span.s", n=whole)

    def between(self, first: str, last: str) -> str:
        """Write how long it is from one moment to another."""
        return self.span((parse(last) - parse(first)).total_seconds())

    def brief(self, seconds: float) -> str:
        """Write a length of time in its largest unit only."""
        seconds = max(0.0, seconds)
        for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
            if seconds >= (2 if unit == "d" else 1) * length:
                count = round(seconds / length)
                return self._t(f"span.{unit}" if count != 1 else f"span.{unit}.one", n=count)
        return self._t("span.s", n=round(seconds))

    def ago(self, moment: str) -> str:
        """Say how far a moment is from now."""
        away = (parse(moment) - self.now).total_seconds()
        if abs(away) < 5:
            return self._t("when.now")
        return self._t("when.in" if away > 0 else "when.ago", span=self.brief(abs(away)))

    def local(self, moment: str) -> datetime:
        """Return a moment as a time of the zone."""
        return parse(moment).astimezone(self.zone)

    def when(self, moment: str) -> str:
        """Write a moment to the minute, in words where it is near: ``today 02:00``, ``Sat 21 Nov 02:00``."""
        local, today = self.local(moment), self.now.astimezone(self.zone)
        clock = f"{local:%H:%M}"
        days = (local.date() - today.date()).days
        if -1 <= days <= 1:
            return self._t({-1: "when.yesterday", 0: "when.today", 1: "when.tomorrow"}[days], clock=clock)
        return f"{self.day(moment)} {clock}"

    def day(self, moment: str) -> str:
        """Write the day of a moment; the year only where it is another one."""
        local = self.local(moment)
        weekday = _DAYS[self._t.language][(local.weekday() + 1) % 7]
        other = local.year != self.now.astimezone(self.zone).year
        if self._t.language == "ko":
            year = f"{local.year}년 " if other else ""
            return f"{year}{local.month}월 {local.day}일({weekday})"
        year = f" {local.year}" if other else ""
        return f"{weekday} {local.day} {_MONTHS[local.month - 1]}{year}"

    def exact(self, moment: str) -> str:
        """Write a moment to the second with its zone: ``2026-11-21 02:00:07 KST``."""
        local = self.local(moment)
        return f"{local:%Y-%m-%d %H:%M:%S} {self.label(local)}"

    def label(self, local: datetime) -> str:
        """Return what the zone is called at that time."""
        name = local.tzname() or "UTC"
        return f"UTC{name}" if name[:1] in "+-" else name


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name else host_timezone()
    except (ValueError, OSError, KeyError):
        return host_timezone()
