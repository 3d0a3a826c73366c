"""Death at every stage, by signal or request: what was committed stays, nothing is left, the next run succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_INTERRUPTED, EXIT_OK
from tests.servers.daemon import Site, backup_settings, open_site, plan_ago, slow_mongodump, wait_for
from tests.servers.ftp import PASSWORD, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.proxy import BreakingProxy
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers


class Mongodump:
    """The site's mongodump, which can be told to wait (see `slow_mongodump`)."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wait = site.folder / "mongodump.wait"
        self._waiting = site.folder / "mongodump.waiting"
        self.path = slow_mongodump(site)

    def hold(self, at: str) -> None:
        """Make the next one wait."""
        self._waiting.unlink(missing_ok=True)
        self.path = slow_mongodump(self._site, at=at)
        self._wait.touch()

    def wait_held(self) -> None:
        """Wait until it waits."""
        wait_for(self._waiting.exists, "a mongodump that waits")

    def release(self) -> None:
        """Let it go on."""
        self._wait.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def lasting(mongod_rs: Mongod) -> Iterator[Site]:
    """A site for the whole module, with a mongodump that can be held and one good backup; its daemon is running."""
    with open_site(mongod_rs, backup_settings(retention={"count": 365})) as site:
        site.write_config(f"[tools]\nmongodump = '{Mongodump(site).path}'")
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


@pytest.fixture
def site(lasting: Site) -> Iterator[Site]:
    """The lasting site with its daemon running and nothing held; afterwards everything is checked."""
    if lasting.process is None or lasting.process.poll() is not None:
        lasting.start()
    before = fingerprints(lasting)
    yield lasting
    lasting.release()
    Mongodump(lasting).release()
    after = fingerprints(lasting)
    assert {name: after.get(name) for name in before} == before, "a committed backup was lost or changed"


