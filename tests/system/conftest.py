"""Hosts for the system tests: one that was installed as docs/install.md says, new ones to order; what was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from tests.system.container import Container, sweep
from tests.system.host import Host, without_place
from tests.system.image import ZONE, find_image, make_image
from tests.system.packages import built, older
from tests.system.page import make_replica_set, paste
from tests.system.probe import OPTIONAL, why_not

_NOTICE: Final = 30.0
"""Seconds before a scheduled run at which a host is made: its installation, and a run that is cut off, fit in."""
MakeHost = Callable[[str], Host]
_FIGURES: Final = pytest.StashKey[dict[str, str]]()
_BEGAN: Final = time.monotonic()


@pytest.fixture(scope="session")
def image() -> Path:
    """The Debian that hosts are made of; where the machine lets no container boot, the reason."""
    reason = why_not()
    if reason and os.environ.get(OPTIONAL) == "optional":
        pytest.skip(reason)
    assert not reason, reason
    sweep()
    return find_image() or make_image()


@pytest.fixture(scope="session")
def new_host(image: Path) -> Iterator[MakeHost]:
    """Make hosts, switched on: Debian and MongoDB, nothing of the project. They end with the session at the latest."""
    made: list[Host] = []

    def make(name: str) -> Host:
        host = Host(image, name)
        made.append(host)
        host.boot()
        return host

    try:
        yield make
    finally:
        for host in made:
            host.close()


@pytest.fixture(scope="session")
def package() -> Path:
    """The package that `make deb` built."""
    return built()


@pytest.fixture(scope="session")
def host(new_host: MakeHost, package: Path, figures: dict[str, str]) -> Host:
    """A host that was installed as docs/install.md says; the application's settings are saved. Tests leave it so."""
    host = new_host("host")
    host.wait_mongod()
    host.fill()
    host.save(without_place())
    host.copy_in(package, f"/root/{package.name}")
    began = time.monotonic()
    host.said = paste(host, "install").said
    figures["package"] = f"{package.stat().st_size / 1e6:.1f} MB, installed in {time.monotonic() - began:.1f} s"
    make_replica_set(host)
    return host


@dataclass(frozen=True)
class Sleeper:
    """A host that was switched off in mid-dump before a backup was due, and the moment when that was due."""

    host: Host
    due: datetime
    cut: str
    """The run that was going on when it was switched off."""


@pytest.fixture(scope="session")
def sleeper(new_host: MakeHost, package: Path) -> Sleeper:
    """Make that host. It is made before the first test, so that nobody has to wait for the due time to pass."""
    host = new_host("sleeper")
    host.wait_mongod()
    host.fill()
    due = (datetime.now(UTC) + timedelta(seconds=_NOTICE)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    local = due.astimezone(ZoneInfo(ZONE))
    host.save(without_place(time=f"{local:%H:%M}"))
    host.install(package)
    assert f"{local:%H:%M} KST" in host.ctl("status").out
    host.hold_dumps()
    run = host.begin()
    host.wait_held()
    host.start_power_off()
    return Sleeper(host, due, run)


@pytest.fixture(scope="session", autouse=True)
def _early(request: pytest.FixtureRequest) -> None:
    """Make the sleeping host first, if a test wants it: its time passes while the others are at work."""
    if any("sleeper" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("sleeper")


@pytest.fixture(scope="session")
def older_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older version of it."""
    return older(package, tmp_path_factory.mktemp("older"))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, str]:
    """What is measured, for the summary."""
    found: dict[str, str] = request.config.stash.setdefault(_FIGURES, {})
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the hosts of a failed test have in their journals."""
    report = yield
    if report.failed:
        values = [getattr(value, "host", value) for value in getattr(item, "funcargs", {}).values()]
        for host in {id(value): value for value in values if isinstance(value, Container)}.values():
            if host.running:
                said = host.run("journalctl --no-pager -n 60 -o short-precise; systemctl --failed", check=False).said
                report.sections.append((f"journal of {host.name}", said))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was measured."""
    found = config.stash.get(_FIGURES, {})
    if found:
        terminalreporter.section("figures")
        for name, value in {**found, "all of it": f"{time.monotonic() - _BEGAN:.0f} s"}.items():
            terminalreporter.write_line(f"{name}: {value}" if "\n" not in value else f"{name}:\n{value}")
