"""Numbers, moments and schedules in words. Pure functions; no terminal, no colours, no protocol.

Sizes are bytes and shown in decimal units (1 MB = 1,000,000 bytes, as disks and clouds count them); durations are
seconds; moments come as RFC 3339 text and are shown in one time zone, always with its name.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

__all__ = ["Times", "duration", "number", "oplog_moment", "plural", "promise", "rate", "relative", "schedule", "size"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")
# Below so many seconds: seconds and name of the unit, and of the smaller one.
_PROMISES = (
    (60, 1, "s", 1, ""),
    (3600, 60, "m", 1, "s"),
    (172_800, 3600, "h", 60, "m"),
    (float("inf"), 86_400, "d", 3600, "h"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_DAY_NAMES = {name[:3].lower(): index for index, name in enumerate(_DAYS)}
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


def number(value: int) -> str:
    """Write a whole number with thousands separated: ``12,345``."""
    return f"{value:,}"


def plural(count: int, word: str, many: str = "") -> str:
    """Count things: ``1 backup``, ``2 backups``, ``2 copies`` (with ``many="copies"``)."""
    return f"{number(count)} {word if count == 1 else many or word + 's'}"


def size(value: float) -> str:
    """Write a number of bytes with about three digits: ``512 B``, ``1.17 GB``, ``160 MB``."""
    if value < 999.5:
        return f"{value:.0f} B"
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError  # the last unit always returns


def rate(value: float) -> str:
    """Write bytes per second: ``48.2 MB/s``."""
    return f"{size(value)}/s"


def duration(seconds: float) -> str:
    """Write a length of time in at most two units: ``4.1 s``, ``42 s``, ``3 min 12 s``, ``3 days 4 h``."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for limit, big, unit, small, rest in (
        (3600, 60, "min", 1, "s"),
        (86400, 3600, "h", 60, "min"),
        (0, 86400, "day", 3600, "h"),
    ):
        if whole < 60:
            return f"{whole} s"
        if limit and whole >= limit:
            continue
        count, left = divmod(whole, big)
        name = plural(count, unit) if unit == "day" else f"{count} {unit}"
        return f"{name} {left // small} {rest}" if left // small else name
    raise AssertionError  # the last row has no limit