def fingerprints(site: Site) -> dict[str, str]:
    """Return the hash of every artifact in the folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in site.backups.glob("*.tar.gz")}


def check_after_death(site: Site, run: str, stage: str, *, committed: bool) -> None:
    """Check what a restarted daemon makes of a run that was cut off in ``stage``; then a next run succeeds."""
    record = site.call("DescribeRun", run=run)["run"]
    assert record["outcome"] == "interrupted"
    assert record["error"]["code"] == "interrupted"
    assert (record["stages"][-1]["stage"], record["stages"][-1]["outcome"]) == (stage, "interrupted")
    assert record["ended"]
    assert site.staged() == []
    listed = {backup["artifact"]: backup for backup in site.list_backups()}
    assert set(listed) == set(site.artifacts()), "the list and the folder say the same"
    made = [backup for backup in listed.values() if backup["run"] == run]
    assert len(made) == committed
    for backup in listed.values():
        assert backup["kind"] == "full", "none is taken for one of the old program"
        assert (site.backups / backup["artifact"]).stat().st_size == backup["size"]
        manifest = site.call("DescribeBackup", backup=backup["id"])["backup"]["manifest"]
        assert manifest["artifact"]["sha256"] == fingerprints(site)[backup["artifact"]]
    assert site.run()["outcome"] == "succeeded"
    assert site.staged() == []


PIPELINE = "nanumpay_backupd.pipeline"
POINTS = [
    pytest.param("version", "preflight", False, id="preflight"),
    pytest.param("dump", "dump", False, id="dump"),
    pytest.param("nanumpay_backupd.transforms.growing:GrowingArchive.finish:after", "compress", False, id="compress"),
    pytest.param(f"{PIPELINE}.publish:_settle", "publish", True, id="publish-between-the-renames"),
    pytest.param(f"{PIPELINE}.backup:commit:after", "publish", True, id="publish-after-the-renames"),
    pytest.param(f"{PIPELINE}.proving:prove", "verify", True, id="verify"),
    pytest.param(f"{PIPELINE}.backup:prune", "retention", True, id="retention"),
]


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
@pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
@pytest.mark.parametrize("point, stage, committed", POINTS)
def test_daemon_killed(site: Site, point: str, stage: str, committed: bool) -> None:
    """SIGKILL of the daemon: all its children die with it; the next start tidies up and says ``interrupted``."""
    mongodump = Mongodump(site)
    if point in {"version", "dump"}:
        mongodump.hold(point)
    else:
        site.hold(point)
    run = site.begin()
    mongodump.wait_held() if point in {"version", "dump"} else site.wait_held()
    site.kill()
    site.release()
    mongodump.release()
    site.start()
    check_after_death(site, run, stage, committed=committed)


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
def test_worker_killed(site: Site) -> None:
    """SIGKILL of the worker alone (the kernel, out of memory): the daemon stays, says so, and tidies up by itself."""
    mongodump = Mongodump(site)
    mongodump.hold("dump")
    run = site.begin()
    mongodump.wait_held()
    (worker,) = site.workers()
    os.kill(worker, signal.SIGKILL)
    record = site.ended(run)
    assert "killed by signal 9" in record["error"]["message"]
    wait_for(lambda: len(site.processes()) == 1, "the end of the worker's children")
    assert site.status()["health"] == "failing"
    mongodump.release()
    check_after_death(site, run, "dump", committed=False)
    assert site.job()["last_run"]["outcome"] == "succeeded"


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
def test_mongodump_killed(site: Site) -> None:
    """SIGKILL of mongodump alone: the run fails and says by what signal; nothing is published or left."""
    mongodump = Mongodump(site)
    mongodump.hold("start")
    run = site.begin()
    mongodump.wait_held()
    (pid,) = [pid for pid, command in site.processes().items() if "--config=/dev/fd/" in command]
    os.kill(pid, signal.SIGKILL)
    record = site.ended(run)
    assert record["outcome"] == "failed"
    assert record["error"]["code"] == "tool-killed"
    assert site.staged() == []
    mongodump.release()
    assert site.run()["outcome"] == "succeeded"


class _StallingProxy(BreakingProxy):
    """Passes an upload's first piece on and then lets it hang until `go`."""

    def __init__(self, target: str, port: int, data_ports: tuple[int, ...]) -> None:
        super().__init__(target, port, data_ports, port)
        self.stalled = threading.Event()
        self.go = threading.Event()

    def _send_data(self, client: socket.socket, server: socket.socket) -> None:
        piece = client.recv(16384)
        if not piece:
            return
        server.sendall(piece)
        self.stalled.set()
        self.go.wait()
        super()._send_data(client, server)


@pytest.fixture
def stalling(tmp_path: Path) -> Iterator[_StallingProxy]:
    """An FTP server behind a line that hangs in the middle of an upload."""
    with start_pyftpdlib(tmp_path / "ftp", address="127.0.0.2") as server:
        proxy = _StallingProxy(server.host, server.port, server.passive_ports)
        proxy.start()
        yield proxy
        proxy.go.set()
        proxy.stop()


def uploading(proxy: _StallingProxy) -> dict[str, object]:
    """Return settings that upload through the proxy."""
    return backup_settings(ftp={"host": "127.0.0.1", "port": proxy.port, "username": "backup", "password": PASSWORD})


