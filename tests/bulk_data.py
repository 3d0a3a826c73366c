"""Gigabytes of the sample data for the benchmark, loaded at the speed of the server. The documents are sample_data's.

A few thousand documents per collection are made and encoded once. Each inserted one is a copy of those bytes with its
own _id, number and amounts written over fixed places, so no two are equal and Python does little per document.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import bson
from bson import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from tests.sample_data import Document, Maker, load

__all__ = ["load_bulk"]

_BATCH_BYTES: Final = 8 << 20
_ID_AT: Final = 4 + 1 + len(b"_id\0")
"""Where the first element's value begins: after the document's length, the type byte and the name."""
_SERIAL: Final = 0x5E41A1_5E41A1
_CHECKSUM: Final = 0x5E41A2_5E41A2
_LOGIN_AT: Final = len(b"\x02loginId\0") + 4 + len("user")
_EPOCH_SECONDS: Final = 1_767_225_600  # 2026-01-01

# Which share of the bytes goes where; the names are those collections that grow on a live site.
_SHARES: Final = {"weeklypaymentplans": 0.6, "users": 0.2, "plannercommissionplans": 0.12, "plannercommissions": 0.08}


def load_bulk(
    db: Database[Document], data_bytes: int, seed: int = 20260301, *, templates: int = 4000
) -> dict[str, int]:
    """Fill an empty database with at least ``data_bytes`` of BSON; returns documents added per collection.

    The small sample data is there too. Meant for measuring: writes are acknowledged, but not awaited on disk.
    """
    load(db, seed=seed)

    def fill(at: int, name: str) -> int:
        return _fill(
            db, name, round(data_bytes * _SHARES[name]) + 1, _templates(name, templates, seed + at + 1), seed + at + 1
        )

    # Two at a time: one encodes while the server works for the other.
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(_SHARES, pool.map(fill, range(len(_SHARES)), _SHARES), strict=True))


def _templates(name: str, count: int, seed: int) -> list[bytes]:
    maker = Maker(seed)
    users = [maker.user(10_000_000 + number) for number in range(count)]
    make: dict[str, Callable[[int], Document]] = {
        "users": lambda at: users[at],
        "weeklypaymentplans": lambda at: maker.plan(users[at]["_id"], users[at]["name"]),
        "plannercommissions": lambda at: maker.commission(users[at], f"2025-{at % 12 + 1:02d}"),
        "plannercommissionplans": lambda at: maker.commission_plan(maker.planners[at % len(maker.planners)], at),
    }
    marks = {"serial": Int64(_SERIAL), "checksum": Int64(_CHECKSUM)}
    return [bson.encode({**make[name](at), **marks}) for at in range(count)]


def _fill(db: Database[Document], name: str, wanted: int, templates: list[bytes], seed: int) -> int:
    """Insert copies of ``templates`` until ``wanted`` bytes are there; returns how many documents that took."""
    # Secondary indexes are built at the end, at once: quicker than keeping them up to date a million times.
    target = db.get_collection(name, write_concern=WriteConcern(w=1, j=False))
    indexes = [index for index in target.list_indexes() if index["name"] != "_id_"]
    target.drop_indexes()
    count = 0
    for batch in _batches(_copies(templates, wanted, seed)):
        target.insert_many(batch, ordered=False, bypass_document_validation=True)
        count += len(batch)
    if indexes:
        db.command("createIndexes", name, indexes=indexes)
    return count


def _copies(templates: list[bytes], wanted: int, seed: int) -> Iterator[bytes]:
    number = random.Random(seed).getrandbits
    places = [_places(template) for template in templates]
    serial = done = 0
    while done < wanted:
        at = serial % len(templates)
        serial_at, checksum_at, login_at = places[at]
        copy = bytearray(templates[at])
        struct.pack_into(
            ">I8s", copy, _ID_AT, _EPOCH_SECONDS + serial // 100, struct.pack(">II", seed & 0xFFFFFFFF, serial)
        )
        struct.pack_into("<q", copy, serial_at, serial)
        struct.pack_into("<Q", copy, checksum_at, number(63))
        if login_at:
            copy[login_at : login_at + 8] = b"%08d" % (20_000_000 + serial)
        serial += 1
        done += len(copy)
        yield bytes(copy)


def _places(template: bytes) -> tuple[int, int, int]:
    """Find what is to be written over: serial, checksum, and the digits of the login name (0 when there is none)."""
    login = template.find(b"\x02loginId\0")
    serial_at, checksum_at = (template.index(struct.pack("<q", mark)) for mark in (_SERIAL, _CHECKSUM))
    return serial_at, checksum_at, login + _LOGIN_AT if login >= 0 else 0


def _batches(documents: Iterator[bytes]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        batch.append(RawBSONDocument(document))
        size += len(document)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
