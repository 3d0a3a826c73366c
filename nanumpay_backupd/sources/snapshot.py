"""Reads the content of a server's collections, as they are or as they were at a moment; decodes no document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from bson.timestamp import Timestamp
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from nanumpay_backupd.model import Content, OpTime
from nanumpay_backupd.sources.bson_walk import BsonWalk

__all__ = ["read_content"]

_BATCH: Final = 10_000
"""Documents asked for at once; the server ends a batch at 16 MiB anyway."""


def read_content(
    collection: Collection[dict[str, Any]], at: OpTime | None = None, progress: Callable[[int], None] | None = None
) -> Content:
    """Read a whole collection; with ``at``, as it was at that moment (a replica set's recent past, MongoDB 5.0).

    Of a time-series collection the buckets are meant: give ``system.buckets.NAME``. ``progress`` gets the bytes of each
    batch and may raise. Raises PyMongoError, among others when the server no longer has that moment.
    """
    if at is not None:
        collection = collection.with_options(read_concern=_AsOf(at))
    walk = BsonWalk(f"what the server gives of {collection.full_name}")
    with collection.find_raw_batches(batch_size=_BATCH) as cursor:
        for raw in cursor:
            batch = cast("bytes", raw)  # pymongo's annotation names the documents' type
            walk(batch)
            if progress is not None:
                progress(len(batch))
    return Content(documents=walk.count, digest=walk.digest)


class _AsOf(ReadConcern):
    """The read concern ``snapshot`` at a moment of ours; pymongo's own sessions let the server choose it."""

    def __init__(self, moment: OpTime) -> None:
        super().__init__("snapshot")
        self._moment = Timestamp(moment.seconds, moment.counter)

    @property
    def document(self) -> dict[str, Any]:
        return {**super().document, "atClusterTime": self._moment}
