"""The throttling wrapper: never quicker than its rate, never slower than it must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import CancelledError
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.stores.base import ObjectInfo, Progress, Properties, PutResult, Store, part_name
from nanumpay_backupd.stores.local import LocalStore
from nanumpay_backupd.stores.throttled import ThrottledStore
from tests.workbench import SetClock

KEY: Final = "object"
rates = st.integers(1, 10_000)
# How long the other side takes for each chunk, and the chunk's size.
transfers = st.lists(st.tuples(st.floats(0, 30, allow_nan=False), st.integers(0, 50_000)), min_size=1, max_size=30)


class _Slow(Store):
    """Gives and takes chunks after as many seconds as it is told."""

    name = "slow"
    properties = Properties(proves_content=True)

    def __init__(self, clock: SetClock, chunks: list[tuple[float, int]]) -> None:
        self.clock = clock
        self.chunks = chunks
        self.closed = False
        self.moved: list[tuple[float, int]] = []

    def _each(self) -> Iterator[int]:
        for seconds, size in self.chunks:
            self.clock.sleep(seconds)
            yield size

    def put(self, key: str, path: Path, progress: Progress | None = None) -> PutResult:
        assert progress is not None
        for size in self._each():
            progress(size)
            self.moved.append((self.clock.monotonic(), size))
        return PutResult(size=sum(size for _, size in self.chunks), proven=True)

    def put_bytes(self, key: str, data: bytes) -> PutResult:
        self.moved.append((self.clock.monotonic(), len(data)))
        return PutResult(size=len(data), proven=True)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        for size in self._each():
            yield bytes(size)

    def stat(self, key: str) -> ObjectInfo | None:
        return ObjectInfo(key=key, size=1)

    def list(self) -> Iterator[ObjectInfo]:
        yield ObjectInfo(key=KEY, size=1)

    def delete(self, key: str) -> None:
        self.chunks = []

    def close(self) -> None:
        self.closed = True


def got(store: Store, clock: SetClock) -> list[tuple[float, int]]:
    """Read the object; returns when each chunk came, and its size."""
    return [(clock.monotonic(), len(chunk)) for chunk in store.get(KEY)]


def limits_hold(moved: list[tuple[float, int]], rate: int, chunks: list[tuple[float, int]]) -> None:
    """Check both promises on what moved when."""
    total = 0
    for when, size in moved:
        total += size
        assert total <= rate * when + 1e-6 * total
    # A stretch in the middle: what was saved up while idle is one second's worth at most.
    for first in range(len(moved)):
        stretch = sum(size for _, size in moved[first + 1 :])
        assert stretch <= rate * (moved[-1][0] - moved[first][0] + 1.0) * (1 + 1e-6) + 1e-6
    assert total == sum(size for _, size in chunks)
    assert moved[-1][0] <= sum(seconds for seconds, _ in chunks) + total / rate + 1e-6


@given(transfers, rates)
def test_a_get_keeps_to_the_rate_and_wastes_no_time(chunks: list[tuple[float, int]], rate: int) -> None:
    """However the chunks come: not more than the rate since the start or in any stretch, and no needless wait."""
    clock = SetClock()
    moved = got(ThrottledStore(_Slow(clock, chunks), rate, clock=clock), clock)
    limits_hold(moved, rate, chunks)


@given(transfers, rates, st.booleans())
def test_a_put_keeps_to_the_rate_and_wastes_no_time(
    chunks: list[tuple[float, int]], rate: int, wants_progress: bool
) -> None:
    """The same for what goes out, whether somebody wants to hear of the progress or not."""
    clock = SetClock()
    inner = _Slow(clock, chunks)
    heard: list[int] = []
    store = ThrottledStore(inner, rate, clock=clock)
    result = store.put(KEY, Path("file"), heard.append if wants_progress else None)
    assert result == PutResult(size=sum(size for _, size in chunks), proven=True)
    assert heard == ([size for _, size in chunks] if wants_progress else [])
    limits_hold(inner.moved, rate, chunks)


def test_all_transfers_of_a_store_share_its_rate() -> None:
    """Two objects one after the other take as long as one of both their sizes; small ones count as well."""
    clock = SetClock()
    store = ThrottledStore(_Slow(clock, [(0.0, 500)]), 100.0, clock=clock)
    got(store, clock)
    store.put_bytes(KEY, bytes(300))
    store.put(KEY, Path("file"))
    assert clock.slept == pytest.approx(13.0)


def test_what_an_earlier_try_left_costs_nothing(tmp_path: Path) -> None:
    """Bytes that are there already are told as moved, but only those that are sent are waited for."""
    clock = SetClock()
    path, folder = tmp_path / "file", tmp_path / "folder"
    path.write_bytes(bytes(5 << 20))
    folder.mkdir(mode=0o700)
    left = folder / part_name(KEY)
    left.write_bytes(bytes(3 << 20))
    left.chmod(0o640)
    heard: list[int] = []
    with ThrottledStore(LocalStore(LocalDestination(name="disk", path=str(folder))), 1 << 20, clock=clock) as store:
        assert store.put(KEY, path, heard.append).resumed == 3 << 20
    assert sum(heard) == 5 << 20
    assert clock.slept == pytest.approx(2.0)


def test_cancelled_while_waiting() -> None:
    """Who cancels does not wait for a slow rate."""
    clock = SetClock()
    store = ThrottledStore(_Slow(clock, [(0.0, 1000)]), 1.0, clock=clock, cancelled=lambda: clock.monotonic() >= 5.0)
    with pytest.raises(CancelledError):
        got(store, clock)
    assert 5.0 <= clock.slept <= 6.0


def test_it_looks_like_the_store_inside() -> None:
    """Name, properties and all that moves no content are those of the store inside, at once."""
    clock = SetClock()
    inner = _Slow(clock, [])
    with ThrottledStore(inner, 1.0, clock=clock) as store:
        assert (store.name, store.properties) == ("slow", inner.properties)
        assert store.stat(KEY) == ObjectInfo(key=KEY, size=1)
        assert list(store.list()) == [ObjectInfo(key=KEY, size=1)]
        store.delete(KEY)
    assert inner.closed
    assert clock.slept == 0.0
