"""Snapshots of one collection as Extended JSON: which files of an archive are such, and their way back into BSON.

A snapshot as BSON is an archive like any other, and needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from nanumpay_backupd.model import BUCKETS, CollectionStat, Kind, Manifest
from nanumpay_backupd.sources.extended_json import JsonLines, ToBson, file_stem

__all__ = ["MEASURED", "check_lines", "json_files", "writer"]

MEASURED: Final = "measured"
"""The folder beside the unpacked one for the documents of a time-series collection.

mongorestore fills such a collection with the buckets in which it is stored, never with documents: these have to be
restored by themselves, into the collection that was made empty before (seen with 100.7 on MongoDB 6.0).
"""
Check = Callable[[str], Callable[[bytes], None] | None]


def json_files(manifest: Manifest | None) -> dict[str, CollectionStat]:
    """Return what a manifest says of the Extended JSON files in an archive, by their path below the backup's folder.

    A collection ``x.metadata`` is in ``x.metadata.json``, as elsewhere the metadata of ``x``; a snapshot holds one
    collection only, so that the manifest tells which it is. Of a snapshot as BSON the files named here do not exist.
    """
    if manifest is None or manifest.kind is not Kind.COLLECTION:
        return {}
    return {f"{item.database}/{file_stem(item.name)}.json": item for item in manifest.source.collections}


def check_lines(check: Check, manifest: Manifest) -> Check:
    """Return ``check`` (`sources.base.Source.check`) with the knowledge of Extended JSON added."""
    files = json_files(manifest)
    return lambda path: JsonLines(path) if path in files else check(path)


def writer(stat: CollectionStat, file: Path) -> IO[bytes] | ToBson:
    """Return where to write a file of Extended JSON, so that mongorestore finds its documents in ``file`` as BSON.

    Of a time-series collection it finds no buckets there, and the documents below `MEASURED`; ``file`` is
    ``FOLDER/DATABASE/NAME.bson`` for both.
    """
    if stat.type != "timeseries":
        return ToBson(file.open("xb"), file.name)
    (file.parent / f"{BUCKETS}{file.name}").touch(exist_ok=False)
    measured = file.parents[1].with_name(MEASURED) / file.parent.name / file.name
    measured.parent.mkdir(parents=True)
    return ToBson(measured.open("xb"), file.name)
