"""Oplog slices: how long reading one takes, in what memory, how quickly one is renamed, what capturing costs a full.

Reading runs in a process of its own, whose memory is the figure. `measure` is called by the bench itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from unittest import mock

from pymongo import MongoClient, UpdateOne

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources import mongodb
from nanumpay_backupd.sources.oplog_replay import build_replay
from nanumpay_backupd.sources.oplog_slice import OplogReader
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.zstd import ZstdWriter
from tests.bench.measure import settle
from tests.servers.mongod import Mongod
from tests.servers.tools import find_tool

__all__ = ["measure"]

_MB: Final = 1_000_000
_SMALL: Final = 100_000
_LARGE: Final = 1_000_000
_OPLOG_MB: Final = 2000.0
_COLLECTION: Final = "bench_updates"
_DOCUMENTS: Final = 10_000
_WRITES_PER_SECOND: Final = 2_000


class Rows(Protocol):
    """What the bench collects its figures in."""

    def add(self, what: str, measured: float, target: float, *, unit: str = "", least: bool = False) -> None:
        """Add a figure with its target."""

    def fact(self, text: str) -> None:
        """Add a plain fact."""


def measure(folder: Path, server: Mongod, database: str, report: Rows, rounds: int) -> None:
    """Measure all of it on a replica set that holds ``database``; what is added to it is dropped again."""
    work = folder / "slices"
    work.mkdir()
    with server.client() as client:
        client.admin.command({"replSetResizeOplog": 1, "size": _OPLOG_MB})
        target = client[database][_COLLECTION]
        target.insert_many([{"_id": at, "n": 0, "text": "주간 지급 계획 " * 10} for at in range(_DOCUMENTS)])
        small = [_read(work / f"small{at}.bson.zst", server, database, client, _SMALL) for at in range(3)]
        report.add(f"slice of {_SMALL:,} updates, median", sorted(item["seconds"] for item in small)[1], 5, unit=" s")
        large = _read(work / "large.bson.zst", server, database, client, _LARGE)
        report.add(f"memory of reading {_LARGE:,} updates", large["peak"] / _MB, 150, unit=" MB")
        report.fact(
            f"that slice: {large['seconds']:.1f} s, {large['raw'] / _MB:.0f} MB of BSON in {large['size'] / _MB:.0f} MB"
        )
        seconds = _rename(work / "large.bson.zst", work / "oplog.bson", database)
        report.add("slice renamed for a restore, entries per second", _LARGE / seconds, 50_000, least=True)
        _capture(work, server, database, report, rounds)
        target.drop()
    shutil.rmtree(work)


def _newest(client: MongoClient[dict[str, Any]]) -> OpTime:
    time = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
    return OpTime(time.time, time.inc)


def _read(
    path: Path, server: Mongod, database: str, client: MongoClient[dict[str, Any]], updates: int
) -> dict[str, Any]:
    """Make so many updates, then read them as a slice in another process."""
    after = _newest(client)
    target = client[database][_COLLECTION]
    for start in range(0, updates, 10_000):
        changes = [
            UpdateOne({"_id": at % _DOCUMENTS}, {"$set": {"n": at, "by": f"user{at % 97}"}})
            for at in range(start, start + 10_000)
        ]
        target.bulk_write(changes, ordered=False)
    settle()
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.slices", "read", server.uri, database, str(after), str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["entries"] >= updates, found
    return found


def _read_here(uri: str, database: str, after: str, path: str) -> None:
    """What the other process does; figures go to standard output."""
    began = time.perf_counter()
    settings = MongoSource(uri=Secret(uri), database=database)
    with OplogReader(settings) as reader, ZstdWriter(Path(path)) as writer:
        found = reader.read(OpTime.parse(after), (database,), writer.write, lambda _entries, _size: None)
        written = writer.finish()
    figures = {
        "seconds": time.perf_counter() - began,
        "entries": found.entries,
        "raw": written.raw_bytes,
        "size": written.size,
        "peak": _peak(),
    }
    print(json.dumps(figures))


def _peak() -> int:
    """Return the largest resident memory of this process so far, in bytes.

    Not by getrusage, which counts what the process was before it became this program.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def _rename(path: Path, output: Path, database: str) -> float:
    settle()
    began = time.perf_counter()
    build_replay([path], output, after=None, until=None, names={database: f"{database}_restored"})
    return time.perf_counter() - began


def _capture(work: Path, server: Mongod, database: str, report: Rows, rounds: int) -> None:
    """Dump with and without capturing the oplog beside it, in turn, under the same writes."""
    settings = MongoSource(
        uri=Secret(server.uri_for(database)), database=database, mongodump=str(find_tool("mongodump"))
    )
    times: dict[bool, list[float]] = {True: [], False: []}
    with _writes(server, database):
        for number in range(2 * rounds):
            captures = number % 2 == 0
            settle()
            times[captures].append(_dump(settings, work / "dump", captures=captures))
    ratios = sorted(one / other for one, other in zip(times[True], times[False], strict=True))
    report.add("mongodump with the oplog captured beside it / without", ratios[len(ratios) // 2], 1.1)
    report.fact(
        f"that dump, under {_WRITES_PER_SECOND:,} updates per second: {min(times[False]):.2f} s without, at best"
    )


def _dump(settings: MongoSource, folder: Path, *, captures: bool) -> float:
    """Return the seconds from the start of a dump to its judgement."""
    folder.mkdir()
    source = mongodb.MongoDatabase(settings)
    source.preflight()
    with mock.patch.object(mongodb, "_begin_capture", mongodb._begin_capture if captures else _no_capture):
        began = time.perf_counter()
        dump = source.start(folder)
        while not dump.wait(0.01):
            pass
        taken = time.perf_counter() - began
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    level = dump.harvest(sizes).consistency.level
    assert (level == "point-in-time") is captures, level
    shutil.rmtree(folder)
    return taken


def _no_capture(*_: object) -> tuple[None, str]:
    return None, "not captured, for a comparison"


@contextmanager
def _writes(server: Mongod, database: str) -> Iterator[None]:
    """Update documents steadily, from another process, for the length of a with block."""
    writer = subprocess.Popen([sys.executable, "-m", "tests.bench.slices", "write", server.uri, database])
    try:
        yield
    finally:
        writer.terminate()
        writer.wait()


def _write_here(uri: str, database: str) -> None:
    """What the other process does until it is ended."""
    target = MongoClient[dict[str, Any]](uri)[database][_COLLECTION]
    batch, at, due = 100, 0, time.monotonic()
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        changes = [UpdateOne({"_id": (at + one) % _DOCUMENTS}, {"$inc": {"n": 1}}) for one in range(batch)]
        target.bulk_write(changes, ordered=False)
        at += batch
        due += batch / _WRITES_PER_SECOND


if __name__ == "__main__":
    if sys.argv[1] == "read":
        _read_here(*sys.argv[2:])
    else:
        _write_here(*sys.argv[2:])
