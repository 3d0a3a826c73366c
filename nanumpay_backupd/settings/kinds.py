"""Kinds of value that a setting can have: how each is read, checked, described and shown. No setting is named here."""

from __future__ import annotations

import json
import math
import re
import zoneinfo
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from croniter import croniter

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.mongouri import check_uri, has_password
from nanumpay_backupd.settings.problems import Mismatch, nearest, show
from nanumpay_backupd.system.secrets import Secret, read_secret, stands_in

__all__ = [
    "AbsolutePath",
    "Choice",
    "ClockTime",
    "Command",
    "Cron",
    "Day",
    "Duration",
    "Factor",
    "Fingerprint",
    "Flag",
    "Kind",
    "MongoUri",
    "Names",
    "PathPatterns",
    "Place",
    "QuietHours",
    "SecretText",
    "SecretUrl",
    "SecretValue",
    "Size",
    "Text",
    "TimeZone",
    "Url",
    "Whole",
]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DURATION: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h|d|w)")
_SIZES: Final = {"B": 1}
_SIZES.update({f"{unit}iB": 1 << 10 * at for at, unit in enumerate("KMGT", 1)})
_SIZES.update({f"{unit}B": 1000**at for at, unit in enumerate("KMGT", 1)})
_SIZE: Final = re.compile(r"([0-9]+)\s*(B|[KMGT]i?B)")
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_NEVER: Final = "never"
_SHELL: Final = ("/bin/sh", "-c")
_CRON_FIELDS: Final = 5
_CRON_CHECK_FROM: Final = datetime(2024, 1, 1, tzinfo=UTC)


class Place:
    """Where a value stands: its path for messages, and whether every user of the host can read it there."""

    __slots__ = ("path", "world_readable")

    def __init__(self, path: str, *, world_readable: bool = False) -> None:
        self.path = path
        self.world_readable = world_readable


class Kind(ABC):
    """One kind of value. ``expected`` completes the sentence "must be …" and stands in the reference as the limits."""

    expected: str
    example: str = ""

    @abstractmethod
    def parse(self, value: object, place: Place) -> object:
        """Return the value as the program wants it; raises Mismatch, or ConfigError for a secret that is not there."""

    def show(self, value: object) -> str:
        """Return a parsed value as it is written in TOML, for the reference."""
        return show(value)

    def mismatch(self, value: object) -> Mismatch:
        """Return the usual complaint about a value that does not fit."""
        example = f", for example {self.example}" if self.example else ""
        return Mismatch(f"is {show(value)}, but must be {self.expected}", f"write {self.expected}{example}")


class Flag(Kind):
    """True or false."""

    expected = "true or false"

    def parse(self, value: object, place: Place) -> bool:  # noqa: ARG002 - the contract of Kind
        """Return the boolean; 0, 1 and words are refused."""
        if not isinstance(value, bool):
            raise self.mismatch(value)
        return value


class Whole(Kind):
    """A whole number within limits. ``doubles``: 7.0 counts as 7, because JavaScript has no other number."""

    def __init__(self, least: int, most: int, *, doubles: bool = False) -> None:
        self.least = least
        self.most = most
        self.doubles = doubles
        self.expected = f"a whole number from {least} to {most}"

    def parse(self, value: object, place: Place) -> int:  # noqa: ARG002 - the contract of Kind
        """Return the number as a plain int, whatever integral type it arrived in."""
        if self.doubles and isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise self.mismatch(value)
        return int(value)


class Factor(Kind):
    """A number with or without decimals, within limits; 0 where that switches something off."""

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most
        self.expected = f"0, or a number from {least:g} to {most:g}"

    def parse(self, value: object, place: Place) -> float:  # noqa: ARG002 - the contract of Kind
        """Return the number."""
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not (value == 0 or self.least <= value <= self.most):  # type: ignore[operator]
            raise self.mismatch(value)
        return float(value)  # type: ignore[arg-type]

    def show(self, value: object) -> str:
        """Show it without needless digits."""
        assert isinstance(value, float)
        return f"{value:g}"


class Day(Kind):
    """A day of the calendar."""

    expected = "a day, written YYYY-MM-DD"
    example = "2027-01-31"

    def parse(self, value: object, place: Place) -> date:  # noqa: ARG002 - the contract of Kind
        """Return the day; in quotes it is one too, with a time of day it is not."""
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        try:
            if isinstance(value, str):
                return date.fromisoformat(value.strip())
        except ValueError:
            pass
        raise self.mismatch(str(value) if isinstance(value, date) else value)


