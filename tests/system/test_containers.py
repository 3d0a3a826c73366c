"""The containers themselves: where none can be booted that is said, and none outlives the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.servers.tools import PROJECT
from tests.system.container import RUNS, sweep, wait_for
from tests.system.probe import OPTIONAL, children

# Root, but without what it takes to mount anything: as in most containers of others.
_REFUSED: Final = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
_BOOTING: Final = """
import signal
from pathlib import Path
from tests.system.host import Host
from tests.system.image import find_image
host = Host(find_image(), "killed")
host.boot()
print(host.leader, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("optional,code,word", [("", 1, "FAILED"), ("optional", 0, "SKIPPED")])
def test_a_machine_that_boots_no_container(optional: str, code: int, word: str) -> None:
    """The tests do not run, and why not is told in the system's own words; only where they are optional that passes."""
    done = subprocess.run(
        [*_REFUSED, sys.executable, "-m", "tests.system", "test", "--collect-only"],
        cwd=PROJECT,
        env={**os.environ, OPTIONAL: optional},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done
    assert done.stderr.startswith(f"{word}: the system tests did not run: this machine does not let an empty container")
    assert "Operation not permitted" in done.stderr
    assert done.stdout == ""


def test_killed_tests_leave_no_container(image: Path) -> None:
    """Who boots a container is killed: every process in it is gone, and the next one removes its files."""
    program = subprocess.Popen(
        [sys.executable, "-c", _BOOTING], cwd=PROJECT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert program.stdout is not None
        leader = int(program.stdout.readline())
        assert children(leader)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    wait_for(lambda: not Path(f"/proc/{leader}").exists() or not children(leader), "the end of the container", 10)
    sweep()
    assert not list(RUNS.glob("killed-*"))
