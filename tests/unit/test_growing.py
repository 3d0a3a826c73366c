"""The archive that grows behind its writer: what stock tools read from it, what it leaves on the disk, how it fails."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd.system.files import allocated_bytes
from nanumpay_backupd.transforms.codec import Codec, gzip_codec, stored_codec
from nanumpay_backupd.transforms.growing import BLOCK, ArchiveResult, GrowingArchive
from tests.workbench import small_disk

NAME: Final = "nanumpay-backup-2026-11-21T02-00-00"
MTIME: Final = 1_795_226_400.25
_PATTERN: Final = random.Random(7).randbytes(1 << 20)
_WORDS: Final = ("지급 계획 2026년 3월 " * 4000).encode()


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes of which half compress well and half not at all."""
    start = seed * 4097 % 65536
    pieces: list[bytes] = []
    have = 0
    while have < size:
        piece = _PATTERN[start : start + 40_000] + _WORDS[start : start + 40_000]
        pieces.append(piece)
        have += len(piece)
        start = (start + 8191) % 65536
    return b"".join(pieces)[:size]


class Bench:
    """A folder that is written and an archive that follows it."""

    def __init__(self, root: Path, codec: Codec, *, punch: bool = True) -> None:
        self.folder, self.parts = root / "dump", root / "parts"
        self.folder.mkdir(parents=True)
        self.parts.mkdir()
        self.output = root / f"{NAME}{codec.suffix}"
        self.archive = GrowingArchive(self.folder, self.parts, name=NAME, codec=codec, mtime=MTIME, punch=punch)

    def write(self, path: str, data: bytes) -> None:
        """Append to a file of the folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab", buffering=0) as stream:
            stream.write(data)

    def drain(self) -> None:
        """Step until nothing is left to do before the writer goes on."""
        while self.archive.step() or self.archive.backlog:
            pass

    def finish(self) -> ArchiveResult:
        """Put the archive together."""
        return self.archive.finish(self.output)


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[list[Bench]]:
    """Close what a test opened, whatever happened."""
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.archive.close()


def bench(made: list[Bench], root: Path, codec: Codec | None = None, *, punch: bool = True) -> Bench:
    """Make a bench that is closed after the test."""
    made.append(Bench(root, codec or gzip_codec(2), punch=punch))
    return made[-1]


def read_by_python(artifact: Path) -> dict[str, bytes]:
    """Return what Python's tarfile finds, by path inside the backup's folder."""
    found = {}
    with tarfile.open(artifact) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                found[member.name.removeprefix(f"{NAME}/")] = stream.read()
    return found


def read_by_tar(artifact: Path, folder: Path) -> dict[str, bytes]:
    """Return what GNU tar unpacks, as an operator calls it."""
    folder.mkdir()
    flag = "-xzf" if artifact.suffix == ".gz" else "-xf"
    done = subprocess.run(["tar", flag, artifact, "-C", folder], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    root = folder / NAME
    assert {path.name for path in folder.iterdir()} == {NAME}
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


EVERY_SIZE: Final = {
    f"nanumpay/{size}.bson": size
    for size in (0, 1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 512, 3 * BLOCK - 7)
}


@pytest.mark.parametrize("punch", [True, False], ids=["holes", "no-holes"])
@pytest.mark.parametrize("codec", [gzip_codec(2), stored_codec()], ids=["tar.gz", "tar"])
def test_files_of_every_size_read_back_the_same(
    benches: list[Bench], tmp_path: Path, codec: Codec, punch: bool
) -> None:
    """Sizes around tar's and our own block read back byte for byte with GNU tar, gunzip and Python."""
    files = {path: content(size, at) for at, (path, size) in enumerate(EVERY_SIZE.items())}
    one = bench(benches, tmp_path / "work", codec, punch=punch)

    def write() -> None:
        """Append to all files in turn, in odd pieces, as several collections are dumped at once."""
        pick = random.Random(3)
        left = {path: memoryview(data) for path, data in files.items()}
        for path in files:
            one.write(path, b"")
        while left:
            path = pick.choice(sorted(left))
            size = pick.choice((1, 4096, 8191, 65_536, 300_001, 1_000_000))
            one.write(path, bytes(left[path][:size]))
            left[path] = left[path][size:]
            if not left[path]:
                del left[path]

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        if not one.archive.step():
            writer.join(0.002)
    result = one.finish()

    assert result.files == {path: len(data) for path, data in files.items()} == one.archive.sizes()
    assert result.raw_bytes == sum(EVERY_SIZE.values()) == one.archive.written
    assert result.size == one.output.stat().st_size
    assert result.sha256 == subprocess.check_output(["sha256sum", one.output], text=True).split()[0]
    if codec.name == "gzip":
        subprocess.run(["gunzip", "-t", one.output], check=True)
    assert read_by_tar(one.output, tmp_path / "tar") == files
    assert read_by_python(one.output) == files


