"""Compares the keys of a backup with those in a server: names, types, values however packed, times of expiry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Comparison
from nanumpay_backupd.sources.rdb_value import same, type_name
from nanumpay_backupd.sources.redis_keys import FOOTER, Keys
from nanumpay_backupd.sources.redis_link import Link, Refusal, Server, command, look_at
from nanumpay_backupd.sources.redis_restore import Plan, wanted_keys
from nanumpay_backupd.sources.redis_values import Asking

__all__ = ["compare_keys", "compare_lots"]

_LINE_AND_FOOTER: Final = 2 + FOOTER
_TOLD: Final = 20
_SLACK: Final = 100
"""Milliseconds that times of expiry may differ where the server tells only how much is left."""
_LOOKED_AGAIN: Final = 10_000
_SOON: Final = 5000
"""Milliseconds before its time at which a key may be gone already: clocks of hosts differ."""


def compare_keys(settings: RedisSource, files: list[Path], plan: Plan) -> Comparison:
    """Compare what the files hold with the server; raises SourceError, VerifyError.

    Keys that have expired meanwhile cannot be compared. A key that stands twice, because SCAN told it twice, is
    compared as it stands last.
    """
    numbers = tuple(plan.numbers.values())
    return compare_lots(settings, lambda: wanted_keys(files, plan), numbers, existing=plan.existing)


def compare_lots(
    settings: RedisSource, lots: Callable[[], Iterable[Keys | bytes]], numbers: tuple[int, ...] = (), existing: str = ""
) -> Comparison:
    """Compare keys that ``lots`` yields each time it is called; raises SourceError and what it raises.

    ``numbers`` are the databases that are meant; with ``existing`` empty (the word) nothing else may be in them, and
    with skip what differs is what was there.
    """
    with Link(settings) as link:
        comparing = _Comparing(link, look_at(link), numbers)
        with link.faults():
            for keys in lots():
                if isinstance(keys, Keys):
                    comparing.take(keys)
            comparing.end()
            comparing.look_again(lots)
            return comparing.result(existing)


class _Comparing:
    """One comparison under way."""

    def __init__(self, link: Link, server: Server, numbers: tuple[int, ...]) -> None:
        self._link = link
        self._asking = Asking(link, server, timed=True)
        self._asked = Keys(-1)
        self._counts: dict[int, int] = dict.fromkeys(numbers, 0)
        self._differing: dict[tuple[int, bytes], str] = {}
        self._gone = 0

    def take(self, keys: Keys) -> None:
        """Ask for some keys, and compare those that were asked for before: so the server is not waited for."""
        if not keys.names:
            return
        self._asking.ask(keys.names, command("SELECT", keys.database))
        self._counts[keys.database] = self._counts.get(keys.database, 0) + len(keys.names)
        self.end()
        self._asked = keys

    def end(self) -> None:
        """Compare those that were asked for last."""
        keys, self._asked = self._asked, Keys(-1)
        if not keys.names:
            return
        answer = self._link.reply()
        if isinstance(answer, Refusal):
            raise answer
        expiries, payloads = self._asking.read(len(keys.names))
        found = [payload[:-_LINE_AND_FOOTER] for payload in payloads]
        wanted = keys.bare
        if found == wanted and expiries == keys.expiries:
            return
        for at, name in enumerate(keys.names):
            if found[at] != wanted[at] or expiries[at] != keys.expiries[at]:
                what = self._difference(wanted[at], keys.expiries[at], found[at], expiries[at])
                if what:
                    self._differing[keys.database, name] = what

    def look_again(self, lots: Callable[[], Iterable[Keys | bytes]]) -> None:
        """Compare those that differ once more as they stand last."""
        if not self._differing or len(self._differing) > _LOOKED_AGAIN:
            return
        last: dict[tuple[int, bytes], Keys] = {}
        twice = 0
        for keys in lots():
            if isinstance(keys, Keys):
                for at, name in enumerate(keys.names):
                    if (keys.database, name) in self._differing:
                        twice += (keys.database, name) in last
                        last[keys.database, name] = keys.at([at])
        if twice:
            self._differing, counts = {}, dict(self._counts)
            for keys in last.values():
                self.take(keys)
            self.end()
            self._counts = counts

    def _difference(self, wanted: bytes, until: int, found: bytes, expiry: int) -> str:
        """Say in what a key differs; values come with their type, of a key that is not there nothing."""
        if not found:
            if until and until <= self._asking.now + _SOON:
                self._gone += 1
                return ""
            return "is not there"
        if abs(expiry - until) > (0 if self._asking.exact else _SLACK):
            return f"expires at {expiry or 'no time'}, in the backup at {until or 'no time'}"
        try:
            if same(found, wanted):
                return ""
        except (ValueError, KeyError, IndexError):
            return "cannot be compared: it is in a form that is not known here"
        if type_name(found[0]) != type_name(wanted[0]):
            return f"is a {type_name(found[0])}, in the backup a {type_name(wanted[0])}"
        return f"holds another {type_name(found[0])} than in the backup"

    def result(self, existing: str) -> Comparison:
        """Say what was found; where the databases were emptied before, nothing else may be there either."""
        differences = [
            f"db{database}: {name.decode('utf-8', 'backslashreplace')[:100]!r} {what}"
            for (database, name), what in list(self._differing.items())[:_TOLD]
        ]
        if len(self._differing) > _TOLD:
            differences.append(f"{len(self._differing) - _TOLD:,} further keys")
        if existing == "skip":
            # What was there stayed as it was.
            self._gone, differences = self._gone + len(self._differing), []
        if existing == "empty":
            for database, count in self._counts.items():
                self._link.ask("SELECT", database)
                there = self._link.ask("DBSIZE")
                if there > count:
                    differences.append(f"db{database} holds {there:,} keys, {there - count:,} more than the backup")
        return Comparison(
            documents=sum(self._counts.values()),
            parts=len(self._counts),
            differences=tuple(differences),
            unknown=self._gone,
        )
