"""Hostile callers of the real daemon and its page: calls of any shape, crowds, floods, slow ones, HTTP that is none.

What the server of the socket does by itself with such callers is in test_control_hostile.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.control.client import Client
from nanumpay_backupd.control.idl import Array, Builtin, Enum, Interface, Map, Method, Named, Nullable, Struct, Type
from tests.servers.control import INTERFACE_TEXT, PATIENCE, Wire
from tests.servers.daemon import Site, open_site, wait_for
from tests.servers.mongod import Mongod
from tests.servers.web import Page, open_page

pytestmark = pytest.mark.servers

LONG: Final = os.environ.get("NANUMPAY_TEST_FAULT") == "1"
NOBODY: Final = "No client, whatever it sends and however many they are, stops the daemon or locks others out."
INTERFACE: Final = Interface(INTERFACE_TEXT)
MIB: Final = 1 << 20


@pytest.fixture(scope="module")
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """Run a daemon with one backup."""
    with open_site(mongod_rs) as site:
        site.write_config("[nanumpay]\ndrill = 'never'", top="timezone = 'UTC'")
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


@pytest.fixture(scope="module")
def page(site: Site) -> Iterator[Page]:
    """Serve its page."""
    with open_page(site) as page:
        yield page


def lives(site: Site) -> None:
    """See that the daemon answers, has told of no defect, and has lost nothing."""
    assert site.status()["health"] in {"ok", "warning", "failing"}
    assert len(site.artifacts()) >= 1
    assert "Traceback" not in site.log()


def peak(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


# ------------------------------------------------------------------------------------------------ calls

# These begin what takes long, end nothing, or tell people: they get what they refuse only.
SLOW: Final = {"Run", "Verify", "Drill", "Doctor", "Watch", "TestNotify", "TestDestination", "Monitor", "RestoreGroup"}
NAMES: Final = [
    "",
    "..",
    "../../etc/passwd",
    "/",
    "nul\0",
    "x" * 3000,
    "\ud800",
    "latest",
    "nanumpay-backup-1",
    "김",
    "*",
]
Texts = st.sampled_from(NAMES) | st.text(max_size=12)
Any_ = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | Texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Texts, inner, max_size=3),
    max_leaves=6,
)


def fitting(kind: Type) -> st.SearchStrategy[Any]:
    """Make values that fit a type of the interface."""
    if isinstance(kind, Nullable):
        return st.none() | fitting(kind.item)
    if isinstance(kind, Array):
        return st.lists(fitting(kind.item), max_size=3)
    if isinstance(kind, Map):
        return st.dictionaries(Texts, fitting(kind.item), max_size=2)
    if isinstance(kind, Enum):
        return st.sampled_from(kind.names)
    if isinstance(kind, Struct):
        return st.fixed_dictionaries({name: fitting(part) for name, part in kind.fields.items()})
    if isinstance(kind, Named):
        return Any_
    assert isinstance(kind, Builtin)
    return {
        "bool": st.booleans(),
        "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 3),
        "float": st.floats(allow_nan=False, allow_infinity=False),
        "string": Texts,
        "object": Any_,
    }[kind.name]


def calls(method: Method) -> st.SearchStrategy[dict[str, Any]]:
    """Make parameters for a method: such as fit, and such as do not."""
    right = fitting(method.request)
    wrong = st.dictionaries(st.sampled_from([*method.request.fields, "nonsense"]), Any_, max_size=4)
    if method.name in SLOW:
        return wrong.map(lambda params: {**params, "nonsense": 1})
    return right | wrong


METHODS: Final = list(INTERFACE.methods.values())
Calls = st.lists(
    st.sampled_from(METHODS).flatmap(lambda method: st.tuples(st.just(method.name), calls(method))),
    min_size=1,
    max_size=8,
)


@pytest.mark.promise(NOBODY, item=8)
@settings(
    max_examples=150 if LONG else 25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(found=Calls)
def test_every_method_with_any_parameters(site: Site, found: list[tuple[str, dict[str, Any]]]) -> None:
    """Each call is answered, by what was asked for or by a fault with a code that is none of a defect."""
    for name, params in found:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as wire:
            wire.settimeout(60)
            wire.connect(str(site.socket))
            call = {"method": f"com.nanumpay.Backup.{name}", "parameters": params}
            wire.sendall(json.dumps(call).encode() + b"\0")
            answer = b""
            while not answer.endswith(b"\0"):
                part = wire.recv(1 << 20)
                assert part, (name, params)
                answer += part
        reply = json.loads(answer.split(b"\0")[0])
        fault = reply.get("parameters", {}).get("fault", {}) if "error" in reply else {}
        assert fault.get("code") != "internal", (name, params, reply)
    lives(site)


# ------------------------------------------------------------------------------------------------ crowds and floods


@pytest.mark.promise(NOBODY, item=8)
@pytest.mark.fault_long
def test_ten_thousand_connections(site: Site) -> None:
    """Others are served all the time and when the crowd has gone; what is too many is closed, memory stays bounded."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(11_000, before[1]), before[1]))
    assert site.process is not None
    memory = peak(site.process.pid)
    crowd: list[socket.socket] = []
    try:
        for number in range(10_000):
            caller = socket.socket(socket.AF_UNIX)
            caller.connect(str(site.socket))  # it waits where the queue is full
            crowd.append(caller)
            if number % 1000 == 0:
                assert Client(str(site.socket), timeout=PATIENCE).call("GetStatus")["pid"] == site.process.pid
        assert Client(str(site.socket), timeout=PATIENCE).call("GetStatus")["pid"] == site.process.pid
        assert len(list(Path(f"/proc/{site.process.pid}/fd").iterdir())) < 500
    finally:
        for caller in crowd:
            caller.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert peak(site.process.pid) - memory < 64 * MIB
    lives(site)


