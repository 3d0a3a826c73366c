"""Limits and retries as they take effect: tools that are stopped, servers that fall silent, a daemon that waits."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import EXIT_OK, LimitError
from nanumpay_backupd.model import Stage, Trigger
from nanumpay_backupd.pipeline import watch
from nanumpay_backupd.pipeline.report import Recorder, new_run
from nanumpay_backupd.pipeline.watch import Watch
from nanumpay_backupd.settings.schema import Limits
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from tests.servers.daemon import Site, backup_settings, open_site, plan_ago, wait_for
from tests.servers.ftp import FOLDER, PASSWORD, start_vsftpd
from tests.servers.mongod import Mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec

pytestmark = pytest.mark.servers

MIB = 1 << 20


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site whose daily backup is due in twelve hours, not started."""
    due = datetime.now(UTC) + timedelta(hours=12)
    with open_site(mongod_rs, backup_settings(time=f"{due:%H:%M}")) as site:
        yield site


def configure(site: Site, more: str = "", tool: Path | None = None) -> None:
    """Write a host file: times in UTC, no drills, and what the test adds."""
    tools = f"[tools]\nmongodump = '{tool}'\n" if tool is not None else ""
    nanumpay = "" if "[nanumpay]" in more else "[nanumpay]\ndrill = 'never'\n"
    site.write_config(f"{tools}{nanumpay}{more}", top="timezone = 'UTC'")