@pytest.mark.promise("An upload that was cut off goes on where it stood; nobody has to do anything.", item=1)
def test_daemon_killed_during_an_upload(mongod_rs: Mongod, stalling: _StallingProxy, tmp_path: Path) -> None:
    """SIGKILL in the middle of an upload: the backup is good, its copy is queued, and it arrives after the restart."""
    with open_site(mongod_rs, uploading(stalling)) as site:
        site.write_config("[retry]\ndelay = '1s'")
        site.start()
        run = site.begin()
        assert stalling.stalled.wait(60)
        site.kill()
        stalling.go.set()
        folder = tmp_path / "ftp" / "backup" / "nanumpay"
        assert not list(folder.glob("*.tar.gz")), "an upload has its own name only when it is whole"
        site.start()
        record = site.call("DescribeRun", run=run)["run"]
        assert (record["outcome"], record["stages"][-1]["stage"]) == ("interrupted", "upload")
        assert site.list_backups()[0]["state"] == "verified"
        assert site.newest(trigger="retry")["outcome"] == "succeeded"
        (stored,) = folder.glob("*.tar.gz")
        assert stored.read_bytes() == (site.backups / stored.name).read_bytes()
        assert site.job()["pending_uploads"] == 0


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
def test_stop_during_a_silent_upload(mongod_rs: Mongod, stalling: _StallingProxy) -> None:
    """A stop does not wait for a server that is silent: the run is ended in time, and its copy stays queued."""
    with open_site(mongod_rs, uploading(stalling)) as site:
        site.start(stop_budget=1)
        run = site.begin()
        assert stalling.stalled.wait(60)
        assert site.stop() == EXIT_OK
        assert not site.processes()
        site.start()
        assert site.call("DescribeRun", run=run)["run"]["outcome"] == "cancelled"
        assert site.job()["pending_uploads"] == 1
        assert site.list_backups()[0]["state"] == "verified"


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
class TestStop:
    """SIGTERM, as systemctl stop and restart send it."""

    def test_a_run_may_finish(self, site: Site) -> None:
        """The daemon tells how long it may take, answers meanwhile, begins nothing new, and lets the run finish."""
        site.hold(f"{PIPELINE}.proving:prove")
        run = site.begin()
        site.wait_held()
        stopping = site.notify.count("STOPPING")
        process = site.signal(signal.SIGTERM)
        told = site.notify.wait_for("STOPPING", stopping + 1)
        assert int(told["EXTEND_TIMEOUT_USEC"]) >= 60_000_000
        with pytest.raises(RemoteError, match="the daemon is stopping"):
            site.run()
        assert site.job()["running"] == run
        site.release()
        assert process.wait(60) == EXIT_OK
        assert not site.processes()
        site.start()
        assert site.call("DescribeRun", run=run)["run"]["outcome"] == "succeeded"

    def test_a_run_that_takes_too_long_is_cancelled(self, site: Site) -> None:
        """What is not done within the budget is cancelled: mongodump ends, nothing is staged or published."""
        mongodump = Mongodump(site)
        assert site.stop() == EXIT_OK
        site.start(stop_budget=1)
        before = site.artifacts()
        mongodump.hold("dump")
        run = site.begin()
        mongodump.wait_held()
        assert site.stop() == EXIT_OK
        assert not site.processes()
        assert site.staged() == []
        assert site.artifacts() == before
        mongodump.release()
        site.start()
        assert site.call("DescribeRun", run=run)["run"]["outcome"] == "cancelled"
        assert site.run()["outcome"] == "succeeded"

    def test_a_deaf_run_is_ended_by_force(self, site: Site) -> None:
        """A worker that does not even hear the cancelling is killed within the budget, and tidied up after."""
        assert site.stop() == EXIT_OK
        site.start(stop_budget=1)
        mongodump = Mongodump(site)
        mongodump.hold("dump")
        run = site.begin()
        mongodump.wait_held()
        (worker,) = site.workers()
        os.kill(worker, signal.SIGSTOP)
        assert site.stop() == EXIT_OK
        wait_for(lambda: not site.processes(), "no process")
        assert site.staged() == []
        mongodump.release()
        site.start()
        record = site.call("DescribeRun", run=run)["run"]
        assert (record["outcome"], record["stages"][-1]["outcome"]) == ("cancelled", "cancelled")

    def test_idle(self, site: Site) -> None:
        """Without a run the daemon ends at once: 0, the socket is gone, and callers are told how to start it."""
        assert site.stop() == EXIT_OK
        assert not site.socket.exists()
        assert not site.processes()
        done = subprocess.run(
            [find_tool("backupctl"), "--socket", str(site.socket), "status"], capture_output=True, text=True
        )
        assert done.returncode == 4
        assert "start it: " in done.stderr


