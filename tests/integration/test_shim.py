"""`nanumpay-backup` to the letter of the application's contract, by way of a daemon and without one."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.locks import FileLock
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.tools import find_tool, tools_path

pytestmark = pytest.mark.servers

_LINE: Final = re.compile(r"^✅ 압축 완료: (nanumpay-backup-.+\.tar\.gz)$", re.MULTILINE)
_DAEMON: Final = pytest.mark.parametrize("daemon", [True, False], ids=["by-daemon", "alone"])


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site on the replica set, not started."""
    with open_site(mongod_rs) as site:
        site.write_config()
        yield site


def environment(site: Site, backups: Path | None = None, *, force: bool = True, uri: str = "") -> dict[str, str]:
    """Return what the application gives the program, and where this site's daemon and host file are; no locale."""
    names = {
        "PATH": tools_path(),
        "MONGODB_URI": uri or site.uri,
        "BACKUP_PATH": str(backups or site.backups),
        "NANUMPAY_BACKUPD_SOCKET": str(site.socket),
        "NANUMPAY_BACKUPD_CONFIG": str(site.config),
        "NANUMPAY_TEST_SITE": str(site.folder),
        # Python would help itself out of the C locale; elsewhere it may not.
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    }
    return {**names, "FORCE_BACKUP": "true"} if force else names


def run_now(site: Site, backups: Path | None = None, **options: bool | str) -> subprocess.CompletedProcess[bytes]:
    """Do what the application does: run the program without arguments, wait for at most five minutes."""
    env = environment(site, backups, **options)  # type: ignore[arg-type]
    return subprocess.run([find_tool("nanumpay-backup")], capture_output=True, env=env, cwd="/", timeout=300)


def artifact(done: subprocess.CompletedProcess[bytes], backups: Path) -> Path:
    """Find the file as the application does: by the line on standard output, then in the folder."""
    found: list[str] = _LINE.findall(done.stdout.decode("utf-8"))
    assert len(found) == 1, (done.stdout.decode(), done.stderr.decode())
    path = backups / found[0]
    assert path.is_file()
    return path


