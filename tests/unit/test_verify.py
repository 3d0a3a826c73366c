"""Reading an artifact back: a good one is proven, and every kind of damage is found and named."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from nanumpay_backupd.errors import CancelledError, NotFoundError, StoreError, VerifyError
from nanumpay_backupd.model import CollectionStat, Manifest, OpTime, Verification, to_json
from nanumpay_backupd.pipeline.layout import backup_id
from nanumpay_backupd.pipeline.unpack import Unpacker
from nanumpay_backupd.pipeline.verify import prove as prove_file
from nanumpay_backupd.pipeline.verify import prove_checksum, prove_stream, read_back
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.sources.content import ContentDigest, documents_in
from nanumpay_backupd.transforms.codec import gzip_codec
from nanumpay_backupd.transforms.growing import BLOCK, GrowingArchive
from tests.servers.tools import PROJECT
from tests.workbench import NOW, SetClock, archive_bytes, documents, entries, manifest_of, slice_manifest

NAME: Final = backup_id("nanumpay", NOW)
FILES: Final = {
    f"{NAME}/nanumpay/users.bson": documents(300),
    f"{NAME}/nanumpay/users.metadata.json": b'{"indexes":[{"v":2,"key":{"_id":1},"name":"_id_"}]}',
    f"{NAME}/nanumpay/weekly%20plans.bson": documents(40, 2000),
    f"{NAME}/nanumpay/weekly%20plans.metadata.json": b'{"indexes":[]}',
    f"{NAME}/nanumpay/empty.bson": b"",
}
COLLECTIONS: Final = {
    "nanumpay.users": (300, len(FILES[f"{NAME}/nanumpay/users.bson"])),
    "nanumpay.weekly plans": (40, len(FILES[f"{NAME}/nanumpay/weekly%20plans.bson"])),
    "nanumpay.empty": (0, 0),
}
RAW: Final = sum(map(len, FILES.values()))


def check(name: str) -> Callable[[bytes], None] | None:
    """Check BSON as the MongoDB source does."""
    return BsonWalk(name) if name.endswith(".bson") else None


def prove(
    folder: Path, data: bytes, manifest: Manifest, progress: Callable[[int], None] = lambda _: None
) -> Verification:
    """Write an artifact and read it back."""
    path = folder / manifest.artifact.name
    path.write_bytes(data)
    return read_back(path, manifest, check, SetClock(), progress)


def good(suffix: str = ".tar.gz", files: Mapping[str, bytes] = FILES) -> tuple[bytes, Manifest]:
    """Return an artifact and a manifest that truly describes its bytes (and promises FILES)."""
    data = archive_bytes(NAME, files, suffix=suffix)
    raw = sum(map(len, files.values()))
    return data, manifest_of(data, collections=COLLECTIONS, raw_bytes=raw, suffix=suffix)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
def test_a_good_archive_is_proven(tmp_path: Path, suffix: str) -> None:
    """Everything in it is walked and counted, and progress tells of every byte once."""
    moved: list[int] = []
    proof = prove(tmp_path, *good(suffix), moved.append)
    assert (proof.ok, proof.level, proof.at) == (True, "structure", NOW)
    assert (proof.documents, proof.bytes, sum(moved)) == (340, RAW, RAW)


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 30), st.integers(0, 7), st.sampled_from([".tar.gz", ".tar"]))
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, where: int, bit: int, suffix: str) -> None:
    """One wrong bit at any place of the file is found as damage and as nothing else."""
    data, manifest = good(suffix)
    damaged = bytearray(data)
    damaged[where % len(data)] ^= 1 << bit
    with pytest.raises(VerifyError) as caught:
        prove(tmp_path, bytes(damaged), manifest)
    assert caught.value.code in {"verify-structure", "verify-checksum", "verify-failed", "verify-size"}
    assert caught.value.hint


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=2000), st.integers(0, 1 << 30), st.sampled_from([".tar.gz", ".tar"]))
def test_garbage_of_the_same_length_anywhere_is_found(tmp_path: Path, garbage: bytes, where: int, suffix: str) -> None:
    """A stretch of nonsense, as a bad disk returns it, is a sentence and never a traceback or a pass."""
    data, manifest = good(suffix)
    start = where % (len(data) - len(garbage))
    damaged = data[:start] + garbage + data[start + len(garbage) :]
    if damaged != data:
        with pytest.raises(VerifyError):
            prove(tmp_path, damaged, manifest)


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:-1], id="last byte lost"),
        pytest.param(lambda data: data[: len(data) // 2], id="half lost"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data + b"x", id="one byte more"),
        pytest.param(lambda data: data + data, id="twice"),
    ],
)
def test_another_length_is_found_at_once(tmp_path: Path, suffix: str, change: Callable[[bytes], bytes]) -> None:
    """A truncated or longer file is told with both figures, before anything is read."""
    data, manifest = good(suffix)
    changed = change(data)
    with pytest.raises(VerifyError, match=f"is {len(changed)} bytes, its manifest says {len(data)}") as caught:
        prove(tmp_path, changed, manifest)
    assert caught.value.code == "verify-size"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:-5], id="CRC lost"),
        pytest.param(lambda data: data + b"trailing garbage", id="appended"),
    ],
)
def test_a_stream_that_is_not_whole_is_found_even_where_size_and_checksum_agree(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """What was broken before it was hashed (a fault of ours) is found by gunzip and tar."""
    data = change(good()[0])
    with pytest.raises(VerifyError) as caught:
        prove(tmp_path, data, manifest_of(data, collections=COLLECTIONS, raw_bytes=RAW))
    assert caught.value.code == "verify-structure"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_swapped_files_are_found(tmp_path: Path) -> None:
    """Two collections under each other's name have the right totals, and are still not what was dumped."""
    users, plans = f"{NAME}/nanumpay/users.bson", f"{NAME}/nanumpay/weekly%20plans.bson"
    data, manifest = good(files={**FILES, users: FILES[plans], plans: FILES[users]})
    with pytest.raises(VerifyError, match=r"nanumpay/users differs") as caught:
        prove(tmp_path, data, manifest)
    assert caught.value.code == "verify-counts"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_a_dropped_document_is_found(tmp_path: Path) -> None:
    """A file that lost its last document before it was hashed differs from what mongodump reported."""
    users = f"{NAME}/nanumpay/users.bson"
    data, manifest = good(files={**FILES, users: documents(299)})
    with pytest.raises(
        VerifyError, match="holds 339 documents in 3 collections, mongodump reported 340 in 3"
    ) as caught:
        prove(tmp_path, data, manifest)
    assert caught.value.code == "verify-counts"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_a_dropped_file_is_found(tmp_path: Path) -> None:
    """A collection that is not in the archive is missed, even an empty one."""
    data, manifest = good(files={path: data for path, data in FILES.items() if "empty" not in path})
    with pytest.raises(VerifyError, match="in 2 collections, mongodump reported 340 in 3") as caught:
        prove(tmp_path, data, manifest)
    assert caught.value.code == "verify-counts"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@pytest.mark.parametrize(
    "collections",
    [
        pytest.param({**COLLECTIONS, "nanumpay.users": (301, COLLECTIONS["nanumpay.users"][1])}, id="one more"),
        pytest.param({**COLLECTIONS, "nanumpay.more": (0, 0)}, id="a collection more"),
        pytest.param({"nanumpay.users": COLLECTIONS["nanumpay.users"]}, id="collections less"),
        pytest.param({**COLLECTIONS, "nanumpay.users": (300, 1)}, id="other bytes"),
    ],
)
def test_a_manifest_with_other_counts_is_found(tmp_path: Path, collections: Mapping[str, tuple[int, int]]) -> None:
    """What the manifest promises per collection must be what is there."""
    data, _ = good()
    with pytest.raises(VerifyError) as caught:
        prove(tmp_path, data, manifest_of(data, collections=collections, raw_bytes=RAW))
    assert caught.value.code == "verify-counts"


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
def test_a_manifest_with_another_total_or_checksum_is_found(tmp_path: Path) -> None:
    """Bytes of content and SHA-256 of the manifest are both compared."""
    data, manifest = good()
    other = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, raw_bytes=RAW + 1))
    with pytest.raises(VerifyError, match=f"holds {RAW} bytes of files, its manifest says {RAW + 1}") as caught:
        prove(tmp_path, data, other)
    assert caught.value.code == "verify-size"
    other = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, sha256="0" * 64))
    with pytest.raises(VerifyError, match="SHA-256") as caught:
        prove(tmp_path, data, other)
    assert caught.value.code == "verify-checksum"