@pytest.mark.parametrize("level", range(10))
def test_every_level_is_gzip_that_everybody_reads(benches: list[Bench], tmp_path: Path, level: int) -> None:
    """Levels 0 to 9 of the host file all make archives with the same content; the codec says which it was."""
    codec = gzip_codec(level)
    assert (codec.name, codec.level, codec.suffix) == ("gzip", level, ".tar.gz")
    files = {"nanumpay/users.bson": content(BLOCK + 12_345, level), "nanumpay/users.metadata.json": b'{"indexes":[]}'}
    one = bench(benches, tmp_path, codec)
    for path, data in files.items():
        one.write(path, data)
        one.archive.step()
    one.finish()
    subprocess.run(["gunzip", "-t", one.output], check=True)
    assert read_by_python(one.output) == files


def test_node_reads_it_as_the_applications_server_does(benches: list[Bench], tmp_path: Path) -> None:
    """Node's zlib, which the application is written in, reads all members to the same plain tar as gunzip."""
    one = bench(benches, tmp_path)
    one.write("nanumpay/users.bson", content(2 * BLOCK + 99))
    one.write("nanumpay/급여.metadata.json", b"{}")
    one.drain()
    one.finish()
    script = """
        const hash = require("crypto").createHash("sha256");
        let size = 0;
        require("fs").createReadStream(process.argv[1]).pipe(require("zlib").createGunzip())
            .on("data", (data) => { size += data.length; hash.update(data); })
            .on("end", () => console.log(JSON.stringify([size, hash.digest("hex")])));
    """
    answer = json.loads(subprocess.check_output(["node", "-e", script, one.output], timeout=60))
    plain = gzip.decompress(one.output.read_bytes())
    assert answer == [len(plain), hashlib.sha256(plain).hexdigest()]


def test_names_of_every_kind_survive(benches: list[Bench], tmp_path: Path) -> None:
    """Korean, blanks, percent signs, more than 100 and 200 bytes, and nested folders come back as they were."""
    names = [
        "nanumpay/급여 지급 (2026).bson",
        "nanumpay/100%25.bson",
        f"nanumpay/{'a' * 120}.bson",
        f"nanumpay/{'가' * 80}.bson",
        "nanumpay/deep/er/and/deeper.bson",
        "oplog.bson",
        f"{'d' * 90}/{'e' * 90}/{'f' * 90}.json",
        "nanumpay/ leading and trailing .bson",
    ]
    files = {name: name.encode() for name in names}
    one = bench(benches, tmp_path / "work")
    for path, data in files.items():
        one.write(path, data)
    one.finish()
    assert read_by_tar(one.output, tmp_path / "tar") == files
    assert read_by_python(one.output) == files


def test_what_an_unpacked_backup_looks_like(benches: list[Bench], tmp_path: Path) -> None:
    """Entries are plain files and folders under one folder, folder before content, readable, dated as the backup."""
    one = bench(benches, tmp_path)
    one.write("nanumpay/b.bson", b"b")
    one.write("nanumpay/a.bson", b"a")
    one.write("nanumpay-2/a.bson", b"a")
    one.finish()
    with tarfile.open(one.output) as archive:
        seen = [(member.name.removeprefix(NAME), member.isdir(), member.mode, member.mtime) for member in archive]
        assert {(member.uname, member.uid) for member in archive.getmembers()} == {("root", 0)}
    assert seen == [
        ("", True, 0o755, int(MTIME)),
        ("/nanumpay", True, 0o755, int(MTIME)),
        ("/nanumpay-2", True, 0o755, int(MTIME)),
        ("/nanumpay-2/a.bson", False, 0o644, int(MTIME)),
        ("/nanumpay/a.bson", False, 0o644, int(MTIME)),
        ("/nanumpay/b.bson", False, 0o644, int(MTIME)),
    ]


def test_a_thousand_small_files_need_few_descriptors(benches: list[Bench], tmp_path: Path) -> None:
    """A database of many collections does not run out of file descriptors, and all of it arrives."""
    one = bench(benches, tmp_path)
    files = {f"nanumpay/c{at:04d}.bson": content(at % 700, at) for at in range(1500)}
    for path, data in files.items():
        one.write(path, data)
    before = len(os.listdir("/proc/self/fd"))
    one.archive.step()
    assert len(os.listdir("/proc/self/fd")) < before + 50
    result = one.finish()
    assert result.files.keys() == files.keys()
    assert read_by_python(one.output) == files


