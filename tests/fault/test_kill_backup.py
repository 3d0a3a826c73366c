"""The worker killed at the file-system calls of a run: between staging and commit, in uploads, pruning and the catalog.

Some spread ones every day; `make test-fault` tries many more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.model import Policy
from nanumpay_backupd.settings.schema import VerifyOrder
from nanumpay_backupd.settings.sources import FilesSource
from tests.fault.survivors import CALLS, Host, counted, spread
from tests.fault.workers import Stable, stable
from tests.workbench import small_disk

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

MIB: Final = 1 << 20
KEPT: Final = 4


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
    "backup": Case(few=10, many=170),
    "upload": Case(hold="nanumpay_backupd.pipeline.upload:_put", few=4, many=40),
    "retention": Case(
        hold="nanumpay_backupd.pipeline.backup:prune",
        few=6,
        many=60,
        job={"retention": Policy(count=KEPT, days=1000)},
        newest=KEPT - 1,
    ),
    "prune": Case("prune", few=3, many=40, job={"retention": Policy(count=KEPT, days=1000)}, newest=KEPT),
    "increment": Case("slice", few=4, many=60),
    "verify": Case("verify", few=3, many=50, order={"verify": VerifyOrder(level="structure")}),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk in memory: a fsync that is waited for says nothing here, a power cut is another test's matter."""
    with small_disk(tmp_path_factory.mktemp("kill") / "disk", 512 * MIB) as folder:
        yield folder


@pytest.fixture(scope="module")
def workers(disk: Path) -> Iterator[Stable]:
    """The process that forks."""
    with stable(disk) as running:
        yield running


@pytest.fixture
def host(request: pytest.FixtureRequest, disk: Path, workers: Stable) -> Host:
    """A host with a tree of files and two good backups."""
    root = disk / request.node.name
    tree = root / "tree"
    tree.mkdir(parents=True)
    for at in range(5):
        (tree / f"file{at}").write_bytes(os.urandom(3000))
    host = Host.made(root, workers, FilesSource(path=(str(tree),)))
    for _ in range(KEPT):
        host.good()
    return host


def grow(host: Host) -> None:
    """Change the tree, so that there is an increment to make."""
    (host.root / "tree" / f"new{host.runs}").write_bytes(os.urandom(1000))


def killed(host: Host, case: Case, budget: int) -> None:
    """Kill the run of a case at so many of its calls, each time check all that must hold, and do it once well."""
    trace = host.root / "trace"
    grow(host)
    options = ["-e", f"trace={','.join(CALLS)}"]
    ended = host.stable.run(
        host.spec(case.action, job=case.job, **case.order), options, hold=case.hold, output=str(trace)
    )
    assert ended.code == 0, ended.said[-2000:]
    for call, when in spread(counted(trace), budget):
        if case.action == "prune":
            host.good()
        grow(host)
        before = host.files()
        spec = host.spec(case.action, job=case.job, **case.order)
        inject = [*options, "-e", f"inject={call}:signal=KILL:when={when}"]
        ended = host.stable.run(spec, inject, hold=case.hold)
        if ended.code == 0:
            continue  # a few calls fewer than in the recording
        assert ended.code == -9, f"{call} {when}: {ended.said[-2000:]}"
        host.after_kill(spec, before, lambda: host.good(case.action, job=case.job, **case.order), case.newest)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.few])
def test_killed_at_some_calls(host: Host, name: str, tally: Callable[[str, int], None]) -> None:
    """SIGKILL at calls spread over the run: what was committed stays, nothing half is there, the next run succeeds."""
    killed(host, CASES[name], CASES[name].few)
    assert host.kills >= CASES[name].few * 3 // 4
    tally("kill points", host.kills)


@pytest.mark.fault_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_killed_at_many_calls(host: Host, name: str, tally: Callable[[str, int], None]) -> None:
    """The same at hundreds of calls."""
    killed(host, CASES[name], CASES[name].many)
    assert host.kills >= CASES[name].many * 3 // 4
    tally("kill points", host.kills)