class Text(Kind):
    """A string, trimmed. ``pattern`` must match the whole of it; ``words`` says in words what the pattern means."""

    def __init__(self, words: str = "a text", *, pattern: str = r"[^\x00-\x1f\x7f]*", example: str = "") -> None:
        self.expected = words
        self.example = example
        self._pattern = re.compile(pattern)

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the text without blanks around it."""
        if not isinstance(value, str) or not self._pattern.fullmatch(value.strip()):
            raise self.mismatch(value)
        return value.strip()


class Fingerprint(Kind):
    """The SHA-256 of a certificate, as openssl prints it or as plain digits; empty for none."""

    expected = "a SHA-256 fingerprint of 64 hexadecimal digits (colons allowed), or empty"
    example = '"3f:9a:…" (openssl x509 -noout -fingerprint -sha256)'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the digits in lower case without colons."""
        digits = value.strip().replace(":", "").lower() if isinstance(value, str) else None
        if digits is None or not re.fullmatch(r"(?:[0-9a-f]{64})?", digits):
            raise self.mismatch(value)
        return digits


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        named = [f'"{word}"' for word in words]
        self.expected = " or ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the word."""
        if not isinstance(value, str) or value.strip() not in self.words:
            raise self.mismatch(value)
        return value.strip()


class ClockTime(Kind):
    """A time of day."""

    expected = "a time of day from 00:00 to 23:59, written HH:MM"
    example = '"02:00"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return it as HH:MM; a single digit for the hour is accepted."""
        match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise self.mismatch(value)
        return f"{int(match[1]):02}:{match[2]}"


class QuietHours(Kind):
    """Two times of day, from and to; empty for none."""

    expected = "two times of day, written HH:MM-HH:MM, or empty"
    example = '"22:00-07:00"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return both as HH:MM-HH:MM; the same time twice would mean all day or never, so it is refused."""
        if not isinstance(value, str):
            raise self.mismatch(value)
        if not value.strip():
            return ""
        found = [_CLOCK.fullmatch(part.strip()) for part in value.split("-")]
        hours = [f"{int(match[1]):02}:{match[2]}" for match in found if match is not None]
        if len(found) != 2 or len(hours) != 2 or hours[0] == hours[1]:
            raise self.mismatch(value)
        return "-".join(hours)


class SecretText(Kind):
    """A secret that stands in the application's document as plain text; it is never shown."""

    expected = "a text"

    def parse(self, value: object, place: Place) -> Secret:  # noqa: ARG002 - the contract of Kind
        """Return the secret, trimmed."""
        if not isinstance(value, str):
            raise Mismatch(f"is of type {type(value).__name__}, but must be {self.expected}", "write a text")
        return Secret(value.strip())

    def show(self, value: object) -> str:
        """Show whether there is one."""
        return '"***"' if value else '""'


class Duration(Kind):
    """A length of time in seconds, written with its unit."""

    example = '"60s", "15m", "7d"'

    def __init__(self, least: str, most: str) -> None:
        self.least = _seconds(least) or 0.0
        self.most = _seconds(most) or 0.0
        self.expected = f'a duration from "{least}" to "{most}", with a unit (ms, s, m, h, d, w)'

    def parse(self, value: object, place: Place) -> float:  # noqa: ARG002 - the contract of Kind
        """Return the seconds."""
        seconds = _seconds(value) if isinstance(value, str) else None
        if seconds is None or not self.least <= seconds <= self.most:
            raise self.mismatch(value)
        return seconds

    def show(self, value: object) -> str:
        """Show it in the largest unit that divides it."""
        assert isinstance(value, (int, float))
        for unit in ("d", "h", "m"):
            if value >= 2 * _UNITS[unit] and value % _UNITS[unit] == 0:
                return f'"{value / _UNITS[unit]:g}{unit}"'
        return f'"{value:g}s"'


class Size(Kind):
    """A number of bytes, written with its unit."""

    example = '"16MiB"'

    def __init__(self, least: str, most: str) -> None:
        self.least = _bytes(least) or 0
        self.most = _bytes(most) or 0
        self.expected = f'a size from "{least}" to "{most}", with a unit (KiB, MiB, GiB, TiB, KB, MB, GB, TB)'

    def parse(self, value: object, place: Place) -> int:  # noqa: ARG002 - the contract of Kind
        """Return the bytes."""
        size = _bytes(value) if isinstance(value, str) else None
        if size is None or not self.least <= size <= self.most:
            raise self.mismatch(value)
        return size

    def show(self, value: object) -> str:
        """Show it in the largest binary unit that divides it."""
        assert isinstance(value, int)
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if value and value % _SIZES[unit] == 0:
                return f'"{value // _SIZES[unit]}{unit}"'
        return f'"{value}B"'


