"""The control socket handed over by the service manager: the daemon as a real process, passed as by systemd."""

from __future__ import annotations

import concurrent.futures
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.cli import watch
from nanumpay_backupd.cli.context import Context
from nanumpay_backupd.cli.options import parse
from nanumpay_backupd.cli.terminal import Screen
from nanumpay_backupd.control.client import DOWN, Client, RemoteError
from nanumpay_backupd.errors import EXIT_OK, EXIT_USAGE
from tests.servers.activation import Activator, activator
from tests.servers.tools import PROJECT

# Passes when the descriptor is not inherited and the variables are gone; prints what `passed_socket` returned.
_CHILD = """
import os, subprocess, sys
from nanumpay_backupd.system.activation import passed_socket
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": sys.argv[2], "LISTEN_PID": sys.argv[3] or str(os.getpid())}
fd = passed_socket()
assert not any(name.startswith("LISTEN_") for name in os.environ)
if fd is not None:
    assert subprocess.run(["test", "-e", "/proc/self/fd/3"], close_fds=False).returncode == 1
print(fd)
"""


@pytest.fixture
def unit() -> Iterator[Activator]:
    """A socket that is listened on, and no daemon yet."""
    with tempfile.TemporaryDirectory(prefix="backupd-") as folder, activator(Path(folder)) as unit:
        yield unit


class Deaf(watch._Listener):
    """One that hears no events."""

    def __init__(self) -> None:
        self.stir = threading.Event()


def down(unit: Activator) -> bool:
    """Tell whether word was left that the daemon is down on purpose."""
    return unit.path.with_name(unit.path.name + DOWN).exists()


def test_a_caller_waits_for_the_daemon_that_it_makes_start(unit: Activator) -> None:
    """Who connects while no daemon runs is served by the one that is started for it; so is the next after a stop.

    The socket's file stays the very same one throughout.
    """
    before = unit.path.stat().st_ino
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in range(2):
            answer = pool.submit(Client(str(unit.path), timeout=60).call, "GetStatus")
            unit.wait_for_caller()
            process = unit.start()
            assert answer.result(60)["pid"] == process.pid
            unit.notify.wait_for("READY")
            assert not down(unit)
            assert unit.stop() == EXIT_OK
            assert unit.path.stat().st_ino == before
            assert down(unit)
    assert "Traceback" not in unit.log()


def test_what_is_meant_for_another_process_is_not_touched(unit: Activator) -> None:
    """With another process in LISTEN_PID (a child of whom it was meant for) the daemon makes its own socket."""
    own = unit.folder / "own.sock"
    unit.write_config(socket_path=own)
    unit.start(pid="1")
    unit.notify.wait_for("READY")
    assert Client(str(own)).call("GetStatus")["pid"] == unit.process.pid  # type: ignore[union-attr]
    assert not unit.waiting()
    assert unit.stop() == EXIT_OK
    assert not own.exists()
    assert unit.path.exists()


def test_without_a_socket_unit_the_daemon_makes_its_own(unit: Activator) -> None:
    """Where nothing is passed the daemon takes the place of a socket file that nobody listens on any more."""
    unit.listening.close()
    environment = {**os.environ, "NOTIFY_SOCKET": str(unit.notify.path)}
    command = [sys.executable, "-m", "nanumpay_backupd", "--config", str(unit.config)]
    with unit.log_file.open("ab") as log:
        unit.process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log)
    unit.notify.wait_for("READY")
    assert Client(str(unit.path)).call("GetStatus")["pid"] == unit.process.pid
    assert unit.stop() == EXIT_OK
    assert not unit.path.exists()