@pytest.mark.promise(NOBODY, item=8)
@pytest.mark.fault_long
def test_a_message_of_two_gigabytes(site: Site) -> None:
    """Its sender is told that it is too long, or cut off; the daemon's memory does not grow with what it is sent."""
    assert site.process is not None
    before, piece = peak(site.process.pid), b"x" * (4 * MIB)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as wire, contextlib.suppress(ConnectionError):
        wire.connect(str(site.socket))
        wire.sendall(b'{"method":"')
        for _ in range(512):
            wire.sendall(piece)
        wire.settimeout(PATIENCE)
        assert b"longer than" in wire.recv(4096)
    assert peak(site.process.pid) - before < 32 * MIB
    lives(site)


@pytest.mark.promise(NOBODY, item=8)
def test_slow_ones_and_watchers_that_vanish(site: Site) -> None:
    """A hundred callers that send a byte now and then, fifty watchers that are gone: nobody else waits for them."""
    call = b'{"method":"com.nanumpay.Backup.Watch","more":true,"parameters":{}}\0'
    with contextlib.ExitStack() as crowd:
        slow = [crowd.enter_context(Wire(site.socket)) for _ in range(60)]
        for at in range(3):
            for wire in slow:
                with contextlib.suppress(ConnectionError):
                    wire.send(call[at : at + 1])
            assert site.status()["pid"]
        for _ in range(50):
            with Wire(site.socket) as watcher:
                watcher.send(call)
        lives(site)
    assert site.run()["outcome"] == "succeeded"


# ------------------------------------------------------------------------------------------------ HTTP

REQUESTS: Final = [
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % at for at in range(20_000)) + b"\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n0\r\n\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HT",
    b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\nx",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"\0" * 5000,
    b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /static/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhl\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nCookie: " + b"a=b;" * 3000 + b"\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: \xff\xfe\r\n\xff: \0\r\n\r\n",
]


def answered(page: Page, request: bytes) -> bytes:
    """Send bytes and return the beginning of what comes back before the other side closes or a moment has passed."""
    found = b""
    with contextlib.closing(socket.create_connection(("127.0.0.1", page.port), timeout=10)) as wire:
        with contextlib.suppress(OSError):
            wire.sendall(request)
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_WR)
            while len(found) < 64 << 10 and (part := wire.recv(1 << 16)):
                found += part
    return found


def serves(page: Page) -> None:
    """See that the page serves others, and that nothing of it broke down."""
    assert page.process.poll() is None
    with page.browser() as browser:
        assert browser.get("/sign-in").status_code == 200
    assert "Traceback" not in page.log()


@pytest.mark.promise(NOBODY, item=8)
def test_http_that_is_none(page: Page) -> None:
    """Huge headers, chunks of nonsense, lengths that lie: refused or closed in bounded memory; others are served."""
    before = page.memory()
    for request in REQUESTS:
        answer = answered(page, request)
        assert b"root:" not in answer
        assert not answer or answer.startswith(b"HTTP/1."), answer[:100]
    assert page.memory() - before < 48 * MIB
    serves(page)


@pytest.mark.promise(NOBODY, item=8)
@settings(
    max_examples=1500 if LONG else 30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(number=st.integers(0, len(REQUESTS) - 1), where=st.integers(0, 400), garbage=st.binary(max_size=30))
def test_http_with_garbage_in_it(page: Page, number: int, where: int, garbage: bytes) -> None:
    """Whatever stands where in a request, it is answered as HTTP or closed."""
    request = REQUESTS[number][:5000]
    answer = answered(page, request[:where] + garbage + request[where:])
    assert b"root:" not in answer
    assert not answer or answer.startswith(b"HTTP/1."), answer[:100]
    assert b"Traceback" not in answer


@pytest.mark.promise(NOBODY, item=8)
def test_slow_bodies_and_idle_callers_lock_nobody_out(page: Page) -> None:
    """Two hundred callers that never end their headers or their body: a browser is served meanwhile."""
    head = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\na"
    with contextlib.ExitStack() as crowd:
        for number in range(200):
            wire = crowd.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=10))
            with contextlib.suppress(OSError):
                wire.sendall(head if number % 2 else head[:30])
        serves(page)
    serves(page)


@pytest.mark.promise(NOBODY, item=8)
def test_the_page_and_the_daemon_after_all_this(page: Page, site: Site) -> None:
    """A backup by the page's daemon succeeds, and nothing is left of those who came."""
    lives(site)
    serves(page)
    assert site.run()["outcome"] == "succeeded"
    assert site.process is not None
    pid = site.process.pid
    wait_for(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200, "the end of the connections", PATIENCE)
