"""Reads a moment as people write it and says it as the protocol does. Pure: asks nobody, knows no backups.

For `backupctl` and for `restore --from`, so it imports the standard library only. A time without a zone is one of the
zone that is given: the daemon's, or this host's. Of an hour that the clocks go through twice the first is meant; one
that they leave out is refused. Whatever `cli.words.Times.exact` writes can be read again.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo

from nanumpay_backupd.errors import UsageError

__all__ = ["EXAMPLES", "LATEST", "read_future", "read_moment"]

LATEST = "latest"
EXAMPLES = '10:30:59, "2026-11-21 10:30", 2026-11-21T10:30:59+09:00, "5 minutes ago", "yesterday 18:00", latest'

_OPLOG = re.compile(r"(\d{9,10}):(\d{1,10})", re.ASCII)  # a time of day never has so many digits
_MOST = 2**32 - 1  # the oplog counts both in 32 bits
_ABSOLUTE = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)(?:T|\s+)|(?P<day>today|yesterday)\s+(?:at\s+)?)?"
    r"(?P<time>\d{1,2}:\d\d(?::\d\d)?)(?P<fraction>[.,]\d{1,9})?"
    r"(?:\s*(?P<zone>(?:UTC)?[+-]\d\d(?::?\d\d)?|[a-z]{1,6}))?",
    re.IGNORECASE | re.ASCII,
)
_RELATIVE = re.compile(r"(?:(?:\d+|an?)\s*[a-z]+,?\s+(?:and\s+)?|\d+[a-z]+)+\s*ago", re.IGNORECASE | re.ASCII)
_AHEAD = re.compile(
    r"in\s+(?P<span>(?:(?:\d+\s*|an?\s+)[a-z]+(?:,?\s+(?:and\s+)?|(?=\d)|$))+)", re.IGNORECASE | re.ASCII
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAYS_AHEAD = '2027-03-01, "2027-03-01 02:00", "in 30 days"'
_AMOUNT = re.compile(r"(\d+|\ban?\b)\s*([a-z]+)", re.IGNORECASE | re.ASCII)
_UNITS = {
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    86400: ("d", "day", "days"),
    604800: ("w", "week", "weeks"),
}
_SECONDS = {word: seconds for seconds, words in _UNITS.items() for word in words}


def read_moment(text: str, zone: tzinfo | None, now: datetime) -> tuple[str, str]:
    """Return the moment for the protocol (RFC 3339 in UTC, an oplog time, or ``latest``), and a remark or nothing.

    ``zone`` is that of times without one, None: this host's; ``now`` (aware) is what "ago" and "today" count from.
    Raises UsageError, with examples, for what is no moment.
    """
    words = " ".join(text.split())
    if words.lower() == LATEST:
        return LATEST, ""
    if found := _OPLOG.fullmatch(words):
        if max(int(found[1]), int(found[2])) > _MOST:
            raise _not_understood(text)
        return f"{int(found[1])}:{int(found[2])}", ""
    if _RELATIVE.fullmatch(words):
        return _before_now(text, words, now), ""
    if found := _ABSOLUTE.fullmatch(words):
        return _absolute(text, found, zone, now)
    raise _not_understood(text)


def read_future(text: str, zone: tzinfo | None, now: datetime) -> str:
    """Return a moment to come for the protocol (RFC 3339 in UTC).

    It may be a day (its beginning), a day and a time, or ``in 30 days``. The other arguments are as for `read_moment`;
    raises UsageError, also for what has passed.
    """
    words = " ".join(text.split())
    found = _ABSOLUTE.fullmatch(f"{words} 00:00" if _DAY.fullmatch(words) else words)
    try:
        if ahead := _AHEAD.fullmatch(words):
            said = _after_now(text, ahead["span"], now)
        elif found and found["date"]:
            said, _ = _absolute(text, found, zone, now)
        else:
            raise _not_understood(text, "is no day that is understood here")
        if datetime.fromisoformat(said) <= now:
            raise _not_understood(text, "has passed: name a day to come")
    except UsageError as error:
        raise UsageError(error.message, hint=f"for example: {_DAYS_AHEAD}") from None
    return said


def _after_now(text: str, words: str, now: datetime) -> str:
    try:
        return _said(text, now + _span(text, words))
    except OverflowError:
        raise _not_understood(text, "is too far away") from None


def _span(text: str, words: str) -> timedelta:
    """Read ``30 days``, ``1h30m``; raises OverflowError for more than a span can be."""
    seconds = 0
    for amount, unit in _AMOUNT.findall(words.lower().replace(" and ", " ")):
        if unit not in _SECONDS:
            raise _not_understood(text, f"cannot be read: '{unit}' is no unit of time")
        seconds += (int(amount) if amount.isdigit() else 1) * _SECONDS[unit]
    return timedelta(seconds=seconds)


def _not_understood(text: str, why: str = "is no time that is understood here") -> UsageError:
    return UsageError(f"'{text}' {why}", hint=f"for example: {EXAMPLES}")


def _before_now(text: str, words: str, now: datetime) -> str:
    """Read ``5 minutes ago``, ``1h30m ago``."""
    try:
        return _said(text, now - _span(text, words.lower().removesuffix("ago")))
    except OverflowError:
        raise _not_understood(text, "is too long ago") from None


def _absolute(text: str, found: re.Match[str], own: tzinfo | None, now: datetime) -> tuple[str, str]:
    """Read a time of day with or without a date and a zone."""
    zone, label = _zone(found["zone"] or "", own)
    hour, minute, second = (int(part) for part in f"{found['time']}:0".split(":")[:3])
    try:
        clock = time(hour, minute, second)
        day = date.fromisoformat(found["date"]) if found["date"] else None
        wall = _wall(clock, day, (found["day"] or "").lower(), zone, now)
        meant, others = _meant(text, wall, zone, label)
        if day is None and not found["day"] and meant > now:
            # Nobody restores the future: a time of day that is still to come was yesterday's.
            meant, others = _meant(text, wall - timedelta(days=1), zone, label)
        remarks = [_twice(meant, others[0])] if others else []
    except (ValueError, OverflowError):
        raise _not_understood(text, "is no time that exists") from None
    if found["fraction"]:
        remarks.append(f"The oplog counts whole seconds: all that was written in {meant:%H:%M:%S} is meant.")
    return _said(text, meant), " ".join(remarks)


def _zone(word: str, own: tzinfo | None) -> tuple[tzinfo | None, str]:
    """Return the zone that a word names; a name of the own zone only tells its doubled hours apart."""
    upper = word.upper()
    if upper in {"Z", "UTC", "GMT"}:
        return UTC, ""
    digits = upper.removeprefix("UTC").replace(":", "")
    if digits[:1] in {"+", "-"}:
        away = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5] or 0))
        if away >= timedelta(days=1):
            raise UsageError(f"'{word}' is no offset from UTC", hint="write it like +09:00")
        return timezone(-away if digits[0] == "-" else away), ""
    return own, upper


def _wall(clock: time, day: date | None, word: str, zone: tzinfo | None, now: datetime) -> datetime:
    """Return what the clocks on the wall showed; without a day it is today, or yesterday where it was left out."""
    here = now.astimezone(zone)
    wall = datetime.combine(day or here.date(), clock)
    if word == "yesterday":
        return wall - timedelta(days=1)
    left_out = day is None and not word and not _instants(wall, zone)
    return wall - timedelta(days=1) if left_out and wall > here.replace(tzinfo=None) else wall


def _meant(text: str, wall: datetime, zone: tzinfo | None, label: str) -> tuple[datetime, list[datetime]]:
    """Return the moment when the clocks showed ``wall``, and those that are not meant although they fit as well."""
    fitting = _instants(wall, zone)
    if not fitting:
        before, after = _jump(wall, zone)
        raise UsageError(
            f"there is no {wall:%H:%M:%S} on {wall:%Y-%m-%d} in {_name(zone)}: the clocks go from {before:%H:%M} "
            f"to {after:%H:%M} then",
            hint="write a time before or after that, or one in UTC with a Z behind it",
        )
    if label:
        named = [moment for moment in fitting if (moment.tzname() or "").upper() == label]
        if not named:
            raise UsageError(
                f"'{label}' behind the time in '{text}' is not understood",
                hint=f"leave it out (the time is one of {fitting[0].tzname() or _name(zone)} then), or write the "
                "offset from UTC, like +09:00, or Z",
            )
        # A name that both have does not tell them apart.
        fitting = named
    return fitting[0], fitting[1:]


def _instants(wall: datetime, zone: tzinfo | None) -> list[datetime]:
    """Return the moments, earlier ones first, when the clocks of a zone show ``wall``: one, two, or none."""
    found: list[datetime] = []
    for fold in (0, 1):
        moment = _aware(wall, zone, fold)
        if moment.replace(tzinfo=None, fold=0) == wall and moment.astimezone(UTC) not in found:
            found.append(moment.astimezone(UTC))
    return [moment.astimezone(zone) for moment in sorted(found)]


def _aware(wall: datetime, zone: tzinfo | None, fold: int) -> datetime:
    """Give a naive time the zone; one that does not exist comes back as another time."""
    local = wall.replace(tzinfo=zone, fold=fold)
    return local.astimezone(UTC).astimezone(zone)


def _jump(wall: datetime, zone: tzinfo | None) -> tuple[datetime, datetime]:
    """Return what the clocks show before and after the jump that leaves out ``wall``."""
    early, late = sorted(_aware(wall, zone, fold).astimezone(UTC) for fold in (0, 1))
    before, after = early.astimezone(zone).utcoffset(), late.astimezone(zone).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) // 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    edge = late.replace(microsecond=0, tzinfo=None)
    return edge + (before or timedelta()), edge + (after or timedelta())


def _twice(meant: datetime, other: datetime) -> str:
    return (
        f"The clocks showed {meant:%H:%M:%S} twice on {meant:%Y-%m-%d}: the first is meant ({meant.tzname()}, "
        f"{meant.astimezone(UTC):%H:%M:%S} UTC). The second is {other.isoformat()}."
    )


def _name(zone: tzinfo | None) -> str:
    return str(zone) if zone is not None else "this host's zone"


def _said(text: str, moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    if not 0 <= utc.timestamp() <= _MOST:
        raise _not_understood(text, "is no time that an oplog can hold")
    return f"{utc:%Y-%m-%dT%H:%M:%SZ}"