def clean_up(backups: Path) -> None:
    """Clean the folder by the application's rule: the newest archive stays, all else with its prefix goes."""
    archives = sorted(backups.glob("nanumpay-backup-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    for path in backups.iterdir():
        if path.name.startswith("nanumpay-backup-") and path not in archives[-1:]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@_DAEMON
def test_run_now(site: Site, daemon: bool) -> None:
    """Exit 0, the line, and an archive in the folder that holds a folder of its own name; also in the C locale."""
    if daemon:
        site.start()
    done = run_now(site)
    assert done.returncode == EXIT_OK, done.stderr.decode()
    path = artifact(done, site.backups)
    with tarfile.open(path) as archive:
        names = archive.getnames()
    stem = path.name.removesuffix(".tar.gz")
    assert f"{stem}/{site.database}/users.bson" in names
    assert all(name == stem or name.startswith(f"{stem}/") for name in names)
    assert done.stderr == b""
    if not daemon:
        site.start()
    (backup,) = site.list_backups()
    assert (backup["artifact"], backup["state"]) == (path.name, "verified")
    (run,) = site.runs()
    assert (run["trigger"], run["outcome"]) == ("manual", "succeeded")


@_DAEMON
def test_force_and_disabled(site: Site, daemon: bool) -> None:
    """``enabled: false``: nothing and exit 0, unless FORCE_BACKUP says that it is to be."""
    site.save(backup_settings(enabled=False))
    if daemon:
        site.start()
    done = run_now(site, force=False)
    assert done.returncode == EXIT_OK
    assert "Backup is disabled" in done.stdout.decode()
    assert site.artifacts() == []
    done = run_now(site)
    assert done.returncode == EXIT_OK
    artifact(done, site.backups)


@_DAEMON
def test_failed_upload(site: Site, daemon: bool) -> None:
    """Exit 1, but with the line: the local copy counts; the reason is on standard error.

    It is a .tar.gz although the settings say ``compress: false``: the clean-up would delete anything else.
    """
    nobody = {"host": "127.0.0.1", "port": free_port(), "username": "u", "password": "secret1"}
    site.save(backup_settings(ftp=nobody, retention={"compress": False}))
    if daemon:
        site.start()
    done = run_now(site)
    assert done.returncode == EXIT_FAILED
    artifact(done, site.backups)
    assert "❌ Backup failed:" in done.stderr.decode()
    assert "127.0.0.1" in done.stderr.decode()
    clean_up(site.backups)
    assert len(site.artifacts()) == 1
    if not daemon:
        site.start()
    assert site.job()["pending_uploads"] == 1, "the daemon brings it there later"


def test_clean_up_is_tolerated(site: Site) -> None:
    """After the application's clean-up: what it deleted is missing in the list, nothing of ours is lost, runs go on."""
    site.start()
    first, second = (artifact(run_now(site), site.backups) for _ in range(2))
    clean_up(site.backups)
    assert site.artifacts() == [second.name]
    states = {item["artifact"]: item["copies"][0]["state"] for item in site.list_backups()}
    assert states == {first.name: "missing", second.name: "verified"}
    done = run_now(site)
    assert done.returncode == EXIT_OK
    third = artifact(done, site.backups)
    assert third.name not in {first.name, second.name}
    assert len(list(Layout(site.backups).manifests.iterdir())) == 3


@_DAEMON
def test_folder_elsewhere(site: Site, daemon: bool) -> None:
    """BACKUP_PATH names another folder than the daemon's: the file is there, and the daemon's backups stay known."""
    site.start()
    own = site.run()["backup"]
    if not daemon:
        site.stop()
    elsewhere = site.folder / "application" / "backups"
    done = run_now(site, elsewhere)
    assert done.returncode == EXIT_OK, done.stderr.decode()
    artifact(done, elsewhere)
    clean_up(elsewhere)
    if not daemon:
        site.start()
    assert [(item["id"], item["copies"][0]["state"]) for item in site.list_backups()] == [(own, "verified")]
    assert site.artifacts() == [f"{own}.tar.gz"]


def test_waits_for_a_running_backup(site: Site) -> None:
    """While the daemon makes a backup the program waits for its end and then makes its own."""
    site.start()
    site.hold("nanumpay_backupd.pipeline.backup:produce")
    first = site.begin()
    site.wait_held()
    said = site.folder / "said"
    with said.open("wb") as output:
        program = subprocess.Popen([find_tool("nanumpay-backup")], stdout=output, env=environment(site), cwd="/")
        wait_for(lambda: "Another backup is running" in said.read_text(encoding="utf-8"), "a program that waits")
        site.release()
        assert program.wait(60) == EXIT_OK
    assert len(_LINE.findall(said.read_text(encoding="utf-8"))) == 1
    outcomes = [(run["outcome"], run["id"] == first) for run in site.runs()]
    assert outcomes == [("succeeded", False), ("skipped", False), ("succeeded", True)]


def test_waits_for_a_lock(site: Site) -> None:
    """Without a daemon it waits while somebody else (run-once) has the job."""
    lock = FileLock(Layout(site.backups).lock("nanumpay"), "job nanumpay")
    lock.acquire()
    said = site.folder / "said"
    with said.open("wb") as output:
        program = subprocess.Popen([find_tool("nanumpay-backup")], stdout=output, env=environment(site), cwd="/")
        wait_for(lambda: "Another backup is running" in said.read_text(encoding="utf-8"), "a program that waits")
        lock.release()
        assert program.wait(60) == EXIT_OK
    assert len(_LINE.findall(said.read_text(encoding="utf-8"))) == 1


@_DAEMON
def test_failed_dump(site: Site, daemon: bool) -> None:
    """A backup that fails: exit 1, no line, the reason and what to do on standard error, no file."""
    more = f"[tools]\nmongodump = '{site.folder}/not-there'"
    site.write_config(more)
    if daemon:
        site.start()
    done = run_now(site)
    assert done.returncode == EXIT_FAILED
    assert "압축 완료" not in done.stdout.decode()
    assert "❌ Backup failed: " in done.stderr.decode()
    assert "was not found" in done.stderr.decode()
    assert "mongodb-database-tools" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert site.artifacts() == []


def test_mongodb_down(site: Site) -> None:
    """Neither daemon nor MongoDB: exit 1 and a sentence with the address, without the password."""
    site.uri = f"mongodb://u:geheim-1234@127.0.0.1:{free_port()}/nanumpay"
    site.write_config(mongodb="connect_timeout = '200ms'")
    done = run_now(site)
    assert done.returncode == EXIT_FAILED
    assert "❌ Backup failed: MongoDB at 127.0.0.1" in done.stderr.decode()
    assert "geheim-1234" not in (done.stdout + done.stderr).decode()


def test_arguments(site: Site) -> None:
    """The old program took no arguments; --help says what this is, anything else is refused and does nothing."""
    program = find_tool("nanumpay-backup")
    helped = subprocess.run([program, "--help"], capture_output=True, env=environment(site), timeout=60)
    assert helped.returncode == EXIT_OK
    assert "FORCE_BACKUP" in helped.stdout.decode()
    refused = subprocess.run([program, "now"], capture_output=True, env=environment(site), timeout=60)
    assert refused.returncode == EXIT_FAILED
    assert site.artifacts() == []