@pytest.mark.promise("No member of an archive is written outside of the folder that was meant.", item=8)
@pytest.mark.parametrize(
    "path",
    [
        "etc/passwd",
        "/etc/passwd",
        f"{NAME}/../outside.bson",
        f"{NAME}x/nanumpay/users.bson",
        f"{NAME}/nanumpay/../../../outside",
    ],
)
def test_a_member_outside_the_backups_folder_is_refused(tmp_path: Path, path: str) -> None:
    """An archive that would write elsewhere when it is unpacked is not a good one, whatever its checksum says."""
    data, manifest = good(files={**FILES, path: b""})
    with pytest.raises(VerifyError, match="outside its folder") as caught:
        prove(tmp_path, data, manifest)
    assert caught.value.code == "verify-structure"


@pytest.mark.promise("No member of an archive is written outside of the folder that was meant.", item=8)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Links and devices are nothing that we write."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        info = tarfile.TarInfo(f"{NAME}/nanumpay/link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    data = zlib.compress(plain.getvalue(), 6, 31)
    with pytest.raises(VerifyError, match="no plain file"):
        prove(tmp_path, data, manifest_of(data))


def test_metadata_that_is_no_json_is_found(tmp_path: Path) -> None:
    """A metadata file that mongorestore could not read is damage."""
    data, manifest = good(files={**FILES, f"{NAME}/nanumpay/users.metadata.json": b'{"indexes":['})
    with pytest.raises(VerifyError, match=r"users\.metadata\.json in the archive is not valid JSON"):
        prove(tmp_path, data, manifest)


