"""What goes wrong at a place or on the way there, each fault once, at every kind of store that can have it.

`place` is an empty destination on its real server (conftest), `Door` a proxy before it that breaks what passes. After
each fault: what was there before is there, nothing half done is listed, a neighbour is as it was, the next put works,
and whoever reads the message learns what to do. What only one kind can have is in tests/integration/test_*_faults.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import botocore.auth
import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.schema import Destination, LocalDestination, RetryPolicy
from nanumpay_backupd.stores.base import Store, is_hidden
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from tests.contract.places import DRIVERS, FULL, MOMENTS, PARTICIPANTS, REMOTE, TLS, Participant, Place
from tests.servers.certs import Certificate
from tests.servers.proxy import BreakingProxy, start_proxy

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise(
        "A destination that fails, hangs or lies never counts as having a copy, and the others go on.", item=4
    ),
]

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
MIB: Final = 1 << 20
_random = random.Random(20261122)
DATA: Final = _random.randbytes(6 * MIB + 321)
"""For S3 two parts, and more than one chunk of Dropbox."""
PATIENT: Final = 20
SMALL: Final = _random.randbytes(30_001)
OLD: Final = b"what was there before"
NEIGHBOUR: Final = "neighbour.tar.gz"
ON_THE_WAY: Final = frozenset({"destination-unreachable"})
remote = pytest.mark.parametrize("store_server", REMOTE, indirect=True)
each_driver = pytest.mark.parametrize("store_server", DRIVERS, indirect=True)
tls = pytest.mark.parametrize("store_server", TLS, indirect=True)


class _Quick(SystemClock):
    """A clock that waits only as long as a local server needs to write down what it got."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.05))


class Door:
    """The way to a place, on which things go wrong."""

    def __init__(self, place: Place, proxy: BreakingProxy) -> None:
        self.proxy = proxy
        self._participant = place.participant
        self._place = place

    def destination(self, **changes: Any) -> Destination:
        """Return settings that lead through it."""
        there = self._participant.elsewhere(self.proxy.address, self.proxy.port)
        return self._place.destination(**{**there, "timeout": 2.0, **changes})

    def freeze(self, *, on: bool = True) -> None:
        """Stop the server, or let it go on."""
        program = self._participant.program
        if program is not None:
            program.freeze(on=on)
        elif on:
            self.proxy.open_road.clear()
        else:
            self.proxy.open_road.set()

    def kill(self) -> None:
        """End the server at once."""
        if self._participant.program is not None:
            self._participant.program.kill()
        self.proxy.stop()

    def revive(self) -> None:
        """Start it again."""
        if self._participant.program is not None:
            self._participant.program.start()
            self._participant.revived()
        self.proxy.start()


@contextlib.contextmanager
def _door(place: Place, address: str = "127.0.0.2") -> Iterator[Door]:
    participant = place.participant
    with start_proxy("127.0.0.1", participant.port, participant.data_ports, address=address) as proxy:
        yield Door(place, proxy)


