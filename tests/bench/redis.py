"""A million keys of Redis: as its RDB file beside redis-cli --rdb, and key by key. By itself: -m tests.bench.redis."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.model import Stage
from nanumpay_backupd.settings.schema import JobSpec, Paths, RestoreOrder, RunSpec, encode_spec
from nanumpay_backupd.settings.sources import RedisMode
from tests.bench.measure import timed
from tests.bench.report import Report
from tests.bench.site import median_of
from tests.servers.redis import Redis, find_redis, start_redis
from tests.workbench import job_spec

_KEYS: Final = 1_000_000
_MODES: Final = (RedisMode.SNAPSHOT, RedisMode.LOGICAL)


def measure(folder: Path, report: Report, rounds: int, keys: int = _KEYS) -> None:
    """Add what a server with so many small keys takes; in turn, so that both meet the same machine."""
    with (
        start_redis(folder / "redis", password="", enable_debug_command="yes") as server,
        start_redis(folder / "other", password="") as other,
    ):
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
        back = {mode: _restore(folder / f"{mode}0", server, other, mode) for mode in _MODES}
        peaks += [peak for _, peak in back.values()]
        report.add(
            "Redis, 1,000,000 keys: dump to the commit / `redis-cli --rdb`", median_of(ours) / median_of(raw), 1.2
        )
        report.add("Redis, key by key, keys per second", median_of(speeds), 100_000, least=True)
        report.add("Redis, memory of a run with 1,000,000 keys", max(peaks) / 1_000_000, 150, unit=" MB")
        told = ", ".join(f"{mode} {took:.1f} s" for mode, (took, _) in back.items())
        report.fact(f"those keys proven, restored and compared one by one, as a whole run: {told}")
        report.fact(f"redis-cli --rdb: {median_of(raw):.2f} s; ours, dump to commit: {median_of(ours):.2f} s")


def _run(folder: Path, server: Redis, mode: str) -> tuple[float, float, int]:
    """Back it up in a worker; returns seconds from the dump to the commit, those of the dump, and the most memory."""
    folder.mkdir()
    (folder / "state").mkdir()
    spec = _spec(folder, server, mode, "backup")
    peak = _worker(spec)
    began, dumped, committed = _times(spec.paths)
    return (committed - began).total_seconds(), (dumped - began).total_seconds(), peak


def _restore(folder: Path, server: Redis, other: Redis, mode: str) -> tuple[float, int]:
    """Restore what `_run` made in ``folder`` into an empty server; returns seconds, and the most memory."""
    from nanumpay_backupd.catalog import Catalog

    other.ask("FLUSHALL")
    spec = _spec(folder, server, mode, "restore")
    with Catalog(spec.paths.state / "catalog.db") as catalog:
        (backup,) = catalog.backups()
    order = RestoreOrder(backup=backup.id, to_database=f"redis://{other.address}")
    began = time.monotonic()
    peak = _worker(msgspec.structs.replace(spec, restore=order))
    return time.monotonic() - began, peak


def _spec(folder: Path, server: Redis, mode: str, action: str) -> RunSpec:
    job: JobSpec = job_spec(name="bench", source=server.settings(mode=mode))
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
    return RunSpec(run=f"{action}1", job=job, paths=paths, trigger="manual", action=action)


def _worker(spec: RunSpec) -> int:
    """Do a run as the daemon has it done; returns the most memory that it took, in bytes."""
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
    return usage.ru_maxrss << 10


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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        measure(Path(base), Report(), 3)
