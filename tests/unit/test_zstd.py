"""Compressing into one file and reading it back: what is read is what was written, or the fault is named."""

from __future__ import annotations

import hashlib
import io
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.transforms.zstd import Written, ZstdWriter, read_zstd
from tests.servers.tools import find_tool


def write(path: Path, pieces: list[bytes]) -> Written:
    """Write the pieces into a new file."""
    with ZstdWriter(path) as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.finish()


def frame(data: bytes) -> bytes:
    """Return one frame as `ZstdWriter` makes it."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut at these places."""
    return [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]


def test_what_was_written_is_read_back_and_told_of(tmp_path: Path) -> None:
    """Size, checksum and raw bytes are those of the file, and ``zstd`` finds it whole."""
    path = tmp_path / "slice.bson.zst"
    pieces = [b"x" * 100_000, b"", bytes(range(256)) * 4000, b"end"]
    written = write(path, pieces)
    content = path.read_bytes()
    assert written == Written(
        size=len(content), sha256=hashlib.sha256(content).hexdigest(), raw_bytes=sum(map(len, pieces))
    )
    assert b"".join(read_zstd(path)) == b"".join(pieces)
    assert zstandard.get_frame_parameters(content).has_checksum
    shown = subprocess.run([find_tool("zstd"), "-dc", path], check=True, capture_output=True).stdout
    assert shown == b"".join(pieces)


def test_nothing_written_is_a_whole_file_all_the_same(tmp_path: Path) -> None:
    """An empty stream has its frame, and reads as nothing."""
    written = write(tmp_path / "empty.zst", [])
    assert written.size > 0
    assert list(read_zstd(tmp_path / "empty.zst")) == []


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """A name that is taken is an error, not a loss."""
    (tmp_path / "kept.zst").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        ZstdWriter(tmp_path / "kept.zst")
    assert (tmp_path / "kept.zst").read_bytes() == b"kept"


@given(st.lists(st.binary(max_size=3000), max_size=4), st.data())
def test_frames_one_after_the_other_cut_anywhere_are_one_stream(contents: list[bytes], data: st.DataObject) -> None:
    """Joined files are read as one, wherever the pieces end that they are given in."""
    joined = b"".join(map(frame, [b"", *contents]))
    cuts = data.draw(st.lists(st.integers(0, len(joined)), max_size=6))
    assert b"".join(read_zstd(cut(joined, cuts))) == b"".join(contents)
    assert b"".join(read_zstd(io.BytesIO(joined))) == b"".join(contents)


@given(st.binary(min_size=1, max_size=3000), st.data())
def test_a_frame_that_is_cut_off_is_damaged(content: bytes, data: st.DataObject) -> None:
    """A file that ends inside a frame, the first or a later one, never passes for a whole one."""
    one, other = frame(b"before"), frame(content)
    length = data.draw(st.integers(1, len(other) - 1))
    for short in (other[:length], one + other[:length]):
        with pytest.raises(VerifyError, match=r"slice.zst cannot be decompressed") as caught:
            list(read_zstd([short], "slice.zst"))
        assert caught.value.code == "verify-structure"
        assert caught.value.hint


@given(st.data())
def test_a_flipped_bit_is_found(data: st.DataObject) -> None:
    """Whatever bit of the content is turned over: the frame's checksum or its structure tells."""
    content = bytes(range(256)) * 20
    whole = bytearray(frame(content))
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[at // 8] ^= 1 << at % 8
    try:
        found = b"".join(read_zstd([bytes(whole)], "slice.zst"))
    except VerifyError:
        return
    # Two bits of the header mean nothing (RFC 8878, 3.1.1.1.1.3): turning them over changes nothing.
    assert found == content


@pytest.mark.parametrize("content", [b"", b"mongodump: error\n"], ids=["empty", "text"])
def test_what_is_no_frame_is_damaged(content: bytes) -> None:
    """An empty file and other data are named, not taken for an empty stream."""
    with pytest.raises(VerifyError, match="cannot be decompressed"):
        list(read_zstd([content]))


def test_something_behind_a_frame_is_damaged() -> None:
    """What follows a frame must be another one."""
    with pytest.raises(VerifyError):
        list(read_zstd([frame(b"content") + b"rubbish"]))


def test_a_stream_that_expands_a_thousandfold_comes_in_moderate_pieces() -> None:
    """Zeros, as they compress best, are not unfolded in one go."""
    pieces = list(read_zstd([frame(bytes(64 << 20))]))
    assert sum(map(len, pieces)) == 64 << 20
    assert max(map(len, pieces)) <= 16 << 20
