"""MariaDB beside mariadb-dump | igzip, SQLite beside sqlite3 .backup and igzip. By itself: -m tests.bench.sql."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Stage
from nanumpay_backupd.settings.schema import Paths, RunSpec, encode_spec
from nanumpay_backupd.settings.sources import Source, SqliteSource
from tests.bench.measure import timed
from tests.bench.report import Report
from tests.bench.site import median_of
from tests.servers.mariadb import Mariadb, start_mariadb
from tests.servers.tools import find_tool
from tests.workbench import job_spec

_ROWS: Final = 1_500_000
_MB: Final = 1_000_000
_FILL: Final = f"""
CREATE DATABASE bench CHARACTER SET utf8mb4;
USE bench;
CREATE TABLE t (id INT PRIMARY KEY, who VARCHAR(80), at TIMESTAMP NULL, amount DECIMAL(12, 2), note VARCHAR(200));
INSERT INTO t SELECT seq, CONCAT('손님 ', seq), FROM_UNIXTIME(1700000000 + seq), seq / 7,
  CONCAT('order ', seq, ' ', MD5(seq), ' paid by ', MD5(seq * 7)) FROM seq_1_to_{_ROWS};
"""
_LEVEL: Final = "-2"
"""Of igzip: that of our artifacts."""


def measure(folder: Path, report: Report, rounds: int) -> None:
    """Add what databases of some hundred megabytes take, in turn with what one would type."""
    with start_mariadb(extra=["--innodb-buffer-pool-size=1G"]) as server:
        server.run(f"{_FILL}ANALYZE TABLE t;")
        size = int(
            server.run("SELECT SUM(data_length) FROM information_schema.tables WHERE table_schema = 'bench'")[0][0]
        )
        _compare(
            report,
            f"MariaDB, {_ROWS:,} rows",
            "`mariadb-dump \\| igzip`",
            folder / "mariadb",
            lambda: server.settings("bench"),
            _typed(server, folder / "mariadb.sql.gz"),
            rounds,
            1.1,
        )
        report.fact(f"that database: {size / _MB:.0f} MB in InnoDB")
    path = folder / "bench.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, who TEXT, note TEXT)")
        rows = ((at, f"손님 {at}", f"order {at} {hash((at, 7))} {hash((at, 9)):x}") for at in range(2 * _ROWS))
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    copy = folder / "copy.db"
    backup = shlex.join([str(find_tool("sqlite3")), str(path), f".backup {copy}"])
    line = f"rm -f {copy} && {backup} && {find_tool('igzip')} {_LEVEL} -c {copy} > {copy}.gz"
    _compare(
        report,
        f"SQLite, {path.stat().st_size / _MB:.0f} MB",
        "`sqlite3 .backup`, then `igzip`",
        folder / "sqlite",
        lambda: SqliteSource(path=(str(path),)),
        line,
        rounds,
        2.0,
    )


def _compare(
    report: Report,
    what: str,
    other: str,
    folder: Path,
    source: Callable[[], Source],
    line: str,
    rounds: int,
    target: float,
) -> None:
    """Run both in turn and add the ratio and the memory."""
    theirs, ours, peaks = [], [], []
    folder.mkdir()
    for number in range(rounds):
        theirs.append(timed([], shell=line))
        took, peak = _run(folder / f"round{number}", source())
        ours.append(took)
        peaks.append(peak)
    report.add(f"{what}: dump to the commit / {other}", median_of(ours) / median_of(theirs), target)
    report.add(f"{what}: memory of the worker", max(peaks) / _MB, 150, unit=" MB")
    report.fact(f"{what}: {other} {median_of(theirs):.2f} s; ours, dump to commit: {median_of(ours):.2f} s")


def _typed(server: Mariadb, target: Path) -> str:
    dump = shlex.join(
        [
            *(str(find_tool("mariadb-dump")), "--no-defaults", f"--socket={server.socket}", "--user=root"),
            *("--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob", "bench"),
        ]
    )
    return f"{dump} | {find_tool('igzip')} {_LEVEL} > {shlex.quote(str(target))}"


def _run(folder: Path, source: Source) -> tuple[float, int]:
    """Back it up in a worker; returns seconds from the dump to the commit, and the worker's most memory in bytes."""
    folder.mkdir()
    (folder / "state").mkdir()
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
    spec = RunSpec(run="run1", job=job_spec(name="bench", source=source), paths=paths, trigger="manual")
    process = subprocess.Popen(
        [sys.executable, "-m", "nanumpay_backupd", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(encode_spec(spec))
    process.stdin.close()
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(said.decode())
    with Catalog(paths.state / "catalog.db") as catalog:
        (run,) = catalog.runs()
    stages = {stage.stage: stage for stage in run.stages}
    committed = stages[Stage.PUBLISH].ended
    assert committed is not None
    return (committed - stages[Stage.DUMP].started).total_seconds(), usage.ru_maxrss << 10


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        measure(Path(base), Report(), 3)
