"""The control server as its callers see it: foreign clients, socat, raw bytes, the socket file, closing, rights."""

from __future__ import annotations

import asyncio
import concurrent.futures
import grp
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import varlink
from asyncvarlink import VarlinkClientProtocol, VarlinkMethodCall, VarlinkTransport, connect_unix_varlink

from nanumpay_backupd import __version__
from nanumpay_backupd.control.client import Client, RemoteError
from nanumpay_backupd.control.server import ControlServer, Peer, may_administer
from nanumpay_backupd.errors import (
    BusyError,
    ConfigError,
)
from tests.servers.control import (
    INTERFACE_TEXT,
    PATIENCE,
    STATUS,
    Control,
    Handlers,
    control_process,
    request,
    run_record,
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


# ------------------------------------------------------------------------------------------------ foreign clients


def test_the_varlink_package_introspects_and_calls(control: Control) -> None:
    """The reference Python implementation reads our interface by itself and calls methods through it."""
    with varlink.Client.new_with_address(f"unix:{control.path}") as client:
        assert client.get_interfaces() == ["org.varlink.service", NAME]
        assert client.info["product"] == "nanumpay-backupd"
        assert client.info["version"] == __version__
        with client.open(NAME) as backup:
            status = backup.GetStatus()
            assert status["timezone"] == STATUS["timezone"]
            assert status["backups_path"] == STATUS["backups_path"]
            assert [run["id"] for run in backup.ListRuns(limit=2)["runs"]] == ["run-0", "run-1"]


def test_the_varlink_package_streams(control: Control) -> None:
    """It gets every reply of a stream and sees where the stream ends."""
    with varlink.Client.new_with_address(f"unix:{control.path}") as client, client.open(NAME) as backup:
        messages = [reply["event"]["message"] for reply in backup.Run(_more=True)]
    assert messages == ["step 0", "step 1", "step 2"]


def test_the_varlink_package_understands_our_errors(control: Control) -> None:
    """Our errors and those of the protocol arrive as its exceptions, with their parameters."""
    with varlink.Client.new_with_address(f"unix:{control.path}") as client, client.open(NAME) as backup:
        with pytest.raises(varlink.VarlinkError) as caught:
            backup.DescribeRun("x")
        assert caught.value.error() == f"{NAME}.NotFound"
        assert caught.value.parameters()["fault"]["code"] == "not-found"
        with pytest.raises(varlink.MethodNotImplemented):
            backup.Prune()
        with pytest.raises(varlink.InterfaceNotFound):
            client.get_interface("com.example.Nope")


def _with_asyncvarlink(path: Path, *calls: VarlinkMethodCall) -> list[Any]:
    """Make calls with asyncvarlink on one connection, all sent before the first reply is read."""

    async def call_all() -> list[Any]:
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, str(path))
        assert isinstance(transport, VarlinkTransport)
        try:
            return await asyncio.gather(*(one(protocol, call) for call in calls))
        finally:
            transport.close()

    async def one(protocol: VarlinkClientProtocol, call: VarlinkMethodCall) -> Any:
        if call.more:
            return [reply.tojson() async for reply, _ in protocol.call_more(call)]
        answer = await protocol.call(call)
        return None if answer is None else answer[0].tojson()

    return asyncio.run(call_all())


def test_asyncvarlink_introspects_calls_and_streams(control: Control) -> None:
    """A second implementation, made for systemd's dialect, pipelines calls and a stream on one connection."""
    described, status, stream, missing = _with_asyncvarlink(
        control.path,
        VarlinkMethodCall("org.varlink.service.GetInterfaceDescription", {"interface": NAME}),
        VarlinkMethodCall(f"{NAME}.GetStatus", {}),
        VarlinkMethodCall(f"{NAME}.Run", {}, more=True),
        VarlinkMethodCall(f"{NAME}.DescribeRun", {"run": "x"}),
    )
    assert described["parameters"]["description"] == INTERFACE_TEXT
    assert status["parameters"] == STATUS
    assert [reply["parameters"]["event"]["message"] for reply in stream] == ["step 0", "step 1", "step 2"]
    assert [reply.get("continues", False) for reply in stream] == [True, True, False]
    assert missing["error"] == f"{NAME}.NotFound"


