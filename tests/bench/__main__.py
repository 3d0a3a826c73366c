"""`make bench`: runs every measurement, prints the table and writes docs/benchmarks.md. Nothing is judged in a test."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.servers.environment import clean_environment

clean_environment()

from tests.bench import crowd, encrypted, restores, slices  # noqa: E402
from tests.bench.apart import PARTS, measure_apart  # noqa: E402
from tests.bench.measure import Peak, rss, settle, timed  # noqa: E402
from tests.bench.report import Report, Row  # noqa: E402
from tests.bench.site import DATABASE, SETTINGS, Site, median_of  # noqa: E402
from tests.bulk_data import load_bulk  # noqa: E402
from tests.sample_data import save_settings  # noqa: E402
from tests.servers.mongod import Mongod, start_mongod  # noqa: E402
from tests.servers.tools import PROJECT, find_tool  # noqa: E402

_GB: Final = 1_000_000_000
_MB: Final = 1_000_000


def main() -> int:
    """Measure everything; returns 0 when every promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--bytes", type=float, default=1.17 * _GB, help="size of the data (default: 1.17e9)")
    parser.add_argument("--large", type=float, default=4 * _GB, help="size for the memory comparison; 0 skips it")
    parser.add_argument("--cache", type=int, default=2048, help="MiB of cache for mongod (default: 2048)")
    parser.add_argument("--rounds", type=int, default=5, help="how often the ways are run in turn")
    parser.add_argument("--only", choices=("core", "encryption", *PARTS), help="measure one part anew, the rest stays")
    options = parser.parse_args()
    base = PROJECT / ".tools"
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    rows: list[Row] = []
    try:
        if options.only in (None, "core", "encryption"):
            with start_mongod(folder / "db", replica_set=True) as server:
                rows += _with_mongod(folder, server, options)
        for name in PARTS:
            if options.only in (None, name):
                rows += _section(measure_apart(name, folder, options.rounds), name, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nwritten to {_PAGE.relative_to(PROJECT)}")
    return 0 if all(row.kept for row in rows) else 1


def _with_mongod(folder: Path, server: Mongod, options: argparse.Namespace) -> list[Row]:
    """Measure what is about MongoDB; what is there is on the page before the next part begins."""
    print(f"Loading {options.bytes / _GB:.2f} GB of sample data ...", flush=True)
    with server.client() as client:
        client.admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": f"cache_size={options.cache}M"})
        load_bulk(client[DATABASE], int(options.bytes))
        save_settings(client[DATABASE], SETTINGS)
        client.admin.command("fsync")  # what was loaded is not written under the first measurements
    settle()
    rows: list[Row] = []
    if options.only != "core":
        report, rounds = Report(), max(options.rounds, encrypted.LEAST_ROUNDS)
        encrypted.measure(folder, server, DATABASE, report, rounds)
        rows += _section(report, "encryption", rounds)
    if options.only != "encryption":
        report = Report()
        _measure(folder, server, report, options)
        rows += _head(report, options)
    return rows


def _measure(folder: Path, server: Mongod, report: Report, options: argparse.Namespace) -> None:
    site = Site(folder, server)
    with site.daemon():
        report.add("daemon, idle, RSS", rss(site.pid) / _MB, 60, unit=" MB")
        _latencies(site, report)
        _ways(folder, site, server, report, options.rounds)
        restores.measure(folder, site, report, options.rounds)
        small = _memory(site)
        size = f"{options.bytes / _GB:.1f} GB"
        report.add(f"peak memory of daemon, worker and children at {size}", small, 350, unit=" MB")
        if options.large:
            print(f"Loading up to {options.large / _GB:.1f} GB ...", flush=True)
            with server.client() as client:
                client.drop_database(DATABASE)
                load_bulk(client[DATABASE], int(options.large))
                save_settings(client[DATABASE], SETTINGS)
            large = _memory(site)
            report.add(f"the same at {options.large / _GB:.1f} GB", large, 350, unit=" MB")
            report.add("memory at the larger size / at the smaller", large / small, 1.15)
        crowd.measure(site, report)
    slices.measure(folder, server, DATABASE, report, options.rounds)


def _latencies(site: Site, report: Report) -> None:
    found = site.settings_latency(10)
    report.add("settings saved → new next run in status, median", median_of(found) * 1000, 200, unit=" ms")
    report.fact(f"slowest of {len(found)}: {max(found) * 1000:.0f} ms")
    site.backupctl("status")
    status = [site.backupctl("status") for _ in range(15)]
    report.add("`backupctl status`, whole process, median", median_of(status) * 1000, 150, unit=" ms")


def _ways(folder: Path, site: Site, server: Mongod, report: Report, rounds: int) -> None:
    """Run the ways in turn, so that a change of the machine's speed meets all of them."""
    out = folder / "out"
    uri = server.uri_for(DATABASE)
    dump = f"'{find_tool('mongodump')}' --uri='{uri}' --db={DATABASE}"
    ways: dict[str, str] = {
        "raw": f"{dump} --out='{out}'",
        "seed": f"{dump} --out='{out}/x' && tar -czf '{out}/x.tar.gz' -C '{out}' x",
        "gzip": f"{dump} --gzip --archive='{out}/x.archive.gz'",
    }
    times: dict[str, list[float]] = {name: [] for name in (*ways, "ours", "call", "whole")}
    staging, verify, sizes = [], [], []
    for number in range(rounds):
        for name, line in ways.items():
            # The slow ways are run less often: their ratios are far from their targets.
            if name == "raw" or number < max(2, rounds // 2):
                times[name].append(_clean(out, lambda line=line: timed([], shell=line)))  # type: ignore[misc]
        settle()
        # Sampling folders costs processor time, so it is done in a round that is not timed.
        ours, call, whole, record = site.run()
        times["ours"].append(ours)
        times["call"].append(call)
        times["whole"].append(whole)
        manifest = site.call("DescribeBackup", backup=record["backup"])["backup"]["manifest"]
        sizes = [manifest["artifact"]["raw_bytes"], manifest["artifact"]["size"]]
        verify.append(manifest["verification"][-1]["bytes"] / manifest["verification"][-1]["seconds"])
        print(f"    round {number + 1}: " + ", ".join(f"{n} {t[-1]:.2f} s" for n, t in times.items()), flush=True)
    with Peak.of_folder(site.staging) as peak:
        site.run()
    staging.append(peak.value)
    raw, artifact = sizes
    ratios = [ours / plain for ours, plain in zip(times["ours"], times["raw"], strict=True)]
    report.add("dump to the committed, hashed manifest / raw mongodump --out", median_of(ratios), 1.5)
    ours = median_of(times["ours"])
    report.add("seed (mongodump && tar -czf) / dump to commit", median_of(times["seed"]) / ours, 6, least=True)
    report.add("mongodump --gzip --archive / dump to commit", median_of(times["gzip"]) / ours, 4, least=True)
    report.add("read-back verification, BSON per second", median_of(verify) / _MB, 300, unit=" MB/s", least=True)
    report.add("staging beyond the artifact, share of the raw size", (peak.value - artifact) / raw, 0.1)
    report.fact(f"{raw / _GB:.2f} GB of BSON in {artifact / _MB:.0f} MB; staging peak {peak.value / _MB:.0f} MB")
    for name, label in _LABELS.items():
        report.fact(f"{label}: {median_of(times[name]):.2f} s (median of {len(times[name])})")


_PAGE: Final = PROJECT / "docs" / "benchmarks.md"
_LABELS: Final = {
    "raw": "raw mongodump --out",
    "ours": "nanumpay-backupd, dump to commit",
    "call": "nanumpay-backupd, from the call to the commit (a new process, preflight)",
    "whole": "nanumpay-backupd, from the call to the end (verification and retention too)",
    "gzip": "mongodump --gzip --archive",
    "seed": "seed: mongodump, then tar -czf",
}


def _clean(out: Path, work: Callable[[], float]) -> float:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        return work()
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _memory(site: Site) -> float:
    """Return the largest sum of resident memory during a run, in MB."""
    with Peak.of_memory(site.pid) as peak:
        site.run()
    return peak.value / _MB


def _head(report: Report, options: argparse.Namespace) -> list[Row]:
    """Write the head of docs/benchmarks.md: the machine, the date, the table. What is measured apart stays."""
    _, mark, sections = _PAGE.read_text(encoding="utf-8").partition("\n## ")
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; every table is measured in one run, the ways in turn, so the ratios hold where the",
        "seconds do not. mongod runs on the same processors. Its cache matters: the less of the data it holds, the",
        "slower the raw dump, and the less there is to add to it (`make bench BENCH_ARGS='--cache 256'` tries that).",
        "",
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- machine: {os.cpu_count()} processors ({_processor()}), {_memory_size()}, Linux {platform.release()}",
        f"- Python {platform.python_version()}, {_version('mongod')}, {_version('mongodump')}",
        f"- mongod's cache: {options.cache} MiB; rounds: {options.rounds}",
        "",
        *_table(report),
    ]
    _PAGE.write_text("\n".join(lines) + mark + sections, encoding="utf-8")
    return report.rows


def _section(report: Report, name: str, rounds: int) -> list[Row]:
    """Write what was measured apart into a section of its own, in the place of the one that was there."""
    title = f"## {name.capitalize()}, measured apart"
    page = _PAGE.read_text(encoding="utf-8")
    page = re.sub(rf"(?ms)^{re.escape(title)}$.*?(?=^## |\Z)", "", page).rstrip()
    lines = [
        page,
        "",
        title,
        "",
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; rounds: {rounds}",
        "",
        *_table(report),
    ]
    _PAGE.write_text("\n".join(lines), encoding="utf-8")
    return report.rows


def _table(report: Report) -> list[str]:
    """Return the rows as a table, and the facts below it."""
    return [
        "| what | measured | target | |",
        "|---|---:|---:|---|",
        *(_line(row) for row in report.rows),
        "",
        *(f"- {fact}" for fact in report.facts),
        "",
    ]


def _line(row: Row) -> str:
    return f"| {row.what} | {row.measured} | {row.target} | {'kept' if row.kept else '**missed**'} |"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_size() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total / (1 << 30):.0f} GiB of memory"


def _version(tool: str) -> str:
    done = subprocess.run([find_tool(tool), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].replace("db version v", "mongod ").replace(" version:", "")


if __name__ == "__main__":
    sys.exit(main())
