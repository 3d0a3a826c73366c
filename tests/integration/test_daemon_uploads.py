"""The upload queue of a running daemon: degraded, tried again, kept over a restart, queued again when mended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_OK
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.system.locks import FileLock
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.ftp import FOLDER, PASSWORD, FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.proxy import BreakingProxy

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FtpServer]:
    """An FTP server on another loopback address; whoever wants it reached at 127.0.0.1 opens a `door`."""
    with start_pyftpdlib(tmp_path_factory.mktemp("ftp"), address="127.0.0.2") as server:
        yield server


@pytest.fixture
def door(ftp: FtpServer) -> Iterator[BreakingProxy]:
    """The way to the FTP server at 127.0.0.1; closed until somebody calls `start`."""
    proxy = BreakingProxy(ftp.host, ftp.port, ftp.passive_ports, ftp.port)
    yield proxy
    proxy.stop()


@pytest.fixture
def site(mongod_rs: Mongod, ftp: FtpServer) -> Iterator[Site]:
    """A site that uploads to the FTP server, with quick retries; not started."""
    with open_site(mongod_rs, settings_for(ftp)) as site:
        site.write_config("[retry]\nattempts = 50\ndelay = '1s'")
        yield site


def settings_for(ftp: FtpServer, **changes: Any) -> dict[str, Any]:
    """Return the application's settings that name the FTP server at 127.0.0.1."""
    login = {"host": "127.0.0.1", "port": ftp.port, "username": ftp.user, "password": PASSWORD, "remotePath": FOLDER}
    return backup_settings(ftp={**login, **changes})


def copy_at(site: Site, backup: str, destination: str = "app") -> dict[str, Any]:
    """Return one copy of a backup as the daemon describes it."""
    copies = site.call("DescribeBackup", backup=backup)["backup"]["copies"]
    return next(copy for copy in copies if copy["destination"] == destination)


def uploaded(site: Site, backup: str, destination: str = "app") -> dict[str, Any]:
    """Wait until a copy has arrived and return it."""

    def look() -> dict[str, Any] | None:
        copy = copy_at(site, backup, destination)
        return copy if copy["state"] in {"uploaded", "verified"} else None

    return wait_for(look, f"{backup} at {destination}") or {}


@pytest.mark.promise(
    "A copy that did not arrive is tried again, over restarts, until it is there or is told as given up.", item=4
)
def test_failed_upload_is_retried_over_a_restart(site: Site, ftp: FtpServer, door: BreakingProxy) -> None:
    """Server down: degraded, local copy kept, queued, tried again, kept over a restart, and it arrives in the end."""
    site.start()
    run = site.run()
    assert run["outcome"] == "degraded"
    assert run["error"]["retryable"]
    assert run["backup"] + ".tar.gz" in site.artifacts()
    assert copy_at(site, run["backup"])["state"] == "pending"
    assert copy_at(site, run["backup"])["next_attempt"]
    assert site.job()["pending_uploads"] == 1
    assert "1 upload waits" in "\n".join(site.status()["problems"])
    assert site.newest(trigger="retry")["outcome"] == "failed"
    assert copy_at(site, run["backup"])["attempts"] >= 2
    assert site.stop() == EXIT_OK
    site.start()
    assert site.job()["pending_uploads"] == 1
    door.start()
    copy = uploaded(site, run["backup"])
    assert copy.get("error") is None
    assert copy.get("next_attempt") is None
    stored = ftp.folder / f"{run['backup']}.tar.gz"
    assert stored.read_bytes() == (site.backups / stored.name).read_bytes()
    assert (ftp.folder / f"{stored.name}.manifest.json").exists()
    wait_for(lambda: site.job()["pending_uploads"] == 0, "an empty queue")
    assert site.job()["last_run"]["id"] == run["id"], "a retry is not the last backup"


def test_refused_login_waits_for_new_settings(site: Site, ftp: FtpServer, door: BreakingProxy) -> None:
    """530: not tried again by itself, because that cannot help; with the right password saved it goes at once."""
    door.start()
    site.save(settings_for(ftp, password="not this one"))
    site.start()
    run = site.run()
    assert run["outcome"] == "degraded"
    assert "530" in run["error"]["message"]
    assert not run["error"]["retryable"]
    copy = copy_at(site, run["backup"])
    assert (copy["state"], copy.get("next_attempt"), copy["attempts"]) == ("pending", None, 1)
    site.save(settings_for(ftp))
    uploaded(site, run["backup"])
    assert [run["trigger"] for run in site.runs()] == ["retry", "manual"]


@pytest.mark.promise(
    "A copy that did not arrive is tried again, over restarts, until it is there or is told as given up.", item=4
)
def test_given_up_is_queued_by_the_next_success(site: Site, ftp: FtpServer, door: BreakingProxy) -> None:
    """After its last try an upload is given up; the next backup that arrives there brings it back into the queue."""
    site.write_config("[retry]\nattempts = 1\ndelay = '1s'")
    site.start()
    first = site.run()
    assert first["outcome"] == "degraded"
    assert copy_at(site, first["backup"]).get("next_attempt") is None
    door.start()
    assert site.run()["outcome"] == "succeeded"
    uploaded(site, first["backup"])


