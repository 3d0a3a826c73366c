"""Brings back databases of MariaDB or MySQL: what stands there, the client that is fed, the comparison afterwards.

A database that is brought back whole is dropped and made anew; of one of which only tables are wanted, those alone are.
Views come after all databases' tables, since they may look at any of them. Increments are replayed by mariadb-binlog,
each database's own changes, under the names that they had.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import NotFoundError, RefusedError, ToolError
from nanumpay_backupd.model import FULLS, Manifest, Part
from nanumpay_backupd.settings.sources import MariadbSource, SourceSettings
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.binlog import in_order
from nanumpay_backupd.sources.mariadb_client import SYSTEM_DATABASES, Client, address, literal, open_tool
from nanumpay_backupd.sources.mariadb_dump import DATABASES, file_of
from nanumpay_backupd.sources.mariadb_facts import programs_of, tables_of
from nanumpay_backupd.sources.mariadb_restore import LogReplay, SqlRestore, Step
from nanumpay_backupd.sources.sql_reader import quoted

__all__ = ["MariadbTarget"]

_REACHED: Final = "binlog-position"
"""File in the folder of a restore that says up to where in the binary log it came."""
_LONG: Final = 24 * 3600.0
"""Seconds that counting every row may take."""


class _Choice(msgspec.Struct, frozen=True):
    """What of a backup is wanted: databases with the names that they get, and of some only these tables."""

    names: dict[str, str]
    tables: dict[str, frozenset[str]]
    parts: tuple[Part, ...]


class MariadbTarget(FolderTarget):
    """A MariaDB or MySQL server as the target of a restore."""

    def __init__(self, settings: MariadbSource) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._undo = ""

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`; ``there`` are tables as ``database.table``."""
        choice = _choose(manifest, wanted)
        if wanted.until:
            open_tool(self._settings.mariadb_binlog)
        there = tables_of(self._client, choice.names.values())
        back = {new: old for old, new in choice.names.items()}
        chosen = {key for key in there if not choice.tables.get(back[key[0]]) or key[1] in choice.tables[back[key[0]]]}
        if chosen and not wanted.overwrite:
            raise RefusedError(
                f"{_place(choice)} at {address(self._settings)} holds {len(chosen)} "
                f"{'table' if len(chosen) == 1 else 'tables'}, which this would replace",
                hint="say so with --overwrite, or restore under another name: --to NAME",
                code="target-exists",
            )
        held = {part.name for part in manifest.source.parts}
        goes = sorted(f"{name}.{table}" for name, table in chosen if f"{back[name]}.{table}" not in held)
        return Goal(
            server=address(self._settings),
            place=_place(choice),
            parts=choice.parts,
            there=tuple(sorted(".".join(key) for key in chosen)),
            drops=tuple(goes),
        )

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:
        """See `Target.safety`: the databases that are there now."""
        names = _choose(manifest, wanted).names.values()
        there = sorted({database for database, _ in tables_of(self._client, names)})
        if not there:
            return None
        return msgspec.structs.replace(self._settings, database=tuple(there), accounts=False, binlog="auto")

    def needs(self, name: str, wanted: Wanted) -> bool:
        """See `FolderTarget.needs`."""
        files = {file_of(only.partition(".")[0]) for only in wanted.only} | {file_of(only) for only in wanted.only}
        return not wanted.only or not name.startswith("databases/") or name in files or any("." in n for n in files)

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:
        """See `FolderTarget.start`."""
        choice = _choose(manifest, wanted)
        reached = work / _REACHED
        after = reached.read_text(encoding="utf-8") if reached.exists() else ""
        if _later(manifest.consistency.position, after):
            reached.write_text(manifest.consistency.position, encoding="utf-8")
        if manifest.kind not in FULLS:
            if _later(begins := manifest.source.facts.get("from", ""), after):
                raise ToolError(
                    f"{manifest.backup} begins at {begins} of the binary log, what was brought back ends at {after}",
                    hint="the backup between them is missing; restore to an earlier moment",
                    code="restore-failed",
                )
            names = tuple(choice.names)
            return LogReplay(self._settings, self._client, folder, names, until=wanted.until, after=after)
        making = _made_by((folder / DATABASES).read_bytes())
        steps = [
            Step(
                file=folder / file_of(old),
                database=new,
                was=old,
                tables=choice.tables.get(old, frozenset()),
                make=_make(old, new, making.get(old, b""), whole=not choice.tables.get(old)),
            )
            for old, new in choice.names.items()
        ]
        return SqlRestore(self._settings, self._client, steps)

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002 - the contract
        """See `Target.compare`: rows of every table, and how many views and programs there are."""
        choice = _choose(manifest, wanted)
        if manifest.kind not in FULLS:
            there = tables_of(self._client, manifest.source.databases)
            return Comparison(documents=0, parts=0, unknown=len(there))
        history = {name.removeprefix("history:") for name in manifest.source.facts if name.startswith("history:")}
        found = self._count(choice, history)
        differences = []
        for part in choice.parts:
            count = found.get(part.name)
            if count is None:
                differences.append(f"{part.name} is not there")
            elif count != part.items:
                differences.append(f"{part.name} holds {count:,} rows, the backup {part.items:,}")
        differences += self._programs(manifest, choice)
        return Comparison(documents=sum(found.values()), parts=len(choice.parts), differences=tuple(differences))

    def _count(self, choice: _Choice, history: set[str]) -> dict[str, int]:
        there = tables_of(self._client, choice.names.values())
        lines = []
        for part in choice.parts:
            database, table = _split(part.name, choice.names)
            if (choice.names[database], table) in there:
                place = f"{quoted(choice.names[database])}.{quoted(table)}"
                ever = " FOR SYSTEM_TIME ALL" if part.name in history else ""
                lines.append(f"SELECT {literal(part.name)}, COUNT(*) FROM {place}{ever};\n")  # noqa: S608 - quoted
        rows = self._client.rows("".join(lines), timeout=_LONG) if lines else []
        return {name: int(count) for name, count in rows}

    def _programs(self, manifest: Manifest, choice: _Choice) -> Iterable[str]:
        now = programs_of(self._client, choice.names.values())
        for old, new in choice.names.items():
            said = manifest.source.facts.get(f"programs:{old}")
            if said is not None and not choice.tables.get(old) and now[new] != said:
                yield f"{new} has {now[new]} views and programs, the backup {said}"


