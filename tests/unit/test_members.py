"""The one reader of archive members: what it hands out, what it refuses, and what it calls damaged."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.pipeline.members import UNREADABLE, Pump, inflater, members
from nanumpay_backupd.pipeline.unpack import look_through, unpack
from tests.workbench import archive_bytes

_PROMISE = "What is damaged or made to harm is refused, and nothing is written outside of its place."

BLOCK: Final = 512
FILES: Final = {"old/nanumpay/users.bson": b"u" * 700, "old/nanumpay/notes.txt": b"n" * 512, "old/empty": b""}


def read(chunks: Iterator[bytes], compression: str = "none", root: str | None = None) -> dict[str, bytes]:
    """Read an archive to its end; returns its files."""
    plain = Pump(chunks, inflater(compression, "a.tar"))
    try:
        return {path: b"".join(pieces) for path, _, pieces in members(plain, "a.tar", root)}
    finally:
        plain.close()


def tar(*infos: tuple[tarfile.TarInfo, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002
    """Return an archive of these members."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=format) as archive:
        for info, content in infos:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return plain.getvalue()


@given(
    st.dictionaries(st.from_regex(r"[a-z%]{1,150}", fullmatch=True), st.binary(max_size=3000), max_size=5),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 5000),
    st.booleans(),
)
def test_files_come_out_as_they_went_in(files: dict[str, bytes], kind: int, size: int, compressed: bool) -> None:
    """Whatever the names, the tar's kind and the size of the chunks; also where not all content is taken."""
    data = tar(*((tarfile.TarInfo(f"old/{name}"), content) for name, content in files.items()), format=kind)
    if compressed:
        data = b"".join(zlib.compress(data[at : at + 1500], 6, 31) for at in range(0, len(data), 1500))
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    compression = "gzip" if compressed else "none"
    assert read(iter(chunks), compression) == {f"old/{name}": content for name, content in files.items()}
    plain = Pump(iter(chunks), inflater(compression, "a.tar"))
    passed = [(path, size, next(pieces, b"")[:1]) for path, size, pieces in members(plain, "a.tar", "old")]
    plain.close()
    assert passed == [(f"old/{name}", len(content), content[:1]) for name, content in files.items()]


def test_names_are_told_without_detours() -> None:
    """``./`` in front, as tar writes it for a folder's content, and doubled slashes mean nothing."""
    data = tar((tarfile.TarInfo("./old//nanumpay/./users.bson"), b"1"))
    assert read(iter([data])) == {"old/nanumpay/users.bson": b"1"}


@pytest.mark.promise(_PROMISE, item=8)
@pytest.mark.parametrize("root", [None, "old"])
def test_a_file_that_is_there_twice_is_refused(root: str | None) -> None:
    """Of two files with one name, one would be proven and the other restored."""
    data = tar((tarfile.TarInfo("old/users.bson"), b"1"), (tarfile.TarInfo("old//users.bson"), b"2"))
    with pytest.raises(VerifyError, match=r"a\.tar holds 'old/users\.bson' twice"):
        read(iter([data]), root=root)


@pytest.mark.promise(_PROMISE, item=8)
@pytest.mark.parametrize("name", ["/old/x", "old/../../x", "..", "other/x", "old"])
def test_a_member_outside_is_refused(name: str) -> None:
    """Absolute, climbing or foreign paths, and a file in the place of the folder itself."""
    with pytest.raises(VerifyError, match="outside its folder"):
        read(iter([tar((tarfile.TarInfo(name), b""))]), root="old")


@pytest.mark.promise(_PROMISE, item=8)
def test_a_sparse_file_is_refused() -> None:
    """Its content is not stored as it is; nothing that makes our archives writes one."""
    info = tarfile.TarInfo("old/users.bson")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(VerifyError, match="no plain file"):
        read(iter([tar((info, b""))]))


def damaged_archives() -> Iterator[tuple[str, bytes]]:
    """Give archives of the old program's kind that a lenient reader would take for whole."""
    data = archive_bytes("old", FILES, suffix=".tar")
    # Folder, header and two blocks of the first file; the next header follows.
    second = 4 * BLOCK
    assert data[second:].startswith(b"old/nanumpay/notes.txt")
    yield "header in the middle", data[:second] + b"X" + data[second + 1 :]
    yield "cut off between two members", data[:second]
    yield "cut off in a member", data[: second - 100]
    yield "cut off in a header", data[: second + 100]
    yield "cut off before the end mark", data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % BLOCK)
    yield "empty", b""


@pytest.mark.parametrize("damage, data", list(damaged_archives()))
def test_an_archive_without_manifest_is_not_whole_because_its_beginning_is(
    tmp_path: Path, damage: str, data: bytes
) -> None:
    """To tarfile nonsense in a header, or a missing end, is the end: a restore would restore half."""
    path = tmp_path / "nanumpay-backup-2026-11-21T02-00-00.tar"
    path.write_bytes(data)
    with pytest.raises(VerifyError) as caught:
        look_through(path, lambda _: None, lambda _: None)
    assert caught.value.code == "verify-structure"
    with pytest.raises(VerifyError):
        unpack(path, tmp_path / "out", lambda name: name, lambda _: None)


@pytest.mark.promise(_PROMISE, item=8)
@given(st.integers(0, 4 * BLOCK - 1), st.binary(min_size=1, max_size=600))
def test_nonsense_in_headers_is_a_fault_that_is_known(where: int, garbage: bytes) -> None:
    """Whatever stands in a header, the reader ends, with what `UNREADABLE` names or VerifyError and nothing else."""
    data = archive_bytes("old", FILES, suffix=".tar")
    damaged = data[:where] + garbage + data[where + len(garbage) :]
    with contextlib.suppress(VerifyError, *UNREADABLE):
        read(iter([damaged]))


@pytest.mark.promise(_PROMISE, item=8)
def test_a_header_that_claims_gigabytes_is_not_believed() -> None:
    """A name of three gigabytes is not read into memory."""
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    with pytest.raises(ValueError, match="a header claims"):
        read(iter([info.tobuf(tarfile.GNU_FORMAT), *([bytes(1 << 20)] * 3)]))


def test_a_reader_that_goes_away_leaves_no_thread_and_closes_the_source() -> None:
    """Also while the source has more than fits into the queue."""
    closed = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.append(True)

    plain = Pump(endless(), None)
    assert plain.read(10) == bytes(10)
    plain.close()
    plain.close()
    assert closed == [True]