def test_a_file_that_is_gone_is_missing_and_not_corrupt(tmp_path: Path) -> None:
    """The application deletes in that folder by itself: that is told apart from damage."""
    _, manifest = good()
    with pytest.raises(NotFoundError, match="was deleted before it could be read back") as caught:
        read_back(tmp_path / "gone.tar.gz", manifest, check, SetClock(), lambda _: None)
    assert caught.value.code == "artifact-missing"


def test_a_cancelled_reading_ends_with_its_threads(tmp_path: Path) -> None:
    """What the progress callback raises comes through, and the reading threads stop."""

    def stop(_: int) -> None:
        raise CancelledError("stop")

    with pytest.raises(CancelledError):
        prove(tmp_path, *good(), stop)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5 * BLOCK // 2), min_size=1, max_size=4), st.sampled_from([0, 1, 2, 3, 6]))
def test_what_our_own_archiver_writes_is_always_proven(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], level: int
) -> None:
    """Whatever the sizes of the collections, so wherever members end, nothing good is called damaged."""
    root = tmp_path_factory.mktemp("own")
    folder, parts = root / "dump", root / "parts"
    (folder / "nanumpay").mkdir(parents=True)
    parts.mkdir()
    stats = {}
    for at, size in enumerate(sizes):
        data = documents(size // 2000, 1960)
        (folder / "nanumpay" / f"c{at}.bson").write_bytes(data)
        stats[f"nanumpay.c{at}"] = (size // 2000, len(data))
    archive = GrowingArchive(folder, parts, name=NAME, codec=gzip_codec(level), mtime=NOW.timestamp(), punch=True)
    try:
        result = archive.finish(root / "artifact")
    finally:
        archive.close()
    written = (root / "artifact").read_bytes()
    proof = prove(root, written, manifest_of(written, collections=stats, raw_bytes=result.raw_bytes))
    assert proof.documents == sum(count for count, _ in stats.values())


def test_the_digests_of_the_documents_are_learned_and_compared_later() -> None:
    """The first reading gives each collection's digest, under escaped names as well; another one later is told."""
    data, manifest = good()
    proof = prove_stream(iter([data]), manifest, check, SetClock(), lambda _: None)
    expected = {}
    for name, (count, _) in COLLECTIONS.items():
        digest = ContentDigest()
        for document in documents_in(FILES[f"{NAME}/{name.replace('.', '/').replace(' ', '%20')}.bson"]):
            digest.add(document)
        assert digest.count == count
        expected[name] = digest.hexdigest()
    assert {f"{item.database}.{item.name}": item.digest for item in proof.collections} == expected
    proven = with_collections(manifest, proof.collections)
    assert prove_stream(iter([data]), proven, check, SetClock(), lambda _: None).collections == proof.collections
    users, *others = proof.collections
    other = with_collections(manifest, (msgspec.structs.replace(users, digest="0" * 32), *others))
    with pytest.raises(
        VerifyError, match=r"holds other documents of nanumpay\.users than when it was proven"
    ) as caught:
        prove_stream(iter([data]), other, check, SetClock(), lambda _: None)
    assert caught.value.code == "verify-checksum"


def with_collections(manifest: Manifest, collections: tuple[CollectionStat, ...]) -> Manifest:
    """Return the manifest with other collections."""
    return msgspec.structs.replace(manifest, source=msgspec.structs.replace(manifest.source, collections=collections))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize("size", [37, 511, 70_000, 1 << 20])
def test_a_stream_is_proven_as_a_file_is(suffix: str, size: int) -> None:
    """Chunks of any size give the same answer, and the source of the chunks is closed at the end."""
    data, manifest = good(suffix)
    closed: list[bool] = []

    def chunks(data: bytes) -> Iterator[bytes]:
        try:
            yield b""
            yield from (data[at : at + size] for at in range(0, len(data), size))
        finally:
            closed.append(True)

    proof = prove_stream(chunks(data), manifest, check, SetClock(), lambda _: None).verification
    assert (proof.documents, proof.bytes) == (340, RAW)
    assert prove_checksum(chunks(data), manifest, SetClock()).bytes == len(data)
    for damaged in (data[:-1], data + b"\0", data[:9000] + b"~" + data[9001:]):
        with pytest.raises(VerifyError):
            prove_stream(chunks(damaged), manifest, check, SetClock(), lambda _: None)
        with pytest.raises(VerifyError, match=r"bytes, its manifest says|SHA-256"):
            prove_checksum(chunks(damaged), manifest, SetClock())
    assert len(closed) == 8


def test_a_fault_of_the_stream_is_not_the_artifacts() -> None:
    """When the destination breaks off, its own error comes out: nothing is called damaged."""
    data, manifest = good()

    def chunks() -> Iterator[bytes]:
        yield data[:5000]
        raise StoreError("connection lost", code="destination-unreachable")

    for proving in (
        lambda: prove_stream(chunks(), manifest, check, SetClock(), lambda _: None),
        lambda: prove_checksum(chunks(), manifest, SetClock()),
    ):
        with pytest.raises(StoreError, match="connection lost"):
            proving()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
def test_what_is_kept_on_the_way_is_what_is_inside(tmp_path: Path, suffix: str) -> None:
    """A restore unpacks while it verifies: the wanted files are written as they are, no others."""
    data, manifest = good(suffix)
    (tmp_path / "artifact").write_bytes(data)
    unpacker = Unpacker(tmp_path / "out", lambda path: path.partition("/")[2] if "plans" not in path else None)
    prove_file(tmp_path / "artifact", manifest, check, SetClock(), lambda _: None, unpacker)
    wanted = {path.partition("/")[2]: content for path, content in FILES.items() if "plans" not in path}
    found = {str(file.relative_to(tmp_path / "out")): file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    assert found == wanted
    assert unpacker.written() == {path: len(content) for path, content in wanted.items()}


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
def test_a_disk_that_is_full_is_not_called_damage(tmp_path: Path) -> None:
    """What the target of unpacking says comes out as it is."""
    data, manifest = good()

    def full(_: str) -> IO[bytes]:
        return Path("/dev/full").open("wb", buffering=0)

    with pytest.raises(OSError, match="No space left"):
        prove_stream(iter([data]), manifest, check, SetClock(), lambda _: None, full)


def slice_of(
    content: bytes,
    *,
    start: str = "100:0",
    end: str = "200:0",
    count: int = 3,
    raw: int | None = None,
    data: bytes = b"",
) -> tuple[bytes, Manifest]:
    """Return a slice (``data``, or ``content`` compressed) and a manifest that describes its bytes."""
    data = data or zstandard.ZstdCompressor(3).compress(content)
    plain = len(content) if raw is None else raw
    return data, slice_manifest(data, OpTime.parse(start), OpTime.parse(end), count, plain)


ENTRIES: Final = entries(OpTime(100, 1), OpTime(150, 7), OpTime(200, 0))


def test_a_good_slice_is_proven(tmp_path: Path) -> None:
    """Entries are counted, progress tells of every byte once, and the plain BSON can be kept on the way."""
    moved: list[int] = []
    data, manifest = slice_of(ENTRIES)
    path = tmp_path / manifest.artifact.name
    path.write_bytes(data)
    unpacker = Unpacker(tmp_path, lambda path: path)
    proof = prove_file(path, manifest, check, SetClock(), moved.append, unpacker)
    assert (proof.verification.ok, proof.verification.documents, proof.collections) == (True, 3, ())
    assert proof.verification.bytes == sum(moved) == len(ENTRIES)
    assert (tmp_path / f"{manifest.backup}.bson").read_bytes() == ENTRIES
    assert read_back(path, manifest, check, SetClock(), lambda _: None).documents == 3


@pytest.mark.parametrize(
    "made, code, sentence",
    [
        pytest.param(slice_of(ENTRIES, count=4), "verify-counts", "holds 3 oplog entries, its .* says 4", id="counts"),
        pytest.param(slice_of(ENTRIES, raw=5), "verify-size", "its manifest says 5", id="raw bytes"),
        pytest.param(slice_of(ENTRIES, end="199:9"), "verify-structure", "after the slice's end", id="end"),
        pytest.param(slice_of(ENTRIES, start="100:1"), "verify-structure", "not after 100:1", id="start"),
        pytest.param(slice_of(ENTRIES[:-1]), "verify-failed", "cut off", id="entry cut off"),
        pytest.param(slice_of(ENTRIES * 2, count=6), "verify-structure", "entry 4 is of 100:1", id="twice"),
        pytest.param(
            slice_of(ENTRIES, data=ENTRIES), "verify-structure", "cannot be decompressed", id="not compressed"
        ),
        pytest.param(
            slice_of(ENTRIES, data=zstandard.ZstdCompressor(3).compress(ENTRIES)[:-3]),
            "verify-structure",
            r"bson\.zst cannot be decompressed: it is cut off",
            id="frame cut off",
        ),
        pytest.param(
            slice_of(ENTRIES, data=zstandard.ZstdCompressor(3).compress(ENTRIES) + b"garbage"),
            "verify-structure",
            "cannot be decompressed",
            id="garbage behind",
        ),
    ],
)
def test_a_slice_that_is_not_what_its_manifest_says(made: tuple[bytes, Manifest], code: str, sentence: str) -> None:
    """What size and checksum cannot tell, because it was wrong before it was hashed, is found in the content."""
    with pytest.raises(VerifyError, match=sentence) as caught:
        prove_stream(iter([made[0]]), made[1], check, SetClock(), lambda _: None)
    assert caught.value.code == code


@pytest.mark.promise(
    "Damage is found and told by name: a flipped bit, a cut-off or swapped file, a wrong manifest.", item=5
)
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_slice_is_found(where: int, bit: int) -> None:
    """One wrong bit at any place of a slice is found as damage and as nothing else."""
    data, manifest = slice_of(ENTRIES)
    damaged = bytearray(data)
    damaged[where % len(data)] ^= 1 << bit
    with pytest.raises(VerifyError) as caught:
        prove_stream(iter([bytes(damaged)]), manifest, check, SetClock(), lambda _: None)
    assert caught.value.code in {"verify-structure", "verify-checksum", "verify-failed", "verify-size"}


def test_a_compression_that_is_not_known_is_told() -> None:
    """A manifest of a newer version is not guessed at."""
    data, manifest = good()
    newer = msgspec.structs.replace(manifest, artifact=msgspec.structs.replace(manifest.artifact, compression="xz"))
    with pytest.raises(VerifyError, match="is compressed as 'xz', says its manifest"):
        prove_stream(iter([data]), newer, check, SetClock(), lambda _: None)


_BOMB_SIZE: Final = 512 << 20
_READER: Final = """
    import resource, sys
    from pathlib import Path
    from nanumpay_backupd.errors import VerifyError
    from nanumpay_backupd.model import Manifest, from_json
    from nanumpay_backupd.pipeline.verify import read_back
    from nanumpay_backupd.sources.bson_walk import BsonWalk
    from tests.workbench import SetClock

    manifest = from_json(Manifest, Path(sys.argv[2]).read_bytes())
    resource.setrlimit(resource.RLIMIT_DATA, (250 << 20, 250 << 20))
    check = lambda name: BsonWalk(name) if name.endswith(".bson") else None
    try:
        read_back(Path(sys.argv[1]), manifest, check, SetClock(), lambda _: None)
        print("proven")
    except VerifyError as error:
        print(error.code, error.message)
"""


@pytest.fixture(scope="module")
def zeros() -> bytes:
    """One gzip member that expands to half a gibibyte."""
    squeeze = isal_zlib.compressobj(3, isal_zlib.DEFLATED, 31)
    return b"".join([squeeze.compress(bytes(1 << 20)) for _ in range(_BOMB_SIZE >> 20)]) + squeeze.flush()


@pytest.mark.parametrize(
    "path, answer",
    [
        pytest.param("nanumpay/users.bson", "verify-failed nanumpay/users.bson is damaged at byte 0", id="bson"),
        pytest.param("nanumpay/users.metadata.json", f"claims {_BOMB_SIZE} bytes", id="json"),
        pytest.param("nanumpay/other", "proven", id="unknown file"),
    ],
)
def test_a_file_that_expands_a_thousandfold_stays_in_bounded_memory(
    tmp_path: Path, zeros: bytes, path: str, answer: str
) -> None:
    """Half a gibibyte of zeros is read within 250 MB of memory, whatever the file is called."""
    info = tarfile.TarInfo(f"{NAME}/{path}")
    info.size = _BOMB_SIZE
    data = zlib.compress(info.tobuf(tarfile.PAX_FORMAT), 6, 31) + zeros + zlib.compress(bytes(10240), 6, 31)
    manifest = manifest_of(data, raw_bytes=_BOMB_SIZE)
    artifact, record = tmp_path / manifest.artifact.name, tmp_path / "manifest.json"
    artifact.write_bytes(data)
    record.write_bytes(to_json(manifest))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_READER), artifact, record],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
