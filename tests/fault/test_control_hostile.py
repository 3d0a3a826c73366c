"""Callers that send garbage, never finish, never read, vanish, or come in crowds: the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.control.client import Client, RemoteError
from nanumpay_backupd.control.server import ControlServer, Limits
from nanumpay_backupd.errors import EXIT_BUSY
from tests.servers.control import (
    INTERFACE_TEXT,
    PATIENCE,
    STATUS,
    Control,
    Handlers,
    Wire,
    control_process,
    request,
    running_control,
    short_folder,
)

pytestmark = pytest.mark.promise(
    "No client, whatever it sends and however many they are, stops the daemon or locks others out.", item=8
)

FAILED = "com.nanumpay.Backup.Failed"


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    """Run one server with the product's own limits for the tests that do not exhaust it."""
    with running_control() as running:
        yield running


def still_serves(control: Control) -> None:
    """Let an honest client make a call."""
    assert Client(str(control.path), timeout=PATIENCE).call("GetStatus") == STATUS


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that the server does in its own time."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to that")


# ----------------------------------------------------------------------------------------------------------- garbage


@pytest.mark.parametrize(
    "garbage, terminator",
    [
        (b"GET / HTTP/1.1\r\n", b"\n"),
        (b"\x16\x03\x01\x02\x00", b"\0"),
        (b"[]\0", b"\0"),
        (b'"text"\n', b"\n"),
        (b'{"method": GetStatus}\n', b"\n"),
        (b'{"method":"com.nanumpay.Backup.GetStatus"\0', b"\0"),
        (b'{"method":"\xff\xfe"}\0', b"\0"),
        (b'{"method":NaN}\n', b"\n"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\0", b"\0"),
        (b'{"a":' + b"[" * 500_000 + b"\n", b"\n"),
        (b'{"a":' + b"1" * 500_000 + b"}\n", b"\n"),
    ],
)
def test_garbage_is_answered_and_the_connection_lives_on(control: Control, garbage: bytes, terminator: bytes) -> None:
    """What is no JSON object gets an error with a sentence, and the next request is served on the same connection."""
    with control.connect() as wire:
        wire.send(garbage)
        reply = wire.receive(terminator)
        assert reply["error"] == FAILED
        assert reply["parameters"]["fault"]["code"] == "bad-request"
        assert reply["parameters"]["fault"]["message"].startswith("the request cannot be read: it ")
        wire.call("GetStatus")
        assert wire.receive()["parameters"] == STATUS


def test_a_deeply_nested_parameter_is_refused(control: Control) -> None:
    """A request that is valid JSON up to any depth is an error reply and never a crash."""
    for depth in (100, 500, 900, 1_000, 5_000, 100_000):
        with control.connect() as wire:
            nested = b'{"a":' * depth + b"1" + b"}" * depth
            wire.send(b'{"method":"com.nanumpay.Backup.ListRuns","parameters":{"job":' + nested + b"}}\0")
            assert wire.receive()["error"] in (FAILED, "org.varlink.service.InvalidParameter")
    still_serves(control)


def test_of_duplicate_keys_the_last_one_counts(control: Control) -> None:
    """Duplicate keys, on which JSON is silent, do not make two parts of the server see different requests."""
    with control.connect() as wire:
        wire.send(b'{"method":"com.nanumpay.Backup.Delete","method":"com.nanumpay.Backup.GetStatus"}\0')
        assert wire.receive()["parameters"] == STATUS


def test_one_byte_at_a_time_is_understood(control: Control) -> None:
    """A sender that trickles its request is served like any other."""
    with control.connect() as wire:
        for byte in request("ListRuns", parameters={"limit": 1}) + request("GetStatus", terminator=b"\n"):
            wire.send(bytes([byte]))
        assert len(wire.receive()["parameters"]["runs"]) == 1
        assert wire.receive(b"\n")["parameters"] == STATUS


def test_a_pretty_printed_message_is_understood(control: Control) -> None:
    """A request over many lines that ends in NUL is one request."""
    text = json.dumps({"method": "com.nanumpay.Backup.ListRuns", "parameters": {"limit": 3}}, indent=4)
    with control.connect() as wire:
        for line in text.splitlines(keepends=True):
            wire.send(line.encode())
        wire.send(b"\n\0")
        assert len(wire.receive()["parameters"]["runs"]) == 3


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_METHODS = ("GetStatus", "ListRuns", "DescribeRun", "Run", "Cancel", "Prune", "Nope", "")
_ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from([f"com.nanumpay.Backup.{name}" for name in _METHODS]) | _VALUES,
        "parameters": st.fixed_dictionaries({}, optional={"limit": st.integers(-5, 5) | _VALUES, "run": _VALUES})
        | _VALUES,
        "more": _VALUES,
        "upgrade": _VALUES,
    },
)