def test_who_waits_is_told_why_the_daemon_cannot_start(unit: Activator) -> None:
    """A wrong host file reaches the caller as a sentence; nobody is left waiting for another start."""
    unit.config.write_text("nonsense = 1\n")
    with concurrent.futures.ThreadPoolExecutor() as pool, socket.socket(socket.AF_UNIX) as shell:
        shell.connect(str(unit.path))
        shell.sendall(b'{"method":"com.nanumpay.Backup.GetStatus"}\n')
        answer = pool.submit(Client(str(unit.path)).call, "GetStatus")
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(str(unit.path))
        unit.wait_for_caller()
        # The pool's caller comes when it comes: systemd would start the service for it alone.
        codes = {unit.start().wait(60)}
        while not answer.done():
            codes |= {unit.start().wait(60)} if unit.waiting() else set()
        assert codes == {EXIT_USAGE}
        with pytest.raises(RemoteError, match=r"the daemon cannot start: .*nonsense is not a known key") as fault:
            answer.result(60)
        assert fault.value.code == "config-invalid"
        reply = shell.makefile("rb").read()
        assert reply.endswith(b"\n")
        assert b"nonsense is not a known key" in reply
    assert not unit.waiting()
    assert down(unit)
    assert "Traceback" not in unit.log()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_who_only_watches_starts_no_daemon_that_was_stopped(
    unit: Activator, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status --watch` does not bring back a daemon that was stopped, but helps one that died to come back."""
    for name in ("_EVERY", "_PAUSE", "_RETRY"):
        monkeypatch.setattr(watch, name, 0.01)
    unit.start()
    unit.notify.wait_for("READY")
    assert unit.process is not None
    unit.process.send_signal(how)
    unit.process.wait(60)
    arguments = parse(["--socket", str(unit.path), "status", "--watch"])
    screen = Context(arguments, Screen(io.StringIO()))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        look = pool.submit(watch._next, screen, Deaf())
        if how is signal.SIGTERM:
            assert look.result(60) is None
            assert not unit.waiting()
            assert "was stopped" in watch._trouble(screen)
        else:
            unit.wait_for_caller()
            process = unit.start()
            assert (look.result(60) or {})["pid"] == process.pid


def test_a_socket_at_another_path_is_refused(unit: Activator) -> None:
    """Where the host file names another path than systemd listens on, the daemon says both and how to agree."""
    unit.write_config(socket_path=unit.folder / "elsewhere.sock")
    assert unit.start().wait(60) == EXIT_USAGE
    assert f"systemd listens for us on '{unit.path}', but [paths] socket is {unit.folder}/elsewhere.sock" in unit.log()
    assert "Traceback" not in unit.log()


def test_a_path_by_way_of_a_link_is_the_same(unit: Activator) -> None:
    """/var/run is /run: what counts is the file."""
    (unit.folder / "link").symlink_to(unit.folder)
    unit.write_config(socket_path=unit.folder / "link" / unit.path.name)
    unit.start()
    unit.notify.wait_for("READY")
    assert unit.stop() == EXIT_OK


def test_several_sockets_are_refused(unit: Activator) -> None:
    """A second ListenStream (on a TCP port, say) keeps the daemon from starting rather than being served or ignored."""
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert unit.start(tcp).wait(60) == EXIT_USAGE
    assert "systemd passed 2 sockets (control, control)" in unit.log()


def test_another_kind_of_socket_is_refused(unit: Activator) -> None:
    """A TCP socket in the place of the control socket would let everybody in."""
    unit.listening.close()
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        unit.listening = tcp
        assert unit.start().wait(60) == EXIT_USAGE
    assert "is no listening Unix stream socket" in unit.log()


def test_a_group_that_has_no_effect_is_told(unit: Activator) -> None:
    """With [control] group in the host file and another one on systemd's socket, status and log say where to set it."""
    unit.write_config("[control]\ngroup = 'nogroup'")
    unit.start()
    unit.notify.wait_for("READY")
    problems = Client(str(unit.path)).call("GetStatus")["problems"]
    assert any("[control] group = 'nogroup' has no effect → set SocketGroup=" in problem for problem in problems)
    assert "has no effect" in unit.log()
    assert unit.stop() == EXIT_OK


@pytest.mark.parametrize(
    "count, pid, expected", [("1", "", "3"), ("1", "1", "None"), ("0", "", "None"), ("x", "", "None"), ("", "", "None")]
)
def test_what_is_taken_over(unit: Activator, count: str, pid: str, expected: str) -> None:
    """Only a descriptor for this very process is taken; children get neither it nor the variables."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(unit.listening.fileno()), count, pid],
        pass_fds=[unit.listening.fileno()],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == (expected, "")