def test_oneway_is_carried_out_without_any_reply(control: Control) -> None:
    """A oneway call, also one that fails, is executed silently; the next reply belongs to the next call."""
    while not control.handlers.calls.empty():
        control.handlers.calls.get()
    silent, failing, info = _with_asyncvarlink(
        control.path,
        VarlinkMethodCall(f"{NAME}.GetStatus", {}, oneway=True),
        VarlinkMethodCall(f"{NAME}.Cancel", {}, oneway=True),
        VarlinkMethodCall("org.varlink.service.GetInfo", {}),
    )
    assert (silent, failing) == (None, None)
    assert info["parameters"]["vendor"] == "nanumpay"
    assert control.handlers.calls.get(timeout=PATIENCE).method == "GetStatus"


# ----------------------------------------------------------------------------------------------- raw bytes, socat


def test_a_newline_is_answered_with_a_newline(control: Control) -> None:
    """The hand-typed form: one line in, one line out; NUL is still answered with NUL."""
    with control.connect() as wire:
        wire.call("GetStatus", terminator=b"\n")
        assert wire.receive(b"\n")["parameters"] == STATUS
        wire.call("Nope", terminator=b"\n")
        assert wire.receive(b"\n")["error"] == "org.varlink.service.MethodNotFound"
        wire.call("GetStatus")
        assert wire.receive(b"\0")["parameters"] == STATUS


