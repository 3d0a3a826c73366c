"""A million keys of Redis: as its RDB file beside redis-cli --rdb, and key by key. By itself: -m tests.bench.redis."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nanumpay_backupd.model import Stage
from nanumpay_backupd.settings.schema import JobSpec, Paths, RunSpec, encode_spec
from nanumpay_backupd.settings.sources import RedisMode
from tests.bench.measure import timed
from tests.bench.site import median_of
from tests.servers.redis import Redis, find_redis, start_redis
from tests.workbench import job_spec

if TYPE_CHECKING:
    from tests.bench.__main__ import Report

_KEYS: Final = 1_000_000


def measure(folder: Path, report: Report, rounds: int, keys: int = _KEYS) -> None:
    """Add what a server with so many small keys takes; in turn, so that both meet the same machine."""
    with start_redis(folder / "redis", password="", enable_debug_command="yes") as server:
        server.ask("DEBUG", "POPULATE", keys, "key", 20)
        raw, ours, speeds, peaks = [], [], [], []
        cli = [find_redis("redis-cli"), "-p", str(server.port), "--rdb", str(folder / "dump.rdb")]
        for number in range(rounds):
            raw.append(timed(cli))
            took, _, peak = _run(folder / f"snapshot{number}", server, RedisMode.SNAPSHOT)
            ours.append(took)
            peaks.append(peak)
            _, dumping, peak = _run(folder / f"logical{number}", server, RedisMode.LOGICAL)
            speeds.append(keys / dumping)
            peaks.append(peak)
        report.add(
            "Redis, 1,000,000 keys: dump to the commit / `redis-cli --rdb`", median_of(ours) / median_of(raw), 1.2
        )
        report.add("Redis, key by key, keys per second", median_of(speeds), 100_000, least=True)
        report.add("Redis, memory of a run with 1,000,000 keys", max(peaks) / 1_000_000, 150, unit=" MB")
        report.fact(f"redis-cli --rdb: {median_of(raw):.2f} s; ours, dump to commit: {median_of(ours):.2f} s")


def _run(folder: Path, server: Redis, mode: str) -> tuple[float, float, int]:
    """Back it up in a worker; returns seconds from the dump to the commit, those of the dump, and the most memory."""
    folder.mkdir()
    source = server.settings(mode=mode)
    job: JobSpec = job_spec(name="bench", source=source)
    (folder / "state").mkdir()
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
    spec = RunSpec(run="run1", job=job, paths=paths, trigger="manual")
    process = subprocess.Popen(
        [sys.executable, "-m", "nanumpay_backupd", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(encode_spec(spec))
    process.stdin.close()
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(b"\n".join(lines).decode())
    began, dumped, committed = _times(paths)
    return (committed - began).total_seconds(), (dumped - began).total_seconds(), usage.ru_maxrss << 10


def _times(paths: Paths) -> tuple[datetime, datetime, datetime]:
    """Return when the dump began and ended, and when it was committed, as the catalog has it."""
    from nanumpay_backupd.catalog import Catalog

    with Catalog(paths.state / "catalog.db") as catalog:
        (run,) = catalog.runs()
    ends = {stage.stage: stage for stage in run.stages}
    dump, publish = ends[Stage.DUMP], ends[Stage.PUBLISH]
    assert dump.ended is not None
    assert publish.ended is not None
    return dump.started, dump.ended, publish.ended


class _Printed:
    """A report that only prints."""

    def add(self, what: str, measured: float, target: float, *, unit: str = "", least: bool = False) -> None:
        """Print a row."""
        kept = measured >= target if least else measured <= target
        print(f"  {'✓' if kept else '✗'} {what}: {measured:,.2f}{unit} (target {target:g}{unit})", flush=True)

    def fact(self, text: str) -> None:
        """Print a fact."""
        print(f"    {text}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        measure(Path(base), _Printed(), 3)  # type: ignore[arg-type]
