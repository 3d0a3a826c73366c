"""The demo as its users run it: it is the test from saved settings to restored data, by real processes and servers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from nanumpay_backupd.control.client import Client
from tests.servers.tools import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.servers]

PATIENCE = 120.0


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo makes its folder; short, because a socket's path must be."""
    return tmp_path


def demo(temporary: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the demo; what it writes can be read from its standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(temporary), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the demo's end and return its exit code and the rest of its output."""
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, text


def run(temporary: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run the demo from start to end."""
    return ended(demo(temporary, *arguments, **variables))


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read the demo's output until a line with these words."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"{words!r} did not come:\n{read}")


def flat(text: str) -> str:
    """Put an output's lines, which are broken where they are too long, on one."""
    return re.sub(r"\s+(\\\n\s*)?", " ", text)


def left_running(folder: Path) -> list[str]:
    """Return the command lines of processes that have to do with a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                if command and str(folder) in f"{command!r} {(process / 'cwd').readlink()}":
                    found.append(command.replace(b"\0", b" ").decode())
    return found


def await_nothing_left(folder: Path) -> None:
    """Wait until no process of a demo is left."""
    deadline = time.monotonic() + PATIENCE
    while left := left_running(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def summary(text: str) -> Mapping[str, str]:
    """Return the table at the demo's end."""
    lines = text.partition("\nSummary\n")[2].splitlines()
    rows = (re.fullmatch(r" {3}(\S.*?) {3,}(\S.*)", line) for line in lines)
    return {row[1]: row[2] for row in rows if row}


def test_demo_goes_from_saved_settings_to_restored_data(temporary: Path) -> None:
    """A save is noticed, the backup runs when due, all copies are proven, it restores equal, old ones go, all ends."""
    code, text = run(temporary)
    assert code == 0, text
    assert "Traceback" not in text
    assert "✗" not in text
    assert "\x1b" not in text, "no colours where there is no terminal"
    facts = summary(text)
    noticed = re.fullmatch(r"(\d+) ms after the save", facts["settings in force"])
    assert noticed, facts
    assert facts["scheduled run"].startswith("succeeded in ")
    assert re.fullmatch(r"nanumpay-backup-[0-9T-]{19}\.tar\.gz, verified", facts["backup"])
    assert re.fullmatch(r"13,121 documents, 9\.\d+ MB of BSON in \d\.\d+ MB", facts["content"])
    assert re.fullmatch(r"local verified, app verified, office (uploaded|verified)", facts["copies"])
    assert facts["restored by hand"] == "13 of 13 dbHash equal; options and indexes too"
    assert re.fullmatch(r"12 documents of a dropped collection, \d+\.\d s", facts["back to the second"])
    assert facts["retention"] == "3 made, 2 left at each of 3 places"
    assert (
        facts["Redis and files"] == "501 keys with their times of expiry and 122 files with owners and modes are back"
    )
    # Every step ends with what it reached, and Korean text comes through.
    steps = re.split(r"\n\d+\. ", text.partition("\nSummary\n")[0])[1:]
    assert len(steps) == 10
    assert [bool(re.search(r"\n   ✓ [^\n]+$", step.rstrip())) for step in steps][:2] == [True, True]
    assert all("\n   ✓ " in step for step in steps)
    assert "(trigger: schedule)" in steps[4]
    assert "서하준" in text
    assert "✅ 압축 완료: nanumpay-backup-" in text
    assert text.rstrip().splitlines()[-1].strip().startswith("✓ everything was stopped, nothing is left running")
    assert left_running(temporary) == []
    assert list(temporary.iterdir()) == []


def test_demo_goes_without_redis(temporary: Path) -> None:
    """Where no redis-server is installed that is said, and the files are saved and come back all the same."""
    code, text = run(temporary, NANUMPAY_TEST_REDIS=str(temporary / "none"))
    assert code == 0, text
    assert "No redis-server is installed here" in flat(text)
    assert summary(text)["files"] == "122 files with owners and modes are back"
    assert "Redis and files" not in summary(text)
    assert left_running(temporary) == []


def test_interrupted_demo_leaves_nothing(temporary: Path) -> None:
    """Ctrl-C ends the servers and the daemon, deletes the folder, and is told as what it is."""
    process = demo(temporary)
    read_until(process, "ready; watches the settings")
    assert left_running(temporary), "or this test could not fail"
    process.send_signal(signal.SIGINT)
    code, text = ended(process)
    assert code == 130
    assert "✗ interrupted" in text
    assert "Traceback" not in text
    assert left_running(temporary) == []
    assert list(temporary.iterdir()) == []


def test_killed_demo_leaves_nothing_running(temporary: Path) -> None:
    """When the demo itself is killed, its servers notice and end."""
    process = demo(temporary)
    read_until(process, "MongoDB 6")
    assert left_running(temporary), "or this test could not fail"
    process.kill()
    ended(process)
    await_nothing_left(temporary)


def test_failed_demo_says_why_and_where_the_logs_are(temporary: Path) -> None:
    """A server that does not start is a sentence and exit code 1; nothing runs on, and the logs stay."""
    code, text = run(temporary, NANUMPAY_TEST_RCLONE="/bin/false")
    assert code == 1
    assert "✗ s3 cannot be started" in text
    assert "Traceback" not in text
    assert "everything was stopped" in text
    (folder,) = temporary.iterdir()
    assert f"The logs are kept in {folder}: " in flat(text)
    assert (folder / "mongod" / "mongod.log").exists()
    assert left_running(temporary) == []


def test_daemon_that_ends_is_told_at_once_with_the_end_of_its_log(temporary: Path) -> None:
    """The demo does not wait for a daemon that is gone, and shows what it said."""
    process = demo(temporary)
    read_until(process, "ready; watches the settings")
    os.kill(daemon_of(temporary), signal.SIGKILL)
    code, text = ended(process)
    assert code == 1
    assert "Traceback" not in text
    assert "✗ " in text
    assert "nanumpay-backupd is ready" in text.partition("The end of daemon.log:")[2]


def daemon_of(temporary: Path) -> int:
    """Return the process id of a demo's daemon: it works in the demo's folder."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            works_there = process.name.isdigit() and (process / "cwd").readlink().is_relative_to(temporary)
            if works_there and b"nanumpay-backupd\0--config" in (process / "cmdline").read_bytes():
                return int(process.name)
    raise AssertionError("no daemon")


def test_kept_demo_can_be_played_with_until_it_is_stopped(temporary: Path) -> None:
    """KEEP=1 gives the terminal back and leaves all running; settings can be saved; stopping ends and deletes it."""
    folder = temporary / "kept"
    where = ("--folder", str(folder))
    code, text = run(temporary, "--keep", "--until", "4", *where)
    try:
        assert code == 0, text
        (socket,) = re.findall(r"export NANUMPAY_BACKUPD_SOCKET=(\S+)", flat(text.partition("Everything goes on")[2]))
        again, refusal = run(temporary, "--keep", *where)
        assert (again, "a demo is running already" in refusal) == (1, True)
        saved, told = run(temporary, "--set", "time=21:30", "retention.count=3", *where)
        assert (saved, "next run: " in told, " 21:30" in told) == (0, True, True)
        with Client(socket) as client:
            assert client.call("GetStatus")["jobs"][0]["retention_count"] == 3
        _, wrong = run(temporary, "--set", "time=25:00", *where)
        assert '✗ the backup settings of administrator "admin" are not usable' in wrong
        _, unknown = run(temporary, "--set", "tme=21:00", *where)
        assert "is not FIELD=VALUE with a field of the form" in unknown
    finally:
        stopped, _ = run(temporary, "--stop", *where)
    assert stopped == 0
    assert left_running(temporary) == []
    assert not folder.exists()
    _, nothing = run(temporary, "--stop", *where)
    assert "no demo was running" in nothing