@pytest.fixture
def door(place: Place) -> Iterator[Door]:
    """Put the proxy before the server."""
    with _door(place) as door:
        yield door


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a file to store."""
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def neighbour(place: Place) -> Iterator[None]:
    """Put an object at another destination of the same server, and see in the end that nobody touched it."""
    name = f"{place.name}-neighbour"
    with open_store(place.participant.destination(name)) as store:
        store.put_bytes(NEIGHBOUR, SMALL)
    yield
    if not place.participant.forgets:
        assert place.participant.names(name) == {NEIGHBOUR}
        assert place.participant.content(name, NEIGHBOUR) == SMALL


def _fails(call: Callable[[], Any], *codes: str, retryable: bool) -> StoreError:
    """Return the error of a call that must have one of the codes, name its destination, and say what to do."""
    with pytest.raises(StoreError) as caught:
        call()
    error = caught.value
    assert error.code in codes, f"{error.code}: {error.message} ({error.hint})"
    assert error.retryable is retryable, error.message
    assert error.hint or error.code == "object-missing", error.message
    assert error.message.startswith("destination '") or KEY in error.message, error.message
    assert not any(mark in error.message for mark in ("Traceback", "object at 0x", "HTTPConnectionPool")), error.message
    return error


def _recovers(place: Place, source: Path, *, before: bytes | None = OLD) -> None:
    """See that nothing was harmed, and that the next put of the same file works and leaves only the object."""
    store = place.store
    assert [info.key for info in store.list()] == ([KEY] if before is not None else [])
    if before is not None:
        assert b"".join(store.get(KEY)) == before
    assert all(name == KEY or is_hidden(name) for name in place.names())
    store.put(KEY, source)
    assert b"".join(store.get(KEY)) == DATA
    assert place.content(KEY) == DATA
    assert _names(place) == {KEY}


def _put_again(store: Store, data: bytes) -> None:
    """Put something else under the same key, which never happens otherwise.

    The server may still be writing what had come before the connection was cut, into the same temporary file. Then it
    is said that the object is not what was sent, and that it can be sent again.
    """
    for _ in range(PATIENT):
        try:
            store.put_bytes(KEY, data)
        except StoreError as error:
            if (error.code, error.retryable) != ("destination-mismatch", True):
                raise
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the server does not come to rest")


def _names(place: Place) -> set[str]:
    """Return what is there, but for what the server itself leaves lying when it is killed."""
    litter = place.participant.litter
    return {name for name in place.names() if not litter or not name.startswith(litter)}


# ------------------------------------------------------------------------------------------------ on the way


@each_driver
def test_connections_that_are_reset_at_random_moments(place: Place, door: Door, source: Path, neighbour: None) -> None:
    """Whenever everything is cut, the put ends well or as unreachable, and the object is the old or the new one."""
    place.store.put_bytes(KEY, OLD)
    with open_store(door.destination(), clock=_Quick()) as store:
        store.put(KEY, source)
        whole = door.proxy.passed
        moments = sorted(random.Random(place.kind).randrange(whole) for _ in range(MOMENTS))
        for moment in moments:
            old = SMALL[: 1000 + moment % 1000]
            _put_again(place.store, old)
            door.proxy.drop_all()
            door.proxy.at = (door.proxy.passed + moment, door.proxy.drop_all)
            try:
                store.put(KEY, source)
            except StoreError as error:
                told = error
                assert (told.code, told.retryable) == ("destination-unreachable", True), (moment, told.message)
            door.proxy.at = None
            assert [info.key for info in place.store.list()] == [KEY], moment
            assert b"".join(place.store.get(KEY)) in {old, DATA}, moment
            assert all(name == KEY or is_hidden(name) for name in place.names()), moment
    _recovers(place, source, before=b"".join(place.store.get(KEY)))


@remote
def test_a_server_that_is_killed_in_the_middle(place: Place, door: Door, source: Path, neighbour: None) -> None:
    """The put ends as unreachable; once the server runs again the old object is there, and the next put works."""
    place.store.put_bytes(KEY, OLD)
    door.proxy.at = (3 * MIB, door.kill)
    try:
        with open_store(door.destination(), clock=_Quick()) as store:
            _fails(lambda: store.put(KEY, source), *ON_THE_WAY, retryable=True)
            _fails(lambda: store.stat(KEY), *ON_THE_WAY, retryable=True)
    finally:
        door.revive()
    place.store.close()
    _recovers(place, source, before=None if place.participant.forgets else OLD)


@each_driver
def test_a_server_that_is_frozen_in_the_middle(place: Place, door: Door, source: Path, neighbour: None) -> None:
    """Silence is unreachable after the timeout, in the middle of a put and for who comes then; later all works."""
    place.store.put_bytes(KEY, OLD)
    door.proxy.at = (3 * MIB, door.freeze)
    try:
        with open_store(door.destination(timeout=0.5), clock=_Quick()) as store:
            _fails(lambda: store.put(KEY, source), *ON_THE_WAY, retryable=True)
            error = _fails(lambda: store.stat(KEY), *ON_THE_WAY, retryable=True)
            assert "127.0.0.2" in error.message
    finally:
        door.freeze(on=False)
    # A server may hold on to what was being written for a moment, until it has seen that nobody is there any more.
    with open_store(place.destination(timeout=3.0), retry=RetryPolicy(attempts=6, delay=0.2)) as patient:
        _recovers(Place(place.kind, patient, place.participant, place.name), source)


@remote
def test_a_reading_that_is_frozen_or_cut(place: Place, door: Door, source: Path) -> None:
    """A get whose server falls silent, or that is reset, is unreachable, and does not end early in silence."""
    place.store.put(KEY, source)
    with open_store(door.destination(timeout=1.5), clock=_Quick()) as store:
        for fault in (door.proxy.drop_all, door.proxy.open_road.clear):
            reader = store.get(KEY)
            head = next(reader)
            fault()
            try:
                rest = b"".join(reader)
            except StoreError as error:
                fault_told = error
                assert (fault_told.code, fault_told.retryable) == ("destination-unreachable", True)
            else:  # it was there already (Azure brings the first megabytes at once), or was asked for again
                assert head + rest == DATA
            door.proxy.open_road.set()
    with open_store(door.destination(timeout=10.0), clock=_Quick()) as patient:
        assert b"".join(patient.get(KEY)) == DATA


@remote
def test_a_connection_that_was_dropped_while_idle_is_opened_again(place: Place, door: Door, source: Path) -> None:
    """Whoever calls next does not notice, whatever it asks for."""
    with open_store(door.destination(), clock=_Quick()) as store:
        store.put_bytes("first", OLD)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: store.put(KEY, source),
            lambda: store.stat(KEY),
            lambda: b"".join(store.get(KEY)),
            lambda: tuple(store.list()),
            lambda: store.put_bytes("other", OLD),
            lambda: store.delete(KEY),
        )
        for call in calls:
            door.proxy.drop_all()
            call()
    assert place.names() == {"first", "other"}


@remote
def test_with_retries_a_cut_is_not_noticed(place: Place, door: Door, source: Path) -> None:
    """A put that is cut counts every byte once and is whole; a get goes on where it was cut."""
    moved: list[int] = []
    with open_store(door.destination(), retry=RetryPolicy(attempts=4, delay=0.1), clock=_Quick()) as store:
        door.proxy.at = (3 * MIB, door.proxy.drop_all)
        store.put(KEY, source, moved.append)
        assert sum(moved) == len(DATA)
        assert place.content(KEY) == DATA
        reader = store.get(KEY)
        head = next(reader)
        door.proxy.drop_all()
        assert head + b"".join(reader) == DATA
    assert place.names() == {KEY}


@each_driver
def test_a_slow_line_is_no_fault(place: Place, door: Door) -> None:
    """As long as bytes come, however slowly, a get works that takes longer than the timeout; so does a small put."""
    door.proxy.drip = 20_000
    with open_store(door.destination(timeout=10.0), clock=_Quick()) as store:
        store.put_bytes(KEY, SMALL)
    assert place.content(KEY) == SMALL
    with open_store(door.destination(timeout=1.2), clock=_Quick()) as store:
        assert b"".join(store.get(KEY)) == SMALL


@remote
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Login</html>\r\n",
        b"SSH-1.99-something\r\n",
        b"\0" * 100,
        b"",
    ],
    ids=["a page", "a greeting", "zeros", "nothing"],
)
def test_somebody_else_answers(place: Place, answer: bytes) -> None:
    """What is no such server (a login page of a network, another port) is an error for every call, and never believed.

    The code cannot be foretold; what matters is that nothing counts as stored, there, or missing.
    """
    with _answering(answer) as port:
        settings = place.destination(**place.participant.elsewhere("127.0.0.1", port), timeout=1.0)
        calls: tuple[Callable[[Store], Any], ...] = (
            lambda store: store.put_bytes(KEY, OLD),
            lambda store: b"".join(store.get(KEY)),
            lambda store: store.stat(KEY),
            lambda store: list(store.list()),
        )
        for call in calls:
            with open_store(settings, clock=_Quick()) as store:
                if call is calls[1] and place.kind.startswith("webdav") and b"html" in answer:
                    continue  # of WebDAV any page is as good a file as another
                with pytest.raises(StoreError) as caught:
                    call(store)
            assert caught.value.code != "object-missing", caught.value.message
            assert caught.value.hint, caught.value.message
            assert "\0" not in caught.value.message


@contextlib.contextmanager
def _answering(answer: bytes) -> Iterator[int]:
    """Answer the first bytes of everybody with the same, and hang up; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    client.recv(65536)
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# ------------------------------------------------------------------------------------------------------ TLS


