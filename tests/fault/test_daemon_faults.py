"""The daemon: killed at its calls, two of them, stuck, without descriptors or processes, and workers that vanish."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_BUSY, BackupdError
from tests.fault.survivors import counted, spread
from tests.servers.daemon import Site, open_site, wait_for
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers

CALLS: Final = "rename fsync unlink pwrite64 fdatasync openat sendto write close".split()
KILLS: Final = 24
LONG: Final = pytest.mark.fault_long


class Nowhere:
    """A host without MongoDB."""

    def uri_for(self, database: str) -> str:
        """Return an address where nobody listens."""
        return f"mongodb://127.0.0.1:1/{database}?serverSelectionTimeoutMS=200"

    def client(self, **options: Any) -> Any:
        """There is none."""
        raise NotImplementedError(options)


@contextlib.contextmanager
def files_site() -> Iterator[Site]:
    """A site with one job, which saves a small tree."""
    with open_site(Nowhere(), fill=False) as site:
        tree = site.folder / "tree"
        tree.mkdir()
        for at in range(5):
            (tree / f"file{at}").write_bytes(os.urandom(3000))
        configure(site)
        yield site


def configure(site: Site) -> None:
    """Write the host file."""
    site.write_config(
        "[nanumpay]\nenabled = false\n[retry]\nattempts = 1\nrun_attempts = 1\n"
        f"[[job]]\nname = 'tree'\ntype = 'files'\npath = ['{site.folder / 'tree'}']\nretention = {{ count = 365 }}\n"
    )


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose daemon runs and has made one backup."""
    with files_site() as site:
        site.start()
        assert site.run("tree")["outcome"] == "succeeded"
        yield site


def contents(site: Site) -> dict[str, bytes]:
    """Return all artifacts."""
    return {path.name: path.read_bytes() for path in site.backups.glob("tree-backup-*")}


def assert_well(site: Site, before: Mapping[str, bytes]) -> None:
    """Check that all is there that was, that the list is the folder's, and that a run succeeds."""
    there = contents(site)
    assert {name: there.get(name) for name in before} == before
    assert {backup["artifact"] for backup in site.list_backups()} == set(there)
    assert all(run.get("outcome") for run in site.runs())
    assert site.run("tree")["outcome"] == "succeeded"
    assert site.staged() == []


