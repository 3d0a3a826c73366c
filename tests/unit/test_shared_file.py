"""One file for several readers: each gets its bytes whatever the others do, and those in step share a reading."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanumpay_backupd.system.shared_file import SharedFile, pread

MIB = 1 << 20


def made(folder: Path, size: int) -> tuple[Path, bytes]:
    """Write a file of random bytes."""
    data = random.Random(size).randbytes(size)
    path = folder / f"{size}.bin"
    path.write_bytes(data)
    return path, data


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 5 * MIB), st.integers(0, 2 * MIB)), max_size=15),
    window=st.sampled_from([MIB, 2 * MIB, 64 * MIB]),
)
def test_any_place_reads_as_the_file(places: list[tuple[int, int]], window: int, tmp_path: Path) -> None:
    """Bytes from any place, in any order and with any window, are those of the file, to its end."""
    path, data = made(tmp_path, 4 * MIB + 12345)
    shared = SharedFile.of(path, window)
    with shared.open("rb") as stream:
        for offset, length in places:
            assert pread(shared, stream.fileno(), length, offset) == data[offset : offset + length]
            stream.seek(offset)
            assert stream.read(length) == data[offset : offset + length]
        stream.seek(-5, os.SEEK_END)
        assert (stream.read(), stream.read(10), stream.tell()) == (data[-5:], b"", len(data))


def test_who_keeps_step_shares_one_reading(tmp_path: Path) -> None:
    """Four readers at once get the whole file each, and it is read once."""
    path, data = made(tmp_path, 9 * MIB + 1)
    shared, found, barrier = SharedFile.of(path), [b""] * 4, threading.Barrier(4)

    def read(number: int) -> None:
        barrier.wait()
        with shared.open("rb") as stream:
            found[number] = b"".join(iter(lambda: stream.read(100_000 * (number + 1)), b""))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == data for one in found)
    assert shared.taken == len(data)


def test_who_is_too_far_behind_reads_by_itself_and_holds_nothing(tmp_path: Path) -> None:
    """One reader stands still: the other goes on to the end, what is kept stays small, and the first gets it all."""
    path, data = made(tmp_path, 8 * MIB)
    shared = SharedFile.of(path, 2 * MIB)
    with shared.open("rb") as slow, shared.open("rb") as fast:
        assert slow.read(10) == data[:10]
        assert fast.read() == data
        kept = shared._window
        assert kept is not None
        assert sum(map(len, kept._blocks.values())) <= 2 * MIB
        before = shared.taken
        assert slow.read() == data[10:]
        # Of eight blocks the last two were kept.
        assert shared.taken - before == 6 * MIB - 10


def test_a_file_that_became_shorter_ends_early(tmp_path: Path) -> None:
    """Bytes that are not there any more are not made up: a reader sees the end."""
    path, data = made(tmp_path, 3 * MIB)
    shared = SharedFile.of(path)
    with shared.open("rb") as stream:
        assert stream.read(MIB) == data[:MIB]
        os.truncate(path, MIB + 7)
        assert stream.read() == data[MIB : MIB + 7]


def test_a_path_made_of_it_is_an_ordinary_one(tmp_path: Path) -> None:
    """Its folder and its neighbours share nothing, and other modes are the system's."""
    path, data = made(tmp_path, 100)
    shared = SharedFile.of(path)
    again = shared.parent / shared.name
    with again.open("rb") as stream:
        assert stream.read() == data
    assert shared.read_bytes() == data
    with shared.open("ab") as stream:
        stream.write(b"x")
    assert path.stat().st_size == 101
