"""Runs that get too little: memory, descriptors, processes and threads. They say so, and nothing is lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.settings.sources import FilesSource
from tests.fault.survivors import Host
from tests.fault.workers import Ended, Stable

pytestmark = pytest.mark.promise(
    "Where memory, descriptors or processes run out a run says so; nothing is lost, and the next one succeeds.",
    item=10,
)
MIB: Final = 1 << 20
ONCE: Final = RetryPolicy(attempts=1)


@pytest.fixture
def host(request: pytest.FixtureRequest, disk: Path, workers: Stable) -> Host:
    """A host with a tree of half a megabyte and a good backup."""
    root = disk / request.node.name
    tree = root / "tree"
    tree.mkdir(parents=True)
    for at in range(5):
        (tree / f"file{at}").write_bytes(os.urandom(100_000))
    host = Host.made(root / "host", workers, FilesSource(path=(str(tree),)), retry=ONCE)
    host.good()
    return host


def assert_told(host: Host, ended: Ended, run: str, what: str) -> str:
    """Check what a run says that got too little; returns the code of its error."""
    assert "Traceback" not in ended.said, f"{what}:\n{ended.said[-3000:]}"
    if ended.code == 0:
        return ""
    assert ended.code == 1, f"{what}: {ended.code} {ended.said[-2000:]}"
    told = [event["error"] for event in ended.events if event["kind"] == "message" and event.get("error")]
    record = host.record(run)
    if record is not None and record.error is not None:
        told.append({"code": record.error.code, "hint": record.error.hint})
    assert told, f"{what}: {ended.said[-2000:]}"
    for error in told:
        assert error["code"] != "internal", f"{what}: {error}"
        assert error["hint"], f"{what}: {error}"
    return str(told[-1]["code"])


def scarce(host: Host, what: str, strace: list[str], limits: dict[str, int]) -> str:
    """Do a run that gets too little, then one that gets enough; returns the code of the error."""
    before, spec = host.files(), host.spec()
    ended = host.stable.run(spec, strace, limits=limits)
    code = assert_told(host, ended, spec.run, what)
    host.recover()
    host.assert_true()
    host.assert_kept(before)
    host.good()
    host.assert_true()
    host.assert_kept(before)
    return code


def test_few_descriptors(host: Host, tally: Callable[[str, int], None]) -> None:
    """With very few descriptors a run fails and says so; with 64 it succeeds."""
    codes = {most: scarce(host, f"{most} descriptors", [], {"RLIMIT_NOFILE": most}) for most in (12, 16, 20, 64)}
    assert codes[64] == ""
    assert codes[12] != ""
    tally("scarce runs", len(codes))


@pytest.mark.parametrize(
    "call",
    [pytest.param("clone", id="processes"), pytest.param("clone3", id="threads", marks=pytest.mark.fault_long)],
)
def test_no_process_and_no_thread(host: Host, call: str, tally: Callable[[str, int], None]) -> None:
    """Where a process or a thread cannot be started, whichever it is, the run says that the host has too many."""
    codes: Counter[str] = Counter()
    for when in range(1, 12):
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error=EAGAIN:when={when}"]
        codes[scarce(host, f"{call} {when}", inject, {})] += 1
        if codes[""]:
            break
    assert codes.total() > 2, codes
    assert codes.keys() <= {"", "out-of-resources"}, codes
    tally("scarce runs", codes.total())


@pytest.mark.fault_long
def test_little_memory(host: Host, tally: Callable[[str, int], None]) -> None:
    """Wherever a run finds no memory it fails and says so; with enough it succeeds."""
    codes = {most: scarce(host, f"{most} MiB", [], {"RLIMIT_AS": most * MIB}) for most in (0, 1, 4, 10, 24, 48, 1000)}
    assert codes[1000] == ""
    assert codes[0] != ""
    assert set(codes.values()) <= {"", "out-of-resources", "catalog-unusable", "tool-failed"}, codes
    tally("scarce runs", len(codes))
