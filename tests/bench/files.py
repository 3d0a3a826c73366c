"""100,000 small files: beside `tar | igzip` by hand and restic's first backup; an increment of nothing new.

By itself: -m tests.bench.files. restic is measured where it is installed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Run, Stage
from nanumpay_backupd.settings.schema import JobSpec, Paths, RunSpec, encode_spec
from nanumpay_backupd.settings.sources import FilesSource
from tests.bench.measure import settle, timed
from tests.bench.report import Report
from tests.bench.site import median_of
from tests.servers.tools import find_tool, has_tool
from tests.workbench import job_spec

_FILES: Final = 100_000
_FOLDERS: Final = 1_000
_SIZE: Final = 10_000
"""Bytes of a file, on average: 1 GB of all."""
_POOL: Final = 8 << 20


def fill(tree: Path, files: int = _FILES) -> None:
    """Make the tree: half of each file is text, half of it is as pictures are."""
    chance = random.Random(7)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 12))) for _ in range(5000)]
    text = b" ".join(chance.choices(words, k=_POOL // 7))
    noise = chance.randbytes(_POOL)
    for folder in range(_FOLDERS):
        place = tree / f"{folder % 10}" / f"{folder:04}"
        place.mkdir(parents=True)
        for at in range(files // _FOLDERS):
            size = chance.randint(0, _SIZE)
            begin = chance.randrange(_POOL - 2 * _SIZE)
            (place / f"file-{at:03}.dat").write_bytes(text[begin : begin + size] + noise[begin : begin + size])


def measure(folder: Path, report: Report, rounds: int) -> None:
    """Add what a tree of so many files takes; in turn, so that all ways meet the same machine."""
    tree = folder / "tree"
    fill(tree)
    settle()
    by_hand, restic, ours, calls, ends, nothing, peaks = [], [], [], [], [], [], []
    for number in range(rounds):
        out = folder / f"out{number}"
        out.mkdir()
        if has_tool("igzip"):
            target = f"'{out}/plain.tar.gz'"
            line = f"tar -cf - -C '{tree}' . | {find_tool('igzip')} -c > {target} && sync {target}"
            by_hand.append(timed([], shell=line))
        if shutil.which("restic"):
            restic.append(_restic(tree, out))
        host = _Host(out, tree)
        run, took, peak = host.run()
        calls.append(took - _seconds(run, Stage.VERIFY, Stage.RETENTION))
        ends.append(took)
        ours.append((_stage(run, Stage.PUBLISH)[1] - _stage(run, Stage.DUMP)[0]).total_seconds())
        peaks.append(peak)
        _, took, peak = host.run("slice", kind="incremental")
        nothing.append(took)
        peaks.append(peak)
        shutil.rmtree(out)
    if by_hand:
        report.add("100,000 files (1 GB): dump to commit / `tar | igzip`", median_of(ours) / median_of(by_hand), 1.1)
    if restic:
        report.add(
            "100,000 files: from the call to the commit / restic's first backup",
            median_of(calls) / median_of(restic),
            1.0,
        )
    report.add("100,000 files: an increment of nothing new, from the call to the end", median_of(nothing), 3, unit=" s")
    report.add("100,000 files: memory of a run", max(peaks) / 1_000_000, 250, unit=" MB")
    for name, found in (("tar | igzip", by_hand), ("restic", restic)):
        if found:
            report.fact(f"{name}: {median_of(found):.2f} s")
    report.fact(
        f"ours: dump to commit {median_of(ours):.2f} s, from the call {median_of(calls):.2f} s, "
        f"with the reading back {median_of(ends):.2f} s"
    )


def _restic(tree: Path, out: Path) -> float:
    """Return the seconds of restic's first backup into a repository that is there already."""
    environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(out / "restic")}
    common: dict[str, Any] = {"env": environment, "check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["restic", "--no-cache", "init"], **common)
    began = time.perf_counter()
    subprocess.run(["restic", "--no-cache", "--quiet", "backup", str(tree)], **common)
    return time.perf_counter() - began


class _Host:
    """A backups folder and a catalog of their own."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self._paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "socket")
        (folder / "state").mkdir()
        self._tree = tree
        self._runs = 0

    def run(self, action: str = "backup", **more: Any) -> tuple[Run, float, int]:
        """Do a run in a worker; returns its record, its seconds with the start of the process, and the most memory."""
        self._runs += 1
        job: JobSpec = job_spec(name="bench", source=FilesSource(path=(str(self._tree),)))
        spec = RunSpec(run=f"run{self._runs}", job=job, paths=self._paths, trigger="manual", action=action, **more)
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "nanumpay_backupd", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode_spec(spec))
        process.stdin.close()
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(b"\n".join(lines).decode())
        with Catalog(self._paths.state / "catalog.db") as catalog:
            (run,) = [run for run in catalog.runs() if run.id == spec.run]
        return run, took, usage.ru_maxrss << 10


def _stage(run: Run, stage: Stage) -> tuple[datetime, datetime]:
    (found,) = [one for one in run.stages if one.stage == stage]
    assert found.ended is not None
    return found.started, found.ended


def _seconds(run: Run, *stages: Stage) -> float:
    """Return the seconds of those stages that the run had."""
    return sum(
        (one.ended - one.started).total_seconds() for one in run.stages if one.stage in stages and one.ended is not None
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        measure(Path(base), Report(), int(sys.argv[1]) if len(sys.argv) > 1 else 3)