@pytest.mark.promise(
    "A destination that fails, hangs or lies never counts as having a copy, and the others go on.", item=4
)
def test_one_destination_down_does_not_stop_the_other(site: Site, tmp_path: Path) -> None:
    """With two destinations of which one is down the other has its copy, and only the one is queued."""
    other = f"[destination.disk]\ntype = 'local'\npath = '{tmp_path}'\n[nanumpay]\ndestinations = ['disk']"
    site.write_config(f"[retry]\nattempts = 50\ndelay = '1h'\n{other}")
    site.start()
    run = site.run()
    assert run["outcome"] == "degraded"
    assert copy_at(site, run["backup"], "disk")["state"] in {"uploaded", "verified"}
    assert copy_at(site, run["backup"], "app")["state"] == "pending"
    assert (tmp_path / f"{run['backup']}.tar.gz").exists()
    checks = site.call("TestDestination", destination="disk")["checks"]
    assert {check["state"] for check in checks} == {"ok"}
    checks = site.call("TestDestination", destination="app")["checks"]
    assert "failed" in {check["state"] for check in checks}
    with pytest.raises(RemoteError, match="no job has a destination 'tape'"):
        site.call("TestDestination", destination="tape")


def test_slices_wait_together_for_a_place_that_is_down(site: Site, ftp: FtpServer, door: BreakingProxy) -> None:
    """While the server is down one slice after the other joins the queue, told once; back, all of them arrive."""
    site.write_config("[retry]\nattempts = 2\ndelay = '1s'\n[nanumpay]\npitr = '1s'")
    site.start()
    wait_for(lambda: site.job()["protection"]["stream"] == "ok", "slices that follow on")
    for count in range(1, 4):
        with site.db() as db:
            db.users.insert_one({"_id": count})
        wait_for(lambda count=count: site.job()["protection"]["slices"] == count, "a slice")  # type: ignore[misc]
    wait_for(lambda: site.job()["pending_uploads"] == 4, "the full and its slices in the queue")
    assert site.log().count("slice degraded") == 1
    assert "4 uploads wait (backupctl list --slices)" in "\n".join(site.status()["problems"])
    door.start()
    wait_for(lambda: site.job()["pending_uploads"] == 0, "an empty queue")
    made = {item["artifact"] for item in site.call("ListBackups", slices=True)["backups"]}
    assert made <= {path.name for path in ftp.folder.iterdir()}


def test_slices_do_not_try_a_refused_login_again_and_again(site: Site, ftp: FtpServer, door: BreakingProxy) -> None:
    """Every minute a refused login would get the account locked: slices wait untried until the settings change."""
    door.start()
    site.write_config("[nanumpay]\npitr = '1s'")
    site.save(settings_for(ftp, password="not this one"))
    site.start()
    wait_for(lambda: site.job()["protection"]["stream"] == "ok", "slices that follow on")
    with site.db() as db:
        db.users.insert_one({"_id": 1})
    wait_for(lambda: site.job()["pending_uploads"] == 2, "the full and a slice in the queue")
    (made,) = [item for item in site.call("ListBackups", slices=True)["backups"] if item["kind"] == "incremental"]
    copy = copy_at(site, made["id"])
    assert (copy["attempts"], copy["error"]["code"]) == (0, "destination-auth")
    site.save(settings_for(ftp))
    uploaded(site, made["id"])


def test_locked_job_is_not_hammered(site: Site) -> None:
    """While somebody else (run-once) has the job, a due upload waits instead of being tried over and over."""
    site.start()
    run = site.run()
    lock = FileLock(Layout(site.backups).lock("nanumpay"), "job nanumpay")
    wait_for(lambda: _taken(lock), "the job's lock")
    try:
        assert site.newest(trigger="retry")
        wait_for(lambda: "skipped" in [run["outcome"] for run in site.runs()], "a retry that found the job locked")
        # Nothing is to happen now, so there is nothing to wait for; without the pause two more would fit in here.
        time.sleep(1.0)
        assert [run["outcome"] for run in site.runs()].count("skipped") == 1
    finally:
        lock.release()
    assert copy_at(site, run["backup"])["state"] == "pending"


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Exception:
        return False
    return True


def test_destination_taken_out(site: Site, ftp: FtpServer) -> None:
    """A queued upload to a place that is no longer configured is dropped, with a word in the log."""
    site.start()
    run = site.run()
    assert run["outcome"] == "degraded"
    site.save(backup_settings())
    wait_for(lambda: site.job()["destinations"] == [], "the new settings")
    wait_for(lambda: site.job()["pending_uploads"] == 0, "an empty queue")
    assert "that destination is no longer configured" in site.log()
    assert [copy["destination"] for copy in site.list_backups()[0]["copies"]] == ["local"]