@given(envelopes=st.lists(_ENVELOPES, max_size=5))
def test_any_json_gets_exactly_one_answer(control: Control, envelopes: list[dict[str, Any]]) -> None:
    """Whatever objects are sent, each is answered once (a stream with its last reply), and so is a call after them."""
    with control.connect() as wire:
        wire.send(b"".join(json.dumps(envelope).encode() + b"\0" for envelope in envelopes))
        wire.call("GetStatus")
        for _ in envelopes:
            while wire.receive().get("continues"):
                pass
        assert wire.receive() == {"parameters": STATUS}


@given(data=st.binary(max_size=300))
def test_any_bytes_at_all_leave_the_server_standing(control: Control, data: bytes) -> None:
    """Random bytes followed by a half-close end in replies and a closed connection."""
    with control.connect() as wire:
        wire.send(data)
        wire.half_close()
        replies = b""
        while received := wire.socket.recv(1 << 16):
            replies += received
    for reply in replies.replace(b"\0", b"\n").splitlines():
        assert "error" in json.loads(reply)
    still_serves(control)


# ------------------------------------------------------------------------------------------------------ size and time


def test_a_message_of_two_megabytes_is_refused_and_the_sender_learns_it(control: Control) -> None:
    """Too long a request gets an error and a closed connection, with or without a terminator in it."""
    for body in (b"x" * (2 << 20), b'{"method":"' + b"x" * (2 << 20) + b'"}\0'):
        with control.connect() as wire:
            wire.send(body)  # to its end: a sender that is cut off would not look for a reply
            reply = wire.receive()
            assert reply["error"] == FAILED
            assert "longer than 1048576 bytes" in reply["parameters"]["fault"]["message"]
            assert wire.at_end()
    still_serves(control)


def test_a_flood_without_terminators_does_not_fill_the_memory() -> None:
    """Twenty senders of 16 MB each are cut off; the server's peak memory grows by less than one of them sends."""
    with short_folder() as folder, control_process(folder / "s") as process:
        assert Client(str(folder / "s")).call("GetStatus") == STATUS
        before = _peak_memory(process.pid)
        for _ in range(20):
            with Wire(folder / "s") as wire, contextlib.suppress(ConnectionError):
                for _ in range(16):
                    wire.send(b"[" * (1 << 20))
        assert Client(str(folder / "s")).call("GetStatus") == STATUS
        assert _peak_memory(process.pid) - before < 16 << 20


def _peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def test_no_terminator_and_then_a_close_frees_the_connection(control: Control) -> None:
    """A caller that breaks off in the middle of a message leaves nothing behind."""
    before = control.connections()
    for _ in range(10):
        with control.connect() as wire:
            wire.send(b'{"method":"com.nan')
    eventually(lambda: control.connections() == before)
    still_serves(control)


def test_a_message_that_never_ends_is_given_up() -> None:
    """An incomplete message is not waited for longer than configured, however often another byte comes."""
    with running_control(Limits(incomplete=0.2)) as control, control.connect() as wire:
        wire.send(b"{")
        stop = threading.Event()
        trickle = threading.Thread(target=_trickle, args=(wire, stop))
        trickle.start()
        reply = wire.receive()
        stop.set()
        trickle.join()
        assert "its end did not come" in reply["parameters"]["fault"]["message"]
        assert wire.at_end()
        still_serves(control)


def _trickle(wire: Wire, stop: threading.Event) -> None:
    with contextlib.suppress(ConnectionError):
        while not stop.wait(0.01):
            wire.send(b" ")


def test_a_connection_that_says_nothing_is_closed() -> None:
    """Idleness is bounded, and blank lines are no activity."""
    with running_control(Limits(idle=0.2)) as control, control.connect() as wire:
        wire.send(b"\n\n")
        assert wire.at_end()


# ------------------------------------------------------------------------------------------------------------ crowds


