"""Compares the keys of a backup with those in a server: names, types, values however packed, times of expiry."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Comparison
from nanumpay_backupd.sources.rdb_value import same, type_name
from nanumpay_backupd.sources.redis_keys import Key
from nanumpay_backupd.sources.redis_link import Link, Refusal, command, look_at, read_version
from nanumpay_backupd.sources.redis_restore import Plan, wanted_keys

__all__ = ["compare_keys"]

_BATCH: Final = 500
_BATCH_BYTES: Final = 4 << 20
_FOOTER: Final = 10
_TOLD: Final = 20
_SLACK: Final = 100
"""Milliseconds that times of expiry may differ where the server tells only how much is left."""
_SOON: Final = 5000
"""Milliseconds before its time at which a key may be gone already: clocks of hosts differ."""


def compare_keys(settings: RedisSource, files: list[Path], plan: Plan) -> Comparison:
    """Compare what the files hold with the server; raises SourceError, VerifyError.

    Keys that have expired meanwhile cannot be compared. A key that stands twice, because SCAN told it twice, is
    compared as it stands last.
    """
    with Link(settings) as link:
        server = look_at(link)
        comparing = _Comparing(link, plan, exact=read_version(server.version) >= (7, 0))
        with link.faults():
            batch: list[Key] = []
            size = 0
            for key in wanted_keys(files, plan):
                if isinstance(key, bytes):
                    continue
                batch.append(key)
                size += len(key.payload)
                if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                    comparing.take(batch)
                    batch, size = [], 0
            comparing.take(batch)
            comparing.look_again(files)
            return comparing.result()


class _Comparing:
    """One comparison under way."""

    def __init__(self, link: Link, plan: Plan, *, exact: bool) -> None:
        self._link = link
        self._plan = plan
        self._exact = exact
        self._database = -1
        self._counts: dict[int, int] = dict.fromkeys(plan.numbers.values(), 0)
        self._differing: dict[tuple[int, bytes], str] = {}
        self._gone = 0

    def take(self, keys: list[Key]) -> None:
        """Compare some keys."""
        for key, what in self._differences(keys):
            self._differing[key.database, key.name] = what
        for key in keys:
            self._counts[key.database] += 1

    def look_again(self, files: list[Path]) -> None:
        """Compare those that differ once more as they stand last."""
        if not self._differing or len(self._differing) > 10_000:
            return
        last: dict[tuple[int, bytes], Key] = {}
        twice = 0
        for key in wanted_keys(files, self._plan):
            if isinstance(key, Key) and (key.database, key.name) in self._differing:
                twice += (key.database, key.name) in last
                last[key.database, key.name] = key
        if twice:
            self._differing = {}
            for key in last.values():
                for _, what in self._differences([key]):
                    self._differing[key.database, key.name] = what

    def _differences(self, keys: list[Key]) -> list[tuple[Key, str]]:
        link, ask = self._link, []
        when = "PEXPIRETIME" if self._exact else "PTTL"
        for key in keys:
            if key.database != self._database:
                self._database = key.database
                ask.append(command("SELECT", key.database))
            ask.append(command("DUMP", key.name) + command(when, key.name))
        link.send(command("TIME") + b"".join(ask))
        found = []
        seconds, micro = self._answer()
        now = int(seconds) * 1000 + int(micro) // 1000
        for key in keys:
            answer = self._answer()
            if answer == b"OK":  # that was the database
                answer = self._answer()
            expiry = self._answer()
            if not self._exact and expiry > 0:
                expiry += now
            what = self._difference(key, answer, max(0, expiry), now)
            if what:
                found.append((key, what))
        return found

    def _answer(self) -> Any:
        answer = self._link.reply()
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def _difference(self, key: Key, payload: bytes | None, expiry: int, now: int) -> str:
        if payload is None:
            if key.expiry and key.expiry <= now + _SOON:
                self._gone += 1
                return ""
            return "is not there"
        if abs(expiry - key.expiry) > (0 if self._exact else _SLACK):
            return f"expires at {expiry or 'no time'}, in the backup at {key.expiry or 'no time'}"
        try:
            if same(payload[:-_FOOTER], key.payload[:-_FOOTER]):
                return ""
        except (ValueError, KeyError, IndexError):
            return "cannot be compared: it is in a form that is not known here"
        if type_name(payload[0]) != type_name(key.payload[0]):
            return f"is a {type_name(payload[0])}, in the backup a {type_name(key.payload[0])}"
        return f"holds another {type_name(payload[0])} than in the backup"

    def result(self) -> Comparison:
        """Say what was found; where the databases were emptied before, nothing else may be there either."""
        differences = [
            f"db{database}: {name.decode('utf-8', 'backslashreplace')[:100]!r} {what}"
            for (database, name), what in list(self._differing.items())[:_TOLD]
        ]
        if len(self._differing) > _TOLD:
            differences.append(f"{len(self._differing) - _TOLD:,} further keys")
        if self._plan.existing == "skip":
            # What was there stayed as it was.
            self._gone, differences = self._gone + len(self._differing), []
        if self._plan.existing == "empty":
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
