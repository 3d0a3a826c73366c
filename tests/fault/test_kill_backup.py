"""The worker killed at the file-system calls of a run: between staging and commit, in uploads, pruning and the catalog.

Some spread ones every day; `make test-fault` tries many more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.model import Policy
from nanumpay_backupd.settings.schema import VerifyOrder
from nanumpay_backupd.settings.sources import FilesSource
from tests.fault.survivors import CALLS, Host, counted, spread
from tests.fault.workers import Stable

pytestmark = [
    pytest.mark.promise(
        "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
        item=1,
    ),
    pytest.mark.promise(
        "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.",
        item=1,
    ),
]

KEPT: Final = 4
AFRESH: Final = 25
"""After so many kills the host is made anew."""


@dataclass(frozen=True)
class Case:
    """A run that is killed: what it does, from where on, and how many of its calls are tried."""

    action: str = "backup"
    hold: str = ""
    few: int = 0
    many: int = 40
    order: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    newest: int | None = None
    """How many of the committed backups must stay; None: all."""


CASES: Final = {
    "backup": Case(few=8, many=150),
    "upload": Case(hold="nanumpay_backupd.pipeline.upload:_put", few=3, many=40),
    "retention": Case(
        hold="nanumpay_backupd.pipeline.backup:prune",
        few=4,
        many=60,
        job={"retention": Policy(count=KEPT, days=1000)},
        newest=KEPT - 1,
    ),
    "prune": Case("prune", few=2, many=40, job={"retention": Policy(count=KEPT, days=1000)}, newest=KEPT),
    "increment": Case("slice", few=2, many=60),
    "verify": Case("verify", few=2, many=50, order={"verify": VerifyOrder(level="structure")}),
}


@pytest.fixture
def tree(request: pytest.FixtureRequest, disk: Path) -> Path:
    """A tree of files."""
    tree: Path = disk / request.node.name / "tree"
    tree.mkdir(parents=True)
    for at in range(5):
        (tree / f"file{at}").write_bytes(os.urandom(3000))
    return tree


def fresh(workers: Stable, tree: Path) -> Host:
    """Return a host with some good backups of the tree, and nothing else."""
    host = Host.made(tree.parent / "host", workers, FilesSource(path=(str(tree),)))
    for _ in range(KEPT):
        host.good()
    return host


def killed(workers: Stable, tree: Path, case: Case, budget: int) -> int:
    """Kill the run of a case at so many of its calls and check all that must hold each time; returns how often."""
    host = fresh(workers, tree)
    trace = tree.parent / "trace"
    options = ["-e", f"trace={','.join(CALLS)}"]
    (tree / "new").write_bytes(os.urandom(1000))
    spec = host.spec(case.action, job=case.job, **case.order)
    ended = workers.run(spec, options, hold=case.hold, output=str(trace))
    assert ended.code == 0, ended.said[-2000:]
    kills = 0
    for number, (call, when) in enumerate(spread(counted(trace), budget), start=1):
        if number % AFRESH == 0:  # what has hundreds of backups takes its time
            host = fresh(workers, tree)
        if case.action == "prune":
            host.good()
        (tree / "new").write_bytes(os.urandom(1000))  # so that there is an increment to make
        before = host.files()
        spec = host.spec(case.action, job=case.job, **case.order)
        ended = workers.run(spec, [*options, "-e", f"inject={call}:signal=KILL:when={when}"], hold=case.hold)
        if ended.code == 0:
            continue  # a few calls fewer than in the recording
        assert ended.code == -9, f"{call} {when}: {ended.said[-2000:]}"
        host.after_kill(spec, before, lambda: host.good(case.action, job=case.job, **case.order), case.newest)  # noqa: B023
        kills += 1
    assert kills >= budget * 3 // 4
    return kills


@pytest.mark.parametrize("name", CASES)
def test_killed_at_some_calls(workers: Stable, tree: Path, name: str, tally: Callable[[str, int], None]) -> None:
    """SIGKILL at calls spread over the run: what was committed stays, nothing half is there, the next run succeeds."""
    tally("kill points", killed(workers, tree, CASES[name], CASES[name].few))


@pytest.mark.fault_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_killed_at_many_calls(workers: Stable, tree: Path, name: str, tally: Callable[[str, int], None]) -> None:
    """The same at hundreds of calls."""
    tally("kill points", killed(workers, tree, CASES[name], CASES[name].many))
