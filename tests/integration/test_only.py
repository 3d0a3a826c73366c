"""Runs for some destinations only, and of all jobs of one kind: by a daemon, and without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_NOT_FOUND, EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from nanumpay_backupd.model import BackupState
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.ftp import FOLDER, PASSWORD, FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.tools import PROJECT

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FtpServer]:
    """An FTP server: the application's own destination, `app`."""
    with start_pyftpdlib(tmp_path_factory.mktemp("ftp")) as server:
        yield server


@pytest.fixture
def site(mongod_rs: Mongod, ftp: FtpServer, tmp_path: Path) -> Iterator[Site]:
    """A site with two destinations, `app` and the disk `usb`, and a second job that has only the disk."""
    login = {"host": ftp.host, "port": ftp.port, "username": ftp.user, "password": PASSWORD, "remotePath": FOLDER}
    with open_site(mongod_rs, backup_settings(ftp=login, retention={"count": 2})) as site:
        (tmp_path / "usb").mkdir()
        site.write_config(
            f"[retry]\nattempts = 50\ndelay = '1s'\n[nanumpay]\ndestinations = ['usb']\n"
            f"[destination.usb]\ntype = 'local'\npath = '{tmp_path}/usb'\n"
            f"[[job]]\nname = 'extra'\nuri = '{site.uri}'\ndestinations = ['usb']\n"
            f"[[job]]\nname = 'rare'\nuri = '{site.uri}'\nenabled = false\n"
        )
        yield site


def names(folder: Path) -> set[str]:
    """Return the fulls whose artifact and manifest lie in a folder."""
    found = {path.name for path in folder.iterdir()}
    whole = {name.removesuffix(".tar.gz") for name in found if name.endswith(".tar.gz")}
    return {name for name in whole if f"{name}.tar.gz.manifest.json" in found}


def places(site: Site, backup: str) -> dict[str, str]:
    """Return the state of each copy of a backup."""
    copies = site.call("DescribeBackup", backup=backup)["backup"]["copies"]
    return {copy["destination"]: copy["state"] for copy in copies}


def arrived(site: Site, backup: str, place: str) -> None:
    """Wait until a queued copy is there, and the run that brought it has ended."""
    wait_for(lambda: places(site, backup)[place] in {"uploaded", "verified"}, f"the copy at {place}")
    wait_for(lambda: not site.job().get("running"), "the end of the run that brought it")


