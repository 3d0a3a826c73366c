"""Other sources, encryption and restores, the worker killed at their calls; and the tools that they start, killed.

Some spread kills every day; `make test-fault` tries many more.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.model import Outcome
from nanumpay_backupd.settings.schema import RestoreOrder, RetryPolicy
from tests.fault.subjects import Encrypted, Mongo, Sqlite, Subject
from tests.fault.survivors import CALLS, Host, counted, spread
from tests.fault.workers import Stable
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers

whole = pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
interrupted = pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
AFRESH: Final = 20
ONCE: Final = RetryPolicy(attempts=1)


@pytest.fixture
def subject(request: pytest.FixtureRequest, disk: Path) -> Iterator[Subject]:
    """The source that the test names."""
    root = disk / uuid.uuid4().hex
    kind = request.param
    if kind.startswith("mongodb"):
        server = request.getfixturevalue("mongod_rs" if kind == "mongodb-rs" else "mongod_standalone")
        mongo = Mongo(root, server)
        yield mongo
        mongo.close()
    else:
        yield {"files": Subject, "encrypted": Encrypted, "sqlite": Sqlite}[kind](root)


def fresh(subject: Subject, workers: Stable, **changes: Any) -> Host:
    """Return a host with two good backups of the source, and nothing else."""
    host = Host.made(subject.root / "host", workers, subject.source, **subject.job)
    subject.fill()
    for _ in range(2):
        host.good()
    host.job = msgspec.structs.replace(host.job, **changes)
    return host


def order(subject: Subject, host: Host, action: str) -> dict[str, Any]:
    """Return what belongs to the order of a run."""
    if action != "restore":
        return {}
    newest = next(backup for backup in host.backups() if backup.job == "thing")
    return {"restore": RestoreOrder(backup=newest.id, **subject.order)}


def killed(subject: Subject, workers: Stable, action: str, budget: int) -> int:
    """Kill the run at so many of its calls and check all that must hold each time; returns how often."""
    host = fresh(subject, workers)
    full = subject.content()
    trace = subject.root / "trace"
    options = ["-e", f"trace={','.join(CALLS)}"]
    ended = workers.run(host.spec(action, **order(subject, host, action)), options, output=str(trace))
    assert ended.code == 0, ended.said[-2000:]
    kills = 0
    for number, (call, when) in enumerate(spread(counted(trace), budget), start=1):
        if number % AFRESH == 0:
            host = fresh(subject, workers)
        subject.spoil() if action == "restore" else subject.fill()
        before, told = host.files(), order(subject, host, action)
        spec = host.spec(action, **told)
        ended = workers.run(spec, [*options, "-e", f"inject={call}:signal=KILL:when={when}"])
        if ended.code == 0:
            continue  # a few calls fewer than in the recording
        assert ended.code == -9, f"{call} {when}: {ended.said[-2000:]}"
        host.after_kill(spec, before, lambda: host.good(action, **told))  # noqa: B023
        assert subject.content() == full
        kills += 1
    assert kills >= budget * 3 // 4
    return kills


CASES: Final = [
    # source, action, points every day, points in make test-fault
    ("files", "restore", 3, 50),
    ("encrypted", "backup", 0, 40),
    ("sqlite", "backup", 2, 50),
    ("sqlite", "restore", 0, 40),
    ("mongodb", "backup", 3, 50),
    ("mongodb", "restore", 0, 40),
    ("mongodb-rs", "backup", 0, 40),
    ("mongodb-rs", "slice", 2, 40),
]


@whole
@interrupted
@pytest.mark.parametrize(
    "subject, action, budget",
    [pytest.param(*case[:3], id=f"{case[0]}-{case[1]}") for case in CASES if case[2]],
    indirect=["subject"],
)
def test_killed_at_some_calls(
    subject: Subject, workers: Stable, action: str, budget: int, tally: Callable[[str, int], None]
) -> None:
    """SIGKILL of the worker: what was committed stays, nothing half is left, the next run or restore succeeds."""
    tally("kill points", killed(subject, workers, action, budget))


@whole
@interrupted
@pytest.mark.fault_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "subject, action, budget",
    [pytest.param(*case[:2], case[3], id=f"{case[0]}-{case[1]}") for case in CASES],
    indirect=["subject"],
)
def test_killed_at_many_calls(
    subject: Subject, workers: Stable, action: str, budget: int, tally: Callable[[str, int], None]
) -> None:
    """The same at hundreds of calls."""
    tally("kill points", killed(subject, workers, action, budget))


# ------------------------------------------------------------------------------------------------ the tools


def wrapped(tool: Path, folder: Path, *strace: str, output: str = os.devnull) -> Path:
    """Return a program that is the tool with strace between it and the kernel; its --version is left alone."""
    path = folder / tool.name
    command = " ".join([str(find_tool("strace")), "-f", "-o", output, *strace])
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) exec {tool} "$@";; esac\nexec {command} {tool} "$@"\n', encoding="utf-8"
    )
    path.chmod(0o755)
    return path


TOOLS: Final = [
    # source, action, tool, points every day, points in make test-fault
    ("files", "backup", "tar", 2, 30),
    ("mongodb", "backup", "mongodump", 2, 25),
    ("mongodb", "restore", "mongorestore", 0, 20),
    ("encrypted", "backup", "gpg", 0, 15),
]


def changed(subject: Subject, host: Host, tool: str, path: Path) -> dict[str, Any]:
    """Return what is different in a job that uses another program for a tool."""
    if tool == "gpg":
        return {"encryption": msgspec.structs.replace(host.job.encryption, gpg=str(path))}
    return {"source": msgspec.structs.replace(subject.source, **{tool: str(path)})}


def killed_tools(subject: Subject, workers: Stable, action: str, tool: str, budget: int) -> int:
    """Kill a tool at so many of its calls; returns how often the run failed of it."""
    real, folder = Path(shutil.which(tool) or find_tool(tool)), subject.root / "bin"
    folder.mkdir()
    host = fresh(subject, workers, retry=ONCE)
    full = subject.content()
    trace = subject.root / "trace"
    listen = ["-e", f"trace={','.join((*CALLS, 'read'))}"]
    path = wrapped(real, folder, *listen, output=f"{trace}")
    ended = workers.run(host.spec(action, job=changed(subject, host, tool, path), **order(subject, host, action)))
    assert ended.code == 0, ended.said[-2000:]
    counts = counted(trace)
    codes: Counter[str] = Counter()
    for call, when in spread(counts, budget):
        path = wrapped(real, folder, *listen, "-e", f"inject={call}:signal=KILL:when={when}")
        subject.spoil() if action == "restore" else subject.fill()
        before, told = host.files(), order(subject, host, action)
        spec = host.spec(action, job=changed(subject, host, tool, path), **told)
        ended = workers.run(spec)
        record = host.record(spec.run)
        assert record is not None
        assert "Traceback" not in ended.said
        host.recover()
        host.assert_true()
        host.assert_kept(before)
        if record.outcome is Outcome.FAILED:
            assert record.error is not None
            codes[record.error.code] += 1
        host.good(action, **told)
        host.assert_true()
        host.assert_kept(before)
        assert subject.content() == full
    assert sum(codes.values()) >= max(1, budget // 2), codes
    assert "internal" not in codes, codes
    return sum(codes.values())


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
@pytest.mark.parametrize(
    "subject, action, tool, budget",
    [pytest.param(*case[:4], id=case[2]) for case in TOOLS if case[3]],
    indirect=["subject"],
)
def test_a_tool_killed_at_some_calls(
    subject: Subject, workers: Stable, action: str, tool: str, budget: int, tally: Callable[[str, int], None]
) -> None:
    """SIGKILL of tar, mongodump, mongorestore or gpg: the run fails with a sentence, and nothing else is lost."""
    tally("kill points", killed_tools(subject, workers, action, tool, budget))


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
@pytest.mark.fault_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "subject, action, tool, budget",
    [pytest.param(*case[:3], case[4], id=case[2]) for case in TOOLS],
    indirect=["subject"],
)
def test_a_tool_killed_at_many_calls(
    subject: Subject, workers: Stable, action: str, tool: str, budget: int, tally: Callable[[str, int], None]
) -> None:
    """The same at many calls."""
    tally("kill points", killed_tools(subject, workers, action, tool, budget))
