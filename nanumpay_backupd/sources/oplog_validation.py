"""Lets a replay write documents that a collection's validator refuses, as they once were written past it.

Such documents come from an update without validation, or from a restore. mongorestore before 100.15 replays an oplog
with validation on (TOOLS-4070) and ends at the first of them, its database half restored. So validation is off from the
beginning of the replay and set to what it should be at its end. In the result the level is there by name, also where it
was the default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from nanumpay_backupd.sources.oplog_entry import BUCKETS, COMMANDS, Stamp

__all__ = ["Validation", "levels_in"]

_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
_LEVEL: Final = "validationLevel"
_DEFAULT: Final = "strict"
_OFF: Final = "off"


class Validation:
    """Follows a replay's commands.

    ``levels`` gives, by namespace, the validation level of the restored collections that have a validator before the
    first entry is replayed.
    """

    def __init__(self, levels: Mapping[str, str]) -> None:
        self._levels = dict(levels)

    def opening(self) -> bytes | None:
        """Return the entry that switches validation off, if there is any."""
        return _switched(dict.fromkeys(self._levels, _OFF), Timestamp(1, 1))

    def closing(self, stamp: Stamp) -> bytes | None:
        """Return the entry that sets validation to what it should be in the end; ``stamp`` is its time."""
        return _switched(self._levels, Timestamp(max(stamp >> 32, 1), stamp & 0xFFFFFFFF))

    def __call__(self, entry: bytes) -> bytes:
        """Return a command as it is to be replayed."""
        found = RawBSONDocument(entry, _RAW)
        if found["op"] != "c":
            return entry
        if found["ns"] != COMMANDS.decode():
            changed = self._command(found)
            return entry if changed is None else _with(found, changed)
        inner = found["o"].get("applyOps")
        if inner is None or all(item["op"] != "c" for item in inner):
            return entry
        return _with(found, {**dict(found["o"]), "applyOps": list(self._inner(inner))})

    def _inner(self, operations: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for item in operations:
            changed = self._command(item) if item["op"] == "c" else None
            yield item if changed is None else {**dict(item), "o": changed}

    def _command(self, operation: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take note of a command and return another one to do instead, or None."""
        command = operation["o"]
        database = operation["ns"].partition(".")[0]
        name, about = next(iter(command.items()))
        namespace = f"{database}.{about}"
        if name == "renameCollection":
            self._levels.pop(command["to"], None)
            if (level := self._levels.pop(about, None)) is not None:
                self._levels[command["to"]] = level
        elif name == "drop":
            self._levels.pop(namespace, None)
        elif name == "dropDatabase":
            self._levels = {ns: level for ns, level in self._levels.items() if not ns.startswith(f"{database}.")}
        elif name in {"create", "collMod"} and not str(about).startswith(BUCKETS.decode()):
            return self._described(namespace, command)
        return None

    def _described(self, namespace: str, command: Mapping[str, Any]) -> dict[str, Any] | None:
        if command.get("validator"):
            self._levels.setdefault(namespace, _DEFAULT)
        if namespace not in self._levels or not {"validator", _LEVEL} & command.keys():
            return None
        self._levels[namespace] = command.get(_LEVEL, self._levels[namespace])
        return {**dict(command), _LEVEL: _OFF}


def levels_in(folder: Path) -> dict[str, str]:
    """Return `Validation`'s ``levels`` for a dump's folder, whose folders are named as the databases are to be."""
    found = {}
    for path in sorted(folder.glob("*/*.metadata.json")):
        try:
            metadata = json.loads(path.read_bytes())
            options = metadata.get("options", {})
        except (ValueError, AttributeError):
            continue
        # A very long name is shortened in the file's name.
        name = metadata.get("collectionName") or unquote(path.name.removesuffix(".metadata.json"))
        if options.get("validator"):
            found[f"{unquote(path.parent.name)}.{name}"] = str(options.get(_LEVEL, _DEFAULT))
    return found


def _with(entry: Mapping[str, Any], command: Mapping[str, Any]) -> bytes:
    return bson.encode({**dict(entry), "o": command})


def _switched(levels: Mapping[str, str], time: Timestamp) -> bytes | None:
    if not levels:
        return None
    operations = []
    for namespace, level in sorted(levels.items()):
        database, _, name = namespace.partition(".")
        operations.append({"op": "c", "ns": f"{database}.$cmd", "o": {"collMod": name, _LEVEL: level}})
    return bson.encode({"op": "c", "ns": COMMANDS.decode(), "o": {"applyOps": operations}, "ts": time})
