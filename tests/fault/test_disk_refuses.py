"""Disks that are full, read-only or broken, at any call of a run: a clear error, nothing lost, and it goes on.

By strace in the place of the kernel, at calls on the staging folder, the backups, the catalog and another folder; and
by real small disks that fill up and get more room.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.model import CopyState, Outcome
from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.settings.sources import FilesSource
from tests.fault.survivors import CALLS, Host
from tests.fault.workers import Ended, Stable
from tests.workbench import small_disk

pytestmark = pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
MIB: Final = 1 << 20
AFRESH: Final = 25
ONCE: Final = RetryPolicy(attempts=1)
UPLOAD: Final = "nanumpay_backupd.pipeline.upload:_put"
_PATH: Final = re.compile(r"^(\w+)\((?:.*?)(?:\"([^\"]*)\"|\d+<([^>]*)>)")


@dataclass(frozen=True)
class Case:
    """A fault, the calls that have it, and how many of them are tried."""

    fault: str
    calls: str
    few: int
    many: int
    hold: str = ""
    lasts: bool = False
    """It does not go away: all later calls have it too."""


CASES: Final = {
    "full": Case("ENOSPC", "openat write pwrite64 fsync fdatasync close rename mkdir ftruncate", 6, 90),
    "broken": Case("EIO", "fsync fdatasync write pwrite64 rename unlink openat", 4, 70),
    "quota": Case("EDQUOT", "write mkdir rename close", 1, 20),
    "read-only": Case("EROFS", "rename unlink mkdir chmod fsync", 2, 30, lasts=True),
    "full elsewhere": Case("ENOSPC", "openat write fsync close rename ftruncate", 2, 20, hold=UPLOAD),
    "broken elsewhere": Case("EIO", "fsync write rename", 1, 12, hold=UPLOAD),
}


@pytest.fixture
def tree(request: pytest.FixtureRequest, disk: Path) -> Path:
    """A tree of files."""
    tree: Path = disk / request.node.name.replace(" ", "-") / "tree"
    tree.mkdir(parents=True)
    for at in range(5):
        (tree / f"file{at}").write_bytes(os.urandom(3000))
    return tree


def fresh(workers: Stable, tree: Path) -> Host:
    """Return a host with two good backups of the tree."""
    host = Host.made(tree.parent / "host", workers, FilesSource(path=(str(tree),)), retry=ONCE)
    for _ in range(2):
        host.good()
    return host


def points(trace: Path, root: Path, calls: list[str], budget: int) -> list[tuple[str, int, str]]:
    """Choose calls of a recording that are about the host's folders, of each kind some: name, number, path."""
    numbers: Counter[str] = Counter()
    found: dict[tuple[str, str], list[tuple[str, int, str]]] = defaultdict(list)
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        if (match := _PATH.match(line)) is None:
            name = line.partition("(")[0]
            numbers[name] += 1
            continue
        numbers[match[1]] += 1
        path = match[2] or match[3]
        if match[1] in calls and path.startswith(str(root)):
            area = path.removeprefix(str(root)).replace(".backupd/", "").split("/")[:3]
            found[match[1], "/".join(area[:-1])].append((match[1], numbers[match[1]], path))
    chosen: list[tuple[str, int, str]] = []
    groups = sorted(found.values(), key=len)
    for at, group in enumerate(groups[-budget:]):
        take = max(1, min(len(group), (budget - len(chosen)) // (len(groups[-budget:]) - at)))
        chosen += [group[int(len(group) / take * number)] for number in range(take)]
    return chosen


def told(host: Host, ended: Ended, run: str, what: str) -> str:
    """Check what a run says that met a fault; returns the code of the error, empty where it went well."""
    assert "Traceback" not in ended.said, f"{what}:\n{ended.said[-3000:]}"
    faults = [event["error"] for event in ended.events if event["kind"] == "message" and event.get("error")]
    record = host.record(run)
    if record is not None and record.error is not None:
        faults.append({"code": record.error.code, "message": record.error.message, "hint": record.error.hint})
    for fault in faults:
        assert fault["code"] not in ("internal", "failed"), f"{what}: {fault}"
        assert fault["message"], what
        assert fault["hint"], f"{what}: {fault}"
    if ended.code == 0:
        return ""
    assert ended.code in (1, 3), f"{what}: {ended.code} {ended.said[-2000:]}"
    assert faults, f"{what}: nothing was said: {ended.said[-2000:]}"
    return str(faults[-1]["code"])


def refused(workers: Stable, tree: Path, case: Case, budget: int) -> Counter[str]:
    """Let so many calls of a run fail, one in each run, and check all that must hold; returns the errors' codes."""
    host = fresh(workers, tree)
    trace = tree.parent / "trace"
    listen = ["-e", f"trace={','.join(CALLS)}"]
    ended = workers.run(host.spec(), [*listen, "-y"], hold=case.hold, output=str(trace))
    assert ended.code == 0, ended.said[-2000:]
    codes: Counter[str] = Counter()
    area = host.root / "away" if case.hold else host.root
    for number, (call, when, path) in enumerate(points(trace, area, case.calls.split(), budget), start=1):
        if number % AFRESH == 0:
            host = fresh(workers, tree)
        before, spec = host.files(), host.spec()
        what = f"{case.fault} of {call} {when} ({path})"
        inject = f"inject={case.calls.replace(' ', ',') if case.lasts else call}:error={case.fault}:when={when}"
        ended = workers.run(spec, [*listen, "-e", f"{inject}{'+' if case.lasts else ''}"], hold=case.hold)
        codes[told(host, ended, spec.run, what)] += 1
        host.assert_kept(before)
        host.recover()
        host.assert_true()
        record = host.record(spec.run)
        assert record is None or record.outcome is not None, what
        host.good()
        host.assert_true()
        host.assert_kept(before)
    return codes


@pytest.mark.parametrize("name", CASES)
def test_refused_at_some_calls(workers: Stable, tree: Path, name: str, tally: Callable[[str, int], None]) -> None:
    """Whatever call of a run fails: an error with a code and a hint, nothing is lost, and the next run succeeds."""
    codes = refused(workers, tree, CASES[name], CASES[name].few)
    tally("refused calls", codes.total())


@pytest.mark.fault_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_refused_at_many_calls(workers: Stable, tree: Path, name: str, tally: Callable[[str, int], None]) -> None:
    """The same at many calls; most of them make the run fail, and it says of what."""
    codes = refused(workers, tree, CASES[name], CASES[name].many)
    print(codes)
    assert codes.total() - codes[""] >= CASES[name].many // 4, codes
    tally("refused calls", codes.total())


# ------------------------------------------------------------------------------------------------ small disks


def remount(folder: Path, option: str) -> None:
    """Give a disk in memory another size, make it read-only, or writable."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def fill(folder: Path) -> Path:
    """Use up the last byte of a disk; returns the file to delete."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return ballast


@pytest.mark.parametrize(
    "hold", ["produce", "commit", "prove_and_encrypt"], ids=["before the dump", "before the commit", "before the proof"]
)
def test_a_full_disk_of_the_backups(workers: Stable, tmp_path: Path, hold: str) -> None:
    """The disk fills up in mid-run: it is told, the old backup stays, and with room again the next run succeeds."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(200_000))
    with small_disk(tmp_path / "host" / "backups", 128 * MIB) as folder:
        (tmp_path / "host" / "state").mkdir()
        host = Host(tmp_path / "host", workers, Host.job_of(FilesSource(path=(str(tmp_path / "tree"),)), retry=ONCE))
        host.good()
        before, spec = host.files(), host.spec()
        ended = workers.run(spec, hold=f"nanumpay_backupd.pipeline.backup:{hold}", meanwhile=lambda: fill(folder))
        assert told(host, ended, spec.run, hold) in ("no-space", "publish-failed")
        host.assert_kept(before)
        spec = host.spec()
        assert told(host, workers.run(spec), spec.run, "preflight") == "no-space"
        (folder / "ballast").unlink()
        host.recover()
        host.assert_true()
        host.good()
        host.assert_kept(before)


def test_a_full_disk_of_the_catalog(workers: Stable, tmp_path: Path) -> None:
    """Where the catalog cannot grow the run says so; no backup is lost, and with room again it has all of them."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(20_000))
    with small_disk(tmp_path / "host" / "state", MIB) as state:
        host = Host(tmp_path / "host", workers, Host.job_of(FilesSource(path=(str(tmp_path / "tree"),))))
        host.good()
        before = host.files()
        for hold in ("", "nanumpay_backupd.pipeline.backup:commit"):
            ended = workers.run(host.spec(), hold=hold, meanwhile=lambda: fill(state))
            assert ended.code == 1, ended.said
            assert "Traceback" not in ended.said
            assert "catalog.db cannot be used: its disk is full" in ended.said
            host.assert_kept(before)
            (state / "ballast").unlink()
        host.recover()
        host.good()
        host.assert_true()
        host.assert_kept(before)


def test_another_folder_becomes_read_only(workers: Stable, tmp_path: Path) -> None:
    """A destination that is mounted read-only in mid-run degrades it; writable again it gets all that it missed."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(300_000))
    with small_disk(tmp_path / "host" / "away", 8 * MIB) as away:
        source = FilesSource(path=(str(tmp_path / "tree"),))
        host = Host(tmp_path / "host", workers, Host.job_of(source, away))
        (tmp_path / "host" / "state").mkdir()
        host.good()
        before, spec = host.files(), host.spec()
        ended = workers.run(spec, hold=UPLOAD, meanwhile=lambda: remount(away, "ro"))
        assert ended.code == 3
        assert told(host, ended, spec.run, "read-only") == "destination-denied"
        assert "Read-only file system" in ended.said
        host.assert_kept(before)
        remount(away, "rw")
        host.good()
        host.good("upload")
        host.assert_true()
        assert {copy.state for backup in host.backups() for copy in backup.copies} <= {
            CopyState.UPLOADED,
            CopyState.VERIFIED,
        }
        host.assert_kept(before)


def test_a_full_disk_elsewhere(workers: Stable, tmp_path: Path) -> None:
    """A full destination degrades the run and keeps the copy queued; with room again the queue brings it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(os.urandom(300_000))
    with small_disk(tmp_path / "host" / "away", MIB // 4) as away:
        source = FilesSource(path=(str(tmp_path / "tree"),))
        host = Host(tmp_path / "host", workers, Host.job_of(source, away, retry=RetryPolicy(attempts=5, delay=1.0)))
        (tmp_path / "host" / "state").mkdir()
        spec = host.spec()
        ended = workers.run(spec)
        assert ended.code == 3
        assert told(host, ended, spec.run, "full elsewhere") == "destination-full"
        record = host.record(spec.run)
        assert record is not None
        assert record.outcome is Outcome.DEGRADED
        assert [path.name for path in away.iterdir() if not path.name.startswith(".")] == []
        remount(away, f"size={4 * MIB}")
        host.good()
        host.good("upload")
        states = {copy.state for backup in host.backups() for copy in backup.copies}
        assert states <= {CopyState.UPLOADED, CopyState.VERIFIED}
        host.assert_true()
