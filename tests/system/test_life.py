"""An installed host in daily life: settings, runs, journal, reload, MongoDB's ups and downs, and what goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial

import pytest

from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE
from tests.compare import describe_database
from tests.servers.tools import PROJECT
from tests.system.container import wait_for
from tests.system.host import BACKUPS, DATABASE, SERVICE, Host, without_place
from tests.system.image import FTP_PASSWORD, FTP_USER


@pytest.fixture
def well(host: Host) -> Iterator[Host]:
    """The installed host as it was after its installation: active, usual settings, no drop-in of a test."""
    yield host
    host.release()
    host.run(f"rm -rf /etc/systemd/system/{SERVICE}.service.d; systemctl daemon-reload")


def shows(host: Host, pattern: str) -> bool:
    """Tell whether the status has a line like this."""
    return re.search(pattern, host.ctl("status").out) is not None


def test_saved_settings_change_the_next_run(well: Host) -> None:
    """What is saved in MongoDB is in force within seconds: the next run is at the new time, in the host's zone."""
    for moment in ("03:30", "04:15"):
        well.save(without_place(time=moment))
        wait_for(partial(shows, well, f"next run +\\S+ {moment} KST"), f"a next run at {moment}")
    wait_for(lambda: "next backup 04:15 KST" in well.show("StatusText"), "the new time in systemd's status line")


def test_a_run_is_told_in_the_journal(well: Host) -> None:
    """Every line of a run carries its id, and its stages come in order."""
    run = well.backup()
    entries = well.journal("-u", SERVICE, f"RUN_ID={run['id']}")
    assert entries
    told = [entry["STAGE"] for entry in entries if entry.get("STAGE")]
    order = ["preflight", "dump", "compress", "publish", "verify", "upload", "retention"]
    assert [stage for stage in dict.fromkeys(told) if stage in order] == [stage for stage in order if stage in told]
    assert any(run["backup"] in entry["MESSAGE"] for entry in entries)


def test_reload(well: Host) -> None:
    """A good file is taken over; a bad one makes `systemctl reload` fail with the reason, and all stays as it was."""
    well.host_file('timezone = "Europe/Berlin"\n')
    well.run(f"systemctl reload {SERVICE}")
    assert re.search(r"daily at \d\d:\d\d CES?T", well.ctl("status").out)
    well.host_file('timezone = "Europe/Berlni"\n')
    since = well.now()
    refused = well.run(f"systemctl reload {SERVICE}", check=False)
    assert refused.code != 0
    told = [entry["MESSAGE"] for entry in well.journal("-u", SERVICE, since=since)]
    assert any("timezone" in line and "Europe/Berlni" in line for line in told), told
    assert well.show("ActiveState") == "active"
    assert re.search(r"daily at \d\d:\d\d CES?T", well.ctl("status").out)
    assert "the last reload was refused" in well.ctl("status").out
    well.host_file("")
    well.run(f"systemctl reload {SERVICE}")
    assert re.search(r"daily at \d\d:\d\d KST", well.ctl("status").out)


