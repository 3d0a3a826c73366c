"""A daemon with a restic repository: little is added each day, and all comes back, with and without us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from bson import Binary

from tests.integration.test_only import backupctl
from tests.servers.daemon import Site, backup_settings, open_site
from tests.servers.mongod import Mongod
from tests.servers.restic import PASSWORD, Repository
from tests.servers.tools import PROJECT, tools_path

pytestmark = pytest.mark.servers

_random = Random(2026)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    made = Repository(str(tmp_path / "vault"), tmp_path / "vault")
    made.create()
    return made


@pytest.fixture
def site(mongod_rs: Mongod, tmp_path: Path, repository: Repository) -> Iterator[Site]:
    """A site whose data does not compress, with the repository as its destination, and encryption."""
    with open_site(mongod_rs, backup_settings(storage="none")) as site:
        with site.db() as db:
            db.blobs.insert_many([{"_id": at, "data": Binary(_random.randbytes(1 << 20))} for at in range(16)])
        for name, text in (("password", PASSWORD), ("passphrase", "Geheim+Backup:Passphrase")):
            (tmp_path / name).write_text(text, encoding="utf-8")
            (tmp_path / name).chmod(0o600)
        site.write_config(
            "[nanumpay]\ndestinations = ['vault']\n"
            f"[encryption]\nmethod = 'openpgp'\npassphrase = {{ file = '{tmp_path}/passphrase' }}\n"
            f"[destination.vault]\ntype = 'restic'\nrepository = '{repository.name}'\n"
            f"password = {{ file = '{tmp_path}/password' }}\ncheck_percent = 100\n"
        )
        yield site


def test_daily_fulls_cost_what_changed(site: Site, repository: Repository, tmp_path: Path) -> None:
    """A second full of hardly changed data adds a small part; it is listed, verified, tested, pruned and restored."""
    site.start()
    first = site.run()
    assert first["outcome"] == "succeeded", first
    once = repository.stored
    with site.db() as db:
        db.blobs.update_one({"_id": 7}, {"$set": {"data": Binary(_random.randbytes(1 << 20))}})
        held = {item["_id"]: bytes(item["data"]) for item in db.blobs.find()}
    second = site.run()["backup"]
    assert once > 16 << 20
    assert repository.stored - once < 8 << 20
    paths = {path for one in repository.snapshots() for path in one["paths"]}
    assert f"/nanumpay-backup/{second}.tar" in paths
    assert f"/nanumpay-backup/{second}.tar.manifest.json" in paths

    assert backupctl(site, "verify", second).returncode == 0
    assert backupctl(site, "verify").returncode == 0
    tested = backupctl(site, "test", "vault")
    assert tested.returncode == 0, tested.stdout
    assert "deduplication" in tested.stdout
    deleted = backupctl(site, "delete", first["backup"], "--yes")
    assert deleted.returncode == 0, deleted.stderr
    assert not any(first["backup"] in path for one in repository.snapshots() for path in one["paths"])
    site.stop()

    assert _by_hand(site, second, tmp_path) == held
    assert _bare(site, repository, tmp_path) == held


def _by_hand(site: Site, backup: str, folder: Path) -> dict[Any, bytes]:
    """Restore by the commands of docs/destinations/restic.md; returns what the database then holds."""
    page = (PROJECT / "docs" / "destinations" / "restic.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Restoring by hand\n\n```sh\n(.*?)```", page, re.DOTALL)
    script = str(block).replace("/srv/restic", str(folder / "vault")).replace("NAME", backup)
    script = script.replace("/etc/nanumpay/restic-password", str(folder / "password"))
    script = f'mongorestore() {{ command mongorestore --quiet --uri="{site.server.uri_for("")}" "$@"; }}\n{script}'
    with site.db() as db:
        db.drop_collection("blobs")
    here = folder / "here"
    here.mkdir()
    environment = {"PATH": tools_path(), "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return _held(site)


def _bare(site: Site, repository: Repository, folder: Path) -> dict[Any, bytes]:
    """Restore on a machine that has nothing but the repository; returns what the database then holds."""
    with site.db() as db:
        db.client.drop_database(db.name)
    work = folder / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "RESTIC_PASSWORD_FILE": str(folder / "password"),
        "MONGODB_URI": site.uri,
        "TMPDIR": str(work),
    }
    argv = [
        sys.executable,
        "-m",
        "nanumpay_backupd",
        "restore",
        "latest",
        "--from",
        f"restic:{repository.name}",
        "--yes",
    ]
    done = subprocess.run([*argv, "--no-safety-backup"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return _held(site)


def _held(site: Site) -> dict[Any, bytes]:
    with site.db() as db:
        return {item["_id"]: bytes(item["data"]) for item in db.blobs.find()}