@pytest.mark.parametrize("ending", [b"\n", b"", b"\0"])
def test_a_request_through_socat_is_answered(control: Control, ending: bytes) -> None:
    """The documented shell line works, with echo's newline, with printf's nothing and with a NUL."""
    socat = shutil.which("socat")
    if socat is None:
        pytest.skip("socat is not installed")
    done = subprocess.run(
        [socat, "-t", str(PATIENCE), "-", f"UNIX-CONNECT:{control.path}"],
        input=request("GetStatus", terminator=ending),
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    end = b"\0" if ending == b"\0" else b"\n"
    assert done.stdout.endswith(end)
    assert json.loads(done.stdout.removesuffix(end))["parameters"] == STATUS


def test_pipelined_requests_are_answered_in_order(control: Control) -> None:
    """Many requests sent at once, good and bad and streaming, are answered one after the other as they came."""
    with control.connect() as wire:
        wire.send(
            b"".join(
                [
                    *(request("ListRuns", parameters={"limit": number}) for number in range(50)),
                    request("Cancel"),
                    request("Run", more=True),
                    b"garbage\n",
                    request("GetStatus", oneway=True),
                    request("DescribeRun", parameters={"run": "known"}),
                ]
            )
        )
        wire.half_close()
        for number in range(50):
            assert len(wire.receive()["parameters"]["runs"]) == number
        assert wire.receive()["error"] == f"{NAME}.Busy"
        assert [wire.receive().get("continues") for _ in range(3)] == [True, True, None]
        assert wire.receive(b"\n")["error"] == f"{NAME}.Failed"
        assert wire.receive()["parameters"] == {"run": run_record("known")}
        assert wire.at_end()


def test_a_half_close_still_gets_the_reply_in_progress(control: Control) -> None:
    """A caller that has sent its last request and shut down its side is answered, then the connection is closed."""
    with running_control() as slow, slow.connect() as wire:
        wire.call("Reload")
        wire.half_close()
        assert slow.handlers.entered.acquire(timeout=PATIENCE)
        slow.release()
        assert wire.receive()["parameters"] == {"message": "reloaded"}
        assert wire.at_end()


@pytest.mark.parametrize(
    "envelope, parameter",
    [
        ({"method": "GetStatus"}, "method"),
        ({"method": 7}, "method"),
        ({}, "method"),
        ({"method": f"{NAME}.GetStatus", "params": {}}, "params"),
        ({"method": f"{NAME}.GetStatus", "parameters": []}, "parameters"),
        ({"method": f"{NAME}.GetStatus", "more": 1}, "more"),
        ({"method": f"{NAME}.GetStatus", "oneway": "yes"}, "oneway"),
        ({"method": f"{NAME}.GetStatus", "upgrade": True}, "upgrade"),
    ],
)
def test_a_wrong_envelope_is_refused_naming_the_key(control: Control, envelope: dict[str, Any], parameter: str) -> None:
    """A request that is JSON but no Varlink call is answered with the key that is wrong; the connection lives on."""
    with control.connect() as wire:
        wire.send(json.dumps(envelope).encode() + b"\0")
        reply = wire.receive()
        assert reply["error"] == "org.varlink.service.InvalidParameter"
        assert reply["parameters"]["parameter"] == parameter
        wire.call("GetStatus")
        assert wire.receive()["parameters"] == STATUS


def test_null_stands_for_absent_in_the_envelope(control: Control) -> None:
    """Clients that write every key, with null for what they do not use, are understood."""
    with control.connect() as wire:
        wire.call("GetStatus", parameters=None, more=None, oneway=None, upgrade=None)
        assert wire.receive() == {"parameters": STATUS}


def test_a_reply_of_many_megabytes_arrives_whole(control: Control) -> None:
    """A listing far larger than any socket buffer is delivered to the last byte."""
    runs = Client(str(control.path)).call("ListRuns", {"limit": 50_000})["runs"]
    assert len(runs) == 50_000
    assert runs[-1] == run_record("run-49999")


# ------------------------------------------------------------------------------------------------ the socket file


def test_a_handler_for_an_unknown_method_is_a_mistake_of_the_program(folder: Path) -> None:
    """A typo in the table of handlers is found when the server is made."""
    with pytest.raises(ValueError, match=r"not in com\.nanumpay\.Backup: GetStatsu"):
        ControlServer(INTERFACE_TEXT, {"GetStatsu": Handlers().get_status}, path=folder / "s")


def test_the_socket_has_mode_and_group_and_goes_away(folder: Path) -> None:
    """Rights are as configured, folders are made, nothing else is left there, closing removes the socket."""
    path = folder / "run" / "nanumpay" / "control.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    with running_control(path=path, mode=0o600, group=group):
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_gid == os.getgid()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        assert [entry.name for entry in path.parent.iterdir()] == ["control.sock"]
    assert list(path.parent.iterdir()) == []


@pytest.mark.promise("The locks and sockets of those who died hold nobody up.", item=9)
def test_the_socket_of_a_killed_daemon_is_replaced(folder: Path) -> None:
    """After SIGKILL the file stays behind; the next daemon takes its place."""
    path = folder / "control.sock"
    with control_process(path):
        pass
    assert path.exists()
    with running_control(path=path):
        assert Client(str(path)).call("GetStatus") == STATUS


@pytest.mark.promise(
    "Two daemons never work on the same folders: the second one refuses and says who holds them.", item=9
)
def test_a_living_daemon_is_not_pushed_aside(folder: Path) -> None:
    """A second daemon on the same path is refused, and the first one goes on serving."""
    path = folder / "control.sock"
    with running_control(path=path):
        with pytest.raises(BusyError, match="another daemon is running"), running_control(path=path):
            pass
        assert Client(str(path)).call("GetStatus") == STATUS


@pytest.mark.promise(
    "Two daemons never work on the same folders: the second one refuses and says who holds them.", item=9
)
def test_a_daemon_with_a_full_queue_counts_as_living(folder: Path) -> None:
    """One that is too busy to accept is not taken for dead."""
    path = folder / "control.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first, Sockets() as more:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        more.fill(path)
        with pytest.raises(BusyError, match="another daemon is running"), running_control(path=path):
            pass


class Sockets:
    """Connections that are made until the other side's queue is full."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def fill(self, path: Path) -> None:
        """Connect until the kernel says that there is no room."""
        while True:
            connection = socket.socket(socket.AF_UNIX)
            self._sockets.append(connection)
            connection.setblocking(False)
            try:
                connection.connect(str(path))
            except BlockingIOError:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._sockets:
            connection.close()


def test_a_file_that_is_no_socket_is_not_touched(folder: Path) -> None:
    """A path that holds something else is refused, and that something is still there."""
    path = folder / "control.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="a file of another kind"), running_control(path=path):
        pass
    assert path.read_text() == "precious"


def test_an_unknown_group_is_refused_before_anything_is_made(folder: Path) -> None:
    """The fault names the group and how to create it; no socket appears."""
    with pytest.raises(ConfigError, match="group no-such-group does not exist"):
        running_control(path=folder / "s", group="no-such-group").__enter__()
    assert list(folder.iterdir()) == []


def test_a_path_too_long_for_a_socket_is_refused(folder: Path) -> None:
    """The kernel's limit of some hundred characters is a sentence, not a traceback; no temporary file stays."""
    with pytest.raises(ConfigError, match="cannot be made"), running_control(path=folder / ("x" * 120)):
        pass
    assert list(folder.iterdir()) == []


def test_a_socket_that_another_daemon_has_replaced_is_left_alone(folder: Path) -> None:
    """Closing removes the file only if it is still the one that was made."""
    path = folder / "control.sock"
    with running_control(path=path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


def test_a_socket_passed_by_systemd_is_used_and_not_removed(folder: Path) -> None:
    """Socket activation: the listening descriptor is served as it is, and its file belongs to systemd."""
    path = folder / "control.sock"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        with running_control(path=path, listen_fd=os.dup(passed.fileno())):
            assert Client(str(path)).call("GetStatus") == STATUS
    assert path.exists()


def test_a_wrong_descriptor_from_systemd_is_refused(folder: Path) -> None:
    """A descriptor that is no listening Unix socket is a fault of the configuration."""
    with socket.socket(socket.AF_INET) as wrong, pytest.raises(ConfigError, match="no listening Unix stream socket"):
        running_control(path=folder / "s", listen_fd=os.dup(wrong.fileno())).__enter__()


# ---------------------------------------------------------------------------------------------------------- closing


def test_closing_lets_a_call_in_progress_finish(folder: Path) -> None:
    """A call that is being carried out when the daemon stops gets its reply; idle connections are closed at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool, running_control() as control:
        with control.connect() as idle:
            idle.call("GetStatus")
            idle.receive()
            waiting = pool.submit(Client(str(control.path)).call, "Reload")
            assert control.handlers.entered.acquire(timeout=PATIENCE)
            closing = asyncio.run_coroutine_threadsafe(control.server.close(), control.loop)
            assert idle.at_end()
            control.release()
            assert waiting.result(PATIENCE) == {"message": "reloaded"}
            closing.result(PATIENCE)
        assert not control.path.exists()


def test_closing_tells_watchers_that_the_daemon_stops() -> None:
    """A watcher gets a last word with a sentence instead of a cut line, and its generator is closed."""
    with concurrent.futures.ThreadPoolExecutor() as pool, running_control() as control:
        waiting = pool.submit(list, Client(str(control.path)).stream("Watch"))
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        control.on_loop(control.server.close())
        fault = waiting.exception(PATIENCE)
        assert isinstance(fault, RemoteError)
        assert (fault.code, fault.retryable) == ("daemon-stopping", True)
        assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_closing_does_not_cut_a_reply_in_two() -> None:
    """An event that is being written when the daemon stops is written to its end, and the last word comes after it."""
    with running_control() as control, control.connect() as wire:
        wire.call("Watch", more=True)
        assert control.handlers.opened.acquire(timeout=PATIENCE)
        control.emit("x" * 5_000_000)
        wire.socket.recv(1, socket.MSG_PEEK)  # the writing has begun, and nobody reads
        closing = asyncio.run_coroutine_threadsafe(control.server.close(), control.loop)
        while not control.server._service.stopping.is_set():
            threading.Event().wait(0.01)
        control.connections()  # a few turns of the loop, in which the stop has its effect
        assert len(wire.receive()["parameters"]["event"]["message"]) == 5_000_000
        assert wire.receive()["parameters"]["fault"]["code"] == "daemon-stopping"
        assert wire.at_end()
        closing.result(PATIENCE)


# --------------------------------------------------------------------------------------------------- administration


def _peer(uid: int, gid: int = NOBODY) -> Peer:
    return Peer(uid=uid, gid=gid, pid=1)


def test_root_and_the_service_user_may_administer_without_any_group() -> None:
    """The two that can do anything to the files anyway need no group; a stranger may nothing."""
    assert may_administer(_peer(0), None)
    assert may_administer(_peer(os.geteuid()), None)
    assert not may_administer(_peer(NOBODY), None)
    assert not may_administer(_peer(NOBODY), "")


def test_a_group_that_does_not_exist_admits_nobody() -> None:
    """A mistyped group locks out rather than lets in."""
    assert not may_administer(_peer(NOBODY), "no-such-group")


def test_members_of_the_admin_group_may_administer() -> None:
    """Primary and supplementary members are admitted as the user database knows them, others are not."""
    users = [user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid())]
    checked = 0
    for user in users[:10]:
        members = set(os.getgrouplist(user.pw_name, user.pw_gid))
        for group in grp.getgrall():
            assert may_administer(_peer(user.pw_uid), group.gr_name) == (group.gr_gid in members)
            checked += 1
    assert checked


def test_supplementary_members_of_the_admin_group_may_administer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user database lists beyond the primary group counts; few hosts have such a user, so one is made up."""
    user = next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid()))
    group = next(group for group in grp.getgrall() if group.gr_gid != user.pw_gid)
    monkeypatch.setattr(
        os, "getgrouplist", lambda name, primary: [primary, group.gr_gid] if name == user.pw_name else []
    )
    assert may_administer(_peer(user.pw_uid), group.gr_name)


def test_a_user_without_a_name_is_judged_by_its_group() -> None:
    """A container's user that this host does not know counts as a member of the group it connected with."""
    group = next(entry for entry in grp.getgrall() if entry.gr_gid != 0)
    unknown = 4_000_000_000
    assert may_administer(_peer(unknown, group.gr_gid), group.gr_name)
    assert not may_administer(_peer(unknown, 0), group.gr_name)
