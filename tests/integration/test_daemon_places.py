"""backupctl sync, copies and copy, and how 3-2-1 stands, at a running daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.errors import EXIT_NOT_FOUND, EXIT_OK, EXIT_REFUSED
from tests.integration.test_only import backupctl
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers


@pytest.fixture
def site(mongod_rs: Mongod, tmp_path: Path) -> Iterator[Site]:
    """A site with one further disk, and what 3-2-1 asks for demanded."""
    with open_site(mongod_rs, backup_settings(storage="none")) as site:
        configure(site, tmp_path, "usb")
        yield site


def configure(site: Site, root: Path, *places: str) -> None:
    """Write a host file with these folders as destinations; the one named `vault` is said to be off-site."""
    tables = [f"[destination.{place}]\ntype = 'local'\npath = '{root}/{place}'" for place in places]
    text = "\n".join(tables).replace(f"path = '{root}/vault'", f"path = '{root}/vault'\nmedia = 'tape'\noffsite = true")
    site.write_config(f"[nanumpay]\ndestinations = {list(places)}\ncopies = 3\nmedia = 2\noffsite = 1\n{text}\n")


def test_catching_up_copying_and_moving(site: Site, tmp_path: Path) -> None:
    """A new destination gets what it should have and 3-2-1 is kept then; a move leaves one copy, at the new place."""
    site.start()
    first, second = site.run()["backup"], site.run()["backup"]
    spread = site.job()["protection"]["spread"]
    assert (spread["backup"], spread["copies"], spread["media"], spread["offsite"]) == (second, 3, ["disk"], 0)
    assert spread["kept"] is False
    assert "not spread as demanded: 1 of 2 media (disk); 0 of 1 copies off-site" in "\n".join(site.status()["problems"])
    shown = backupctl(site, "status").stdout
    assert "3 copies with the data itself, 1 medium (disk), 0 off-site; 3-2-1 demanded: MISSED" in shown

    configure(site, tmp_path, "usb", "vault")
    site.call("Reload")
    done = backupctl(site, "sync", "vault")
    assert (done.returncode, done.stdout.splitlines()[0].split(",")[0]) == (
        EXIT_OK,
        "Queued 2 backups for vault (job nanumpay)",
    )
    wait_for(lambda: site.job()["pending_uploads"] == 0 and not site.job().get("running"), "an empty queue")
    assert {path.name for path in (tmp_path / "vault").iterdir() if path.suffix == ".gz"} == {
        f"{first}.tar.gz",
        f"{second}.tar.gz",
    }
    assert site.job()["protection"]["spread"]["kept"] is True
    assert backupctl(site, "sync").stdout.count("Nothing to send") == 2

    moved = backupctl(site, "copy", first, "vault", "--from", "usb", "--move")
    assert moved.returncode == EXIT_OK, moved.stderr
    assert not (tmp_path / "usb" / f"{first}.tar.gz").exists()
    listed = json.loads(backupctl(site, "copies", first, "--json").stdout)["copies"]
    assert {copy["destination"]: (copy["media"], copy["offsite"]) for copy in listed} == {
        "local": ("disk", False),
        "vault": ("tape", True),
    }
    again = backupctl(site, "copy", second, "usb", "--from", "vault")
    assert again.returncode == EXIT_OK, again.stderr
    table = backupctl(site, "copies", second).stdout
    assert "vault" in table
    assert "tape" in table

    assert backupctl(site, "sync", "nowhere").returncode == EXIT_NOT_FOUND
    assert backupctl(site, "copy", second, "nowhere").returncode == EXIT_NOT_FOUND
    assert backupctl(site, "copy", second, "usb", "--move").returncode == EXIT_REFUSED