def promise(seconds: float) -> str:
    """Write a length of time the way settings do, in at most two units: ``41s``, ``15m``, ``24h``, ``2d12h``."""
    whole = round(max(0.0, seconds))
    _, big, unit, small, rest = next(row for row in _PROMISES if whole < row[0])
    count, left = divmod(whole, big)
    return f"{count}{unit}" + (f"{left // small}{rest}" if left // small else "")


def relative(seconds: float) -> str:
    """Say how far away a moment is, ahead when positive: ``in 4 h``, ``3 days ago``, ``just now``."""
    away = abs(seconds)
    if away < 5:
        return "now" if seconds > 0 else "just now"
    if away < 90:
        text = f"{away:.0f} s"
    elif away < 90 * 60:
        text = f"{away / 60:.0f} min"
    elif away < 48 * 3600:
        text = f"{away / 3600:.0f} h"
    else:
        text = plural(round(away / 86400), "day")
    return f"in {text}" if seconds > 0 else f"{text} ago"


class Times:
    """Shows the protocol's moments (RFC 3339, UTC) in one zone and relative to one ``now``.

    ``zone`` is an IANA name; empty or unknown to this host means the host's own zone. ``now`` defaults to this
    host's clock; the daemon's is better, because both sides of every "ago" then come from one clock.
    """

    def __init__(self, zone: str = "", now: str | None = None) -> None:
        self.zone = _load_zone(zone)
        self.now = _parse(now) if now else datetime.now(UTC)

    def when(self, moment: str) -> str:
        """Write a moment to the minute with its zone: ``2026-11-21 02:00 KST``."""
        local = _parse(moment).astimezone(self.zone)
        return f"{local:%Y-%m-%d %H:%M} {_label(local)}"

    def exact(self, moment: str) -> str:
        """Write a moment to the second with its zone: ``2026-11-21 02:00:07 KST``."""
        local = _parse(moment).astimezone(self.zone)
        return f"{local:%Y-%m-%d %H:%M:%S} {_label(local)}"

    def clock(self, moment: str) -> str:
        """Write a moment of today by its time of day alone, ``02:00:07``, and any other as `exact` does."""
        local = self.local(moment)
        today = local.date() == self.now.astimezone(self.zone).date()
        return f"{local:%H:%M:%S}" if today else self.exact(moment)

    def with_utc(self, moment: str) -> str:
        """Write a moment to the second in both zones: ``2026-11-21 10:30:59 KST (01:30:59 UTC)``."""
        local, utc = self.local(moment), _parse(moment).astimezone(UTC)
        if _label(local) == "UTC":
            return self.exact(moment)
        other = f"{utc:%H:%M:%S}" if utc.date() == local.date() else f"{utc:%Y-%m-%d %H:%M:%S}"
        return f"{self.exact(moment)} ({other} UTC)"

    def local(self, moment: str) -> datetime:
        """Return a moment as a time of this zone."""
        return _parse(moment).astimezone(self.zone)

    def ago(self, moment: str) -> str:
        """Say how far a moment is from now."""
        return relative((_parse(moment) - self.now).total_seconds())

    def both(self, moment: str) -> str:
        """Write a moment and how far it is away: ``2026-11-21 02:00 KST, 3 h ago``."""
        return f"{self.when(moment)}, {self.ago(moment)}"

    def since(self, moment: str) -> float:
        """Seconds from a moment until now; negative when it lies ahead."""
        return (self.now - _parse(moment)).total_seconds()

    def label(self, zone: str, moment: str | None = None) -> str:
        """Name a zone as it is called at a moment (default: now): ``KST``. Empty name: the zone of this object."""
        at = _parse(moment) if moment else self.now
        return _label(at.astimezone(_load_zone(zone) if zone else self.zone))

    @staticmethod
    def between(start: str, end: str) -> float:
        """Seconds from one moment to another."""
        return (_parse(end) - _parse(start)).total_seconds()


def oplog_moment(text: str) -> str:
    """Turn an oplog time (``seconds:counter``) into a moment as the protocol writes it; it counts whole seconds."""
    return datetime.fromtimestamp(int(text.partition(":")[0]), UTC).isoformat()


def _parse(moment: str) -> datetime:
    parsed = datetime.fromisoformat(moment)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _load_zone(name: str) -> tzinfo | None:
    """Find a zone by name; None stands for the host's own, which ``astimezone`` knows with its DST rules."""
    if not name:
        return None
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # 5 ms that UTC hosts need not pay

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return None


def _label(local: datetime) -> str:
    """Name the zone of a local time; zones without a name of their own (``+03``) become ``UTC+03:00``."""
    name = local.tzname() or ""
    if name[:1].isalpha():
        return name
    offset = f"{local:%z}"
    return f"UTC{offset[:3]}:{offset[3:5]}"


def schedule(expressions: list[str], label: str = "") -> str:
    """Say cron expressions in words where they are simple: ``daily at 02:00 KST``; others are shown as they are.

    ``label`` names the time zone and follows each time of day.
    """
    texts = [_NICKNAMES.get(text, " ".join(text.split())) for text in expressions]
    if not texts:
        return "only by hand"
    suffix = f" {label}" if label else ""
    merged = _month_end(texts, suffix)
    return merged or ", and ".join(_cron(text, suffix) for text in texts)


def _month_end(texts: list[str], suffix: str) -> str:
    """Recognise "day 30, and in shorter months the last": several expressions that mean one monthly run."""
    parts = [text.split() for text in texts]
    if len(parts) < 2 or any(len(part) != 5 for part in parts):
        return ""
    times = {(part[0], part[1], part[4]) for part in parts}
    days = sorted(int(part[2]) for part in parts if part[2].isdigit())
    if len(times) != 1 or not days or days[-1] < 29 or any(part[2] not in {"L", "28", str(days[-1])} for part in parts):
        return ""
    at = _times_of_day(parts[0][0], parts[0][1])
    return f"monthly on the {_ordinal(days[-1])} or the month's last day at {at}{suffix}" if at else ""


def _cron(text: str, suffix: str) -> str:
    fields = text.split()
    if len(fields) == 5 and fields[3] == "*":
        minute, hour, day, _month, weekday = fields
        at = _times_of_day(minute, hour)
        words = ""
        if at:
            words = _days(day, weekday)
        elif day == weekday == "*":
            return _through_the_day(minute, hour) or f'cron "{text}"{suffix}'
        if words:
            return f"{words} at {at}{suffix}"
    return f'cron "{text}"{suffix}'


def _times_of_day(minute: str, hour: str) -> str:
    hours = hour.split(",")
    if not minute.isdigit() or not all(part.isdigit() for part in hours):
        return ""
    return _join([f"{int(part):02d}:{int(minute):02d}" for part in hours])


def _through_the_day(minute: str, hour: str) -> str:
    every_minutes, every_hours = minute.removeprefix("*/"), hour.removeprefix("*/")
    if hour == "*":
        if minute == "*":
            return "every minute"
        if minute.startswith("*/") and every_minutes.isdigit():
            return f"every {every_minutes} minutes"
        if minute.isdigit():
            return "hourly" if int(minute) == 0 else f"hourly at minute {int(minute)}"
    if minute.isdigit() and hour.startswith("*/") and every_hours.isdigit():
        return f"every {every_hours} hours" + (f" at minute {int(minute)}" if int(minute) else "")
    return ""


def _days(day: str, weekday: str) -> str:
    if weekday == "*":
        if day == "*":
            return "daily"
        if day.upper() == "L":
            return "monthly on the last day"
        parts = day.split(",")
        return f"monthly on the {_join([_ordinal(int(p)) for p in parts])}" if all(p.isdigit() for p in parts) else ""
    if day != "*":
        return ""
    first, dash, last = weekday.partition("-")
    if dash:
        start, end = _weekday(first), _weekday(last)
        return f"{start} to {end}" if start and end else ""
    names = [_weekday(part) for part in weekday.split(",")]
    return f"weekly on {_join(names)}" if all(names) else ""


def _weekday(text: str) -> str:
    if text.isdigit() and int(text) <= 7:
        return _DAYS[int(text) % 7]
    index = _DAY_NAMES.get(text.lower())
    return "" if index is None else _DAYS[index]


def _ordinal(value: int) -> str:
    ending = "th" if value % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
