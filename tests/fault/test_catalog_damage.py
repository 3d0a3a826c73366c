"""A catalog that is lost, damaged or locked under a real daemon: it is told, mended, and no backup is lost by it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers

LOST: Final = "The catalog may be lost: the manifests beside the backups have what it takes to go on."


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site with two backups, one of them pinned."""
    with open_site(mongod_rs, backup_settings(retention={"count": 100})) as site:
        site.write_config("[nanumpay]\ndrill = 'never'", top="timezone = 'UTC'")
        site.start()
        site.run()
        site.call("Pin", backup=site.run()["backup"], reason="before the audit")
        yield site


def header(file: Path) -> None:
    """Overwrite the first bytes."""
    overwrite(file, 0, b"not a database, is it")


def middle(file: Path) -> None:
    """Overwrite all pages but the first few."""
    size = file.stat().st_size
    overwrite(file, 4096 * 3, bytes([0xA5]) * (size - 4096 * 3))


def overwrite(file: Path, at: int, data: bytes) -> None:
    """Write over a part of a file."""
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def half(file: Path) -> None:
    """Cut it off."""
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2 // 4096 * 4096)


def empty(file: Path) -> None:
    """Leave a file of no bytes."""
    file.write_bytes(b"")


def log_alone(file: Path) -> None:
    """Leave a write-ahead log without its database."""
    Path(f"{file}-wal").write_bytes(file.read_bytes())
    file.unlink()


def problems(site: Site) -> list[str]:
    """Return what the status tells of the catalog."""
    return [text for text in map(str, site.status()["problems"]) if "the catalog was damaged" in text]


def good(site: Site, known: dict[str, str]) -> None:
    """See that the backups are known with their states and pins, and that the next run succeeds."""
    found = {backup["id"]: backup["state"] for backup in site.list_backups()}
    assert found.items() >= known.items()
    assert [backup["pinned"] != "" for backup in site.list_backups()].count(True) == 1
    assert site.run()["outcome"] == "succeeded"
    assert "Traceback" not in site.log()


@pytest.mark.promise(LOST, item=5)
@pytest.mark.parametrize(
    "damage",
    [
        header,
        pytest.param(middle, marks=pytest.mark.fault_long),
        pytest.param(half, marks=pytest.mark.fault_long),
        pytest.param(empty, marks=pytest.mark.fault_long),
        pytest.param(log_alone, marks=pytest.mark.fault_long),
        pytest.param(Path.unlink, marks=pytest.mark.fault_long),
    ],
)
def test_a_catalog_that_is_damaged_while_the_daemon_is_down(site: Site, damage: Callable[[Path], None]) -> None:
    """At the next start it is made anew from the manifests; what is told of that ends with a rebuild."""
    known = {backup["id"]: backup["state"] for backup in site.list_backups()}
    site.stop()
    file = site.state / "catalog.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(file)
    before = site.log().count("is damaged")
    site.start()
    good(site, known)
    aside = sorted(site.state.glob("catalog-damaged-*.db"))
    if damage in {header, middle, half}:
        assert site.log().count("is damaged") == before + 1
        (told,) = problems(site)
        assert str(aside[-1]) in told
        assert site.call("RebuildCatalog")["backups"] >= len(known)
    assert problems(site) == []
    good(site, known)
    for file in aside:
        file.unlink()


@pytest.mark.promise(LOST, item=5)
@pytest.mark.fault_long
def test_a_catalog_that_is_damaged_while_the_daemon_runs(site: Site) -> None:
    """It is found when it is read next, told, and mended without a restart; the next run succeeds."""
    known = {backup["id"]: backup["state"] for backup in site.list_backups()}
    file = site.state / "catalog.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    middle(file)
    wait_for(lambda: list(site.state.glob("catalog-damaged-*.db")), "the end of the damaged catalog", 100)
    wait_for(lambda: _answers(site), "an answer")
    good(site, known)


def _answers(site: Site) -> bool:
    with contextlib.suppress(Exception):
        return bool(site.list_backups())
    return False


@pytest.mark.promise(LOST, item=5)
@pytest.mark.fault_long
def test_a_catalog_that_another_process_locks_for_long(site: Site) -> None:
    """Who asks meanwhile is told so; the run that met it fails or waits, and afterwards all goes on."""
    known = {backup["id"]: backup["state"] for backup in site.list_backups()}
    with contextlib.closing(sqlite3.connect(site.state / "catalog.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert site.call("Monitor", recorded=True)["health"], "who only reads does not wait"
        with pytest.raises(Exception, match="locked by another process"):
            site.run()
        db.execute("ROLLBACK")
    wait_for(lambda: not site.job().get("running"), "the end of the run")
    good(site, known)