@pytest.mark.parametrize("opening", [b"", b'{"method":', b'{"method":"com.nanumpay.Backup.GetStatus"}\0'])
def test_two_hundred_idle_connections_do_not_lock_an_honest_client_out(control: Control, opening: bytes) -> None:
    """Idle callers, silent or in the middle of a message or answered and waiting, make room for one with a request."""
    with contextlib.ExitStack() as crowd:
        for _ in range(200):
            wire = crowd.enter_context(control.connect())
            if opening:
                wire.send(opening)
        still_serves(control)
        assert control.connections() <= Limits().connections


def test_a_burst_does_not_push_out_a_request_that_has_already_arrived() -> None:
    """A caller whose request waits in its socket is not idle, although the server has not looked at it yet."""

    async def story(path: Path) -> dict[str, Any]:
        server = ControlServer(INTERFACE_TEXT, Handlers().table(), path=path, limits=Limits(connections=2))
        await server.start()
        with Wire(path) as honest, contextlib.ExitStack() as crowd:
            # All of this is there before the server's loop has its next turn.
            honest.send(request("GetStatus"))
            for _ in range(20):
                crowd.enter_context(Wire(path))
            reply = await asyncio.get_running_loop().run_in_executor(None, honest.receive)
            await server.close()
            return reply

    with short_folder() as folder:
        assert asyncio.run(story(folder / "s"))["parameters"] == STATUS


def test_the_connection_that_was_idle_longest_makes_room() -> None:
    """Among idle connections the one whose last request is oldest goes; one with a call in progress never does."""
    with running_control(Limits(connections=3)) as control, contextlib.ExitStack() as crowd:
        working, newer, older = (crowd.enter_context(control.connect()) for _ in range(3))
        working.call("Reload")
        assert control.handlers.entered.acquire(timeout=PATIENCE)
        for wire in (newer, older, newer):
            wire.call("GetStatus")
            wire.receive()
        still_serves(control)
        assert older.at_end()
        newer.call("GetStatus")
        assert newer.receive()["parameters"] == STATUS
        control.release()
        assert working.receive()["parameters"] == {"message": "reloaded"}


def test_when_every_connection_works_a_further_one_is_told_so() -> None:
    """With nobody idle a new caller gets Busy with a sentence instead of waiting for nothing."""
    with running_control(Limits(connections=2)) as control, contextlib.ExitStack() as crowd:
        working = [crowd.enter_context(control.connect()) for _ in range(2)]
        for wire in working:
            wire.call("Reload")
            assert control.handlers.entered.acquire(timeout=PATIENCE)
        with pytest.raises(RemoteError, match="as many callers as it can serve") as caught:
            Client(str(control.path)).call("GetStatus")
        assert (caught.value.exit_code, caught.value.retryable) == (EXIT_BUSY, True)
        control.release()
        for wire in working:
            assert wire.receive()["parameters"] == {"message": "reloaded"}
        still_serves(control)


@pytest.mark.promise("A daemon without descriptors to spare goes on and serves again.", item=10)
def test_running_out_of_descriptors_does_not_lock_an_honest_client_out() -> None:
    """A process that may open no further file closes idle connections and goes on serving."""
    with short_folder() as folder, control_process(folder / "s") as process, contextlib.ExitStack() as crowd:
        open_now = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now + 10, open_now + 10))
        for _ in range(60):
            wire = socket.socket(socket.AF_UNIX)
            crowd.callback(wire.close)
            wire.connect(str(folder / "s"))
        assert Client(str(folder / "s"), timeout=PATIENCE).call("GetStatus") == STATUS


def test_a_slow_call_does_not_hold_up_others(control: Control) -> None:
    """While one connection waits for its reply, others are served."""
    with running_control() as slow, slow.connect() as wire:
        wire.call("Reload")
        assert slow.handlers.entered.acquire(timeout=PATIENCE)
        still_serves(slow)
        slow.release()
        assert wire.receive()["parameters"] == {"message": "reloaded"}


def test_a_caller_that_vanishes_during_a_call_harms_nobody() -> None:
    """The call is carried out to its end, its reply has no taker, and the connection is freed."""
    with running_control() as control:
        with control.connect() as wire:
            wire.call("Reload")
            assert control.handlers.entered.acquire(timeout=PATIENCE)
        still_serves(control)
        control.release()
        eventually(lambda: control.connections() == 0)
        assert [entry for entry in control.logs if entry["log_level"] == "error"] == []


# ---------------------------------------------------------------------------------------------------------- watchers


