"""Uploads to Azure in blocks, and going on with what an earlier one left. What becomes of blocks is not known here.

A block is named by its place and its content, so that who asks for the blocks that are there knows which are the
file's. Azure keeps them for a week, as no blob, until a list of blocks makes one of them.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import xxhash
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobClient

from nanumpay_backupd.stores.azure_errors import status
from nanumpay_backupd.stores.base import Progress, Resumed, store_error
from nanumpay_backupd.stores.payload import Body, Payload

__all__ = ["Moved", "block_length", "left_there", "md5", "send_blocks"]

_MOST_BLOCKS: Final = 50_000


class Moved:
    """Progress of blocks, which come in any order: what was sent, and what was there."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self.resumed = 0

    def add(self, sent: int, found: int) -> None:
        """Tell that so many bytes were sent, or found to be there, since the last call."""
        if found:
            self.resumed += found
            self._report(Resumed(found))
        self._report(sent)


def left_there(blob: BlobClient) -> dict[str, int]:
    """Return the sizes of the blocks that an earlier put left, by their names; none where that is not told."""
    try:
        _, found = blob.get_block_list("uncommitted")
    except AzureError as error:
        if status(error) in (403, 404):
            return {}
        raise
    return {str(block.id): int(block.size or 0) for block in found}


def send_blocks(
    blob: BlobClient,
    payload: Payload,
    length: int,
    there: Mapping[str, int],
    moved: Moved,
    *,
    parallel: int,
    pace: Callable[[int], None] | None,
) -> tuple[list[str], bytes]:
    """Send a file in blocks of ``length`` bytes, but for those that are ``there``, a few at a time.

    Returns the names of all in their order, and the MD5 of the whole. ``moved`` is told by this thread only.
    """
    whole = hashlib.md5(usedforsecurity=False)
    names: list[str] = []
    stop = threading.Event()

    def send(name: str, data: bytes) -> int:
        if stop.is_set():
            raise store_error("destination-failed", "stopped")
        checksum = b64encode(md5(data)).decode("ascii")
        body = data if pace is None else Body(data, pace)
        blob.stage_block(name, body, length=len(data), headers={"Content-MD5": checksum})
        return len(data)

    blocks = _blocks(payload, length, whole)
    ready = next(blocks, None)
    with ThreadPoolExecutor(parallel, thread_name_prefix="azure-block") as pool:
        pending: set[Future[int]] = set()
        try:
            while ready is not None or pending:
                sent = found = 0
                # What is found is told at once, one by one: the callback may break off.
                while ready is not None and len(pending) < parallel and not found:
                    name, data = ready
                    names.append(name)
                    if there.get(name) == len(data):
                        found = len(data)
                    else:
                        pending.add(pool.submit(send, name, data))
                    ready = next(blocks, None)  # read and summed while others travel
                if not found:
                    finished, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                    sent = sum(future.result() for future in finished)
                moved.add(sent, found)
        except BaseException:
            stop.set()
            raise
    return names, whole.digest()


def block_length(size: int, wanted: int) -> int:
    """Return the bytes per block: as wanted, but so that no more than 50,000 are needed, as Azure asks for."""
    needed = -(-size // _MOST_BLOCKS)
    return wanted if needed <= wanted else -(-needed // (1 << 20)) << 20


def _blocks(payload: Payload, length: int, whole: Any) -> Iterator[tuple[str, bytes]]:
    """Yield a file in blocks, each with its name: its place and its content; ``whole`` sums all of it up."""
    for number, data in enumerate(payload.pieces(length)):
        whole.update(data)
        yield f"{number:06}-{xxhash.xxh3_128_hexdigest(data)}", data


def md5(data: bytes) -> bytes:
    """Return the MD5 of a block, by which Azure finds damage; it guards against no person."""
    return hashlib.md5(data, usedforsecurity=False).digest()
