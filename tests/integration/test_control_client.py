"""Our own client against a real server: calls, streams, every fault, and what it says when there is no daemon."""

from __future__ import annotations

import concurrent.futures
import grp
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanumpay_backupd.control import client
from nanumpay_backupd.control.client import Client, RemoteError
from nanumpay_backupd.control.server import Peer
from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_REFUSED,
    EXIT_USAGE,
    UnreachableError,
)
from tests.servers.control import (
    PASSWORD,
    PATIENCE,
    STATUS,
    Control,
    control_process,
    running_control,
    short_folder,
)

NAME = "com.nanumpay.Backup"
NOBODY = 65534


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    """Run one server for the tests that leave it as it was."""
    with running_control() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield an empty folder with a short name."""
    with short_folder() as empty:
        yield empty


def test_a_call_returns_the_replys_parameters(control: Control) -> None:
    """A short method name is enough, parameters reach the handler, Korean text survives the way there and back."""
    with Client(str(control.path)) as client:
        assert client.call("GetStatus") == STATUS
        assert [run["id"] for run in client.call("ListRuns", {"limit": 2})["runs"]] == ["run-0", "run-1"]
        assert client.call(f"{NAME}.GetStatus") == STATUS


def test_the_handler_knows_who_calls(control: Control) -> None:
    """A call carries the caller's user, group and process as the kernel tells them."""
    while not control.handlers.calls.empty():
        control.handlers.calls.get()
    Client(str(control.path)).call("GetStatus")
    call = control.handlers.calls.get(timeout=PATIENCE)
    assert call.peer == Peer(uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
    assert (call.method, call.params, call.more) == ("GetStatus", {}, False)


@pytest.mark.parametrize(
    "method, params, name, code, exit_code",
    [
        ("DescribeRun", {"run": "x"}, f"{NAME}.NotFound", "not-found", EXIT_NOT_FOUND),
        ("Cancel", {}, f"{NAME}.Busy", "busy", EXIT_BUSY),
        ("Delete", {"backup": "x"}, f"{NAME}.Refused", "refused", EXIT_REFUSED),
        ("TestDestination", {"destination": "x"}, f"{NAME}.Failed", "bucket-missing", EXIT_FAILED),
        ("Doctor", {}, f"{NAME}.Failed", "internal", EXIT_FAILED),
        ("GetSettings", {}, f"{NAME}.Failed", "internal", EXIT_FAILED),
        ("ListJobs", {}, f"{NAME}.Failed", "internal", EXIT_FAILED),
        ("Watch", {"run": "empty"}, f"{NAME}.Failed", "internal", EXIT_FAILED),
        ("RebuildCatalog", {}, "org.varlink.service.ExpectedMore", "bad-request", EXIT_FAILED),
        ("Prune", {}, "org.varlink.service.MethodNotImplemented", "bad-request", EXIT_FAILED),
        ("Nope", {}, "org.varlink.service.MethodNotFound", "bad-request", EXIT_USAGE),
        ("com.example.Nope", {}, "org.varlink.service.InterfaceNotFound", "bad-request", EXIT_FAILED),
        ("ListRuns", {"limit": "3"}, "org.varlink.service.InvalidParameter", "bad-request", EXIT_USAGE),
    ],
)
def test_every_fault_has_its_error_code_and_exit_code(
    control: Control, method: str, params: dict[str, Any], name: str, code: str, exit_code: int
) -> None:
    """A handler's fault and a wrong request arrive as the error of the protocol that a script can tell apart."""
    with pytest.raises(RemoteError) as caught:
        Client(str(control.path)).call(method, params)
    assert (caught.value.name, caught.value.code, caught.value.exit_code) == (name, code, exit_code)
    assert caught.value.message


def test_a_fault_arrives_with_sentence_hint_and_retryability(control: Control) -> None:
    """What the handler said of the fault is what the operator reads."""
    with pytest.raises(RemoteError, match=r"^bucket b does not exist$") as caught:
        Client(str(control.path)).call("TestDestination", {"destination": "b"})
    assert (caught.value.hint, caught.value.retryable) == ("create it", False)
    with pytest.raises(RemoteError) as caught:
        Client(str(control.path)).call("Cancel")
    assert caught.value.retryable


def test_a_wrong_parameter_is_named_with_its_reason(control: Control) -> None:
    """The message leads to the parameter and says what is wrong with it."""
    with pytest.raises(RemoteError, match=r"^parameter limit: must be a whole number, not a boolean$"):
        Client(str(control.path)).call("ListRuns", {"limit": True})
    with pytest.raises(RemoteError, match=r"^parameter limmit: is not known here; known: job, limit, slices, fleet$"):
        Client(str(control.path)).call("ListRuns", {"limmit": 1})
    with pytest.raises(RemoteError, match=r"^parameter run: is missing$"):
        Client(str(control.path)).call("DescribeRun")


def test_a_secret_in_a_fault_is_masked(control: Control) -> None:
    """A handler that lets a secret slip into its message does not send it."""
    with pytest.raises(RemoteError) as caught:
        Client(str(control.path)).call("Delete", {"backup": "x"})
    assert PASSWORD.reveal() not in caught.value.message
    assert "***" in caught.value.message


def test_an_unexpected_exception_goes_to_the_journal_and_not_to_the_caller(control: Control) -> None:
    """A defect is logged with its traceback; the caller learns that it happened and where to look, nothing else."""
    control.logs.clear()
    with control.connect() as wire:
        wire.call("Doctor")
        text = json.dumps(wire.receive())
    assert "journalctl" in text
    assert "wing" not in text
    assert "Traceback" not in text
    (entry,) = (entry for entry in control.logs if entry["log_level"] == "error")
    assert isinstance(entry["exc_info"], RuntimeError)


def test_a_reply_that_does_not_fit_the_interface_is_logged_and_not_sent(control: Control) -> None:
    """What a handler returns is held against the interface too: the journal says which field, the caller nothing."""
    control.logs.clear()
    with pytest.raises(RemoteError, match="defect"):
        Client(str(control.path)).call("GetSettings")
    (entry,) = (entry for entry in control.logs if entry["log_level"] == "error")
    assert "state.mode: must be text" in str(entry["exc_info"])


def test_a_stream_ends_with_the_generators_last_reply(control: Control) -> None:
    """Each reply is given once, in order, and the iteration ends by itself."""
    replies = list(Client(str(control.path)).stream("Run"))
    assert [reply["event"]["message"] for reply in replies] == ["step 0", "step 1", "step 2"]


def test_without_more_a_stream_is_its_first_reply(control: Control) -> None:
    """A caller that wants one reply of a streaming method gets the first, and the generator is closed."""
    assert Client(str(control.path)).call("Run")["event"]["message"] == "step 0"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reply = pool.submit(Client(str(control.path)).call, "Watch")
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        control.emit("first")
        assert reply.result(PATIENCE)["event"]["message"] == "first"
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_events_arrive_when_they_happen(control: Control) -> None:
    """An event is delivered at once, not when the next one pushes it out."""
    with Client(str(control.path)) as client:
        events = client.stream("Watch", timeout=PATIENCE)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(next, events)
            assert control.handlers.opened.acquire(timeout=PATIENCE)
            for message in ("one", "two"):
                control.emit(message)
                assert first.result(PATIENCE)["event"]["message"] == message
                first = pool.submit(next, events)
            control.emit("three")
            first.result(PATIENCE)
        events.close()  # type: ignore[attr-defined]
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_a_streams_silence_is_bounded_only_when_asked_for(control: Control) -> None:
    """Events may be further apart than a call may take; a bound between two of them is given to the stream itself."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        patient = pool.submit(next, Client(str(control.path), timeout=0.2).stream("Watch"))
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        with pytest.raises(UnreachableError, match=r"^the daemon did not answer Watch within 0\.5 s$"):
            next(Client(str(control.path)).stream("Watch", timeout=0.5))
        control.emit("late")
        assert patient.result(PATIENCE)["event"]["message"] == "late"
    for _ in range(2):
        assert control.handlers.closed.acquire(timeout=PATIENCE)
    assert control.handlers.opened.acquire(timeout=PATIENCE)


def test_leaving_a_streams_loop_frees_its_generator(control: Control) -> None:
    """A caller that has seen enough simply stops, and the daemon notices."""
    with concurrent.futures.ThreadPoolExecutor() as pool:

        def watch() -> str:
            for reply in Client(str(control.path)).stream("Watch"):
                return str(reply["event"]["message"])
            return "nothing"

        seen = pool.submit(watch)
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        control.emit("enough")
        assert seen.result(PATIENCE) == "enough"
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_closing_the_client_wakes_up_a_stream_in_another_thread(control: Control) -> None:
    """A stream that waits for its next event ends with a fault when the client is closed."""
    client = Client(str(control.path))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(list, client.stream("Watch"))
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        client.close()
        assert isinstance(waiting.exception(PATIENCE), UnreachableError)
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_a_fault_in_the_middle_of_a_stream_ends_it(control: Control) -> None:
    """Replies so far are delivered, then the fault is raised."""
    events = Client(str(control.path)).stream("Watch", {"run": "fails"})
    assert next(events)["event"]["message"] == "before"
    with pytest.raises(RemoteError, match=r"^the run has vanished$"):
        next(events)


def test_a_generator_that_ends_late_still_ends_the_stream(control: Control) -> None:
    """When the end is known only after the last reply was sent, that reply is repeated with its mark."""
    with control.connect() as wire:
        wire.call("Watch", more=True, parameters={"run": "late"})
        first, second = wire.receive(), wire.receive()
        assert first.pop("continues")
        assert first == second


def test_a_missing_socket_says_how_to_start_the_daemon(folder: Path) -> None:
    """Where there is no socket, the fault says that the daemon is not running and what to type."""
    with pytest.raises(UnreachableError, match=r"the daemon is not running: .* does not exist") as caught:
        Client(str(folder / "control.sock")).call("GetStatus")
    assert "start it: " in caught.value.hint
    assert caught.value.retryable


def test_a_socket_without_a_listener_says_how_to_start_the_daemon(folder: Path) -> None:
    """A socket left by a killed daemon is told from a missing one."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "control.sock"))
    with pytest.raises(UnreachableError, match="the daemon is not running: nothing listens on ") as caught:
        Client(str(folder / "control.sock")).call("GetStatus")
    assert "start it: " in caught.value.hint


@pytest.mark.parametrize("path", ["/dev/null/control.sock", "/" + "x" * 200])
def test_an_impossible_path_is_a_fault_and_not_a_traceback(path: str) -> None:
    """A path that can hold no socket is reported like any other connection problem."""
    with pytest.raises(UnreachableError, match="cannot connect to the daemon"):
        Client(path).call("GetStatus")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root may")
def test_a_user_without_permission_learns_which_group_opens_the_socket(folder: Path) -> None:
    """Permission denied names the socket's group and the command that joins it."""
    group = next(entry.gr_name for entry in grp.getgrall() if entry.gr_gid not in (0, NOBODY))
    folder.chmod(0o755)
    program = (
        "import grp, os, pathlib, sys\n"
        "from nanumpay_backupd.control.client import Client\n"
        "from nanumpay_backupd.errors import UnreachableError\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try: Client(sys.argv[1]).call('GetStatus')\n"
        "except UnreachableError as fault: print(fault.code, fault.message, fault.hint, sep='\\n')\n"
    )
    with running_control(path=folder / "control.sock", group=group) as control:
        done = subprocess.run(
            [sys.executable, "-c", program, str(control.path)], capture_output=True, text=True, timeout=PATIENCE
        )
    code, message, hint = done.stdout.splitlines()
    assert code == "permission-denied"
    assert str(control.path) in message
    assert f"usermod -aG {group}" in hint


def test_a_daemon_that_does_not_answer_in_time_is_a_fault(control: Control) -> None:
    """The wait for a reply is bounded by the client's timeout, and the fault says for how long."""
    with running_control() as stuck:
        with pytest.raises(UnreachableError, match=r"^the daemon did not answer Reload within 0\.1 s$") as caught:
            Client(str(stuck.path), timeout=0.1).call("Reload")
        assert caught.value.code == "daemon-timeout"
        stuck.release()


def test_a_daemon_that_dies_during_a_call_is_a_fault(folder: Path) -> None:
    """When the daemon is killed under a call, the caller learns that no answer will come."""
    path = folder / "control.sock"
    with control_process(path) as process, concurrent.futures.ThreadPoolExecutor() as pool:
        client = Client(str(path))
        assert client.call("GetStatus") == STATUS
        waiting = pool.submit(list, client.stream("Watch"))
        assert process.stdout is not None
        assert process.stdout.readline() == b"watched\n"
        process.kill()
        fault = waiting.exception(PATIENCE)
    assert isinstance(fault, UnreachableError)
    assert "closed the connection before it answered Watch" in fault.message


def test_something_else_behind_the_socket_is_a_fault(folder: Path) -> None:
    """An answer that is not Varlink is reported as such and not as a traceback."""
    with socket.socket(socket.AF_UNIX) as other, concurrent.futures.ThreadPoolExecutor() as pool:
        other.bind(str(folder / "other.sock"))
        other.listen()
        waiting = pool.submit(Client(str(folder / "other.sock")).call, "GetStatus")
        connection, _ = other.accept()
        with connection:
            connection.sendall(b"220 ready\r\n\0")
            fault = waiting.exception(PATIENCE)
    assert isinstance(fault, UnreachableError)
    assert "not the daemon's protocol" in fault.message


def test_importing_the_client_is_cheap() -> None:
    """The client pulls in neither asyncio nor typing nor anything that is not in the standard library."""
    program = "import sys, nanumpay_backupd.control.client; print(*sys.modules)"
    # -S: without what this environment's site-packages import by themselves
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, cwd=root, timeout=PATIENCE
    )
    loaded = set(done.stdout.split())
    assert "nanumpay_backupd.control.client" in loaded
    assert not loaded & {"asyncio", "typing", "dataclasses", "subprocess", "pathlib", "msgspec", "structlog", "logging"}


@pytest.mark.parametrize(
    "booted,path,said,unsaid",
    [
        (True, "/run/nanumpay-backupd/control.sock", ["systemctl start nanumpay-backupd"], ["--socket"]),
        (True, "/home/min/c.sock", ["systemctl start nanumpay-backupd", "--socket PATH"], []),
        (False, "/home/min/c.sock", ["nanumpay-backupd serve", "--socket PATH"], ["systemctl"]),
        (False, "/run/nanumpay-backupd/control.sock", ["nanumpay-backupd serve"], ["systemctl", "--socket"]),
    ],
)
def test_how_the_daemon_is_started(
    booted: bool, path: str, said: list[str], unsaid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By systemd only where the host is run by it; a socket of one's own may simply be misnamed."""
    monkeypatch.setattr(client, "_BOOTED_BY_SYSTEMD", str(tmp_path if booted else tmp_path / "nothing"))
    hint = client._start_hint(path)
    assert all(words in hint for words in said)
    assert not any(words in hint for words in unsaid)