def test_metrics_out_of_the_sandbox(well: Host) -> None:
    """The address needs nothing; the file needs what docs/monitoring.md says, and the status names the drop-in.

    Then every user may read it, node_exporter's among them.
    """
    file = "/var/lib/prometheus/node-exporter/nanumpay-backupd.prom"
    fetch = (
        "python3 -c 'import urllib.request as u; "
        'print(u.urlopen("http://127.0.0.1:9618/metrics", timeout=20).read().decode())\''
    )
    well.run(f"install -d -m 0755 {file.rpartition('/')[0]}")
    well.host_file(f'[metrics]\nlisten = "127.0.0.1:9618"\ntextfile = "{file}"\n')
    well.run(f"systemctl reload {SERVICE}")
    wait_for(lambda: shows(well, "metrics cannot be written to"), "the fault")
    assert shows(well, r"drop-ins/metrics\.conf")
    assert "nanumpay_backup_build_info{version=" in well.run(f"runuser -u nobody -- {fetch}").out
    page = (PROJECT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```sh\n(chgrp .*?)^```$", page, re.MULTILINE | re.DOTALL)
    well.run(f"set -e\n{commands}")
    wait_for(lambda: well.path(file).exists(), "the file")
    assert "nanumpay_backup_build_info{version=" in well.run(f"runuser -u nobody -- cat {file}").out
    assert not shows(well, "metrics cannot")
    well.host_file("")
    well.run(f"systemctl reload {SERVICE}")
    wait_for(lambda: not well.path(file).exists(), "the end of the file")
    well.run("chgrp root /var/lib/prometheus/node-exporter")


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
def test_a_stop_in_mid_dump_lets_the_run_end(well: Host) -> None:
    """`systemctl stop` waits for a run that ends soon; systemd shows meanwhile what it waits for."""
    well.hold_dumps()
    run = well.begin()
    well.wait_held()
    well.run(f"systemctl stop --no-block {SERVICE}")
    wait_for(lambda: well.show("StatusText") == "stopping, nanumpay is running (dump)", "a status line that says why")
    assert well.show("ActiveState") == "deactivating"
    well.release()
    wait_for(lambda: well.show("ActiveState") == "inactive", "the service's end")
    assert well.show("Result") == "success"
    well.run(f"systemctl start {SERVICE}")
    assert well.ended(run)["outcome"] == "succeeded"


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
def test_killed_in_mid_dump(well: Host) -> None:
    """After SIGKILL systemd starts it again, the run is `interrupted`, nothing half is left, and backups go on."""
    before = [path.name for path in well.stored()]
    well.hold_dumps()
    run = well.begin()
    well.wait_held()
    restarts, killed = int(well.show("NRestarts")), well.main_pid()
    well.run(f"systemctl kill --signal=KILL --kill-whom=main {SERVICE}")
    wait_for(lambda: int(well.show("NRestarts")) > restarts and well.show("ActiveState") == "active", "a restart")
    well.release()
    assert well.main_pid() != killed
    assert well.ended(run)["outcome"] == "interrupted"
    assert [path.name for path in well.stored()] == before
    assert not list(well.path(f"{BACKUPS}/.backupd/staging").iterdir())
    assert well.backup()["outcome"] == "succeeded"


@pytest.mark.promise("A daemon that hangs is ended by its watchdog; one that works feeds it.", item=10)
def test_the_watchdog_restarts_a_daemon_that_hangs(well: Host) -> None:
    """A daemon that was stopped by SIGSTOP no longer answers: systemd ends it and starts another."""
    well.drop_in("test", "WatchdogSec=2")
    well.run(f"systemctl restart {SERVICE}")
    since, hanging = well.now(), well.main_pid()
    well.run(f"kill -STOP {hanging}")
    wait_for(lambda: well.main_pid() not in {0, hanging} and well.show("ActiveState") == "active", "a new daemon")
    told = [
        entry["MESSAGE"]
        for entry in well.journal(f"_SYSTEMD_UNIT={SERVICE}.service", "+", f"UNIT={SERVICE}.service", since=since)
    ]
    assert any("Watchdog timeout" in line for line in told), told
    assert well.ctl("status").code == EXIT_OK


@pytest.mark.promise("Without MongoDB the schedule and the last good settings go on; it comes back by itself.", item=7)
def test_mongodb_goes_and_comes_back(well: Host) -> None:
    """Without MongoDB the daemon stays up, also through a restart, knows its schedule, and says why a run fails.

    `journalctl -x` explains below the failed run what that means and what to do.
    """
    due = well.job()["next_run"]
    since = well.now()
    well.run("systemctl stop mongod")
    failed = well.ctl("run", check=False)
    assert failed.code == 1
    assert "source-unreachable" in failed.err
    assert "Traceback" not in failed.said
    told = well.run(f"journalctl -x -u {SERVICE} --since={since} --no-pager").out
    explained = [line for line in told.splitlines() if line.startswith("░░")]
    assert any("Defined-By: nanumpay-backupd" in line for line in explained), told
    assert any("backupctl show" in line for line in explained), told
    well.run(f"systemctl restart {SERVICE}")
    status = well.ask("status")
    assert status["settings"]["connected"] is False
    assert well.job()["next_run"] == due
    well.run("systemctl start mongod")
    well.wait_mongod()
    wait_for(lambda: well.ask("status")["settings"]["connected"], "a daemon that found MongoDB again")
    assert well.backup()["outcome"] == "succeeded"


def test_the_socket_starts_the_daemon(well: Host) -> None:
    """Whoever connects while the daemon is stopped starts it, and gets an answer."""
    well.run(f"systemctl stop {SERVICE}")
    assert well.show("ActiveState") == "inactive"
    assert well.show("ActiveState", unit=f"{SERVICE}.socket") == "active"
    assert well.ctl("status").code == EXIT_OK
    assert well.show("ActiveState") == "active"


def test_without_the_socket_unit_the_daemon_makes_its_own(well: Host) -> None:
    """With the socket unit masked, the daemon binds the socket itself, with the same rights."""
    well.run(f"systemctl stop {SERVICE}.socket {SERVICE}; systemctl mask {SERVICE}.socket; rm -f /run/{SERVICE}/*.sock")
    try:
        well.run(f"systemctl start {SERVICE}")
        assert well.ctl("status").code == EXIT_OK
        shown = well.run(f"stat -c '%a %U %G' /run/{SERVICE}/control.sock").out.split()
        assert shown == ["660", "nanumpay", "nanumpay"]
    finally:
        well.run(f"systemctl unmask {SERVICE}.socket; systemctl stop {SERVICE}; systemctl start {SERVICE}.socket")
        well.run(f"systemctl start {SERVICE}")
    assert well.ctl("status").code == EXIT_OK


def test_who_may_do_what(well: Host) -> None:
    """A member of the group may look and run, not restore; anybody else may not even connect, and is told why."""
    well.run("useradd -m alice && usermod -aG nanumpay alice; useradd -m bob")
    assert well.ctl("status", user="alice").code == EXIT_OK
    assert well.ctl("run", user="alice").code == EXIT_OK
    for words in (["restore", "latest", "--yes"], ["delete", well.runs()[0]["backup"], "--yes"]):
        refused = well.ctl(*words, user="alice", check=False)
        assert (refused.code, "not-allowed" in refused.err) == (EXIT_REFUSED, True), refused
    for words in (["status"], ["run"]):
        outside = well.ctl(*words, user="bob", check=False)
        assert outside.code == EXIT_UNREACHABLE, outside
        assert "nanumpay" in outside.err
        assert "Traceback" not in outside.said


def test_restore_and_drill(well: Host) -> None:
    """In the sandbox a restore brings back what was there, and a drill proves the backup in a scratch server."""
    with well.mongo() as client:
        before = describe_database(client, DATABASE)
        well.backup()
        client[DATABASE].users.delete_many({})
        client[DATABASE].users.insert_one({"loginId": "nobody"})
        done = well.ctl("restore", "latest", "--yes", timeout=120)
        assert done.code == EXIT_OK
        assert describe_database(client, DATABASE) == before
    drill = json.loads(well.ctl("drill", "--json", timeout=120).out)["run"]
    assert drill["outcome"] == "succeeded"
    assert well.run("pgrep -c mongod").out.strip() == "1", "the scratch server is gone"


@pytest.mark.parametrize("kind", ["ftp", "s3"])
def test_copies_go_to_remote_places(well: Host, kind: str) -> None:
    """The sandbox lets uploads through: settings with a server, and the next backup has its copy there."""
    storage = {
        "ftp": {"host": "127.0.0.1", "username": FTP_USER, "password": FTP_PASSWORD, "remotePath": "backups"},
        "s3": {"bucket": "bucket", "region": "us-east-1", "accessKeyId": "KEY", "secretAccessKey": "secret12"},
    }[kind]
    start = {
        "ftp": "systemctl start vsftpd",
        "s3": "mkdir -p /srv/s3/bucket; systemd-run --collect --unit=s3 -- "
        "rclone serve s3 --addr 127.0.0.1:9000 --auth-key KEY,secret12 /srv/s3",
    }[kind]
    folder, stop = {"ftp": (f"/home/{FTP_USER}", "vsftpd"), "s3": ("/srv/s3", "s3")}[kind]
    well.run(start)
    settings = without_place()
    settings["storage"]["type"] = kind
    settings["storage"][kind] |= storage
    try:
        if kind == "s3":
            well.host_file('[nanumpay.s3]\nendpoint_url = "http://127.0.0.1:9000"\npath_style = true\n')
            well.run(f"systemctl reload {SERVICE}")
        well.save(settings)
        wait_for(lambda: well.job()["destinations"], "the new place in force")
        done = well.ctl("run", check=False)
        assert done.code == EXIT_OK, done
        assert "app✓" in done.out
        assert list(well.path(folder).rglob("*.tar.gz"))
    finally:
        well.run(f"systemctl stop {stop}")
        well.save(without_place())
        well.host_file("")
        well.run(f"systemctl reload {SERVICE}")