def test_last_blocks_of_one_file_do_not_wait_for_those_of_another(benches: list[Bench], tmp_path: Path) -> None:
    """`finish` ends although another file holds every place in the threads (this once waited for ever)."""
    one = bench(benches, tmp_path)
    files = {"nanumpay/a.bson": content(BLOCK + 10, 1), "nanumpay/b.bson": content(4 * BLOCK + 10, 2)}
    one.write("nanumpay/a.bson", files["nanumpay/a.bson"][:-20])
    one.drain()
    one.write("nanumpay/a.bson", files["nanumpay/a.bson"][-20:])
    one.write("nanumpay/b.bson", files["nanumpay/b.bson"])
    one.archive.step()
    assert one.finish().files == {path: len(data) for path, data in files.items()}
    assert read_by_python(one.output) == files


def test_ends_of_files_are_no_backlog(benches: list[Bench], tmp_path: Path) -> None:
    """The backlog goes to nothing by stepping alone, so that a writer held because of it is always let go again."""
    one = bench(benches, tmp_path)
    for at in range(40):
        one.write(f"nanumpay/c{at}.bson", content(BLOCK - 1, at))
    one.write("nanumpay/large.bson", content(3 * BLOCK + 5))
    one.archive.step()
    assert one.archive.backlog > 0
    one.drain()
    assert one.archive.backlog == 0


@pytest.mark.parametrize("codec", [gzip_codec(2), stored_codec()], ids=["tar.gz", "tar"])
def test_at_the_end_only_the_archive_occupies_the_disk(benches: list[Bench], tmp_path: Path, codec: Codec) -> None:
    """Raw files and parts were given back behind the work: what they still occupy is a block or two each."""
    one = bench(benches, tmp_path, codec)
    for name in "abc":
        for at in range(4):
            one.write(f"nanumpay/{name}.bson", content(BLOCK + 1, at))
            one.archive.step()
    result = one.finish()
    left = allocated_bytes(one.folder) + allocated_bytes(one.parts)
    assert left <= 3 * 2 * 8192
    assert allocated_bytes(one.output) >= result.size
    assert result.raw_bytes == 12 * (BLOCK + 1)


def test_while_it_grows_the_staging_holds_the_compressed_data_and_the_backlog_only(
    benches: list[Bench], tmp_path: Path
) -> None:
    """At no time do raw data and parts occupy more than the written data compressed, and the blocks still to do."""
    codec = gzip_codec(2)
    one = bench(benches, tmp_path, codec)
    bound = 3 * BLOCK
    compressed = 0

    def check() -> None:
        """Measure in blocks of the disk; one block more may be about to be written."""
        occupied = allocated_bytes(one.folder) + allocated_bytes(one.parts)
        assert occupied <= compressed + bound + BLOCK + 65_536

    for at in range(24):
        block = content(BLOCK, at)
        compressed += len(codec.encode(block))
        one.write("nanumpay/large.bson", block)
        one.archive.step()
        check()
        while one.archive.backlog > bound:
            one.archive.step()
            check()
    result = one.finish()
    assert 1.2 * (compressed + bound + BLOCK) < 24 * BLOCK, "this data must show the difference"
    assert result.size <= compressed + 65_536
    assert allocated_bytes(one.parts) + allocated_bytes(one.folder) <= 4 * 8192


def test_a_full_disk_is_an_os_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    """Where the disk is full, OSError (ENOSPC) says so, and after `close` no file or thread of ours is left."""
    descriptors = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        one = Bench(disk, gzip_codec(2))
        try:
            one.write("nanumpay/large.bson", random.Random(1).randbytes(BLOCK * 3 + BLOCK // 2))
            (disk / "foreign").write_bytes(bytes((8 << 20) - allocated_bytes(disk) - 65_536))
            one.archive.step()
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
                one.finish()
            assert caught.value.errno == errno.ENOSPC
        finally:
            one.archive.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_file_that_shrinks_is_noticed(benches: list[Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump that loses bytes while it is read is an error, not an archive with something else in it."""
    one = bench(benches, tmp_path)
    one.write("nanumpay/a.bson", content(1000))
    one.archive.step()
    # The moment between the look at its size and the reading of it.
    monkeypatch.setattr(GrowingArchive, "_discover", lambda _: None)
    os.truncate(one.folder / "nanumpay/a.bson", 10)
    with pytest.raises(OSError, match="changed while it was read"):
        one.finish()


def test_close_may_come_at_any_time(tmp_path: Path) -> None:
    """A cancelled dump is closed in the middle of its compression, twice, without an error or a thread left."""
    threads = threading.active_count()
    one = Bench(tmp_path, gzip_codec(9))
    one.write("nanumpay/large.bson", content(6 * BLOCK))
    one.archive.step()
    one.archive.close()
    one.archive.close()
    assert threading.active_count() == threads
    assert not one.output.exists()
