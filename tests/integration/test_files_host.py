"""File trees through a real daemon: listed, encrypted to S3, verified, drilled, restored by command and by hand.

The tree has all that a tree can hold, and the backup that is restored is an increment on top of a full.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.pipeline.layout import Layout
from tests.file_site import evolve
from tests.integration.test_cli import backupctl
from tests.integration.test_sqlite import Nowhere
from tests.keys import age_key
from tests.servers.daemon import Site, open_site
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT
from tests.trees import fill_tree, read_tree

pytestmark = pytest.mark.servers

_LEFT_OUT: Final = (".env", "storage/logs/app.log")


class Host:
    """A host with a daemon, a tree in two states, a backup of each, and a bucket that has both."""

    def __init__(self, site: Site, s3: S3Server, tree: Path) -> None:
        self.site = site
        self.s3 = s3
        self.tree = tree
        self.identity = site.folder / "identity"
        self.full, self.before = self._save(), read_tree(tree, _LEFT_OUT)
        evolve(tree)
        self.last, self.now = self._save("--kind", "incremental"), read_tree(tree, _LEFT_OUT)

    def ctl(self, *words: str, code: int = 0) -> str:
        """Run backupctl, which has to end so; returns what it said."""
        done = backupctl(self.site.socket, *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def listed(self, *words: str) -> dict[str, Any]:
        """List as JSON; returns the entries by their path in the tree."""
        document = json.loads(self.ctl("ls", *words, "--json"))
        return {entry["path"].removeprefix(f"{self.tree}/"): entry for entry in document["entries"]}

    def stored(self, backup: dict[str, Any]) -> Path:
        """Return the object of a backup, as the bucket has it on its disk."""
        (found,) = (self.s3.root / self.s3.bucket).rglob(f"{backup['id']}.tar.gz.age")
        return found

    def _save(self, *words: str) -> dict[str, Any]:
        self.ctl("run", "app", *words)
        (run, *_) = self.site.call("ListRuns", job="app", slices=True)["runs"]
        backup: dict[str, Any] = self.site.call("DescribeBackup", backup=run["backup"])["backup"]
        assert {(copy["destination"], copy["state"]) for copy in backup["copies"]} == {
            ("local", "verified"),
            ("cloud", "verified"),
        }
        return backup


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a job of files, and one of something else."""
    root = tmp_path_factory.mktemp("host")
    tree = root / "srv" / "app"
    fill_tree(tree)
    (tree / "many").mkdir()
    for at in range(1100):  # more than a page
        (tree / "many" / f"{at:04}").touch()
    (tree / ".env").write_text("APP_KEY=secret")
    (tree / "storage" / "logs" / "app.log").write_text("log")
    with contextlib.closing(sqlite3.connect(root / "app.db")) as db:
        db.execute("CREATE TABLE things (at INTEGER)")
    pair = age_key("first")
    with start_s3(root) as s3, open_site(Nowhere(), fill=False) as site:
        (site.folder / "identity").touch(mode=0o600)
        (site.folder / "identity").write_text(pair.identity.reveal())
        site.write_config(
            f"""
            [nanumpay]
            enabled = false
            [[job]]
            name = "app"
            type = "files"
            path = ["{tree}"]
            preset = "laravel"
            destinations = ["cloud"]
            [job.encryption]
            method = "age"
            scope = "remote"
            recipients = ["{pair.recipient}"]
            decrypt_with = {{ file = "{site.folder}/identity" }}
            [[job]]
            name = "base"
            type = "sqlite"
            path = ["{root}/app.db"]
            [destination.cloud]
            type = "s3"
            bucket = "{s3.bucket}"
            prefix = "files/"
            endpoint_url = "{s3.endpoint}"
            path_style = true
            access_key_id = "{ACCESS_KEY}"
            secret_access_key = "{SECRET_KEY}"
            """
        )
        site.start()
        yield Host(site, s3, tree)


def test_ls_shows_each_backup_as_it_was(host: Host) -> None:
    """A folder, a file, a whole tree; of a full and of an increment, with names of any bytes."""
    top = host.listed("latest")
    assert top.keys() == {os.fsdecode(name) for name in host.before if name and b"/" not in name}
    assert (top["restricted"]["mode"], top["restricted"]["target"]) == ("drwx-wx--T", "")
    whole = host.listed(host.last["id"], "--recursive")
    assert whole.keys() == {name.decode("utf-8", "backslashreplace") for name in host.now if name}
    assert {path: entry["mode"] for path, entry in whole.items()} == {
        name.decode("utf-8", "backslashreplace"): found[0] for name, found in host.now.items() if name
    }
    link = whole["store room/link"]
    assert (link["mode"], link["target"]) == ("lrwxrwxrwx", "../public/a")
    one = host.listed(host.last["id"], str(host.tree / "public" / "sparse"))
    assert one["public/sparse"]["size"] == 12 << 20
    shown = host.ctl("ls", host.full["id"], str(host.tree / "public"))
    assert "/public/new\\nline\n" in shown
    assert "/public/\\xff\\xfe not utf-8\n" in shown
    assert "한글 이름.txt" in shown