def _watch(control: Control, **more: Any) -> Wire:
    """Open a connection that watches, and wait until the server has begun with it."""
    wire = control.connect()
    wire.call("Watch", more=True, **more)
    assert control.handlers.opened.acquire(timeout=PATIENCE)
    return wire


def _message(wire: Wire) -> str:
    return str(wire.receive()["parameters"]["event"]["message"])


def test_a_watcher_that_goes_away_is_freed(control: Control) -> None:
    """Closing the connection ends the generator although no event is ever sent to it."""
    before = control.connections()
    _watch(control).close()
    assert control.handlers.closed.acquire(timeout=PATIENCE)
    eventually(lambda: control.connections() == before)


def test_a_watcher_that_sent_more_requests_and_goes_away_is_freed(control: Control) -> None:
    """Unread input hides the end of the connection from the event loop; it is noticed all the same."""
    wire = _watch(control)
    wire.call("GetStatus")
    wire.send(b"x" * 100_000)
    control.emit("seen")
    assert _message(wire) == "seen"
    wire.close()
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_a_watcher_that_half_closes_still_gets_events_until_it_goes_away(control: Control) -> None:
    """A caller that only shut down its sending side (a shell pipe) goes on watching; when it is gone it is freed."""
    wire = _watch(control)
    wire.half_close()
    for message in ("one", "two"):
        control.emit(message)
        assert _message(wire) == message
    assert not control.handlers.closed.acquire(timeout=1.5)  # longer than the server takes to look
    control.emit("three")
    assert _message(wire) == "three"
    wire.close()
    assert control.handlers.closed.acquire(timeout=PATIENCE)


def test_a_watcher_that_stops_reading_is_dropped() -> None:
    """Events for a watcher that takes none are not kept for ever: it is dropped, and others are not held up."""
    with running_control(Limits(blocked_write=0.2)) as control:
        deaf = _watch(control)
        for _ in range(100):
            control.emit("x" * 50_000)
        assert control.handlers.closed.acquire(timeout=PATIENCE)
        eventually(lambda: control.connections() == 0)
        still_serves(control)
        deaf.close()


def test_a_caller_that_reads_slowly_is_not_dropped() -> None:
    """What counts is that something was taken within the time, not the whole reply."""
    with running_control(Limits(blocked_write=1.0)) as control, control.connect() as wire:
        wire.call("ListRuns", parameters={"limit": 50_000})
        pause = threading.Event()
        data = b""
        while not data.endswith(b"\0"):
            data += wire.socket.recv(200_000)
            pause.wait(0.03)
        assert len(json.loads(data[:-1])["parameters"]["runs"]) == 50_000


def test_a_caller_that_only_sends_is_dropped() -> None:
    """Requests whose replies nobody reads stop being read, so neither side's memory fills."""
    with running_control(Limits(blocked_write=0.2)) as control, control.connect() as wire:
        with pytest.raises(ConnectionError):
            wire.send(b"x\n" * 50_000_000)
        eventually(lambda: control.connections() == 0)
        still_serves(control)


def test_watchers_are_bounded_and_a_place_is_free_again_when_one_leaves() -> None:
    """One watcher too many is answered with Busy; plain calls still work, and leaving makes room for another."""
    with running_control(Limits(watchers=3)) as control, contextlib.ExitStack() as crowd:
        watchers = [crowd.enter_context(_watch(control)) for _ in range(3)]
        with control.connect() as wire:
            wire.call("Watch", more=True)
            reply = wire.receive()
            assert reply["error"] == "com.nanumpay.Backup.Busy"
            assert "3 watchers" in reply["parameters"]["fault"]["message"]
            wire.call("GetStatus")
            assert wire.receive()["parameters"] == STATUS
        watchers.pop().close()
        assert control.handlers.closed.acquire(timeout=PATIENCE)
        crowd.enter_context(_watch(control))


def test_the_default_bound_of_watchers_comes_back_after_a_crowd_has_vanished(control: Control) -> None:
    """Three times as many watchers as there may be, gone without a word, use up no place for good."""
    for _ in range(3):
        watchers = [_watch(control) for _ in range(Limits().watchers)]
        for wire in watchers:
            wire.close()
        for _ in watchers:
            assert control.handlers.closed.acquire(timeout=PATIENCE)
    _watch(control).close()
    assert control.handlers.closed.acquire(timeout=PATIENCE)