class AbsolutePath(Kind):
    """A path from the root of this host."""

    expected = "an absolute path"
    example = '"/srv/backups"'

    def __init__(self, *, as_text: bool = False, empty: bool = False) -> None:
        self._as_text = as_text
        self._empty = empty

    def parse(self, value: object, place: Place) -> Path | str:  # noqa: ARG002 - the contract of Kind
        """Return the path (or its text) without a trailing slash or ``.`` parts."""
        if self._empty and value == "":
            return ""
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value or ".." in Path(value).parts:
            raise self.mismatch(value)
        return str(Path(value)) if self._as_text else Path(value)

    def show(self, value: object) -> str:
        """Show it as text."""
        return show(str(value))


class PathPatterns(Kind):
    """Absolute paths, also patterns as the shell has them (``**``: any folders); one may stand without a list."""

    expected = "an absolute path or a list of them, also with * ? [ ] and ** in it"
    example = '["/srv/app/*.db"]'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the paths, each once."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise self.mismatch(value)
        for item in items:
            if not isinstance(item, str) or not item.startswith("/") or "\0" in item or ".." in Path(item).parts:
                raise self.mismatch(item)
        return tuple(dict.fromkeys(str(Path(item)) for item in items))

    def show(self, value: object) -> str:
        """Show the list."""
        assert isinstance(value, tuple)
        return json.dumps(list(value))


class Command(Kind):
    """A command: a text for the shell, or a list of its words, of which the first is a path; empty for none."""

    expected = "a command: a text for the shell, or a list of words that begins with an absolute path; or empty"
    example = '["/usr/local/bin/before-backup", "--quiet"]'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the words; a text is given to the shell."""
        if value in ("", []):
            return ()
        if isinstance(value, str) and value.strip() and "\0" not in value:
            return (*_SHELL, value.strip())
        if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
            raise self.mismatch(value)
        if not value[0].startswith("/"):
            raise self.mismatch(value[0])
        return tuple(value)

    def show(self, value: object) -> str:
        """Show the list, or the text."""
        assert isinstance(value, tuple)
        return json.dumps(value[-1] if value[:-1] == _SHELL else list(value)) if value else '""'


class Url(Kind):
    """An http or https address without user and password; empty for none."""

    expected = "an address that begins with https:// or http://, without user and password"
    example = '"https://s3.example.com"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the address without a trailing slash."""
        if value == "":
            return ""
        try:
            parts = urlsplit(value) if isinstance(value, str) else None
            good = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
            good = good and parts is not None and "@" not in parts.netloc and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good or not isinstance(value, str):
            # What is wrong may be a password in it, so the value is not shown.
            raise Mismatch(f"must be {self.expected}", f"write for example {self.example}")
        return value.rstrip("/")


class TimeZone(Kind):
    """An IANA zone name; empty for the host's."""

    expected = "a time zone's name"
    example = '"Asia/Seoul"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the name of a zone that this host knows."""
        if value == "":
            return ""
        try:
            return zoneinfo.ZoneInfo(value if isinstance(value, str) else "").key
        except (OSError, ValueError, KeyError):
            raise Mismatch(
                f"is {show(value)}, which is not the name of a time zone on this host",
                'write a name that "timedatectl list-timezones" shows, for example "Asia/Seoul" (package tzdata)',
            ) from None


class Names(Kind):
    """A list of names, each once. ``words`` are the only ones that there are, none: whatever the caller knows."""

    expected = "a list of names"
    example = '["offsite"]'
    words: tuple[str, ...] = ()

    def __init__(self, *words: str, what: str = "") -> None:
        self.words = words
        if words:
            self.expected = what
            self.example = json.dumps([words[0]])

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the names; whether they exist is the caller's matter."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.mismatch(value)
        if len(set(value)) != len(value):
            raise Mismatch("names the same thing twice", "name each once")
        for name in value:
            if self.words and name not in self.words:
                close = nearest(name, self.words)
                fix = f"did you mean {close}?" if close else f"known: {', '.join(self.words)}"
                raise Mismatch(f"names {show(name)}, which is not known", fix)
        return tuple(value)

    def show(self, value: object) -> str:
        """Show it as a TOML list."""
        assert isinstance(value, tuple)
        return json.dumps(list(value))


