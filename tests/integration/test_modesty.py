"""Runs leave processor and memory to the application first; a restore, for which somebody waits, does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.daemon import Site, open_site
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A running site with a backup."""
    with open_site(mongod_rs) as site:
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


def rank(pid: int) -> tuple[int, int]:
    """Return a process's nice value and how much sooner than others it is killed when memory runs out."""
    return os.getpriority(os.PRIO_PROCESS, pid), int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


@pytest.mark.parametrize(
    "method, params, point, steps_back",
    [
        ("Run", {"job": "nanumpay"}, "nanumpay_backupd.pipeline.proving:prove", True),
        ("Verify", {"backup": "latest"}, "nanumpay_backupd.pipeline.recheck:sync_local", True),
        (
            "Restore",
            {"backup": "latest", "to_database": "modest"},
            "nanumpay_backupd.pipeline.restore:_prepare",
            False,
        ),
    ],
)
def test_rank(site: Site, method: str, params: dict[str, object], point: str, *, steps_back: bool) -> None:
    """A worker is nicer than the daemon and goes first when memory runs out; the daemon itself and a restore do not."""
    assert site.process is not None
    before = rank(site.process.pid)
    site.hold(point)
    run = str(site.call(method, **params)["run"]["id"])
    site.wait_held()
    (worker,) = site.workers()
    nice, score = rank(worker)
    site.release()
    assert site.ended(run)["outcome"] == "succeeded"
    assert (nice - before[0], score) == ((5, 500) if steps_back else (0, before[1]))
    assert rank(site.process.pid) == before