@pytest.mark.promise(
    "A stop lets the run in progress end within its time, and cancels it cleanly where it takes longer.", item=1
)
class TestCancel:
    """backupctl cancel."""

    def backupctl(self, site: Site, *arguments: str) -> subprocess.Popen[str]:
        """Start backupctl against the site's daemon."""
        argv = [str(find_tool("backupctl")), "--socket", str(site.socket), *arguments]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_a_run_in_progress(self, site: Site) -> None:
        """The run ends as cancelled, whoever waits for it ends with 130, mongodump is gone, nothing is staged."""
        mongodump = Mongodump(site)
        mongodump.hold("dump")
        waiting = self.backupctl(site, "run", "--json")
        mongodump.wait_held()
        run = site.job()["running"]
        cancelling = self.backupctl(site, "cancel")
        assert cancelling.wait(60) == EXIT_OK, cancelling.communicate()
        output, _ = waiting.communicate(timeout=60)
        assert waiting.returncode == EXIT_INTERRUPTED, output
        assert json.loads(output)["run"]["outcome"] == "cancelled"
        assert site.ended(run)["outcome"] == "cancelled"
        wait_for(lambda: len(site.processes()) == 1, "the end of mongodump")
        assert site.staged() == []
        assert site.status()["health"] != "failing"
        mongodump.release()
        assert site.run()["outcome"] == "succeeded"

    def test_at_once(self, site: Site) -> None:
        """A run that is cancelled before its process can listen ends as cancelled too, not as a failure."""
        run = site.begin()
        site.call("Cancel", run=run)
        assert site.ended(run)["outcome"] == "cancelled"
        assert site.staged() == []

    def test_nothing_to_cancel(self, site: Site) -> None:
        """Cancelling where nothing runs is told with exit code 6."""
        done = self.backupctl(site, "cancel")
        output, _ = done.communicate(timeout=60)
        assert done.returncode == 6
        assert "nothing is running" in output


@pytest.mark.promise("A scheduled run that was missed or cut off is made up for, once.", item=1)
class TestScheduledRuns:
    """A scheduled run that the stop or the death of the daemon cut off is a missed one, and is caught up."""

    @pytest.fixture
    def due(self, mongod_rs: Mongod) -> Iterator[Site]:
        """A site whose scheduled run is going on and held before the dump."""
        time = datetime.now(UTC) + timedelta(hours=12)
        with open_site(mongod_rs, backup_settings(time=f"{time:%H:%M}")) as site:
            site.write_config(top="timezone = 'UTC'")
            site.start()
            site.stop()
            plan_ago(site, 10)
            site.hold(f"{PIPELINE}.backup:produce")
            site.start(stop_budget=1)
            site.wait_held()
            yield site

    def test_stopped(self, due: Site) -> None:
        """Cut off by a stop: the next start catches it up."""
        assert due.stop() == EXIT_OK
        due.release()
        due.start()
        assert due.newest(trigger="catch-up")["outcome"] == "succeeded"
        assert [run["outcome"] for run in due.runs()] == ["succeeded", "cancelled"]

    def test_killed(self, due: Site) -> None:
        """Cut off by SIGKILL: the next start catches it up, but a catch-up that dies as well is not tried for ever."""
        due.kill()
        due.hold(f"{PIPELINE}.backup:produce")
        due.start()
        due.wait_held()
        due.kill()
        due.release()
        due.start()
        assert due.run()["outcome"] == "succeeded"
        runs = [(run["trigger"], run["outcome"]) for run in due.runs()]
        assert runs == [("manual", "succeeded"), ("catch-up", "interrupted"), ("schedule", "interrupted")]
