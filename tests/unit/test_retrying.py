"""The retrying wrapper, with a store that fails on order and a clock that only counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import CancelledError, StoreError
from nanumpay_backupd.settings.schema import RetryPolicy
from nanumpay_backupd.stores.base import ObjectInfo, Progress, Properties, PutResult, Store, store_error
from nanumpay_backupd.stores.retrying import LONGEST_DELAY, RetryingStore, backoff

KEY: Final = "object"
DATA: Final = b"0123456789"


class _Clock:
    """Counts the seconds it is asked to sleep."""

    def __init__(self) -> None:
        self.slept = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 21, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.slept

    def uptime(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += seconds


class _Faulty(Store):
    """Fails as often as there are faults in ``faults``; a get or put breaks in the middle."""

    name = "faulty"
    properties = Properties(proves_content=True)

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls: list[str] = []
        self.closed = 0

    def _call(self, text: str) -> None:
        self.calls.append(text)
        if self.faults:
            raise self.faults.pop(0)

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        if progress is not None:
            progress(6)
        self._call(f"put {key}")
        if progress is not None:
            progress(4)
        return PutResult(size=10, proven=True)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        self._call(f"put_bytes {key}")
        return PutResult(size=len(data), proven=True)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        if offset < 4:
            yield DATA[offset:4]
        self._call(f"get {offset}")
        yield DATA[max(offset, 4) :]

    def stat(self, key: str) -> ObjectInfo | None:
        self._call(f"stat {key}")
        return ObjectInfo(key=key, size=10)

    def list(self) -> Iterator[ObjectInfo]:
        yield ObjectInfo(key="first", size=1)
        self._call("list")
        yield ObjectInfo(key="second", size=2)

    def delete(self, key: str) -> None:
        self._call(f"delete {key}")

    def close(self) -> None:
        self.closed += 1


CALLS: Final[dict[str, Callable[[Store], Any]]] = {
    "put": lambda store: store.put(KEY, Path("file")),
    "put_bytes": lambda store: store.put_bytes(KEY, DATA),
    "get": lambda store: b"".join(store.get(KEY, 4)),
    "stat": lambda store: store.stat(KEY),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete(KEY),
}


def _away() -> StoreError:
    return store_error("destination-unreachable", "nobody answers")


@pytest.mark.parametrize("call", CALLS)
def test_what_may_pass_is_tried_again(call: str) -> None:
    """Every method is repeated after retryable errors, gives what the store gives, and says so before each wait."""
    clock, said = _Clock(), list[str]()
    inner = _Faulty(_away(), _away())
    store = RetryingStore(inner, RetryPolicy(attempts=3, delay=60.0), clock=clock, on_retry=said.append)
    assert CALLS[call](store) == CALLS[call](_Faulty())
    assert len(inner.calls) == 3
    assert 180 * 0.9 <= clock.slept <= 180 * 1.1
    assert len(said) == 2
    assert "nobody answers" in said[0]
    assert "faulty" in said[0]
    assert "attempt 2 of 3" in said[0]
    assert "attempt 3 of 3" in said[1]


@pytest.mark.parametrize("call", CALLS)
def test_attempts_are_counted(call: str) -> None:
    """After the last attempt the store's own error comes out, and there is no wait behind it."""
    clock = _Clock()
    inner = _Faulty(*(_away() for _ in range(9)))
    store = RetryingStore(inner, RetryPolicy(attempts=3, delay=60.0), clock=clock)
    with pytest.raises(StoreError) as caught:
        CALLS[call](store)
    assert caught.value.code == "destination-unreachable"
    assert len(inner.calls) == 3
    assert clock.slept <= 180 * 1.1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "error",
    [store_error("destination-auth", "wrong password"), CancelledError("stopped"), ZeroDivisionError()],
    ids=["refused", "cancelled", "defect"],
)
def test_other_errors_pass_at_once(call: str, error: Exception) -> None:
    """What cannot pass, and what is not an error of the store, is not tried again."""
    clock, inner = _Clock(), _Faulty(error)
    with pytest.raises(type(error)):
        CALLS[call](RetryingStore(inner, RetryPolicy(attempts=3, delay=60.0), clock=clock))
    assert len(inner.calls) == 1
    assert clock.slept == 0.0


def test_progress_counts_no_byte_twice() -> None:
    """What a further attempt moves again is not reported again; the callback is still asked, so that it can stop."""
    moved: list[int] = []
    store = RetryingStore(_Faulty(_away(), _away()), RetryPolicy(attempts=3, delay=1.0), clock=_Clock())
    store.put(KEY, Path("file"), moved.append)
    assert moved == [6, 0, 0, 4]


def test_get_goes_on_where_it_stopped() -> None:
    """Chunks that arrived are not asked for again, and each chunk gives the next fault all its attempts."""
    inner = _Faulty(*(_away() for _ in range(2)))
    store = RetryingStore(inner, RetryPolicy(attempts=3, delay=1.0), clock=_Clock())
    assert b"".join(store.get(KEY)) == DATA
    assert inner.calls == ["get 0", "get 4", "get 4"]


def test_list_gives_nothing_twice() -> None:
    """An object that was listed before a fault is not listed again after it."""
    store = RetryingStore(_Faulty(_away()), RetryPolicy(attempts=2, delay=1.0), clock=_Clock())
    assert [info.key for info in store.list()] == ["first", "second"]


def test_cancelled_while_waiting() -> None:
    """Who cancels during a wait does not wait to its end, and gets CancelledError."""
    clock = _Clock()
    inner = _Faulty(_away())
    store = RetryingStore(
        inner, RetryPolicy(attempts=3, delay=600.0), clock=clock, cancelled=lambda: clock.slept >= 5.0
    )
    with pytest.raises(CancelledError):
        store.stat(KEY)
    assert 5.0 <= clock.slept <= 6.0
    assert len(inner.calls) == 1


def test_it_looks_like_the_store_inside() -> None:
    """Name and properties are those of the store inside, and closing closes it."""
    inner = _Faulty()
    with RetryingStore(inner, RetryPolicy()) as store:
        assert (store.name, store.properties) == ("faulty", inner.properties)
    assert inner.closed == 1


@pytest.mark.parametrize(
    "failures,seconds", [(1, 60.0), (2, 120.0), (3, 240.0), (6, 1920.0), (7, 3600.0), (5000, 3600.0)]
)
def test_the_delay_doubles_up_to_an_hour(failures: int, seconds: float) -> None:
    """60 s, 120 s, 240 s and so on, but never more than an hour."""
    assert backoff(60.0, failures) == seconds


@given(delay=st.floats(0, 1e6), failures=st.integers(1, 10_000), spread=st.floats(-1, 1))
def test_spread_moves_the_delay_by_a_tenth_at_most(delay: float, failures: int, spread: float) -> None:
    """Whatever the chance, a delay is within a tenth of the planned one, and so of an hour."""
    planned = backoff(delay, failures)
    assert planned <= LONGEST_DELAY
    assert planned * 0.9 <= backoff(delay, failures, spread) + 1e-9
    assert backoff(delay, failures, spread) <= planned * 1.1 + 1e-9
