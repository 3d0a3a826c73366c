"""A short soak: one fault of each kind under load, restores meanwhile and at the end. `make soak` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.tools import PROJECT
from tests.soak.faults import FAULTS
from tests.soak.proofs import PROOFS

pytestmark = [pytest.mark.servers, pytest.mark.fault_long, pytest.mark.timeout(1200)]


@pytest.mark.promise(
    "Under load and faults of all kinds, nothing committed is lost and all restores are exact.", item=1
)
def test_one_fault_of_each_kind(tmp_path: Path) -> None:
    """After a fault of each kind, under load, all becomes well by itself and each kind of restore is exact."""
    argv = [sys.executable, "-m", "tests.soak", "--each", "--seed", "5", "--out", str(tmp_path)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(found["faults"]) == {fault.name for fault in FAULTS}
    assert all(found["proofs"][name]["same"] >= 1 for name in PROOFS)
