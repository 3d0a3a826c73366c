"""What has to be in a database after a restore: what a manifest promises, or what an old archive was found to hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote, unquote, unquote_plus

import msgspec

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import Backup
from nanumpay_backupd.pipeline.unpack import OPLOG, Found
from nanumpay_backupd.sources.base import Expected
from nanumpay_backupd.sources.extended_json import file_stem

__all__ = [
    "legacy_root",
    "oplogs_in",
    "parent_of",
    "promised",
    "settled_counts",
    "stored_name",
    "with_indexes",
    "without_touched",
]

_BUCKETS: Final = "system.buckets."


def promised(backup: Backup, names: Mapping[str, str], collection: str) -> list[Expected]:
    """Say what the manifest promises of the collections that are restored."""
    assert backup.manifest is not None
    return [
        Expected(names[item.database], item.name, item.documents, item.indexes)
        for item in backup.manifest.source.collections
        if collection in ("", item.name.removeprefix(_BUCKETS))
    ]


def legacy_root(backup: Backup, found: Mapping[str, Found], names: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Find the folder of an old archive that holds the dump: ``<name>/nanumpay`` or ``<timestamp>/nanumpay``.

    Returns the folder above it, and which database goes where.
    """
    dumped = {path for path in found if path.endswith((".bson", ".metadata.json"))} - oplogs_in(found)
    folders = {str(PurePosixPath(path).parent) for path in dumped}
    folders = {folder for folder in folders if any(path.startswith(f"{folder}/") for path in found)}
    (wanted, new) = next(iter(names.items()))
    named = sorted(folder for folder in folders if unquote(PurePosixPath(folder).name) == wanted)
    chosen = named or sorted(folders)
    if len(chosen) != 1:
        raise VerifyError(
            f"{backup.artifact} holds {len(folders)} folders of dumped collections, one is needed"
            + (f" ({', '.join(sorted(folders)[:5])})" if folders else ""),
            hint="restore it by hand: docs/operations.md",
            code="verify-structure",
        )
    path = PurePosixPath(chosen[0])
    root = "" if str(path.parent) == "." else str(path.parent)
    return root, {unquote(path.name): new or unquote(path.name)}


def oplogs_in(found: Collection[str]) -> set[str]:
    """Return the oplog that stands beside the databases: in a backup of ours whose manifest was lost."""
    above = {str(PurePosixPath(path).parent.parent) for path in found}
    return {path for path in found if PurePosixPath(path).name == OPLOG and str(PurePosixPath(path).parent) in above}


def parent_of(placed: str | None) -> str:
    """Return the database of a file that is placed in the folder to be restored, empty: it is of none."""
    return unquote(placed.partition("/")[0]) if placed and "/" in placed else ""


def stored_name(path: str) -> str:
    """Return the collection that a BSON file holds, by its path."""
    return unquote_plus(PurePosixPath(path).name.removesuffix(".bson"))


def with_indexes(expected: list[Expected], folder: Path) -> list[Expected]:
    """Add the number of indexes where only the unpacked metadata tells it."""
    return [
        item if item.indexes else msgspec.structs.replace(item, indexes=_indexes(item, folder)) for item in expected
    ]


def _indexes(item: Expected, folder: Path) -> int:
    name = file_stem(item.name.removeprefix(_BUCKETS))
    try:
        metadata = json.loads((folder / quote(item.database, safe="") / f"{name}.metadata.json").read_bytes())
    except (OSError, ValueError):
        return 0
    return len(metadata.get("indexes", ())) if isinstance(metadata, dict) else 0


def settled_counts(backup: Backup, names: Mapping[str, str]) -> dict[str, int]:
    """Return how many documents the collections held at a full's moment that the oplog changed during its dump."""
    stats = backup.manifest.source.collections if backup.manifest is not None else ()
    return {
        f"{names[item.database]}.{item.name}": item.settled.documents
        for item in stats
        if item.settled is not None and item.database in names
    }


def without_touched(
    expected: list[Expected], touched: frozenset[str], settled: Mapping[str, int] | None = None
) -> list[Expected]:
    """Forget the counts of collections that the oplog changes after they were dumped, unless they are ``settled``."""
    known = settled or {}
    return [
        msgspec.structs.replace(item, documents=known.get(f"{item.database}.{item.name}"), indexes=0)
        if {f"{item.database}.{item.name}", f"{item.database}.*"} & touched
        else item
        for item in expected
    ]