def test_ls_says_what_there_is_not(host: Host) -> None:
    """A path, a backup, and a source without files are each told with what helps."""
    assert "its trees are: " in host.ctl("ls", "latest", "/etc/passwd", code=6)
    assert "no path" in host.ctl("ls", host.last["id"], str(host.tree / "empty" / "x"), code=6)
    assert "backupctl list" in host.ctl("ls", "nothing", code=6)
    host.ctl("run", "base")
    (base,) = host.site.call("ListBackups", job="base")["backups"]
    said = host.ctl("ls", base["id"], code=7)
    assert "is a backup of SQLite: it holds databases" in said
    assert f"backupctl show {base['id']}" in said


def test_all_copies_are_proven_and_a_drill_compares_the_tree(host: Host) -> None:
    """Verification reads every copy, of the increment too; a drill unpacks it and compares every file."""
    for backup in (host.full, host.last):
        host.ctl("verify", backup["id"], "--level", "structure")
    host.ctl("drill", "app")
    (run, *_) = host.site.call("ListRuns", job="app")["runs"]
    assert (run["action"], run["outcome"]) == ("drill", "succeeded")


def test_the_chain_comes_back_from_the_bucket(host: Host, tmp_path: Path) -> None:
    """What is encrypted in the bucket is fetched, opened and restored, the increment on top of its full."""
    to = tmp_path / "restored"
    host.ctl("restore", "latest", "--job", "app", "--at", "latest", "--from", "cloud", "--to", str(to), "--yes")
    assert read_tree(to) == host.now
    earlier = tmp_path / "earlier"
    host.ctl("restore", host.full["id"], "--from", "cloud", "--to", str(earlier), "--yes")
    assert read_tree(earlier) == host.before


def test_the_bucket_alone_is_enough(host: Host, tmp_path: Path) -> None:
    """On a machine without host file and daemon, the bucket and the key bring the tree back."""
    to = tmp_path / "restored"
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": host.s3.endpoint,
        "TMPDIR": str(tmp_path),
    }
    command = ["restore", "--from", f"s3://{host.s3.bucket}/files/", "--at", "latest"]
    command += ["--job", "app", "--to", str(to), "--identity", str(host.identity), "--yes"]
    done = subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd", *command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_tree(to) == host.now


def test_the_lines_of_the_page_restore_it_by_hand(host: Host, tmp_path: Path) -> None:
    """With age, gunzip and tar alone, as docs/sources/files.md has it, out of the bucket's objects."""
    page = (PROJECT / "docs" / "sources" / "files.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^<!-- test: by-hand -->\n```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for backup in (host.full, host.last):
        plain = tmp_path / f"{backup['id']}.tar.gz"
        subprocess.run(["age", "-d", "-i", host.identity, "-o", plain, host.stored(backup)], check=True)
    names = {"FULL": f"{host.full['id']}.tar.gz", "INCREMENTS": f"{host.last['id']}.tar.gz"}
    done = subprocess.run(
        ["bash", "-euc", lines], cwd=tmp_path, env={**os.environ, **names}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "restored" / str(host.tree).strip("/")) == host.now


def test_ls_reads_copies_elsewhere(host: Host) -> None:
    """Where the backups folder has lost them, what is encrypted in the bucket is listed all the same."""
    here = host.listed(host.last["id"], "--recursive")
    shutil.rmtree(host.site.state / "listings")
    for backup in (host.full, host.last):
        Layout(host.site.backups).artifact(backup["artifact"]).unlink()
    assert host.listed(host.last["id"], "--recursive") == here
    # Once it is known what is in a backup, nothing is read for it any more.
    assert [path.name for path in (host.site.state / "listings").iterdir()] == [f"{host.last['id']}.db"]
    assert not [path for path in host.site.backups.rglob("*.tar.gz*") if "app-" in path.name]
    found = host.stored(host.full)
    whole = found.read_bytes()
    shutil.rmtree(host.site.state / "listings")
    try:
        found.write_bytes(whole[:-100] + bytes(100))
        said = host.ctl("ls", host.last["id"], code=1)
    finally:
        found.write_bytes(whole)
    assert host.full["id"] in said
    assert not list((host.site.state / "listings").iterdir())