@contextlib.contextmanager
def traced(pid: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Put strace between a process's main thread and the kernel for the length of a with block."""
    tracer = subprocess.Popen(
        [find_tool("strace"), "-p", str(pid), *options], stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        yield tracer
    finally:
        tracer.terminate()
        tracer.wait(20)
        assert tracer.stderr is not None
        tracer.stderr.close()


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
@pytest.mark.fault_long
@pytest.mark.timeout(900)
def test_the_daemon_killed_at_its_calls(site: Site, tally: Callable[[str, int], None]) -> None:
    """SIGKILL of the daemon at a call of its own while a run goes on: started again it has all of them."""
    assert site.process is not None
    trace = site.folder / "trace"
    listen = ["-e", f"trace={','.join(CALLS)}"]
    with traced(site.process.pid, *listen, "-o", str(trace)):
        assert site.run("tree")["outcome"] == "succeeded"
    kills = 0
    for call, when in spread(counted(trace), KILLS):
        before, daemon = contents(site), site.process
        with traced(daemon.pid, *listen, "-o", os.devnull, "-e", f"inject={call}:signal=KILL:when={when}"):
            with contextlib.suppress(BackupdError, OSError):
                site.run("tree")
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(0.5)
        if daemon.poll() is None:
            continue  # it had fewer to make this time
        kills += 1
        wait_for(lambda: not site.processes(), "the end of the worker and its children")
        site.start()
        assert_well(site, before)
    assert kills >= KILLS // 2
    tally("kill points", kills)


@pytest.mark.promise(
    "After a kill the run is called interrupted, nothing of it is left in staging, and the next run succeeds.", item=1
)
@pytest.mark.parametrize(
    "how", ["exit=0", *(pytest.param(how, marks=pytest.mark.fault_long) for how in ("exit=3", "SIGSEGV", "SIGABRT"))]
)
def test_a_worker_that_leaves_without_a_word(site: Site, how: str) -> None:
    """Whatever its exit code, a worker that did not say how its run ended has not made a backup."""
    before = contents(site)
    point = "nanumpay_backupd.pipeline.backup:commit"
    if how.startswith("exit"):
        site.hold(f"{point}:{how}")
        run = site.begin("tree")
    else:
        site.hold(point)
        run = site.begin("tree")
        site.wait_held()
        (worker,) = site.workers()
        os.kill(worker, getattr(signal, how))
    record = site.ended(run)
    site.release()
    assert (record["outcome"], record["error"]["code"]) == ("interrupted", "interrupted")
    assert record["error"]["message"]
    assert contents(site) == before
    assert site.staged() == []
    assert_well(site, before)


# ------------------------------------------------------------------------------------------------ two of them


@pytest.mark.promise(
    "Two daemons never work on the same folders: the second one refuses and says who holds them.", item=9
)
@pytest.mark.fault_long
def test_a_second_daemon_says_who_holds_the_folder_and_since_when(site: Site) -> None:
    """It ends as busy, names the process and the time of its start, and the first one is not disturbed."""
    assert site.process is not None
    with files_site() as second:
        second.state = site.state
        configure(second)
        second.start(ready=False)
        assert second.process is not None
        assert second.process.wait(60) == EXIT_BUSY
        since = time.strftime("%Y-%m-%d %H:%M", time.gmtime((site.state / "daemon.lock").stat().st_mtime))
        assert f"is in use by process {site.process.pid} since {since}" in second.log()
    assert site.status()["pid"] == site.process.pid


@pytest.mark.promise("The locks and sockets of those who died hold nobody up.", item=9)
def test_the_number_of_a_dead_daemon_is_another_process_now(site: Site) -> None:
    """Lock files with the number of a process that lives, but is no daemon, hold nobody up; nor does an old socket."""
    site.kill()
    assert site.socket.exists()
    for lock in (site.state / "daemon.lock", *(site.backups / ".backupd" / "locks").iterdir()):
        lock.write_text(f"{os.getpid()}\n")
    site.start()
    assert_well(site, contents(site))


# ------------------------------------------------------------------------------------------------ stuck, scarce


@pytest.mark.promise("A daemon that hangs is ended by its watchdog; one that works feeds it.", item=10)
def test_a_stuck_event_loop_does_not_feed_the_watchdog() -> None:
    """While the event loop is blocked no beat is sent, by no other thread either; afterwards they come again."""
    with files_site() as site:
        site.start(environment={"WATCHDOG_USEC": "200000", "NANUMPAY_TEST_STUCK": "3"})
        site.notify.wait_for("WATCHDOG", 3)
        site.signal(signal.SIGUSR2)
        time.sleep(0.5)  # what was on its way
        beats = site.notify.count("WATCHDOG")
        time.sleep(1.5)
        assert site.notify.count("WATCHDOG") == beats
        site.notify.wait_for("WATCHDOG", beats + 3)
        assert site.run("tree")["outcome"] == "succeeded"


@pytest.mark.promise("A daemon without descriptors to spare goes on and serves again.", item=10)
@pytest.mark.fault_long
def test_a_daemon_with_64_descriptors(site: Site) -> None:
    """With 64 descriptors and 200 idle connections it still answers, says what failed, and afterwards all works."""
    assert site.process is not None
    before = contents(site)
    resource.prlimit(site.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.settimeout(1)
            with contextlib.suppress(OSError):
                idle.connect(str(site.socket))
        assert site.status()["pid"] == site.process.pid
        try:
            outcome = site.run("tree")["outcome"]
        except RemoteError as error:
            outcome = error.code
        assert outcome in ("succeeded", "failed", "interrupted", "worker-start", "out-of-resources", "catalog-unusable")
    assert site.process.poll() is None, "it lives"
    assert_well(site, before)
    assert "Traceback" not in site.log()


@pytest.mark.promise(
    "Where memory, descriptors or processes run out a run says so; nothing is lost, and the next one succeeds.", item=10
)
@pytest.mark.fault_long
def test_a_daemon_that_cannot_start_a_process(site: Site) -> None:
    """Where fork fails the run fails with worker-start, on record too; the daemon goes on, and so does the next run."""
    assert site.process is not None
    before = contents(site)
    calls = "clone,clone3,fork,vfork"
    with (
        traced(
            site.process.pid, "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error=EAGAIN:when=1+"
        ),
        pytest.raises(BackupdError) as caught,
    ):
        site.run("tree")
    assert caught.value.code == "worker-start"
    assert caught.value.hint
    assert_well(site, before)
    assert "Traceback" not in site.log()