def backupctl(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the client against the site's daemon."""
    argv = [sys.executable, "-m", "nanumpay_backupd.cli", *words, "--socket", str(site.socket)]
    env = site.environment({"COLUMNS": "200"})
    return subprocess.run(argv, capture_output=True, text=True, env=env, cwd=PROJECT, timeout=120, check=False)


def once(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `nanumpay-backupd run-once` with the site's host file."""
    argv = [sys.executable, "-m", "nanumpay_backupd", "--config", str(site.config), "run-once", *words]
    env = site.environment()
    return subprocess.run(argv, capture_output=True, text=True, env=env, cwd=PROJECT, timeout=120, check=False)


def test_a_backup_for_one_destination_only(site: Site, ftp: FtpServer, tmp_path: Path) -> None:
    """Kept here, sent where it was told, also by the queue; missed nowhere else; the next run goes everywhere again."""
    usb = tmp_path / "usb"
    site.start()
    first = site.run()["backup"]
    assert places(site, first).keys() == {"local", "app", "usb"}

    only = site.run(only_to=["usb", "local"])
    assert only["outcome"] == "succeeded"
    assert only["stages"][-2]["detail"] == "1 of 1 destinations (only to: usb)"
    assert places(site, only["backup"]).keys() == {"local", "usb"}
    manifest = json.loads((usb / f"{only['backup']}.tar.gz.manifest.json").read_bytes())
    assert manifest["only_to"] == ["usb"]
    job = site.job()
    assert (job["pending_uploads"], job["newest_backup"]["only_to"]) == (0, ["usb"])
    assert not [text for text in site.status()["problems"] if "nanumpay" in text]

    # At the other place a differential would lead on from nothing: it begins at the full that is at both.
    with site.db() as db:
        db.users.insert_one({"loginId": "late"})
    change = site.run(kind="differential")["backup"]
    assert site.call("DescribeBackup", backup=change)["backup"]["manifest"]["chain"] == first
    assert places(site, change).keys() == {"local", "app", "usb"}

    # The disk is away: the copy waits for it, and for nothing else.
    away = usb.rename(tmp_path / "away")
    usb.touch()
    waiting = site.run(only_to=["usb"])
    assert waiting["outcome"] == "degraded"
    assert places(site, waiting["backup"]).keys() == {"local", "usb"}
    assert site.job()["pending_uploads"] == 1
    usb.unlink()
    away.rename(usb)
    arrived(site, waiting["backup"], "usb")

    last = site.run()["backup"]
    assert places(site, last).keys() == {"local", "app", "usb"}
    here = {backup["id"]: backup["only_to"] for backup in site.list_backups() if backup["job"] == "nanumpay"}
    # By count 2: here and on the disk the two newest, at the other place both that ever came there.
    assert here == {last: None, waiting["backup"]: ["usb"], first: None}
    assert names(usb) == {last, waiting["backup"]}
    assert names(ftp.folder) == {last, first}
    listed = backupctl(site, "list", "nanumpay").stdout
    assert [line.split("  ")[0] for line in listed.splitlines() if line.endswith("only to: usb")] == [waiting["backup"]]
    assert "only to: usb" in backupctl(site, "show", waiting["backup"]).stdout

    # Sent after all, as any other copy that waits; what is there already is not sent again.
    assert site.call("Send", backup=waiting["backup"]) == {"backup": waiting["backup"], "queued": ["app"]}
    arrived(site, waiting["backup"], "app")
    assert waiting["backup"] in names(ftp.folder)
    done = backupctl(site, "send", waiting["backup"], "--to", "app")
    assert (done.returncode, done.stdout.startswith("Nothing to send")) == (EXIT_OK, True)

    site.call("RebuildCatalog")
    assert {backup["id"]: backup["only_to"] for backup in site.list_backups()} == here
    assert site.run(only_to=["local"])["stages"][-2]["stage"] == "verify"
    assert site.job()["newest_backup"]["only_to"] == []
    assert "✗none" not in backupctl(site, "status").stdout


def refused(site: Site, **params: Any) -> tuple[str, str]:
    """Return code and sentence of a Run that does not begin."""
    with pytest.raises(RemoteError) as caught:
        site.call("Run", **params)
    return caught.value.code, f"{caught.value.message} | {caught.value.hint}"


def test_what_makes_no_sense_is_refused_before_anything_begins(site: Site) -> None:
    """Unknown places with the names that there are, slices, jobs of another kind; and nothing is on record."""
    site.start()
    assert refused(site, job="nanumpay", only_to=["nas"]) == (
        "not-found",
        "job nanumpay has no destination 'nas' | its destinations are: local, app, usb",
    )
    assert refused(site, job="nanumpay", only_to=[])[0] == "refused"
    assert refused(site, job="nanumpay", kind="incremental", only_to=["usb"])[0] == "refused"
    code, text = refused(site, job="nanumpay", holds="files")
    assert (code, text.partition(" | ")[0]) == ("refused", "job nanumpay saves a database, not files")
    assert refused(site, holds="files")[0] == "not-found"
    assert refused(site, holds="database")[1].endswith("name one: nanumpay, extra")
    done = backupctl(site, "run", "--only-files")
    assert done.returncode == EXIT_NOT_FOUND
    assert "there is no job that saves files" in done.stderr
    assert backupctl(site, "run", "--only-files", "nanumpay").returncode == EXIT_REFUSED
    assert backupctl(site, "run", "--only-files", "--only-db").returncode == EXIT_USAGE
    assert site.runs() == []


def test_what_cannot_be_sent_is_refused(site: Site) -> None:
    """No such place, only here anyway, not proven, its file gone: each is a sentence, and nothing is queued."""
    site.start()
    made = site.run(only_to=["local"])["backup"]
    for params, code in (
        ({"backup": "nope"}, "not-found"),
        ({"backup": made, "destination": "nas"}, "not-found"),
        ({"backup": made, "destination": "local"}, "refused"),
    ):
        with pytest.raises(RemoteError) as caught:
            site.call("Send", **params)
        assert caught.value.code == code
    with Catalog(site.state / "catalog.db") as found:
        backup = found.backup(made)
        assert backup is not None
        found.save_backup(msgspec.structs.replace(backup, state=BackupState.COMMITTED))
        with pytest.raises(RemoteError, match="is committed: only what was verified is sent"):
            site.call("Send", backup=made)
        found.save_backup(backup)
    (site.backups / f"{made}.tar.gz").unlink()
    with pytest.raises(RemoteError, match="is not in the backups folder any more"):
        site.call("Send", backup=made)
    assert site.job()["pending_uploads"] == 0


def test_every_job_of_a_kind_one_after_the_other(site: Site) -> None:
    """Each enabled one is named with how it ended; one that cannot keeps no other from it; the worst code counts."""
    site.start()
    done = backupctl(site, "run", "--only-db", "--json", "--disable-notifications")
    assert done.returncode == EXIT_OK, done.stderr
    said = json.loads(done.stdout)
    assert [(run["job"], run["outcome"]) for run in said["runs"]] == [("nanumpay", "succeeded"), ("extra", "succeeded")]
    assert said["faults"] == []
    done = backupctl(site, "run", "--only-db", "--only-to", "app")
    assert done.returncode == EXIT_NOT_FOUND
    assert "of job nanumpay" in done.stdout
    assert "job extra: job extra has no destination 'app'" in done.stderr
    assert {run["job"] for run in site.runs()[:1]} == {"nanumpay"}
    started = backupctl(site, "run", "--only-db", "--no-wait").stdout
    assert [line.rpartition(" ")[2] for line in started.splitlines() if line.startswith("Started")] == [
        "nanumpay.",
        "extra.",
    ]
    for run in site.runs()[:2]:
        assert site.ended(run["id"])["outcome"] == "succeeded"


def test_without_a_daemon(site: Site, ftp: FtpServer) -> None:
    """`run-once` knows the same options."""
    before = names(ftp.folder)
    done = once(site, "--only-db", "--only-to", "usb,local")
    assert done.returncode == EXIT_OK, done.stderr
    assert "job nanumpay" in done.stdout
    assert "job extra" in done.stdout
    assert names(ftp.folder) == before
    # One job that cannot keeps no other from it.
    done = once(site, "--only-db", "--only-to", "app")
    assert (done.returncode, "job extra has no destination 'app'" in done.stderr) == (EXIT_NOT_FOUND, True)
    with Catalog(site.state / "catalog.db") as found:
        assert [backup.only_to for backup in reversed(found.backups("nanumpay"))] == [("usb",), ("app",)]
    for words, code in ((("--only-files",), EXIT_NOT_FOUND), (("nanumpay", "--only-files"), EXIT_REFUSED)):
        assert once(site, *words).returncode == code
    assert once(site, "--only-to", "usb", "--kind", "incremental").returncode == EXIT_REFUSED