class Cron(Names):
    """One cron expression or a list of them; the earliest counts. With ``off`` the word "never" is one too."""

    expected = "a cron expression of five fields, or a list of them"
    example = '"0 3 * * *"'

    def __init__(self, *, off: bool = False) -> None:
        self._off = off
        if off:
            self.expected = f'{self.expected}, or "{_NEVER}"'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return the expressions; each has five fields and a date on which it is due."""
        if self._off and value == _NEVER:
            return ()
        lines = value if isinstance(value, list) else [value]
        if not lines:
            raise self.mismatch(value)
        return tuple(self._expression(line) for line in lines)

    def _expression(self, line: object) -> str:
        # croniter's "R" draws a new random time at each look: a plan that is never the same twice.
        if not isinstance(line, str) or len(line.split()) != _CRON_FIELDS or re.search(r"(?i)\br\b", line):
            raise self.mismatch(line)
        if not croniter.is_valid(line):
            raise self.mismatch(line)
        try:
            croniter(line, _CRON_CHECK_FROM).get_next(datetime)
        except ValueError:
            raise Mismatch(f"is {show(line)}, which is never due", "name a day that exists") from None
        return " ".join(line.split())

    def show(self, value: object) -> str:
        """Show one expression as a text, several as a list."""
        lines = value if isinstance(value, tuple) else ()
        if self._off and not lines:
            return f'"{_NEVER}"'
        return f'"{lines[0]}"' if len(lines) == 1 else super().show(value)


class SecretValue(Kind):
    """A secret of the host file: by reference, or as plain text when no ordinary user can read the file."""

    expected = "a secret: { credential = … }, { env = … } or { file = … }"

    def parse(self, value: object, place: Place) -> Secret:
        """Return the secret; raises ConfigError when a reference leads nowhere. The value is never shown."""
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value.values()):
                raise Mismatch("names something that is not a text", f"write {self.expected}")
            return read_secret({str(key): str(name) for key, name in value.items()}, place.path)
        if not isinstance(value, str):
            raise Mismatch(f"is of type {type(value).__name__}, but must be {self.expected}", f"write {self.expected}")
        if place.world_readable and self.is_confidential(value):
            raise Mismatch(
                "is a secret in a file that every user of this host can read",
                "run chmod o-rwx on the file, or write { credential = … }, { env = … } or { file = … }",
            )
        return Secret(value)

    def is_confidential(self, value: str) -> bool:
        """Tell whether a plain value must not be seen by others."""
        return bool(value)

    def show(self, value: object) -> str:
        """Show whether there is one."""
        return '"***"' if value else '""'


class SecretUrl(SecretValue):
    """An address that is a secret by itself: whoever knows it can send there. ``schemes`` empty: any scheme."""

    def __init__(self, words: str, *schemes: str, example: str) -> None:
        self.expected = f"{words}, plain or as a secret"
        self.example = example
        self._schemes = schemes

    def parse(self, value: object, place: Place) -> Secret:
        """Return the address."""
        secret = super().parse(value, place)
        if stands_in(secret):
            return secret
        scheme, found, rest = secret.reveal().partition("://")
        known = scheme.lower() in self._schemes if self._schemes else bool(_SCHEME.fullmatch(scheme))
        if not found or not rest or not known or re.search(r"[\s\x00-\x1f\x7f]", secret.reveal()):
            # What is wrong may be the secret in it, so the value is not shown.
            raise Mismatch(f"must be {self.expected}", f"write for example {self.example}")
        return secret


class MongoUri(SecretValue):
    """A MongoDB connection string. Without a password in it, it is no secret."""

    expected = "a MongoDB connection string (mongodb://… or mongodb+srv://…), plain or as a secret"
    example = '"mongodb://localhost:27017/nanumpay"'

    def parse(self, value: object, place: Place) -> Secret:
        """Return the connection string."""
        secret = super().parse(value, place)
        try:
            check_uri(secret.reveal())
        except ConfigError as error:
            raise Mismatch(f"is not usable: {error.message}", error.hint) from None
        return secret

    def is_confidential(self, value: str) -> bool:
        """Tell whether it carries a password."""
        return has_password(value)

    def show(self, value: object) -> str:
        """Show it, if it has no password."""
        assert isinstance(value, Secret)
        return '"***"' if has_password(value.reveal()) else show(value.reveal())


def _seconds(text: str) -> float | None:
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(match["number"]) * _UNITS[match["unit"]] for match in _DURATION.finditer(text))


def _bytes(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _SIZES[match[2]] if match else None