def strange_mongodump(site: Site, story: str) -> Path:
    """Write a mongodump that does ``story`` instead of dumping; ``dump()`` in it starts the real one and returns it."""
    path = site.folder / "mongodump"
    path.write_text(
        f"#!{sys.executable} -ES\n"
        "import os, signal, subprocess, sys, time\n"
        f"real, folder = {str(find_tool('mongodump'))!r}, {str(site.folder)!r}\n"
        "def dump():\n"
        "    return subprocess.Popen([real, *sys.argv[1:]], close_fds=False)\n"
        "if '--version' in sys.argv:\n"
        "    os.execv(real, [real, *sys.argv[1:]])\n"
        f"{story}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def lives(pid: int) -> bool:
    """Tell whether a process is there and not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stopped(word: str) -> int:
    """Stop the process whose command line has this word, as a server that hangs, and return its id."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found = word in (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if found:
                os.kill(int(entry.name), signal.SIGSTOP)
                return int(entry.name)
    raise AssertionError(f"no process with {word}")


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
def test_a_stopped_dump_is_ended_with_all_that_it_started(site: Site) -> None:
    """A mongodump that hangs is ended after the standstill, also where it hears no signal and has strayed children."""
    tool = strange_mongodump(
        site,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "stray = subprocess.Popen(['sleep', '1000'], start_new_session=True, close_fds=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "subprocess.run(['sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 & echo $! > ' + folder + '/orphan'])\n"
        "child = dump()\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "open(folder + '/pids', 'w').write(f'{os.getpid()} {stray.pid} {child.pid}')\n"
        "time.sleep(1000)\n",
    )
    configure(site, "[limits]\nstall = '2s'\n[retry]\nrun_attempts = 1", tool)
    site.start()
    run = site.run()
    assert (run["outcome"], run["error"]["code"], run["error"]["retryable"]) == ("failed", "deadline", True)
    assert run["error"]["message"] == "the stage dump was ended: nothing moved for 2s"
    assert "stall in [limits] or [nanumpay.limits]" in run["error"]["hint"]
    assert run["stages"][-1]["stage"] == "dump"
    pids = [int(word) for name in ("pids", "orphan") for word in (site.folder / name).read_text().split()]
    assert len(pids) == 4
    wait_for(lambda: not any(lives(pid) for pid in pids), "the end of the tool and its children")
    assert site.staged() == []
    assert site.artifacts() == []


def test_a_restore_is_ended_only_where_that_was_set_and_says_the_state(site: Site) -> None:
    """With a limit of its own a mongorestore that hangs is ended, and the fault says what is half restored."""
    path = site.folder / "mongorestore"
    path.write_text(
        f"#!{sys.executable} -ES\nimport os, sys, time\nreal = {str(find_tool('mongorestore'))!r}\n"
        "if '--version' not in sys.argv:\n    time.sleep(1000)\nos.execv(real, [real, *sys.argv[1:]])\n"
    )
    path.chmod(0o755)
    tools = f"[tools]\nmongorestore = '{path}'\n[nanumpay]\ndrill = 'never'\n"
    site.write_config(f"{tools}[limits]\nrestore = '4s'\n")
    site.start()
    backup = site.run()["backup"]
    *_, last = site.client.stream("Restore", {"backup": backup, "safety": False}, timeout=60)
    run = last["run"]
    assert (run["outcome"], run["error"]["code"]) == ("failed", "deadline")
    assert run["error"]["message"].startswith("the restore was ended: it took longer than 4s; database ")
    assert "is half restored" in run["error"]["message"]


@pytest.mark.promise("No run lasts for ever: it is ended when its time is over, whatever hangs.", item=3)
def test_a_wait_that_nothing_ends_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and is silent does not hold the preflight up for ever, without a child or a step to end."""
    monkeypatch.setattr(watch, "_CHILDREN_AFTER", 0.5)
    monkeypatch.setattr(watch, "_BREAK_OFF_AFTER", 1.0)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, socket.create_connection(silent.getsockname()) as link, Catalog(tmp_path / "catalog.db") as catalog:
        clock = SystemClock()
        recorder = Recorder(new_run("run1", "nanumpay", Trigger.MANUAL, clock.now()), catalog, Ear(), clock)
        job = job_spec(limits=Limits(preflight=0.5))
        with pytest.raises(LimitError, match="the stage preflight was ended: it took longer than"):  # noqa: SIM117
            with Watch(recorder, job, "backup"), recorder.stage(Stage.PREFLIGHT):
                link.recv(1)
        assert recorder.run.stages[-1].outcome == "failed"


@pytest.mark.promise("No run lasts for ever: it is ended when its time is over, whatever hangs.", item=3)
def test_a_stopped_worker_is_ended_by_the_daemon(site: Site) -> None:
    """A run whose own process does not react any more does not keep its job busy for ever."""
    configure(site, "[limits]\nstall = '1s'")
    site.hold("nanumpay_backupd.pipeline.backup:commit")
    site.start(environment={"NANUMPAY_TEST_GRACE": "4"}, stop_budget=60)
    run = site.begin()
    site.wait_held()
    (worker,) = site.workers()
    os.kill(worker, signal.SIGSTOP)
    ended = site.ended(run)
    assert (ended["outcome"], ended["error"]["code"]) == ("failed", "deadline")
    assert "gave no sign of life" in ended["error"]["message"]
    assert not lives(worker)
    site.release()
    assert site.staged() == []
    assert site.run()["outcome"] == "succeeded"


@pytest.mark.promise("A run that takes too much memory is ended, and the daemon goes on.", item=10)
def test_a_run_that_takes_too_much_memory_is_ended(site: Site) -> None:
    """The run ends with who took how much, before the host runs out; tools are told the limit that they should keep."""
    tool = strange_mongodump(
        site,
        "open(folder + '/go', 'w').write(os.environ.get('GOMEMLIMIT', ''))\n"
        "held = bytearray(os.urandom(1 << 20) * 600)\n"
        "time.sleep(1000)\n",
    )
    configure(site, "[limits]\nmemory = '400MiB'", tool)
    site.start()
    run = site.run()
    assert (run["outcome"], run["error"]["code"], run["error"]["retryable"]) == ("failed", "memory-limit", False)
    assert re.search(r"of memory \(mongodump [\d.]+ [MG]B, ", run["error"]["message"]), "who took most, and how much"
    assert "its limit of 419 MB" in run["error"]["message"]
    assert (site.folder / "go").read_text() == str(int(400 * MIB * 0.6))
    assert site.staged() == []


@pytest.mark.promise(
    "A destination that fails, hangs or lies never counts as having a copy, and the others go on.", item=4
)
def test_a_silent_destination_is_given_up_and_the_others_carry_on(mongod_rs: Mongod, tmp_path: Path) -> None:
    """Servers that accept and then hang: their uploads are queued, the other copy is made, the run goes on."""
    (tmp_path / "disk").mkdir()
    with start_vsftpd(tmp_path / "root", tmp_path, address="127.0.0.1") as ftp, start_s3(tmp_path / "s3") as s3:
        login = {"host": ftp.host, "port": ftp.port, "username": ftp.user, "password": PASSWORD, "remotePath": FOLDER}
        with open_site(mongod_rs, backup_settings(ftp=login)) as site:
            configure(
                site,
                "[limits]\nupload = '2s'\n[nanumpay]\ndrill = 'never'\ndestinations = ['bucket', 'disk']\n"
                f"[destination.disk]\ntype = 'local'\npath = '{tmp_path / 'disk'}'\n"
                f"[destination.bucket]\ntype = 's3'\nbucket = '{s3.bucket}'\nendpoint_url = '{s3.endpoint}'\n"
                f"path_style = true\naccess_key_id = '{ACCESS_KEY}'\nsecret_access_key = '{SECRET_KEY}'\n",
            )
            site.start()
            hanging = [stopped(f"{s3.endpoint.rpartition(':')[2]}"), stopped(str(tmp_path / "vsftpd"))]
            try:
                run = site.run()
            finally:
                for pid in hanging:
                    os.kill(pid, signal.SIGCONT)
            assert (run["outcome"], run["error"]["code"]) == ("degraded", "deadline")
            copies = site.call("DescribeBackup", backup=run["backup"])["backup"]["copies"]
            states = {copy["destination"]: copy["state"] for copy in copies}
            assert states == {"local": "verified", "disk": "uploaded", "app": "pending", "bucket": "pending"}
            queued = [copy for copy in copies if copy["state"] == "pending"]
            assert all(copy["error"]["code"] == "deadline" and copy["next_attempt"] for copy in queued)
            assert "retention" in [stage["stage"] for stage in run["stages"]]


def test_a_dump_that_broke_is_made_again_within_the_run(site: Site) -> None:
    """A tool that fails once costs an attempt, which is told and kept, and nothing of it stays."""
    tool = strange_mongodump(
        site,
        "if not os.path.exists(folder + '/failed'):\n"
        "    open(folder + '/failed', 'w').close()\n"
        "    sys.exit('Failed: connection reset')\n"
        "sys.exit(dump().wait())\n",
    )
    configure(site, "[retry]\ndelay = '1s'", tool)
    site.start()
    run = site.run()
    assert run["outcome"] == "succeeded"
    first, second = [stage for stage in run["stages"] if stage["stage"] == "dump"]
    assert (first["outcome"], second["outcome"]) == ("failed", "succeeded")
    assert first["detail"].startswith("mongodump failed with exit code 1: Failed: connection reset; attempt 2 of 3")
    assert "the dump failed: mongodump failed" in site.log()
    assert site.staged() == []


def test_a_run_by_schedule_that_failed_is_made_again(site: Site) -> None:
    """It says when, survives a restart, is made again, and is done with once it is good."""
    tool = strange_mongodump(
        site,
        "if not os.path.exists(folder + '/well'):\n    sys.exit('Failed: connection reset')\nsys.exit(dump().wait())\n",
    )
    configure(site, "[retry]\nattempts = 1\nrun_delay = '3s'", tool)
    site.start()
    assert site.stop() == EXIT_OK
    plan_ago(site, 10)
    site.start()
    (again,) = wait_for(lambda: site.job()["again"], "another attempt that is planned") or []
    assert (again["action"], again["attempt"], again["attempts"]) == ("backup", 2, 3)
    assert site.job()["last_run"]["outcome"] == "failed"
    assert "it is made again by itself, attempt 2 of 3" in "\n".join(site.status()["problems"])
    assert site.stop() == EXIT_OK
    (site.folder / "well").touch()
    site.start()
    assert site.newest(trigger="again")["outcome"] == "succeeded"
    assert site.job()["again"] == []
    assert site.job()["last_run"]["trigger"] == "again"
    assert [run["trigger"] for run in site.runs()] == ["again", "schedule"]


def test_a_blackout_is_waited_for_and_a_person_is_not_stopped(site: Site) -> None:
    """What is due waits, status says until when; by hand it is made with a warning; once it is free, once."""
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=2):%H:%M}-{now + timedelta(hours=2):%H:%M}"
    configure(site, f"[limits]\nblackout = ['{window}']")
    site.start()
    assert site.stop() == EXIT_OK
    plan_ago(site, 10)
    site.start()
    (wait,) = wait_for(lambda: site.job()["waiting"], "a backup that waits") or []
    assert (wait["what"], wait["reason"]) == ("backup", "blackout")
    assert datetime.fromisoformat(wait["until"]).strftime("%H:%M") == window.partition("-")[2]
    assert site.job()["next_run"] == wait["until"]
    assert site.run()["outcome"] == "succeeded"
    assert "this is in a blackout of job nanumpay" in site.log()
    assert [run["trigger"] for run in site.runs()] == ["manual"]
    configure(site)
    site.call("Reload")
    assert site.newest(trigger="schedule")["outcome"] == "succeeded"
    wait_for(lambda: not site.job()["running"], "the end")
    assert [run["trigger"] for run in site.runs()] == ["schedule", "manual"]
    assert site.job()["waiting"] == []


def test_no_more_runs_at_one_time_than_may_be(site: Site) -> None:
    """Of two that are due the longer due one is made first; the other waits for its end, and says so."""
    configure(site, "[limits]\nmax_parallel = 1\n[[job]]\nname = 'extra'\nschedule = '0 3 * * *'\ndrill = 'never'")
    site.start()
    assert site.stop() == EXIT_OK
    plan_ago(site, 10)
    plan_ago(site, 20, "extra")
    site.hold("nanumpay_backupd.pipeline.backup:commit")
    site.start()
    site.wait_held()
    (wait,) = wait_for(lambda: site.job()["waiting"], "a backup that waits") or []
    assert (wait["what"], wait["reason"], wait["active"], wait["most"]) == ("backup", "number", 1, 1)
    assert site.job("extra")["running"]
    site.release()
    assert site.newest(trigger="schedule")
    wait_for(lambda: len([run for run in site.runs() if run["outcome"] == "succeeded"]) == 2, "both backups")
    second, first = site.runs()
    assert (first["job"], second["job"]) == ("extra", "nanumpay")
    assert second["started"] >= first["ended"]
    assert second["trigger"] == "schedule", "it waited, but was not missed"


def test_a_bucket_gets_no_more_than_its_bandwidth(tmp_path: Path) -> None:
    """However many parts travel at once, all together take the time that the bandwidth makes of their bytes."""
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(12 * MIB))
    rate = 6 * MIB
    with start_s3(tmp_path / "s3") as s3:  # noqa: SIM117 - the inner one needs the outer
        with open_store(s3.destination(part_size=5 * MIB, parallel_parts=3, bandwidth=rate)) as store:
            began = time.monotonic()
            result = store.put("artifact", path)
            taken = time.monotonic() - began
            assert result.size == 12 * MIB
            # What was idled away for a second may be made up for; quicker than that it must never be.
            assert taken >= 12 * MIB / rate - 1.0
            assert b"".join(store.get("artifact")) == path.read_bytes()