def _later(one: str, other: str) -> bool:
    """Tell whether a position ``file:bytes`` is behind another one, empty: the beginning."""
    (file, _, at), (other_file, _, other_at) = one.rpartition(":"), other.rpartition(":")
    if file == other_file:
        return int(at or 0) > int(other_at or 0)
    return bool(file) and (not other_file or in_order([file, other_file])[1] == file)


def _choose(manifest: Manifest, wanted: Wanted) -> _Choice:
    """Return what is wanted; raises NotFoundError, RefusedError (``target-refused``)."""
    databases, parts = manifest.source.databases, manifest.source.parts
    if manifest.kind not in FULLS:
        return _Choice({name: name for name in databases}, {}, ())
    tables: dict[str, set[str]] = {}
    whole: set[str] = set()
    held = {part.name: part for part in parts}
    for only in wanted.only:
        if only in databases:
            whole.add(only)
        elif only in held:
            database, table = _split(only, databases)
            tables.setdefault(database, set()).add(table)
        else:
            raise NotFoundError(
                f"{manifest.backup} holds neither a database nor a table {only!r}",
                hint=f"its databases: {', '.join(databases)}; a table is written database.table",
            )
    chosen = [name for name in databases if not wanted.only or name in whole or name in tables]
    if wanted.until and (wanted.to or wanted.only):
        raise RefusedError(
            "increments can only be replayed for all databases and under their own names: "
            "statements in the binary log name them",
            hint="restore to that moment into another server, or leave out --at",
            code="target-refused",
        )
    if wanted.to and (len(chosen) != 1 or wanted.to.lower() in SYSTEM_DATABASES):
        why = "is the server's own" if len(chosen) == 1 else f"cannot take {len(chosen)} databases"
        raise RefusedError(
            f"{wanted.to!r} {why}", hint="choose one database: --only NAME --to OTHER", code="target-refused"
        )
    names = {name: wanted.to or name for name in chosen}
    narrow = {name: frozenset(found) for name, found in tables.items() if name not in whole}
    wants = tuple(part for part in parts if _is_wanted(part.name, names, narrow))
    return _Choice(names, narrow, wants)


def _is_wanted(name: str, names: dict[str, str], tables: dict[str, frozenset[str]]) -> bool:
    for database in names:
        if name.startswith(f"{database}."):
            only = tables.get(database)
            if not only or name.removeprefix(f"{database}.") in only:
                return True
    return False


def _split(name: str, databases: Iterable[str]) -> tuple[str, str]:
    """Part ``database.table``: either may have a dot in it."""
    for database in sorted(databases, key=len, reverse=True):
        if name.startswith(f"{database}."):
            return database, name.removeprefix(f"{database}.")
    raise AssertionError(name)


def _place(choice: _Choice) -> str:
    return ", ".join(choice.names.values())


def _made_by(text: bytes) -> dict[str, bytes]:
    """Return the statement that makes each database."""
    made = {}
    for line in text.splitlines():
        before, tick, rest = line.partition(b"`")
        if tick and before.startswith(b"CREATE DATABASE"):
            at = 0
            while rest[at : at + 1] != b"`" or rest[at + 1 : at + 2] == b"`":
                at += 2 if rest[at : at + 1] == b"`" else 1
            made[rest[:at].replace(b"``", b"`").decode("utf-8", "surrogateescape")] = line
    return made


def _make(old: str, new: str, made: bytes, *, whole: bool) -> bytes:
    """Return the statements that make room for a database and make it, as it was made."""
    before, after = quoted(old).encode("utf-8", "surrogateescape"), quoted(new).encode("utf-8", "surrogateescape")
    statement = made.replace(before, after, 1) if made else b"CREATE DATABASE IF NOT EXISTS " + after + b";"
    if not whole:
        return statement + b"\n"
    return b"SET foreign_key_checks=0;\nDROP DATABASE IF EXISTS " + after + b";\n" + statement + b"\n"