@tls
def test_a_certificate_with_a_wrong_name(place: Place) -> None:
    """A certificate that is good but for another address is destination-tls, and nothing is sent."""
    with _door(place, "127.0.0.3") as door, open_store(door.destination(), clock=_Quick()) as store:
        for call in (lambda: store.put_bytes(KEY, OLD), lambda: store.stat(KEY), lambda: list(store.list())):
            error = _fails(call, "destination-tls", retryable=False)
            assert "127.0.0.3" in error.message
    assert not place.made()


@tls
@pytest.mark.parametrize("content", ["", None, "no certificate"], ids=["nobody vouches", "no file", "no certificate"])
def test_a_certificate_that_nobody_vouches_for(place: Place, tmp_path: Path, content: str | None) -> None:
    """An unknown authority and a ca_file of no use are destination-tls with a hint at ca_file, and nothing is sent."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content, encoding="ascii")
    with open_store(place.destination(ca_file="" if content == "" else str(path)), clock=_Quick()) as store:
        for call in (lambda: store.put_bytes(KEY, OLD), lambda: store.stat(KEY)):
            error = _fails(call, "destination-tls", retryable=False)
            assert "ca_file" in error.hint
            assert content == "" or str(path) in error.message
    assert not place.made()


# ------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("hours", [-2, 2], ids=["behind", "ahead"])
@pytest.mark.parametrize("store_server", [kind for kind in REMOTE if kind.startswith("s3")], indirect=True)
def test_a_clock_that_is_wrong(place: Place, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """S3 refuses what was signed at another time: it is told that this is about the clock, not the key or rights."""
    real: Callable[..., datetime] = vars(botocore.auth)["get_current_datetime"]

    def shifted(*words: Any, **named: Any) -> datetime:
        return real(*words, **named) + timedelta(hours=hours)

    place.store.put_bytes(KEY, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", shifted)
        for call in (
            lambda: place.store.put_bytes(KEY, b"x"),
            lambda: place.store.stat(KEY),
            lambda: list(place.store.get(KEY)),
            lambda: list(place.store.list()),
        ):
            error = _fails(call, "destination-auth", retryable=False)
            assert "clock" in error.hint
    assert b"".join(place.store.get(KEY)) == OLD


# ------------------------------------------------------------------------------------------------ rights, room


def test_a_root_that_cannot_be_made(place: Place, source: Path) -> None:
    """A bucket that is not there, or a path that leads through a file, is told as such by a put, and named."""
    place.store.put_bytes("file", OLD)
    changes = place.participant.missing(place.name)
    with open_store(place.destination(**changes), clock=_Quick()) as store:
        calls: list[Callable[[], Any]] = [lambda: store.put(KEY, source), lambda: store.put_bytes(KEY, OLD)]
        if {"bucket", "container"} & set(changes):  # a folder that is not there is empty, a bucket is not
            calls += [lambda: next(store.get(KEY)), lambda: store.stat(KEY), lambda: list(store.list())]
        for call in calls:
            error = _fails(call, "destination-not-found", retryable=False)
            assert str(next(iter(changes.values()))) in error.message
    assert place.names() == {"file"}
    assert place.content("file") == OLD


def test_no_right_to_write(place: Place, source: Path, neighbour: None) -> None:
    """Without it put and delete are destination-denied, and what is there can be read and stays."""
    if "put" not in place.participant.takes:
        pytest.skip("this server knows no rights")
    place.store.put_bytes(KEY, OLD)
    place.store.close()
    with (
        place.participant.taken(place.name, "put") as changes,
        open_store(place.destination(**changes), clock=_Quick()) as store,
    ):
        for call in (
            lambda: store.put(KEY, source),
            lambda: store.put_bytes(KEY, b"x"),
            lambda: store.put_bytes("other", b"x"),
            lambda: store.delete(KEY),
        ):
            _denied(place, call)
        assert b"".join(store.get(KEY)) == OLD
        assert [info.key for info in store.list()] == [KEY]
    assert place.names() == {KEY}
    _recovers(place, source)


def test_no_right_to_list(place: Place, source: Path) -> None:
    """Without it a listing is destination-denied, and never empty: copies would count as lost."""
    if "list" not in place.participant.takes:
        pytest.skip("this server knows no such right")
    place.store.put_bytes(KEY, OLD)
    place.store.close()
    with (
        place.participant.taken(place.name, "list") as changes,
        open_store(place.destination(**changes), clock=_Quick()) as store,
    ):
        _denied(place, lambda: list(store.list()))
    _recovers(place, source)


def _denied(place: Place, call: Callable[[], Any]) -> None:
    codes = place.participant.says_denied
    with pytest.raises(StoreError) as caught:
        call()
    _fails(call, *codes, retryable=caught.value.code != "destination-denied")


@pytest.mark.parametrize("kind", FULL)
def test_a_full_disk(kind: str, tmp_path: Path, certificate: Certificate, source: Path) -> None:
    """No room is destination-full where the server says so; the old object stays, nothing else, and small ones fit."""
    with FULL[kind](tmp_path / "full", certificate) as participant:
        patience = {"timeout": 3.0} if participant.port else {}
        with open_store(participant.destination("test", **patience), clock=_Quick()) as store:
            _full(Place(kind, store, participant, "test"), source)


def test_a_quota_that_is_used_up(place: Place, source: Path, neighbour: None) -> None:
    """The same, where it is not a disk that is full."""
    if type(place.participant).limited is Participant.limited:
        pytest.skip("there is no quota, or it is the disk's: test_a_full_disk")
    place.store.put_bytes("first", SMALL)
    place.store.delete("first")
    with place.participant.limited(place.name, 2 * MIB):
        _full(place, source)
    _recovers(place, source)


def _full(place: Place, source: Path) -> None:
    store = place.store
    store.put_bytes(KEY, OLD)
    codes = place.participant.says_full
    with pytest.raises(StoreError) as caught:
        store.put(KEY, source)
    error = caught.value
    assert error.code in codes, f"{error.code}: {error.message}"
    assert error.retryable is (error.code != "destination-full")
    assert error.hint
    assert b"".join(store.get(KEY)) == OLD
    assert [info.key for info in store.list()] == [KEY]
    if "destination-unreachable" not in codes:
        assert place.names() == {KEY}
        store.put_bytes("small", SMALL)
        assert place.content("small") == SMALL
        store.delete("small")


# ------------------------------------------------------------------------------------------------ others are there


def test_a_listing_during_an_upload(place: Place, source: Path) -> None:
    """While an object is stored others see what was there, and not what is on its way."""
    if not place.participant.lists_while_writing:
        pytest.skip("this server waits for the end of the upload, and breaks its answer off")
    place.store.put_bytes("first", SMALL)
    seen: list[set[str]] = []

    def look(_: int) -> None:
        if len(seen) < 2:
            with open_store(place.destination()) as other:
                seen.append({info.key for info in other.list()})
                assert other.stat(KEY) is None

    place.store.put(KEY, source, look)
    assert seen
    assert all(names == {"first"} for names in seen)
    assert {info.key for info in place.store.list()} == {"first", KEY}


def test_an_object_that_somebody_else_changes(place: Place, source: Path) -> None:
    """What stands there now is told by stat, list and get, not what we put; what was deleted is missing."""
    place.store.put(KEY, source)
    place.plant({KEY: SMALL})
    info = place.store.stat(KEY)
    assert info is not None
    assert info.size == len(SMALL)
    assert [(item.key, item.size) for item in place.store.list()] == [(KEY, len(SMALL))]
    assert b"".join(place.store.get(KEY)) == SMALL
    with open_store(place.destination()) as other:
        other.delete(KEY)
    assert place.store.stat(KEY) is None
    _fails(lambda: list(place.store.get(KEY)), "object-missing", retryable=False)
    _recovers(place, source, before=None)


def test_an_object_that_becomes_shorter_while_it_is_read(place: Place, source: Path) -> None:
    """A reading of what somebody replaces ends with an error or with what was there, never early and well."""
    place.store.put(KEY, source)
    reader = place.store.get(KEY)
    got = next(reader)
    place.plant({KEY: SMALL})
    with contextlib.suppress(StoreError):
        got += b"".join(reader)
        assert len(got) == len(DATA)
    _recovers(place, source, before=SMALL)


def test_two_puts_of_one_name(place: Place, source: Path, tmp_path: Path) -> None:
    """Where another put of the name comes in between, one of the two is there, whole, and nothing else."""
    place.store.put_bytes(KEY, OLD)
    done: list[int] = []

    def meddle(_: int) -> None:
        if not done:
            done.append(1)
            with open_store(place.destination()) as other, contextlib.suppress(StoreError):
                other.put_bytes(KEY, SMALL)

    with contextlib.suppress(StoreError):
        place.store.put(KEY, source, meddle)
    assert done
    assert b"".join(place.store.get(KEY)) in {SMALL, DATA}
    _recovers(place, source, before=b"".join(place.store.get(KEY)))


def test_names_with_spaces_and_korean_letters(place: Place, source: Path) -> None:
    """A root of such names works like any other, and so do foreign objects of such names in it."""
    name = f"급여 백업 {place.name} #1 100%"
    with open_store(place.participant.destination(name)) as store:
        strange = Place(place.kind, store, place.participant, name)
        store.put_bytes(KEY, OLD)
        strange.plant({"나눔 페이 (1).txt": b"345"})
        assert {info.key: info.size for info in store.list()} == {KEY: len(OLD), "나눔 페이 (1).txt": 3}
        assert b"".join(store.get(KEY)) == OLD
        store.delete(KEY)
        assert strange.names() == {"나눔 페이 (1).txt"}


def test_a_destination_that_fails_harms_no_other(place: Place, tmp_path: Path, source: Path) -> None:
    """What one place does with a file that several are sent leaves the others' as it should be."""
    other = LocalDestination(name="other", path=str(tmp_path / "other"))
    changes = place.participant.missing(place.name)
    place.store.put_bytes("file", OLD)
    with open_store(other) as good, open_store(place.destination(**changes), clock=_Quick()) as bad:
        with pytest.raises(StoreError):
            bad.put(KEY, source)
        good.put(KEY, source)
        assert (tmp_path / "other" / KEY).read_bytes() == DATA
    assert source.read_bytes() == DATA


def test_every_kind_has_a_fault_of_room() -> None:
    """A new kind of store joins the tests of full places, or says why not."""
    endless = {"gcs", "gcs-https", "azure", "azure-https", "dropbox-real"}  # their providers sell any room
    endless |= {"restic-s3"}  # it is the bucket's there
    endless |= {"s3-swift"}  # its quotas are set by its own interface, which wants memcached
    quota = {"s3-ceph", "dropbox", "dropbox-https"}
    assert set(PARTICIPANTS) - set(FULL) <= endless | quota
