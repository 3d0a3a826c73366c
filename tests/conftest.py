"""What holds for the whole test session: a clean environment, tools on PATH, shared servers, nothing left running."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.servers.environment import clean_environment
from tests.servers.mongod import Mongod, start_mongod

_SESSION = "NANUMPAY_TEST_SESSION"


# An example that takes long on a busy machine is no fault, neither its making nor its running.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


# Here and not in a fixture: boto3 and ssl read some of these when they are imported.
clean_environment()
os.environ[_SESSION] = uuid.uuid4().hex


@pytest.fixture(scope="session")
def mongod_rs() -> Iterator[Mongod]:
    """Run a one-node replica set for the whole session; tests use databases of their own and never stop it."""
    with start_mongod(replica_set=True) as server:
        yield server


@pytest.fixture(scope="session")
def mongod_standalone() -> Iterator[Mongod]:
    """Run a standalone server for the whole session; tests use databases of their own and never stop it."""
    with start_mongod() as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def logging_as_it_was() -> None:
    """Take back what a program that ran in this process made of the log: it may have left out what is tested next."""
    structlog.reset_defaults()


_TALLIES: Final = pytest.StashKey[list[str]]()
_LEFT: Final = pytest.StashKey[list[str]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Count what was tried, ``tally("kill points", 40)``: the figure stands at the end of the session's report."""

    def count(what: str, number: int) -> None:
        lines = request.config.stash.setdefault(_TALLIES, [])
        lines.append(f"tally: {number} {what} ({request.node.name})")

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was counted."""
    for line in config.stash.get(_TALLIES, []):
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-fault` what takes too long for every day."""
    if os.environ.get("NANUMPAY_TEST_FAULT") != "1":
        for item in items:
            if item.get_closest_marker("fault_long"):
                item.add_marker(pytest.mark.skip(reason="takes long: make test-fault"))


def _left_running() -> list[str]:
    """Return the command lines of living processes that were started, at whatever distance, by this session."""
    mark = f"{_SESSION}={os.environ[_SESSION]}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        # Python's own helper, which ends with this process.
        if mark in environment.split(b"\0") and command and "multiprocessing" not in command:
            found.append(f"{folder.name}: {command[:200]}")
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session when a process that a test started is still there."""
    config = session.config
    if config.pluginmanager.has_plugin("dsession"):
        # Workers ran the tests, each with a name of its own for what it starts, and told what they left.
        left = config.stash.get(_LEFT, [])
    else:
        deadline = time.monotonic() + 5
        while (left := _left_running()) and time.monotonic() < deadline:
            time.sleep(0.1)
    told: dict[str, object] | None = getattr(config, "workeroutput", None)
    if told is not None:
        told["left"] = left
        told["tallies"] = config.stash.get(_TALLIES, [])
        return
    if left:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("\nleft running by tests:\n  " + "\n  ".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class _Workers:
    """What is heard of workers (pytest-xdist), where there are some."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_testnodedown(self, node: Any) -> None:
        """Keep what a worker that ended has to tell; one that broke down tells nothing, and its test has failed."""
        told = getattr(node, "workeroutput", {})
        self._config.stash.setdefault(_LEFT, []).extend(told.get("left", []))
        self._config.stash.setdefault(_TALLIES, []).extend(told.get("tallies", []))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Listen to workers."""
    config = session.config
    if config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(_Workers(config))
